/* The frames of a VM's virtio-fs device (device/virtio/fs_wire.h): takes one after the other, and answers. */
#ifndef SHARE_CONNECTION_H
#define SHARE_CONNECTION_H

#include "share/server.h"

/* Until the VM closes the socket: 0. -EBADMSG: it broke the protocol. */
int must_check connection_serve(struct share *share, int fd, struct error *err);

#endif
