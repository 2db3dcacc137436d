/* The host's control group hierarchies. */
#include "container/cgroup/layout.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>

#include "base/host/file.h"

#define SELF_CGROUP_MAX (1 << 18) /* twenty lines with paths of at most 4 KiB are far less */

static const char *const controller_names[CGROUP_CONTROLLER_COUNT] = {
    [CGROUP_CPU] = "cpu",           [CGROUP_CPUACCT] = "cpuacct",
    [CGROUP_CPUSET] = "cpuset",     [CGROUP_MEMORY] = "memory",
    [CGROUP_PIDS] = "pids",         [CGROUP_DEVICES] = "devices",
    [CGROUP_FREEZER] = "freezer",   [CGROUP_BLOCK_IO] = "blkio",
    [CGROUP_HUGETLB] = "hugetlb",   [CGROUP_NET_CLS] = "net_cls",
    [CGROUP_NET_PRIO] = "net_prio", [CGROUP_PERF_EVENT] = "perf_event",
    [CGROUP_RDMA] = "rdma",         [CGROUP_MISC] = "misc",
};

const char *cgroup_controller_name(enum cgroup_controller controller, bool is_unified)
{
    return is_unified && controller == CGROUP_BLOCK_IO ? "io" : controller_names[controller];
}

uint32_t cgroup_controllers_parse(const char *names)
{
    uint32_t controllers = 0;
    for (const char *name = names; *name != '\0';) {
        size_t size = strcspn(name, "\n ,");
        for (unsigned i = 0; i < CGROUP_CONTROLLER_COUNT; i++) {
            if (size == strlen(controller_names[i]) &&
                memcmp(name, controller_names[i], size) == 0) {
                controllers |= 1U << i;
            }
        }
        if (size == 2 && memcmp(name, "io", 2) == 0) {
            controllers |= 1U << CGROUP_BLOCK_IO;
        }
        name += size;
        name += strspn(name, "\n ,");
    }
    return controllers;
}

static bool is_out_of_sight(const char *path)
{
    return strcmp(path, "..") == 0 || strncmp(path, "../", 3) == 0;
}

int cgroup_layout_parse(char *text, struct cgroup_layout *out_layout, struct error *err)
{
    struct cgroup_layout layout = {0};
    char *rest = NULL;
    for (char *line = strtok_r(text, "\n", &rest); line != NULL;
         line = strtok_r(NULL, "\n", &rest)) {
        char *names = strchr(line, ':');
        char *path = names != NULL ? strchr(names + 1, ':') : NULL;
        if (path == NULL || path[1] != '/') {
            return error_set(err, EINVAL, "/proc/self/cgroup: what does \"%.100s\" mean?", line);
        }
        if (layout.count == CGROUP_MAX_HIERARCHIES) {
            return error_set(err, E2BIG, "/proc/self/cgroup: more than %d hierarchies",
                             CGROUP_MAX_HIERARCHIES);
        }
        *names++ = '\0';
        *path = '\0';
        path += 2;
        struct cgroup_hierarchy *hierarchy = &layout.hierarchy[layout.count++];
        hierarchy->is_unified = *names == '\0';
        hierarchy->names = names;
        hierarchy->controllers = cgroup_controllers_parse(names);
        hierarchy->own_path = is_out_of_sight(path) ? "" : path;
    }
    *out_layout = layout;
    return 0;
}

int cgroup_open_hierarchy(const char *folder, bool is_unified)
{
    char path[sizeof(CGROUP_ROOT) + 1 + CGROUP_MAX_FOLDER];
    (void)snprintf(path, sizeof(path), "%s/%s", CGROUP_ROOT, folder);
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        return -errno;
    }
    struct statfs fs;
    if (fstatfs(fd, &fs) < 0) {
        return -errno;
    }
    if (fs.f_type != (is_unified ? CGROUP2_SUPER_MAGIC : CGROUP_SUPER_MAGIC)) {
        return -ENOENT;
    }
    return TAKE_FD(fd);
}

static bool is_mounted_at(const char *folder, size_t size, bool is_unified,
                          struct cgroup_hierarchy *hierarchy)
{
    char path[sizeof(CGROUP_ROOT) + 1 + CGROUP_MAX_FOLDER];
    if (size >= CGROUP_MAX_FOLDER || memchr(folder, '/', size) != NULL) {
        return false;
    }
    (void)snprintf(path, sizeof(path), "%s/%.*s", CGROUP_ROOT, (int)size, folder);
    struct statfs fs;
    if (statfs(path, &fs) < 0 ||
        fs.f_type != (is_unified ? CGROUP2_SUPER_MAGIC : CGROUP_SUPER_MAGIC)) {
        return false;
    }
    memcpy(hierarchy->folder, folder, size);
    hierarchy->folder[size] = '\0';
    return true;
}

/* The usual folders: "cpu,cpuacct" as a whole, or one of its names (distributions differ in their order and have links), or the
 * name of a named hierarchy. */
static bool find_folder(struct cgroup_hierarchy *hierarchy)
{
    if (hierarchy->is_unified) {
        return is_mounted_at("", 0, true, hierarchy) ||
               is_mounted_at("unified", strlen("unified"), true, hierarchy);
    }
    const char *names = hierarchy->names;
    if (strncmp(names, "name=", 5) == 0) {
        return is_mounted_at(names + 5, strlen(names + 5), false, hierarchy);
    }
    if (is_mounted_at(names, strlen(names), false, hierarchy)) {
        return true;
    }
    while (*names != '\0') {
        size_t size = strcspn(names, ",");
        if (is_mounted_at(names, size, false, hierarchy)) {
            return true;
        }
        names += size + (names[size] == ',');
    }
    return false;
}

/* Files in /proc have no size beforehand. */
static int read_proc(const char *path, char **out_text, struct error *err)
{
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return error_set_errno(err, errno, "opening %s", path);
    }
    size_t capacity = 4096, size = 0;
    AUTO_FREE char *text = malloc(capacity);
    for (;;) {
        if (text == NULL || capacity > SELF_CGROUP_MAX) {
            return error_set(err, ENOMEM, "reading %s: too long", path);
        }
        ssize_t got = read(fd, text + size, capacity - 1 - size);
        if (got < 0) {
            return error_set_errno(err, errno, "reading %s", path);
        }
        if (got == 0) {
            break;
        }
        size += (size_t)got;
        if (size == capacity - 1) {
            capacity *= 2;
            char *more = realloc(text, capacity);
            if (more == NULL) {
                return error_set(err, ENOMEM, "reading %s", path);
            }
            text = more;
        }
    }
    text[size] = '\0';
    *out_text = TAKE_PTR(text);
    return 0;
}

int cgroup_layout_read(struct cgroup_layout *out_layout, struct error *err)
{
    AUTO_FREE char *text = NULL;
    int rc = read_proc("/proc/self/cgroup", &text, err);
    if (rc < 0) {
        return rc;
    }
    struct cgroup_layout layout;
    rc = cgroup_layout_parse(text, &layout, err);
    if (rc < 0) {
        return rc;
    }
    size_t count = 0;
    for (size_t i = 0; i < layout.count; i++) {
        if (find_folder(&layout.hierarchy[i])) {
            layout.hierarchy[count++] = layout.hierarchy[i];
        }
    }
    layout.count = count;
    layout.text = TAKE_PTR(text);
    *out_layout = layout;
    return 0;
}

void cgroup_layout_fini(struct cgroup_layout *layout)
{
    free(layout->text);
    *layout = (struct cgroup_layout){0};
}
