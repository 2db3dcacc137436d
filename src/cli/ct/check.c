/* hull ct check: what crashes have left. */
#include <stdio.h>

#include "cli/ct/ct.h"

struct check_options {
    struct ct_options ct;
    bool repairs;
};

static int parse_repair(void *into, const char *value, struct error *err)
{
    ((struct check_options *)into)->repairs = true;
    return 0;
}

static const struct option_spec check_table[] = {
    {"repair", 0, NULL, "remove what is found", NULL, parse_repair},
    CT_OPTION_STATE,
    {0},
};

static void found(void *ctx, const char *what, bool is_repaired)
{
    (void)printf("%s%s\n", what, is_repaired ? ": removed" : "");
}

static int check_run(int argc, char **argv)
{
    struct check_options options = {0};
    struct life life;
    struct error err = {0};
    int count;
    int status = cli_words(&ct_check_verb, 0, 0, argc, argv, &options, &count);
    if (status >= 0) {
        return status;
    }
    int rc = ct_open(&options.ct, &life, &err);
    rc = rc < 0 ? rc : life_check(&life, options.repairs, found, NULL, &err);
    if (rc < 0) {
        return cli_fail(&err);
    }
    if (rc > 0 && !options.repairs) {
        (void)printf("`hull ct check --repair` removes what is left over\n");
    }
    return rc == 0 ? CLI_OK : CLI_FAILURE;
}

const struct verb ct_check_verb = {
    .name = "ct check",
    .arguments = "",
    .summary = "Look for what crashes have left: processes, groups, devices, half-made files",
    .exit_status = "  0 when there is nothing (any more).\n",
    .examples = "  hull ct check\n",
    .options = check_table,
    .run = check_run,
};
