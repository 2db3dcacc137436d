/* The switch of a network of type user: one hull-net-user, which outlives who started it and ends by itself when nobody has been
 * attached for a minute. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/host/event_loop.h"
#include "base/host/file.h"
#include "base/host/pid_file.h"
#include "base/host/program.h"
#include "base/host/unix_socket.h"
#include "manager/network/state.h"

#define START_TIMEOUT_MS  20000
#define ANSWER_TIMEOUT_MS 5000

/* 0: it has answered, whatever it was. */
static int ask(const struct net_state *state, const char *request)
{
    char path[PATH_MAX];
    struct error ignored;
    AUTO_FREE char *answer = NULL;
    net_state_run_path(state, "switch.pid", path);
    if (pid_file_find(path) == 0) {
        return -ESRCH;
    }
    net_state_run_path(state, "switch.sock", path);
    return unix_socket_ask(path, "switch", request, -1, ANSWER_TIMEOUT_MS, &answer, &ignored);
}

/* It answers, and will stay long enough for who is about to attach: a request counts as use. */
static bool is_up(const struct net_state *state)
{
    return ask(state, "{\"do\":\"status\"}") == 0;
}

void net_switch_detach(const struct net_state *state, const char *mac)
{
    char request[64];
    snprintf(request, sizeof(request), "{\"do\":\"detach\",\"mac\":\"%.17s\"}", mac);
    error_ignore(ask(state, request)); /* without a switch there is no port */
}

/* One line, "ready" or what is wrong. */
static int wait_until_ready(int fd, struct error *err)
{
    char line[ERROR_TEXT_SIZE] = "";
    size_t used = 0;
    int64_t deadline_ms = clock_monotonic_ms() + START_TIMEOUT_MS;
    while (used < sizeof(line) - 1) {
        struct pollfd wait = {.fd = fd, .events = POLLIN};
        int left_ms = (int)(deadline_ms - clock_monotonic_ms());
        int count = left_ms > 0 ? poll(&wait, 1, left_ms) : 0;
        if (count == 0) {
            return error_set(err, ETIMEDOUT, "it does not start");
        }
        ssize_t got = count < 0 ? -1 : read(fd, line + used, sizeof(line) - 1 - used);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            break;
        }
        used += (size_t)got;
    }
    line[strcspn(line, "\n")] = '\0';
    if (strcmp(line, "ready") == 0) {
        return 0;
    }
    return error_set(err, EIO, "%.300s", line[0] != '\0' ? line : "it ended at once");
}

static int start(const struct net_state *state, struct error *err)
{
    char sock[PATH_MAX], pid_file[PATH_MAX], log[PATH_MAX], ready_text[16], own[NETWORK_TEXT_SIZE];
    int ready[2];
    net_state_run_path(state, "switch.sock", sock);
    net_state_run_path(state, "switch.pid", pid_file);
    net_state_run_path(state, "switch.log", log);
    network_format(&state->plan.ipv4, true, own);
    AUTO_CLOSE int log_fd =
        open(log, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (log_fd < 0 || pipe2(ready, O_CLOEXEC) < 0) {
        return error_set_errno(err, errno, "hull-net-user");
    }
    AUTO_CLOSE int ready_fd = ready[0];
    snprintf(ready_text, sizeof(ready_text), "%d", ready[1]);
    const char *const argv[] = {"hull-net-user", "--switch", sock,         "--pid-file", pid_file,
                                "--ipv4",        own,        "--ready-fd", ready_text,   NULL};
    const struct process_spec spec = {.program = "hull-net-user",
                                      .argv = argv,
                                      .stdout_fd = -1,
                                      .stderr_fd = log_fd,
                                      .outlives_us = true,
                                      .keep = {ready[1]},
                                      .keep_count = 1};
    pid_t pid;
    int rc = process_spawn(&spec, false, &pid, err);
    close(ready[1]);
    return rc < 0 ? rc : wait_until_ready(ready_fd, err);
}

int net_switch_up(const struct net_state *state, struct error *err)
{
    if (is_up(state)) {
        return 0;
    }
    net_switch_down(state); /* one that runs and does not answer */
    int rc = start(state, err);
    return rc == 0 ? 0 : error_prefix(err, rc, "network %s: its switch", state->plan.name);
}

void net_switch_down(const struct net_state *state)
{
    char path[PATH_MAX];
    net_state_run_path(state, "switch.pid", path);
    pid_t pid = pid_file_find(path);
    for (unsigned i = 0; i < 200 && pid != 0; i++) {
        (void)kill(pid, i < 100 ? SIGTERM : SIGKILL);
        const struct timespec moment = {.tv_nsec = i == 0 ? 1000000 : 10000000};
        (void)nanosleep(&moment, NULL);
        pid = pid_file_find(path);
    }
}
