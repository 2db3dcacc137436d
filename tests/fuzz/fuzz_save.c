/* Rubbish as a saved state: the first bytes as header (as it is, and with its checksum repaired so that what lies behind
 * is reached), all of it as metadata, and as a table of extents. */
#include <stdint.h>
#include <string.h>

#include "base/core/endian.h"
#include "migrate/save_format.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fuzz_header(const uint8_t *data, size_t size)
{
    uint8_t bytes[SAVE_HEADER_SIZE] = {0};
    struct save_header header;
    memcpy(bytes, data, MIN(size, sizeof(bytes)));
    (void)!save_header_parse(bytes, size, &header, NULL);
    memcpy(bytes, SAVE_MAGIC, SAVE_MAGIC_SIZE);
    le32_put(bytes + 8, SAVE_VERSION);
    le32_put(bytes + 60, save_checksum(0, bytes, 60));
    uint64_t file_size = le64_get(bytes + 52);
    if (save_header_parse(bytes, file_size, &header, NULL) == 0) {
        uint64_t end =
            header.extents_offset + header.extent_count * SAVE_EXTENT_SIZE + SAVE_END_SIZE;
        if (end > file_size || header.memory_offset + header.memory_size > header.extents_offset) {
            __builtin_trap();
        }
    }
}

static void fuzz_metadata(const uint8_t *data, size_t size)
{
    struct save_metadata metadata;
    struct error err;
    if (save_metadata_parse(data, size, &metadata, &err) < 0) {
        return;
    }
    for (uint32_t i = 0; i < metadata.section_count; i++) {
        const struct save_section *section = &metadata.section[i];
        if (strlen(section->name) >= SAVE_NAME_SIZE || section->payload < data ||
            section->payload + section->size > data + size) {
            __builtin_trap();
        }
    }
    save_metadata_fini(&metadata);
}

static void fuzz_extents(const uint8_t *data, size_t size)
{
    uint64_t end = 0;
    uint64_t memory_size = 1ull << 30;
    for (size_t at = 0; size - at >= SAVE_EXTENT_SIZE; at += SAVE_EXTENT_SIZE) {
        uint64_t offset;
        uint64_t extent;
        if (save_extent_parse(data + at, memory_size, &end, &offset, &extent, NULL) < 0) {
            break;
        }
        if (offset + extent > memory_size || offset + extent != end) {
            __builtin_trap();
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_header(data, size);
    fuzz_metadata(data, size);
    fuzz_extents(data, size);
    return 0;
}
