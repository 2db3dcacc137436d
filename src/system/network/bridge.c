/* Bridges of the host. */
#include <errno.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>

#include "base/host/file.h"
#include "system/network/link.h"

/* One of another's making may go, or come, between a look and the call. */
#define TRIES 3

struct search {
    const struct network_address *address;
    unsigned index;            /* the bridge; 0: it is yet to be made */
    bool has_family;           /* the bridge has one of that family */
    struct link_address other; /* of another device, in the way; index 0: none */
};

static int look_at_address(const struct link_address *found, void *ctx)
{
    struct search *search = ctx;
    if (found->local.family != search->address->family || link_is_local_address(&found->local)) {
        return 0;
    }
    if (search->index != 0 && found->index == search->index) {
        search->has_family = true;
    } else if (network_contains(search->address, &found->network) ||
               network_contains(&found->network, search->address) ||
               network_contains(search->address, &found->local)) {
        search->other = *found;
    }
    return 0;
}

static int name_by_index(const struct link *link, void *ctx)
{
    struct link *wanted = ctx;
    if (link->index != wanted->index) {
        return 0;
    }
    *wanted = *link;
    return 1;
}

static int refuse_overlap(int fd, const char *name, const struct search *search, struct error *err)
{
    char ours[NETWORK_TEXT_SIZE], theirs[NETWORK_TEXT_SIZE];
    struct link other = {.index = search->other.index, .name = "another device"};
    /* Without its name the text is a little poorer. */
    error_ignore(link_each(fd, "", 0, name_by_index, &other));
    network_format(search->address, true, ours);
    network_format(&search->other.local, true, theirs);
    return error_set(err, EEXIST, "bridge %s: the network of %s overlaps that of %s, %s", name,
                     ours, other.name, theirs);
}

/* Has the bridge (index 0: a new one) to be given the address? The socket is of no use after an error. */
static int needs_address(int fd, const char *name, unsigned index,
                         const struct network_address *address, bool *out_needed, struct error *err)
{
    struct search search = {.address = address, .index = index};
    *out_needed = false;
    if (address == NULL) {
        return 0;
    }
    int rc = link_each_address(fd, look_at_address, &search);
    if (rc < 0) {
        return error_set_errno(err, -rc, "bridge %s: reading the host's addresses", name);
    }
    if (search.has_family) {
        return 0;
    }
    *out_needed = true;
    return search.other.index != 0 ? refuse_overlap(fd, name, &search, err) : 0;
}

/* Its hardware address is fixed, as it would be that of some port otherwise, which comes and goes. 0 or -errno. */
static int create(int fd, const char *name)
{
    struct netlink_batch batch;
    uint8_t mac[6];
    if (getrandom(mac, sizeof(mac), 0) != (ssize_t)sizeof(mac)) {
        return -EIO;
    }
    mac[0] = (uint8_t)((mac[0] & 0xfc) | 0x02);
    const struct ifinfomsg up = {
        .ifi_family = AF_UNSPEC, .ifi_flags = IFF_UP, .ifi_change = IFF_UP};
    netlink_clear(&batch);
    netlink_begin(&batch, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &up, sizeof(up));
    netlink_add_text(&batch, IFLA_IFNAME, name);
    netlink_add(&batch, IFLA_ADDRESS, mac, sizeof(mac));
    size_t info = netlink_nest(&batch, IFLA_LINKINFO, NULL, 0);
    netlink_add_text(&batch, IFLA_INFO_KIND, "bridge");
    size_t data = netlink_nest(&batch, IFLA_INFO_DATA, NULL, 0);
    netlink_add_u32(&batch, IFLA_BR_STP_STATE, 0);
    netlink_add_u32(&batch, IFLA_BR_FORWARD_DELAY, 0);
    netlink_unnest(&batch, data);
    netlink_unnest(&batch, info);
    return netlink_call(fd, &batch, NULL, NULL);
}

/* 'out_again': another has made or removed it meanwhile. */
static int try_make(int fd, const char *name, const struct network_address *address,
                    bool *out_is_new, bool *out_again, struct error *err)
{
    struct netlink_batch batch;
    struct link bridge = {0};
    bool needed = false;
    int rc = link_find(fd, name, &bridge);
    bool is_new = rc == -ENODEV;
    if (rc < 0 && !is_new) {
        return error_set_errno(err, -rc, "bridge %s: looking for it", name);
    }
    if (!is_new && !link_is_kind(&bridge, "bridge")) {
        return error_set(err, EEXIST, "bridge %s: the device of that name is no bridge", name);
    }
    rc = needs_address(fd, name, bridge.index, address, &needed, err);
    if (rc < 0) {
        return rc;
    }
    if (is_new) {
        rc = create(fd, name);
        *out_again = rc == -EEXIST;
        rc = rc < 0 ? rc : link_find(fd, name, &bridge);
    }
    if (rc < 0) {
        return error_set_errno(err, -rc, "bridge %s: making it", name);
    }
    netlink_clear(&batch);
    if ((bridge.flags & IFF_UP) == 0) {
        link_put_up(&batch, bridge.index);
    }
    if (needed) {
        link_put_address(&batch, bridge.index, address);
    }
    rc = batch.count == 0 ? 0 : netlink_call(fd, &batch, NULL, NULL);
    /* -EEXIST: the address is there already, by another who makes it at the same time, or as one that is link-local. */
    if (rc < 0 && rc != -EEXIST) {
        *out_again = rc == -ENODEV;
        /* What went wrong first is told. */
        error_ignore(is_new ? link_delete(fd, bridge.index) : 0);
        return error_set_errno(err, -rc, "bridge %s: setting it up with its address", name);
    }
    if (out_is_new != NULL) {
        *out_is_new = is_new;
    }
    return 0;
}

int network_bridge_make(const char *name, const struct network_address *address, bool *out_is_new,
                        struct error *err)
{
    AUTO_CLOSE int fd = -1;
    int rc = link_check_name(name, "bridge", err);
    if (rc < 0) {
        return rc;
    }
    if (address != NULL && address->family != AF_INET && address->family != AF_INET6) {
        return error_set(err, EINVAL, "bridge %s: its address is of no family", name);
    }
    rc = netlink_open(&fd, err);
    if (rc < 0) {
        return error_prefix(err, rc, "bridge %s", name);
    }
    bool again = true;
    for (unsigned i = 0; i < TRIES && again; i++) {
        again = false;
        rc = try_make(fd, name, address, out_is_new, &again, err);
    }
    return rc;
}

static int first_port(const struct link *link, void *ctx)
{
    struct link *out = ctx;
    *out = *link;
    return 1;
}

int network_bridge_remove(const char *name, struct error *err)
{
    struct link bridge, port;
    AUTO_CLOSE int fd = -1;
    int rc = netlink_open(&fd, err);
    if (rc < 0) {
        return error_prefix(err, rc, "bridge '%.40s'", name);
    }
    rc = link_find_bridge(fd, name, &bridge, err);
    if (rc < 0) {
        return rc;
    }
    rc = link_each(fd, "", bridge.index, first_port, &port);
    if (rc == 1) {
        return error_set(err, EBUSY, "bridge %s: device %s is connected to it", name, port.name);
    }
    rc = rc < 0 ? rc : link_delete(fd, bridge.index);
    return rc < 0 ? error_set_errno(err, -rc, "bridge %s: removing it", name) : 0;
}
