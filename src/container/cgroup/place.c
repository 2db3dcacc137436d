/* A group in one hierarchy, and which of a container's groups serves what. */
#include <errno.h>
#include <fcntl.h>

#include "base/host/file.h"
#include "container/cgroup/internal.h"
#include "container/cgroup/tree.h"

int place_open_group(const struct cgroup_place *place)
{
    if (place->fd >= 0) {
        int fd = fcntl(place->fd, F_DUPFD_CLOEXEC, 3);
        return fd < 0 ? -errno : fd;
    }
    int hierarchy_fd = cgroup_open_hierarchy(place->folder, place->is_unified);
    if (hierarchy_fd < 0) {
        return hierarchy_fd;
    }
    int fd = group_open(hierarchy_fd, place->path);
    close(hierarchy_fd);
    return fd;
}

uint32_t place_controllers(const struct cgroup_place *place, int group_fd)
{
    char names[256];
    if (!place->is_unified) {
        return place->controllers;
    }
    return control_read(group_fd, "cgroup.controllers", names, sizeof(names)) < 0
               ? 0
               : cgroup_controllers_parse(names);
}

const struct cgroup_place *cgroup_find_unified(const struct cgroup *cgroup)
{
    for (size_t i = 0; i < cgroup->count && !cgroup->is_planned; i++) {
        if (cgroup->place[i].is_unified) {
            return &cgroup->place[i];
        }
    }
    return NULL;
}

const struct cgroup_place *cgroup_find_v1(const struct cgroup *cgroup,
                                          enum cgroup_controller controller)
{
    for (size_t i = 0; i < cgroup->count && !cgroup->is_planned; i++) {
        if (!cgroup->place[i].is_unified &&
            (cgroup->place[i].controllers & 1U << controller) != 0) {
            return &cgroup->place[i];
        }
    }
    return NULL;
}

const struct cgroup_place *cgroup_find_processes(const struct cgroup *cgroup)
{
    static const enum cgroup_controller order[] = {CGROUP_FREEZER, CGROUP_DEVICES, CGROUP_PIDS,
                                                   CGROUP_MEMORY};
    const struct cgroup_place *place = cgroup_find_unified(cgroup);
    for (size_t i = 0; place == NULL && i < ARRAY_COUNT(order); i++) {
        place = cgroup_find_v1(cgroup, order[i]);
    }
    return place != NULL || cgroup->count == 0 || cgroup->is_planned ? place : &cgroup->place[0];
}
