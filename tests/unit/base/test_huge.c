/* Covers base/host/huge.c: where memory lies, what is in it, and two views of one file. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/host/file.h"
#include "base/host/huge.h"

#define SIZE (HUGE_PAGE_SIZE + 3 * 4096u)

static void maps_memory(void **state)
{
    (void)state;
    uint8_t *map = huge_map(SIZE - 1, PROT_READ | PROT_WRITE, -1);
    assert_non_null(map);
    assert_int_equal((uintptr_t)map % HUGE_PAGE_SIZE, 0);
    for (size_t i = 0; i < SIZE; i += 4096) {
        assert_int_equal(map[i], 0);
        map[i] = 1;
    }
    huge_begin(map, SIZE, SIZE);
    for (size_t i = 0; i < SIZE; i += 4096) {
        assert_int_equal(map[i], 1);
    }
    /* Nothing else of what was reserved is left. */
    assert_int_equal(msync(map + SIZE, 4096, MS_ASYNC), -1);
    assert_int_equal(munmap(map, SIZE), 0);
}

static void shows_a_file_twice(void **state)
{
    (void)state;
    /* Without the rights for it there is none, and users take an ordinary one. */
    AUTO_CLOSE int fd = huge_create_file("test");
    fd = fd < 0 ? memfd_create("test", MFD_CLOEXEC) : fd;
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, SIZE), 0);
    uint8_t *writable = huge_map(SIZE, PROT_READ | PROT_WRITE, fd);
    const uint8_t *readable = huge_map(SIZE, PROT_READ, fd);
    assert_non_null(writable);
    assert_non_null(readable);
    assert_int_equal((uintptr_t)writable % HUGE_PAGE_SIZE, 0);
    assert_int_equal((uintptr_t)readable % HUGE_PAGE_SIZE, 0);
    writable[SIZE - 1] = 7;
    huge_begin(writable, SIZE, 1);
    writable[0] = 8;
    assert_int_equal(readable[SIZE - 1], 7);
    assert_int_equal(readable[0], 8);
    assert_int_equal(munmap(writable, SIZE), 0);
    assert_int_equal(munmap((void *)(uintptr_t)readable, SIZE), 0);
}

static void fails(void **state)
{
    (void)state;
    assert_null(huge_map((size_t)1 << 62, PROT_READ, -1));
    assert_int_equal(errno, ENOMEM);
    /* A file that cannot be written to. */
    AUTO_CLOSE int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_null(huge_map(SIZE, PROT_READ | PROT_WRITE, fd));
    assert_int_not_equal(errno, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(maps_memory),
        cmocka_unit_test(shows_a_file_twice),
        cmocka_unit_test(fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
