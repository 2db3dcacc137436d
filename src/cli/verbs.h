/* The verbs of `hull`: one table, one file a verb. */
#ifndef CLI_VERBS_H
#define CLI_VERBS_H

#include "base/command/options.h"

/* Exit statuses of every verb; a verb that has more says so in its help. */
#define CLI_OK      0
#define CLI_FAILURE 1

extern const struct verb boot_verb;
extern const struct verb host_verb;
extern const struct verb ctl_verb;
extern const struct verb disk_verb;
extern const struct verb ct_verb;
extern const struct verb completion_verb;
extern const struct verb man_verb;

/* The verbs that `hull ctl` knows of, separated by "|". */
extern const char ctl_verb_words[];
/* What they take, for completion: "disk=|wait=true". Ends with a row of NULL. */
struct ctl_keys {
    const char *verb;
    const char *words;
};
extern const struct ctl_keys ctl_keys[];

/* All verbs in the order of the help text, NULL at the end. */
extern const struct verb *const verbs[];

/* main() of hull; returns the exit status. */
int cli_main(int argc, char **argv);

/* Prints "hull: <text>" to stderr and returns CLI_FAILURE. */
int cli_fail(const struct error *err);

/* Parses a verb's options. Returns -1 when the verb goes on, else the exit status (help was printed, or an error). */
int must_check cli_options(const struct verb *verb, bool stops_at_word, int argc, char **argv,
                           void *into, int *out_count);

/* Parses options and words: of these at least 'min' and at most 'max' (-1: any number). As cli_options returns. */
int must_check cli_words(const struct verb *verb, int min, int max, int argc, char **argv,
                         void *into, int *out_count);

#endif
