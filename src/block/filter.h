/* Filters: blocks that pass requests on to the one block below them and keep a rule meanwhile. A disk of a VM has those that
 * its options ask for, on top of its format.
 *
 * Each open owns 'below' from then on, also on failure. Threads: as in block.h. */
#ifndef BLOCK_FILTER_H
#define BLOCK_FILTER_H

#include "block/block.h"

enum block_detect_zeroes {
    BLOCK_DETECT_ZEROES_OFF,
    BLOCK_DETECT_ZEROES_ON,    /* writes of zeros become WRITE_ZEROES */
    BLOCK_DETECT_ZEROES_UNMAP, /* that give space back as well */
};

/* What becomes of zeros, and of space that the guest does not need any more. With 'ignore_discard' it stays taken: discards
 * do nothing, zeros are written without holes. */
int must_check block_filter_zeroes(struct block *below, enum block_detect_zeroes detect,
                                   bool ignore_discard, struct block **out_block,
                                   struct error *err);

/* What is read from the backing blocks of 'below', a format with clusters, is written to it as well: from then on it is
 * there. A copy that fails leaves the read as it is. */
int must_check block_filter_copy_on_read(struct block *below, struct block **out_block,
                                         struct error *err);

/* Limits of bytes and operations in a time, as QEMU's throttling and libvirt's <iotune> have them. */

#define BLOCK_THROTTLE_MAX_RATE 1000000000000000ull /* a second */

enum block_throttle_kind {
    BLOCK_THROTTLE_BPS,
    BLOCK_THROTTLE_BPS_READ,
    BLOCK_THROTTLE_BPS_WRITE,
    BLOCK_THROTTLE_IOPS,
    BLOCK_THROTTLE_IOPS_READ,
    BLOCK_THROTTLE_IOPS_WRITE,
    BLOCK_THROTTLE_KINDS,
};

struct block_throttle_limit {
    uint64_t rate;           /* a second; 0: no limit */
    uint64_t burst;          /* a second, while a burst lasts; 0: none */
    uint64_t burst_length_s; /* how long; 0 counts as 1 */
};

struct block_throttle_limits {
    struct block_throttle_limit kind[BLOCK_THROTTLE_KINDS];
    uint64_t operation_bytes; /* a larger request counts as that many more operations; 0: as one */
};

/* "bps", "bps-rd", "bps-wr", "iops", "iops-rd", "iops-wr": the names of the kinds, in messages and options. */
extern const char *const block_throttle_names[BLOCK_THROTTLE_KINDS];

/* Sets what 'key' says: "bps-rd", "iops-max", "bps-max-length", "iops-size", and QEMU's and libvirt's words for them. False: it
 * is none. Sizes are bytes (a second) with *out_is_bytes, else counts or seconds. */
bool block_throttle_set_key(struct block_throttle_limits *limits, const char *key, uint64_t value,
                            bool *out_is_bytes);
/* Calls fn with what is not 0, by Hull's words. */
void block_throttle_each(const struct block_throttle_limits *limits,
                         void (*fn)(void *ctx, const char *key, uint64_t value), void *ctx);

/* Limits that one disk has, or several together. */
struct block_throttle_group;

/* For tests: another clock than clock_monotonic_ns. It does not wake anybody: see block_throttle_poll. */
typedef uint64_t (*block_clock_fn)(void *ctx);

/* -EINVAL with the reason: total and direction together, a burst without a rate or below it ... */
int must_check block_throttle_check(const struct block_throttle_limits *limits, struct error *err);
/* Held by the caller and by each filter that has it; 'limits' has been checked. */
int must_check block_throttle_create(const struct block_throttle_limits *limits,
                                     struct event_loop *loop, block_clock_fn clock, void *ctx,
                                     struct block_throttle_group **out_group, struct error *err);
void block_throttle_put(struct block_throttle_group *group);
/* At once, also for those who wait. */
void block_throttle_set(struct block_throttle_group *group,
                        const struct block_throttle_limits *limits);
void block_throttle_get(const struct block_throttle_group *group,
                        struct block_throttle_limits *out_limits);
/* Lets those go on whose time has come, as the group's timer does. */
void block_throttle_poll(struct block_throttle_group *group);
/* When the next one may go on; UINT64_MAX: nobody waits. */
uint64_t block_throttle_deadline(const struct block_throttle_group *group);

/* Members of a group take turns. Flushes pass; discards and zeros count as operations without bytes. Where the caller waits
 * for all requests (block_drain, closing) those that are held back go on at once. */
int must_check block_filter_throttle(struct block *below, struct block_throttle_group *group,
                                     struct block **out_block, struct error *err);

#endif
