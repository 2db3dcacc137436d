/* hull exec, shell and console. */
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cli/managed/managed.h"

#define MAX_VARIABLES 64

struct exec_options {
    const char *user, *cwd;
    const char *env[MAX_VARIABLES];
    size_t env_count;
    bool has_terminal, has_no_terminal;
};

static int parse_user(void *into, const char *value, struct error *err)
{
    ((struct exec_options *)into)->user = value;
    return 0;
}

static int parse_cwd(void *into, const char *value, struct error *err)
{
    ((struct exec_options *)into)->cwd = value;
    return value[0] == '/' ? 0 : error_set(err, EINVAL, "'%.100s' is no absolute path", value);
}

static int parse_env(void *into, const char *value, struct error *err)
{
    struct exec_options *options = into;
    const char *equals = strchr(value, '=');
    if (equals == NULL || equals == value || options->env_count == MAX_VARIABLES) {
        return error_set(err, EINVAL, "NAME=VALUE, at most %d", MAX_VARIABLES);
    }
    options->env[options->env_count++] = value;
    return 0;
}

static int parse_tty(void *into, const char *value, struct error *err)
{
    ((struct exec_options *)into)->has_terminal = true;
    return 0;
}

static int parse_no_tty(void *into, const char *value, struct error *err)
{
    ((struct exec_options *)into)->has_no_terminal = true;
    return 0;
}

static const struct option_spec exec_table[] = {
    {"user", 'u', "USER", "who it runs as there (default: root)", NULL, parse_user},
    {"cwd", 0, "DIR", "where it begins", NULL, parse_cwd},
    {"env", 'e', "NAME=VALUE", "a variable for it", NULL, parse_env},
    {"tty", 't', NULL, "a terminal for it (default: if input and output are terminals)", NULL,
     parse_tty},
    {"no-tty", 'T', NULL, "no terminal", NULL, parse_no_tty},
    {0},
};

static json_t *environment_of(const struct exec_options *options, bool has_terminal)
{
    json_t *environment = json_object();
    const char *term = getenv("TERM");
    if (has_terminal && term != NULL) {
        (void)json_object_set_new(environment, "TERM", json_string(term));
    }
    for (size_t i = 0; i < options->env_count; i++) {
        const char *equals = strchr(options->env[i], '=');
        char *name = strndup(options->env[i], (size_t)(equals - options->env[i]));
        (void)json_object_set_new(environment, name != NULL ? name : "", json_string(equals + 1));
        free(name);
    }
    return environment;
}

static json_t *request_of(const struct exec_options *options, char **command, bool has_terminal)
{
    json_t *words = json_array();
    struct winsize window = {0};
    for (; *command != NULL; command++) {
        (void)json_array_append_new(words, json_string(*command));
    }
    json_t *request =
        json_pack("{s:s, s:o, s:o, s:b}", "do", "exec", "command", words, "environment",
                  environment_of(options, has_terminal), "terminal", has_terminal);
    if (options->user != NULL) {
        (void)json_object_set_new(request, "user", json_string(options->user));
    }
    if (options->cwd != NULL) {
        (void)json_object_set_new(request, "cwd", json_string(options->cwd));
    }
    if (has_terminal && ioctl(STDIN_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 0) {
        (void)json_object_set_new(request, "columns", json_integer(window.ws_col));
        (void)json_object_set_new(request, "rows", json_integer(window.ws_row));
    }
    return request;
}

int managed_session_open(const struct client *client, const char *name, const char *verb,
                         json_t *request, struct client_socket **out_socket, struct error *err)
{
    char *text = request != NULL ? json_dumps(request, JSON_COMPACT) : NULL;
    json_decref(request);
    if (text == NULL) {
        return error_set(err, EINVAL, "%s: its words are not UTF-8", verb);
    }
    const char *slash = strchr(verb, '/');
    char first[16];
    (void)snprintf(first, sizeof(first), "%.*s", slash != NULL ? (int)(slash - verb) : 15, verb);
    char *path = client_path("/v1/instances", name, first, slash != NULL ? slash + 1 : NULL, NULL);
    path = client_add_query(path, "request", text);
    free(text);
    int rc = client_socket_open(client, path, out_socket, err);
    free(path);
    return rc;
}

/* 'command' NULL at its end. */
static int execute(const struct exec_options *options, const char *name, char **command)
{
    struct client client;
    struct client_socket *socket = NULL;
    struct error err = {0};
    bool is_user = isatty(STDIN_FILENO) == 1;
    bool has_terminal = !options->has_no_terminal &&
                        (options->has_terminal || (is_user && isatty(STDOUT_FILENO) == 1));
    int rc = managed_open(&client, &err);
    rc = rc < 0 ? rc
                : managed_session_open(&client, name, "exec",
                                       request_of(options, command, has_terminal), &socket, &err);
    if (rc == 0) {
        const struct session_terminal how = {.is_raw = has_terminal && is_user};
        rc = session_run(socket, &how, &err);
        client_socket_close(socket);
        if (rc < 0) {
            error_ignore(error_prefix(&err, rc, "%s: %s", name, command[0]));
        }
    }
    return rc < 0 ? cli_fail(&err) : rc;
}

static int exec_run(int argc, char **argv)
{
    struct exec_options options = {0};
    struct error err = {0};
    int count;
    int status = cli_options(&exec_verb, true, argc, argv, &options, &count);
    if (status >= 0) {
        return status;
    }
    int first = count >= 2 && strcmp(argv[1], "--") == 0 ? 2 : 1;
    if (count <= first) {
        error_set(&err, EINVAL, "usage: hull exec [OPTION]... %s", exec_verb.arguments);
        return cli_fail(&err);
    }
    argv[count] = NULL;
    return execute(&options, argv[0], argv + first);
}

const struct verb exec_verb = {
    .name = "exec",
    .arguments = "NAME [--] PROGRAM [ARGUMENT]...",
    .summary = "Run a program in an instance",
    .description =
        "In VMs hull-agent runs it. Input, output, signals and the window's size go through.\n",
    .examples = "  hull exec web1 -- systemctl status\n"
                "  echo hello | hull exec web1 tee /tmp/x\n"
                "  hull exec --user www-data --env LANG=C web1 -- id\n",
    .exit_status = "  That of the program, 128 + N after signal N; 1 if it could not be run.\n",
    .options = exec_table,
    .complete = "INSTANCE",
    .run = exec_run,
};

static int shell_run(int argc, char **argv)
{
    /* A login shell: the best that the instance has. */
    static char *shell[] = {
        "/bin/sh", "-c",
        "cd; if [ -x /bin/bash ]; then exec /bin/bash -l; else exec /bin/sh -l; fi", NULL};
    struct exec_options options = {0};
    int count;
    int status = cli_words(&shell_verb, 1, 1, argc, argv, &options, &count);
    return status >= 0 ? status : execute(&options, argv[0], shell);
}

const struct verb shell_verb = {
    .name = "shell",
    .arguments = "NAME",
    .summary = "Get a shell in an instance",
    .examples = "  hull shell web1\n  hull shell web1 --user www-data\n",
    .options = exec_table,
    .complete = "INSTANCE",
    .run = shell_run,
};

struct console_options {
    const char *device;
};

static int parse_device(void *into, const char *value, struct error *err)
{
    ((struct console_options *)into)->device = value;
    return 0;
}

static const struct option_spec console_table[] = {
    {"device", 0, "NAME", "a device of type serial, in place of the first console", NULL,
     parse_device},
    {0},
};

static int console_run(int argc, char **argv)
{
    struct console_options options = {0};
    struct client client;
    struct client_socket *socket;
    struct error err = {0};
    int count;
    int status = cli_words(&console_verb, 1, 1, argc, argv, &options, &count);
    if (status >= 0) {
        return status;
    }
    json_t *request = json_pack("{s:s}", "do", "console");
    if (options.device != NULL) {
        (void)json_object_set_new(request, "device", json_string(options.device));
    }
    int rc = managed_open(&client, &err);
    if (rc < 0) {
        json_decref(request);
    } else {
        rc = managed_session_open(&client, argv[0], "console", request, &socket, &err);
    }
    if (rc < 0) {
        return cli_fail(&err);
    }
    const struct session_terminal how = {.is_raw = isatty(STDIN_FILENO) == 1, .is_console = true};
    if (how.is_raw) {
        (void)fprintf(stderr, "%s of %s; Ctrl-] q leaves it\n",
                      options.device != NULL ? options.device : "console", argv[0]);
    }
    rc = session_run(socket, &how, &err);
    client_socket_close(socket);
    if (how.is_raw) {
        (void)fputc('\n', stderr);
    }
    return rc < 0 ? cli_fail(&err) : rc;
}

const struct verb console_verb = {
    .name = "console",
    .arguments = "NAME",
    .summary = "Use an instance's console; Ctrl-] q leaves it",
    .examples = "  hull console web1\n"
                "  hull console vm1 --device line1\n",
    .options = console_table,
    .complete = "INSTANCE",
    .run = console_run,
};
