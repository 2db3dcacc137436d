/* Runs cases on the host's CPU, in a child process that can do nothing else. */
#ifndef DIFFERENTIAL_NATIVE_H
#define DIFFERENTIAL_NATIVE_H

#include "base/core/error.h"
#include "case.h"

struct native;

int must_check native_create(struct native **out_native, struct error *err);
void native_destroy(struct native *native);

/* Shared with the child: fill in data, input and count, then start. */
struct case_batch *native_batch(struct native *native);

/* The read-only page, same life. */
uint8_t *native_constants(struct native *native);

void native_start(struct native *native);
/* Waits until the batch is done. A child that died is replaced; the case that it was at is reported as escaped and the
 * rest is run.
 * Errors: -EOPNOTSUPP where the kernel lacks what the child needs. */
int must_check native_wait(struct native *native, struct error *err);

#endif
