/* Images of every kind that qemu-img makes, for the tests of block/format/foreign. */
#ifndef TEST_FOREIGN_IMAGES_H
#define TEST_FOREIGN_IMAGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "block/format/foreign/foreign.h"

#define IMAGE_MAX_FILES 4

struct image_recipe {
    const char *name;
    const char *format;  /* of foreign.h and of qemu-img */
    const char *options; /* of qemu-img convert -o */
    uint64_t size_bytes;
    const char *writes; /* further arguments for qemu-io, or NULL */
};

extern const struct image_recipe image_recipes[];
extern const size_t image_recipe_count;

/* A folder for the images; removed by images_fini. False: qemu-img or qemu-io is missing. */
bool images_init(void);
void images_fini(void);
/* Makes the image of a recipe in the folder and gives its path. 'out_raw' is a path with what qemu-img itself reads from it. */
void image_make(const struct image_recipe *recipe, char *out_path, char *out_raw, size_t size);

/* The file itself and those that it names, all in memory or all by descriptors. */
struct image_files {
    struct image_file {
        char name[256];
        struct foreign_file file;
        int fd;        /* -1: in memory */
        uint8_t *data; /* owned */
        size_t size;
        uint64_t reads; /* bytes that were asked for */
    } file[IMAGE_MAX_FILES];
    unsigned count;
    unsigned opened[IMAGE_MAX_FILES]; /* by foreign_names, in that order; 0 is the image itself */
    unsigned opened_count;
    struct foreign_names names;
};

/* All files of the folder that begin as 'path' does without its ending; the first one is 'path'. */
void image_files_load(struct image_files *files, const char *path, bool in_memory);
void image_files_free(struct image_files *files);
/* One file in memory, for crafted images. Takes 'data'. */
void image_files_take(struct image_files *files, uint8_t *data, size_t size);
/* Begins anew with what was opened. */
void image_files_reset(struct image_files *files);

/* Bytes of the disk as a reader gets them; holes are zeros. 0 or -errno. */
int image_read(struct image_files *files, struct foreign_image *image, uint64_t offset,
               void *out_data, size_t size, struct error *err);

#endif
