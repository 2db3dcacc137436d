/* Images of limited size. */
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/loop.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/core/compiler.h"
#include "support.h"
#include "system/layers/program.h"

#define MIB (UINT64_C(1) << 20)

static const struct layers_ids ids = {FIRST_ID, ID_COUNT};

static int make_image(void **state)
{
    box_mkdir("disk", 0, 0755);
    box_ok(layers_image_create(box_path("disk.img"), 64 * MIB, err));
    return 0;
}

static int remove_image(void **state)
{
    error_ignore(umount2(box_path("disk"), MNT_DETACH));
    box_ok(layers_remove(box_path("disk"), err));
    box_ok(layers_remove(box_path("disk.img"), err));
    return 0;
}

static uint64_t room(void)
{
    struct statvfs st;
    assert_int_equal(statvfs("disk", &st), 0);
    return (uint64_t)st.f_blocks * st.f_frsize;
}

static void test_made_sparse(void **state)
{
    struct error why = {0};
    struct stat st = box_stat("disk.img");
    assert_int_equal(st.st_size, 64 * MIB);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_true((uint64_t)st.st_blocks * 512 < 8 * MIB);
    assert_int_equal(layers_image_create(box_path("disk.img"), 64 * MIB, &why), -EEXIST);
    assert_int_equal(layers_image_create(box_path("small.img"), 16 * MIB - 1, &why), -EINVAL);
    assert_int_equal(layers_image_create("-n.img", 64 * MIB, &why), -EINVAL);
    assert_int_equal(layers_image_create(box_path("huge.img"), UINT64_MAX, &why), -EINVAL);
    assert_false(box_exists("small.img") || box_exists("huge.img"));
    box_ok(layers_image_create(box_path("small.img"), 16 * MIB, err));
    box_ok(layers_remove(box_path("small.img"), err));
}

static void test_mounted_with_a_limit(void **state)
{
    struct error why = {0};
    box_ok(layers_image_mount(box_path("disk.img"), box_path("disk"), err));
    assert_true(room() > 48 * MIB && room() <= 64 * MIB);
    /* all of it, and no byte more, leaves nothing of a copy */
    box_mkdir("tree", 0, 0755);
    int fd = open("tree/data", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    static char data[1 << 20];
    for (unsigned i = 0; i < 80; i++) {
        assert_int_equal(write(fd, data, sizeof(data)), sizeof(data));
    }
    close(fd);
    const struct layers_copy copy = {.from = box_path("tree"), .to = box_path("disk/copy")};
    assert_int_equal(layers_copy(&copy, &why), -ENOSPC);
    assert_false(box_exists("disk/copy"));
    uint64_t bytes, files;
    box_ok(layers_usage(box_path("disk"), &bytes, &files, err));
    assert_int_equal(files, 2); /* itself, and lost+found */
    box_ok(layers_remove(box_path("tree"), err));
    /* nobody else may have it now */
    box_mkdir("other", 0, 0755);
    assert_int_equal(layers_image_mount(box_path("disk.img"), box_path("other"), &why), -EBUSY);
    assert_int_equal(layers_image_grow(box_path("disk.img"), NULL, 128 * MIB, &why), -EBUSY);
    assert_int_equal(rmdir("other"), 0);
    /* the device goes with the mount, and the content stays */
    box_write("disk/kept", "kept", 0, 0600);
    struct stat mounted = box_stat("disk");
    assert_int_equal(umount("disk"), 0);
    char device[32];
    (void)snprintf(device, sizeof(device), "/dev/loop%u", (unsigned)(mounted.st_dev & 0xff));
    struct loop_info64 info;
    fd = open(device, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    bool is_free = ioctl(fd, LOOP_GET_STATUS64, &info) < 0 && errno == ENXIO;
    assert_true(is_free || info.lo_inode != box_stat("disk.img").st_ino);
    close(fd);
    box_ok(layers_image_mount(box_path("disk.img"), box_path("disk"), err));
    assert_string_equal(box_read("disk/kept"), "kept");
}

static void fill_all(void)
{
    static char data[1 << 20];
    int fd = open("large", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    unsigned count = 0;
    while (count < 1000 && write(fd, data, sizeof(data)) > 0) {
        count++;
    }
    inside(count < 64 && errno == ENOSPC);
}

static void test_holds_an_upper_layer(void **state)
{
    box_ok(layers_image_mount(box_path("disk.img"), box_path("disk"), err));
    box_mkdir("lower", 0, 0755);
    box_write("lower/file", "x", 0, 0600);
    box_mkdir("target", 0, 0755);
    box_ok(layers_make_upper(box_path("disk/upper"), box_path("disk/work"), &ids, err));
    const char *const lower[] = {box_path("lower")};
    const struct layers_mount request = {.lower = lower,
                                         .lower_count = 1,
                                         .upper = box_path("disk/upper"),
                                         .work = box_path("disk/work"),
                                         .ids = ids,
                                         .target = box_path("target")};
    box_ok(layers_mount(&request, err));
    box_run_inside("target", fill_all);
    assert_int_equal(umount("target"), 0);
    box_ok(layers_remove(box_path("target"), err));
    box_ok(layers_remove(box_path("lower"), err));
}

/* The kernel lets only those with CAP_SYS_RESOURCE do it, which root of a container around may not have. */
static bool may_resize(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2] = {0};
    return syscall(SYS_capget, &header, data) == 0 &&
           (data[0].effective & 1U << CAP_SYS_RESOURCE) != 0;
}

static void test_grows_unmounted(void **state)
{
    struct error why = {0};
    box_ok(layers_image_mount(box_path("disk.img"), box_path("disk"), err));
    box_write("disk/kept", "kept", 0, 0600);
    assert_int_equal(umount("disk"), 0);
    box_ok(layers_image_grow(box_path("disk.img"), NULL, 1024 * MIB + 5, err));
    assert_int_equal(box_stat("disk.img").st_size, 1024 * MIB);
    assert_int_equal(layers_image_grow(box_path("disk.img"), NULL, 64 * MIB, &why), -EINVAL);
    assert_int_equal(box_stat("disk.img").st_size, 1024 * MIB);
    /* the file is as large already, after a growth that did not end well */
    assert_int_equal(truncate("disk.img", 2048 * MIB), 0);
    box_ok(layers_image_grow(box_path("disk.img"), NULL, 2048 * MIB, err));
    box_ok(layers_image_mount(box_path("disk.img"), box_path("disk"), err));
    assert_true(room() > 1900 * MIB);
    assert_string_equal(box_read("disk/kept"), "kept");
    assert_true((uint64_t)box_stat("disk.img").st_blocks * 512 < 128 * MIB);
}

static void test_grows_mounted(void **state)
{
    struct error why = {0};
    const char *image = box_path("disk.img"), *target = box_path("disk");
    box_ok(layers_image_mount(image, target, err));
    assert_int_equal(layers_image_grow(image, target, 32 * MIB, &why), -EINVAL);
    /* a target where something else is */
    assert_int_equal(layers_image_grow(image, "/", 2048 * MIB, &why), -EINVAL);
    box_ok(layers_image_create(box_path("other.img"), 16 * MIB, err));
    assert_int_equal(layers_image_grow(box_path("other.img"), target, 2048 * MIB, &why), -EINVAL);
    assert_int_equal(box_stat("other.img").st_size, 16 * MIB);
    assert_int_equal(box_stat("disk.img").st_size, 64 * MIB);
    box_ok(layers_remove(box_path("other.img"), err));
    box_write("disk/kept", "kept", 0, 0600);
    if (!may_resize()) {
        assert_int_equal(layers_image_grow(image, target, 1024 * MIB, &why), -EPERM);
        print_message("skipped: growing a mounted image needs CAP_SYS_RESOURCE\n");
        skip();
    }
    box_ok(layers_image_grow(image, target, 1024 * MIB, err));
    assert_true(room() > 900 * MIB);
    assert_string_equal(box_read("disk/kept"), "kept");
}

static void write_image(off_t offset, const void *data, size_t size)
{
    int fd = open("disk.img", O_WRONLY | O_CLOEXEC);
    assert_int_equal(pwrite(fd, data, size, offset), size);
    close(fd);
}

static unsigned read_state(void)
{
    uint8_t state[2];
    int fd = open("disk.img", O_RDONLY | O_CLOEXEC);
    assert_int_equal(pread(fd, state, 2, 1024 + 0x3a), 2);
    close(fd);
    return state[0];
}

static void test_checked_where_it_was_not_unmounted(void **state)
{
    struct error why = {0};
    const char *const mark[] = {"debugfs", "-w", "-R", "set_super_value state 2", "disk.img", NULL};
    if (layers_run_program(mark, 0, "e2fsprogs", &why) == -ENOENT) {
        print_message("skipped: needs debugfs\n");
        skip();
    }
    assert_int_equal(read_state(), 2);
    box_ok(layers_image_mount(box_path("disk.img"), box_path("disk"), err));
    assert_int_equal(umount("disk"), 0);
    assert_int_equal(read_state(), 1);
    /* what e2fsck does not mend by itself */
    assert_int_equal(layers_run_program(mark, 0, "e2fsprogs", &why), 0);
    const char *const hurt[] = {"debugfs", "-w", "-R", "clri <2>", "disk.img", NULL};
    assert_int_equal(layers_run_program(hurt, 0, "e2fsprogs", &why), 0);
    assert_int_equal(layers_image_mount(box_path("disk.img"), box_path("disk"), &why), -EIO);
    assert_non_null(strstr(why.text, "e2fsck"));
    assert_int_equal(box_count_mounts(), 0);
}

static void test_what_is_no_image(void **state)
{
    struct error why = {0};
    static const char zeros[4096];
    assert_int_equal(layers_image_mount(box_path("missing"), box_path("disk"), &why), -ENOENT);
    assert_int_equal(layers_image_mount(box_path("disk"), box_path("disk"), &why), -EISDIR);
    assert_int_equal(layers_image_mount("/dev/null", box_path("disk"), &why), -EINVAL);
    write_image(0, zeros, sizeof(zeros));
    assert_int_equal(layers_image_mount(box_path("disk.img"), box_path("disk"), &why), -EINVAL);
    assert_int_equal(layers_image_grow(box_path("disk.img"), NULL, 128 * MIB, &why), -EINVAL);
    assert_int_equal(box_stat("disk.img").st_size, 64 * MIB);
    assert_int_equal(truncate("disk.img", 100), 0);
    assert_int_equal(layers_image_mount(box_path("disk.img"), box_path("disk"), &why), -EIO);
    assert_int_equal(box_count_mounts(), 0);
}

static void test_programs(void **state)
{
    struct error why = {0};
    const char *const missing[] = {"hull-no-such-program", NULL};
    assert_int_equal(layers_run_program(missing, 0, "somewhere", &why), -ENOENT);
    assert_non_null(strstr(why.text, "install somewhere"));
    const char *const fails[] = {"sh", "-c", "echo first; printf 'l\\033ast\\n\\n' >&2; exit 3",
                                 NULL};
    assert_int_equal(layers_run_program(fails, 2, "", &why), -EIO);
    assert_non_null(strstr(why.text, "(status 3): l?ast"));
    assert_int_equal(layers_run_program(fails, 3, "", &why), 3);
    const char *const dies[] = {"sh", "-c", "kill -9 $$", NULL};
    assert_int_equal(layers_run_program(dies, 255, "", &why), -EIO);
    assert_int_equal(setenv("HULL_TEST_LEAK", "1", 1), 0);
    const char *const looks[] = {"sh", "-c", "test -z \"$HULL_TEST_LEAK\"", NULL};
    assert_int_equal(layers_run_program(looks, 0, "", &why), 0);
}

/* Loop devices are not everywhere where there is a root. */
static bool can_mount(void)
{
    struct error why = {0};
    bool can = false;
    if (mkdir("try", 0700) == 0 && layers_image_create(box_path("try.img"), 16 * MIB, &why) == 0) {
        can = layers_image_mount(box_path("try.img"), box_path("try"), &why) == 0;
    }
    if (!can) {
        (void)fprintf(stderr, "skipped: %s\n", why.text);
        return false;
    }
    (void)umount("try");
    (void)rmdir("try");
    (void)unlink("try.img");
    return true;
}

int main(void)
{
    if (!box_open()) {
        return 77;
    }
    if (!can_mount()) {
        box_close();
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_programs),
        cmocka_unit_test_setup_teardown(test_made_sparse, make_image, remove_image),
        cmocka_unit_test_setup_teardown(test_mounted_with_a_limit, make_image, remove_image),
        cmocka_unit_test_setup_teardown(test_holds_an_upper_layer, make_image, remove_image),
        cmocka_unit_test_setup_teardown(test_grows_unmounted, make_image, remove_image),
        cmocka_unit_test_setup_teardown(test_grows_mounted, make_image, remove_image),
        cmocka_unit_test_setup_teardown(test_checked_where_it_was_not_unmounted, make_image,
                                        remove_image),
        cmocka_unit_test_setup_teardown(test_what_is_no_image, make_image, remove_image),
    };
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    box_close();
    return rc;
}
