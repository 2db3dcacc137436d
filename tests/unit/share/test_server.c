/* Covers share/server.c, names.c, files.c and attributes.c: what a guest's kernel never sends, an enemy does. What well-behaved programs see, share_tool
 * (tests/guest/linux) checks. */
#include "bed.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define ROOT FUSE_ROOT_ID

static struct bed bed;

static int set_up(void **state)
{
    bed_create(&bed, false);
    return 0;
}

static int tear_down(void **state)
{
    bed_destroy(&bed);
    return 0;
}

static int look_up_rc(const char *name, size_t size)
{
    return bed_call(&bed, FUSE_LOOKUP, ROOT, name, size, NULL);
}

static void names_stay_in_their_folder(void **state)
{
    static const char *const wrong[] = {"..", ".", "", "a/b", "/", "/etc/passwd", "../x"};
    char text[80];
    bed_host_file(&bed, "a", "a");
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        const struct fuse_mkdir_in folder = {.mode = 0755};
        const struct fuse_create_in file = {.flags = O_CREAT | O_WRONLY, .mode = 0644};
        const struct fuse_rename_in rename = {.newdir = ROOT};
        size_t size = strlen(wrong[i]) + 1;
        assert_int_equal(look_up_rc(wrong[i], size), -EINVAL);
        assert_int_equal(
            bed_call(&bed, FUSE_MKDIR, ROOT, &folder, sizeof(folder), wrong[i], size, NULL),
            -EINVAL);
        assert_int_equal(
            bed_call(&bed, FUSE_CREATE, ROOT, &file, sizeof(file), wrong[i], size, NULL), -EINVAL);
        assert_int_equal(bed_call(&bed, FUSE_UNLINK, ROOT, wrong[i], size, NULL), -EINVAL);
        assert_int_equal(bed_call(&bed, FUSE_RENAME, ROOT, &rename, sizeof(rename), "a", (size_t)2,
                                  wrong[i], size, NULL),
                         -EINVAL);
        assert_int_equal(bed_call(&bed, FUSE_SYMLINK, ROOT, wrong[i], size, "t", (size_t)2, NULL),
                         -EINVAL);
    }
    assert_int_equal(look_up_rc("a", 1), -EINVAL); /* without its end */
    memset(text, 'n', sizeof(text));
    assert_int_equal(look_up_rc(text, sizeof(text)), -EINVAL);
    assert_int_equal(look_up_rc("", 0), -EINVAL);
    assert_int_equal(look_up_rc("a", 2), 0);
}

static void links_are_never_followed(void **state)
{
    char path[160];
    (void)snprintf(path, sizeof(path), "%s/out", bed.folder);
    assert_int_equal(symlink("/etc", path), 0);
    (void)snprintf(path, sizeof(path), "%s/file", bed.folder);
    assert_int_equal(symlink("/etc/passwd", path), 0);
    uint64_t out = bed_look_up(&bed, ROOT, "out"), file = bed_look_up(&bed, ROOT, "file");
    const struct fuse_attr_out *attributes = bed_reply(&bed);
    assert_int_equal(bed_call(&bed, FUSE_LOOKUP, out, "passwd", (size_t)7, NULL), -ENOTDIR);
    assert_int_equal(bed_open(&bed, file, O_RDONLY), -EPERM);
    assert_int_equal(bed_call(&bed, FUSE_GETATTR, file, NULL), 0);
    assert_true(S_ISLNK(attributes->attr.mode));
    const struct fuse_create_in in = {.flags = O_CREAT | O_WRONLY | O_TRUNC, .mode = 0644};
    assert_int_equal(bed_call(&bed, FUSE_CREATE, ROOT, &in, sizeof(in), "file", (size_t)5, NULL),
                     -EEXIST);
    const struct fuse_setattr_in size = {.valid = FATTR_SIZE};
    assert_int_equal(bed_call(&bed, FUSE_SETATTR, file, &size, sizeof(size), NULL), -EINVAL);
    const struct fuse_setattr_in mode = {.valid = FATTR_MODE, .mode = 0777};
    assert_int_equal(bed_call(&bed, FUSE_SETATTR, file, &mode, sizeof(mode), NULL), -EOPNOTSUPP);
}

static void only_regular_files_are_opened(void **state)
{
    char path[160];
    (void)snprintf(path, sizeof(path), "%s/pipe", bed.folder);
    assert_int_equal(mkfifo(path, 0600), 0);
    uint64_t pipe = bed_look_up(&bed, ROOT, "pipe");
    assert_int_equal(bed_open(&bed, pipe, O_RDWR), -EPERM);
    assert_int_equal(bed_open(&bed, ROOT, O_RDONLY), -EISDIR);
    const struct fuse_create_in in = {.flags = O_CREAT | O_RDWR, .mode = 0644};
    assert_int_equal(bed_call(&bed, FUSE_CREATE, ROOT, &in, sizeof(in), "pipe", (size_t)5, NULL),
                     -EEXIST);
    static const mode_t types[] = {S_IFCHR, S_IFBLK, S_IFDIR, S_IFLNK, 0};
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        const struct fuse_mknod_in node = {.mode = types[i] | 0666, .rdev = 0x103};
        assert_int_equal(
            bed_call(&bed, FUSE_MKNOD, ROOT, &node, sizeof(node), "device", (size_t)7, NULL),
            -EPERM);
    }
}

static void bits_and_attributes_of_the_host_are_left_out(void **state)
{
    const struct fuse_attr_out *attributes = bed_reply(&bed);
    const struct fuse_create_in in = {.flags = O_CREAT | O_WRONLY, .mode = 06755};
    assert_int_equal(bed_call(&bed, FUSE_CREATE, ROOT, &in, sizeof(in), "p", (size_t)2, NULL), 0);
    uint64_t node = bed_look_up(&bed, ROOT, "p");
    const struct fuse_setattr_in mode = {.valid = FATTR_MODE, .mode = 06711};
    assert_int_equal(bed_call(&bed, FUSE_SETATTR, node, &mode, sizeof(mode), NULL), 0);
    assert_int_equal(attributes->attr.mode & 07777, 0711);
    static const char *const names[] = {"security.capability", "trusted.x",
                                        "system.posix_acl_access"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        const struct fuse_setxattr_in set = {.size = 1};
        const struct fuse_getxattr_in get = {.size = 64};
        size_t size = strlen(names[i]) + 1;
        assert_int_equal(bed_call(&bed, FUSE_SETXATTR, node, &set,
                                  (size_t)FUSE_COMPAT_SETXATTR_IN_SIZE, names[i], size, "x",
                                  (size_t)1, NULL),
                         -EOPNOTSUPP);
        assert_int_equal(
            bed_call(&bed, FUSE_GETXATTR, node, &get, sizeof(get), names[i], size, NULL),
            -EOPNOTSUPP);
    }
}

static void wrong_numbers_are_refused(void **state)
{
    bed_host_file(&bed, "a", "a");
    uint64_t node = bed_look_up(&bed, ROOT, "a");
    int64_t fh = bed_open(&bed, node, O_RDWR);
    static const uint64_t nodes[] = {0, 3, 1u << 20, UINT64_MAX};
    for (size_t i = 0; i < sizeof(nodes) / sizeof(nodes[0]); i++) {
        assert_int_equal(bed_call(&bed, FUSE_GETATTR, nodes[i], NULL), -ESTALE);
        assert_int_equal(bed_open(&bed, nodes[i], O_RDONLY), -ESTALE);
        bed_forget(&bed, nodes[i], UINT64_MAX);
    }
    static const uint64_t handles[] = {1, 63, 64, UINT64_MAX};
    for (size_t i = 0; i < sizeof(handles) / sizeof(handles[0]); i++) {
        char text[65];
        const struct fuse_release_in release = {.fh = handles[i]};
        assert_int_equal(bed_read(&bed, node, (int64_t)handles[i], text), -EBADF);
        assert_int_equal(bed_call(&bed, FUSE_RELEASE, node, &release, sizeof(release), NULL),
                         -EBADF);
    }
    const struct fuse_read_in far = {.fh = (uint64_t)fh, .offset = UINT64_MAX, .size = 1};
    assert_int_equal(bed_call(&bed, FUSE_READ, node, &far, sizeof(far), NULL), -EINVAL);
    const struct fuse_read_in much = {.fh = (uint64_t)fh, .size = UINT32_MAX};
    assert_int_equal(bed_call(&bed, FUSE_READ, node, &much, sizeof(much), NULL), 0);
    const struct fuse_write_in more = {.fh = (uint64_t)fh, .size = 100};
    assert_int_equal(bed_call(&bed, FUSE_WRITE, node, &more, sizeof(more), "x", (size_t)1, NULL),
                     -EINVAL);
    const struct fuse_read_in folder = {.fh = (uint64_t)fh, .size = 4096};
    assert_int_equal(bed_call(&bed, FUSE_READDIR, ROOT, &folder, sizeof(folder), NULL), -EBADF);
    assert_int_equal(bed_call(&bed, 9999, ROOT, NULL), -ENOSYS);
    assert_int_equal(bed_call(&bed, FUSE_FORGET, ROOT, NULL), -EINVAL); /* with room for a reply */
    /* The root is never forgotten. */
    bed_forget(&bed, ROOT, UINT64_MAX);
    assert_int_equal(bed_call(&bed, FUSE_GETATTR, ROOT, NULL), 0);
}

/* Each operation with each length up to all that it wants: an error, and nothing beyond the request is read (which sanitizers see). */
static void short_requests_are_refused(void **state)
{
    bed_host_file(&bed, "a", "a");
    for (uint32_t opcode = 1; opcode < 60; opcode++) {
        for (size_t size = 0; size < 80; size++) {
            size_t total = sizeof(struct fuse_in_header) + size;
            uint8_t *request = calloc(1, total);
            const struct fuse_in_header head = {
                .len = (uint32_t)total, .opcode = opcode, .nodeid = ROOT};
            memcpy(request, &head, sizeof(head));
            uint8_t reply[256];
            size_t got = share_serve(&bed.share, request, total, reply, sizeof(reply));
            assert_true(got >= sizeof(struct fuse_out_header) && got <= sizeof(reply));
            free(request);
        }
    }
    struct fuse_in_header head = {.len = 4096, .opcode = FUSE_GETATTR, .nodeid = ROOT};
    struct fuse_out_header out;
    assert_int_equal(
        share_serve(&bed.share, (uint8_t *)&head, sizeof(head), bed.reply, sizeof(bed.reply)),
        sizeof(out));
    assert_int_equal(share_serve(&bed.share, (uint8_t *)&head, 10, bed.reply, sizeof(out)),
                     sizeof(out));
    assert_int_equal(share_serve(&bed.share, (uint8_t *)&head, sizeof(head), bed.reply, 15), 0);
}

static void replies_fit_their_room(void **state)
{
    bed_host_file(&bed, "a", "some text in a file");
    uint64_t node = bed_look_up(&bed, ROOT, "a");
    int64_t fh = bed_open(&bed, node, O_RDONLY);
    struct {
        struct fuse_in_header head;
        struct fuse_read_in in;
    } read = {.head = {.len = sizeof(read), .opcode = FUSE_READ, .nodeid = node},
              .in = {.fh = (uint64_t)fh, .size = 4096}};
    for (size_t room = 16; room < 64; room++) {
        size_t got = share_serve(&bed.share, (uint8_t *)&read, sizeof(read), bed.reply, room);
        assert_true(got >= 16 && got <= room);
    }
    struct fuse_in_header look = {.len = sizeof(look), .opcode = FUSE_GETATTR, .nodeid = node};
    for (size_t room = 16; room < 200; room++) {
        size_t got = share_serve(&bed.share, (uint8_t *)&look, sizeof(look), bed.reply, room);
        assert_true(got == 16 || (got == 16 + sizeof(struct fuse_attr_out) && got <= room));
    }
}

static void readonly_changes_nothing(void **state)
{
    bed_destroy(&bed);
    bed_create(&bed, true);
    bed_host_file(&bed, "a", "a");
    uint64_t node = bed_look_up(&bed, ROOT, "a");
    char text[65];
    assert_int_equal(bed_open(&bed, node, O_RDWR), -EROFS);
    assert_int_equal(bed_open(&bed, node, O_WRONLY), -EROFS);
    assert_int_equal(bed_open(&bed, node, O_RDONLY | O_TRUNC), -EROFS);
    int64_t fh = bed_open(&bed, node, O_RDONLY);
    assert_int_equal(bed_read(&bed, node, fh, text), 1);
    static const uint32_t changes[] = {
        FUSE_SETATTR,  FUSE_SYMLINK,     FUSE_MKNOD,   FUSE_MKDIR,     FUSE_UNLINK,
        FUSE_RMDIR,    FUSE_RENAME,      FUSE_RENAME2, FUSE_LINK,      FUSE_WRITE,
        FUSE_SETXATTR, FUSE_REMOVEXATTR, FUSE_CREATE,  FUSE_FALLOCATE, FUSE_COPY_FILE_RANGE};
    for (size_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
        assert_int_equal(bed_call(&bed, changes[i], node, "a", (size_t)2, NULL), -EROFS);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(names_stay_in_their_folder, set_up, tear_down),
        cmocka_unit_test_setup_teardown(links_are_never_followed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(only_regular_files_are_opened, set_up, tear_down),
        cmocka_unit_test_setup_teardown(bits_and_attributes_of_the_host_are_left_out, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(wrong_numbers_are_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(short_requests_are_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(replies_fit_their_room, set_up, tear_down),
        cmocka_unit_test_setup_teardown(readonly_changes_nothing, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
