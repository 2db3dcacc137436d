/* What of a container's processes cannot be written to files, found before anything is touched. */
#ifndef CONTAINER_RUNTIME_PREFLIGHT_H
#define CONTAINER_RUNTIME_PREFLIGHT_H

#include <stdbool.h>

#include "container/runtime/loaded.h"

struct preflight_options {
    bool allows_tcp, allows_locks; /* --tcp-established, --file-locks */
    bool is_system;                /* the caller has no such options */
};

/* Errors: -EOPNOTSUPP with the processes and what they have, the first ones of it. */
int must_check preflight_check(const struct loaded *loaded, const struct preflight_options *options,
                               struct error *err);

#endif
