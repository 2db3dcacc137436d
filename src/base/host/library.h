/* Shared libraries that are loaded when they are used, so that programs start and run without them. */
#ifndef BASE_HOST_LIBRARY_H
#define BASE_HOST_LIBRARY_H

#include <stddef.h>

#include "base/core/error.h"

/* A function of the library: where its address goes. */
struct library_symbol {
    const char *name;
    void *address; /* of a pointer to function */
};

struct library {
    const char *file;    /* "libnbd.so.0" */
    const char *package; /* that has it */
    const struct library_symbol *symbol;
    size_t symbol_count;
};

/* Loads it, once: it stays until the process ends. Errors: -ENOENT, and the text says which package is missing.
 * Threads: one at a time for one library. */
int must_check library_load(const struct library *library, const char *purpose, struct error *err);

#endif
