/* Digests of file trees: the full one over everything that a container could see, and the quick one over what changes with
 * every write.
 *
 * The full one is SHA-256 over records, one for each entry in the order of paths (names sorted as bytes within each folder).
 * They are kept beside the tree, so that a difference can be named. A record, numbers little-endian:
 *
 *   u32 size of what follows | u32 length, path | u32 mode | u32 uid | u32 gid | u64 device number | u64 size | i64 modification time (s)
 *   u32 length, link target | u32 count of attributes, each: u32 length, name, u32 length, value | 32 bytes: SHA-256 of the content
 *
 * The size is 0 but for regular files, which alone have a content; the device number is 0 but for devices. Attributes that only
 * have a meaning on the host which set them (security.selinux, overlayfs' origin and its like) are left out.
 *
 * Trees are not trusted: nothing is followed, everything is reached from the folder above it. */
#ifndef SYSTEM_TEMPLATE_DIGEST_H
#define SYSTEM_TEMPLATE_DIGEST_H

#include <stddef.h>
#include <stdint.h>

#include "base/core/error.h"

#define DIGEST_HEX_SIZE 65 /* of SHA-256, and NUL */
#define DIGEST_DEPTH                                                                               \
    400 /* folders within each other, each of which is open: more is an error (-ELOOP) */

struct digest_records {
    char *data; /* the owner frees it with digest_records_fini */
    size_t size;
    uint64_t files,
        bytes; /* entries; blocks that they occupy, hard links shared among their names */
};

/* Of the folder at an absolute path. */
int must_check digest_tree(const char *path, struct digest_records *out_records, struct error *err);
void digest_records_fini(struct digest_records *records);
int must_check digest_tree_quick(const char *path, char out_hex[DIGEST_HEX_SIZE],
                                 struct error *err);

/* SHA-256 of some bytes. */
void digest_bytes(const void *data, size_t size, char out_hex[DIGEST_HEX_SIZE]);

/* What the first difference is, in words: "etc/passwd was changed". Unprintable bytes are '?'. "" if there is none. Records of
 * files are not trusted. */
void digest_difference(const void *old_data, size_t old_size, const void *new_data, size_t new_size,
                       char *out_text, size_t size);

#endif
