/* What hull-share can reach: one folder. Threads: before there are any. */
#ifndef SHARE_JAIL_H
#define SHARE_JAIL_H

#include <stdbool.h>

#include "base/core/error.h"

/* Makes the folder this process's root, where it may have mounts of its own (else it goes on without), and /proc/self/fd its working
 * directory. 'out_fd': the folder, O_PATH. 'out_path': where /proc shows it, "" for the root; PATH_MAX bytes. */
int must_check share_jail_enter_folder(const char *folder, bool is_readonly, int *out_fd,
                                       char *out_path, struct error *err);
/* Gives up all privileges but those that files need; only the system calls of a file server are left. */
int must_check share_jail_close(bool keeps_owners, struct error *err);

#endif
