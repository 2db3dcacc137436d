/* Port forwardings from the host into the guest, as users write them. */
#ifndef NET_USER_HOSTFWD_H
#define NET_USER_HOSTFWD_H

#include <netinet/in.h>
#include <stdbool.h>
#include <sys/socket.h>

#include "base/core/error.h"

union hostfwd_address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

struct hostfwd {
    bool is_udp;
    union hostfwd_address host;  /* the unspecified address: all of the host's */
    union hostfwd_address guest; /* IPv4 unspecified: the first address that DHCP gives */
};

/* (tcp|udp):[HOST-ADDRESS]:HOST-PORT-[GUEST-ADDRESS]:GUEST-PORT. IPv6 addresses stand in brackets, and then on both sides. */
int must_check hostfwd_parse(const char *text, struct hostfwd *out_forward, struct error *err);

#endif
