/* Addresses of networks that nobody has. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "base/host/file.h"
#include "manager/network/plan.h"
#include "system/network/link.h"

static bool overlaps(const struct network_address *a, const struct network_address *b)
{
    return network_contains(a, b) || network_contains(b, a);
}

struct search {
    const struct network_address *address;
    unsigned own; /* a device that does not count; 0: none */
    char found[NETWORK_TEXT_SIZE];
};

static int look_at_address(const struct link_address *found, void *ctx)
{
    struct search *search = ctx;
    if (search->found[0] == '\0' && found->index != search->own &&
        !link_is_local_address(&found->local) &&
        (overlaps(search->address, &found->network) || overlaps(search->address, &found->local))) {
        network_format(&found->local, true, search->found);
    }
    return 0;
}

/* Routes of the main table but the default one, as /proc says them. */
static int look_at_routes(struct search *search, const char *own, struct error *err)
{
    FILE *file = fopen("/proc/net/route", "re");
    char line[512], device[32];
    if (file == NULL) {
        return errno == ENOENT ? 0 : error_set_errno(err, errno, "reading the host's routes");
    }
    while (search->address->family == AF_INET && search->found[0] == '\0' &&
           fgets(line, sizeof(line), file) != NULL) {
        unsigned target, mask;
        if (sscanf(line, "%31s %x %*x %*x %*u %*u %*u %x", device, &target, &mask) != 3 ||
            mask == 0 || (own != NULL && strcmp(device, own) == 0)) {
            continue;
        }
        struct network_address route = {.family = AF_INET,
                                        .prefix = (unsigned)__builtin_popcount(mask)};
        memcpy(route.bytes, &target,
               4); /* /proc has it in network order, as a number of the host */
        if (overlaps(search->address, &route)) {
            network_format(&route, true, search->found);
        }
    }
    fclose(file);
    return 0;
}

int plan_check_free(const struct network_address *address, const json_t *taken, const char *own,
                    struct error *err)
{
    struct search search = {.address = address};
    char text[NETWORK_TEXT_SIZE];
    network_format(address, true, text);
    size_t i;
    const json_t *value;
    json_array_foreach(taken, i, value)
    {
        struct network_address other;
        const char *name = json_string_value(value);
        if (name != NULL && network_parse(name, 24, false, &other, NULL) == 0 &&
            overlaps(address, &other)) {
            return error_set(err, EEXIST, "%s overlaps with the network of %s", text, name);
        }
    }
    AUTO_CLOSE int fd = -1;
    int rc = netlink_open(&fd, err);
    if (rc == 0) {
        int index = own != NULL ? netlink_index(fd, own) : 0;
        search.own = index > 0 ? (unsigned)index : 0;
        rc = link_each_address(fd, look_at_address, &search);
        rc = rc < 0 ? error_set_errno(err, -rc, "reading the host's addresses") : 0;
    }
    if (rc == 0) {
        rc = look_at_routes(&search, own, err);
    }
    if (rc == 0 && search.found[0] != '\0') {
        rc = error_set(err, EEXIST, "%s overlaps with %s, which the host has", text, search.found);
    }
    return rc;
}

int plan_choose_ipv4(const json_t *taken, unsigned seed, struct network_address *out,
                     struct error *err)
{
    /* 10.X.Y with X from 64 on: what others choose by themselves as a rule lies below. */
    const unsigned count = (256 - 64) * 256;
    for (unsigned i = 0; i < count; i++) {
        unsigned number = (seed + i * 7919) % count; /* a prime that 'count' is no multiple of */
        struct network_address address = {
            .family = AF_INET,
            .prefix = 24,
            .bytes = {10, (uint8_t)(64 + number / 256), (uint8_t)(number % 256), 1}};
        /* hull ct's own (NETWORK_DEFAULT_ADDRESS), which need not be there yet. */
        if (address.bytes[1] == 90 && address.bytes[2] == 0) {
            continue;
        }
        int rc = plan_check_free(&address, taken, NULL, err);
        if (rc == 0) {
            if (err != NULL) {
                *err = (struct error){0};
            }
            *out = address;
            return 0;
        }
        /* A route to all of 10.0.0.0/8 is in the way of each: no need to ask 49152 times. */
        if (rc != -EEXIST || i > 1024) {
            return rc != -EEXIST
                       ? rc
                       : error_set(err, ENOSPC,
                                   "no network of 10.64.0.0 to 10.255.255.0 is free on this host: "
                                   "config.ipv4 names another one");
        }
    }
    return error_set(err, ENOSPC, "no network is free");
}

int plan_choose_ipv6(struct network_address *out, struct error *err)
{
    struct network_address address = {.family = AF_INET6, .prefix = 64};
    if (getrandom(address.bytes + 1, 5, 0) != 5) {
        return error_set_errno(err, errno, "choosing an IPv6 network");
    }
    address.bytes[0] = 0xfd; /* RFC 4193: 40 bits at random, subnet 0 */
    address.bytes[15] = 1;
    *out = address;
    return 0;
}
