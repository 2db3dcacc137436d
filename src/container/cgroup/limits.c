/* Limits on a container's groups: which hierarchy gets what, and how single values are written. */
#include "container/cgroup/limits.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/host/file.h"
#include "container/cgroup/devices.h"
#include "container/cgroup/tree.h"
#include "container/cgroup/unit.h"

#define JOURNAL_MAX      32
#define JOURNAL_MAX_FILE 64

bool limit_has_file(const struct limits *limits, const char *file)
{
    return limits->fd >= 0 && faccessat(limits->fd, file, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

const char *limit_number(const struct limits *limits, int64_t value,
                         char out_text[LIMIT_NUMBER_SIZE])
{
    if (value < 0) {
        return limits->is_unified ? "max" : "-1";
    }
    (void)snprintf(out_text, LIMIT_NUMBER_SIZE, "%" PRId64, value);
    return out_text;
}

static int cold_fn fail(const struct limits *limits, int rc, const char *field, const char *file,
                        const char *text)
{
    uint64_t usage;
    if (rc == -EBUSY && strcmp(file, "memory.limit_in_bytes") == 0 &&
        control_read_u64(limits->fd, "memory.usage_in_bytes", &usage) == 0) {
        return error_set(limits->err, EBUSY,
                         "%s: %s bytes are less than what is in use: %" PRIu64 " bytes", field,
                         text, usage);
    }
    return error_set_errno(limits->err, -rc, "%s: writing \"%.64s\" to %s of group /%s", field,
                           text, file, limits->path);
}

/* What was there before an update, so that one that fails changes nothing. */
struct limit_journal {
    size_t count;
    struct {
        int fd;
        char file[JOURNAL_MAX_FILE], *text;
    } entry[JOURNAL_MAX];
};

static void journal_add(const struct limits *limits, const char *file, char *text)
{
    struct limit_journal *journal = limits->journal;
    /* Files with a line for each device: a line says nothing of those that are not there. */
    if (journal->count == JOURNAL_MAX || strlen(file) >= JOURNAL_MAX_FILE ||
        strchr(text, '\n') != strrchr(text, '\n') || strstr(file, "device") != NULL ||
        strchr(text, ':') != NULL) {
        free(text);
        return;
    }
    journal->entry[journal->count].fd = limits->fd;
    strcpy(journal->entry[journal->count].file, file);
    journal->entry[journal->count++].text = text;
}

static void journal_end(struct limit_journal *journal, bool is_undone)
{
    while (journal->count > 0) {
        journal->count--;
        if (is_undone) {
            (void)control_write(journal->entry[journal->count].fd,
                                journal->entry[journal->count].file,
                                journal->entry[journal->count].text);
        }
        free(journal->entry[journal->count].text);
    }
}

/* What the host lacks is told: 0. Else -errno and no text. */
static int try_write(struct limits *limits, const char *field, const char *file, const char *text)
{
    if (limits->fd < 0) {
        degrade_add(limits->degrade, field, "the host gives no controller \"%s\" to the container",
                    cgroup_controller_name(limits->controller, limits->is_unified));
        return 0;
    }
    char *before = limits->journal != NULL ? control_read_all(limits->fd, file) : NULL;
    int rc = control_write(limits->fd, file, text);
    if (rc == 0 && before != NULL) {
        journal_add(limits, file, TAKE_PTR(before));
    }
    free(before);
    if (rc == -ENOENT || rc == -EOPNOTSUPP) {
        degrade_add(limits->degrade, field, "the kernel has no %s", file);
        return 0;
    }
    if (limits->cgroup->is_rootless && (rc == -EACCES || rc == -EPERM || rc == -EROFS)) {
        degrade_add(limits->degrade, field, "writing %s: %s", file, strerror(-rc));
        return 0;
    }
    return rc;
}

int limit_write(struct limits *limits, const char *field, const char *file, const char *format, ...)
{
    char text[256];
    va_list args;
    va_start(args, format);
    int length = vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    if (length < 0 || (size_t)length >= sizeof(text)) {
        return error_set(limits->err, EINVAL, "%s: longer than %zu bytes", field, sizeof(text) - 1);
    }
    int rc = try_write(limits, field, file, text);
    return rc < 0 ? fail(limits, rc, field, file, text) : 0;
}

void limit_values_add(struct limit_values *values, const char *field, const char *file,
                      const char *format, ...)
{
    struct limit_value *value = &values->value[values->count++];
    value->field = field;
    value->file = file;
    va_list args;
    va_start(args, format);
    (void)vsnprintf(value->text, sizeof(value->text), format, args);
    va_end(args);
}

int limit_write_together(struct limits *limits, struct limit_values *values)
{
    while (values->count > 0) {
        size_t left = 0;
        int rc = 0;
        struct limit_value failed = {0};
        for (size_t i = 0; i < values->count; i++) {
            struct limit_value *value = &values->value[i];
            int result = try_write(limits, value->field, value->file, value->text);
            if (result == 0) {
                continue;
            }
            if (rc == 0) {
                rc = result;
                failed = *value;
            }
            values->value[left++] = *value;
        }
        if (left == values->count) {
            return fail(limits, rc, failed.field, failed.file, failed.text);
        }
        values->count = left;
    }
    return 0;
}

/* Which controllers of v2 a configuration needs. */
static uint32_t wanted_controllers(const struct spec_resources *resources)
{
    const struct {
        bool is_wanted;
        enum cgroup_controller controller;
    } uses[] = {
        {resources->cpu.shares.has || resources->cpu.quota_us.has || resources->cpu.period_us.has ||
             resources->cpu.burst_us.has || resources->cpu.idle.has,
         CGROUP_CPU},
        {resources->cpu.cpus != NULL || resources->cpu.mems != NULL, CGROUP_CPUSET},
        {resources->memory.limit.has || resources->memory.swap.has ||
             resources->memory.reservation.has,
         CGROUP_MEMORY},
        {resources->pids_limit.has, CGROUP_PIDS},
        {resources->block_io.weight.has || resources->block_io.weights.count > 0 ||
             resources->block_io.read_bps.count > 0 || resources->block_io.write_bps.count > 0 ||
             resources->block_io.read_iops.count > 0 || resources->block_io.write_iops.count > 0,
         CGROUP_BLOCK_IO},
        {resources->hugepage_count > 0, CGROUP_HUGETLB},
        {resources->rdma_count > 0, CGROUP_RDMA},
    };
    uint32_t wanted = 0;
    for (size_t i = 0; i < ARRAY_COUNT(uses); i++) {
        wanted |= uses[i].is_wanted ? 1U << uses[i].controller : 0;
    }
    for (size_t i = 0; i < resources->unified.count; i++) {
        char name[32];
        (void)snprintf(name, sizeof(name), "%.*s",
                       (int)strcspn(resources->unified.item[i].name, "."),
                       resources->unified.item[i].name);
        wanted |= cgroup_controllers_parse(name);
    }
    return wanted;
}

static void enable_in(int group_fd, uint32_t controllers)
{
    char text[256], has[256];
    if (control_read(group_fd, "cgroup.subtree_control", has, sizeof(has)) >= 0) {
        controllers &= ~cgroup_controllers_parse(has);
    }
    size_t size = 0;
    for (unsigned i = 0; i < CGROUP_CONTROLLER_COUNT; i++) {
        if ((controllers & 1U << i) != 0) {
            int length = snprintf(text + size, sizeof(text) - size, "+%s ",
                                  cgroup_controller_name((enum cgroup_controller)i, true));
            size += length > 0 ? (size_t)length : 0;
        }
    }
    if (size == 0 || control_write(group_fd, "cgroup.subtree_control", text) == 0) {
        return;
    }
    /* One that cannot be had must not keep the others away. */
    for (unsigned i = 0; i < CGROUP_CONTROLLER_COUNT; i++) {
        if ((controllers & 1U << i) != 0) {
            (void)control_printf(group_fd, "cgroup.subtree_control", "+%s",
                                 cgroup_controller_name((enum cgroup_controller)i, true));
        }
    }
}

static bool has_v1_controllers(const struct cgroup *cgroup)
{
    uint32_t controllers = 0;
    for (size_t i = 0; i < cgroup->count; i++) {
        controllers |= cgroup->place[i].controllers;
    }
    return controllers != 0;
}

/* Gives controllers down the tree to the group of v2, as far as the groups above may. On a host without v1 all that there are,
 * so that groups that the container makes can have them; else only what is needed: what v2 gives away here, v1 may want there.
 * Returns what the group has. */
static uint32_t enable_controllers(const struct cgroup *cgroup, const struct cgroup_place *place,
                                   int group_fd, uint32_t wanted)
{
    uint32_t has = place_controllers(place, group_fd);
    bool is_hybrid = has_v1_controllers(cgroup);
    if (is_hybrid && (wanted & ~has) == 0) {
        return has;
    }
    AUTO_HANDLE int hierarchy_fd = cgroup_open_hierarchy(place->folder, true);
    AUTO_FREE char *path = strdup(place->path);
    if (hierarchy_fd < 0 || path == NULL) {
        return has;
    }
    char names[256];
    if (control_read(hierarchy_fd, "cgroup.controllers", names, sizeof(names)) < 0) {
        return has;
    }
    uint32_t available = cgroup_controllers_parse(names);
    uint32_t missing = (is_hybrid ? available & wanted : available) & ~has;
    if (missing == 0) {
        return has;
    }
    enable_in(hierarchy_fd, missing);
    for (char *end = strchr(path, '/'); end != NULL; end = strchr(end + 1, '/')) {
        *end = '\0';
        AUTO_HANDLE int fd = group_open(hierarchy_fd, path);
        *end = '/';
        if (fd >= 0) {
            enable_in(fd, missing & place_controllers(place, fd));
        }
    }
    return place_controllers(place, group_fd);
}

/* In the order in which they are set. A controller without v2 exists in v1 only. */
static const struct {
    enum cgroup_controller controller;
    int (*v1)(struct limits *limits);
    int (*v2)(struct limits *limits);
} limit_steps[] = {
    {CGROUP_CPUSET, limit_cpuset, limit_cpuset},
    {CGROUP_CPU, limit_cpu_v1, limit_cpu_v2},
    {CGROUP_MEMORY, limit_memory_v1, limit_memory_v2},
    {CGROUP_PIDS, limit_pids, limit_pids},
    {CGROUP_BLOCK_IO, limit_block_io_v1, limit_block_io_v2},
    {CGROUP_HUGETLB, limit_hugetlb, limit_hugetlb},
    {CGROUP_RDMA, limit_rdma, limit_rdma},
    {CGROUP_NET_CLS, limit_net_cls, NULL},
    {CGROUP_NET_PRIO, limit_net_prio, NULL},
};

static int place_fd(const struct cgroup_place *const_place, struct cgroup *cgroup)
{
    struct cgroup_place *place = &cgroup->place[const_place - cgroup->place];
    if (place->fd < 0) {
        int fd = place_open_group(place);
        if (fd < 0) {
            return fd;
        }
        place->fd = fd;
    }
    return place->fd;
}

static int set_limits(struct cgroup *cgroup, const struct spec_resources *resources, bool is_new,
                      struct limit_journal *journal, struct degrade *degrade, struct error *err)
{
    const struct cgroup_place *unified = cgroup_find_unified(cgroup);
    int unified_fd = -1;
    uint32_t unified_controllers = 0;
    if (unified != NULL) {
        unified_fd = place_fd(unified, cgroup);
        if (unified_fd < 0) {
            return error_set_errno(err, -unified_fd, "opening group /%s", unified->path);
        }
        unified_controllers =
            enable_controllers(cgroup, unified, unified_fd, wanted_controllers(resources));
    }
    struct limits limits = {
        .cgroup = cgroup,
        .resources = resources,
        .journal = journal,
        .degrade = degrade,
        .err = err,
    };
    for (size_t i = 0; i < ARRAY_COUNT(limit_steps); i++) {
        limits.controller = limit_steps[i].controller;
        const struct cgroup_place *place = cgroup_find_v1(cgroup, limits.controller);
        limits.is_unified = place == NULL && unified != NULL && limit_steps[i].v2 != NULL;
        if (place != NULL) {
            limits.path = place->path;
            limits.fd = place_fd(place, cgroup);
            if (limits.fd < 0) {
                return error_set_errno(err, -limits.fd, "opening group /%s", place->path);
            }
        } else {
            bool has = limits.is_unified && (unified_controllers & 1U << limits.controller) != 0;
            limits.path = unified != NULL ? unified->path : "";
            limits.fd = has ? unified_fd : -1;
        }
        int rc = limits.is_unified ? limit_steps[i].v2(&limits) : limit_steps[i].v1(&limits);
        if (rc < 0) {
            return rc;
        }
    }
    limits.is_unified = true;
    limits.fd = unified_fd;
    limits.path = unified != NULL ? unified->path : "";
    int rc = limit_unified(&limits);
    if (rc == 0 && (is_new || resources->device_count > 0)) {
        rc = cgroup_set_devices(cgroup, resources, is_new, degrade, err);
    }
    return rc;
}

int cgroup_set_limits(struct cgroup *cgroup, const struct spec_resources *resources, bool is_new,
                      struct degrade *degrade, struct error *err)
{
    struct limit_journal journal = {0};
    int rc = set_limits(cgroup, resources, is_new, is_new ? NULL : &journal, degrade, err);
    journal_end(&journal, rc < 0);
    return rc;
}

int cgroup_update(struct cgroup *cgroup, const struct spec_resources *resources,
                  struct degrade *degrade, struct error *err)
{
    if (cgroup->count == 0 && cgroup->manager != CGROUP_MANAGER_DISABLED && !cgroup->is_rootless) {
        return error_set(err, ENOENT, "the container has no control groups");
    }
    int rc = cgroup_set_limits(cgroup, resources, false, degrade, err);
    if (rc == 0 && cgroup->manager == CGROUP_MANAGER_SYSTEMD) {
        rc = unit_update(cgroup, resources, err);
        if (rc == 0) {
            /* systemd rounds what it writes. */
            struct degrade told_already = {0};
            rc = cgroup_set_limits(cgroup, resources, false, &told_already, err);
        }
    }
    return rc;
}
