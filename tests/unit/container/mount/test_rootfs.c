/* Covers mount/rootfs.c, mounts.c, devices.c, hide.c: a container's tree as it is seen from inside. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/core/compiler.h"
#include "box.h"

static void check_usual(void)
{
    struct stat st;
    box_check(getpid() == 1 && box_is_link("/proc/self", "1"));
    box_check(strcmp(box_mount_type("/dev"), "tmpfs") == 0 && box_has_option("/dev", "nosuid"));
    box_check(!box_has_option("/dev", "relatime")); /* strictatime */
    box_check(strcmp(box_mount_type("/dev/pts"), "devpts") == 0);
    box_check(strcmp(box_mount_type("/dev/mqueue"), "mqueue") == 0);
    box_check(strcmp(box_mount_type("/sys"), "sysfs") == 0 && box_has_option("/sys", "ro"));
    box_check(stat("/dev/shm", &st) == 0 && (st.st_mode & 07777) == 01777);
    box_check(box_is_device("/dev/null", 1, 3) && box_is_device("/dev/zero", 1, 5) &&
              box_is_device("/dev/full", 1, 7));
    box_check(box_is_device("/dev/random", 1, 8) && box_is_device("/dev/urandom", 1, 9) &&
              box_is_device("/dev/tty", 5, 0));
    box_check(stat("/dev/null", &st) == 0 && (st.st_mode & 0777) == 0666);
    box_check(box_is_link("/dev/ptmx", "pts/ptmx") && box_is_link("/dev/fd", "/proc/self/fd"));
    box_check(box_is_link("/dev/stdin", "/proc/self/fd/0") &&
              box_is_link("/dev/stderr", "/proc/self/fd/2"));
    int fd = open("/dev/null", O_WRONLY);
    box_check(fd >= 0 && write(fd, "x", 1) == 1);
    fd = open("/dev/ptmx", O_RDWR | O_NOCTTY);
    box_check(fd >= 0);
    /* masked and read-only */
    box_check(box_is_device("/proc/kcore", 1, 3) || access("/proc/kcore", F_OK) < 0);
    box_check(access("/sys/firmware", F_OK) < 0 || box_has_option("/sys/firmware", "ro"));
    box_check(box_has_option("/proc/sys", "ro") && !box_has_option("/proc", "ro"));
    box_check(open("/proc/sys/kernel/domainname", O_WRONLY) < 0 && errno == EROFS);
    /* nothing of the host's is left */
    box_check(strcmp(box_mount_options("/"), "") != 0 && access("/tmp", F_OK) < 0);
    char path[64];
    box_check(getcwd(path, sizeof(path)) != NULL && strcmp(path, "/") == 0);
}

static void test_usual(void **state)
{
    struct box box = box_usual();
    box.check = check_usual;
    box_run(&box);
}

static void test_no_pivot(void **state)
{
    struct box box = box_usual();
    box.check = check_usual;
    box.no_pivot = true;
    box_run(&box);
}

static void check_user_namespace(void)
{
    struct stat st;
    box_check(getpid() == 1 && box_is_link("/proc/self", "1"));
    box_check(box_is_device("/dev/null", 1, 3) && box_is_device("/dev/tty", 5, 0));
    int fd = open("/dev/null", O_WRONLY);
    box_check(fd >= 0 && write(fd, "x", 1) == 1);
    box_check(stat("/dev/shm", &st) == 0 && st.st_uid == 0);
    box_check(strcmp(box_mount_type("/dev/mqueue"), "mqueue") == 0);
    box_check(strcmp(box_mount_type("/sys"), "sysfs") == 0 && box_has_option("/sys", "ro"));
    box_check(open("/dev/ptmx", O_RDWR | O_NOCTTY) >= 0);
    box_check(box_has_option("/proc/sys", "ro"));
}

static void test_user_namespace(void **state)
{
    struct box box = box_usual();
    box.flags |= CLONE_NEWUSER;
    box.check = check_user_namespace;
    box_run(&box);
    box.is_rootless = true; /* nothing is opened for the container's process */
    box_run(&box);
    box.is_unprivileged = true;
    box_run(&box);
}

static void check_host_network(void)
{
    check_user_namespace();
    box_check(box_has_option("/sys/fs/cgroup", "ro") || access("/sys/fs/cgroup", F_OK) < 0);
}

/* sysfs of a network namespace that the container does not own: the host's, read-only. */
static void test_user_namespace_on_host_network(void **state)
{
    struct box box = box_usual();
    box.flags = (box.flags | CLONE_NEWUSER) & ~(uint64_t)CLONE_NEWNET;
    box.check = check_host_network;
    box_run(&box);
}

static void check_readonly(void)
{
    box_check(box_has_option("/", "ro") && mkdir("/x", 0755) < 0 && errno == EROFS);
    box_check(mkdir("/dev/shm/x", 0755) == 0);
}

static void test_readonly_root(void **state)
{
    struct box box = box_usual();
    box.spec.is_root_readonly = true;
    box.check = check_readonly;
    box_run(&box);
}

static void test_missing_root(void **state)
{
    struct spec spec = {0};
    struct rootfs_request request = {.spec = &spec, .root = "/nonexistent/root"};
    struct rootfs *rootfs = NULL;
    struct error err = {0};
    assert_int_equal(rootfs_create(&request, &rootfs, &err), -ENOENT);
    assert_non_null(strstr(err.text, "/nonexistent/root"));
    assert_non_null(strstr(err.text, "No such file or directory"));
    assert_null(rootfs);
    rootfs_destroy(NULL);
}

static const struct spec_mount over_root[] = {
    {.destination = "//", .type = "tmpfs", .source = "tmpfs", .data = ""},
};

static void test_no_mount_over_root(void **state)
{
    struct box box = box_usual();
    box.spec.mounts = over_root;
    box.spec.mount_count = 1;
    box.expected_error = "mounting //: mounting over the container's root";
    box_run(&box);
}

int main(void)
{
    if (!box_is_possible()) {
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_usual),
        cmocka_unit_test(test_no_pivot),
        cmocka_unit_test(test_user_namespace),
        cmocka_unit_test(test_user_namespace_on_host_network),
        cmocka_unit_test(test_readonly_root),
        cmocka_unit_test(test_missing_root),
        cmocka_unit_test(test_no_mount_over_root),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
