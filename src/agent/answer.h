/* Answers to a host, and what a connection's process has in common. */
#ifndef AGENT_ANSWER_H
#define AGENT_ANSWER_H

#include <jansson.h>

#include "base/core/error.h"

/* {"ok":...}; 'ok' is taken over, NULL: no memory for it. */
int must_check answer_ok(int fd, json_t *ok, struct error *err);
/* {"error":...}. It may go nowhere: the host is gone then. */
void answer_error(int fd, const struct error *problem);
/* "invalid" and the like, for a positive errno. */
const char *answer_code(int code);
/* Ends the connection without losing what was sent: the host's rest is read away until it closes, for some seconds. */
void answer_finish(int fd);

#endif
