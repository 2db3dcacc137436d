/* Terminals of containers: handed to who asked by a socket, or copied to the caller's own. */
#ifndef CONTAINER_RUNTIME_TERMINAL_H
#define CONTAINER_RUNTIME_TERMINAL_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/core/error.h"

/* A connection to the Unix socket at 'path', of any length; the caller's. 'what' names the option in errors. */
int must_check terminal_connect(const char *path, const char *what, int *out_socket,
                                struct error *err);
/* Sends a descriptor with a text, as --console-socket and --pidfd-socket expect it. */
int must_check terminal_send(int socket, int fd, const char *text, struct error *err);

/* Connects to the socket of --pidfd-socket and sends the process there. */
int must_check terminal_send_pidfd(const char *path, int pidfd, const char *id, struct error *err);

/* In the process that gets it: a session of its own with this terminal as standard input, output and error. 'slave' is closed. */
int must_check terminal_take(int slave, struct error *err);
int must_check terminal_set_size(int fd, uint16_t rows, uint16_t columns, struct error *err);
/* A terminal gets the size that standard input has, if that is one. */
void terminal_copy_size(int master);

/* Waits for the child 'pid' to end while signals go to it and, with a 'master' that is not -1, the caller's terminal is copied to and
 * from it (raw, sizes follow). 'signals' are blocked by the caller since before the child began. Returns the exit status as a shell has
 * it (128 + signal). */
int must_check terminal_wait(pid_t pid, int pidfd, int master, const sigset_t *signals,
                             int *out_status, struct error *err);

#endif
