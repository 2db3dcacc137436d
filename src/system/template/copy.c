#include "system/template/copy.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>

#include "base/host/file.h"

#define MAX_DEPTH 64

static int fail(const char *name, struct error *err)
{
    return error_set_errno(err, errno, "copying %.150s", name);
}

static int finish(int to, const struct stat *st)
{
    const struct timespec times[2] = {st->st_atim, st->st_mtim};
    return fchown(to, 0, 0) < 0 || fchmod(to, st->st_mode & 07777) < 0 ? -1 : futimens(to, times);
}

static int copy_file(int from, const struct stat *st, int folder, const char *name,
                     struct error *err)
{
    if (unlinkat(folder, name, 0) < 0 && errno != ENOENT) {
        return fail(name, err);
    }
    AUTO_CLOSE int to =
        openat(folder, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (to < 0) {
        return fail(name, err);
    }
    ssize_t sent;
    while ((sent = sendfile(to, from, NULL, 1u << 30)) > 0) {
    }
    return sent < 0 || finish(to, st) < 0 ? fail(name, err) : 0;
}

static int copy_link(int from_folder, int folder, const char *name, struct error *err)
{
    char target[PATH_MAX];
    ssize_t length = readlinkat(from_folder, name, target, sizeof(target) - 1);
    if (length < 0) {
        return fail(name, err);
    }
    target[length] = '\0';
    if ((unlinkat(folder, name, 0) < 0 && errno != ENOENT) || symlinkat(target, folder, name) < 0) {
        return fail(name, err);
    }
    return 0;
}

static int copy_folder(int from, const struct stat *st, int to, unsigned depth, struct error *err);

/* 'from' is open for reading. */
static int copy_any(int from, int folder, const char *name, unsigned depth, struct error *err)
{
    struct stat st;
    if (fstat(from, &st) < 0) {
        return fail(name, err);
    }
    if (S_ISREG(st.st_mode)) {
        return copy_file(from, &st, folder, name, err);
    }
    if (!S_ISDIR(st.st_mode)) {
        return error_set(err, EINVAL, "copying %.150s: only files, folders and links can be", name);
    }
    if (mkdirat(folder, name, 0755) < 0 && errno != EEXIST) {
        return fail(name, err);
    }
    AUTO_CLOSE int to = openat(folder, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return to < 0 ? fail(name, err) : copy_folder(from, &st, to, depth, err);
}

static int copy_entry(int from_folder, int to, const char *name, unsigned depth, struct error *err)
{
    struct stat st;
    if (fstatat(from_folder, name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
        return fail(name, err);
    }
    if (S_ISLNK(st.st_mode)) {
        return copy_link(from_folder, to, name, err);
    }
    AUTO_CLOSE int from = openat(from_folder, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    return from < 0 ? fail(name, err) : copy_any(from, to, name, depth + 1, err);
}

static int copy_folder(int from, const struct stat *st, int to, unsigned depth, struct error *err)
{
    if (depth > MAX_DEPTH) {
        return error_set(err, ELOOP, "copying files: more than %d folders in each other",
                         MAX_DEPTH);
    }
    int again = openat(from, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = again >= 0 ? fdopendir(again) : NULL;
    if (dir == NULL) {
        int rc = fail("a folder", err);
        if (again >= 0) {
            close(again);
        }
        return rc;
    }
    struct dirent *entry;
    int rc = 0;
    while (rc == 0 && (entry = readdir(dir)) != NULL) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
            rc = copy_entry(from, to, entry->d_name, depth, err);
        }
    }
    (void)closedir(dir); /* nothing was written */
    return rc == 0 && finish(to, st) < 0 ? fail("a folder", err) : rc;
}

static int make_parents(const char *path, struct error *err)
{
    char part[PATH_MAX];
    for (size_t i = 1; path[i] != '\0'; i++) {
        if (path[i] != '/') {
            continue;
        }
        memcpy(part, path, i);
        part[i] = '\0';
        if (mkdir(part, 0755) < 0 && errno != EEXIST) {
            return fail(part, err);
        }
    }
    return 0;
}

int copy_in(int from, const char *path, struct error *err)
{
    char link[64];
    if (path[0] != '/' || strlen(path) >= PATH_MAX || path[strlen(path) - 1] == '/') {
        return error_set(err, EINVAL, "copying to '%.150s': the whole path of a file or folder",
                         path);
    }
    (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", from);
    AUTO_CLOSE int readable = open(link, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (readable < 0) {
        return fail(path, err);
    }
    int rc = make_parents(path, err);
    return rc < 0 ? rc : copy_any(readable, AT_FDCWD, path, 0, err);
}
