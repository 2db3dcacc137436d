/* Covers net/user/switch.c with packet.c, dhcp.c, dns.c and mac_table.c: where frames go, what is dropped, what is answered. */
#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/core/compiler.h"
#include "base/core/endian.h"
#include "net/user/dhcp.h"
#include "net/user/dns.h"
#include "net/user/switch.h"

#define PORTS 3

/* What went out last, and how often. */
struct sink {
    unsigned count;
    size_t size;
    uint8_t frame[2048];
};

static struct ether_switch sw;
static struct switch_port ports[PORTS];
static struct sink sinks[PORTS], uplink;

static void keep(struct sink *sink, const uint8_t *frame, size_t size)
{
    sink->count++;
    sink->size = size;
    memcpy(sink->frame, frame, MIN(size, sizeof(sink->frame)));
}

static bool to_port(void *ctx, const uint8_t *frame, size_t size)
{
    keep(ctx, frame, size);
    return true;
}

static void to_uplink(void *ctx, const uint8_t *frame, size_t size)
{
    keep(ctx, frame, size);
}

/* web0, web1 and web2 at 10.0.2.15 to .17; the last one may spoof. */
static int set_up(void **state)
{
    memset(&sw, 0, sizeof(sw));
    memset(ports, 0, sizeof(ports));
    memset(sinks, 0, sizeof(sinks));
    memset(&uplink, 0, sizeof(uplink));
    inet_pton(AF_INET, "10.0.2.2", sw.network.gateway);
    inet_pton(AF_INET, "10.0.2.3", sw.network.name_server);
    inet_pton(AF_INET, "255.255.255.0", sw.network.mask);
    inet_pton(AF_INET6, "fec0::2", sw.network.gateway6);
    inet_pton(AF_INET6, "fec0::3", sw.network.name_server6);
    memcpy(sw.network.prefix6, sw.network.gateway6, 8);
    sw.to_uplink = to_uplink;
    sw.uplink_ctx = &uplink;
    for (unsigned i = 0; i < PORTS; i++) {
        const uint8_t mac[6] = {0x52, 0x54, 0, 0, 0, (uint8_t)i},
                      ipv4[4] = {10, 0, 2, (uint8_t)(15 + i)};
        memcpy(ports[i].mac, mac, 6);
        memcpy(ports[i].ipv4, ipv4, 4);
        snprintf(ports[i].name, sizeof(ports[i].name), "web%u", i);
        switch_ipv6_of_mac(&sw.network, mac, ports[i].ipv6);
        ports[i].send = to_port;
        ports[i].send_ctx = &sinks[i];
        ports[i].may_spoof = i == 2;
        assert_true(switch_add(&sw, &ports[i]));
    }
    return 0;
}

static const uint8_t broadcast[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
static const uint8_t gateway_mac[6] = {0x52, 0x55, 10, 0, 2, 2};

struct made {
    size_t size;
    uint8_t frame[1024];
};

static struct made ethernet(const uint8_t *to, const uint8_t *from, unsigned type, const void *body,
                            size_t size)
{
    struct made made = {.size = 14 + size};
    memcpy(made.frame, to, 6);
    memcpy(made.frame + 6, from, 6);
    be16_put(made.frame + 12, (uint16_t)type);
    memcpy(made.frame + 14, body, size);
    return made;
}

static struct made udp4(const uint8_t *to, const uint8_t *from, const char *source,
                        const char *target, unsigned source_port, unsigned target_port,
                        const void *data, size_t size)
{
    uint8_t ip[600] = {0x45};
    be16_put(ip + 2, (uint16_t)(28 + size));
    ip[8] = 64;
    ip[9] = 17;
    inet_pton(AF_INET, source, ip + 12);
    inet_pton(AF_INET, target, ip + 16);
    be16_put(ip + 20, (uint16_t)source_port);
    be16_put(ip + 22, (uint16_t)target_port);
    be16_put(ip + 24, (uint16_t)(8 + size));
    memcpy(ip + 28, data, size);
    return ethernet(to, from, 0x0800, ip, 28 + size);
}

static struct made arp(const uint8_t *from, const uint8_t *sender_mac, const char *sender,
                       const char *target)
{
    uint8_t body[28] = {0, 1, 8, 0, 6, 4, 0, 1};
    memcpy(body + 8, sender_mac, 6);
    inet_pton(AF_INET, sender, body + 14);
    inet_pton(AF_INET, target, body + 24);
    return ethernet(broadcast, from, 0x0806, body, sizeof(body));
}

/* With 'extensions' headers for options between; 'first': what the first header says to be next. */
static struct made ip6(const uint8_t *to, const uint8_t *from, const char *source, unsigned first,
                       const void *payload, size_t size)
{
    uint8_t ip[600] = {0x60};
    be16_put(ip + 4, (uint16_t)size);
    ip[6] = (uint8_t)first;
    inet_pton(AF_INET6, source, ip + 8);
    inet_pton(AF_INET6, "ff02::1", ip + 24);
    memcpy(ip + 40, payload, size);
    return ethernet(to, from, 0x86dd, ip, 40 + size);
}

/* How often a frame from port 'from' came out: of ports 0 to 2 and the uplink. */
static void check_input(unsigned from, struct made made, const unsigned expected[PORTS + 1])
{
    unsigned before[PORTS + 1] = {sinks[0].count, sinks[1].count, sinks[2].count, uplink.count};
    /* Memory of its own, so that a byte behind it is found. */
    uint8_t *frame = malloc(made.size);
    memcpy(frame, made.frame, made.size);
    switch_input(&sw, &ports[from], frame, made.size);
    free(frame);
    for (unsigned i = 0; i <= PORTS; i++) {
        unsigned now = i < PORTS ? sinks[i].count : uplink.count;
        assert_int_equal(now - before[i], expected[i]);
    }
}

#define CHECK(from, frame, ...) check_input(from, frame, (const unsigned[PORTS + 1]){__VA_ARGS__})
#define MAC(i)                  ports[i].mac

static void frames_find_their_port(void **state)
{
    CHECK(0, arp(MAC(0), MAC(0), "10.0.2.15", "10.0.2.16"), 0, 1, 1, 1);
    CHECK(0, udp4(MAC(1), MAC(0), "10.0.2.15", "10.0.2.16", 1, 2, "x", 1), 0, 1, 0, 0);
    CHECK(1, udp4(MAC(0), MAC(1), "10.0.2.16", "10.0.2.15", 1, 2, "x", 1), 1, 0, 0, 0);
    CHECK(0, udp4(gateway_mac, MAC(0), "10.0.2.15", "1.1.1.1", 1, 2, "x", 1), 0, 0, 0, 1);
    /* To itself, and broadcasts that the stack would take for connections. */
    CHECK(0, udp4(MAC(0), MAC(0), "10.0.2.15", "10.0.2.15", 1, 2, "x", 1), 0, 0, 0, 0);
    CHECK(0, udp4(broadcast, MAC(0), "10.0.2.15", "10.0.2.255", 1, 2, "x", 1), 0, 1, 1, 0);
    struct made answer = udp4(MAC(1), gateway_mac, "1.1.1.1", "10.0.2.16", 2, 1, "x", 1);
    switch_from_uplink(&sw, answer.frame, answer.size);
    assert_int_equal(sinks[1].count, 4);
    assert_int_equal(sinks[1].size, answer.size);
    switch_from_uplink(&sw, answer.frame, 13);
    assert_int_equal(sinks[1].count, 4);
    assert_int_equal(ports[0].counters.received_frames, 5);
    assert_int_equal(ports[1].counters.sent_frames, 4);
}

static void addresses_behind_a_free_port_are_learned(void **state)
{
    static const uint8_t nested[6] = {0x02, 0, 0, 0, 0, 9};
    /* Unknown: it may be behind the port that may have others' addresses, and nowhere else. */
    CHECK(0, udp4(nested, MAC(0), "10.0.2.15", "10.9.0.1", 1, 2, "x", 1), 0, 0, 1, 0);
    CHECK(2, udp4(MAC(0), nested, "10.9.0.1", "10.0.2.15", 1, 2, "x", 1), 1, 0, 0, 0);
    CHECK(0, udp4(nested, MAC(0), "10.0.2.15", "10.9.0.1", 1, 2, "x", 1), 0, 0, 1, 0);
    assert_int_equal(mac_table_find(&sw.macs, nested, sw.now_s), 2);
    sw.now_s += MAC_TABLE_TTL_S + 1;
    assert_int_equal(mac_table_find(&sw.macs, nested, sw.now_s), -1);
    CHECK(2, udp4(MAC(0), nested, "10.9.0.1", "10.0.2.15", 1, 2, "x", 1), 1, 0, 0, 0);
    switch_remove(&sw, &ports[2]);
    CHECK(0, udp4(nested, MAC(0), "10.0.2.15", "10.9.0.1", 1, 2, "x", 1), 0, 0, 0, 0);
}

static void the_table_has_an_end(void **state)
{
    static struct mac_table table;
    uint8_t mac[6] = {2};
    memset(&table, 0, sizeof(table));
    unsigned known = 0;
    for (uint32_t i = 0; i < 100000; i++) {
        be32_put(mac + 2, i);
        mac_table_learn(&table, mac, i % 200, i);
        assert_int_equal(mac_table_find(&table, mac, i), i % 200);
    }
    for (uint32_t i = 0; i < 100000; i++) {
        be32_put(mac + 2, i);
        known += mac_table_find(&table, mac, i) >= 0;
    }
    assert_in_range(known, MAC_TABLE_SETS, MAC_TABLE_SETS * MAC_TABLE_WAYS);
    /* The one that was heard of last stays. */
    assert_int_equal(mac_table_find(&table, mac, 99999), 99999 % 200);
    mac_table_forget(&table, 99999 % 200);
    assert_int_equal(mac_table_find(&table, mac, 99999), -1);
}

static void addresses_of_others_are_dropped(void **state)
{
    const uint8_t *one = MAC(0), *two = MAC(1);
    CHECK(0, udp4(two, two, "10.0.2.15", "10.0.2.16", 1, 2, "x", 1), 0, 0, 0, 0);
    CHECK(0, udp4(two, one, "10.0.2.16", "10.0.2.16", 1, 2, "x", 1), 0, 0, 0, 0);
    CHECK(0, udp4(two, one, "0.0.0.0", "10.0.2.16", 1, 2, "x", 1), 0, 0, 0, 0);
    CHECK(0, udp4(two, one, "10.0.2.15", "10.0.2.16", DHCP_SERVER_PORT, 68, "x", 1), 0, 0, 0, 0);
    CHECK(0, arp(one, two, "10.0.2.15", "10.0.2.16"), 0, 0, 0, 0);
    CHECK(0, arp(one, one, "10.0.2.16", "10.0.2.16"), 0, 0, 0, 0);
    CHECK(0, arp(one, one, "10.0.2.2", "10.0.2.16"), 0, 0, 0, 0);
    CHECK(0, arp(one, one, "0.0.0.0", "10.0.2.15"), 0, 1, 1, 1); /* is it taken? */
    CHECK(0, ethernet(two, one, 0x8100, "vlan", 4), 0, 0, 0, 0);
    assert_int_equal(ports[0].counters.refused_frames, 8);
    /* One that may still has neither another port's address nor the stack's, nor that of a group. */
    CHECK(2, udp4(two, one, "10.9.9.9", "10.0.2.16", 1, 2, "x", 1), 0, 0, 0, 0);
    CHECK(2, udp4(two, gateway_mac, "10.9.9.9", "10.0.2.16", 1, 2, "x", 1), 0, 0, 0, 0);
    CHECK(2, udp4(two, broadcast, "10.9.9.9", "10.0.2.16", 1, 2, "x", 1), 0, 0, 0, 0);
    CHECK(2, udp4(two, MAC(2), "10.9.9.9", "10.0.2.16", 1, 2, "x", 1), 0, 1, 0, 0);
    CHECK(2, ethernet(two, MAC(2), 0x8100, "vlan", 4), 0, 1, 0, 0);
}

static void no_port_is_a_router(void **state)
{
    static const uint8_t group[6] = {0x33, 0x33, 0, 0, 0, 1};
    const uint8_t *one = MAC(0);
    static const uint8_t solicitation[8] = {135}, advertisement[8] = {134}, redirect[8] = {137};
    /* Behind headers, in the first of several fragments, and where it cannot be seen. */
    static const uint8_t hidden[16] = {58, 0, 1, 4, 0, 0, 0, 0, 134};
    static const uint8_t part[16] = {58, 0, 0, 1, 0, 0, 0, 0, 134};
    static const uint8_t cut[8] = {58, 200};
    static const uint8_t server[8] = {547 >> 8, 547 & 0xff, 546 >> 8, 546 & 0xff, 0, 8};
    CHECK(0, ip6(group, one, "fe80::1", 58, solicitation, 8), 0, 1, 1, 1);
    CHECK(0, ip6(group, one, "fec0::99", 58, solicitation, 8), 0, 1, 1, 1);
    CHECK(0, ip6(group, one, "::", 58, solicitation, 8), 0, 1, 1, 1);
    CHECK(0, ip6(group, one, "fe80::1", 58, advertisement, 8), 0, 0, 0, 0);
    CHECK(0, ip6(group, one, "fe80::1", 58, redirect, 8), 0, 0, 0, 0);
    CHECK(0, ip6(group, one, "fe80::1", 0, hidden, 16), 0, 0, 0, 0);
    CHECK(0, ip6(group, one, "fe80::1", 44, part, 16), 0, 0, 0, 0);
    CHECK(0, ip6(group, one, "fe80::1", 0, cut, 8), 0, 0, 0, 0);
    CHECK(0, ip6(group, one, "fe80::1", 17, server, 8), 0, 0, 0, 0);
    CHECK(0, ip6(group, one, "fec0::2", 58, solicitation, 8), 0, 0, 0, 0);
    CHECK(0, ip6(group, one, "2001:db8::1", 58, solicitation, 8), 0, 0, 0, 0);
    CHECK(2, ip6(group, MAC(2), "2001:db8::1", 58, advertisement, 8), 1, 1, 0, 1);
}

/* A request of DHCP, with options behind the type. */
static size_t request(uint8_t *out, unsigned type, const uint8_t *mac, const void *options,
                      size_t size)
{
    memset(out, 0, 240);
    out[0] = out[1] = 1;
    out[2] = 6;
    be32_put(out + 4, 0x12345678);
    memcpy(out + 28, mac, 6);
    be32_put(out + 236, 0x63825363);
    const uint8_t first[3] = {53, 1, (uint8_t)type};
    memcpy(out + 240, first, 3);
    memcpy(out + 243, options, size);
    return 243 + size;
}

static const uint8_t *find_option(const struct sink *sink, unsigned option)
{
    const uint8_t *at = sink->frame + 14 + 28 + 240, *end = sink->frame + sink->size;
    while (at < end && *at != 255) {
        if (*at == option) {
            return at;
        }
        at += 2 + at[1];
    }
    return NULL;
}

static void check_sum(const struct sink *sink)
{
    const uint8_t *ip = sink->frame + 14;
    uint32_t sum = 0;
    for (unsigned i = 0; i < 20; i += 2) {
        sum += be16_get(ip + i);
    }
    assert_int_equal((sum & 0xffff) + (sum >> 16), 0xffff);
    size_t size = sink->size - 34;
    sum = 17 + (uint32_t)size;
    for (size_t i = 12; i < 20 + size; i++) {
        sum += (i & 1) ? ip[i] : (uint32_t)ip[i] << 8;
    }
    sum = (sum & 0xffff) + (sum >> 16);
    assert_int_equal((sum & 0xffff) + (sum >> 16), 0xffff);
}

static void dhcp_gives_the_ports_address(void **state)
{
    uint8_t data[400];
    static const uint8_t wrong[] = {50, 4, 10, 0, 2, 99, 255}, right[] = {0, 50, 4, 10, 0, 2, 15};
    static const uint8_t other_server[] = {54, 4, 10, 0, 2, 7, 50, 4, 10, 0, 2, 15};
    size_t size = request(data, 1, MAC(0), "", 0);
    CHECK(0, udp4(broadcast, MAC(0), "0.0.0.0", "255.255.255.255", 68, 67, data, size), 1, 0, 0, 0);
    const struct sink *got = &sinks[0];
    check_sum(got);
    assert_memory_equal(got->frame + 14 + 28 + 16, ports[0].ipv4, 4);
    assert_memory_equal(got->frame, MAC(0), 6);
    assert_int_equal(find_option(got, 53)[2], 2);
    assert_memory_equal(find_option(got, 3) + 2, sw.network.gateway, 4);
    assert_memory_equal(find_option(got, 6) + 2, sw.network.name_server, 4);
    assert_memory_equal(find_option(got, 12), "\x0c\x04web0", 6);
    size = request(data, 3, MAC(0), right, sizeof(right));
    CHECK(0, udp4(broadcast, MAC(0), "0.0.0.0", "255.255.255.255", 68, 67, data, size), 1, 0, 0, 0);
    assert_int_equal(find_option(got, 53)[2], 5);
    size = request(data, 3, MAC(0), wrong, sizeof(wrong));
    CHECK(0, udp4(broadcast, MAC(0), "0.0.0.0", "255.255.255.255", 68, 67, data, size), 1, 0, 0, 0);
    assert_int_equal(find_option(got, 53)[2], 6);
    assert_null(find_option(got, 3));
    /* A renewal goes back to where it came from. */
    size = request(data, 3, MAC(0), "", 0);
    memcpy(data + 12, ports[0].ipv4, 4);
    CHECK(0, udp4(gateway_mac, MAC(0), "10.0.2.15", "10.0.2.2", 68, 67, data, size), 1, 0, 0, 0);
    assert_memory_equal(got->frame + 14 + 16, ports[0].ipv4, 4);
    /* For others, of others, cut, and nothing at all: heard by nobody. */
    size = request(data, 3, MAC(0), other_server, sizeof(other_server));
    CHECK(0, udp4(broadcast, MAC(0), "0.0.0.0", "255.255.255.255", 68, 67, data, size), 0, 0, 0, 0);
    size = request(data, 1, MAC(1), "", 0);
    CHECK(0, udp4(broadcast, MAC(0), "0.0.0.0", "255.255.255.255", 68, 67, data, size), 0, 0, 0, 0);
    size = request(data, 7, MAC(0), "", 0);
    CHECK(0, udp4(broadcast, MAC(0), "0.0.0.0", "255.255.255.255", 68, 67, data, size), 0, 0, 0, 0);
    CHECK(0, udp4(broadcast, MAC(0), "0.0.0.0", "255.255.255.255", 68, 67, data, 239), 0, 0, 0, 0);
    CHECK(0, udp4(broadcast, MAC(0), "0.0.0.0", "255.255.255.255", 68, 67, data, 0), 0, 0, 0, 0);
}

static size_t query(uint8_t *out, const char *name, size_t name_size, unsigned type)
{
    static const uint8_t start[12] = {0xab, 0xcd, 1, 0, 0, 1};
    memcpy(out, start, 12);
    memcpy(out + 12, name, name_size);
    be16_put(out + 12 + name_size, (uint16_t)type);
    be16_put(out + 14 + name_size, 1);
    return 16 + name_size;
}

/* The answer's code and number of addresses; -1: the query went to the stack. */
static int ask(const char *name, size_t name_size, unsigned type, unsigned *out_count)
{
    uint8_t data[600];
    unsigned before = uplink.count;
    size_t size = query(data, name, name_size, type);
    struct made made = udp4(gateway_mac, MAC(0), "10.0.2.15", "10.0.2.3", 5000, 53, data, size);
    switch_input(&sw, &ports[0], made.frame, made.size);
    if (uplink.count != before) {
        return -1;
    }
    check_sum(&sinks[0]);
    const uint8_t *answer = sinks[0].frame + 14 + 28;
    assert_int_equal(be16_get(answer), 0xabcd);
    assert_int_equal(be16_get(sinks[0].frame + 14 + 20), 53);
    assert_int_equal(be16_get(sinks[0].frame + 14 + 22), 5000);
    *out_count = be16_get(answer + 6);
    return answer[3] & 0xf;
}

#define ASK(name, type) ask(name, sizeof(name), type, &count)

static void names_of_ports_are_answered(void **state)
{
    unsigned count = 0;
    assert_int_equal(ASK("\4web1", 1), 0);
    assert_int_equal(count, 1);
    assert_memory_equal(sinks[0].frame + sinks[0].size - 4, ports[1].ipv4, 4);
    assert_int_equal(ASK("\4WeB2\4Hull", 1), 0);
    assert_memory_equal(sinks[0].frame + sinks[0].size - 4, ports[2].ipv4, 4);
    /* Without an IPv6 address that is used, and with one. */
    assert_int_equal(ASK("\4web1", 28), 0);
    assert_int_equal(count, 0);
    ports[1].is_ipv6_used = true;
    assert_int_equal(ASK("\4web1", 28), 0);
    assert_int_equal(count, 1);
    assert_memory_equal(sinks[0].frame + sinks[0].size - 16, ports[1].ipv6, 16);
    assert_int_equal(ASK("\4web1", 255), 0);
    assert_int_equal(count, 2);
    assert_int_equal(ASK("\4web9\4hull", 1), 3);
    assert_int_equal(ASK("\1a\4web1\4hull", 1), 3);
    assert_int_equal(ASK("\4web9", 28), 3);
    assert_int_equal(ASK("\4web1", 15), 0);
    assert_int_equal(count, 0);
    /* Others'. */
    assert_int_equal(ASK("\3www\7example\3org", 1), -1);
    assert_int_equal(ASK("\4web1\7example", 1), -1);
    assert_int_equal(ASK("\3com", 2), -1);
    assert_int_equal(ASK("", 2), -1);
}

static void queries_that_are_none_are_passed_on(void **state)
{
    uint8_t answer[DNS_ANSWER_SIZE], data[600];
    static const char pointer[] = "\xc0\x0c", endless[] = "\4web", zero[] = "\3a\0b\4hull";
    size_t size = query(data, "\4web1", 6, 1);
    for (size_t i = 0; i < size; i++) {
        assert_int_equal(dns_answer(data, i, NULL, NULL, answer), 0);
    }
    data[2] = 0x80; /* an answer */
    assert_int_equal(dns_answer(data, size, NULL, NULL, answer), 0);
    data[2] = 0;
    data[5] = 2; /* two questions */
    assert_int_equal(dns_answer(data, size, NULL, NULL, answer), 0);
    size = query(data, pointer, sizeof(pointer) - 1, 1);
    assert_int_equal(dns_answer(data, size, NULL, NULL, answer), 0);
    size = query(data, endless, sizeof(endless) - 1, 1);
    assert_int_equal(dns_answer(data, size - 4, NULL, NULL, answer), 0);
    size = query(data, zero, sizeof(zero), 1);
    assert_int_equal(dns_answer(data, size, NULL, NULL, answer), 0);
    /* Longer than a name may be. */
    char label[64] = "\77";
    memset(label + 1, 'a', 63);
    memset(data + 12, 0, sizeof(data) - 12);
    for (unsigned i = 0; i < 4; i++) {
        memcpy(data + 12 + 64 * i, label, 64);
    }
    assert_int_equal(dns_answer(data, sizeof(data), NULL, NULL, answer), 0);
}

static int many(void *ctx, const char *name, size_t size,
                uint8_t out_addresses[DNS_MAX_ADDRESSES][16])
{
    memset(out_addresses, 7, DNS_MAX_ADDRESSES * 16);
    return DNS_MAX_ADDRESSES;
}

static void an_answer_never_is_too_long(void **state)
{
    uint8_t answer[DNS_ANSWER_SIZE], data[600];
    char name[64 + 6] = "\77";
    memset(name + 1, 'a', 63);
    memcpy(name + 64, "\4hull", 6);
    size_t size = query(data, name, sizeof(name), 255);
    size_t got = dns_answer(data, size, many, NULL, answer);
    assert_in_range(got, 400, DNS_ANSWER_SIZE);
    assert_in_range(be16_get(answer + 6), DNS_MAX_ADDRESSES, 2 * DNS_MAX_ADDRESSES);
}

/* Each beginning of each frame, and each bit of it turned: no byte outside of it is touched. */
static void broken_frames(void **state)
{
    uint8_t data[400];
    size_t size = request(data, 1, MAC(0), "", 0);
    const struct made frames[] = {
        udp4(broadcast, MAC(0), "0.0.0.0", "255.255.255.255", 68, 67, data, size),
        arp(MAC(0), MAC(0), "10.0.2.15", "10.0.2.16"),
        ip6(broadcast, MAC(0), "fe80::1", 0, "\x3a\0\1\4\0\0\0\0\x87\0\0\0", 12),
    };
    for (size_t i = 0; i < ARRAY_COUNT(frames); i++) {
        for (size_t cut = 0; cut <= frames[i].size; cut++) {
            uint8_t *frame = malloc(cut + 1);
            memcpy(frame, frames[i].frame, cut);
            switch_input(&sw, &ports[0], frame, cut);
            free(frame);
        }
        for (size_t bit = 0; bit < frames[i].size * 8; bit++) {
            uint8_t *frame = malloc(frames[i].size);
            memcpy(frame, frames[i].frame, frames[i].size);
            frame[bit / 8] ^= (uint8_t)(1 << bit % 8);
            switch_input(&sw, &ports[0], frame, frames[i].size);
            free(frame);
        }
    }
    assert_true(ports[0].counters.refused_frames > 100);
}

static void ports_have_an_end(void **state)
{
    static struct switch_port more[SWITCH_MAX_PORTS];
    memset(more, 0, sizeof(more));
    for (unsigned i = PORTS; i < SWITCH_MAX_PORTS; i++) {
        be32_put(more[i].mac + 2, i);
        more[i].send = to_port;
        more[i].send_ctx = &sinks[2];
        assert_true(switch_add(&sw, &more[i]));
    }
    assert_false(switch_add(&sw, &more[0]));
    assert_int_equal(sw.port_count, SWITCH_MAX_PORTS);
    assert_ptr_equal(switch_find_mac(&sw, more[100].mac), &more[100]);
    switch_remove(&sw, &more[100]);
    assert_null(switch_find_mac(&sw, more[100].mac));
    assert_true(switch_add(&sw, &more[0]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(frames_find_their_port, set_up),
        cmocka_unit_test_setup(addresses_behind_a_free_port_are_learned, set_up),
        cmocka_unit_test_setup(the_table_has_an_end, set_up),
        cmocka_unit_test_setup(addresses_of_others_are_dropped, set_up),
        cmocka_unit_test_setup(no_port_is_a_router, set_up),
        cmocka_unit_test_setup(dhcp_gives_the_ports_address, set_up),
        cmocka_unit_test_setup(names_of_ports_are_answered, set_up),
        cmocka_unit_test_setup(queries_that_are_none_are_passed_on, set_up),
        cmocka_unit_test_setup(an_answer_never_is_too_long, set_up),
        cmocka_unit_test_setup(broken_frames, set_up),
        cmocka_unit_test_setup(ports_have_an_end, set_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
