/* Images with some of their metadata changed at random: every operation may fail, none may crash, hang or take much memory.
 * Usage: qcow2_mutate [FIRST_SEED [COUNT]] */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "block/bitmap.h"
#include "tests/block/exercise.h"
#include "tests/block/recorder.h"

#define KIND_COUNT 9
#define ENCRYPTED  8

struct image {
    uint8_t *bytes;
    size_t size;
    uint32_t cluster_size;
    uint64_t bitmaps; /* where their directory is; 0: it has none */
};

static uint64_t be64(const uint8_t *data)
{
    uint64_t value = 0;
    for (int i = 0; i < 8; i++) {
        value = value << 8 | data[i];
    }
    return value;
}

static void put_be64(uint8_t *data, uint64_t value)
{
    for (int i = 7; i >= 0; i--) {
        data[i] = (uint8_t)value;
        value >>= 8;
    }
}

/* Two bitmaps, with changes, which the image gets when it is closed. */
static struct block *add_bitmaps(struct block *block, const uint8_t *data)
{
    struct block_front *front;
    struct block_bitmap *bitmap;
    if (block_front_create(block, &front, NULL) < 0 ||
        block_bitmap_add(front, "one", 512, true, true, &bitmap, NULL) < 0 ||
        block_bitmap_add(front, "two", 65536, true, true, &bitmap, NULL) < 0 ||
        block_write(block_front_block(front), 65536, data, 4096) < 0) {
        exit(1);
    }
    return block_front_block(front);
}

/* By the number of their header's extension. */
static void find_bitmaps(struct image *image)
{
    for (size_t at = 104; at + 32 <= MIN(image->size, image->cluster_size); at += 8) {
        if (be64(image->bytes + at) >> 32 == 0x23852875) {
            image->bitmaps = be64(image->bytes + at + 24);
        }
    }
}

static void make_image(unsigned kind, struct event_loop *loop, struct image *image)
{
    static const uint32_t sizes[KIND_COUNT] = {512,  4096,  65536, 16384, 512,
                                               1024, 32768, 4096,  4096};
    struct block_create_options create = {
        .format = "qcow2",
        .size_bytes = 1 << 20,
        .cluster_size = sizes[kind],
        .version = kind == 4 ? 2 : 3,
        .refcount_bits = kind == 5   ? 2
                         : kind == 1 ? 64
                                     : 16,
        .compression = kind == 7 ? "zstd" : NULL,
        .has_extended_l2 = kind == 3 || kind == 6,
        .backing_name = kind % 2 == 1 ? "base" : NULL,
        .backing_format = kind % 2 == 1 ? "raw" : NULL,
    };
    struct block *file, *block, *backing = NULL;
    if (kind == ENCRYPTED) {
        /* What is in the header does not matter: exercise.c knows the key. */
        create.crypt_header_bytes = 8192;
        if (block_open_memory(create.crypt_header_bytes, "LUKS header", loop, &create.crypt_header,
                              NULL) < 0) {
            exit(1);
        }
    }
    if (block_open_memory(0, "new", loop, &file, NULL) < 0 ||
        block_create(file, &create, NULL) < 0) {
        exit(1);
    }
    if (create.backing_name != NULL &&
        block_open_memory(1 << 20, "base", loop, &backing, NULL) < 0) {
        exit(1);
    }
    struct recorder *copy;
    uint8_t *bytes = malloc(file->info.size_bytes);
    if (block_read(file, 0, bytes, file->info.size_bytes) < 0) {
        exit(1);
    }
    copy = recorder_create(bytes, file->info.size_bytes, loop, 1);
    free(bytes);
    block_close(file);
    block_close(create.crypt_header);
    struct block_options options = {
        .format = "qcow2", .backing = backing, .unlock = exercise_unlock};
    struct error err = {0};
    if (block_open_format(&copy->block, &options, &block, &err) < 0) {
        printf("%s\n", err.text);
        exit(1);
    }
    uint8_t *data = malloc(65536);
    for (unsigned i = 0; i < 65536; i++) {
        data[i] = (uint8_t)(i >> 7);
    }
    int rc = block_write(block, 0, data, 40960) | block_write(block, 300 << 10, data, 4096);
    for (unsigned i = 0; i < 3 && kind != ENCRYPTED; i++) {
        struct iovec iov = {data, sizes[kind]};
        struct block_request packed = {.op = BLOCK_WRITE,
                                       .compress = true,
                                       .offset_bytes = (512u << 10) + i * sizes[kind],
                                       .size_bytes = sizes[kind],
                                       .iov = &iov,
                                       .iov_count = 1};
        rc |= block_perform(block, &packed);
    }
    rc |= block_snapshot_create(block, "one", NULL) == 0 || kind == 5 ? 0 : -1;
    rc |= block_write(block, 8192, data, 8192) | block_write_zeroes(block, 128 << 10, 65536, true);
    if (kind != 4 && rc == 0) {
        block = add_bitmaps(block, data);
    }
    if (rc != 0 || block_finish(block, NULL) < 0) {
        printf("the image of kind %u cannot be made\n", kind);
        exit(1);
    }
    free(data);
    image->size = (size_t)copy->block.info.size_bytes;
    image->bytes = malloc(image->size);
    memcpy(image->bytes, copy->bytes, image->size);
    image->cluster_size = sizes[kind];
    find_bitmaps(image);
    recorder_destroy(copy);
}

/* What the image, which may have been mutated, has at 'offset'; 0: that is outside. */
static uint64_t be64_at(const struct image *image, const uint8_t *bytes, uint64_t offset)
{
    return offset <= image->size - sizeof(uint64_t) ? be64(bytes + offset) : 0;
}

/* A place where metadata is likely. */
static size_t pick_place(const struct image *image, const uint8_t *bytes, uint64_t *random)
{
    uint64_t place;
    uint64_t l1 = be64(bytes + 40), counts = be64(bytes + 48), snapshots = be64(bytes + 64);
    switch (recorder_random(random, 10)) {
    case 0:
        place = recorder_random(random, 112);
        break;
    case 1:
        place = 104 + recorder_random(random, 500);
        break;
    case 2:
        place = l1 + recorder_random(random, 64);
        break;
    case 3:
        place = counts + recorder_random(random, 64);
        break;
    case 4:
        place = snapshots + recorder_random(random, 96);
        break;
    case 5:
        place = (be64_at(image, bytes, l1) & 0xfffffffffffe00) + recorder_random(random, 1024);
        break;
    case 6:
        place = be64_at(image, bytes, counts) + recorder_random(random, 512);
        break;
    case 7:
        place = image->bitmaps + recorder_random(random, 64);
        break;
    case 8:
        place = be64_at(image, bytes, image->bitmaps) + recorder_random(random, 32);
        break;
    default:
        place = recorder_random(random, image->size);
        break;
    }
    return place < image->size ? (size_t)place : (size_t)recorder_random(random, image->size);
}

static uint64_t pick_value(const struct image *image, uint64_t old, uint64_t *random)
{
    uint64_t clusters = image->size / image->cluster_size;
    uint64_t offset = recorder_random(random, clusters + 3) * image->cluster_size;
    switch (recorder_random(random, 9)) {
    case 0:
        return 0;
    case 1:
        return UINT64_MAX;
    case 2:
        return offset;
    case 3:
        return offset | 1ull << 63;
    case 4:
        return offset | 1ull << 62;
    case 5:
        return old + 1;
    case 6:
        return old ^ 1ull << recorder_random(random, 64);
    case 7:
        return 1ull << recorder_random(random, 64);
    default:
        return (old & ~0xffffffffull) | recorder_random(random, 1ull << 32);
    }
}

static void mutate(const struct image *image, uint8_t *bytes, uint64_t *random)
{
    unsigned count = 1 + (unsigned)recorder_random(random, 4);
    for (unsigned i = 0; i < count; i++) {
        size_t place = pick_place(image, bytes, random);
        if (recorder_random(random, 3) == 0) {
            bytes[place] = (uint8_t)recorder_random(random, 256);
            continue;
        }
        place = place / 4 * 4;
        if (place + 8 <= image->size) {
            put_be64(bytes + place, pick_value(image, be64(bytes + place), random));
        }
    }
    memcpy(bytes, "QFI\xfb", 4);
}

int main(int argc, char **argv)
{
    uint64_t first = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
    uint64_t count = argc > 2 ? strtoull(argv[2], NULL, 10) : 1000;
    struct image images[KIND_COUNT] = {0};
    struct event_loop *loop;
    if (event_loop_create(&loop, NULL) < 0) {
        return 1;
    }
    for (unsigned kind = 0; kind < KIND_COUNT; kind++) {
        make_image(kind, loop, &images[kind]);
    }
    unsigned opened = 0;
    for (uint64_t seed = first; seed < first + count; seed++) {
        const struct image *image = &images[seed % KIND_COUNT];
        uint64_t random = seed * 0x9e3779b97f4a7c15u + 7;
        for (int i = 0; i < 5; i++) {
            (void)recorder_random(&random, 2);
        }
        uint8_t *bytes = malloc(image->size);
        memcpy(bytes, image->bytes, image->size);
        mutate(image, bytes, &random);
        if (getenv("VERBOSE") != NULL) {
            printf("seed %llu\n", (unsigned long long)seed);
            fflush(stdout);
        }
        (void)alarm(20); /* a hang is a failure */
        opened += exercise_image(bytes, image->size, "qcow2", loop, seed);
        free(bytes);
    }
    struct rusage usage;
    (void)getrusage(RUSAGE_SELF, &usage);
    for (unsigned kind = 0; kind < KIND_COUNT; kind++) {
        free(images[kind].bytes);
    }
    event_loop_destroy(loop);
    printf("%llu images, opened %u times, at most %ld MiB of memory\n", (unsigned long long)count,
           opened, usage.ru_maxrss >> 10);
#ifndef HULL_SANITIZED
    if (usage.ru_maxrss > 256l << 10) {
        printf("that is too much: up to 256 MiB are accepted\n");
        return 1;
    }
#endif
    return 0;
}
