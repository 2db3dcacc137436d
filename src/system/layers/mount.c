/* Layers mounted together. All by descriptors, since paths in the options of overlayfs would need escapes and have limits. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/host/file.h"
#include "container/mount/handle.h"
#include "container/mount/idmap.h"
#include "system/layers/layers.h"
#include "system/rootless/rootless.h"

#define OPTIONS_SIZE 4096 /* the kernel's limit too */

/* Renamed folders of the lower layers need redirects, or mv(1) copies them. metacopy is off, so that a layer's files are
 * whole. */
#define OPTIONS "redirect_dir=on,metacopy=off,index=off,nfs_export=off,xino=auto"
/* In a user namespace overlayfs writes user.overlay.* in place of trusted.overlay.*, and makes no redirects. */
#define USERS_OPTIONS "userxattr,metacopy=off,index=off,nfs_export=off,xino=auto"

/* What is open while it mounts. */
struct work {
    const struct layers_mount *request;
    int target;
    int lower[LAYERS_MAX]; /* clones */
    size_t lower_count;
    int upper, work;
    int mapping;
    size_t attached; /* mounts on top of each other at the target */
};

static void work_fini(struct work *work)
{
    for (size_t i = 0; i < work->lower_count; i++) {
        close(work->lower[i]);
    }
    descriptor_cleanup(&work->target);
    descriptor_cleanup(&work->upper);
    descriptor_cleanup(&work->work);
    descriptor_cleanup(&work->mapping);
}

static int open_folder(const char *path, int *out_fd, struct error *err)
{
    *out_fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    return *out_fd < 0 ? error_set_errno(err, errno, "opening %s", path) : 0;
}

static int check_request(const struct layers_mount *request, struct error *err)
{
    if (request->lower_count == 0 || request->lower_count > LAYERS_MAX) {
        return error_set(err, EINVAL, "%zu lower layers: 1 to %d are possible",
                         request->lower_count, LAYERS_MAX);
    }
    if ((request->upper == NULL) != (request->work == NULL)) {
        return error_set(err, EINVAL, "an upper layer and its work folder need each other");
    }
    if (request->ids.count != 0 && request->ids.first > UINT32_MAX - request->ids.count) {
        return error_set(err, EINVAL, "ids %u and %u more: beyond the largest id",
                         request->ids.first, request->ids.count);
    }
    return 0;
}

static int map_ids(struct work *work, int clone, const char *path, struct error *err)
{
    int rc = handle_map_ids(clone, work->mapping, false);
    if (rc == -EINVAL) {
        return error_set(err, EOPNOTSUPP,
                         "the file system of %s cannot be mounted with other ids: ext4, xfs, "
                         "btrfs and, from Linux 6.3 on, tmpfs can",
                         path);
    }
    return rc < 0 ? error_set_errno(err, -rc, "mapping the ids of %s", path) : 0;
}

/* A private clone of a lower layer with the container's ids, attached nowhere yet. */
static int clone_lower(struct work *work, const char *path, struct error *err)
{
    int clone = handle_clone(AT_FDCWD, path, false);
    if (clone < 0) {
        return error_set_errno(err, -clone, "opening the layer %s", path);
    }
    work->lower[work->lower_count++] = clone;
    int rc = handle_propagate(clone, MS_PRIVATE);
    if (rc < 0) {
        return error_set_errno(err, -rc, "preparing the layer %s", path);
    }
    return work->mapping >= 0 ? map_ids(work, clone, path, err) : 0;
}

static int open_all(struct work *work, struct error *err)
{
    const struct layers_mount *request = work->request;
    int rc = open_folder(request->target, &work->target, err);
    if (rc == 0 && request->upper != NULL) {
        rc = open_folder(request->upper, &work->upper, err);
        rc = rc < 0 ? rc : open_folder(request->work, &work->work, err);
    }
    if (rc == 0 && request->ids.count != 0 && request->ids.first != 0) {
        const struct spec_id_mapping one = {0, request->ids.first, request->ids.count};
        const struct spec_id_mappings mappings = {&one, 1};
        work->mapping = idmap_make_namespace(&mappings, &mappings, err);
        rc = work->mapping < 0 ? work->mapping : 0;
    }
    for (size_t i = 0; rc == 0 && i < request->lower_count; i++) {
        rc = clone_lower(work, request->lower[i], err);
    }
    return rc;
}

static int mount_single(struct work *work, struct error *err)
{
    int rc = handle_apply(work->lower[0], MOUNT_ATTR_RDONLY, 0, false);
    rc = rc < 0 ? rc : handle_attach(work->lower[0], work->target);
    return rc < 0 ? error_set_errno(err, -rc, "mounting %s on %s", work->request->lower[0],
                                    work->request->target)
                  : 0;
}

static int detach_all(struct work *work)
{
    int rc = 0;
    for (; rc == 0 && work->attached > 0; work->attached--) {
        rc = umount2(work->request->target, MNT_DETACH) < 0 ? -errno : 0;
    }
    return rc;
}

/* Overlayfs takes layers that are attached in this namespace only (all kernels do). They lie on top of each other at the
 * target, where nothing but their descriptors reaches the lower ones. */
static int attach_clones(struct work *work, struct error *err)
{
    for (size_t i = 0; i < work->lower_count; i++) {
        int rc = handle_attach(work->lower[i], work->target);
        if (rc < 0) {
            return error_set_errno(err, -rc, "mounting %s on %s", work->request->lower[i],
                                   work->request->target);
        }
        work->attached++;
    }
    return 0;
}

static void format_options(const struct work *work, char *out_text)
{
    size_t used = (size_t)snprintf(out_text, OPTIONS_SIZE, "%s",
                                   rootless_is_host_root() ? OPTIONS : USERS_OPTIONS);
    for (size_t i = 0; i < work->lower_count; i++) { /* 32 of at most 25 bytes: fit */
        used += (size_t)snprintf(out_text + used, OPTIONS_SIZE - used, "%s/proc/self/fd/%d",
                                 i == 0 ? ",lowerdir=" : ":", work->lower[i]);
    }
    if (work->upper >= 0) {
        (void)snprintf(out_text + used, OPTIONS_SIZE - used,
                       ",upperdir=/proc/self/fd/%d,workdir=/proc/self/fd/%d", work->upper,
                       work->work);
    }
}

/* The overlay as a mount that is attached nowhere. Nothing stays at the target, also when it fails: overlayfs holds the
 * layers. */
static int make_overlay(struct work *work, struct error *err)
{
    char options[OPTIONS_SIZE];
    format_options(work, options);
    int rc = attach_clones(work, err);
    unsigned long flags = work->upper < 0 ? MS_RDONLY : 0;
    if (rc == 0 && mount("overlay", work->request->target, "overlay", flags, options) < 0) {
        rc = error_set_errno(err, errno,
                             "mounting %zu layers on %s (overlayfs on mapped layers needs Linux "
                             "5.19; the kernel's log may say more)",
                             work->lower_count, work->request->target);
    }
    work->attached += rc == 0;
    int overlay = rc < 0 ? rc : handle_clone(AT_FDCWD, work->request->target, false);
    if (rc == 0 && overlay < 0) {
        overlay = error_set_errno(err, -overlay, "mounting layers on %s", work->request->target);
    }
    rc = detach_all(work);
    if (rc < 0 && overlay >= 0) {
        close(overlay);
        return error_set_errno(err, -rc, "unmounting the layers below %s", work->request->target);
    }
    return overlay;
}

int layers_mount(const struct layers_mount *request, struct error *err)
{
    __attribute__((cleanup(work_fini))) struct work work = {
        .request = request, .target = -1, .upper = -1, .work = -1, .mapping = -1};
    int rc = check_request(request, err);
    rc = rc < 0 ? rc : open_all(&work, err);
    if (rc < 0) {
        return rc;
    }
    if (request->upper == NULL && request->lower_count == 1) {
        return mount_single(&work, err);
    }
    AUTO_HANDLE int overlay = make_overlay(&work, err);
    if (overlay < 0) {
        return overlay;
    }
    rc = handle_attach(overlay, work.target);
    return rc < 0 ? error_set_errno(err, -rc, "mounting layers on %s", request->target) : 0;
}

static int make_owned(const char *path, const struct layers_ids *ids, struct error *err)
{
    if (mkdir(path, 0700) < 0) {
        return error_set_errno(err, errno, "making the folder %s", path);
    }
    uint32_t owner = ids->count != 0 ? ids->first : 0;
    if (chown(path, owner, owner) < 0 || chmod(path, 0755) < 0) {
        int code = errno;
        (void)rmdir(path);
        return error_set_errno(err, code, "giving %s to id %u", path, owner);
    }
    return 0;
}

int layers_make_upper(const char *upper, const char *work, const struct layers_ids *ids,
                      struct error *err)
{
    int rc = make_owned(upper, ids, err);
    if (rc < 0) {
        return rc;
    }
    rc = make_owned(work, ids, err);
    if (rc < 0) {
        (void)rmdir(upper);
    }
    return rc;
}
