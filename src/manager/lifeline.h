/* hulld and who starts it: systemd's sockets and notices, and the lock of a state folder. */
#ifndef MANAGER_LIFELINE_H
#define MANAGER_LIFELINE_H

#include "base/core/error.h"
#include "manager/place.h"

/* STATE/hulld.lock, for this process as long as it lives. 'out_fd' is never closed. -EBUSY names the process that has it. */
int must_check lifeline_lock(const struct place *place, int *out_fd, struct error *err);

/* The socket that systemd has opened for us (sd_listen_fds(3)); -1: none. Errors: more than one, or something else. */
int must_check lifeline_activated_socket(int *out_fd, struct error *err);

/* "READY=1", "STOPPING=1" (sd_notify(3)). Nothing where nobody listens. */
void lifeline_notify(const char *state);

#endif
