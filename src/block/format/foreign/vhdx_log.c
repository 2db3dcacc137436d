/* The log of a VHDX: a ring of entries, each of sectors of 4 KiB.
 *
 *     entry:      0 "loge" | 4 checksum of the entry | 8 size | 12 tail | 16 sequence number | 24 descriptors | 32 log GUID
 *                 48 size of the file that is durable | 56 size of the file
 *     descriptor: 0 "desc" | 4 last 4 bytes | 8 first 8 bytes | 16 file offset | 24 sequence number
 *                 0 "zero" |                | 8 length        | 16 file offset | 24 sequence number
 *     data:       0 "data" | 4 sequence number, high half | 8 the bytes between | 4092 low half
 *
 * Descriptors begin behind the entry's 64 bytes; the data sectors follow in the order of their descriptors. Entries with ascending
 * numbers, one right behind the other, make a sequence. The one with the highest number whose last entry's tail lies in it
 * counts; replaying it from that tail on gives the file as it should be. */
#include <stdlib.h>
#include <string.h>

#include "base/core/bits.h"
#include "base/core/checked.h"
#include "base/core/crc32c.h"
#include "base/core/endian.h"
#include "base/host/file.h"
#include "block/format/foreign/vhdx.h"

#define SECTOR          4096u
#define ENTRY_HEADER    64u
#define DESCRIPTOR_SIZE 32u
#define MAX_CHANGES     65536u
#define CHECKED_TIMES                                                                              \
    8u /* bytes that are summed up, in sizes of the log: more is no log but an attack */
#define DATA_LEAD  8u
#define DATA_TRAIL 4u

/* What replaying one descriptor writes. */
struct change {
    uint64_t offset;
    uint64_t size_bytes;
    uint64_t data_offset; /* of the data sector, in the file; 0: zeros */
    uint8_t lead[DATA_LEAD];
    uint8_t trail[DATA_TRAIL];
};

/* A range of the file that the log changes, and the change that is the last one there. */
struct span {
    uint64_t start;
    uint64_t end;
    uint32_t change;
};

struct vhdx_log {
    struct foreign_file file;
    uint64_t file_size; /* after the replay */
    struct change *change;
    uint32_t change_count;
    struct span *span; /* in ascending order */
    uint32_t span_count;
};

struct entry {
    uint32_t size;
    uint32_t tail;
    uint64_t sequence;
    uint32_t descriptor_count;
    uint64_t flushed_size;
    uint64_t last_size;
};

/* While the log is searched. */
struct reader {
    const struct foreign_file *file;
    const struct vhdx_header *header;
    uint64_t checked_left; /* bytes that may still be summed up */
    uint8_t *is_invalid;   /* a bit a sector: no entry begins here */
    uint8_t sector[SECTOR];
};

struct sequence {
    uint32_t tail; /* where it begins */
    uint32_t head; /* its last entry */
    uint32_t end;  /* behind that */
    uint32_t count;
    struct entry last;
};

/* One sector of the ring. */
static int read_sector(struct reader *reader, uint32_t offset, struct error *err)
{
    return foreign_read(reader->file, reader->header->log_offset + offset, reader->sector, SECTOR,
                        "the log", err);
}

static uint32_t advance(const struct reader *reader, uint32_t offset, uint32_t size)
{
    return (uint32_t)(((uint64_t)offset + size) % reader->header->log_size);
}

static uint32_t descriptor_sectors(uint32_t count)
{
    return (uint32_t)((ENTRY_HEADER + (uint64_t)count * DESCRIPTOR_SIZE + SECTOR - 1) / SECTOR);
}

/* The header of an entry in reader->sector: its own fields, before its checksum is worth computing. */
static bool parse_entry(const struct reader *reader, struct entry *out_entry)
{
    const uint8_t *s = reader->sector;
    *out_entry = (struct entry){.size = le32_get(s + 8),
                                .tail = le32_get(s + 12),
                                .sequence = le64_get(s + 16),
                                .descriptor_count = le32_get(s + 24),
                                .flushed_size = le64_get(s + 48),
                                .last_size = le64_get(s + 56)};
    uint32_t log_size = reader->header->log_size;
    return memcmp(s, "loge", 4) == 0 &&
           memcmp(s + 32, reader->header->log_guid, VHDX_GUID_SIZE) == 0 && out_entry->size != 0 &&
           out_entry->size % SECTOR == 0 && out_entry->size <= log_size &&
           out_entry->tail % SECTOR == 0 && out_entry->tail < log_size &&
           out_entry->sequence != 0 && out_entry->descriptor_count <= log_size / DESCRIPTOR_SIZE &&
           (uint64_t)descriptor_sectors(out_entry->descriptor_count) * SECTOR <= out_entry->size &&
           out_entry->flushed_size <= FOREIGN_MAX_SIZE && out_entry->last_size <= FOREIGN_MAX_SIZE;
}

static int check_sum(struct reader *reader, uint32_t offset, uint32_t size, bool *out_is_right,
                     struct error *err)
{
    if (size > reader->checked_left) {
        return error_set(err, EINVAL, "the log holds more entries than it has room for");
    }
    reader->checked_left -= size;
    uint32_t crc = 0;
    uint32_t stored = 0;
    for (uint32_t done = 0; done < size; done += SECTOR) {
        int rc = read_sector(reader, advance(reader, offset, done), err);
        if (rc < 0) {
            return rc;
        }
        if (done == 0) {
            stored = le32_get(reader->sector + 4);
            le32_put(reader->sector + 4, 0);
        }
        crc = crc32c(crc, reader->sector, SECTOR);
    }
    *out_is_right = crc == stored;
    return 0;
}

/* Is there a valid entry at 'offset'? */
static int read_entry(struct reader *reader, uint32_t offset, struct entry *out_entry,
                      bool *out_is_valid, struct error *err)
{
    uint32_t index = offset / SECTOR;
    *out_is_valid = false;
    if ((reader->is_invalid[index / 8] >> (index % 8) & 1) != 0) {
        return 0;
    }
    int rc = read_sector(reader, offset, err);
    if (rc == 0 && parse_entry(reader, out_entry)) {
        rc = check_sum(reader, offset, out_entry->size, out_is_valid, err);
    }
    if (rc == 0 && !*out_is_valid) {
        reader->is_invalid[index / 8] |= (uint8_t)(1u << (index % 8));
    }
    return rc;
}

/* Does 'offset' lie in the sequence, which may go around the end of the ring? */
static bool sequence_has(const struct reader *reader, const struct sequence *sequence,
                         uint32_t offset)
{
    uint32_t log_size = reader->header->log_size;
    uint64_t distance = ((uint64_t)offset + log_size - sequence->tail) % log_size;
    uint64_t size = ((uint64_t)sequence->end + log_size - sequence->tail) % log_size;
    return distance < (size == 0 ? log_size : size);
}

/* The sequence that begins at 'start'; count 0: none does. */
static int read_sequence(struct reader *reader, uint32_t start, struct sequence *out_sequence,
                         struct error *err)
{
    struct sequence s = {.tail = start, .end = start};
    uint64_t used = 0;
    while (used < reader->header->log_size) {
        struct entry entry;
        bool is_valid;
        int rc = read_entry(reader, s.end, &entry, &is_valid, err);
        if (rc < 0) {
            return rc;
        }
        used += is_valid ? entry.size : 0;
        if (!is_valid || used > reader->header->log_size ||
            (s.count != 0 && entry.sequence != s.last.sequence + 1)) {
            break;
        }
        s.head = s.end;
        s.end = advance(reader, s.end, entry.size);
        s.last = entry;
        s.count++;
    }
    *out_sequence = s;
    return 0;
}

static int find_sequence(struct reader *reader, struct sequence *out_sequence, struct error *err)
{
    struct sequence best = {0};
    uint32_t offset = 0;
    while (offset < reader->header->log_size) {
        struct sequence s;
        int rc = read_sequence(reader, offset, &s, err);
        if (rc < 0) {
            return rc;
        }
        bool is_whole = s.count != 0 && sequence_has(reader, &s, s.last.tail);
        if (is_whole && (best.count == 0 || s.last.sequence > best.last.sequence)) {
            best = s;
        }
        if (s.count == 0) {
            offset += SECTOR;
            continue;
        }
        /* The search goes on behind it: where a sequence lacks its tail, the rest of it does too. */
        if (s.end <= offset) {
            break; /* it went around the ring */
        }
        offset = s.end;
    }
    if (best.count == 0) {
        return error_set(err, EINVAL, "the log has no valid sequence of entries to replay");
    }
    *out_sequence = best;
    return 0;
}

static int add_change(struct vhdx_log *log, const struct change *change, struct error *err)
{
    if (change->size_bytes == 0) {
        return 0;
    }
    if (change->offset % SECTOR != 0 || change->size_bytes % SECTOR != 0 ||
        !range_fits(change->offset, change->size_bytes, FOREIGN_MAX_SIZE)) {
        return error_set(err, EINVAL, "the log writes %llu bytes at %llu of the file",
                         (unsigned long long)change->size_bytes,
                         (unsigned long long)change->offset);
    }
    if (log->change_count == MAX_CHANGES) {
        return error_set(err, EINVAL, "the log has more than %u changes", MAX_CHANGES);
    }
    uint32_t count = log->change_count;
    if ((count & (count - 1)) == 0) { /* at each power of two the room doubles */
        struct change *changes =
            realloc(log->change, (count == 0 ? 1 : 2 * (size_t)count) * sizeof(*changes));
        if (changes == NULL) {
            return error_set_errno(err, ENOMEM, "replaying the log");
        }
        log->change = changes;
    }
    log->change[log->change_count++] = *change;
    return 0;
}

/* Takes a data sector of the ring as the change's contents. */
static int take_data(struct reader *reader, uint32_t offset, uint64_t sequence,
                     struct change *change, struct error *err)
{
    uint8_t sector[SECTOR];
    int rc = foreign_read(reader->file, reader->header->log_offset + offset, sector, SECTOR,
                          "the log's data", err);
    if (rc < 0) {
        return rc;
    }
    if (memcmp(sector, "data", 4) != 0 || le32_get(sector + 4) != sequence >> 32 ||
        le32_get(sector + SECTOR - 4) != (uint32_t)sequence) {
        return error_set(err, EINVAL, "a data sector of the log is not of entry %llu",
                         (unsigned long long)sequence);
    }
    change->data_offset = reader->header->log_offset + offset;
    return 0;
}

static int replay_entry(struct vhdx_log *log, struct reader *reader, uint32_t offset,
                        const struct entry *entry, struct error *err)
{
    uint32_t data = advance(reader, offset, descriptor_sectors(entry->descriptor_count) * SECTOR);
    uint32_t data_left = entry->size / SECTOR - descriptor_sectors(entry->descriptor_count);
    for (uint32_t i = 0; i < entry->descriptor_count; i++) {
        uint32_t at = ENTRY_HEADER + i * DESCRIPTOR_SIZE; /* never crosses a sector */
        if (i == 0 || at % SECTOR == 0) {
            int rc = read_sector(reader, advance(reader, offset, at / SECTOR * SECTOR), err);
            if (rc < 0) {
                return rc;
            }
        }
        const uint8_t *d = reader->sector + at % SECTOR;
        bool is_data = memcmp(d, "desc", 4) == 0;
        if ((!is_data && memcmp(d, "zero", 4) != 0) || le64_get(d + 24) != entry->sequence ||
            (is_data && data_left == 0)) {
            return error_set(err, EINVAL, "descriptor %u of entry %llu of the log is not valid", i,
                             (unsigned long long)entry->sequence);
        }
        struct change change = {.offset = le64_get(d + 16),
                                .size_bytes = is_data ? SECTOR : le64_get(d + 8)};
        int rc = 0;
        if (is_data) {
            memcpy(change.trail, d + 4, DATA_TRAIL);
            memcpy(change.lead, d + 8, DATA_LEAD);
            rc = take_data(reader, data, entry->sequence, &change, err);
            data = advance(reader, data, SECTOR);
            data_left--;
        }
        if (rc < 0 || (rc = add_change(log, &change, err)) < 0) {
            return rc;
        }
    }
    return 0;
}

/* Collects the changes of the sequence from its last entry's tail on. */
static int replay(struct vhdx_log *log, struct reader *reader, const struct sequence *sequence,
                  struct error *err)
{
    reader->checked_left = (uint64_t)CHECKED_TIMES * reader->header->log_size;
    uint32_t offset = sequence->last.tail;
    uint64_t before = 0;
    for (;;) {
        struct entry entry;
        bool is_valid;
        int rc = read_entry(reader, offset, &entry, &is_valid, err);
        if (rc < 0) {
            return rc;
        }
        if (!is_valid || (before != 0 && entry.sequence != before + 1)) {
            return error_set(err, EINVAL, "the log's tail at %u is no entry", offset);
        }
        rc = replay_entry(log, reader, offset, &entry, err);
        if (rc < 0 || offset == sequence->head) {
            return rc;
        }
        before = entry.sequence;
        offset = advance(reader, offset, entry.size);
    }
}

static int compare_places(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a;
    uint64_t y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* 'place' is one of them. */
static uint32_t find_place(const uint64_t *places, uint32_t count, uint64_t place)
{
    const uint64_t *found = bsearch(&place, places, count, sizeof(*places), compare_places);
    return (uint32_t)(found - places);
}

/* The next place that no later change has, with the way there made shorter. */
static uint32_t next_free(uint32_t *next, uint32_t i)
{
    uint32_t end = i;
    while (next[end] != end) {
        end = next[end];
    }
    while (next[i] != end) {
        uint32_t step = next[i];
        next[i] = end;
        i = step;
    }
    return end;
}

/* Sorts out which change is the last one of each range: the latest takes its places first, earlier ones what is left. */
static int make_spans(struct vhdx_log *log, struct error *err)
{
    uint32_t count = log->change_count;
    AUTO_FREE uint64_t *places = calloc(2 * (size_t)count + 1, sizeof(*places));
    AUTO_FREE uint32_t *next = calloc(2 * (size_t)count + 1, sizeof(*next));
    log->span = calloc(2 * (size_t)count + 1, sizeof(*log->span));
    if (places == NULL || next == NULL || log->span == NULL) {
        return error_set_errno(err, ENOMEM, "replaying the log");
    }
    for (uint32_t i = 0; i < count; i++) {
        places[2 * (size_t)i] = log->change[i].offset;
        places[2 * (size_t)i + 1] = log->change[i].offset + log->change[i].size_bytes;
    }
    qsort(places, 2 * (size_t)count, sizeof(*places), compare_places);
    uint32_t place_count = 0;
    for (uint32_t i = 0; i < 2 * count; i++) {
        if (place_count == 0 || places[i] != places[place_count - 1]) {
            places[place_count++] = places[i];
        }
    }
    for (uint32_t i = 0; i <= place_count; i++) {
        next[i] = i;
    }
    for (uint32_t c = count; c-- > 0;) {
        const struct change *change = &log->change[c];
        uint64_t end = change->offset + change->size_bytes;
        uint32_t i = next_free(next, find_place(places, place_count, change->offset));
        while (i < place_count && places[i] < end) {
            log->span[i] = (struct span){places[i], places[i + 1], c};
            next[i] = i + 1;
            i = next_free(next, i + 1);
        }
    }
    for (uint32_t i = 0; i < place_count; i++) { /* close the gaps between them */
        if (log->span[i].end != 0) {
            log->span[log->span_count++] = log->span[i];
        }
    }
    return 0;
}

int vhdx_log_open(const struct foreign_file *file, const struct vhdx_header *header,
                  struct vhdx_log **out_log, struct error *err)
{
    struct reader reader = {
        .file = file, .header = header, .checked_left = (uint64_t)CHECKED_TIMES * header->log_size};
    struct vhdx_log *log = calloc(1, sizeof(*log));
    AUTO_FREE uint8_t *is_invalid = reader.is_invalid = calloc(1, header->log_size / SECTOR / 8);
    if (log == NULL || is_invalid == NULL) {
        free(log);
        return error_set_errno(err, ENOMEM, "replaying the log");
    }
    log->file = *file;
    struct sequence sequence = {0};
    int rc = find_sequence(&reader, &sequence, err);
    if (rc == 0 && sequence.last.flushed_size > file->size_bytes) {
        rc = error_set(err, EINVAL, "the file has %llu bytes, its log needs %llu: it was cut off",
                       (unsigned long long)file->size_bytes,
                       (unsigned long long)sequence.last.flushed_size);
    }
    if (rc == 0) {
        log->file_size = MAX(file->size_bytes, sequence.last.last_size);
        rc = replay(log, &reader, &sequence, err);
    }
    if (rc == 0) {
        rc = make_spans(log, err);
    }
    if (rc < 0) {
        vhdx_log_close(log);
        return rc;
    }
    for (uint32_t i = 0; i < log->span_count; i++) {
        log->file_size = MAX(log->file_size, log->span[i].end);
    }
    *out_log = log;
    return 0;
}

void vhdx_log_close(struct vhdx_log *log)
{
    if (log != NULL) {
        free(log->change);
        free(log->span);
        free(log);
    }
}

uint64_t vhdx_log_file_size(const struct vhdx_log *log)
{
    return log->file_size;
}

/* The first span that ends behind 'offset'; span_count: none does. */
static uint32_t find_span(const struct vhdx_log *log, uint64_t offset)
{
    uint32_t low = 0;
    uint32_t high = log->span_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (log->span[middle].end <= offset) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

bool vhdx_log_touches(const struct vhdx_log *log, uint64_t offset, uint64_t *size)
{
    uint64_t end = offset + *size;
    bool is_changed = offset >= log->file.size_bytes;
    uint32_t i = find_span(log, offset);
    if (i < log->span_count) {
        const struct span *span = &log->span[i];
        if (span->start <= offset) {
            is_changed = true;
            end = MIN(end, span->end);
        } else {
            end = MIN(end, span->start);
        }
    }
    if (!is_changed) {
        end = MIN(end, log->file.size_bytes);
    }
    *size = end - offset;
    return is_changed;
}

/* Bytes of one change, which covers the range. */
static int read_change(const struct vhdx_log *log, const struct change *change, uint64_t offset,
                       uint8_t *out_data, size_t size, struct error *err)
{
    if (change->data_offset == 0) {
        memset(out_data, 0, size);
        return 0;
    }
    uint8_t sector[SECTOR];
    int rc = foreign_read(&log->file, change->data_offset, sector, SECTOR, "the log's data", err);
    if (rc == 0) {
        memcpy(sector, change->lead, DATA_LEAD);
        memcpy(sector + SECTOR - DATA_TRAIL, change->trail, DATA_TRAIL);
        memcpy(out_data, sector + (offset - change->offset), size);
    }
    return rc;
}

/* Bytes of the file itself, and zeros behind its end. */
static int read_file(const struct vhdx_log *log, uint64_t offset, uint8_t *out_data, size_t size,
                     struct error *err)
{
    uint64_t there = offset < log->file.size_bytes ? log->file.size_bytes - offset : 0;
    size_t part = (size_t)MIN(there, size);
    memset(out_data + part, 0, size - part);
    return part == 0 ? 0 : log->file.read(log->file.ctx, offset, out_data, part, err);
}

int vhdx_log_read(const struct vhdx_log *log, uint64_t offset, void *out_data, size_t size,
                  struct error *err)
{
    uint8_t *to = out_data;
    while (size != 0) {
        uint32_t i = find_span(log, offset);
        const struct span *span = i < log->span_count ? &log->span[i] : NULL;
        bool is_changed = span != NULL && span->start <= offset;
        uint64_t end = span == NULL ? UINT64_MAX : is_changed ? span->end : span->start;
        size_t part = (size_t)MIN(end - offset, size);
        int rc = is_changed ? read_change(log, &log->change[span->change], offset, to, part, err)
                            : read_file(log, offset, to, part, err);
        if (rc < 0) {
            return rc;
        }
        to += part;
        offset += part;
        size -= part;
    }
    return 0;
}
