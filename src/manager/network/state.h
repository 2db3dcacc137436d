/* What a network remembers, and its lock.
 *
 *   STATE/networks/NAME/addresses.json   {"INSTANCE/DEVICE":{"mac","ipv4"}}: kept as long as the instance is there
 *   STATE/networks/NAME/chosen.json      {"ipv4"}: of nat, whether it was said or chosen: others keep away from it
 *   RUN/networks/NAME/ports.json         {"INSTANCE/DEVICE":{"mac","ipv4","ipv6","interface","spoofing","forwards"}}: of those
 *                                        that run
 *   RUN/networks/NAME/lock
 *   RUN/networks/NAME/switch.*           of user: the switch's socket, its pid (locked as long as it runs), what it says
 *   RUN/networks/NAME/dns/               what dnsmasq sees: dnsmasq.conf, leases, dhcp-hosts, hosts, dnsmasq.pid
 *
 * Threads: none. */
#ifndef MANAGER_NETWORK_STATE_H
#define MANAGER_NETWORK_STATE_H

#include "manager/network/plan.h"

struct net_state {
    const struct place *place;
    struct plan plan;
    json_t *addresses, *ports; /* this struct's */
    int lock_fd;
};

/* Takes the network's lock and reads what is remembered. A file that is damaged counts as empty: all of it can be had again. A
 * nat network without an IPv4 address is given one. */
int must_check net_state_open(const struct place *place, const json_t *network,
                              struct net_state *out_state, struct error *err);
/* The network's IPv4 address as it was chosen, with prefix; "" if there is none. Also in hulld. */
void net_state_chosen(const struct place *place, const char *network,
                      char out_text[NETWORK_TEXT_SIZE]);
void net_state_close(struct net_state *state);
int must_check net_state_save_addresses(const struct net_state *state, struct error *err);
int must_check net_state_save_ports(const struct net_state *state, struct error *err);
/* All files go. */
void net_state_remove(const struct net_state *state);
void net_state_run_path(const struct net_state *state, const char *file, char out_path[PATH_MAX]);

/* Rules for nft, as it reads them: all of the network in one transaction. New memory; NULL: there is none. */
char *net_rules_text(const struct net_state *state);
char *net_rules_text_of_removal(const struct plan *plan);
/* Puts them into the kernel, unless they are what was put there last, and the tables are there. */
int must_check net_rules_apply(const struct net_state *state, const char *text, struct error *err);
/* Are the network's tables there? */
int must_check net_rules_are_there(const struct plan *plan, bool *out_are, struct error *err);

/* dnsmasq: its texts. New memory. */
char *net_dns_config(const struct net_state *state);
char *net_dns_leases(const struct net_state *state);
char *net_dns_names(const struct net_state *state);
/* Starts it if it does not run with that configuration; else lets it read what is new. */
int must_check net_dns_up(const struct net_state *state, struct error *err);
void net_dns_down(const struct net_state *state);
/* Addresses that dnsmasq has given to that MAC are added to the array. */
int must_check net_dns_add_leases(const struct place *place, const char *network, const char *mac,
                                  json_t *addresses, struct error *err);
/* All: [{"mac","ipv4","name","ends_at"}]. */
int must_check net_dns_list_leases(const struct place *place, const char *network,
                                   json_t **out_leases, struct error *err);

/* For hulld: the ports of instances that run, [{"instance","device","mac","ipv4","interface","received_bytes","received_packets","sent_bytes",
 * "sent_packets","dropped_packets"}], as far as it is known. 'is_switched': it is a user network. */
int must_check net_count_ports(const struct place *place, const char *network, bool is_switched,
                               json_t **out_ports, struct error *err);

/* The switch of a user network (hull-net-user): starts it if it does not run. RUN/networks/NAME/switch.sock, switch.pid,
 * switch.log. */
int must_check net_switch_up(const struct net_state *state, struct error *err);
void net_switch_down(const struct net_state *state);
/* The port of that mac goes: of a container the switch does not hear that it ended. */
void net_switch_detach(const struct net_state *state, const char *mac);

/* A macvtap interface on the network's parent, up: see net_tap_make. */
int must_check net_macvtap_make(const char *name, const char *parent, const char *mac,
                                struct error *err);
/* Is the parent there, and can it have others' addresses? */
int must_check net_macvlan_check(const char *parent, struct error *err);

/* A persistent tap interface in the bridge, up. One that is there is kept. */
int must_check net_tap_make(const char *name, const char *bridge, struct error *err);
int must_check net_tap_remove(const char *name, struct error *err);
/* "net/ipv4/ip_forward" gets 'value' unless it is that; 'out_was_set' (may be NULL): it was another. */
int must_check net_sysctl(const char *path, const char *value, bool *out_was_set,
                          struct error *err);
/* The host forwards IPv6. Interfaces that take routers' advertisements go on doing so, which the kernel would end else. */
int must_check net_forward_ipv6(bool *out_was_set, struct error *err);

#endif
