#include "agent/cards.h"

#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/program.h"
#include "base/host/file.h"

#define MAX_ADDRESSES 256 /* of one card, that are taken away */

bool card_parse_mac(const char *text, uint8_t out_mac[CARD_MAC_SIZE])
{
    static const char none[CARD_MAC_SIZE];
    uint8_t mac[CARD_MAC_SIZE];
    int used = 0;
    if (strlen(text) != 17 || strspn(text, "0123456789abcdefABCDEF:") != 17 ||
        sscanf(text, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx%n", &mac[0], &mac[1], &mac[2], &mac[3],
               &mac[4], &mac[5], &used) != 6 ||
        used != 17 || (mac[0] & 1) != 0 || memcmp(mac, none, sizeof(mac)) == 0) {
        return false;
    }
    memcpy(out_mac, mac, sizeof(mac));
    return true;
}

static bool find_card(int fd, const uint8_t mac[CARD_MAC_SIZE], char out_name[IFNAMSIZ])
{
    struct if_nameindex *all = if_nameindex();
    bool is_found = false;
    for (size_t i = 0; all != NULL && !is_found && all[i].if_index != 0; i++) {
        struct ifreq request = {0};
        (void)snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", all[i].if_name);
        is_found = ioctl(fd, SIOCGIFHWADDR, &request) == 0 &&
                   request.ifr_hwaddr.sa_family == ARPHRD_ETHER &&
                   memcmp(request.ifr_hwaddr.sa_data, mac, CARD_MAC_SIZE) == 0;
        if (is_found) {
            memcpy(out_name, request.ifr_name, IFNAMSIZ);
        }
    }
    if (all != NULL) {
        if_freenameindex(all);
    }
    return is_found;
}

static int set_flags(int fd, const char *name, short flags, struct error *err)
{
    struct ifreq request = {.ifr_flags = flags};
    (void)snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
    return ioctl(fd, SIOCSIFFLAGS, &request) < 0
               ? error_set_errno(err, errno, "%s: switching it", name)
               : 0;
}

static int set_mac(int fd, const char *name, const uint8_t mac[CARD_MAC_SIZE], struct error *err)
{
    struct ifreq request = {.ifr_hwaddr = {.sa_family = ARPHRD_ETHER}};
    (void)snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
    memcpy(request.ifr_hwaddr.sa_data, mac, CARD_MAC_SIZE);
    return ioctl(fd, SIOCSIFHWADDR, &request) < 0
               ? error_set_errno(err, errno, "%s: giving it another address", name)
               : 0;
}

/* The label of one of its IPv4 addresses: NAME, or NAME:WORD as of old aliases. */
static bool find_label(const char *name, char out_label[IFNAMSIZ])
{
    struct ifaddrs *all;
    size_t length = strlen(name);
    bool is_found = false;
    if (getifaddrs(&all) < 0) {
        return false;
    }
    for (const struct ifaddrs *one = all; one != NULL && !is_found; one = one->ifa_next) {
        is_found = one->ifa_addr != NULL && one->ifa_addr->sa_family == AF_INET &&
                   strncmp(one->ifa_name, name, length) == 0 &&
                   (one->ifa_name[length] == '\0' || one->ifa_name[length] == ':');
        if (is_found) {
            (void)snprintf(out_label, IFNAMSIZ, "%s", one->ifa_name);
        }
    }
    freeifaddrs(all);
    return is_found;
}

/* To set none takes away the first of a label. */
static void flush(int fd, const char *name)
{
    struct ifreq request = {.ifr_addr = {.sa_family = AF_INET}};
    for (unsigned i = 0; i < MAX_ADDRESSES && find_label(name, request.ifr_name); i++) {
        if (ioctl(fd, SIOCSIFADDR, &request) < 0) {
            return;
        }
    }
}

/* Where IPv6 is switched on it begins anew, with an address of the new MAC. */
static void flush_ipv6(const char *name)
{
    char path[128], now = '1';
    (void)snprintf(path, sizeof(path), "/proc/sys/net/ipv6/conf/%s/disable_ipv6", name);
    AUTO_CLOSE int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd >= 0 && pread(fd, &now, 1, 0) == 1 && now == '0' && pwrite(fd, "1", 1, 0) == 1 &&
        pwrite(fd, "0", 1, 0) < 0) {
        return; /* it stays off; the card works without */
    }
}

static int get_flags(int fd, const char *name, short *out_flags, struct error *err)
{
    struct ifreq request = {0};
    (void)snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
    if (ioctl(fd, SIOCGIFFLAGS, &request) < 0) {
        return error_set_errno(err, errno, "%s", name);
    }
    *out_flags = request.ifr_flags;
    return 0;
}

/* One whose driver cannot do so while it is up. */
static int set_mac_of_down(int fd, const char *name, const uint8_t mac[CARD_MAC_SIZE],
                           struct error *err)
{
    short flags = 0;
    struct error late;
    int rc = get_flags(fd, name, &flags, err);
    rc = rc < 0 ? rc : set_flags(fd, name, (short)(flags & ~IFF_UP), err);
    if (rc < 0) {
        return rc;
    }
    rc = set_mac(fd, name, mac, err);
    int up = set_flags(fd, name, flags, &late);
    return rc == 0 && up < 0 ? error_set(err, late.code, "%s", late.text) : rc;
}

int card_change(const struct card_change *change, struct error *err)
{
    AUTO_CLOSE int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    char name[IFNAMSIZ];
    if (fd < 0) {
        return error_set_errno(err, errno, "network cards");
    }
    if (!find_card(fd, change->from, name)) {
        return error_set(err, ENODEV, "there is no card with the MAC of the old instance");
    }
    flush(fd, name);
    int rc = set_mac(fd, name, change->to, err);
    rc = rc == -EBUSY ? set_mac_of_down(fd, name, change->to, err) : rc;
    if (rc == 0) {
        flush_ipv6(name);
    }
    return rc;
}

/* Whatever looks after the card: networkd, ifupdown, or a DHCP client alone. */
void card_configure_again(const struct card_change *change)
{
    static const char script[] =
        "networkctl reconfigure \"$1\" || ifup --force \"$1\" || dhclient \"$1\" || "
        "udhcpc -q -n -i \"$1\"";
    AUTO_CLOSE int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    char name[IFNAMSIZ];
    short flags = 0;
    if (fd >= 0 && find_card(fd, change->to, name) && get_flags(fd, name, &flags, NULL) == 0 &&
        (flags & IFF_UP) != 0) {
        const char *const command[] = {"/bin/sh", "-c", script, "sh", name, NULL};
        program_run_behind(command);
    }
}
