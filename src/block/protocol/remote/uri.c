/* Which protocol a URI means. */
#include <stdio.h>
#include <string.h>

#include "block/protocol/remote/protocols.h"

typedef int (*open_fn)(const char *uri, const struct block_remote_options *options,
                       struct event_loop *loop, struct block **out_block, struct error *err);

#ifdef HULL_HAS_LIBNBD
#define NBD_OPEN nbd_open_uri
#else
#define NBD_OPEN NULL
#endif

#ifdef HULL_HAS_LIBCURL
#define HTTP_OPEN http_open_uri
#else
#define HTTP_OPEN NULL
#endif

#ifdef HULL_HAS_LIBISCSI
#define ISCSI_OPEN iscsi_open_uri
#else
#define ISCSI_OPEN NULL
#endif

#ifdef HULL_HAS_LIBNFS
#define NFS_OPEN nfs_open_uri
#else
#define NFS_OPEN NULL
#endif

#ifdef HULL_HAS_LIBRBD
#define RBD_OPEN rbd_open_uri
#else
#define RBD_OPEN NULL
#endif

static const struct protocol {
    const char *scheme;
    open_fn open;       /* NULL: this build has it not */
    const char *option; /* of the build */
} protocols[] = {
    {"nbd", NBD_OPEN, "nbd"},       {"nbds", NBD_OPEN, "nbd"},      {"nbd+unix", NBD_OPEN, "nbd"},
    {"nbds+unix", NBD_OPEN, "nbd"}, {"nbd+vsock", NBD_OPEN, "nbd"}, {"nbds+vsock", NBD_OPEN, "nbd"},
    {"http", HTTP_OPEN, "http"},    {"https", HTTP_OPEN, "http"},   {"iscsi", ISCSI_OPEN, "iscsi"},
    {"nfs", NFS_OPEN, "nfs"},       {"rbd", RBD_OPEN, "rbd"},
};

const char *block_uri_schemes(void)
{
    static char text[256];
    size_t used = 0;
    for (size_t i = 0; i < ARRAY_COUNT(protocols); i++) {
        if (protocols[i].open != NULL && used < sizeof(text)) {
            used += (size_t)snprintf(text + used, sizeof(text) - used, "%s%s", used > 0 ? ", " : "",
                                     protocols[i].scheme);
        }
    }
    return text;
}

int block_open_uri(const char *uri, const struct block_remote_options *options,
                   struct event_loop *loop, struct block **out_block, struct error *err)
{
    size_t length = remote_scheme_length(uri);
    for (size_t i = 0; i < ARRAY_COUNT(protocols); i++) {
        const struct protocol *protocol = &protocols[i];
        if (strlen(protocol->scheme) != length || strncasecmp(protocol->scheme, uri, length) != 0) {
            continue;
        }
        if (protocol->open == NULL) {
            return error_set(err, EOPNOTSUPP,
                             "disk %s: this hull was built without %s://: meson option %s", uri,
                             protocol->scheme, protocol->option);
        }
        return protocol->open(uri, options, loop, out_block, err);
    }
    return error_set(err, EOPNOTSUPP, "disk %s: protocol %.*s is unknown: %s are known", uri,
                     (int)length, uri, block_uri_schemes());
}
