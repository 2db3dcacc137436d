/* {"do":"exec"}: a program and its streams, until its end or the host's. */
#ifndef AGENT_EXEC_H
#define AGENT_EXEC_H

#include "agent/request.h"

/* Answers by itself what happens once the program runs; errors are from before that. */
int must_check exec_serve(int fd, const struct request *request, struct error *err);

#endif
