/* Networks up and down, and the NICs of instances on them. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "base/core/crc32c.h"
#include "base/host/log.h"
#include "manager/network/state.h"
#include "manager/text.h"
#include "system/network/link.h"

/* Packets from the network go on: what the host may have switched off. */
static int let_forward(const struct plan *plan, bool *out_was_set, struct error *err)
{
    char path[128];
    snprintf(path, sizeof(path), "net/ipv4/conf/%s/route_localnet", plan->bridge);
    int rc = net_sysctl(path, "1", NULL, err);
    if (rc == 0) {
        rc = net_sysctl("net/ipv4/ip_forward", "1", out_was_set, err);
    }
    if (rc < 0) {
        return rc;
    }
    snprintf(path, sizeof(path), "net/ipv6/conf/%s/disable_ipv6", plan->bridge);
    if (plan->ipv6.family == 0) {
        return 0;
    }
    rc = net_sysctl(path, "0", NULL, err);
    if (rc == 0) {
        rc = network_bridge_make(plan->bridge, &plan->ipv6, NULL, err);
    }
    return rc == 0 ? net_forward_ipv6(out_was_set, err) : rc;
}

static int up(struct net_state *state, struct error *err)
{
    const struct plan *plan = &state->plan;
    bool was_set = false;
    int rc = 0;
    if (plan->type == PLAN_NAT) {
        rc = network_bridge_make(plan->bridge, &plan->ipv4, NULL, err);
        rc = rc < 0 ? rc : let_forward(plan, &was_set, err);
        if (was_set) {
            log_info("network %s: the host forwards packets from now on", plan->name);
        }
        rc = rc == 0 ? 0 : error_prefix(err, rc, "network %s", plan->name);
    } else if (plan->type == PLAN_USER) {
        return net_switch_up(state, err);
    } else if (plan->type == PLAN_MACVLAN) {
        rc = net_macvlan_check(plan->parent, err);
        return rc == 0 ? 0 : error_prefix(err, rc, "network %s", plan->name);
    }
    if (rc == 0) {
        char *text = net_rules_text(state);
        rc = net_rules_apply(state, text, err);
        free(text);
    }
    if (rc == 0 && plan->type == PLAN_NAT) {
        rc = net_dns_up(state, err);
    }
    return rc;
}

static bool needs_root(const struct plan *plan)
{
    return plan->type != PLAN_USER;
}

/* The network's state, if there is something to be done. */
static int open_state(const struct place *place, const json_t *network, struct net_state *out_state,
                      struct error *err)
{
    struct plan plan;
    int rc = plan_read(network, &plan, err);
    if (rc == 0 && needs_root(&plan) && !place->is_root) {
        rc = error_set(err, EPERM,
                       "network %s: type %s needs root: an ordinary user's instances are on one of "
                       "type user",
                       plan.name, plan_type_name(plan.type));
    }
    return rc < 0 ? rc : net_state_open(place, network, out_state, err);
}

int network_up(const struct place *place, const json_t *network, struct error *err)
{
    struct net_state state;
    int rc = open_state(place, network, &state, err);
    if (rc == 0) {
        rc = up(&state, err);
        net_state_close(&state);
    }
    return rc;
}

int network_down(const struct place *place, const json_t *network, struct error *err)
{
    struct net_state state;
    int rc = open_state(place, network, &state, err);
    if (rc < 0) {
        return rc;
    }
    const struct plan *plan = &state.plan;
    if (plan->type == PLAN_NAT) {
        rc = network_bridge_remove(plan->bridge, err);
        rc = rc == -ENODEV ? 0 : rc;
        if (rc == 0) {
            net_dns_down(&state);
        }
    }
    if (plan->type == PLAN_USER) {
        net_switch_down(&state);
    }
    if (rc == 0 && (plan->type == PLAN_NAT || plan->type == PLAN_BRIDGE)) {
        char *text = net_rules_text_of_removal(plan);
        rc = net_rules_apply(&state, text, err);
        free(text);
    }
    if (rc == 0) {
        net_state_remove(&state);
    }
    net_state_close(&state);
    return rc;
}

static void port_id(const struct network_port *port, char out_id[160])
{
    snprintf(out_id, 160, "%.70s/%.70s", port->instance, port->device);
}

/* The same for the same NIC, and another one for another state folder: FNV-1a, of which 44 bits have room. */
static void tap_name(const struct network_port *port, char out_name[IFNAMSIZ])
{
    const char *const parts[] = {port->place->state, port->instance, port->device};
    uint64_t hash = 0xcbf29ce484222325;
    for (unsigned i = 0; i < ARRAY_COUNT(parts); i++) {
        for (const char *at = parts[i];; at++) {
            hash = (hash ^ (uint8_t)*at) * 0x100000001b3;
            if (*at == '\0') {
                break;
            }
        }
    }
    snprintf(out_name, IFNAMSIZ, "ht%011llx", (unsigned long long)(hash >> 20));
}

/* Has another one the address? */
static const char *holder_of(const struct net_state *state, const char *ipv4, const char *id)
{
    const char *other;
    json_t *entry;
    json_object_foreach(state->addresses, other, entry)
    {
        const char *its = text_of(entry, "ipv4");
        if (its != NULL && strcmp(its, ipv4) == 0 && strcmp(other, id) != 0) {
            return other;
        }
    }
    return NULL;
}

static bool has_lease(const json_t *leases, const char *ipv4, const char *mac)
{
    size_t i;
    const json_t *lease;
    json_array_foreach(leases, i, lease)
    {
        if (strcmp(text_of(lease, "ipv4"), ipv4) == 0 && strcmp(text_of(lease, "mac"), mac) != 0) {
            return true;
        }
    }
    return false;
}

/* One that nobody has, the same as before where it can be. */
static int choose_address(const struct net_state *state, const char *id, const char *mac,
                          char out_ipv4[NETWORK_TEXT_SIZE], struct error *err)
{
    json_auto_t *leases = NULL;
    const struct plan *plan = &state->plan;
    uint32_t first, last;
    memcpy(&first, plan->first.bytes, 4);
    memcpy(&last, plan->last.bytes, 4);
    first = __builtin_bswap32(first);
    last = __builtin_bswap32(last);
    int rc = net_dns_list_leases(state->place, plan->name, &leases, err);
    if (rc < 0) {
        return rc;
    }
    char own[NETWORK_TEXT_SIZE];
    network_format(&plan->ipv4, false, own);
    uint32_t count = last - first + 1, start = crc32c(0, mac, strlen(mac)) % count;
    for (uint32_t i = 0; i < MIN(count, 1u << 16); i++) {
        struct network_address address = plan->first;
        uint32_t value = __builtin_bswap32(first + (start + i) % count);
        memcpy(address.bytes, &value, 4);
        network_format(&address, false, out_ipv4);
        if (strcmp(out_ipv4, own) != 0 && holder_of(state, out_ipv4, id) == NULL &&
            !has_lease(leases, out_ipv4, mac)) {
            return 0;
        }
    }
    return error_set(err, ENOSPC, "network %s: all its addresses are taken", plan->name);
}

/* Of a user network it stands behind the gateway. */
static bool is_name_server(const struct plan *plan, const struct network_address *address)
{
    struct network_address server;
    return network_advance(&plan->ipv4, 1, &server, NULL) == 0 &&
           memcmp(server.bytes, address->bytes, 4) == 0;
}

/* What the NIC asks for itself. */
static int check_wanted(const struct net_state *state, const char *id, const char *wanted,
                        char out_ipv4[NETWORK_TEXT_SIZE], struct error *err)
{
    const struct plan *plan = &state->plan;
    struct network_address address;
    char own[NETWORK_TEXT_SIZE];
    int rc =
        network_parse(wanted, plan->ipv4.prefix != 0 ? plan->ipv4.prefix : 32, true, &address, err);
    if (rc < 0) {
        return rc == 0 ? 0 : error_prefix(err, rc, "%s: ipv4", id);
    }
    network_format(&address, false, out_ipv4);
    if (address.family != AF_INET) {
        return error_set(err, EINVAL, "%s: ipv4 '%s': is no IPv4 address", id, wanted);
    }
    if (!plan_has_addresses(plan)) {
        return 0;
    }
    network_format(&plan->ipv4, true, own);
    if (!network_contains(&plan->ipv4, &address) ||
        memcmp(plan->ipv4.bytes, address.bytes, 4) == 0 ||
        (plan->type == PLAN_USER && is_name_server(plan, &address))) {
        return error_set(err, EINVAL, "%s: ipv4 %s: network %s has %s: another one in it", id,
                         out_ipv4, plan->name, own);
    }
    const char *holder = holder_of(state, out_ipv4, id);
    return holder == NULL
               ? 0
               : error_set(err, EADDRINUSE, "%s: ipv4 %s: %s has it", id, out_ipv4, holder);
}

/* Its address, kept from now on; NULL where the network is not ours. */
static int reserve(struct net_state *state, const struct network_port *port, const char *id,
                   const char *mac, char out_ipv4[NETWORK_TEXT_SIZE], struct error *err)
{
    const char *wanted = text_of(port->nic, "ipv4");
    const json_t *entry = json_object_get(state->addresses, id);
    const char *had = text_of(entry, "ipv4"), *had_mac = text_of(entry, "mac");
    struct network_address address;
    out_ipv4[0] = '\0';
    int rc = 0;
    if (wanted != NULL) {
        rc = check_wanted(state, id, wanted, out_ipv4, err);
    } else if (!plan_has_addresses(&state->plan)) {
        return 0;
    } else if (had != NULL && network_parse(had, 24, true, &address, NULL) == 0 &&
               network_contains(&state->plan.ipv4, &address) && holder_of(state, had, id) == NULL) {
        snprintf(out_ipv4, NETWORK_TEXT_SIZE, "%s", had);
    } else {
        rc = choose_address(state, id, mac, out_ipv4, err);
    }
    if (rc < 0 || !plan_has_addresses(&state->plan) ||
        (had != NULL && strcmp(had, out_ipv4) == 0 && had_mac != NULL &&
         strcmp(had_mac, mac) == 0)) {
        return rc;
    }
    if (json_object_set_new(state->addresses, id,
                            json_pack("{s:s,s:s}", "mac", mac, "ipv4", out_ipv4)) < 0) {
        return error_set_errno(err, ENOMEM, "%s", id);
    }
    return net_state_save_addresses(state, err);
}

static int check_forwards(const struct net_state *state, const struct network_port *port,
                          const char *id, struct error *err)
{
    size_t i;
    json_t *device;
    json_array_foreach(port->forwards, i, device)
    {
        struct plan_forward forward;
        if (!plan_has_addresses(&state->plan)) {
            return error_set(err, EOPNOTSUPP, "%s: network %s of type %s forwards nothing", id,
                             state->plan.name, plan_type_name(state->plan.type));
        }
        int rc = plan_read_forward(device, &forward, err);
        if (rc < 0) {
            return rc == 0 ? 0 : error_prefix(err, rc, "%s", id);
        }
        if (state->plan.type == PLAN_NAT && forward.listen.family == AF_INET6 &&
            state->plan.ipv6.family == 0) {
            return error_set(err, EINVAL,
                             "%s: it listens on IPv6, which network %s does not have: config.ipv6, "
                             "auto would do",
                             id, state->plan.name);
        }
        const char *other;
        json_t *its;
        json_object_foreach(state->ports, other, its)
        {
            size_t k;
            json_t *theirs;
            struct plan_forward second;
            json_array_foreach(json_object_get(its, "forwards"), k, theirs)
            {
                if (strcmp(other, id) != 0 && plan_read_forward(theirs, &second, NULL) == 0 &&
                    plan_forwards_clash(&second, &forward)) {
                    return error_set(err, EADDRINUSE, "%s: %s port %u is forwarded to %s already",
                                     id, forward.is_udp ? "udp" : "tcp", forward.listen_port,
                                     other);
                }
            }
        }
    }
    return 0;
}

/* What the network knows of the NIC; the rules and dnsmasq follow. 'interface' NULL: it is not there yet. */
static int put_port(struct net_state *state, const struct network_port *port, const char *interface,
                    char out_ipv4[NETWORK_TEXT_SIZE], char out_mac[PLAN_MAC_SIZE],
                    struct error *err)
{
    char id[160];
    const char *mac = text_of(port->nic, "mac");
    const char *spoofing = text_of(port->nic, "spoofing");
    const char *ipv6 = text_of(port->nic, "ipv6");
    struct network_address address6;
    char ipv6_text[NETWORK_TEXT_SIZE] = "";
    port_id(port, id);
    int rc = plan_read_mac(mac != NULL ? mac : "", out_mac, err);
    if (rc == 0 && ipv6 != NULL) {
        rc = network_parse(ipv6, 64, true, &address6, err);
        if (rc == 0 && address6.family != AF_INET6) {
            rc = error_set(err, EINVAL, "ipv6 '%s': is no IPv6 address", ipv6);
        }
        if (rc == 0) {
            network_format(&address6, false, ipv6_text);
        }
    }
    if (rc == 0) {
        rc = check_forwards(state, port, id, err);
    }
    if (rc == 0) {
        rc = reserve(state, port, id, out_mac, out_ipv4, err);
    }
    if (rc < 0) {
        return rc == 0 ? 0 : error_prefix(err, rc, "nic %s", port->device);
    }
    json_t *entry = json_pack("{s:s,s:s*,s:s*,s:s*,s:s*,s:O*}", "mac", out_mac, "ipv4",
                              out_ipv4[0] != '\0' ? out_ipv4 : NULL, "ipv6",
                              ipv6_text[0] != '\0' ? ipv6_text : NULL, "interface", interface,
                              "spoofing", spoofing, "forwards", (json_t *)port->forwards);
    if (entry == NULL) {
        return error_set_errno(err, ENOMEM, "nic %s", port->device);
    }
    bool is_same = json_equal(entry, json_object_get(state->ports, id));
    json_object_set_new(state->ports, id, entry);
    if (!is_same) {
        rc = net_state_save_ports(state, err);
    }
    return rc < 0 ? rc : up(state, err);
}

/* The opposite. */
static int drop_port(struct net_state *state, const struct network_port *port, bool is_forgotten,
                     struct error *err)
{
    char id[160];
    port_id(port, id);
    int rc = 0;
    const char *mac = text_of(json_object_get(state->ports, id), "mac");
    if (state->plan.type == PLAN_USER && mac != NULL) {
        net_switch_detach(state, mac);
    }
    bool was_there = json_object_del(state->ports, id) == 0;
    bool was_reserved = is_forgotten && json_object_del(state->addresses, id) == 0;
    if (was_there) {
        rc = net_state_save_ports(state, err);
    }
    if (rc == 0 && was_reserved) {
        rc = net_state_save_addresses(state, err);
    }
    if (rc == 0 && (was_there || was_reserved) && state->plan.type != PLAN_USER &&
        state->plan.type != PLAN_MACVLAN) {
        rc = up(state, err);
    }
    return rc;
}

/* The interface first, without rules it would be unguarded: so it comes up last. */
int network_attach_tap(const struct network_port *port, char out_interface[IFNAMSIZ],
                       struct error *err)
{
    struct net_state state;
    char ipv4[NETWORK_TEXT_SIZE], mac[PLAN_MAC_SIZE], name[IFNAMSIZ];
    int rc = open_state(port->place, port->network, &state, err);
    if (rc < 0) {
        return rc;
    }
    if (state.plan.type == PLAN_USER) {
        rc = error_set(err, EOPNOTSUPP, "network %s of type %s has no interfaces for VMs",
                       state.plan.name, plan_type_name(state.plan.type));
    }
    tap_name(port, name);
    /* Rules name interfaces, which need not be there yet: it is guarded from its first moment on. */
    if (rc == 0) {
        rc = put_port(&state, port, name, ipv4, mac, err);
        if (rc == 0) {
            rc = state.plan.type == PLAN_MACVLAN
                     ? net_macvtap_make(name, state.plan.parent, mac, err)
                     : net_tap_make(name, state.plan.bridge, err);
        }
        if (rc < 0) {
            error_ignore(drop_port(&state, port, false, NULL)); /* what went wrong first is told */
        }
    }
    net_state_close(&state);
    if (rc == 0) {
        memcpy(out_interface, name, sizeof(name));
    }
    return rc;
}

/* "10.0.2.16/24" of an address of the network. */
static void with_prefix(const struct plan *plan, const char *ipv4, char out_text[80])
{
    snprintf(out_text, 80, "%s/%u", ipv4, plan->ipv4.prefix);
}

static json_t *switch_card(const struct net_state *state, const struct network_port *port,
                           const char *ipv4, const char *mac)
{
    const struct plan *plan = &state->plan;
    const char *spoofing = text_of(port->nic, "spoofing");
    char sock[PATH_MAX], address[80], gateway[NETWORK_TEXT_SIZE], dns[NETWORK_TEXT_SIZE];
    struct network_address server;
    json_auto_t *forwards = json_array();
    size_t i;
    json_t *device;
    json_array_foreach(port->forwards, i, device)
    {
        json_array_append_new(forwards, json_pack("{s:s,s:s}", "listen", text_of(device, "listen"),
                                                  "connect", text_of(device, "connect")));
    }
    if (network_advance(&plan->ipv4, 1, &server, NULL) < 0) {
        return NULL;
    }
    net_state_run_path(state, "switch.sock", sock);
    with_prefix(plan, ipv4, address);
    network_format(&plan->ipv4, false, gateway);
    network_format(&server, false, dns);
    return json_pack("{s:s,s:s,s:s,s:s,s:s,s:[s],s:b,s:O,s:s*}", "switch", sock, "name",
                     port->instance, "mac", mac, "ipv4", address, "gateway", gateway, "dns", dns,
                     "spoofing", spoofing != NULL && strcmp(spoofing, "allow") == 0, "forwards",
                     forwards, "ipv6", text_of(port->nic, "ipv6"));
}

static json_t *nat_card(const struct plan *plan, const struct network_port *port, const char *ipv4,
                        const char *mac)
{
    char address[80], gateway[NETWORK_TEXT_SIZE];
    with_prefix(plan, ipv4, address);
    network_format(&plan->ipv4, false, gateway);
    json_t *card = json_pack("{s:s,s:s,s:s,s:s,s:[s]}", "bridge", plan->bridge, "mac", mac, "ipv4",
                             address, "gateway", gateway, "dns", gateway);
    const char *ipv6 = text_of(port->nic, "ipv6");
    struct network_address own;
    if (ipv6 != NULL && plan->ipv6.family != 0 && network_parse(ipv6, 64, true, &own, NULL) == 0) {
        char text[NETWORK_TEXT_SIZE];
        network_format(&own, true, text);
        json_object_set_new(card, "ipv6", json_string(text));
        network_format(&plan->ipv6, false, text);
        json_object_set_new(card, "gateway6", json_string(text));
    }
    return card;
}

/* The address with the length of the network that the host itself has at that device; without, where it has none there. */
static json_t *outside_address(const char *device, const char *ipv4)
{
    struct network_address hosts[NETWORK_MAX_ADDRESSES], own;
    char text[NETWORK_TEXT_SIZE];
    size_t count = 0;
    if (ipv4 == NULL || network_parse(ipv4, 32, true, &own, NULL) < 0) {
        return NULL;
    }
    if (network_device_addresses(device, hosts, &count, NULL) < 0) {
        count = 0;
    }
    for (size_t i = 0; i < count; i++) {
        if (network_contains(&hosts[i], &own)) {
            own.prefix = hosts[i].prefix;
            break;
        }
    }
    network_format(&own, true, text);
    return json_string(text);
}

static json_t *make_card(const struct net_state *state, const struct network_port *port,
                         const char *ipv4, const char *mac)
{
    const struct plan *plan = &state->plan;
    switch (plan->type) {
    case PLAN_USER:
        return switch_card(state, port, ipv4, mac);
    case PLAN_NAT:
        return nat_card(plan, port, ipv4, mac);
    case PLAN_BRIDGE:
        return json_pack("{s:s,s:s,s:o*}", "bridge", plan->bridge, "mac", mac, "ipv4",
                         outside_address(plan->bridge, text_of(port->nic, "ipv4")));
    case PLAN_MACVLAN:
        return json_pack("{s:s,s:s,s:o*}", "parent", plan->parent, "mac", mac, "ipv4",
                         outside_address(plan->parent, text_of(port->nic, "ipv4")));
    }
    return NULL;
}

static int attach_card(const struct network_port *port, bool is_switch, json_t **out_card,
                       struct error *err)
{
    struct net_state state;
    char ipv4[NETWORK_TEXT_SIZE], mac[PLAN_MAC_SIZE];
    int rc = open_state(port->place, port->network, &state, err);
    if (rc < 0) {
        return rc;
    }
    const struct plan *plan = &state.plan;
    json_t *card = NULL;
    if (is_switch && plan->type != PLAN_USER) {
        rc = error_set(err, EOPNOTSUPP, "network %s of type %s has no switch", plan->name,
                       plan_type_name(plan->type));
    } else {
        /* A container's host end has the same guards again when it is there: network_protect. */
        rc = put_port(&state, port, NULL, ipv4, mac, err);
    }
    if (rc == 0) {
        card = make_card(&state, port, ipv4, mac);
        rc = card != NULL ? 0 : error_set_errno(err, ENOMEM, "network %s", plan->name);
    }
    net_state_close(&state);
    if (rc == 0) {
        *out_card = card;
    }
    return rc;
}

int network_attach_switch(const struct network_port *port, json_t **out_card, struct error *err)
{
    return attach_card(port, true, out_card, err);
}

int network_attach_container(const struct network_port *port, json_t **out_card, struct error *err)
{
    return attach_card(port, false, out_card, err);
}

int network_protect(const struct network_port *port, const char *interface, struct error *err)
{
    struct net_state state;
    char ipv4[NETWORK_TEXT_SIZE], mac[PLAN_MAC_SIZE];
    int rc = link_check_name(interface, "interface", err);
    if (rc == 0) {
        rc = open_state(port->place, port->network, &state, err);
    }
    if (rc < 0) {
        return rc;
    }
    /* A switch guards its ports itself; macvlan has no guards. */
    if (state.plan.type == PLAN_NAT || state.plan.type == PLAN_BRIDGE) {
        rc = put_port(&state, port, interface, ipv4, mac, err);
    }
    net_state_close(&state);
    return rc;
}

int network_release(const struct network_port *port, bool is_forgotten, struct error *err)
{
    struct net_state state;
    char name[IFNAMSIZ];
    int rc = open_state(port->place, port->network, &state, err);
    if (rc < 0) {
        return rc;
    }
    tap_name(port, name);
    if (state.plan.type != PLAN_USER) {
        rc = net_tap_remove(name, err);
    }
    if (rc == 0) {
        rc = drop_port(&state, port, is_forgotten, err);
    }
    net_state_close(&state);
    return rc;
}

/* Read again when the file is another one: lists ask for hundreds of addresses. Borrowed; NULL: there is none. */
static json_t *ports_at(const char *path)
{
    static json_t *ports;
    static struct stat read_of;
    struct stat now;
    json_error_t fault;
    if (stat(path, &now) < 0) {
        return NULL;
    }
    bool is_same = ports != NULL && now.st_dev == read_of.st_dev && now.st_ino == read_of.st_ino &&
                   now.st_size == read_of.st_size && now.st_mtim.tv_sec == read_of.st_mtim.tv_sec &&
                   now.st_mtim.tv_nsec == read_of.st_mtim.tv_nsec;
    if (!is_same) {
        json_decref(ports);
        ports = json_load_file(path, 0, &fault);
        read_of = now;
    }
    return ports;
}

int network_addresses(const struct place *place, const char *network, const char *mac,
                      json_t **out_addresses, struct error *err)
{
    char path[PATH_MAX];
    json_auto_t *found = json_array();
    place_run_path(place, "networks", network, "ports.json", path);
    json_t *ports = ports_at(path);
    const char *id;
    json_t *port;
    json_object_foreach(ports, id, port)
    {
        const char *its_mac = text_of(port, "mac"), *ipv4 = text_of(port, "ipv4");
        const char *ipv6 = text_of(port, "ipv6");
        if (its_mac == NULL || strcasecmp(its_mac, mac) != 0) {
            continue;
        }
        if ((ipv4 != NULL && json_array_append_new(found, json_string(ipv4)) < 0) ||
            (ipv6 != NULL && json_array_append_new(found, json_string(ipv6)) < 0)) {
            return error_set_errno(err, ENOMEM, "network %s", network);
        }
    }
    int rc = net_dns_add_leases(place, network, mac, found, err);
    if (rc == 0) {
        *out_addresses = json_incref(found);
    }
    return rc;
}
