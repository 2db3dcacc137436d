/* What a stream needs of TLS. gnutls.c has it; programs that use none link none. */
#ifndef BLOCK_NBD_SESSION_H
#define BLOCK_NBD_SESSION_H

#include <stddef.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "base/core/error.h"

struct nbd_tls;
struct nbd_tls_session;

/* -EAGAIN everywhere: the socket must become ready first; then the same call again. */
struct nbd_tls_ops {
    /* As the server's side, on a non-blocking socket, which stays the caller's. */
    int (*start)(struct nbd_tls *tls, int fd, struct nbd_tls_session **out_session,
                 struct error *err);
    int (*handshake)(struct nbd_tls_session *session, struct error *err);
    /* 0: the peer has closed. */
    ssize_t (*receive)(struct nbd_tls_session *session, void *out_data, size_t size);
    /* How many bytes were taken. After -EAGAIN the same bytes must come again, perhaps with more after them. */
    ssize_t (*send)(struct nbd_tls_session *session, const struct iovec *iov, int count);
    /* Says goodbye, if that is possible without waiting, and frees the session. */
    void (*end)(struct nbd_tls_session *session);
};

struct nbd_tls {
    const struct nbd_tls_ops *ops;
};

struct nbd_tls_session {
    const struct nbd_tls_ops *ops;
};

#endif
