/* Requests about the whole system. What they do cannot be undone by ending the agent, but for frozen file systems. */
#ifndef AGENT_SYSTEM_H
#define AGENT_SYSTEM_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "agent/request.h"
#include "base/core/error.h"

/* Asks init for the end, or makes it where init does not listen. Called behind the answer. */
void system_shut_down(bool is_reboot);
/* Sets CLOCK_REALTIME if it is off by more than 0.1 s. */
int must_check system_set_time(int64_t ns, int64_t *out_was_off_ns, struct error *err);
/* The root's file system as large as its disk. -EOPNOTSUPP: this one cannot. */
int must_check system_grow(uint64_t *out_size, struct error *err);
int must_check system_set_identity(const struct request *request, struct error *err);
/* What follows from it and takes a while. Called behind the answer. */
void system_use_identity(const struct request *request);

#endif
