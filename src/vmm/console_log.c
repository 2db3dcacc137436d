#include "vmm/console_log.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/core/compiler.h"

void console_log_init(struct console_log *log, int fd, int old_fd)
{
    struct stat info;
    log->fd = fd;
    log->old_fd = old_fd;
    log->used = 0;
    log->size = fd >= 0 && fstat(fd, &info) == 0 ? (uint64_t)info.st_size : 0;
}

/* False: the file takes no more. */
static bool append(int fd, const uint8_t *data, size_t size)
{
    while (size != 0) {
        ssize_t count = write(fd, data, size);
        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count <= 0) {
            return false;
        }
        data += count;
        size -= (size_t)count;
    }
    return true;
}

/* Without a name to rename, in a process that can open nothing. */
static void rotate(struct console_log *log)
{
    uint8_t part[4096];
    uint64_t at = 0;
    bool is_taken = log->old_fd >= 0 && ftruncate(log->old_fd, 0) == 0;
    while (is_taken && at < log->size) {
        ssize_t count = pread(log->fd, part, sizeof(part), (off_t)at);
        if (count <= 0) {
            break;
        }
        is_taken = append(log->old_fd, part, (size_t)count);
        at += (uint64_t)count;
    }
    if (ftruncate(log->fd, 0) == 0) {
        log->size = 0;
    }
}

void console_log_flush(struct console_log *log)
{
    if (log->fd < 0 || log->used == 0) {
        return;
    }
    if (log->size + log->used > CONSOLE_LOG_SIZE) {
        rotate(log);
    }
    if (append(log->fd, log->waiting, log->used)) {
        log->size += log->used;
    }
    log->used = 0;
}

bool console_log_put(struct console_log *log, const uint8_t *data, size_t size)
{
    if (log->fd < 0) {
        return false;
    }
    bool was_empty = log->used == 0;
    while (size != 0) {
        size_t part = MIN(size, sizeof(log->waiting) - log->used);
        memcpy(log->waiting + log->used, data, part);
        log->used += part;
        data += part;
        size -= part;
        if (log->used == sizeof(log->waiting)) {
            console_log_flush(log);
        }
    }
    return was_empty && log->used != 0;
}

void console_log_fini(struct console_log *log)
{
    console_log_flush(log);
    if (log->fd >= 0) {
        close(log->fd);
    }
    if (log->old_fd >= 0) {
        close(log->old_fd);
    }
    log->fd = -1;
    log->old_fd = -1;
}
