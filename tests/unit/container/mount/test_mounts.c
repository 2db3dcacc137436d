/* Covers mount/mounts.c, handle.c, filesystem.c, copy_up.c, idmap.c: what the options of mounts do. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/core/compiler.h"
#include "box.h"
#include "container/mount/filesystem.h"

#define PROC                                                                                       \
    {                                                                                              \
        .destination = "/proc", .type = "proc", .source = "proc", .data = ""                       \
    }

static struct box box_with(const struct spec_mount *mounts, size_t count)
{
    return (struct box){
        .flags = CLONE_NEWNS | CLONE_NEWPID,
        .spec = {.has_process = true, .mounts = mounts, .mount_count = count},
    };
}

/* On the host: a directory /mnt with a file, a tmpfs below it, and nothing of the machine's own. */
static void fill_source(const char *root)
{
    box_check(mount("tmpfs", "/mnt", "tmpfs", 0, "mode=755") == 0 &&
              mkdir("/mnt/below", 0755) == 0);
    box_write("/mnt/file", "of the host");
    box_check(chown("/mnt/file", 5, 7) == 0);
    box_check(mount("below", "/mnt/below", "tmpfs", 0, NULL) == 0);
    box_write("/mnt/below/file", "below");
}

static const struct spec_mount binds[] = {
    PROC,
    {.destination = "/plain", .type = "bind", .source = "/mnt", .data = "", .is_bind = true},
    {.destination = "/deep/all",
     .type = "none",
     .source = "/mnt",
     .data = "",
     .is_bind = true,
     .is_recursive_bind = true,
     .attributes_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID},
    {.destination = "/rro",
     .source = "/mnt",
     .data = "",
     .is_bind = true,
     .is_recursive_bind = true,
     .attributes_set = MOUNT_ATTR_NODEV,
     .recursive_attributes_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOATIME},
    {.destination = "/etc/one-file", .source = "/mnt/file", .data = "", .is_bind = true},
    {.destination = "/shared",
     .source = "/mnt",
     .data = "",
     .is_bind = true,
     .propagation = MS_SHARED},
};

static void check_binds(void)
{
    box_check(strcmp(box_read("/plain/file"), "of the host") == 0 &&
              access("/plain/below/file", F_OK) < 0);
    box_check(box_has_option("/plain", "rw") && !box_has_option("/plain", "nosuid"));
    box_check(box_has_option("/deep/all", "ro") && box_has_option("/deep/all", "nosuid"));
    box_check(box_has_option("/deep/all/below", "rw") &&
              strcmp(box_read("/deep/all/below/file"), "below") == 0);
    box_check(box_has_option("/rro", "ro") && box_has_option("/rro", "nodev") &&
              box_has_option("/rro", "noatime"));
    box_check(box_has_option("/rro/below", "ro") && !box_has_option("/rro/below", "nodev"));
    box_check(strcmp(box_read("/etc/one-file"), "of the host") == 0);
    box_check(strstr(box_mount_tail("/shared"), "shared:") != NULL &&
              strstr(box_mount_tail("/plain"), "shared:") == NULL);
}

static void test_binds(void **state)
{
    struct box box = box_with(binds, ARRAY_COUNT(binds));
    box.fill = fill_source;
    box.check = check_binds;
    box_run(&box);
}

static void check_binds_of_user(void)
{
    check_binds();
    struct stat st;
    box_check(stat("/plain/file", &st) == 0 && st.st_uid == 65534);
}

static void test_binds_in_user_namespace(void **state)
{
    struct box box = box_with(binds, ARRAY_COUNT(binds));
    box.flags |= CLONE_NEWUSER;
    box.fill = fill_source;
    box.check = check_binds_of_user;
    box_run(&box);
}

static const struct spec_mount hidden[] = {
    PROC,
    {.destination = "/file", .source = "/mnt/closed/file", .data = "", .is_bind = true},
};

static void fill_closed(const char *root)
{
    box_check(mount("tmpfs", "/mnt", "tmpfs", 0, "mode=700") == 0 &&
              mkdir("/mnt/closed", 0700) == 0);
    box_write("/mnt/closed/file", "closed");
}

static void check_closed(void)
{
    box_check(strcmp(box_read("/file"), "closed") == 0);
}

static void test_sources_beyond_the_users_rights(void **state)
{
    struct box box = box_with(hidden, ARRAY_COUNT(hidden));
    box.flags |= CLONE_NEWUSER;
    box.fill = fill_closed;
    box.check = check_closed;
    box_run(&box);
}

static const struct spec_mount missing[] = {
    {.destination = "/x", .source = "/mnt/none", .data = "", .is_bind = true},
};

static void test_missing_source(void **state)
{
    struct box box = box_with(missing, 1);
    box.expected_error = "mounting /x: source /mnt/none: No such file or directory";
    box_run(&box);
    box.flags |= CLONE_NEWUSER;
    box_run(&box);
}

/* Attributes that the host has set are locked in a user namespace: a bind keeps them, and may not take them away. */
static void fill_locked(const char *root)
{
    fill_source(root);
    box_check(mount(NULL, "/mnt", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NOATIME,
                    NULL) == 0);
}

static const struct spec_mount keeps_locked[] = {
    PROC,
    {.destination = "/kept",
     .source = "/mnt",
     .data = "",
     .is_bind = true,
     .is_recursive_bind = true,
     .attributes_set = MOUNT_ATTR_NODEV | MOUNT_ATTR_STRICTATIME},
};

static void check_locked(void)
{
    box_check(box_has_option("/kept", "ro") && box_has_option("/kept", "nosuid") &&
              box_has_option("/kept", "nodev"));
}

static void test_locked_attributes_are_kept(void **state)
{
    struct box box = box_with(keeps_locked, ARRAY_COUNT(keeps_locked));
    box.flags |= CLONE_NEWUSER;
    box.fill = fill_locked;
    box.check = check_locked;
    box.is_rootless = true; /* the container's process opens the sources: what it sees is locked */
    box_run(&box);
}

static const struct spec_mount unlocks[] = {
    {.destination = "/kept",
     .source = "/mnt",
     .data = "",
     .is_bind = true,
     .is_recursive_bind = true,
     .attributes_cleared = MOUNT_ATTR_RDONLY},
};

static void test_locked_attributes_are_not_cleared(void **state)
{
    struct box box = box_with(unlocks, 1);
    box.flags |= CLONE_NEWUSER;
    box.fill = fill_locked;
    box.is_rootless = true;
    box.expected_error = "locked by the user namespace";
    box_run(&box);
}

static void fill_copied(const char *root)
{
    char path[128];
    (void)snprintf(path, sizeof(path), "%s/var", root);
    box_check(mkdir(path, 0750) == 0 && chdir(path) == 0 && mkdir("dir", 0755) == 0 &&
              chmod("dir", 02751) == 0 && mkdir("dir/inner", 0700) == 0);
    box_write("dir/inner/file", "copied");
    box_check(chown("dir/inner/file", 3, 4) == 0 && chmod("dir/inner/file", 04640) == 0);
    box_check(symlink("/etc/passwd", "link") == 0 && mkfifo("pipe", 0600) == 0);
    box_check(setxattr("dir", "trusted.hull", "v", 1, 0) == 0);
    box_check(chdir("/") == 0);
}

static const struct spec_mount copied[] = {
    PROC,
    {.destination = "/var",
     .type = "tmpfs",
     .source = "tmpfs",
     .data = "",
     .attributes_set = MOUNT_ATTR_RDONLY,
     .superblock_flags = MS_RDONLY,
     .copies_up = true},
    {.destination = "/var/later/made", .type = "tmpfs", .source = "tmpfs", .data = "mode=0711"},
};

static void check_copied(void)
{
    struct stat st;
    char value[8];
    box_check(strcmp(box_mount_type("/var"), "tmpfs") == 0 && box_has_option("/var", "ro"));
    box_check(strcmp(box_read("/var/dir/inner/file"), "copied") == 0 &&
              box_is_link("/var/link", "/etc/passwd"));
    box_check(stat("/var/dir/inner/file", &st) == 0 && st.st_uid == 3 && st.st_gid == 4 &&
              (st.st_mode & 07777) == 04640);
    box_check(stat("/var/dir", &st) == 0 && (st.st_mode & 07777) == 02751);
    box_check(stat("/var/pipe", &st) == 0 && S_ISFIFO(st.st_mode));
    box_check(stat("/var", &st) == 0 &&
              (st.st_mode & 07777) == 0750); /* that of the directory below */
    box_check(getxattr("/var/dir", "trusted.hull", value, sizeof(value)) == 1);
    box_check(stat("/var/later/made", &st) == 0 && (st.st_mode & 07777) == 0711);
    box_check(mkdir("/var/x", 0755) < 0 && errno == EROFS);
}

static void test_copy_up(void **state)
{
    struct box box = box_with(copied, ARRAY_COUNT(copied));
    box.fill = fill_copied;
    box.check = check_copied;
    box_run(&box);
}

/* An option of overlayfs that is longer than what fsconfig takes. */
static char overlay_data[2048];

static void fill_overlay(const char *root)
{
    box_check(mount("tmpfs", "/mnt", "tmpfs", 0, NULL) == 0);
    size_t used = (size_t)snprintf(overlay_data, sizeof(overlay_data), "lowerdir=");
    for (int i = 0; i < 12; i++) {
        char path[128], file[160];
        (void)snprintf(path, sizeof(path), "/mnt/layer-with-a-long-name-%02d", i);
        box_check(mkdir(path, 0755) == 0);
        (void)snprintf(file, sizeof(file), "%s/%d", path, i);
        box_write(file, "layer");
        used += (size_t)snprintf(overlay_data + used, sizeof(overlay_data) - used, "%s%s",
                                 i > 0 ? ":" : "", path);
    }
}

static const struct spec_mount overlay[] = {
    PROC,
    {.destination = "/all",
     .type = "overlay",
     .source = "overlay",
     .data = overlay_data,
     .attributes_set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_RDONLY,
     .propagation = MS_PRIVATE},
};

static void check_overlay(void)
{
    box_check(strcmp(box_mount_type("/all"), "overlay") == 0 && box_has_option("/all", "nosuid") &&
              box_has_option("/all", "ro"));
    box_check(strcmp(box_read("/all/0"), "layer") == 0 &&
              strcmp(box_read("/all/11"), "layer") == 0);
}

static void test_long_options(void **state)
{
    struct box box = box_with(overlay, ARRAY_COUNT(overlay));
    box.fill = fill_overlay;
    box.check = check_overlay;
    box_run(&box);
}

static const struct spec_mount wrong_option[] = {
    {.destination = "/x", .type = "tmpfs", .source = "tmpfs", .data = "no-such-option=1"},
};
static const struct spec_mount wrong_type[] = {
    {.destination = "/x", .type = "no-such-type", .source = "none", .data = ""},
};

static void test_wrong_file_systems(void **state)
{
    struct box box = box_with(wrong_option, 1);
    box.expected_error = "no-such-option";
    box_run(&box);
    box = box_with(wrong_type, 1);
    box.expected_error = "mounting /x: file system no-such-type: No such device";
    box_run(&box);
}

static const struct spec_id_mapping to_own[] = {{5, 1005, 1}, {0, 1000, 1}};
static const struct spec_id_mapping to_own_groups[] = {{7, 2007, 1}, {0, 1000, 1}};
static const struct spec_mount mapped[] = {
    PROC,
    {.destination = "/mapped",
     .source = "/mnt",
     .data = "",
     .is_bind = true,
     .has_idmap = true,
     .uid_mappings = {to_own, 2},
     .gid_mappings = {to_own_groups, 2}},
};

static void check_mapped(void)
{
    struct stat st;
    box_check(stat("/mapped/file", &st) == 0 && st.st_uid == 1005 && st.st_gid == 2007);
}

static void test_own_id_mappings(void **state)
{
    struct box box = box_with(mapped, ARRAY_COUNT(mapped));
    box.fill = fill_source;
    box.check = check_mapped;
    box_run(&box);
}

static const struct spec_mount mapped_as_container[] = {
    PROC,
    {.destination = "/mapped", .source = "/mnt", .data = "", .is_bind = true, .has_idmap = true},
};

static void check_mapped_as_container(void)
{
    struct stat st;
    box_check(stat("/mapped/file", &st) == 0 && st.st_uid == 5 && st.st_gid == 7);
    box_check(mkdir("/mapped/new", 0755) == 0);
}

static void test_id_mappings_of_the_container(void **state)
{
    struct box box = box_with(mapped_as_container, 2);
    box.flags |= CLONE_NEWUSER;
    box.fill = fill_source;
    box.check = check_mapped_as_container;
    box_run(&box);
    box.flags &= ~(uint64_t)CLONE_NEWUSER;
    box.expected_error = "mounting /mapped: id mappings are wanted";
    box_run(&box);
}

static const struct spec_mount remounted[] = {
    PROC,
    {.destination = "/x", .type = "tmpfs", .source = "tmpfs", .data = "size=64k"},
    {.destination = "/x",
     .type = "tmpfs",
     .source = "tmpfs",
     .data = "size=128k",
     .is_remount = true,
     .attributes_set = MOUNT_ATTR_NOEXEC},
};

static void check_remounted(void)
{
    box_check(box_has_option("/x", "noexec") && strstr(box_mount_tail("/x"), "size=128k") != NULL);
}

static void test_remount(void **state)
{
    struct box box = box_with(remounted, ARRAY_COUNT(remounted));
    box.check = check_remounted;
    box_run(&box);
}

static void expect_option(const char **cursor, const char *name, const char *value)
{
    char option[64], *found = NULL;
    assert_int_equal(filesystem_next_option(cursor, option, sizeof(option), &found), 1);
    assert_string_equal(option, name);
    if (value == NULL) {
        assert_null(found);
    } else {
        assert_string_equal(found, value);
    }
}

static void test_options_are_taken_apart(void **state)
{
    const char *cursor = ",a,b=c,,context=\"x,y=z\",lowerdir=/a\\,b:/c,e=,f=g=h";
    expect_option(&cursor, "a", NULL);
    expect_option(&cursor, "b", "c");
    expect_option(&cursor, "context", "\"x,y=z\"");
    expect_option(&cursor, "lowerdir", "/a\\,b:/c");
    expect_option(&cursor, "e", "");
    expect_option(&cursor, "f", "g=h");
    char option[8], *value;
    assert_int_equal(filesystem_next_option(&cursor, option, sizeof(option), &value), 0);
    cursor = "12345678";
    assert_int_equal(filesystem_next_option(&cursor, option, sizeof(option), &value), -E2BIG);
}

int main(void)
{
    if (!box_is_possible()) {
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_binds),
        cmocka_unit_test(test_binds_in_user_namespace),
        cmocka_unit_test(test_sources_beyond_the_users_rights),
        cmocka_unit_test(test_missing_source),
        cmocka_unit_test(test_locked_attributes_are_kept),
        cmocka_unit_test(test_locked_attributes_are_not_cleared),
        cmocka_unit_test(test_copy_up),
        cmocka_unit_test(test_long_options),
        cmocka_unit_test(test_wrong_file_systems),
        cmocka_unit_test(test_own_id_mappings),
        cmocka_unit_test(test_id_mappings_of_the_container),
        cmocka_unit_test(test_remount),
        cmocka_unit_test(test_options_are_taken_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
