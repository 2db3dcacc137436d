/* Names of remote disks. Apart from the table of protocols, which not every program needs. */
#include <stdio.h>
#include <string.h>

#include "block/protocol/remote/protocols.h"

/* RFC 3986, 3.1; what follows must be "://". 0: it is none. */
size_t remote_scheme_length(const char *name)
{
    size_t length =
        strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-.");
    return strncmp(name + length, "://", 3) == 0 ? length : 0;
}

bool block_is_uri(const char *name)
{
    return remote_scheme_length(name) > 0;
}

const char *block_uri_for_people(const char *uri, char *out_text, size_t size)
{
    size_t scheme = remote_scheme_length(uri);
    const char *rest = scheme > 0 ? uri + scheme + 3 : uri;
    size_t authority = scheme > 0 ? strcspn(rest, "/?#") : 0;
    const char *at = scheme > 0 ? memrchr(rest, '@', authority) : NULL;
    const char *colon = at != NULL ? strpbrk(rest, ":%") : NULL;
    if (colon != NULL && colon < at) {
        (void)snprintf(out_text, size, "%.*s:...%s", (int)(colon - uri), uri, at);
    } else {
        (void)snprintf(out_text, size, "%s", uri);
    }
    return out_text;
}
