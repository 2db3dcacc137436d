/* The server's state in a save: files by path and open files by node, so that a restored guest goes on with both. A file that has
 * no name any more, or is another one by then, is stale to the guest. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/core/archive.h"
#include "base/core/bits.h"
#include "share/server.h"

#define STATE_VERSION 1u

struct buffer {
    uint8_t *data;
    size_t size, capacity;
};

static int append(void *ctx, const void *data, size_t size)
{
    struct buffer *buffer = ctx;
    if (buffer->capacity - buffer->size < size) {
        size_t capacity = buffer->capacity * 2 + size + 4096;
        uint8_t *larger = capacity <= FS_MAX_STATE ? realloc(buffer->data, capacity) : NULL;
        if (larger == NULL) {
            return -ENOMEM;
        }
        buffer->data = larger;
        buffer->capacity = capacity;
    }
    memcpy(buffer->data + buffer->size, data, size);
    buffer->size += size;
    return 0;
}

/* The node's path from the folder on; "" if it has none any more. */
static void path_of(struct share *share, const struct node *node, char *out_path)
{
    char name[NAME_MAX + 2] = "";
    const struct node *at = node;
    if (node->fd < 0 && node->folder != NULL) {
        at = node->folder;
        name[0] = '/';
        memcpy(name + 1, node->name, strlen(node->name) + 1); /* the kernel knew it as a name */
    }
    char path[PATH_MAX];
    ssize_t size =
        at->fd < 0 ? -1 : readlinkat(AT_FDCWD, name_of_fd(at->fd).text, path, PATH_MAX - 1);
    size_t outer = strlen(share->outer_path);
    out_path[0] = '\0';
    if (size < 0 || (size_t)size < outer || memcmp(path, share->outer_path, outer) != 0 ||
        (size_t)size - outer + strlen(name) >= PATH_MAX) {
        return;
    }
    path[size] = '\0';
    const char *inner = path + outer;
    inner += inner[0] == '/';
    size_t length = strlen(inner);
    memcpy(out_path, inner, length + 1);
    memcpy(out_path + length, name + (length == 0 && name[0] == '/'), strlen(name) + 1);
}

static void save_nodes(struct share *share, struct archive_writer *writer)
{
    const struct nodes *nodes = &share->nodes;
    char path[PATH_MAX + NAME_MAX + 2];
    archive_put_u64(writer, nodes->generation);
    for (uint32_t i = 1; i < nodes->used; i++) {
        const struct node *node = nodes->by_id[i];
        if (node == NULL || node->lookups == 0) {
            continue;
        }
        path_of(share, node, path);
        archive_put_u64(writer, node->id);
        archive_put_u64(writer, node->generation);
        archive_put_u64(writer, node->lookups);
        archive_put_u64(writer, node->ino);
        archive_put_u32(writer, node->type);
        archive_put_blob(writer, path, (uint32_t)strlen(path));
    }
    archive_put_u64(writer, 0); /* no node has this id */
}

uint8_t *share_save(struct share *share, size_t *out_size)
{
    struct buffer buffer = {0};
    struct archive_writer writer = {.write = append, .ctx = &buffer};
    archive_put_u32(&writer, STATE_VERSION);
    archive_put_bool(&writer, share->has_long_xattr);
    save_nodes(share, &writer);
    archive_put_u32(&writer, share->handle_count);
    for (uint32_t i = 0; i < share->handle_count; i++) {
        const struct handle *handle = &share->handle[i];
        archive_put_bool(&writer, handle->is_used);
        if (handle->is_used) {
            archive_put_bool(&writer, handle->is_folder);
            archive_put_u32(&writer, handle->flags);
            archive_put_u64(&writer, handle->node_id);
        }
    }
    if (writer.status < 0) {
        free(buffer.data);
        return NULL;
    }
    *out_size = buffer.size;
    return buffer.data;
}

static int open_path(const struct share *share, const char *path)
{
    const struct open_how how = {.flags = O_PATH | O_NOFOLLOW | O_CLOEXEC,
                                 .resolve =
                                     RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS};
    return (int)syscall(SYS_openat2, share->nodes.root->fd, path, &how, sizeof(how));
}

/* The file of a saved node, if it is still the same; -1. */
static int find_again(struct share *share, struct node *what, const uint8_t *path, uint32_t size)
{
    char text[PATH_MAX + NAME_MAX + 2];
    struct stat status;
    memcpy(text, path, size);
    text[size] = '\0';
    int fd =
        size == 0 || share->nodes.open_count >= share->nodes.open_max ? -1 : open_path(share, text);
    if (fd >= 0 && (fstat(fd, &status) < 0 || status.st_ino != what->ino ||
                    (status.st_mode & S_IFMT) != what->type)) {
        close(fd);
        fd = -1;
    }
    if (fd >= 0) {
        what->dev = status.st_dev;
    }
    return fd;
}

static int restore_nodes(struct share *share, struct archive_reader *reader)
{
    share->nodes.generation = archive_get_u64(reader);
    uint64_t id = archive_get_u64(reader);
    for (; id != 0; id = archive_get_u64(reader)) {
        struct node what = {.id = id,
                            .generation = archive_get_u64(reader),
                            .lookups = archive_get_u64(reader),
                            .ino = archive_get_u64(reader),
                            .type = archive_get_u32(reader) & S_IFMT};
        uint32_t size;
        const uint8_t *path = archive_get_blob(reader, PATH_MAX + NAME_MAX, &size);
        if (reader->status < 0) {
            return reader->status;
        }
        int fd = find_again(share, &what, path, size);
        if (nodes_restore(&share->nodes, &what, fd) == NULL) {
            if (fd >= 0) {
                close(fd);
            }
            return -EINVAL;
        }
    }
    return reader->status;
}

static int open_handle(struct share *share, const struct handle *handle)
{
    const int known = O_ACCMODE | O_APPEND | O_SYNC | O_DSYNC | O_DIRECTORY;
    struct node *node = nodes_get(&share->nodes, handle->node_id);
    int flags = (int)handle->flags & known;
    if (node == NULL || !(S_ISREG(node->type) || S_ISDIR(node->type)) ||
        S_ISDIR(node->type) != handle->is_folder ||
        (share->is_readonly && (flags & O_ACCMODE) != O_RDONLY)) {
        return -1;
    }
    return openat(AT_FDCWD, name_of_fd(node->fd).text, flags | O_CLOEXEC | O_NOCTTY);
}

static int restore_handles(struct share *share, struct archive_reader *reader)
{
    uint32_t count = archive_get_u32(reader);
    if (count > share->handle_max || count > reader->size) {
        return -EINVAL;
    }
    share->handle = calloc(count + 1ul, sizeof(*share->handle));
    if (share->handle == NULL) {
        return -ENOMEM;
    }
    share->handle_count = count;
    for (uint32_t i = 0; i < count; i++) {
        struct handle *handle = &share->handle[i];
        handle->fd = -1;
        handle->is_used = archive_get_bool(reader);
        if (handle->is_used) {
            handle->is_folder = archive_get_bool(reader);
            handle->flags = archive_get_u32(reader);
            handle->node_id = archive_get_u64(reader);
            handle->fd = open_handle(share, handle);
        }
    }
    return reader->status;
}

int share_restore(struct share *share, const uint8_t *state, size_t size)
{
    struct archive_reader reader;
    share_forget_all(share);
    archive_reader_init(&reader, state, size);
    if (archive_get_u32(&reader) != STATE_VERSION) {
        return -EINVAL;
    }
    share->has_long_xattr = archive_get_bool(&reader);
    int rc = restore_nodes(share, &reader);
    if (rc == 0) {
        rc = restore_handles(share, &reader);
    }
    if (rc == 0) {
        rc = archive_finish(&reader, NULL);
    }
    if (rc < 0) {
        share_forget_all(share);
    }
    return rc;
}
