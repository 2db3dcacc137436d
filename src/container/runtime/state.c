/* A container's folder: what is kept between the runtime's calls. */
#include "container/runtime/state.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/host/file.h"
#include "container/resctrl/resctrl.h"

#define STATE_FILE     "state.json"
#define STATE_FILE_NEW "state.json.new"
#define MAX_STATE_SIZE (4u << 20)

int state_check_id(const char *id, struct error *err)
{
    size_t length = strlen(id);
    bool is_good =
        length > 0 && length <= NAME_MAX && strcmp(id, ".") != 0 && strcmp(id, "..") != 0;
    is_good =
        is_good &&
        strspn(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-.") == length;
    return is_good
               ? 0
               : error_set(err, EINVAL,
                           "container id '%.100s': 1 to %d letters, digits and '_', '+', '-', '.'",
                           id, NAME_MAX);
}

static int open_root(const char *root, bool is_made, struct error *err)
{
    int fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT && is_made) {
        int rc = file_make_folders(root, 0700, 0711, err);
        if (rc < 0) {
            return rc;
        }
        fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    }
    return fd >= 0 ? fd : error_set_errno(err, errno, "opening the root folder %s", root);
}

int state_create(const char *root, const char *id, struct state *out, struct error *err)
{
    int rc = state_check_id(id, err);
    if (rc < 0) {
        return rc;
    }
    AUTO_CLOSE int root_fd = open_root(root, true, err);
    if (root_fd < 0) {
        return root_fd;
    }
    if (mkdirat(root_fd, id, 0700) < 0) {
        return errno == EEXIST
                   ? error_set(err, EEXIST, "container with id exists: %s", id)
                   : error_set_errno(err, errno, "making the folder of container %s", id);
    }
    int folder = openat(root_fd, id, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (folder < 0 || flock(folder, LOCK_EX) < 0) {
        rc = error_set_errno(err, errno, "opening the folder of container %s", id);
        (void)unlinkat(root_fd, id, AT_REMOVEDIR);
        if (folder >= 0) {
            close(folder);
        }
        return rc;
    }
    *out = (struct state){.id = id, .folder = folder, .data = json_object()};
    return 0;
}

static int read_document(struct state *state, struct error *err)
{
    AUTO_CLOSE int fd = openat(state->folder, STATE_FILE, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 && errno == ENOENT) {
        state->data = json_object(); /* being created, or left so */
        return 0;
    }
    if (fd < 0) {
        return error_set_errno(err, errno, "opening the state of container %s", state->id);
    }
    AUTO_FREE void *text = NULL;
    size_t size;
    int rc = file_read_whole(fd, MAX_STATE_SIZE, "the container's state", &text, &size, err);
    if (rc < 0) {
        return rc;
    }
    json_error_t bad;
    state->data = json_loadb(text, size, JSON_REJECT_DUPLICATES, &bad);
    json_int_t pid = json_integer_value(json_object_get(state->data, "pid")); /* 0: not yet */
    json_int_t ticks = json_integer_value(json_object_get(state->data, "startTicks"));
    if (!json_is_object(state->data) || pid < 0 || pid > INT32_MAX || ticks < 0) {
        json_decref(state->data);
        state->data = NULL;
        return error_set(
            err, EINVAL,
            "the state of container %s is damaged: `delete --force` removes the container",
            state->id);
    }
    state->pid = (pid_t)pid;
    state->start_ticks = (uint64_t)ticks;
    return 0;
}

int state_load(const char *root, const char *id, bool is_locked, struct state *out,
               struct error *err)
{
    int rc = state_check_id(id, err);
    if (rc < 0) {
        return rc;
    }
    char path[PATH_MAX];
    if (snprintf(path, sizeof(path), "%s/%s", root, id) >= (int)sizeof(path)) {
        return error_set(err, ENAMETOOLONG, "the root folder's name is too long");
    }
    struct state state = {.id = id,
                          .folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW)};
    if (state.folder < 0) {
        return errno == ENOENT
                   ? error_set(err, ENOENT, "container does not exist: %s", id)
                   : error_set_errno(err, errno, "opening the folder of container %s", id);
    }
    if (is_locked && flock(state.folder, LOCK_EX) < 0) {
        rc = error_set_errno(err, errno, "locking container %s", id);
    }
    struct stat info;
    if (rc == 0 && (fstat(state.folder, &info) < 0 || info.st_nlink == 0)) {
        rc = error_set(err, ENOENT, "container does not exist: %s",
                       id); /* deleted while this waited for the lock */
    }
    if (rc == 0) {
        rc = read_document(&state, err);
    }
    if (rc < 0) {
        close(state.folder);
        return rc;
    }
    *out = state;
    return 0;
}

void state_close(struct state *state)
{
    if (state->folder > 0) {
        close(state->folder);
    }
    json_decref(state->data);
    *state = (struct state){.folder = -1};
}

int state_remove_class(const struct state *state, struct error *err)
{
    const json_t *saved = json_object_get(state->data, "resctrl");
    struct resctrl plan;
    if (saved == NULL || resctrl_load(saved, &plan) < 0) {
        return 0;
    }
    int opened = resctrl_open(RESCTRL_ROOT);
    if (opened < 0) {
        return 0; /* unmounted since, and its groups gone with it */
    }
    AUTO_CLOSE int root = opened;
    return resctrl_remove(root, state->id, &plan, err);
}

int state_save(const struct state *state, struct error *err)
{
    AUTO_FREE char *text = json_dumps(state->data, JSON_COMPACT);
    AUTO_CLOSE int fd =
        openat(state->folder, STATE_FILE_NEW, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (text == NULL || fd < 0) {
        return error_set_errno(err, text == NULL ? ENOMEM : errno,
                               "writing the state of container %s", state->id);
    }
    int rc = file_write_all(fd, text, strlen(text), "the container's state", err);
    if (rc == 0 && renameat(state->folder, STATE_FILE_NEW, state->folder, STATE_FILE) < 0) {
        rc = error_set_errno(err, errno, "writing the state of container %s", state->id);
    }
    return rc;
}

int state_remove(const char *root, const struct state *state, struct error *err)
{
    static const char *const files[] = {STATE_GATE, STATE_RESTORED, STATE_CONFIG, STATE_FILE_NEW,
                                        STATE_FILE};
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        if (unlinkat(state->folder, files[i], 0) < 0 && errno != ENOENT) {
            return error_set_errno(err, errno, "removing %s of container %s", files[i], state->id);
        }
    }
    AUTO_CLOSE int root_fd = open_root(root, false, err);
    if (root_fd < 0) {
        return root_fd;
    }
    if (unlinkat(root_fd, state->id, AT_REMOVEDIR) < 0 && errno != ENOENT) {
        return error_set_errno(err, errno, "removing the folder of container %s", state->id);
    }
    return 0;
}

int state_remove_damaged(const char *root, const char *id, struct error *err)
{
    char path[PATH_MAX];
    (void)snprintf(path, sizeof(path), "%s/%s", root, id);
    struct state state = {.id = id,
                          .folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW)};
    if (state.folder < 0) {
        return error_set_errno(err, errno, "opening the folder of container %s", id);
    }
    int rc = state_remove(root, &state, err);
    close(state.folder);
    return rc;
}

uint64_t process_start_ticks(pid_t pid)
{
    char path[32], line[1024];
    (void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size = fd >= 0 ? read(fd, line, sizeof(line) - 1) : -1;
    if (size <= 0) {
        return 0;
    }
    line[size] = '\0';
    const char *at = strrchr(line, ')'); /* the name before it may hold anything */
    char status = 0;
    unsigned long long ticks = 0;
    /* proc(5): state is field 3, starttime 22 */
    if (at == NULL ||
        sscanf(at + 1,
               " %c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %llu",
               &status, &ticks) != 2) {
        return 0;
    }
    return status == 'Z' || status == 'X' ? 0 : ticks;
}

enum container_status state_status(const struct state *state)
{
    if (state->pid == 0) {
        return CONTAINER_CREATING;
    }
    if (process_start_ticks(state->pid) != state->start_ticks) {
        return CONTAINER_STOPPED;
    }
    return faccessat(state->folder, STATE_GATE, F_OK, 0) == 0 ? CONTAINER_CREATED
                                                              : CONTAINER_RUNNING;
}

const char *container_status_name(enum container_status status)
{
    static const char *const names[] = {"creating", "created", "running", "paused", "stopped"};
    return names[status];
}

int state_open_process(const struct state *state)
{
    int fd = state->pid != 0 ? (int)syscall(SYS_pidfd_open, state->pid, 0) : -1;
    /* Opened first, then compared: what the number means cannot change any more. */
    if (fd >= 0 && process_start_ticks(state->pid) == state->start_ticks) {
        return fd;
    }
    if (fd >= 0) {
        close(fd);
    }
    errno = ESRCH;
    return -1;
}

const char *state_string(const struct state *state, const char *name)
{
    return json_string_value(json_object_get(state->data, name));
}

json_t *state_document(const struct state *state, enum container_status status)
{
    json_t *document = json_object();
    json_object_set(document, "ociVersion", json_object_get(state->data, "ociVersion"));
    json_object_set_new(document, "id", json_string(state->id));
    bool is_alive = status == CONTAINER_CREATED || status == CONTAINER_RUNNING ||
                    status == CONTAINER_PAUSED || status == CONTAINER_CREATING;
    json_object_set_new(document, "pid", json_integer(is_alive ? state->pid : 0));
    json_object_set_new(document, "status", json_string(container_status_name(status)));
    static const char *const copied[] = {"bundle", "rootfs",      "created",
                                         "owner",  "annotations", "degraded"};
    for (size_t i = 0; i < sizeof(copied) / sizeof(copied[0]); i++) {
        json_object_set(document, copied[i], json_object_get(state->data, copied[i]));
    }
    return document;
}

static int compare_ids(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

int state_list(const char *root, char ***out_ids, size_t *out_count, struct error *err)
{
    *out_ids = NULL;
    *out_count = 0;
    DIR *folder = opendir(root);
    if (folder == NULL) {
        return errno == ENOENT ? 0
                               : error_set_errno(err, errno, "opening the root folder %s", root);
    }
    char **ids = NULL;
    size_t count = 0;
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        struct error ignored;
        if (entry->d_name[0] == '.' || state_check_id(entry->d_name, &ignored) < 0 ||
            (entry->d_type != DT_DIR && entry->d_type != DT_UNKNOWN)) {
            continue;
        }
        char **more = count % 64 == 0 ? realloc(ids, (count + 64) * sizeof(*ids)) : ids;
        if (more == NULL || (more[count] = strdup(entry->d_name)) == NULL) {
            break;
        }
        ids = more;
        count++;
    }
    closedir(folder);
    if (count != 0) {
        qsort(ids, count, sizeof(*ids), compare_ids);
    }
    *out_ids = ids;
    *out_count = count;
    return 0;
}
