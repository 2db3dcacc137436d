/* What a file has besides its data: owner, mode, extended attributes, times, flags. */
#ifndef SYSTEM_LAYERS_ATTRIBUTES_H
#define SYSTEM_LAYERS_ATTRIBUTES_H

#include <stdint.h>
#include <sys/stat.h>

#include "base/core/compiler.h"
#include "system/layers/layers.h"

/* How ids become others. */
struct attributes_shift {
    struct layers_ids from, to;
};

/* -EINVAL: the id is not of the range. */
int must_check attributes_shift_id(const struct attributes_shift *shift, uint32_t id,
                                   uint32_t *out_id);

/* The ids within an extended attribute's value: ACLs, and the root for whom a file capability counts. 'value' has room for 4
 * bytes more. Returns the new size or -EINVAL. */
int must_check attributes_shift_value(const struct attributes_shift *shift, const char *name,
                                      uint8_t *value, size_t size);

/* A file: open, or (fd -1) by its name in an open folder, where links are not followed. */
struct attributes_file {
    int fd;
    int folder_fd;
    const char *name;
};

/* Owner, mode, extended attributes and times, in an order in which none undoes another. */
int must_check attributes_copy(const struct attributes_shift *shift,
                               const struct attributes_file *from, const struct attributes_file *to,
                               const struct stat *st);

/* Inode flags to be kept, of an open file or folder; 0 where there are none. */
int attributes_flags(int fd);
/* Sets them; nothing else can be changed afterwards, maybe. */
int must_check attributes_set_flags(int fd, int flags);

#endif
