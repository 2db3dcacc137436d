/* Reading journals of workers (job.h says what is in them). A journal is not trusted to be whole: its worker may have died
 * within a line, the disk been full, the host lost its power. A line counts when its end is there; lines that say nothing that
 * is known are passed over.
 *
 * Threads: none. */
#ifndef MANAGER_OPERATION_JOURNAL_H
#define MANAGER_OPERATION_JOURNAL_H

#include <jansson.h>
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/core/error.h"
#include "manager/place.h"

#define JOURNAL_MAX_LINE (4u << 20) /* longer ones are passed over */

enum journal_kind {
    JOURNAL_NOTHING, /* rubbish */
    JOURNAL_WORKER,
    JOURNAL_STEP,
    JOURNAL_PROGRESS,
    JOURNAL_PUT,
    JOURNAL_DROP,
    JOURNAL_EVENT,
    JOURNAL_RESULT,
    JOURNAL_ERROR,
};

struct journal_line {
    enum journal_kind kind;
    json_t *json; /* all of it; NULL with JOURNAL_NOTHING */
    /* Parts of 'json', as the kind has them. */
    const json_t *content;     /* PUT: the document; EVENT, RESULT, ERROR: the object */
    const char *object, *name; /* PUT, DROP: kind and name; PROGRESS: 'name' is the text */
    uint64_t done, total;      /* PROGRESS */
    int pid;                   /* WORKER */
    uint64_t started;          /* WORKER: start of the process, ticks since boot */
    uint64_t end;              /* offset behind the line, set by journal_next */
};
void journal_line_clear(struct journal_line *line);

/* One line without its newline. What it gives is to be cleared. */
void journal_parse(const char *text, size_t size, struct journal_line *out_line);

struct journal {
    int fd;          /* borrowed */
    uint64_t offset; /* of the next line */
    char *data;      /* what was read: [start, used), of which [start, searched) has no newline */
    size_t start, searched, used, capacity;
    uint64_t skipped; /* bytes of a line that is too long, which are not kept */
};
void journal_start(struct journal *journal, int fd, uint64_t offset);
void journal_finish(struct journal *journal);
/* From 'offset' again, which is one that journal->offset had. */
void journal_rewind(struct journal *journal, uint64_t offset);
/* 1: a line; 0: no whole one (yet). Errors: of reading; -ENOMEM. */
int must_check journal_next(struct journal *journal, struct journal_line *out_line,
                            struct error *err);
/* The largest offset up to 'offset' at which a line begins: for a file that may have become shorter. */
int must_check journal_align(int fd, uint64_t offset, uint64_t *out_offset, struct error *err);

void journal_path(const struct place *place, const char *id, char out_path[PATH_MAX]);

#endif
