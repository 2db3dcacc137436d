/* The file systems that are mounted (proc(5), mountinfo). */
#ifndef AGENT_MOUNTS_H
#define AGENT_MOUNTS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/core/error.h"

#define MOUNTS_MAX 1024

struct mount_entry {
    dev_t device;
    bool is_readonly;
    char *place; /* where, as a path */
    char *type;
    char *source;
};

struct mounts {
    size_t count;
    struct mount_entry *entry; /* in the order in which they were mounted */
};

int must_check mounts_read(struct mounts *out_mounts, struct error *err);
void mounts_free(struct mounts *mounts);
/* One line, changed in place; false: it is none of mountinfo. Strings lie within the line. */
bool mounts_parse_line(char *line, struct mount_entry *out_entry);

#endif
