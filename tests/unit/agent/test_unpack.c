/* Unpacking, with openat2 and as on kernels that do not have it. Owners of others take rights, which the tests of
 * integration have. */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "agent/unpack.h"
#include "base/host/file.h"

struct stream {
    uint8_t byte[65536];
    size_t size, at;
};

static char folder[64];
static struct stream stream;

static int stream_write(void *ctx, const void *data, size_t size, struct error *err)
{
    assert_true(stream.size + size <= sizeof(stream.byte));
    memcpy(stream.byte + stream.size, data, size);
    stream.size += size;
    return 0;
}

static int stream_read(void *ctx, void *data, size_t size, struct error *err)
{
    if (size > stream.size - stream.at) {
        return error_set(err, ENODATA, "the end");
    }
    memcpy(data, stream.byte + stream.at, size);
    stream.at += size;
    return 0;
}

/* 'text': a file's contents, or a link's target. */
static void put(enum tar_type type, const char *path, const char *text)
{
    struct tar_entry e = {.type = type,
                          .path = (char *)path,
                          .target = type == TAR_LINK || type == TAR_HARD_LINK ? (char *)text : "",
                          .mode = type == TAR_FOLDER ? 0750 : 0640,
                          .uid = getuid(),
                          .gid = getgid(),
                          .size = type == TAR_FILE ? strlen(text) : 0,
                          .time = {.tv_sec = 1000000000}};
    assert_int_equal(tar_write_head(stream_write, NULL, &e, NULL), 0);
    assert_int_equal(stream_write(NULL, text, e.size, NULL), 0);
    assert_int_equal(tar_write_padding(stream_write, NULL, e.size, NULL), 0);
}

static int run(void)
{
    struct error err = {0};
    struct tar_reader reader = {.read = stream_read};
    char path[96];
    assert_int_equal(tar_write_end(stream_write, NULL, NULL), 0);
    (void)snprintf(path, sizeof(path), "%s/inside", folder);
    AUTO_CLOSE int root = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = unpack(root, &reader, &err);
    tar_reader_end(&reader);
    assert_true(rc == 0 || err.text[0] != '\0');
    stream = (struct stream){0};
    return rc;
}

static int remove_one(const char *path, const struct stat *status, int kind, struct FTW *where)
{
    return remove(path);
}

static int make_folder(void **state)
{
    char path[96];
    (void)snprintf(folder, sizeof(folder), "/tmp/hull-unpack.XXXXXX");
    if (mkdtemp(folder) == NULL) {
        return -1;
    }
    (void)snprintf(path, sizeof(path), "%s/inside", folder);
    return mkdir(path, 0755);
}

static int remove_folder(void **state)
{
    return nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* Its text; NULL: there is no such file. */
static const char *read_file(const char *name)
{
    static char text[256];
    char path[256];
    (void)snprintf(path, sizeof(path), "%s/%s", folder, name);
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    ssize_t size = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
    text[MAX(size, 0)] = '\0';
    return size < 0 ? NULL : text;
}

static struct stat look(const char *name)
{
    struct stat status = {0};
    char path[256];
    (void)snprintf(path, sizeof(path), "%s/%s", folder, name);
    assert_int_equal(lstat(path, &status), 0);
    return status;
}

static void files_folders_and_links(void **state)
{
    put(TAR_FOLDER, "./", "");
    put(TAR_FOLDER, "a/", "");
    put(TAR_FILE, "a/file", "text");
    put(TAR_FILE, "/made//above/./x", "deep");
    put(TAR_LINK, "link", "a/file");
    put(TAR_HARD_LINK, "a/hard", "a/file");
    put(TAR_FIFO, "pipe", "");
    assert_int_equal(run(), 0);
    assert_string_equal(read_file("inside/a/file"), "text");
    assert_string_equal(read_file("inside/made/above/x"), "deep");
    assert_true(look("inside/a/hard").st_ino == look("inside/a/file").st_ino);
    assert_int_equal(look("inside/a").st_mode, S_IFDIR | 0750);
    assert_int_equal(look("inside/a").st_mtime, 1000000000); /* though files were made in it */
    assert_int_equal(look("inside/a/file").st_mode, S_IFREG | 0640);
    assert_int_equal(look("inside/link").st_mtime, 1000000000);
    assert_int_equal(look("inside/link").st_mode & S_IFMT, S_IFLNK);
    assert_int_equal(look("inside/pipe").st_mode, S_IFIFO | 0640);
}

static void what_is_there_is_replaced_and_folders_are_kept(void **state)
{
    put(TAR_FILE, "a/one", "1");
    put(TAR_FILE, "b", "a file");
    assert_int_equal(run(), 0);
    put(TAR_FOLDER, "a", "");
    put(TAR_FILE, "a/two", "2");
    put(TAR_FOLDER, "b", "");
    put(TAR_FILE, "b/three", "3");
    assert_int_equal(run(), 0);
    assert_string_equal(read_file("inside/a/one"), "1");
    assert_string_equal(read_file("inside/a/two"), "2");
    assert_string_equal(read_file("inside/b/three"), "3");
    put(TAR_FILE, "a", "not in the place of a folder");
    assert_true(run() < 0);
    assert_string_equal(read_file("inside/a/one"), "1");
    put(TAR_FILE, "b/three/four", "not below a file");
    assert_int_equal(run(), -ENOTDIR);
    assert_string_equal(read_file("inside/b/three"), "3");
}

static void put_secret(void)
{
    char path[96];
    (void)snprintf(path, sizeof(path), "%s/secret", folder);
    AUTO_CLOSE int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_int_equal(write(fd, "secret", 6), 6);
}

static void nothing_leads_out(void **state)
{
    char outside[96];
    (void)snprintf(outside, sizeof(outside), "%s", folder);
    const struct {
        enum tar_type type;
        const char *path, *text;
    } cases[][2] = {
        {{TAR_FILE, "../new", "bad"}, {0}},
        {{TAR_FILE, "a/../../new", "bad"}, {0}},
        {{TAR_FOLDER, "..", ""}, {0}},
        {{TAR_LINK, "one", ".."}, {TAR_FILE, "one/new", "bad"}},
        {{TAR_LINK, "two", outside}, {TAR_FILE, "two/new", "bad"}},
        {{TAR_LINK, "three", outside}, {TAR_FOLDER, "three/new", ""}},
        {{TAR_LINK, "four", outside}, {TAR_FOLDER, "four", ""}},
        {{TAR_LINK, "five", "../new"}, {TAR_FOLDER, "five/deeper", ""}},
        {{TAR_LINK, "six", "../new"}, {TAR_FOLDER, "six", ""}},
        {{TAR_HARD_LINK, "seven", "../secret"}, {TAR_FILE, "seven", "bad"}},
        {{TAR_LINK, "eight", outside}, {TAR_HARD_LINK, "nine", "eight/secret"}},
        {{TAR_HARD_LINK, "ten", "/"}, {0}},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        put_secret();
        struct stat before = look("");
        for (size_t k = 0; k < 2 && cases[i][k].path != NULL; k++) {
            put(cases[i][k].type, cases[i][k].path, cases[i][k].text);
        }
        assert_true(run() < 0);
        assert_string_equal(read_file("secret"), "secret");
        assert_int_equal(look("secret").st_nlink, 1);
        assert_null(read_file("new"));
        assert_int_equal(look("").st_mode, before.st_mode);
    }
}

static void links_are_not_written_through(void **state)
{
    put_secret();
    put(TAR_LINK, "file", "../secret");
    put(TAR_FILE, "file", "new");
    assert_int_equal(run(), 0);
    assert_string_equal(read_file("secret"), "secret");
    assert_string_equal(read_file("inside/file"), "new");
    put(TAR_LINK, "place", "../secret"); /* a link that leads to a file is none to a folder */
    put(TAR_FOLDER, "place", "");
    assert_true(run() < 0);
    assert_string_equal(read_file("secret"), "secret");
}

/* From here on openat2 is not there, as on kernels before 5.6. */
static bool forbid_openat2(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_openat2, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = ARRAY_COUNT(code), .filter = code};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0 &&
           syscall(SYS_openat2, -1, "", NULL, 0) < 0 && errno == ENOSYS;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(files_folders_and_links, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(what_is_there_is_replaced_and_folders_are_kept, make_folder,
                                        remove_folder),
        cmocka_unit_test_setup_teardown(nothing_leads_out, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(links_are_not_written_through, make_folder, remove_folder),
    };
    int failed = cmocka_run_group_tests_name("openat2", tests, NULL, NULL);
    if (!forbid_openat2()) {
        (void)fprintf(stderr, "no seccomp: cannot do without openat2\n");
        return failed != 0 ? failed : 77;
    }
    return failed + cmocka_run_group_tests_name("no openat2", tests, NULL, NULL);
}
