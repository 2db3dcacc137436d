/* What the host's apt knows, for the time of a build: its sources of a suite, proxies and other ways to reach them. */
#ifndef SYSTEM_TEMPLATE_HOST_APT_H
#define SYSTEM_TEMPLATE_HOST_APT_H

#include <stdio.h>

#include "system/template/build.h"

/* The code name of the host's own suite: "bookworm". Errors: -ENOENT: it is no Debian. */
int must_check host_apt_suite(char *out_suite, size_t size, struct error *err);

/* Writes the host's sources of the suite (and of suites that begin with "SUITE-") with a component "main" to a file, in apt's
 * format of one line each. Names and passwords of users in them are left out with 'is_public'. 'out_count' 0: the host has
 * none. */
int must_check host_apt_sources(const char *suite, const char *path, bool is_public,
                                unsigned *out_count, struct error *err);

/* The host's settings of how packages are reached, as lines of apt.conf. */
int must_check host_apt_settings(FILE *out, struct error *err);

/* Copies the host's file or folder, if it is there, to a path that is not. */
int must_check host_apt_copy(const char *from, const char *to, struct error *err);

/* For apt inside: scratch/run/hull/apt.conf and what it names. */
int must_check host_apt_lend(struct build *build, struct error *err);

#endif
