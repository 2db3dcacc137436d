/* Tar streams: ustar with pax headers (POSIX), and GNU's long names when reading. No sparse files. */
#ifndef AGENT_TAR_H
#define AGENT_TAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#include "base/core/error.h"

#define TAR_BLOCK 512

enum tar_type {
    TAR_FILE = '0',
    TAR_HARD_LINK = '1',
    TAR_LINK = '2',
    TAR_CHARACTER = '3',
    TAR_BLOCK_DEVICE = '4',
    TAR_FOLDER = '5',
    TAR_FIFO = '6',
};

struct tar_entry {
    enum tar_type type;
    char *path;   /* not empty, below PATH_MAX */
    char *target; /* of links; "" for others */
    mode_t mode;  /* permissions alone */
    uid_t uid;
    gid_t gid;
    uint64_t size; /* of files */
    struct timespec time;
    unsigned major, minor; /* of devices */
};

/* Fills 'data' or says why not; -ENODATA: the stream has ended. */
typedef int (*tar_read_fn)(void *ctx, void *data, size_t size, struct error *err);
typedef int (*tar_write_fn)(void *ctx, const void *data, size_t size, struct error *err);

struct tar_reader {
    tar_read_fn read;
    void *ctx;
    uint64_t left;    /* of the entry's data */
    uint64_t padding; /* behind that */
    struct tar_entry entry;
};

/* The next entry, which is the reader's and valid until the next call; what was not read of the last one's data is
 * skipped. 1; 0 at the archive's end; -EBADMSG, or what 'read' returned. */
int must_check tar_next(struct tar_reader *reader, struct error *err);
/* The next bytes of the entry's data: at most 'size', 0 at its end. */
int must_check tar_read(struct tar_reader *reader, void *data, size_t size, size_t *out_size,
                        struct error *err);
void tar_reader_end(struct tar_reader *reader);

/* The head of an entry; for files 'size' bytes have to follow and then tar_write_padding. */
int must_check tar_write_head(tar_write_fn write, void *ctx, const struct tar_entry *entry,
                              struct error *err);
int must_check tar_write_padding(tar_write_fn write, void *ctx, uint64_t size, struct error *err);
int must_check tar_write_end(tar_write_fn write, void *ctx, struct error *err);

#endif
