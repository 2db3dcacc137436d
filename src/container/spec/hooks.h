/* The kinds of hooks, for the reader and for features. */
#ifndef CONTAINER_SPEC_HOOKS_H
#define CONTAINER_SPEC_HOOKS_H

#include "container/spec/read.h"

#define SPEC_HOOK_FIELDS 6
extern const struct field spec_hook_fields[SPEC_HOOK_FIELDS];

#endif
