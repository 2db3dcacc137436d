/* Names of extended attributes in archives of tar. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/host/file.h"
#include "manager/transfer/rename.h"
#include "manager/transfer/tar_format.h"

#define FROM "user.overlay.opaque"
#define TO   "trusted.overlay.opaque"

static char path[] = "/tmp/hull-rename-XXXXXX";

struct archive {
    char data[65536];
    size_t size;
};

static void add(struct archive *archive, char type, const char *name, const char *data, size_t size)
{
    struct tar_header header = {.type = type, .magic = "ustar", .version = "00"};
    (void)snprintf(header.name, sizeof(header.name), "%s", name);
    (void)snprintf(header.size, sizeof(header.size), "%011zo", size);
    (void)snprintf(header.checksum, sizeof(header.checksum), "%06o", tar_checksum(&header));
    header.checksum[7] = ' ';
    memcpy(archive->data + archive->size, &header, sizeof(header));
    archive->size += sizeof(header);
    memcpy(archive->data + archive->size, data, size);
    archive->size += (size + TAR_BLOCK - 1) / TAR_BLOCK * TAR_BLOCK;
}

static void finish(struct archive *archive)
{
    archive->size += 2 * (size_t)TAR_BLOCK;
    int fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, archive->data, archive->size), archive->size);
    close(fd);
}

static void assert_file_is(const struct archive *expected)
{
    void *data;
    size_t size;
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_int_equal(file_read_whole(fd, sizeof(expected->data), path, &data, &size, NULL), 0);
    assert_int_equal(size, expected->size);
    assert_memory_equal(data, expected->data, size);
    free(data);
}

/* A record of as many bytes as are asked for. */
static size_t filler(char *out, size_t length)
{
    int head = snprintf(out, 64, "%zu SCHILY.xattr.user.much=", length);
    memset(out + head, 'x', length - (size_t)head - 1);
    out[length - 1] = '\n';
    return length;
}

/* 'padding': of another record, which moves the end of all of them around the end of a block, and its length's digits. */
static void make(struct archive *archive, const char *name, size_t padding)
{
    char text[4096];
    size_t size = 0, length = 13 + strlen(name) + 3 + 1 + 2;
    memset(archive, 0, sizeof(*archive));
    add(archive, '5', "./plain", "", 0);
    if (padding > 0) {
        size = filler(text, padding);
    }
    size += (size_t)sprintf(text + size, "%zu SCHILY.xattr.%s=y\n", length, name);
    size += (size_t)sprintf(text + size, "%s", "25 SCHILY.xattr.user.a=b\n");
    add(archive, 'x', "./PaxHeaders/folder", text, size);
    add(archive, '5', "./folder", "", 0);
    memset(text, 'd', 1000);
    add(archive, '0', "./file", text, 1000);
    finish(archive);
}

static void test_there_and_back(void **state)
{
    static struct archive users, hosts;
    struct error err = {0};
    for (size_t padding = 400; padding < 520; padding++) {
        make(&hosts, TO, padding);
        make(&users, FROM, padding);
        assert_int_equal(rename_find(path, FROM, &err), 1);
        assert_int_equal(rename_find(path, TO, &err), 0);
        assert_int_equal(rename_attribute(path, FROM, TO, &err), 0);
        assert_file_is(&hosts);
        assert_int_equal(rename_attribute(path, FROM, TO, &err), 0);
        assert_file_is(&hosts);
        assert_int_equal(rename_attribute(path, TO, FROM, &err), 0);
        assert_file_is(&users);
    }
}

/* The size stands in the records where a header has no room for it. */
static void test_a_size_in_the_records(void **state)
{
    static struct archive archive;
    static const char records[] = "13 size=1536\n";
    struct error err = {0};
    char data[1536];
    struct archive *inner = calloc(1, sizeof(*inner));
    memset(&archive, 0, sizeof(archive));
    memset(data, 0, sizeof(data));
    /* What looks like a folder with the attribute, and is the content of a file. */
    const char fake[] = "38 SCHILY.xattr.user.overlay.opaque=y\n";
    add(inner, 'x', "./PaxHeaders/fake", fake, strlen(fake));
    memcpy(data, inner->data, inner->size);
    free(inner);
    add(&archive, 'x', "./PaxHeaders/large", records, strlen(records));
    add(&archive, '0', "./large", data, sizeof(data));
    struct tar_header *header = (struct tar_header *)(archive.data + 2 * (size_t)TAR_BLOCK);
    memset(header->size, '0', sizeof(header->size) - 1);
    (void)snprintf(header->checksum, sizeof(header->checksum), "%06o", tar_checksum(header));
    header->checksum[7] = ' ';
    finish(&archive);
    assert_int_equal(rename_find(path, FROM, &err), 0);
    assert_int_equal(rename_attribute(path, FROM, TO, &err), 0);
    assert_file_is(&archive);
}

static void test_bad(void **state)
{
    static struct archive archive;
    static const char *const records[] = {
        "5 a\n",           "0 a=b\n",  "999999 a=b\n", "x a=b\n",
        "6 a=b\n\n",       "-1 a=b\n", "6  a=b",       "99999999999999999999999 a=b\n",
        "4294967302 a=b\n"};
    struct error err = {0};
    for (size_t i = 0; i < sizeof(records) / sizeof(records[0]); i++) {
        memset(&archive, 0, sizeof(archive));
        add(&archive, 'x', "./PaxHeaders/x", records[i], strlen(records[i]));
        add(&archive, '5', "./x", "", 0);
        finish(&archive);
        assert_int_equal(rename_attribute(path, FROM, TO, &err), -EBADMSG);
    }
    /* Longer than the file, and no number. */
    static const char *const sizes[] = {"77777777777", "00000010000", "no number"};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        for (int type = 0; type < 2; type++) {
            memset(&archive, 0, sizeof(archive));
            add(&archive, "0x"[type], "./x", "", 0);
            memcpy(((struct tar_header *)archive.data)->size, sizes[i], strlen(sizes[i]));
            finish(&archive);
            assert_int_equal(rename_attribute(path, FROM, TO, &err), -EBADMSG);
        }
    }
    assert_int_equal(rename_attribute("/nonexistent", FROM, TO, &err), -ENOENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_there_and_back),
        cmocka_unit_test(test_a_size_in_the_records),
        cmocka_unit_test(test_bad),
    };
    int fd = mkstemp(path);
    if (fd < 0) {
        return 1;
    }
    close(fd);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    (void)unlink(path);
    return failed;
}
