/* The metadata region of a VHDX: a table of items (GUID, offset, length, flags), and the items behind it. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/core/bits.h"
#include "base/core/checked.h"
#include "base/core/endian.h"
#include "base/host/file.h"
#include "block/format/foreign/vhdx.h"

#define MAX_ITEMS      1024u
#define FLAG_USER      BIT(0)
#define FLAG_REQUIRED  BIT(2)
#define MIN_BLOCK      (1u << 20)
#define MAX_BLOCK      (256u << 20)
#define MAX_LOCATOR    (64u << 10)
#define MAX_PAIRS      64u
#define LOCATOR_HEADER 20u
#define PAIR_SIZE      12u
#define KEY_UNITS      64u

const uint8_t vhdx_guid_bat[] = {0x66, 0x77, 0xc2, 0x2d, 0x23, 0xf6, 0x00, 0x42,
                                 0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 0x08};
const uint8_t vhdx_guid_metadata[] = {0x06, 0xa2, 0x7c, 0x8b, 0x90, 0x47, 0x9a, 0x4b,
                                      0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e};
const uint8_t vhdx_guid_file_parameters[] = {0x37, 0x67, 0xa1, 0xca, 0x36, 0xfa, 0x43, 0x4d,
                                             0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44, 0xe7, 0x6b};
const uint8_t vhdx_guid_disk_size[] = {0x24, 0x42, 0xa5, 0x2f, 0x1b, 0xcd, 0x76, 0x48,
                                       0xb2, 0x11, 0x5d, 0xbe, 0xd8, 0x3b, 0xf4, 0xb8};
const uint8_t vhdx_guid_logical_sector[] = {0x1d, 0xbf, 0x41, 0x81, 0x6f, 0xa9, 0x09, 0x47,
                                            0xba, 0x47, 0xf2, 0x33, 0xa8, 0xfa, 0xab, 0x5f};
const uint8_t vhdx_guid_physical_sector[] = {0xc7, 0x48, 0xa3, 0xcd, 0x5d, 0x44, 0x71, 0x44,
                                             0x9c, 0xc9, 0xe9, 0x88, 0x52, 0x51, 0xc5, 0x56};
const uint8_t vhdx_guid_page83[] = {0xab, 0x12, 0xca, 0xbe, 0xe6, 0xb2, 0x23, 0x45,
                                    0x93, 0xef, 0xc3, 0x09, 0xe0, 0x00, 0xc7, 0x46};
const uint8_t vhdx_guid_parent_locator[] = {0x2d, 0x5f, 0xd3, 0xa8, 0x0b, 0xb3, 0x4d, 0x45,
                                            0xab, 0xf7, 0xd3, 0xd8, 0x48, 0x34, 0xab, 0x0c};
const uint8_t vhdx_guid_parent_type[] = {0xb7, 0xef, 0x4a, 0xb0, 0x9e, 0xd1, 0x81, 0x4a,
                                         0xb7, 0x89, 0x25, 0xb8, 0xe9, 0x44, 0x59, 0x13};

struct item {
    bool is_there;
    uint32_t offset; /* in the region */
    uint32_t size;
};

enum item_id {
    FILE_PARAMETERS,
    DISK_SIZE,
    LOGICAL_SECTOR,
    PHYSICAL_SECTOR,
    PAGE83,
    PARENT_LOCATOR,
    ITEM_COUNT
};

static const struct {
    const uint8_t *guid;
    const char *name;
    uint32_t size;
    bool is_needed;
} known_items[ITEM_COUNT] = {
    [FILE_PARAMETERS] = {vhdx_guid_file_parameters, "file parameters", 8, true},
    [DISK_SIZE] = {vhdx_guid_disk_size, "virtual disk size", 8, true},
    [LOGICAL_SECTOR] = {vhdx_guid_logical_sector, "logical sector size", 4, true},
    [PHYSICAL_SECTOR] = {vhdx_guid_physical_sector, "physical sector size", 4, false},
    [PAGE83] = {vhdx_guid_page83, "disk identifier", 16, false},
    [PARENT_LOCATOR] = {vhdx_guid_parent_locator, "parent locator", LOCATOR_HEADER, false},
};

static int parse_entry(const uint8_t *entry, const struct vhdx_region *region, struct item *items,
                       struct error *err)
{
    uint32_t flags = le32_get(entry + 24);
    uint32_t offset = le32_get(entry + 16);
    uint32_t size = le32_get(entry + 20);
    size_t id = 0;
    while (id < ITEM_COUNT &&
           ((flags & FLAG_USER) != 0 || memcmp(entry, known_items[id].guid, VHDX_GUID_SIZE) != 0)) {
        id++;
    }
    if (id == ITEM_COUNT) {
        char text[FOREIGN_ID_SIZE];
        foreign_guid_text(entry, true, text);
        return (flags & FLAG_REQUIRED) == 0
                   ? 0
                   : error_set(err, EOPNOTSUPP, "required metadata item %s is not known", text);
    }
    if (items[id].is_there) {
        return error_set(err, EINVAL, "%s is there twice", known_items[id].name);
    }
    if (size < known_items[id].size || offset < VHDX_METADATA_TABLE ||
        !range_fits(offset, size, region->size_bytes)) {
        return error_set(err, EINVAL, "%s has %u bytes at %u of the metadata region",
                         known_items[id].name, size, offset);
    }
    items[id] = (struct item){true, offset, size};
    return 0;
}

static int read_items(const struct foreign_file *file, const struct vhdx_region *region,
                      struct item *items, struct error *err)
{
    AUTO_FREE uint8_t *table = malloc(VHDX_METADATA_TABLE);
    if (table == NULL) {
        return error_set_errno(err, ENOMEM, "reading the metadata table");
    }
    int rc =
        foreign_read(file, region->offset, table, VHDX_METADATA_TABLE, "the metadata table", err);
    if (rc < 0) {
        return rc;
    }
    uint16_t count = le16_get(table + 10);
    if (memcmp(table, "metadata", 8) != 0 || count > MAX_ITEMS) {
        return error_set(err, EINVAL, "the metadata table has no signature, or %u entries", count);
    }
    for (uint16_t i = 0; i < count; i++) {
        rc = parse_entry(table + 32 + 32 * (size_t)i, region, items, err);
        if (rc < 0) {
            return rc;
        }
    }
    for (size_t i = 0; i < ITEM_COUNT; i++) {
        if (known_items[i].is_needed && !items[i].is_there) {
            return error_set(err, EINVAL, "there is no metadata item %s", known_items[i].name);
        }
    }
    return 0;
}

static int read_item(const struct foreign_file *file, const struct vhdx_region *region,
                     const struct item *items, enum item_id id, uint8_t *out_data,
                     struct error *err)
{
    return foreign_read(file, region->offset + items[id].offset, out_data, known_items[id].size,
                        known_items[id].name, err);
}

/* One key and value of the parent locator: those that name the parent. */
static void take_pair(const char *key, const char *value, struct foreign_info *info)
{
    if (strcmp(key, "parent_linkage") == 0) {
        size_t used = 0; /* "{83ed8c00-...}": without braces, in small letters */
        for (const char *c = value; *c != '\0' && used + 1 < sizeof(info->parent_id); c++) {
            if (isxdigit((unsigned char)*c) || *c == '-') {
                info->parent_id[used++] = (char)tolower((unsigned char)*c);
            }
        }
        info->parent_id[used] = '\0';
    } else if (strcmp(key, "relative_path") == 0 ||
               (strcmp(key, "absolute_win32_path") == 0 && info->parent_name[0] == '\0')) {
        size_t length = MIN(strlen(value), sizeof(info->parent_name) - 1);
        memcpy(info->parent_name, value, length);
        info->parent_name[length] = '\0';
    }
}

static int read_locator(const struct foreign_file *file, const struct vhdx_region *region,
                        const struct item *item, struct foreign_info *info, struct error *err)
{
    if (item->size > MAX_LOCATOR) {
        return error_set(err, EINVAL, "the parent locator has %u bytes: %u are accepted",
                         item->size, MAX_LOCATOR);
    }
    AUTO_FREE uint8_t *data = malloc(item->size);
    if (data == NULL) {
        return error_set_errno(err, ENOMEM, "reading the parent locator");
    }
    int rc = foreign_read(file, region->offset + item->offset, data, item->size,
                          "the parent locator", err);
    if (rc < 0) {
        return rc;
    }
    uint32_t count = le16_get(data + 18);
    if (memcmp(data, vhdx_guid_parent_type, VHDX_GUID_SIZE) != 0 || count > MAX_PAIRS ||
        LOCATOR_HEADER + count * PAIR_SIZE > item->size) {
        return error_set(err, EOPNOTSUPP, "the parent locator is of an unknown type or too long");
    }
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *pair = data + LOCATOR_HEADER + (size_t)i * PAIR_SIZE;
        uint32_t key_at = le32_get(pair);
        uint32_t value_at = le32_get(pair + 4);
        uint16_t key_size = le16_get(pair + 8);
        uint16_t value_size = le16_get(pair + 10);
        if (!range_fits(key_at, key_size, item->size) ||
            !range_fits(value_at, value_size, item->size)) {
            return error_set(err, EINVAL, "entry %u of the parent locator lies outside of it", i);
        }
        char key[KEY_UNITS];
        char value[FOREIGN_NAME_SIZE];
        foreign_utf16(data + key_at, key_size / 2, false, key, sizeof(key));
        foreign_utf16(data + value_at, value_size / 2, false, value, sizeof(value));
        take_pair(key, value, info);
    }
    return 0;
}

static int check_metadata(const struct vhdx_metadata *metadata, struct error *err)
{
    if (!is_power_of_two(metadata->block_size) || metadata->block_size < MIN_BLOCK ||
        metadata->block_size > MAX_BLOCK) {
        return error_set(err, EINVAL,
                         "the block size is %u: a power of two from 1 MiB to 256 MiB is accepted",
                         metadata->block_size);
    }
    if (metadata->logical_sector != 512 && metadata->logical_sector != 4096) {
        return error_set(err, EINVAL, "the logical sector size is %u: 512 and 4096 are accepted",
                         metadata->logical_sector);
    }
    if (metadata->size_bytes % metadata->logical_sector != 0) {
        return error_set(err, EINVAL, "the disk's size is no multiple of its sectors' size");
    }
    return foreign_check_size(metadata->size_bytes, err);
}

int vhdx_metadata_read(const struct foreign_file *file, const struct vhdx_region *region,
                       struct vhdx_metadata *out_metadata, struct foreign_info *info,
                       struct error *err)
{
    struct item items[ITEM_COUNT] = {0};
    int rc = read_items(file, region, items, err);
    uint8_t parameters[8];
    uint8_t size[8];
    uint8_t sector[4];
    if (rc < 0 || (rc = read_item(file, region, items, FILE_PARAMETERS, parameters, err)) < 0 ||
        (rc = read_item(file, region, items, DISK_SIZE, size, err)) < 0 ||
        (rc = read_item(file, region, items, LOGICAL_SECTOR, sector, err)) < 0) {
        return rc;
    }
    struct vhdx_metadata metadata = {.size_bytes = le64_get(size),
                                     .block_size = le32_get(parameters),
                                     .logical_sector = le32_get(sector),
                                     .is_fixed = (parameters[4] & 1) != 0,
                                     .has_parent = (parameters[4] & 2) != 0};
    rc = check_metadata(&metadata, err);
    if (rc == 0 && metadata.has_parent) {
        rc = items[PARENT_LOCATOR].is_there
                 ? read_locator(file, region, &items[PARENT_LOCATOR], info, err)
                 : error_set(err, EINVAL, "it has a parent, but no parent locator");
    }
    if (rc == 0) {
        *out_metadata = metadata;
    }
    return rc;
}
