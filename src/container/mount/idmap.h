/* User namespaces that exist for their mappings only, for mounts with ids of their own. */
#ifndef CONTAINER_MOUNT_IDMAP_H
#define CONTAINER_MOUNT_IDMAP_H

#include "base/core/error.h"
#include "container/spec/spec.h"

/* A user namespace with these mappings and without a process. The caller must be allowed to write them. Returns a descriptor. */
int must_check idmap_make_namespace(const struct spec_id_mappings *uids,
                                    const struct spec_id_mappings *gids, struct error *err);

/* The text of /proc/PID/uid_map in new memory, or NULL when memory is out. */
char *idmap_format(const struct spec_id_mappings *mappings);

#endif
