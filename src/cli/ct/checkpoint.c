/* hull ct checkpoint and restore. */
#include <errno.h>

#include "cli/ct/ct.h"

static const struct option_spec table[] = {
    CT_OPTION_STATE,
    {0},
};

static int run(const struct verb *verb,
               int (*fn)(const struct life *life, const char *name, const char *file,
                         struct error *err),
               int argc, char **argv)
{
    struct ct_options options = {0};
    struct life life;
    struct error err = {0};
    int count;
    int status = cli_words(verb, 2, 2, argc, argv, &options, &count);
    if (status >= 0) {
        return status;
    }
    int rc = ct_open(&options, &life, &err);
    rc = rc < 0 ? rc : fn(&life, argv[0], argv[1], &err);
    return rc < 0 ? cli_fail(&err) : CLI_OK;
}

static int checkpoint_run(int argc, char **argv)
{
    return run(&ct_checkpoint_verb, life_checkpoint, argc, argv);
}

static int restore_run(int argc, char **argv)
{
    return run(&ct_restore_verb, life_restore, argc, argv);
}

const struct verb ct_checkpoint_verb = {
    .name = "ct checkpoint",
    .arguments = "NAME FILE",
    .summary = "Write a running container's processes to a file, and stop it",
    .description =
        "The container's own files stay where they are, so `hull ct restore` has it go on from there\n"
        "as long as it was not started in between. Needs root, a container made\n"
        "with --privileged, and a criu (3.18 or newer) that works on this kernel.\n"
        "What cannot be written is told before, and the container goes on.\n",
    .examples = "  hull ct checkpoint web /var/tmp/web.checkpoint\n",
    .options = table,
    .complete = "CONTAINER",
    .run = checkpoint_run,
};

const struct verb ct_restore_verb = {
    .name = "ct restore",
    .arguments = "NAME FILE",
    .summary = "Have a container go on from its last checkpoint",
    .description =
        "FILE is what `hull ct checkpoint` has written for this container. Its processes go on where\n"
        "they were; its cards are made anew, as they are configured.\n",
    .examples = "  hull ct restore web /var/tmp/web.checkpoint\n",
    .options = table,
    .complete = "CONTAINER",
    .run = restore_run,
};
