#include "cli/verbs.h"

#include <string.h>

const struct verb *const verbs[] = {
    &boot_verb, &ctl_verb, &host_verb, &completion_verb, &man_verb, NULL,
};

int cli_fail(const struct error *err)
{
    (void)fprintf(stderr, "hull: %s\n", err->text);
    return CLI_FAILURE;
}

int cli_options(const struct verb *verb, bool stops_at_word, int argc, char **argv, void *into,
                int *out_count)
{
    struct error err;
    bool wants_help;
    if (options_parse(verb, stops_at_word, argc, argv, into, out_count, &wants_help, &err) < 0) {
        return cli_fail(&err);
    }
    if (wants_help) {
        help_print(verb, stdout);
        return CLI_OK;
    }
    return -1;
}

static void overview_print(FILE *to)
{
    (void)fputs(
        "Hull runs virtual machines.\n\nUsage: hull VERB [OPTION]... [ARGUMENT]...\n\nVerbs:\n",
        to);
    for (size_t i = 0; verbs[i] != NULL; i++) {
        if (!verbs[i]->is_hidden) {
            (void)fprintf(to, "  %-12s %s\n", verbs[i]->name, verbs[i]->summary);
        }
    }
    (void)fputs("\nOptions:\n"
                "  -h, --help     help of hull, or after a verb of that verb\n"
                "      --version  print the version\n"
                "\nExamples:\n"
                "  hull host\n"
                "  hull boot --kernel vmlinuz --initrd initrd.img --memory 1G\n",
                to);
}

static const struct verb *verb_find(const char *name)
{
    for (size_t i = 0; verbs[i] != NULL; i++) {
        if (strcmp(verbs[i]->name, name) == 0) {
            return verbs[i];
        }
    }
    return NULL;
}

static int unknown_verb(const char *name)
{
    char names[256] = "";
    for (size_t i = 0; verbs[i] != NULL; i++) {
        if (!verbs[i]->is_hidden) {
            size_t used = strlen(names);
            (void)snprintf(names + used, sizeof(names) - used, "%s%s", used ? "|" : "",
                           verbs[i]->name);
        }
    }
    char hint[64];
    if (nearest_word(name, names, hint, sizeof(hint)) != NULL) {
        (void)fprintf(stderr, "hull: verb %s: unknown: did you mean %s?\n", name, hint);
    } else {
        (void)fprintf(stderr, "hull: verb %s: unknown: %s\n", name, names);
    }
    return CLI_FAILURE;
}

int cli_main(int argc, char **argv)
{
    if (argc < 2) {
        overview_print(stderr);
        return CLI_FAILURE;
    }
    const char *word = argv[1];
    if (strcmp(word, "--version") == 0) {
        (void)printf("hull %s\n", HULL_VERSION);
        return CLI_OK;
    }
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 ||
        (strcmp(word, "help") == 0 && argc < 3)) {
        overview_print(stdout);
        return CLI_OK;
    }
    bool is_help = strcmp(word, "help") == 0;
    const struct verb *verb = verb_find(is_help ? argv[2] : word);
    if (verb == NULL) {
        return unknown_verb(is_help ? argv[2] : word);
    }
    if (is_help) {
        help_print(verb, stdout);
        return CLI_OK;
    }
    return verb->run(argc - 1, argv + 1);
}
