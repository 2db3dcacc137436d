/* The two files that speak with hull-storage. */
#ifndef BLOCK_PROTOCOL_REMOTE_LOCAL_H
#define BLOCK_PROTOCOL_REMOTE_LOCAL_H

#include "block/protocol/remote/remote.h"

#define LOCAL_MAX_IN_FLIGHT 64u

/* Agrees on structured replies, on the map of data and holes if there is one, and on the one export. */
int must_check local_shake_hands(int fd, bool is_for_format, int timeout_ms,
                                 uint32_t *out_context_id, struct remote_info *out_info,
                                 struct error *err);

#endif
