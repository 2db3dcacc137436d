/* linux.intelRdt (config-linux.md, IntelRdt): cache and bandwidth classes, as groups of the resctrl file system
 * (Documentation/filesystems/resctrl.rst). */
#ifndef CONTAINER_RESCTRL_RESCTRL_H
#define CONTAINER_RESCTRL_RESCTRL_H

#include <jansson.h>
#include <limits.h>
#include <stdbool.h>
#include <sys/types.h>

#include "base/core/error.h"
#include "container/spec/spec.h"

#define RESCTRL_ROOT "/sys/fs/resctrl"

/* A container's place there. */
struct resctrl {
    char group[NAME_MAX + 1]; /* "": the root's */
    bool is_made;             /* the group has to be made */
    bool is_removed;          /* and goes with the container: nobody has named it */
    bool is_monitored;        /* by a group of its own below, named as the container */
};

/* The file system's root: a descriptor, or -ENODEV where it is not mounted. */
int resctrl_open(const char *path);

/* What has to be done for a container. 'root' is the file system's. Errors: -ENOENT for a closID without a schema that is not
 * there, -EEXIST for a group of the container's name, -EINVAL for schemas that an existing group has not. */
int must_check resctrl_plan(int root, const char *id, const struct spec_intel_rdt *rdt,
                            struct resctrl *out_plan, struct error *err);
/* Makes the groups and sets their schemas; a failure leaves none. */
int must_check resctrl_make(int root, const char *id, const struct spec_intel_rdt *rdt,
                            const struct resctrl *plan, struct error *err);
/* Puts a process into them; those that it makes are born there. */
int must_check resctrl_add(int root, const char *id, const struct resctrl *plan, pid_t pid,
                           struct error *err);
/* Removes what is the container's own. What is not there is no error. */
int must_check resctrl_remove(int root, const char *id, const struct resctrl *plan,
                              struct error *err);

/* For the container's state: a new reference; and back. */
json_t *resctrl_save(const struct resctrl *plan);
int must_check resctrl_load(const json_t *saved, struct resctrl *out_plan);

/* Does the content of a file 'schemata' say what 'line' wants ("L3:0=7f0;1=1f")? Of what it does not speak, anything is
 * right. */
bool schemata_have(const char *content, const char *line);

#endif
