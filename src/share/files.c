/* Requests that work on open files and folders. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/core/bits.h"
#include "share/server.h"

#define FOLDER_CHUNK 32768u

static int open_node(struct share *share, uint64_t id, int flags, bool is_folder, int *out_fd)
{
    struct node *node = nodes_get(&share->nodes, id);
    if (node == NULL) {
        return -errno;
    }
    if (!S_ISREG(node->type) && !S_ISDIR(node->type)) {
        return -EPERM; /* what is behind devices, pipes and sockets is the host's */
    }
    if (S_ISDIR(node->type) != is_folder) {
        return is_folder ? -ENOTDIR : -EISDIR;
    }
    *out_fd = openat(AT_FDCWD, name_of_fd(node->fd).text, flags | O_CLOEXEC | O_NOCTTY);
    return *out_fd < 0 ? -errno : 0;
}

static int put_handle(struct share *share, int fd, int flags, bool is_folder, uint64_t id,
                      struct reply *reply)
{
    struct fuse_open_out out = {0};
    if (reply->room < sizeof(out)) {
        close(fd);
        return -EINVAL;
    }
    int rc = share_add_handle(share, fd, (uint32_t)flags, is_folder, id, &out.fh);
    if (rc == 0) {
        (void)!reply_put(reply, &out, sizeof(out)); /* there is room */
    }
    return rc;
}

static int do_open(struct share *share, const struct fuse_in_header *head,
                   struct arguments *arguments, struct reply *reply)
{
    struct fuse_open_in in;
    int fd;
    if (!arguments_get(arguments, &in, sizeof(in))) {
        return -EINVAL;
    }
    int flags = (int)(in.flags & (uint32_t)(O_ACCMODE | O_APPEND | O_TRUNC | O_SYNC | O_DSYNC));
    if (share->is_readonly && ((flags & O_ACCMODE) != O_RDONLY || (flags & O_TRUNC) != 0)) {
        return -EROFS;
    }
    int rc = open_node(share, head->nodeid, flags, false, &fd);
    return rc < 0 ? rc : put_handle(share, fd, flags & ~O_TRUNC, false, head->nodeid, reply);
}

static int do_opendir(struct share *share, const struct fuse_in_header *head,
                      struct arguments *arguments, struct reply *reply)
{
    int fd;
    int rc = open_node(share, head->nodeid, O_RDONLY | O_DIRECTORY, true, &fd);
    return rc < 0 ? rc : put_handle(share, fd, O_RDONLY | O_DIRECTORY, true, head->nodeid, reply);
}

static int release(struct share *share, struct arguments *arguments, bool is_folder)
{
    struct fuse_release_in in;
    if (!arguments_get(arguments, &in, sizeof(in)) || in.fh >= share->handle_count ||
        !share->handle[in.fh].is_used || share->handle[in.fh].is_folder != is_folder) {
        return -EBADF;
    }
    struct handle *handle = &share->handle[in.fh];
    if (handle->fd >= 0) {
        close(handle->fd);
    }
    *handle = (struct handle){.fd = -1};
    return 0;
}

static int do_release(struct share *share, const struct fuse_in_header *head,
                      struct arguments *arguments, struct reply *reply)
{
    return release(share, arguments, false);
}

static int do_releasedir(struct share *share, const struct fuse_in_header *head,
                         struct arguments *arguments, struct reply *reply)
{
    return release(share, arguments, true);
}

static int do_read(struct share *share, const struct fuse_in_header *head,
                   struct arguments *arguments, struct reply *reply)
{
    struct fuse_read_in in;
    if (!arguments_get(arguments, &in, sizeof(in))) {
        return -EINVAL;
    }
    struct handle *handle = share_handle(share, in.fh, false);
    if (handle == NULL) {
        return -errno;
    }
    if (in.offset > INT64_MAX) {
        return -EINVAL;
    }
    ssize_t got = pread(handle->fd, reply->data, MIN(in.size, reply->room), (off_t)in.offset);
    if (got < 0) {
        return -errno;
    }
    reply->size = (size_t)got;
    return 0;
}

static int do_write(struct share *share, const struct fuse_in_header *head,
                    struct arguments *arguments, struct reply *reply)
{
    struct fuse_write_in in;
    if (!arguments_get(arguments, &in, sizeof(in)) || in.size > arguments->size ||
        in.offset > INT64_MAX) {
        return -EINVAL;
    }
    struct handle *handle = share_handle(share, in.fh, false);
    if (handle == NULL) {
        return -errno;
    }
    ssize_t done = pwrite(handle->fd, arguments->at, in.size, (off_t)in.offset);
    struct fuse_write_out out = {.size = done < 0 ? 0 : (uint32_t)done};
    return done < 0 ? -errno : reply_put(reply, &out, sizeof(out)) ? 0 : -EINVAL;
}

/* The host has each write at once: there is nothing to do. */
static int do_flush(struct share *share, const struct fuse_in_header *head,
                    struct arguments *arguments, struct reply *reply)
{
    return 0;
}

static int sync_handle(struct share *share, struct arguments *arguments, bool is_folder)
{
    struct fuse_fsync_in in;
    if (!arguments_get(arguments, &in, sizeof(in))) {
        return -EINVAL;
    }
    struct handle *handle = share_handle(share, in.fh, is_folder);
    if (handle == NULL) {
        return -errno;
    }
    bool is_data_enough = (in.fsync_flags & FUSE_FSYNC_FDATASYNC) != 0;
    return (is_data_enough ? fdatasync(handle->fd) : fsync(handle->fd)) < 0 ? -errno : 0;
}

static int do_fsync(struct share *share, const struct fuse_in_header *head,
                    struct arguments *arguments, struct reply *reply)
{
    return sync_handle(share, arguments, false);
}

static int do_fsyncdir(struct share *share, const struct fuse_in_header *head,
                       struct arguments *arguments, struct reply *reply)
{
    return sync_handle(share, arguments, true);
}

static int do_fallocate(struct share *share, const struct fuse_in_header *head,
                        struct arguments *arguments, struct reply *reply)
{
    struct fuse_fallocate_in in;
    if (!arguments_get(arguments, &in, sizeof(in)) || in.offset > INT64_MAX ||
        in.length > INT64_MAX) {
        return -EINVAL;
    }
    struct handle *handle = share_handle(share, in.fh, false);
    if (handle == NULL) {
        return -errno;
    }
    return fallocate(handle->fd, (int)in.mode, (off_t)in.offset, (off_t)in.length) < 0 ? -errno : 0;
}

static int do_lseek(struct share *share, const struct fuse_in_header *head,
                    struct arguments *arguments, struct reply *reply)
{
    struct fuse_lseek_in in;
    if (!arguments_get(arguments, &in, sizeof(in))) {
        return -EINVAL;
    }
    struct handle *handle = share_handle(share, in.fh, false);
    if (handle == NULL) {
        return -errno;
    }
    if (in.whence != SEEK_DATA && in.whence != SEEK_HOLE) {
        return -EINVAL; /* the others are the guest's own */
    }
    off_t at = lseek(handle->fd, (off_t)in.offset, (int)in.whence);
    struct fuse_lseek_out out = {.offset = (uint64_t)at};
    return at < 0 ? -errno : reply_put(reply, &out, sizeof(out)) ? 0 : -EINVAL;
}

static int do_copy_file_range(struct share *share, const struct fuse_in_header *head,
                              struct arguments *arguments, struct reply *reply)
{
    struct fuse_copy_file_range_in in;
    if (!arguments_get(arguments, &in, sizeof(in))) {
        return -EINVAL;
    }
    struct handle *from = share_handle(share, in.fh_in, false);
    struct handle *to = from != NULL ? share_handle(share, in.fh_out, false) : NULL;
    if (to == NULL) {
        return -errno;
    }
    /* In pieces: others' requests wait meanwhile, and the guest asks for the rest. */
    off_t from_offset = (off_t)in.off_in, to_offset = (off_t)in.off_out;
    ssize_t done =
        copy_file_range(from->fd, &from_offset, to->fd, &to_offset, MIN(in.len, 64ull << 20), 0);
    struct fuse_write_out out = {.size = (uint32_t)done};
    return done < 0 ? -errno : reply_put(reply, &out, sizeof(out)) ? 0 : -EINVAL;
}

/* Folders. */

static bool is_dot(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

/* False: no room for it. */
static bool put_name(struct share *share, struct node *folder, const struct dirent64 *entry,
                     bool is_plus, struct reply *reply)
{
    static const uint8_t padding[8];
    struct fuse_dirent out = {.ino = entry->d_ino,
                              .off = (uint64_t)entry->d_off,
                              .namelen = (uint32_t)strlen(entry->d_name),
                              .type = entry->d_type};
    struct fuse_entry_out plus = {0};
    size_t size = offsetof(struct fuse_dirent, name) + out.namelen;
    size_t gap = align_up(size, 8) - size;
    if (reply->room - reply->size < (is_plus ? sizeof(plus) : 0) + size + gap) {
        return false;
    }
    if (is_plus) {
        struct node *node;
        struct stat status;
        /* Without a node the guest looks the name up when it wants it. */
        if (!is_dot(entry->d_name) &&
            nodes_look_up(&share->nodes, folder, entry->d_name, &node, &status) == 0) {
            share_fill_entry(node, &status, &plus);
        }
        (void)!reply_put(reply, &plus, sizeof(plus)); /* there is room for all */
    }
    (void)!reply_put(reply, &out, offsetof(struct fuse_dirent, name));
    (void)!reply_put(reply, entry->d_name, out.namelen);
    (void)!reply_put(reply, padding, gap);
    return true;
}

static int read_folder(struct share *share, const struct fuse_in_header *head,
                       struct arguments *arguments, struct reply *reply, bool is_plus)
{
    struct fuse_read_in in;
    _Alignas(struct dirent64) char chunk[FOLDER_CHUNK];
    if (!arguments_get(arguments, &in, sizeof(in))) {
        return -EINVAL;
    }
    struct node *folder = nodes_get(&share->nodes, head->nodeid);
    if (folder == NULL || !S_ISDIR(folder->type)) {
        return folder == NULL ? -errno : -ENOTDIR;
    }
    struct handle *handle = share_handle(share, in.fh, true);
    if (handle == NULL || lseek(handle->fd, (off_t)in.offset, SEEK_SET) < 0) {
        return -errno;
    }
    reply->room = MIN(reply->room, in.size);
    for (;;) {
        ssize_t got = getdents64(handle->fd, chunk, sizeof(chunk));
        if (got <= 0) {
            return got == 0 || reply->size > 0 ? 0 : -errno;
        }
        for (ssize_t at = 0; at < got;) {
            const struct dirent64 *entry = (const void *)(chunk + at);
            if (!put_name(share, folder, entry, is_plus, reply)) {
                return reply->size > 0 ? 0 : -EINVAL;
            }
            at += entry->d_reclen;
        }
    }
}

static int do_readdir(struct share *share, const struct fuse_in_header *head,
                      struct arguments *arguments, struct reply *reply)
{
    return read_folder(share, head, arguments, reply, false);
}

static int do_readdirplus(struct share *share, const struct fuse_in_header *head,
                          struct arguments *arguments, struct reply *reply)
{
    return read_folder(share, head, arguments, reply, true);
}

operation_fn share_file_operation(uint32_t opcode)
{
    static const operation_fn operations[] = {
        [FUSE_OPEN] = do_open,
        [FUSE_READ] = do_read,
        [FUSE_WRITE] = do_write,
        [FUSE_RELEASE] = do_release,
        [FUSE_FSYNC] = do_fsync,
        [FUSE_FLUSH] = do_flush,
        [FUSE_OPENDIR] = do_opendir,
        [FUSE_READDIR] = do_readdir,
        [FUSE_RELEASEDIR] = do_releasedir,
        [FUSE_FSYNCDIR] = do_fsyncdir,
        [FUSE_FALLOCATE] = do_fallocate,
        [FUSE_READDIRPLUS] = do_readdirplus,
        [FUSE_LSEEK] = do_lseek,
        [FUSE_COPY_FILE_RANGE] = do_copy_file_range,
    };
    return opcode < ARRAY_COUNT(operations) ? operations[opcode] : NULL;
}
