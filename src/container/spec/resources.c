/* linux.resources: the limits of control groups. What a host's controllers take of them is told by the room that writes them. */
#include <string.h>

#include "container/spec/read.h"

#define AT(member) offsetof(struct spec_resources, member)
#define MAX_MAJOR  ((1u << 12) - 1) /* of the kernel's dev_t */
#define MAX_MINOR  ((1u << 20) - 1)

static int read_rule_type(struct reader *reader, const struct node *node, const struct field *field,
                          void *out)
{
    int rc = read_expect(reader, node, NODE_STRING);
    if (rc == 0 &&
        (node->length > 1 || (node->length == 1 && strchr("abc", *node->string) == NULL))) {
        rc = reader_fail(reader, node, NULL, "'%.*s' is not one of a, c, b",
                         (int)MIN(node->length, 40u), node->string);
    }
    if (rc == 0 && node->length == 1) {
        *(char *)out = *node->string;
    }
    return rc;
}

static int read_access(struct reader *reader, const struct node *node, const struct field *unused,
                       void *out)
{
    struct spec_device_rule *rule = out;
    int rc = read_expect(reader, node, NODE_STRING);
    for (uint32_t i = 0; rc == 0 && i < node->length; i++) {
        char c = node->string[i];
        rule->can_read |= c == 'r';
        rule->can_write |= c == 'w';
        rule->can_mknod |= c == 'm';
        if (c == '\0' || strchr("rwm", c) == NULL) {
            rc = reader_fail(reader, node, NULL, "'%.*s' must be made of r, w and m",
                             (int)MIN(node->length, 40u), node->string);
        }
    }
    return rc;
}

static int read_rule(struct reader *reader, const struct node *node, const struct field *unused,
                     void *out)
{
#define RULE(member) offsetof(struct spec_device_rule, member)
    static const struct field fields[] = {
        {"allow", read_bool, RULE(is_allowed), true},
        {"type", read_rule_type, RULE(type)},
        {"major", read_i64, RULE(major), false, -1, MAX_MAJOR},
        {"minor", read_i64, RULE(minor), false, -1, MAX_MINOR},
        {"access", read_access, 0},
    };
    struct spec_device_rule *rule = out;
    *rule = (struct spec_device_rule){.type = 'a', .major = -1, .minor = -1};
    int rc = read_object(reader, node, fields, ARRAY_COUNT(fields), rule);
    if (rc == 0 && !rule->can_read && !rule->can_write && !rule->can_mknod) {
        /* The specification has no default: nothing more is allowed, and nothing less denied. */
        rule->can_read = rule->can_write = rule->can_mknod = !rule->is_allowed;
    }
    return rc;
}

static int read_rules(struct reader *reader, const struct node *node, const struct field *field,
                      void *out)
{
    struct spec_resources *resources = (struct spec_resources *)((char *)out - field->offset);
    return read_elements(reader, node, NODE_LIST, sizeof(struct spec_device_rule), read_rule,
                         (const void **)&resources->devices, &resources->device_count);
}

static int read_memory(struct reader *reader, const struct node *node, const struct field *unused,
                       void *out)
{
    static const struct field fields[] = {
        {"limit", read_spec_i64, AT(memory.limit), false, -1, INT64_MAX},
        {"reservation", read_spec_i64, AT(memory.reservation), false, -1, INT64_MAX},
        {"swap", read_spec_i64, AT(memory.swap), false, -1, INT64_MAX},
        {"kernel", read_spec_i64, AT(memory.kernel), false, -1, INT64_MAX},
        {"kernelTCP", read_spec_i64, AT(memory.kernel_tcp), false, -1, INT64_MAX},
        {"swappiness", read_spec_u64, AT(memory.swappiness), false, 0, 100},
        {"disableOOMKiller", read_spec_bool, AT(memory.disables_oom_killer)},
        {"useHierarchy", read_spec_bool, AT(memory.uses_hierarchy)},
        {"checkBeforeUpdate", read_spec_bool, AT(memory.checks_before_update)},
    };
    struct spec_resources *resources = out;
    int rc = read_object(reader, node, fields, ARRAY_COUNT(fields), resources);
    int64_t limit = resources->memory.limit.value, swap = resources->memory.swap.value;
    if (rc == 0 && limit > 0 && swap > 0 && swap < limit) {
        rc = reader_fail(reader, node, "swap",
                         "is memory and swap together, so not less than 'limit'");
    }
    return rc;
}

static int read_cpu(struct reader *reader, const struct node *node, const struct field *unused,
                    void *out)
{
    static const struct field fields[] = {
        {"shares", read_spec_u64, AT(cpu.shares)},
        {"quota", read_spec_i64, AT(cpu.quota_us), false, -1, INT64_MAX},
        {"burst", read_spec_u64, AT(cpu.burst_us)},
        {"period", read_spec_u64, AT(cpu.period_us)},
        {"realtimeRuntime", read_spec_i64, AT(cpu.realtime_runtime_us), false, -1, INT64_MAX},
        {"realtimePeriod", read_spec_u64, AT(cpu.realtime_period_us)},
        {"cpus", read_number_list, AT(cpu.cpus)},
        {"mems", read_number_list, AT(cpu.mems)},
        {"idle", read_spec_i64, AT(cpu.idle), false, 0, 1},
    };
    struct spec_resources *resources = out;
    int rc = read_object(reader, node, fields, ARRAY_COUNT(fields), resources);
    int64_t quota = resources->cpu.quota_us.value;
    if (rc == 0 && quota > 0 && resources->cpu.burst_us.value > (uint64_t)quota) {
        rc = reader_fail(reader, node, "burst", "must not be larger than 'quota'");
    }
    return rc;
}

static int read_pids(struct reader *reader, const struct node *node, const struct field *unused,
                     void *out)
{
    static const struct field fields[] = {
        {"limit", read_spec_i64, AT(pids_limit), false, -1, INT64_MAX},
    };
    return read_object(reader, node, fields, ARRAY_COUNT(fields), out);
}

#define LIMIT(member) offsetof(struct spec_block_limit, member)

static int read_throttle(struct reader *reader, const struct node *node, const struct field *unused,
                         void *out)
{
    static const struct field fields[] = {
        {"major", read_u32, LIMIT(major), true, 0, MAX_MAJOR},
        {"minor", read_u32, LIMIT(minor), true, 0, MAX_MINOR},
        {"rate", read_u64, LIMIT(value), true},
    };
    return read_object(reader, node, fields, ARRAY_COUNT(fields), out);
}

static int read_weight(struct reader *reader, const struct node *node, const struct field *unused,
                       void *out)
{
    static const struct field fields[] = {
        {"major", read_u32, LIMIT(major), true, 0, MAX_MAJOR},
        {"minor", read_u32, LIMIT(minor), true, 0, MAX_MINOR},
        {"weight", read_u64, LIMIT(value), false, 0, UINT16_MAX},
        {"leafWeight", read_u64, LIMIT(leaf_weight), false, 0, UINT16_MAX},
    };
    int rc = read_object(reader, node, fields, ARRAY_COUNT(fields), out);
    if (rc == 0 && node_find(node, "weight") == NULL && node_find(node, "leafWeight") == NULL) {
        rc = reader_fail(reader, node, NULL, "weight or leafWeight must be given");
    }
    return rc;
}

static int read_block_limits(struct reader *reader, const struct node *node,
                             const struct field *field, void *out)
{
    struct spec_block_limits *limits = out;
    read_fn read = field->offset == AT(block_io.weights) ? read_weight : read_throttle;
    return read_elements(reader, node, NODE_LIST, sizeof(struct spec_block_limit), read,
                         (const void **)&limits->item, &limits->count);
}

static int read_block_io(struct reader *reader, const struct node *node, const struct field *unused,
                         void *out)
{
    static const struct field fields[] = {
        {"weight", read_spec_u64, AT(block_io.weight), false, 0, UINT16_MAX},
        {"leafWeight", read_spec_u64, AT(block_io.leaf_weight), false, 0, UINT16_MAX},
        {"weightDevice", read_block_limits, AT(block_io.weights)},
        {"throttleReadBpsDevice", read_block_limits, AT(block_io.read_bps)},
        {"throttleWriteBpsDevice", read_block_limits, AT(block_io.write_bps)},
        {"throttleReadIOPSDevice", read_block_limits, AT(block_io.read_iops)},
        {"throttleWriteIOPSDevice", read_block_limits, AT(block_io.write_iops)},
    };
    return read_object(reader, node, fields, ARRAY_COUNT(fields), out);
}

/* It becomes part of a file's name. */
static int read_page_size(struct reader *reader, const struct node *node, const struct field *field,
                          void *out)
{
    int rc = read_text(reader, node, field, out);
    if (rc < 0) {
        return rc;
    }
    const char *text = *(const char **)out;
    size_t digits = strspn(text, "0123456789");
    bool is_good = digits > 0 && digits < 10 && text[0] != '0' && text[digits] != '\0' &&
                   strchr("KMG", text[digits]) != NULL && strcmp(text + digits + 1, "B") == 0;
    return is_good
               ? 0
               : reader_fail(reader, node, NULL, "'%.40s' is not a size like 64KB, 2MB, 1GB", text);
}

static int read_hugepage(struct reader *reader, const struct node *node, const struct field *unused,
                         void *out)
{
    static const struct field fields[] = {
        {"pageSize", read_page_size, offsetof(struct spec_hugepage_limit, page_size), true},
        {"limit", read_u64, offsetof(struct spec_hugepage_limit, limit_bytes), true},
    };
    return read_object(reader, node, fields, ARRAY_COUNT(fields), out);
}

static int read_hugepages(struct reader *reader, const struct node *node, const struct field *field,
                          void *out)
{
    struct spec_resources *resources = (struct spec_resources *)((char *)out - field->offset);
    return read_elements(reader, node, NODE_LIST, sizeof(struct spec_hugepage_limit), read_hugepage,
                         (const void **)&resources->hugepages, &resources->hugepage_count);
}

static int read_priority(struct reader *reader, const struct node *node, const struct field *unused,
                         void *out)
{
    static const struct field fields[] = {
        {"name", read_text, offsetof(struct spec_network_priority, name), true},
        {"priority", read_u32, offsetof(struct spec_network_priority, priority), true},
    };
    return read_object(reader, node, fields, ARRAY_COUNT(fields), out);
}

static int read_priorities(struct reader *reader, const struct node *node,
                           const struct field *field, void *out)
{
    struct spec_resources *resources = (struct spec_resources *)((char *)out - field->offset);
    return read_elements(reader, node, NODE_LIST, sizeof(struct spec_network_priority),
                         read_priority, (const void **)&resources->network.priorities,
                         &resources->network.priority_count);
}

static int read_network(struct reader *reader, const struct node *node, const struct field *unused,
                        void *out)
{
    static const struct field fields[] = {
        {"classID", read_spec_u64, AT(network.class_id), false, 0, UINT32_MAX},
        {"priorities", read_priorities, AT(network.priorities)},
    };
    return read_object(reader, node, fields, ARRAY_COUNT(fields), out);
}

static int read_rdma_limit(struct reader *reader, const struct node *node,
                           const struct field *unused, void *out)
{
    static const struct field fields[] = {
        {"hcaHandles", read_spec_u64, offsetof(struct spec_rdma_limit, handles), false, 0,
         UINT32_MAX},
        {"hcaObjects", read_spec_u64, offsetof(struct spec_rdma_limit, objects), false, 0,
         UINT32_MAX},
    };
    struct spec_rdma_limit *limit = out;
    int rc = read_object(reader, node, fields, ARRAY_COUNT(fields), limit);
    if (rc == 0 && !limit->handles.has && !limit->objects.has) {
        rc = reader_fail(reader, node, NULL, "hcaHandles or hcaObjects must be given");
    }
    limit->device = rc == 0 ? reader_key(reader, node) : NULL;
    return rc == 0 && limit->device == NULL ? -E2BIG : rc;
}

static int read_rdma(struct reader *reader, const struct node *node, const struct field *field,
                     void *out)
{
    struct spec_resources *resources = (struct spec_resources *)((char *)out - field->offset);
    return read_elements(reader, node, NODE_OBJECT, sizeof(struct spec_rdma_limit), read_rdma_limit,
                         (const void **)&resources->rdma, &resources->rdma_count);
}

/* The keys are names of files in the group's folder. */
static int read_unified(struct reader *reader, const struct node *node, const struct field *field,
                        void *out)
{
    int rc = read_pairs(reader, node, field, out);
    for (const struct node *n = node->first; rc == 0 && n != NULL; n = n->next) {
        if (memchr(n->key, '/', n->key_length) != NULL || n->key[0] == '.') {
            rc = reader_fail(reader, n, NULL, "must be named like a file of cgroup v2, io.max");
        }
    }
    return rc;
}

int read_resources(struct reader *reader, const struct node *node, const struct field *unused,
                   void *out)
{
    static const struct field fields[] = {
        {"devices", read_rules, AT(devices)},
        {"memory", read_memory, 0},
        {"cpu", read_cpu, 0},
        {"pids", read_pids, 0},
        {"blockIO", read_block_io, 0},
        {"hugepageLimits", read_hugepages, AT(hugepages)},
        {"network", read_network, 0},
        {"rdma", read_rdma, AT(rdma)},
        {"unified", read_unified, AT(unified)},
    };
    return read_object(reader, node, fields, ARRAY_COUNT(fields), out);
}
