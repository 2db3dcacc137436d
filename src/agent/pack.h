/* Files become a tar stream. */
#ifndef AGENT_PACK_H
#define AGENT_PACK_H

#include "agent/tar.h"

/* Called with the name of a file that could not be packed as it was, and why. */
typedef void (*pack_warning_fn)(void *ctx, const char *path, const char *why);

/* The file or folder 'path' with all below it, under the last part of its name ("." for "/"). Links below it stay links,
 * sockets and what the kernel makes up (/proc and the like) are left out. */
int must_check pack(const char *path, tar_write_fn write, pack_warning_fn warn, void *ctx,
                    struct error *err);

#endif
