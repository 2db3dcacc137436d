/* Layers mounted together, and what a container's root can do in them. */
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cmocka.h>

#include "support.h"

static const struct layers_ids ids = {FIRST_ID, ID_COUNT};

/* Two lower layers: "app" over "base". */
static int fill(void **state)
{
    box_mkdir("base", 0, 0755);
    box_mkdir("base/etc", 0, 0755);
    box_write("base/etc/passwd", "root", 0, 0644);
    box_write("base/etc/shadow", "secret", 0, 0600);
    box_write("base/etc/user", "of 1000", 1000, 0600);
    box_mkdir("base/opt", 0, 0755);
    box_write("base/opt/old", "old", 0, 0644);
    box_mkdir("base/srv", 0, 0755);
    box_write("base/srv/hidden", "hidden", 0, 0644);
    box_write("base/trash", "trash", 0, 0644);
    box_write("base/both", "base", 0, 0644);
    box_mkdir("app", 0, 0755);
    box_write("app/both", "app", 0, 0644);
    box_mkdir("target", 0, 0755);
    box_ok(layers_make_upper(box_path("upper"), box_path("work"), &ids, err));
    return 0;
}

static int empty(void **state)
{
    error_ignore(umount2(box_path("target"), MNT_DETACH));
    const char *const names[] = {"base", "app", "target", "upper", "work", "a:b,c\\d"};
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        box_ok(layers_remove(box_path("%s", names[i]), err));
    }
    return 0;
}

static int mount_both(bool writable, struct error *err)
{
    const char *const lower[] = {box_path("app"), box_path("base")};
    const struct layers_mount request = {
        .lower = lower,
        .lower_count = 2,
        .upper = writable ? box_path("upper") : NULL,
        .work = writable ? box_path("work") : NULL,
        .ids = ids,
        .target = box_path("target"),
    };
    return layers_mount(&request, err);
}

static void change_base(void)
{
    struct stat st;
    inside(chmod("both", 0755) == 0);
    inside(strcmp(box_read("etc/shadow"), "secret") == 0);
    inside(stat("etc/user", &st) == 0 && st.st_uid == 1000 && st.st_gid == 1000);
    inside(stat(".", &st) == 0 && st.st_uid == 0);
    /* a new file, a copy, an owner, a folder of the lower layer under another name, a file less */
    int fd = open("new", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    inside(fd >= 0 && write(fd, "new", 3) == 3 && close(fd) == 0);
    fd = open("etc/passwd", O_WRONLY | O_APPEND | O_CLOEXEC);
    inside(fd >= 0 && write(fd, "+more", 5) == 5 && close(fd) == 0);
    inside(chown("etc/shadow", 42, 43) == 0);
    inside(chmod("etc/user", 0640) == 0);
    inside(rename("opt", "usr-opt") == 0 && strcmp(box_read("usr-opt/old"), "old") == 0);
    inside(unlink("trash") == 0 && !box_exists("trash"));
    /* an opaque folder: what lies below does not shine through */
    inside(unlink("srv/hidden") == 0 && rmdir("srv") == 0 && mkdir("srv", 0700) == 0);
    inside(!box_exists("srv/hidden"));
    inside(chown("new", 65535, 65535) == 0 && chown("new", 65536, 0) < 0 && errno == EINVAL);
    inside(mknod("zero", S_IFCHR | 0600, makedev(1, 5)) < 0 && errno == EPERM);
    inside(setxattr("new", "trusted.overlay.redirect", "/etc", 4, 0) < 0);
}

static void change_things(void)
{
    inside(strcmp(box_read("both"), "app") == 0);
    change_base();
}

static void see_changes(void)
{
    struct stat st;
    inside(strcmp(box_read("etc/passwd"), "root+more") == 0);
    inside(strcmp(box_read("usr-opt/old"), "old") == 0 && !box_exists("opt"));
    inside(!box_exists("trash") && box_exists("srv") && !box_exists("srv/hidden"));
    inside(stat("etc/shadow", &st) == 0 && st.st_uid == 42 && st.st_gid == 43);
}

static void test_root_inside_owns_all(void **state)
{
    box_ok(mount_both(true, err));
    assert_int_equal(box_count_mounts(), 1);
    box_run_inside("target", change_things);
    assert_int_equal(box_stat("upper/new").st_uid, FIRST_ID + 65535);
    assert_int_equal(box_stat("upper/etc/passwd").st_uid, FIRST_ID);
    assert_int_equal(box_stat("upper/etc/shadow").st_uid, FIRST_ID + 42);
    assert_int_equal(box_stat("upper/etc/shadow").st_gid, FIRST_ID + 43);
    assert_int_equal(box_stat("upper/etc/user").st_uid, FIRST_ID + 1000);
    assert_true(S_ISCHR(box_stat("upper/trash").st_mode));
    char value[64] = "";
    assert_true(getxattr("upper/usr-opt", "trusted.overlay.redirect", value, 63) > 0);
    assert_string_equal(value, "opt");
    assert_true(getxattr("upper/srv", "trusted.overlay.opaque", value, 63) == 1 && value[0] == 'y');
    /* the lower layers are as they were */
    assert_string_equal(box_read("base/etc/passwd"), "root");
    assert_int_equal(box_stat("base/etc/shadow").st_uid, 0);
    assert_true(box_exists("base/trash") && box_exists("base/srv/hidden"));
    /* and again */
    assert_int_equal(umount("target"), 0);
    assert_int_equal(box_count_mounts(), 0);
    box_ok(mount_both(true, err));
    box_run_inside("target", see_changes);
}

/* A copy of the upper layer has its whiteouts, redirects and opaque folders too. */
static void test_copy_of_an_upper_layer(void **state)
{
    struct vfs_ns_cap_data data = {.magic_etc = VFS_CAP_REVISION_2 | VFS_CAP_FLAGS_EFFECTIVE,
                                   .data[0].permitted = 1 << CAP_NET_RAW};
    assert_int_equal(setxattr("base/both", "security.capability", &data, XATTR_CAPS_SZ_2, 0), 0);
    assert_int_equal(unlink("app/both"), 0);
    box_ok(mount_both(true, err));
    box_run_inside("target", change_base);
    assert_int_equal(umount("target"), 0);
    assert_int_equal(rename("upper", "upper-1"), 0);
    const struct layers_ids other = {300000, ID_COUNT};
    struct layers_copy copy = {
        .from = box_path("upper-1"), .to = box_path("upper-2"), .from_ids = ids, .to_ids = other};
    box_ok(layers_copy(&copy, err));
    assert_int_equal(box_stat("upper-2/etc/passwd").st_uid, 300000);
    copy = (struct layers_copy){
        .from = box_path("upper-2"), .to = box_path("upper"), .from_ids = other, .to_ids = ids};
    box_ok(layers_copy(&copy, err));
    box_ok(layers_remove(box_path("upper-1"), err));
    box_ok(layers_remove(box_path("upper-2"), err));
    box_ok(mount_both(true, err));
    box_run_inside("target", see_changes);
    /* what the template gave to its root's files is for the container's root alone */
    assert_int_equal(getxattr("upper/both", "security.capability", &data, sizeof(data)),
                     XATTR_CAPS_SZ_3);
    assert_int_equal(data.rootid, FIRST_ID);
}

static void find_read_only(void)
{
    inside(strcmp(box_read("both"), "app") == 0 && strcmp(box_read("etc/passwd"), "root") == 0);
    inside(open("new", O_WRONLY | O_CREAT | O_CLOEXEC, 0644) < 0 && errno == EROFS);
    inside(chown("etc/passwd", 1, 1) < 0 && errno == EROFS);
}

static void test_no_upper_is_read_only(void **state)
{
    box_ok(mount_both(false, err));
    assert_int_equal(box_count_mounts(), 1);
    box_run_inside("target", find_read_only);
}

static void find_base(void)
{
    struct stat st;
    inside(strcmp(box_read("both"), "base") == 0 && stat("etc/user", &st) == 0);
    inside(st.st_uid == 1000);
    inside(open("new", O_WRONLY | O_CREAT | O_CLOEXEC, 0644) < 0 && errno == EROFS);
}

static void test_single_is_a_bind_mount(void **state)
{
    const char *const lower[] = {box_path("base")};
    const struct layers_mount request = {
        .lower = lower, .lower_count = 1, .ids = ids, .target = box_path("target")};
    box_ok(layers_mount(&request, err));
    assert_int_equal(box_count_mounts(), 1);
    box_run_inside("target", find_base);
}

static void test_same_ids(void **state)
{
    const char *const lower[] = {box_path("base")};
    const struct layers_mount request = {.lower = lower,
                                         .lower_count = 1,
                                         .upper = box_path("upper"),
                                         .work = box_path("work"),
                                         .target = box_path("target")};
    box_ok(layers_mount(&request, err));
    assert_int_equal(box_stat("target/etc/user").st_uid, 1000);
    box_write("target/etc/user", "mine", 7, 0600);
    assert_int_equal(box_stat("upper/etc/user").st_uid, 7);
    assert_string_equal(box_read("base/etc/user"), "of 1000");
}

/* Names that options of overlayfs would take apart. */
static void test_any_name(void **state)
{
    box_mkdir("a:b,c\\d", 0, 0755);
    box_mkdir("a:b,c\\d/lower", 0, 0755);
    box_write("a:b,c\\d/lower/file", "here", 0, 0644);
    box_mkdir("a:b,c\\d/target", 0, 0755);
    const char *upper = box_path("a:b,c\\d/upper"), *work = box_path("a:b,c\\d/work");
    box_ok(layers_make_upper(upper, work, &ids, err));
    const char *const lower[] = {box_path("a:b,c\\d/lower")};
    const struct layers_mount request = {.lower = lower,
                                         .lower_count = 1,
                                         .upper = upper,
                                         .work = work,
                                         .ids = ids,
                                         .target = box_path("a:b,c\\d/target")};
    box_ok(layers_mount(&request, err));
    box_write("a:b,c\\d/target/new", "new", FIRST_ID, 0644);
    assert_string_equal(box_read("a:b,c\\d/target/file"), "here");
    assert_string_equal(box_read("a:b,c\\d/upper/new"), "new");
    assert_int_equal(umount2("a:b,c\\d/target", 0), 0);
}

static void test_as_many_as_possible(void **state)
{
    char paths[LAYERS_MAX][256];
    const char *lower[LAYERS_MAX + 1];
    box_mkdir("app/many", 0, 0755);
    for (unsigned i = 0; i < LAYERS_MAX; i++) {
        (void)snprintf(paths[i], sizeof(paths[i]), "%s", box_path("app/many/%u", i));
        lower[i] = paths[i];
        box_mkdir(paths[i], 0, 0755);
        box_write(box_path("app/many/%u/file-%u", i, i), "x", 0, 0644);
    }
    struct layers_mount request = {
        .lower = lower, .lower_count = LAYERS_MAX, .ids = ids, .target = box_path("target")};
    box_ok(layers_mount(&request, err));
    assert_true(box_exists("target/file-0") && box_exists("target/file-31"));
    assert_int_equal(box_count_mounts(), 1);
    request.lower_count++;
    struct error why = {0};
    assert_int_equal(layers_mount(&request, &why), -EINVAL);
}

static void test_failure_leaves_nothing(void **state)
{
    struct error why = {0};
    const char *const lower[] = {box_path("app"), box_path("missing")};
    struct layers_mount request = {
        .lower = lower, .lower_count = 2, .ids = ids, .target = box_path("target")};
    assert_int_equal(layers_mount(&request, &why), -ENOENT);
    assert_non_null(strstr(why.text, "missing"));
    /* overlayfs refuses an upper layer and a work folder on two file systems, after the clones are attached */
    const char *const good[] = {box_path("app"), box_path("base")};
    assert_int_equal(mount("none", "work", "tmpfs", 0, NULL), 0);
    unsigned before = box_count_mounts();
    request.lower = good;
    request.upper = box_path("upper");
    request.work = box_path("work");
    assert_int_equal(layers_mount(&request, &why), -EINVAL);
    assert_int_equal(box_count_mounts(), before);
    assert_int_equal(umount("work"), 0);
    request.work = NULL;
    assert_int_equal(layers_mount(&request, &why), -EINVAL);
    request.ids = (struct layers_ids){UINT32_MAX, 2};
    request.upper = NULL;
    assert_int_equal(layers_mount(&request, &why), -EINVAL);
}

static void test_file_system_that_cannot_be_mapped(void **state)
{
    struct error why = {0};
    const char *const lower[] = {"/proc", box_path("base")};
    const struct layers_mount request = {
        .lower = lower, .lower_count = 2, .ids = ids, .target = box_path("target")};
    assert_int_equal(layers_mount(&request, &why), -EOPNOTSUPP);
    assert_non_null(strstr(why.text, "/proc"));
    assert_int_equal(box_count_mounts(), 0);
}

static void test_upper_is_made_once(void **state)
{
    struct error why = {0};
    assert_int_equal(box_stat("upper").st_uid, FIRST_ID);
    assert_int_equal(box_stat("work").st_gid, FIRST_ID);
    assert_int_equal(layers_make_upper(box_path("upper"), box_path("w2"), &ids, &why), -EEXIST);
    assert_int_equal(layers_make_upper(box_path("u2"), box_path("work"), &ids, &why), -EEXIST);
    assert_false(box_exists("u2") || box_exists("w2"));
}

int main(void)
{
    if (!box_open()) {
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_root_inside_owns_all, fill, empty),
        cmocka_unit_test_setup_teardown(test_copy_of_an_upper_layer, fill, empty),
        cmocka_unit_test_setup_teardown(test_no_upper_is_read_only, fill, empty),
        cmocka_unit_test_setup_teardown(test_single_is_a_bind_mount, fill, empty),
        cmocka_unit_test_setup_teardown(test_same_ids, fill, empty),
        cmocka_unit_test_setup_teardown(test_any_name, fill, empty),
        cmocka_unit_test_setup_teardown(test_as_many_as_possible, fill, empty),
        cmocka_unit_test_setup_teardown(test_failure_leaves_nothing, fill, empty),
        cmocka_unit_test_setup_teardown(test_file_system_that_cannot_be_mapped, fill, empty),
        cmocka_unit_test_setup_teardown(test_upper_is_made_once, fill, empty),
    };
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    box_close();
    return rc;
}
