/* A tar stream becomes files below a folder, and nothing becomes anything outside of it, whatever links there are in the
 * stream or in the folder. */
#ifndef AGENT_UNPACK_H
#define AGENT_UNPACK_H

#include "agent/tar.h"

/* 'root' is the folder's descriptor (borrowed). Links that lead to an absolute path lead out of it, but for "/" itself.
 * What was made before an error stays. */
int must_check unpack(int root, struct tar_reader *reader, struct error *err);

#endif
