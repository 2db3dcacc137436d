/* Covers base/core/archive.c: what was put comes back; untrusted bytes never read past their end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/core/archive.h"

struct buffer {
    uint8_t bytes[256];
    size_t size;
};

static int buffer_write(void *ctx, const void *data, size_t size)
{
    struct buffer *buffer = ctx;
    if (size > sizeof(buffer->bytes) - buffer->size) {
        return -ENOSPC;
    }
    memcpy(buffer->bytes + buffer->size, data, size);
    buffer->size += size;
    return 0;
}

static void values_come_back(void **state)
{
    struct buffer buffer = {0};
    struct archive_writer writer = {.write = buffer_write, .ctx = &buffer};
    archive_put_u8(&writer, 0xab);
    archive_put_u16(&writer, 0x1234);
    archive_put_u32(&writer, 0xdeadbeef);
    archive_put_u64(&writer, 0x0123456789abcdef);
    archive_put_bool(&writer, true);
    archive_put_blob(&writer, "disk", 4);
    assert_int_equal(writer.status, 0);
    assert_int_equal(buffer.size, 1 + 2 + 4 + 8 + 1 + 4 + 4);

    struct archive_reader reader;
    archive_reader_init(&reader, buffer.bytes, buffer.size);
    assert_int_equal(archive_get_u8(&reader), 0xab);
    assert_int_equal(archive_get_u16(&reader), 0x1234);
    assert_int_equal(archive_get_u32(&reader), 0xdeadbeef);
    assert_int_equal(archive_get_u64(&reader), 0x0123456789abcdef);
    assert_true(archive_get_bool(&reader));
    uint32_t size;
    assert_memory_equal(archive_get_blob(&reader, 4, &size), "disk", 4);
    assert_int_equal(size, 4);
    assert_int_equal(archive_finish(&reader, NULL), 0);
}

static void every_cut_is_noticed(void **state)
{
    uint8_t bytes[12] = {4, 0, 0, 0, 'd', 'i', 's', 'k', 1, 2, 3, 4};
    for (size_t size = 0; size < sizeof(bytes); size++) {
        struct archive_reader reader;
        archive_reader_init(&reader, bytes, size);
        uint32_t blob_size;
        (void)archive_get_blob(&reader, 100, &blob_size);
        (void)archive_get_u32(&reader);
        struct error err = {0};
        assert_int_equal(archive_finish(&reader, &err), -EBADMSG);
    }
}

static void failure_sticks(void **state)
{
    const uint8_t bytes[] = {2, 7, 7, 7, 7};
    struct archive_reader reader;
    archive_reader_init(&reader, bytes, sizeof(bytes));
    assert_false(archive_get_bool(&reader)); /* 2 is no boolean */
    assert_int_equal(archive_get_u32(&reader), 0);
    assert_int_equal(archive_finish(&reader, NULL), -EBADMSG);
}

static void oversized_blob_and_leftovers(void **state)
{
    const uint8_t bytes[] = {5, 0, 0, 0, 1, 2, 3, 4, 5};
    struct archive_reader reader;
    uint32_t size = 99;
    archive_reader_init(&reader, bytes, sizeof(bytes));
    assert_null(archive_get_blob(&reader, 4, &size));
    assert_int_equal(size, 0);
    archive_reader_init(&reader, bytes, sizeof(bytes));
    (void)archive_get_u32(&reader);
    struct error err = {0};
    assert_int_equal(archive_finish(&reader, &err), -EBADMSG);
    assert_string_equal(err.text, "saved state has 5 bytes too many");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_come_back),
        cmocka_unit_test(every_cut_is_noticed),
        cmocka_unit_test(failure_sticks),
        cmocka_unit_test(oversized_blob_and_leftovers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
