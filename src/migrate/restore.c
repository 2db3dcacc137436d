/* Reading a saved state into a new machine; the layout is in save_format.h. */
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "base/host/file.h"
#include "migrate/save.h"
#include "migrate/save_format.h"

#define WHAT          "saved state"
#define EXTENTS_CHUNK 1024u

/* Collects every difference, so that the user can repair the command line at once. */
struct differences {
    char text[ERROR_TEXT_SIZE];
    size_t used;
};

static void differ(struct differences *differences, const char *format, ...) printf_like(2, 3);
static void differ(struct differences *differences, const char *format, ...)
{
    if (differences->used >= sizeof(differences->text) - 1) {
        return;
    }
    char *to = differences->text + differences->used;
    size_t room = sizeof(differences->text) - differences->used;
    if (differences->used != 0) {
        int length = snprintf(to, room, "; ");
        to += MIN((size_t)length, room - 1);
        room = sizeof(differences->text) - (size_t)(to - differences->text);
    }
    va_list args;
    va_start(args, format);
    (void)vsnprintf(to, room, format, args); /* a cut list is still a list */
    va_end(args);
    differences->used = strlen(differences->text);
}

static void compare_machine(const struct save_metadata *metadata, struct machine *machine,
                            struct differences *differences)
{
    const struct machine_config *config = machine_get_config(machine);
    const struct guest_memory *memory = machine_memory(machine);
    const char *cpu_model = config->cpu_model != NULL ? config->cpu_model : "host";
    if (strcmp(metadata->board, config->board) != 0) {
        differ(differences, "made on board %s, this machine is %s", metadata->board, config->board);
    }
    if (strcmp(metadata->cpu_model, cpu_model) != 0) {
        differ(differences, "made with CPU model %s, this machine has %s", metadata->cpu_model,
               cpu_model);
    }
    if (metadata->vcpu_count != config->vcpu_max) {
        differ(differences, "made with %s%u vCPU%s, this machine has %u",
               config->vcpu_max != config->vcpu_count ? "at most " : "", metadata->vcpu_count,
               metadata->vcpu_count == 1 ? "" : "s", config->vcpu_max);
    }
    if (metadata->memory_bytes != config->memory_bytes) {
        differ(differences, "made with %llu MiB of memory, this machine has %llu",
               (unsigned long long)(metadata->memory_bytes >> 20),
               (unsigned long long)(config->memory_bytes >> 20));
        return;
    }
    bool is_same = metadata->slot_count == memory->slot_count;
    for (size_t i = 0; is_same && i < memory->slot_count; i++) {
        is_same = metadata->slot[i].gpa == memory->slot[i].gpa &&
                  metadata->slot[i].size_bytes == memory->slot[i].size_bytes;
    }
    if (!is_same) {
        differ(differences, "its memory lies at other addresses");
    }
}

static struct save_section *find_section(const struct save_metadata *metadata, const char *name)
{
    for (uint32_t i = 0; i < metadata->section_count; i++) {
        if (!metadata->section[i].is_used && strcmp(metadata->section[i].name, name) == 0) {
            return &metadata->section[i];
        }
    }
    return NULL;
}

struct restorer {
    struct save_metadata metadata;
    struct differences differences;
    struct error *err;
};

static int match_section(void *ctx, struct machine *machine, const struct machine_section *section)
{
    struct restorer *restorer = ctx;
    struct save_section *found = find_section(&restorer->metadata, section->name);
    if (found == NULL) {
        differ(&restorer->differences, "made without %s, which this machine has", section->name);
    } else {
        found->is_used = true;
    }
    return 0;
}

/* Everything that does not fit, in one error. */
static int compare(struct restorer *restorer, struct machine *machine)
{
    compare_machine(&restorer->metadata, machine, &restorer->differences);
    int rc = machine_each_section(machine, match_section, restorer);
    if (rc < 0) {
        return error_set_errno(restorer->err, -rc, "looking at the parts of the machine");
    }
    for (uint32_t i = 0; i < restorer->metadata.section_count; i++) {
        struct save_section *section = &restorer->metadata.section[i];
        if (!section->is_used) {
            differ(&restorer->differences, "made with %s, which this machine lacks", section->name);
        }
        section->is_used = false;
    }
    return restorer->differences.used == 0
               ? 0
               : error_set(restorer->err, EINVAL, "%s", restorer->differences.text);
}

static int restore_section(void *ctx, struct machine *machine,
                           const struct machine_section *section)
{
    struct restorer *restorer = ctx;
    struct save_section *found = find_section(&restorer->metadata, section->name);
    if (found == NULL) {
        return error_set(restorer->err, EINVAL, "made without %s", section->name);
    }
    found->is_used = true;
    if (found->version > section->version) {
        return error_set(restorer->err, EOPNOTSUPP,
                         "%s has version %u, this hull reads up to version %u", section->name,
                         found->version, section->version);
    }
    struct archive_reader reader;
    archive_reader_init(&reader, found->payload, found->size);
    int rc = machine_restore_section(machine, section, found->version, &reader, restorer->err);
    return rc < 0 ? error_prefix(restorer->err, rc, "%s", section->name) : 0;
}

/* The slot at 'offset' of the memory's bytes in the file, and the offset within it. */
static const struct guest_slot *slot_at(const struct guest_memory *memory, uint64_t *offset)
{
    for (size_t i = 0; i < memory->slot_count; i++) {
        if (*offset < memory->slot[i].size_bytes) {
            return &memory->slot[i];
        }
        *offset -= memory->slot[i].size_bytes;
    }
    return NULL;
}

static int read_extent(struct guest_memory *memory, int fd, uint64_t memory_offset, uint64_t offset,
                       uint64_t size, struct error *err)
{
    while (size != 0) {
        uint64_t within = offset;
        const struct guest_slot *slot = slot_at(memory, &within);
        if (slot == NULL) {
            return error_set(err, EBADMSG,
                             "the file is damaged: it holds more memory than the machine");
        }
        uint64_t chunk = MIN(size, slot->size_bytes - within);
        int rc = file_read_at(fd, slot->hva + within, chunk, memory_offset + offset, WHAT, err);
        if (rc < 0) {
            return rc;
        }
        guest_memory_written(memory, slot->gpa + within, chunk);
        offset += chunk;
        size -= chunk;
    }
    return 0;
}

/* The new machine's memory holds boot files: what the saved one had as zeros must be zeros again. And all of it takes what the
 * file has: the device that says how much of a slot is there comes later. */
static int prepare_memory(struct guest_memory *memory, struct error *err)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < memory->slot_count; i++) {
        const struct guest_slot *slot = &memory->slot[i];
        guest_memory_discard(memory, slot->gpa, slot->size_bytes);
        if (slot->usable_bytes != slot->size_bytes) {
            rc = guest_memory_set_usable(memory, slot->gpa, slot->size_bytes, err);
        }
    }
    return rc;
}

/* A file in memory that may be written has been given to us. */
static bool is_given(const struct machine *machine, int fd)
{
    struct statfs system;
    int flags = fcntl(fd, F_GETFL);
    return flags >= 0 && (flags & O_ACCMODE) == O_RDWR && fstatfs(fd, &system) == 0 &&
           system.f_type == TMPFS_MAGIC && !machine_get_config(machine)->huge_pages;
}

/* Behind the memory the file has more, so that it is long enough. */
static int take_memory(struct guest_memory *memory, int fd, uint64_t offset, struct error *err)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < memory->slot_count; i++) {
        rc = guest_memory_replace(memory, i, fd, offset, err);
        offset += memory->slot[i].size_bytes;
    }
    return rc;
}

static int restore_memory(struct machine *machine, int fd, const struct save_header *header,
                          uint32_t *out_crc, struct error *err)
{
    struct guest_memory *memory = machine_memory(machine);
    uint8_t table[EXTENTS_CHUNK * SAVE_EXTENT_SIZE];
    uint64_t end = 0;
    uint32_t crc = 0;
    bool is_taken = is_given(machine, fd);
    int rc = is_taken ? take_memory(memory, fd, header->memory_offset, err)
                      : prepare_memory(memory, err);
    if (rc < 0) {
        return rc;
    }
    for (uint64_t done = 0; done < header->extent_count;) {
        size_t count = (size_t)MIN(header->extent_count - done, (uint64_t)EXTENTS_CHUNK);
        rc = file_read_at(fd, table, count * SAVE_EXTENT_SIZE,
                          header->extents_offset + done * SAVE_EXTENT_SIZE, WHAT, err);
        crc = save_checksum(crc, table, count * SAVE_EXTENT_SIZE);
        for (size_t i = 0; rc == 0 && i < count; i++) {
            uint64_t offset;
            uint64_t size;
            rc = save_extent_parse(table + i * SAVE_EXTENT_SIZE, header->memory_size, &end, &offset,
                                   &size, err);
            if (rc == 0 && !is_taken) {
                rc = read_extent(memory, fd, header->memory_offset, offset, size, err);
            }
        }
        if (rc < 0) {
            return rc;
        }
        done += count;
    }
    *out_crc = crc;
    return 0;
}

static int read_metadata(int fd, const struct save_header *header, uint8_t **out_bytes,
                         struct error *err)
{
    uint8_t *bytes = malloc(header->metadata_size + 1);
    if (bytes == NULL) {
        return error_set_errno(err, ENOMEM, "reading " WHAT);
    }
    int rc = file_read_at(fd, bytes, header->metadata_size, SAVE_PAGE, WHAT, err);
    if (rc < 0) {
        free(bytes);
        return rc;
    }
    *out_bytes = bytes;
    return 0;
}

static int read_header(int fd, struct save_header *out_header, struct error *err)
{
    struct stat status;
    uint8_t bytes[SAVE_HEADER_SIZE] = {0};
    if (fstat(fd, &status) < 0) {
        return error_set_errno(err, errno, "reading " WHAT);
    }
    if (status.st_size >= (off_t)SAVE_HEADER_SIZE) {
        int rc = file_read_at(fd, bytes, sizeof(bytes), 0, WHAT, err);
        if (rc < 0) {
            return rc;
        }
    }
    return save_header_parse(bytes, (uint64_t)status.st_size, out_header, err);
}

static int restore_all(struct restorer *restorer, struct machine *machine, int fd,
                       const struct save_header *header, const uint8_t *bytes)
{
    struct error *err = restorer->err;
    int rc = compare(restorer, machine);
    if (rc == 0 && header->memory_size != machine_memory(machine)->size_bytes) {
        rc = error_set(err, EBADMSG, "the file is damaged: its memory has another size");
    }
    uint32_t extents_crc = 0;
    if (rc == 0) {
        rc = restore_memory(machine, fd, header, &extents_crc, err);
    }
    uint8_t end[SAVE_END_SIZE];
    if (rc == 0) {
        rc = file_read_at(fd, end, sizeof(end),
                          header->extents_offset + header->extent_count * SAVE_EXTENT_SIZE, WHAT,
                          err);
    }
    if (rc == 0) {
        rc = save_end_parse(end, save_checksum(0, bytes, header->metadata_size), extents_crc, err);
    }
    /* Devices come last: some look into the memory of their queues. */
    return rc < 0 ? rc : machine_each_section(machine, restore_section, restorer);
}

/* Memory that was not there from the start lies in slots of its own; vCPUs that come and go have a section. */
static int read_sizes(struct save_metadata *metadata, struct save_sizes *out_sizes,
                      struct error *err)
{
    uint64_t all = 0;
    for (uint32_t i = 0; i < metadata->slot_count; i++) {
        all += metadata->slot[i].size_bytes;
    }
    if (all < metadata->memory_bytes || metadata->vcpu_count == 0 ||
        metadata->vcpu_count > ENGINE_MAX_VCPUS) {
        return error_set(err, EBADMSG, "the file is damaged: the sizes of its machine cannot be");
    }
    bool has_cpu_events = find_section(metadata, "acpi-cpus.0") != NULL;
    *out_sizes = (struct save_sizes){
        .vcpu_count = has_cpu_events ? 1 : metadata->vcpu_count,
        .vcpu_max = has_cpu_events ? metadata->vcpu_count : 0,
        .memory_bytes = metadata->memory_bytes,
        .memory_max_bytes = all,
    };
    return 0;
}

int save_read_sizes(int fd, struct save_sizes *out_sizes, struct error *err)
{
    struct save_header header;
    uint8_t *bytes = NULL;
    struct save_metadata metadata = {.section = NULL};
    int rc = read_header(fd, &header, err);
    if (rc == 0) {
        rc = read_metadata(fd, &header, &bytes, err);
    }
    if (rc == 0) {
        rc = save_metadata_parse(bytes, header.metadata_size, &metadata, err);
    }
    if (rc == 0) {
        rc = read_sizes(&metadata, out_sizes, err);
    }
    save_metadata_fini(&metadata);
    free(bytes);
    return rc;
}

int save_restore(struct machine *machine, int fd, struct error *err)
{
    struct save_header header;
    uint8_t *bytes = NULL;
    struct restorer restorer = {.err = err};
    int rc = read_header(fd, &header, err);
    if (rc == 0) {
        rc = read_metadata(fd, &header, &bytes, err);
    }
    if (rc == 0) {
        rc = save_metadata_parse(bytes, header.metadata_size, &restorer.metadata, err);
    }
    if (rc == 0) {
        rc = restore_all(&restorer, machine, fd, &header, bytes);
    }
    save_metadata_fini(&restorer.metadata);
    free(bytes);
    return rc;
}
