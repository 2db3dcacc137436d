/* Help texts, written from the tables of verbs and options. */
#include <string.h>

#include "base/command/options.h"

#define HELP_COLUMN 32

static void option_print(const struct option_spec *option, FILE *to)
{
    char left[96];
    char letter[8] = "    ";
    if (option->letter != '\0') {
        (void)snprintf(letter, sizeof(letter), "-%c, ", option->letter);
    }
    (void)snprintf(left, sizeof(left), "  %s--%s%s%s", letter, option->name,
                   option->value != NULL ? " " : "", option->value != NULL ? option->value : "");
    if (strlen(left) < HELP_COLUMN - 1) {
        (void)fprintf(to, "%-*s%s\n", HELP_COLUMN, left, option->help);
    } else {
        (void)fprintf(to, "%s\n%-*s%s\n", left, HELP_COLUMN, "", option->help);
    }
}

void help_print(const char *program, const struct verb *verb, FILE *to)
{
    (void)fprintf(to, "Usage: %s%s%s%s%s%s\n\n%s.\n", program, verb->name[0] ? " " : "", verb->name,
                  verb->options != NULL ? " [OPTION]..." : "", verb->arguments[0] ? " " : "",
                  verb->arguments, verb->summary);
    if (verb->description != NULL) {
        (void)fprintf(to, "\n%s", verb->description);
    }
    if (verb->verbs != NULL) {
        (void)fputs("\nVerbs:\n", to);
        for (size_t i = 0; verb->verbs[i] != NULL; i++) {
            (void)fprintf(to, "  %-12s %s\n", verb_last_word(verb->verbs[i]),
                          verb->verbs[i]->summary);
        }
    }
    (void)fputs("\nOptions:\n", to);
    for (const struct option_spec *o = verb->options; o != NULL && o->name != NULL; o++) {
        option_print(o, to);
    }
    (void)fprintf(to, "%-*s%s\n", HELP_COLUMN, "  -h, --help", "show this text");
    if (verb->exit_status != NULL) {
        (void)fprintf(to, "\nExit status:\n%s", verb->exit_status);
    }
    if (verb->examples != NULL) {
        (void)fprintf(to, "\nExamples:\n%s", verb->examples);
    }
}
