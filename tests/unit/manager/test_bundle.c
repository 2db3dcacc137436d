/* Files of exported instances: what is written is read, and nothing else is. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/core/compiler.h"
#include "manager/transfer/bundle.h"

struct memory {
    uint8_t *data;
    size_t size, at, piece;
};

static int to_memory(void *ctx, const void *data, size_t size, struct error *err)
{
    struct memory *memory = ctx;
    memory->data = realloc(memory->data, memory->size + size);
    assert_non_null(memory->data);
    memcpy(memory->data + memory->size, data, size);
    memory->size += size;
    return 0;
}

static int from_memory(void *ctx, void *data, size_t size, size_t *out_size, struct error *err)
{
    struct memory *memory = ctx;
    *out_size = MIN(MIN(size, memory->piece), memory->size - memory->at);
    memcpy(data, memory->data + memory->at, *out_size);
    memory->at += *out_size;
    return 0;
}

/* A header, a plain member of 1000 bytes, an empty one, and a sparse one. */
static void write_example(bool is_compressed, struct memory *memory)
{
    struct error err;
    struct bundle_writer *writer;
    struct bundle_map map = {.real_size = 1 << 20};
    uint8_t data[1536];
    memset(data, 'x', sizeof(data));
    json_t *header =
        json_pack("{s:i, s:s, s:s, s:{}}", "format", 1, "kind", "vm", "name", "vm1", "document");
    assert_int_equal(bundle_writer_create(is_compressed, to_memory, memory, &writer, &err), 0);
    assert_int_equal(bundle_put_json(writer, BUNDLE_HEADER, header, &err), 0);
    assert_int_equal(bundle_begin(writer, "boot/vmlinuz", 1000, &err), 0);
    assert_int_equal(bundle_write(writer, data, 400, &err), 0);
    assert_int_equal(bundle_write(writer, data, 600, &err), 0);
    assert_int_equal(bundle_begin(writer, "boot/initrd", 0, &err), 0);
    assert_int_equal(bundle_map_add(&map, 512, 512, &err), 0);
    assert_int_equal(bundle_map_add(&map, 1024, 512, &err), 0);
    assert_int_equal(bundle_map_add(&map, 8192, 512, &err), 0);
    assert_int_equal(map.count, 2);
    assert_int_equal(bundle_begin_sparse(writer, "disks/root/0.raw", &map, &err), 0);
    assert_int_equal(bundle_write(writer, data, 1536, &err), 0);
    assert_int_equal(bundle_finish(writer, &err), 0);
    bundle_writer_destroy(writer);
    bundle_map_fini(&map);
    json_decref(header);
}

/* 0: it was whole. */
static int read_example(struct memory *memory, size_t *out_members)
{
    struct error err = {0};
    struct bundle_reader *reader;
    const struct bundle_member *member;
    json_t *header = NULL;
    *out_members = 0;
    int rc = bundle_reader_create(from_memory, memory, &reader, &err);
    if (rc < 0) {
        return rc;
    }
    rc = bundle_read_header(reader, &header, &err);
    json_decref(header);
    rc = rc < 0 ? rc : 1;
    while (rc > 0 && (rc = bundle_next(reader, &member, &err)) > 0) {
        ++*out_members;
    }
    bundle_reader_destroy(reader);
    assert_true(rc == 0 || err.text[0] != '\0');
    return rc;
}

static void read_back(bool is_compressed, size_t piece)
{
    struct error err;
    struct memory memory = {.piece = piece};
    struct bundle_reader *reader;
    const struct bundle_member *member;
    json_t *header;
    uint8_t data[2000];
    size_t size;
    write_example(is_compressed, &memory);
    assert_int_equal(bundle_reader_create(from_memory, &memory, &reader, &err), 0);
    assert_int_equal(bundle_read_header(reader, &header, &err), 0);
    assert_string_equal(json_string_value(json_object_get(header, "name")), "vm1");
    json_decref(header);
    assert_int_equal(bundle_next(reader, &member, &err), 1);
    assert_string_equal(member->name, "boot/vmlinuz");
    assert_false(member->is_sparse);
    assert_int_equal(bundle_read(reader, data, sizeof(data), &size, &err), 0);
    assert_int_equal(size, 1000);
    assert_int_equal(data[999], 'x');
    assert_int_equal(bundle_next(reader, &member, &err), 1);
    assert_string_equal(member->name, "boot/initrd");
    assert_int_equal(bundle_read(reader, data, sizeof(data), &size, &err), 0);
    assert_int_equal(size, 0);
    assert_int_equal(bundle_next(reader, &member, &err), 1);
    assert_string_equal(member->name, "disks/root/0.raw");
    assert_true(member->is_sparse);
    assert_int_equal(member->map.real_size, 1 << 20);
    assert_int_equal(member->map.count, 2);
    assert_int_equal(member->map.extents[0].offset, 512);
    assert_int_equal(member->map.extents[0].size, 1024);
    assert_int_equal(member->map.extents[1].offset, 8192);
    assert_int_equal(bundle_read(reader, data, 100, &size, &err), 0); /* the rest is passed over */
    assert_int_equal(bundle_next(reader, &member, &err), 0);
    bundle_reader_destroy(reader);
    free(memory.data);
}

static void test_round_trip(void **state)
{
    static const size_t pieces[] = {1, 7, 512, 65536};
    for (size_t i = 0; i < ARRAY_COUNT(pieces); i++) {
        read_back(false, pieces[i]);
        read_back(true, pieces[i]);
    }
}

static void test_cut(void **state)
{
    for (unsigned compressed = 0; compressed < 2; compressed++) {
        struct memory memory = {.piece = 65536};
        size_t members;
        write_example(compressed, &memory);
        size_t whole = memory.size;
        for (size_t size = 0; size < whole; size += compressed ? 1 : 61) {
            memory.size = size;
            memory.at = 0;
            int rc = read_example(&memory, &members);
            /* The two blocks of zeros at the end say nothing. */
            assert_true(rc < 0 || (!compressed && size >= whole - 1024));
        }
        free(memory.data);
    }
}

/* A byte is another one: seen, or it was one that says nothing (padding, owners, times). */
static void test_changed(void **state)
{
    struct memory memory = {.piece = 65536};
    size_t members, seen = 0;
    write_example(false, &memory);
    for (size_t at = 0; at < memory.size; at += 3) {
        memory.data[at] ^= 0x11;
        memory.at = 0;
        seen += read_example(&memory, &members) < 0;
        memory.data[at] ^= 0x11;
    }
    assert_true(seen > memory.size / 6);
    memory.at = 0;
    assert_int_equal(read_example(&memory, &members), 0);
    assert_int_equal(members, 3);
    /* Content is always seen. */
    uint8_t *content = memmem(memory.data, memory.size, "xxxxxxxx", 8);
    assert_non_null(content);
    for (size_t i = 0; i < 1000; i += 111) {
        content[i] ^= 1;
        memory.at = 0;
        assert_int_equal(read_example(&memory, &members), -EBADMSG);
        content[i] ^= 1;
    }
    free(memory.data);
}

static void test_behind_its_end(void **state)
{
    for (unsigned compressed = 0; compressed < 2; compressed++) {
        struct memory memory = {.piece = 65536};
        size_t members;
        write_example(compressed, &memory);
        assert_int_equal(to_memory(&memory, "more", 4, NULL), 0);
        assert_int_equal(read_example(&memory, &members), -EBADMSG);
        free(memory.data);
    }
}

static void test_no_archive(void **state)
{
    static const char *const texts[] = {"", "x", "\x28\xb5\x2f\xfd", "\x28\xb5\x2f\xfd rubbish",
                                        "root:x:0:0:root:/root:/bin/bash\n"};
    for (size_t i = 0; i < ARRAY_COUNT(texts); i++) {
        struct memory memory = {
            .data = (uint8_t *)texts[i], .size = strlen(texts[i]), .piece = 65536};
        size_t members;
        assert_int_equal(read_example(&memory, &members), -EBADMSG);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_cut),
        cmocka_unit_test(test_changed),    cmocka_unit_test(test_behind_its_end),
        cmocka_unit_test(test_no_archive),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
