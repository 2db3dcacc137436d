/* The unix sockets behind virtio-vsock: named in one directory that is given as a descriptor, because a jailed process has no
 * other paths. A name is reached as /proc/self/fd/N/NAME. System calls: socket, connect, bind, listen, unlinkat at the start;
 * socket, connect, accept4, recvfrom, recvmsg, sendto, shutdown later, and unlinkat at the end. */
#ifndef DEVICE_VIRTIO_VSOCK_SOCKET_H
#define DEVICE_VIRTIO_VSOCK_SOCKET_H

#include <stdint.h>

#include "base/core/error.h"

/* A connected, non-blocking socket to the socket named 'port' in the directory, or -errno. */
int vsock_socket_connect(int dir_fd, uint32_t port);

/* The listening, non-blocking socket "connect". One that nobody serves any more is replaced. */
int must_check vsock_socket_listen(int dir_fd, int *out_fd, struct error *err);
void vsock_socket_unlink(int dir_fd);

/* What has come so far of the first line of a host program. */
struct vsock_line {
    char text[32];
    uint32_t size;
};

/* Reads the line "CONNECT <port>\n", not a byte more. 0, -EAGAIN (not all there yet), or another -errno. */
int vsock_socket_read_connect(int fd, struct vsock_line *line, uint32_t *out_port);

#endif
