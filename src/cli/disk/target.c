/* Where a new image is written until it is whole: a file without a name, so that nothing is left of it whatever happens. */
#include "cli/disk/target.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/host/file.h"
#include "block/remote.h"

static void folder_of(const char *path, char *out_folder, size_t size)
{
    const char *slash = strrchr(path, '/');
    if (slash == NULL) {
        (void)snprintf(out_folder, size, ".");
    } else {
        (void)snprintf(out_folder, size, "%.*s", slash == path ? 1 : (int)(slash - path), path);
    }
}

/* A name beside the target that nobody else uses. */
static void temp_name(struct disk_target *target, unsigned attempt)
{
    (void)snprintf(target->temp, sizeof(target->temp), "%.*s.hull-%d-%u",
                   (int)sizeof(target->temp) - 40, target->path, (int)getpid(), attempt);
}

static int open_unnamed(struct disk_target *target, mode_t mode, int cache_flags, struct error *err)
{
    const int flags = O_RDWR | O_CLOEXEC | cache_flags;
    char folder[sizeof(target->path)];
    folder_of(target->path, folder, sizeof(folder));
    target->fd = open(folder, O_TMPFILE | flags, mode);
    for (unsigned i = 0; target->fd < 0 && i < 100; i++) {
        if (i == 0 && errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL &&
            errno != ENOSYS) {
            break;
        }
        temp_name(target, i); /* a file system without nameless files */
        target->fd = open(target->temp, O_CREAT | O_EXCL | flags, mode);
        if (target->fd < 0 && errno != EEXIST) {
            break;
        }
    }
    if (target->fd < 0) {
        target->temp[0] = '\0';
        return error_set_errno(err, errno, "creating %s", target->path);
    }
    return 0;
}

/* Nobody may use what the new image replaces. */
static int check_unused(const char *path, struct error *err)
{
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct flock range = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (fd >= 0 && fcntl(fd, F_OFD_GETLK, &range) == 0 && range.l_type != F_UNLCK) {
        return error_set(err, EBUSY, "creating %s: there is an image of that name in use", path);
    }
    return 0;
}

static int open_existing(struct disk_target *target, const struct stat *st, const char *source,
                         int cache_flags, struct error *err)
{
    struct stat other;
    if (source != NULL && stat(source, &other) == 0 && other.st_dev == st->st_dev &&
        other.st_ino == st->st_ino) {
        return error_set(err, EINVAL, "creating %s: it is the source: another name is needed",
                         target->path);
    }
    char *real = realpath(target->path, NULL); /* a link goes on to point to it */
    if (real != NULL && strlen(real) < sizeof(target->path)) {
        memcpy(target->path, real, strlen(real) + 1);
    }
    free(real);
    if (S_ISBLK(st->st_mode)) {
        target->is_device = true;
        target->fd = open(target->path, O_RDWR | O_EXCL | O_CLOEXEC | cache_flags);
        return target->fd >= 0 ? 0 : error_set_errno(err, errno, "opening %s", target->path);
    }
    if (!S_ISREG(st->st_mode)) {
        return error_set(err, EINVAL,
                         "creating %s: neither a regular file nor a block device has that name",
                         target->path);
    }
    int rc = check_unused(target->path, err);
    if (rc == 0) {
        rc = open_unnamed(target, st->st_mode & 07777, cache_flags, err);
    }
    if (rc == 0) {
        (void)fchmod(target->fd, st->st_mode & 07777); /* as it was, as far as one may */
    }
    return rc;
}

int disk_target_open(const char *path, const char *source, const struct cache_mode *cache,
                     struct disk_target *out_target, struct error *err)
{
    int flags = disk_cache_flags(cache);
    *out_target = (struct disk_target){.fd = -1, .is_unsafe = cache->is_unsafe};
    int rc = disk_cache_check(cache, path, err);
    if (rc < 0) {
        return rc;
    }
    struct stat st;
    if (strlen(path) >= sizeof(out_target->path) - 40 || path[0] == '\0') {
        return error_set(err, EINVAL, "creating an image: its name is empty or too long");
    }
    memcpy(out_target->path, path, strlen(path) + 1);
    if (block_is_uri(path)) {
        out_target->is_device = true;
        return source == NULL || strcmp(source, path) != 0
                   ? 0
                   : error_set(err, EINVAL, "creating %s: it is the source: another disk is needed",
                               path);
    }
    return stat(path, &st) == 0 ? open_existing(out_target, &st, source, flags, err)
                                : open_unnamed(out_target, 0666, flags, err);
}

#define FLUSH_INTERVAL_NS 20000000

struct disk_flusher {
    pthread_t thread;
    int fd; /* the target's */
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    bool is_ending; /* guarded by the mutex */
};

static void *flush_thread(void *ctx)
{
    struct disk_flusher *flusher = ctx;
    pthread_mutex_lock(&flusher->mutex);
    while (!flusher->is_ending) {
        struct timespec end;
        (void)clock_gettime(CLOCK_REALTIME, &end);
        end.tv_nsec += FLUSH_INTERVAL_NS;
        end.tv_sec += end.tv_nsec / 1000000000;
        end.tv_nsec %= 1000000000;
        (void)pthread_cond_timedwait(&flusher->cond, &flusher->mutex, &end);
        pthread_mutex_unlock(&flusher->mutex);
        /* Begins to write what is dirty. It may fail: then the end takes longer, and says why. */
        (void)sync_file_range(flusher->fd, 0, 0, SYNC_FILE_RANGE_WRITE);
        pthread_mutex_lock(&flusher->mutex);
    }
    pthread_mutex_unlock(&flusher->mutex);
    return NULL;
}

void disk_target_flush_early(struct disk_target *target)
{
    struct disk_flusher *flusher =
        target->fd >= 0 && !target->is_unsafe ? calloc(1, sizeof(*flusher)) : NULL;
    if (flusher == NULL) {
        return; /* it is only about speed */
    }
    flusher->fd = target->fd;
    (void)pthread_mutex_init(&flusher->mutex, NULL); /* these cannot fail on Linux */
    (void)pthread_cond_init(&flusher->cond, NULL);
    if (pthread_create(&flusher->thread, NULL, flush_thread, flusher) != 0) {
        free(flusher);
        return;
    }
    target->flusher = flusher;
}

static void stop_flusher(struct disk_target *target)
{
    struct disk_flusher *flusher = target->flusher;
    if (flusher == NULL) {
        return;
    }
    pthread_mutex_lock(&flusher->mutex);
    flusher->is_ending = true;
    pthread_cond_signal(&flusher->cond);
    pthread_mutex_unlock(&flusher->mutex);
    (void)pthread_join(flusher->thread, NULL);
    pthread_mutex_destroy(&flusher->mutex);
    pthread_cond_destroy(&flusher->cond);
    free(flusher);
    target->flusher = NULL;
}

int disk_target_commit(struct disk_target *target, struct error *err)
{
    stop_flusher(target);
    if (target->fd < 0) {
        return 0; /* block_finish has flushed it */
    }
    if (!target->is_unsafe && fsync(target->fd) < 0) {
        return error_set_errno(err, errno, "making %s durable", target->path);
    }
    if (target->is_device) {
        return 0;
    }
    char self[64];
    (void)snprintf(self, sizeof(self), "/proc/self/fd/%d", target->fd);
    for (unsigned i = 0; target->temp[0] == '\0'; i++) {
        temp_name(target, i); /* a link cannot replace anything, a rename can */
        if (linkat(AT_FDCWD, self, AT_FDCWD, target->temp, AT_SYMLINK_FOLLOW) < 0) {
            target->temp[0] = '\0';
            if (errno != EEXIST || i > 100) {
                return error_set_errno(err, errno, "naming %s", target->path);
            }
        }
    }
    if (rename(target->temp, target->path) < 0) {
        return error_set_errno(err, errno, "naming %s", target->path);
    }
    target->temp[0] = '\0';
    char folder[sizeof(target->path)];
    folder_of(target->path, folder, sizeof(folder));
    AUTO_CLOSE int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0 && !target->is_unsafe) {
        (void)fsync(fd); /* some file systems cannot; the image itself is safe */
    }
    return 0;
}

void disk_target_close(struct disk_target *target)
{
    stop_flusher(target);
    if (target->temp[0] != '\0') {
        (void)unlink(target->temp); /* nothing more can be done about it */
    }
    if (target->fd >= 0) {
        close(target->fd);
    }
    target->fd = -1;
}
