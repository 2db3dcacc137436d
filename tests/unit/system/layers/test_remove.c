/* Trees that go, whatever is in them, and what they must not take along. */
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <linux/fs.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "support.h"

#define DEEP 3000 /* levels: more than descriptors, and more than a path can name */

static void test_what_is_not_there_is_no_error(void **state)
{
    box_ok(layers_remove(box_path("nothing"), err));
    box_ok(layers_remove(box_path("nothing/below"), err));
    struct error why = {0};
    assert_int_equal(layers_remove("relative", &why), -EINVAL);
    assert_int_equal(layers_remove(box_path(".."), &why), -EINVAL);
    assert_int_equal(layers_remove("/", &why), -EINVAL);
}

static void test_all_kinds(void **state)
{
    box_mkdir("tree", 0, 0755);
    box_mkdir("tree/locked", FIRST_ID, 0);
    box_write("tree/locked/file", "x", 0, 0);
    assert_int_equal(mkfifo("tree/fifo", 0600), 0);
    assert_int_equal(mknod("tree/whiteout", S_IFCHR, makedev(0, 0)), 0);
    assert_int_equal(mknod("tree/sock", S_IFSOCK | 0600, 0), 0);
    box_mkdir("outside", 0, 0755);
    box_write("outside/kept", "kept", 0, 0644);
    assert_int_equal(symlink("../outside", "tree/link"), 0);
    assert_int_equal(symlink(box_path("outside"), "tree/absolute"), 0);
    box_write("tree/\xff\n\\040", "odd", 0, 0644);
    box_ok(layers_remove(box_path("tree//"), err));
    assert_false(box_exists("tree"));
    assert_string_equal(box_read("outside/kept"), "kept");
    /* a link is removed itself */
    assert_int_equal(symlink("outside", "link"), 0);
    box_ok(layers_remove(box_path("link"), err));
    assert_false(box_exists("link"));
    assert_string_equal(box_read("outside/kept"), "kept");
    box_ok(layers_remove(box_path("outside"), err));
}

static size_t count_hidden(void)
{
    glob_t found;
    size_t count = glob(".hull-*", 0, NULL, &found) == 0 ? found.gl_pathc : 0;
    globfree(&found);
    return count;
}

/* Killed in the middle: the next try takes the rest along, be there a new tree of that name or not. */
static void test_killed(void **state)
{
    for (int is_new = 0; is_new < 2; is_new++) {
        box_mkdir("tree", 0, 0755);
        box_write("tree/file", "x", 0, 0644);
        pid_t child = fork();
        if (child == 0) {
            (void)setenv("HULL_OCI_FAULT", "renamed-away", 1);
            error_ignore(layers_remove(box_path("tree"), NULL));
            _exit(1);
        }
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        assert_false(box_exists("tree"));
        assert_int_equal(count_hidden(), 1);
        if (is_new) {
            box_mkdir("tree", 0, 0755);
        }
        box_ok(layers_remove(box_path("tree"), err));
        assert_false(box_exists("tree"));
        assert_int_equal(count_hidden(), 0);
    }
}

static bool set_flags(const char *path, int flags)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int old = 0;
    bool is_set = ioctl(fd, FS_IOC_GETFLAGS, &old) == 0;
    flags |= old; /* of the file system's own */
    is_set = is_set && ioctl(fd, FS_IOC_SETFLAGS, &flags) == 0;
    close(fd);
    return is_set;
}

static void test_flags_against_removal(void **state)
{
    box_mkdir("tree", 0, 0755);
    box_mkdir("tree/folder", 0, 0755);
    box_write("tree/folder/file", "x", 0, 0644);
    box_write("tree/folder/log", "x", 0, 0644);
    assert_int_equal(mkfifo("tree/folder/fifo", 0600), 0);
    if (!set_flags("tree/folder/file", FS_IMMUTABLE_FL)) {
        box_ok(layers_remove(box_path("tree"), err));
        print_message("skipped: no inode flags on the file system of /tmp\n");
        skip();
    }
    assert_true(set_flags("tree/folder/log", FS_APPEND_FL));
    assert_true(set_flags("tree/folder", FS_IMMUTABLE_FL));
    assert_true(set_flags("tree", FS_APPEND_FL));
    box_ok(layers_remove(box_path("tree"), err));
    assert_false(box_exists("tree"));
}

static void test_many_entries(void **state)
{
    box_mkdir("tree", 0, 0755);
    for (unsigned i = 0; i < 5000; i++) {
        char name[32];
        (void)snprintf(name, sizeof(name), "tree/%u", i);
        if (i % 5 == 0) {
            assert_int_equal(mkdir(name, 0700), 0);
        } else {
            assert_int_equal(mknod(name, S_IFREG | 0600, 0), 0);
        }
    }
    box_ok(layers_remove(box_path("tree"), err));
    assert_false(box_exists("tree"));
}

static void make_deep(const char *name)
{
    box_mkdir(name, 0, 0755);
    int at = open(name, O_PATH | O_DIRECTORY | O_CLOEXEC);
    for (unsigned i = 0; i < DEEP; i++) {
        assert_int_equal(mknodat(at, "file", S_IFREG | 0600, 0), 0);
        assert_int_equal(mkdirat(at, "a", 0700), 0);
        assert_int_equal(mkdirat(at, "b", 0700), 0);
        int next = openat(at, "a", O_PATH | O_DIRECTORY | O_CLOEXEC);
        assert_true(next >= 0);
        close(at);
        at = next;
    }
    close(at);
}

static void test_deep(void **state)
{
    make_deep("tree");
    box_ok(layers_remove(box_path("tree"), err));
    assert_false(box_exists("tree"));
}

static void test_deep_on_tmpfs(void **state)
{
    box_mkdir("memory", 0, 0755);
    assert_int_equal(mount("none", "memory", "tmpfs", 0, NULL), 0);
    make_deep("memory/tree");
    box_ok(layers_remove(box_path("memory/tree"), err));
    assert_false(box_exists("memory/tree"));
    assert_int_equal(umount("memory"), 0);
    box_ok(layers_remove(box_path("memory"), err));
}

static void test_mounts_stay(void **state)
{
    struct error why = {0};
    box_mkdir("tree", 0, 0755);
    box_mkdir("tree/a b", 0, 0755);
    box_write("tree/file", "kept", 0, 0644);
    assert_int_equal(mount("none", "tree/a b", "tmpfs", 0, NULL), 0);
    box_write("tree/a b/inner", "kept", 0, 0644);
    assert_int_equal(layers_remove(box_path("tree"), &why), -EBUSY);
    assert_non_null(strstr(why.text, "a b"));
    assert_int_equal(layers_remove(box_path("tree/a b"), &why), -EBUSY);
    assert_string_equal(box_read("tree/file"), "kept");
    assert_string_equal(box_read("tree/a b/inner"), "kept");
    assert_int_equal(umount("tree/a b"), 0);
    box_ok(layers_remove(box_path("tree"), err));
    assert_false(box_exists("tree"));
}

/* Where another path leads to the same tree, and the list of mounts does not tell. */
static void test_mounts_elsewhere_stay(void **state)
{
    struct error why = {0};
    box_mkdir("tree", 0, 0755);
    box_mkdir("tree/sub", 0, 0755);
    box_mkdir("tree/sub/mounted", 0, 0755);
    box_mkdir("view", 0, 0755);
    assert_int_equal(mount("none", "tree/sub/mounted", "tmpfs", 0, NULL), 0);
    box_write("tree/sub/mounted/inner", "kept", 0, 0644);
    assert_int_equal(mount(".", "view", NULL, MS_BIND, NULL), 0);
    /* through "view" the mount does not show, yet its folder is in use */
    assert_int_equal(layers_remove(box_path("view/tree"), &why), -EBUSY);
    assert_true(box_exists("view/tree"));
    assert_string_equal(box_read("tree/sub/mounted/inner"), "kept");
    assert_int_equal(umount("view"), 0);
    assert_int_equal(umount("tree/sub/mounted"), 0);
    box_ok(layers_remove(box_path("tree"), err));
    box_ok(layers_remove(box_path("view"), err));
}

int main(void)
{
    if (!box_open()) {
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_not_there_is_no_error),
        cmocka_unit_test(test_all_kinds),
        cmocka_unit_test(test_killed),
        cmocka_unit_test(test_flags_against_removal),
        cmocka_unit_test(test_many_entries),
        cmocka_unit_test(test_deep),
        cmocka_unit_test(test_deep_on_tmpfs),
        cmocka_unit_test(test_mounts_stay),
        cmocka_unit_test(test_mounts_elsewhere_stay),
    };
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    box_close();
    return rc;
}
