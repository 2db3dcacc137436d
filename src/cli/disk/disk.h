/* What the verbs of `hull disk` share: options about images, opening them, finding out what they are. */
#ifndef CLI_DISK_DISK_H
#define CLI_DISK_DISK_H

#include "block/block.h"
#include "cli/options.h"
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
    bool is_alone;      /* without its backing file */
    bool is_for_repair; /* see block_options */
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
int disk_parse_json(void *into, const char *value, struct error *err);
int disk_parse_output(void *into, const char *value, struct error *err);
int disk_parse_quiet(void *into, const char *value, struct error *err);

#define DISK_FORMATS "raw|qcow2|vmdk|vhdx|vhd|vdi"
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
#define DISK_OPTION_QUIET                                                                          \
    {                                                                                              \
        "quiet", 'q', NULL, "print neither progress nor what was done", NULL, disk_parse_quiet     \
    }

/* The words of the command line: 'count' of them must lie between the limits; 'usage' names what is missing. True: fine. */
bool disk_check_count(const struct verb *verb, int count, int min, int max);

enum disk_access {
    DISK_READ,
    DISK_WRITE,
};

/* Opens an image with all that it stands on. A format that is not given is found out: for reading from the content; for writing
 * from the ending of the name, which must not contradict the content, so that a raw disk's content never says what it is. */
int must_check disk_open(struct event_loop *loop, const char *path, const struct disk_image *image,
                         enum disk_access access, struct block **out_block, struct error *err);

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

/* The format that the content of a file looks like; "raw" if like none. */
int must_check disk_detect(int fd, const char *path, const char **out_format, struct error *err);

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
extern const struct verb disk_rebase_verb;
extern const struct verb disk_commit_verb;

#endif
