#include "cli/boot_files.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>

#include "base/core/endian.h"
#include "base/host/file.h"
#include "base/host/image_lock.h"
#include "base/host/unix_socket.h"
#include "block/remote.h"

/* One that cannot start ends, which is seen at once; a machine under load may take this long. */
#define HELPER_TIMEOUT_MS 60000

void boot_files_init(struct boot_files *files)
{
    *files = (struct boot_files){
        .kernel = -1,
        .initrd = -1,
        .restore = -1,
        .log = -1,
        .console_log = -1,
        .console_old_log = -1,
        .pid = -1,
        .vsock_dir = -1,
        .control = -1,
        .control_vm = -1,
        .control_own = -1,
        .console_vm = -1,
        .console_own = -1,
    };
    for (int i = 0; i < BOOT_MAX_DISKS; i++) {
        files->disk[i] = -1;
        files->data[i] = -1;
        files->overlay[i] = -1;
        files->crypt[i] = -1;
        for (int j = 0; j < BOOT_MAX_LAYERS; j++) {
            files->layer[i][j] = -1;
        }
    }
    for (int i = 0; i < BOOT_MAX_NETS; i++) {
        files->net[i] = -1;
        files->helper_ready[i] = -1;
    }
    for (int i = 0; i < BOOT_MAX_SERIALS; i++) {
        files->serial[i].vm_fd = -1;
        files->serial[i].own_fd = -1;
    }
    for (int i = 0; i < BOOT_MAX_SHARES; i++) {
        files->share[i] = -1;
        files->sharer_ready[i] = -1;
    }
}

static void close_fd(int *fd)
{
    if (*fd >= 0) {
        close(*fd);
        *fd = -1;
    }
}

/* A file that is only read: regular and not empty. */
static int open_input(const char *path, const char *what, const char *accepted, int *out_fd,
                      struct error *err)
{
    if (path == NULL) {
        return 0;
    }
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        return error_set(err, errno, "%s %s: %s: %s", what, path, strerror(errno), accepted);
    }
    struct stat status;
    if (fstat(fd, &status) < 0) {
        return error_set_errno(err, errno, "%s %s", what, path);
    }
    if (!S_ISREG(status.st_mode)) {
        return error_set(err, EINVAL, "%s %s: not a regular file: %s", what, path, accepted);
    }
    if (status.st_size == 0) {
        return error_set(err, EINVAL, "%s %s: the file is empty: %s", what, path, accepted);
    }
    *out_fd = TAKE_FD(fd);
    return 0;
}

/* A saved state in memory that has no name is nobody else's: the VM may have it, as its memory. */
static int give_away(int *fd, struct error *err)
{
    struct stat status;
    struct statfs system;
    char path[64];
    if (*fd < 0 || fstat(*fd, &status) < 0 || status.st_nlink != 0 || fstatfs(*fd, &system) < 0 ||
        system.f_type != TMPFS_MAGIC) {
        return 0;
    }
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", *fd);
    AUTO_CLOSE int given = open(path, O_RDWR | O_CLOEXEC);
    if (given < 0) {
        return error_set_errno(err, errno, "saved state in memory");
    }
    close(*fd);
    *fd = TAKE_FD(given);
    return 0;
}

/* Formats whose bytes should not be served as a disk by mistake. */
static const char *other_format(const uint8_t *start)
{
    if (memcmp(start, "QFI\xfb", 4) == 0) {
        return "qcow2";
    }
    if (memcmp(start, "KDMV", 4) == 0) {
        return "vmdk";
    }
    return memcmp(start, "vhdxfile", 8) == 0 ? "vhdx" : NULL;
}

/* The lock belongs to the open file, so it goes with the descriptor to the VM's process and ends with it. */
static int disk_lock(int fd, const struct boot_disk *disk, struct error *err)
{
    int rc = image_lock_set(fd, IMAGE_LOCK_NONE,
                            disk->is_readonly ? IMAGE_LOCK_SHARED : IMAGE_LOCK_ALONE);
    if (rc == -EBUSY) {
        return error_set(err, EBUSY,
                         "disk %s: locked by another process: an image that is not in use%s",
                         disk->path, disk->is_readonly ? "" : ", or readonly");
    }
    return rc < 0 ? error_set_errno(err, -rc, "disk %s: locking", disk->path) : 0;
}

int boot_open_disk(const struct boot_disk *disk, int *out_fd, struct error *err)
{
    static const char accepted[] = "a raw image or a block device";
    int flags = disk->is_readonly ? O_RDONLY : O_RDWR;
    struct stat status;
    if (stat(disk->path, &status) < 0) {
        return error_set(err, errno, "disk %s: %s: %s", disk->path, strerror(errno), accepted);
    }
    bool is_device = S_ISBLK(status.st_mode);
    if (!is_device && !S_ISREG(status.st_mode)) {
        return error_set(err, EINVAL, "disk %s: not a file or block device: %s", disk->path,
                         accepted);
    }
    /* O_EXCL: a mounted block device is refused. */
    AUTO_CLOSE int fd =
        open(disk->path, flags | O_CLOEXEC | (is_device && !disk->is_readonly ? O_EXCL : 0));
    if (fd < 0) {
        return error_set(err, errno, "disk %s: %s: %s", disk->path, strerror(errno),
                         errno == EBUSY ? "a device that is not in use"
                         : errno == EACCES || errno == EPERM || errno == EROFS
                             ? "an image that can be written, or readonly"
                             : accepted);
    }
    off_t size = lseek(fd, 0, SEEK_END);
    if (size < 0) {
        return error_set_errno(err, errno, "disk %s", disk->path);
    }
    if (size == 0) {
        return error_set(err, EINVAL, "disk %s: the image is empty: %s of at least 512 bytes",
                         disk->path, accepted);
    }
    bool is_raw = strcmp(disk->format, "raw") == 0;
    if (is_raw && size % 512 != 0) {
        return error_set(err, EINVAL,
                         "disk %s: its size of %lld bytes is odd: a multiple of 512 bytes",
                         disk->path, (long long)size);
    }
    uint8_t start[512];
    int rc = 0;
    if (is_raw && !disk->is_raw_for_sure) {
        rc = file_read_at(fd, start, sizeof(start), 0, disk->path, err);
        if (rc < 0) {
            return error_prefix(err, rc, "disk");
        }
        const char *format = other_format(start);
        if (format != NULL && strcmp(format, "qcow2") == 0) {
            return error_set(
                err, EINVAL,
                "disk %s: looks like qcow2: format=qcow2, or format=raw, which serves the file's bytes as they are",
                disk->path);
        }
        if (format != NULL) {
            return error_set(
                err, EOPNOTSUPP,
                "disk %s: format %s is not supported yet by this version: supported: raw, qcow2 (format=raw serves the file's bytes as they are)",
                disk->path, format);
        }
    }
    rc = disk_lock(fd, disk, err);
    if (rc < 0) {
        return rc;
    }
    *out_fd = TAKE_FD(fd);
    return 0;
}

static int open_console(struct boot_files *files, const struct boot_options *options,
                        struct error *err)
{
    int pair[2];
    int rc;
    switch (options->console) {
    case BOOT_CONSOLE_STDIO:
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
            return error_set_errno(err, errno, "console");
        }
        files->console_vm = pair[0];
        files->console_own = pair[1];
        return 0;
    case BOOT_CONSOLE_PTY:
        return boot_open_pty(&files->console_vm, &files->console_own, files->pty_path,
                             sizeof(files->pty_path), err);
    case BOOT_CONSOLE_UNIX:
        rc = unix_socket_listen(options->console_path, "console socket", &files->console_vm, err);
        files->has_console_path = rc == 0;
        return rc;
    case BOOT_CONSOLE_FILE:
        files->console_vm =
            open(options->console_path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOCTTY | O_TRUNC, 0644);
        if (files->console_vm < 0) {
            return error_set(err, errno, "console file %s: %s: a file that can be written",
                             options->console_path, strerror(errno));
        }
        return 0;
    case BOOT_CONSOLE_NONE:
        return 0;
    }
    return 0;
}

static int open_control(struct boot_files *files, const struct boot_options *options,
                        struct error *err)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0) {
        return error_set_errno(err, errno, "control connection");
    }
    files->control_vm = pair[0];
    files->control_own = pair[1];
    if (options->control == NULL) {
        return 0;
    }
    int rc = unix_socket_listen(options->control, "control socket", &files->control, err);
    files->has_control_path = rc == 0;
    return rc;
}

static int open_log(struct boot_files *files, const struct boot_options *options, struct error *err)
{
    if (options->log == NULL) {
        return 0;
    }
    files->log = open(options->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY, 0644);
    if (files->log < 0) {
        return error_set(err, errno, "log file %s: %s: a file that can be written", options->log,
                         strerror(errno));
    }
    return 0;
}

static int open_console_log(struct boot_files *files, const struct boot_options *options,
                            struct error *err)
{
    if (options->console_log == NULL) {
        return 0;
    }
    char old[PATH_MAX];
    int length = snprintf(old, sizeof(old), "%s.1", options->console_log);
    int flags = O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY;
    files->console_log = open(options->console_log, flags, 0600);
    if (files->console_log >= 0 && length < PATH_MAX) {
        files->console_old_log = open(old, flags, 0600);
    }
    if (files->console_old_log < 0) {
        return error_set(err, errno, "console log %s: %s: a file that can be written",
                         options->console_log, strerror(errno));
    }
    return 0;
}

static int open_vsock(struct boot_files *files, const struct boot_options *options,
                      struct error *err)
{
    if (options->vsock_cid == 0) {
        return 0;
    }
    files->vsock_dir = open(options->vsock_dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (files->vsock_dir < 0) {
        return error_set(err, errno, "vsock folder %s: %s: an existing folder", options->vsock_dir,
                         strerror(errno));
    }
    return 0;
}

static int open_part(const struct boot_disk *part, struct boot_files *files, int *out_fd,
                     struct error *err)
{
    return block_is_uri(part->path) ? boot_open_remote(part, files, out_fd, err)
                                    : boot_open_disk(part, out_fd, err);
}

/* An image and what it stands on. */
/* It has no name, or loses it at once, so that nothing of it is left when the VM ends, however it ends. */
static int open_overlay(const struct boot_disk *disk, int *out_fd, struct error *err)
{
    const char *folder = getenv("TMPDIR");
    folder = folder != NULL && folder[0] != '\0' ? folder : "/var/tmp";
    int fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR)) {
        char path[PATH_MAX];
        (void)snprintf(path, sizeof(path), "%s/hull-snapshot-XXXXXX", folder);
        fd = mkostemp(path, O_CLOEXEC);
        if (fd >= 0) {
            (void)unlink(path); /* else it stays: an empty file does no harm */
        }
    }
    if (fd < 0) {
        return error_set(err, errno,
                         "disk %s: snapshot: %s: %s: a folder for what the guest writes, as TMPDIR",
                         disk->path, folder, strerror(errno));
    }
    *out_fd = fd;
    return 0;
}

int boot_open_chain(const struct boot_disk *disk, struct boot_files *files, unsigned index,
                    struct error *err)
{
    struct boot_disk image = *disk;
    image.is_readonly = disk->is_readonly || disk->is_snapshot;
    int rc = open_part(&image, files, &files->disk[index], err);
    if (rc == 0) {
        rc = boot_unlock_disk(disk, files->disk[index], &files->crypt[index], err);
    }
    if (rc == 0 && disk->is_snapshot) {
        rc = open_overlay(disk, &files->overlay[index], err);
    }
    for (unsigned i = 0; rc == 0 && i < disk->layer_count; i++) {
        struct boot_disk below = *disk;
        below.path = (char *)disk->layer[i].path;
        below.format = disk->layer[i].format;
        below.is_readonly = true;
        below.is_raw_for_sure = true;
        rc = open_part(&below, files, &files->layer[index][i], err);
    }
    if (rc == 0 && disk->data_path != NULL) {
        struct boot_disk data = *disk;
        data.path = (char *)disk->data_path;
        data.format = "data";
        data.is_readonly = image.is_readonly;
        rc = open_part(&data, files, &files->data[index], err);
    }
    return rc;
}

/* What only reads comes first, and what leaves traces last. */
int boot_files_open(struct boot_files *files, const struct boot_options *options, struct error *err)
{
    int rc =
        options->pid_file == NULL ? 0 : boot_open_pid_file(options->pid_file, &files->pid, err);
    if (rc == 0) {
        rc = open_input(options->kernel, "kernel",
                        "a Linux bzImage, or a PVH or multiboot ELF file", &files->kernel, err);
    }
    if (rc == 0) {
        rc = open_input(options->initrd, "initrd", "the initial RAM disk of the kernel",
                        &files->initrd, err);
    }
    if (rc == 0) {
        rc = open_input(options->restore, "saved state", "a file that `hull ctl PATH save` wrote",
                        &files->restore, err);
    }
    rc = rc < 0 ? rc : give_away(&files->restore, err);
    for (unsigned i = 0; rc == 0 && i < options->disk_count; i++) {
        rc = boot_open_chain(&options->disk[i], files, i, err);
    }
    if (rc == 0) {
        rc = open_vsock(files, options, err);
    }
    for (unsigned i = 0; rc == 0 && i < options->net_count; i++) {
        rc = boot_open_net(&options->net[i], options->name, &files->net[i], &files->helper[i],
                           &files->helper_ready[i], err);
    }
    for (unsigned i = 0; rc == 0 && i < options->share_count; i++) {
        rc = boot_open_share(&options->share[i], options->verbose, &files->share[i],
                             &files->sharer[i], &files->sharer_ready[i], err);
    }
    if (rc == 0) {
        rc = open_control(files, options, err);
    }
    if (rc == 0) {
        rc = open_log(files, options, err);
    }
    if (rc == 0) {
        rc = open_console_log(files, options, err);
    }
    if (rc == 0) {
        rc = open_console(files, options, err);
    }
    for (unsigned i = 0; rc == 0 && i < options->serial_count; i++) {
        rc = boot_open_serial(&options->serial[i], &files->serial[i], err);
    }
    return rc;
}

int boot_read_ready(int fd, char *out_line, size_t size)
{
    size_t used = 0;
    out_line[0] = '\0';
    while (used < size - 1) {
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        int count = poll(&ready, 1, HELPER_TIMEOUT_MS);
        if (count == 0) {
            return -ETIMEDOUT;
        }
        ssize_t got = count < 0 ? -1 : read(fd, out_line + used, size - 1 - used);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            break;
        }
        used += (size_t)got;
        out_line[used] = '\0';
        if (memchr(out_line, '\n', used) != NULL) {
            break;
        }
    }
    out_line[strcspn(out_line, "\n")] = '\0';
    return 0;
}

int boot_files_await_helpers(struct boot_files *files, const struct boot_options *options,
                             struct error *err)
{
    for (int i = 0; i < BOOT_MAX_NETS; i++) {
        char line[ERROR_TEXT_SIZE];
        if (files->helper_ready[i] < 0) {
            continue;
        }
        int rc = boot_read_ready(files->helper_ready[i], line, sizeof(line));
        if (rc < 0) {
            return error_set(err, -rc, "network %d: its helper does not start: another --net", i);
        }
        if (strcmp(line, "ready") != 0) {
            const char *why = strncmp(line, "hull: ", 6) == 0 ? line + 6 : line;
            return why[0] != '\0'
                       ? error_set(err, EIO, "%s", why)
                       : error_set(err, EIO, "network %d: its helper ended: another --net", i);
        }
        close_fd(&files->helper_ready[i]);
    }
    for (unsigned i = 0; i < options->share_count; i++) {
        int rc = boot_await_share(&options->share[i], files->sharer_ready[i], err);
        if (rc < 0) {
            return rc;
        }
        close_fd(&files->sharer_ready[i]);
    }
    return 0;
}

void boot_files_hand_over(struct boot_files *files)
{
    close_fd(&files->kernel);
    close_fd(&files->initrd);
    close_fd(&files->restore);
    close_fd(&files->log);
    close_fd(&files->vsock_dir);
    for (int i = 0; i < BOOT_MAX_DISKS; i++) {
        close_fd(&files->disk[i]);
        close_fd(&files->data[i]);
        close_fd(&files->overlay[i]);
        close_fd(&files->crypt[i]);
        for (int j = 0; j < BOOT_MAX_LAYERS; j++) {
            close_fd(&files->layer[i][j]);
        }
    }
    for (int i = 0; i < BOOT_MAX_NETS; i++) {
        close_fd(&files->net[i]);
    }
    for (int i = 0; i < BOOT_MAX_SHARES; i++) {
        close_fd(&files->share[i]);
    }
    close_fd(&files->control);
    close_fd(&files->control_vm);
    close_fd(&files->console_vm);
    for (int i = 0; i < BOOT_MAX_SERIALS; i++) {
        close_fd(&files->serial[i].vm_fd);
    }
    close_fd(&files->console_log);
    close_fd(&files->console_old_log);
}

void boot_files_fini(struct boot_files *files, const struct boot_options *options)
{
    boot_files_hand_over(files);
    close_fd(&files->control_own);
    close_fd(&files->console_own);
    boot_end_storage(files);
    for (int i = 0; i < BOOT_MAX_NETS; i++) {
        close_fd(&files->helper_ready[i]);
        if (files->helper[i] > 0) {
            (void)kill(files->helper[i], SIGTERM); /* it may have ended with its socket */
            (void)waitpid(files->helper[i], NULL, 0);
            files->helper[i] = 0;
        }
    }
    for (int i = 0; i < BOOT_MAX_SHARES; i++) {
        close_fd(&files->sharer_ready[i]);
        if (files->sharer[i] > 0) {
            (void)kill(files->sharer[i], SIGTERM); /* it may have ended with its socket */
            (void)waitpid(files->sharer[i], NULL, 0);
            files->sharer[i] = 0;
        }
    }
    if (files->has_control_path) {
        (void)unlink(options->control);
    }
    if (files->has_console_path) {
        (void)unlink(options->console_path);
    }
    for (unsigned i = 0; i < options->serial_count; i++) {
        boot_close_serial(&options->serial[i], &files->serial[i]);
    }
    close_fd(&files->pid);
}
