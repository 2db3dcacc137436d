/* What hull-storage may do once its disk is open: talk to servers, read files, and nothing else. */
#ifndef STORAGE_JAIL_H
#define STORAGE_JAIL_H

#include "base/core/error.h"

/* Capabilities, new privileges, limits, and the filter of system calls, on all threads. */
int must_check storage_jail_enter(struct error *err);

#endif
