#include "manager/network/plan.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "manager/text.h"
#include "system/store.h"

#define PLAN_USER_IPV4 "10.0.2.2/24"

static const char *const types[] = {
    [PLAN_NAT] = "nat", [PLAN_BRIDGE] = "bridge", [PLAN_USER] = "user", [PLAN_MACVLAN] = "macvlan"};

const char *plan_type_name(enum plan_type type)
{
    return types[type];
}

void plan_default_bridge(const char *network, char out_name[IFNAMSIZ])
{
    snprintf(out_name, IFNAMSIZ, "hull-%.10s", network);
}

/* As the kernel takes names, and what nft and dnsmasq read as one word. */
static int read_device(const json_t *config, const char *key, char out_name[IFNAMSIZ],
                       struct error *err)
{
    static const char fits[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
    const char *name = text_of(config, key);
    if (name == NULL || name[0] == '\0' || strlen(name) >= IFNAMSIZ || name[0] == '.' ||
        name[0] == '-' || strspn(name, fits) != strlen(name)) {
        return error_set(err, EINVAL,
                         "config.%s: a network interface: letters, digits, '-', '_' and '.', at "
                         "most %d",
                         key, IFNAMSIZ - 1);
    }
    strcpy(out_name, name);
    return 0;
}

/* Host numbers within the network: 'number' from its beginning; counted from its end if 'is_from_end'. */
static struct network_address host_of(const struct network_address *network, uint32_t number,
                                      bool is_from_end)
{
    struct network_address address = *network;
    uint32_t value, mask = network->prefix == 0 ? 0 : UINT32_MAX << (32 - network->prefix);
    memcpy(&value, network->bytes, 4);
    value = ntohl(value) & mask;
    value = htonl(is_from_end ? (value | ~mask) - number : value + number);
    memcpy(address.bytes, &value, 4);
    return address;
}

int plan_set_ipv4(struct plan *plan, const char *text, struct error *err)
{
    struct network_address address;
    int rc = network_parse(text, 24, true, &address, err);
    if (rc < 0) {
        return rc == 0 ? 0 : error_prefix(err, rc, "config.ipv4");
    }
    if (address.family != AF_INET || address.prefix < 8 || address.prefix > 29) {
        return error_set(err, EINVAL, "config.ipv4: '%s': an IPv4 address with /8 to /29", text);
    }
    plan->ipv4 = address;
    plan->first = host_of(&plan->ipv4, 1, false);
    plan->last = host_of(&plan->ipv4, 1, true);
    /* The bridge's own address is left out where that leaves one range. */
    if (memcmp(plan->first.bytes, plan->ipv4.bytes, 4) == 0) {
        plan->first = host_of(&plan->ipv4, 2, false);
    } else if (memcmp(plan->last.bytes, plan->ipv4.bytes, 4) == 0) {
        plan->last = host_of(&plan->ipv4, 2, true);
    }
    return 0;
}

/* The switch's gateway, behind which stands its name server: 10.0.2.2 and 10.0.2.3, as QEMU's users know them. */
static int read_user(const json_t *config, struct plan *plan, struct error *err)
{
    const char *text = text_of(config, "ipv4");
    struct network_address address;
    int rc = network_parse(text != NULL ? text : PLAN_USER_IPV4, 24, true, &address, err);
    if (rc < 0) {
        return error_prefix(err, rc, "config.ipv4");
    }
    struct network_address base = host_of(&address, 0, false), last_gateway;
    last_gateway = host_of(&address, 13, false);
    if (address.family != AF_INET || address.prefix < 8 || address.prefix > 24 ||
        memcmp(address.bytes, base.bytes, 4) <= 0 ||
        memcmp(address.bytes, last_gateway.bytes, 4) > 0) {
        return error_set(
            err, EINVAL,
            "config.ipv4: '%s': one of the first 13 addresses of a network, with /8 to "
            "/24: " PLAN_USER_IPV4 " would do",
            text);
    }
    plan->ipv4 = address;
    plan->first = host_of(&address, 15, false);
    plan->last = host_of(&address, 1, true);
    return 0;
}

static int read_addresses(const json_t *config, struct plan *plan, struct error *err)
{
    const char *ipv4 = text_of(config, "ipv4"), *ipv6 = text_of(config, "ipv6");
    int rc = ipv4 != NULL && strcmp(ipv4, "auto") != 0 ? plan_set_ipv4(plan, ipv4, err) : 0;
    if (rc < 0 || ipv6 == NULL || strcmp(ipv6, "none") == 0) {
        return rc;
    }
    rc = network_parse(ipv6, 64, true, &plan->ipv6, err);
    if (rc < 0) {
        return rc == 0 ? 0 : error_prefix(err, rc, "config.ipv6");
    }
    if (plan->ipv6.family != AF_INET6 || plan->ipv6.prefix != 64) {
        return error_set(err, EINVAL, "config.ipv6: '%s': an IPv6 address with /64, or none", ipv6);
    }
    return 0;
}

static int check_keys(const json_t *config, enum plan_type type, struct error *err)
{
    static const struct {
        const char *name;
        unsigned types;
    } keys[] = {{"bridge", 1u << PLAN_NAT | 1u << PLAN_BRIDGE},
                {"ipv4", 1u << PLAN_NAT | 1u << PLAN_USER},
                {"ipv6", 1u << PLAN_NAT},
                {"parent", 1u << PLAN_MACVLAN}};
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)config, name, value)
    {
        bool is_known = false;
        for (unsigned i = 0; i < ARRAY_COUNT(keys); i++) {
            is_known =
                is_known || (strcmp(keys[i].name, name) == 0 && (keys[i].types >> type & 1) != 0);
        }
        if (!is_known) {
            return error_set(
                err, EINVAL,
                "config.%.40s: type %s has no such key: nat has bridge, ipv4 and ipv6, "
                "bridge has bridge, macvlan has parent, user has ipv4",
                name, types[type]);
        }
        if (!json_is_string(value)) {
            return error_set(err, EINVAL, "config.%s: a text is expected", name);
        }
    }
    return 0;
}

int plan_read(const json_t *network, struct plan *out_plan, struct error *err)
{
    struct plan plan = {0};
    const char *name = text_of(network, "name"), *type = text_of(network, "type");
    int rc = store_check_name("network", name != NULL ? name : "", err);
    if (rc < 0) {
        return rc;
    }
    snprintf(plan.name, sizeof(plan.name), "%s", name);
    unsigned i = 0;
    while (i < ARRAY_COUNT(types) && (type == NULL || strcmp(types[i], type) != 0)) {
        i++;
    }
    if (i == ARRAY_COUNT(types)) {
        return error_set(err, EINVAL, "network %s: type '%.20s': nat, bridge, macvlan or user",
                         name, type != NULL ? type : "");
    }
    plan.type = (enum plan_type)i;
    const json_t *config = json_object_get(network, "config");
    rc = check_keys(config, plan.type, err);
    if (rc < 0) {
        return rc == 0 ? 0 : error_prefix(err, rc, "network %s", name);
    }
    if (plan.type == PLAN_NAT && json_object_get(config, "bridge") == NULL) {
        plan_default_bridge(name, plan.bridge);
    } else if (plan.type == PLAN_NAT || plan.type == PLAN_BRIDGE) {
        rc = read_device(config, "bridge", plan.bridge, err);
    }
    if (rc == 0 && plan.type == PLAN_MACVLAN) {
        rc = read_device(config, "parent", plan.parent, err);
    }
    if (rc == 0 && plan.type == PLAN_NAT) {
        rc = read_addresses(config, &plan, err);
    } else if (rc == 0 && plan.type == PLAN_USER) {
        rc = read_user(config, &plan, err);
    }
    if (rc == 0) {
        *out_plan = plan;
    }
    return rc == 0 ? 0 : error_prefix(err, rc, "network %s", name);
}

int plan_read_mac(const char *text, char out_text[PLAN_MAC_SIZE], struct error *err)
{
    unsigned byte[6];
    int end = 0;
    if (strlen(text) != PLAN_MAC_SIZE - 1 || strspn(text, "0123456789abcdefABCDEF:") != 17 ||
        sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%n", &byte[0], &byte[1], &byte[2], &byte[3], &byte[4],
               &byte[5], &end) != 6 ||
        end != PLAN_MAC_SIZE - 1 || (byte[0] & 1) != 0 ||
        (byte[0] | byte[1] | byte[2] | byte[3] | byte[4] | byte[5]) == 0) {
        return error_set(err, EINVAL, "mac '%.20s': 52:54:00:12:34:56 would do", text);
    }
    for (unsigned i = 0; i < PLAN_MAC_SIZE; i++) {
        out_text[i] = (char)tolower((unsigned char)text[i]);
    }
    return 0;
}

static bool read_port(const char *text, unsigned *out_port)
{
    size_t length = strlen(text);
    if (length == 0 || length > 5 || strspn(text, "0123456789") != length) {
        return false;
    }
    *out_port = (unsigned)strtoul(text, NULL, 10);
    return *out_port >= 1 && *out_port <= 65535;
}

/* "tcp:" is taken off. */
static bool read_protocol(const char **text, bool *out_is_udp)
{
    *out_is_udp = strncmp(*text, "udp:", 4) == 0;
    if (!*out_is_udp && strncmp(*text, "tcp:", 4) != 0) {
        return false;
    }
    *text += 4;
    return true;
}

int plan_read_forward(const json_t *device, struct plan_forward *out_forward, struct error *err)
{
    struct plan_forward forward = {0};
    const char *listen = text_of(device, "listen"), *connect = text_of(device, "connect");
    const char *at = listen != NULL ? listen : "", *to = connect != NULL ? connect : "";
    bool is_udp = false;
    char address[64];
    bool is_good = read_protocol(&at, &forward.is_udp);
    const char *colon = is_good ? strrchr(at, ':') : NULL;
    is_good = is_good && read_port(colon != NULL ? colon + 1 : at, &forward.listen_port);
    if (is_good && colon != NULL) {
        bool has_brackets = at[0] == '[' && colon > at + 1 && colon[-1] == ']';
        snprintf(address, sizeof(address), "%.*s", (int)(colon - at) - 2 * has_brackets,
                 at + has_brackets);
        is_good = network_parse(address, 0, false, &forward.listen, NULL) == 0 &&
                  has_brackets == (forward.listen.family == AF_INET6) &&
                  strchr(address, '/') == NULL;
        static const uint8_t nothing[16];
        if (is_good && memcmp(forward.listen.bytes, nothing, 4) == 0 &&
            forward.listen.family == AF_INET) {
            forward.listen.family = 0;
        }
    }
    if (!is_good) {
        return error_set(err, EINVAL,
                         "listen '%.60s': tcp:8080, udp:192.0.2.1:53 or tcp:[::]:8080 would do",
                         listen != NULL ? listen : "");
    }
    if (!read_protocol(&to, &is_udp) || is_udp != forward.is_udp ||
        !read_port(to, &forward.connect_port)) {
        return error_set(err, EINVAL, "connect '%.60s': %s:80 would do",
                         connect != NULL ? connect : "", forward.is_udp ? "udp" : "tcp");
    }
    *out_forward = forward;
    return 0;
}

static bool is_any(const struct network_address *address)
{
    static const uint8_t nothing[16];
    return address->family == 0 || memcmp(address->bytes, nothing, 16) == 0;
}

bool plan_forwards_clash(const struct plan_forward *a, const struct plan_forward *b)
{
    bool is_a_v6 = a->listen.family == AF_INET6, is_b_v6 = b->listen.family == AF_INET6;
    return a->is_udp == b->is_udp && a->listen_port == b->listen_port && is_a_v6 == is_b_v6 &&
           (is_any(&a->listen) || is_any(&b->listen) ||
            memcmp(a->listen.bytes, b->listen.bytes, is_a_v6 ? 16 : 4) == 0);
}

void plan_ipv6_of_mac(const struct network_address *network, const char *mac,
                      struct network_address *out)
{
    unsigned byte[6] = {0};
    *out = *network;
    /* It was checked. */
    (void)sscanf(mac, "%2x:%2x:%2x:%2x:%2x:%2x", &byte[0], &byte[1], &byte[2], &byte[3], &byte[4],
                 &byte[5]);
    const uint8_t host[8] = {(uint8_t)(byte[0] ^ 2), (uint8_t)byte[1], (uint8_t)byte[2], 0xff, 0xfe,
                             (uint8_t)byte[3],       (uint8_t)byte[4], (uint8_t)byte[5]};
    memcpy(out->bytes + 8, host, sizeof(host));
}
