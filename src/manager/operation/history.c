/* Operations that have ended: kept for a day, at most a thousand, with their journals. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/host/file.h"
#include "base/host/log.h"
#include "manager/operation/operations.h"

#define PRUNED_AT_ONCE 32

/* "2026-11-22T14:25:01.123Z"; 0: it is no time. */
static uint64_t parse_time(const char *text)
{
    struct tm parts = {0};
    const char *rest = text != NULL ? strptime(text, "%Y-%m-%dT%H:%M:%S", &parts) : NULL;
    time_t seconds = rest != NULL ? timegm(&parts) : 0;
    return seconds > 0 ? (uint64_t)seconds * 1000000000 : 0;
}

void history_add(struct operations *all, const json_t *document)
{
    struct ended_operation *ended = calloc(1, sizeof(*ended));
    const char *name = json_string_value(json_object_get(document, "name"));
    if (ended == NULL || name == NULL) {
        free(ended);
        return; /* it stays until hulld starts again */
    }
    (void)snprintf(ended->id, sizeof(ended->id), "%s", name);
    ended->ended_ns = parse_time(json_string_value(json_object_get(document, "ended_at")));
    struct ended_operation *before = TAILQ_LAST(&all->ended, ended_list);
    while (before != NULL && before->ended_ns > ended->ended_ns) {
        before = TAILQ_PREV(before, ended_list, link);
    }
    if (before != NULL) {
        TAILQ_INSERT_AFTER(&all->ended, before, ended, link);
    } else {
        TAILQ_INSERT_HEAD(&all->ended, ended, link);
    }
    all->ended_count++;
}

static void drop_first(struct operations *all)
{
    struct ended_operation *first = TAILQ_FIRST(&all->ended);
    TAILQ_REMOVE(&all->ended, first, link);
    all->ended_count--;
    free(first);
}

static bool is_old(const struct operations *all, const struct ended_operation *ended, uint64_t now)
{
    return all->ended_count > OPERATION_MAX_ENDED || ended->ended_ns + OPERATION_KEPT_NS <= now;
}

/* Forgets one, for all that is left of it. */
static int forget(struct operations *all, const char *id, struct error *err)
{
    char path[PATH_MAX];
    int rc = documents_delete(all->options.documents, "operation", id, err);
    if (rc < 0 && rc != -ENOENT) {
        return rc;
    }
    journal_path(&all->options.place, id, path);
    (void)unlink(path); /* there need not be one */
    return 0;
}

void history_prune(struct operations *all)
{
    struct error err = {0};
    uint64_t now = clock_realtime_ns();
    if (clock_monotonic_ns() < all->prune_ns) {
        return;
    }
    for (int i = 0; i < PRUNED_AT_ONCE && !TAILQ_EMPTY(&all->ended); i++) {
        const struct ended_operation *first = TAILQ_FIRST(&all->ended);
        if (!is_old(all, first, now)) {
            return;
        }
        if (forget(all, first->id, &err) < 0) {
            log_warning("operation %s: forgetting it: %s, trying again", first->id, err.text);
            all->prune_ns = clock_monotonic_ns() + 60 * OPERATION_RETRY_NS;
            return;
        }
        drop_first(all);
    }
}

void history_clear(struct operations *all)
{
    while (!TAILQ_EMPTY(&all->ended)) {
        drop_first(all);
    }
}

/* Nobody has written to it for a day, and nobody has it open to do so. */
static bool is_left(int folder, const char *name)
{
    struct stat info;
    AUTO_CLOSE int fd = openat(folder, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    return fd >= 0 && fstat(fd, &info) == 0 && S_ISREG(info.st_mode) &&
           (uint64_t)info.st_mtime * 1000000000 + OPERATION_KEPT_NS < clock_realtime_ns() &&
           flock(fd, LOCK_EX | LOCK_NB) == 0;
}

void history_sweep(struct operations *all)
{
    char path[PATH_MAX];
    place_state_path(&all->options.place, "operations", NULL, NULL, path);
    DIR *folder = opendir(path);
    const struct dirent *entry;
    while (folder != NULL && (entry = readdir(folder)) != NULL) {
        const char *ending = strstr(entry->d_name, ".jsonl");
        char id[OPERATION_ID_SIZE];
        if (ending == NULL || ending - entry->d_name != OPERATION_ID_SIZE - 1) {
            continue;
        }
        memcpy(id, entry->d_name, sizeof(id) - 1);
        id[sizeof(id) - 1] = '\0';
        if (!documents_has(all->options.documents, "operation", id) &&
            is_left(dirfd(folder), entry->d_name)) {
            (void)unlinkat(dirfd(folder), entry->d_name, 0);
        }
    }
    if (folder != NULL) {
        closedir(folder);
    }
}
