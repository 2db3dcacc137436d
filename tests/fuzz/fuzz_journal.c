/* Rubbish as a worker's journal. Read at once, in pieces as it grows, and from the middle it says the same. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/core/invariant.h"
#include "manager/operation/journal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MAX_LINES 4096

struct seen {
    size_t count;
    enum journal_kind kinds[MAX_LINES];
    uint64_t ends[MAX_LINES];
};

static void check(const struct journal_line *line)
{
    invariant((line->json != NULL) == (line->kind != JOURNAL_NOTHING));
    switch (line->kind) {
    case JOURNAL_NOTHING:
        break;
    case JOURNAL_WORKER:
        invariant(line->pid > 0);
        break;
    case JOURNAL_STEP:
    case JOURNAL_PROGRESS:
        invariant(line->name != NULL);
        break;
    case JOURNAL_PUT:
        invariant(line->object[0] != '\0' && line->name[0] != '\0' &&
                  json_is_object(line->content));
        break;
    case JOURNAL_DROP:
        invariant(line->object[0] != '\0' && line->name[0] != '\0');
        break;
    case JOURNAL_EVENT:
    case JOURNAL_RESULT:
    case JOURNAL_ERROR:
        invariant(json_is_object(line->content));
        break;
    }
}

/* All whole lines that are there now. */
static void read_on(struct journal *journal, struct seen *seen)
{
    struct journal_line line;
    int rc;
    uint64_t before = journal->offset;
    while (seen->count < MAX_LINES && (rc = journal_next(journal, &line, NULL)) > 0) {
        check(&line);
        invariant(line.end > before && line.end == journal->offset);
        before = line.end;
        seen->kinds[seen->count] = line.kind;
        seen->ends[seen->count++] = line.end;
        journal_line_clear(&line);
    }
}

static void compare(const struct seen *a, size_t from, const struct seen *b)
{
    invariant(a->count - from == b->count);
    for (size_t i = 0; i < b->count; i++) {
        invariant(a->kinds[from + i] == b->kinds[i] && a->ends[from + i] == b->ends[i]);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct seen whole, grown, rest;
    struct journal journal;
    size_t piece = size > 0 ? data[0] + 1u : 1;
    int fd = memfd_create("journal", MFD_CLOEXEC);
    invariant(fd >= 0);

    grown.count = 0;
    journal_start(&journal, fd, 0);
    for (size_t at = 0; at < size; at += piece) {
        size_t part = size - at < piece ? size - at : piece;
        invariant(pwrite(fd, data + at, part, (off_t)at) == (ssize_t)part);
        read_on(&journal, &grown);
    }
    whole.count = 0;
    journal_rewind(&journal, 0);
    read_on(&journal, &whole);
    journal_finish(&journal);
    compare(&whole, 0, &grown);

    size_t middle = whole.count / 2;
    rest.count = 0;
    journal_start(&journal, fd, middle > 0 ? whole.ends[middle - 1] : 0);
    if (whole.count < MAX_LINES) {
        read_on(&journal, &rest);
        compare(&whole, middle, &rest);
    }
    journal_finish(&journal);

    uint64_t aligned = 0, asked = size * piece / 128;
    invariant(journal_align(fd, asked, &aligned, NULL) == 0);
    invariant(aligned <= size && aligned <= asked);
    invariant(aligned == 0 || data[aligned - 1] == '\n');
    close(fd);
    return 0;
}
