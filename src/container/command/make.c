/* create, run, start, delete, kill, pause, resume. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "container/command/command.h"
#include "container/command/number.h"

struct make_options {
    struct create_options create;
    bool is_detached, is_kept;
};

static int parse_bundle(void *into, const char *value, struct error *err)
{
    ((struct make_options *)into)->create.bundle = value;
    return 0;
}

static int parse_config(void *into, const char *value, struct error *err)
{
    ((struct make_options *)into)->create.config = value;
    return 0;
}

static int parse_console_socket(void *into, const char *value, struct error *err)
{
    ((struct make_options *)into)->create.console_socket = value;
    return 0;
}

static int parse_pid_file(void *into, const char *value, struct error *err)
{
    ((struct make_options *)into)->create.pid_file = value;
    return 0;
}

static int parse_pidfd_socket(void *into, const char *value, struct error *err)
{
    ((struct make_options *)into)->create.pidfd_socket = value;
    return 0;
}

static int parse_no_pivot(void *into, const char *value, struct error *err)
{
    ((struct make_options *)into)->create.no_pivot = true;
    return 0;
}

static int parse_no_new_keyring(void *into, const char *value, struct error *err)
{
    ((struct make_options *)into)->create.no_new_keyring = true;
    return 0;
}

static int parse_preserve_fds(void *into, const char *value, struct error *err)
{
    return number_parse_count(value, 1000, &((struct make_options *)into)->create.preserve_fds,
                              err);
}

/* crun's: here the caller is never a subreaper, so there is nothing to leave. */
static int parse_nothing(void *into, const char *value, struct error *err)
{
    return 0;
}

static int parse_detach(void *into, const char *value, struct error *err)
{
    ((struct make_options *)into)->is_detached = true;
    return 0;
}

static int parse_keep(void *into, const char *value, struct error *err)
{
    ((struct make_options *)into)->is_kept = true;
    return 0;
}

#define CREATE_OPTIONS                                                                             \
    {"bundle", 'b',         "DIR", "folder with config.json (default: the current one)",           \
     "DIR",    parse_bundle},                                                                      \
        {"config", 'f',         "FILE", "another configuration than the bundle's config.json",     \
         "FILE",   parse_config},                                                                  \
        {"console-socket", 0,                                                                      \
         "SOCKET",         "Unix socket that the terminal's master is sent to",                    \
         "FILE",           parse_console_socket},                                                  \
        {"pid-file", 0, "FILE", "where the process id is written to", "FILE", parse_pid_file},     \
        {"pidfd-socket", 0,                                                                        \
         "SOCKET",       "Unix socket that a pidfd of the process is sent to",                     \
         "FILE",         parse_pidfd_socket},                                                      \
        {"no-pivot", 0,                                                                            \
         NULL,       "MS_MOVE in place of pivot_root, for a root that is an initramfs",            \
         NULL,       parse_no_pivot},                                                              \
        {"no-new-keyring",    0, NULL, "keep the caller's session keyring", NULL,                  \
         parse_no_new_keyring},                                                                    \
        {"no-subreaper", 0, NULL, "nothing, for callers of crun", NULL, parse_nothing},            \
    {                                                                                              \
        "preserve-fds", 0, "N", "descriptors 3 to 2+N are the program's too", NULL,                \
            parse_preserve_fds                                                                     \
    }

static const struct option_spec create_table[] = {CREATE_OPTIONS, {0}};

static const struct option_spec run_table[] = {
    CREATE_OPTIONS,
    {"detach", 'd', NULL, "do not wait for the container's end", NULL, parse_detach},
    {"keep", 0, NULL, "do not delete the container when it has ended", NULL, parse_keep},
    {0},
};

/* LISTEN_FDS of a caller that was started by a socket (sd_listen_fds(3)). */
static void count_sockets(struct create_options *options)
{
    const char *text = getenv("LISTEN_FDS");
    struct error ignored;
    unsigned count;
    if (text != NULL && number_parse_count(text, 1000, &count, &ignored) == 0) {
        options->preserve_fds += count;
    }
}

static int create_run(int argc, char **argv)
{
    struct make_options options = {.create.bundle = "."};
    int status = command_options(&oci_create_verb, false, 1, 1, argc, argv, &options, NULL);
    if (status >= 0) {
        return status;
    }
    struct error err = {0};
    count_sockets(&options.create);
    return runtime_create(&command_global.runtime, argv[0], &options.create, &err) < 0
               ? command_fail(&err)
               : COMMAND_OK;
}

const struct verb oci_create_verb = {
    .name = "create",
    .arguments = "CONTAINER",
    .summary = "Create a container: all of it but its program runs then",
    .options = create_table,
    .run = create_run,
};

static int run_run(int argc, char **argv)
{
    struct make_options options = {.create.bundle = "."};
    int status = command_options(&oci_run_verb, false, 1, 1, argc, argv, &options, NULL);
    if (status >= 0) {
        return status;
    }
    struct error err = {0};
    count_sockets(&options.create);
    status = COMMAND_OK;
    int rc = runtime_run(&command_global.runtime, argv[0], &options.create, options.is_detached,
                         options.is_kept, &status, &err);
    return rc < 0 ? command_fail(&err) : status;
}

const struct verb oci_run_verb = {
    .name = "run",
    .arguments = "CONTAINER",
    .summary = "Create and start a container, and wait for its end",
    .exit_status = "  That of the program, 128 + N after signal N; 1 if it could not be run.\n",
    .options = run_table,
    .run = run_run,
};

static int start_run(int argc, char **argv)
{
    int status = command_options(&oci_start_verb, false, 1, 1, argc, argv, NULL, NULL);
    struct error err = {0};
    return status >= 0                                                 ? status
           : runtime_start(&command_global.runtime, argv[0], &err) < 0 ? command_fail(&err)
                                                                       : COMMAND_OK;
}

const struct verb oci_start_verb = {
    .name = "start",
    .arguments = "CONTAINER",
    .summary = "Start the program of a container that was created",
    .run = start_run,
};

static int parse_flag(void *into, const char *value, struct error *err)
{
    *(bool *)into = true;
    return 0;
}

static const struct option_spec delete_table[] = {
    {"force", 'f', NULL, "end it first if it runs; what is not there is no error", NULL,
     parse_flag},
    {0},
};

static int delete_run(int argc, char **argv)
{
    bool is_forced = false;
    int count,
        status = command_options(&oci_delete_verb, false, 1, -1, argc, argv, &is_forced, &count);
    if (status >= 0) {
        return status;
    }
    status = COMMAND_OK;
    for (int i = 0; i < count; i++) {
        struct error err = {0};
        if (runtime_delete(&command_global.runtime, argv[i], is_forced, &err) < 0) {
            status = command_fail(&err);
        }
    }
    return status;
}

const struct verb oci_delete_verb = {
    .name = "delete",
    .arguments = "CONTAINER...",
    .summary = "Remove containers that have stopped",
    .options = delete_table,
    .run = delete_run,
};

static const struct option_spec kill_table[] = {
    {"all", 'a', NULL, "to each process of the container", NULL, parse_flag},
    {0},
};

static int kill_run(int argc, char **argv)
{
    bool to_all = false;
    int count, status = command_options(&oci_kill_verb, false, 1, 2, argc, argv, &to_all, &count);
    if (status >= 0) {
        return status;
    }
    struct error err = {0};
    int signal = SIGTERM;
    int rc = count == 2 ? spec_parse_signal(argv[1], &signal, &err) : 0;
    rc = rc < 0 ? rc : runtime_kill(&command_global.runtime, argv[0], signal, to_all, &err);
    return rc < 0 ? command_fail(&err) : COMMAND_OK;
}

const struct verb oci_kill_verb = {
    .name = "kill",
    .arguments = "CONTAINER [SIGNAL]",
    .summary = "Send a signal to a container's first process (default: TERM)",
    .description = "SIGNAL is a name with or without SIG, a number, or RTMIN+N.\n",
    .options = kill_table,
    .run = kill_run,
};

static int pause_run(int argc, char **argv)
{
    int status = command_options(&oci_pause_verb, false, 1, 1, argc, argv, NULL, NULL);
    struct error err = {0};
    return status >= 0                                                       ? status
           : runtime_pause(&command_global.runtime, argv[0], true, &err) < 0 ? command_fail(&err)
                                                                             : COMMAND_OK;
}

const struct verb oci_pause_verb = {
    .name = "pause",
    .arguments = "CONTAINER",
    .summary = "Freeze all processes of a container",
    .run = pause_run,
};

static int resume_run(int argc, char **argv)
{
    int status = command_options(&oci_resume_verb, false, 1, 1, argc, argv, NULL, NULL);
    struct error err = {0};
    return status >= 0                                                        ? status
           : runtime_pause(&command_global.runtime, argv[0], false, &err) < 0 ? command_fail(&err)
                                                                              : COMMAND_OK;
}

const struct verb oci_resume_verb = {
    .name = "resume",
    .arguments = "CONTAINER",
    .summary = "Let the processes of a paused container go on",
    .run = resume_run,
};
