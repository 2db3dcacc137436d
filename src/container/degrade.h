/* What a container asked for and the host could not give, so that it runs with less than that. The report is machine-readable
 * (hull-oci state, "degraded"); with --strict the caller makes it an error. */
#ifndef CONTAINER_DEGRADE_H
#define CONTAINER_DEGRADE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/core/compiler.h"

#define DEGRADE_MAX_BYTES 4096

/* Lines "FIELD\tREASON\n". Plain memory: may be shared with a forked child or sent over a socket. */
struct degrade {
    size_t size;
    bool is_cut; /* more came than fits */
    char text[DEGRADE_MAX_BYTES];
};

/* 'field' is the path in the configuration ("process.rlimits.RLIMIT_NOFILE"); the reason is what the host lacks. */
void degrade_add(struct degrade *degrade, const char *field, const char *format, ...)
    printf_like(3, 4);

#endif
