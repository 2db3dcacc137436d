/* Covers block/format/foreign: images made to do harm, in the classes that other programs fell to, and images with a parent, which
 * qemu-img cannot make. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/core/checked.h"
#include "base/core/crc32c.h"
#include "base/core/endian.h"
#include "block/format/foreign/foreign.h"
#include "block/format/foreign/vhdx.h"

#define KIB 1024u
#define MIB (1024u * 1024u)

struct memory {
    uint8_t *data;
    size_t size;
    uint64_t reads;   /* bytes that were read */
    char asked[1200]; /* the last name that was to be opened */
    bool grants;
};

static int read_memory(void *ctx, uint64_t offset, void *out_data, size_t size, struct error *err)
{
    struct memory *memory = ctx;
    assert_true(range_fits(offset, size, memory->size));
    memcpy(out_data, memory->data + offset, size);
    memory->reads += size;
    return 0;
}

static int open_name(void *ctx, const char *name, struct foreign_file *out_file, struct error *err)
{
    struct memory *memory = ctx;
    (void)snprintf(memory->asked, sizeof(memory->asked), "%s", name);
    if (!memory->grants) {
        return error_set(err, EPERM, "not allowed");
    }
    *out_file = (struct foreign_file){read_memory, memory, memory->size};
    return 0;
}

static int open_image(const char *format, struct memory *memory, struct foreign_image **out_image,
                      struct error *err)
{
    struct foreign_file file = {read_memory, memory, memory->size};
    struct foreign_names names = {open_name, memory};
    memory->reads = 0;
    memory->asked[0] = '\0';
    return foreign_open(foreign_find(format), &file, &names, out_image, err);
}

/* It is refused, with all of the words in the message. */
static void refuse(const char *format, struct memory *memory, const char *words)
{
    struct foreign_image *image = NULL;
    struct error err = {0};
    int rc = open_image(format, memory, &image, &err);
    if (rc >= 0 || strstr(err.text, words) == NULL) {
        fail_msg("\"%s\" expected, got %d: %s", words, rc, err.text);
    }
    assert_true(memory->reads < 16 * MIB);
}

static struct foreign_image *accept(const char *format, struct memory *memory)
{
    struct foreign_image *image = NULL;
    struct error err = {0};
    if (open_image(format, memory, &image, &err) < 0) {
        fail_msg("%s", err.text);
    }
    return image;
}

static struct memory make_memory(size_t size)
{
    struct memory memory = {.data = calloc(1, size), .size = size};
    assert_non_null(memory.data);
    return memory;
}

/* --- VMDK --- */

static void describe(struct memory *memory, const char *create_type, const char *lines)
{
    free(memory->data);
    *memory = make_memory(64 * KIB);
    (void)snprintf((char *)memory->data, memory->size,
                   "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\n"
                   "createType=\"%s\"\n%s",
                   create_type, lines);
}

/* CVE-2022-47951, and its incomplete repair, CVE-2024-40767: a descriptor alone names a file of the host as an extent. */
static void test_vmdk_names(void **state)
{
    struct memory memory = {0};
    static const char *const names[] = {"/etc/passwd", "../../secret", "json:{'driver':'file'}",
                                        "nbd://host/x", "/dev/sda"};
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        char line[256];
        (void)snprintf(line, sizeof(line), "RW 8 FLAT \"%s\" 0\n", names[i]);
        describe(&memory, "monolithicFlat", line);
        refuse("vmdk", &memory, "not allowed");
        assert_string_equal(memory.asked,
                            names[i]); /* as it stands there, and nothing was opened */
        struct foreign_file file = {read_memory, &memory, memory.size};
        struct foreign_image *image;
        struct error err;
        assert_int_equal(foreign_open(foreign_find("vmdk"), &file, NULL, &image, &err), -EACCES);
    }
    describe(&memory, "monolithicFlat", "RW 8 FLAT \"a\033[2Jb\" 0\n");
    refuse("vmdk", &memory, "control characters");
    describe(&memory, "monolithicFlat", "RW 8 FLAT \"\" 0\n");
    refuse("vmdk", &memory, "0 characters");
    describe(&memory,
             "full\xc3"
             "Device",
             "RW 8 FLAT \"/dev/sda\" 0\n");
    refuse("vmdk", &memory, "letters and digits");
    describe(&memory, "monolithicFlat", "RW 8 F\xff\x1b[2JT \"x\" 0\n");
    refuse("vmdk", &memory, "type F???2JT are");
    describe(&memory, "fullDevice", "RW 8 FLAT \"/dev/sda\" 0\n");
    refuse("vmdk", &memory, "fullDevice");
    describe(&memory, "monolithicFlat", "RW 8 VMFSRDM \"x\" 0\n");
    refuse("vmdk", &memory, "VMFSRDM");
    describe(&memory, "monolithicFlat", "RW 8 FLAT \"x 0\n");
    refuse("vmdk", &memory, "quotes");
    free(memory.data);
}

/* CVE-2015-5162: how much is read and kept for an image is not the image's choice. */
static void test_vmdk_numbers(void **state)
{
    struct memory memory = {0};
    static const struct {
        const char *line, *words;
    } cases[] = {
        {"RW 18446744073709551615 FLAT \"x\" 0\n", "no number of sectors"},
        {"RW 99999999999999999999999999 FLAT \"x\" 0\n", "no number of sectors"},
        {"RW -8 FLAT \"x\" 0\n", "no number of sectors"},
        {"RW 0 FLAT \"x\" 0\n", "no sectors"},
        {"RW 8 FLAT \"x\" 36028797018963968\n", "no number of sectors"},
        {"RW 8 FLAT \"x\" 2199023255552\n", "too short"},
        {"RW 256 FLAT \"x\" 1\n", "too short"},
        {"RW 8\n", "type"},
        {"RW\n", "no number of sectors"},
        {"", "no extents"},
        {"RW 1099511627776 ZERO\nRW 1099511627776 ZERO\nRW 1099511627776 ZERO\n", "size"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        describe(&memory, "monolithicFlat", cases[i].line);
        memory.grants = true;
        refuse("vmdk", &memory, cases[i].words);
    }
    /* More extents than anybody has. */
    free(memory.data);
    memory = make_memory(200 * KIB);
    size_t used = (size_t)snprintf((char *)memory.data, memory.size,
                                   "# Disk DescriptorFile\ncreateType=\"custom\"\n");
    while (used < memory.size - 32) {
        used += (size_t)snprintf((char *)memory.data + used, memory.size - used, "RW 8 ZERO\n");
    }
    refuse("vmdk", &memory, "more than 2048 extents");
    free(memory.data);
    memory = make_memory(2 * MIB);
    (void)strcpy((char *)memory.data, "# Disk DescriptorFile\n");
    refuse("vmdk", &memory, "descriptor has");
    free(memory.data);
}

static void make_sparse(struct memory *memory)
{
    *memory = make_memory(256 * KIB);
    uint8_t *h = memory->data;
    memcpy(h, "KDMV", 4);
    le32_put(h + 4, 1);
    le32_put(h + 8, 1);
    le64_put(h + 12, 4096); /* 2 MiB */
    le64_put(h + 20, 128);
    le64_put(h + 28, 1);
    le64_put(h + 36, 2);
    le32_put(h + 44, 512);
    le64_put(h + 56, 8);
    (void)strcpy((char *)h + 512, "# Disk DescriptorFile\nCID=1\nparentCID=ffffffff\n"
                                  "createType=\"monolithicSparse\"\nRW 4096 SPARSE \"x\"\n");
    le32_put(h + 8 * 512, 16);       /* directory */
    le32_put(h + 16 * 512, 256);     /* table: first grain */
    le32_put(h + 16 * 512 + 4, 500); /* its end lies behind the file's */
    le32_put(h + 16 * 512 + 8, 0xffffffff);
    memset(h + 256 * 512, 0x5a, 64 * KIB);
}

/* The same, of grain tables and their directory. */
static void test_vmdk_sparse(void **state)
{
    static const struct {
        size_t at, width;
        uint64_t value;
        const char *words;
    } cases[] = {
        {4, 4, 0, "version 0"},
        {4, 4, 9, "version 9"},
        {12, 8, 0, "capacity"},
        {12, 8, UINT64_MAX, "capacity"},
        {12, 8, 1ull << 63, "capacity"},
        {12, 8, 1ull << 41, "grain directory"},
        {20, 8, 0, "grain size"},
        {20, 8, 1, "grain size"},
        {20, 8, 129, "grain size"},
        {20, 8, 1ull << 62, "grain size"},
        {20, 8, 1ull << 32, "grain size"},
        {28, 8, UINT64_MAX, "descriptor at"},
        {36, 8, 1ull << 55, "descriptor at"},
        {36, 8, 0, "one extent of an image"},
        {44, 4, 0, "0 entries"},
        {44, 4, 0xffffffff, "entries"},
        {56, 8, 0, "grain directory"},
        {56, 8, 1ull << 55, "grain directory"},
        {56, 8, UINT64_MAX, "footer"},
        {8, 4, 1u << 16, "compression 0"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct memory memory;
        make_sparse(&memory);
        memcpy(memory.data + cases[i].at, &cases[i].value, cases[i].width);
        refuse("vmdk", &memory, cases[i].words);
        free(memory.data);
    }
    struct memory memory;
    make_sparse(&memory);
    struct foreign_image *image = accept("vmdk", &memory);
    struct foreign_extent extent;
    struct error err;
    assert_int_equal(foreign_map(image, 512, MIB, &extent, &err), 0);
    assert_int_equal(extent.status, FOREIGN_DATA);
    assert_int_equal(extent.file_offset, 256 * 512 + 512);
    assert_int_equal(extent.size_bytes, 64 * KIB - 512); /* the next one is broken */
    assert_int_equal(foreign_map(image, 64 * KIB, 512, &extent, &err), -EINVAL);
    assert_non_null(strstr(err.text, "beyond the end"));
    assert_int_equal(foreign_map(image, 128 * KIB, 512, &extent, &err), -EINVAL);
    assert_int_equal(foreign_map(image, 192 * KIB, MIB, &extent, &err), 0);
    assert_int_equal(extent.status, FOREIGN_HOLE);
    assert_int_equal(extent.size_bytes, MIB);
    foreign_close(image);
    free(memory.data);
}

/* A grain that inflates to far more than a grain, one that is cut off, and one of another place. */
static void test_vmdk_compressed(void **state)
{
    static const uint8_t bomb[] = {0x78, 0x9c, 0xed, 0xc1, 0x01, 0x0d, 0x00, 0x00, 0x00,
                                   0xc2, 0xa0, 0xf7, 0x4f, 0x6d, 0x0e, 0x37, 0xa0};
    struct memory memory;
    make_sparse(&memory);
    uint8_t *h = memory.data;
    le32_put(h + 8, 1u | 1u << 16 | 1u << 17);
    le16_put(h + 77, 1);
    uint8_t *grain = h + 256 * 512;
    memcpy(grain + 12, bomb, sizeof(bomb));
    struct foreign_image *image = accept("vmdk", &memory);
    struct foreign_extent extent;
    struct error err;
    uint8_t *data = malloc(64 * KIB);
    assert_int_equal(foreign_map(image, 0, 64 * KIB, &extent, &err), 0);
    assert_int_equal(extent.status, FOREIGN_ENCODED);
    static const struct {
        uint64_t sector;
        uint32_t size;
        const char *words;
    } cases[] = {{0, sizeof(bomb), "inflated"},
                 {128, sizeof(bomb), "that of sector 128"},
                 {0, 0, "0 compressed bytes"},
                 {0, 0xffffffff, "compressed bytes"},
                 {0, 128 * KIB, "beyond the end"}};
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        le64_put(grain, cases[i].sector);
        le32_put(grain + 8, cases[i].size);
        assert_true(foreign_read_encoded(image, &extent, data, &err) < 0);
        assert_non_null(strstr(err.text, cases[i].words));
    }
    free(data);
    foreign_close(image);
    free(memory.data);
}

/* A disk of 1 PiB without a single grain is looked through in no time. */
static void test_vmdk_empty(void **state)
{
    struct memory memory = make_memory(136u * MIB);
    uint8_t *h = memory.data;
    memcpy(h, "KDMV", 4);
    le32_put(h + 4, 1);
    le64_put(h + 12, 1ull << 41);
    le64_put(h + 20, 128);
    le64_put(h + 28, 1);
    le64_put(h + 36, 2);
    le32_put(h + 44, 512);
    le64_put(h + 56, 8);
    (void)strcpy((char *)h + 512, "# Disk DescriptorFile\ncreateType=\"monolithicSparse\"\n");
    struct foreign_image *image = accept("vmdk", &memory);
    uint64_t size = foreign_get_info(image)->size_bytes;
    assert_int_equal(size, FOREIGN_MAX_SIZE);
    for (uint64_t at = 0; at < size;) {
        struct foreign_extent extent;
        assert_int_equal(foreign_map(image, at, size - at, &extent, NULL), 0);
        assert_int_equal(extent.status, FOREIGN_HOLE);
        at += extent.size_bytes;
    }
    foreign_close(image);
    free(memory.data);
}

static void test_vmdk_parent(void **state)
{
    struct memory memory = {0};
    describe(&memory, "monolithicFlat",
             "parentCID=deadbeef\nparentFileNameHint=\"/etc/shadow\"\nRW 8 ZERO\n");
    struct foreign_image *image = accept("vmdk", &memory);
    const struct foreign_info *info = foreign_get_info(image);
    assert_true(info->needs_parent);
    assert_string_equal(info->parent_id, "deadbeef");
    assert_string_equal(info->parent_name, "/etc/shadow");
    assert_string_equal(info->id, "12345678");
    assert_string_equal(memory.asked, ""); /* a parent is never opened from in here */
    foreign_close(image);
    free(memory.data);
}

/* --- VHD --- */

static void vhd_sum(uint8_t *bytes, size_t size, size_t at)
{
    uint32_t sum = 0;
    be32_put(bytes + at, 0);
    for (size_t i = 0; i < size; i++) {
        sum += bytes[i];
    }
    be32_put(bytes + at, ~sum);
}

/* Differencing, 8 MiB, one block with every second group of 8 sectors here. */
static void make_vhd(struct memory *memory, bool sums)
{
    if (memory->data == NULL) {
        *memory = make_memory(3 * MIB);
        uint8_t *f = memory->data;
        memcpy(f, "conectix", 8);
        be32_put(f + 12, 0x10000);
        be64_put(f + 16, 512);
        memcpy(f + 28, "win ", 4);
        be64_put(f + 48, 8 * MIB);
        be32_put(f + 60, 4);
        uint8_t *h = f + 512;
        memcpy(h, "cxsparse", 8);
        be64_put(h + 16, 2048);
        be32_put(h + 24, 0x10000);
        be32_put(h + 28, 4);
        be32_put(h + 32, 2 * MIB);
        for (size_t i = 0; i < 16; i++) {
            h[40 + i] = (uint8_t)(0x10 + i);
        }
        static const char name[] = "parent.vhd";
        for (size_t i = 0; i < sizeof(name); i++) {
            be16_put(h + 64 + 2 * i, (uint16_t)name[i]);
        }
        memset(f + 2048, 0xff, 512);
        be32_put(f + 2048 + 4, 8); /* block 1: at 4096 */
        for (size_t i = 0; i < 512; i += 2) {
            f[4096 + i] = 0xff;
        }
    }
    if (sums) {
        vhd_sum(memory->data, 512, 64);
        vhd_sum(memory->data + 512, 1024, 36);
    }
    memcpy(memory->data + memory->size - 512, memory->data, 512);
}

static void test_vhd(void **state)
{
    struct memory memory = {0};
    make_vhd(&memory, true);
    struct foreign_image *image = accept("vhd", &memory);
    const struct foreign_info *info = foreign_get_info(image);
    assert_true(info->needs_parent);
    assert_string_equal(info->parent_name, "parent.vhd");
    assert_string_equal(info->parent_id, "10111213-1415-1617-1819-1a1b1c1d1e1f");
    struct foreign_extent extent;
    struct error err;
    assert_int_equal(foreign_map(image, 0, 8 * MIB, &extent, &err), 0);
    assert_int_equal(extent.status, FOREIGN_HOLE);
    assert_int_equal(extent.size_bytes, 2 * MIB);
    assert_int_equal(foreign_map(image, 2 * MIB + 512, MIB, &extent, &err), 0);
    assert_int_equal(extent.status, FOREIGN_DATA);
    assert_int_equal(extent.size_bytes, 4096 - 512);
    assert_int_equal(extent.file_offset, 4096 + 512 + 512);
    assert_int_equal(foreign_map(image, 2 * MIB + 4096, MIB, &extent, &err), 0);
    assert_int_equal(extent.status, FOREIGN_HOLE);
    assert_int_equal(extent.size_bytes, 4096);
    foreign_close(image);
    free(memory.data);

    static const struct {
        size_t at, width;
        uint64_t value;
        bool sums;
        const char *words;
    } cases[] = {
        {70, 1, 1, false, "checksum"},
        {512 + 200, 1, 1, false, "checksum"},
        {12, 4, 0x20000, true, "version 2.0"},
        {16, 8, UINT64_MAX, true, "dynamic header"},
        {16, 8, 1ull << 63, true, "dynamic header"},
        {48, 8, UINT64_MAX, true, "size"},
        {48, 8, 0, true, "size"},
        {48, 8, 513, true, "size"},
        {60, 4, 5, true, "type 5"},
        {60, 4, 2, true, "fixed disk"},
        {512 + 16, 8, UINT64_MAX - 8, true, "block table"},
        {512 + 28, 4, 3, true, "too few"},
        {512 + 28, 4, 0xffffffff, true, "block table"}, /* CVE-2014-0144 */
        {512 + 32, 4, 0, true, "block size"},           /* CVE-2014-0142 */
        {512 + 32, 4, 3 * MIB, true, "block size"},
        {512 + 32, 4, 0x80000000, true, "block size"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct memory bad = {0};
        make_vhd(&bad, true);
        for (size_t b = 0; b < cases[i].width; b++) {
            bad.data[cases[i].at + b] = (uint8_t)(cases[i].value >> (8 * (cases[i].width - 1 - b)));
        }
        make_vhd(&bad, cases[i].sums);
        refuse("vhd", &bad, cases[i].words);
        free(bad.data);
    }
}

/* --- VDI --- */

static void test_vdi(void **state)
{
    static const struct {
        size_t at;
        uint32_t value;
        const char *words; /* NULL: opens */
    } cases[] = {
        {64, 0, "signature"},
        {68, 2, "version 0.2"},
        {76, 3, "type 3"},
        {76, 0, "type 0"},
        {340, 0xffffffff, "block map"},
        {344, 513, "blocks begin"},
        {360, 4096, "4096"},
        {372, 0xffffffff, "size"},
        {368, 0, "size"},
        {376, 0, "block size"},
        {376, 3 * MIB, "block size"},
        {376, 0x80000000, "block size"},
        {380, 1, "extra"},
        {384, 1, "too few"},
        {384, 0xffffffff, "block map"}, /* CVE-2014-0144, as the sizes above */
        {76, 4, NULL},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct memory memory = make_memory(2 * MIB);
        uint8_t *h = memory.data;
        le32_put(h + 64, 0xbeda107f);
        le32_put(h + 68, 0x10001);
        le32_put(h + 76, 1);
        le32_put(h + 340, 512);
        le32_put(h + 344, 1024);
        le32_put(h + 360, 512);
        le64_put(h + 368, 2 * MIB);
        le32_put(h + 376, MIB);
        le32_put(h + 384, 2);
        le32_put(h + 388, 1);
        le32_put(h + 512, 0xffffffff);
        le32_put(h + 516, 7); /* more than there are */
        le32_put(h + cases[i].at, cases[i].value);
        if (cases[i].words != NULL) {
            refuse("vdi", &memory, cases[i].words);
        } else {
            struct foreign_image *image = accept("vdi", &memory);
            struct foreign_extent extent;
            struct error err;
            assert_true(foreign_get_info(image)->needs_parent);
            assert_int_equal(foreign_map(image, 0, 2 * MIB, &extent, &err), 0);
            assert_int_equal(extent.status, FOREIGN_HOLE);
            assert_int_equal(extent.size_bytes, MIB);
            assert_int_equal(foreign_map(image, MIB, MIB, &extent, &err), -EINVAL);
            foreign_close(image);
        }
        free(memory.data);
    }
}

/* --- VHDX --- */

#define LOG_AT      MIB
#define METADATA_AT (2 * MIB)
#define BAT_AT      (3 * MIB)
#define BLOCK_AT    (4 * MIB)
#define BITMAP_AT   (5 * MIB)

static void vhdx_sum(struct memory *memory)
{
    static const uint32_t parts[][2] = {
        {64 * KIB, 4096}, {128 * KIB, 4096}, {192 * KIB, 64 * KIB}, {256 * KIB, 64 * KIB}};
    for (size_t i = 0; i < ARRAY_COUNT(parts); i++) {
        uint8_t *bytes = memory->data + parts[i][0];
        le32_put(bytes + 4, 0);
        le32_put(bytes + 4, crc32c(0, bytes, parts[i][1]));
    }
}

static void put_item(uint8_t *table, unsigned index, const uint8_t *guid, uint32_t offset,
                     uint32_t size)
{
    uint8_t *entry = table + 32 + 32 * (size_t)index;
    memcpy(entry, guid, 16);
    le32_put(entry + 16, offset);
    le32_put(entry + 20, size);
    le32_put(entry + 24, 4);
}

/* Differencing, 4 MiB: block 0 is partial, block 1 the parent's, block 2 here. */
static struct memory make_vhdx(void)
{
    struct memory memory = make_memory(6 * MIB);
    uint8_t *d = memory.data;
    memcpy(d, "vhdxfile", 8);
    for (unsigned i = 0; i < 2; i++) {
        uint8_t *header = d + 64 * KIB * (i + 1);
        memcpy(header, "head", 4);
        le64_put(header + 8, i + 1);
        memset(header + 32, 0xd0 + (int)i, 16);
        le16_put(header + 66, 1);
        le32_put(header + 68, MIB);
        le64_put(header + 72, LOG_AT);
        uint8_t *regions = d + 192 * KIB + 64 * KIB * i;
        memcpy(regions, "regi", 4);
        le32_put(regions + 8, 2);
        memcpy(regions + 16, vhdx_guid_bat, 16);
        le64_put(regions + 32, BAT_AT);
        le32_put(regions + 40, MIB);
        le32_put(regions + 44, 1);
        memcpy(regions + 48, vhdx_guid_metadata, 16);
        le64_put(regions + 64, METADATA_AT);
        le32_put(regions + 72, MIB);
        le32_put(regions + 76, 1);
    }
    uint8_t *table = d + METADATA_AT;
    memcpy(table, "metadata", 8);
    le16_put(table + 10, 4);
    put_item(table, 0, vhdx_guid_file_parameters, 64 * KIB, 8);
    put_item(table, 1, vhdx_guid_disk_size, 64 * KIB + 8, 8);
    put_item(table, 2, vhdx_guid_logical_sector, 64 * KIB + 16, 4);
    put_item(table, 3, vhdx_guid_parent_locator, 65 * KIB, 256);
    le32_put(table + 64 * KIB, MIB);
    le32_put(table + 64 * KIB + 4, 2);
    le64_put(table + 64 * KIB + 8, 4 * MIB);
    le32_put(table + 64 * KIB + 16, 512);
    uint8_t *locator = table + 65 * KIB;
    memcpy(locator, vhdx_guid_parent_type, 16);
    le16_put(locator + 18, 1);
    static const char key[] = "parent_linkage";
    static const char value[] = "{ABCDEF01-0000-0000-0000-000000000000}";
    le32_put(locator + 20, 64);
    le32_put(locator + 24, 100);
    le16_put(locator + 28, 2 * (sizeof(key) - 1));
    le16_put(locator + 30, 2 * (sizeof(value) - 1));
    for (size_t i = 0; i < sizeof(key) - 1; i++) {
        le16_put(locator + 64 + 2 * i, (uint16_t)key[i]);
    }
    for (size_t i = 0; i < sizeof(value) - 1; i++) {
        le16_put(locator + 100 + 2 * i, (uint16_t)value[i]);
    }
    le64_put(d + BAT_AT, BLOCK_AT | VHDX_PARTIALLY_PRESENT);
    le64_put(d + BAT_AT + 16, BLOCK_AT | VHDX_PRESENT);
    le64_put(d + BAT_AT + 8ull * 4096, BITMAP_AT | VHDX_PRESENT); /* behind 4096 blocks of 1 MiB */
    memset(d + BITMAP_AT, 0xff, 16);                              /* the first 64 KiB are here */
    vhdx_sum(&memory);
    return memory;
}

static void test_vhdx_parent(void **state)
{
    struct memory memory = make_vhdx();
    struct foreign_image *image = accept("vhdx", &memory);
    const struct foreign_info *info = foreign_get_info(image);
    assert_true(info->needs_parent);
    assert_string_equal(info->parent_id, "abcdef01-0000-0000-0000-000000000000");
    assert_string_equal(info->id, "d1d1d1d1-d1d1-d1d1-d1d1-d1d1d1d1d1d1"); /* the later header's */
    struct foreign_extent extent;
    struct error err;
    assert_int_equal(foreign_map(image, 4096, 4 * MIB - 4096, &extent, &err), 0);
    assert_int_equal(extent.status, FOREIGN_DATA);
    assert_int_equal(extent.size_bytes, 60 * KIB);
    assert_int_equal(extent.file_offset, BLOCK_AT + 4096);
    assert_int_equal(foreign_map(image, 64 * KIB, 4 * MIB - 64 * KIB, &extent, &err), 0);
    assert_int_equal(extent.status, FOREIGN_HOLE);
    assert_int_equal(extent.size_bytes, 2 * MIB - 64 * KIB);
    assert_int_equal(foreign_map(image, 2 * MIB, MIB, &extent, &err), 0);
    assert_int_equal(extent.status, FOREIGN_DATA);
    le64_put(memory.data + BAT_AT + 8ull * 4096, 0);
    foreign_close(image);
    image = accept("vhdx", &memory);
    assert_int_equal(foreign_map(image, 0, MIB, &extent, &err), -EINVAL);
    assert_non_null(strstr(err.text, "bitmap"));
    foreign_close(image);
    free(memory.data);
}

static void test_vhdx_fields(void **state)
{
    static const struct {
        size_t at, width;
        uint64_t value;
        const char *words; /* NULL: map fails */
    } cases[] = {
        {128 * KIB + 66, 2, 2, "version 2"},
        {128 * KIB + 48, 1, 1, "no valid sequence"}, /* a log GUID, and an empty log */
        {192 * KIB + 8, 4, 4000, NULL},              /* the copy serves */
        {192 * KIB + 32, 8, 512, "block table region"},
        {192 * KIB + 32, 8, UINT64_MAX - MIB + 1, "block table region"},
        {192 * KIB + 40, 4, 0xffffffff, "block table region"},
        {192 * KIB + 40, 4, 8, "room for 1 entries"},
        {192 * KIB + 48, 1, 0, "not known"},
        {192 * KIB + 64, 8, 1ull << 62, "metadata region"},
        {METADATA_AT, 1, 0, "signature"},
        {METADATA_AT + 10, 2, 2000, "entries"},
        {METADATA_AT + 32 + 16, 4, 0xfffffff0, "file parameters"},
        {METADATA_AT + 32 + 20, 4, 4, "file parameters"},
        {METADATA_AT + 32 + 20, 4, 0xffffffff, "file parameters"},
        {METADATA_AT + 32, 1, 0, "not known"},
        {METADATA_AT + 64 * KIB, 4, 0, "block size"}, /* CVE-2014-0148, here and below */
        {METADATA_AT + 64 * KIB, 4, 512 * MIB, "block size"},
        {METADATA_AT + 64 * KIB, 4, 3 * MIB, "block size"},
        {METADATA_AT + 64 * KIB + 8, 8, UINT64_MAX, "size"},
        {METADATA_AT + 64 * KIB + 8, 8, 1ull << 60, "size"},
        {METADATA_AT + 64 * KIB + 8, 8, 1ull << 50, "room for"},
        {METADATA_AT + 64 * KIB + 16, 4, 0, "logical sector"},
        {METADATA_AT + 64 * KIB + 16, 4, 520, "logical sector"},
        {METADATA_AT + 65 * KIB, 1, 0, "locator"},
        {METADATA_AT + 65 * KIB + 18, 2, 0xffff, "locator"},
        {METADATA_AT + 65 * KIB + 20, 4, 0xfffffffe, "locator"},
        {METADATA_AT + 65 * KIB + 30, 2, 0xffff, "locator"},
        {BAT_AT + 16, 8, (uint64_t)BLOCK_AT | 5, NULL},
        {BAT_AT + 16, 8, VHDX_PRESENT, NULL}, /* the header as a block */
        {BAT_AT + 16, 8, UINT64_MAX - 1, NULL},
        {BAT_AT + 16, 8, 6ull * MIB | VHDX_PRESENT, NULL},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct memory memory = make_vhdx();
        memcpy(memory.data + cases[i].at, &cases[i].value, cases[i].width);
        if (cases[i].at >= 64 * KIB && cases[i].at < BAT_AT) {
            vhdx_sum(&memory);
        }
        if (cases[i].words != NULL) {
            refuse("vhdx", &memory, cases[i].words);
        } else {
            struct foreign_image *image = accept("vhdx", &memory);
            struct foreign_extent extent;
            struct error err;
            assert_int_equal(foreign_map(image, 2 * MIB, MIB, &extent, &err),
                             cases[i].at < BAT_AT ? 0 : -EINVAL);
            foreign_close(image);
        }
        free(memory.data);
    }
}

/* A log in which every sector begins an entry that goes on to the log's end, each one of them to be summed up. */
static void test_vhdx_log_work(void **state)
{
    struct memory memory = make_vhdx();
    uint8_t *header = memory.data + 128 * KIB;
    memset(header + 48, 7, 16);
    vhdx_sum(&memory);
    for (size_t at = 0; at < MIB; at += 4096) {
        uint8_t *entry = memory.data + LOG_AT + at;
        memcpy(entry, "loge", 4);
        le32_put(entry + 8, MIB);
        le64_put(entry + 16, 1 + at);
        memset(entry + 32, 7, 16);
    }
    refuse("vhdx", &memory, "more entries than it has room for");
    free(memory.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vmdk_names),    cmocka_unit_test(test_vmdk_numbers),
        cmocka_unit_test(test_vmdk_sparse),   cmocka_unit_test(test_vmdk_compressed),
        cmocka_unit_test(test_vmdk_parent),   cmocka_unit_test(test_vmdk_empty),
        cmocka_unit_test(test_vhd),           cmocka_unit_test(test_vdi),
        cmocka_unit_test(test_vhdx_parent),   cmocka_unit_test(test_vhdx_fields),
        cmocka_unit_test(test_vhdx_log_work),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
