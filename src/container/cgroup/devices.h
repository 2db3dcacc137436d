/* Which devices a container may use: a filter in v2, or the devices controller of v1. */
#ifndef CONTAINER_CGROUP_DEVICES_H
#define CONTAINER_CGROUP_DEVICES_H

#include "container/cgroup/internal.h"

/* Puts the rules of 'resources', and the defaults behind them, in place of those that were set before, at once. */
int must_check cgroup_set_devices(const struct cgroup *cgroup,
                                  const struct spec_resources *resources, bool is_new,
                                  struct degrade *degrade, struct error *err);

#endif
