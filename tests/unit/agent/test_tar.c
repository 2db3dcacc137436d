/* Tar streams as bytes. What real programs write is in tests/integration/test_agent.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "agent/tar.h"
#include "agent/tar_header.h"

struct stream {
    uint8_t byte[65536];
    size_t size, at;
};

static int stream_write(void *ctx, const void *data, size_t size, struct error *err)
{
    struct stream *s = ctx;
    assert_true(s->size + size <= sizeof(s->byte));
    memcpy(s->byte + s->size, data, size);
    s->size += size;
    return 0;
}

static int stream_read(void *ctx, void *data, size_t size, struct error *err)
{
    struct stream *s = ctx;
    if (size > s->size - s->at) {
        return error_set(err, ENODATA, "the end");
    }
    memcpy(data, s->byte + s->at, size);
    s->at += size;
    return 0;
}

static struct tar_entry make_entry(const char *path)
{
    return (struct tar_entry){.type = TAR_FILE,
                              .path = (char *)path,
                              .target = "",
                              .mode = 0644,
                              .uid = 1000,
                              .gid = 100,
                              .time = {.tv_sec = 1234567890}};
}

static void put_sum(union tar_header *h)
{
    unsigned sum = 0;
    memset(h->f.checksum, ' ', sizeof(h->f.checksum));
    for (size_t i = 0; i < TAR_BLOCK; i++) {
        sum += h->byte[i];
    }
    (void)snprintf(h->f.checksum, sizeof(h->f.checksum), "%06o", sum & 0777777);
}

/* A header by hand, at the stream's end. */
static union tar_header *put_header(struct stream *s, char type, const char *name, size_t size)
{
    struct tar_entry e = make_entry(name);
    struct error err = {0};
    assert_int_equal(tar_write_head(stream_write, s, &e, &err), 0);
    union tar_header *h = (void *)(s->byte + s->size - TAR_BLOCK);
    h->f.type = type;
    (void)snprintf(h->f.size, sizeof(h->f.size), "%011o", (unsigned)size);
    put_sum(h);
    return h;
}

static void put_data(struct stream *s, const char *text)
{
    assert_int_equal(stream_write(s, text, strlen(text), NULL), 0);
    assert_int_equal(tar_write_padding(stream_write, s, strlen(text), NULL), 0);
}

static void check_round(struct tar_entry e)
{
    struct stream s = {0};
    struct error err = {0};
    struct tar_reader r = {.read = stream_read, .ctx = &s};
    assert_int_equal(tar_write_head(stream_write, &s, &e, &err), 0);
    assert_int_equal(tar_next(&r, &err), 1);
    assert_int_equal(r.entry.type, e.type);
    assert_string_equal(r.entry.path, e.path);
    assert_string_equal(r.entry.target, e.target);
    assert_int_equal(r.entry.mode, e.mode);
    assert_int_equal(r.entry.uid, e.uid);
    assert_int_equal(r.entry.gid, e.gid);
    assert_true(r.entry.size == e.size);
    assert_true(r.entry.time.tv_sec == e.time.tv_sec && r.entry.time.tv_nsec == e.time.tv_nsec);
    assert_int_equal(r.entry.major, e.major);
    assert_int_equal(r.entry.minor, e.minor);
    tar_reader_end(&r);
}

static void entries_come_back(void **state)
{
    char path[3000];
    struct tar_entry e = make_entry("plain");
    check_round(e);
    for (size_t length = 90; length < sizeof(path); length += length < 110 ? 1 : 97) {
        memset(path, 'a', sizeof(path));
        path[length] = '\0';
        check_round(make_entry(path));
        e = make_entry("link");
        e.type = TAR_LINK;
        e.target = path;
        check_round(e);
    }
    e = make_entry("large");
    e.size = 077777777777ull;
    check_round(e);
    e.size++;
    check_round(e);
    e.size = INT64_MAX;
    check_round(e);
    e = make_entry("device");
    e.type = TAR_BLOCK_DEVICE;
    e.major = 4095;
    e.minor = (1 << 20) - 1;
    e.mode = 07777;
    check_round(e);
}

static void owners_and_times_come_back(void **state)
{
    static const uint32_t ids[] = {0, 07777777, 010000000, UINT32_MAX - 1};
    static const struct timespec times[] = {
        {0, 0},  {-1, 0},           {-1, 500000000}, {-2, 1},        {0, 999999999},
        {12, 1}, {077777777777, 0}, {1ll << 33, 0},  {1ll << 40, 7}, {-(1ll << 40), 7}};
    for (size_t i = 0; i < ARRAY_COUNT(ids); i++) {
        struct tar_entry e = make_entry("file");
        e.uid = ids[i];
        e.gid = ids[ARRAY_COUNT(ids) - 1 - i];
        check_round(e);
    }
    for (size_t i = 0; i < ARRAY_COUNT(times); i++) {
        struct tar_entry e = make_entry("file");
        e.time = times[i];
        check_round(e);
    }
}

static void data_that_is_not_read_is_skipped(void **state)
{
    struct stream s = {0};
    struct error err = {0};
    struct tar_reader r = {.read = stream_read, .ctx = &s};
    char data[601] = "";
    size_t size;
    (void)put_header(&s, '0', "one", 600);
    put_data(&s, memset(data, '1', 600));
    (void)put_header(&s, '0', "two", 3);
    put_data(&s, "abc");
    assert_int_equal(tar_write_end(stream_write, &s, &err), 0);
    assert_int_equal(tar_next(&r, &err), 1);
    assert_int_equal(tar_read(&r, data, 100, &size, &err), 0);
    assert_int_equal(size, 100);
    assert_int_equal(tar_next(&r, &err), 1);
    assert_string_equal(r.entry.path, "two");
    assert_int_equal(tar_read(&r, data, sizeof(data), &size, &err), 0);
    assert_int_equal(size, 3);
    assert_memory_equal(data, "abc", 3);
    assert_int_equal(tar_read(&r, data, sizeof(data), &size, &err), 0);
    assert_int_equal(size, 0);
    assert_int_equal(tar_next(&r, &err), 0);
    tar_reader_end(&r);
}

static void long_names_of_gnu(void **state)
{
    struct stream s = {0};
    struct error err = {0};
    struct tar_reader r = {.read = stream_read, .ctx = &s};
    (void)put_header(&s, 'K', "././@LongLink", 6);
    put_data(&s, "target");
    (void)put_header(&s, 'L', "././@LongLink", 4);
    put_data(&s, "name");
    (void)put_header(&s, '2', "cut", 0);
    (void)put_header(&s, '0', "folder/", 0);
    assert_int_equal(tar_next(&r, &err), 1);
    assert_string_equal(r.entry.path, "name");
    assert_string_equal(r.entry.target, "target");
    assert_int_equal(tar_next(&r, &err), 1);
    assert_string_equal(r.entry.path, "folder/");
    assert_int_equal(r.entry.type, TAR_FOLDER);
    tar_reader_end(&r);
}

static void check_bad(struct stream *s, int expected)
{
    struct error err = {0};
    struct tar_reader r = {.read = stream_read, .ctx = s};
    assert_int_equal(tar_next(&r, &err), expected);
    assert_true(err.text[0] != '\0');
    tar_reader_end(&r);
}

static void check_bad_pax(const char *records)
{
    struct stream s = {0};
    (void)put_header(&s, 'x', "pax", strlen(records));
    put_data(&s, records);
    (void)put_header(&s, '0', "file", 0);
    check_bad(&s, -EBADMSG);
}

static void bad_pax_headers_are_refused(void **state)
{
    check_bad_pax("rubbish");
    check_bad_pax("0 a=b\n");
    check_bad_pax("5 a=\n\n");
    check_bad_pax("9999 path=a\n");
    check_bad_pax("18446744073709551615 path=a\n");
    check_bad_pax("99999999999999999999999 path=a\n");
    check_bad_pax("-6 a=b\n");
    check_bad_pax("8 path=\nx");
    check_bad_pax("6 path\n");
    check_bad_pax("8 path=\n"); /* no name at all */
    check_bad_pax("11 size=-1\n");
    check_bad_pax("28 size=9223372036854775808\n");
    check_bad_pax("18 uid=4294967295\n");
    check_bad_pax("13 mtime=1.x\n");
    check_bad_pax("9 mtime=\n");
}

static void bad_headers_are_refused(void **state)
{
    struct stream s = {0};
    union tar_header *h = put_header(&s, '0', "file", 0);
    h->f.name[0] = 'F';
    check_bad(&s, -EBADMSG); /* the checksum */
    s = (struct stream){0};
    h = put_header(&s, '0', "file", 0);
    memcpy(h->f.size, "rubbish rub", 12);
    put_sum(h);
    check_bad(&s, -EBADMSG);
    s = (struct stream){0};
    h = put_header(&s, '0', "file", 0);
    memset(h->f.size, 0xff, 12); /* -1 in base 256 */
    put_sum(h);
    check_bad(&s, -EBADMSG);
    s = (struct stream){0};
    h = put_header(&s, '0', "file", 0);
    memset(h->f.size, 0x7f, 12);
    h->f.size[0] = (char)0x80; /* more than 64 bits */
    put_sum(h);
    check_bad(&s, -EBADMSG);
    s = (struct stream){0};
    (void)put_header(&s, 'x', "pax", 2u << 20);
    check_bad(&s, -EBADMSG);
    s = (struct stream){0};
    (void)put_header(&s, 'S', "sparse", 0);
    check_bad(&s, -EOPNOTSUPP);
    s = (struct stream){.size = 100};
    check_bad(&s, -ENODATA);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(entries_come_back),
        cmocka_unit_test(owners_and_times_come_back),
        cmocka_unit_test(data_that_is_not_read_is_skipped),
        cmocka_unit_test(long_names_of_gnu),
        cmocka_unit_test(bad_pax_headers_are_refused),
        cmocka_unit_test(bad_headers_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
