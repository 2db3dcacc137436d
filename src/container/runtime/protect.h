/* The runtime's own program, out of the reach of containers. */
#ifndef CONTAINER_RUNTIME_PROTECT_H
#define CONTAINER_RUNTIME_PROTECT_H

#include "base/core/error.h"

/* A container's process could open the runtime's program by /proc/PID/exe and write to it later, as root (CVE-2019-5736). So the
 * program is executed again from a mount of its own that is read-only and in no namespace; where that is not allowed, from a sealed copy in memory.
 * Returns 0 if that has been done before, or need not be since the caller could not write to the program anyway. */
int must_check protect_program(char **argv, struct error *err);

#endif
