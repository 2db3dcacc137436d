/* Copies of trees. A copy is made in a folder of its own beside its place, ".hull-copy-...", with "tree", which is renamed at
 * the end, and "links", where files with several names have one more until the last of them is made: so no path is ever
 * needed. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/host/file.h"
#include "container/mount/handle.h"
#include "container/runtime/fault.h"
#include "system/layers/attributes.h"
#include "system/layers/data.h"
#include "system/layers/layers.h"
#include "system/layers/links.h"
#include "system/layers/place.h"
#include "system/layers/remove.h"
#include "system/layers/walk.h"

#define DEPTH_MAX       4096
#define PROGRESS_FILES  64
#define LINK_NAME_SIZE  24
#define MOUNT_ID_NEEDED (STATX_BASIC_STATS | STATX_MNT_ID)

struct copy {
    const struct layers_copy *request;
    struct attributes_shift shift;
    struct place place; /* of 'to' */
    char stage_name[PLACE_NAME_SIZE];
    int stage, links_folder;
    int root; /* of the new tree */
    int root_flags;
    uint64_t mount_id;
    struct stat stage_status;
    struct walk walk;
    struct links links;
    struct data_copy data;
    uint64_t done_bytes, done_files;
};

static int report(struct copy *copy)
{
    const struct layers_copy *request = copy->request;
    bool is_cancelled = request->progress != NULL &&
                        request->progress(request->ctx, copy->done_bytes, copy->done_files) != 0;
    return is_cancelled ? -ECANCELED : 0;
}

static int report_data(void *ctx, uint64_t bytes)
{
    struct copy *copy = ctx;
    copy->done_bytes += bytes;
    return report(copy);
}

static void format_link_name(uint64_t number, char out_name[LINK_NAME_SIZE])
{
    (void)snprintf(out_name, LINK_NAME_SIZE, "%llu", (unsigned long long)number);
}

/* One more name of a file that is there. The last one takes the place of that in "links": a file has never more names than its
 * original, of which some have as many as the file system allows. */
static int add_link(struct copy *copy, struct links_entry *entry, const char *name)
{
    char link_name[LINK_NAME_SIZE];
    format_link_name(entry->number, link_name);
    int to = walk_other_fd(&copy->walk);
    if (entry->left == 0) {
        return -ESTALE; /* it got more names meanwhile */
    }
    if (entry->left > 1) {
        entry->left--;
        return linkat(copy->links_folder, link_name, to, name, 0) < 0 ? -errno : 0;
    }
    if (renameat(copy->links_folder, link_name, to, name) < 0) {
        return -errno;
    }
    entry->left = 0;
    if (entry->flags == 0) {
        return 0;
    }
    AUTO_HANDLE int fd = walk_open(to, name, O_RDONLY | O_NONBLOCK);
    return fd < 0 ? fd : attributes_set_flags(fd, entry->flags);
}

static int keep_link(struct copy *copy, struct links_entry *entry, const char *name,
                     const struct stat *st, int flags)
{
    char link_name[LINK_NAME_SIZE];
    format_link_name(entry->number, link_name);
    entry->left = st->st_nlink - 1;
    entry->flags = flags;
    return linkat(walk_other_fd(&copy->walk), name, copy->links_folder, link_name, 0) < 0 ? -errno
                                                                                          : 0;
}

/* Flags of files that have names outside of the tree too, so that the last one never came. */
static int finish_links(struct copy *copy)
{
    for (size_t i = 0; i < copy->links.capacity; i++) {
        const struct links_entry *entry = &copy->links.slots[i];
        if (entry->number == 0 || entry->left == 0 || entry->flags == 0) {
            continue;
        }
        char link_name[LINK_NAME_SIZE];
        format_link_name(entry->number, link_name);
        AUTO_HANDLE int fd = walk_open(copy->links_folder, link_name, O_RDONLY | O_NONBLOCK);
        int rc = fd < 0 ? fd : unlinkat(copy->links_folder, link_name, 0) < 0 ? -errno : 0;
        rc = rc < 0 ? rc : attributes_set_flags(fd, entry->flags);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

static int copy_file(struct copy *copy, const char *name, const struct stat *expected,
                     int *out_flags)
{
    AUTO_HANDLE int from = walk_open(walk_fd(&copy->walk), name, O_RDONLY | O_NONBLOCK);
    struct stat st;
    if (from < 0 || fstat(from, &st) < 0) {
        return from < 0 ? from : -errno;
    }
    if (!S_ISREG(st.st_mode) || st.st_ino != expected->st_ino) {
        return -ESTALE;
    }
    AUTO_HANDLE int to = openat(walk_other_fd(&copy->walk), name,
                                O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (to < 0) {
        return -errno;
    }
    int rc = data_copy(&copy->data, from, to, (uint64_t)st.st_size);
    if (rc < 0) {
        return rc;
    }
    const struct attributes_file source = {.fd = from}, target = {.fd = to};
    rc = attributes_copy(&copy->shift, &source, &target, &st);
    *out_flags = attributes_flags(from);
    return rc < 0 || st.st_nlink > 1 ? rc : attributes_set_flags(to, *out_flags);
}

static int copy_node(struct copy *copy, const char *name, const struct stat *st)
{
    int from = walk_fd(&copy->walk), to = walk_other_fd(&copy->walk);
    if (S_ISLNK(st->st_mode)) {
        char target[PATH_MAX];
        ssize_t size = readlinkat(from, name, target, sizeof(target));
        if (size < 0 || size == (ssize_t)sizeof(target)) {
            return size < 0 ? -errno : -ENAMETOOLONG;
        }
        target[size] = '\0';
        if (symlinkat(target, to, name) < 0) {
            return -errno;
        }
    } else if (mknodat(to, name, (st->st_mode & S_IFMT) | 0600, st->st_rdev) < 0) {
        return -errno;
    }
    const struct attributes_file source = {-1, from, name}, target = {-1, to, name};
    return attributes_copy(&copy->shift, &source, &target, st);
}

static int enter_folder(struct copy *copy, const char *name)
{
    int from = walk_open_folder(walk_fd(&copy->walk), name);
    if (from < 0) {
        return from;
    }
    int to = walk_other_fd(&copy->walk);
    int made = mkdirat(to, name, 0700) < 0 ? -errno : walk_open_folder(to, name);
    if (made < 0) {
        close(from);
        return made;
    }
    return walk_enter(&copy->walk, from, made, name);
}

/* -EXDEV for what is mounted in the tree. */
static int look_at(const struct copy *copy, const char *name, struct stat *out)
{
    struct statx stx;
    if (statx(walk_fd(&copy->walk), name, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, MOUNT_ID_NEEDED,
              &stx) < 0) {
        return -errno;
    }
    *out = (struct stat){
        .st_dev = makedev(stx.stx_dev_major, stx.stx_dev_minor),
        .st_rdev = makedev(stx.stx_rdev_major, stx.stx_rdev_minor),
        .st_ino = stx.stx_ino,
        .st_mode = stx.stx_mode,
        .st_nlink = stx.stx_nlink,
        .st_uid = stx.stx_uid,
        .st_gid = stx.stx_gid,
        .st_atim = {stx.stx_atime.tv_sec, stx.stx_atime.tv_nsec},
        .st_mtim = {stx.stx_mtime.tv_sec, stx.stx_mtime.tv_nsec},
    };
    return stx.stx_mnt_id != copy->mount_id ? -EXDEV : 0;
}

static int copy_entry(struct copy *copy, const char *name)
{
    struct stat st;
    int rc = look_at(copy, name, &st);
    if (rc < 0) {
        return rc == -ENOENT ? 0 : rc; /* gone meanwhile */
    }
    if (++copy->done_files % PROGRESS_FILES == 0) {
        rc = report(copy);
        if (rc < 0) {
            return rc;
        }
    }
    if (S_ISDIR(st.st_mode)) {
        bool is_own =
            st.st_ino == copy->stage_status.st_ino && st.st_dev == copy->stage_status.st_dev;
        return is_own ? -EINVAL : enter_folder(copy, name);
    }
    struct links_entry *entry = NULL;
    bool is_new = true;
    if (st.st_nlink > 1) {
        entry = links_find(&copy->links, st.st_dev, st.st_ino, &is_new);
        if (entry == NULL) {
            return -ENOMEM;
        }
    }
    if (!is_new) {
        return add_link(copy, entry, name);
    }
    int flags = 0;
    rc = S_ISREG(st.st_mode) ? copy_file(copy, name, &st, &flags) : copy_node(copy, name, &st);
    return rc < 0 || entry == NULL ? rc : keep_link(copy, entry, name, &st, flags);
}

/* All that is in the folder is there: its own times and flags now. Those flags of the root wait until it has been renamed. */
static int finish_folder(struct copy *copy)
{
    const struct attributes_file from = {.fd = walk_fd(&copy->walk)},
                                 to = {.fd = walk_other_fd(&copy->walk)};
    struct stat st;
    int rc = fstat(from.fd, &st) < 0 ? -errno : attributes_copy(&copy->shift, &from, &to, &st);
    if (rc < 0) {
        return rc;
    }
    int flags = attributes_flags(from.fd);
    if (copy->walk.count == 1) {
        copy->root_flags = flags;
        return 0;
    }
    return attributes_set_flags(to.fd, flags);
}

static int explain(const struct copy *copy, int rc, const char *name, struct error *err)
{
    char text[WALK_PATH_SIZE];
    (void)walk_path(&copy->walk, name, text);
    switch (rc) {
    case -ECANCELED:
        return error_set(err, ECANCELED, "cancelled");
    case -EXDEV:
        return error_set(err, EXDEV, "%s: something is mounted there", text);
    case -ELOOP:
        return error_set(err, ELOOP, "%s: more than %d folders deep", text, DEPTH_MAX);
    case -EINVAL:
        return error_set(err, EINVAL,
                         "%s: an owner (or one in an ACL or a file capability) is not of the "
                         "container's ids, or the copy would lie in the tree itself",
                         text);
    default:
        return error_set_errno(err, -rc, "%s", text);
    }
}

static int copy_all(struct copy *copy, struct error *err)
{
    while (copy->walk.count > 0) {
        const struct dirent *entry;
        int rc = walk_next(&copy->walk, &entry);
        const char *name = rc > 0 ? entry->d_name : "";
        if (rc > 0) {
            rc = copy_entry(copy, name);
        } else if (rc == 0) {
            rc = finish_folder(copy);
            if (rc == 0 && copy->walk.count > 1) {
                rc = walk_leave(&copy->walk);
            } else if (rc == 0) {
                return 0; /* the root stays open */
            }
        }
        if (rc < 0) {
            return explain(copy, rc, name, err);
        }
    }
    return 0;
}

/* Default ACLs of the folder around would come into everything. */
static int make_stage(struct copy *copy, struct error *err)
{
    place_make_name("copy", copy->stage_name);
    int folder = copy->place.folder;
    if (mkdirat(folder, copy->stage_name, 0700) < 0) {
        copy->stage_name[0] = '\0';
        return error_set_errno(err, errno, "making a folder for the copy");
    }
    copy->stage = walk_open_folder(folder, copy->stage_name);
    if (copy->stage < 0) {
        return error_set_errno(err, -copy->stage, "opening the folder for the copy");
    }
    (void)fremovexattr(copy->stage, "system.posix_acl_default"); /* there is none, mostly */
    (void)fremovexattr(copy->stage, "system.posix_acl_access");
    if (fchmod(copy->stage, 0700) < 0 || fstat(copy->stage, &copy->stage_status) < 0 ||
        mkdirat(copy->stage, "tree", 0700) < 0 || mkdirat(copy->stage, "links", 0700) < 0) {
        return error_set_errno(err, errno, "making a folder for the copy");
    }
    copy->links_folder = walk_open_folder(copy->stage, "links");
    copy->root = walk_open_folder(copy->stage, "tree");
    int rc = MIN(copy->links_folder, copy->root);
    return rc < 0 ? error_set_errno(err, -rc, "opening the folder for the copy") : 0;
}

static int start_walk(struct copy *copy, struct error *err)
{
    struct statx stx;
    int from = open(copy->request->from, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (from < 0 || statx(from, "", AT_EMPTY_PATH, MOUNT_ID_NEEDED, &stx) < 0) {
        int code = errno;
        descriptor_cleanup(&from);
        return error_set_errno(err, code, "opening %s", copy->request->from);
    }
    copy->mount_id = stx.stx_mnt_id;
    int to = fcntl(copy->root, F_DUPFD_CLOEXEC, 0);
    if (to < 0) {
        int code = errno;
        close(from);
        return error_set_errno(err, code, "opening the copy");
    }
    int rc = walk_enter(&copy->walk, from, to, "");
    return rc < 0 ? error_set_errno(err, -rc, "opening %s", copy->request->from) : 0;
}

static int put_in_place(struct copy *copy, struct error *err)
{
    int rc = finish_links(copy);
    if (rc == 0 && renameat2(copy->stage, "tree", copy->place.folder, copy->place.name,
                             RENAME_NOREPLACE) < 0) {
        rc = -errno;
    }
    if (rc < 0) {
        return error_set_errno(err, -rc, "putting the copy in its place");
    }
    rc = attributes_set_flags(copy->root, copy->root_flags);
    if (rc < 0) {
        struct error ignored;
        error_ignore(remove_tree(copy->place.folder, copy->place.name, &ignored));
        return error_set_errno(err, -rc, "setting the copy's flags");
    }
    return 0;
}

static int run(struct copy *copy, struct error *err)
{
    struct stat st;
    int rc = layers_place_open(copy->request->to, &copy->place, err);
    if (rc < 0) {
        return rc;
    }
    if (fstatat(copy->place.folder, copy->place.name, &st, AT_SYMLINK_NOFOLLOW) == 0) {
        return error_set_errno(err, EEXIST, "making it");
    }
    rc = make_stage(copy, err);
    rc = rc < 0 ? rc : start_walk(copy, err);
    rc = rc < 0 ? rc : copy_all(copy, err);
    fault_step("copied");
    rc = rc == 0 && report(copy) < 0 ? error_set(err, ECANCELED, "cancelled") : rc;
    return rc < 0 ? rc : put_in_place(copy, err);
}

int layers_copy(const struct layers_copy *request, struct error *err)
{
    struct copy copy = {
        .request = request,
        .shift = {request->from_ids, request->to_ids},
        .place = {.folder = -1},
        .stage = -1,
        .links_folder = -1,
        .root = -1,
        .walk = {.depth_max = DEPTH_MAX},
        .data = {.progress = report_data},
    };
    copy.data.ctx = &copy;
    int rc = run(&copy, err);
    walk_fini(&copy.walk);
    links_fini(&copy.links);
    descriptor_cleanup(&copy.root);
    descriptor_cleanup(&copy.links_folder);
    descriptor_cleanup(&copy.stage);
    if (copy.stage_name[0] != '\0') { /* what cannot be removed says nothing of the copy */
        error_ignore(remove_tree(copy.place.folder, copy.stage_name, NULL));
    }
    place_fini(&copy.place);
    return rc < 0 ? error_prefix(err, rc, "copying %s to %s", request->from, request->to) : 0;
}
