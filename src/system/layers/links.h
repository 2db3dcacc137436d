/* Inodes with more than one name that a walk has met. */
#ifndef SYSTEM_LAYERS_LINKS_H
#define SYSTEM_LAYERS_LINKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct links_entry {
    dev_t device;
    ino_t inode;
    uint64_t number; /* 1 for the first one; 0: the slot is free */
    uint64_t left;   /* names that have not been met; the caller's, as are the flags */
    int flags;
};

struct links {
    struct links_entry *slots;
    size_t count, capacity;
};

#define AUTO_LINKS __attribute__((cleanup(links_fini)))
void links_fini(struct links *links);

/* The inode's entry, valid until the next call; new ones have 'left' 0. NULL: no memory. */
struct links_entry *links_find(struct links *links, dev_t device, ino_t inode, bool *out_is_new);

#endif
