/* A container's groups: made, saved, found again, entered. */
#include "container/cgroup/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/host/file.h"
#include "container/cgroup/cpuset.h"
#include "container/cgroup/internal.h"
#include "container/cgroup/tree.h"
#include "container/cgroup/unit.h"

#define DELEGATE_LIST "/sys/kernel/cgroup/delegate"

static struct cgroup *cgroup_new(void)
{
    struct cgroup *cgroup = calloc(1, sizeof(*cgroup));
    for (size_t i = 0; cgroup != NULL && i < CGROUP_MAX_HIERARCHIES; i++) {
        cgroup->place[i].fd = -1;
    }
    return cgroup;
}

static void forget_places(struct cgroup *cgroup)
{
    for (; cgroup->count > 0; cgroup->count--) {
        struct cgroup_place *place = &cgroup->place[cgroup->count - 1];
        free(TAKE_PTR(place->path));
        if (place->fd >= 0) {
            close(TAKE_FD(place->fd));
        }
    }
}

void cgroup_free(struct cgroup *cgroup)
{
    if (cgroup != NULL) {
        forget_places(cgroup);
        free(cgroup);
    }
}

CLEANUP_DEFINE(cleanup_cgroup, struct cgroup *, cgroup_free, NULL)
#define AUTO_CGROUP __attribute__((cleanup(cleanup_cgroup)))

static bool is_refusal(int rc)
{
    return rc == -EACCES || rc == -EPERM || rc == -EROFS;
}

/* Absolute paths are as they are. Others, and the default (the container's id), begin at the runtime's own group; with v2
 * beside it, since a group with processes in it cannot give controllers to groups below. */
static int choose_path(const struct cgroup_request *request,
                       const struct cgroup_hierarchy *hierarchy, char **out_path, struct error *err)
{
    const char *path =
        request->path != NULL && *request->path != '\0' ? request->path : request->id;
    AUTO_FREE char *joined = NULL;
    if (*path != '/') {
        const char *own = hierarchy->own_path;
        size_t size = strlen(own);
        if (hierarchy->is_unified) {
            const char *last = strrchr(own, '/');
            size = last == NULL ? 0 : (size_t)(last - own);
        }
        if (asprintf(&joined, "%.*s/%s", (int)size, own, path) < 0) {
            joined = NULL;
            return error_set(err, ENOMEM, "no memory for a path");
        }
        path = joined;
    }
    int rc = group_path_parse(path, out_path, err);
    if (rc < 0) {
        return error_prefix(err, rc, "linux.cgroupsPath");
    }
    if (**out_path == '\0') {
        free(TAKE_PTR(*out_path));
        return error_set(err, EINVAL, "linux.cgroupsPath: the root group is not for containers");
    }
    return 0;
}

/* A group that was there before must be fit for a container. */
static int check_reused(const struct cgroup *cgroup, struct error *err)
{
    pid_t *pids = NULL;
    size_t count = 0;
    int rc = cgroup_processes(cgroup, &pids, &count, err);
    free(pids);
    if (rc < 0) {
        return rc;
    }
    if (count > 0) {
        return error_set(
            err, EBUSY, "linux.cgroupsPath: container's cgroup is not empty: %zu process(es) found",
            count);
    }
    if (cgroup_is_frozen(cgroup)) {
        return error_set(err, EBUSY, "linux.cgroupsPath: container's cgroup is frozen");
    }
    return 0;
}

/* A container needs a domain: threaded groups have no controllers of memory and I/O, and no whole processes. */
static int check_domain(const struct cgroup_place *place, struct error *err)
{
    char type[32];
    if (control_read(place->fd, "cgroup.type", type, sizeof(type)) < 0 ||
        strcmp(type, "domain") == 0) {
        return 0;
    }
    return error_set(
        err, EOPNOTSUPP,
        "linux.cgroupsPath: group /%s is \"%s\" (threaded groups are there), a container needs a "
        "\"domain\"",
        place->path, type);
}

/* The folder and the files that the kernel names as those to be given away. */
static int delegate(const struct cgroup_place *place, uid_t uid, gid_t gid, struct error *err)
{
    static const char fallback[] = "cgroup.procs\ncgroup.subtree_control\ncgroup.threads\n";
    char list[4096];
    if (control_read(AT_FDCWD, DELEGATE_LIST, list, sizeof(list)) < 0) {
        memcpy(list, fallback, sizeof(fallback));
    }
    if (fchown(place->fd, uid, gid) < 0) {
        return error_set_errno(err, errno, "giving group /%s to user %u", place->path, uid);
    }
    char *rest = NULL;
    for (char *file = strtok_r(list, "\n", &rest); file != NULL;
         file = strtok_r(NULL, "\n", &rest)) {
        if (strchr(file, '/') == NULL &&
            fchownat(place->fd, file, uid, gid, AT_SYMLINK_NOFOLLOW) < 0 && errno != ENOENT) {
            return error_set_errno(err, errno, "giving %s of group /%s to user %u", file,
                                   place->path, uid);
        }
    }
    return 0;
}

/* Makes the group in one hierarchy. 0: it has got none, which is told. 1: it is there. */
static int make_place(const struct cgroup *cgroup, struct cgroup_place *place,
                      const struct cgroup_request *request, struct degrade *degrade,
                      struct error *err)
{
    AUTO_HANDLE int hierarchy_fd = cgroup_open_hierarchy(place->folder, place->is_unified);
    if (hierarchy_fd < 0) {
        return error_set_errno(err, -hierarchy_fd, "opening %s/%s", CGROUP_ROOT, place->folder);
    }
    unsigned made = 0;
    int rc = group_make(hierarchy_fd, place->path, &made);
    if (is_refusal(rc) && cgroup->is_rootless) {
        if (request->path != NULL) {
            degrade_add(degrade, "linux.cgroupsPath", "making /%s in %s/%s: %s", place->path,
                        CGROUP_ROOT, place->folder, strerror(-rc));
        }
        return 0;
    }
    if (rc < 0) {
        return error_set_errno(err, -rc, "making group %s/%s/%s", CGROUP_ROOT, place->folder,
                               place->path);
    }
    place->made = made;
    place->fd = group_open(hierarchy_fd, place->path);
    if (place->fd < 0) {
        rc = place->fd;
        place->fd = -1;
        return error_set_errno(err, -rc, "opening group %s/%s/%s", CGROUP_ROOT, place->folder,
                               place->path);
    }
    if (place->is_unified) {
        rc = check_domain(place, err);
        if (rc == 0 && request->owner_uid >= 0) {
            rc = delegate(place, (uid_t)request->owner_uid, (gid_t)request->owner_gid, err);
        }
    } else if ((place->controllers & 1U << CGROUP_CPUSET) != 0) {
        rc = cpuset_fill(hierarchy_fd, place->path);
        if (is_refusal(rc) && cgroup->is_rootless) {
            rc = 0; /* attaching will tell */
        } else if (rc < 0) {
            rc =
                error_set_errno(err, -rc, "giving CPUs and memory nodes to group /%s", place->path);
        }
    }
    return rc < 0 ? rc : 1;
}

static void unmake_places(const struct cgroup *cgroup)
{
    for (size_t i = 0; i < cgroup->count; i++) {
        const struct cgroup_place *place = &cgroup->place[i];
        AUTO_HANDLE int fd =
            place->made > 0 ? cgroup_open_hierarchy(place->folder, place->is_unified) : -1;
        if (fd >= 0) {
            group_unmake(fd, place->path, place->made);
        }
    }
}

static int make_places(struct cgroup *cgroup, const struct cgroup_request *request,
                       struct degrade *degrade, struct error *err)
{
    bool is_reused = false;
    for (size_t i = 0; i < cgroup->count;) {
        int rc = make_place(cgroup, &cgroup->place[i], request, degrade, err);
        if (rc < 0) {
            return rc;
        }
        if (rc == 0) {
            free(cgroup->place[i].path);
            cgroup->count--;
            memmove(&cgroup->place[i], &cgroup->place[i + 1],
                    (cgroup->count - i) * sizeof(cgroup->place[i]));
            continue;
        }
        is_reused = is_reused || cgroup->place[i].made == 0;
        i++;
    }
    cgroup->is_planned = false;
    /* A scope is new, and has its first process. */
    return is_reused && cgroup->manager == CGROUP_MANAGER_FILES ? check_reused(cgroup, err) : 0;
}

/* 'group': where systemd has put the scope; NULL: where the request says. */
static int plan_places(struct cgroup *cgroup, const struct cgroup_request *request,
                       const char *group, struct error *err)
{
    struct cgroup_layout layout;
    int rc = cgroup_layout_read(&layout, err);
    if (rc < 0) {
        return rc;
    }
    if (layout.count == 0 && !cgroup->is_rootless) {
        rc = error_set(err, ENOENT, "no control groups are mounted on %s", CGROUP_ROOT);
    }
    for (size_t i = 0; rc == 0 && i < layout.count; i++) {
        const struct cgroup_hierarchy *hierarchy = &layout.hierarchy[i];
        struct cgroup_place *place = &cgroup->place[cgroup->count];
        if (group == NULL) {
            rc = choose_path(request, hierarchy, &place->path, err);
        } else if ((place->path = strdup(group)) == NULL) {
            rc = error_set(err, ENOMEM, "no memory for a path");
        }
        if (rc == 0) {
            memcpy(place->folder, hierarchy->folder, sizeof(place->folder));
            place->is_unified = hierarchy->is_unified;
            place->controllers = hierarchy->controllers;
            cgroup->count++;
        }
    }
    cgroup_layout_fini(&layout);
    return rc;
}

static int plan_unit(struct cgroup *cgroup, const struct cgroup_request *request, struct error *err)
{
    struct unit_name unit;
    cgroup->is_users_unit =
        unit_is_users(request->is_rootless, geteuid() == 0, getenv("XDG_RUNTIME_DIR"));
    int rc = unit_name_parse(request->path, request->id, cgroup->is_users_unit, &unit, err);
    rc = rc < 0 ? rc : unit_check(err);
    if (rc == 0) {
        memcpy(cgroup->unit, unit.name, sizeof(cgroup->unit));
    }
    return rc;
}

int cgroup_plan(const struct cgroup_request *request, struct cgroup **out_cgroup, struct error *err)
{
    AUTO_CGROUP struct cgroup *cgroup = cgroup_new();
    if (cgroup == NULL) {
        return error_set(err, ENOMEM, "no memory for control groups");
    }
    cgroup->manager = request->manager;
    cgroup->is_rootless = request->is_rootless;
    cgroup->is_planned = true;
    int rc = 0;
    switch (request->manager) {
    case CGROUP_MANAGER_DISABLED:
        break;
    case CGROUP_MANAGER_SYSTEMD:
        rc = plan_unit(cgroup, request, err);
        break;
    case CGROUP_MANAGER_FILES:
        rc = plan_places(cgroup, request, NULL, err);
        break;
    }
    if (rc == 0) {
        *out_cgroup = TAKE_PTR(cgroup);
    }
    return rc;
}

/* systemd makes the groups of v2, and those of v1 that it has use for; the others are made beside them. */
static int make_unit(struct cgroup *cgroup, const struct cgroup_request *request, struct error *err)
{
    struct cgroup_layout layout;
    uint32_t v1_controllers = 0;
    bool has_v2 = false;
    AUTO_FREE char *group = NULL;
    int rc = cgroup_layout_read(&layout, err);
    if (rc < 0) {
        return rc;
    }
    for (size_t i = 0; i < layout.count; i++) {
        has_v2 = has_v2 || layout.hierarchy[i].is_unified;
        v1_controllers |= layout.hierarchy[i].is_unified ? 0 : layout.hierarchy[i].controllers;
    }
    cgroup_layout_fini(&layout);
    rc = unit_start(cgroup, request, v1_controllers, !has_v2, &group, err);
    return rc < 0 ? rc : plan_places(cgroup, request, group, err);
}

int cgroup_make(struct cgroup *cgroup, const struct cgroup_request *request,
                struct degrade *degrade, struct error *err)
{
    if (cgroup->manager == CGROUP_MANAGER_DISABLED) {
        cgroup->is_planned = false;
        return 0;
    }
    bool has_unit = cgroup->manager == CGROUP_MANAGER_SYSTEMD;
    int rc = has_unit ? make_unit(cgroup, request, err) : 0;
    rc = rc < 0 ? rc : make_places(cgroup, request, degrade, err);
    if (rc == 0 && has_unit) {
        rc = cgroup_attach(cgroup, request->pid, true, err);
    }
    if (rc == 0) {
        rc = cgroup_set_limits(cgroup, request->resources, true, degrade, err);
    }
    if (rc < 0) {
        unmake_places(cgroup);
        forget_places(cgroup);
    }
    return rc;
}

int cgroup_create(const struct cgroup_request *request, struct cgroup **out_cgroup,
                  struct degrade *degrade, struct error *err)
{
    AUTO_CGROUP struct cgroup *cgroup = NULL;
    int rc = cgroup_plan(request, &cgroup, err);
    if (rc == 0) {
        rc = cgroup_make(cgroup, request, degrade, err);
    }
    if (rc == 0) {
        *out_cgroup = TAKE_PTR(cgroup);
    }
    return rc;
}

static const char *const manager_names[] = {
    [CGROUP_MANAGER_FILES] = "cgroupfs",
    [CGROUP_MANAGER_SYSTEMD] = "systemd",
    [CGROUP_MANAGER_DISABLED] = "disabled",
};

json_t *cgroup_save(const struct cgroup *cgroup)
{
    json_t *groups = json_array();
    for (size_t i = 0; i < cgroup->count; i++) {
        const struct cgroup_place *place = &cgroup->place[i];
        json_t *group = json_pack("{s:s, s:b, s:i, s:s, s:i}", "folder", place->folder, "unified",
                                  place->is_unified, "controllers", (int)place->controllers, "path",
                                  place->path, "made", (int)place->made);
        (void)json_array_append_new(groups, group); /* a missing one makes loading fail */
    }
    json_t *saved =
        json_pack("{s:s, s:b, s:b, s:o}", "manager", manager_names[cgroup->manager], "rootless",
                  cgroup->is_rootless, "planned", cgroup->is_planned, "groups", groups);
    if (cgroup->manager == CGROUP_MANAGER_SYSTEMD) {
        (void)json_object_set_new(saved, "unit", json_string(cgroup->unit));
        (void)json_object_set_new(saved, "user", json_boolean(cgroup->is_users_unit));
    }
    return saved;
}

static int load_place(json_t *group, struct cgroup_place *place, struct error *err)
{
    const char *folder, *path;
    int is_unified, controllers, made;
    if (json_unpack(group, "{s:s, s:b, s:i, s:s, s:i}", "folder", &folder, "unified", &is_unified,
                    "controllers", &controllers, "path", &path, "made", &made) < 0 ||
        strlen(folder) >= CGROUP_MAX_FOLDER || strchr(folder, '/') != NULL || *folder == '.' ||
        controllers < 0 || made < 0) {
        return error_set(err, EINVAL, "the saved control groups are damaged");
    }
    int rc = group_path_parse(path, &place->path, err);
    if (rc < 0) {
        return error_prefix(err, rc, "the saved control groups are damaged");
    }
    (void)snprintf(place->folder, sizeof(place->folder), "%s", folder);
    place->is_unified = is_unified != 0;
    place->controllers = (uint32_t)controllers;
    place->made = (unsigned)made;
    if (*place->path == '\0') {
        free(TAKE_PTR(place->path));
        return error_set(err, EINVAL, "the saved control groups are damaged: a root group");
    }
    return 0;
}

static int load_unit(json_t *saved, struct cgroup *cgroup, struct error *err)
{
    const char *unit;
    int is_users;
    if (json_unpack(saved, "{s:s, s:b}", "unit", &unit, "user", &is_users) < 0 ||
        !unit_name_is_valid(unit, ".scope")) {
        return error_set(err, EINVAL, "the saved control groups are damaged: no unit of systemd");
    }
    (void)snprintf(cgroup->unit, sizeof(cgroup->unit), "%s", unit);
    cgroup->is_users_unit = is_users != 0;
    return 0;
}

int cgroup_load(const json_t *saved, struct cgroup **out_cgroup, struct error *err)
{
    AUTO_CGROUP struct cgroup *cgroup = cgroup_new();
    const char *manager;
    int is_rootless, is_planned;
    json_t *groups;
    if (cgroup == NULL) {
        return error_set(err, ENOMEM, "no memory for control groups");
    }
    /* json_unpack takes what it only reads without const. */
    if (json_unpack((json_t *)(uintptr_t)saved, "{s:s, s:b, s:b, s:o}", "manager", &manager,
                    "rootless", &is_rootless, "planned", &is_planned, "groups", &groups) < 0 ||
        !json_is_array(groups) || json_array_size(groups) > CGROUP_MAX_HIERARCHIES) {
        return error_set(err, EINVAL, "the saved control groups are damaged");
    }
    cgroup->is_rootless = is_rootless != 0;
    cgroup->is_planned = is_planned != 0;
    size_t kind = 0;
    while (kind < ARRAY_COUNT(manager_names) && strcmp(manager, manager_names[kind]) != 0) {
        kind++;
    }
    if (kind == ARRAY_COUNT(manager_names)) {
        return error_set(err, EINVAL, "the saved control groups are damaged: manager \"%.40s\"",
                         manager);
    }
    cgroup->manager = (enum cgroup_manager)kind;
    if (cgroup->manager == CGROUP_MANAGER_SYSTEMD) {
        int rc = load_unit((json_t *)(uintptr_t)saved, cgroup, err);
        if (rc < 0) {
            return rc;
        }
    }
    for (size_t i = 0; i < json_array_size(groups); i++) {
        int rc = load_place(json_array_get(groups, i), &cgroup->place[i], err);
        if (rc < 0) {
            return rc;
        }
        cgroup->count++;
    }
    *out_cgroup = TAKE_PTR(cgroup);
    return 0;
}

int cgroup_open_unified(const struct cgroup *cgroup)
{
    const struct cgroup_place *place = cgroup_find_unified(cgroup);
    int fd = place == NULL ? -1 : place_open_group(place);
    return fd < 0 ? -1 : fd;
}

int cgroup_open_controller(const struct cgroup *cgroup, enum cgroup_controller controller,
                           bool *out_is_unified)
{
    const struct cgroup_place *place = cgroup_find_v1(cgroup, controller);
    if (place == NULL) {
        place = cgroup_find_unified(cgroup);
    }
    AUTO_HANDLE int fd = place == NULL ? -ENOENT : place_open_group(place);
    if (fd < 0 || (place_controllers(place, fd) & 1U << controller) == 0) {
        return fd < 0 ? fd : -ENOENT;
    }
    *out_is_unified = place->is_unified;
    return TAKE_FD(fd);
}

/* The caller itself, which has one thread, is moved in v1 by its thread: that spares a global lock of the kernel, which costs
 * milliseconds to take. */
static int attach_to(const struct cgroup *cgroup, const struct cgroup_place *place, int group_fd,
                     pid_t pid, struct error *err)
{
    const char *file = pid == 0 && !place->is_unified ? "tasks" : "cgroup.procs";
    int rc = control_printf(group_fd, file, "%d", pid);
    if (rc < 0 && !(is_refusal(rc) && cgroup->is_rootless)) {
        return error_set_errno(err, -rc, "putting process %d into group %s/%s/%s", pid, CGROUP_ROOT,
                               place->folder, place->path);
    }
    return 0;
}

static int check_made(const struct cgroup *cgroup, struct error *err)
{
    return cgroup->is_planned ? error_set(err, ENOENT, "the container's groups were never made")
                              : 0;
}

int cgroup_attach(struct cgroup *cgroup, pid_t pid, bool is_in_unified, struct error *err)
{
    int made = check_made(cgroup, err);
    if (made < 0) {
        return made;
    }
    for (size_t i = 0; i < cgroup->count; i++) {
        const struct cgroup_place *place = &cgroup->place[i];
        if (place->is_unified && is_in_unified) {
            continue;
        }
        AUTO_HANDLE int group_fd = place_open_group(place);
        if (group_fd < 0) {
            return error_set_errno(err, -group_fd, "opening group %s/%s/%s", CGROUP_ROOT,
                                   place->folder, place->path);
        }
        int rc = attach_to(cgroup, place, group_fd, pid, err);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

/* "cpu,memory:/path" is about the hierarchies with these controllers alone. */
static const char *split_below(const char *below, uint32_t *out_controllers)
{
    const char *colon = strchr(below, ':');
    char names[128];
    *out_controllers = UINT32_MAX;
    if (colon == NULL || (size_t)(colon - below) >= sizeof(names)) {
        return below;
    }
    memcpy(names, below, (size_t)(colon - below));
    names[colon - below] = '\0';
    *out_controllers = cgroup_controllers_parse(names);
    return colon + 1;
}

int cgroup_attach_below(struct cgroup *cgroup, const char *below, pid_t pid, struct error *err)
{
    AUTO_FREE char *path = NULL;
    uint32_t controllers;
    int rc = check_made(cgroup, err);
    if (rc < 0) {
        return rc;
    }
    rc = group_path_parse(split_below(below, &controllers), &path, err);
    if (rc < 0) {
        return error_prefix(err, rc, "cgroup");
    }
    if (controllers == 0) {
        return error_set(err, EINVAL, "cgroup: \"%.64s\" names no controller", below);
    }
    for (size_t i = 0; i < cgroup->count; i++) {
        const struct cgroup_place *place = &cgroup->place[i];
        bool is_meant = controllers == UINT32_MAX || (place->controllers & controllers) != 0;
        AUTO_HANDLE int group_fd = place_open_group(place);
        AUTO_HANDLE int below_fd =
            group_fd < 0 ? group_fd : group_open(group_fd, is_meant ? path : "");
        if (below_fd < 0) {
            return error_set_errno(err, -below_fd, "opening group %s/%s/%s/%s", CGROUP_ROOT,
                                   place->folder, place->path, path);
        }
        rc = attach_to(cgroup, place, below_fd, pid, err);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}
