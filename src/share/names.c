/* Requests that work on names in folders. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/core/bits.h"
#include "share/server.h"

/* Bits that would let a program run as somebody else on the host: files never get them. */
#define SPECIAL_BITS (S_ISUID | S_ISGID)

static struct node *folder_of(struct share *share, uint64_t id, int *out_rc)
{
    struct node *node = nodes_get(&share->nodes, id);
    *out_rc = node == NULL ? -errno : S_ISDIR(node->type) ? 0 : -ENOTDIR;
    return *out_rc == 0 ? node : NULL;
}

/* What most begin with: the folder, and the name in it. */
static int take_name(struct share *share, uint64_t id, struct arguments *arguments,
                     struct node **out_folder, const char **out_name)
{
    int rc = arguments_name(arguments, out_name);
    if (rc == 0) {
        *out_folder = folder_of(share, id, &rc);
    }
    return rc;
}

static int put_entry(struct share *share, struct node *folder, const char *name,
                     struct reply *reply)
{
    struct node *node;
    struct stat status;
    struct fuse_entry_out entry;
    if (reply->room < sizeof(entry)) {
        return -EINVAL;
    }
    int rc = nodes_look_up(&share->nodes, folder, name, &node, &status);
    if (rc == 0) {
        share_fill_entry(node, &status, &entry);
        (void)!reply_put(reply, &entry, sizeof(entry)); /* there is room */
    }
    return rc;
}

static int do_lookup(struct share *share, const struct fuse_in_header *head,
                     struct arguments *arguments, struct reply *reply)
{
    struct node *folder;
    const char *name;
    int rc = take_name(share, head->nodeid, arguments, &folder, &name);
    return rc < 0 ? rc : put_entry(share, folder, name, reply);
}

static int do_symlink(struct share *share, const struct fuse_in_header *head,
                      struct arguments *arguments, struct reply *reply)
{
    struct node *folder;
    const char *name;
    int rc = take_name(share, head->nodeid, arguments, &folder, &name);
    const char *target = rc == 0 ? arguments_text(arguments) : NULL;
    if (rc < 0 || target == NULL) {
        return rc < 0 ? rc : -EINVAL;
    }
    share_become(share, head);
    rc = symlinkat(target, folder->fd, name) < 0 ? -errno : 0;
    share_become_self(share);
    return rc < 0 ? rc : put_entry(share, folder, name, reply);
}

static int do_mknod(struct share *share, const struct fuse_in_header *head,
                    struct arguments *arguments, struct reply *reply)
{
    struct fuse_mknod_in in;
    struct node *folder;
    const char *name;
    if (!arguments_get(arguments, &in, sizeof(in))) {
        return -EINVAL;
    }
    int rc = take_name(share, head->nodeid, arguments, &folder, &name);
    if (rc < 0) {
        return rc;
    }
    /* A device's node would be one of the host. */
    if (!S_ISREG(in.mode) && !S_ISFIFO(in.mode) && !S_ISSOCK(in.mode)) {
        return -EPERM;
    }
    share_become(share, head);
    rc = mknodat(folder->fd, name, in.mode & ~(mode_t)SPECIAL_BITS, 0) < 0 ? -errno : 0;
    share_become_self(share);
    return rc < 0 ? rc : put_entry(share, folder, name, reply);
}

static int do_mkdir(struct share *share, const struct fuse_in_header *head,
                    struct arguments *arguments, struct reply *reply)
{
    struct fuse_mkdir_in in;
    struct node *folder;
    const char *name;
    if (!arguments_get(arguments, &in, sizeof(in))) {
        return -EINVAL;
    }
    int rc = take_name(share, head->nodeid, arguments, &folder, &name);
    if (rc < 0) {
        return rc;
    }
    share_become(share, head);
    rc = mkdirat(folder->fd, name, in.mode & 07777) < 0 ? -errno : 0;
    share_become_self(share);
    return rc < 0 ? rc : put_entry(share, folder, name, reply);
}

static int remove_name(struct share *share, const struct fuse_in_header *head,
                       struct arguments *arguments, int flags)
{
    struct node *folder;
    const char *name;
    int rc = take_name(share, head->nodeid, arguments, &folder, &name);
    if (rc < 0) {
        return rc;
    }
    nodes_leave_name(&share->nodes, folder, name);
    return unlinkat(folder->fd, name, flags) < 0 ? -errno : 0;
}

static int do_unlink(struct share *share, const struct fuse_in_header *head,
                     struct arguments *arguments, struct reply *reply)
{
    return remove_name(share, head, arguments, 0);
}

static int do_rmdir(struct share *share, const struct fuse_in_header *head,
                    struct arguments *arguments, struct reply *reply)
{
    return remove_name(share, head, arguments, AT_REMOVEDIR);
}

static int rename_to(struct share *share, const struct fuse_in_header *head, uint64_t new_id,
                     uint32_t flags, struct arguments *arguments)
{
    struct node *folder, *new_folder;
    const char *name, *new_name;
    if ((flags & ~(uint32_t)(RENAME_NOREPLACE | RENAME_EXCHANGE)) != 0) {
        return -EINVAL;
    }
    int rc = take_name(share, head->nodeid, arguments, &folder, &name);
    if (rc == 0) {
        rc = take_name(share, new_id, arguments, &new_folder, &new_name);
    }
    if (rc < 0) {
        return rc;
    }
    nodes_leave_name(&share->nodes, folder, name);
    nodes_leave_name(&share->nodes, new_folder, new_name);
    return renameat2(folder->fd, name, new_folder->fd, new_name, flags) < 0 ? -errno : 0;
}

static int do_rename(struct share *share, const struct fuse_in_header *head,
                     struct arguments *arguments, struct reply *reply)
{
    struct fuse_rename_in in;
    return arguments_get(arguments, &in, sizeof(in))
               ? rename_to(share, head, in.newdir, 0, arguments)
               : -EINVAL;
}

static int do_rename2(struct share *share, const struct fuse_in_header *head,
                      struct arguments *arguments, struct reply *reply)
{
    struct fuse_rename2_in in;
    return arguments_get(arguments, &in, sizeof(in))
               ? rename_to(share, head, in.newdir, in.flags, arguments)
               : -EINVAL;
}

static int do_link(struct share *share, const struct fuse_in_header *head,
                   struct arguments *arguments, struct reply *reply)
{
    struct fuse_link_in in;
    struct node *folder;
    const char *name;
    if (!arguments_get(arguments, &in, sizeof(in))) {
        return -EINVAL;
    }
    int rc = take_name(share, head->nodeid, arguments, &folder, &name);
    struct node *node = rc == 0 ? nodes_get(&share->nodes, in.oldnodeid) : NULL;
    if (node == NULL) {
        return rc < 0 ? rc : -errno;
    }
    if (linkat(AT_FDCWD, name_of_fd(node->fd).text, folder->fd, name, AT_SYMLINK_FOLLOW) < 0) {
        return -errno;
    }
    return put_entry(share, folder, name, reply);
}

static int do_create(struct share *share, const struct fuse_in_header *head,
                     struct arguments *arguments, struct reply *reply)
{
    struct fuse_create_in in;
    struct node *folder, *node;
    const char *name;
    struct stat status;
    struct fuse_entry_out entry;
    struct fuse_open_out out = {0};
    if (!arguments_get(arguments, &in, sizeof(in)) || reply->room < sizeof(entry) + sizeof(out)) {
        return -EINVAL;
    }
    int rc = take_name(share, head->nodeid, arguments, &folder, &name);
    if (rc < 0) {
        return rc;
    }
    int flags = (int)(in.flags & (uint32_t)(O_ACCMODE | O_APPEND | O_TRUNC | O_SYNC | O_DSYNC));
    share_become(share, head);
    /* With O_EXCL: what has the name already may be anything. */
    int fd = openat(folder->fd, name, flags | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
                    in.mode & 07777 & ~(mode_t)SPECIAL_BITS);
    rc = fd < 0 ? -errno : 0;
    share_become_self(share);
    if (rc == -EEXIST && (in.flags & O_EXCL) == 0) {
        rc = nodes_look_up(&share->nodes, folder, name, &node, &status);
        if (rc < 0) {
            return rc;
        }
        fd = S_ISREG(node->type)
                 ? openat(AT_FDCWD, name_of_fd(node->fd).text, flags | O_CLOEXEC | O_NOCTTY)
                 : -1;
        rc = fd >= 0 ? 0 : S_ISREG(node->type) ? -errno : -EEXIST;
        if (rc < 0) {
            nodes_forget(&share->nodes, node->id, 1);
        }
    } else if (rc == 0) {
        int path_fd = openat(AT_FDCWD, name_of_fd(fd).text, O_PATH | O_CLOEXEC);
        rc = path_fd < 0 ? -errno
                         : nodes_adopt(&share->nodes, folder, name, path_fd, &node, &status);
        if (rc < 0) {
            close(fd);
        }
    }
    if (rc == 0) {
        rc = share_add_handle(share, fd, (uint32_t)flags, false, node->id, &out.fh);
        if (rc < 0) {
            nodes_forget(&share->nodes, node->id, 1);
        }
    }
    if (rc == 0) {
        share_fill_entry(node, &status, &entry);
        (void)!reply_put(reply, &entry, sizeof(entry)); /* there is room for both */
        (void)!reply_put(reply, &out, sizeof(out));
    }
    return rc;
}

operation_fn share_name_operation(uint32_t opcode)
{
    static const operation_fn operations[] = {
        [FUSE_LOOKUP] = do_lookup, [FUSE_SYMLINK] = do_symlink, [FUSE_MKNOD] = do_mknod,
        [FUSE_MKDIR] = do_mkdir,   [FUSE_UNLINK] = do_unlink,   [FUSE_RMDIR] = do_rmdir,
        [FUSE_RENAME] = do_rename, [FUSE_RENAME2] = do_rename2, [FUSE_LINK] = do_link,
        [FUSE_CREATE] = do_create,
    };
    return opcode < ARRAY_COUNT(operations) ? operations[opcode] : NULL;
}
