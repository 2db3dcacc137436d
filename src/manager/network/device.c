/* Interfaces of the host, and its switches. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/host/file.h"
#include "manager/network/state.h"
#include "system/network/link.h"

static int make_persistent(const char *name, struct error *err)
{
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
    AUTO_CLOSE int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        return error_set_errno(err, errno, "opening /dev/net/tun");
    }
    if (ioctl(fd, TUNSETIFF, &request) < 0) {
        return error_set_errno(err, errno, "interface %s", name);
    }
    if (ioctl(fd, TUNSETOWNER, (unsigned long)geteuid()) < 0 || ioctl(fd, TUNSETPERSIST, 1ul) < 0) {
        return error_set_errno(err, errno, "interface %s: making it last", name);
    }
    return 0;
}

/* Up, and a port of the bridge. */
static int connect_port(int fd, unsigned index, unsigned bridge)
{
    struct netlink_batch batch;
    const struct ifinfomsg up = {.ifi_family = AF_UNSPEC,
                                 .ifi_index = (int)index,
                                 .ifi_flags = IFF_UP,
                                 .ifi_change = IFF_UP};
    netlink_clear(&batch);
    netlink_begin(&batch, RTM_NEWLINK, 0, &up, sizeof(up));
    netlink_add_u32(&batch, IFLA_MASTER, bridge);
    return netlink_call(fd, &batch, NULL, NULL);
}

int net_tap_make(const char *name, const char *bridge, struct error *err)
{
    struct link master, tap;
    AUTO_CLOSE int fd = -1;
    int rc = netlink_open(&fd, err);
    if (rc == 0) {
        rc = link_find_bridge(fd, bridge, &master, err);
    }
    if (rc < 0) {
        return rc;
    }
    rc = link_find(fd, name, &tap);
    bool is_new = rc == -ENODEV;
    if (is_new) {
        rc = make_persistent(name, err);
        if (rc < 0) {
            return rc;
        }
        rc = link_find(fd, name, &tap);
    }
    if (rc == 0 && !is_new && !link_is_kind(&tap, "tun")) {
        return error_set(err, EEXIST, "interface %s: the device of that name is no tap", name);
    }
    if (rc == 0 && (tap.master != master.index || (tap.flags & IFF_UP) == 0)) {
        rc = connect_port(fd, tap.index, master.index);
    }
    if (rc < 0 && is_new) {
        error_ignore(net_tap_remove(name, NULL)); /* what went wrong first is told */
    }
    return rc < 0 ? error_set_errno(err, -rc, "interface %s: connecting it to %s", name, bridge)
                  : 0;
}

int net_tap_remove(const char *name, struct error *err)
{
    struct link tap;
    AUTO_CLOSE int fd = -1;
    int rc = netlink_open(&fd, err);
    if (rc < 0) {
        return rc;
    }
    rc = link_find(fd, name, &tap);
    if (rc == 0) {
        rc = link_is_kind(&tap, "tun") || link_is_kind(&tap, "macvtap") ? link_delete(fd, tap.index)
                                                                        : -EINVAL;
    }
    return rc < 0 && rc != -ENODEV ? error_set_errno(err, -rc, "interface %s: removing it", name)
                                   : 0;
}

int net_sysctl(const char *path, const char *value, bool *out_was_set, struct error *err)
{
    char full[256], now[32] = "";
    snprintf(full, sizeof(full), "/proc/sys/%s", path);
    AUTO_CLOSE int fd = open(full, O_RDWR | O_CLOEXEC);
    ssize_t size = fd >= 0 ? read(fd, now, sizeof(now) - 1) : -1;
    if (size < 0) {
        return error_set_errno(err, errno, "reading %s", full);
    }
    now[strcspn(now, "\n")] = '\0';
    if (strcmp(now, value) == 0) {
        return 0;
    }
    if (pwrite(fd, value, strlen(value), 0) < 0) {
        return error_set_errno(err, errno, "setting %s to %s", full, value);
    }
    if (out_was_set != NULL) {
        *out_was_set = true;
    }
    return 0;
}

int net_forward_ipv6(bool *out_was_set, struct error *err)
{
    char now[8] = "";
    AUTO_CLOSE int fd = open("/proc/sys/net/ipv6/conf/all/forwarding", O_RDONLY | O_CLOEXEC);
    if (fd < 0 || read(fd, now, sizeof(now) - 1) < 0) {
        return error_set_errno(err, errno, "reading net/ipv6/conf/all/forwarding");
    }
    DIR *folder = now[0] == '0' ? opendir("/proc/sys/net/ipv6/conf") : NULL;
    for (struct dirent *entry; folder != NULL && (entry = readdir(folder)) != NULL;) {
        char path[300], value[8] = "";
        snprintf(path, sizeof(path), "/proc/sys/net/ipv6/conf/%s/accept_ra", entry->d_name);
        AUTO_CLOSE int one = open(path, O_RDWR | O_CLOEXEC);
        if (one >= 0 && read(one, value, sizeof(value) - 1) > 0 && value[0] == '1') {
            (void)!pwrite(one, "2", 1, 0); /* an interface that goes away meanwhile */
        }
    }
    if (folder != NULL) {
        closedir(folder);
    }
    return net_sysctl("net/ipv6/conf/all/forwarding", "1", out_was_set, err);
}
