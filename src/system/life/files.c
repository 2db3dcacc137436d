/* Files in a container's root, beneath which everything is opened. */
#include "system/life/files.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/host/file.h"
#include "container/mount/beneath.h"

/* Folders on the way that are missing, owned by the container's root as the file is. */
static int make_folders(int root, const char *path, uint32_t owner, struct error *err)
{
    char folder[PATH_MAX];
    const char *name;
    for (const char *end = strchr(path + 1, '/'); end != NULL; end = strchr(end + 1, '/')) {
        (void)snprintf(folder, sizeof(folder), "%.*s", (int)(end - path), path);
        int found = beneath_open(root, folder, O_PATH | O_DIRECTORY, 0);
        if (found >= 0) {
            close(found);
            continue;
        }
        int opened = found == -ENOENT ? beneath_make_parent(root, folder, &name) : found;
        if (opened < 0) {
            return error_set_errno(err, -opened, "making %s in the container", folder);
        }
        AUTO_CLOSE int parent = opened;
        if (mkdirat(parent, name, 0755) < 0 ||
            fchownat(parent, name, owner, owner, AT_SYMLINK_NOFOLLOW) < 0) {
            return error_set_errno(err, errno, "making %s in the container", folder);
        }
    }
    return 0;
}

static int write_file(int root, const char *path, const char *text, uint32_t owner,
                      struct error *err)
{
    const char *name;
    int rc = make_folders(root, path, owner, err);
    int folder = rc < 0 ? rc : beneath_make_parent(root, path, &name);
    if (rc < 0) {
        return rc;
    }
    if (folder < 0) {
        return error_set_errno(err, -folder, "opening the folder of %s in the container", path);
    }
    AUTO_CLOSE int parent = folder;
    (void)unlinkat(parent, name, 0);
    AUTO_CLOSE int fd =
        openat(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (fd < 0 || fchown(fd, owner, owner) < 0 || fchmod(fd, 0644) < 0) {
        return error_set_errno(err, errno, "writing %s in the container", path);
    }
    return file_write_all(fd, text, strlen(text), path, err);
}

static int remove_file(int root, const char *path, struct error *err)
{
    const char *name = strrchr(path, '/');
    char folder[PATH_MAX];
    (void)snprintf(folder, sizeof(folder), "%.*s/", name != NULL ? (int)(name - path) : 0, path);
    int opened = beneath_open(root, folder, O_PATH | O_DIRECTORY, 0);
    if (opened < 0) {
        return 0; /* where there is no folder, there is no file */
    }
    AUTO_CLOSE int parent = opened;
    return name == NULL || unlinkat(parent, name + 1, 0) == 0 || errno == ENOENT
               ? 0
               : error_set_errno(err, errno, "removing %s in the container", path);
}

int files_write(const char *root, const json_t *files, uint32_t owner, struct error *err)
{
    AUTO_CLOSE int fd = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        return error_set_errno(err, errno, "opening %s", root);
    }
    size_t i;
    json_t *item;
    json_array_foreach(files, i, item)
    {
        const char *path, *text = NULL;
        if (json_unpack(item, "{s:s, s?s}", "path", &path, "text", &text) < 0) {
            return error_set(err, EINVAL, "a file for the container has no path");
        }
        int rc = text != NULL ? write_file(fd, path, text, owner, err) : remove_file(fd, path, err);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

int files_stop_signal(const char *root)
{
    AUTO_CLOSE int fd = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
    int found = fd >= 0 ? beneath_open(fd, "/sbin/init", O_PATH, 0) : -1;
    if (found < 0) {
        return SIGTERM;
    }
    AUTO_CLOSE int init = found;
    char link[64], target[PATH_MAX];
    (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", init);
    ssize_t n = readlink(link, target, sizeof(target) - 1);
    target[n > 0 ? n : 0] = '\0';
    const char *name = strrchr(target, '/');
    return strstr(target, "systemd") != NULL               ? SIGRTMIN + 3 /* systemd(1) */
           : name != NULL && strcmp(name, "/busybox") == 0 ? SIGUSR2      /* its init: poweroff */
           : name != NULL && strcmp(name, "/init") == 0    ? SIGPWR       /* sysvinit */
                                                           : SIGTERM;
}
