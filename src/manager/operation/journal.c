#include "manager/operation/journal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/core/compiler.h"

#define PIECE 65536

void journal_line_clear(struct journal_line *line)
{
    json_decref(line->json);
    *line = (struct journal_line){0};
}

static uint64_t number(const json_t *json)
{
    json_int_t value = json_integer_value(json); /* 0 for what is no number */
    return value > 0 ? (uint64_t)value : 0;
}

/* [KIND, NAME] or [KIND, NAME, DOCUMENT] */
static bool read_change(struct journal_line *line, const json_t *change, bool has_document)
{
    const json_t *document = json_array_get(change, 2);
    line->object = json_string_value(json_array_get(change, 0));
    line->name = json_string_value(json_array_get(change, 1));
    line->content = document;
    return line->object != NULL && line->object[0] != '\0' && line->name != NULL &&
           line->name[0] != '\0' && json_array_size(change) == (has_document ? 3u : 2u) &&
           (!has_document || json_is_object(document));
}

static bool read_error(struct journal_line *line, const json_t *error)
{
    line->content = error;
    return json_is_string(json_object_get(error, "code")) &&
           json_is_string(json_object_get(error, "message"));
}

static bool read_worker(struct journal_line *line, const json_t *json)
{
    uint64_t pid = number(json);
    line->pid = pid <= INT_MAX ? (int)pid : 0;
    line->started = number(json_object_get(line->json, "started"));
    return line->pid > 0;
}

static bool read_progress(struct journal_line *line, const json_t *json)
{
    line->name = json_string_value(json);
    line->done = number(json_object_get(line->json, "done"));
    line->total = number(json_object_get(line->json, "total"));
    return line->name != NULL;
}

static bool read_object(struct journal_line *line, const json_t *json)
{
    line->content = json;
    return json_is_object(json);
}

/* A line speaks of one thing; but what a step tells may have any name. */
static enum journal_kind find_kind(struct journal_line *line)
{
    static const struct {
        const char *name;
        enum journal_kind kind;
    } names[] = {{"worker", JOURNAL_WORKER}, {"progress", JOURNAL_PROGRESS},
                 {"put", JOURNAL_PUT},       {"drop", JOURNAL_DROP},
                 {"event", JOURNAL_EVENT},   {"result", JOURNAL_RESULT},
                 {"error", JOURNAL_ERROR}};
    const json_t *json = json_object_get(line->json, "step");
    enum journal_kind kind = json != NULL ? JOURNAL_STEP : JOURNAL_NOTHING;
    for (unsigned i = 0; kind != JOURNAL_STEP && i < ARRAY_COUNT(names); i++) {
        const json_t *found = json_object_get(line->json, names[i].name);
        if (found != NULL && kind != JOURNAL_NOTHING) {
            return JOURNAL_NOTHING;
        }
        if (found != NULL) {
            kind = names[i].kind;
            json = found;
        }
    }
    bool is_right = false;
    switch (kind) {
    case JOURNAL_WORKER:
        is_right = read_worker(line, json);
        break;
    case JOURNAL_STEP:
        line->name = json_string_value(json);
        is_right = line->name != NULL;
        break;
    case JOURNAL_PROGRESS:
        is_right = read_progress(line, json);
        break;
    case JOURNAL_PUT:
        is_right = read_change(line, json, true);
        break;
    case JOURNAL_DROP:
        is_right = read_change(line, json, false);
        break;
    case JOURNAL_EVENT:
    case JOURNAL_RESULT:
        is_right = read_object(line, json);
        break;
    case JOURNAL_ERROR:
        is_right = read_error(line, json);
        break;
    case JOURNAL_NOTHING:
        break;
    }
    return is_right ? kind : JOURNAL_NOTHING;
}

void journal_parse(const char *text, size_t size, struct journal_line *out_line)
{
    struct journal_line line = {.json = json_loadb(text, size, 0, NULL)};
    line.kind = json_is_object(line.json) ? find_kind(&line) : JOURNAL_NOTHING;
    if (line.kind == JOURNAL_NOTHING) {
        journal_line_clear(&line);
    }
    *out_line = line;
}

void journal_start(struct journal *journal, int fd, uint64_t offset)
{
    *journal = (struct journal){.fd = fd, .offset = offset};
}

void journal_finish(struct journal *journal)
{
    free(journal->data);
    *journal = (struct journal){.fd = -1};
}

void journal_rewind(struct journal *journal, uint64_t offset)
{
    journal->offset = offset;
    journal->start = journal->searched = journal->used = 0;
    journal->skipped = 0;
}

/* Reads on: 1, or 0 at the file's end. */
static int read_more(struct journal *journal, struct error *err)
{
    if (journal->start > 0) {
        journal->used -= journal->start;
        journal->searched -= journal->start;
        memmove(journal->data, journal->data + journal->start, journal->used);
        journal->start = 0;
    }
    if (journal->capacity - journal->used < PIECE) {
        size_t capacity = journal->capacity == 0 ? PIECE : journal->capacity * 2;
        char *data = realloc(journal->data, capacity);
        if (data == NULL) {
            return error_set_errno(err, ENOMEM, "reading a journal");
        }
        journal->data = data;
        journal->capacity = capacity;
    }
    ssize_t got;
    do {
        got = pread(journal->fd, journal->data + journal->used, PIECE,
                    (off_t)(journal->offset + journal->skipped + journal->used));
    } while (got < 0 && errno == EINTR);
    if (got < 0) {
        return error_set_errno(err, errno, "reading a journal");
    }
    journal->used += (size_t)got;
    return got > 0;
}

/* The line up to 'end', which is its newline. */
static void take_line(struct journal *journal, const char *end, struct journal_line *out_line)
{
    const char *text = journal->data + journal->start;
    size_t size = (size_t)(end - text);
    *out_line = (struct journal_line){0};
    if (journal->skipped == 0 && size <= JOURNAL_MAX_LINE) {
        journal_parse(text, size, out_line);
    }
    journal->offset += journal->skipped + size + 1;
    journal->skipped = 0;
    journal->start += size + 1;
    journal->searched = journal->start;
    out_line->end = journal->offset;
}

int journal_next(struct journal *journal, struct journal_line *out_line, struct error *err)
{
    for (;;) {
        if (journal->used > journal->searched) {
            const char *end =
                memchr(journal->data + journal->searched, '\n', journal->used - journal->searched);
            if (end != NULL) {
                take_line(journal, end, out_line);
                return 1;
            }
        }
        journal->searched = journal->used;
        if (journal->used - journal->start > JOURNAL_MAX_LINE) {
            journal->skipped += journal->used - journal->start;
            journal->start = journal->searched = journal->used = 0;
        }
        int rc = read_more(journal, err);
        if (rc <= 0) {
            /* A worker takes back the beginning of a line that it could not write: it is read anew. */
            journal_rewind(journal, journal->offset);
            return rc;
        }
    }
}

int journal_align(int fd, uint64_t offset, uint64_t *out_offset, struct error *err)
{
    struct stat info;
    if (fstat(fd, &info) < 0) {
        return error_set_errno(err, errno, "reading a journal");
    }
    uint64_t at = MIN(offset, (uint64_t)info.st_size);
    char piece[4096];
    while (at > 0) {
        size_t size = (size_t)MIN(at, sizeof(piece));
        ssize_t got = pread(fd, piece, size, (off_t)(at - size));
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got != (ssize_t)size) {
            return error_set_errno(err, got < 0 ? errno : EIO, "reading a journal");
        }
        const char *newline = memrchr(piece, '\n', size);
        if (newline != NULL) {
            at -= size - (size_t)(newline + 1 - piece);
            break;
        }
        at -= size;
    }
    *out_offset = at;
    return 0;
}

void journal_path(const struct place *place, const char *id, char out_path[PATH_MAX])
{
    char file[64];
    (void)snprintf(file, sizeof(file), "%.40s.jsonl", id);
    place_state_path(place, "operations", NULL, file, out_path);
}
