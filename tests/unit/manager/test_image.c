/* Images: names, manifests, and layers of archives that are hostile. */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/core/compiler.h"
#include "manager/image/files.h"
#include "manager/image/names.h"
#include "manager/image/tar.h"
#include "manager/image/tar_reader.h"
#include "system/layers/layers.h"

#define DIGEST_A "sha256-aaaabbbbccccddddeeeeffff0000111122223333444455556666777788889999"
#define DIGEST_B "sha256-aaaacccccccddddeeeeffff00001111222233334444555566667777888899990"

static void test_aliases(void **state)
{
    static const char *const good[] = {"debian/12", "a", "debian/12/web", "my_image-1.0/x", "0"};
    static const char *const bad[] = {"",   "/",  "a/",  "/a",  "a//b", "..",       "a/../b",
                                      ".a", "-a", "a b", "a\n", "a/-b", "sha256-1", "\xc3\xa4"};
    char longest[200];
    for (size_t i = 0; i < ARRAY_COUNT(good); i++) {
        assert_int_equal(image_check_alias(good[i], NULL), 0);
    }
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        struct error err;
        assert_int_equal(image_check_alias(bad[i], &err), -EINVAL);
        assert_non_null(strstr(err.text, "alias"));
    }
    memset(longest, 'a', sizeof(longest));
    longest[IMAGE_ALIAS_SIZE] = '\0';
    assert_int_equal(image_check_alias(longest, NULL), -EINVAL);
    longest[IMAGE_ALIAS_SIZE - 1] = '\0';
    assert_int_equal(image_check_alias(longest, NULL), 0);
}

static void test_digests(void **state)
{
    char name[65];
    assert_true(image_is_digest(DIGEST_A));
    assert_false(image_is_digest("sha256-12"));
    assert_false(image_is_digest(DIGEST_A "0"));
    assert_false(
        image_is_digest("sha256-AAAABBBBCCCCDDDDEEEEFFFF0000111122223333444455556666777788889999"));
    image_template_name(DIGEST_A, name);
    assert_string_equal(name, "image-aaaabbbbccccddddeeeeffff0000111122223333");
}

static void test_distributions(void **state)
{
    const struct distribution *distribution;
    struct error err;
    assert_int_equal(distribution_find("debian/12", &distribution, &err), 0);
    assert_string_equal(distribution->suite, "bookworm");
    assert_int_equal(distribution_find("noble", &distribution, &err), 0);
    assert_string_equal(distribution->name, "ubuntu/24.04");
    assert_int_equal(distribution_find("debian/12; reboot", &distribution, &err), -EINVAL);
    assert_non_null(strstr(err.text, "debian/11, debian/12"));
}

static const char *pick(const char *name, struct error *err)
{
    static char found[80];
    const json_t *image;
    json_t *images = json_pack("[{s:s},{s:s}]", "name", DIGEST_A, "name", DIGEST_B);
    json_t *aliases =
        json_pack("[{s:s,s:s},{s:s,s:s},{s:s,s:s}]", "name", "debian/12", "digest", DIGEST_A,
                  "name", "beef", "digest", DIGEST_B, "name", "lost", "digest", "sha256-none");
    *err = (struct error){0};
    int rc = image_pick(images, aliases, name, &image, err);
    (void)snprintf(found, sizeof(found), "%s",
                   rc == 0 ? json_string_value(json_object_get(image, "name")) : "none");
    json_decref(images);
    json_decref(aliases);
    return found;
}

static void test_pick(void **state)
{
    struct error err;
    assert_string_equal(pick("debian/12", &err), DIGEST_A);
    assert_string_equal(pick(DIGEST_B, &err), DIGEST_B);
    assert_string_equal(pick("aaaab", &err), DIGEST_A);
    assert_string_equal(pick("sha256-aaaac", &err), DIGEST_B);
    assert_string_equal(pick("beef", &err), DIGEST_B); /* an alias before digits */
    assert_string_equal(pick("aaaa", &err), "none");
    assert_int_equal(err.code, EINVAL);
    assert_string_equal(pick("aaa", &err), "none");
    assert_int_equal(err.code, ENOENT);
    assert_string_equal(pick("lost", &err), "none");
    assert_string_equal(pick("debian/13", &err), "none");
    assert_non_null(strstr(err.text, "debian/12, beef, lost"));
    assert_non_null(strstr(err.text, "hull image build debian/13"));
}

#define HASH "0000000000000000000000000000000000000000000000000000000000000000"

static int parse(const char *text)
{
    json_t *manifest;
    int rc = files_parse(text, DIGEST_A, &manifest, NULL);
    if (rc == 0) {
        json_decref(manifest);
    }
    return rc;
}

#define MANIFEST(name, vm)                                                                         \
    "{\"format\":1,\"image\":\"" DIGEST_A "\",\"files\":[{\"name\":\"" name                        \
    "\",\"size\":5,\"mtime_ns\":7,\"sha256\":\"" HASH "\"}],\"vm\":" vm "}"

static void test_manifest(void **state)
{
    static const char *const bad[] = {
        "",
        "[]",
        "{\"format\":1}",
        MANIFEST("../disk", "{\"disk\":\"../disk\",\"format\":\"raw\"}"),
        MANIFEST(".hidden", "{\"disk\":\".hidden\",\"format\":\"raw\"}"),
        MANIFEST("disk", "{\"disk\":\"other\",\"format\":\"raw\"}"),
        MANIFEST("disk", "{\"disk\":\"disk\",\"format\":\"raw\",\"kernel\":\"/etc/passwd\"}"),
        MANIFEST("disk", "{\"disk\":\"disk\"}"),
        MANIFEST("disk", "[]"),
    };
    assert_int_equal(parse(MANIFEST("disk", "{\"disk\":\"disk\",\"format\":\"raw\"}")), 0);
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        assert_int_equal(parse(bad[i]), -EBADMSG);
    }
    json_t *manifest;
    assert_int_equal(files_parse(MANIFEST("disk", "{\"disk\":\"disk\",\"format\":\"raw\"}"),
                                 DIGEST_B, &manifest, NULL),
                     -EBADMSG);
}

/* An archive that grows in memory, and the folder that it is unpacked in. */
struct fixture {
    char folder[64], outside[80];
    int root, archive;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    char path[80];
    assert_non_null(f);
    (void)snprintf(f->folder, sizeof(f->folder), "/tmp/hull-image-XXXXXX");
    assert_non_null(mkdtemp(f->folder));
    (void)snprintf(path, sizeof(path), "%s/root", f->folder);
    assert_int_equal(mkdir(path, 0755), 0);
    f->root = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(f->root >= 0);
    (void)snprintf(f->outside, sizeof(f->outside), "%s/outside", f->folder);
    assert_int_equal(mkdir(f->outside, 0755), 0);
    f->archive = -1;
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    close(f->root);
    assert_int_equal(layers_remove(f->folder, NULL), 0);
    free(f);
    return 0;
}

static void begin_archive(struct fixture *f)
{
    f->archive = memfd_create("archive", MFD_CLOEXEC);
    assert_true(f->archive >= 0);
}

static void put_block(struct fixture *f, const void *data, size_t size)
{
    static const char zeros[512];
    assert_int_equal(write(f->archive, data, size), (ssize_t)size);
    size_t rest = (512 - size % 512) % 512;
    assert_int_equal(write(f->archive, zeros, rest), (ssize_t)rest);
}

static void seal(char block[512])
{
    unsigned sum = 0;
    memset(block + 148, ' ', 8);
    for (int i = 0; i < 512; i++) {
        sum += (uint8_t)block[i];
    }
    (void)snprintf(block + 148, 8, "%06o", sum);
}

static void put_header(struct fixture *f, char type, const char *name, const char *link,
                       size_t size)
{
    char block[512] = "";
    (void)snprintf(block, 100, "%s", name);
    (void)snprintf(block + 100, 8, "%07o", type == '5' ? 0755u : 0644u);
    (void)snprintf(block + 108, 8, "%07o", (unsigned)getuid());
    (void)snprintf(block + 116, 8, "%07o", (unsigned)getgid());
    (void)snprintf(block + 124, 12, "%011o", (unsigned)(size & 0x7fffffff));
    (void)snprintf(block + 136, 12, "%011o", 1000u);
    block[156] = type;
    (void)snprintf(block + 157, 100, "%s", link);
    memcpy(block + 257,
           "ustar\0"
           "00",
           8);
    seal(block);
    put_block(f, block, sizeof(block));
}

static void put(struct fixture *f, char type, const char *name, const char *text)
{
    bool is_link = type == '1' || type == '2';
    size_t size = is_link ? 0 : strlen(text);
    put_header(f, type, name, is_link ? text : "", size);
    if (size > 0) {
        put_block(f, text, size);
    }
}

static int unpack_cancelled(struct fixture *f, int (*poll)(void *ctx), struct error *err)
{
    struct tar_times *times = tar_times_new();
    const struct tar_layer layer = {
        .fd = f->archive, .root_fd = f->root, .times = times, .poll = poll};
    int rc = tar_unpack(&layer, err);
    rc = rc < 0 ? rc : tar_set_times(times, f->root, err);
    tar_times_free(times);
    close(f->archive);
    return rc;
}

static int unpack(struct fixture *f)
{
    return unpack_cancelled(f, NULL, NULL);
}

static bool is_there(const struct fixture *f, const char *path)
{
    struct stat st;
    return fstatat(f->root, path, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

static void assert_content(const struct fixture *f, const char *path, const char *text)
{
    char found[256] = "";
    int fd = openat(f->root, path, O_RDONLY);
    assert_true(fd >= 0);
    assert_true(read(fd, found, sizeof(found) - 1) >= 0);
    assert_string_equal(found, text);
    close(fd);
}

static void test_layers(void **state)
{
    struct fixture *f = *state;
    struct stat st;
    begin_archive(f);
    put(f, '5', "./", "");
    put(f, '5', "etc/", "");
    put(f, '0', "etc/a", "one");
    put(f, '0', "etc/b", "two");
    put(f, '1', "etc/hard", "etc/a");
    put(f, '2', "etc/soft", "../etc/b");
    put(f, '0', "deep/without/folders", "x");
    put(f, '5', "full", "");
    put(f, '5', "full/sub", "");
    put(f, '0', "full/sub/file", "x");
    assert_int_equal(unpack(f), 0);
    assert_content(f, "etc/hard", "one");
    assert_content(f, "etc/soft", "two");
    assert_int_equal(fstatat(f->root, "etc", &st, 0), 0);
    assert_int_equal(st.st_mtime, 1000);
    assert_int_equal(fstatat(f->root, "etc/a", &st, 0), 0);
    assert_int_equal(st.st_nlink, 2);
    assert_int_equal(st.st_mode & 07777, 0644);

    /* The next layer replaces, and takes away what was there before it: wherever its whiteouts stand. */
    begin_archive(f);
    put(f, '0', "etc/a", "new");
    put(f, '0', "etc/.wh.b", "");
    put(f, '0', "full/new", "kept");
    put(f, '0', "full/.wh..wh..opq", "");
    put(f, '0', "deep", "a file in a folder's place");
    put(f, '0', "nothing/.wh.there", "");
    assert_int_equal(unpack(f), 0);
    assert_content(f, "etc/a", "new");
    assert_content(f, "etc/hard", "one");
    assert_content(f, "full/new", "kept");
    assert_content(f, "deep", "a file in a folder's place");
    assert_false(is_there(f, "etc/b"));
    assert_false(is_there(f, "etc/.wh.b"));
    assert_false(is_there(f, "full/sub"));
    assert_false(is_there(f, "full/.wh..wh..opq"));
    assert_false(is_there(f, "nothing"));
}

static void test_links_within(void **state)
{
    struct fixture *f = *state;
    begin_archive(f);
    put(f, '5', "usr/lib", "");
    put(f, '2', "lib", "usr/lib");
    put(f, '5', "etc", "");
    put(f, '2', "absolute", "/etc");
    assert_int_equal(unpack(f), 0);
    begin_archive(f);
    put(f, '0', "lib/file", "by a link");
    put(f, '0', "absolute/file", "by the root's link");
    assert_int_equal(unpack(f), 0);
    assert_content(f, "usr/lib/file", "by a link");
    assert_content(f, "etc/file", "by the root's link");
}

/* Whatever an archive tries, it stays within the root. */
static void test_escapes(void **state)
{
    struct fixture *f = *state;
    char secret[120], path[120];
    struct stat st;
    (void)snprintf(secret, sizeof(secret), "%s/secret", f->outside);
    int fd = open(secret, O_WRONLY | O_CREAT, 0600);
    assert_true(fd >= 0);
    close(fd);

    begin_archive(f);
    put(f, '0', "../outside/written", "x");
    assert_int_equal(unpack(f), -EBADMSG);
    begin_archive(f);
    put(f, '0', "a/../../outside/written", "x");
    assert_int_equal(unpack(f), -EBADMSG);
    begin_archive(f);
    put(f, '1', "stolen", "../outside/secret");
    assert_int_equal(unpack(f), -EBADMSG);

    begin_archive(f);
    put(f, '2', "out", f->outside);
    put(f, '2', "up", "../outside");
    put(f, '0', f->outside, "a path from the root is one from this root");
    assert_int_equal(unpack(f), 0);
    begin_archive(f);
    put(f, '0', "out/written", "x");
    assert_true(unpack(f) < 0); /* there the link leads to a file of ours */
    begin_archive(f);
    put(f, '1', "stolen", "up/secret");
    assert_true(unpack(f) < 0);
    begin_archive(f);
    put(f, '0', "up/.wh.secret", "");
    assert_int_equal(unpack(f), 0);
    begin_archive(f);
    put(f, '0', "up/.wh..wh..opq", "");
    assert_int_equal(unpack(f), 0);
    begin_archive(f);
    put(f, '0', ".wh...", "");
    assert_int_equal(unpack(f), -EBADMSG);

    (void)snprintf(path, sizeof(path), "%s/written", f->outside);
    assert_int_equal(lstat(path, &st), -1);
    assert_int_equal(lstat(secret, &st), 0);
    assert_int_equal(st.st_nlink, 1);
    assert_false(is_there(f, "stolen"));
    assert_content(f, f->outside + 1, "a path from the root is one from this root");
}

/* The file that a link of a layer below leads to is not written through it. */
static void test_last_link(void **state)
{
    struct fixture *f = *state;
    begin_archive(f);
    put(f, '0', "target", "old");
    put(f, '2', "link", "target");
    put(f, '5', "folder", "");
    put(f, '2', "to-folder", "folder");
    assert_int_equal(unpack(f), 0);
    begin_archive(f);
    put(f, '0', "link", "new");
    put(f, '5', "to-folder", "");
    put(f, '0', "to-folder/file", "x");
    assert_int_equal(unpack(f), 0);
    assert_content(f, "target", "old");
    assert_content(f, "link", "new");
    assert_false(is_there(f, "folder/file"));
}

static void put_pax(struct fixture *f, const char *key, const char *value)
{
    char record[600];
    int length = (int)(strlen(key) + strlen(value) + 3);
    int digits = length + 2 < 100 ? 2 : 3;
    (void)snprintf(record, sizeof(record), "%d %s=%s\n", length + digits, key, value);
    put(f, 'x', "pax", record);
}

static void test_pax(void **state)
{
    struct fixture *f = *state;
    char path[320], value[16];
    struct stat st;
    memset(path, 'a', sizeof(path));
    path[100] = path[200] = '/';
    path[300] = '\0';
    begin_archive(f);
    put_pax(f, "path", path);
    put(f, '0', "short", "long name");
    put(f, 'L', "././@LongLink", path);
    put(f, '2', "short", "x");
    put_pax(f, "mtime", "12.5");
    put(f, '0', "time", "");
    put_pax(f, "SCHILY.xattr.user.kept", "1");
    put(f, '0', "attribute", "");
    put_pax(f, "SCHILY.xattr.trusted.overlay.redirect", "/etc");
    put(f, '0', "without", "");
    assert_int_equal(unpack(f), 0);
    assert_false(is_there(f, "short"));
    assert_int_equal(fstatat(f->root, path, &st, AT_SYMLINK_NOFOLLOW), 0);
    assert_true(S_ISLNK(st.st_mode)); /* it came later, by the same name */
    assert_int_equal(fstatat(f->root, "time", &st, 0), 0);
    assert_int_equal(st.st_mtim.tv_sec, 12);
    assert_int_equal(st.st_mtim.tv_nsec, 500000000);
    int fd = openat(f->root, "without", O_RDONLY);
    assert_int_equal(fgetxattr(fd, "trusted.overlay.redirect", value, sizeof(value)), -1);
    close(fd);
}

static void test_damaged(void **state)
{
    struct fixture *f = *state;
    static const char *const records[] = {"x",     "9999 path=a\n", "12 path\n",  "6 a=b",
                                          "0 =\n", "-5 a=b\n",      "8 path=a\n", "11 size=-1\n"};
    struct error err;
    for (size_t i = 0; i < ARRAY_COUNT(records); i++) {
        begin_archive(f);
        put(f, 'x', "pax", records[i]);
        put(f, '0', "file", "x");
        assert_int_equal(unpack(f), -EBADMSG);
    }
    /* Cut anywhere. */
    for (off_t size = 1; size < 1024; size += 211) {
        begin_archive(f);
        put(f, '0', "file", "x");
        assert_int_equal(ftruncate(f->archive, size), 0);
        assert_int_equal(unpack(f), -EBADMSG);
    }
    begin_archive(f);
    put_header(f, '0', "file", "", 0x7fffffff); /* more than there is */
    assert_int_equal(unpack(f), -EBADMSG);
    begin_archive(f);
    put_header(f, 'S', "sparse", "", 0);
    assert_int_equal(unpack(f), -EBADMSG);
    begin_archive(f);
    put(f, '0', "file", "x");
    assert_int_equal(pwrite(f->archive, "y", 1, 0), 1);
    assert_int_equal(unpack_cancelled(f, NULL, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "checksum"));
    assert_false(is_there(f, "file"));
}

static int always(void *ctx)
{
    return 1;
}

static void test_cancelled(void **state)
{
    struct fixture *f = *state;
    begin_archive(f);
    put(f, '0', "file", "x");
    assert_int_equal(unpack_cancelled(f, always, NULL), -ECANCELED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_aliases),
        cmocka_unit_test(test_digests),
        cmocka_unit_test(test_distributions),
        cmocka_unit_test(test_pick),
        cmocka_unit_test(test_manifest),
        cmocka_unit_test_setup_teardown(test_layers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_links_within, setup, teardown),
        cmocka_unit_test_setup_teardown(test_escapes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_last_link, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pax, setup, teardown),
        cmocka_unit_test_setup_teardown(test_damaged, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cancelled, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
