#include "agent/system.h"

#include <fcntl.h>
#include <linux/btrfs.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "agent/mounts.h"
#include "agent/program.h"
#include "base/host/event_loop.h"
#include "base/host/file.h"

#define NS_PER_S           1000000000
#define TIME_TOLERANCE_NS  100000000
#define INIT_MS            2000 /* for processes, where init does not end them */
#define EXT4_IOC_RESIZE_FS _IOW('f', 16, uint64_t)
#define XFS_SUPER_MAGIC_   0x58465342
#define EXT4_SUPER_MAGIC_  0xef53
#define BTRFS_SUPER_MAGIC_ 0x9123683e
#define SIGNAL_POWER_OFF   (34 + 4) /* systemd(1): SIGRTMIN as C libraries of GNU have it */
#define SIGNAL_REBOOT      (34 + 5)

/* From xfs_fs.h, which is part of no C library's headers. */
struct xfs_growfs_data {
    uint64_t newblocks;
    uint32_t imaxpct;
};
struct xfs_fsop_geom_v1 {
    uint32_t blocksize, rtextsize, agblocks, agcount, logblocks, sectsize, inodesize, imaxpct;
    uint64_t datablocks, rtblocks, rtextents, logstart;
    uint8_t uuid[16];
    uint32_t sunit, swidth;
    int32_t version;
    uint32_t flags, logsectsize, rtsectsize, dirblocksize;
};
#define XFS_IOC_FSGEOMETRY_V1 _IOR('X', 100, struct xfs_fsop_geom_v1)
#define XFS_IOC_FSGROWFSDATA  _IOW('X', 110, struct xfs_growfs_data)

/* Does the first process wait for this signal, by a handler or a descriptor? */
static bool init_knows(int signal)
{
    FILE *file = fopen("/proc/1/status", "re");
    char line[256];
    unsigned long long mask, known = 0;
    while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
        if (sscanf(line, "SigBlk: %llx", &mask) == 1 || sscanf(line, "SigCgt: %llx", &mask) == 1) {
            known |= mask;
        }
    }
    if (file != NULL) {
        (void)fclose(file);
    }
    return (known >> (signal - 1) & 1) != 0;
}

static bool ask_init(int signal)
{
    return init_knows(signal) && kill(1, signal) == 0;
}

/* busybox's takes other signals than others' inits do. */
static bool init_is_busybox(void)
{
    char path[256];
    ssize_t size = readlink("/proc/1/exe", path, sizeof(path) - 1);
    path[MAX(size, 0)] = '\0';
    return strstr(path, "busybox") != NULL;
}

/* Where there is no init that listens: a shell script, a program alone. */
noreturn_fn static void end_system(bool is_reboot)
{
    (void)signal(SIGTERM, SIG_IGN);
    (void)kill(-1, SIGTERM);
    (void)usleep(INIT_MS * 1000);
    (void)kill(-1, SIGKILL); /* not us, nor the first process */
    sync();
    (void)mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY, NULL);
    sync();
    (void)reboot(is_reboot ? RB_AUTOBOOT : RB_POWER_OFF);
    _exit(1);
}

void system_shut_down(bool is_reboot)
{
    static const char *const power_off[] = {"/sbin/poweroff", NULL};
    static const char *const reboot_[] = {"/sbin/reboot", NULL};
    const char *const *program = is_reboot ? reboot_ : power_off;
    bool is_asked;
    if (access("/run/systemd/system", F_OK) == 0) {
        is_asked = ask_init(is_reboot ? SIGNAL_REBOOT : SIGNAL_POWER_OFF);
    } else if (init_is_busybox()) {
        is_asked = ask_init(is_reboot ? SIGTERM : SIGUSR2);
    } else {
        is_asked = access(program[0], X_OK) == 0 && program_run(program, NULL) == 0;
    }
    if (!is_asked) {
        end_system(is_reboot);
    }
}

int system_set_time(int64_t ns, int64_t *out_was_off_ns, struct error *err)
{
    struct timespec now, wanted = {.tv_sec = ns / NS_PER_S, .tv_nsec = ns % NS_PER_S};
    (void)clock_gettime(CLOCK_REALTIME, &now);
    int64_t off = (int64_t)now.tv_sec * NS_PER_S + now.tv_nsec - ns;
    if ((off > TIME_TOLERANCE_NS || off < -TIME_TOLERANCE_NS) &&
        clock_settime(CLOCK_REALTIME, &wanted) < 0) {
        return error_set_errno(err, errno, "setting the clock");
    }
    *out_was_off_ns = off;
    return 0;
}

/* Size of the block device below the root. */
static int find_disk(uint64_t *out_size, struct error *err)
{
    struct stat root;
    char path[64];
    unsigned long long sectors;
    if (stat("/", &root) < 0) {
        return error_set_errno(err, errno, "/");
    }
    (void)snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/partition", major(root.st_dev),
                   minor(root.st_dev));
    if (access(path, F_OK) == 0) {
        return error_set(
            err, EOPNOTSUPP,
            "the root's file system lies in a partition: one on a whole disk can grow");
    }
    (void)snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/size", major(root.st_dev),
                   minor(root.st_dev));
    FILE *file = fopen(path, "re");
    int count = file == NULL ? 0 : fscanf(file, "%llu", &sectors);
    if (file != NULL) {
        (void)fclose(file);
    }
    if (count != 1) {
        return error_set(err, EOPNOTSUPP, "the root's file system lies on no disk that can grow");
    }
    *out_size = sectors * 512;
    return 0;
}

static int grow_ext4(int root, uint64_t block_size, struct error *err)
{
    uint64_t size = 0;
    int rc = find_disk(&size, err);
    uint64_t blocks = size / block_size;
    return rc == 0 && ioctl(root, EXT4_IOC_RESIZE_FS, &blocks) < 0
               ? error_set_errno(err, errno, "growing the root's file system (ext4)")
               : rc;
}

static int grow_xfs(int root, struct error *err)
{
    struct xfs_fsop_geom_v1 geometry;
    uint64_t size = 0;
    int rc = find_disk(&size, err);
    if (rc < 0) {
        return rc;
    }
    if (ioctl(root, XFS_IOC_FSGEOMETRY_V1, &geometry) < 0) {
        return error_set_errno(err, errno, "reading the root's geometry (xfs)");
    }
    struct xfs_growfs_data data = {.newblocks = size / geometry.blocksize,
                                   .imaxpct = geometry.imaxpct};
    return data.newblocks > geometry.datablocks && ioctl(root, XFS_IOC_FSGROWFSDATA, &data) < 0
               ? error_set_errno(err, errno, "growing the root's file system (xfs)")
               : 0;
}

static int grow_btrfs(int root, struct error *err)
{
    struct btrfs_ioctl_vol_args arguments = {.name = "max"};
    return ioctl(root, BTRFS_IOC_RESIZE, &arguments) < 0
               ? error_set_errno(err, errno, "growing the root's file system (btrfs)")
               : 0;
}

int system_grow(uint64_t *out_size, struct error *err)
{
    AUTO_CLOSE int root = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct statfs status;
    struct statvfs after;
    if (root < 0 || fstatfs(root, &status) < 0) {
        return error_set_errno(err, errno, "/");
    }
    int rc;
    switch ((uint32_t)status.f_type) {
    case EXT4_SUPER_MAGIC_:
        rc = grow_ext4(root, (uint64_t)status.f_bsize, err);
        break;
    case XFS_SUPER_MAGIC_:
        rc = grow_xfs(root, err);
        break;
    case BTRFS_SUPER_MAGIC_:
        rc = grow_btrfs(root, err);
        break;
    default:
        rc = error_set(err, EOPNOTSUPP,
                       "the root's file system does not grow: ext4, xfs and btrfs do");
    }
    if (rc == 0 && fstatvfs(root, &after) < 0) {
        rc = error_set_errno(err, errno, "/");
    }
    if (rc == 0) {
        *out_size = (uint64_t)after.f_blocks * after.f_frsize;
    }
    return rc;
}
