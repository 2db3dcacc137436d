#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "base/host/file.h"
#include "cli/boot_files.h"

static char folder[] = "/tmp/hull-test-files-XXXXXX";
static char path[64];

static void make_image(const void *start, size_t start_size, off_t size)
{
    AUTO_CLOSE int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, start, start_size), start_size);
    assert_int_equal(ftruncate(fd, size), 0);
}

static int open_image(struct boot_disk disk, int *out_fd, struct error *err)
{
    disk.format = "raw";
    disk.path = path;
    *err = (struct error){0};
    return boot_open_disk(&disk, out_fd, err);
}

static void check_refused(const char *why)
{
    struct error err;
    int fd = -1;
    char expected[300];
    (void)snprintf(expected, sizeof(expected), "disk %s: %s", path, why);
    assert_true(open_image((struct boot_disk){0}, &fd, &err) < 0);
    assert_string_equal(err.text, expected);
    assert_int_equal(fd, -1);
}

static void bad_images_are_named(void **state)
{
    (void)unlink(path);
    check_refused("No such file or directory: a raw image or a block device");
    make_image("", 0, 0);
    check_refused("the image is empty: a raw image or a block device of at least 512 bytes");
    make_image("", 0, 1000);
    check_refused("its size of 1000 bytes is odd: a multiple of 512 bytes");
    make_image("QFI\xfb", 4, 4096);
    check_refused(
        "looks like qcow2: format=qcow2, or format=raw, which serves the file's bytes as they are");
    int fd;
    struct error err;
    assert_int_equal(open_image((struct boot_disk){.is_raw_for_sure = true}, &fd, &err), 0);
    close(fd);
}

static void a_disk_has_one_writer(void **state)
{
    struct error err;
    int first;
    int second = -1;
    make_image("", 0, 4096);
    assert_int_equal(open_image((struct boot_disk){0}, &first, &err), 0);
    assert_int_equal(open_image((struct boot_disk){0}, &second, &err), -EBUSY);
    char expected[300];
    (void)snprintf(expected, sizeof(expected),
                   "disk %s: locked by another process: an image that is not in use, or readonly",
                   path);
    assert_string_equal(err.text, expected);
    close(first);
    /* Readers share, and keep writers out. */
    struct boot_disk readonly = {.is_readonly = true};
    assert_int_equal(open_image(readonly, &first, &err), 0);
    assert_int_equal(open_image(readonly, &second, &err), 0);
    int third = -1;
    assert_int_equal(open_image((struct boot_disk){0}, &third, &err), -EBUSY);
    close(first);
    close(second);
}

static int make_folder(void **state)
{
    if (mkdtemp(folder) == NULL) {
        return -1;
    }
    (void)snprintf(path, sizeof(path), "%s/image", folder);
    return 0;
}

static int remove_folder(void **state)
{
    (void)unlink(path);
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_images_are_named),
        cmocka_unit_test(a_disk_has_one_writer),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
