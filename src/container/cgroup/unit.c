/* Names of units, and calls to hull-oci-systemd. */
#include "container/cgroup/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/host/file.h"
#include "container/cgroup/tree.h"

#define PROGRAM        "hull-oci-systemd"
#define BOOTED         "/run/systemd/system" /* is there where systemd is PID 1: sd_booted(3) */
#define DEFAULT_PREFIX "hull-oci"
#define MAX_ANSWER     65536
#define STATUS_NO_EXEC 127

bool unit_name_is_valid(const char *name, const char *end)
{
    size_t size = strlen(name), end_size = strlen(end);
    return size > end_size && size < CGROUP_MAX_UNIT && strcmp(name + size - end_size, end) == 0 &&
           name[0] != '.' &&
           strspn(name, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ:-_.\\") ==
               size;
}

/* "a-b.slice" is in "a.slice": no part is empty. */
static bool is_slice(const char *name)
{
    return unit_name_is_valid(name, ".slice") &&
           (strcmp(name, "-.slice") == 0 ||
            (name[0] != '-' && strstr(name, "--") == NULL && strstr(name, "-.slice") == NULL));
}

int unit_name_parse(const char *path, const char *id, bool is_users, struct unit_name *out_name,
                    struct error *err)
{
    const char *slice = "", *prefix = DEFAULT_PREFIX, *name = id;
    AUTO_FREE char *copy = NULL;
    if (path != NULL && *path != '\0') {
        char *rest = copy = strdup(path);
        if (copy == NULL) {
            return error_set(err, ENOMEM, "no memory for a path");
        }
        slice = strsep(&rest, ":");
        prefix = strsep(&rest, ":");
        name = rest;
        if (prefix == NULL || name == NULL || *name == '\0' || strchr(name, ':') != NULL) {
            return error_set(err, EINVAL,
                             "linux.cgroupsPath: \"%.200s\" is not like SLICE:PREFIX:NAME, as the "
                             "systemd manager of control groups needs it",
                             path);
        }
    }
    if (*slice == '\0') {
        slice = is_users ? "user.slice" : "system.slice";
    }
    if (!is_slice(slice)) {
        return error_set(err, EINVAL, "linux.cgroupsPath: \"%.200s\" is no name of a slice", slice);
    }
    int length = snprintf(out_name->name, sizeof(out_name->name), "%s-%s.scope", prefix, name);
    if (length < 0 || (size_t)length >= sizeof(out_name->name) ||
        !unit_name_is_valid(out_name->name, ".scope")) {
        return error_set(err, EINVAL, "linux.cgroupsPath: \"%.200s\" is no name of a scope",
                         out_name->name);
    }
    (void)snprintf(out_name->slice, sizeof(out_name->slice), "%s", slice);
    return 0;
}

/* Root of a user namespace is somebody's of the host, or root of a container with a systemd of its own. */
bool unit_is_users(bool is_rootless, bool is_root, const char *runtime_dir)
{
    bool has_users = runtime_dir != NULL && strcmp(runtime_dir, "/run/user/0") != 0;
    return is_rootless && (!is_root || has_users);
}

static bool is_program(const char *folder, size_t size, const char *below, char out_path[PATH_MAX])
{
    int length = snprintf(out_path, PATH_MAX, "%.*s%s/" PROGRAM, (int)size, folder, below);
    return length > 0 && length < PATH_MAX && access(out_path, X_OK) == 0;
}

/* In $HULL_LIBEXEC, beside the runtime, in the libexec folder of a moved installation, or of this one. The runtime's own path
 * is that by which it was called: it may run from a copy that has none. */
static int find_program(char out_path[PATH_MAX], struct error *err)
{
    const char *chosen = getenv("HULL_LIBEXEC");
    if (chosen != NULL && is_program(chosen, strlen(chosen), "", out_path)) {
        return 0;
    }
    const char *own = program_invocation_name;
    const char *slash = strrchr(own, '/');
    if (slash != NULL && (is_program(own, (size_t)(slash - own), "", out_path) ||
                          is_program(own, (size_t)(slash - own), "/../libexec/hull", out_path))) {
        return 0;
    }
    if (is_program(HULL_LIBEXEC_DIR, strlen(HULL_LIBEXEC_DIR), "", out_path)) {
        return 0;
    }
    return error_set(err, ENOENT,
                     "program " PROGRAM
                     ", which speaks with systemd, is missing: it is expected beside hull-oci or "
                     "in " HULL_LIBEXEC_DIR " (builds without libsystemd have none)");
}

int unit_check(struct error *err)
{
    char path[PATH_MAX];
    if (access(BOOTED, F_OK) < 0) {
        return error_set(err, EOPNOTSUPP,
                         "the systemd manager of control groups needs systemd as this host's init, "
                         "which it is not: there is no " BOOTED " (--cgroup-manager cgroupfs does "
                         "without)");
    }
    return find_program(path, err);
}

noreturn_fn static void execute(const char *path, int input, int output)
{
    sigset_t none;
    sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    if (dup2(input, STDIN_FILENO) >= 0 && dup2(output, STDOUT_FILENO) >= 0) {
        (void)syscall(SYS_close_range, 3, ~0u, CLOSE_RANGE_CLOEXEC);
        execl(path, PROGRAM, (char *)NULL);
    }
    _exit(STATUS_NO_EXEC);
}

static int wait_for(pid_t pid, const char *path, struct error *err)
{
    int status;
    while (waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR) {
            return error_set_errno(err, errno, "waiting for %s", path);
        }
    }
    return WIFEXITED(status) && WEXITSTATUS(status) == 0
               ? 0
               : error_set(err, EIO, "%s ended with %s %d", path,
                           WIFEXITED(status) ? "status" : "signal",
                           WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
}

static int exchange(const char *path, const char *request, char **out_answer, struct error *err)
{
    AUTO_CLOSE int input = memfd_create("request", MFD_CLOEXEC);
    AUTO_CLOSE int output = memfd_create("answer", MFD_CLOEXEC);
    if (input < 0 || output < 0) {
        return error_set_errno(err, errno, "keeping a request to systemd");
    }
    int rc = file_write_all(input, request, strlen(request), "a request to systemd", err);
    if (rc < 0) {
        return rc;
    }
    (void)lseek(input, 0, SEEK_SET);
    pid_t pid = fork();
    if (pid == 0) {
        execute(path, input, output);
    }
    rc = pid < 0 ? error_set_errno(err, errno, "starting %s", path) : wait_for(pid, path, err);
    if (rc < 0) {
        return rc;
    }
    (void)lseek(output, 0, SEEK_SET);
    size_t size;
    void *text;
    rc = file_read_whole(output, MAX_ANSWER, "the answer of " PROGRAM, &text, &size, err);
    *out_answer = rc < 0 ? NULL : text;
    return rc;
}

/* Takes the request over. 'out_answer': a new reference. */
static int call(const struct cgroup *cgroup, const char *verb, json_t *request, json_t **out_answer,
                struct error *err)
{
    char path[PATH_MAX];
    AUTO_FREE char *text = NULL;
    AUTO_FREE char *answer = NULL;
    if (request == NULL || json_object_set_new(request, "verb", json_string(verb)) < 0 ||
        json_object_set_new(request, "unit", json_string(cgroup->unit)) < 0 ||
        json_object_set_new(request, "user", json_boolean(cgroup->is_users_unit)) < 0 ||
        (text = json_dumps(request, JSON_COMPACT)) == NULL) {
        json_decref(request);
        return error_set(err, ENOMEM, "no memory for a request to systemd");
    }
    json_decref(request);
    int rc = find_program(path, err);
    rc = rc < 0 ? rc : exchange(path, text, &answer, err);
    if (rc < 0) {
        return rc;
    }
    json_t *got = json_loads(answer, 0, NULL);
    const char *reason;
    int number;
    if (json_unpack(got, "{s:s, s:i}", "error", &reason, "errno", &number) == 0) {
        rc = error_set(err, number > 0 && number < 4096 ? number : EIO, "systemd: %.400s", reason);
        json_decref(got);
        return rc;
    }
    if (!json_is_object(got)) {
        json_decref(got);
        return error_set(err, EPROTO, "%s sent a broken answer", path);
    }
    *out_answer = got;
    return 0;
}

static int add_scope(json_t *properties, const struct cgroup_request *request,
                     const struct unit_name *unit)
{
    char description[256];
    (void)snprintf(description, sizeof(description), "hull-oci container %s", request->id);
    json_t *list =
        json_pack("[[s,s,s,i], [s,s,s,i], [s,s,[i],i], [s,s,b,i], [s,s,b,i], [s,s,s,i]]",
                  "Description", "s", description, 0, "Slice", "s", unit->slice, 0, "PIDs", "au",
                  (int)request->pid, 0, "Delegate", "b", 1, 218, "DefaultDependencies", "b", 0, 0,
                  "CollectMode", "s", "inactive-or-failed", 236);
    static const char *const accounts[] = {"CPUAccounting", "MemoryAccounting", "TasksAccounting"};
    int rc = json_array_extend(properties, list);
    json_decref(list);
    for (size_t i = 0; rc == 0 && i < ARRAY_COUNT(accounts); i++) {
        rc = json_array_append_new(properties, json_pack("[s,s,b,i]", accounts[i], "b", 1, 227));
    }
    return rc;
}

int unit_start(const struct cgroup *cgroup, const struct cgroup_request *request,
               uint32_t v1_controllers, bool has_v1_filter, char **out_group, struct error *err)
{
    struct unit_name unit;
    int rc = unit_name_parse(request->path, request->id, cgroup->is_users_unit, &unit, err);
    if (rc < 0) {
        return rc;
    }
    json_t *properties = unit_properties(request->resources, v1_controllers);
    if (properties == NULL || add_scope(properties, request, &unit) < 0) {
        json_decref(properties);
        return error_set(err, ENOMEM, "no memory for a request to systemd");
    }
    if (has_v1_filter) {
        unit_properties_add_devices(properties, request->resources);
    }
    rc = request->annotations == NULL
             ? 0
             : unit_properties_annotate(properties, request->annotations, err);
    if (rc < 0) {
        json_decref(properties);
        return rc;
    }
    json_t *answer;
    rc = call(cgroup, "start", json_pack("{s:o}", "properties", properties), &answer, err);
    if (rc < 0) {
        return error_prefix(err, rc, "scope %s", cgroup->unit);
    }
    const char *group = json_string_value(json_object_get(answer, "group"));
    rc = group_path_parse(group != NULL ? group : "", out_group, err);
    if (rc == 0 && **out_group == '\0') {
        free(TAKE_PTR(*out_group));
        rc = error_set(err, EPROTO, "scope %s: systemd names no control group", cgroup->unit);
    }
    json_decref(answer);
    return rc;
}

int unit_update(const struct cgroup *cgroup, const struct spec_resources *resources,
                struct error *err)
{
    uint32_t v1_controllers = 0;
    for (size_t i = 0; i < cgroup->count; i++) {
        v1_controllers |= cgroup->place[i].is_unified ? 0 : cgroup->place[i].controllers;
    }
    json_t *properties = unit_properties(resources, v1_controllers);
    bool has_v1_filter = resources->device_count > 0 && cgroup_find_unified(cgroup) == NULL;
    if (properties != NULL && json_array_size(properties) == 0 && !has_v1_filter) {
        json_decref(properties);
        return 0;
    }
    if (properties != NULL && has_v1_filter) {
        unit_properties_add_devices(properties, resources);
    }
    json_t *answer;
    int rc = call(cgroup, "update", json_pack("{s:o}", "properties", properties), &answer, err);
    if (rc < 0) {
        return error_prefix(err, rc, "scope %s", cgroup->unit);
    }
    json_decref(answer);
    return 0;
}

int unit_stop(const struct cgroup *cgroup, struct error *err)
{
    json_t *answer;
    if (unit_check(NULL) < 0) {
        return 0;
    }
    int rc = call(cgroup, "stop", json_object(), &answer, err);
    if (rc == 0) {
        json_decref(answer);
    }
    return rc == -ENOENT || rc == -ECONNREFUSED
               ? 0
               : (rc < 0 ? error_prefix(err, rc, "scope %s", cgroup->unit) : 0);
}
