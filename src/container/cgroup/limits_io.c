/* Limits of block and network I/O, of RDMA, and files of v2 by their names. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/host/file.h"
#include "container/cgroup/limits.h"
#include "container/cgroup/tree.h"

#define FIELD_WEIGHT        LIMIT_FIELD("blockIO.weight")
#define FIELD_WEIGHT_DEVICE LIMIT_FIELD("blockIO.weightDevice")
#define FIELD_LEAF          LIMIT_FIELD("blockIO.leafWeight")
#define FIELD_LEAF_DEVICE   LIMIT_FIELD("blockIO.weightDevice.leafWeight")
#define FIELD_UNIFIED       LIMIT_FIELD("unified")
#define WEIGHT_MIN          10
#define WEIGHT_MAX          1000
#define UNIFIED_MAX_NAME    128

uint64_t limit_io_weight(uint64_t weight)
{
    if (weight <= WEIGHT_MIN) {
        return 1;
    }
    return weight >= WEIGHT_MAX ? 10000
                                : 1 + (weight - WEIGHT_MIN) * 9999 / (WEIGHT_MAX - WEIGHT_MIN);
}

/* Throttles of v1 and their keys in io.max of v2. */
static const struct {
    const char *field, *v1_file, *v2_key;
    size_t offset; /* of struct spec_block_limits in struct spec_resources */
} throttles[] = {
    {LIMIT_FIELD("blockIO.throttleReadBpsDevice"), "blkio.throttle.read_bps_device", "rbps",
     offsetof(struct spec_resources, block_io.read_bps)},
    {LIMIT_FIELD("blockIO.throttleWriteBpsDevice"), "blkio.throttle.write_bps_device", "wbps",
     offsetof(struct spec_resources, block_io.write_bps)},
    {LIMIT_FIELD("blockIO.throttleReadIOPSDevice"), "blkio.throttle.read_iops_device", "riops",
     offsetof(struct spec_resources, block_io.read_iops)},
    {LIMIT_FIELD("blockIO.throttleWriteIOPSDevice"), "blkio.throttle.write_iops_device", "wiops",
     offsetof(struct spec_resources, block_io.write_iops)},
};

static int set_throttle(struct limits *limits, size_t kind, const struct spec_block_limit *limit)
{
    const char *field = throttles[kind].field;
    if (!limits->is_unified) {
        return limit_write(limits, field, throttles[kind].v1_file, "%u:%u %" PRIu64, limit->major,
                           limit->minor, limit->value);
    }
    if (limit->value == 0) { /* none, as v1 has it */
        return limit_write(limits, field, "io.max", "%u:%u %s=max", limit->major, limit->minor,
                           throttles[kind].v2_key);
    }
    return limit_write(limits, field, "io.max", "%u:%u %s=%" PRIu64, limit->major, limit->minor,
                       throttles[kind].v2_key, limit->value);
}

static int set_throttles(struct limits *limits)
{
    for (size_t kind = 0; kind < ARRAY_COUNT(throttles); kind++) {
        const struct spec_block_limits *list =
            (const void *)((const char *)limits->resources + throttles[kind].offset);
        for (size_t i = 0; i < list->count; i++) {
            int rc = set_throttle(limits, kind, &list->item[i]);
            if (rc < 0) {
                return rc;
            }
        }
    }
    return 0;
}

/* What only the CFQ scheduler of old kernels knew. */
static void tell_leaf_weights(struct limits *limits)
{
    if (is_given_u64(limits->resources->block_io.leaf_weight)) {
        degrade_add(limits->degrade, FIELD_LEAF, "the kernel has no leaf weights");
    }
    for (size_t i = 0; i < limits->resources->block_io.weights.count; i++) {
        if (limits->resources->block_io.weights.item[i].leaf_weight > 0) {
            degrade_add(limits->degrade, FIELD_LEAF_DEVICE, "the kernel has no leaf weights");
            return;
        }
    }
}

int limit_block_io_v1(struct limits *limits)
{
    const struct spec_resources *resources = limits->resources;
    bool has_bfq = limit_has_file(limits, "blkio.bfq.weight");
    int rc = 0;
    if (is_given_u64(resources->block_io.weight)) {
        rc = limit_write(limits, FIELD_WEIGHT, has_bfq ? "blkio.bfq.weight" : "blkio.weight",
                         "%" PRIu64, resources->block_io.weight.value);
    }
    bool has_leaves = limit_has_file(limits, "blkio.leaf_weight");
    if (rc == 0 && has_leaves && is_given_u64(resources->block_io.leaf_weight)) {
        rc = limit_write(limits, FIELD_LEAF, "blkio.leaf_weight", "%" PRIu64,
                         resources->block_io.leaf_weight.value);
    }
    for (size_t i = 0; rc == 0 && i < resources->block_io.weights.count; i++) {
        const struct spec_block_limit *limit = &resources->block_io.weights.item[i];
        if (limit->value > 0) {
            rc = limit_write(limits, FIELD_WEIGHT_DEVICE,
                             has_bfq ? "blkio.bfq.weight_device" : "blkio.weight_device",
                             "%u:%u %" PRIu64, limit->major, limit->minor, limit->value);
        }
        if (rc == 0 && has_leaves && limit->leaf_weight > 0) {
            rc = limit_write(limits, FIELD_LEAF_DEVICE, "blkio.leaf_weight_device",
                             "%u:%u %" PRIu64, limit->major, limit->minor, limit->leaf_weight);
        }
    }
    if (!has_leaves) {
        tell_leaf_weights(limits);
    }
    return rc < 0 ? rc : set_throttles(limits);
}

int limit_block_io_v2(struct limits *limits)
{
    const struct spec_resources *resources = limits->resources;
    bool has_bfq = limit_has_file(limits, "io.bfq.weight");
    int rc = 0;
    if (is_given_u64(resources->block_io.weight)) {
        uint64_t weight = resources->block_io.weight.value;
        rc = has_bfq ? limit_write(limits, FIELD_WEIGHT, "io.bfq.weight", "%" PRIu64, weight)
                     : limit_write(limits, FIELD_WEIGHT, "io.weight", "default %" PRIu64,
                                   limit_io_weight(weight));
    }
    for (size_t i = 0; rc == 0 && i < resources->block_io.weights.count; i++) {
        const struct spec_block_limit *limit = &resources->block_io.weights.item[i];
        if (limit->value == 0) {
            continue;
        }
        rc = limit_write(limits, FIELD_WEIGHT_DEVICE, has_bfq ? "io.bfq.weight" : "io.weight",
                         "%u:%u %" PRIu64, limit->major, limit->minor,
                         has_bfq ? limit->value : limit_io_weight(limit->value));
    }
    tell_leaf_weights(limits);
    return rc < 0 ? rc : set_throttles(limits);
}

int limit_rdma(struct limits *limits)
{
    for (size_t i = 0; i < limits->resources->rdma_count; i++) {
        const struct spec_rdma_limit *limit = &limits->resources->rdma[i];
        char handles[40] = "", objects[40] = "";
        if (strpbrk(limit->device, " \n") != NULL) {
            return error_set(limits->err, EINVAL,
                             LIMIT_FIELD("rdma") ": device \"%.64s\" has spaces", limit->device);
        }
        if (limit->handles.has) {
            (void)snprintf(handles, sizeof(handles), " hca_handle=%" PRIu64, limit->handles.value);
        }
        if (limit->objects.has) {
            (void)snprintf(objects, sizeof(objects), " hca_object=%" PRIu64, limit->objects.value);
        }
        int rc = limit_write(limits, LIMIT_FIELD("rdma"), "rdma.max", "%.64s%s%s", limit->device,
                             handles, objects);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

int limit_net_cls(struct limits *limits)
{
    struct spec_u64 id = limits->resources->network.class_id;
    return id.has ? limit_write(limits, LIMIT_FIELD("network.classID"), "net_cls.classid",
                                "%" PRIu64, id.value)
                  : 0;
}

int limit_net_prio(struct limits *limits)
{
    for (size_t i = 0; i < limits->resources->network.priority_count; i++) {
        const struct spec_network_priority *priority = &limits->resources->network.priorities[i];
        int rc = limit_write(limits, LIMIT_FIELD("network.priorities"), "net_prio.ifpriomap",
                             "%.64s %u", priority->name, priority->priority);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

/* Line by line, as the kernel takes one device in each write. */
static int write_lines(struct limits *limits, const struct spec_pair *pair)
{
    AUTO_FREE char *text = strdup(pair->value);
    if (text == NULL) {
        return error_set(limits->err, ENOMEM, "no memory for %s", FIELD_UNIFIED);
    }
    char *rest = NULL;
    for (char *line = strtok_r(text, "\n", &rest); line != NULL;
         line = strtok_r(NULL, "\n", &rest)) {
        int rc = control_write(limits->fd, pair->name, line);
        if (rc == -ENOENT) {
            return error_set(limits->err, ENOENT,
                             FIELD_UNIFIED
                             ".%s: cgroup v2 gives no such file to the container: "
                             "controller \"%.*s\" is not present or cannot be enabled",
                             pair->name, (int)strcspn(pair->name, "."), pair->name);
        }
        if (rc < 0) {
            return error_set_errno(limits->err, -rc,
                                   FIELD_UNIFIED ".%s: writing \"%.64s\" to group /%s", pair->name,
                                   line, limits->path);
        }
    }
    return 0;
}

/* Errors are the specification's wish: what is named by its file is not converted, and not left away. */
int limit_unified(struct limits *limits)
{
    for (size_t i = 0; i < limits->resources->unified.count; i++) {
        const struct spec_pair *pair = &limits->resources->unified.item[i];
        if (strchr(pair->name, '/') != NULL || strchr(pair->name, '.') == NULL ||
            *pair->name == '.' || strlen(pair->name) > UNIFIED_MAX_NAME) {
            return error_set(limits->err, EINVAL,
                             FIELD_UNIFIED ": \"%.64s\" is not the name of a file of cgroup v2",
                             pair->name);
        }
        if (limits->fd < 0) {
            if (limits->cgroup->is_rootless || limits->cgroup->count == 0) {
                degrade_add(limits->degrade, FIELD_UNIFIED,
                            "the container has no group of cgroup v2");
                return 0;
            }
            return error_set(limits->err, EOPNOTSUPP,
                             FIELD_UNIFIED ".%s: this host has no cgroup v2", pair->name);
        }
        int rc = write_lines(limits, pair);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}
