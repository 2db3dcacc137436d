/* What a new manager has: a pool, a network and a profile, each named "default". */
#ifndef MANAGER_DEFAULTS_H
#define MANAGER_DEFAULTS_H

#include <stdbool.h>

#include "manager/manager.h"

/* Once in a database's life: what is deleted later stays away. 'out_is_new': this was it. */
int must_check defaults_make(struct manager *manager, bool *out_is_new, struct error *err);

#endif
