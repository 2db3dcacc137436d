/* Limits and priorities of the calling process. Inside the folder only. */
#ifndef CONTAINER_PROCESS_LIMITS_H
#define CONTAINER_PROCESS_LIMITS_H

#include "container/process/process.h"

int must_check limits_set_rlimits(const struct spec_process *process, struct degrade *degrade,
                                  struct error *err);
int must_check limits_set_scheduler(const struct spec_scheduler *scheduler, struct degrade *degrade,
                                    struct error *err);
int must_check limits_set_io_priority(int64_t priority, struct degrade *degrade, struct error *err);
int must_check limits_set_memory_policy(const struct spec_memory_policy *policy,
                                        struct degrade *degrade, struct error *err);

/* A list as in cpuset(7) ("0-3,7") as bits, of which there are 'bit_count'. -EINVAL for what is no list or beyond them. */
int must_check limits_parse_list(const char *list, unsigned long *bits, size_t bit_count);

#endif
