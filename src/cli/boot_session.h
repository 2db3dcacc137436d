/* A VM while it runs in the foreground: terminal, signals, time limit, exit status. */
#ifndef CLI_BOOT_SESSION_H
#define CLI_BOOT_SESSION_H

#include <sys/types.h>

#include "cli/boot_files.h"

#define BOOT_STATUS_TIMEOUT 124

/* Serves the running VM until it ends and returns the exit status of cli.md. 'signal_fd' reports the signals of
 * boot_session_signals. 'console_fd' is the stream of a stdio console or -1, 'files' has the connection to the VM and the
 * processes of its remote disks. */
int boot_session_run(const struct boot_options *options, pid_t vmm, int signal_fd, int console_fd,
                     struct boot_files *files);

/* Blocks the signals that a session handles and returns the descriptor that reports them, or -1. */
int boot_session_signals(void);

#endif
