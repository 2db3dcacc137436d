/* The command line of hull-share. */
#ifndef SHARE_OPTIONS_H
#define SHARE_OPTIONS_H

#include <stdbool.h>

#include "base/core/error.h"

struct share_options {
    int fd;       /* the VM's socket */
    int ready_fd; /* -1: none */
    const char *folder;
    bool is_readonly;
    bool is_verbose, wants_help, wants_version;
};

extern const char share_usage[];

/* 'out_options' is filled as far as it goes on failure, too. */
int must_check share_parse_options(int argc, char **argv, struct share_options *out_options,
                                   struct error *err);

#endif
