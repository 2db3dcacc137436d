/* hull ct exec, shell, console, logs. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

#include "base/host/file.h"
#include "cli/ct/ct.h"
#include "cli/terminal.h"
#include "container/runtime/protect.h"
#include "system/life/internal.h"
#include "system/life/keeper.h"

#define MAX_VARIABLES 64
#define ESCAPE        0x1d /* Ctrl-], as in telnet and virsh console */

struct exec_words {
    struct ct_options ct;
    struct exec_options exec;
    const char *env[MAX_VARIABLES + 1];
    size_t env_count;
    bool has_no_terminal;
};

static int parse_cwd(void *into, const char *value, struct error *err)
{
    ((struct exec_words *)into)->exec.cwd = value;
    return value[0] == '/' ? 0 : error_set(err, EINVAL, "'%.100s' is no absolute path", value);
}

static int parse_user(void *into, const char *value, struct error *err)
{
    ((struct exec_words *)into)->exec.user = value;
    return 0;
}

static int parse_env(void *into, const char *value, struct error *err)
{
    struct exec_words *words = into;
    if (strchr(value, '=') == NULL || words->env_count == MAX_VARIABLES) {
        return error_set(err, EINVAL, "NAME=VALUE, at most %d", MAX_VARIABLES);
    }
    words->env[words->env_count++] = value;
    return 0;
}

static int parse_tty(void *into, const char *value, struct error *err)
{
    ((struct exec_words *)into)->exec.has_terminal = true;
    return 0;
}

static int parse_no_tty(void *into, const char *value, struct error *err)
{
    ((struct exec_words *)into)->has_no_terminal = true;
    return 0;
}

static const struct option_spec exec_table[] = {
    {"user", 'u', "UID[:GID]", "its user and group there, as numbers (default: 0:0)", NULL,
     parse_user},
    {"cwd", 0, "DIR", "where it begins (default: /)", NULL, parse_cwd},
    {"env", 'e', "NAME=VALUE", "a variable for it", NULL, parse_env},
    {"tty", 't', NULL, "a terminal for it (default: if input and output are terminals)", NULL,
     parse_tty},
    {"no-tty", 'T', NULL, "no terminal", NULL, parse_no_tty},
    CT_OPTION_STATE,
    {0},
};

/* 'program' NULL at its end. */
static int execute(struct exec_words *words, const char *name, const char *const *program)
{
    struct life life;
    struct error err = {0};
    int status = CLI_FAILURE;
    int rc = ct_open(&words->ct, &life, &err);
    rc = rc < 0 ? rc : config_check(&life.store, name, &err);
    if (rc == 0 && life_status(&life, name) != LIFE_RUNNING) {
        rc = error_set(&err, ESRCH, "container %s is %s", name,
                       life_status_name(life_status(&life, name)));
    }
    const char *term = getenv("TERM");
    char variable[80];
    if (term != NULL && words->exec.has_terminal && words->env_count < MAX_VARIABLES) {
        (void)snprintf(variable, sizeof(variable), "TERM=%.64s", term);
        words->env[words->env_count++] = variable;
    }
    words->exec.args = program;
    words->exec.env = words->env;
    rc = rc < 0 ? rc : runtime_exec(&life.runtime, name, &words->exec, &status, &err);
    return rc < 0 ? cli_fail(&err) : status;
}

static int exec_run(int argc, char **argv)
{
    struct exec_words words = {0};
    struct error err = {0};
    int count;
    if (protect_program(argv - 2, &err) < 0) { /* hull ct exec ... */
        return cli_fail(&err);
    }
    int status = cli_options(&ct_exec_verb, true, argc, argv, &words, &count);
    if (status >= 0) {
        return status;
    }
    int first = count >= 2 && strcmp(argv[1], "--") == 0 ? 2 : 1;
    if (count <= first) {
        error_set(&err, EINVAL, "usage: hull ct exec [OPTION]... %s", ct_exec_verb.arguments);
        return cli_fail(&err);
    }
    words.exec.has_terminal =
        !words.has_no_terminal &&
        (words.exec.has_terminal || (isatty(STDIN_FILENO) == 1 && isatty(STDOUT_FILENO) == 1));
    argv[count] = NULL;
    return execute(&words, argv[0], (const char *const *)argv + first);
}

const struct verb ct_exec_verb = {
    .name = "ct exec",
    .arguments = "NAME [--] PROGRAM [ARGUMENT]...",
    .summary = "Run a program in a container",
    .examples = "  hull ct exec web -- systemctl status\n"
                "  echo hello | hull ct exec web tee /tmp/x\n",
    .exit_status = "  That of the program, 128 + N after signal N; 1 if it could not be run.\n",
    .options = exec_table,
    .complete = "CONTAINER",
    .run = exec_run,
};

static int shell_run(int argc, char **argv)
{
    /* A login shell: the best that the container has. */
    static const char *const shell[] = {
        "/bin/sh", "-c",
        "cd; if [ -x /bin/bash ]; then exec /bin/bash -l; else exec /bin/sh -l; fi", NULL};
    struct exec_words words = {0};
    struct error err = {0};
    int count;
    if (protect_program(argv - 2, &err) < 0) {
        return cli_fail(&err);
    }
    int status = cli_words(&ct_shell_verb, 1, 1, argc, argv, &words, &count);
    if (status >= 0) {
        return status;
    }
    words.exec.has_terminal =
        !words.has_no_terminal && (words.exec.has_terminal || isatty(STDIN_FILENO) == 1);
    return execute(&words, argv[0], shell);
}

const struct verb ct_shell_verb = {
    .name = "ct shell",
    .arguments = "NAME",
    .summary = "Get a shell in a container",
    .examples = "  hull ct shell web\n",
    .options = exec_table,
    .complete = "CONTAINER",
    .run = shell_run,
};

static const struct option_spec plain_table[] = {
    CT_OPTION_STATE,
    {0},
};

static void send_size(int connection)
{
    struct winsize window;
    char packet[1 + sizeof(struct keeper_size)] = {KEEPER_SIZE};
    if (ioctl(STDIN_FILENO, TIOCGWINSZ, &window) == 0) {
        const struct keeper_size size = {.rows = window.ws_row, .columns = window.ws_col};
        memcpy(packet + 1, &size, sizeof(size));
        (void)send(connection, packet, sizeof(packet), MSG_NOSIGNAL);
    }
}

/* False: the user has typed the escape, or there is no more. */
static bool send_input(int connection)
{
    char packet[KEEPER_MAX_PACKET / 4];
    packet[0] = KEEPER_DATA;
    ssize_t n = read(STDIN_FILENO, packet + 1, sizeof(packet) - 1);
    if (n <= 0) {
        return n < 0 && errno == EINTR;
    }
    const char *escape = memchr(packet + 1, ESCAPE, (size_t)n);
    size_t size = escape != NULL ? (size_t)(escape - packet) - 1 : (size_t)n;
    if (size != 0) {
        (void)send(connection, packet, size + 1, MSG_NOSIGNAL);
    }
    return escape == NULL;
}

static void relay(int connection)
{
    sigset_t window;
    sigemptyset(&window);
    sigaddset(&window, SIGWINCH);
    (void)sigprocmask(SIG_BLOCK, &window, NULL);
    AUTO_CLOSE int resized = signalfd(-1, &window, SFD_CLOEXEC);
    bool reads = true;
    for (;;) {
        struct pollfd polled[] = {
            {.fd = connection, .events = POLLIN},
            {.fd = reads ? STDIN_FILENO : -1, .events = POLLIN},
            {.fd = resized, .events = POLLIN},
        };
        if (poll(polled, ARRAY_COUNT(polled), -1) < 0 && errno != EINTR) {
            return;
        }
        if (polled[2].revents != 0) {
            struct signalfd_siginfo info;
            (void)!read(resized, &info, sizeof(info));
            send_size(connection);
        }
        if (polled[0].revents != 0) {
            char packet[KEEPER_MAX_PACKET];
            ssize_t n = recv(connection, packet, sizeof(packet), 0);
            if (n <= 0) {
                return; /* the container has ended */
            }
            struct error ignored;
            if (file_write_all(STDOUT_FILENO, packet + 1, (size_t)n - 1, "stdout", &ignored) < 0) {
                return;
            }
        }
        if (polled[1].revents != 0 && !send_input(connection)) {
            if (isatty(STDIN_FILENO) == 1) {
                return;
            }
            reads = false; /* a file or pipe has ended: what the container says is still shown */
        }
    }
}

static int console_run(int argc, char **argv)
{
    struct ct_options options = {0};
    struct life life;
    struct error err = {0};
    int count;
    int status = cli_words(&ct_console_verb, 1, 1, argc, argv, &options, &count);
    if (status >= 0) {
        return status;
    }
    int rc = ct_open(&options, &life, &err);
    rc = rc < 0 ? rc : config_check(&life.store, argv[0], &err);
    AUTO_CLOSE int connection = rc < 0 ? rc : life_connect(&life, argv[0], KEEPER_ATTACH, &err);
    if (connection < 0) {
        return cli_fail(&err);
    }
    bool is_terminal = terminal_set_raw(STDIN_FILENO);
    if (is_terminal) {
        (void)fprintf(stderr, "console of %s; Ctrl-] leaves it\r\n", argv[0]);
        send_size(connection);
    }
    relay(connection);
    if (is_terminal) {
        terminal_restore();
        (void)fputc('\n', stderr);
    }
    return CLI_OK;
}

const struct verb ct_console_verb = {
    .name = "ct console",
    .arguments = "NAME",
    .summary = "Use a container's console; Ctrl-] leaves it",
    .examples = "  hull ct console web\n",
    .options = plain_table,
    .complete = "CONTAINER",
    .run = console_run,
};

static int copy_file(const char *path, struct error *err)
{
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) {
        return errno == ENOENT ? 0 : error_set_errno(err, errno, "opening %s", path);
    }
    char data[65536];
    for (;;) {
        ssize_t n = read(fd, data, sizeof(data));
        if (n < 0 && errno != EINTR) {
            return error_set_errno(err, errno, "reading %s", path);
        }
        if (n == 0) {
            return 0;
        }
        int rc = n > 0 ? file_write_all(STDOUT_FILENO, data, (size_t)n, "stdout", err) : 0;
        if (rc < 0) {
            return rc;
        }
    }
}

static int logs_run(int argc, char **argv)
{
    struct ct_options options = {0};
    struct life life;
    struct error err = {0};
    int count;
    int status = cli_words(&ct_logs_verb, 1, 1, argc, argv, &options, &count);
    if (status >= 0) {
        return status;
    }
    int rc = ct_open(&options, &life, &err);
    rc = rc < 0 ? rc : config_check(&life.store, argv[0], &err);
    if (rc < 0) {
        return cli_fail(&err);
    }
    char path[PATH_MAX];
    store_container_path(&life.store, argv[0], CONTAINER_CONSOLE ".1", path);
    rc = copy_file(path, &err);
    store_container_path(&life.store, argv[0], CONTAINER_CONSOLE, path);
    rc = rc < 0 ? rc : copy_file(path, &err);
    return rc < 0 ? cli_fail(&err) : CLI_OK;
}

const struct verb ct_logs_verb = {
    .name = "ct logs",
    .arguments = "NAME",
    .summary = "Print what a container's console has shown",
    .examples = "  hull ct logs web\n",
    .options = plain_table,
    .complete = "CONTAINER",
    .run = logs_run,
};
