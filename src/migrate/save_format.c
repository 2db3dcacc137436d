#include "migrate/save_format.h"

#include <stdlib.h>
#include <string.h>

#include "base/core/bits.h"
#include "base/core/checked.h"
#include "base/core/crc32c.h"
#include "base/core/endian.h"

uint32_t save_checksum(uint32_t crc, const void *data, size_t size)
{
    return crc32c(crc, data, size);
}

/* Header: magic, version and flags (0), five 64-bit fields, a checksum in the last four bytes. */
void save_header_put(const struct save_header *header, uint8_t *out_bytes)
{
    memset(out_bytes, 0, SAVE_HEADER_SIZE);
    memcpy(out_bytes, SAVE_MAGIC, SAVE_MAGIC_SIZE);
    le32_put(out_bytes + 8, SAVE_VERSION);
    le64_put(out_bytes + 16, header->metadata_size);
    le64_put(out_bytes + 24, header->memory_offset);
    le64_put(out_bytes + 32, header->memory_size);
    le64_put(out_bytes + 40, header->extents_offset);
    le64_put(out_bytes + 48, header->extent_count);
    le32_put(out_bytes + 60, save_checksum(0, out_bytes, 60));
}

static int damaged(const char *what, struct error *err)
{
    return error_set(err, EBADMSG, "the file is damaged: %s", what);
}

int save_header_parse(const uint8_t *bytes, uint64_t file_size, struct save_header *out_header,
                      struct error *err)
{
    if (memcmp(bytes, SAVE_MAGIC, SAVE_MAGIC_SIZE) != 0) {
        return error_set(err, EINVAL,
                         "not a saved state: a file that `hull ctl PATH save` wrote is needed");
    }
    uint32_t version = le32_get(bytes + 8);
    if (version != SAVE_VERSION) {
        return error_set(err, EOPNOTSUPP, "its format has version %u: this hull reads version %u",
                         version, SAVE_VERSION);
    }
    if (le32_get(bytes + 60) != save_checksum(0, bytes, 60)) {
        return damaged("the header's checksum is wrong", err);
    }
    struct save_header header = {
        .metadata_size = le64_get(bytes + 16),
        .memory_offset = le64_get(bytes + 24),
        .memory_size = le64_get(bytes + 32),
        .extents_offset = le64_get(bytes + 40),
        .extent_count = le64_get(bytes + 48),
    };
    bool is_sound = header.metadata_size <= SAVE_MAX_METADATA &&
                    header.memory_size <= SAVE_MAX_MEMORY &&
                    header.memory_offset % SAVE_PAGE == 0 && header.memory_size % SAVE_PAGE == 0 &&
                    header.extent_count <= header.memory_size / SAVE_PAGE &&
                    range_fits(SAVE_PAGE, header.metadata_size, header.memory_offset) &&
                    range_fits(header.memory_offset, header.memory_size, header.extents_offset) &&
                    range_fits(header.extents_offset,
                               header.extent_count * SAVE_EXTENT_SIZE + SAVE_END_SIZE, file_size);
    if (!is_sound) {
        return damaged("its parts do not lie within it, or it was cut short", err);
    }
    *out_header = header;
    return 0;
}

void save_end_put(uint32_t metadata_crc, uint32_t extents_crc, uint8_t *out_bytes)
{
    memcpy(out_bytes, SAVE_END_MAGIC, SAVE_MAGIC_SIZE);
    le32_put(out_bytes + 8, metadata_crc);
    le32_put(out_bytes + 12, extents_crc);
}

int save_end_parse(const uint8_t *bytes, uint32_t metadata_crc, uint32_t extents_crc,
                   struct error *err)
{
    if (memcmp(bytes, SAVE_END_MAGIC, SAVE_MAGIC_SIZE) != 0) {
        return damaged("its end is missing", err);
    }
    if (le32_get(bytes + 8) != metadata_crc || le32_get(bytes + 12) != extents_crc) {
        return damaged("a checksum is wrong", err);
    }
    return 0;
}

static void name_put(const char *name, struct archive_writer *writer)
{
    archive_put_blob(writer, name, (uint32_t)strlen(name));
}

void save_description_put(const struct save_metadata *metadata, struct archive_writer *writer)
{
    name_put(metadata->board, writer);
    name_put(metadata->cpu_model, writer);
    archive_put_u32(writer, metadata->vcpu_count);
    archive_put_u64(writer, metadata->memory_bytes);
    archive_put_u32(writer, metadata->slot_count);
    for (uint32_t i = 0; i < metadata->slot_count; i++) {
        archive_put_u64(writer, metadata->slot[i].gpa);
        archive_put_u64(writer, metadata->slot[i].size_bytes);
    }
    archive_put_u32(writer, metadata->section_count);
}

void save_section_put(const char *name, uint32_t version, const void *payload, uint32_t size,
                      struct archive_writer *writer)
{
    name_put(name, writer);
    archive_put_u32(writer, version);
    archive_put_u32(writer, save_checksum(0, payload, size));
    archive_put_blob(writer, payload, size);
}

/* Printable text: it will stand in messages. */
static bool name_get(struct archive_reader *reader, char *out_name)
{
    uint32_t size = 0;
    const char *text = archive_get_blob(reader, SAVE_NAME_SIZE - 1, &size);
    if (reader->status < 0 || text == NULL) {
        return false;
    }
    for (uint32_t i = 0; i < size; i++) {
        if (text[i] <= ' ' || text[i] > '~') {
            return false;
        }
    }
    memcpy(out_name, text, size);
    out_name[size] = '\0';
    return true;
}

static bool description_get(struct archive_reader *reader, struct save_metadata *metadata)
{
    if (!name_get(reader, metadata->board) || !name_get(reader, metadata->cpu_model)) {
        return false;
    }
    metadata->vcpu_count = archive_get_u32(reader);
    metadata->memory_bytes = archive_get_u64(reader);
    metadata->slot_count = archive_get_u32(reader);
    if (metadata->slot_count > SAVE_MAX_SLOTS) {
        return false;
    }
    for (uint32_t i = 0; i < metadata->slot_count; i++) {
        metadata->slot[i].gpa = archive_get_u64(reader);
        metadata->slot[i].size_bytes = archive_get_u64(reader);
    }
    metadata->section_count = archive_get_u32(reader);
    return reader->status == 0 && metadata->section_count <= SAVE_MAX_SECTIONS;
}

static int sections_get(struct archive_reader *reader, struct save_metadata *metadata,
                        struct error *err)
{
    for (uint32_t i = 0; i < metadata->section_count; i++) {
        struct save_section *section = &metadata->section[i];
        if (!name_get(reader, section->name)) {
            return damaged("a section has no name", err);
        }
        section->version = archive_get_u32(reader);
        uint32_t crc = archive_get_u32(reader);
        section->payload = archive_get_blob(reader, SAVE_MAX_SECTION, &section->size);
        if (reader->status < 0) {
            return error_set(err, EBADMSG, "the file is damaged: section %s is cut short",
                             section->name);
        }
        if (save_checksum(0, section->payload, section->size) != crc) {
            return error_set(err, EBADMSG,
                             "the file is damaged: the checksum of section %s is wrong",
                             section->name);
        }
    }
    return archive_finish(reader, err);
}

int save_metadata_parse(const uint8_t *bytes, size_t size, struct save_metadata *out_metadata,
                        struct error *err)
{
    struct save_metadata metadata = {0};
    struct archive_reader reader;
    archive_reader_init(&reader, bytes, size);
    if (!description_get(&reader, &metadata)) {
        return damaged("the description of its machine makes no sense", err);
    }
    metadata.section = calloc(metadata.section_count + 1, sizeof(*metadata.section));
    if (metadata.section == NULL) {
        return error_set_errno(err, ENOMEM, "reading its sections");
    }
    int rc = sections_get(&reader, &metadata, err);
    if (rc < 0) {
        save_metadata_fini(&metadata);
        return rc;
    }
    *out_metadata = metadata;
    return 0;
}

void save_metadata_fini(struct save_metadata *metadata)
{
    free(metadata->section);
    metadata->section = NULL;
    metadata->section_count = 0;
}

int save_extent_parse(const uint8_t *bytes, uint64_t memory_size, uint64_t *end,
                      uint64_t *out_offset, uint64_t *out_size, struct error *err)
{
    uint64_t offset = le64_get(bytes);
    uint64_t size = le64_get(bytes + 8);
    if (offset % SAVE_PAGE != 0 || size % SAVE_PAGE != 0 || size == 0 || offset < *end ||
        !range_fits(offset, size, memory_size)) {
        return damaged("a part of the memory lies outside of it", err);
    }
    *end = offset + size;
    *out_offset = offset;
    *out_size = size;
    return 0;
}
