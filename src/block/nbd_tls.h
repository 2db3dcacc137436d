/* Credentials with which an NBD server talks TLS. Files are read when they are made, none later. */
#ifndef BLOCK_NBD_TLS_H
#define BLOCK_NBD_TLS_H

#include <stdbool.h>

#include "base/core/error.h"

struct nbd_tls;

/* One of the two. */
struct nbd_tls_options {
    /* A folder with server-cert.pem and server-key.pem, ca-cert.pem, and ca-crl.pem if there are certificates that count no more. */
    const char *folder;
    bool
        takes_any_client; /* with the folder: else a client needs a certificate that ca-cert.pem's owner signed */
    const char *psk_file; /* lines of NAME:HEX, as psktool(1) makes them */
};

/* -EOPNOTSUPP: built without TLS. */
int must_check nbd_tls_create(const struct nbd_tls_options *options, struct nbd_tls **out_tls,
                              struct error *err);
/* After all sessions. NULL is fine. */
void nbd_tls_destroy(struct nbd_tls *tls);

#endif
