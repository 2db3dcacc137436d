/* The VM's form of an image: its template with a kernel's modules, some files changed, as a disk.
 *
 * Nothing is copied before it is on the disk: the template, the kernel's modules and an own layer for the changes are mounted
 * together in a process of its own. The tree is not trusted: changes are made with the tree as the root folder, and none of its
 * programs is run. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/core/compiler.h"
#include "base/host/file.h"
#include "manager/containers.h"
#include "manager/image/files.h"
#include "manager/image/kernel.h"
#include "manager/image/tool.h"
#include "manager/image/vm_form.h"
#include "manager/image/work.h"
#include "manager/text.h"
#include "system/template/boxed.h"

#define MIN_DISK  (2ull << 30)
#define SPARE     (512ull << 20) /* more than twice the tree */
#define ALIGNMENT (1ull << 20)
#define POLL_NS   100000000
#define DISK      "disk.qcow2"
//    "root=/dev/vda rw console=hvc0 net.ifnames=0 quiet"

struct form {
    struct job *job;
    const char *digest;
    const char *suite; /* whose kernel it gets; NULL: the host's */
    struct kernel kernel;
    struct template_layers layers;
    char folder[PATH_MAX]; /* of the image that is to be */
    char work[PATH_MAX];   /* beside it: raw disk, layer of changes */
    char raw[PATH_MAX];
    uint64_t disk_bytes;
};

/* Masked in templates, as containers cannot have them. What is slow and of no use in a VM stays masked. */
static const char *const units[] = {
    "systemd-udevd.service",
    "systemd-udev-trigger.service",
    "systemd-udevd-control.socket",
    "systemd-udevd-kernel.socket",
    "systemd-modules-load.service",

    "dev-mqueue.mount",
    "dev-hugepages.mount",
    "systemd-timesyncd.service",
    "systemd-remount-fs.service",
    "fstrim.timer",
    "systemd-binfmt.service",

    "proc-sys-fs-binfmt_misc.automount",
    "proc-sys-fs-binfmt_misc.mount",
    "getty@tty1.service",

};
/* The console is a terminal of its own there (hvc0), with a login. */
static const char *const container_files[] = {
    "/etc/systemd/system/getty.target.wants/console-getty.service",
    "/etc/systemd/system/console-getty.service.d/autologin.conf",
    "/etc/systemd/journald.conf.d/container.conf",
};

/* Files of VMs alone. A start takes what it needs: devices that nobody waits for are looked at when it is over, nodes of modules
 * that are loaded by their use are said here and not found anew, and logins do not wait for the network. */
const struct vm_file vm_files[] = {
    {"/etc/fstab", "/dev/vda / ext4 rw,x-systemd.growfs 0 0\n"},
    {"/etc/tmpfiles.d/hull-nodes.conf", "c! /dev/fuse 0666 - - - 10:229\n"
                                        "d /dev/net 0755 - - -\n"
                                        "c! /dev/net/tun 0666 - - - 10:200\n"
                                        "c! /dev/loop-control 0660 root disk - 10:237\n"
                                        "c! /dev/btrfs-control 0600 - - - 10:234\n"
                                        "c! /dev/ppp 0600 - - - 108:0\n"},
    {"/etc/systemd/system/systemd-udev-trigger.service.d/hull.conf",
     "[Service]\n"
     "ExecStart=\n"
     "ExecStart=-udevadm trigger --type=devices --action=add --subsystem-match=block "
     "--subsystem-match=net --subsystem-match=virtio --subsystem-match=virtio-ports\n"
     "ExecStart=-udevadm trigger --type=devices --action=add --subsystem-match=tty "
     "--sysname-match=hvc0 --sysname-match=ttyS0\n"},
    {"/etc/systemd/system/hull-devices.service",
     "[Unit]\n"
     "Description=Devices that the start does not wait for\n"
     "After=multi-user.target systemd-udevd.service\n"
     "\n"
     "[Service]\n"
     "Type=idle\n"
     "Nice=15\n"
     "ExecStart=udevadm trigger --type=all --action=add "
     "--subsystem-nomatch=block --subsystem-nomatch=net\n"
     "\n"
     "[Install]\n"
     "WantedBy=multi-user.target\n"},
    {"/etc/systemd/system/systemd-user-sessions.service",
     "[Unit]\n"
     "Description=Permit User Sessions\n"
     "After=remote-fs.target nss-user-lookup.target home.mount\n"
     "\n"
     "[Service]\n"
     "Type=oneshot\n"
     "RemainAfterExit=yes\n"
     "ExecStart=/lib/systemd/systemd-user-sessions start\n"
     "ExecStop=/lib/systemd/systemd-user-sessions stop\n"},
    {NULL, NULL},
};

static int mount_form(const struct form *form, char out_target[PATH_MAX], struct error *err)
{
    char upper[PATH_MAX], work[PATH_MAX];
    const char *lower[LAYERS_MAX + 1] = {form->kernel.layer};
    for (size_t i = 0; i < form->layers.count; i++) {
        lower[i + 1] = form->layers.path[i];
    }
    (void)snprintf(upper, sizeof(upper), "%.3900s/upper", form->work);
    (void)snprintf(work, sizeof(work), "%.3900s/overlay", form->work);
    (void)snprintf(out_target, PATH_MAX, "%.3900s/target", form->work);
    const struct layers_mount request = {.lower = lower,
                                         .lower_count = form->layers.count + 1,
                                         .upper = upper,
                                         .work = work,
                                         .target = out_target};
    return layers_mount(&request, err);
}

static int drop(const char *path, struct error *err)
{
    return unlink(path) < 0 && errno != ENOENT && errno != ENOTDIR
               ? error_set_errno(err, errno, "removing %s of the image", path)
               : 0;
}

static int write_new(const char *path, const char *text, struct error *err)
{
    char folder[PATH_MAX];
    (void)snprintf(folder, sizeof(folder), "%.*s", (int)(strrchr(path, '/') - path), path);
    int rc = folder[0] != '\0' ? file_make_folders(folder, 0755, 0755, err) : 0;
    rc = rc < 0 ? rc : drop(path, err);
    AUTO_CLOSE int fd =
        rc < 0 ? -1 : open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (rc == 0 && fd < 0) {
        rc = error_set_errno(err, errno, "writing %s of the image", path);
    }
    return rc < 0 ? rc : file_write_all(fd, text, strlen(text), path, err);
}

static int change_units(struct error *err)
{
    for (size_t i = 0; i < ARRAY_COUNT(units); i++) {
        char path[256], target[32];
        (void)snprintf(path, sizeof(path), "/etc/systemd/system/%s", units[i]);
        ssize_t length = readlink(path, target, sizeof(target) - 1);
        target[length > 0 ? length : 0] = '\0';
        int rc = strcmp(target, "/dev/null") == 0 ? drop(path, err) : 0;
        if (rc < 0) {
            return rc;
        }
    }
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < ARRAY_COUNT(container_files); i++) {
        rc = drop(container_files[i], err);
    }
    return rc;
}

/* In the new process. */
static int change_tree(void *ctx, struct error *err)
{
    const struct form *form = ctx;
    char target[PATH_MAX], link[128];
    struct stat st;
    int rc = mount_form(form, target, err);
    if (rc == 0 && (chdir(target) < 0 || chroot(".") < 0 || chdir("/") < 0)) {
        rc = error_set_errno(err, errno, "changing the root to %s", target);
    }
    if (rc < 0) {
        return rc;
    }
    if (lstat("/sbin/init", &st) < 0 && lstat("/init", &st) < 0) {
        return error_set(err, ENOENT, "the image has no /sbin/init: it cannot start as a VM");
    }
    /* Where /lib is not /usr/lib, modules are sought there. */
    (void)snprintf(link, sizeof(link), "/lib/modules/%s", form->kernel.version);
    if (lstat("/lib", &st) == 0 && S_ISDIR(st.st_mode)) {
        char to[136];
        (void)snprintf(to, sizeof(to), "/usr%s", link);
        if ((mkdir("/lib/modules", 0755) < 0 && errno != EEXIST) ||
            (symlink(to, link) < 0 && errno != EEXIST)) {
            return error_set_errno(err, errno, "making %s of the image", link);
        }
    }
    if (lstat("/lib/systemd/systemd", &st) < 0) {
        return write_new(vm_files[0].path, vm_files[0].text, err); /* another init */
    }
    rc = change_units(err);
    for (size_t i = 0; rc == 0 && vm_files[i].path != NULL; i++) {
        rc = write_new(vm_files[i].path, vm_files[i].text, err);
    }
    static const char unit[] = "/etc/systemd/system/hull-devices.service";
    static const char wanted[] = "/etc/systemd/system/multi-user.target.wants/hull-devices.service";
    if (rc == 0 && symlink(unit, wanted) < 0 && errno != EEXIST && errno != ENOENT) {
        rc = error_set_errno(err, errno, "making %s of the image", wanted);
    }
    return rc;
}

static int mount_alone(void *ctx, struct error *err)
{
    char target[PATH_MAX];
    return mount_form(ctx, target, err);
}

static int poll_job(void *ctx)
{
    return job_is_cancelled(((struct form *)ctx)->job);
}

static int make_raw(struct form *form, struct error *err)
{
    char target[PATH_MAX];
    AUTO_CLOSE int fd = open(form->raw, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, (off_t)form->disk_bytes) < 0) {
        return error_set_errno(err, errno, "making %s", form->raw);
    }
    (void)snprintf(target, sizeof(target), "%.3900s/target", form->work);
    /* Tables are written at once, and not by the first VM in its first minutes: zeros cost nothing here. */
    const char *const argv[] = {"/sbin/mke2fs",
                                "-q",
                                "-F",
                                "-t",
                                "ext4",
                                "-L",
                                "root",
                                "-m",
                                "1",
                                "-E",
                                "lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0",
                                "-d",
                                target,
                                form->raw,
                                NULL};
    const struct boxed program = {.what = "mke2fs",
                                  .prepare = mount_alone,
                                  .prepare_ctx = form,
                                  .argv = argv,
                                  .missing_package = "e2fsprogs",
                                  .poll = poll_job,
                                  .ctx = form};
    return boxed_run(&program, err);
}

static int make_folders(const struct form *form, struct error *err)
{
    static const char *const names[] = {"upper", "overlay", "target", "scratch"};
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < ARRAY_COUNT(names); i++) {
        char path[PATH_MAX];
        (void)snprintf(path, sizeof(path), "%.3900s/%s", form->work, names[i]);
        rc = file_make_folders(path, 0755, 0755, err);
        /* The umask is the caller's; the first of them is the disk's root folder. */
        if (rc == 0 && chmod(path, 0755) < 0) {
            rc = error_set_errno(err, errno, "making %s", path);
        }
    }
    return rc;
}

int vm_form_copy(const char *from, const char *to, struct error *err)
{
    AUTO_CLOSE int in = open(from, O_RDONLY | O_CLOEXEC);
    AUTO_CLOSE int out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    return in < 0 || out < 0 ? error_set_errno(err, errno, "copying %s", from)
                             : file_copy(in, out, from, err);
}

static int measure(struct form *form, struct error *err)
{
    uint64_t total = 0, bytes, files;
    int rc = layers_usage(form->kernel.layer, &total, &files, err);
    for (size_t i = 0; rc == 0 && i < form->layers.count; i++) {
        rc = layers_usage(form->layers.path[i], &bytes, &files, err);
        total += rc == 0 ? bytes : 0;
    }
    uint64_t wanted = 2 * total + SPARE;
    form->disk_bytes =
        wanted > MIN_DISK ? (wanted + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT : MIN_DISK;
    return rc;
}

static int make_files(struct form *form, struct error *err)
{
    char scratch[PATH_MAX], path[PATH_MAX];
    const struct boxed change = {.what = "the image's files",
                                 .prepare = change_tree,
                                 .prepare_ctx = form,
                                 .poll = poll_job,
                                 .ctx = form};
    int rc = measure(form, err);
    rc = rc < 0 ? rc : make_folders(form, err);
    rc = rc < 0 ? rc : boxed_run(&change, err);
    (void)snprintf(scratch, sizeof(scratch), "%.3900s/scratch", form->work);
    (void)snprintf(path, sizeof(path), "%.3900s/initrd", form->folder);
    rc = rc < 0 ? rc : kernel_make_initrd(form->job, &form->kernel, scratch, path, err);
    (void)snprintf(path, sizeof(path), "%.3900s/vmlinuz", form->folder);
    rc = rc < 0 ? rc : vm_form_copy(form->kernel.image, path, err);
    job_progress(form->job, "making the disk", 40, 100);
    rc = rc < 0 ? rc : make_raw(form, err);
    job_progress(form->job, "converting the disk", 70, 100);
    (void)snprintf(path, sizeof(path), "%.3900s/" DISK, form->folder);
    rc = rc < 0 ? rc : work_convert(form->job, form->raw, "raw", path, "qcow2", err);
    return rc < 0 ? rc : layers_remove(form->work, err);
}

static int make_form(struct form *form, struct error *err)
{
    char digest[72];
    job_progress(form->job, "getting a kernel", 0, 100);
    int rc = kernel_get(form->job, form->suite, &form->kernel, err);
    rc = rc < 0 ? rc : files_begin(form->job, form->folder, err);
    if (rc < 0) {
        return rc;
    }
    (void)snprintf(form->work, sizeof(form->work), "%.3900s/work", form->folder);
    (void)snprintf(form->raw, sizeof(form->raw), "%.3900s/raw", form->work);
    job_progress(form->job, "changing files", 30, 100);
    rc = make_files(form, err);
    json_t *vm = json_pack("{s:s, s:s, s:I, s:s, s:s, s:s}", "disk", DISK, "format", "qcow2",
                           "virtual_size_bytes", (json_int_t)form->disk_bytes, "kernel", "vmlinuz",
                           "initrd", "initrd", "append", VM_FORM_APPEND);
    job_progress(form->job, "reading what was made", 90, 100);
    rc = rc < 0 ? rc : files_describe(form->job, form->folder, form->digest, vm, digest, err);
    rc = rc < 0 ? rc : files_commit(&form->job->place, form->folder, form->digest, err);
    json_decref(vm);
    if (rc < 0) {
        files_abandon(form->folder);
    }
    return rc;
}

/* One at a time makes an image's form; whoever waited finds it. */
static int take_lock(struct job *job, const char *digest, int *out_fd, struct error *err)
{
    static const struct timespec pause = {.tv_nsec = POLL_NS};
    char path[PATH_MAX], name[96];
    place_state_path(&job->place, "images", NULL, NULL, path);
    int rc = file_make_folders(path, 0711, 0755, err);
    (void)snprintf(name, sizeof(name), ".lock-%.71s", digest);
    place_state_path(&job->place, "images", name, NULL, path);
    int fd = rc < 0 ? -1 : open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (rc == 0 && fd < 0) {
        rc = error_set_errno(err, errno, "opening %s", path);
    }
    while (rc == 0 && flock(fd, LOCK_EX | LOCK_NB) < 0) {
        if (errno != EWOULDBLOCK && errno != EINTR) {
            rc = error_set_errno(err, errno, "locking %s", path);
        } else if (job_is_cancelled(job)) {
            rc = error_set(err, ECANCELED, "waiting for the image's disk: cancelled");
        } else {
            job_progress(job, "waiting for the image's disk", 0, 0);
            (void)nanosleep(&pause, NULL); /* shorter is fine */
        }
    }
    if (rc < 0 && fd >= 0) {
        close(fd);
    }
    *out_fd = fd;
    return rc;
}

static int need_locked(struct job *job, const json_t *image, const char *digest, json_t **out_vm,
                       struct error *err)
{
    const json_t *os = json_object_get(image, "os");
    struct form form = {.job = job,
                        .digest = digest,
                        .suite =
                            kernel_suite(text_or_empty(os, "id"), text_or_empty(os, "codename")),
                        .layers.lock_fd = -1};
    struct store store;
    if (files_open(&job->place, digest, out_vm, NULL) == 0) {
        return 0;
    }
    int rc = containers_store(&job->place, &store, err);
    rc = rc < 0 ? rc : template_open(&store, digest, true, &form.layers, err);
    if (rc == 0 && form.layers.count >= LAYERS_MAX) {
        rc = error_set(err, E2BIG, "it has %zu layers: one less can be a VM's", form.layers.count);
    }
    rc = rc < 0 ? rc : make_form(&form, err);
    template_close(&form.layers);
    return rc < 0 ? rc : files_open(&job->place, digest, out_vm, err);
}

struct needed {
    struct job *job;
    const json_t *image;
    const char *digest;
};

static int make_needed(void *ctx, struct error *err)
{
    const struct needed *needed = ctx;
    json_t *vm;
    int fd;
    int rc = take_lock(needed->job, needed->digest, &fd, err);
    if (rc < 0) {
        return rc;
    }
    rc = need_locked(needed->job, needed->image, needed->digest, &vm, err);
    close(fd);
    if (rc == 0) {
        json_decref(vm);
    }
    return rc;
}

int image_need_vm_form(struct job *job, const json_t *image, json_t **out_image, struct error *err)
{
    const char *digest = text_or_empty(image, "name");
    json_t *vm;
    if (!image_is_digest(digest)) {
        return error_set(err, EINVAL, "image '%.64s': has no digest", digest);
    }
    int rc = files_open(&job->place, digest, &vm, NULL);
    if (rc < 0) {
        struct needed needed = {.job = job, .image = image, .digest = digest};
        rc = containers_do(job, make_needed, &needed, err);
        rc = rc < 0 ? rc : files_open(&job->place, digest, &vm, err);
    }
    if (rc < 0) {
        return error_prefix(err, rc, "image %.19s: its form for VMs", digest);
    }
    json_t *document = json_deep_copy(image);
    if (json_equal(json_object_get(image, "vm"), vm)) {
        json_decref(vm);
    } else {
        json_t *forms = json_copy(json_object_get(image, "forms"));
        forms = forms != NULL ? forms : json_array();
        json_array_append_new(forms, json_string("vm"));
        json_object_set_new(document, "forms", forms);
        json_object_set_new(document, "vm", vm);
        rc = job_put(job, "image", digest, json_incref(document), err);
    }
    if (rc < 0) {
        json_decref(document);
        return rc;
    }
    *out_image = document;
    return 0;
}
