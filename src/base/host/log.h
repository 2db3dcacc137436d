/* Log lines of a program. Library modules return errors and do not log them; the program, or the border
 * of a device, logs once. Each line names module and object: "vm web1: virtio-net 0: ...". */
#ifndef BASE_HOST_LOG_H
#define BASE_HOST_LOG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/core/compiler.h"

enum log_level {
    LOG_LEVEL_ERROR,   /* a request failed */
    LOG_LEVEL_WARNING, /* odd, carried on; the text ends in ", ignoring" or says what was done */
    LOG_LEVEL_INFO,    /* rare changes that an operator wants */
    LOG_LEVEL_DEBUG,   /* anything */
};

/* The sink: a descriptor that stays open (default 2) and the highest level written (default warning).
 * Each line is one write(2). Threads: set before other threads start. */
void log_init(int fd, enum log_level level, const char *program);

/* Threads: any. */
void log_write(enum log_level level, const char *format, ...) printf_like(2, 3);

#define log_error(...)   log_write(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_write(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_info(...)    log_write(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...)   log_write(LOG_LEVEL_DEBUG, __VA_ARGS__)

/* For lines that a guest can cause: at most 'burst' lines, then one a second for each limiter.
 * A static limiter per place: static struct log_limit limit = LOG_LIMIT(5); */
struct log_limit {
    uint32_t burst;
    uint32_t used;
    uint64_t last_ns;
    uint32_t suppressed;
};
#define LOG_LIMIT(count)                                                                           \
    {                                                                                              \
        .burst = (count)                                                                           \
    }
void log_limited(struct log_limit *limit, enum log_level level, const char *format, ...)
    printf_like(3, 4);

#endif
