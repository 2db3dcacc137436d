/* One connection, in a process of its own. */
#ifndef AGENT_SERVE_H
#define AGENT_SERVE_H

#include <stdbool.h>

#include "agent/freeze.h"

/* 'is_guest': this is a guest, which may be shut down and the like. Returns the process's exit status. */
int serve_connection(int fd, bool is_guest, struct freeze_record *record);

#endif
