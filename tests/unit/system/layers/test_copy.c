/* Copies of trees with everything that is in them, also of those that somebody has filled with bad intentions. */
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/fs.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/core/endian.h"
#include "support.h"

#define LINK_COUNT 4000

static const struct layers_ids ids = {FIRST_ID, ID_COUNT}, other_ids = {500000, ID_COUNT};

static int copy(const char *from, const char *to, struct error *err)
{
    const struct layers_copy request = {.from = box_path("%s", from), .to = box_path("%s", to)};
    return layers_copy(&request, err);
}

static int shift(const char *from, struct layers_ids from_ids, const char *to,
                 struct layers_ids to_ids, struct error *err)
{
    const struct layers_copy request = {.from = box_path("%s", from),
                                        .to = box_path("%s", to),
                                        .from_ids = from_ids,
                                        .to_ids = to_ids};
    return layers_copy(&request, err);
}

static int make_tree(void **state)
{
    box_mkdir("tree", FIRST_ID, 0755);
    return 0;
}

static unsigned count_hidden(const char *folder)
{
    char command[256];
    (void)snprintf(command, sizeof(command), "ls -A %s | grep -c '^[.]hull-'",
                   box_path("%s", folder));
    FILE *output = popen(command, "re");
    unsigned number = 99;
    assert_true(output != NULL && fscanf(output, "%u", &number) == 1);
    (void)pclose(output);
    return number;
}

static int remove_trees(void **state)
{
    box_ok(layers_remove(box_path("tree"), err));
    box_ok(layers_remove(box_path("copy"), err));
    assert_int_equal(count_hidden(""), 0);
    return 0;
}

static void set_times(const char *path, long seconds)
{
    const struct timespec times[2] = {{seconds, 123456789}, {seconds + 1, 987654321}};
    assert_int_equal(utimensat(AT_FDCWD, path, times, AT_SYMLINK_NOFOLLOW), 0);
}

static void assert_same(const char *name)
{
    char path[2][300];
    (void)snprintf(path[0], sizeof(path[0]), "tree%s", name);
    (void)snprintf(path[1], sizeof(path[1]), "copy%s", name);
    struct stat a = box_stat(path[0]), b = box_stat(path[1]);
    if (a.st_mode != b.st_mode || a.st_uid != b.st_uid || a.st_gid != b.st_gid ||
        a.st_rdev != b.st_rdev || a.st_nlink != b.st_nlink ||
        memcmp(&a.st_mtim, &b.st_mtim, sizeof(a.st_mtim)) != 0 ||
        (!S_ISDIR(a.st_mode) && a.st_size != b.st_size)) {
        fail_msg("%s differs", name);
    }
}

static void test_all_kinds(void **state)
{
    box_write("tree/file", "content", FIRST_ID + 7, 04751);
    box_write("tree/\xff\n\\040 x", "odd", FIRST_ID, 0);
    box_write("tree/empty", "", 0, 0644);
    box_mkdir("tree/folder", FIRST_ID + 1, 02775);
    box_mkdir("tree/folder/closed", 3, 0);
    box_write("tree/folder/closed/file", "inner", 4, 0);
    assert_int_equal(mkfifo("tree/fifo", 0640), 0);
    assert_int_equal(mknod("tree/sock", S_IFSOCK | 0600, 0), 0);
    assert_int_equal(mknod("tree/whiteout", S_IFCHR, makedev(0, 0)), 0);
    assert_int_equal(mknod("tree/disk", S_IFBLK | 0660, makedev(259, 1048575)), 0);
    assert_int_equal(lchown("tree/disk", 5, 6), 0);
    assert_int_equal(symlink("/etc/passwd", "tree/link"), 0);
    assert_int_equal(lchown("tree/link", FIRST_ID + 9, 9), 0);
    assert_int_equal(symlink("../../..", "tree/up"), 0);
    const char *const names[] = {
        "/file",
        "/\xff\n\\040 x",
        "/empty",
        "/folder/closed/file",
        "/folder/closed",
        "/folder",
        "/fifo",
        "/sock",
        "/whiteout",
        "/disk",
        "/link",
        "/up",
        "",
    };
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        char path[300];
        (void)snprintf(path, sizeof(path), "tree%s", names[i]);
        set_times(path, 1000000 + (long)i * 10);
    }
    box_ok(copy("tree", "copy", err));
    /* before the access times change */
    assert_int_equal(box_stat("copy/file").st_atim.tv_sec, 1000000);
    assert_int_equal(box_stat("copy/file").st_atim.tv_nsec, 123456789);
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        assert_same(names[i]);
    }
    assert_string_equal(box_read("copy/file"), "content");
    assert_string_equal(box_read("copy/folder/closed/file"), "inner");
    char text[64] = "";
    assert_int_equal(readlink("copy/link", text, 63), 11);
    assert_string_equal(text, "/etc/passwd");
}

static void test_extended_attributes(void **state)
{
    static char large[3000];
    memset(large, 'v', sizeof(large));
    box_write("tree/file", "x", FIRST_ID, 0400);
    box_mkdir("tree/folder", FIRST_ID, 0755);
    assert_int_equal(symlink("nowhere", "tree/link"), 0);
    assert_int_equal(mknod("tree/null", S_IFCHR | 0666, makedev(1, 3)), 0);
    assert_int_equal(setxattr("tree/file", "user.large", large, sizeof(large), 0), 0);
    assert_int_equal(setxattr("tree/file", "user.empty", "", 0, 0), 0);
    assert_int_equal(setxattr("tree/folder", "trusted.overlay.opaque", "y", 1, 0), 0);
    assert_int_equal(setxattr("tree", "trusted.overlay.uuid", "0123", 4, 0), 0);
    assert_int_equal(lsetxattr("tree/link", "trusted.overlay.origin", "o", 1, 0), 0);
    assert_int_equal(lsetxattr("tree/null", "trusted.overlay.origin", "n", 1, 0), 0);
    /* so many names that they do not fit into a small buffer */
    for (unsigned i = 0; i < 12; i++) {
        char name[256];
        (void)snprintf(name, sizeof(name), "trusted.%0*u", 120, i);
        assert_int_equal(setxattr("tree/folder", name, "1", 1, 0), 0);
    }
    box_ok(copy("tree", "copy", err));
    char value[4096];
    assert_int_equal(getxattr("copy/file", "user.large", value, sizeof(value)), sizeof(large));
    assert_memory_equal(value, large, sizeof(large));
    assert_int_equal(getxattr("copy/file", "user.empty", value, sizeof(value)), 0);
    assert_int_equal(getxattr("copy/folder", "trusted.overlay.opaque", value, sizeof(value)), 1);
    assert_int_equal(getxattr("copy", "trusted.overlay.uuid", value, sizeof(value)), 4);
    assert_int_equal(lgetxattr("copy/link", "trusted.overlay.origin", value, sizeof(value)), 1);
    assert_int_equal(lgetxattr("copy/null", "trusted.overlay.origin", value, sizeof(value)), 1);
    assert_int_equal(value[0], 'n');
    assert_int_equal(listxattr("copy/folder", value, sizeof(value)),
                     listxattr("tree/folder", value, sizeof(value)));
}

/* An ACL with an owner, a user, a mask and others. */
static size_t make_acl(uint8_t *acl, uint32_t user)
{
    static const uint16_t entries[][2] = {{1, 6}, {2, 4}, {4, 4}, {16, 4}, {32, 0}};
    le32_put(acl, 2);
    for (size_t i = 0; i < ARRAY_COUNT(entries); i++) {
        le16_put(acl + 4 + 8 * i, entries[i][0]);
        le16_put(acl + 6 + 8 * i, entries[i][1]);
        le32_put(acl + 8 + 8 * i, entries[i][0] == 2 ? user : UINT32_MAX);
    }
    return 4 + 8 * ARRAY_COUNT(entries);
}

static void test_acls(void **state)
{
    uint8_t acl[64], found[64];
    size_t size = make_acl(acl, FIRST_ID + 33);
    box_write("tree/file", "x", FIRST_ID, 0640);
    box_mkdir("tree/folder", FIRST_ID, 0755);
    if (setxattr("tree/file", "system.posix_acl_access", acl, size, 0) < 0) {
        print_message("skipped: no ACLs on the file system of /tmp\n");
        skip();
    }
    assert_int_equal(setxattr("tree/folder", "system.posix_acl_default", acl, size, 0), 0);
    box_write("tree/folder/file", "x", FIRST_ID, 0600);
    assert_int_equal(removexattr("tree/folder/file", "system.posix_acl_access"), 0);
    /* the folder around wants ACLs on all that is made in it */
    box_mkdir("around", 0, 0755);
    assert_int_equal(setxattr("around", "system.posix_acl_default", acl, size, 0), 0);
    box_ok(shift("tree", ids, "around/copy", other_ids, err));
    size = make_acl(acl, other_ids.first + 33);
    assert_int_equal(getxattr("around/copy/file", "system.posix_acl_access", found, 64), size);
    assert_memory_equal(found, acl, size);
    assert_int_equal(getxattr("around/copy/folder", "system.posix_acl_default", found, 64), size);
    assert_memory_equal(found, acl, size);
    assert_true(getxattr("around/copy", "system.posix_acl_default", found, 64) < 0);
    assert_true(getxattr("around/copy/folder/file", "system.posix_acl_access", found, 64) < 0);
    assert_int_equal(box_stat("around/copy/file").st_mode, box_stat("tree/file").st_mode);
    assert_int_equal(count_hidden("around"), 0);
    box_ok(layers_remove(box_path("around"), err));
    /* an id of another container */
    size = make_acl(acl, other_ids.first);
    assert_int_equal(setxattr("tree/file", "system.posix_acl_access", acl, size, 0), 0);
    assert_int_equal(shift("tree", ids, "copy", other_ids, NULL), -EINVAL);
}

static void set_capability(const char *path, uint32_t root)
{
    struct vfs_ns_cap_data data = {.magic_etc = VFS_CAP_REVISION_3 | VFS_CAP_FLAGS_EFFECTIVE,
                                   .data[0].permitted = 1 << CAP_NET_RAW,
                                   .rootid = root};
    assert_int_equal(setxattr(path, "security.capability", &data, sizeof(data), 0), 0);
}

static void test_file_capabilities(void **state)
{
    struct vfs_ns_cap_data data;
    box_write("tree/ping", "x", FIRST_ID, 0755);
    set_capability("tree/ping", FIRST_ID);
    box_ok(shift("tree", ids, "copy", other_ids, err));
    assert_int_equal(getxattr("copy/ping", "security.capability", &data, sizeof(data)),
                     XATTR_CAPS_SZ_3);
    assert_int_equal(data.rootid, other_ids.first);
    assert_int_equal(data.data[0].permitted, 1 << CAP_NET_RAW);
    assert_int_equal(data.magic_etc, VFS_CAP_REVISION_3 | VFS_CAP_FLAGS_EFFECTIVE);
    /* into a template, where root is 0, and out of it */
    box_ok(layers_remove(box_path("copy"), err));
    box_ok(shift("tree", ids, "copy", (struct layers_ids){0}, err));
    assert_int_equal(box_stat("copy/ping").st_uid, 0);
    assert_int_equal(getxattr("copy/ping", "security.capability", &data, sizeof(data)),
                     XATTR_CAPS_SZ_2);
    box_ok(layers_remove(box_path("tree"), err));
    box_ok(shift("copy", (struct layers_ids){0}, "tree", ids, err));
    assert_int_equal(getxattr("tree/ping", "security.capability", &data, sizeof(data)),
                     XATTR_CAPS_SZ_3);
    assert_int_equal(data.rootid, FIRST_ID);
    /* of a root of somebody else */
    set_capability("tree/ping", 7);
    box_ok(layers_remove(box_path("copy"), err));
    assert_int_equal(shift("tree", ids, "copy", other_ids, NULL), -EINVAL);
}

static void test_ids_are_shifted(void **state)
{
    struct error why = {0};
    box_write("tree/first", "x", FIRST_ID, 0600);
    box_write("tree/last", "x", FIRST_ID + ID_COUNT - 1, 06755);
    assert_int_equal(symlink("x", "tree/link"), 0);
    assert_int_equal(lchown("tree/link", FIRST_ID + 1, FIRST_ID + 2), 0);
    box_ok(shift("tree", ids, "copy", other_ids, err));
    assert_int_equal(box_stat("copy").st_uid, other_ids.first);
    assert_int_equal(box_stat("copy/first").st_gid, other_ids.first);
    assert_int_equal(box_stat("copy/last").st_uid, other_ids.first + ID_COUNT - 1);
    assert_int_equal(box_stat("copy/last").st_mode & 07777, 06755);
    assert_int_equal(box_stat("copy/link").st_gid, other_ids.first + 2);
    box_ok(layers_remove(box_path("copy"), err));
    assert_int_equal(chown("tree/last", FIRST_ID + ID_COUNT, FIRST_ID), 0);
    assert_int_equal(shift("tree", ids, "copy", other_ids, &why), -EINVAL);
    assert_non_null(strstr(why.text, "last"));
    assert_false(box_exists("copy"));
}

static void test_hard_links(void **state)
{
    box_mkdir("tree/a", 0, 0755);
    box_mkdir("tree/b", 0, 0755);
    box_write("tree/a/0", "shared", 1, 0600);
    box_write("tree/a/outside", "also outside", 1, 0600);
    assert_int_equal(link("tree/a/outside", "outside"), 0);
    assert_int_equal(symlink("target", "tree/a/link"), 0);
    assert_int_equal(linkat(AT_FDCWD, "tree/a/link", AT_FDCWD, "tree/b/link", 0), 0);
    for (unsigned i = 1; i < LINK_COUNT; i++) {
        char name[64];
        (void)snprintf(name, sizeof(name), "tree/%c/%u", i % 2 ? 'b' : 'a', i);
        assert_int_equal(link("tree/a/0", name), 0);
    }
    for (unsigned i = 0; i < 500; i++) { /* pairs, so that the table grows */
        char name[2][64];
        (void)snprintf(name[0], sizeof(name[0]), "tree/a/pair%u", i);
        (void)snprintf(name[1], sizeof(name[1]), "tree/b/pair%u", i);
        box_write(name[0], "", 0, 0600);
        assert_int_equal(link(name[0], name[1]), 0);
    }
    box_ok(copy("tree", "copy", err));
    struct stat st = box_stat("copy/a/0");
    assert_int_equal(st.st_nlink, LINK_COUNT);
    assert_int_equal(box_stat("copy/b/3999").st_ino, st.st_ino);
    assert_int_not_equal(box_stat("tree/a/0").st_ino, st.st_ino);
    assert_int_equal(box_stat("copy/a/outside").st_nlink, 1);
    assert_string_equal(box_read("copy/a/outside"), "also outside");
    assert_int_equal(box_stat("copy/b/link").st_nlink, 2);
    assert_int_equal(box_stat("copy/a/pair499").st_ino, box_stat("copy/b/pair499").st_ino);
    uint64_t bytes[2], files[2];
    box_ok(layers_usage(box_path("tree"), &bytes[0], &files[0], err));
    box_ok(layers_usage(box_path("copy"), &bytes[1], &files[1], err));
    assert_int_equal(files[0], 3 + 3 + 500);
    assert_int_equal(files[1], files[0]);
    assert_int_equal(unlink("outside"), 0);
}

static void test_holes_stay(void **state)
{
    const off_t size = INT64_C(1) << 30;
    int fd = open("tree/sparse", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0 && ftruncate(fd, size) == 0);
    assert_int_equal(pwrite(fd, "middle", 6, size / 2), 6);
    assert_int_equal(pwrite(fd, "end", 3, size - 4096), 3);
    close(fd);
    box_ok(copy("tree", "copy", err));
    struct stat st = box_stat("copy/sparse");
    assert_int_equal(st.st_size, size);
    assert_true(st.st_blocks <= box_stat("tree/sparse").st_blocks + 64);
    char text[8] = "";
    fd = open("copy/sparse", O_RDONLY | O_CLOEXEC);
    assert_int_equal(pread(fd, text, 6, size / 2), 6);
    assert_string_equal(text, "middle");
    assert_int_equal(pread(fd, text, 4, size - 4096), 4);
    assert_string_equal(text, "end");
    close(fd);
}

/* Between two file systems, where the kernel may not copy itself. */
static void test_to_another_file_system(void **state)
{
    static char data[700000], found[sizeof(data)];
    for (size_t i = 0; i < sizeof(data); i++) {
        data[i] = (char)(i * 7 + i / 4096);
    }
    int fd = open("tree/data", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(write(fd, data, sizeof(data)), sizeof(data));
    close(fd);
    box_mkdir("copy", 0, 0755);
    assert_int_equal(mount("none", "copy", "tmpfs", 0, NULL), 0);
    box_ok(copy("tree", "copy/data", err));
    fd = open("copy/data/data", O_RDONLY | O_CLOEXEC);
    assert_int_equal(read(fd, found, sizeof(found)), sizeof(data));
    close(fd);
    assert_memory_equal(found, data, sizeof(data));
    /* and back */
    assert_int_equal(rename("tree", "tree-1"), 0);
    box_ok(copy("copy/data", "tree", err));
    assert_int_equal(umount("copy"), 0);
    fd = open("tree/data", O_RDONLY | O_CLOEXEC);
    assert_int_equal(read(fd, found, sizeof(found)), sizeof(data));
    close(fd);
    assert_memory_equal(found, data, sizeof(data));
    box_ok(layers_remove(box_path("tree-1"), err));
}

static void set_flags(const char *path, int flags)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC), old = 0;
    if (fd < 0 || ioctl(fd, FS_IOC_GETFLAGS, &old) < 0) {
        print_message("skipped: no inode flags on the file system of /tmp\n");
        skip();
    }
    flags |= old;
    assert_int_equal(ioctl(fd, FS_IOC_SETFLAGS, &flags), 0);
    close(fd);
}

static int get_flags(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC), flags = 0;
    assert_int_equal(ioctl(fd, FS_IOC_GETFLAGS, &flags), 0);
    close(fd);
    return flags & (FS_IMMUTABLE_FL | FS_APPEND_FL | FS_NODUMP_FL);
}

static void test_flags(void **state)
{
    box_write("tree/fixed", "x", 0, 0600);
    box_write("tree/log", "x", 0, 0600);
    box_write("tree/linked", "x", 0, 0600);
    box_write("tree/outside", "x", 0, 0600);
    assert_int_equal(link("tree/linked", "tree/linked2"), 0);
    assert_int_equal(link("tree/outside", "outside"), 0);
    box_mkdir("tree/folder", 0, 0755);
    box_write("tree/folder/file", "x", 0, 0600);
    set_times("tree/folder", 777);
    set_flags("tree/fixed", FS_IMMUTABLE_FL | FS_NODUMP_FL);
    set_flags("tree/log", FS_APPEND_FL);
    set_flags("tree/linked", FS_IMMUTABLE_FL);
    set_flags("tree/outside", FS_APPEND_FL);
    set_flags("tree/folder", FS_IMMUTABLE_FL);
    set_flags("tree", FS_APPEND_FL);
    box_ok(copy("tree", "copy", err));
    assert_int_equal(get_flags("copy/fixed"), FS_IMMUTABLE_FL | FS_NODUMP_FL);
    assert_int_equal(get_flags("copy/log"), FS_APPEND_FL);
    assert_int_equal(get_flags("copy/linked2"), FS_IMMUTABLE_FL);
    assert_int_equal(box_stat("copy/linked").st_nlink, 2);
    assert_int_equal(get_flags("copy/outside"), FS_APPEND_FL);
    assert_int_equal(box_stat("copy/outside").st_nlink, 1);
    assert_int_equal(get_flags("copy/folder"), FS_IMMUTABLE_FL);
    assert_int_equal(box_stat("copy/folder").st_atim.tv_sec, 777);
    assert_true(box_exists("copy/folder/file"));
    assert_int_equal(get_flags("copy"), FS_APPEND_FL);
    assert_int_equal(get_flags("copy/folder/file"), 0);
    box_ok(layers_remove(box_path("outside"), err));
}

static void make_deep(unsigned levels)
{
    int at = open("tree", O_PATH | O_DIRECTORY | O_CLOEXEC);
    for (unsigned i = 0; i < levels; i++) {
        assert_int_equal(mknodat(at, "file", S_IFREG | 0600, 0), 0);
        /* around the one that goes on */
        assert_int_equal(mkdirat(at, "a", 0700), 0);
        assert_int_equal(mkdirat(at, "level", 0700), 0);
        assert_int_equal(mkdirat(at, "z", 0700), 0);
        int next = openat(at, "level", O_PATH | O_DIRECTORY | O_CLOEXEC);
        assert_true(next >= 0);
        close(at);
        at = next;
    }
    close(at);
}

static void test_deep(void **state)
{
    struct rlimit limit, old;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
    limit = (struct rlimit){200, old.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    make_deep(1500);
    box_ok(copy("tree", "copy", err));
    uint64_t bytes, files[2];
    box_ok(layers_usage(box_path("tree"), &bytes, &files[0], err));
    box_ok(layers_usage(box_path("copy"), &bytes, &files[1], err));
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
    assert_int_equal(files[0], 1 + 1500 * 4);
    assert_int_equal(files[1], files[0]);
}

static void test_too_deep(void **state)
{
    struct error why = {0};
    make_deep(4200);
    assert_int_equal(copy("tree", "copy", &why), -ELOOP);
    assert_non_null(strstr(why.text, "level/level"));
    assert_false(box_exists("copy"));
}

static void test_mounts_are_not_crossed(void **state)
{
    struct error why = {0};
    box_mkdir("tree/mounted", 0, 0755);
    box_write("tree/file", "x", 0, 0600);
    assert_int_equal(mount("tree", "tree/mounted", NULL, MS_BIND, NULL), 0);
    assert_int_equal(copy("tree", "copy", &why), -EXDEV);
    assert_non_null(strstr(why.text, "mounted"));
    assert_int_equal(umount("tree/mounted"), 0);
    assert_int_equal(mount("/etc/passwd", "tree/file", NULL, MS_BIND, NULL), 0);
    assert_int_equal(copy("tree", "copy", NULL), -EXDEV);
    assert_int_equal(umount("tree/file"), 0);
    assert_false(box_exists("copy"));
}

static void test_wrong_places(void **state)
{
    box_write("tree/file", "x", 0, 0600);
    assert_int_equal(copy("tree", "tree/copy", NULL), -EINVAL);
    assert_int_equal(copy("missing", "copy", NULL), -ENOENT);
    assert_int_equal(copy("tree/file", "copy", NULL), -ENOTDIR);
    assert_int_equal(copy("tree", "missing/copy", NULL), -ENOENT);
    box_write("copy", "here before", 0, 0600);
    assert_int_equal(copy("tree", "copy", NULL), -EEXIST);
    assert_string_equal(box_read("copy"), "here before");
    assert_int_equal(count_hidden("tree"), 0);
}

static int cancel_later(void *ctx, uint64_t bytes, uint64_t files)
{
    return bytes > 10000000 || files >= 1000;
}

static void test_cancelled(void **state)
{
    struct error why = {0};
    struct layers_copy request = {
        .from = box_path("tree"), .to = box_path("copy"), .progress = cancel_later};
    for (unsigned i = 0; i < 2000; i++) {
        char name[64];
        (void)snprintf(name, sizeof(name), "tree/%u", i);
        assert_int_equal(mknod(name, S_IFREG | 0600, 0), 0);
    }
    assert_int_equal(layers_copy(&request, &why), -ECANCELED);
    assert_false(box_exists("copy"));
    box_ok(layers_remove(box_path("tree"), err));
    box_mkdir("tree", 0, 0755);
    int fd = open("tree/large", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(posix_fallocate(fd, 0, 32 << 20), 0);
    static char data[1 << 20];
    for (unsigned i = 0; i < 32; i++) {
        assert_int_equal(write(fd, data, sizeof(data)), sizeof(data));
    }
    close(fd);
    assert_int_equal(layers_copy(&request, &why), -ECANCELED);
    assert_false(box_exists("copy"));
}

static void test_no_room(void **state)
{
    box_mkdir("small", 0, 0755);
    assert_int_equal(mount("none", "small", "tmpfs", 0, "size=1m,nr_inodes=100"), 0);
    static char data[2 << 20];
    int fd = open("tree/data", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(write(fd, data, sizeof(data)), sizeof(data));
    close(fd);
    assert_int_equal(copy("tree", "small/copy", NULL), -ENOSPC);
    assert_int_equal(count_hidden("small"), 0);
    assert_false(box_exists("small/copy"));
    assert_int_equal(truncate("tree/data", 0), 0);
    box_mkdir("tree/many", 0, 0755);
    for (unsigned i = 0; i < 200; i++) {
        char name[64];
        (void)snprintf(name, sizeof(name), "tree/many/%u", i);
        assert_int_equal(mknod(name, S_IFREG | 0600, 0), 0);
    }
    assert_int_equal(copy("tree", "small/copy", NULL), -ENOSPC);
    assert_int_equal(count_hidden("small"), 0);
    assert_int_equal(umount("small"), 0);
    box_ok(layers_remove(box_path("small"), err));
}

static void test_usage(void **state)
{
    uint64_t bytes, files;
    static char data[1 << 20];
    memset(data, 1, sizeof(data));
    int fd = open("tree/data", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(write(fd, data, sizeof(data)), sizeof(data));
    assert_int_equal(ftruncate(fd, INT64_C(1) << 32), 0);
    assert_int_equal(fsync(fd), 0);
    close(fd);
    assert_int_equal(link("tree/data", "tree/again"), 0);
    assert_int_equal(symlink("/", "tree/link"), 0);
    box_mkdir("tree/mounted", 0, 0755);
    assert_int_equal(mount("/proc", "tree/mounted", NULL, MS_BIND, NULL), 0);
    box_ok(layers_usage(box_path("tree"), &bytes, &files, err));
    assert_int_equal(umount("tree/mounted"), 0);
    assert_int_equal(files, 3);
    assert_true(bytes >= sizeof(data) && bytes < sizeof(data) + 65536);
    assert_int_equal(layers_usage(box_path("missing"), &bytes, &files, NULL), -ENOENT);
}

int main(void)
{
    if (!box_open()) {
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_all_kinds, make_tree, remove_trees),
        cmocka_unit_test_setup_teardown(test_extended_attributes, make_tree, remove_trees),
        cmocka_unit_test_setup_teardown(test_acls, make_tree, remove_trees),
        cmocka_unit_test_setup_teardown(test_file_capabilities, make_tree, remove_trees),
        cmocka_unit_test_setup_teardown(test_ids_are_shifted, make_tree, remove_trees),
        cmocka_unit_test_setup_teardown(test_hard_links, make_tree, remove_trees),
        cmocka_unit_test_setup_teardown(test_holes_stay, make_tree, remove_trees),
        cmocka_unit_test_setup_teardown(test_to_another_file_system, make_tree, remove_trees),
        cmocka_unit_test_setup_teardown(test_flags, make_tree, remove_trees),
        cmocka_unit_test_setup_teardown(test_deep, make_tree, remove_trees),
        cmocka_unit_test_setup_teardown(test_too_deep, make_tree, remove_trees),
        cmocka_unit_test_setup_teardown(test_mounts_are_not_crossed, make_tree, remove_trees),
        cmocka_unit_test_setup_teardown(test_wrong_places, make_tree, remove_trees),
        cmocka_unit_test_setup_teardown(test_cancelled, make_tree, remove_trees),
        cmocka_unit_test_setup_teardown(test_no_room, make_tree, remove_trees),
        cmocka_unit_test_setup_teardown(test_usage, make_tree, remove_trees),
    };
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    box_close();
    return rc;
}
