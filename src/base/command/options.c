#include "base/command/options.h"

#include <stdio.h>
#include <string.h>

#define WORD_MAX 32

/* Edit distance with a transposition as one step (optimal string alignment), for short words. */
static unsigned edit_distance(const char *a, size_t a_length, const char *b, size_t b_length)
{
    unsigned row[3][WORD_MAX + 1];
    for (size_t j = 0; j <= b_length; j++) {
        row[0][j] = (unsigned)j;
    }
    for (size_t i = 1; i <= a_length; i++) {
        unsigned *now = row[i % 3];
        const unsigned *last = row[(i + 2) % 3];
        const unsigned *before = row[(i + 1) % 3];
        now[0] = (unsigned)i;
        for (size_t j = 1; j <= b_length; j++) {
            unsigned best = last[j - 1] + (a[i - 1] != b[j - 1]);
            best = MIN(best, last[j] + 1);
            best = MIN(best, now[j - 1] + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
                best = MIN(best, before[j - 2] + 1);
            }
            now[j] = best;
        }
    }
    return row[a_length % 3][b_length];
}

const char *nearest_word(const char *text, const char *words, char *out_word, size_t size)
{
    size_t text_length = strlen(text);
    if (text_length == 0 || text_length > WORD_MAX) {
        return NULL;
    }
    /* A third of the letters may be wrong: more is another word. */
    unsigned best = (unsigned)(text_length + 2) / 3 + 1;
    const char *found = NULL;
    for (const char *word = words; *word != '\0';) {
        size_t length = strcspn(word, "|");
        if (length <= WORD_MAX && length < size) {
            unsigned distance = edit_distance(text, text_length, word, length);
            bool is_start =
                text_length >= 3 && length > text_length && memcmp(word, text, text_length) == 0;
            if (is_start && distance >= best && found == NULL) {
                distance = best - 1;
            }
            if (distance < best) {
                best = distance;
                memcpy(out_word, word, length);
                out_word[length] = '\0';
                found = out_word;
            }
        }
        word += length + (word[length] == '|');
    }
    return found;
}

static const struct option_spec *find_name(const struct option_spec *options, const char *name,
                                           size_t length)
{
    for (; options != NULL && options->name != NULL; options++) {
        if (strlen(options->name) == length && memcmp(options->name, name, length) == 0) {
            return options;
        }
    }
    return NULL;
}

static const struct option_spec *find_letter(const struct option_spec *options, char letter)
{
    for (; options != NULL && options->name != NULL; options++) {
        if (options->letter == letter && letter != '\0') {
            return options;
        }
    }
    return NULL;
}

static int unknown_option(const char *program, const struct verb *verb, const char *word,
                          struct error *err)
{
    char names[2048] = "";
    size_t used = 0;
    for (const struct option_spec *o = verb->options; o != NULL && o->name != NULL; o++) {
        size_t length = strlen(o->name);
        if (used + length + 2 < sizeof(names)) {
            memcpy(names + used, o->name, length);
            used += length;
            names[used++] = '|';
            names[used] = '\0';
        }
    }
    char hint[WORD_MAX + 1];
    char text[WORD_MAX + 1];
    const char *name = word + strspn(word, "-");
    (void)snprintf(text, sizeof(text), "%.*s", (int)strcspn(name, "="), name);
    if (nearest_word(text, names, hint, sizeof(hint)) != NULL) {
        return error_set(err, EINVAL, "option %s: unknown: did you mean --%s?", word, hint);
    }
    return error_set(err, EINVAL, "option %s: unknown: see `%s%s%s --help`", word, program,
                     verb->name[0] ? " " : "", verb->name);
}

static int take_value(const struct option_spec *option, const char *value, void *into,
                      struct error *err)
{
    int rc = option->parse(into, value, err);
    return rc < 0 ? error_prefix(err, rc, "option --%s", option->name) : 0;
}

static int missing_value(const struct option_spec *option, struct error *err)
{
    return error_set(err, EINVAL, "option --%s: needs a value: --%s %s", option->name, option->name,
                     option->value);
}

/* "--name", "--name=value", "--name value"; 'next' is the word after it or NULL. */
static int parse_long(const char *program, const struct verb *verb, const char *word,
                      const char *next, void *into, bool *out_used_next, struct error *err)
{
    const char *name = word + 2;
    size_t length = strcspn(name, "=");
    const struct option_spec *option = find_name(verb->options, name, length);
    if (option == NULL) {
        return unknown_option(program, verb, word, err);
    }
    const char *value = name[length] == '=' ? name + length + 1 : NULL;
    if (option->value == NULL) {
        if (value != NULL) {
            return error_set(err, EINVAL, "option --%s: takes no value: --%s", option->name,
                             option->name);
        }
        return take_value(option, NULL, into, err);
    }
    if (value == NULL) {
        if (next == NULL) {
            return missing_value(option, err);
        }
        value = next;
        *out_used_next = true;
    }
    return take_value(option, value, into, err);
}

/* "-m 512M", "-m512M", and flags in a row: "-vp". */
static int parse_short(const char *program, const struct verb *verb, const char *word,
                       const char *next, void *into, bool *out_used_next, struct error *err)
{
    for (const char *letter = word + 1; *letter != '\0'; letter++) {
        const struct option_spec *option = find_letter(verb->options, *letter);
        if (option == NULL) {
            return error_set(err, EINVAL, "option -%c: unknown: see `%s%s%s --help`", *letter,
                             program, verb->name[0] ? " " : "", verb->name);
        }
        if (option->value != NULL) {
            const char *value = letter[1] != '\0' ? letter + 1 : next;
            if (value == NULL) {
                return missing_value(option, err);
            }
            *out_used_next = letter[1] == '\0';
            return take_value(option, value, into, err);
        }
        int rc = take_value(option, NULL, into, err);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

int options_parse(const char *program, const struct verb *verb, bool stops_at_word, int argc,
                  char **argv, void *into, int *out_count, bool *out_wants_help, struct error *err)
{
    int count = 0;
    bool only_words = false;
    *out_wants_help = false;
    for (int i = 1; i < argc; i++) {
        char *word = argv[i];
        const char *next = i + 1 < argc ? argv[i + 1] : NULL;
        bool used_next = false;
        int rc = 0;
        if (only_words || word[0] != '-' || word[1] == '\0') {
            argv[count++] = word;
            only_words = only_words || stops_at_word;
        } else if (strcmp(word, "--") == 0) {
            only_words = true;
        } else if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
            *out_wants_help = true;
            return 0;
        } else if (word[1] == '-') {
            rc = parse_long(program, verb, word, next, into, &used_next, err);
        } else {
            rc = parse_short(program, verb, word, next, into, &used_next, err);
        }
        if (rc < 0) {
            return rc;
        }
        i += used_next;
    }
    *out_count = count;
    return 0;
}

const char *verb_last_word(const struct verb *verb)
{
    const char *blank = strrchr(verb->name, ' ');
    return blank != NULL ? blank + 1 : verb->name;
}
