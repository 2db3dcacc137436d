/* What the verbs of `hull ct` share. */
#ifndef CLI_CT_CT_H
#define CLI_CT_CT_H

#include "base/command/options.h"
#include "cli/output.h"
#include "cli/verbs.h"
#include "system/life/life.h"

/* The options that all of these verbs begin their own struct with. */
struct ct_options {
    const char *state; /* NULL: the default */
    bool is_quiet, is_forced, is_all;
    enum output_format output;
    int timeout_s; /* -1: not given */
    bool only_autostart;
};

int ct_parse_state(void *into, const char *value, struct error *err);
int ct_parse_quiet(void *into, const char *value, struct error *err);
int ct_parse_force(void *into, const char *value, struct error *err);
int ct_parse_all(void *into, const char *value, struct error *err);
int ct_parse_json(void *into, const char *value, struct error *err);
int ct_parse_output(void *into, const char *value, struct error *err);
int ct_parse_timeout(void *into, const char *value, struct error *err);
int ct_parse_autostart(void *into, const char *value, struct error *err);

#define CT_OPTION_STATE                                                                            \
    {                                                                                              \
        "state", 0, "DIR",                                                                         \
            "where containers and templates are (default: " STORE_DEFAULT_STATE ")", "DIR",        \
            ct_parse_state                                                                         \
    }
#define CT_OPTION_QUIET                                                                            \
    {                                                                                              \
        "quiet", 'q', NULL, "print neither progress nor what was done", NULL, ct_parse_quiet       \
    }
#define CT_OPTION_FORCE(help)                                                                      \
    {                                                                                              \
        "force", 'f', NULL, help, NULL, ct_parse_force                                             \
    }
#define CT_OPTION_ALL(help)                                                                        \
    {                                                                                              \
        "all", 'a', NULL, help, NULL, ct_parse_all                                                 \
    }

/* An ordinary user's process goes into his namespace (system/rootless); 'state' becomes that of his manager, and 'out_run' leads to the
 * folder for what runs. Nothing changes for root. */
int must_check ct_enter(const char **state, char run[PATH_MAX], const char **out_run,
                        struct error *err);
/* The store, and the keeper's program, whose path 'life' keeps. */
int must_check ct_open(const struct ct_options *options, struct life *out_life, struct error *err);

/* Starts them with a progress bar and a line for each failure; the exit status. */
int ct_start(const struct life *life, const char *const *names, size_t count, bool is_quiet);

extern const struct verb ct_create_verb;
extern const struct verb ct_start_verb;
extern const struct verb ct_stop_verb;
extern const struct verb ct_restart_verb;
extern const struct verb ct_pause_verb;
extern const struct verb ct_resume_verb;
extern const struct verb ct_delete_verb;
extern const struct verb ct_list_verb;
extern const struct verb ct_info_verb;
extern const struct verb ct_set_verb;
extern const struct verb ct_exec_verb;
extern const struct verb ct_shell_verb;
extern const struct verb ct_console_verb;
extern const struct verb ct_logs_verb;
extern const struct verb ct_snapshot_verb;
extern const struct verb ct_clone_verb;
extern const struct verb ct_upgrade_verb;
extern const struct verb ct_pool_verb;
extern const struct verb ct_check_verb;
extern const struct verb ct_checkpoint_verb;
extern const struct verb ct_restore_verb;
extern const struct verb ct_template_verb;
extern const struct verb ct_template_build_verb;
extern const struct verb ct_template_list_verb;
extern const struct verb ct_template_info_verb;
extern const struct verb ct_template_check_verb;
extern const struct verb ct_template_delete_verb;

#endif
