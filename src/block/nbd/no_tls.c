/* In the place of gnutls.c, for builds without it. */
#include "block/nbd_tls.h"

int nbd_tls_create(const struct nbd_tls_options *options, struct nbd_tls **out_tls,
                   struct error *err)
{
    return error_set(err, EOPNOTSUPP, "TLS: this program was built without it");
}

void nbd_tls_destroy(struct nbd_tls *tls)
{
}
