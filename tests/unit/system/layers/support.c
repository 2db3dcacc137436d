/* A folder and a mount namespace of a test's own. */
#include "support.h"

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
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static char folder[] = "/tmp/hull-layers-XXXXXX";

static bool try_user_namespace(void)
{
    pid_t pid = fork();
    if (pid == 0) {
        _exit(unshare(CLONE_NEWUSER) == 0 ? 0 : 1);
    }
    int status = 1;
    return pid > 0 && waitpid(pid, &status, 0) == pid && status == 0;
}

bool box_open(void)
{
    if (geteuid() != 0 || unshare(CLONE_NEWNS) < 0 ||
        mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 || !try_user_namespace()) {
        (void)fprintf(stderr, "skipped: needs root, mount namespaces and user namespaces\n");
        return false;
    }
    (void)umask(022);
    if (mkdtemp(folder) == NULL || chmod(folder, 0755) < 0 || chdir(folder) < 0) {
        (void)fprintf(stderr, "skipped: no folder in /tmp: %s\n", strerror(errno));
        return false;
    }
    return true;
}

void box_close(void)
{
    struct error err = {0};
    (void)chdir("/");
    if (layers_remove(folder, &err) < 0) {
        (void)fprintf(stderr, "%s\n", err.text);
    }
}

const char *box_path(const char *format, ...)
{
    static char paths[16][256];
    static unsigned next;
    char *path = paths[next++ % 16];
    int length = snprintf(path, sizeof(paths[0]), "%s/", folder);
    va_list args;
    va_start(args, format);
    (void)vsnprintf(path + length, sizeof(paths[0]) - (size_t)length, format, args);
    va_end(args);
    return path;
}

void box_mkdir(const char *path, unsigned owner, unsigned mode)
{
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(chown(path, owner, owner), 0);
    assert_int_equal(chmod(path, mode), 0);
}

void box_write(const char *path, const char *text, unsigned owner, unsigned mode)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    assert_int_equal(fchown(fd, owner, owner), 0);
    assert_int_equal(fchmod(fd, mode), 0);
    close(fd);
}

const char *box_read(const char *path)
{
    static char text[4096];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size = fd < 0 ? 0 : read(fd, text, sizeof(text) - 1);
    text[size < 0 ? 0 : size] = '\0';
    if (fd >= 0) {
        close(fd);
    }
    return text;
}

struct stat box_stat(const char *path)
{
    struct stat st;
    if (lstat(path, &st) < 0) {
        fail_msg("%s: %s", path, strerror(errno));
    }
    return st;
}

bool box_exists(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0;
}

unsigned box_count_mounts(void)
{
    FILE *list = fopen("/proc/self/mountinfo", "re");
    assert_non_null(list);
    char line[8192];
    unsigned count = 0;
    while (fgets(line, sizeof(line), list) != NULL) {
        count += strstr(line, folder) != NULL;
    }
    (void)fclose(list);
    return count;
}

void box_fail_inside(const char *text, int line)
{
    (void)fprintf(stderr, "inside, line %d: %s (%s)\n", line, text, strerror(errno));
    _exit(1);
}

static void write_map(pid_t pid, const char *name)
{
    char path[64], text[64];
    (void)snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
    (void)snprintf(text, sizeof(text), "0 %d %d\n", FIRST_ID, ID_COUNT);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    assert_true(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
}

void box_run_inside(const char *where, void (*function)(void))
{
    int ready[2], go[2];
    assert_true(pipe2(ready, O_CLOEXEC) == 0 && pipe2(go, O_CLOEXEC) == 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        char byte;
        inside(chdir(where) == 0 && unshare(CLONE_NEWUSER) == 0);
        inside(write(ready[1], "x", 1) == 1 && read(go[0], &byte, 1) == 1);
        inside(setresgid(0, 0, 0) == 0 && setresuid(0, 0, 0) == 0);
        function();
        _exit(0);
    }
    char byte;
    close(ready[1]);
    close(go[0]);
    if (read(ready[0], &byte, 1) == 1) {
        write_map(pid, "uid_map");
        write_map(pid, "gid_map");
        assert_int_equal(write(go[1], "x", 1), 1);
    }
    close(ready[0]);
    close(go[1]);
    int status = 1;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}
