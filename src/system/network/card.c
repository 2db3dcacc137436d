/* Network cards of containers: pairs of virtual Ethernet devices. */
#include <errno.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <string.h>
#include <sys/socket.h>

#include "base/core/hash.h"
#include "base/host/file.h"
#include "system/network/macvlan.h"

#define DEFAULT_MTU 1500

struct pair {
    int host, inside; /* netlink sockets */
    int namespace_fd;
    uint8_t mac[6], host_mac[6];
    unsigned bridge_index; /* 0: none */
    unsigned mtu;
};

/* The host's end has a high one: a bridge whose own is not fixed takes the lowest of its ports', and would change it with each
 * container. */
static void choose_macs(const struct network_card *card, struct pair *pair)
{
    static const uint8_t none[6];
    uint64_t hash = hash_text(card->host_name);
    for (unsigned i = 0; i < 6; i++) {
        pair->mac[i] = pair->host_mac[i] = (uint8_t)(hash >> (i * 8));
    }
    pair->mac[0] = (uint8_t)((pair->mac[0] & 0xfc) | 0x02);
    pair->host_mac[0] = 0xfe;
    if (memcmp(card->mac, none, sizeof(none)) != 0) {
        memcpy(pair->mac, card->mac, sizeof(pair->mac));
    }
    if (memcmp(pair->mac, pair->host_mac, sizeof(pair->mac)) == 0) {
        pair->host_mac[5] ^= 1;
    }
}

static int check_card(const struct network_card *card, struct error *err)
{
    int rc = link_check_name(card->name, "network card", err);
    rc = rc < 0 ? rc : link_check_name(card->host_name, "network card: device of the host", err);
    if (rc < 0) {
        return rc;
    }
    if ((card->mac[0] & 1) != 0) {
        return error_set(
            err, EINVAL,
            "network card %s: its hardware address is that of a group; the first byte is even",
            card->name);
    }
    bool is_good = card->address_count <= NETWORK_MAX_ADDRESSES &&
                   (card->gateway4.family == 0 || card->gateway4.family == AF_INET) &&
                   (card->gateway6.family == 0 || card->gateway6.family == AF_INET6);
    for (size_t i = 0; i < card->address_count && is_good; i++) {
        is_good = card->addresses[i].family == AF_INET || card->addresses[i].family == AF_INET6;
    }
    return is_good
               ? 0
               : error_set(
                     err, EINVAL,
                     "network card %s: addresses and gateways of the wrong family, or more than %d",
                     card->name, NETWORK_MAX_ADDRESSES);
}

/* Both ends in one message: the kernel makes both, with bridge and all, or neither. */
static int make_pair(const struct network_card *card, const struct pair *pair, struct error *err)
{
    struct netlink_batch batch;
    const struct ifinfomsg up = {
        .ifi_family = AF_UNSPEC, .ifi_flags = IFF_UP, .ifi_change = IFF_UP};
    const struct ifinfomsg down = {.ifi_family = AF_UNSPEC};
    netlink_clear(&batch);
    netlink_begin(&batch, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &up, sizeof(up));
    netlink_add_text(&batch, IFLA_IFNAME, card->host_name);
    netlink_add(&batch, IFLA_ADDRESS, pair->host_mac, sizeof(pair->host_mac));
    netlink_add_u32(&batch, IFLA_MTU, pair->mtu);
    if (pair->bridge_index != 0) {
        netlink_add_u32(&batch, IFLA_MASTER, pair->bridge_index);
    }
    size_t info = netlink_nest(&batch, IFLA_LINKINFO, NULL, 0);
    netlink_add_text(&batch, IFLA_INFO_KIND, "veth");
    size_t data = netlink_nest(&batch, IFLA_INFO_DATA, NULL, 0);
    size_t peer = netlink_nest(&batch, VETH_INFO_PEER, &down, sizeof(down));
    netlink_add_text(&batch, IFLA_IFNAME, card->name);
    netlink_add(&batch, IFLA_ADDRESS, pair->mac, sizeof(pair->mac));
    netlink_add_u32(&batch, IFLA_MTU, pair->mtu);
    netlink_add_u32(&batch, IFLA_NET_NS_FD, (uint32_t)pair->namespace_fd);
    netlink_unnest(&batch, peer);
    netlink_unnest(&batch, data);
    netlink_unnest(&batch, info);
    int rc = netlink_call(pair->host, &batch, NULL, NULL);
    if (rc == -EEXIST) {
        bool is_hosts = netlink_index(pair->host, card->host_name) > 0;
        return error_set(err, EEXIST, "network card %s: %s has a device '%s' already", card->name,
                         is_hosts ? "the host" : "the container",
                         is_hosts ? card->host_name : card->name);
    }
    return rc < 0 ? error_set_errno(err, -rc, "network card %s: making the pair of devices %s",
                                    card->name, card->host_name)
                  : 0;
}

static void put_gateway(struct netlink_batch *batch, const struct network_card *card,
                        unsigned index, const struct network_address *gateway)
{
    if (gateway->family == 0) {
        return;
    }
    bool is_near = false;
    for (size_t i = 0; i < card->address_count && !is_near; i++) {
        is_near = network_contains(&card->addresses[i], gateway);
    }
    const struct rtmsg message = {.rtm_family = (uint8_t)gateway->family,
                                  .rtm_table = RT_TABLE_MAIN,
                                  .rtm_protocol = RTPROT_STATIC,
                                  .rtm_scope = RT_SCOPE_UNIVERSE,
                                  .rtm_type = RTN_UNICAST,
                                  .rtm_flags = is_near ? 0 : RTNH_F_ONLINK};
    netlink_begin(batch, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &message, sizeof(message));
    netlink_add(batch, RTA_GATEWAY, gateway->bytes, link_address_size(gateway));
    netlink_add_u32(batch, RTA_OIF, index);
}

/* What message 'number' of link_configure() was about. */
static void describe(const struct network_card *card, uint32_t number, struct error *err, int rc)
{
    char text[NETWORK_TEXT_SIZE];
    if (number < 2) {
        error_ignore(error_set_errno(err, -rc, "network card %s: setting %s up", card->name,
                                     number == 0 ? "lo" : "it"));
        return;
    }
    size_t i = number - 2;
    if (i < card->address_count) {
        network_format(&card->addresses[i], true, text);
        error_ignore(error_set_errno(err, -rc, "network card %s: address %s", card->name, text));
        return;
    }
    bool is_first4 = i == card->address_count && card->gateway4.family != 0;
    network_format(is_first4 ? &card->gateway4 : &card->gateway6, false, text);
    error_ignore(error_set_errno(err, -rc, "network card %s: gateway %s", card->name, text));
}

int link_configure(const struct network_card *card, int inside, struct error *err)
{
    struct netlink_batch batch;
    int lo = netlink_index(inside, "lo");
    int index = netlink_index(inside, card->name);
    if (lo < 0 || index < 0) {
        return error_set_errno(err, lo < 0 ? -lo : -index,
                               "network card %s: finding it in the container", card->name);
    }
    netlink_clear(&batch);
    link_put_up(&batch, (unsigned)lo);
    link_put_up(&batch, (unsigned)index);
    for (size_t i = 0; i < card->address_count; i++) {
        link_put_address(&batch, (unsigned)index, &card->addresses[i]);
    }
    put_gateway(&batch, card, (unsigned)index, &card->gateway4);
    put_gateway(&batch, card, (unsigned)index, &card->gateway6);
    int rc = netlink_call(inside, &batch, NULL, NULL);
    if (rc < 0) {
        describe(card, batch.failed, err, rc);
    }
    return rc;
}

/* It goes with the container's namespace. */
static int attach_macvlan(const struct network_card *card, struct pair *pair, struct error *err)
{
    struct link parent;
    int rc = macvlan_find_parent(pair->host, card->bridge, &parent, err);
    if (rc < 0) {
        return error_prefix(err, rc, "network card %s", card->name);
    }
    choose_macs(card, pair);
    const struct macvlan_card own = {.kind = "macvlan",
                                     .name = card->name,
                                     .parent = parent.index,
                                     .mac = pair->mac,
                                     .mtu = card->mtu,
                                     .in_namespace = true,
                                     .namespace_fd = pair->namespace_fd};
    rc = macvlan_make(pair->host, &own);
    if (rc < 0) {
        return error_set_errno(err, -rc, "network card %s: making it on %s", card->name,
                               card->bridge);
    }
    rc = link_configure(card, pair->inside, err);
    if (rc < 0) {
        int index = netlink_index(pair->inside, card->name);
        /* What went wrong first is told. */
        error_ignore(index < 0 ? index : link_delete(pair->inside, (unsigned)index));
    }
    return rc;
}

static int attach(const struct network_card *card, struct pair *pair, struct error *err)
{
    struct link bridge = {.mtu = DEFAULT_MTU};
    int rc = 0;
    if (card->bridge != NULL) {
        rc = link_find_bridge(pair->host, card->bridge, &bridge, err);
    }
    if (rc < 0) {
        return error_prefix(err, rc, "network card %s", card->name);
    }
    pair->bridge_index = bridge.index;
    pair->mtu = card->mtu != 0 ? card->mtu : bridge.mtu;
    choose_macs(card, pair);
    rc = make_pair(card, pair, err);
    if (rc < 0) {
        return rc;
    }
    rc = link_configure(card, pair->inside, err);
    if (rc < 0) {
        int index = netlink_index(pair->host, card->host_name);
        /* What went wrong first is told. */
        error_ignore(index < 0 ? index : link_delete(pair->host, (unsigned)index));
    }
    return rc;
}

int network_attach_card(const struct network_card *card, int namespace_fd, struct error *err)
{
    AUTO_CLOSE int host = -1;
    AUTO_CLOSE int inside = -1;
    int rc = check_card(card, err);
    if (rc < 0) {
        return rc;
    }
    rc = netlink_open(&host, err);
    rc = rc < 0 ? rc : netlink_open_in(namespace_fd, &inside, err);
    if (rc < 0) {
        return error_prefix(err, rc, "network card %s", card->name);
    }
    struct pair pair = {.host = host, .inside = inside, .namespace_fd = namespace_fd};
    return card->is_macvlan ? attach_macvlan(card, &pair, err) : attach(card, &pair, err);
}

int network_detach_card(const char *host_name, struct error *err)
{
    struct link link;
    AUTO_CLOSE int host = -1;
    int rc = netlink_open(&host, err);
    if (rc < 0) {
        return error_prefix(err, rc, "removing network device '%.40s'", host_name);
    }
    rc = link_find(host, host_name, &link);
    if (rc == -ENODEV) {
        return 0;
    }
    if (rc == 0 && !link_is_kind(&link, "veth")) {
        return error_set(err, EINVAL, "removing network device '%s': it is not one of a pair",
                         host_name);
    }
    rc = rc < 0 ? rc : link_delete(host, link.index);
    return rc < 0 ? error_set_errno(err, -rc, "removing network device '%.40s'", host_name) : 0;
}
