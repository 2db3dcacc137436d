/* Frames of an enemy into the switch: whatever they hold, no byte outside of them is read, and answers fit.
 *
 * Input: frames, each after a byte of flags (bits 0 and 1: the port; bit 2: it comes from the uplink; bit 3: with the port's own
 * hardware address) and 16 bits of its size. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/core/compiler.h"
#include "base/core/endian.h"
#include "base/core/invariant.h"
#include "net/user/switch.h"

#define PORTS 4

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile uint8_t seen;

/* Reads it whole. */
static bool take(void *ctx, const uint8_t *frame, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        seen = (uint8_t)(seen + frame[i]);
    }
    invariant(size >= PACKET_MIN_FRAME);
    return size % 7 != 0;
}

static void take_up(void *ctx, const uint8_t *frame, size_t size)
{
    (void)take(ctx, frame, size);
}

static void set_up(struct ether_switch *sw, struct switch_port *ports)
{
    static const uint8_t gateway[4] = {10, 0, 2, 2}, name_server[4] = {10, 0, 2, 3},
                         mask[4] = {255, 255, 255, 0}, prefix[8] = {0xfe, 0xc0};
    memset(sw, 0, sizeof(*sw));
    memset(ports, 0, PORTS * sizeof(*ports));
    memcpy(sw->network.gateway, gateway, 4);
    memcpy(sw->network.name_server, name_server, 4);
    memcpy(sw->network.mask, mask, 4);
    memcpy(sw->network.prefix6, prefix, 8);
    memcpy(sw->network.gateway6, prefix, 8);
    memcpy(sw->network.name_server6, prefix, 8);
    sw->network.gateway6[15] = 2;
    sw->network.name_server6[15] = 3;
    sw->to_uplink = take_up;
    for (unsigned i = 0; i < PORTS; i++) {
        const uint8_t mac[6] = {0x52, 0x54, 0, 0, 0, (uint8_t)i},
                      ipv4[4] = {10, 0, 2, (uint8_t)(15 + i)};
        memcpy(ports[i].mac, mac, 6);
        memcpy(ports[i].ipv4, ipv4, 4);
        (void)snprintf(ports[i].name, sizeof(ports[i].name), "web%u", i);
        switch_ipv6_of_mac(&sw->network, mac, ports[i].ipv6);
        ports[i].send = take;
        ports[i].may_spoof = i == 3;
        invariant(switch_add(sw, &ports[i]));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct ether_switch sw;
    static struct switch_port ports[PORTS];
    set_up(&sw, ports);
    while (size >= 3) {
        unsigned flags = data[0];
        size_t length = MIN(be16_get(data + 1), size - 3);
        uint8_t *frame = malloc(length + (length == 0));
        invariant(frame != NULL);
        memcpy(frame, data + 3, length);
        struct switch_port *port = &ports[flags % PORTS];
        if ((flags & 8) != 0 && length >= 12) {
            memcpy(frame + 6, port->mac, 6);
        }
        if ((flags & 4) != 0) {
            switch_from_uplink(&sw, frame, length);
        } else {
            switch_input(&sw, port, frame, length);
        }
        sw.now_s += flags >> 4;
        free(frame);
        data += 3 + length;
        size -= 3 + length;
    }
    invariant(sw.port_count == PORTS);
    return 0;
}
