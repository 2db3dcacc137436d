/* What hull-oci can do, as features.md and features-linux.md have it. */
#ifndef CONTAINER_SPEC_FEATURES_H
#define CONTAINER_SPEC_FEATURES_H

#include <jansson.h>

/* A new reference. Memory that is out ends in NULL. It tells of the build, not of the host. */
json_t *features_json(void);

#endif
