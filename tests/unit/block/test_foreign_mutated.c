/* Covers block/format/foreign: images with random damage give errors or data, but never a crash, a read outside of a file, an
 * endless loop or much memory. Arguments: a recipe's name, first seed, number of seeds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/core/crc32c.h"
#include "base/core/endian.h"
#include "foreign_images.h"

/* Of each format, shared by its recipes. The address sanitizer makes them eight times slower. */
#ifdef __SANITIZE_ADDRESS__
#define DEFAULT_IMAGES 1000
#else
#define DEFAULT_IMAGES 5000
#endif
#define MAX_MAPS       300
#define MAX_MEMORY_KIB (256 << 10)
#define LARGE          (64ull << 20)

static const char *only;
static unsigned first_seed = 1;
static unsigned asked_count; /* of seeds; 0: as many as make DEFAULT_IMAGES */

static uint32_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(*state >> 33);
}

/* Puts a checksum right, so that the damage behind it is met. */
static void repair(const struct image_recipe *recipe, uint8_t *data, size_t size)
{
    if (strcmp(recipe->format, "vpc") == 0 && size >= 2048) {
        static const struct {
            size_t from_end, start, size, at;
        } parts[] = {{512, 0, 512, 64}, {0, 512, 1024, 36}, {0, 0, 512, 64}};
        for (size_t p = 0; p < ARRAY_COUNT(parts); p++) {
            uint8_t *bytes = parts[p].from_end != 0 ? data + size - 512 : data + parts[p].start;
            uint32_t sum = 0;
            for (size_t i = 0; i < parts[p].size; i++) {
                sum += i < parts[p].at || i >= parts[p].at + 4 ? bytes[i] : 0;
            }
            if (strstr(recipe->name, "fixed") == NULL || parts[p].from_end != 0) {
                be32_put(bytes + parts[p].at, ~sum);
            }
        }
    }
    if (strcmp(recipe->format, "vhdx") == 0 && size >= (320u << 10)) {
        static const struct {
            size_t start, size;
        } parts[] = {
            {64 << 10, 4096}, {128 << 10, 4096}, {192 << 10, 64 << 10}, {256 << 10, 64 << 10}};
        for (size_t p = 0; p < ARRAY_COUNT(parts); p++) {
            le32_put(data + parts[p].start + 4, 0);
            le32_put(data + parts[p].start + 4, crc32c(0, data + parts[p].start, parts[p].size));
        }
        for (size_t at = 1 << 20; at + 8192 <= MIN(size, 4u << 20); at += 4096) {
            uint32_t length = le32_get(data + at + 8);
            if (memcmp(data + at, "loge", 4) == 0 && length <= size - at) {
                le32_put(data + at + 4, 0);
                le32_put(data + at + 4, crc32c(0, data + at, length));
            }
        }
    }
}

/* Values that go over edges. */
static uint64_t odd_value(uint64_t *random)
{
    static const uint64_t values[] = {0,          1,          2,           0x7f,       0xff,
                                      0x7fffffff, 0x80000000, 0xffffffff,  UINT64_MAX, 1ull << 63,
                                      1ull << 62, 0x200,      0x1ffffffff, 0xfffffffe, 1ull << 40};
    uint32_t choice = next_random(random) % (ARRAY_COUNT(values) + 4);
    return choice < ARRAY_COUNT(values)
               ? values[choice]
               : (uint64_t)next_random(random) << (next_random(random) % 40);
}

/* Where structures are: the first and last bytes, and what differs from its surroundings. */
static size_t choose_place(uint64_t *random, const struct image_recipe *recipe, size_t size)
{
    static const size_t vhdx_places[] = {0,         64 << 10, 128 << 10, 192 << 10,
                                         256 << 10, 1 << 20,  2 << 20,   (2 << 20) + (64 << 10),
                                         3 << 20};
    uint32_t choice = next_random(random) % 8;
    size_t near = 0;
    size_t range = size;
    if (strcmp(recipe->format, "vhdx") == 0 && choice < 7) {
        near = vhdx_places[next_random(random) % ARRAY_COUNT(vhdx_places)];
        range = choice < 5 ? 256 : 8192;
    } else if (choice < 4) {
        range = 512;
    } else if (choice == 4) {
        range = 4096;
    } else if (choice == 5) {
        near = size > 2048 ? size - 2048 : 0;
        range = 2048;
    } else if (choice == 6) {
        near = size > 65536 ? next_random(random) % 24 * 512 + 0x200 : 0;
        range = 512;
    }
    size_t place = near + next_random(random) % range;
    return MIN(place, size - 1);
}

/* What was there, to put it back. */
struct undo {
    unsigned file;
    size_t at;
    uint8_t bytes[8];
};

static size_t mutate(struct image_files *files, const struct image_recipe *recipe, uint64_t *random,
                     struct undo *undo, size_t max)
{
    size_t count = 1 + next_random(random) % max;
    for (size_t i = 0; i < count; i++) {
        unsigned f = next_random(random) % files->count;
        struct image_file *file = &files->file[f];
        size_t at = choose_place(random, recipe, file->size);
        size_t width = 1u << (next_random(random) % 4);
        at = next_random(random) % 4 != 0 ? at & ~(width - 1) : at;
        width = MIN(width, file->size - at);
        undo[i].file = f;
        undo[i].at = at;
        memcpy(undo[i].bytes, file->data + at, width);
        memcpy(undo[i].bytes + width, file->data + at + width,
               MIN(8 - width, file->size - at - width));
        uint64_t value = odd_value(random);
        value = next_random(random) % 2 != 0 ? value : __builtin_bswap64(value) >> (64 - 8 * width);
        memcpy(file->data + at, &value, width);
    }
    return count;
}

static void take_back(struct image_files *files, const struct undo *undo, size_t count)
{
    while (count-- > 0) {
        struct image_file *file = &files->file[undo[count].file];
        memcpy(file->data + undo[count].at, undo[count].bytes, MIN(8, file->size - undo[count].at));
    }
}

/* Opens it and looks all over it. True if it opens. */
static bool explore(struct image_files *files, const struct image_recipe *recipe, uint64_t *random)
{
    struct foreign_image *image;
    struct error err;
    image_files_reset(files);
    if (foreign_open(foreign_find(recipe->format), &files->file[0].file, &files->names, &image,
                     &err) < 0) {
        assert_true(strlen(err.text) > 10);
        return false;
    }
    uint64_t size = foreign_get_info(image)->size_bytes;
    uint64_t at = 0;
    uint8_t data[4096];
    for (int i = 0; i < MAX_MAPS && at < size; i++) {
        struct foreign_extent extent;
        if (foreign_map(image, at, MIN(size - at, LARGE), &extent, &err) < 0) {
            at += 65536;
        } else {
            at += extent.size_bytes;
        }
    }
    for (int i = 0; i < 24; i++) {
        uint64_t sector =
            (((uint64_t)next_random(random) << 31) | next_random(random)) % (size / 512);
        size_t part = (size_t)MIN(size - sector * 512, sizeof(data));
        (void)!image_read(files, image, sector * 512, data, part, &err);
    }
    foreign_close(image);
    return true;
}

static bool is_chosen(const struct image_recipe *recipe)
{
    return only != NULL ? strcmp(only, recipe->name) == 0 : recipe->size_bytes < LARGE;
}

static unsigned count_seeds(const struct image_recipe *recipe)
{
    unsigned recipes = 0;
    for (size_t i = 0; i < image_recipe_count; i++) {
        recipes +=
            is_chosen(&image_recipes[i]) && strcmp(image_recipes[i].format, recipe->format) == 0;
    }
    return asked_count != 0 ? asked_count : (DEFAULT_IMAGES + recipes - 1) / recipes;
}

static void mutate_all(const struct image_recipe *recipe)
{
    unsigned seed_count = count_seeds(recipe);
    char path[256];
    char raw[256];
    image_make(recipe, path, raw, sizeof(path));
    struct image_files files;
    image_files_load(&files, path, true);
    unsigned opened = 0;
    for (unsigned seed = first_seed; seed < first_seed + seed_count; seed++) {
        uint64_t random = seed * 7919ull + 13;
        struct undo undo[6];
        size_t count = mutate(&files, recipe, &random, undo, ARRAY_COUNT(undo));
        /* A copy on the heap of exactly that size: the sanitizer sees what goes beyond. */
        size_t full_size = files.file[0].size;
        uint8_t *full = files.file[0].data;
        size_t cut =
            next_random(&random) % 16 == 0 ? 1 + next_random(&random) % full_size : full_size;
        bool is_copy = cut != full_size || next_random(&random) % 2 == 0;
        if (is_copy) {
            files.file[0].data = malloc(cut);
            memcpy(files.file[0].data, full, cut);
            files.file[0].size = cut;
            repair(recipe, files.file[0].data, cut);
        }
        (void)alarm(120); /* a hang is a failure; a busy machine is none */
        opened += explore(&files, recipe, &random);
        if (is_copy) {
            free(files.file[0].data);
            files.file[0].data = full;
            files.file[0].size = full_size;
        }
        take_back(&files, undo, count);
    }
    /* Else nothing but the first check is tested. */
    print_message("%s: %u of %u mutated images open\n", recipe->name, opened, seed_count);
    assert_true(seed_count < 100 || (opened > seed_count / 50 && opened < seed_count));
    image_files_free(&files);
}

static void test_mutated(void **state)
{
    for (size_t i = 0; i < image_recipe_count; i++) {
        if (is_chosen(&image_recipes[i])) {
            mutate_all(&image_recipes[i]);
        }
    }
    struct rusage usage;
    (void)getrusage(RUSAGE_SELF, &usage);
    print_message("%ld MiB at most\n", usage.ru_maxrss >> 10);
#ifndef __SANITIZE_ADDRESS__
    assert_true(usage.ru_maxrss < MAX_MEMORY_KIB);
#endif
}

int main(int argc, char **argv)
{
    only = argc > 1 && strcmp(argv[1], "all") != 0 ? argv[1] : NULL;
    first_seed = argc > 2 ? (unsigned)atoi(argv[2]) : first_seed;
    asked_count = argc > 3 ? (unsigned)atoi(argv[3]) : 0;
    if (!images_init()) {
        (void)puts("qemu-img and qemu-io are not installed");
        return 77;
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_mutated)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    images_fini();
    return failed;
}
