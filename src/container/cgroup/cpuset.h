/* CPUs and memory nodes of v1, without which no process may enter a group. */
#ifndef CONTAINER_CGROUP_CPUSET_H
#define CONTAINER_CGROUP_CPUSET_H

#include "base/core/compiler.h"

/* Gives the group, and those above it that have none, what the next one above has. 0 or -errno. */
int must_check cpuset_fill(int hierarchy_fd, const char *path);

#endif
