#include "share/server.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/core/bits.h"

#define OLDEST_MINOR    31u /* of FUSE 7: the first with virtio */
#define OWN_DESCRIPTORS 64u
#define MAX_DESCRIPTORS (1u << 20)
#define MIN_DESCRIPTORS 256u
#define CACHE_SECONDS   1u /* the guest believes names and attributes that long */

bool arguments_get(struct arguments *arguments, void *out_data, size_t size)
{
    if (arguments->size < size) {
        return false;
    }
    memcpy(out_data, arguments->at, size);
    arguments->at += size;
    arguments->size -= size;
    return true;
}

const char *arguments_text(struct arguments *arguments)
{
    const uint8_t *end = arguments->size > 0 ? memchr(arguments->at, '\0', arguments->size) : NULL;
    if (end == NULL) {
        return NULL;
    }
    const char *text = (const char *)arguments->at;
    arguments->size -= (size_t)(end + 1 - arguments->at);
    arguments->at = end + 1;
    return text;
}

int arguments_name(struct arguments *arguments, const char **out_name)
{
    const char *name = arguments_text(arguments);
    if (name == NULL || name[0] == '\0' || strchr(name, '/') != NULL || strcmp(name, ".") == 0 ||
        strcmp(name, "..") == 0) {
        return -EINVAL;
    }
    *out_name = name;
    return strlen(name) > NAME_MAX ? -ENAMETOOLONG : 0;
}

bool reply_put(struct reply *reply, const void *data, size_t size)
{
    if (reply->room - reply->size < size) {
        return false;
    }
    memcpy(reply->data + reply->size, data, size);
    reply->size += size;
    return true;
}

struct fd_name name_of_fd(int fd)
{
    struct fd_name name;
    (void)snprintf(name.text, sizeof(name.text), "%d", fd);
    return name;
}

void share_fill_attributes(const struct stat *status, struct fuse_attr *out_attributes)
{
    *out_attributes = (struct fuse_attr){
        .ino = status->st_ino,
        .size = (uint64_t)status->st_size,
        .blocks = (uint64_t)status->st_blocks,
        .atime = (uint64_t)status->st_atim.tv_sec,
        .mtime = (uint64_t)status->st_mtim.tv_sec,
        .ctime = (uint64_t)status->st_ctim.tv_sec,
        .atimensec = (uint32_t)status->st_atim.tv_nsec,
        .mtimensec = (uint32_t)status->st_mtim.tv_nsec,
        .ctimensec = (uint32_t)status->st_ctim.tv_nsec,
        .mode = status->st_mode,
        .nlink = (uint32_t)status->st_nlink,
        .uid = status->st_uid,
        .gid = status->st_gid,
        .rdev = (uint32_t)status->st_rdev,
        .blksize = (uint32_t)status->st_blksize,
    };
}

void share_fill_entry(const struct node *node, const struct stat *status,
                      struct fuse_entry_out *out_entry)
{
    *out_entry = (struct fuse_entry_out){.nodeid = node->id,
                                         .generation = node->generation,
                                         .entry_valid = CACHE_SECONDS,
                                         .attr_valid = CACHE_SECONDS};
    share_fill_attributes(status, &out_entry->attr);
}

struct handle *share_handle(struct share *share, uint64_t fh, bool is_folder)
{
    struct handle *handle = fh < share->handle_count ? &share->handle[fh] : NULL;
    if (handle == NULL || !handle->is_used || handle->is_folder != is_folder) {
        errno = EBADF;
        return NULL;
    }
    if (handle->fd < 0) {
        errno = ESTALE;
        return NULL;
    }
    return handle;
}

int share_add_handle(struct share *share, int fd, uint32_t flags, bool is_folder, uint64_t node_id,
                     uint64_t *out_fh)
{
    uint32_t index = 0;
    while (index < share->handle_count && share->handle[index].is_used) {
        index++;
    }
    if (index == share->handle_count) {
        uint32_t count = MIN(MAX(2 * share->handle_count, 64u), share->handle_max);
        struct handle *larger =
            count > index ? realloc(share->handle, count * sizeof(*larger)) : NULL;
        if (larger == NULL) {
            close(fd);
            return -ENFILE;
        }
        memset(larger + index, 0, (count - index) * sizeof(*larger));
        share->handle = larger;
        share->handle_count = count;
    }
    share->handle[index] = (struct handle){
        .fd = fd, .is_used = true, .is_folder = is_folder, .flags = flags, .node_id = node_id};
    *out_fh = index;
    return 0;
}

/* The guest's kernel has checked what its user may; here only the owner matters, so the right to write anywhere in the folder
 * stays. Permitted capabilities come back with the user. */
void share_become(const struct share *share, const struct fuse_in_header *head)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
    if (!share->keeps_owners) {
        return;
    }
    (void)setfsgid(head->gid);
    (void)setfsuid(head->uid);
    if (head->uid != 0 && syscall(SYS_capget, &header, data) == 0) {
        data[0].effective |= data[0].permitted & (1u << CAP_DAC_OVERRIDE);
        (void)syscall(SYS_capset, &header, data); /* else the host's permissions count */
    }
}

void share_become_self(const struct share *share)
{
    if (share->keeps_owners) {
        (void)setfsuid(geteuid());
        (void)setfsgid(getegid());
    }
}

static int do_init(struct share *share, const struct fuse_in_header *head,
                   struct arguments *arguments, struct reply *reply)
{
    struct fuse_init_in in = {0};
    size_t size = MIN(sizeof(in), arguments->size);
    if (size < offsetof(struct fuse_init_in, flags2) || !arguments_get(arguments, &in, size)) {
        return -EINVAL;
    }
    if (in.major != FUSE_KERNEL_VERSION || in.minor < OLDEST_MINOR) {
        return -EPROTO;
    }
    const uint32_t wanted = FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_PARALLEL_DIROPS |
                            FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO | FUSE_ATOMIC_O_TRUNC |
                            FUSE_HANDLE_KILLPRIV_V2 | FUSE_MAX_PAGES | FUSE_AUTO_INVAL_DATA |
                            FUSE_ASYNC_DIO | FUSE_SETXATTR_EXT;
    struct fuse_init_out out = {
        .major = FUSE_KERNEL_VERSION,
        .minor = MIN(in.minor, (uint32_t)FUSE_KERNEL_MINOR_VERSION),
        .max_readahead = in.max_readahead,
        .flags = in.flags & wanted,
        .max_background = 64,
        .congestion_threshold = 48,
        .max_write = FS_MAX_DATA,
        .time_gran = 1,
        .max_pages = FS_MAX_PAGES,
    };
    share->has_long_xattr = (out.flags & FUSE_SETXATTR_EXT) != 0;
    return reply_put(reply, &out, sizeof(out)) ? 0 : -EINVAL;
}

static int do_destroy(struct share *share, const struct fuse_in_header *head,
                      struct arguments *arguments, struct reply *reply)
{
    share_forget_all(share);
    return 0;
}

static void forget_many(struct share *share, struct arguments *arguments)
{
    struct fuse_batch_forget_in batch;
    struct fuse_forget_one one;
    if (arguments_get(arguments, &batch, sizeof(batch))) {
        for (uint32_t i = 0; i < batch.count && arguments_get(arguments, &one, sizeof(one)); i++) {
            nodes_forget(&share->nodes, one.nodeid, one.nlookup);
        }
    }
}

/* Those without a reply. False: it is none of them. */
static bool take_silent(struct share *share, const struct fuse_in_header *head,
                        struct arguments *arguments)
{
    struct fuse_forget_in forget;
    switch (head->opcode) {
    case FUSE_FORGET:
        if (arguments_get(arguments, &forget, sizeof(forget))) {
            nodes_forget(&share->nodes, head->nodeid, forget.nlookup);
        }
        return true;
    case FUSE_BATCH_FORGET:
        forget_many(share, arguments);
        return true;
    case FUSE_INTERRUPT: /* no request takes long */
        return true;
    default:
        return false;
    }
}

static bool changes_something(uint32_t opcode)
{
    switch (opcode) {
    case FUSE_SETATTR:
    case FUSE_SYMLINK:
    case FUSE_MKNOD:
    case FUSE_MKDIR:
    case FUSE_UNLINK:
    case FUSE_RMDIR:
    case FUSE_RENAME:
    case FUSE_RENAME2:
    case FUSE_LINK:
    case FUSE_WRITE:
    case FUSE_SETXATTR:
    case FUSE_REMOVEXATTR:
    case FUSE_CREATE:
    case FUSE_FALLOCATE:
    case FUSE_COPY_FILE_RANGE:
        return true;
    default:
        return false;
    }
}

static operation_fn operation_of(uint32_t opcode)
{
    if (opcode == FUSE_INIT || opcode == FUSE_DESTROY) {
        return opcode == FUSE_INIT ? do_init : do_destroy;
    }
    operation_fn operation = share_name_operation(opcode);
    operation = operation != NULL ? operation : share_file_operation(opcode);
    return operation != NULL ? operation : share_attribute_operation(opcode);
}

size_t share_serve(struct share *share, const uint8_t *request, size_t size, uint8_t *out_reply,
                   size_t room)
{
    struct fuse_in_header head;
    struct fuse_out_header out = {.len = sizeof(out)};
    struct arguments arguments = {.at = request, .size = size};
    bool has_room = room >= sizeof(out);
    struct reply reply = {.data = out_reply + sizeof(out),
                          .room = has_room ? room - sizeof(out) : 0};
    int rc;
    if (!arguments_get(&arguments, &head, sizeof(head))) {
        rc = -EINVAL;
        head.unique = 0;
    } else if (head.len != size) {
        rc = -EINVAL;
    } else if (take_silent(share, &head, &arguments)) {
        rc = -EINVAL; /* whoever waits for a reply to one of these */
    } else {
        operation_fn operation = operation_of(head.opcode);
        rc = operation == NULL ? -ENOSYS
             : share->is_readonly && changes_something(head.opcode)
                 ? -EROFS
                 : operation(share, &head, &arguments, &reply);
    }
    if (!has_room) {
        return 0;
    }
    out.unique = head.unique;
    out.error = rc;
    out.len = (uint32_t)(sizeof(out) + (rc == 0 ? reply.size : 0));
    memcpy(out_reply, &out, sizeof(out));
    return out.len;
}

/* As many as the host lets us have. */
static unsigned raise_descriptors(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0) {
        return MIN_DESCRIPTORS;
    }
    limit.rlim_max = MIN(limit.rlim_max, (rlim_t)MAX_DESCRIPTORS);
    limit.rlim_cur = limit.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &limit); /* read again below */
    (void)getrlimit(RLIMIT_NOFILE, &limit);
    return (unsigned)MIN(limit.rlim_cur, (rlim_t)MAX_DESCRIPTORS);
}

int share_init(struct share *share, int folder_fd, const char *outer_path, bool is_readonly,
               bool keeps_owners, struct error *err)
{
    *share = (struct share){.is_readonly = is_readonly, .keeps_owners = keeps_owners};
    unsigned descriptors = raise_descriptors();
    if (descriptors < MIN_DESCRIPTORS) {
        return error_set(err, EMFILE, "%u descriptors are too few: a limit of at least %u",
                         descriptors, MIN_DESCRIPTORS);
    }
    descriptors -= OWN_DESCRIPTORS;
    share->handle_max = descriptors / 4;
    share->outer_path = strdup(outer_path);
    if (share->outer_path == NULL) {
        return error_set_errno(err, ENOMEM, "the folder's path");
    }
    int rc = nodes_init(&share->nodes, folder_fd, descriptors - share->handle_max, err);
    if (rc < 0) {
        free(share->outer_path);
        share->outer_path = NULL;
    }
    return rc;
}

static void close_handles(struct share *share)
{
    for (uint32_t i = 0; i < share->handle_count; i++) {
        if (share->handle[i].is_used && share->handle[i].fd >= 0) {
            close(share->handle[i].fd);
        }
    }
    free(share->handle);
    share->handle = NULL;
    share->handle_count = 0;
}

void share_forget_all(struct share *share)
{
    close_handles(share);
    nodes_clear(&share->nodes);
}

void share_fini(struct share *share)
{
    close_handles(share);
    nodes_fini(&share->nodes);
    free(share->outer_path);
    share->outer_path = NULL;
}
