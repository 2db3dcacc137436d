/* The program criu, which writes processes to files and makes them again. It is started by its command line. */
#ifndef CONTAINER_RUNTIME_CRIU_H
#define CONTAINER_RUNTIME_CRIU_H

#include <stdbool.h>
#include <stddef.h>

#include "base/core/error.h"

/* Arguments; NULL at the end. */
struct criu_words {
    char **item;
    size_t count;
    bool is_incomplete; /* memory was out */
};

void criu_add(struct criu_words *words, const char *format, ...) printf_like(2, 3);
void criu_words_free(struct criu_words *words);

/* Whether it is there and works on this host, before anything is touched.
 * Errors: -ENOENT "criu: executable file not found in $PATH ..."; -EOPNOTSUPP with what criu says. */
int must_check criu_check(struct error *err);

/* Errors: -EOPNOTSUPP: it is older. */
int must_check criu_check_version(unsigned major, unsigned minor, struct error *err);

struct criu_run {
    const struct criu_words *words;
    int (*prepare)(void *argument,
                   struct error *err); /* in its process, before it begins; NULL: nothing */
    void *argument;
    const char *log; /* where its words have it write to; NULL: to standard error */
};
/* Runs it to its end. Errors: -EIO with the first error that it tells. */
int must_check criu_run(const struct criu_run *run, struct error *err);

#endif
