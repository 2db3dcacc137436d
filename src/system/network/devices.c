/* What the host has: addresses of a device, pairs by their names. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/host/file.h"
#include "system/network/link.h"

struct device_addresses {
    unsigned index;
    struct network_address item[NETWORK_MAX_ADDRESSES];
    size_t count;
};

static int keep_address(const struct link_address *found, void *ctx)
{
    struct device_addresses *kept = ctx;
    if (found->index == kept->index && kept->count < NETWORK_MAX_ADDRESSES &&
        !link_is_local_address(&found->local)) {
        kept->item[kept->count++] = found->local;
    }
    return 0;
}

int network_device_addresses(const char *name, struct network_address out[NETWORK_MAX_ADDRESSES],
                             size_t *out_count, struct error *err)
{
    struct device_addresses kept = {0};
    AUTO_CLOSE int fd = -1;
    int rc = netlink_open(&fd, err);
    if (rc < 0) {
        return error_prefix(err, rc, "addresses of '%.40s'", name);
    }
    rc = netlink_index(fd, name);
    if (rc == -ENODEV) {
        return error_set(err, ENODEV, "addresses of '%.40s': the host has no such device", name);
    }
    kept.index = rc < 0 ? 0 : (unsigned)rc;
    rc = rc < 0 ? rc : link_each_address(fd, keep_address, &kept);
    if (rc < 0) {
        return error_set_errno(err, -rc, "addresses of '%.40s': reading them", name);
    }
    memcpy(out, kept.item, sizeof(kept.item));
    *out_count = kept.count;
    return 0;
}

struct names {
    const char *prefix;
    char (*item)[IFNAMSIZ];
    size_t count, room;
};

static int keep_name(const struct link *link, void *ctx)
{
    struct names *names = ctx;
    if (strncmp(link->name, names->prefix, strlen(names->prefix)) != 0) {
        return 0;
    }
    if (names->count == names->room) {
        size_t room = names->room == 0 ? 64 : names->room * 2;
        void *item = reallocarray(names->item, room, sizeof(names->item[0]));
        if (item == NULL) {
            return -ENOMEM;
        }
        names->item = item;
        names->room = room;
    }
    memcpy(names->item[names->count++], link->name, IFNAMSIZ);
    return 0;
}

int network_each_veth(const char *prefix, void (*fn)(const char *name, void *ctx), void *ctx,
                      struct error *err)
{
    struct names names = {.prefix = prefix};
    AUTO_CLOSE int fd = -1;
    int rc = netlink_open(&fd, err);
    if (rc < 0) {
        return error_prefix(err, rc, "reading the host's network devices");
    }
    /* All first, as 'fn' may remove them: a walk through what changes would leave some out. */
    rc = link_each(fd, "veth", 0, keep_name, &names);
    for (size_t i = 0; i < names.count && rc == 0; i++) {
        fn(names.item[i], ctx);
    }
    free(names.item);
    return rc < 0 ? error_set_errno(err, -rc, "reading the host's network devices") : 0;
}
