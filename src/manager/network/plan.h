/* A network as its document says it, checked; for the files of this folder.
 *
 * Threads: none. */
#ifndef MANAGER_NETWORK_PLAN_H
#define MANAGER_NETWORK_PLAN_H

#include <net/if.h>

#include "manager/network/network.h"
#include "system/network/network.h"

#define PLAN_NAME_SIZE 65

enum plan_type {
    PLAN_NAT,
    PLAN_BRIDGE,
    PLAN_USER,
    PLAN_MACVLAN,
};

struct plan {
    char name[PLAN_NAME_SIZE];
    enum plan_type type;
    char bridge[IFNAMSIZ]; /* of nat and bridge */
    char parent[IFNAMSIZ]; /* of macvlan */
    struct network_address
        ipv4; /* of nat: the bridge's own; of user: the gateway's; family 0: yet to be chosen */
    struct network_address ipv6;        /* family 0: none */
    struct network_address first, last; /* of those that instances get */
};

/* Do instances have addresses of ours? */
static inline bool plan_has_addresses(const struct plan *plan)
{
    return plan->type == PLAN_NAT || plan->type == PLAN_USER;
}

/* Errors: -EINVAL naming the key. */
int must_check plan_read(const json_t *network, struct plan *out_plan, struct error *err);
/* Its IPv4 network, from which what DHCP gives follows. */
int must_check plan_set_ipv4(struct plan *plan, const char *text, struct error *err);
/* "nat" ... */
const char *plan_type_name(enum plan_type type);
/* The bridge of a network that does not name one. */
void plan_default_bridge(const char *network, char out_name[IFNAMSIZ]);

/* "52:54:00:12:34:56" in any letters; 'out_text' has small ones. Groups' addresses and zeros are no NIC's: -EINVAL. */
#define PLAN_MAC_SIZE 18
int must_check plan_read_mac(const char *text, char out_text[PLAN_MAC_SIZE], struct error *err);

/* What a forward says: "tcp:0.0.0.0:8080" or "tcp:8080" to "tcp:80". */
struct plan_forward {
    bool is_udp;
    struct network_address listen; /* family 0: all of the host's of IPv4; "[::]" is all of IPv6 */
    unsigned listen_port, connect_port;
};
int must_check plan_read_forward(const json_t *device, struct plan_forward *out_forward,
                                 struct error *err);
/* Do they listen at one place? */
bool plan_forwards_clash(const struct plan_forward *a, const struct plan_forward *b);
/* What kernels make of a network of /64 and a mac. */
void plan_ipv6_of_mac(const struct network_address *network, const char *mac,
                      struct network_address *out);

/* 10.X.Y.1/24 that overlaps neither with 'taken' (networks, "10.1.2.1/24") nor with what the host has addresses in or routes
 * to. 'seed' decides where to begin to look. -ENOSPC. */
int must_check plan_choose_ipv4(const json_t *taken, unsigned seed, struct network_address *out,
                                struct error *err);
/* Is the network of 'address' free, but for a device 'own' (may be NULL)? -EEXIST naming what is in the way. */
int must_check plan_check_free(const struct network_address *address, const json_t *taken,
                               const char *own, struct error *err);
/* A network of fd00::/8 at random. */
int must_check plan_choose_ipv6(struct network_address *out, struct error *err);

#endif
