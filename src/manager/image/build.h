/* The parts of building a distribution's image. */
#ifndef MANAGER_IMAGE_BUILD_H
#define MANAGER_IMAGE_BUILD_H

#include <jansson.h>
#include <stddef.h>

#include "base/core/error.h"
#include "manager/image/names.h"
#include "manager/operation/job.h"

#define BUILD_MAX_PACKAGES 256

struct build_packages {
    const char *names[BUILD_MAX_PACKAGES + 1];
    size_t count;
    char common[64];
};
/* The distribution's, and those that the request asks for, which stay the request's. */
int must_check build_collect_packages(const json_t *request,
                                      const struct distribution *distribution,
                                      struct build_packages *out, struct error *err);

/* For sh, run in the tree when all packages are there. */
extern const char build_tree_script[];

/* Of a user who has no ids but his own (system/rootless): a disk for VMs alone. mmdebstrap works in a user name space, and the disk is made
 * under fakeroot. */
int must_check build_as_user(struct job *job, const struct distribution *distribution,
                             const char *variant, const char *source, json_t **out_document,
                             struct error *err);

#endif
