/* Covers base/host/image_lock.c: who excludes whom, and that the bytes are those of QEMU. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/host/image_lock.h"

static char path[] = "/tmp/hull-lock-XXXXXX";

static int make_file(void **state)
{
    int fd = mkostemp(path, O_CLOEXEC);
    close(fd);
    return fd < 0;
}

static int remove_file(void **state)
{
    return unlink(path);
}

static int open_again(int flags)
{
    int fd = open(path, flags | O_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

static void one_writer_or_many_readers(void **state)
{
    int a = open_again(O_RDWR), b = open_again(O_RDONLY), c = open_again(O_RDONLY);
    assert_int_equal(image_lock_set(b, IMAGE_LOCK_NONE, IMAGE_LOCK_SHARED), 0);
    assert_int_equal(image_lock_set(c, IMAGE_LOCK_NONE, IMAGE_LOCK_SHARED), 0);
    assert_int_equal(image_lock_set(a, IMAGE_LOCK_NONE, IMAGE_LOCK_ALONE), -EBUSY);
    assert_int_equal(image_lock_set(a, IMAGE_LOCK_NONE, IMAGE_LOCK_SHARED), 0);
    /* Up, when the others have gone, and what failed leaves nothing behind. */
    assert_int_equal(image_lock_set(a, IMAGE_LOCK_SHARED, IMAGE_LOCK_ALONE), -EBUSY);
    close(b);
    assert_int_equal(image_lock_set(c, IMAGE_LOCK_SHARED, IMAGE_LOCK_ALONE), -EBUSY);
    close(c);
    assert_int_equal(image_lock_set(a, IMAGE_LOCK_SHARED, IMAGE_LOCK_ALONE), 0);
    b = open_again(O_RDWR);
    assert_int_equal(image_lock_set(b, IMAGE_LOCK_NONE, IMAGE_LOCK_SHARED), -EBUSY);
    assert_int_equal(image_lock_set(b, IMAGE_LOCK_NONE, IMAGE_LOCK_ALONE), -EBUSY);
    /* And down. */
    assert_int_equal(image_lock_set(a, IMAGE_LOCK_ALONE, IMAGE_LOCK_SHARED), 0);
    assert_int_equal(image_lock_set(b, IMAGE_LOCK_NONE, IMAGE_LOCK_SHARED), 0);
    assert_int_equal(image_lock_set(a, IMAGE_LOCK_SHARED, IMAGE_LOCK_NONE), 0);
    assert_int_equal(image_lock_set(b, IMAGE_LOCK_SHARED, IMAGE_LOCK_ALONE), 0);
    close(a);
    close(b);
}

static bool is_locked(int fd, off_t offset)
{
    struct flock byte = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = offset, .l_len = 1};
    assert_int_equal(fcntl(fd, F_OFD_GETLK, &byte), 0);
    return byte.l_type != F_UNLCK;
}

static void the_bytes_are_those_of_qemu(void **state)
{
    int a = open_again(O_RDWR), b = open_again(O_RDWR);
    assert_int_equal(image_lock_set(a, IMAGE_LOCK_NONE, IMAGE_LOCK_SHARED), 0);
    for (int i = 0; i < 300; i++) {
        assert_int_equal(is_locked(b, i), i == 100 || i == 201 || i == 203);
    }
    assert_int_equal(image_lock_set(a, IMAGE_LOCK_SHARED, IMAGE_LOCK_ALONE), 0);
    for (int i = 0; i < 300; i++) {
        assert_int_equal(is_locked(b, i), i == 100 || i == 101 || i == 103 || i == 201 || i == 203);
    }
    close(a);
    /* A lock of the old kind, on the whole file, counts as well. */
    struct flock all = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    assert_int_equal(fcntl(b, F_OFD_SETLK, &all), 0);
    a = open_again(O_RDONLY);
    assert_int_equal(image_lock_set(a, IMAGE_LOCK_NONE, IMAGE_LOCK_SHARED), -EBUSY);
    close(a);
    close(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_writer_or_many_readers),
        cmocka_unit_test(the_bytes_are_those_of_qemu),
    };
    return cmocka_run_group_tests(tests, make_file, remove_file);
}
