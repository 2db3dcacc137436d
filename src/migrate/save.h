/* One file that holds a paused VM: canonical state in named, versioned sections, then its memory without the pages of zeros.
 * The format is in save.c. */
#ifndef MIGRATE_SAVE_H
#define MIGRATE_SAVE_H

#include "machine/machine.h"

/* Writes all to 'fd' (a new empty file), flushes it to disk. The machine is paused. 'progress' (may be NULL) is called
 * now and then with bytes done of bytes in all. */
int must_check save_write(struct machine *machine, int fd,
                          void (*progress)(void *ctx, uint64_t done, uint64_t total), void *ctx,
                          struct error *err);

/* The sizes of the machine that a file was made of, as machine_create takes them. The file is untrusted. */
struct save_sizes {
    uint32_t vcpu_count, vcpu_max;
    uint64_t memory_bytes, memory_max_bytes;
};
int must_check save_read_sizes(int fd, struct save_sizes *out_sizes, struct error *err);

/* Into a machine that was created with the same hardware and has not run. The file is untrusted: an error names what
 * does not fit, and the machine is then only good for machine_destroy. A file in memory (tmpfs) whose descriptor may
 * write is given away: its pages become the machine's memory where they are, and it is good for nothing else afterwards. */
int must_check save_restore(struct machine *machine, int fd, struct error *err);

#endif
