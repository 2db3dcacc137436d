/* The process that listens. Each connection is served by a process of its own, which ends with it. */
#include <getopt.h>
#include <grp.h>
#include <linux/vm_sockets.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/agent.h"
#include "agent/answer.h"
#include "agent/serve.h"
#include "agent/shares.h"
#include "base/host/event_loop.h"
#include "base/host/file.h"
#include "base/host/unix_socket.h"

#define MAX_CONNECTIONS 64u
#define VSOCK_WAIT_MS   60000 /* for its module */
#define VSOCK_RETRY_MS  50

struct agent {
    int listener, signals;
    bool is_guest;
    unsigned connections;
    struct freeze_record *record;
};

static int listen_vsock(int *out_fd, struct error *err)
{
    struct sockaddr_vm address = {
        .svm_family = AF_VSOCK, .svm_port = AGENT_PORT, .svm_cid = VMADDR_CID_ANY};
    int64_t end = clock_monotonic_ms() + VSOCK_WAIT_MS;
    AUTO_CLOSE int fd = -1;
    while ((fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0)) < 0) {
        if (errno != EAFNOSUPPORT || clock_monotonic_ms() > end) {
            return error_set_errno(err, errno, "making a vsock socket");
        }
        (void)poll(NULL, 0, VSOCK_RETRY_MS);
    }
    if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, 16) < 0) {
        return error_set_errno(err, errno, "listening on port %d of vsock", AGENT_PORT);
    }
    *out_fd = TAKE_FD(fd);
    return 0;
}

/* Only the host may ask: not other VMs, nor this one's own users. */
static bool is_host(const struct sockaddr_vm *peer)
{
    return peer->svm_family == AF_VSOCK && peer->svm_cid == VMADDR_CID_HOST;
}

static void serve_child(const struct agent *a, int fd)
{
    sigset_t none;
    sigemptyset(&none);
    close(a->listener);
    close(a->signals);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    _exit(serve_connection(fd, a->is_guest, a->record));
}

static void refuse(int fd, const char *why)
{
    struct error problem;
    error_ignore(error_set(&problem, EBUSY, "%s", why));
    answer_error(fd, &problem); /* some 100 bytes: they fit the socket's buffer */
}

static void accept_one(struct agent *a)
{
    struct sockaddr_storage peer = {0};
    socklen_t size = sizeof(peer);
    AUTO_CLOSE int fd = accept4(a->listener, (struct sockaddr *)&peer, &size, SOCK_CLOEXEC);
    if (fd < 0 || (a->is_guest && !is_host((const struct sockaddr_vm *)&peer))) {
        return;
    }
    if (a->connections >= MAX_CONNECTIONS) {
        refuse(fd, "the agent has too many connections");
        return;
    }
    pid_t pid = fork();
    if (pid == 0) {
        serve_child(a, fd);
    }
    if (pid < 0) {
        refuse(fd, "the agent cannot make a process");
        return;
    }
    a->connections++;
}

/* False: the agent is to end. */
static bool take_signals(struct agent *a)
{
    struct signalfd_siginfo info;
    bool goes_on = true;
    while (read(a->signals, &info, sizeof(info)) == sizeof(info)) {
        goes_on = goes_on && info.ssi_signo == SIGCHLD;
    }
    for (pid_t pid; (pid = waitpid(-1, NULL, WNOHANG)) > 0;) {
        a->connections--;
        freeze_forget(a->record, pid); /* it may have been killed while file systems were frozen */
    }
    return goes_on;
}

static int run(struct agent *a, struct error *err)
{
    for (;;) {
        struct pollfd wait[] = {{.fd = a->listener, .events = POLLIN},
                                {.fd = a->signals, .events = POLLIN}};
        if (poll(wait, 2, -1) < 0 && errno != EINTR) {
            return error_set_errno(err, errno, "waiting for connections");
        }
        if (wait[1].revents != 0 && !take_signals(a)) {
            freeze_forget(a->record, 0);
            return 0;
        }
        if (wait[0].revents != 0) {
            accept_one(a);
        }
    }
}

static int open_signals(int *out_fd, struct error *err)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    (void)signal(SIGPIPE, SIG_IGN);
    *out_fd = sigprocmask(SIG_BLOCK, &set, NULL) < 0
                  ? -1
                  : signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return *out_fd < 0 ? error_set_errno(err, errno, "waiting for signals") : 0;
}

static int start(struct agent *a, const char *listen, struct error *err)
{
    int rc = open_signals(&a->signals, err);
    rc = rc < 0 ? rc : freeze_record_create(&a->record, err);
    if (rc < 0) {
        return rc;
    }
    a->is_guest = listen == NULL;
    rc = a->is_guest ? listen_vsock(&a->listener, err)
                     : unix_socket_listen(listen, "--listen", &a->listener, err);
    /* Whoever connected may be gone before it is accepted. */
    return rc < 0 ? rc : file_set_nonblocking(a->listener, err);
}

/* By a process of its own: it waits for devices. Without one there are no shares, which the journal says. */
static void mount_shares(struct agent *a)
{
    pid_t pid = fork();
    if (pid == 0) {
        shares_mount();
        _exit(0);
    }
    if (pid < 0) {
        perror("hull-agent: making a process for shares");
    }
    a->connections += pid > 0; /* taken off as one when it ends */
}

static void show_help(void)
{
    (void)printf(
        "usage: hull-agent [--listen unix:PATH]\n"
        "\n"
        "Does in a guest what its host asks for, on port %d of vsock.\n"
        "\n"
        "  --listen unix:PATH  on this socket instead, and only what leaves the system as it is\n"
        "  --version\n",
        AGENT_PORT);
}

int agent_main(int argc, char **argv)
{
    static const struct option options[] = {
        {"listen", required_argument, NULL, 'l'},
        {"version", no_argument, NULL, 'v'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    const char *listen = NULL;
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (option == 'l' && strncmp(optarg, "unix:", 5) == 0) {
            listen = optarg + 5;
        } else if (option == 'v') {
            (void)puts("hull-agent " HULL_VERSION);
            return 0;
        } else {
            show_help();
            return option == 'h' ? 0 : 2;
        }
    }
    struct agent agent = {.listener = -1, .signals = -1};
    struct error err = {0};
    int rc = start(&agent, listen, &err);
    if (rc == 0 && agent.is_guest) {
        mount_shares(&agent);
    }
    rc = rc < 0 ? rc : run(&agent, &err);
    if (rc < 0) {
        (void)fprintf(stderr, "hull-agent: %s\n", err.text);
    }
    return rc < 0 ? 1 : 0;
}
