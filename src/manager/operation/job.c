#include "manager/operation/job.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/core/compiler.h"
#include "base/host/event_loop.h"
#include "base/host/file.h"
#include "manager/operation/code.h"
#include "manager/operation/journal.h"

#define RESERVE       65536 /* of space on the disk, before a step is taken */
#define LAST_LINE     16384 /* of it for the last line */
#define SHOW_EVERY_NS 100000000
#define MAX_BURST     10 /* new texts a second */
#define LOCK_TRIES    500
#define LOCK_WAIT_NS  10000000

static volatile sig_atomic_t is_told_to_end;

static void on_term(int number)
{
    is_told_to_end = 1;
}

void job_catch_term(void)
{
    struct sigaction action = {.sa_handler = on_term};
    (void)sigaction(SIGTERM, &action, NULL); /* fails for wrong numbers only */
}

bool job_is_cancelled(const struct job *job)
{
    return job->was_cancelled || is_told_to_end;
}

static int journal_size(const struct job *job, uint64_t *out_size, struct error *err)
{
    struct stat info;
    if (fstat(job->journal_fd, &info) < 0) {
        return error_set_errno(err, errno, "operation %s: its journal", job->id);
    }
    *out_size = (uint64_t)info.st_size;
    return 0;
}

/* Makes sure that 'size' bytes can be written, and the last line behind them. */
static int reserve(struct job *job, uint64_t size, struct error *err)
{
    uint64_t at = 0;
    int rc = journal_size(job, &at, err);
    if (rc < 0 || at + size + LAST_LINE <= job->reserved_end) {
        return rc;
    }
    uint64_t end = at + size + RESERVE;
    if (fallocate(job->journal_fd, FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)(end - at)) < 0 &&
        errno != EOPNOTSUPP) {
        return error_set_errno(err, errno, "operation %s: space for its journal", job->id);
    }
    job->reserved_end = end;
    return 0;
}

/* A line whole or not at all: the beginning of one that does not fit is taken back. */
static int append(struct job *job, const json_t *line, bool is_synced, struct error *err)
{
    AUTO_FREE char *text = json_dumps(line, JSON_COMPACT);
    if (text == NULL) {
        return error_set(err, EINVAL, "operation %s: a line of its journal that is no JSON",
                         job->id);
    }
    size_t size = strlen(text);
    text[size] = '\n'; /* in place of the NUL */
    uint64_t at = 0;
    int rc = journal_size(job, &at, err);
    if (rc < 0) {
        return rc;
    }
    if (size >= JOURNAL_MAX_LINE) {
        return error_set(err, EMSGSIZE, "operation %s: a line of %zu bytes for its journal",
                         job->id, size);
    }
    rc = file_write_at(job->journal_fd, text, size + 1, at, "an operation's journal", err);
    if (rc < 0) {
        (void)ftruncate(job->journal_fd, (off_t)at); /* else readers pass over it */
        return rc;
    }
    if (is_synced && fdatasync(job->journal_fd) < 0) {
        return error_set_errno(err, errno, "operation %s: writing its journal", job->id);
    }
    return 0;
}

/* 'line' is taken over; NULL: there was no memory for it. */
static int append_change(struct job *job, json_t *line, struct error *err)
{
    size_t size = line != NULL ? json_dumpb(line, NULL, 0, JSON_COMPACT) : 0;
    int rc =
        line == NULL
            ? error_set(err, EINVAL, "operation %s: a line of its journal that is no JSON", job->id)
            : reserve(job, size + 1, err);
    if (rc == 0) {
        rc = append(job, line, true, err);
    }
    json_decref(line);
    return rc;
}

/* May it be told now? Changes of the text are told at once, unless they are many. */
static bool is_due(struct job *job, const char *text)
{
    uint64_t now = clock_monotonic_ns();
    bool is_same = strncmp(job->shown, text, sizeof(job->shown) - 1) == 0;
    if (is_same && job->shown_ns != 0 && now - job->shown_ns < SHOW_EVERY_NS) {
        return false;
    }
    if (!is_same) {
        if (now - job->burst_ns >= 1000000000) {
            job->burst_ns = now;
            job->burst = 0;
        }
        if (job->burst >= MAX_BURST) {
            return false;
        }
        job->burst++;
    }
    job->shown_ns = now;
    (void)snprintf(job->shown, sizeof(job->shown), "%s", text); /* its beginning is enough */
    return true;
}

void job_progress(struct job *job, const char *text, uint64_t done, uint64_t total)
{
    if (!is_due(job, text)) {
        return;
    }
    json_auto_t *line = json_pack("{s:s,s:I,s:I}", "progress", text, "done", (json_int_t)done,
                                  "total", (json_int_t)total);
    if (line != NULL && reserve(job, json_dumpb(line, NULL, 0, JSON_COMPACT) + 1, NULL) == 0) {
        error_ignore(append(job, line, false, NULL));
    }
}

int job_step(struct job *job, const char *name, json_t *detail, struct error *err)
{
    json_t *line = detail != NULL ? detail : json_object();
    if (line != NULL && json_object_set_new(line, "step", json_string(name)) < 0) {
        json_decref(line);
        line = NULL;
    }
    return append_change(job, line, err);
}

const json_t *job_find_step(const struct job *job, const char *name)
{
    for (size_t i = json_array_size(job->steps); i > 0; i--) {
        const json_t *step = json_array_get(job->steps, i - 1);
        if (strcmp(json_string_value(json_object_get(step, "step")), name) == 0) {
            return step;
        }
    }
    return NULL;
}

int job_put(struct job *job, const char *kind, const char *name, json_t *document,
            struct error *err)
{
    return append_change(job, json_pack("{s:[s,s,o]}", "put", kind, name, document), err);
}

int job_drop(struct job *job, const char *kind, const char *name, struct error *err)
{
    return append_change(job, json_pack("{s:[s,s]}", "drop", kind, name), err);
}

void job_event(struct job *job, json_t *event)
{
    error_ignore(append_change(job, json_pack("{s:o}", "event", event), NULL));
}

/* hulld holds the lock for a moment when it looks whether a worker has it. */
static int take_lock(struct job *job, struct error *err)
{
    for (int i = 0; i < LOCK_TRIES; i++) {
        if (flock(job->journal_fd, LOCK_EX | LOCK_NB) == 0) {
            return 0;
        }
        if (errno != EWOULDBLOCK && errno != EINTR) {
            return error_set_errno(err, errno, "operation %s: locking its journal", job->id);
        }
        struct timespec wait = {.tv_nsec = LOCK_WAIT_NS};
        (void)nanosleep(&wait, NULL);
    }
    return error_set(err, EBUSY, "operation %s: another worker has its journal", job->id);
}

/* Reads what those before wrote, and removes the beginning of a line that one of them died in. */
static int read_before(struct job *job, struct error *err)
{
    struct journal journal;
    struct journal_line line;
    bool has_begun = false, has_ended = false;
    job->steps = json_array();
    if (job->steps == NULL) {
        return error_set_errno(err, ENOMEM, "operation %s", job->id);
    }
    journal_start(&journal, job->journal_fd, 0);
    int rc;
    while ((rc = journal_next(&journal, &line, err)) > 0) {
        has_begun = true;
        has_ended = has_ended || line.kind == JOURNAL_RESULT || line.kind == JOURNAL_ERROR;
        if (line.kind == JOURNAL_STEP && json_array_append(job->steps, line.json) < 0) {
            rc = error_set_errno(err, ENOMEM, "operation %s", job->id);
        }
        journal_line_clear(&line);
        if (rc < 0) {
            break;
        }
    }
    if (rc == 0 && ftruncate(job->journal_fd, (off_t)journal.offset) < 0) {
        rc = error_set_errno(err, errno, "operation %s: its journal", job->id);
    }
    journal_finish(&journal);
    if (rc == 0 && (has_ended || (has_begun && !job->is_recovery))) {
        rc = error_set(err, EBUSY, "operation %s: another worker %s it", job->id,
                       has_ended ? "has done" : "has begun");
    }
    if (rc < 0 || !job->is_recovery) {
        json_decref(job->steps);
        job->steps = NULL;
    }
    return rc;
}

/* When this process began, in ticks since boot: the 22nd word of its stat, behind a name that may hold anything. */
static uint64_t own_start(void)
{
    char text[1024];
    AUTO_CLOSE int fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
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

static int say_who(struct job *job, struct error *err)
{
    char at[OPERATION_TIME_SIZE];
    operation_time(at);
    return append_change(job,
                         json_pack("{s:i,s:I,s:s}", "worker", (int)getpid(), "started",
                                   (json_int_t)own_start(), "at", at),
                         err);
}

static int sync_folder(struct job *job, const char *path, struct error *err)
{
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) < 0) {
        return error_set_errno(err, errno, "operation %s: %s", job->id, path);
    }
    return 0;
}

int job_open(struct job *job, struct error *err)
{
    char folder[PATH_MAX], path[PATH_MAX];
    place_state_path(&job->place, "operations", NULL, NULL, folder);
    journal_path(&job->place, job->id, path);
    job->steps = NULL;
    int rc = file_make_folders(folder, 0700, 0755, err);
    if (rc < 0) {
        return rc;
    }
    job->journal_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (job->journal_fd < 0) {
        return error_set_errno(err, errno, "operation %s: journal %s", job->id, path);
    }
    rc = take_lock(job, err);
    if (rc == 0) {
        rc = read_before(job, err);
    }
    if (rc == 0) {
        rc = sync_folder(job, folder, err);
    }
    if (rc == 0) {
        rc = say_who(job, err);
    }
    if (rc < 0) {
        json_decref(job->steps);
        job->steps = NULL;
        close(TAKE_FD(job->journal_fd));
    }
    return rc;
}

int job_begin_again(struct job *job, struct error *err)
{
    json_decref(job->steps);
    job->steps = NULL;
    job->is_recovery = true;
    return read_before(job, err);
}

int job_close(struct job *job, int rc, json_t *result, const struct error *problem,
              struct error *err)
{
    json_t *line = rc == 0 ? json_pack("{s:o}", "result", result != NULL ? result : json_object())
                           : json_pack("{s:o}", "error", operation_error(problem));
    if (rc < 0) {
        json_decref(result);
    }
    int written = line == NULL ? error_set(err, EINVAL, "operation %s: its end is no JSON", job->id)
                               : append(job, line, true, err);
    json_decref(line);
    json_decref(job->steps);
    job->steps = NULL;
    uint64_t size = 0;
    if (journal_size(job, &size, NULL) == 0) {
        (void)ftruncate(job->journal_fd, (off_t)size); /* gives back what was reserved */
    }
    close(TAKE_FD(job->journal_fd));
    return written;
}
