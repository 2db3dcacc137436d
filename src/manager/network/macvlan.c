/* Interfaces of VMs on one of the host's: macvtap. */
#include <errno.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/host/file.h"
#include "manager/network/state.h"
#include "system/network/macvlan.h"

int net_macvlan_check(const char *parent, struct error *err)
{
    AUTO_CLOSE int fd = -1;
    struct link link;
    int rc = netlink_open(&fd, err);
    return rc < 0 ? rc : macvlan_find_parent(fd, parent, &link, err);
}

int net_macvtap_make(const char *name, const char *parent, const char *mac, struct error *err)
{
    AUTO_CLOSE int fd = -1;
    struct link own, link;
    uint8_t address[6];
    int rc = netlink_open(&fd, err);
    if (rc == 0) {
        rc = macvlan_find_parent(fd, parent, &link, err);
    }
    if (rc < 0) {
        return rc;
    }
    /* It was checked. */
    (void)sscanf(mac, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx", &address[0], &address[1], &address[2],
                 &address[3], &address[4], &address[5]);
    rc = link_find(fd, name, &own);
    if (rc == 0 && !link_is_kind(&own, "macvtap")) {
        return error_set(err, EEXIST, "interface %s: the device of that name is no macvtap", name);
    }
    /* One that was left there may have another address, or parent. */
    if (rc == 0) {
        rc = link_delete(fd, own.index);
    }
    if (rc == 0 || rc == -ENODEV) {
        const struct macvlan_card card = {
            .kind = "macvtap", .name = name, .parent = link.index, .mac = address, .is_up = true};
        rc = macvlan_make(fd, &card);
    }
    return rc < 0 ? error_set_errno(err, -rc, "interface %s: making it on %s", name, parent) : 0;
}
