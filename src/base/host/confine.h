/* What processes that lock themselves in have in common. Threads: before there are any. */
#ifndef BASE_HOST_CONFINE_H
#define BASE_HOST_CONFINE_H

#include <sys/resource.h>

#include "base/core/error.h"

/* Closes all descriptors above 2 but these; 'other_fd' may be -1. */
int must_check confine_close_others(int fd, int other_fd, struct error *err);
/* At most that much of a RLIMIT_*, now and later. 0 or -errno. */
int confine_limit(int resource, rlim_t most);

#endif
