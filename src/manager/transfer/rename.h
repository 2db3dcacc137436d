/* Extended attributes in an archive of tar (pax), by another name: those of overlayfs are called otherwise in a user namespace, where the
 * archive's own cannot be set. */
#ifndef MANAGER_TRANSFER_RENAME_H
#define MANAGER_TRANSFER_RENAME_H

#include "base/core/error.h"

/* The file is replaced if one of its files has the attribute 'from'. -EBADMSG: no such archive. */
int must_check rename_attribute(const char *path, const char *from, const char *to,
                                struct error *err);
/* 1: a file in it has the attribute. 0, -EBADMSG. */
int must_check rename_find(const char *path, const char *name, struct error *err);

#endif
