/* The command line of hull-storage. */
#ifndef STORAGE_OPTIONS_H
#define STORAGE_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/core/error.h"

struct storage_options {
    int fd;       /* the client's socket */
    int ready_fd; /* -1: none */
    const char *uri;
    bool is_readonly;
    uint64_t reconnect_ns, timeout_ns;
    bool is_verbose, wants_help, wants_version;
};

extern const char storage_usage[];

/* 'out_options' is filled as far as it goes on failure, too. */
int must_check storage_parse_options(int argc, char **argv, struct storage_options *out_options,
                                     struct error *err);

#endif
