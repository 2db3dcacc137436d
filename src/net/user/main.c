/* The course of hull-net-user: options, ports, jail, "ready", work. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/host/confine.h"
#include "base/host/log.h"
#include "base/host/pid_file.h"
#include "base/host/unix_socket.h"
#include "net/user/jail.h"
#include "net/user/serve.h"
#include "net/user/user.h"

/* One line to whoever started us; on stderr if nobody said where. */
static void report(int ready_fd, const char *line)
{
    char text[ERROR_TEXT_SIZE + 16];
    int size = snprintf(text, sizeof(text), "%s\n", line);
    size_t length = MIN((size_t)size, sizeof(text) - 1);
    (void)!write(ready_fd, text, length); /* who does not listen does not care */
}

static int fail(int ready_fd, const struct error *err)
{
    char line[ERROR_TEXT_SIZE + 8];
    (void)snprintf(line, sizeof(line), "hull: %s", err->text); /* long enough */
    report(ready_fd >= 0 ? ready_fd : STDERR_FILENO, line);
    return 1;
}

static int check_frame_socket(int fd, struct error *err)
{
    int type = 0;
    socklen_t size = sizeof(type);
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) < 0 || type != SOCK_STREAM) {
        return error_set(err, EINVAL, "--fd %d: expected a connected stream socket", fd);
    }
    return 0;
}

/* Keeps our own log lines, and sends what libraries print to nowhere: a guest can make them print without end. */
static int redirect_output(bool is_verbose, struct error *err)
{
    int log_fd = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
    int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (log_fd < 0 || null_fd < 0 || dup2(null_fd, 0) < 0 || dup2(null_fd, 1) < 0 ||
        dup2(null_fd, 2) < 0) {
        return error_set_errno(err, errno, "redirecting output");
    }
    close(null_fd);
    log_init(log_fd, is_verbose ? LOG_LEVEL_INFO : LOG_LEVEL_WARNING, "hull-net-user");
    return 0;
}

static int start(const struct net_user_options *options, struct net_user **out_user,
                 struct error *err)
{
    int rc = check_frame_socket(options->fd, err);
    if (rc == 0) {
        rc = confine_close_others(options->fd, options->ready_fd, err);
    }
    if (rc == 0) {
        rc = net_user_create(options, out_user, err);
    }
    if (rc == 0) {
        rc = redirect_output(options->is_verbose, err);
    }
    return rc < 0 ? rc : jail_enter(options->dns, false, options->outlives_parent, err);
}

/* The pid file stays open, and locked, until the end. */
static int start_switch(const struct net_user_options *options, struct server **out_server,
                        struct error *err)
{
    int pid_fd, listen_fd;
    int rc = confine_close_others(MAX(options->ready_fd, 2), -1, err);
    if (rc == 0 && options->pid_file != NULL) {
        rc = pid_file_open(options->pid_file, "the switch", &pid_fd, err);
    }
    if (rc == 0) {
        rc = unix_socket_listen_packets(options->switch_path, "switch", &listen_fd, err);
    }
    if (rc == 0) {
        rc = server_create(options, listen_fd, out_server, err);
    }
    if (rc == 0) {
        rc = redirect_output(options->is_verbose, err);
    }
    return rc < 0 ? rc : jail_enter(options->dns, true, true, err);
}

static void say_ready(const struct net_user_options *options)
{
    if (options->ready_fd >= 0) {
        report(options->ready_fd, "ready");
        close(options->ready_fd);
    }
}

static int run_one(const struct net_user_options *options, struct error *err)
{
    struct net_user *user = NULL;
    if (start(options, &user, err) < 0) {
        return fail(options->ready_fd, err);
    }
    say_ready(options);
    int rc = net_user_run(user, err);
    net_user_destroy(user);
    return rc;
}

static int run_switch(const struct net_user_options *options, struct error *err)
{
    struct server *server = NULL;
    if (start_switch(options, &server, err) < 0) {
        return fail(options->ready_fd, err);
    }
    say_ready(options);
    int rc = server_run(server, err);
    server_destroy(server);
    return rc;
}

int net_user_main(int argc, char **argv)
{
    struct net_user_options options;
    struct error err;
    (void)signal(SIGPIPE, SIG_IGN); /* a valid signal */
    if (net_user_parse_options(argc, argv, &options, &err) < 0) {
        return fail(options.ready_fd, &err);
    }
    if (options.wants_help || options.wants_version) {
        (void)fputs(options.wants_help ? net_user_usage : "hull-net-user " HULL_VERSION "\n",
                    stdout);
        return fflush(stdout) == 0 ? 0 : 1;
    }
    int rc = options.switch_path != NULL ? run_switch(&options, &err) : run_one(&options, &err);
    if (rc < 0) {
        log_error("%s", err.text);
    }
    return rc != 0 ? 1 : 0;
}
