/* Following one operation: what its worker writes becomes events and changes of the database, once each. How far the journal
 * was read is kept in the same transaction as what was read there. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/core/compiler.h"
#include "base/host/file.h"
#include "base/host/log.h"
#include "manager/operation/code.h"
#include "manager/operation/operations.h"
#include "manager/operation/worker.h"

#define BATCH 64

static void forget_worker(struct operation *operation)
{
    event_source_remove(operation->exit_source);
    operation->exit_source = NULL;
    if (operation->pidfd >= 0) {
        close(TAKE_FD(operation->pidfd));
    }
}

void operation_free(struct operation *operation)
{
    forget_worker(operation);
    journal_finish(&operation->journal);
    if (operation->journal_fd >= 0) {
        close(operation->journal_fd);
    }
    json_decref(operation->document);
    free(operation);
}

static void on_worker_exit(void *ctx, int fd, uint32_t events)
{
    struct operation *operation = ctx;
    event_source_remove(operation->exit_source); /* it stays readable */
    operation->exit_source = NULL;
    event_notifier_signal(operation->all->wake);
}

/* From now on its end wakes us. Where that is not to be had, it is looked for from time to time. */
static void watch_process(struct operation *operation, pid_t pid)
{
    operation->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (operation->pidfd >= 0 &&
        event_loop_add_fd(operation->all->options.loop, operation->pidfd, EPOLLIN, on_worker_exit,
                          operation, &operation->exit_source, NULL) < 0) {
        operation->exit_source = NULL;
    }
}

/* The start of a process in ticks since boot; 0: there is none. */
static uint64_t process_start(pid_t pid)
{
    char path[64], text[1024];
    (void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd >= 0 ? read(fd, text, sizeof(text) - 1) : -1;
    if (got <= 0) {
        return 0;
    }
    text[got] = '\0';
    const char *at = strrchr(text, ')');
    for (int i = 0; at != NULL && i < 20; i++) {
        at = strchr(at + 1, ' ');
    }
    return at != NULL ? strtoull(at, NULL, 10) : 0;
}

void operation_signal(struct operation *operation, int number)
{
    if (operation->child > 0) {
        (void)kill(operation->child, number); /* it is ours until it is waited for */
    } else if (operation->pidfd >= 0) {
        (void)syscall(SYS_pidfd_send_signal, operation->pidfd, number, NULL, 0);
    }
}

/* The process that the journal names, that is not ours: an earlier hulld started it. */
static bool adopt(struct operation *operation)
{
    if (operation->worker <= 0) {
        return false;
    }
    watch_process(operation, operation->worker);
    /* Looked at after it was opened: the number is not somebody else's now. */
    struct pollfd ended = {.fd = operation->pidfd, .events = POLLIN};
    if (operation->pidfd < 0 || poll(&ended, 1, 0) != 0 ||
        process_start(operation->worker) != operation->worker_started) {
        forget_worker(operation);
        return false;
    }
    operation->child_status = 0;
    if (operation->asked > 0) {
        operation_signal(operation, operation->asked > 1 ? SIGKILL : SIGTERM);
    }
    return true;
}

static bool is_locked(struct operation *operation)
{
    if (flock(operation->journal_fd, LOCK_SH | LOCK_NB) == 0) {
        (void)flock(operation->journal_fd, LOCK_UN);
        return false;
    }
    return true;
}

static bool child_lives(struct operation *operation)
{
    int status = 0;
    pid_t pid = waitpid(operation->child, &status, WNOHANG);
    if (pid == 0) {
        return true;
    }
    operation->child_status = pid > 0 ? status : 0;
    operation->child = 0;
    forget_worker(operation);
    return false;
}

void operation_reap(struct operation *operation)
{
    (void)child_lives(operation);
}

static bool adopted_lives(struct operation *operation)
{
    struct pollfd wait = {.fd = operation->pidfd, .events = POLLIN};
    if (poll(&wait, 1, 0) <= 0) {
        return true;
    }
    forget_worker(operation);
    return false;
}

/* Is somebody at work on it? */
static bool is_alive(struct operation *operation)
{
    if (operation->child > 0 && child_lives(operation)) {
        return true;
    }
    if (operation->child == 0 && operation->pidfd >= 0 && adopted_lives(operation)) {
        return true;
    }
    if (!is_locked(operation)) {
        operation->stuck_since_ns = 0;
        return false;
    }
    if (adopt(operation)) {
        operation->stuck_since_ns = 0;
    } else if (operation->stuck_since_ns == 0) {
        operation->stuck_since_ns = clock_monotonic_ns();
    }
    return true;
}

static int open_journal(struct operation *operation, struct error *err)
{
    char path[PATH_MAX];
    if (operation->journal_fd >= 0) {
        return 0;
    }
    journal_path(&operation->all->options.place, operation->id, path);
    do {
        operation->journal_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    } while (operation->journal_fd < 0 && operation_gets_space(operation, -errno));
    if (operation->journal_fd < 0) {
        return error_set_errno(err, errno, "operation %s: journal %s", operation->id, path);
    }
    uint64_t offset = 0;
    int rc = journal_align(operation->journal_fd, operation->journal.offset, &offset, err);
    journal_start(&operation->journal, operation->journal_fd, offset);
    return rc;
}

static void fail(struct operation *operation, int code, const char *why)
{
    struct error problem;
    error_ignore(error_set(&problem, code, "%s", why));
    operation_fail(operation, &problem);
}

/* Starts a worker; 'is_recovery': after one that died. */
static void start_worker(struct operation *operation, bool is_recovery)
{
    struct error err = {0};
    int rc = open_journal(operation, &err);
    json_auto_t *task =
        json_pack("{s:O,s:O,s:b,s:b}", "kind", json_object_get(operation->document, "kind"),
                  "request", json_object_get(operation->document, "request"), "recovery",
                  is_recovery, "cancelled", operation->is_cancelled);
    if (rc == 0 && task == NULL) {
        rc = error_set_errno(&err, ENOMEM, "operation %s", operation->id);
    }
    const char *argv[] = {"hull-worker", operation->id, NULL};
    pid_t pid;
    if (rc == 0) {
        rc = worker_spawn(operation->all, argv, task, -1, &pid, &err);
    }
    if (rc < 0) {
        operation_fail(operation, &err);
        return;
    }
    operation->child = pid;
    operation->asked = 0;
    operation->workers++;
    watch_process(operation, pid);
}

void operation_start(struct operation *operation)
{
    char now[OPERATION_TIME_SIZE];
    operation_time(now);
    operation->is_running = true;
    operation->all->running++;
    operation_set_status(operation, "running");
    error_ignore(json_object_set_new(operation->document, "started_at", json_string(now)));
    start_worker(operation, false);
    if (!operation->is_ended) {
        operation_tell(operation);
    }
}

int operation_resume(struct operation *operation, struct error *err)
{
    char path[PATH_MAX];
    journal_path(&operation->all->options.place, operation->id, path);
    if (!operation->was_begun && access(path, F_OK) < 0 && errno == ENOENT) {
        return 0;
    }
    int rc = open_journal(operation, err);
    off_t size = rc == 0 ? lseek(operation->journal_fd, 0, SEEK_END) : 0;
    if (rc == 0 && (operation->was_begun || size > 0 || is_locked(operation))) {
        operation->is_running = true;
        operation->all->running++;
        operation_set_status(operation, "running");
    }
    return rc;
}

/* Its worker died without a last word. */
static void replace_worker(struct operation *operation)
{
    int status = operation->child_status;
    int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    char why[ERROR_TEXT_SIZE];
    if (!operation->was_begun && operation->is_cancelled) {
        fail(operation, ECANCELED, "cancelled before it began");
    } else if (!operation->was_begun && code == WORKER_NO_SPACE) {
        fail(operation, ENOSPC,
             "no space left on the device of the state folder: nothing was begun");
    } else if (!operation->was_begun && (code == WORKER_WRONG || code == 127)) {
        fail(operation, EIO, "hull-worker could not be started: is it of another version?");
    } else if (operation->workers >= OPERATION_MAX_WORKERS) {
        if (WIFSIGNALED(status)) {
            (void)snprintf(why, sizeof(why), "its workers died, %u of them, the last by signal %d",
                           operation->workers, WTERMSIG(status));
        } else {
            (void)snprintf(why, sizeof(why), "its workers ended without a result, %u of them%s",
                           operation->workers,
                           code == WORKER_NO_SPACE ? ": no space left on the device" : "");
        }
        fail(operation, code == WORKER_NO_SPACE ? ENOSPC : EIO, why);
    } else {
        struct error err;
        log_warning("operation %s: its worker died, starting another one", operation->id);
        if (operation_save(operation, &err) < 0) { /* then its count is lost with us */
            log_warning("%s", err.text);
        }
        start_worker(operation, operation->was_begun);
    }
}

static bool is_change(const struct journal_line *line)
{
    return line->kind == JOURNAL_PUT || line->kind == JOURNAL_DROP;
}

static bool is_last(const struct journal_line *line)
{
    return line->kind == JOURNAL_RESULT || line->kind == JOURNAL_ERROR;
}

/* A change that the database does not take at all is passed over: it would not take it later either. */
static int make_change(struct operation *operation, const struct journal_line *line,
                       struct error *err)
{
    struct documents *documents = operation->all->options.documents;
    if (strcmp(line->object, "operation") == 0) {
        log_warning("operation %s: a change of operation %s in its journal, ignoring",
                    operation->id, line->name);
        return 0;
    }
    int rc = line->kind == JOURNAL_PUT
                 ? documents_put(documents, line->object, line->name, line->content, err)
                 : documents_delete(documents, line->object, line->name, err);
    if (rc == -EINVAL || rc == -ENOENT) {
        if (rc == -EINVAL) {
            log_warning("operation %s: %s, ignoring", operation->id, err->text);
        }
        rc = 0;
    }
    return rc;
}

/* Makes the changes of these lines, and keeps that they are made. 'document' is the operation as it is then. */
static int commit(struct operation *operation, const struct journal_line *lines, size_t count,
                  const json_t *document, struct error *err)
{
    struct documents *documents = operation->all->options.documents;
    int rc = documents_begin(documents, err);
    if (rc < 0) {
        return rc;
    }
    for (size_t i = 0; rc == 0 && i < count; i++) {
        if (is_change(&lines[i])) {
            rc = make_change(operation, &lines[i], err);
        }
    }
    if (rc == 0) {
        rc = documents_put(documents, "operation", operation->id, document, err);
    }
    if (rc == 0) {
        rc = documents_commit(documents, err);
    }
    if (rc < 0) {
        documents_rollback(documents);
    }
    return rc;
}

/* What a line says of the operation itself. */
static void note(struct operation *operation, const struct journal_line *line)
{
    if (line->kind == JOURNAL_WORKER) {
        operation->worker = line->pid;
        operation->worker_started = line->started;
        if (json_object_get(operation->document, "started_at") == NULL) {
            json_t *at = json_object_get(line->json, "at");
            error_ignore(json_object_set(operation->document, "started_at", at));
        }
    } else if (line->kind == JOURNAL_PROGRESS) {
        json_t *progress = json_pack("{s:s,s:I,s:I}", "text", line->name, "done",
                                     (json_int_t)line->done, "total", (json_int_t)line->total);
        error_ignore(json_object_set_new(operation->document, "progress", progress));
        operation->has_news = true;
    }
}

/* Takes lines that were read. Nothing is taken if the database does not take all of its part. */
static int take(struct operation *operation, const struct journal_line *lines, size_t count,
                struct error *err)
{
    bool has_changes = false;
    const struct journal_line *last =
        count > 0 && is_last(&lines[count - 1]) ? &lines[count - 1] : NULL;
    for (size_t i = 0; i < count; i++) {
        has_changes = has_changes || is_change(&lines[i]);
        note(operation, &lines[i]);
    }
    bool is_saved = true;
    if (has_changes || last != NULL) {
        json_auto_t *document = operation_kept(operation);
        int rc = document == NULL ? error_set_errno(err, ENOMEM, "operation %s", operation->id) : 0;
        if (rc == 0 && last != NULL) {
            const json_t *end = last->content;
            rc = operation_set_end(operation, document, last->kind == JOURNAL_RESULT ? end : NULL,
                                   last->kind == JOURNAL_ERROR ? end : NULL, err);
        }
        if (rc == 0) {
            rc = commit(operation, lines, count, document, err);
        }
        if (rc < 0 && (last == NULL || has_changes)) {
            return rc;
        }
        is_saved = rc == 0; /* an end that changes nothing else can be told before it is kept */
        if (document != NULL) {
            json_decref(operation->document);
            operation->document = TAKE_PTR(document);
        }
    }
    for (size_t i = 0; i < count; i++) {
        if (lines[i].kind == JOURNAL_EVENT) {
            operation->all->options.event(operation->all->options.ctx, lines[i].content);
        }
    }
    if (last != NULL) {
        operation_ended(operation, is_saved);
    }
    return 0;
}

/* Reads on: 1: there may be more. 'out_is_read': it is not the journal that fails. */
static int read_on(struct operation *operation, bool *out_is_read, struct error *err)
{
    struct journal_line lines[BATCH];
    size_t count = 0;
    uint64_t from = operation->journal.offset;
    bool was_begun = operation->was_begun;
    int rc = 1;
    while (count < BATCH && rc > 0 && (count == 0 || !is_last(&lines[count - 1]))) {
        rc = journal_next(&operation->journal, &lines[count], err);
        count += rc > 0;
    }
    operation->was_begun = was_begun || count > 0;
    *out_is_read = rc >= 0;
    int taken = rc < 0 ? rc : take(operation, lines, count, err);
    if (taken < 0) {
        journal_rewind(&operation->journal, from);
        operation->was_begun = was_begun;
    }
    for (size_t i = 0; i < count; i++) {
        journal_line_clear(&lines[i]);
    }
    return taken < 0 ? taken : rc;
}

/* The database, or the disk that it is on, does not do what it should. */
static void put_off(struct operation *operation, const struct error *err)
{
    static struct log_limit limit = LOG_LIMIT(5);
    log_limited(&limit, LOG_LEVEL_ERROR, "operation %s: %s, trying again", operation->id,
                err->text);
    json_t *progress =
        json_pack("{s:s%,s:i,s:i}", "text", err->text, strlen(err->text), "done", 0, "total", 0);
    if (progress != NULL) {
        error_ignore(json_object_set_new(operation->document, "progress", progress));
        operation->has_news = true;
    }
    operation->retry_ns = clock_monotonic_ns() + OPERATION_RETRY_NS;
}

void operation_follow(struct operation *operation)
{
    struct error err = {0};
    if (operation->is_ended || clock_monotonic_ns() < operation->retry_ns) {
        return;
    }
    operation->retry_ns = 0;
    bool is_read = false;
    int rc = open_journal(operation, &err);
    /* Asked first: all that a dead worker wrote is read then. */
    bool was_alive = rc == 0 && is_alive(operation);
    if (rc == 0) {
        rc = read_on(operation, &is_read, &err);
    }
    if (rc < 0 && !is_read && !was_alive) {
        operation_fail(operation, &err);
    } else if (rc < 0 && operation_gets_space(operation, rc)) {
        event_notifier_signal(operation->all->wake);
    } else if (rc < 0) {
        put_off(operation, &err);
    } else if (rc > 0 && !operation->is_ended) {
        event_notifier_signal(operation->all->wake);
    } else if (!operation->is_ended && !was_alive) {
        replace_worker(operation);
    } else if (!operation->is_ended && operation->stuck_since_ns != 0 &&
               clock_monotonic_ns() - operation->stuck_since_ns > OPERATION_STUCK_NS) {
        fail(operation, EIO, "its worker died, and a process that it left behind has its journal");
    }
}
