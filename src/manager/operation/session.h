/* Sessions of instances: a hull-worker each, which speaks session/frames.h on a socket. */
#ifndef MANAGER_OPERATION_SESSION_H
#define MANAGER_OPERATION_SESSION_H

#include <jansson.h>

#include "base/core/error.h"
#include "manager/operation/operation.h"

/* Starts a worker that serves 'request' (instance/instance.h) on the instance of 'document', the expanded one. 'out_fd' is
 * hulld's end, the caller's from then on: a SOCK_SEQPACKET socket, not blocking. Closing it ends the session. What goes wrong
 * later comes as an error frame. Documents are borrowed. Errors: -EBUSY: too many sessions; of starting a process.
 *
 * Threads: the loop's. */
int must_check operation_session(struct operations *operations, const json_t *document,
                                 const json_t *request, int *out_fd, struct error *err);

#endif
