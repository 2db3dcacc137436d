#include "manager/operation/session.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/host/file.h"
#include "base/host/program.h"
#include "manager/operation/operations.h"

#define MAX_SESSIONS 512

int worker_spawn(const struct operations *all, const char *const *argv, json_t *task, int keep_fd,
                 pid_t *out_pid, struct error *err)
{
    const struct place *place = &all->options.place;
    json_t *folders =
        json_pack("{s:s,s:s,s:s}", "state", place->state, "run", place->run, "cache", place->cache);
    AUTO_FREE char *text = NULL;
    if (json_object_set_new(task, "place", folders) == 0) {
        text = json_dumps(task, JSON_COMPACT);
    }
    if (text == NULL) {
        return error_set(err, EINVAL, "worker: its task is no JSON");
    }
    /* A file in memory: a pipe would have to be fed. */
    AUTO_CLOSE int fd = memfd_create("task", MFD_CLOEXEC);
    if (fd < 0) {
        return error_set_errno(err, errno, "worker: making its task");
    }
    int rc = file_write_at(fd, text, strlen(text), 0, "a worker's task", err);
    if (rc < 0) {
        return rc;
    }
    struct process_spec spec = {.program = "hull-worker",
                                .argv = argv,
                                .stdin_fd = fd,
                                .stdout_fd = -1,
                                .outlives_us = true,
                                .keep = {keep_fd},
                                .keep_count = keep_fd >= 0};
    return process_spawn(&spec, false, out_pid, err);
}

static void session_free(struct worker_session *session)
{
    event_source_remove(session->source);
    if (session->pidfd >= 0) {
        close(session->pidfd);
    }
    TAILQ_REMOVE(&session->all->sessions, session, link);
    session->all->session_count--;
    free(session);
}

static void on_exit_of(void *ctx, int fd, uint32_t events)
{
    struct worker_session *session = ctx;
    if (waitpid(session->pid, NULL, WNOHANG) != 0) {
        session_free(session);
    }
}

/* It is told only by its end that it has ended, and has to be waited for. */
static int look_after(struct operations *all, pid_t pid, struct error *err)
{
    struct worker_session *session = calloc(1, sizeof(*session));
    if (session == NULL) {
        return error_set_errno(err, ENOMEM, "session");
    }
    session->all = all;
    session->pid = pid;
    session->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    int rc = session->pidfd < 0 ? error_set_errno(err, errno, "session: its worker") : 0;
    if (rc == 0) {
        rc = event_loop_add_fd(all->options.loop, session->pidfd, EPOLLIN, on_exit_of, session,
                               &session->source, err);
    }
    TAILQ_INSERT_TAIL(&all->sessions, session, link);
    all->session_count++;
    if (rc < 0) {
        session_free(session);
    }
    return rc;
}

int operation_session(struct operations *operations, const json_t *document, const json_t *request,
                      int *out_fd, struct error *err)
{
    if (operations->session_count >= MAX_SESSIONS) {
        return error_set(err, EBUSY, "session: there are %d already", MAX_SESSIONS);
    }
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
        return error_set_errno(err, errno, "session: making a socket pair");
    }
    AUTO_CLOSE int ours = pair[0], theirs = pair[1];
    int rc = file_set_nonblocking(ours, err);
    if (rc < 0) {
        return rc;
    }
    json_auto_t *task = json_pack("{s:O,s:O}", "document", document, "request", request);
    if (task == NULL) {
        return error_set(err, EINVAL, "session: its request is no JSON");
    }
    char number[16];
    (void)snprintf(number, sizeof(number), "%d", theirs);
    const char *argv[] = {"hull-worker", "--session", number, NULL};
    pid_t pid;
    rc = worker_spawn(operations, argv, task, theirs, &pid, err);
    if (rc < 0) {
        return rc;
    }
    rc = look_after(operations, pid, err);
    if (rc < 0) {
        (void)kill(pid, SIGKILL);
        (void)waitpid(pid, NULL, 0);
        return rc;
    }
    *out_fd = TAKE_FD(ours);
    return 0;
}

void sessions_clear(struct operations *all)
{
    struct worker_session *session;
    while ((session = TAILQ_FIRST(&all->sessions)) != NULL) {
        session_free(session);
    }
}
