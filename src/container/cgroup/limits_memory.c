/* Limits of memory and of huge pages. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "container/cgroup/limits.h"
#include "container/cgroup/tree.h"

#define FIELD_LIMIT       LIMIT_FIELD("memory.limit")
#define FIELD_SWAP        LIMIT_FIELD("memory.swap")
#define FIELD_RESERVATION LIMIT_FIELD("memory.reservation")
#define FIELD_KERNEL      LIMIT_FIELD("memory.kernel")
#define FIELD_TCP         LIMIT_FIELD("memory.kernelTCP")
#define FIELD_SWAPPINESS  LIMIT_FIELD("memory.swappiness")
#define FIELD_OOM         LIMIT_FIELD("memory.disableOOMKiller")
#define FIELD_HIERARCHY   LIMIT_FIELD("memory.useHierarchy")

static int check_swap(const struct limits *limits)
{
    struct spec_i64 limit = limits->resources->memory.limit, swap = limits->resources->memory.swap;
    if (swap.has && swap.value > 0 && is_given_i64(limit) &&
        (limit.value < 0 || swap.value < limit.value)) {
        return error_set(limits->err, EINVAL,
                         FIELD_SWAP ": %" PRId64
                                    " is memory and swap together, less than the limit of "
                                    "memory alone",
                         swap.value);
    }
    return 0;
}

int limit_memory_v1(struct limits *limits)
{
    const struct spec_resources *resources = limits->resources;
    struct limit_values values = {0};
    int rc = check_swap(limits);
    if (rc < 0) {
        return rc;
    }
    struct spec_i64 limit = resources->memory.limit, swap = resources->memory.swap;
    if (is_given_i64(limit)) {
        limit_values_add(&values, FIELD_LIMIT, "memory.limit_in_bytes", "%" PRId64, limit.value);
        if (limit.value < 0 && !is_given_i64(swap) &&
            limit_has_file(limits, "memory.memsw.limit_in_bytes")) {
            swap = limit; /* memory and swap together are never less than memory */
        }
    }
    if (is_given_i64(swap)) {
        limit_values_add(&values, FIELD_SWAP, "memory.memsw.limit_in_bytes", "%" PRId64,
                         swap.value);
    }
    rc = limit_write_together(limits, &values);
    if (rc == 0 && is_given_i64(resources->memory.reservation)) {
        rc = limit_write(limits, FIELD_RESERVATION, "memory.soft_limit_in_bytes", "%" PRId64,
                         resources->memory.reservation.value);
    }
    if (rc == 0 && resources->memory.kernel.has && resources->memory.kernel.value > 0) {
        rc = limit_write(limits, FIELD_KERNEL, "memory.kmem.limit_in_bytes", "%" PRId64,
                         resources->memory.kernel.value);
    }
    if (rc == 0 && is_given_i64(resources->memory.kernel_tcp)) {
        rc = limit_write(limits, FIELD_TCP, "memory.kmem.tcp.limit_in_bytes", "%" PRId64,
                         resources->memory.kernel_tcp.value);
    }
    if (rc == 0 && resources->memory.swappiness.has) {
        rc = limit_write(limits, FIELD_SWAPPINESS, "memory.swappiness", "%" PRIu64,
                         resources->memory.swappiness.value);
    }
    if (rc == 0 && resources->memory.disables_oom_killer.has) {
        rc = limit_write(limits, FIELD_OOM, "memory.oom_control", "%d",
                         resources->memory.disables_oom_killer.value);
    }
    uint64_t is_hierarchy;
    if (rc == 0 && resources->memory.uses_hierarchy.has &&
        !(limits->fd >= 0 &&
          control_read_u64(limits->fd, "memory.use_hierarchy", &is_hierarchy) == 0 &&
          (is_hierarchy != 0) == resources->memory.uses_hierarchy.value)) {
        if (limits->fd < 0 || resources->memory.uses_hierarchy.value) {
            rc = limit_write(limits, FIELD_HIERARCHY, "memory.use_hierarchy", "1");
        } else {
            degrade_add(limits->degrade, FIELD_HIERARCHY,
                        "this kernel always counts groups below as well");
        }
    }
    return rc;
}

/* v2 counts swap by itself. */
static int add_swap_v2(struct limits *limits, struct limit_values *values)
{
    struct spec_i64 limit = limits->resources->memory.limit, swap = limits->resources->memory.swap;
    char text[LIMIT_NUMBER_SIZE];
    int64_t value = -1;
    if (is_given_i64(swap)) {
        if (swap.value > 0) {
            uint64_t memory = (uint64_t)limit.value;
            if (!is_given_i64(limit) && limits->fd >= 0) {
                int rc = control_read_u64(limits->fd, "memory.max", &memory);
                if (rc < 0 || memory == UINT64_MAX || memory > (uint64_t)swap.value) {
                    return error_set(limits->err, EINVAL,
                                     FIELD_SWAP
                                     ": %" PRId64
                                     " is memory and swap together, and needs a limit of memory "
                                     "that is not more",
                                     swap.value);
                }
            }
            value = swap.value - (int64_t)memory;
        }
    } else if (!is_given_i64(limit) || limit.value > 0) {
        return 0;
    }
    /* Without swap accounting there is none to have, and none to be kept from. */
    if (limits->fd >= 0 && value <= 0 && !limit_has_file(limits, "memory.swap.max")) {
        return 0;
    }
    limit_values_add(values, FIELD_SWAP, "memory.swap.max", "%s",
                     limit_number(limits, value, text));
    return 0;
}

static int check_usage_v2(struct limits *limits)
{
    struct spec_i64 limit = limits->resources->memory.limit;
    uint64_t usage;
    if (limits->resources->memory.checks_before_update.has &&
        limits->resources->memory.checks_before_update.value && limits->fd >= 0 &&
        is_given_i64(limit) && limit.value > 0 &&
        control_read_u64(limits->fd, "memory.current", &usage) == 0 &&
        usage > (uint64_t)limit.value) {
        return error_set(limits->err, EBUSY,
                         FIELD_LIMIT ": %" PRId64 " bytes are less than what is in use: %" PRIu64
                                     " bytes",
                         limit.value, usage);
    }
    return 0;
}

int limit_memory_v2(struct limits *limits)
{
    const struct spec_resources *resources = limits->resources;
    struct limit_values values = {0};
    char text[LIMIT_NUMBER_SIZE];
    int rc = check_swap(limits);
    if (rc == 0) {
        rc = check_usage_v2(limits);
    }
    if (rc == 0) {
        rc = add_swap_v2(limits, &values);
    }
    if (rc < 0) {
        return rc;
    }
    if (is_given_i64(resources->memory.limit)) {
        limit_values_add(&values, FIELD_LIMIT, "memory.max", "%s",
                         limit_number(limits, resources->memory.limit.value, text));
    }
    if (is_given_i64(resources->memory.reservation)) {
        limit_values_add(&values, FIELD_RESERVATION, "memory.low", "%s",
                         limit_number(limits, resources->memory.reservation.value, text));
    }
    rc = limit_write_together(limits, &values);
    if (rc < 0) {
        return rc;
    }
    const struct {
        bool is_wanted;
        const char *field, *what;
    } missing[] = {
        {resources->memory.kernel.has && resources->memory.kernel.value > 0, FIELD_KERNEL,
         "limit of kernel memory by itself"},
        {resources->memory.kernel_tcp.has && resources->memory.kernel_tcp.value > 0, FIELD_TCP,
         "limit of TCP memory by itself"},
        {resources->memory.swappiness.has, FIELD_SWAPPINESS, "swappiness of groups"},
        {resources->memory.disables_oom_killer.has && resources->memory.disables_oom_killer.value,
         FIELD_OOM, "way without the OOM killer"},
        {resources->memory.uses_hierarchy.has && !resources->memory.uses_hierarchy.value,
         FIELD_HIERARCHY, "groups that do not count those below"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(missing); i++) {
        if (missing[i].is_wanted) {
            degrade_add(limits->degrade, missing[i].field, "cgroup v2 has no %s", missing[i].what);
        }
    }
    return 0;
}

int limit_hugetlb(struct limits *limits)
{
    const char *end = limits->is_unified ? "max" : "limit_in_bytes";
    for (size_t i = 0; i < limits->resources->hugepage_count; i++) {
        const struct spec_hugepage_limit *page = &limits->resources->hugepages[i];
        char field[64], file[64];
        size_t digits = strspn(page->page_size, "0123456789");
        const char *unit = page->page_size + digits;
        if (digits == 0 || digits > 10 || strlen(unit) != 2 || strchr("KMG", unit[0]) == NULL ||
            unit[1] != 'B') {
            return error_set(limits->err, EINVAL,
                             LIMIT_FIELD("hugepageLimits") ": page size \"%.20s\" is not like 2MB",
                             page->page_size);
        }
        (void)snprintf(field, sizeof(field), LIMIT_FIELD("hugepageLimits.%s"), page->page_size);
        (void)snprintf(file, sizeof(file), "hugetlb.%s.%s", page->page_size, end);
        int rc = limit_write(limits, field, file, "%" PRIu64, page->limit_bytes);
        if (rc < 0) {
            return rc;
        }
        /* Pages that are reserved, where the kernel counts them (since 5.7). */
        (void)snprintf(file, sizeof(file), "hugetlb.%s.rsvd.%s", page->page_size, end);
        if (limit_has_file(limits, file)) {
            rc = limit_write(limits, field, file, "%" PRIu64, page->limit_bytes);
            if (rc < 0) {
                return rc;
            }
        }
    }
    return 0;
}
