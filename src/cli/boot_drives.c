/* The options of `hull boot` that have options of their own: --net and --vsock; --disk is in boot_disk.c. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/core/size.h"
#include "base/host/file.h"
#include "cli/boot_options.h"

#define PCI_SLOTS 32

bool boot_next_key(char **rest, char **out_key, char **out_value)
{
    if (*rest == NULL || **rest == '\0') {
        return false;
    }
    char *key = strsep(rest, ",");
    char *equals = strchr(key, '=');
    *out_key = key;
    *out_value = equals;
    if (equals != NULL) {
        *equals = '\0';
        *out_value = equals + 1;
    }
    return true;
}

int boot_unknown_key(const char *key, const char *words, struct error *err)
{
    char hint[40];
    if (nearest_word(key, words, hint, sizeof(hint)) != NULL) {
        return error_set(err, EINVAL, "key '%s' is unknown: did you mean %s?", key, hint);
    }
    return error_set(err, EINVAL, "key '%s' is unknown: %s", key, words);
}

int boot_place_key(struct boot_place *place, const char *key, const char *value, unsigned count,
                   struct error *err)
{
    const char *text = value != NULL ? value : "";
    uint64_t number = 0;
    int rc = 0;
    if (strcmp(key, "id") == 0) {
        place->id = text;
        return text[0] != '\0' && strlen(text) <= 64
                   ? 0
                   : error_set(err, EINVAL, "id '%s' is no name: 1 to 64 characters", text);
    }
    if (strcmp(key, "slot") == 0) {
        rc = number_parse(text, 1, PCI_SLOTS - 1, &number, err);
        place->slot = (unsigned)number;
    } else if (strcmp(key, "index") == 0) {
        rc = number_parse(text, 0, count - 1, &number, err);
        place->index = (unsigned)number;
        place->has_index = true;
    } else {
        return -ENOENT;
    }
    return rc < 0 ? error_prefix(err, rc, "%s", key) : 0;
}

static int parse_mac(const char *text, uint8_t *out_mac, struct error *err)
{
    static const char accepted[] =
        "six hexadecimal bytes of a single card, as in 52:54:00:12:34:56";
    uint8_t mac[6];
    const char *at = text;
    for (int i = 0; i < 6; i++) {
        char *end;
        unsigned long byte = strtoul(at, &end, 16);
        if (end == at || end - at > 2 || *at == '-' || *at == '+' || *end != (i < 5 ? ':' : '\0')) {
            return error_set(err, EINVAL, "mac '%s' is no address: %s", text, accepted);
        }
        mac[i] = (uint8_t)byte;
        at = end + 1;
    }
    if ((mac[0] & 1) != 0) {
        return error_set(err, EINVAL, "mac '%s' is a group address: %s", text, accepted);
    }
    memcpy(out_mac, mac, sizeof(mac));
    return 0;
}

/* A port number at '*at', moved behind it. */
static bool skip_port(const char **at)
{
    char *end;
    if (**at < '0' || **at > '9') {
        return false;
    }
    unsigned long port = strtoul(*at, &end, 10);
    *at = end;
    return port >= 1 && port <= 65535;
}

/* Behind an address, which may be empty; one of IPv6 stands in brackets. */
static const char *skip_address(const char *at)
{
    return *at == '[' ? at + strcspn(at, "]") : at + strcspn(at, ":-");
}

/* (tcp|udp):[ADDR]:PORT-[GUEST]:PORT; the helper that uses it looks at the addresses. */
static bool hostfwd_is_sound(const char *text)
{
    if (strncmp(text, "tcp:", 4) != 0 && strncmp(text, "udp:", 4) != 0) {
        return false;
    }
    const char *at = text + 4;
    at = skip_address(at);
    at += *at == ']';
    if (*at++ != ':' || !skip_port(&at) || *at++ != '-') {
        return false;
    }
    at = skip_address(at);
    at += *at == ']';
    return *at++ == ':' && skip_port(&at) && *at == '\0';
}

static int net_key(struct boot_net *net, const char *key, const char *value, struct error *err)
{
    int rc = boot_place_key(&net->place, key, value, BOOT_MAX_NETS, err);
    if (rc != -ENOENT) {
        return rc;
    }
    if (strcmp(key, "mac") == 0) {
        net->has_mac = true;
        return parse_mac(value != NULL ? value : "", net->mac, err);
    }
    bool is_switch = net->kind == BOOT_NET_SWITCH;
    if (strcmp(key, "hostfwd") == 0 && (net->kind == BOOT_NET_USER || is_switch)) {
        if (value == NULL || !hostfwd_is_sound(value)) {
            return error_set(
                err, EINVAL,
                "hostfwd '%s' is no rule: tcp:ADDR:PORT-:GUESTPORT, as in tcp:127.0.0.1:2222-:22",
                value != NULL ? value : "");
        }
        if (net->hostfwd_count == BOOT_MAX_HOSTFWDS) {
            return error_set(err, E2BIG, "too many hostfwd rules: at most %d", BOOT_MAX_HOSTFWDS);
        }
        net->hostfwd[net->hostfwd_count++] = value;
        return 0;
    }
    if (strcmp(key, "restrict") == 0 && value == NULL && net->kind == BOOT_NET_USER) {
        net->is_restricted = true;
        return 0;
    }
    if (is_switch && value != NULL && strcmp(key, "name") == 0) {
        net->port_name = value;
        return 0;
    }
    if (is_switch && value != NULL && strcmp(key, "ipv4") == 0) {
        net->ipv4 = value;
        return 0;
    }
    if (is_switch && value != NULL && strcmp(key, "ipv6") == 0) {
        net->ipv6 = value;
        return 0;
    }
    if (is_switch && value != NULL && strcmp(key, "spoofing") == 0) {
        net->may_spoof = strcmp(value, "allow") == 0;
        return net->may_spoof || strcmp(value, "deny") == 0
                   ? 0
                   : error_set(err, EINVAL, "spoofing '%s': allow or deny", value);
    }
    return boot_unknown_key(key,
                            net->kind == BOOT_NET_USER ? "hostfwd|restrict|mac|id|slot|index"
                            : is_switch ? "hostfwd|ipv4|ipv6|mac|name|spoofing|id|slot|index"
                                        : "mac|id|slot|index",
                            err);
}

/* An interface's name as the kernel takes it (IFNAMSIZ is 16). */
static bool ifname_is_sound(const char *name)
{
    size_t length = strlen(name);
    return length > 0 && length < 16 && strpbrk(name, "/ :%\t\n") == NULL;
}

static int net_kind(struct boot_net *net, const char *kind, const char *value, struct error *err)
{
    if (strcmp(kind, "user") == 0 && value == NULL) {
        net->kind = BOOT_NET_USER;
    } else if (strcmp(kind, "passt") == 0 && value == NULL) {
        net->kind = BOOT_NET_PASST;
    } else if (strcmp(kind, "tap") == 0 || strcmp(kind, "macvtap") == 0) {
        if (value == NULL || !ifname_is_sound(value)) {
            return error_set(err, EINVAL, "'%s' is no interface: %s=IFNAME, of 1 to 15 characters",
                             value != NULL ? value : "", kind);
        }
        net->kind = kind[0] == 't' ? BOOT_NET_TAP : BOOT_NET_MACVTAP;
        net->tap = value;
    } else if (strcmp(kind, "switch") == 0 && value != NULL && value[0] != '\0') {
        net->kind = BOOT_NET_SWITCH;
        net->path = value;
    } else {
        return error_set(
            err, EINVAL,
            "'%s' is no network: user, passt, tap=IFNAME, macvtap=IFNAME, switch=PATH or none",
            kind);
    }
    return 0;
}

int boot_parse_net(void *into, const char *value, struct error *err)
{
    struct boot_options *options = into;
    if (strcmp(value, "none") == 0) {
        options->has_no_net = true;
        return 0;
    }
    if (options->net_count == BOOT_MAX_NETS) {
        return error_set(err, E2BIG, "too many cards: at most %d", BOOT_MAX_NETS);
    }
    AUTO_FREE char *text = strdup(value);
    if (text == NULL) {
        return error_set_errno(err, ENOMEM, "reading the option");
    }
    char *rest = text;
    char *key = text;
    char *key_value = NULL;
    struct boot_net net = {0};
    (void)boot_next_key(&rest, &key, &key_value); /* an empty text stays an empty kind */
    int rc = net_kind(&net, key, key_value, err);
    while (rc == 0 && boot_next_key(&rest, &key, &key_value)) {
        rc = net_key(&net, key, key_value, err);
    }
    if (rc < 0) {
        return rc;
    }
    net.text = TAKE_PTR(text);
    options->net[options->net_count++] = net;
    return 0;
}

int boot_parse_vsock(void *into, const char *value, struct error *err)
{
    struct boot_options *options = into;
    AUTO_FREE char *text = strdup(value);
    if (text == NULL) {
        return error_set_errno(err, ENOMEM, "reading the option");
    }
    AUTO_FREE char *dir = NULL;
    uint64_t cid = 0;
    char *rest = text;
    char *key;
    char *key_value;
    while (boot_next_key(&rest, &key, &key_value)) {
        if (strcmp(key, "cid") == 0 && key_value != NULL) {
            /* 0 to 2 and the all-ones value have meanings of their own: vsock(7). */
            int rc = number_parse(key_value, 3, 0xfffffffeu, &cid, err);
            if (rc < 0) {
                return error_prefix(err, rc, "cid");
            }
        } else if (strcmp(key, "dir") == 0 && key_value != NULL && key_value[0] != '\0') {
            free(dir);
            dir = strdup(key_value);
        } else {
            return boot_unknown_key(key, "cid|dir", err);
        }
    }
    if (cid == 0 || dir == NULL) {
        return error_set(err, EINVAL, "'%s' is not complete: cid=N,dir=DIR", value);
    }
    free(options->vsock_dir);
    options->vsock_dir = TAKE_PTR(dir);
    options->vsock_cid = (uint32_t)cid;
    return 0;
}
