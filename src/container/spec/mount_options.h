/* The options of mounts that are not the file system's own. */
#ifndef CONTAINER_SPEC_MOUNT_OPTIONS_H
#define CONTAINER_SPEC_MOUNT_OPTIONS_H

#include <stdbool.h>

#include "container/spec/spec.h"

/* How many there are, and their names: sorted, NULL behind the last. */
const char *mount_option_name(size_t index);
/* Applies one that is no data. false: it is not known here. 'length' bytes of 'option'. */
bool mount_option_apply(struct spec_mount *mount, const char *option, size_t length);

#endif
