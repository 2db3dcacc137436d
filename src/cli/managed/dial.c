/* hull dial: this host's hulld on standard input and output, for a `hull` elsewhere that comes by ssh. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/host/file.h"
#include "cli/managed/managed.h"

/* Bytes of one direction. */
struct flow {
    int from, to;
    bool has_ended; /* 'from' has, and 'to' was told */
    size_t taken, used;
    char data[65536];
};

static void flow_end(struct flow *flow)
{
    flow->has_ended = true;
    flow->taken = flow->used = 0;
    (void)shutdown(flow->to, SHUT_WR); /* a pipe is none: it ends with this program */
}

static void flow_read(struct flow *flow)
{
    ssize_t got = read(flow->from, flow->data, sizeof(flow->data));
    flow->taken = 0;
    flow->used = got > 0 ? (size_t)got : 0;
    if (got == 0 || (got < 0 && errno != EINTR && errno != EAGAIN)) {
        flow_end(flow);
    }
}

static void flow_write(struct flow *flow)
{
    ssize_t sent = write(flow->to, flow->data + flow->taken, flow->used - flow->taken);
    if (sent > 0) {
        flow->taken += (size_t)sent;
    } else if (errno != EINTR && errno != EAGAIN) {
        flow_end(flow);
    }
}

/* Until hulld has said all it has to. */
static void pass(int hulld)
{
    static struct flow up, down;
    up = (struct flow){.from = STDIN_FILENO, .to = hulld};
    down = (struct flow){.from = hulld, .to = STDOUT_FILENO};
    struct flow *const flows[] = {&up, &down};
    while (!down.has_ended) {
        struct pollfd polled[2];
        for (size_t i = 0; i < 2; i++) {
            const struct flow *flow = flows[i];
            bool is_full = flow->taken < flow->used;
            polled[i] = (struct pollfd){
                .fd = flow->has_ended ? -1
                      : is_full       ? flow->to
                                      : flow->from,
                .events = is_full ? POLLOUT : POLLIN,
            };
        }
        if (poll(polled, 2, -1) < 0) {
            continue; /* a signal: those that end us have done so */
        }
        for (size_t i = 0; i < 2; i++) {
            if (polled[i].revents != 0) {
                (flows[i]->taken < flows[i]->used ? flow_write : flow_read)(flows[i]);
            }
        }
    }
}

static int dial_run(int argc, char **argv)
{
    struct client client;
    struct error err;
    int count;
    int status = cli_options(&dial_verb, false, argc, argv, NULL, &count);
    if (status >= 0) {
        return status;
    }
    (void)unsetenv("HULL_REMOTE"); /* it is this host's that is meant */
    int fd = -1;
    (void)signal(SIGPIPE, SIG_IGN);
    int rc = managed_open(&client, &err);
    rc = rc < 0 ? rc : client_dial(&client, &fd, &err);
    if (rc < 0) {
        /* For the other side, which prints it. */
        (void)dprintf(STDOUT_FILENO, "hull: %s\n", err.text);
        return CLI_FAILURE;
    }
    if (write(STDOUT_FILENO, CLIENT_READY, strlen(CLIENT_READY)) > 0) {
        pass(fd);
    }
    (void)close(fd);
    return CLI_OK;
}

const struct verb dial_verb = {
    .name = "dial",
    .arguments = "",
    .summary = "Pass standard input and output to hulld",
    .is_hidden = true,
    .run = dial_run,
};
