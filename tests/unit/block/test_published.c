/* What other programs fell to, as published: each test is named after the CVE whose class of attack it tries on Hull. Those of VMDK,
 * VHD, VHDX and VDI are in test_foreign_attacks.c; names inside images are tried with the programs too, in tests/integration. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/core/endian.h"
#include "block/image.h"
#include "block/provider.h"

#define MIB           (1u << 20)
#define CLUSTER       65536u
#define FILE_MAX_SIZE (4 * MIB)

/* Fields of the header, and of an entry of the table of snapshots. */
#define BACKING_OFFSET    8
#define BACKING_SIZE      16
#define CLUSTER_BITS      20
#define DISK_SIZE         24
#define L1_SIZE           36
#define L1_OFFSET         40
#define REFTABLE_OFFSET   48
#define REFTABLE_CLUSTERS 56
#define SNAPSHOT_COUNT    60
#define SNAPSHOTS_OFFSET  64
#define HEADER_LENGTH     100
#define EXTENSIONS        112
#define SNAPSHOT_L1_SIZE  8
#define SNAPSHOT_ID_SIZE  12
#define SNAPSHOT_EXTRA    36

static struct event_loop *loop;

static int setup(void **state)
{
    return event_loop_create(&loop, NULL);
}

static int teardown(void **state)
{
    event_loop_destroy(loop);
    return 0;
}

/* An image of 1 MiB with data, and with a snapshot "s" of other data. */
struct image {
    uint8_t *bytes;
    size_t size;
};

static struct image make_image(void)
{
    struct block_create_options create = {
        .format = "qcow2", .size_bytes = MIB, .cluster_size = CLUSTER};
    struct block_options options = {.format = "qcow2"};
    struct image image = {.bytes = calloc(1, FILE_MAX_SIZE)};
    struct block *file, *block;
    uint8_t data[512] = {1, 2, 3};
    assert_int_equal(block_open_memory(0, "img", loop, &file, NULL), 0);
    assert_int_equal(block_create(file, &create, NULL), 0);
    assert_int_equal(block_open_format(file, &options, &block, NULL), 0);
    assert_int_equal(block_write(block, 0, data, sizeof(data)), 0);
    assert_int_equal(block_snapshot_create(block, "s", NULL), 0);
    data[0] = 7;
    assert_int_equal(block_write(block, 0, data, sizeof(data)), 0);
    assert_int_equal(block_flush(block), 0);
    image.size = (size_t)file->info.size_bytes;
    assert_true(image.size <= FILE_MAX_SIZE);
    assert_int_equal(block_read(file, 0, image.bytes, image.size), 0);
    block_close(block);
    return image;
}

static struct block *file_of(const struct image *image)
{
    struct block *file;
    assert_int_equal(block_open_memory(0, "img", loop, &file, NULL), 0);
    assert_int_equal(block_write(file, 0, image->bytes, image->size), 0);
    return file;
}

/* For reading, writing and repair: refused each time, by all that could be done with it. */
static void refused(const struct image *image)
{
    for (unsigned i = 0; i < 4; i++) {
        struct error err = {0};
        struct block *block;
        struct block_options options = {.format = "qcow2",
                                        .is_readonly = i == 0 || i == 3,
                                        .is_for_repair = i == 2,
                                        .snapshot = i == 3 ? "s" : NULL};
        assert_true(block_open_format(file_of(image), &options, &block, &err) < 0);
        assert_true(strlen(err.text) > 10);
    }
}

static void put(struct image *image, unsigned width, uint64_t at, uint64_t value)
{
    assert_true(at + width <= image->size);
    if (width == 2) {
        be16_put(image->bytes + at, (uint16_t)value);
    } else if (width == 4) {
        be32_put(image->bytes + at, (uint32_t)value);
    } else {
        be64_put(image->bytes + at, value);
    }
}

struct patch {
    unsigned width;
    uint64_t at, value;
};

static void refused_with(const struct patch *patches, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct image image = make_image();
        put(&image, patches[i].width, patches[i].at, patches[i].value);
        refused(&image);
        free(image.bytes);
    }
}

static uint64_t snapshot_at(const struct image *image)
{
    return be64_get(image->bytes + SNAPSHOTS_OFFSET);
}

/* Sizes whose product or sum does not fit into the type that it is computed in. */
static void cve_2014_0143_sizes_that_overflow(void **state)
{
    static const struct patch patches[] = {
        {4, L1_SIZE, 0xffffffff},        {4, L1_SIZE, 0x20000000},
        {4, L1_SIZE, 0x80000001},        {4, REFTABLE_CLUSTERS, 0xffffffff},
        {4, REFTABLE_CLUSTERS, 0x10000}, {8, DISK_SIZE, UINT64_MAX},
        {8, DISK_SIZE, 1ull << 63},      {8, DISK_SIZE, (1ull << 62) - 512},
        {4, SNAPSHOT_COUNT, 0xffffffff}, {4, SNAPSHOT_COUNT, 0x7fffffff},
    };
    refused_with(patches, ARRAY_COUNT(patches));
    /* A request whose end is beyond what a number holds. */
    struct image image = make_image();
    struct block_options options = {.format = "qcow2"};
    struct block *block;
    uint8_t data[512] = {0};
    assert_int_equal(block_open_format(file_of(&image), &options, &block, NULL), 0);
    assert_int_equal(block_read(block, UINT64_MAX - 511, data, 512), -EINVAL);
    assert_int_equal(block_write(block, 1ull << 63, data, 512), -EINVAL);
    assert_int_equal(block_write_zeroes(block, 512, UINT64_MAX - 511, true), -EINVAL);
    assert_int_equal(block_discard(block, MIB, 512), -EINVAL);
    assert_true(block_resize(block, UINT64_MAX - 511) < 0);
    block_close(block);
    free(image.bytes);
}

/* Fields of the header that point to where nothing can be, or are as long as they like. */
static void cve_2014_0144_fields_without_limits(void **state)
{
    static const struct patch patches[] = {
        {4, HEADER_LENGTH, 0xffffffff},
        {4, HEADER_LENGTH, 1ull << 31},
        {4, HEADER_LENGTH, 72},
        {8, BACKING_OFFSET, UINT64_MAX},
        {8, BACKING_OFFSET, CLUSTER},
        {8, L1_OFFSET, UINT64_MAX - 511},
        {8, L1_OFFSET, 1ull << 62},
        {8, L1_OFFSET, 0},
        {8, REFTABLE_OFFSET, 1ull << 63},
        {8, REFTABLE_OFFSET, CLUSTER + 8},
        {8, SNAPSHOTS_OFFSET, 1},
        {8, SNAPSHOTS_OFFSET, UINT64_MAX - CLUSTER + 1},
        {4, CLUSTER_BITS, 63},
        {4, CLUSTER_BITS, 31},
        {4, EXTENSIONS + 4, 0xffffffff},
        {4, EXTENSIONS + 4, 0x7ffffff8},
    };
    refused_with(patches, ARRAY_COUNT(patches));
    struct image image = make_image();
    put(&image, 8, BACKING_OFFSET, 512);
    put(&image, 4, BACKING_SIZE, 0xffffffff);
    refused(&image);
    free(image.bytes);
}

/* A snapshot whose L1 table is larger than the disk's. */
static void cve_2014_0145_snapshots_with_larger_tables(void **state)
{
    static const uint32_t sizes[] = {2, 8192, 1u << 22, (1u << 22) + 1, 0x20000000, 0xffffffff};
    for (size_t i = 0; i < ARRAY_COUNT(sizes); i++) {
        struct image image = make_image();
        put(&image, 4, snapshot_at(&image) + SNAPSHOT_L1_SIZE, sizes[i]);
        for (unsigned j = 0; j < 2; j++) {
            struct block_options options = {
                .format = "qcow2", .is_readonly = j == 0, .snapshot = j == 0 ? "s" : NULL};
            struct block *block;
            struct error err = {0};
            uint8_t data[512] = {0};
            if (block_open_format(file_of(&image), &options, &block, &err) < 0) {
                continue;
            }
            if (j == 0 && block_read(block, 0, data, sizeof(data)) == 0) {
                assert_int_equal(data[0], 1); /* what it held */
            } else if (j == 1) {
                /* One way or another, but the image stays one. */
                (void)!block_snapshot_apply(block, "s", NULL);
                (void)!block_snapshot_delete(block, "s", NULL);
                (void)!block_write(block, 4096, data, sizeof(data));
            }
            block_close(block);
        }
        free(image.bytes);
    }
}

/* A table of snapshots that is not what the header says: nothing is left half made. */
static void cve_2014_0146_snapshots_that_are_not_there(void **state)
{
    static const struct patch entries[] = {
        {2, SNAPSHOT_ID_SIZE, 0xffff},   {2, SNAPSHOT_ID_SIZE + 2, 0xffff},
        {4, SNAPSHOT_EXTRA, 0xffffffff}, {4, SNAPSHOT_EXTRA, 0x10000},
        {8, 0, UINT64_MAX - 511},        {8, 0, 513},
    };
    for (size_t i = 0; i < ARRAY_COUNT(entries); i++) {
        struct image image = make_image();
        put(&image, entries[i].width, snapshot_at(&image) + entries[i].at, entries[i].value);
        for (unsigned j = 0; j < 2; j++) {
            struct block_options options = {.format = "qcow2", .is_readonly = j == 0};
            struct block *block;
            struct error err = {0};
            if (block_open_format(file_of(&image), &options, &block, &err) == 0) {
                (void)!block_snapshot_apply(block, "s", NULL);
                block_close(block);
            }
        }
        free(image.bytes);
    }
    struct image image = make_image();
    put(&image, 8, SNAPSHOTS_OFFSET, 1ull << 40); /* behind the file's end */
    put(&image, 4, SNAPSHOT_COUNT, 65536);
    refused(&image);
    free(image.bytes);
}

/* Counts that say of tables, and of the header itself, that they are free: nothing is written over them. */
static void cve_2014_0147_counts_that_lie(void **state)
{
    struct image image = make_image();
    uint64_t block_at = be64_get(image.bytes + be64_get(image.bytes + REFTABLE_OFFSET));
    assert_true(block_at != 0 && block_at + CLUSTER <= image.size);
    memset(image.bytes + block_at, 0, CLUSTER);
    struct block_options options = {.format = "qcow2"};
    struct block *block, *file = file_of(&image);
    uint8_t *data = malloc(MIB), *head = malloc(image.size);
    memset(data, 0x5a, MIB);
    assert_int_equal(block_open_format(file, &options, &block, NULL), 0);
    (void)!block_write(block, 0, data, MIB); /* it may be refused, the image marked corrupt */
    (void)!block_flush(block);
    assert_int_equal(block_read(file, 0, head, image.size), 0);
    assert_memory_equal(head, "QFI\xfb", 4);
    const uint64_t tables[] = {be64_get(head + L1_OFFSET), be64_get(head + REFTABLE_OFFSET),
                               be64_get(head + be64_get(head + REFTABLE_OFFSET))};
    for (size_t i = 0; i < ARRAY_COUNT(tables); i++) {
        assert_true(tables[i] + 512 <= image.size);
        assert_memory_not_equal(head + tables[i], data, 512);
    }
    block_close(block);
    free(data);
    free(head);
    free(image.bytes);
}

/* Of version 1, whose tables and size had no limits: it is not read at all. And the same fields of its successors. */
static void cve_2014_0222_and_0223_version_1(void **state)
{
    static const struct patch patches[] = {
        {4, 4, 1},
        {4, 4, 0},
        {4, 4, 0x80000003},
        {4, CLUSTER_BITS, 0},
        {4, CLUSTER_BITS, 8},
        {4, CLUSTER_BITS, 22},
        {4, CLUSTER_BITS, 0xffffffff},
        {8, DISK_SIZE, INT64_MAX},
    };
    refused_with(patches, ARRAY_COUNT(patches));
}

static unsigned asked_count;
static char asked_name[1100];
static enum block_reference_kind asked_kind;

static int note_and_refuse(void *ctx, const struct block_reference *reference,
                           struct block **out_block, struct error *err)
{
    asked_count++;
    asked_kind = reference->kind;
    (void)snprintf(asked_name, sizeof(asked_name), "%s", reference->name);
    return error_set(err, EPERM, "not allowed");
}

static const char *const names[] = {
    "/etc/passwd",
    "../../../etc/shadow",
    "json:{\"driver\":\"file\",\"filename\":\"/etc/passwd\"}",
    "json:{\"driver\":\"raw\",\"file\":{\"driver\":\"host_device\",\"filename\":\"/dev/sda\"}}",
    "nbd://localhost/x",
    "nbd:unix:/run/x:exportname=y",
    "fat:rw:/etc",
    "/dev/zero",
    "",
};

/* The caller alone decides on names, which get there letter by letter; where nobody decides, and where somebody looks at the image
 * alone, nothing is opened. */
static void check_names(enum block_reference_kind kind)
{
    for (size_t i = 0; names[i][0] != '\0'; i++) {
        bool is_backing = kind == BLOCK_REFERENCE_BACKING;
        struct block_create_options create = {.format = "qcow2",
                                              .size_bytes = MIB,
                                              .backing_name = is_backing ? names[i] : NULL,
                                              .backing_format = is_backing ? "raw" : NULL,
                                              .data_name = is_backing ? NULL : names[i]};
        for (unsigned j = 0; j < 3; j++) {
            struct block_options options = {.format = "qcow2",
                                            .is_readonly = true,
                                            .is_alone = j == 2,
                                            .resolve = j == 0 ? note_and_refuse : NULL};
            struct error err = {0};
            struct block *file, *block;
            asked_count = 0;
            assert_int_equal(block_open_memory(0, "img", loop, &file, NULL), 0);
            assert_int_equal(block_create(file, &create, NULL), 0);
            int rc = block_open_format(file, &options, &block, &err);
            if (j == 0) {
                assert_int_equal(rc, -EPERM);
                assert_int_equal(asked_count, 1);
                assert_int_equal(asked_kind, kind);
                assert_string_equal(asked_name, names[i]);
            } else if (j == 2 && is_backing) {
                assert_int_equal(rc, 0);
            } else {
                assert_int_equal(rc, -EPERM);
                assert_non_null(strstr(err.text, "not among those given"));
            }
            if (rc == 0) {
                block_close(block);
            }
        }
    }
}

/* An image that somebody uploads names a file of the server as what it stands on. */
static void cve_2015_5163_backing_files(void **state)
{
    check_names(BLOCK_REFERENCE_BACKING);
}

/* The same as its data file: CVE-2024-32498, of OpenStack, and its incomplete repair, CVE-2024-40767. With "json:" before it,
 * CVE-2024-4467: looking at the image alone was enough. */
static void cve_2024_32498_and_4467_data_files(void **state)
{
    check_names(BLOCK_REFERENCE_DATA);
}

/* A guest writes the header of an image into its raw disk, and waits until somebody guesses: CVE-2008-2004, CVE-2010-2237 to 2239,
 * CVE-2013-1922, and again CVE-2026-24708. Here nobody does: a raw disk is its bytes. */
static void cve_2008_2004_raw_disks_that_look_like_images(void **state)
{
    struct image image = make_image();
    static const char name[] = "/etc/passwd";
    put(&image, 8, BACKING_OFFSET, 1024);
    put(&image, 4, BACKING_SIZE, sizeof(name) - 1);
    memcpy(image.bytes + 1024, name, sizeof(name) - 1);
    static const char *const formats[] = {"raw", NULL};
    for (unsigned i = 0; i < 4; i++) {
        struct block *file = file_of(&image), *block;
        struct block_options options = {
            .format = formats[i % 2], .is_readonly = i < 2, .resolve = note_and_refuse};
        uint8_t data[512];
        file->info.is_growable = false;
        file->info.logical_block_size = 512;
        asked_count = 0;
        assert_int_equal(block_open_format(file, &options, &block, NULL), 0);
        assert_int_equal(asked_count, 0);
        assert_string_equal(block_disk_format(block), "raw");
        assert_int_equal(block->info.size_bytes, image.size);
        assert_int_equal(block_read(block, 0, data, sizeof(data)), 0);
        assert_memory_equal(data, image.bytes, sizeof(data));
        block_close(block);
    }
    free(image.bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cve_2014_0143_sizes_that_overflow),
        cmocka_unit_test(cve_2014_0144_fields_without_limits),
        cmocka_unit_test(cve_2014_0145_snapshots_with_larger_tables),
        cmocka_unit_test(cve_2014_0146_snapshots_that_are_not_there),
        cmocka_unit_test(cve_2014_0147_counts_that_lie),
        cmocka_unit_test(cve_2014_0222_and_0223_version_1),
        cmocka_unit_test(cve_2015_5163_backing_files),
        cmocka_unit_test(cve_2024_32498_and_4467_data_files),
        cmocka_unit_test(cve_2008_2004_raw_disks_that_look_like_images),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
