/* Images of other products, written by conversion: an empty one is made, filled, and whole when it is finished (block_finish). Until
 * then nobody else can read it. */
#ifndef BLOCK_FORMAT_FOREIGN_WRITE_H
#define BLOCK_FORMAT_FOREIGN_WRITE_H

#include "block/block.h"

struct vmdk_write_options {
    uint64_t size_bytes; /* a multiple of 512 */
    const char *name;    /* that it will have, for its descriptor */
};

/* A stream-optimized VMDK on an empty growable file, which it owns from then on, also on failure. Each cluster can be written once,
 * and only as a whole; it is always compressed. */
int must_check vmdk_write_create(struct block *file, const struct vmdk_write_options *options,
                                 struct block **out_block, struct error *err);

struct vhdx_write_options {
    uint64_t size_bytes; /* a multiple of 512 */
    uint32_t block_size; /* power of two from 1 MiB to 256 MiB; 0: chosen by the size */
};

/* A dynamic VHDX, likewise. Any multiple of 512 bytes can be written, again and again. */
int must_check vhdx_write_create(struct block *file, const struct vhdx_write_options *options,
                                 struct block **out_block, struct error *err);

/* For those who want to know before: what of the disk is stored as one, and the bytes that come on top of 'used_bytes' of data. */
extern const uint32_t vmdk_write_grain_size;
uint64_t vmdk_write_overhead(uint64_t size_bytes, uint64_t used_bytes);
uint32_t vhdx_write_block_size(uint64_t size_bytes);
uint64_t vhdx_write_overhead(uint64_t size_bytes, uint64_t used_bytes);

#endif
