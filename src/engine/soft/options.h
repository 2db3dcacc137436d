/* The options of the engine "soft": "NAME=VALUE,..." behind "soft,". docs/engines.md describes them. */
#ifndef ENGINE_SOFT_OPTIONS_H
#define ENGINE_SOFT_OPTIONS_H

#include "engine/soft/trace.h"
#include "engine/soft/vcpu.h"

/* 'options' may be NULL. Errors: EINVAL. */
int must_check soft_options_parse(struct soft_vm *vm, struct soft_trace_options *out_trace,
                                  const char *options, struct error *err);

#endif
