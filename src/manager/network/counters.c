/* In hulld: what goes through a network's ports. Of bridges the kernel counts it at the ports' interfaces, of a user's switch its process
 * does. As in an instance's figures, what is received is received by the instance. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/host/file.h"
#include "base/host/unix_socket.h"
#include "manager/network/state.h"
#include "manager/text.h"
#include "system/network/link.h"

/* The switch is a process of ours that answers at once. hulld waits for nobody, so one that stands still has no figures. */
#define ANSWER_TIMEOUT_MS 200

static void set_count(json_t *port, const char *key, uint64_t count)
{
    (void)json_object_set_new(port, key, json_integer((json_int_t)count));
}

static void add_interface(int netlink, json_t *port)
{
    struct link link;
    const char *interface = text_of(port, "interface");
    if (interface == NULL || netlink < 0 || link_find(netlink, interface, &link) < 0) {
        return;
    }
    set_count(port, "received_bytes", link.counters.tx_bytes);
    set_count(port, "received_packets", link.counters.tx_packets);
    set_count(port, "sent_bytes", link.counters.rx_bytes);
    set_count(port, "sent_packets", link.counters.rx_packets);
    set_count(port, "dropped_packets", link.counters.rx_dropped + link.counters.tx_dropped);
}

static uint64_t count_of(const json_t *port, const char *key)
{
    return (uint64_t)json_integer_value(json_object_get(port, key));
}

static void add_switched(const json_t *known, json_t *port)
{
    const char *mac = text_of(port, "mac");
    size_t i;
    const json_t *one;
    json_array_foreach(known, i, one)
    {
        const char *own = text_of(one, "mac");
        if (mac != NULL && own != NULL && strcmp(mac, own) == 0) {
            set_count(port, "received_bytes", count_of(one, "sent_bytes"));
            set_count(port, "received_packets", count_of(one, "sent_frames"));
            set_count(port, "sent_bytes", count_of(one, "received_bytes"));
            set_count(port, "sent_packets", count_of(one, "received_frames"));
            set_count(port, "dropped_packets",
                      count_of(one, "refused_frames") + count_of(one, "lost_frames"));
        }
    }
}

/* NULL: there is no switch, or it does not answer. */
static json_t *ask_switch(const struct place *place, const char *network)
{
    char path[PATH_MAX];
    struct error ignored;
    AUTO_FREE char *answer = NULL;
    place_run_path(place, "networks", network, "switch.sock", path);
    return unix_socket_ask(path, "switch", "{\"do\":\"status\"}", -1, ANSWER_TIMEOUT_MS, &answer,
                           &ignored) < 0
               ? NULL
               : json_loads(answer, 0, NULL);
}

int net_count_ports(const struct place *place, const char *network, bool is_switched,
                    json_t **out_ports, struct error *err)
{
    char path[PATH_MAX];
    const char *id;
    json_t *one, *list = json_array();
    place_run_path(place, "networks", network, "ports.json", path);
    json_auto_t *ports = json_load_file(path, 0, NULL);
    json_auto_t *status =
        is_switched && json_object_size(ports) > 0 ? ask_switch(place, network) : NULL;
    AUTO_CLOSE int netlink = -1;
    if (!is_switched && json_object_size(ports) > 0 && netlink_open(&netlink, NULL) < 0) {
        netlink = -1; /* without figures */
    }
    json_object_foreach(ports, id, one)
    {
        size_t length = strcspn(id, "/");
        json_t *port = json_pack("{s:s%,s:s,s:O*,s:O*,s:O*}", "instance", id, length, "device",
                                 id[length] == '/' ? id + length + 1 : "", "mac",
                                 json_object_get(one, "mac"), "ipv4", json_object_get(one, "ipv4"),
                                 "interface", json_object_get(one, "interface"));
        if (is_switched) {
            add_switched(json_object_get(status, "ports"), port);
        } else {
            add_interface(netlink, port);
        }
        (void)json_array_append_new(list, port);
    }
    if (list == NULL) {
        return error_set_errno(err, ENOMEM, "network %s", network);
    }
    *out_ports = list;
    return 0;
}
