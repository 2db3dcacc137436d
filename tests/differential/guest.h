/* Runs cases in a vCPU of an engine: a long-mode guest with nothing but page tables and an IDT that ends each case. */
#ifndef DIFFERENTIAL_GUEST_H
#define DIFFERENTIAL_GUEST_H

#include "base/core/error.h"
#include "case.h"
#include "engine/engine.h"

struct guest;

int must_check guest_create(const struct engine_ops *engine, const char *options,
                            const uint8_t *constants, struct guest **out_guest, struct error *err);
void guest_destroy(struct guest *guest);
struct vcpu *guest_vcpu(struct guest *guest);

/* Runs 'in' on the data pages 'data'. Errors: the engine gave up, with its reason. */
int must_check guest_run(struct guest *guest, const struct case_input *in, const uint8_t *data,
                         struct case_output *out, struct error *err);

#endif
