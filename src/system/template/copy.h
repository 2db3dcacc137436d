/* Copies files of the user's into a template. */
#ifndef SYSTEM_TEMPLATE_COPY_H
#define SYSTEM_TEMPLATE_COPY_H

#include "base/core/error.h"

/* 'from' is a plain file or a folder, opened with O_PATH; to 'path' as it is found from the root of this process, with the
 * folders above it. A folder's content is added to one that is there. Everything belongs to root and keeps modes and times;
 * links stay links. */
int must_check copy_in(int from, const char *path, struct error *err);

#endif
