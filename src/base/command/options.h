/* Command line options and verbs from tables: parsing, help, completion and man pages all read the same rows. */
#ifndef BASE_COMMAND_OPTIONS_H
#define BASE_COMMAND_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "base/core/error.h"

/* One option of a verb. A table ends with a row without a name. */
struct option_spec {
    const char *name;  /* "memory", without dashes */
    char letter;       /* 'm', or 0 */
    const char *value; /* what stands for the value in help texts ("SIZE"); NULL: takes none */
    const char *help;  /* one sentence without a dot */
    /* For completion: words separated by '|', or "FILE", "DIR", or names that there are ("INSTANCE"; cli/completion.c has
     * all kinds); NULL: nothing to offer. */
    const char *complete;
    /* Takes the value (NULL for a flag; borrowed as long as argv). Called once for each time the option is given.
     * Errors: the text after "option --NAME: ". */
    int (*parse)(void *into, const char *value, struct error *err);
};

/* A further part of a man page: lines as they are. */
struct verb_section {
    const char *title;
    const char *text;
};

/* A verb of the command line. */
struct verb {
    const char *name;
    const char
        *arguments;      /* after the options in the usage line: "PATH VERB [KEY=VALUE]..." or "" */
    const char *summary; /* one line, no dot */
    const char *description;             /* paragraphs; lines as they should stand in help */
    const char *examples;                /* lines of the form "  hull boot ...\n" */
    const char *exit_status;             /* lines, or NULL */
    const struct verb_section *sections; /* for the man page alone, {0} at the end; or NULL */
    const struct option_spec *options;   /* NULL: none but --help */
    const char *complete;                /* for positional arguments, as option_spec.complete */
    bool is_hidden;
    /* A verb of verbs, NULL at the end, which have all words as their name ("disk info", "ct template build"); no options and
     * no run() then. */
    const struct verb *const *verbs;
    int (*run)(int argc, char **argv); /* argv[0] is the verb; returns the exit status */
};

/* 'program' is its name in texts: "see `hull disk --help`".
 *
 * Calls the rows' parse functions with 'into' in order of appearance. Words that are no options are moved to the front
 * of 'argv' (from index 0) and counted in 'out_count'; after "--" all words are such. With 'stops_at_word', the first
 * one ends the options. '--help' and '-h' set 'out_wants_help' and end the parsing at once. */
int must_check options_parse(const char *program, const struct verb *verb, bool stops_at_word,
                             int argc, char **argv, void *into, int *out_count,
                             bool *out_wants_help, struct error *err);

/* Help of one verb, as --help prints it. */
void help_print(const char *program, const struct verb *verb, FILE *to);

/* The last word of a verb of verbs' verb: "info" of "disk info". */
const char *verb_last_word(const struct verb *verb);

/* The word of 'words' (separated by '|') that 'text' most likely meant, or NULL. The result stands in 'out_word'. */
const char *nearest_word(const char *text, const char *words, char *out_word, size_t size);

#endif
