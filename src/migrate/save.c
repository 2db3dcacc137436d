/* Writing a saved state; the layout is in save_format.h, reading in restore.c. */
#include "migrate/save.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/core/bits.h"
#include "base/core/endian.h"
#include "base/host/file.h"
#include "base/host/huge.h"
#include "migrate/save_format.h"

#define WHAT         "saved state"
#define WRITE_CHUNK  (1u << 20)
#define BUFFER_START (64u << 10)

/* Bytes that grow. */
struct buffer {
    uint8_t *data;
    size_t size, capacity;
};

static int buffer_write(void *ctx, const void *data, size_t size)
{
    struct buffer *buffer = ctx;
    if (size > SAVE_MAX_METADATA || buffer->size + size > SAVE_MAX_METADATA) {
        return -EFBIG;
    }
    if (buffer->size + size > buffer->capacity) {
        size_t capacity = MAX(buffer->capacity * 2, BUFFER_START);
        capacity = MAX(capacity, buffer->size + size);
        uint8_t *larger = realloc(buffer->data, capacity);
        if (larger == NULL) {
            return -ENOMEM;
        }
        buffer->data = larger;
        buffer->capacity = capacity;
    }
    memcpy(buffer->data + buffer->size, data, size);
    buffer->size += size;
    return 0;
}

struct saver {
    struct machine *machine;
    int fd;
    struct error *err;
    struct save_header header;
    struct archive_writer metadata_writer;
    struct buffer metadata;
    struct buffer section; /* one at a time */

    uint64_t run_offset, run_size; /* the extent that grows, in terms of the memory's offsets */
    uint8_t extents[SAVE_EXTENT_SIZE * 256];
    size_t extents_used;
    uint32_t extents_crc;

    void (*progress)(void *ctx, uint64_t done, uint64_t total);
    void *ctx;
    uint64_t done, total;
};

static int count_section(void *ctx, struct machine *machine, const struct machine_section *section)
{
    (*(uint32_t *)ctx)++;
    return 0;
}

static int put_section(void *ctx, struct machine *machine, const struct machine_section *section)
{
    struct saver *saver = ctx;
    saver->section.size = 0;
    struct archive_writer writer = {.write = buffer_write, .ctx = &saver->section};
    machine_save_section(machine, section, &writer);
    if (writer.status < 0) {
        return error_set_errno(saver->err, -writer.status, "saving %s", section->name);
    }
    if (saver->section.size > SAVE_MAX_SECTION) {
        return error_set(saver->err, EFBIG, "saving %s: its state is too large", section->name);
    }
    save_section_put(section->name, section->version, saver->section.data,
                     (uint32_t)saver->section.size, &saver->metadata_writer);
    return 0;
}

static void copy_name(char *out_name, const char *name)
{
    size_t length = MIN(strlen(name), (size_t)SAVE_NAME_SIZE - 1);
    memcpy(out_name, name, length);
    out_name[length] = '\0';
}

static int put_metadata(struct saver *saver)
{
    const struct machine_config *config = machine_get_config(saver->machine);
    const struct guest_memory *memory = machine_memory(saver->machine);
    struct save_metadata metadata = {
        .vcpu_count = config->vcpu_max,
        .memory_bytes = config->memory_bytes,
        .slot_count = (uint32_t)memory->slot_count,
    };
    copy_name(metadata.board, config->board);
    copy_name(metadata.cpu_model, config->cpu_model != NULL ? config->cpu_model : "host");
    for (size_t i = 0; i < memory->slot_count; i++) {
        metadata.slot[i] = (struct save_slot){.gpa = memory->slot[i].gpa,
                                              .size_bytes = memory->slot[i].size_bytes};
    }
    int rc = machine_each_section(saver->machine, count_section, &metadata.section_count);
    if (rc < 0) {
        return error_set_errno(saver->err, -rc, "counting the parts of the machine");
    }
    saver->metadata_writer =
        (struct archive_writer){.write = buffer_write, .ctx = &saver->metadata};
    save_description_put(&metadata, &saver->metadata_writer);
    rc = machine_each_section(saver->machine, put_section, saver);
    if (rc == 0 && saver->metadata_writer.status < 0) {
        rc = error_set_errno(saver->err, -saver->metadata_writer.status, "saving the machine");
    }
    if (rc < 0) {
        return rc;
    }
    return file_write_at(saver->fd, saver->metadata.data, saver->metadata.size, SAVE_PAGE, WHAT,
                         saver->err);
}

static int flush_extents(struct saver *saver)
{
    saver->extents_crc = save_checksum(saver->extents_crc, saver->extents, saver->extents_used);
    uint64_t at = saver->header.extents_offset + saver->header.extent_count * SAVE_EXTENT_SIZE -
                  saver->extents_used;
    int rc = file_write_at(saver->fd, saver->extents, saver->extents_used, at, WHAT, saver->err);
    saver->extents_used = 0;
    return rc;
}

/* The run is over: into the table. */
static int end_run(struct saver *saver)
{
    if (saver->run_size == 0) {
        return 0;
    }
    le64_put(saver->extents + saver->extents_used, saver->run_offset);
    le64_put(saver->extents + saver->extents_used + 8, saver->run_size);
    saver->extents_used += SAVE_EXTENT_SIZE;
    saver->header.extent_count++;
    saver->run_size = 0;
    return saver->extents_used == sizeof(saver->extents) ? flush_extents(saver) : 0;
}

static bool page_is_zero(const uint8_t *page)
{
    /* A page is zero if it starts so and each word equals the one before. */
    uint64_t first;
    memcpy(&first, page, sizeof(first));
    return first == 0 && memcmp(page, page + sizeof(first), SAVE_PAGE - sizeof(first)) == 0;
}

/* 'size' bytes that are not zero: to their place in the file, and to the run. */
static int put_pages(struct saver *saver, const uint8_t *data, uint64_t offset, uint64_t size)
{
    if (saver->run_size != 0 && saver->run_offset + saver->run_size != offset) {
        int rc = end_run(saver);
        if (rc < 0) {
            return rc;
        }
    }
    if (saver->run_size == 0) {
        saver->run_offset = offset;
    }
    saver->run_size += size;
    return file_write_at(saver->fd, data, size, saver->header.memory_offset + offset, WHAT,
                         saver->err);
}

static void report(struct saver *saver, uint64_t size)
{
    saver->done += size;
    if (saver->progress != NULL) {
        saver->progress(saver->ctx, MIN(saver->done, saver->total), saver->total);
    }
}

/* One stretch of memory that the host has given pages to. 'offset' is that of its first byte. */
static int put_stretch(struct saver *saver, const uint8_t *data, uint64_t offset, uint64_t size)
{
    uint64_t chunk_start = 0;
    for (uint64_t at = 0; at < size; at += SAVE_PAGE) {
        bool is_zero = page_is_zero(data + at);
        if (!is_zero && at + SAVE_PAGE - chunk_start < WRITE_CHUNK && at + SAVE_PAGE < size) {
            continue;
        }
        uint64_t chunk_end = is_zero ? at : at + SAVE_PAGE;
        if (chunk_end != chunk_start) {
            int rc =
                put_pages(saver, data + chunk_start, offset + chunk_start, chunk_end - chunk_start);
            if (rc < 0) {
                return rc;
            }
            report(saver, chunk_end - chunk_start);
        }
        if (is_zero) {
            saver->done += SAVE_PAGE;
        }
        chunk_start = at + SAVE_PAGE;
    }
    return 0;
}

/* The next stretch [start, end) of the slot at or after '*start' that holds data; false: none. Memory that was never
 * touched must not be read: the read would make the host give it pages. */
static bool next_stretch(const struct guest_slot *slot, uint64_t *start, uint64_t *end)
{
    if (*start >= slot->size_bytes) {
        return false;
    }
    off_t data = lseek(slot->fd, (off_t)(slot->fd_offset + *start), SEEK_DATA);
    if (data < 0 && errno == ENXIO) {
        return false;
    }
    off_t hole = data < 0 ? -1 : lseek(slot->fd, data, SEEK_HOLE);
    if (hole < 0) { /* no such service (huge pages of old kernels): all of it */
        *end = slot->usable_bytes;
        return *start < *end;
    }
    uint64_t limit = slot->fd_offset + slot->size_bytes;
    if ((uint64_t)data >= limit) {
        return false;
    }
    *start = align_down((uint64_t)data - slot->fd_offset, SAVE_PAGE);
    *end = align_up(MIN((uint64_t)hole, limit) - slot->fd_offset, SAVE_PAGE);
    return true;
}

static void count_memory(struct saver *saver, const struct guest_memory *memory)
{
    for (size_t i = 0; i < memory->slot_count; i++) {
        uint64_t start = 0;
        uint64_t end;
        while (next_stretch(&memory->slot[i], &start, &end)) {
            saver->total += end - start;
            start = end;
        }
        saver->header.memory_size += memory->slot[i].size_bytes;
    }
}

static int put_memory(struct saver *saver, const struct guest_memory *memory)
{
    uint64_t base = 0;
    for (size_t i = 0; i < memory->slot_count; i++) {
        const struct guest_slot *slot = &memory->slot[i];
        uint64_t start = 0;
        uint64_t end;
        while (next_stretch(slot, &start, &end)) {
            int rc = put_stretch(saver, slot->hva + start, base + start, end - start);
            if (rc < 0) {
                return rc;
            }
            start = end;
        }
        base += slot->size_bytes;
    }
    int rc = end_run(saver);
    return rc < 0 ? rc : flush_extents(saver);
}

/* The end, everything to the disk, and only then the header that makes it a saved state. */
static int put_frame(struct saver *saver)
{
    uint8_t end[SAVE_END_SIZE];
    uint8_t header[SAVE_HEADER_SIZE];
    save_end_put(save_checksum(0, saver->metadata.data, saver->metadata.size), saver->extents_crc,
                 end);
    save_header_put(&saver->header, header);
    uint64_t end_offset =
        saver->header.extents_offset + saver->header.extent_count * SAVE_EXTENT_SIZE;
    int rc = file_write_at(saver->fd, end, sizeof(end), end_offset, WHAT, saver->err);
    if (rc == 0 && fsync(saver->fd) < 0) {
        rc = error_set_errno(saver->err, errno, "writing %s", WHAT);
    }
    if (rc == 0) {
        rc = file_write_at(saver->fd, header, sizeof(header), 0, WHAT, saver->err);
    }
    if (rc == 0 && fsync(saver->fd) < 0) {
        rc = error_set_errno(saver->err, errno, "writing %s", WHAT);
    }
    return rc;
}

int save_write(struct machine *machine, int fd,
               void (*progress)(void *ctx, uint64_t done, uint64_t total), void *ctx,
               struct error *err)
{
    struct saver saver = {
        .machine = machine, .fd = fd, .err = err, .progress = progress, .ctx = ctx};
    const struct guest_memory *memory = machine_memory(machine);
    int rc = put_metadata(&saver);
    if (rc == 0) {
        saver.header.metadata_size = saver.metadata.size;
        saver.header.memory_offset =
            align_up(SAVE_PAGE + saver.metadata.size, (uint64_t)HUGE_PAGE_SIZE);
        count_memory(&saver, memory);
        saver.header.extents_offset = saver.header.memory_offset + saver.header.memory_size;
        rc = put_memory(&saver, memory);
    }
    if (rc == 0) {
        rc = put_frame(&saver);
    }
    if (rc == 0) {
        saver.done = saver.total;
        report(&saver, 0);
    }
    free(saver.metadata.data);
    free(saver.section.data);
    return rc;
}
