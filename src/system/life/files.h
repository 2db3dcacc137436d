/* Files written into a container's root before it starts. */
#ifndef SYSTEM_LIFE_FILES_H
#define SYSTEM_LIFE_FILES_H

#include <jansson.h>
#include <stdint.h>

#include "base/core/error.h"

/* 'files': a list of {"path", "text"}; without a text it is removed. What is there under the name is replaced (a link itself, not
 * what it names), owned by 'owner'. The tree is the container's: nothing outside of it is reached. */
int must_check files_write(const char *root, const json_t *files, uint32_t owner,
                           struct error *err);

/* The signal that has the init of a root stop: by what /sbin/init is in it. */
int files_stop_signal(const char *root);

#endif
