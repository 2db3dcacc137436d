/* What helper programs (hull-share, hull-storage, hull-net-user) have in common. Whoever starts one gives it descriptors by their numbers, --fd and
 * --ready-fd, and hears over the latter in one line "ready", or what is wrong.
 *
 * Threads: none. */
#ifndef BASE_HOST_HELPER_H
#define BASE_HOST_HELPER_H

#include "base/core/error.h"

/* The value of --NAME: the number of a descriptor, none of the standard ones. Errors: -EINVAL. */
int must_check helper_parse_fd(const char *name, const char *text, int *out_fd, struct error *err);
/* Is it a stream socket? Errors: -EINVAL. */
int must_check helper_check_socket(int fd, struct error *err);
/* Says "ready", and closes it; -1: nobody asked for it. */
void helper_say_ready(int ready_fd);
/* Says what is wrong; on stderr where 'ready_fd' is -1. Returns 1, the exit status. */
int must_check helper_fail(int ready_fd, const struct error *err);

#endif
