/* Checks what a folder does with files, as programs see it: share_tool FOLDER [OWNER]. Says what differs from what POSIX or Linux promise, one line each,
 * and at the end how much it looked at. Runs in a guest on a shared folder, and on the host's own file system to check the checks. With OWNER (a
 * number) files are also made as that user. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

static unsigned checks, failures;

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        checks++;                                                                                  \
        errno = 0;                                                                                 \
        if (!(condition)) {                                                                        \
            failures++;                                                                            \
            printf("FAILED line %d: %s (%s)\n", __LINE__, #condition, strerror(errno));            \
        }                                                                                          \
    } while (0)
#define FAILS(call, code) CHECK((call) < 0 && errno == (code))

static void put(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    CHECK(fd >= 0);
    CHECK(write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    CHECK(close(fd) == 0);
}

static bool has(const char *path, const char *text)
{
    char data[256];
    int fd = open(path, O_RDONLY);
    ssize_t size = fd < 0 ? -1 : read(fd, data, sizeof(data));
    close(fd);
    return size == (ssize_t)strlen(text) && memcmp(data, text, (size_t)size) == 0;
}

static struct stat look(const char *path)
{
    struct stat status = {0};
    (void)lstat(path, &status);
    return status;
}

static void check_files(void)
{
    put("a", "one");
    CHECK(has("a", "one"));
    FAILS(open("a", O_CREAT | O_EXCL | O_WRONLY, 0600), EEXIST);
    FAILS(open("none", O_RDONLY), ENOENT);
    FAILS(open("a/b", O_RDONLY), ENOTDIR);
    FAILS(open("a", O_RDONLY | O_DIRECTORY), ENOTDIR);
    int fd = open("a", O_WRONLY | O_APPEND);
    CHECK(write(fd, "two", 3) == 3);
    CHECK(close(fd) == 0 && has("a", "onetwo"));
    CHECK(truncate("a", 3) == 0 && has("a", "one"));
    CHECK(truncate("a", 5) == 0 && look("a").st_size == 5);
    fd = open("a", O_RDWR | O_TRUNC);
    CHECK(fd >= 0 && look("a").st_size == 0);
    CHECK(pwrite(fd, "x", 1, 1 << 20) == 1 && look("a").st_size == (1 << 20) + 1);
    CHECK(ftruncate(fd, 0) == 0 && fsync(fd) == 0 && fdatasync(fd) == 0);
    CHECK(unlink("a") == 0);
    CHECK(write(fd, "gone", 4) == 4); /* a file without a name lives as long as it is open */
    char data[8];
    CHECK(pread(fd, data, 8, 0) == 4 && memcmp(data, "gone", 4) == 0);
    struct stat status;
    CHECK(fstat(fd, &status) == 0 && status.st_nlink == 0);
    CHECK(close(fd) == 0);
    char name[300];
    memset(name, 'n', sizeof(name));
    name[256] = '\0';
    FAILS(open(name, O_CREAT | O_WRONLY, 0600), ENAMETOOLONG);
    name[255] = '\0';
    put(name, "long");
    CHECK(has(name, "long") && unlink(name) == 0);
    CHECK(mkfifo("pipe", 0600) == 0 && S_ISFIFO(look("pipe").st_mode) && unlink("pipe") == 0);
}

static void check_attributes(void)
{
    put("m", "m");
    CHECK(chmod("m", 0751) == 0 && (look("m").st_mode & 07777) == 0751);
    CHECK(chmod("m", 0) == 0 && (look("m").st_mode & 07777) == 0);
    CHECK(chmod("m", 0644) == 0);
    const struct timespec times[2] = {{1000000000, 123456789}, {1100000000, 987654321}};
    CHECK(utimensat(AT_FDCWD, "m", times, 0) == 0);
    struct stat status = look("m");
    CHECK(status.st_atim.tv_sec == 1000000000 && status.st_atim.tv_nsec == 123456789);
    CHECK(status.st_mtim.tv_sec == 1100000000 && status.st_mtim.tv_nsec == 987654321);
    CHECK(symlink("m", "ml") == 0);
    CHECK(utimensat(AT_FDCWD, "ml", times, AT_SYMLINK_NOFOLLOW) == 0 &&
          look("ml").st_mtim.tv_sec == 1100000000);
    struct statvfs system;
    CHECK(statvfs(".", &system) == 0 && system.f_blocks > 0 && system.f_namemax >= 255);
    mode_t old = umask(077);
    int fd = open("u", O_CREAT | O_WRONLY, 0666);
    CHECK(close(fd) == 0 && (look("u").st_mode & 07777) == 0600);
    CHECK(mkdir("ud", 0777) == 0 && (look("ud").st_mode & 07777) == 0700);
    umask(old);
    CHECK(unlink("u") == 0 && rmdir("ud") == 0 && unlink("ml") == 0 && unlink("m") == 0);
}

static void check_names(void)
{
    put("a", "a");
    put("b", "b");
    CHECK(mkdir("d", 0755) == 0 && S_ISDIR(look("d").st_mode));
    FAILS(mkdir("d", 0755), EEXIST);
    CHECK(rename("a", "d/a") == 0 && has("d/a", "a"));
    FAILS(rename("a", "x"), ENOENT);
    FAILS(rename("b", "d"), EISDIR);
    FAILS(rename("d", "d/e"), EINVAL);
    FAILS(rmdir("d"), ENOTEMPTY);
    FAILS(unlink("d"), EISDIR);
    FAILS(renameat2(AT_FDCWD, "b", AT_FDCWD, "d/a", RENAME_NOREPLACE), EEXIST);
    CHECK(renameat2(AT_FDCWD, "b", AT_FDCWD, "d/a", RENAME_EXCHANGE) == 0);
    CHECK(has("b", "a") && has("d/a", "b"));
    CHECK(rename("d/a", "b") == 0 && has("b", "b"));
    CHECK(link("b", "d/l") == 0 && look("b").st_nlink == 2);
    CHECK(look("b").st_ino == look("d/l").st_ino);
    FAILS(link("b", "d/l"), EEXIST);
    CHECK(unlink("b") == 0 && look("d/l").st_nlink == 1 && has("d/l", "b"));
    CHECK(symlink("d/l", "s") == 0 && has("s", "b") && S_ISLNK(look("s").st_mode));
    char target[64];
    CHECK(readlink("s", target, sizeof(target)) == 3 && memcmp(target, "d/l", 3) == 0);
    CHECK(link("s", "s2") == 0 && S_ISLNK(look("s2").st_mode) && look("s").st_nlink == 2);
    CHECK(symlink("s3", "s3") == 0);
    FAILS(open("s3", O_RDONLY), ELOOP);
    CHECK(rename("d", "e") == 0 && has("e/l", "b"));
    CHECK(unlink("s") == 0 && unlink("s2") == 0 && unlink("s3") == 0 && unlink("e/l") == 0);
    CHECK(rmdir("e") == 0);
    FAILS(rmdir("e"), ENOENT);
}

static void check_data(void)
{
    enum {
        SIZE = 3 << 20
    };
    uint8_t *data = malloc(SIZE), *copy = malloc(SIZE);
    for (size_t i = 0; i < SIZE; i++) {
        data[i] = (uint8_t)(i * 2654435761u >> 13);
    }
    int fd = open("data", O_RDWR | O_CREAT, 0600);
    CHECK(pwrite(fd, data, SIZE, 0) == SIZE);
    CHECK(pread(fd, copy, SIZE, 0) == SIZE && memcmp(data, copy, SIZE) == 0);
    CHECK(pread(fd, copy, 100, SIZE - 50) == 50 && pread(fd, copy, 100, SIZE) == 0);
    uint8_t *map = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(map != MAP_FAILED && memcmp(map, data, SIZE) == 0);
    if (map != MAP_FAILED) {
        memset(map + 5000, 'z', 10);
        CHECK(msync(map, SIZE, MS_SYNC) == 0 && munmap(map, SIZE) == 0);
        CHECK(pread(fd, copy, 10, 5000) == 10 && memcmp(copy, "zzzzzzzzzz", 10) == 0);
    }
    int other = open("other", O_RDWR | O_CREAT, 0600);
    off_t from = 4096, to = 0;
    CHECK(copy_file_range(fd, &from, other, &to, 1 << 20, 0) == 1 << 20);
    CHECK(pread(other, copy, 1 << 20, 0) == 1 << 20);
    CHECK(memcmp(copy + 8192, data + 4096 + 8192, 1 << 19) == 0);
    CHECK(ftruncate(other, 0) == 0 && fallocate(other, 0, 0, 1 << 20) == 0);
    CHECK(look("other").st_size == 1 << 20 && look("other").st_blocks >= 2048);
    CHECK(fallocate(other, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 1 << 20) == 0);
    CHECK(ftruncate(other, 0) == 0 && pwrite(other, "end", 3, 8 << 20) == 3);
    CHECK(lseek(other, 0, SEEK_DATA) == 8 << 20 && lseek(other, 0, SEEK_HOLE) == 0);
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    CHECK(fcntl(other, F_SETLK, &lock) == 0);
    CHECK(close(fd) == 0 && close(other) == 0 && unlink("data") == 0 && unlink("other") == 0);
    free(data);
    free(copy);
}

static void check_xattrs(void)
{
    char data[64];
    put("x", "x");
    CHECK(setxattr("x", "user.one", "value", 5, 0) == 0);
    CHECK(getxattr("x", "user.one", data, sizeof(data)) == 5 && memcmp(data, "value", 5) == 0);
    CHECK(getxattr("x", "user.one", NULL, 0) == 5);
    FAILS(getxattr("x", "user.one", data, 2), ERANGE);
    FAILS(getxattr("x", "user.two", data, sizeof(data)), ENODATA);
    FAILS(setxattr("x", "user.one", "v", 1, XATTR_CREATE), EEXIST);
    FAILS(setxattr("x", "user.two", "v", 1, XATTR_REPLACE), ENODATA);
    CHECK(setxattr("x", "user.two", "", 0, 0) == 0);
    CHECK(listxattr("x", data, sizeof(data)) == 18 && listxattr("x", NULL, 0) == 18);
    CHECK(removexattr("x", "user.one") == 0 && listxattr("x", data, sizeof(data)) == 9);
    CHECK(mkdir("xd", 0755) == 0 && setxattr("xd", "user.d", "1", 1, 0) == 0 && rmdir("xd") == 0);
    CHECK(unlink("x") == 0);
}

static void check_big_folder(void)
{
    enum {
        FILES = 5000
    };
    static bool seen[FILES];
    char name[32];
    CHECK(mkdir("big", 0755) == 0);
    for (int i = 0; i < FILES; i++) {
        (void)snprintf(name, sizeof(name), "big/file-%d", i);
        int fd = open(name, O_CREAT | O_EXCL | O_WRONLY, 0644);
        failures += fd < 0;
        close(fd);
    }
    DIR *folder = opendir("big");
    CHECK(folder != NULL);
    unsigned found = 0, twice = 0;
    for (struct dirent *entry; folder != NULL && (entry = readdir(folder)) != NULL;) {
        int number;
        if (sscanf(entry->d_name, "file-%d", &number) == 1) {
            found++;
            twice += seen[number];
            seen[number] = true;
        }
    }
    CHECK(found == FILES && twice == 0);
    rewinddir(folder);
    CHECK(readdir(folder) != NULL);
    CHECK(closedir(folder) == 0);
    for (int i = 0; i < FILES; i++) {
        (void)snprintf(name, sizeof(name), "big/file-%d", i);
        failures += look(name).st_mode != (S_IFREG | 0644);
        failures += unlink(name) != 0;
    }
    CHECK(rmdir("big") == 0);
}

/* As another user: what he makes is his, and he may not do what he may not. */
static void check_owner(uid_t uid)
{
    CHECK(mkdir("open", 0777) == 0 && chmod("open", 01777) == 0);
    CHECK(mkdir("closed", 0755) == 0);
    put("secret", "s");
    CHECK(chmod("secret", 0600) == 0);
    CHECK(mkdir("group", 0777) == 0 && chown("group", 0, 77) == 0 && chmod("group", 02777) == 0);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        checks = failures = 0;
        CHECK(setgid(uid) == 0 && setuid(uid) == 0);
        put("open/mine", "m");
        CHECK(look("open/mine").st_uid == uid && look("open/mine").st_gid == uid);
        CHECK(mkdir("open/folder", 0755) == 0 && look("open/folder").st_uid == uid);
        CHECK(symlink("x", "open/link") == 0 && look("open/link").st_uid == uid);
        CHECK(mkfifo("open/pipe", 0600) == 0 && look("open/pipe").st_uid == uid);
        put("group/mine", "m");
        CHECK(look("group/mine").st_gid == 77);
        FAILS(open("secret", O_RDONLY), EACCES);
        FAILS(open("closed/x", O_CREAT | O_WRONLY, 0600), EACCES);
        FAILS(chown("open/mine", 0, 0), EPERM);
        FAILS(chmod("closed", 0777), EPERM);
        fflush(stdout);
        _exit(failures != 0);
    }
    int status = -1;
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    CHECK(chown("open/mine", 5, 6) == 0 && look("open/mine").st_uid == 5 &&
          look("open/mine").st_gid == 6);
    CHECK(unlink("open/mine") == 0 && rmdir("open/folder") == 0 && unlink("open/link") == 0);
    CHECK(unlink("open/pipe") == 0 && unlink("group/mine") == 0 && rmdir("group") == 0);
    CHECK(rmdir("open") == 0 && rmdir("closed") == 0 && unlink("secret") == 0);
}

int main(int argc, char **argv)
{
    if (argc < 2 || chdir(argv[1]) < 0) {
        printf("share_tool FOLDER [OWNER]: %s\n", strerror(errno));
        return 2;
    }
    umask(022);
    check_files();
    check_attributes();
    check_names();
    check_data();
    check_xattrs();
    check_big_folder();
    if (argc > 2) {
        check_owner((uid_t)atoi(argv[2]));
    }
    printf("%u checks, %u failed\n", checks, failures);
    return failures != 0;
}
