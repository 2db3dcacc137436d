/* Groups of the resctrl file system. */
#include "container/resctrl/resctrl.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/host/file.h"

#define MONITORS     "mon_groups"
#define MAX_SCHEMATA (1u << 16)
#define MAX_LINES    64

int resctrl_open(const char *path)
{
    struct statfs fs;
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd >= 0 && fstatfs(fd, &fs) == 0 && fs.f_type == RDTGROUP_SUPER_MAGIC ? TAKE_FD(fd)
                                                                                 : -ENODEV;
}

/* All lines in the order in which they are written. */
static size_t lines_of(const struct spec_intel_rdt *rdt, const char *out_lines[MAX_LINES])
{
    size_t count = 0;
    const char *first[] = {rdt->l3_cache_schema, rdt->memory_bandwidth_schema};
    for (size_t i = 0; i < ARRAY_COUNT(first); i++) {
        if (first[i] != NULL) {
            out_lines[count++] = first[i];
        }
    }
    for (size_t i = 0; i < rdt->schemata.count && count < MAX_LINES; i++) {
        out_lines[count++] = rdt->schemata.item[i];
    }
    return count;
}

static int open_group(int root, const char *group)
{
    return openat(root, *group != '\0' ? group : ".",
                  O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
}

static int compare(int group, const struct spec_intel_rdt *rdt, struct error *err)
{
    const char *lines[MAX_LINES];
    size_t count = lines_of(rdt, lines), size;
    AUTO_FREE void *text = NULL;
    AUTO_CLOSE int fd = openat(group, "schemata", O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) {
        return error_set_errno(err, errno, "linux.intelRdt.closID: opening schemata");
    }
    char *content = calloc(1, MAX_SCHEMATA);
    text = content;
    ssize_t n = content != NULL ? read(fd, content, MAX_SCHEMATA - 1) : -1;
    size = n > 0 ? (size_t)n : 0;
    for (size_t i = 0; size != 0 && i < count; i++) {
        if (!schemata_have(content, lines[i])) {
            return error_set(err, EINVAL,
                             "linux.intelRdt: group %s is there and has other values than %s",
                             rdt->clos_id, lines[i]);
        }
    }
    return size != 0 ? 0 : error_set_errno(err, n < 0 ? errno : EIO, "reading schemata");
}

int resctrl_plan(int root, const char *id, const struct spec_intel_rdt *rdt,
                 struct resctrl *out_plan, struct error *err)
{
    const char *lines[MAX_LINES];
    bool has_lines = lines_of(rdt, lines) != 0;
    const char *name = rdt->clos_id == NULL             ? id
                       : strcmp(rdt->clos_id, "/") == 0 ? ""
                                                        : rdt->clos_id;
    static const char *const kernels[] = {"info", MONITORS, "mon_data"};
    for (size_t i = 0; i < ARRAY_COUNT(kernels); i++) {
        if (strcmp(name, kernels[i]) == 0) {
            return error_set(err, EINVAL, "linux.intelRdt.closID: %s is the kernel's own", name);
        }
    }
    struct resctrl plan = {.is_removed = rdt->clos_id == NULL, .is_monitored = rdt->monitors};
    if (snprintf(plan.group, sizeof(plan.group), "%s", name) >= (int)sizeof(plan.group)) {
        return error_set(err, ENAMETOOLONG, "linux.intelRdt.closID: too long");
    }
    AUTO_CLOSE int group = open_group(root, plan.group);
    if (group < 0 && errno != ENOENT) {
        return error_set_errno(err, errno, "linux.intelRdt.closID: opening %s", name);
    }
    plan.is_made = group < 0;
    int rc = 0;
    if (rdt->clos_id == NULL && !plan.is_made) {
        rc = error_set(err, EEXIST, "linux.intelRdt: a group %s is there already", name);
    } else if (rdt->clos_id != NULL && plan.is_made && !has_lines) {
        rc = error_set(err, ENOENT,
                       "linux.intelRdt.closID: there is no group %s, and no schema to make it of",
                       name);
    } else if (!plan.is_made && has_lines) {
        rc = compare(group, rdt, err);
    }
    if (rc == 0) {
        *out_plan = plan;
    }
    return rc;
}

/* Writes one line to a file of a group. The kernel has the files in each group that is made. */
static int write_line(int group, const char *file, const char *line)
{
    char text[4096];
    int length = snprintf(text, sizeof(text), "%s\n", line);
    AUTO_CLOSE int fd =
        openat(group, file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0 || length >= (int)sizeof(text)) {
        return fd < 0 ? -errno : -E2BIG;
    }
    return write(fd, text, (size_t)length) == length ? 0 : -errno;
}

static int write_schemas(int group, const struct spec_intel_rdt *rdt, struct error *err)
{
    const char *lines[MAX_LINES];
    size_t count = lines_of(rdt, lines);
    for (size_t i = 0; i < count; i++) {
        int rc = write_line(group, "schemata", lines[i]);
        if (rc < 0) {
            return error_set_errno(err, -rc, "linux.intelRdt: the kernel refuses %s", lines[i]);
        }
    }
    return 0;
}

static int open_monitors(int root, const struct resctrl *plan)
{
    AUTO_CLOSE int group = open_group(root, plan->group);
    return group < 0 ? -1
                     : openat(group, MONITORS, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
}

int resctrl_make(int root, const char *id, const struct spec_intel_rdt *rdt,
                 const struct resctrl *plan, struct error *err)
{
    if (plan->is_made && mkdirat(root, plan->group, 0755) < 0) {
        return error_set_errno(err, errno, "linux.intelRdt: making group %s", plan->group);
    }
    int rc = 0;
    if (plan->is_made) {
        AUTO_CLOSE int group = open_group(root, plan->group);
        rc = group < 0 ? error_set_errno(err, errno, "linux.intelRdt: opening %s", plan->group)
                       : write_schemas(group, rdt, err);
    }
    if (rc == 0 && plan->is_monitored) {
        AUTO_CLOSE int monitors = open_monitors(root, plan);
        if (monitors < 0 || mkdirat(monitors, id, 0755) < 0) {
            rc =
                error_set_errno(err, errno, "linux.intelRdt.enableMonitoring: making group %s", id);
        }
    }
    if (rc < 0 && plan->is_made) {
        (void)unlinkat(root, plan->group, AT_REMOVEDIR);
    }
    return rc;
}

int resctrl_add(int root, const char *id, const struct resctrl *plan, pid_t pid, struct error *err)
{
    char number[16];
    (void)snprintf(number, sizeof(number), "%d", pid);
    AUTO_CLOSE int group = open_group(root, plan->group);
    int rc = group < 0 ? -errno : write_line(group, "tasks", number);
    if (rc == 0 && plan->is_monitored) {
        AUTO_CLOSE int monitors = open_monitors(root, plan);
        AUTO_CLOSE int own =
            monitors < 0 ? -1
                         : openat(monitors, id, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        rc = own < 0 ? -errno : write_line(own, "tasks", number);
    }
    return rc < 0 ? error_set_errno(err, -rc, "linux.intelRdt: putting process %d into group %s",
                                    pid, plan->group)
                  : 0;
}

int resctrl_remove(int root, const char *id, const struct resctrl *plan, struct error *err)
{
    if (plan->is_monitored) {
        AUTO_CLOSE int monitors = open_monitors(root, plan);
        if (monitors >= 0 && unlinkat(monitors, id, AT_REMOVEDIR) < 0 && errno != ENOENT) {
            return error_set_errno(err, errno, "removing the monitoring group of container %s", id);
        }
    }
    if (plan->is_removed && unlinkat(root, plan->group, AT_REMOVEDIR) < 0 && errno != ENOENT) {
        return error_set_errno(err, errno, "removing resctrl's group %s", plan->group);
    }
    return 0;
}

json_t *resctrl_save(const struct resctrl *plan)
{
    return json_pack("{s:s, s:b, s:b}", "group", plan->group, "isRemoved", plan->is_removed,
                     "isMonitored", plan->is_monitored);
}

int resctrl_load(const json_t *saved, struct resctrl *out_plan)
{
    const char *group = json_string_value(json_object_get(saved, "group"));
    struct resctrl plan = {.is_removed = json_is_true(json_object_get(saved, "isRemoved")),
                           .is_monitored = json_is_true(json_object_get(saved, "isMonitored"))};
    if (group == NULL || strchr(group, '/') != NULL || strcmp(group, ".") == 0 ||
        strcmp(group, "..") == 0 || (plan.is_removed && *group == '\0') ||
        snprintf(plan.group, sizeof(plan.group), "%s", group) >= (int)sizeof(plan.group)) {
        return -EINVAL;
    }
    *out_plan = plan;
    return 0;
}
