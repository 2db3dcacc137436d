/* A disk and the flat array of bytes that it should be: random requests, several at a time, and a comparison of both. */
#ifndef TESTS_BLOCK_MODEL_H
#define TESTS_BLOCK_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "block/image.h"

struct model {
    struct block *block;
    uint8_t *bytes;
    uint64_t size;
    uint64_t state;       /* of the generator */
    uint64_t max_request; /* bytes */
    bool has_compression; /* also writes compressed clusters */
    unsigned parallel;    /* requests at a time, 1 to 16 */
    /* Called while a batch is in flight; NULL: nothing. */
    void (*meanwhile)(void *ctx);
    void *ctx;
    const char *failure; /* what went wrong first; NULL: nothing */
    uint64_t failed_at;
};

uint64_t model_random(struct model *model, uint64_t limit);
/* A batch of random requests to places of their own, run to the end. False: see failure. */
bool model_step(struct model *model);
/* All of the disk is as it should be. */
bool model_verify(struct model *model);

#endif
