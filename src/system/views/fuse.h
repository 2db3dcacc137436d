/* A file system of FUSE with the files of views_files, as answers to the kernel's requests: no descriptor, no system call here.
 *
 * By hand instead of libfuse3: the tree is fixed and read-only, so that 14 kinds of requests are all there is, and the keeper,
 * of which hundreds run, needs neither its threads, options, signal handlers and 128 KiB buffers nor a library that Debian has
 * only shared. */
#ifndef SYSTEM_VIEWS_FUSE_H
#define SYSTEM_VIEWS_FUSE_H

#include <linux/fuse.h>
#include <stdint.h>
#include <sys/types.h>

#include "system/views/text.h"

/* Of what the device takes: the kernel's requests are smaller, as nothing is written here. */
#define FUSE_REQUEST_MAX FUSE_MIN_READ_BUFFER

/* What the file views_files[file] shows now; 'reader' is the process that asks (0: not known). */
typedef void (*fuse_render_fn)(void *ctx, unsigned file, pid_t reader, struct text *text);

/* Open files keep what their first read found, so that small reads fit together. There are so many of them only; who opens more
 * has the oldest rendered again. */
#define FUSE_MAX_SNAPSHOTS     32
#define FUSE_MAX_SNAPSHOT_SIZE ((size_t)2 << 20) /* of all of them */

#define FUSE_MAX_FILES 32

struct fuse_snapshot {
    uint64_t handle; /* 0: free */
    uint64_t used;   /* the order of uses */
    bool is_new;     /* nobody has read it yet */
    struct text text;
};

struct fuse_server {
    fuse_render_fn render;
    void *ctx;
    uint64_t made_s; /* time of the files, since 1970 */
    uint64_t last_handle, last_use;
    uint64_t size[FUSE_MAX_FILES]; /* of views_files, when each was opened last; in whole pages */
    struct fuse_snapshot snapshot[FUSE_MAX_SNAPSHOTS];
};

struct fuse_reply {
    bool is_none;    /* that kind of request has no reply */
    uint64_t opened; /* a file that is being opened: fuse_server_grow goes first; 0: none */
    uint64_t opened_size;
    struct fuse_out_header header;
    const void *data; /* header.len - sizeof(header) bytes, until the next request */
    union {
        struct fuse_init_out init;
        struct fuse_entry_out entry;
        struct fuse_attr_out attr;
        struct fuse_open_out open;
        struct fuse_statfs_out statfs;
        char entries[1024];
    } body;
};

void fuse_server_init(struct fuse_server *server, fuse_render_fn render, void *ctx,
                      uint64_t made_s);
void fuse_server_fini(struct fuse_server *server);
/* sendfile(2) and splice(2) go by the page cache and the size that the kernel believes, which shrinks to what a short read has
 * found. This message (FUSE_NOTIFY_STORE) makes it as large again as the content, in whole pages, before each open; so programs
 * that begin at a file's end (tail) find it, too. */
struct fuse_growth {
    struct fuse_out_header header;
    struct fuse_notify_store_out store;
    char byte;
};
void fuse_server_grow(const struct fuse_reply *opened, struct fuse_growth *out_growth);

/* 'request' is one request in whole, aligned as malloc does. */
void fuse_server_answer(struct fuse_server *server, const void *request, size_t size,
                        struct fuse_reply *out_reply);

#endif
