/* exec. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "container/command/command.h"
#include "container/command/number.h"

struct exec_words {
    struct exec_options exec;
    struct command_words env, caps, gids;
};

static struct exec_words *from(void *into)
{
    return into;
}

#define TEXT_OPTION(name)                                                                          \
    static int parse_##name(void *into, const char *value, struct error *err)                      \
    {                                                                                              \
        from(into)->exec.name = value;                                                             \
        return 0;                                                                                  \
    }
#define FLAG_OPTION(name)                                                                          \
    static int parse_##name(void *into, const char *value, struct error *err)                      \
    {                                                                                              \
        from(into)->exec.name = true;                                                              \
        return 0;                                                                                  \
    }

TEXT_OPTION(process)
TEXT_OPTION(cwd)
TEXT_OPTION(user)
TEXT_OPTION(apparmor)
TEXT_OPTION(process_label)
TEXT_OPTION(cgroup)
TEXT_OPTION(console_socket)
TEXT_OPTION(pid_file)
TEXT_OPTION(pidfd_socket)
FLAG_OPTION(has_terminal)
FLAG_OPTION(no_new_privileges)
FLAG_OPTION(is_detached)
FLAG_OPTION(ignores_paused)

static int parse_env(void *into, const char *value, struct error *err)
{
    return command_add_word(&from(into)->env, value, err);
}

static int parse_cap(void *into, const char *value, struct error *err)
{
    return command_add_word(&from(into)->caps, value, err);
}

static int parse_gids(void *into, const char *value, struct error *err)
{
    return command_add_word(&from(into)->gids, value, err);
}

static int parse_preserve_fds(void *into, const char *value, struct error *err)
{
    return number_parse_count(value, 1000, &from(into)->exec.preserve_fds, err);
}

/* "25x80": rows and columns. */
static int parse_console_size(void *into, const char *value, struct error *err)
{
    struct exec_options *exec = &from(into)->exec;
    char rows_text[8];
    size_t length = strcspn(value, "x");
    unsigned rows, columns;
    if (value[length] == '\0' || length >= sizeof(rows_text)) {
        return error_set(err, EINVAL, "console size %s: ROWSxCOLUMNS", value);
    }
    memcpy(rows_text, value, length);
    rows_text[length] = '\0';
    int rc = number_parse_count(rows_text, UINT16_MAX, &rows, err);
    rc = rc < 0 ? rc : number_parse_count(value + length + 1, UINT16_MAX, &columns, err);
    if (rc == 0) {
        exec->rows = (uint16_t)rows;
        exec->columns = (uint16_t)columns;
    }
    return rc;
}

static const struct option_spec exec_table[] = {
    {"process", 'p', "FILE",
     "a process object as in config.json, in place of a program and options", "FILE",
     parse_process},
    {"tty", 't', NULL, "give it a terminal", NULL, parse_has_terminal},
    {"detach", 'd', NULL, "do not wait for its end", NULL, parse_is_detached},
    {"cwd", 0, "DIR", "working directory in the container", NULL, parse_cwd},
    {"env", 'e', "NAME=VALUE", "add a variable", NULL, parse_env},
    {"user", 'u', "UID[:GID]", "who it runs as", NULL, parse_user},
    {"additional-gids", 'g', "GID", "add a group", NULL, parse_gids},
    {"cap", 'c', "CAPABILITY", "add a capability", NULL, parse_cap},
    {"no-new-privs", 0, NULL, "it and its children gain no privileges by what they execute", NULL,
     parse_no_new_privileges},
    {"process-label", 0, "LABEL", "SELinux label", NULL, parse_process_label},
    {"apparmor", 0, "PROFILE", "AppArmor profile", NULL, parse_apparmor},
    {"cgroup", 0, "PATH", "group below the container's own", NULL, parse_cgroup},
    {"console-socket", 0, "SOCKET", "Unix socket that the terminal's master is sent to", "FILE",
     parse_console_socket},
    {"console-size", 0, "ROWSxCOLUMNS", "size of its terminal from the start", NULL,
     parse_console_size},
    {"pid-file", 0, "FILE", "where the process id is written to", "FILE", parse_pid_file},
    {"pidfd-socket", 0, "SOCKET", "Unix socket that a pidfd of the process is sent to", "FILE",
     parse_pidfd_socket},
    {"preserve-fds", 0, "N", "descriptors 3 to 2+N are the program's too", NULL,
     parse_preserve_fds},
    {"ignore-paused", 0, NULL, "also in a paused container: it runs when that is resumed", NULL,
     parse_ignores_paused},
    {0},
};

static int exec_run(int argc, char **argv)
{
    struct exec_words words = {0};
    int count, status = command_options(&oci_exec_verb, true, 1, -1, argc, argv, &words, &count);
    if (status >= 0) {
        return status;
    }
    struct error err = {0};
    const char **args = calloc((size_t)count, sizeof(*args));
    if (args == NULL) {
        (void)error_set_errno(&err, ENOMEM, "exec");
        return command_fail(&err);
    }
    memcpy(args, argv + 1, (size_t)(count - 1) * sizeof(*args));
    words.exec.args = args;
    words.exec.env = words.env.item;
    words.exec.caps = words.caps.item;
    words.exec.gids = words.gids.item;
    int rc = runtime_exec(&command_global.runtime, argv[0], &words.exec, &status, &err);
    free(args);
    free(words.env.item);
    free(words.caps.item);
    free(words.gids.item);
    return rc < 0 ? (command_fail(&err), 255) : status;
}

const struct verb oci_exec_verb = {
    .name = "exec",
    .arguments = "CONTAINER [PROGRAM [ARGUMENT]...]",
    .summary = "Run another program in a container",
    .exit_status = "  That of the program, 128 + N after signal N; 255 if it could not be run.\n",
    .examples = "  hull-oci exec -t web sh\n",
    .options = exec_table,
    .run = exec_run,
};
