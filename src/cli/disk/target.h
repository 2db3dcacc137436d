/* New images: made beside their name, and given it when they are whole and durable. */
#ifndef CLI_DISK_TARGET_H
#define CLI_DISK_TARGET_H

#include "block/block.h"
#include "cli/disk/cache.h"

#define DISK_MAX_SETTINGS 16

/* KEY=VALUE of --option, for the format to understand. */
struct disk_setting {
    const char *text;
    bool is_used;
};

struct disk_creation {
    const char *format;
    uint64_t size_bytes;
    struct cache_mode cache;
    bool is_only_made; /* it is not written to: need not be opened in its format */
    bool compress;
    const struct cli_key *key; /* of formats that encrypt; NULL: none */
    unsigned luks_version;     /* --encrypt: 1 or 2; 0: not */
    uint32_t iter_ms;          /* --iter-time; 0: the default */
    struct disk_setting setting[DISK_MAX_SETTINGS];
    unsigned setting_count;
    /* What the new image shall name as what it stands on; NULL: nothing. */
    const char *backing;
    const char *backing_format;
    const struct disk_image *image; /* options about remote disks; NULL: the defaults */
};

struct disk_flusher;
struct disk_image;

/* A file that has no name yet; or a block device or a remote disk, which is written to in place. */
struct disk_target {
    char path[4096]; /* where it shall be */
    char temp[4096]; /* its name until then; empty: it has none */
    int fd;          /* owned; -1: a remote disk */
    bool is_device;  /* or a remote disk */
    bool is_unsafe;  /* it gets its name without being durable */
    struct disk_flusher *flusher;
};

/* 'source' is a file that must not be the target; NULL: none. */
int must_check disk_target_open(const char *path, const char *source,
                                const struct cache_mode *cache, struct disk_target *out_target,
                                struct error *err);
/* From now on what was written goes to the disk while more is being written, so that there is little to wait for in the end. */
void disk_target_flush_early(struct disk_target *target);
/* Durable (unless it is unsafe), and under its name in place of what had that before. */
int must_check disk_target_commit(struct disk_target *target, struct error *err);
/* Closes; takes away what was not committed. */
void disk_target_close(struct disk_target *target);

/* Makes an empty image in the target, open for writing; with creation->is_only_made the block may be that of its file. */
int must_check disk_target_create(struct disk_target *target, struct disk_creation *creation,
                                  struct event_loop *loop, struct block **out_block,
                                  struct error *err);

/* Where no format was asked for: the one that the name ends in, else raw. */
void disk_creation_default_format(struct disk_creation *creation, const char *path);
/* Takes the value of --encrypt. */
int disk_creation_encrypt(struct disk_creation *creation, const char *value, struct error *err);
#define DISK_OPTION_ENCRYPT(parse)                                                                 \
    {                                                                                              \
        "encrypt", 0, "luks|luks1|luks2", "encrypt a raw or qcow2 image; see --key-file",          \
            "luks|luks1|luks2", parse                                                              \
    }
/* Takes the value of --iter-time. */
int disk_creation_iter_time(struct disk_creation *creation, const char *value, struct error *err);
#define DISK_OPTION_ITER_TIME(parse)                                                               \
    {                                                                                              \
        "iter-time", 0, "MS",                                                                      \
            "how long trying a key of the new image shall take here (default: 1000)", NULL, parse  \
    }
/* Takes the value of an --option. */
int disk_creation_add(struct disk_creation *creation, const char *value, struct error *err);
/* The value of a setting, or NULL. */
const char *disk_setting_take(struct disk_creation *creation, const char *key);

/* The qcow2 part of disk_target_create. 'file' is the new block's, also on failure. */
int must_check disk_create_qcow2(struct block *file, struct disk_target *target,
                                 struct disk_creation *creation, struct event_loop *loop,
                                 struct block **out_block, struct error *err);

/* Is this a format that can be made? Else the error says which ones can. */
int must_check disk_check_creatable(const char *format, struct error *err);
extern const char disk_creatable_formats[]; /* separated by "|" */

#endif
