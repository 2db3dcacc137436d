/* The program is executed again from where nobody can write to it. */
#include "container/runtime/protect.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/host/file.h"

#define SEALS (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)

/* A descriptor of the program in a read-only mount, or -1. */
static int open_readonly(void)
{
    int fd = (int)syscall(SYS_open_tree, AT_FDCWD, "/proc/self/exe",
                          OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
    struct mount_attr attributes = {.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID};
    if (fd >= 0 &&
        syscall(SYS_mount_setattr, fd, "", AT_EMPTY_PATH, &attributes, sizeof(attributes)) < 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static int open_copy(int program, struct error *err)
{
    struct stat info;
    int fd = memfd_create("hull-oci", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0 || fstat(program, &info) < 0) {
        return error_set_errno(err, errno, "copying the runtime's program");
    }
    for (off_t left = info.st_size; left > 0;) {
        ssize_t n = sendfile(fd, program, NULL, (size_t)left);
        if (n <= 0) {
            close(fd);
            return error_set_errno(err, n < 0 ? errno : EIO, "copying the runtime's program");
        }
        left -= n;
    }
    if (fchmod(fd, 0700) < 0 || fcntl(fd, F_ADD_SEALS, SEALS) < 0) {
        close(fd);
        return error_set_errno(err, errno, "sealing the copy of the runtime's program");
    }
    return fd;
}

int protect_program(char **argv, struct error *err)
{
    AUTO_CLOSE int program = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    struct statvfs place;
    if (program < 0 || fstatvfs(program, &place) < 0) {
        return error_set_errno(err, errno, "opening the runtime's program");
    }
    int seals = fcntl(program, F_GET_SEALS);
    struct stat info;
    bool is_others = geteuid() != 0 && fstat(program, &info) == 0 && info.st_uid != geteuid() &&
                     faccessat(program, "", W_OK, AT_EACCESS | AT_EMPTY_PATH) < 0;
    if ((place.f_flag & ST_RDONLY) != 0 || (seals >= 0 && (seals & SEALS) == SEALS) || is_others) {
        return 0;
    }
    AUTO_CLOSE int safe = open_readonly();
    if (safe < 0) {
        safe = open_copy(program, err);
        if (safe < 0) {
            return safe;
        }
    }
    (void)syscall(SYS_execveat, safe, "", argv, environ, AT_EMPTY_PATH);
    return error_set_errno(err, errno, "executing the runtime's program again");
}
