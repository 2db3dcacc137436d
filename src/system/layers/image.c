/* Images. Who uses one holds a lock (flock) on it: a loop device keeps the open file that it was given, and the lock with it,
 * until it goes with its mount. So no image is checked, resized or mounted under another mount of it. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/core/endian.h"
#include "base/host/file.h"
#include "container/mount/handle.h"
#include "system/layers/data.h"
#include "system/layers/layers.h"
#include "system/layers/program.h"

#define SIZE_MIN         (UINT64_C(16) << 20)
#define IMAGE_BLOCK_SIZE 4096
#define DEVICE_TRIES     64
#define LOOP_MAJOR       7

#define SUPERBLOCK_OFFSET      1024
#define SUPERBLOCK_SIZE        256
#define SUPERBLOCK_MAGIC       0x38 /* 16 bits */
#define SUPERBLOCK_STATE       0x3a /* 16 bits */
#define SUPERBLOCK_INCOMPAT    0x60 /* 32 bits */
#define MAGIC                  0xef53
#define STATE_CLEAN            1
#define STATE_ERRORS           2
#define INCOMPAT_NEEDS_JOURNAL 4

#define RESIZE_FILE_SYSTEM                                                                         \
    _IOW('f', 16, uint64_t) /* EXT4_IOC_RESIZE_FS: in no header of user space */

static int check_path(const char *path, struct error *err)
{
    return path[0] == '/' ? 0 : error_set(err, EINVAL, "%s: not an absolute path", path);
}

static int check_size(uint64_t size_bytes, struct error *err)
{
    if (size_bytes < SIZE_MIN || size_bytes > INT64_MAX) {
        return error_set(err, EINVAL, "%llu bytes: an image has at least 16 MiB",
                         (unsigned long long)size_bytes);
    }
    return 0;
}

int layers_image_create(const char *path, uint64_t size_bytes, struct error *err)
{
    int rc = check_path(path, err);
    rc = rc < 0 ? rc : check_size(size_bytes, err);
    if (rc < 0) {
        return rc;
    }
    AUTO_HANDLE int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0) {
        return error_set_errno(err, errno, "making the image %s", path);
    }
    if (ftruncate(fd, (off_t)(size_bytes - size_bytes % IMAGE_BLOCK_SIZE)) < 0) {
        rc = error_set_errno(err, errno, "making the image %s", path);
    }
    /* Without blocks for root alone, since every container has one; inodes and journal are cleared later, or the file would not
     * be sparse. */
    const char *const args[] = {
        "mkfs.ext4", "-q",   "-F",
        "-b",        "4096", "-m",
        "0",         "-E",   "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0",
        path,        NULL};
    rc = rc < 0 ? rc : layers_run_program(args, 0, "e2fsprogs", err);
    if (rc < 0) {
        (void)unlink(path);
    }
    return rc;
}

static int open_locked(const char *path, struct error *err)
{
    int rc = check_path(path, err);
    if (rc < 0) {
        return rc;
    }
    AUTO_CLOSE int fd = open(path, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0) {
        return error_set_errno(err, errno, "opening the image %s", path);
    }
    if (!S_ISREG(st.st_mode)) {
        return error_set(err, EINVAL, "%s: not a file", path);
    }
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        return errno == EWOULDBLOCK ? error_set(err, EBUSY, "the image %s is in use", path)
                                    : error_set_errno(err, errno, "locking the image %s", path);
    }
    return TAKE_FD(fd);
}

static int check_image(int fd, const char *path, bool is_forced, struct error *err)
{
    uint8_t block[SUPERBLOCK_SIZE];
    int rc = file_read_at(fd, block, sizeof(block), SUPERBLOCK_OFFSET, path, err);
    if (rc < 0) {
        return rc;
    }
    if (le16_get(block + SUPERBLOCK_MAGIC) != MAGIC) {
        return error_set(err, EINVAL, "%s: no ext4 file system in it", path);
    }
    bool is_clean =
        (le16_get(block + SUPERBLOCK_STATE) & (STATE_CLEAN | STATE_ERRORS)) == STATE_CLEAN &&
        (le32_get(block + SUPERBLOCK_INCOMPAT) & INCOMPAT_NEEDS_JOURNAL) == 0;
    if (is_clean && !is_forced) {
        return 0;
    }
    const char *const args[] = {"e2fsck", "-p", is_forced ? "-f" : path, is_forced ? path : NULL,
                                NULL};
    rc = layers_run_program(args, 2, "e2fsprogs", err); /* 1, 2: it has mended something */
    return rc < 0 ? error_prefix(err, rc, "checking the image %s", path) : 0;
}

/* A loop device that nobody else uses, or -EBUSY: somebody was quicker. */
static int take_device(int control, int image, char *out_path, size_t size)
{
    int number = ioctl(control, LOOP_CTL_GET_FREE);
    if (number < 0) {
        return -errno;
    }
    (void)snprintf(out_path, size, "/dev/loop%d", number);
    AUTO_CLOSE int device = open(out_path, O_RDWR | O_CLOEXEC);
    if (device < 0) {
        return -errno;
    }
    struct loop_config config = {
        .fd = (uint32_t)image,
        .block_size = IMAGE_BLOCK_SIZE,
        .info.lo_flags = LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO, /* not in two caches */
    };
    return ioctl(device, LOOP_CONFIGURE, &config) < 0 ? -errno : TAKE_FD(device);
}

static int open_device(int image, char *out_path, size_t size, struct error *err)
{
    AUTO_CLOSE int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    if (control < 0) {
        return error_set_errno(err, errno, "opening /dev/loop-control");
    }
    int rc = -EBUSY;
    for (unsigned i = 0; i < DEVICE_TRIES && rc == -EBUSY; i++) {
        rc = take_device(control, image, out_path, size);
    }
    return rc < 0 ? error_set_errno(err, -rc, "getting a loop device") : rc;
}

int layers_image_mount(const char *path, const char *target, struct error *err)
{
    AUTO_HANDLE int image = open_locked(path, err);
    int rc = image < 0 ? image : check_image(image, path, false, err);
    if (rc < 0) {
        return rc;
    }
    char device_path[32];
    AUTO_HANDLE int device = open_device(image, device_path, sizeof(device_path), err);
    if (device < 0) {
        return device;
    }
    return mount(device_path, target, "ext4", 0, NULL) < 0
               ? error_set_errno(err, errno, "mounting the image %s on %s", path, target)
               : 0;
}

static int check_growth(int fd, const char *path, uint64_t size_bytes, struct error *err)
{
    struct stat st;
    if (fstat(fd, &st) < 0) {
        return error_set_errno(err, errno, "growing the image %s", path);
    }
    if (size_bytes < (uint64_t)st.st_size) {
        return error_set(err, EINVAL, "%s has %llu bytes: an image can only grow", path,
                         (unsigned long long)st.st_size);
    }
    return 0;
}

/* What fails after the file is longer leaves a whole file system in it, smaller than the file. */
static int grow_unmounted(const char *path, uint64_t size_bytes, struct error *err)
{
    AUTO_HANDLE int fd = open_locked(path, err);
    int rc = fd < 0 ? fd : check_growth(fd, path, size_bytes, err);
    rc = rc < 0 ? rc : check_image(fd, path, true, err); /* or resize2fs will not */
    if (rc < 0) {
        return rc;
    }
    if (ftruncate(fd, (off_t)size_bytes) < 0) {
        return error_set_errno(err, errno, "growing the image %s", path);
    }
    const char *const args[] = {"resize2fs", path, NULL};
    return layers_run_program(args, 0, "e2fsprogs", err);
}

/* The loop device below 'target', if it is of this image. */
static int open_device_of(int image, const char *path, const char *target, struct error *err)
{
    struct stat mounted, file, node;
    if (fstat(image, &file) < 0 || stat(target, &mounted) < 0) {
        return error_set_errno(err, errno, "looking for the image %s at %s", path, target);
    }
    char name[32];
    (void)snprintf(name, sizeof(name), "/dev/loop%u", minor(mounted.st_dev));
    AUTO_CLOSE int device =
        major(mounted.st_dev) == LOOP_MAJOR ? open(name, O_RDWR | O_CLOEXEC) : -1;
    struct loop_info64 info;
    if (device < 0 || fstat(device, &node) < 0 || node.st_rdev != mounted.st_dev ||
        ioctl(device, LOOP_GET_STATUS64, &info) < 0 || info.lo_inode != file.st_ino ||
        info.lo_device != file.st_dev) {
        return error_set(err, EINVAL, "the image %s is not mounted at %s", path, target);
    }
    return TAKE_FD(device);
}

int layers_image_freeze(const char *target, bool is_frozen, struct error *err)
{
    AUTO_CLOSE int root = open(target, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return root < 0 || (ioctl(root, is_frozen ? FIFREEZE : FITHAW, 0) < 0 &&
                        (is_frozen ? errno != EBUSY : errno != EINVAL))
               ? error_set_errno(err, errno, "%s the file system at %s",
                                 is_frozen ? "freezing" : "thawing", target)
               : 0;
}

static int open_mounted(const char *path, const char *target, struct error *err)
{
    AUTO_HANDLE int image = open(path, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (image < 0) {
        return error_set_errno(err, errno, "opening the image %s", path);
    }
    int device = open_device_of(image, path, target, err);
    if (device < 0) {
        return device;
    }
    close(device);
    return TAKE_FD(image);
}

int layers_image_copy(const char *from, const char *mounted, const char *to, struct error *err)
{
    bool is_mounted = mounted != NULL && mounted[0] != '\0';
    AUTO_HANDLE int source = is_mounted ? open_mounted(from, mounted, err) : open_locked(from, err);
    int rc = source < 0 ? source : check_path(to, err);
    if (rc < 0) {
        return rc;
    }
    struct stat st;
    AUTO_HANDLE int target = open(to, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (target < 0) {
        return error_set_errno(err, errno, "making the image %s", to);
    }
    struct data_copy copy = {0};
    rc = fstat(source, &st) < 0 ? -errno : data_copy(&copy, source, target, (uint64_t)st.st_size);
    if (rc < 0) {
        (void)unlink(to);
        return error_set_errno(err, -rc, "copying the image %s to %s", from, to);
    }
    return 0;
}

static int grow_mounted(const char *path, const char *target, uint64_t size_bytes,
                        struct error *err)
{
    AUTO_HANDLE int image = open(path, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (image < 0) {
        return error_set_errno(err, errno, "opening the image %s", path);
    }
    AUTO_HANDLE int device = open_device_of(image, path, target, err);
    int rc = device < 0 ? device : check_growth(image, path, size_bytes, err);
    if (rc < 0) {
        return rc;
    }
    AUTO_CLOSE int root = open(target, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct statfs status;
    if (root < 0 || fstatfs(root, &status) < 0 || ftruncate(image, (off_t)size_bytes) < 0 ||
        ioctl(device, LOOP_SET_CAPACITY) < 0) {
        return error_set_errno(err, errno, "growing the image %s", path);
    }
    uint64_t blocks = size_bytes / (uint64_t)status.f_bsize;
    if (ioctl(root, RESIZE_FILE_SYSTEM, &blocks) < 0) {
        return error_set_errno(err, errno, "growing the file system at %s (needs CAP_SYS_RESOURCE)",
                               target);
    }
    return 0;
}

int layers_image_grow(const char *path, const char *target, uint64_t size_bytes, struct error *err)
{
    int rc = check_size(size_bytes, err);
    if (rc < 0) {
        return rc;
    }
    size_bytes -= size_bytes % IMAGE_BLOCK_SIZE;
    return target == NULL ? grow_unmounted(path, size_bytes, err)
                          : grow_mounted(path, target, size_bytes, err);
}
