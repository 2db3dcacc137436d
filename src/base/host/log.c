#include "base/host/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/host/event_loop.h"

static int log_fd = 2;
static enum log_level log_highest = LOG_LEVEL_WARNING;
static const char *log_program = "hull";

void log_init(int fd, enum log_level level, const char *program)
{
    log_fd = fd;
    log_highest = level;
    log_program = program;
}

printf_like(2, 0) static void write_line(enum log_level level, const char *format, va_list args)
{
    static const char *const names[] = {"", "warning: ", "info: ", "debug: "};
    char line[1024];
    int used = snprintf(line, sizeof(line), "%s: %s", log_program, names[level]);
    int more = vsnprintf(line + used, sizeof(line) - (size_t)used - 1, format, args);
    size_t length = more < 0 ? (size_t)used : (size_t)(used + more);
    if (length > sizeof(line) - 2) {
        length = sizeof(line) - 2;
    }
    line[length++] = '\n';
    (void)!write(log_fd, line, length); /* there is nowhere to report a failing log to */
}

void log_write(enum log_level level, const char *format, ...)
{
    if (level > log_highest) {
        return;
    }
    va_list args;
    va_start(args, format);
    write_line(level, format, args);
    va_end(args);
}

void log_limited(struct log_limit *limit, enum log_level level, const char *format, ...)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    if (level > log_highest) {
        return;
    }
    pthread_mutex_lock(&lock);
    uint64_t now_ns = clock_monotonic_ns();
    bool is_allowed = limit->used < limit->burst || now_ns - limit->last_ns >= 1000000000u;
    if (is_allowed) {
        limit->used += limit->used < limit->burst;
        limit->last_ns = now_ns;
        if (limit->suppressed != 0) {
            log_write(level, "(%u lines like the next one left out)", limit->suppressed);
            limit->suppressed = 0;
        }
        va_list args;
        va_start(args, format);
        write_line(level, format, args);
        va_end(args);
    } else {
        limit->suppressed++;
    }
    pthread_mutex_unlock(&lock);
}
