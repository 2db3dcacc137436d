/* The course of hull-net-user: options, ports, jail, "ready", work. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/host/confine.h"
#include "base/host/helper.h"
#include "base/host/log.h"
#include "base/host/pid_file.h"
#include "base/host/unix_socket.h"
#include "net/user/jail.h"
#include "net/user/serve.h"
#include "net/user/user.h"

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
    int rc = helper_check_socket(options->fd, err);
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

static int run_one(const struct net_user_options *options, struct error *err)
{
    struct net_user *user = NULL;
    if (start(options, &user, err) < 0) {
        return helper_fail(options->ready_fd, err);
    }
    helper_say_ready(options->ready_fd);
    int rc = net_user_run(user, err);
    net_user_destroy(user);
    return rc;
}

static int run_switch(const struct net_user_options *options, struct error *err)
{
    struct server *server = NULL;
    if (start_switch(options, &server, err) < 0) {
        return helper_fail(options->ready_fd, err);
    }
    helper_say_ready(options->ready_fd);
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
        return helper_fail(options.ready_fd, &err);
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
