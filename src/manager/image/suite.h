/* apt for the packages of a suite that is not the host's: with lists of its own, from the mirror that the host uses. */
#ifndef MANAGER_IMAGE_SUITE_H
#define MANAGER_IMAGE_SUITE_H

#include <limits.h>

#include "base/core/error.h"
#include "manager/operation/job.h"

/* 'out_config': "APT_CONFIG=FILE", for the environment of apt's programs; "": they know the suite as they are. 'suite' NULL: the host's.
 * Its lists are fetched again when they are older than a day. Errors: -ENOENT: the host has no sources that lead to it. */
int must_check suite_open(struct job *job, const char *suite, char out_config[PATH_MAX],
                          struct error *err);

#endif
