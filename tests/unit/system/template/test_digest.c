/* Covers template/digest.c: the same tree has the same digest, and each kind of change another one. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/core/compiler.h"
#include "system/template/digest.h"

struct place {
    char path[64];
    int fd;
};

static void write_file(int folder, const char *name, const char *text)
{
    int fd = openat(folder, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
}

static void set_time(int folder, const char *name)
{
    const struct timespec times[2] = {{1000000, 0}, {1000000, 0}};
    assert_int_equal(utimensat(folder, name, times, AT_SYMLINK_NOFOLLOW), 0);
}

static void fill(int fd)
{
    assert_int_equal(mkdirat(fd, "etc", 0755), 0);
    write_file(fd, "etc/passwd", "root:x:0:0::/root:/bin/sh\n");
    write_file(fd, "etc.conf", "between a folder and what is in it\n");
    assert_int_equal(symlinkat("etc/passwd", fd, "link"), 0);
    assert_int_equal(mkfifoat(fd, "pipe", 0600), 0);
    static const char *const names[] = {"etc/passwd", "etc", "etc.conf", "link", "pipe", "."};
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        set_time(fd, names[i]);
    }
}

static int set_up(void **state)
{
    struct place *place = calloc(1, sizeof(*place));
    strcpy(place->path, "/tmp/hull-digest-XXXXXX");
    assert_non_null(mkdtemp(place->path));
    place->fd = open(place->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(place->fd >= 0);
    fill(place->fd);
    *state = place;
    return 0;
}

static int tear_down(void **state)
{
    struct place *place = *state;
    char command[128];
    close(place->fd);
    (void)snprintf(command, sizeof(command), "rm -rf %s", place->path);
    free(place);
    return system(command);
}

static void full(const char *path, char out_hex[DIGEST_HEX_SIZE])
{
    struct digest_records records;
    struct error err;
    if (digest_tree(path, &records, &err) < 0) {
        fail_msg("%s", err.text);
    }
    digest_bytes(records.data, records.size, out_hex);
    digest_records_fini(&records);
}

static void test_sha256(void **state)
{
    char hex[DIGEST_HEX_SIZE];
    digest_bytes("abc", 3, hex);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

static void test_same_tree(void **state)
{
    struct place *place = *state;
    char path[] = "/tmp/hull-digest-XXXXXX";
    char one[DIGEST_HEX_SIZE], other[DIGEST_HEX_SIZE];
    char command[64];
    assert_non_null(mkdtemp(path));
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    /* Made and removed: the folder is larger on some file systems. */
    write_file(fd, "passing", "");
    assert_int_equal(unlinkat(fd, "passing", 0), 0);
    fill(fd);
    close(fd);
    full(place->path, one);
    full(path, other);
    assert_string_equal(one, other);
    full(place->path, other);
    assert_string_equal(one, other);
    (void)snprintf(command, sizeof(command), "rm -rf %s", path);
    assert_int_equal(system(command), 0);
}

static void change_content(int fd)
{
    write_file(fd, "etc/passwd", "root:y:0:0::/root:/bin/sh\n");
    set_time(fd, "etc/passwd");
}

static void change_time(int fd)
{
    const struct timespec times[2] = {{1000000, 0}, {1000001, 0}};
    assert_int_equal(utimensat(fd, "etc/passwd", times, 0), 0);
}

static void change_mode(int fd)
{
    assert_int_equal(fchmodat(fd, "etc/passwd", 04644, 0), 0);
}

static void change_owner(int fd)
{
    assert_int_equal(fchownat(fd, "etc/passwd", 5, 0, 0), 0);
}

static void change_group(int fd)
{
    assert_int_equal(fchownat(fd, "etc/passwd", 0, 5, 0), 0);
}

static void change_xattr(int fd)
{
    int file = openat(fd, "etc/passwd", O_RDONLY | O_CLOEXEC);
    assert_int_equal(fsetxattr(file, "trusted.test", "1", 1, 0), 0);
    close(file);
}

static void change_link(int fd)
{
    assert_int_equal(unlinkat(fd, "link", 0), 0);
    assert_int_equal(symlinkat("etc/shadow", fd, "link"), 0);
    set_time(fd, "link");
    set_time(fd, ".");
}

static void change_name(int fd)
{
    assert_int_equal(renameat(fd, "etc/passwd", fd, "etc/passwe"), 0);
    set_time(fd, "etc");
}

static void change_type(int fd)
{
    assert_int_equal(unlinkat(fd, "pipe", 0), 0);
    assert_int_equal(mknodat(fd, "pipe", S_IFSOCK | 0600, 0), 0);
    set_time(fd, "pipe");
    set_time(fd, ".");
}

static void change_device(int fd)
{
    assert_int_equal(unlinkat(fd, "pipe", 0), 0);
    assert_int_equal(mknodat(fd, "pipe", S_IFCHR | 0600, makedev(0, 0)), 0);
    set_time(fd, "pipe");
    set_time(fd, ".");
}

static void add_empty(int fd)
{
    write_file(fd, "etc/new", "");
    set_time(fd, "etc/new");
    set_time(fd, "etc");
}

static void remove_one(int fd)
{
    assert_int_equal(unlinkat(fd, "etc.conf", 0), 0);
    set_time(fd, ".");
}

static void test_changes(void **state)
{
    static const struct {
        void (*change)(int fd);
        const char *says;
    } rows[] = {
        {change_content, "/etc/passwd was changed"}, {change_time, "/etc/passwd was changed"},
        {change_mode, "/etc/passwd was changed"},    {change_owner, "/etc/passwd was changed"},
        {change_group, "/etc/passwd was changed"},   {change_xattr, "/etc/passwd was changed"},
        {change_link, "/link was changed"},          {change_name, "/etc/passwd was removed"},
        {change_type, "/pipe was changed"},          {change_device, "/pipe was changed"},
        {add_empty, "/etc/new was added"},           {remove_one, "/etc.conf was removed"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        struct place *place;
        struct digest_records before, after;
        char quick[DIGEST_HEX_SIZE], other[DIGEST_HEX_SIZE], says[200];
        struct error err;
        assert_int_equal(set_up((void **)&place), 0);
        assert_int_equal(digest_tree(place->path, &before, &err), 0);
        assert_int_equal(digest_tree_quick(place->path, quick, &err), 0);
        digest_difference(before.data, before.size, before.data, before.size, says, sizeof(says));
        assert_string_equal(says, "");
        rows[i].change(place->fd);
        assert_int_equal(digest_tree(place->path, &after, &err), 0);
        digest_difference(before.data, before.size, after.data, after.size, says, sizeof(says));
        assert_string_equal(says, rows[i].says);
        assert_int_equal(digest_tree_quick(place->path, other, &err), 0);
        assert_string_not_equal(quick, other);
        digest_records_fini(&before);
        digest_records_fini(&after);
        assert_int_equal(tear_down((void **)&place), 0);
    }
}

/* The content is put back with its time, which only the quick digest sees. */
static void test_quick_sees_ctime(void **state)
{
    struct place *place = *state;
    char full_before[DIGEST_HEX_SIZE], full_after[DIGEST_HEX_SIZE];
    char quick_before[DIGEST_HEX_SIZE], quick_after[DIGEST_HEX_SIZE];
    struct stat before, after;
    full(place->path, full_before);
    assert_int_equal(digest_tree_quick(place->path, quick_before, NULL), 0);
    assert_int_equal(fstatat(place->fd, "etc/passwd", &before, 0), 0);
    do { /* until the clock of the file system has moved on */
        write_file(place->fd, "etc/passwd", "root:x:0:0::/root:/bin/sh\n");
        set_time(place->fd, "etc/passwd");
        assert_int_equal(fstatat(place->fd, "etc/passwd", &after, 0), 0);
    } while (memcmp(&before.st_ctim, &after.st_ctim, sizeof(before.st_ctim)) == 0);
    full(place->path, full_after);
    assert_int_equal(digest_tree_quick(place->path, quick_after, NULL), 0);
    assert_string_equal(full_before, full_after);
    assert_string_not_equal(quick_before, quick_after);
}

/* What overlayfs notes for itself is of the host; what it means to say about the tree is not. */
static void test_xattrs_of_host(void **state)
{
    struct place *place = *state;
    char one[DIGEST_HEX_SIZE], other[DIGEST_HEX_SIZE];
    full(place->path, one);
    int fd = openat(place->fd, "etc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(fsetxattr(fd, "trusted.overlay.origin", "x", 1, 0), 0);
    full(place->path, other);
    assert_string_equal(one, other);
    assert_int_equal(fsetxattr(fd, "trusted.overlay.opaque", "y", 1, 0), 0);
    close(fd);
    full(place->path, other);
    assert_string_not_equal(one, other);
}

/* Fields have their lengths: no name can look like two entries, or like another's fields. */
static void test_hostile_names(void **state)
{
    static const char *const names[][2] = {
        {"a\nb", "a b"}, {"a", "a\n"},      {"\x01", "\x02"},     {"\xff\xfe", "\xff"},
        {"-rf", "--"},   {"a\\nb", "a\nb"}, {"\x1b[31m", "[31m"}, {"sha256-0", "sha256"},
    };
    struct place *place = *state;
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        char hex[2][DIGEST_HEX_SIZE];
        for (int j = 0; j < 2; j++) {
            write_file(place->fd, names[i][j], "x");
            set_time(place->fd, names[i][j]);
            set_time(place->fd, ".");
            full(place->path, hex[j]);
            assert_int_equal(unlinkat(place->fd, names[i][j], 0), 0);
        }
        assert_string_not_equal(hex[0], hex[1]);
    }
    /* And none reaches a terminal as it is. */
    struct digest_records before, after;
    char says[200];
    set_time(place->fd, ".");
    assert_int_equal(digest_tree(place->path, &before, NULL), 0);
    write_file(place->fd, "\x1b[31m\xc2\x9b", "x");
    set_time(place->fd, ".");
    assert_int_equal(digest_tree(place->path, &after, NULL), 0);
    digest_difference(before.data, before.size, after.data, after.size, says, sizeof(says));
    assert_string_equal(says, "/?[31m?? was added");
    digest_records_fini(&before);
    digest_records_fini(&after);
}

static void test_longest_name(void **state)
{
    struct place *place = *state;
    char name[256], one[DIGEST_HEX_SIZE], other[DIGEST_HEX_SIZE];
    memset(name, 'n', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    write_file(place->fd, name, "x");
    full(place->path, one);
    write_file(place->fd, name, "y");
    full(place->path, other);
    assert_string_not_equal(one, other);
}

static void test_deep(void **state)
{
    struct place *place = *state;
    struct digest_records records;
    struct error err;
    char hex[DIGEST_HEX_SIZE];
    int fd = dup(place->fd);
    for (unsigned i = 0; i < DIGEST_DEPTH + 10; i++) {
        assert_int_equal(mkdirat(fd, "deeper", 0755), 0);
        int next = openat(fd, "deeper", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_true(next >= 0);
        close(fd);
        fd = next;
    }
    close(fd);
    assert_int_equal(digest_tree(place->path, &records, &err), -ELOOP);
    assert_int_equal(digest_tree_quick(place->path, hex, &err), -ELOOP);
}

/* A link in place of the tree, or of a folder in it, is not followed. */
static void test_links(void **state)
{
    struct place *place = *state;
    struct digest_records records;
    char link[80], one[DIGEST_HEX_SIZE], other[DIGEST_HEX_SIZE];
    (void)snprintf(link, sizeof(link), "%s-link", place->path);
    assert_int_equal(symlink(place->path, link), 0);
    assert_true(digest_tree(link, &records, NULL) < 0);
    assert_int_equal(unlink(link), 0);
    assert_int_equal(symlinkat(".", place->fd, "loop"), 0);
    assert_int_equal(symlinkat("/etc", place->fd, "out"), 0);
    full(place->path, one);
    full(place->path, other);
    assert_string_equal(one, other);
}

/* Records from a file are anything at all. */
static void test_bad_records(void **state)
{
    struct place *place = *state;
    struct digest_records records;
    char says[200];
    assert_int_equal(digest_tree(place->path, &records, NULL), 0);
    char *damaged = malloc(records.size);
    for (size_t i = 0; i < records.size; i++) {
        memcpy(damaged, records.data, records.size);
        damaged[i] = (char)(damaged[i] ^ 0xff);
        digest_difference(damaged, records.size, records.data, records.size, says, sizeof(says));
        assert_string_not_equal(says, "");
        digest_difference(damaged, i, records.data, records.size, says, sizeof(says));
        assert_string_not_equal(says, "");
    }
    free(damaged);
    digest_records_fini(&records);
}

int main(void)
{
    if (geteuid() != 0) {
        (void)fputs("skipped: owners and devices need root\n", stderr);
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sha256),
        cmocka_unit_test_setup_teardown(test_same_tree, set_up, tear_down),
        cmocka_unit_test(test_changes),
        cmocka_unit_test_setup_teardown(test_quick_sees_ctime, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_xattrs_of_host, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_hostile_names, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_longest_name, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_deep, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_links, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_bad_records, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
