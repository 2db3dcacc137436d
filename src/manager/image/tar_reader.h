/* Reads a tar archive entry by entry: names and numbers as they are to be taken, checked. */
#ifndef MANAGER_IMAGE_TAR_READER_H
#define MANAGER_IMAGE_TAR_READER_H

#include <limits.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#include "base/core/error.h"

#define TAR_MAX_ATTRIBUTES 16

enum tar_type {
    TAR_FILE,
    TAR_HARD_LINK,
    TAR_SYMLINK,
    TAR_CHARACTER,
    TAR_BLOCK,
    TAR_FOLDER,
    TAR_PIPE,
};

struct tar_attribute {
    char name[256];
    const void *value; /* valid until the next entry */
    size_t size;
};

struct tar_entry {
    enum tar_type type;
    /* Relative, without "." and "..", "" for the root; likewise 'link' of a hard link, but of a symbolic one as it is. */
    char path[PATH_MAX], link[PATH_MAX];
    mode_t mode; /* permissions */
    uid_t uid;
    gid_t gid;
    uint64_t size; /* of a file's content */
    struct timespec mtime;
    unsigned major, minor;
    struct tar_attribute attributes[TAR_MAX_ATTRIBUTES];
    size_t attribute_count;
};

struct tar_reader;

/* From the beginning of 'fd' (borrowed), a regular file. */
int must_check tar_reader_open(int fd, struct tar_reader **out_reader, struct error *err);
void tar_reader_close(struct tar_reader *reader);
/* 1, or 0 at the end; what is left of the content of the one before is passed over. -EBADMSG. */
int must_check tar_reader_next(struct tar_reader *reader, struct tar_entry *out_entry,
                               struct error *err);
/* The next bytes of the content, all of them. */
int must_check tar_reader_content(struct tar_reader *reader, void *out_data, size_t size,
                                  struct error *err);

#endif
