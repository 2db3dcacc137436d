/* The space that a folder takes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka needs the four above. */
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/host/file.h"
#include "manager/check/check.h"

static uint64_t space_of(const char *path)
{
    struct error err = {0};
    uint64_t bytes = 0;
    assert_int_equal(check_space(path, &bytes, &err), 0);
    return bytes;
}

static void test_names_of_one_file_count_once(void **state)
{
    char folder[] = "/tmp/hull-test-check-XXXXXX", a[64], b[64], link_path[64];
    assert_non_null(mkdtemp(folder));
    snprintf(a, sizeof(a), "%s/a", folder);
    snprintf(b, sizeof(b), "%s/b", folder);
    snprintf(link_path, sizeof(link_path), "%s/link", folder);
    uint64_t empty = space_of(folder);
    AUTO_FREE char *data = calloc(1, 1 << 20);
    assert_non_null(data);
    AUTO_CLOSE int fd = open(a, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(file_write_all(fd, data, 1 << 20, "a", NULL), 0);
    assert_int_equal(fsync(fd), 0); /* blocks are counted when they are allocated */
    uint64_t one = space_of(folder);
    assert_true(one >= empty + (1 << 20));
    assert_int_equal(link(a, b), 0);
    assert_int_equal(symlink("/", link_path), 0);
    assert_true(space_of(folder) < one + (1 << 20));
    assert_int_equal(unlink(a) | unlink(b) | unlink(link_path) | rmdir(folder), 0);
    assert_int_equal(space_of(folder), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_names_of_one_file_count_once)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
