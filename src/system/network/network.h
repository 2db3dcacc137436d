/* Networks of system containers, by rtnetlink(7): bridges on the host, pairs of virtual Ethernet devices into containers,
 * addresses.
 *
 * Threads: none. Everything is one or a few netlink messages; no program is started. */
#ifndef SYSTEM_NETWORK_NETWORK_H
#define SYSTEM_NETWORK_NETWORK_H

#include <net/if.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/core/error.h"

#define NETWORK_MAX_ADDRESSES 8
#define NETWORK_MAX_FORWARDS  16
/* Made when the first container that names it starts. */
#define NETWORK_DEFAULT_BRIDGE  "hull0"
#define NETWORK_DEFAULT_ADDRESS "10.90.0.1/24"

/* An address with its network: "10.90.0.10/24", "fd00::10/64". */
struct network_address {
    int family;        /* AF_INET, AF_INET6; 0: none */
    uint8_t bytes[16]; /* network byte order; 4 of them for AF_INET */
    unsigned prefix;   /* length in bits */
};

/* "10.90.0.10/24"; without "/24" the prefix is 'default_prefix' (of that family's width if that is 0).
 * Errors: -EINVAL saying what is wrong with it (no address, prefix too long; where 'is_host', a network's, broadcast,
 * multicast, loopback or unspecified address). */
int must_check network_parse(const char *text, unsigned default_prefix, bool is_host,
                             struct network_address *out_address, struct error *err);
/* As network_parse takes it; 'with_prefix' false: "10.90.0.10". */
#define NETWORK_TEXT_SIZE 64
void network_format(const struct network_address *address, bool with_prefix,
                    char out_text[NETWORK_TEXT_SIZE]);
/* The one 'count' further in the same network. Errors: -ERANGE when the network ends before. Its last address is left out
 * (IPv4's broadcast address), unless it has two addresses or one. */
int must_check network_advance(const struct network_address *address, uint32_t count,
                               struct network_address *out_address, struct error *err);
/* Do both lie in the network of the first? */
bool network_contains(const struct network_address *network, const struct network_address *other);

/* A container's network card. */
struct network_card {
    const char *name;      /* in the container: "eth0" */
    const char *host_name; /* of the other end, on the host; at most IFNAMSIZ - 1 */
    const char *bridge;    /* on the host; NULL: the other end stands alone */
    bool
        is_macvlan; /* 'bridge' is no bridge, but the parent of a macvlan interface, which has no other end */
    /* In place of a bridge: the socket of a user's switch, and ports of the host that lead here, "LISTEN>CONNECT". */
    const char *switch_path;
    const char *forwards[NETWORK_MAX_FORWARDS];
    size_t forward_count;
    bool may_spoof; /* at a switch: what it sends from other addresses passes */
    uint8_t mac[6]; /* all 0: made from host_name (locally administered, always the same) */
    unsigned mtu;   /* 0: the bridge's, or 1500 */
    struct network_address addresses[NETWORK_MAX_ADDRESSES];
    size_t address_count;
    /* Family 0: none. A gateway outside of the addresses' networks is reached by a route of its own to it (onlink). */
    struct network_address gateway4, gateway6;
};

/* Makes the pair, with one end in the bridge and up, the other in the network namespace 'namespace_fd' with its name,
 * addresses, up, and the default routes. The calling thread is in that namespace for a moment; should there be no way back, the
 * program ends. Duplicate address detection of IPv6 is off for given addresses (as it would delay the start), lo of the
 * namespace is up. Errors: -EEXIST naming the device that is in the way, -ENODEV naming the bridge that is not there or is
 * none; nothing is left. */
int must_check network_attach_card(const struct network_card *card, int namespace_fd,
                                   struct error *err);
/* The same for a card at a switch, which is a program of an ordinary user: a tap device in the container's namespace, whose descriptor
 * the switch at 'switch_path' (SOCK_SEQPACKET) gets with {"do":"attach","name","mac","ipv4","spoofing":true,"forwards":[{"listen","connect"}]}, and
 * answers {"ok":true} or {"error":"..."}. Without a card (NULL) lo alone is set up. Done by
 * a process of its own: a user's namespace has no way back from a container's. */
int must_check network_plug_card(const struct network_card *card, const char *container,
                                 int namespace_fd, struct error *err);
/* Takes devices of cards at a switch away: the descriptor that the switch has keeps the namespace, and so the port, until then. */
void network_unplug_cards(const struct network_card *cards, size_t count, int namespace_fd);
/* Removes a pair by the name of its end on the host. One that is not there is no error; one that is no veth is (-EINVAL). */
int must_check network_detach_card(const char *host_name, struct error *err);

/* Makes a bridge with an address if there is none of that name, and has it up; the address is added to one without any of that
 * family (IPv6's link-local ones do not count). 'address' NULL: none. IPv6's duplicate detection and STP are off, so that it
 * forwards at once. 'out_is_new' may be NULL. Errors: -EEXIST: a device of the name is no bridge, or the address's network
 * overlaps that of another device of the host. */
int must_check network_bridge_make(const char *name, const struct network_address *address,
                                   bool *out_is_new, struct error *err);
/* Removes a bridge that nobody is connected to. Errors: -EBUSY naming one that is, -ENODEV where there is none. */
int must_check network_bridge_remove(const char *name, struct error *err);
/* The addresses of a device of the host, at most NETWORK_MAX_ADDRESSES, without IPv6's link-local ones. Errors: -ENODEV. */
int must_check network_device_addresses(const char *name,
                                        struct network_address out[NETWORK_MAX_ADDRESSES],
                                        size_t *out_count, struct error *err);
/* Names of the host's veth devices that begin with 'prefix', for finding what was left behind: called for each. */
int must_check network_each_veth(const char *prefix, void (*fn)(const char *name, void *ctx),
                                 void *ctx, struct error *err);

/* Does anybody in the network of that bridge answer for the addresses (ARP, neighbor solicitation for IPv6)? Asks for all at
 * once, twice, waits for 'timeout_ms' at most and returns as soon as all are answered for. The host's own addresses are used
 * too; a bridge without ports, or down, has nobody else. 'out_used' has a flag for each, and nothing useful after an error. 1:
 * some are used; 0: none. Errors: -ENODEV as above. */
int must_check network_probe(const char *bridge, const struct network_address *addresses,
                             size_t count, unsigned timeout_ms, bool *out_used, struct error *err);

#endif
