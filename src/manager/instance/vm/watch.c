#include "manager/instance/vm/watch.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/host/file.h"
#include "base/host/log.h"
#include "base/host/unix_socket.h"
#include "manager/instance/vm/process.h"
#include "manager/instance/vm/restart.h"
#include "manager/instance/vm/status.h"

#define LINE_SIZE 65536
#define RETRY_NS  50000000ull
#define MAX_RETRIES                                                                                \
    100 /* five seconds: for a socket that nobody listens on yet, and for `hull boot` to end after its VM */

/* One folder of RUN/instances. */
struct watched {
    struct vm_watch *watch;
    struct watched *next;
    char name[64];
    int inotify_id; /* of its folder */
    int fd;         /* -1: no connection */
    struct event_source *source;
    struct event_timer *timer;
    unsigned retries;
    bool is_ending; /* the connection is lost; how it ended will be known in a moment */
    enum instance_status status;
    char why[128];
    char *line; /* LINE_SIZE bytes */
    size_t used;
};

struct vm_watch {
    struct manager *manager;
    int inotify_fd, root_id;
    struct event_source *source;
    struct watched *first;
    struct vm_restarts *restarts;
};

static struct watched *find(const struct vm_watch *watch, const char *name)
{
    for (struct watched *at = watch->first; at != NULL; at = at->next) {
        if (strcmp(at->name, name) == 0) {
            return at;
        }
    }
    return NULL;
}

static void disconnect(struct watched *vm)
{
    event_source_remove(vm->source);
    vm->source = NULL;
    if (vm->fd >= 0) {
        close(vm->fd);
    }
    vm->fd = -1;
    vm->used = 0;
}

static void free_watched(struct watched *vm)
{
    disconnect(vm);
    event_timer_destroy(vm->timer);
    free(vm->line);
    free(vm);
}

static void tell(struct watched *vm, const char *what, const char *why)
{
    json_t *event = json_pack("{s:s, s:s, s:s, s:s, s:s}", "type", "instance", "what", what, "name",
                              vm->name, "kind", "vm", "status", instance_status_name(vm->status));
    if (why != NULL && why[0] != '\0') {
        json_object_set_new(event, "why", json_string(why));
    }
    manager_event(vm->watch->manager, event);
}

static void set_state(struct watched *vm, enum instance_status status, const json_t *from)
{
    const char *why = json_string_value(json_object_get(from, "why"));
    vm->status = status;
    (void)snprintf(vm->why, sizeof(vm->why), "%s", why != NULL ? why : "");
}

static void take_line(struct watched *vm, const json_t *line)
{
    const char *event = json_string_value(json_object_get(line, "event"));
    const json_t *answer = json_object_get(line, "ok");
    const char *state = json_string_value(json_object_get(answer, "state"));
    if (state != NULL) {
        set_state(vm, strcmp(state, "paused") == 0 ? INSTANCE_PAUSED : INSTANCE_RUNNING, answer);
    } else if (event != NULL && strcmp(event, "paused") == 0) {
        set_state(vm, INSTANCE_PAUSED, line);
        tell(vm, event, vm->why);
    } else if (event != NULL && strcmp(event, "resumed") == 0) {
        set_state(vm, INSTANCE_RUNNING, line);
        tell(vm, event, vm->why);
    } else if (event != NULL && strcmp(event, "reset") == 0) {
        tell(vm, event, "");
    } else if (event != NULL && strcmp(event, "share-lost") == 0) {
        const char *share = json_string_value(json_object_get(line, "share"));
        const char *why = json_string_value(json_object_get(line, "why"));
        char text[128];
        (void)snprintf(text, sizeof(text), "share %.40s: %.80s", share != NULL ? share : "",
                       why != NULL ? why : "");
        tell(vm, event, text);
    }
}

/* `hull boot` ends a little after its VM, and says how that ended before its lock goes. */
static void look_for_end(struct watched *vm)
{
    char why[ERROR_TEXT_SIZE] = "";
    const struct place *place = &vm->watch->manager->place;
    if (vm_process_find(place, vm->name) != 0 && vm->retries++ < MAX_RETRIES) {
        event_timer_arm(vm->timer, clock_monotonic_ns() + RETRY_NS);
        return;
    }
    bool has_failed = vm_has_failed(place, vm->name, why, sizeof(why));
    vm->is_ending = false;
    vm->status = has_failed ? INSTANCE_ERROR : INSTANCE_STOPPED;
    tell(vm, "ended", why);
    vm_restarts_ended(vm->watch->restarts, vm->name, has_failed);
}

static void lost(struct watched *vm)
{
    disconnect(vm);
    vm->is_ending = true;
    vm->retries = 0;
    look_for_end(vm);
}

/* False: what came is no control connection's. */
static bool take_lines(struct watched *vm)
{
    char *end;
    while ((end = memchr(vm->line, '\n', vm->used)) != NULL) {
        size_t length = (size_t)(end - vm->line);
        json_t *line = json_loadb(vm->line, length, 0, NULL);
        if (line == NULL) {
            return false;
        }
        take_line(vm, line);
        json_decref(line);
        vm->used -= length + 1;
        memmove(vm->line, end + 1, vm->used);
    }
    return vm->used < LINE_SIZE;
}

static void readable(void *ctx, int fd, uint32_t events)
{
    struct watched *vm = ctx;
    ssize_t count = recv(fd, vm->line + vm->used, LINE_SIZE - vm->used, MSG_DONTWAIT);
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    vm->used += count > 0 ? (size_t)count : 0;
    if (count <= 0 || !take_lines(vm)) {
        lost(vm);
    }
}

/* The socket is a file of our own folder, and its server another process: neither connect nor these few bytes wait. */
static bool try_connect(struct watched *vm)
{
    static const char request[] = "{\"do\":\"events\"}\n{\"id\":1,\"do\":\"status\"}\n";
    char path[PATH_MAX];
    int fd;
    place_run_path(&vm->watch->manager->place, "instances", vm->name, "control.sock", path);
    if (unix_socket_connect(path, "control socket", &fd, NULL) < 0) {
        return false;
    }
    if (send(fd, request, sizeof(request) - 1, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ||
        event_loop_add_fd(vm->watch->manager->loop, fd, EPOLLIN, readable, vm, &vm->source, NULL) <
            0) {
        close(fd);
        return false;
    }
    vm->fd = fd;
    vm->status = INSTANCE_STARTING;
    vm->why[0] = '\0';
    vm_restarts_started(vm->watch->restarts, vm->name);
    return true;
}

static void retry(void *ctx)
{
    struct watched *vm = ctx;
    if (vm->is_ending) {
        look_for_end(vm);
    } else if (vm->fd < 0 && !try_connect(vm) && vm->retries++ < MAX_RETRIES &&
               vm_process_find(&vm->watch->manager->place, vm->name) != 0) {
        event_timer_arm(vm->timer, clock_monotonic_ns() + RETRY_NS);
    }
}

static void appeared(struct watched *vm)
{
    if (vm->fd < 0 && !vm->is_ending) {
        vm->retries = 0;
        retry(vm);
    }
}

static void add(struct vm_watch *watch, const char *name)
{
    char path[PATH_MAX];
    if (find(watch, name) != NULL || place_check_instance_name(name, NULL) < 0) {
        return;
    }
    struct watched *vm = calloc(1, sizeof(*vm));
    if (vm == NULL) {
        return;
    }
    vm->watch = watch;
    vm->fd = -1;
    vm->status = INSTANCE_STOPPED;
    (void)snprintf(vm->name, sizeof(vm->name), "%s", name);
    place_run_path(&watch->manager->place, "instances", name, NULL, path);
    vm->inotify_id = inotify_add_watch(watch->inotify_fd, path, IN_CREATE | IN_ONLYDIR);
    vm->line = malloc(LINE_SIZE);
    if (vm->inotify_id < 0 || vm->line == NULL ||
        event_timer_create(watch->manager->loop, retry, vm, &vm->timer, NULL) < 0) {
        log_warning("vm %s: it cannot be watched", name);
        free_watched(vm);
        return;
    }
    vm->next = watch->first;
    watch->first = vm;
    if (vm_process_find(&watch->manager->place, name) != 0) {
        appeared(vm); /* it runs already */
    }
}

static void remove_by_id(struct vm_watch *watch, int id)
{
    for (struct watched **at = &watch->first; *at != NULL; at = &(*at)->next) {
        struct watched *vm = *at;
        if (vm->inotify_id == id) {
            *at = vm->next;
            vm_restarts_forget(watch->restarts, vm->name);
            free_watched(vm);
            return;
        }
    }
}

/* All folders that are there: at the beginning, and if the kernel lost events. */
static void scan(struct vm_watch *watch)
{
    char path[PATH_MAX];
    place_run_path(&watch->manager->place, "instances", NULL, NULL, path);
    DIR *folder = opendir(path);
    const struct dirent *entry;
    while (folder != NULL && (entry = readdir(folder)) != NULL) {
        struct watched *known = find(watch, entry->d_name);
        if (known != NULL) {
            appeared(known);
        } else {
            add(watch, entry->d_name);
        }
    }
    if (folder != NULL) {
        closedir(folder);
    }
}

static void take_event(struct vm_watch *watch, const struct inotify_event *event)
{
    if ((event->mask & IN_Q_OVERFLOW) != 0) {
        scan(watch);
    } else if ((event->mask & IN_IGNORED) != 0) {
        remove_by_id(watch, event->wd); /* the folder is gone */
    } else if (event->len != 0 && event->wd == watch->root_id) {
        add(watch, event->name);
    } else if (event->len != 0 && strcmp(event->name, "control.sock") == 0) {
        for (struct watched *vm = watch->first; vm != NULL; vm = vm->next) {
            if (vm->inotify_id == event->wd) {
                appeared(vm);
                return;
            }
        }
    }
}

static void changed(void *ctx, int fd, uint32_t events)
{
    char bytes[8192] __attribute__((aligned(__alignof__(struct inotify_event))));
    ssize_t count = read(fd, bytes, sizeof(bytes));
    for (ssize_t at = 0; at < count;) {
        const struct inotify_event *event = (const struct inotify_event *)(bytes + at);
        take_event(ctx, event);
        at += (ssize_t)(sizeof(*event) + event->len);
    }
}

int vm_watch_create(struct manager *manager, struct vm_watch **out_watch, struct error *err)
{
    char path[PATH_MAX];
    struct vm_watch *watch = calloc(1, sizeof(*watch));
    if (watch == NULL) {
        return error_set_errno(err, ENOMEM, "watching VMs");
    }
    watch->manager = manager;
    watch->inotify_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    place_run_path(&manager->place, "instances", NULL, NULL, path);
    int rc = watch->inotify_fd < 0 ? error_set_errno(err, errno, "watching VMs")
                                   : file_make_folders(path, 0700, 0755, err);
    if (rc == 0) {
        watch->root_id = inotify_add_watch(watch->inotify_fd, path, IN_CREATE | IN_ONLYDIR);
        rc = watch->root_id < 0 ? error_set_errno(err, errno, "watching %s", path)
                                : vm_restarts_create(manager, &watch->restarts, err);
    }
    if (rc == 0) {
        rc = event_loop_add_fd(manager->loop, watch->inotify_fd, EPOLLIN, changed, watch,
                               &watch->source, err);
    }
    if (rc < 0) {
        vm_watch_destroy(watch);
        return rc;
    }
    scan(watch);
    *out_watch = watch;
    return 0;
}

void vm_watch_destroy(struct vm_watch *watch)
{
    if (watch == NULL) {
        return;
    }
    while (watch->first != NULL) {
        struct watched *vm = watch->first;
        watch->first = vm->next;
        free_watched(vm);
    }
    event_source_remove(watch->source);
    if (watch->inotify_fd >= 0) {
        close(watch->inotify_fd);
    }
    vm_restarts_destroy(watch->restarts);
    free(watch);
}

bool vm_watch_state(const struct vm_watch *watch, const char *name,
                    enum instance_status *out_status, char *why, size_t why_size)
{
    const struct watched *vm = watch != NULL ? find(watch, name) : NULL;
    if (vm == NULL || vm->fd < 0) {
        return false;
    }
    *out_status = vm->status;
    (void)snprintf(why, why_size, "%s", vm->why);
    return true;
}
