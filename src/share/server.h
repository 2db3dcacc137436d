/* The FUSE server (linux/fuse.h) of one folder: a request in, its reply out. Requests come from the guest's kernel, or from an enemy:
 * each is checked, and nothing that it can say leads out of the folder: names are single words, symbolic links are never followed
 * here, and files are opened by their nodes alone, if they are regular.
 *
 * The working directory is /proc/self/fd: "N" there is the file behind descriptor N, also where that one is O_PATH. */
#ifndef SHARE_SERVER_H
#define SHARE_SERVER_H

#include <linux/fuse.h>
#include <stddef.h>

#include "device/virtio/fs_wire.h"
#include "share/nodes.h"

struct handle {
    int fd; /* -1: free, or (is_used) not to be had again after a restore */
    bool is_used, is_folder;
    uint32_t flags; /* of open(2), for a save */
    uint64_t node_id;
};

struct share {
    struct nodes nodes;
    bool is_readonly;
    bool keeps_owners; /* files belong to who made them in the guest; else to who runs this */
    char *outer_path;  /* of the folder as /proc shows it, "" where it is the root */
    struct handle *handle;
    uint32_t handle_count, handle_max;
    bool has_long_xattr; /* FUSE_SETXATTR_EXT */
};

/* The rest of a request. */
struct arguments {
    const uint8_t *at;
    size_t size;
};
struct reply {
    uint8_t *data; /* behind the header */
    size_t room, size;
};

typedef int (*operation_fn)(struct share *share, const struct fuse_in_header *head,
                            struct arguments *arguments, struct reply *reply);

/* 'folder_fd' is an O_PATH descriptor, owned from then on if it works; the working directory is to be /proc/self/fd. */
int must_check share_init(struct share *share, int folder_fd, const char *outer_path,
                          bool is_readonly, bool keeps_owners, struct error *err);
void share_fini(struct share *share);
/* The guest starts anew. */
void share_forget_all(struct share *share);
/* Carries the request out. 'out_reply' has 'room' bytes for the whole reply, header and all, of which as many as returned are used;
 * 0: none is due. */
size_t share_serve(struct share *share, const uint8_t *request, size_t size, uint8_t *out_reply,
                   size_t room);
/* state.c. The state is the caller's to free; NULL: no memory. */
uint8_t *share_save(struct share *share, size_t *out_size);
/* 0 or -errno; after a failure nothing is known. Untrusted. */
int must_check share_restore(struct share *share, const uint8_t *state, size_t size);

/* What the operations' files share. */

/* Copies the next 'size' bytes; false: there are not as many. */
bool must_check arguments_get(struct arguments *arguments, void *out_data, size_t size);
/* The next text, which ends in the request; NULL: it does not. */
const char *arguments_text(struct arguments *arguments);
/* The next text as the name of something in a folder. 0 or -errno. */
int must_check arguments_name(struct arguments *arguments, const char **out_name);
/* False: no room. */
bool must_check reply_put(struct reply *reply, const void *data, size_t size);

/* "N" in the working directory. */
struct fd_name {
    char text[12];
};
struct fd_name name_of_fd(int fd);

void share_fill_attributes(const struct stat *status, struct fuse_attr *out_attributes);
void share_fill_entry(const struct node *node, const struct stat *status,
                      struct fuse_entry_out *out_entry);
/* The node's handle 'fh' if it is open, and of this kind; NULL: errno says why not. */
struct handle *share_handle(struct share *share, uint64_t fh, bool is_folder);
/* Owns 'fd', also on failure. 0 or -errno. */
int must_check share_add_handle(struct share *share, int fd, uint32_t flags, bool is_folder,
                                uint64_t node_id, uint64_t *out_fh);
/* Between the two, what is made belongs to the request's user. */
void share_become(const struct share *share, const struct fuse_in_header *head);
void share_become_self(const struct share *share);

operation_fn share_file_operation(uint32_t opcode);
operation_fn share_name_operation(uint32_t opcode);
operation_fn share_attribute_operation(uint32_t opcode);

#endif
