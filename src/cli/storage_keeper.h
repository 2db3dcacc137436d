/* The hull-storage of a disk that a running VM gets from `hull ctl`: a process of its own stays and starts it again when it ends, as
 * `hull boot` does for the disks that it gives, until the VM uses the disk no more. */
#ifndef CLI_STORAGE_KEEPER_H
#define CLI_STORAGE_KEEPER_H

#include "cli/storage_process.h"

/* Waits until the disk is served. 'out_channel' is for the VM: what boot_open_remote gives. While this process has one thread. */
int must_check storage_keeper_start(const struct storage_process *process, int *out_channel,
                                    struct error *err);

#endif
