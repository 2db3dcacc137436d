/* What the guest writes to its console, kept in a file of bounded size: when it is full, what it has goes to a second one,
 * which loses what it had. The newest output is always in the first.
 *
 * Threads: the caller sees to it that one at a time is here. */
#ifndef VMM_CONSOLE_LOG_H
#define VMM_CONSOLE_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CONSOLE_LOG_SIZE (1u << 20) /* of each file; a little more at times */

struct console_log {
    int fd, old_fd; /* open for reading and appending; -1: no log */
    uint64_t size;  /* of the first */
    size_t used;
    uint8_t waiting[4096];
};

/* Owns both. What the files hold stays. */
void console_log_init(struct console_log *log, int fd, int old_fd);
/* Keeps it in memory, or writes when that is full. True: console_log_flush is due, soon, and was not before. A file that
 * takes nothing (disk full) loses it. */
bool console_log_put(struct console_log *log, const uint8_t *data, size_t size);
void console_log_flush(struct console_log *log);
void console_log_fini(struct console_log *log);

#endif
