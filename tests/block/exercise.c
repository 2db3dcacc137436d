#include "tests/block/exercise.h"

#include <stdlib.h>
#include <string.h>

#include "block/bitmap.h"
#include "tests/block/recorder.h"

#define PART 65536u

struct state {
    struct event_loop *loop;
    const uint8_t *bytes;
    size_t size;
    const char *format;
    uint64_t random;
    uint8_t *buffer;
    unsigned opened;
};

/* Whatever an image names is a disk of 1 MiB. */
static int resolve(void *ctx, const struct block_reference *reference, struct block **out_block,
                   struct error *err)
{
    struct state *state = ctx;
    int rc = block_open_memory(1 << 20, "named", state->loop, out_block, err);
    if (rc == 0 && reference->kind == BLOCK_REFERENCE_BACKING) {
        (*out_block)->info.is_growable = false;
        (*out_block)->info.logical_block_size = 512;
        (*out_block)->info.is_readonly = true;
    }
    return rc;
}

int exercise_unlock(void *ctx, const struct block_crypt_header *header,
                    struct block_crypt *out_crypt, struct error *err)
{
    *out_crypt = (struct block_crypt){.sector_size = 512, .key_size = 64};
    return 0;
}

static int unlock_header(void *ctx, const struct block_crypt_header *header,
                         struct block_crypt *out_crypt, struct error *err)
{
    return block_crypt_unlock(header, EXERCISE_PASSPHRASE, strlen(EXERCISE_PASSPHRASE), out_crypt,
                              err);
}

static struct block *open_image(struct state *state, struct block_options *options)
{
    struct block *file, *block;
    struct error err;
    if (block_open_memory(state->size, "image", state->loop, &file, NULL) < 0) {
        return NULL;
    }
    (void)!block_write(file, 0, state->bytes, state->size);
    file->info.is_readonly = options->is_readonly;
    if (strcmp(state->format, "raw") == 0) {
        file->info.is_growable = false;
    }
    options->format = state->format;
    options->resolve = resolve;
    options->resolve_ctx = state;
    options->unlock = strcmp(state->format, "luks") == 0 ? unlock_header : exercise_unlock;
    if (block_open_format(file, options, &block, &err) < 0) {
        return NULL;
    }
    state->opened++;
    return block;
}

static uint64_t pick(struct state *state, const struct block *block, uint64_t *out_size)
{
    uint64_t unit = block->info.logical_block_size;
    uint64_t end = block->info.size_bytes;
    uint64_t limit = recorder_random(&state->random, 3) == 0 ? end : MIN(end, 4u << 20);
    uint64_t offset = recorder_random(&state->random, limit / unit + 1) * unit;
    *out_size = MIN((1 + recorder_random(&state->random, PART / unit)) * unit, end - offset);
    return offset;
}

static void read_about(struct state *state, struct block *block)
{
    uint64_t end = MIN(block->info.size_bytes, 2u << 20);
    for (uint64_t at = 0; at < end; at += PART) {
        (void)!block_read(block, at, state->buffer, (size_t)MIN(end - at, (uint64_t)PART));
    }
    for (unsigned i = 0; i < 16 && block->info.size_bytes > 0; i++) {
        uint64_t size, offset = pick(state, block, &size);
        struct block_extent extent;
        unsigned depth;
        (void)!block_read(block, offset, state->buffer, (size_t)size);
        if (size > 0) {
            (void)!block_map_chain(block, offset, size, &extent, &depth);
        }
    }
}

static void detail(void *ctx, const struct block_detail *detail)
{
    *(uint64_t *)ctx += detail->text != NULL ? strlen(detail->text) : detail->number;
}

static void snapshot_seen(void *ctx, const struct block_snapshot *snapshot)
{
    *(uint64_t *)ctx += strlen(snapshot->name) + strlen(snapshot->id);
}

static void look(struct state *state)
{
    struct block_options options = {.is_readonly = true};
    struct block *block = open_image(state, &options);
    if (block != NULL) {
        uint64_t sum = 0;
        struct block_check_result result;
        read_about(state, block);
        block_describe(block, detail, &sum);
        (void)!block_snapshot_list(block, snapshot_seen, &sum, NULL);
        (void)!block_check(block, 0, NULL, NULL, &result, NULL);
        block_close(block);
    }
}

static void change(struct state *state)
{
    struct block_options options = {0};
    struct block *block = open_image(state, &options);
    if (block == NULL) {
        return;
    }
    if (recorder_random(&state->random, 2) == 0) {
        struct block_front *front;
        struct block_bitmap *bitmap;
        if (block_front_create(block, &front, NULL) < 0) {
            return;
        }
        (void)!block_bitmap_add(front, "new", 4096, true, true, &bitmap, NULL);
        block = block_front_block(front);
    }
    memset(state->buffer, 0x5a, PART);
    for (unsigned i = 0; i < 40 && block->info.size_bytes > 0; i++) {
        uint64_t size, offset = pick(state, block, &size);
        switch (recorder_random(&state->random, 7)) {
        case 0:
            (void)!block_discard(block, offset, size);
            break;
        case 1:
            (void)!block_write_zeroes(block, offset, size, recorder_random(&state->random, 2) == 0);
            break;
        case 2:
            (void)!block_flush(block);
            break;
        default:
            (void)!block_write(block, offset, state->buffer, (size_t)size);
            break;
        }
    }
    if (recorder_random(&state->random, 2) == 0) {
        (void)!block_snapshot_create(block, "new", NULL);
        (void)!block_snapshot_apply(block, "1", NULL);
        (void)!block_snapshot_delete(block, "1", NULL);
    } else if (recorder_random(&state->random, 4) == 0) {
        (void)!block_make_empty(block, NULL);
    }
    if (block->info.size_bytes < 1u << 30) {
        (void)!block_resize(block, block->info.size_bytes + (1 << 20));
        (void)!block_resize(block, 1 << 19);
    }
    (void)block_finish(block, NULL); /* whatever comes of it */
}

static void repair(struct state *state)
{
    struct block_options options = {.is_for_repair = true,
                                    .is_alone = recorder_random(&state->random, 2) == 0};
    struct block *block = open_image(state, &options);
    if (block != NULL) {
        struct block_check_result result;
        (void)!block_check(block, BLOCK_REPAIR_ERRORS | BLOCK_REPAIR_LEAKS, NULL, NULL, &result,
                           NULL);
        block_close(block);
    }
}

unsigned exercise_image(const uint8_t *bytes, size_t size, const char *format,
                        struct event_loop *loop, uint64_t seed)
{
    struct state state = {.loop = loop,
                          .bytes = bytes,
                          .size = size,
                          .format = format,
                          .random = seed * 2862933555777941757u + 1,
                          .buffer = malloc(PART)};
    look(&state);
    change(&state);
    repair(&state);
    free(state.buffer);
    return state.opened;
}
