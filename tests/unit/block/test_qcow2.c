/* Covers block/format/qcow2: the header's rules, entries, counts of every width, and what opening refuses. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/core/endian.h"
#include "block/bitmap.h"
#include "block/format/qcow2/bitmap.h"

#define SIZE (8u << 20)

static struct event_loop *loop;

static struct block *make_file(const struct block_create_options *create)
{
    struct block *file;
    assert_int_equal(block_open_memory(0, "img", loop, &file, NULL), 0);
    struct error err;
    if (block_create(file, create, &err) < 0) {
        print_message("%s\n", err.text);
        fail();
    }
    return file;
}

static const struct block_create_options plain = {.format = "qcow2", .size_bytes = SIZE};

static void read_header(struct block *file, uint8_t *data)
{
    assert_int_equal(block_read(file, 0, data, 65536), 0);
}

static void check_refused(const uint8_t *data, size_t size, const char *why)
{
    struct qcow2_header header;
    struct error err = {0};
    assert_true(qcow2_header_parse(data, size, &header, &err) < 0);
    assert_string_equal(err.text, why);
}

static void headers_are_made_and_read(void **state)
{
    static uint8_t data[65536];
    struct block_create_options create = plain;
    create.backing_name = "base.img";
    create.backing_format = "raw";
    create.compression = "zstd";
    create.has_extended_l2 = true;
    create.has_lazy_refcounts = true;
    create.refcount_bits = 1;
    struct block *file = make_file(&create);
    read_header(file, data);
    struct qcow2_header header;
    assert_int_equal(qcow2_header_parse(data, sizeof(data), &header, NULL), 0);
    assert_string_equal(header.backing_name, "base.img");
    assert_string_equal(header.backing_format, "raw");
    assert_int_equal(header.size, SIZE);
    assert_int_equal(header.refcount_order, 0);
    assert_int_equal(header.compression_type, QCOW2_ZSTD);
    assert_int_equal(header.incompatible_features,
                     QCOW2_INCOMPATIBLE_COMPRESSION | QCOW2_INCOMPATIBLE_EXTENDED_L2);
    assert_int_equal(header.compatible_features, QCOW2_COMPATIBLE_LAZY);
    block_close(file);
}

static void bad_headers_are_named(void **state)
{
    static uint8_t good[65536], data[65536];
    struct block *file = make_file(&plain);
    read_header(file, good);
    block_close(file);
    const struct {
        unsigned offset, size;
        uint64_t value;
        const char *why;
    } cases[] = {
        {0, 4, 0, "not a qcow2 image"},
        {4, 4, 4, "version 4: 2 and 3 are accepted"},
        {20, 4, 8, "clusters of 2^8 bytes: 2^9 to 2^21 are accepted"},
        {20, 4, 0x80000000, "clusters of 2^2147483648 bytes: 2^9 to 2^21 are accepted"},
        {24, 8, UINT64_MAX, "a disk of 18446744073709551615 bytes is too large"},
        {24, 8, 1ull << 40, "an L1 table of 1 entries: the disk's size needs 2048"},
        {32, 4, 1, "encryption method 1: 2 (LUKS) is accepted"},
        {32, 4, 2, "encryption method 2 and the rest of the header disagree"},
        {32, 4, 7, "encryption method 7: 2 (LUKS) is accepted"},
        {36, 4, 0xffffffff, "L1 table of 34359738360 bytes: up to 33554432 are accepted"},
        {40, 8, 0x30001, "L1 table at offset 196609: not where one can be"},
        {48, 8, 512, "refcount table at offset 512: not where one can be"},
        {56, 4, 0, "no refcount table"},
        {56, 4, 0xffffffff, "refcount table of 281474976645120 bytes: up to 8388608 are accepted"},
        {60, 4, 0x10001, "65537 snapshots: up to 65536 are accepted"},
        {72, 8, 1ull << 2, NULL}, /* a data file: no error of the header */
        {72, 8, 1ull << 3, "compression type 0 and its feature bit disagree"},
        {72, 8, 1ull << 40, "needs features that are not known here: bit 40"},
        {88, 8, 2, "raw external data needs a data file, and no backing file"},
        {96, 4, 7, "refcounts of 2^7 bits: up to 64 bits are accepted"},
        {100, 4, 96, "a header of 96 bytes"},
        {100, 4, 108, "a header of 108 bytes"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        memcpy(data, good, sizeof(data));
        if (cases[i].size == 4) {
            be32_put(data + cases[i].offset, (uint32_t)cases[i].value);
        } else {
            be64_put(data + cases[i].offset, cases[i].value);
        }
        struct qcow2_header header;
        if (cases[i].why != NULL) {
            check_refused(data, sizeof(data), cases[i].why);
        } else {
            assert_int_equal(qcow2_header_parse(data, sizeof(data), &header, NULL), 0);
        }
    }
    check_refused(good, 71, "not a qcow2 image");
    check_refused(good, 103, "the header is cut off");
    /* The image's own table has a name for what is not known. */
    memcpy(data, good, sizeof(data));
    be64_put(data + 72, 1ull << 17 | 1ull << 40);
    uint8_t *feature = data + 112 + 8;
    feature[0] = 0;
    feature[1] = 17;
    memset(feature + 2, 0, 46);
    memcpy(feature + 2, "time travel\n", 12);
    check_refused(data, sizeof(data),
                  "needs features that are not known here: time travel?, bit 40");
}

static void backing_names_have_their_place(void **state)
{
    static uint8_t data[65536];
    struct block_create_options create = plain;
    create.backing_name = "b";
    create.backing_format = "raw";
    struct block *file = make_file(&create);
    read_header(file, data);
    block_close(file);
    be32_put(data + 16, 1024);
    struct qcow2_header header;
    struct error err;
    assert_true(qcow2_header_parse(data, sizeof(data), &header, &err) < 0);
    be32_put(data + 16, 1);
    be64_put(data + 8, 65536);
    assert_true(qcow2_header_parse(data, sizeof(data), &header, &err) < 0);
    be64_put(data + 8, 80);
    assert_true(qcow2_header_parse(data, sizeof(data), &header, &err) < 0);
}

static void entries_are_judged(void **state)
{
    struct qcow2_header header = {.version = 3, .cluster_bits = 16, .refcount_order = 4};
    struct qcow2_layout v3, v2, extended, data_file;
    qcow2_layout_init(&v3, &header);
    header.incompatible_features = QCOW2_INCOMPATIBLE_EXTENDED_L2;
    qcow2_layout_init(&extended, &header);
    header.incompatible_features = QCOW2_INCOMPATIBLE_DATA_FILE;
    qcow2_layout_init(&data_file, &header);
    header.incompatible_features = 0;
    header.version = 2;
    qcow2_layout_init(&v2, &header);
    const uint64_t at = 0x50000;
    struct qcow2_entry entry = {.descriptor = QCOW2_COPIED | at};
    assert_null(qcow2_entry_fault(&v3, entry, 0));
    assert_int_equal(qcow2_entry_kind(&v3, entry, 0), QCOW2_KIND_DATA);
    entry.descriptor |= QCOW2_ZERO;
    assert_int_equal(qcow2_entry_kind(&v3, entry, 0), QCOW2_KIND_ZERO_ALLOCATED);
    assert_non_null(qcow2_entry_fault(&v2, entry, 0));
    assert_non_null(qcow2_entry_fault(&extended, entry, 0));
    entry.descriptor = at + 512;
    assert_non_null(qcow2_entry_fault(&v3, entry, 0));
    entry.descriptor = QCOW2_COPIED;
    assert_non_null(qcow2_entry_fault(&v3, entry, 0));
    assert_null(qcow2_entry_fault(&data_file, entry, 0));
    assert_int_equal(qcow2_entry_kind(&data_file, entry, 0), QCOW2_KIND_DATA);
    assert_non_null(qcow2_entry_fault(&data_file, entry, 1));
    entry = (struct qcow2_entry){.descriptor = QCOW2_COPIED | at, .bitmap = 0x5 | 0xa00000000};
    assert_null(qcow2_entry_fault(&extended, entry, 0));
    assert_int_equal(qcow2_entry_kind(&extended, entry, 0), QCOW2_KIND_DATA);
    assert_int_equal(qcow2_entry_kind(&extended, entry, 1), QCOW2_KIND_ZERO_ALLOCATED);
    assert_int_equal(qcow2_entry_kind(&extended, entry, 4), QCOW2_KIND_ABSENT_ALLOCATED);
    entry.bitmap |= 0x2;
    assert_non_null(qcow2_entry_fault(&extended, entry, 0));
    entry = (struct qcow2_entry){.bitmap = 1};
    assert_non_null(qcow2_entry_fault(&extended, entry, 0));
    /* Compressed data of any size at any place comes back as far as the end of its last sector. */
    for (uint32_t size = 1; size < 70000; size += 777) {
        uint64_t offset;
        uint32_t sectors;
        uint64_t from = 0x123400 + size * 13;
        entry = qcow2_entry_make_compressed(&v3, from, size);
        assert_null(qcow2_entry_fault(&v3, entry, 0));
        qcow2_entry_compressed(&v3, entry, &offset, &sectors);
        assert_int_equal(offset, from);
        assert_true(sectors >= size && sectors < size + 512 && (from + sectors) % 512 == 0);
    }
    entry.descriptor |= QCOW2_COPIED;
    assert_non_null(qcow2_entry_fault(&v3, entry, 0));
}

static void counts_of_every_width(void **state)
{
    uint8_t data[512] = {0};
    for (uint32_t bits = 1; bits <= 64; bits *= 2) {
        uint64_t max = qcow2_refcount_max(bits), count = sizeof(data) * 8 / bits;
        for (uint64_t i = 0; i < count; i++) {
            qcow2_refblock_put(data, bits, i, (i * 2654435761u) & max);
        }
        for (uint64_t i = 0; i < count; i++) {
            assert_int_equal(qcow2_refblock_get(data, bits, i), (i * 2654435761u) & max);
        }
    }
    memset(data, 0, sizeof(data));
    qcow2_refblock_put(data, 2, 1, 3);
    assert_int_equal(data[0], 0x0c); /* the first count is in the low bits */
    qcow2_refblock_put(data, 16, 1, 0x1234);
    assert_int_equal(data[2], 0x12);
}

static int grant(void *ctx, const struct block_reference *reference, struct block **out_block,
                 struct error *err)
{
    assert_string_equal(reference->name, "../secret");
    assert_string_equal(reference->format, "raw");
    ++*(int *)ctx;
    return block_open_memory(SIZE, "given", loop, out_block, err);
}

static void names_inside_are_not_opened(void **state)
{
    struct block_create_options create = plain;
    create.backing_name = "../secret";
    create.backing_format = "raw";
    struct block_options options = {.format = "qcow2"};
    struct block *block;
    struct error err;
    assert_int_equal(block_open_format(make_file(&create), &options, &block, &err), -EPERM);
    assert_string_equal(err.text, "disk img: needs the backing file "
                                  "\"../secret\", which is not among those given");
    int count = 0;
    options.resolve = grant;
    options.resolve_ctx = &count;
    assert_int_equal(block_open_format(make_file(&create), &options, &block, &err), 0);
    assert_int_equal(count, 1);
    assert_non_null(block_backing(block));
    block_close(block);
    /* Alone it can be looked at, but not read through. */
    options = (struct block_options){.format = "qcow2", .is_alone = true};
    assert_int_equal(block_open_format(make_file(&create), &options, &block, &err), 0);
    uint8_t data[512];
    assert_int_equal(block_read(block, 0, data, sizeof(data)), -ENXIO);
    assert_int_equal(block_write(block, 0, data, sizeof(data)), -EROFS);
    struct block_check_result result;
    assert_int_equal(block_check(block, 0, NULL, NULL, &result, &err), 0);
    assert_int_equal(result.errors + result.leaks, 0);
    block_close(block);
}

static struct block *open_with(struct block *file, bool is_readonly, int expected)
{
    struct block_options options = {.format = "qcow2", .is_readonly = is_readonly};
    struct block *block = NULL;
    struct error err = {0};
    int rc = block_open_format(file, &options, &block, &err);
    if (rc != expected) {
        print_message("%s\n", err.text);
    }
    assert_int_equal(rc, expected);
    return block;
}

static void set_bit(struct block *file, uint64_t offset, uint64_t bits)
{
    uint8_t data[8];
    assert_int_equal(block_read(file, offset, data, 8), 0);
    be64_put(data, be64_get(data) | bits);
    assert_int_equal(block_write(file, offset, data, 8), 0);
}

static uint64_t get_field(struct block *block, uint64_t offset)
{
    uint8_t data[8];
    assert_int_equal(block_read(block_file(block), offset, data, 8), 0);
    return be64_get(data);
}

static void a_new_header_keeps_what_is_unknown(void **state)
{
    struct block_create_options create = plain;
    create.version = 2; /* no table of features: the extensions begin at once */
    struct block *file = make_file(&create);
    uint8_t extension[24] = {0x12, 0x34, 0x56, 0x78, 0, 0, 0, 5, 'h', 'e', 'l', 'l', 'o'};
    assert_int_equal(block_write(file, 72, extension, sizeof(extension)), 0);
    struct block *block = open_with(file, false, 0);
    assert_int_equal(block_set_backing_name(block, "new.raw", "raw", NULL), 0);
    static uint8_t data[65536];
    read_header(file, data);
    struct qcow2_header header;
    assert_int_equal(qcow2_header_parse(data, sizeof(data), &header, NULL), 0);
    assert_string_equal(header.backing_name, "new.raw");
    assert_string_equal(header.backing_format, "raw");
    assert_int_equal(header.unknown_size, 16);
    assert_memory_equal(header.unknown, extension, 16);
    assert_int_equal(block_set_backing_name(block, NULL, NULL, NULL), 0);
    read_header(file, data);
    assert_int_equal(qcow2_header_parse(data, sizeof(data), &header, NULL), 0);
    assert_false(header.has_backing || header.has_backing_format);
    assert_int_equal(header.unknown_size, 16);
    block_close(block);
}

static void marks_are_honoured(void **state)
{
    uint8_t data[512] = {1};
    struct block *file = make_file(&plain);
    set_bit(file, 72, QCOW2_INCOMPATIBLE_CORRUPT);
    (void)open_with(file, false, -EUCLEAN);
    file = make_file(&plain);
    set_bit(file, 72, QCOW2_INCOMPATIBLE_CORRUPT);
    struct block *block = open_with(file, true, 0);
    assert_int_equal(block_read(block, 0, data, 512), 0);
    block_close(block);
    /* Dirty: put right by opening it for writing. */
    file = make_file(&plain);
    set_bit(file, 72, QCOW2_INCOMPATIBLE_DIRTY);
    block = open_with(file, false, 0);
    assert_int_equal(get_field(block, 72), 0);
    block_close(block);
    /* Unknown auto-clear bits go before the first write, and not before. */
    file = make_file(&plain);
    set_bit(file, 88, 1ull << 63);
    block = open_with(file, false, 0);
    assert_int_equal(get_field(block, 88), 1ull << 63);
    assert_int_equal(block_write(block, 0, data, 512), 0);
    assert_int_equal(get_field(block, 88), 0);
    block_close(block);
}

static void metadata_is_never_guest_data(void **state)
{
    uint8_t data[512] = {1};
    struct block *file = make_file(&plain);
    struct block *block = open_with(file, false, 0);
    assert_int_equal(block_write(block, 0, data, 512), 0);
    assert_int_equal(block_flush(block), 0);
    uint64_t l1 = get_field(block, 40);
    uint64_t l2 = get_field(block, l1) & QCOW2_OFFSET_MASK;
    /* The guest's cluster is the L1 table, says the L2 table. */
    be64_put(data, QCOW2_COPIED | l1);
    assert_int_equal(block_write(file, l2, data, 8), 0);
    struct block *copy;
    static uint8_t all[1 << 20];
    uint64_t size = file->info.size_bytes;
    assert_int_equal(block_read(file, 0, all, size), 0);
    block_close(block);
    assert_int_equal(block_open_memory(0, "img", loop, &copy, NULL), 0);
    assert_int_equal(block_write(copy, 0, all, size), 0);
    block = open_with(copy, false, 0);
    assert_int_equal(block_write(block, 0, data, 512), -EIO);
    assert_int_equal(get_field(block, 72), QCOW2_INCOMPATIBLE_CORRUPT);
    assert_int_equal(get_field(block, l1) & QCOW2_OFFSET_MASK, l2); /* it is as it was */
    assert_int_equal(block_write(block, 65536, data, 512), -EIO);   /* no more writes */
    struct error err;
    assert_int_equal(block_finish(block, &err), -EIO);
    assert_non_null(strstr(err.text, "guest cluster where metadata is"));
}

static void trim_gives_space_back(void **state)
{
    struct block *file = make_file(&plain);
    struct block *block = open_with(file, false, 0);
    static uint8_t data[1 << 20];
    memset(data, 7, sizeof(data));
    assert_int_equal(block_write(block, 0, data, sizeof(data)), 0);
    assert_int_equal(block_flush(block), 0);
    uint64_t size = file->info.size_bytes;
    struct block_extent extent, below;
    assert_int_equal(block_map(block, 0, 65536, &extent), 0);
    assert_int_equal(extent.kind, BLOCK_EXTENT_DATA);
    assert_true(extent.has_offset);
    assert_int_equal(block_discard(block, 0, sizeof(data)), 0);
    assert_int_equal(block_flush(block), 0);
    block_drain(block);
    assert_int_equal(block_map(file, extent.file_offset, 65536, &below), 0);
    assert_int_equal(below.kind, BLOCK_EXTENT_HOLE);
    for (unsigned i = 0; i < 20; i++) { /* the space is used again: the file does not grow */
        assert_int_equal(block_write(block, 2 << 20, data, sizeof(data)), 0);
        assert_int_equal(block_flush(block), 0);
        assert_int_equal(block_discard(block, 2 << 20, sizeof(data)), 0);
        assert_int_equal(block_flush(block), 0);
        block_drain(block);
    }
    assert_true(file->info.size_bytes <= size + (2 << 20));
    block_close(block);
}

static void a_terabyte_takes_little_memory(void **state)
{
    struct block_create_options create = plain;
    create.size_bytes = 1ull << 40;
    struct block *block = open_with(make_file(&create), false, 0);
    uint8_t data[512] = {1};
    for (uint64_t i = 0; i < 4096; i++) {
        assert_int_equal(block_write(block, i * 268435456 % (1ull << 40), data, sizeof(data)), 0);
    }
    const struct qcow2 *q = qcow2_from_block(block);
    uint64_t bytes = (uint64_t)q->cache.slice_count * q->cache.slice_size + q->l1.entry_count * 8 +
                     q->reftable.entry_count * 8 + q->metadata.slot_count * 8;
    assert_true(bytes < 16u << 20);
    block_close(block);
}

static struct block *open_again(int fd)
{
    struct block *file;
    struct block_file_options options = {.is_growable = true};
    assert_int_equal(
        block_open_file(fcntl(fd, F_DUPFD_CLOEXEC, 3), "img", &options, loop, &file, NULL), 0);
    return open_with(file, false, 0);
}

/* Bitmaps of a kind, or with flags, that a later version may have: they stay, with all that they have, and what is known as well. Those
 * that say they follow every write are marked as lacking some. */
static void unknown_bitmaps_stay(void **state)
{
    static const struct {
        size_t at;
        uint8_t value;
    } patches[] = {{16, 2}, {15, 0x82}, {12, 1}, {17, 40}};
    static uint8_t data[65536], before[65536], after[65536];
    for (size_t i = 0; i < ARRAY_COUNT(patches); i++) {
        int fd = memfd_create("img", MFD_CLOEXEC);
        struct block *file;
        struct block_file_options options = {.is_growable = true};
        assert_int_equal(
            block_open_file(fcntl(fd, F_DUPFD_CLOEXEC, 3), "img", &options, loop, &file, NULL), 0);
        assert_int_equal(block_create(file, &plain, NULL), 0);
        struct block_front *front;
        struct block_bitmap *bitmap;
        assert_int_equal(block_front_create(open_with(file, false, 0), &front, NULL), 0);
        assert_int_equal(block_bitmap_add(front, "one", 512, true, true, &bitmap, NULL), 0);
        assert_int_equal(block_bitmap_add(front, "two", 65536, true, false, &bitmap, NULL), 0);
        assert_int_equal(block_write(block_front_block(front), 0, data, 512), 0);
        assert_int_equal(block_finish(block_front_block(front), NULL), 0);
        struct qcow2_header header;
        assert_int_equal(pread(fd, data, sizeof(data), 0), sizeof(data));
        assert_int_equal(qcow2_header_parse(data, sizeof(data), &header, NULL), 0);
        assert_int_equal(header.bitmap_count, 2);
        off_t place = (off_t)header.bitmap_directory_offset;
        size_t size = (size_t)header.bitmap_directory_size;
        assert_int_equal(pwrite(fd, &patches[i].value, 1, place + (off_t)patches[i].at), 1);
        assert_int_equal(pread(fd, before, size, place), size);
        /* Used as a VM does. */
        struct error err;
        assert_int_equal(block_front_create(open_again(fd), &front, NULL), 0);
        assert_int_equal(block_bitmaps_load(front, NULL), 0);
        assert_null(block_bitmap_first(front));
        assert_int_equal(block_write(block_front_block(front), 1 << 20, data, 4096), 0);
        assert_int_equal(block_bitmap_add(front, "new", 512, true, true, &bitmap, &err), 0);
        (void)block_finish(block_front_block(front), &err); /* "new" has no place there */
        struct block *block = open_again(fd);
        assert_int_equal(block_set_backing_name(block, "base", "raw", NULL), 0);
        assert_int_equal(block_finish(block, NULL), 0);
        assert_int_equal(pread(fd, data, sizeof(data), 0), sizeof(data));
        assert_int_equal(qcow2_header_parse(data, sizeof(data), &header, NULL), 0);
        assert_int_equal(header.bitmap_count, 2);
        assert_int_equal(header.bitmap_directory_offset, place);
        assert_true((header.autoclear_features & QCOW2_AUTOCLEAR_BITMAPS) != 0);
        assert_int_equal(pread(fd, after, size, place), size);
        assert_int_equal(after[15] & QCOW2_BITMAP_IN_USE, QCOW2_BITMAP_IN_USE);
        after[15] = before[15];
        assert_memory_equal(before, after, size);
        /* A repair frees nothing of them. */
        struct block_check_result result;
        struct block_options repair = {.format = "qcow2", .is_for_repair = true, .is_alone = true};
        assert_int_equal(
            block_open_file(fcntl(fd, F_DUPFD_CLOEXEC, 3), "img", &options, loop, &file, NULL), 0);
        assert_int_equal(block_open_format(file, &repair, &block, NULL), 0);
        assert_int_equal(
            block_check(block, BLOCK_REPAIR_LEAKS | BLOCK_REPAIR_ERRORS, NULL, NULL, &result, NULL),
            0);
        assert_int_equal(result.errors + result.errors_fixed + result.leaks + result.leaks_fixed,
                         0);
        block_close(block);
        close(fd);
    }
}

static int setup(void **state)
{
    return event_loop_create(&loop, NULL);
}

static int teardown(void **state)
{
    event_loop_destroy(loop);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(headers_are_made_and_read),
        cmocka_unit_test(bad_headers_are_named),
        cmocka_unit_test(backing_names_have_their_place),
        cmocka_unit_test(entries_are_judged),
        cmocka_unit_test(counts_of_every_width),
        cmocka_unit_test(names_inside_are_not_opened),
        cmocka_unit_test(a_new_header_keeps_what_is_unknown),
        cmocka_unit_test(marks_are_honoured),
        cmocka_unit_test(unknown_bitmaps_stay),
        cmocka_unit_test(metadata_is_never_guest_data),
        cmocka_unit_test(trim_gives_space_back),
        cmocka_unit_test(a_terabyte_takes_little_memory),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
