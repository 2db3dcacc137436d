/* A remote disk's own process, hull-storage: it has the protocol's library and the connection to the server, see src/storage. */
#ifndef CLI_STORAGE_PROCESS_H
#define CLI_STORAGE_PROCESS_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/core/error.h"

struct storage_process {
    const char *uri;
    bool is_readonly;
    bool has_reconnect; /* else hull-storage's own default */
    unsigned reconnect_s;
    /* It goes on when this program ends, for as long as somebody holds the other end of its socket. */
    bool outlives_us;
    int log_fd; /* where it tells of what happens; 0: standard error */
};

/* Starts it and waits until it serves. 'out_fd': the socket for whoever uses the disk. 'out_pid' is set as soon as there is a
 * process, else 0: also on failure. */
int must_check storage_process_start(const struct storage_process *process, int *out_fd,
                                     pid_t *out_pid, struct error *err);

/* The same without waiting: 'out_ready_fd' becomes readable when there is something for storage_process_is_ready. */
int must_check storage_process_spawn(const struct storage_process *process, int *out_fd,
                                     int *out_ready_fd, pid_t *out_pid, struct error *err);
/* Does it serve? Waits until it says so, or why not. */
int must_check storage_process_await(const struct storage_process *process, int ready_fd,
                                     struct error *err);

#endif
