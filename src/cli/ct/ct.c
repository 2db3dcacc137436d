/* hull ct: system containers, without a daemon. */
#include "cli/ct/ct.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/core/size.h"
#include "base/host/program.h"
#include "manager/place.h"
#include "system/rootless/rootless.h"

static const struct verb *const ct_verbs[] = {
    &ct_create_verb,
    &ct_start_verb,
    &ct_stop_verb,
    &ct_restart_verb,
    &ct_pause_verb,
    &ct_resume_verb,
    &ct_delete_verb,
    &ct_list_verb,
    &ct_info_verb,
    &ct_set_verb,
    &ct_exec_verb,
    &ct_shell_verb,
    &ct_console_verb,
    &ct_logs_verb,
    &ct_snapshot_verb,
    &ct_clone_verb,
    &ct_upgrade_verb,
    &ct_pool_verb,
    &ct_template_verb,
    &ct_check_verb,
    &ct_checkpoint_verb,
    &ct_restore_verb,
    NULL,
};

const struct verb ct_verb = {
    .name = "ct",
    .arguments = "VERB [NAME]...",
    .summary = "Make and run system containers",
    .description =
        "A system container is a whole distribution with its own init, address and limits, on the\n"
        "kernel of the host. Its files are a template's, shared with others, and its own above them.\n"
        "Users and groups in it are not the host's: its root has no rights outside. See\n"
        "docs/system-containers.md.\n",
    .examples = "  hull ct template build debian --variant minimal\n"
                "  hull ct create web --from debian --memory 512M --start\n"
                "  hull ct shell web\n"
                "  hull ct create --from debian --count 20 --ip-start 10.90.0.10 --start\n",
    .verbs = ct_verbs,
};

int ct_parse_state(void *into, const char *value, struct error *err)
{
    ((struct ct_options *)into)->state = value;
    return 0;
}

int ct_parse_quiet(void *into, const char *value, struct error *err)
{
    ((struct ct_options *)into)->is_quiet = true;
    return 0;
}

int ct_parse_force(void *into, const char *value, struct error *err)
{
    ((struct ct_options *)into)->is_forced = true;
    return 0;
}

int ct_parse_all(void *into, const char *value, struct error *err)
{
    ((struct ct_options *)into)->is_all = true;
    return 0;
}

int ct_parse_json(void *into, const char *value, struct error *err)
{
    ((struct ct_options *)into)->output = OUTPUT_JSON;
    return 0;
}

int ct_parse_output(void *into, const char *value, struct error *err)
{
    return output_parse_format(value, &((struct ct_options *)into)->output, err);
}

int ct_parse_timeout(void *into, const char *value, struct error *err)
{
    uint64_t seconds;
    int rc = number_parse(value, 0, 86400, &seconds, err);
    if (rc == 0) {
        ((struct ct_options *)into)->timeout_s = (int)seconds;
    }
    return rc;
}

int ct_parse_autostart(void *into, const char *value, struct error *err)
{
    ((struct ct_options *)into)->only_autostart = true;
    return 0;
}

int ct_enter(const char **state, char run[PATH_MAX], const char **out_run, struct error *err)
{
    static struct place place;
    char keeper[PATH_MAX];
    if (geteuid() == 0) {
        return 0;
    }
    int rc = program_find("hull-ct-keeper", false, keeper, sizeof(keeper), err);
    rc = rc < 0 ? rc : place_open(*state, &place, err);
    (void)snprintf(run, PATH_MAX, "%s/ct", rc < 0 ? "" : place.run);
    rc = rc < 0 ? rc : rootless_enter(run, keeper, err);
    if (rc == 0) {
        *state = place.state;
        *out_run = run;
    }
    return rc;
}

int ct_open(const struct ct_options *options, struct life *out_life, struct error *err)
{
    static char keeper[PATH_MAX];
    struct error missing; /* told when something is to be started */
    bool is_there = program_find("hull-ct-keeper", false, keeper, sizeof(keeper), &missing) == 0;
    char run[PATH_MAX];
    const char *state = options->state, *users_run = NULL;
    int rc = ct_enter(&state, run, &users_run, err);
    return rc < 0 ? rc : life_open(out_life, state, users_run, is_there ? keeper : NULL, err);
}
