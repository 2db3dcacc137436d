/* Networks: what NICs attach to.
 *
 * A network's document (kind "network"): name, type, description, config, created_at. Types:
 *   nat     root: a bridge (config.bridge, default hull-NAME cut to 15) with address config.ipv4 (10.X.Y.1/24, chosen when not
 *           said) and config.ipv6 (fd00::1/64; none when not said; "auto" when it is made), masquerading by nftables
 *           (tables inet and bridge hull_NAME), DHCP and DNS by dnsmasq: instances find each other by name
 *   bridge  config.bridge: one of the host's that is there already
 *   user    a private switch: hull-net-user, one for each network, without privileges. config.ipv4 is its gateway (10.0.2.2/24)
 *   macvlan root: interfaces of their own on config.parent, one of the host's; the outside gives addresses
 * "default" is made when hulld starts first: nat for root, user for others.
 *
 * NICs: type nic, network, mac (made up when not said: 52:54:00 and three random bytes), ipv4 and ipv6 (its own for ever). What
 * it sends from other addresses is dropped unless spoofing=allow. Forwards: device type "forward": listen (tcp:0.0.0.0:8080),
 * connect (tcp:80);
 * "tcp:[::]:8080" listens on IPv6, and leads to the NIC's ipv6, or to what a kernel makes of the network's prefix and the mac.
 *
 * Jobs (network_jobs): network-create {document}, network-change {document, old}, network-delete {document},
 * network-up {document}: makes what is missing of it (after a boot of the host).
 *
 * Threads: none. */
#ifndef MANAGER_NETWORK_NETWORK_H
#define MANAGER_NETWORK_NETWORK_H

#include <jansson.h>
#include <net/if.h>
#include <stdbool.h>

#include "base/core/error.h"
#include "manager/operation/job.h"
#include "manager/place.h"

/* In workers: makes sure that it is up: bridge, rules, dnsmasq. Cheap when it is (0.2 ms). Takes the network's lock (a file)
 * meanwhile. Errors: -EPERM: it needs root. */
int must_check network_up(const struct place *place, const json_t *network, struct error *err);
/* Nothing of it is left, addresses included. -EBUSY naming an interface that is connected to it. */
int must_check network_down(const struct place *place, const json_t *network, struct error *err);

/* A NIC of an instance that is about to start. 'nic' is the device, with its mac. */
struct network_port {
    const struct place *place;
    const json_t *network;
    const char *instance, *device;
    const json_t *nic;
    const json_t *forwards; /* array of the instance's devices of type forward that lead here */
};
/* VMs: a tap interface on the bridge, named in 'out_interface', for `hull boot --net tap=`, of macvlan a macvtap interface for
 * `hull boot --net macvtap=`; with static lease, name in DNS, anti-spoofing, forwards. Is there already: checked and kept. -EADDRINUSE naming who has the address or port;
 * -EOPNOTSUPP: networks of that type have none. */
int must_check network_attach_tap(const struct network_port *port, char out_interface[IFNAMSIZ],
                                  struct error *err);
/* User networks: the switch runs, and the NIC has its address: {"switch": PATH of its socket,"name","mac","ipv4":"10.0.2.16/24",
 * "gateway","dns":[..],"spoofing":bool,"forwards":[{"listen","connect"}]}, with "ipv6" where the NIC says it. Who attaches sends
 * all of that: src/net/user/serve.h. Another type: -EOPNOTSUPP. A new reference. */
int must_check network_attach_switch(const struct network_port *port, json_t **out_card,
                                     struct error *err);
/* Containers: what `system` needs to know: the address it gets (reserved as a lease), gateway, name server, bridge:
 * {"bridge","ipv4":"10.1.2.3/24","gateway","dns":[..],"mac"}, with "ipv6" and "gateway6" where the NIC says an ipv6.
 * DNS name and forwards are made, guards when network_protect has the interface's name. Of user networks it is what
 * network_attach_switch says; of macvlan "parent" stands in place of "bridge". A new reference. */
int must_check network_attach_container(const struct network_port *port, json_t **out_card,
                                        struct error *err);
/* After a container's host end is there: anti-spoofing by its name. */
int must_check network_protect(const struct network_port *port, const char *interface,
                               struct error *err);
/* Takes all of that away; the lease with 'is_forgotten' only. Nothing there is fine. */
int must_check network_release(const struct network_port *port, bool is_forgotten,
                               struct error *err);
/* Addresses that a MAC has now: leases of dnsmasq and static ones; an array of texts, a new reference. Well under a
 * millisecond: in hulld, too. */
int must_check network_addresses(const struct place *place, const char *network, const char *mac,
                                 json_t **out_addresses, struct error *err);

#endif
