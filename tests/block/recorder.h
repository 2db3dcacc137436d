/* A block in memory that writes a log of what reaches it, ends requests in random order, and can tell what a power cut at any
 * place of the log might have left: what was flushed, and any selection of the rest, by the sector. */
#ifndef TESTS_BLOCK_RECORDER_H
#define TESTS_BLOCK_RECORDER_H

#include "block/provider.h"

struct recorder_entry {
    enum block_op op;
    uint64_t offset, size;
    uint8_t *data;   /* of a write */
    uint64_t covers; /* of a flush: so many entries of the log are durable */
};

struct recorder {
    struct block block;
    uint8_t *bytes; /* contents now */
    uint64_t capacity;
    struct block_request *pending;
    unsigned pending_count;
    struct recorder_entry *log;
    uint64_t log_count, log_capacity;
    uint64_t random;
    unsigned fail_one_in; /* writes and flushes that fail; 0: none */
    bool is_closed;
};

/* 'initial' may be NULL. The recorder outlives its closing: recorder_destroy frees it. */
struct recorder *recorder_create(const uint8_t *initial, uint64_t size, struct event_loop *loop,
                                 uint64_t seed);
void recorder_destroy(struct recorder *recorder);
uint64_t recorder_random(uint64_t *state, uint64_t limit);
/* Applies one entry to plain bytes; 'torn': each sector with a chance of one half. */
void recorder_apply(const struct recorder_entry *entry, uint8_t *bytes, uint64_t capacity,
                    uint64_t *size, bool is_torn, uint64_t *random);

#endif
