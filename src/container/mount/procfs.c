/* A proc file system that is known to be one. */
#include "container/mount/procfs.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/host/file.h"
#include "container/mount/handle.h"

#define PROC_ROOT_INODE 1

static int make_procfs(void)
{
    AUTO_HANDLE int context = fsopen("proc", FSOPEN_CLOEXEC);
    if (context < 0 || fsconfig(context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0) {
        return -errno;
    }
    int fd =
        fsmount(context, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
    return fd < 0 ? -errno : fd;
}

int procfs_open(struct error *err)
{
    int made = make_procfs();
    if (made >= 0) {
        return made;
    }
    AUTO_HANDLE int fd = open("/proc", O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
        return error_set_errno(err, errno, "opening /proc");
    }
    struct statfs fs;
    struct stat st;
    if (fstatfs(fd, &fs) < 0 || fstat(fd, &st) < 0) {
        return error_set_errno(err, errno, "looking at /proc");
    }
    if (fs.f_type != PROC_SUPER_MAGIC || st.st_ino != PROC_ROOT_INODE) {
        return error_set(err, EXDEV, "/proc is not the root of a proc file system");
    }
    return TAKE_FD(fd);
}

int procfs_open_file(int proc_fd, const char *path, int flags)
{
    struct open_how how = {
        .flags = (uint64_t)(unsigned)flags | O_CLOEXEC | O_NOFOLLOW,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS,
    };
    long fd = syscall(SYS_openat2, proc_fd, path, &how, sizeof(how));
    return fd < 0 ? -errno : (int)fd;
}

int procfs_write(int proc_fd, const char *path, const char *text)
{
    AUTO_HANDLE int fd = procfs_open_file(proc_fd, path, O_WRONLY);
    if (fd < 0) {
        return fd;
    }
    size_t size = strlen(text);
    ssize_t written = write(fd, text, size);
    return written < 0 ? -errno : (size_t)written != size ? -EIO : 0;
}
