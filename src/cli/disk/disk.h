/* What the verbs of `hull disk` share: options about images, opening them, finding out what they are. */
#ifndef CLI_DISK_DISK_H
#define CLI_DISK_DISK_H

#include "block/block.h"
#include "block/remote.h"
#include "cli/disk/cache.h"
#include "cli/key.h"
#include "base/command/options.h"
#include "cli/output.h"
#include "cli/verbs.h"

#define DISK_MAX_ALLOWED 64

/* What options say about an image. */
struct disk_image {
    const char *format;         /* NULL: found out, see disk_open */
    const char *backing;        /* what it stands on, in place of what it names; NULL: that */
    const char *backing_format; /* NULL: found out */
    const char *allowed[DISK_MAX_ALLOWED]; /* patterns of names inside images that may be opened */
    unsigned allowed_count;
    const char *snapshot;    /* what that snapshot of the image holds; NULL: what it holds now */
    struct cache_mode cache; /* --cache, for the image and what it stands on */
    bool is_alone;           /* without its backing file */
    bool is_for_repair;      /* see block_options */
    struct cli_key key;      /* of what is encrypted */
    bool has_reconnect;
    uint64_t reconnect_ns; /* of remote disks, if has_reconnect */
};

/* The options that all verbs begin their own struct with. */
struct disk_options {
    struct disk_image image;
    enum output_format output;
    bool is_quiet;
};

/* Rows for option tables; 'into' begins with a struct disk_options. */
int disk_parse_image_format(void *into, const char *value, struct error *err);
int disk_parse_backing(void *into, const char *value, struct error *err);
int disk_parse_backing_format(void *into, const char *value, struct error *err);
int disk_parse_allow(void *into, const char *value, struct error *err);
int disk_parse_cache(void *into, const char *value, struct error *err);
int disk_parse_key_file(void *into, const char *value, struct error *err);
int disk_parse_key_env(void *into, const char *value, struct error *err);
int disk_parse_key_ring(void *into, const char *value, struct error *err);
int disk_parse_reconnect(void *into, const char *value, struct error *err);
int disk_parse_json(void *into, const char *value, struct error *err);
int disk_parse_output(void *into, const char *value, struct error *err);
int disk_parse_quiet(void *into, const char *value, struct error *err);

#define DISK_FORMATS "raw|qcow2|luks|vmdk|vhdx|vhd|vdi"
#define DISK_OPTION_IMAGE_FORMAT(help)                                                             \
    {                                                                                              \
        "image-format", 'f', "FORMAT", help, DISK_FORMATS, disk_parse_image_format                 \
    }
#define DISK_OPTION_ALLOW                                                                          \
    {                                                                                              \
        "allow", 0, "PATTERN",                                                                     \
            "a file that an image names may be opened if the name fits; '*' stands for any but /", \
            "FILE", disk_parse_allow                                                               \
    }
#define DISK_OPTION_BACKING                                                                        \
    {                                                                                              \
        "backing", 'b', "FILE", "what the image stands on, in place of the file that it names",    \
            "FILE", disk_parse_backing                                                             \
    }
#define DISK_OPTION_BACKING_FORMAT                                                                 \
    {                                                                                              \
        "backing-format", 'F', "FORMAT", "format of the backing file", DISK_FORMATS,               \
            disk_parse_backing_format                                                              \
    }
#define DISK_OPTION_RECONNECT                                                                      \
    {                                                                                              \
        "reconnect", 0, "SECONDS",                                                                 \
            "how long requests wait for a remote disk's server to come back (default: 60)", NULL,  \
            disk_parse_reconnect                                                                   \
    }
#define DISK_OPTION_CACHE_AS(letter, help)                                                         \
    {                                                                                              \
        "cache", letter, "MODE", help, CACHE_MODES, disk_parse_cache                               \
    }
#define DISK_OPTION_CACHE                                                                          \
    DISK_OPTION_CACHE_AS(0, "use of the host's page cache for FILE and what it stands on: "        \
                            "writeback, none, writethrough, directsync or unsafe")
/* Keys of encrypted images. */
#define DISK_OPTIONS_KEY                                                                           \
    {"key-file",         0, "FILE", "the key of an encrypted image, as a file's bytes", "FILE",    \
     disk_parse_key_file},                                                                         \
        {"key-env",         0, "NAME", "the same in a variable of the environment", NULL,          \
         disk_parse_key_env},                                                                      \
    {                                                                                              \
        "key-ring", 0, "NAME", "the same in a key of the kernel's key ring", NULL,                 \
            disk_parse_key_ring                                                                    \
    }
/* What an image stands on. */
#define DISK_OPTIONS_BACKING DISK_OPTIONS_BACKING_BUT_CACHE, DISK_OPTION_CACHE
#define DISK_OPTIONS_BACKING_BUT_CACHE                                                             \
    DISK_OPTION_ALLOW, DISK_OPTION_BACKING, DISK_OPTION_BACKING_FORMAT, DISK_OPTION_RECONNECT,     \
        DISK_OPTIONS_KEY
#define DISK_OPTIONS_OUTPUT                                                                        \
    OUTPUT_OPTION_JSON(disk_parse_json), OUTPUT_OPTION_FORMAT(disk_parse_output)
#define DISK_OPTION_QUIET                                                                          \
    {                                                                                              \
        "quiet", 'q', NULL, "print neither progress nor what was done", NULL, disk_parse_quiet     \
    }

/* The words of the command line: 'count' of them must lie between the limits; 'usage' names what is missing. True: fine. */
bool disk_check_count(const struct verb *verb, int count, int min, int max);

/* The options of a verb and its words, exactly 'count' of them. As cli_options returns: the exit status, or negative to go on. */
int disk_words(const struct verb *verb, int count, int argc, char **argv, void *into);

enum disk_access {
    DISK_READ,
    DISK_WRITE,
};

/* Opens an image with all that it stands on. A format that is not given is found out: for reading from the content; for writing
 * from the ending of the name, which must not contradict the content, so that a raw disk's content never says what it is. */
int must_check disk_open(struct event_loop *loop, const char *path, const struct disk_image *image,
                         enum disk_access access, struct block **out_block, struct error *err);

/* The same with a loop of its own. The caller closes the image and destroys the loop, also on failure (NULL is fine). */
int must_check disk_begin(const char *path, const struct disk_image *image, enum disk_access access,
                          struct event_loop **out_loop, struct block **out_block,
                          struct error *err);

/* May the name, which stands in an image, be opened? */
bool disk_is_allowed(const struct disk_image *image, const char *name);
/* A name inside the image at 'path' counts from that image's folder. The caller frees. */
int must_check disk_name_to_path(const char *path, const char *name, char **out_path,
                                 struct error *err);
/* The format to be written down for a backing file: the one given, or what the name's ending says. */
int must_check disk_backing_format(const char *path, const char *given, const char **out_format,
                                   struct error *err);

/* The format that the ending of a name says; NULL: it says none. */
const char *disk_format_of_name(const char *path);

/* How a remote disk is opened. */
void disk_remote_options(const struct disk_image *image, bool is_readonly,
                         struct block_remote_options *out_options);

/* Bytes that a file takes of its file system. */
uint64_t disk_allocated_bytes(const char *path);

/* A text that an image holds, for people and programs: control characters, with which it could move the cursor of a terminal, and
 * what is no UTF-8 become '?'. */
json_t *disk_text(const char *text);

/* "1.5G (1610612736 bytes)". Returns 'out_text'. */
const char *disk_size_text(uint64_t bytes, char *out_text, size_t size);

/* Adds a row to a JSON array: a block_snapshot_fn. */
struct block_snapshot;
void disk_snapshot_row(void *rows, const struct block_snapshot *snapshot);

extern const struct verb disk_info_verb;
extern const struct verb disk_map_verb;
extern const struct verb disk_compare_verb;
extern const struct verb disk_convert_verb;
extern const struct verb disk_create_verb;
extern const struct verb disk_resize_verb;
extern const struct verb disk_check_verb;
extern const struct verb disk_measure_verb;
extern const struct verb disk_bench_verb;
extern const struct verb disk_snapshot_verb;
extern const struct verb disk_bitmap_verb;
extern const struct verb disk_rebase_verb;
extern const struct verb disk_commit_verb;
extern const struct verb disk_serve_verb;

#endif
