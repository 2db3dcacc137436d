/* A file system of FUSE with the files of views_files. The protocol is <linux/fuse.h>'s. */
#include "system/views/fuse.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "system/views/views.h"

/* Nodes: the root, one folder, the files. */
#define NODE_ROOT   FUSE_ROOT_ID
#define NODE_FOLDER 2
#define NODE_FILES  3
#define FOLDER      "pressure"

#define FOREVER_S    (UINT64_C(365) * 24 * 3600) /* names and attributes never change */
#define OLDEST_MINOR 23                          /* whose answer to INIT has all its members */
#define PAGE         4096

void fuse_server_init(struct fuse_server *server, fuse_render_fn render, void *ctx, uint64_t made_s)
{
    *server = (struct fuse_server){.render = render, .ctx = ctx, .made_s = made_s};
}

void fuse_server_fini(struct fuse_server *server)
{
    for (size_t i = 0; i < FUSE_MAX_SNAPSHOTS; i++) {
        text_fini(&server->snapshot[i].text);
    }
}

/* The file of a node; NULL: it is a folder, or none. */
static const struct views_file *node_file(uint64_t node)
{
    for (uint64_t i = 0; i < FUSE_MAX_FILES && views_files[i].name != NULL; i++) {
        if (i + NODE_FILES == node) {
            return &views_files[i];
        }
    }
    return NULL;
}

static bool is_folder(uint64_t node)
{
    return node == NODE_ROOT || node == NODE_FOLDER;
}

/* The folder that a file is in, and its name there. */
static uint64_t file_parent(const struct views_file *file, const char **out_name)
{
    const char *slash = strchr(file->name, '/');
    *out_name = slash == NULL ? file->name : slash + 1;
    return slash == NULL ? NODE_ROOT : NODE_FOLDER;
}

static void fill_attributes(const struct fuse_server *server, uint64_t node, struct fuse_attr *attr)
{
    const struct views_file *file = node_file(node);
    *attr = (struct fuse_attr){
        .ino = node,
        .atime = server->made_s,
        .mtime = server->made_s,
        .ctime = server->made_s,
        .mode = file != NULL ? S_IFREG | 0444 : S_IFDIR | 0555,
        .nlink = file != NULL ? 1 : 2,
        .size = file != NULL ? server->size[node - NODE_FILES] : 0,
        .blksize = 4096,
    };
}

static void reply_with(struct fuse_reply *reply, const void *data, size_t size)
{
    reply->data = data;
    reply->header.len += (uint32_t)size;
}

/* Each answers one kind of request: 0 or -errno. 'in' is what follows the header, of at least the size that the table below
 * says. */
typedef int (*answer_fn)(struct fuse_server *server, const struct fuse_in_header *header,
                         const void *in, size_t size, struct fuse_reply *reply);

static int answer_init(struct fuse_server *server, const struct fuse_in_header *header,
                       const void *in, size_t size, struct fuse_reply *reply)
{
    const struct fuse_init_in *init = in;
    if (init->major < FUSE_KERNEL_VERSION ||
        (init->major == FUSE_KERNEL_VERSION && init->minor < OLDEST_MINOR)) {
        return -EPROTO;
    }
    /* A newer kernel asks again with our version. */
    reply->body.init = (struct fuse_init_out){
        .major = FUSE_KERNEL_VERSION,
        .minor = FUSE_KERNEL_MINOR_VERSION,
        .max_readahead = 0,
        .flags = init->flags & FUSE_PARALLEL_DIROPS,
        .max_write = 4096,
        .time_gran = 1,
    };
    reply_with(reply, &reply->body.init, sizeof(reply->body.init));
    return 0;
}

static int answer_lookup(struct fuse_server *server, const struct fuse_in_header *header,
                         const void *in, size_t size, struct fuse_reply *reply)
{
    const char *name = in;
    if (!is_folder(header->nodeid)) {
        return -ENOTDIR;
    }
    if (memchr(name, '\0', size) == NULL) {
        return -EINVAL;
    }
    uint64_t node = 0;
    if (header->nodeid == NODE_ROOT && strcmp(name, FOLDER) == 0) {
        node = NODE_FOLDER;
    }
    for (uint64_t i = 0; node == 0 && views_files[i].name != NULL; i++) {
        const char *file_name;
        if (file_parent(&views_files[i], &file_name) == header->nodeid &&
            strcmp(name, file_name) == 0) {
            node = i + NODE_FILES;
        }
    }
    if (node == 0) {
        return -ENOENT;
    }
    reply->body.entry = (struct fuse_entry_out){
        .nodeid = node,
        .entry_valid = FOREVER_S,
        .attr_valid = FOREVER_S,
    };
    fill_attributes(server, node, &reply->body.entry.attr);
    reply_with(reply, &reply->body.entry, sizeof(reply->body.entry));
    return 0;
}

static int answer_getattr(struct fuse_server *server, const struct fuse_in_header *header,
                          const void *in, size_t size, struct fuse_reply *reply)
{
    if (!is_folder(header->nodeid) && node_file(header->nodeid) == NULL) {
        return -ENOENT;
    }
    reply->body.attr = (struct fuse_attr_out){.attr_valid = FOREVER_S};
    fill_attributes(server, header->nodeid, &reply->body.attr.attr);
    reply_with(reply, &reply->body.attr, sizeof(reply->body.attr));
    return 0;
}

static struct fuse_snapshot *find_snapshot(struct fuse_server *server, uint64_t handle)
{
    for (size_t i = 0; i < FUSE_MAX_SNAPSHOTS && handle != 0; i++) {
        if (server->snapshot[i].handle == handle) {
            return &server->snapshot[i];
        }
    }
    return NULL;
}

static void drop_snapshot(struct fuse_snapshot *snapshot)
{
    text_fini(&snapshot->text);
    snapshot->handle = 0;
}

/* A free one; the one that was not used for the longest time goes for it. */
static struct fuse_snapshot *take_snapshot(struct fuse_server *server)
{
    struct fuse_snapshot *oldest = &server->snapshot[0];
    for (size_t i = 0; i < FUSE_MAX_SNAPSHOTS; i++) {
        if (server->snapshot[i].handle == 0) {
            return &server->snapshot[i];
        }
        if (server->snapshot[i].used < oldest->used) {
            oldest = &server->snapshot[i];
        }
    }
    drop_snapshot(oldest);
    return oldest;
}

/* Of others than 'kept', until all fit. */
static void drop_old_snapshots(struct fuse_server *server, const struct fuse_snapshot *kept)
{
    for (;;) {
        size_t sum = 0;
        struct fuse_snapshot *oldest = NULL;
        for (size_t i = 0; i < FUSE_MAX_SNAPSHOTS; i++) {
            struct fuse_snapshot *snapshot = &server->snapshot[i];
            sum += snapshot->text.capacity;
            if (snapshot != kept && snapshot->handle != 0 &&
                (oldest == NULL || snapshot->used < oldest->used)) {
                oldest = snapshot;
            }
        }
        if (sum <= FUSE_MAX_SNAPSHOT_SIZE || oldest == NULL) {
            return;
        }
        drop_snapshot(oldest);
    }
}

static int render(struct fuse_server *server, const struct fuse_in_header *header,
                  struct fuse_snapshot *snapshot, uint64_t handle)
{
    text_fini(&snapshot->text);
    server->render(server->ctx, (unsigned)(node_file(header->nodeid) - views_files),
                   (pid_t)header->pid, &snapshot->text);
    if (snapshot->text.is_failed) {
        drop_snapshot(snapshot);
        return -ENOMEM;
    }
    snapshot->handle = handle;
    snapshot->used = ++server->last_use;
    drop_old_snapshots(server, snapshot);
    return 0;
}

static int answer_open(struct fuse_server *server, const struct fuse_in_header *header,
                       const void *in, size_t size, struct fuse_reply *reply)
{
    const struct fuse_open_in *open = in;
    if (node_file(header->nodeid) == NULL) {
        return is_folder(header->nodeid) ? -EISDIR : -ENOENT;
    }
    if ((open->flags & O_ACCMODE) != O_RDONLY) {
        return -EACCES;
    }
    struct fuse_snapshot *snapshot = take_snapshot(server);
    int rc = render(server, header, snapshot, server->last_handle + 1);
    if (rc < 0) {
        return rc;
    }
    snapshot->is_new = true;
    server->size[header->nodeid - NODE_FILES] = (snapshot->text.size + PAGE - 1) / PAGE * PAGE;
    reply->opened = snapshot->text.size != 0 ? header->nodeid : 0;
    reply->opened_size = server->size[header->nodeid - NODE_FILES];
    reply->body.open = (struct fuse_open_out){
        .fh = ++server->last_handle,
        .open_flags = FOPEN_DIRECT_IO | FOPEN_NOFLUSH, /* closing waits for nobody */
    };
    reply_with(reply, &reply->body.open, sizeof(reply->body.open));
    return 0;
}

void fuse_server_grow(const struct fuse_reply *opened, struct fuse_growth *out)
{
    memset(out, 0, sizeof(*out));
    out->store = (struct fuse_notify_store_out){
        .nodeid = opened->opened, .offset = opened->opened_size - 1, .size = 1};
    out->header = (struct fuse_out_header){
        .len = (uint32_t)(offsetof(struct fuse_growth, byte) + 1),
        .error = FUSE_NOTIFY_STORE,
    };
}

static int answer_read(struct fuse_server *server, const struct fuse_in_header *header,
                       const void *in, size_t size, struct fuse_reply *reply)
{
    const struct fuse_read_in *read = in;
    if (node_file(header->nodeid) == NULL || read->fh == 0 || read->fh > server->last_handle) {
        return -EBADF;
    }
    struct fuse_snapshot *snapshot = find_snapshot(server, read->fh);
    bool is_first = snapshot != NULL && snapshot->is_new;
    if (snapshot == NULL || (read->offset == 0 && !is_first)) {
        /* As in /proc, who goes back sees what is now. */
        snapshot = snapshot == NULL ? take_snapshot(server) : snapshot;
        int rc = render(server, header, snapshot, read->fh);
        if (rc < 0) {
            return rc;
        }
    }
    snapshot->is_new = false;
    snapshot->used = ++server->last_use;
    if (read->offset < snapshot->text.size) {
        reply_with(reply, snapshot->text.data + read->offset,
                   MIN((size_t)read->size, snapshot->text.size - (size_t)read->offset));
    }
    return 0;
}

static int answer_release(struct fuse_server *server, const struct fuse_in_header *header,
                          const void *in, size_t size, struct fuse_reply *reply)
{
    const struct fuse_release_in *release = in;
    struct fuse_snapshot *snapshot = find_snapshot(server, release->fh);
    if (snapshot != NULL) {
        drop_snapshot(snapshot);
    }
    return 0;
}

/* A folder's entry number 'index', with "." and ".." first; false: there is none. */
static bool find_entry(uint64_t folder, uint64_t index, uint64_t *out_node, const char **out_name)
{
    uint64_t next = 2;
    if (index < next) {
        *out_node = index == 0 ? folder : NODE_ROOT;
        *out_name = index == 0 ? "." : "..";
        return true;
    }
    if (folder == NODE_ROOT && index == next++) {
        *out_node = NODE_FOLDER;
        *out_name = FOLDER;
        return true;
    }
    for (uint64_t i = 0; views_files[i].name != NULL; i++) {
        if (file_parent(&views_files[i], out_name) == folder && index == next++) {
            *out_node = i + NODE_FILES;
            return true;
        }
    }
    return false;
}

static int answer_readdir(struct fuse_server *server, const struct fuse_in_header *header,
                          const void *in, size_t size, struct fuse_reply *reply)
{
    const struct fuse_read_in *read = in;
    if (!is_folder(header->nodeid)) {
        return -ENOTDIR;
    }
    size_t room = MIN((size_t)read->size, sizeof(reply->body.entries)), used = 0;
    uint64_t node;
    const char *name;
    for (uint64_t i = read->offset; find_entry(header->nodeid, i, &node, &name); i++) {
        struct fuse_dirent entry = {
            .ino = node,
            .off = i + 1,
            .namelen = (uint32_t)strlen(name),
            .type = (is_folder(node) ? S_IFDIR : S_IFREG) >> 12,
        };
        size_t whole = FUSE_DIRENT_SIZE(&entry);
        if (whole > room - used) {
            break;
        }
        char *at = reply->body.entries + used;
        memset(at, 0, whole);
        memcpy(at, &entry, FUSE_NAME_OFFSET);
        memcpy(at + FUSE_NAME_OFFSET, name, entry.namelen);
        used += whole;
    }
    reply_with(reply, reply->body.entries, used);
    return 0;
}

static int answer_statfs(struct fuse_server *server, const struct fuse_in_header *header,
                         const void *in, size_t size, struct fuse_reply *reply)
{
    reply->body.statfs = (struct fuse_statfs_out){
        .st = {.bsize = 4096, .frsize = 4096, .namelen = 255},
    };
    reply_with(reply, &reply->body.statfs, sizeof(reply->body.statfs));
    return 0;
}

/* With default_permissions the kernel looks at the modes itself. */
static int answer_access(struct fuse_server *server, const struct fuse_in_header *header,
                         const void *in, size_t size, struct fuse_reply *reply)
{
    const struct fuse_access_in *access = in;
    return (access->mask & 2) != 0 ? -EACCES : 0;
}

static int answer_nothing_to_do(struct fuse_server *server, const struct fuse_in_header *header,
                                const void *in, size_t size, struct fuse_reply *reply)
{
    return 0;
}

/* Nodes stay, and whatever would be interrupted is answered already. */
static int answer_not_at_all(struct fuse_server *server, const struct fuse_in_header *header,
                             const void *in, size_t size, struct fuse_reply *reply)
{
    reply->is_none = true;
    return 0;
}

/* INIT of old kernels ends before its second flags. */
#define INIT_SIZE offsetof(struct fuse_init_in, flags2)

static const struct {
    answer_fn answer;
    size_t size; /* what has to follow the header */
} answers[] = {
    [FUSE_INIT] = {answer_init, INIT_SIZE},
    [FUSE_LOOKUP] = {answer_lookup, 1},
    [FUSE_GETATTR] = {answer_getattr, 0},
    [FUSE_OPEN] = {answer_open, sizeof(struct fuse_open_in)},
    [FUSE_READ] = {answer_read, sizeof(struct fuse_read_in)},
    [FUSE_RELEASE] = {answer_release, sizeof(struct fuse_release_in)},
    [FUSE_READDIR] = {answer_readdir, sizeof(struct fuse_read_in)},
    [FUSE_STATFS] = {answer_statfs, 0},
    [FUSE_ACCESS] = {answer_access, sizeof(struct fuse_access_in)},
    [FUSE_DESTROY] = {answer_nothing_to_do, 0},
    [FUSE_FORGET] = {answer_not_at_all, 0},
    [FUSE_BATCH_FORGET] = {answer_not_at_all, 0},
    [FUSE_INTERRUPT] = {answer_not_at_all, 0},
};

void fuse_server_answer(struct fuse_server *server, const void *request, size_t size,
                        struct fuse_reply *out_reply)
{
    const struct fuse_in_header *header = request;
    out_reply->is_none = false;
    out_reply->opened = 0;
    out_reply->data = NULL;
    out_reply->header = (struct fuse_out_header){.len = sizeof(out_reply->header)};
    if (size < sizeof(*header)) {
        out_reply->is_none = true;
        return;
    }
    out_reply->header.unique = header->unique;
    const void *in = header + 1;
    size -= sizeof(*header);
    int rc = -ENOSYS;
    if (header->opcode < ARRAY_COUNT(answers) && answers[header->opcode].answer != NULL) {
        rc = size < answers[header->opcode].size
                 ? -EINVAL
                 : answers[header->opcode].answer(server, header, in, size, out_reply);
    }
    if (rc < 0) {
        out_reply->header.error = rc;
        out_reply->header.len = sizeof(out_reply->header);
    }
}
