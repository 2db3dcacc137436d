/* The host's end of hull-agent (agent/protocol.md). What comes from the guest is hostile: it has limits of size, depth and
 * time, and text has no control characters left in it.
 *
 * 'vsock_dir' is the VM's folder of sockets. Errors of all: -ECONNREFUSED: no agent listens, perhaps not yet; -ENOENT:
 * there is no such folder, the VM does not run; -ETIMEDOUT; -EPROTO: what answered is no agent; and what the agent said:
 * -EINVAL, -ENOENT, -EACCES, -EBUSY, -EOPNOTSUPP, or -EIO.
 *
 * Threads: any. They block. */
#ifndef MANAGER_INSTANCE_VM_AGENT_H
#define MANAGER_INSTANCE_VM_AGENT_H

#include <jansson.h>

#include "base/core/error.h"

/* A request that is no session. 'request' is borrowed; 'out_answer' is what "ok" holds, an object and the caller's. */
int must_check agent_call(const char *vsock_dir, const json_t *request, int timeout_ms,
                          json_t **out_answer, struct error *err);
/* The same, and the connection stays: {"do":"freeze"} holds for as long as 'out_fd' is open, a minute at most. */
int must_check agent_hold(const char *vsock_dir, const json_t *request, int timeout_ms,
                          json_t **out_answer, int *out_fd, struct error *err);
/* A session: relays frames between the agent and 'frames_fd' (SOCK_SEQPACKET, borrowed), until one of them ends it. 0: its
 * last frame has been passed on, or the other side of 'frames_fd' is gone, and with it what ran in the guest. On failure
 * no frame has ended the session: that is the caller's to do. 'timeout_ms' is for its beginning. */
int must_check agent_session(const char *vsock_dir, const json_t *request, int frames_fd,
                             int timeout_ms, struct error *err);

#endif
