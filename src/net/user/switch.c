#include "net/user/switch.h"

#include <string.h>

#include "net/user/dhcp.h"
#include "net/user/dns.h"
#include "net/user/stack.h"

enum {
    ROUTER_ADVERTISEMENT = 134,
    REDIRECT = 137,
    DHCP6_SERVER_PORT = 547,
};

bool switch_add(struct ether_switch *sw, struct switch_port *port)
{
    for (unsigned i = 0; i < SWITCH_MAX_PORTS; i++) {
        if (sw->port[i] == NULL) {
            port->number = i;
            sw->port[i] = port;
            sw->port_count++;
            return true;
        }
    }
    return false;
}

void switch_remove(struct ether_switch *sw, struct switch_port *port)
{
    mac_table_forget(&sw->macs, port->number);
    sw->port[port->number] = NULL;
    sw->port_count--;
}

struct switch_port *switch_find_mac(const struct ether_switch *sw, const uint8_t mac[6])
{
    for (unsigned i = 0; i < SWITCH_MAX_PORTS; i++) {
        if (sw->port[i] != NULL && memcmp(sw->port[i]->mac, mac, 6) == 0) {
            return sw->port[i];
        }
    }
    return NULL;
}

struct switch_port *switch_find_ipv4(const struct ether_switch *sw, const uint8_t ipv4[4])
{
    for (unsigned i = 0; i < SWITCH_MAX_PORTS; i++) {
        if (sw->port[i] != NULL && memcmp(sw->port[i]->ipv4, ipv4, 4) == 0) {
            return sw->port[i];
        }
    }
    return NULL;
}

void switch_ipv6_of_mac(const struct switch_network *network, const uint8_t mac[6],
                        uint8_t out_ipv6[16])
{
    memcpy(out_ipv6, network->prefix6, 8);
    memcpy(out_ipv6 + 8, mac, 3);
    out_ipv6[8] ^= 2;
    out_ipv6[11] = 0xff;
    out_ipv6[12] = 0xfe;
    memcpy(out_ipv6 + 13, mac + 3, 3);
}

bool switch_is_uplink_mac(const uint8_t mac[6])
{
    return mac[0] == STACK_MAC_FIRST && (mac[1] == STACK_MAC_SECOND || mac[1] == STACK_MAC_SECOND6);
}

static bool is_zero(const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (data[i] != 0) {
            return false;
        }
    }
    return true;
}

static void send_to(struct switch_port *port, const uint8_t *frame, size_t size)
{
    if (port->send(port->send_ctx, frame, size)) {
        port->counters.sent_frames++;
        port->counters.sent_bytes += size;
    } else {
        port->counters.lost_frames++;
    }
}

/* From its own addresses alone, and no offers of addresses or routes to others. */
static bool may_send_ipv6(const struct ether_switch *sw, const struct packet *packet)
{
    const struct switch_network *network = &sw->network;
    const uint8_t *source = packet->source;
    bool is_local = source[0] == 0xfe && (source[1] & 0xc0) == 0x80;
    bool is_ours = memcmp(source, network->prefix6, 8) == 0 &&
                   memcmp(source, network->gateway6, 16) != 0 &&
                   memcmp(source, network->name_server6, 16) != 0;
    if (packet->is_hidden || !(is_local || is_ours || is_zero(source, 16))) {
        return false;
    }
    if (packet->protocol == PACKET_ICMP6) {
        return packet->icmp6_type != ROUTER_ADVERTISEMENT && packet->icmp6_type != REDIRECT;
    }
    return packet->protocol != PACKET_UDP || packet->source_port != DHCP6_SERVER_PORT;
}

static bool is_dhcp_request(const struct packet *packet)
{
    return packet->kind == PACKET_IPV4 && packet->protocol == PACKET_UDP &&
           packet->target_port == DHCP_SERVER_PORT;
}

static bool may_send(const struct ether_switch *sw, const struct switch_port *from,
                     const struct packet *packet)
{
    if (memcmp(packet->from, from->mac, 6) != 0) {
        return false;
    }
    switch (packet->kind) {
    case PACKET_ARP:
        return memcmp(packet->arp_mac, from->mac, 6) == 0 &&
               (is_zero(packet->source, 4) || memcmp(packet->source, from->ipv4, 4) == 0);
    case PACKET_IPV4:
        if (packet->is_hidden ||
            (packet->protocol == PACKET_UDP && packet->source_port == DHCP_SERVER_PORT)) {
            return false;
        }
        return memcmp(packet->source, from->ipv4, 4) == 0 ||
               (is_zero(packet->source, 4) && is_dhcp_request(packet));
    case PACKET_IPV6:
        return may_send_ipv6(sw, packet);
    default:
        return false;
    }
}

static void answer_dhcp(struct ether_switch *sw, struct switch_port *from,
                        const struct packet *packet)
{
    uint8_t frame[PACKET_ANSWER_ROOM + DHCP_ANSWER_SIZE], target[4];
    struct dhcp_lease lease = {.mac = from->mac, .name = from->name};
    memcpy(lease.address, from->ipv4, 4);
    memcpy(lease.mask, sw->network.mask, 4);
    memcpy(lease.router, sw->network.gateway, 4);
    memcpy(lease.name_server, sw->network.name_server, 4);
    size_t offset = packet_answer_offset(packet);
    size_t size = dhcp_answer(packet->body, packet->body_size, &lease, frame + offset, target);
    if (size != 0) {
        uint8_t mac[6] = {STACK_MAC_FIRST, STACK_MAC_SECOND};
        memcpy(mac + 2, sw->network.gateway, 4);
        struct packet asked = *packet;
        asked.source_port = DHCP_CLIENT_PORT;
        asked.from = from->mac;
        send_to(from, frame, packet_answer(&asked, mac, sw->network.gateway, target, frame, size));
    }
}

static int find_name(void *ctx, const char *name, size_t size,
                     uint8_t out_addresses[DNS_MAX_ADDRESSES][16])
{
    const struct ether_switch *sw = ctx;
    int count = -1;
    for (unsigned i = 0; i < SWITCH_MAX_PORTS; i++) {
        const struct switch_port *port = sw->port[i];
        if (port == NULL || port->name[0] == '\0' || strcmp(port->name, name) != 0) {
            continue;
        }
        count = count < 0 ? 0 : count;
        if (count < DNS_MAX_ADDRESSES && (size == 4 || port->is_ipv6_used)) {
            memcpy(out_addresses[count++], size == 4 ? port->ipv4 : port->ipv6, size);
        }
    }
    return count;
}

/* False: the stack shall ask another server. */
static bool answer_dns(struct ether_switch *sw, struct switch_port *from,
                       const struct packet *packet)
{
    uint8_t frame[PACKET_ANSWER_ROOM + DNS_ANSWER_SIZE];
    size_t offset = packet_answer_offset(packet);
    size_t size = dns_answer(packet->body, packet->body_size, find_name, sw, frame + offset);
    if (size != 0) {
        send_to(from, frame,
                packet_answer(packet, packet->to, packet->target, packet->source, frame, size));
    }
    return size != 0;
}

static bool is_dns_query(const struct ether_switch *sw, const struct packet *packet)
{
    if (packet->protocol != PACKET_UDP || packet->target_port != DNS_PORT || packet->body == NULL) {
        return false;
    }
    return packet->kind == PACKET_IPV6 ? memcmp(packet->target, sw->network.name_server6, 16) == 0
                                       : memcmp(packet->target, sw->network.name_server, 4) == 0;
}

/* Of what is for a group, the stack hears what it may have to answer. The rest it would take for connections of a guest's. */
static bool is_for_uplink(const struct packet *packet)
{
    return packet->kind == PACKET_ARP ||
           (packet->kind == PACKET_IPV6 &&
            (packet->protocol == PACKET_ICMP6 ||
             (packet->protocol == PACKET_UDP && packet->target_port == DHCP6_SERVER_PORT)));
}

/* To all but 'from' (NULL: the uplink); 'is_unknown': to those alone behind which there may be others. */
static void flood(struct ether_switch *sw, const struct switch_port *from, bool is_unknown,
                  const uint8_t *frame, size_t size)
{
    for (unsigned i = 0; i < SWITCH_MAX_PORTS; i++) {
        struct switch_port *port = sw->port[i];
        if (port != NULL && port != from && (!is_unknown || port->may_spoof)) {
            send_to(port, frame, size);
        }
    }
}

static void forward(struct ether_switch *sw, const struct switch_port *from, const uint8_t *frame,
                    size_t size)
{
    struct switch_port *to = switch_find_mac(sw, frame);
    if (to == NULL) {
        int number = mac_table_find(&sw->macs, frame, sw->now_s);
        to = number >= 0 ? sw->port[number] : NULL;
    }
    if (to == NULL) {
        flood(sw, from, true, frame, size);
    } else if (to != from) {
        send_to(to, frame, size);
    }
}

static void see_ipv6(struct switch_port *from, const struct packet *packet)
{
    if (packet->kind == PACKET_IPV6 && memcmp(packet->source, from->ipv6, 16) == 0) {
        from->is_ipv6_used = true;
    }
}

void switch_input(struct ether_switch *sw, struct switch_port *from, const uint8_t *frame,
                  size_t size)
{
    struct packet packet;
    if (size < PACKET_MIN_FRAME) {
        from->counters.refused_frames++;
        return;
    }
    packet_read(frame, size, &packet);
    /* Addresses that are known to be others' nobody may have. */
    const struct switch_port *owner = switch_find_mac(sw, packet.from);
    if (packet_mac_is_group(packet.from) || switch_is_uplink_mac(packet.from) ||
        (owner != NULL && owner != from) || (!from->may_spoof && !may_send(sw, from, &packet))) {
        from->counters.refused_frames++;
        return;
    }
    from->counters.received_frames++;
    from->counters.received_bytes += size;
    if (owner == NULL) {
        mac_table_learn(&sw->macs, packet.from, from->number, sw->now_s);
    }
    see_ipv6(from, &packet);
    if (is_dhcp_request(&packet) && packet.body != NULL) {
        answer_dhcp(sw, from, &packet);
        return;
    }
    if (is_dns_query(sw, &packet) && answer_dns(sw, from, &packet)) {
        return;
    }
    if (packet_mac_is_group(packet.to)) {
        flood(sw, from, false, frame, size);
        if (is_for_uplink(&packet)) {
            sw->to_uplink(sw->uplink_ctx, frame, size);
        }
    } else if (switch_is_uplink_mac(packet.to)) {
        sw->to_uplink(sw->uplink_ctx, frame, size);
    } else {
        forward(sw, from, frame, size);
    }
}

void switch_from_uplink(struct ether_switch *sw, const uint8_t *frame, size_t size)
{
    if (size < PACKET_MIN_FRAME) {
        return;
    }
    if (packet_mac_is_group(frame)) {
        flood(sw, NULL, false, frame, size);
    } else {
        forward(sw, NULL, frame, size);
    }
}
