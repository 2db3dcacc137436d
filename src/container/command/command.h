/* hull-oci's command line: that of runc and crun, so that podman and containerd can use it. One table of verbs. */
#ifndef CONTAINER_COMMAND_COMMAND_H
#define CONTAINER_COMMAND_COMMAND_H

#include "base/command/options.h"
#include "container/runtime/runtime.h"

/* Options before the verb. */
struct command_global {
    struct runtime runtime;
    const char *log_file; /* NULL: standard error alone */
    bool logs_json, is_debug;
};
extern struct command_global command_global; /* set once, before the verb runs */

/* Exit statuses of verbs that do not say more. */
#define COMMAND_OK      0
#define COMMAND_FAILURE 1

/* Tells an error on standard error and in the log; returns COMMAND_FAILURE. */
int command_fail(const struct error *err);

/* Parses a verb's options; exactly 'min' to 'max' words are left in argv[0..]. Returns -1 when the verb goes on, else the exit status. */
int must_check command_options(const struct verb *verb, bool stops_at_word, int min, int max,
                               int argc, char **argv, void *into, int *out_count);

/* Words of an option that may be given several times: NULL at the end. */
struct command_words {
    const char **item;
    size_t count;
};
int must_check command_add_word(struct command_words *words, const char *word, struct error *err);

extern const struct verb oci_create_verb, oci_start_verb, oci_state_verb, oci_kill_verb,
    oci_delete_verb, oci_run_verb, oci_exec_verb, oci_ps_verb, oci_list_verb, oci_pause_verb,
    oci_resume_verb, oci_update_verb, oci_events_verb, oci_spec_verb, oci_features_verb,
    oci_checkpoint_verb, oci_restore_verb;

/* main() of hull-oci. */
int oci_main(int argc, char **argv);

#endif
