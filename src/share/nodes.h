/* The files that the guest knows: each a node with a number (FUSE's nodeid), held by an O_PATH descriptor as long as the guest does not
 * forget it. When descriptors run short, files (never folders) lose theirs, and are opened again by folder and name, if the same
 * file is still there. Numbers of nodes come from the guest: any may be wrong. */
#ifndef SHARE_NODES_H
#define SHARE_NODES_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "base/core/error.h"

#define NODES_MAX     (1u << 20)
#define NODES_ROOT_ID 1u /* FUSE_ROOT_ID */

struct node {
    uint64_t id, generation;
    uint64_t lookups; /* how often the guest has been told of it */
    dev_t dev;
    ino_t ino;
    mode_t type; /* S_IFMT's part */
    int fd;      /* -1: to be opened again, or gone */
    /* Of a file: where it was seen last. NULL: the descriptor cannot be had again. */
    struct node *folder;
    char *name;
    unsigned files; /* nodes whose folder it is */
    struct node *next_same_hash;
    struct node *older, *newer; /* files with a descriptor, in the order of their last use */
};

struct nodes {
    struct node **by_id; /* [capacity], of id - 1 */
    uint32_t capacity, used;
    uint32_t *free_ids;
    uint32_t free_count;
    struct node **hash; /* [hash_size], a power of two */
    uint32_t hash_size;
    uint64_t generation;
    unsigned open_count, open_max; /* descriptors */
    unsigned evicted;              /* files that have lost theirs */
    struct node *oldest, *newest;
    struct node *root;
};

/* 'root_fd' is owned from then on if it works. */
int must_check nodes_init(struct nodes *nodes, int root_fd, unsigned max_open, struct error *err);
void nodes_fini(struct nodes *nodes);
/* All but the root. */
void nodes_clear(struct nodes *nodes);

/* The node with a descriptor. NULL: errno says why: ESTALE. */
struct node *nodes_get(struct nodes *nodes, uint64_t id);
/* The node of 'name' in 'folder', which the guest is told of once more. 0 or -errno. */
int must_check nodes_look_up(struct nodes *nodes, struct node *folder, const char *name,
                             struct node **out_node, struct stat *out_status);
/* The node of the file behind 'fd' (O_PATH), which is used up. The same otherwise. */
int must_check nodes_adopt(struct nodes *nodes, struct node *folder, const char *name, int fd,
                           struct node **out_node, struct stat *out_status);
void nodes_forget(struct nodes *nodes, uint64_t id, uint64_t count);
/* The name is about to go, or to mean another file: who depends on it gets its descriptor now. */
void nodes_leave_name(struct nodes *nodes, const struct node *folder, const char *name);
/* A node from a saved state; 'fd' -1: the file is not there any more. NULL: the id cannot be. */
struct node *nodes_restore(struct nodes *nodes, const struct node *what, int fd);

#endif
