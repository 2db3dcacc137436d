/* Requests that read and change what is known of a file: attributes, extended ones, links, the file system. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/xattr.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/core/bits.h"
#include "share/server.h"

#define LONGEST_LIST XATTR_LIST_MAX

static int put_attributes(const struct node *node, struct reply *reply)
{
    struct stat status;
    if (fstat(node->fd, &status) < 0) {
        return -errno;
    }
    struct fuse_attr_out out = {.attr_valid = 1};
    share_fill_attributes(&status, &out.attr);
    return reply_put(reply, &out, sizeof(out)) ? 0 : -EINVAL;
}

static int do_getattr(struct share *share, const struct fuse_in_header *head,
                      struct arguments *arguments, struct reply *reply)
{
    struct node *node = nodes_get(&share->nodes, head->nodeid);
    return node == NULL ? -errno : put_attributes(node, reply);
}

/* A file's bits that would let a program run as somebody else on the host are left out. That of a folder, whose files get its group,
 * only a member of that group may set. */
static int set_mode(const struct share *share, const struct node *node, uint32_t mode)
{
    mode_t bits = mode & 07777;
    struct stat status;
    if (S_ISLNK(node->type)) {
        return -EOPNOTSUPP;
    }
    if (!S_ISDIR(node->type)) {
        bits &= ~(mode_t)(S_ISUID | S_ISGID);
    }
    bool is_member = share->keeps_owners && (bits & S_ISGID) != 0 && fstat(node->fd, &status) == 0;
    if (is_member) {
        (void)setfsgid(status.st_gid);
    }
    int rc = fchmodat(AT_FDCWD, name_of_fd(node->fd).text, bits, 0) < 0 ? -errno : 0;
    if (is_member) {
        (void)setfsgid(getegid());
    }
    return rc;
}

static int set_owner(const struct node *node, const struct fuse_setattr_in *in)
{
    uid_t uid = (in->valid & FATTR_UID) != 0 ? in->uid : (uid_t)-1;
    gid_t gid = (in->valid & FATTR_GID) != 0 ? in->gid : (gid_t)-1;
    return fchownat(node->fd, "", uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

static int set_size(struct share *share, const struct node *node, const struct fuse_setattr_in *in)
{
    if (in->size > INT64_MAX) {
        return -EINVAL;
    }
    if ((in->valid & FATTR_FH) != 0) {
        struct handle *handle = share_handle(share, in->fh, false);
        if (handle == NULL) {
            return -errno;
        }
        return ftruncate(handle->fd, (off_t)in->size) < 0 ? -errno : 0;
    }
    if (!S_ISREG(node->type)) {
        return S_ISDIR(node->type) ? -EISDIR : -EINVAL;
    }
    int fd = openat(AT_FDCWD, name_of_fd(node->fd).text, O_WRONLY | O_CLOEXEC | O_NOCTTY);
    int rc = fd < 0 || ftruncate(fd, (off_t)in->size) < 0 ? -errno : 0;
    if (fd >= 0) {
        close(fd);
    }
    return rc;
}

static struct timespec time_of(const struct fuse_setattr_in *in, uint32_t which, uint32_t now,
                               uint64_t seconds, uint32_t nanoseconds)
{
    if ((in->valid & now) != 0) {
        return (struct timespec){.tv_nsec = UTIME_NOW};
    }
    if ((in->valid & which) == 0) {
        return (struct timespec){.tv_nsec = UTIME_OMIT};
    }
    /* An impossible number is an error, and none of the two words above. */
    return (struct timespec){.tv_sec = (time_t)seconds,
                             .tv_nsec = nanoseconds < 1000000000u ? (long)nanoseconds : -1};
}

static int set_times(const struct node *node, const struct fuse_setattr_in *in)
{
    const struct timespec times[2] = {
        time_of(in, FATTR_ATIME, FATTR_ATIME_NOW, in->atime, in->atimensec),
        time_of(in, FATTR_MTIME, FATTR_MTIME_NOW, in->mtime, in->mtimensec),
    };
    return utimensat(node->fd, "", times, AT_EMPTY_PATH) < 0 ? -errno : 0;
}

static int do_setattr(struct share *share, const struct fuse_in_header *head,
                      struct arguments *arguments, struct reply *reply)
{
    struct fuse_setattr_in in;
    if (!arguments_get(arguments, &in, sizeof(in))) {
        return -EINVAL;
    }
    struct node *node = nodes_get(&share->nodes, head->nodeid);
    if (node == NULL) {
        return -errno;
    }
    int rc = 0;
    if (share->keeps_owners && (in.valid & (FATTR_UID | FATTR_GID)) != 0) {
        rc = set_owner(node, &in);
    }
    if (rc == 0 && (in.valid & FATTR_SIZE) != 0) {
        rc = set_size(share, node, &in);
    }
    if (rc == 0 && (in.valid & FATTR_MODE) != 0) {
        rc = set_mode(share, node, in.mode); /* behind the owner, whose change takes bits away */
    }
    if (rc == 0 && (in.valid & (FATTR_ATIME | FATTR_MTIME)) != 0) {
        rc = set_times(node, &in);
    }
    return rc < 0 ? rc : put_attributes(node, reply);
}

static int do_readlink(struct share *share, const struct fuse_in_header *head,
                       struct arguments *arguments, struct reply *reply)
{
    char target[PATH_MAX];
    struct node *node = nodes_get(&share->nodes, head->nodeid);
    if (node == NULL) {
        return -errno;
    }
    ssize_t size = readlinkat(node->fd, "", target, sizeof(target));
    return size < 0 ? -errno : reply_put(reply, target, (size_t)size) ? 0 : -ENAMETOOLONG;
}

static int do_statfs(struct share *share, const struct fuse_in_header *head,
                     struct arguments *arguments, struct reply *reply)
{
    struct statfs status;
    struct node *node = nodes_get(&share->nodes, head->nodeid);
    if (node == NULL || fstatfs(node->fd, &status) < 0) {
        return -errno;
    }
    struct fuse_statfs_out out = {.st = {.blocks = status.f_blocks,
                                         .bfree = status.f_bfree,
                                         .bavail = status.f_bavail,
                                         .files = status.f_files,
                                         .ffree = status.f_ffree,
                                         .bsize = (uint32_t)status.f_bsize,
                                         .namelen = (uint32_t)status.f_namelen,
                                         .frsize = (uint32_t)status.f_frsize}};
    return reply_put(reply, &out, sizeof(out)) ? 0 : -EINVAL;
}

/* Those of users. The others mean something to the host's kernel: capabilities of programs, labels, lists of who may. */
static bool is_users(const char *name)
{
    return strncmp(name, XATTR_USER_PREFIX, XATTR_USER_PREFIX_LEN) == 0;
}

/* The node and the name of a request. Only files and folders have such attributes. */
static int take_attribute(struct share *share, const struct fuse_in_header *head,
                          struct arguments *arguments, struct node **out_node,
                          const char **out_name)
{
    *out_name = arguments_text(arguments);
    if (*out_name == NULL) {
        return -EINVAL;
    }
    *out_node = nodes_get(&share->nodes, head->nodeid);
    return *out_node == NULL ? -errno : is_users(*out_name) ? 0 : -EOPNOTSUPP;
}

static int do_setxattr(struct share *share, const struct fuse_in_header *head,
                       struct arguments *arguments, struct reply *reply)
{
    struct fuse_setxattr_in in = {0};
    struct node *node;
    const char *name;
    size_t head_size = share->has_long_xattr ? sizeof(in) : FUSE_COMPAT_SETXATTR_IN_SIZE;
    if (!arguments_get(arguments, &in, head_size)) {
        return -EINVAL;
    }
    int rc = take_attribute(share, head, arguments, &node, &name);
    if (rc < 0 || in.size > arguments->size) {
        return rc < 0 ? rc : -EINVAL;
    }
    return setxattr(name_of_fd(node->fd).text, name, arguments->at, in.size,
                    (int)(in.flags & (XATTR_CREATE | XATTR_REPLACE))) < 0
               ? -errno
               : 0;
}

/* With a size of 0 only the size is wanted. */
static int put_sized(uint32_t wanted, ssize_t size, struct reply *reply)
{
    if (size < 0) {
        return -errno;
    }
    if (wanted != 0) {
        reply->size = (size_t)size;
        return 0;
    }
    struct fuse_getxattr_out out = {.size = (uint32_t)size};
    return reply_put(reply, &out, sizeof(out)) ? 0 : -EINVAL;
}

static int do_getxattr(struct share *share, const struct fuse_in_header *head,
                       struct arguments *arguments, struct reply *reply)
{
    struct fuse_getxattr_in in;
    struct node *node;
    const char *name;
    if (!arguments_get(arguments, &in, sizeof(in))) {
        return -EINVAL;
    }
    int rc = take_attribute(share, head, arguments, &node, &name);
    if (rc < 0) {
        return rc;
    }
    size_t room = MIN(in.size, reply->room);
    if (in.size != 0 && room == 0) {
        return -EINVAL;
    }
    return put_sized(in.size, getxattr(name_of_fd(node->fd).text, name, reply->data, room), reply);
}

static int do_listxattr(struct share *share, const struct fuse_in_header *head,
                        struct arguments *arguments, struct reply *reply)
{
    struct fuse_getxattr_in in;
    char list[LONGEST_LIST];
    if (!arguments_get(arguments, &in, sizeof(in))) {
        return -EINVAL;
    }
    struct node *node = nodes_get(&share->nodes, head->nodeid);
    ssize_t size = node == NULL ? -1 : listxattr(name_of_fd(node->fd).text, list, sizeof(list) - 1);
    if (size < 0) {
        return -errno;
    }
    list[size] = '\0';
    size_t used = 0;
    for (size_t at = 0; at < (size_t)size;) {
        size_t length = strlen(list + at) + 1;
        if (is_users(list + at)) {
            memmove(list + used, list + at, length);
            used += length;
        }
        at += length;
    }
    if (in.size != 0 && (used > in.size || used > reply->room)) {
        return -ERANGE;
    }
    if (in.size != 0) {
        memcpy(reply->data, list, used);
    }
    return put_sized(in.size, (ssize_t)used, reply);
}

static int do_removexattr(struct share *share, const struct fuse_in_header *head,
                          struct arguments *arguments, struct reply *reply)
{
    struct node *node;
    const char *name;
    int rc = take_attribute(share, head, arguments, &node, &name);
    if (rc < 0) {
        return rc;
    }
    return removexattr(name_of_fd(node->fd).text, name) < 0 ? -errno : 0;
}

operation_fn share_attribute_operation(uint32_t opcode)
{
    static const operation_fn operations[] = {
        [FUSE_GETATTR] = do_getattr,     [FUSE_SETATTR] = do_setattr,
        [FUSE_READLINK] = do_readlink,   [FUSE_STATFS] = do_statfs,
        [FUSE_SETXATTR] = do_setxattr,   [FUSE_GETXATTR] = do_getxattr,
        [FUSE_LISTXATTR] = do_listxattr, [FUSE_REMOVEXATTR] = do_removexattr,
    };
    return opcode < ARRAY_COUNT(operations) ? operations[opcode] : NULL;
}
