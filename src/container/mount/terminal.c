/* Terminals of the container's devpts. The slave is opened through its master, never by a path (CVE-2025-52565). */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/host/file.h"
#include "container/mount/beneath.h"
#include "container/mount/handle.h"
#include "container/mount/tree.h"

#define SLAVE_MAJOR_FIRST 136 /* Documentation/admin-guide/devices.txt: 136 to 143 */
#define SLAVE_MAJOR_LAST  143

static bool is_terminal(int fd, bool is_master, unsigned number)
{
    struct statfs fs;
    struct stat st;
    if (fstatfs(fd, &fs) < 0 || fstat(fd, &st) < 0 || fs.f_type != DEVPTS_SUPER_MAGIC ||
        !S_ISCHR(st.st_mode)) {
        return false;
    }
    unsigned device_major = major(st.st_rdev), device_minor = minor(st.st_rdev);
    return is_master ? device_major == 5 && device_minor == 2
                     : device_major >= SLAVE_MAJOR_FIRST && device_major <= SLAVE_MAJOR_LAST &&
                           (device_major - SLAVE_MAJOR_FIRST) * 256 + device_minor == number;
}

/* The configuration's devpts; without one what the tree has at its place; without that the host's. */
static int open_master(const struct rootfs *rootfs, struct error *err)
{
    const int flags = O_RDWR | O_NOCTTY | O_CLOEXEC;
    bool is_given = rootfs != NULL && rootfs->devpts_fd >= 0;
    AUTO_HANDLE int fd = is_given         ? openat(rootfs->devpts_fd, "ptmx", flags | O_NOFOLLOW)
                         : rootfs != NULL ? beneath_open(rootfs->root_fd, "/dev/pts/ptmx", flags, 0)
                                          : -1;
    if (fd < 0 && !is_given) {
        AUTO_HANDLE int top = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
        fd = beneath_open(top, "/dev/pts/ptmx", flags, 0);
        errno = fd < 0 ? -fd : 0;
    }
    if (fd < 0) {
        return error_set_errno(err, errno, "opening a terminal");
    }
    return is_terminal(fd, true, 0)
               ? TAKE_FD(fd)
               : error_set(err, ENODEV, "/dev/pts/ptmx is not the terminal multiplexer");
}

static int make_console(const struct rootfs *rootfs, int slave, struct error *err)
{
    AUTO_HANDLE int target = beneath_make(rootfs->root_fd, "/dev/console", false);
    if (target < 0) {
        return error_set_errno(err, -target, "opening /dev/console");
    }
    /* An image's link could have it mounted over another file, also one of the kernel's. */
    AUTO_HANDLE int plain =
        beneath_open(rootfs->root_fd, "/dev/console", O_PATH, RESOLVE_NO_SYMLINKS);
    if (plain < 0) {
        return error_set_errno(err, -plain, "/dev/console must not be a link");
    }
    AUTO_HANDLE int tree = handle_clone(slave, "", false);
    int rc = tree < 0 ? tree : handle_attach(tree, plain);
    return rc < 0 ? error_set_errno(err, -rc, "mounting the terminal on /dev/console") : 0;
}

int rootfs_open_terminal(struct rootfs *rootfs, uint32_t uid, bool has_console, int *out_master,
                         char *out_name, size_t name_size, struct error *err)
{
    AUTO_HANDLE int master = open_master(rootfs, err);
    if (master < 0) {
        return master;
    }
    int unlocked = 0;
    unsigned number = 0;
    if (ioctl(master, TIOCSPTLCK, &unlocked) < 0 || ioctl(master, TIOCGPTN, &number) < 0) {
        return error_set_errno(err, errno, "unlocking a terminal");
    }
    AUTO_HANDLE int slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (slave < 0) {
        return error_set_errno(err, errno, "opening the terminal's other end");
    }
    if (!is_terminal(slave, false, number)) {
        return error_set(err, ENODEV, "/dev/pts/%u is not the terminal's other end", number);
    }
    if (fchown(slave, uid, (gid_t)-1) < 0 && errno != EPERM && errno != EINVAL) {
        return error_set_errno(err, errno, "giving the terminal to the process's user");
    }
    int rc = has_console && rootfs != NULL ? make_console(rootfs, slave, err) : 0;
    if (rc == 0) {
        (void)snprintf(out_name, name_size, "/dev/pts/%u", number);
        *out_master = TAKE_FD(master);
    }
    return rc;
}
