/* Files to and from the host, as tar streams in a session. */
#ifndef AGENT_TRANSFER_H
#define AGENT_TRANSFER_H

#include "base/core/error.h"

/* Unpacks below the folder 'path', which is made where it is missing. Answers when it is done; errors are the caller's to
 * tell. */
int must_check transfer_push(int fd, const char *path, struct error *err);
/* The file or folder 'path'; names in the stream begin with the last part of it. */
int must_check transfer_pull(int fd, const char *path, struct error *err);

#endif
