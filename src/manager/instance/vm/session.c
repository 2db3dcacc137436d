#include "manager/instance/vm/session.h"

#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/host/event_loop.h"
#include "base/host/file.h"
#include "base/host/unix_socket.h"
#include "manager/instance/vm/agent.h"
#include "manager/instance/vm/process.h"
#include "session/frames.h"

#define AGENT_TIMEOUT_MS 10000
#define AGENT_RETRY_MS   50
#define BOOT_TIMEOUT_MS  60000
#define FOLLOW_MS        200
#define PIECE            4096

/* A terminal in the guest. */
struct console {
    const struct vm *vm;
    int fd;
    bool has_size; /* a serial line has none */
};

static void resize(const struct vm *vm, const json_t *size)
{
    struct control_client client;
    json_t *columns = json_array_get(size, 0);
    json_t *rows = json_array_get(size, 1);
    if (json_is_integer(columns) && json_is_integer(rows) &&
        vm_control_open(vm->place, vm->name, AGENT_TIMEOUT_MS, &client, NULL) == 0) {
        /* Neither has a console that is a serial line. */
        error_ignore(vm_control_ask(
            &client,
            json_pack("{s:s, s:O, s:O}", "do", "console-size", "columns", columns, "rows", rows),
            -1, NULL, NULL));
        control_client_close(&client);
    }
}

/* A frame of the client's. False: it is gone. */
static bool typed(const struct console *console, int fd, uint8_t *data)
{
    enum session_frame type;
    size_t size;
    if (session_receive(fd, &type, data, &size, NULL) < 0) {
        return false;
    }
    if (type == SESSION_STDIN) {
        return file_write_all(console->fd, data, size, "console", NULL) == 0;
    }
    if (type == SESSION_CONTROL) {
        json_t *control = json_loadb((char *)data, size, 0, NULL);
        json_t *wanted = json_object_get(control, "resize");
        bool is_end_wanted = json_is_true(json_object_get(control, "eof"));
        if (wanted != NULL && console->has_size) {
            resize(console->vm, wanted);
        }
        json_decref(control);
        return !is_end_wanted;
    }
    return true;
}

static int serve_console(const struct console *console, int fd, uint8_t *data, struct error *err)
{
    int rc = session_send_control(fd, json_pack("{s:b}", "started", 1), err);
    while (rc == 0) {
        struct pollfd ready[2] = {{.fd = fd, .events = POLLIN},
                                  {.fd = console->fd, .events = POLLIN}};
        if (poll(ready, 2, -1) < 0 && errno != EINTR) {
            return error_set_errno(err, errno, "console");
        }
        if (ready[1].revents != 0) {
            ssize_t count = read(console->fd, data, PIECE);
            if (count <= 0) {
                return session_send_control(fd, json_pack("{s:i}", "exit", 0), err);
            }
            rc = session_send(fd, SESSION_STDOUT, data, (size_t)count, err);
        }
        if (rc == 0 && ready[0].revents != 0 && !typed(console, fd, data)) {
            return 0;
        }
    }
    return rc == -EPIPE ? 0 : rc;
}

/* Where a further serial port leads. A pty is a raw line already. */
static int open_line(const struct vm *vm, const char *name, const json_t *device, int *out_fd,
                     struct error *err)
{
    char path[PATH_MAX], file[NAME_MAX + 8];
    const char *to = vm_property(device, "to");
    if (to != NULL && strncmp(to, "unix:", 5) == 0) {
        return unix_socket_connect(to + 5, "serial port's socket", out_fd, err);
    }
    if (to != NULL && strcmp(to, "pty") != 0) {
        return error_set(err, EINVAL, "device %.60s: leads to %s, where nobody can type", name, to);
    }
    (void)snprintf(file, sizeof(file), "%.100s.pty", name);
    vm_run_path(vm, file, path);
    *out_fd = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (*out_fd < 0 && errno == ENOENT) {
        return error_set(err, ENOENT, "device %.60s: the VM has it from its next start on", name);
    }
    return *out_fd >= 0 ? 0 : error_set_errno(err, errno, "device %.60s: %s", name, path);
}

/* A line serves one client; another one would wait without a word. */
static int lock_line(const struct vm *vm, const char *name, int *out_fd, struct error *err)
{
    char path[PATH_MAX], file[NAME_MAX + 16];
    (void)snprintf(file, sizeof(file), "%.100s%s", name != NULL ? name : "console",
                   name != NULL ? ".pty.lock" : ".lock");
    vm_run_path(vm, file, path);
    AUTO_CLOSE int lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (lock < 0 || flock(lock, LOCK_EX | LOCK_NB) < 0) {
        return errno == EWOULDBLOCK ? error_set(err, EBUSY, "vm %s: somebody else has its %s",
                                                vm->name, name != NULL ? name : "console")
                                    : error_set_errno(err, errno, "vm %s: %s", vm->name, path);
    }
    *out_fd = TAKE_FD(lock);
    return 0;
}

/* The console, or the line of the serial device that the request names. */
static int console_session(const struct vm *vm, const json_t *request, int fd, struct error *err)
{
    char path[PATH_MAX];
    const char *name = vm_property(request, "device");
    const json_t *device =
        name != NULL ? json_object_get(json_object_get(vm->document, "devices"), name) : NULL;
    if (name != NULL && !instance_is_device(device, "serial")) {
        return error_set(err, ENOENT, "vm %s: has no serial port %.60s", vm->name, name);
    }
    if (vm_process_find(vm->place, vm->name) == 0) {
        return error_set(err, ESRCH, "vm %s: it does not run", vm->name);
    }
    AUTO_CLOSE int lock = -1;
    AUTO_CLOSE int line = -1;
    AUTO_FREE uint8_t *data = malloc(SESSION_MAX_PAYLOAD);
    int rc =
        data == NULL ? error_set_errno(err, ENOMEM, "console") : lock_line(vm, name, &lock, err);
    if (rc == 0 && name != NULL) {
        rc = open_line(vm, name, device, &line, err);
    } else if (rc == 0) {
        vm_run_path(vm, "console.sock", path);
        rc = unix_socket_connect(path, "console", &line, err);
    }
    const struct console console = {.vm = vm, .fd = line, .has_size = name == NULL};
    return rc < 0 ? rc : serve_console(&console, fd, data, err);
}

/* What the file has from 'at' on. */
static int send_file(int client, int file, off_t *at, uint8_t *data, struct error *err)
{
    ssize_t count;
    int rc = 0;
    while (rc == 0 && (count = pread(file, data, SESSION_MAX_PAYLOAD, *at)) > 0) {
        rc = session_send(client, SESSION_STDOUT, data, (size_t)count, err);
        *at += count;
    }
    return rc;
}

/* The log was full and began anew: what was not sent yet is at the end of the old one. */
static int follow(const struct vm *vm, int client, int file, int old, off_t at, uint8_t *data,
                  struct error *err)
{
    int rc = 0;
    while (rc == 0) {
        struct stat info;
        struct pollfd ready = {.fd = client, .events = POLLIN};
        bool is_over = vm_process_find(vm->place, vm->name) == 0;
        if (fstat(file, &info) == 0 && info.st_size < at) {
            rc = send_file(client, old, &at, data, err);
            at = 0;
        }
        if (rc == 0) {
            rc = send_file(client, file, &at, data, err);
        }
        if (is_over || rc < 0) {
            break;
        }
        enum session_frame type;
        size_t size;
        if (poll(&ready, 1, FOLLOW_MS) > 0 &&
            session_receive(client, &type, data, &size, NULL) < 0) {
            return 0; /* it is gone */
        }
    }
    return rc;
}

static int logs_session(const struct vm *vm, const json_t *request, int fd, struct error *err)
{
    char path[PATH_MAX];
    off_t old_at = 0;
    off_t at = 0;
    vm_state_path(vm, "logs/console.log.1", path);
    AUTO_CLOSE int old = open(path, O_RDONLY | O_CLOEXEC);
    vm_state_path(vm, "logs/console.log", path);
    AUTO_CLOSE int file = open(path, O_RDONLY | O_CLOEXEC);
    AUTO_FREE uint8_t *data = malloc(SESSION_MAX_PAYLOAD);
    int rc = data == NULL ? error_set_errno(err, ENOMEM, "logs")
                          : session_send_control(fd, json_pack("{s:b}", "started", 1), err);
    if (rc == 0 && old >= 0) {
        rc = send_file(fd, old, &old_at, data, err);
    }
    if (rc == 0 && file >= 0) {
        rc = send_file(fd, file, &at, data, err);
    }
    if (rc == 0 && file >= 0 && json_is_true(json_object_get(request, "follow"))) {
        rc = follow(vm, fd, file, old, at, data, err);
    }
    return rc < 0 ? rc : session_send_control(fd, json_pack("{s:i}", "exit", 0), err);
}

/* Has the client left? What it has sent already is nobody's business here. */
static bool is_left(int fd, int wait_ms)
{
    struct pollfd client = {.fd = fd};
    return poll(&client, 1, wait_ms) > 0 && (client.revents & (POLLHUP | POLLERR)) != 0;
}

/* Since it was started; a VM without a process is as old as can be. */
static int64_t age_ms(const struct vm *vm)
{
    char path[PATH_MAX];
    struct stat info;
    vm_run_path(vm, "pid", path);
    if (stat(path, &info) < 0) {
        return INT64_MAX;
    }
    int64_t started_ns = info.st_mtim.tv_sec * 1000000000ll + info.st_mtim.tv_nsec;
    return ((int64_t)clock_realtime_ns() - started_ns) / 1000000;
}

/* In a guest that is still booting the agent is waited for. */
static int agent_wait_session(const struct vm *vm, const json_t *request, int fd, struct error *err)
{
    char folder[PATH_MAX];
    vm_run_path(vm, "vsock", folder);
    for (;;) {
        int rc = agent_session(folder, request, fd, AGENT_TIMEOUT_MS, err);
        if (rc != -ECONNREFUSED || age_ms(vm) > BOOT_TIMEOUT_MS || is_left(fd, AGENT_RETRY_MS) ||
            vm_process_find(vm->place, vm->name) == 0) {
            return rc;
        }
    }
}

int vm_session(const struct place *place, const json_t *document, const json_t *request, int fd,
               struct error *err)
{
    struct vm vm;
    vm_init(&vm, place, NULL, document);
    const char *what = vm_property(request, "do");
    what = what != NULL ? what : "";
    if (strcmp(what, "console") == 0) {
        return console_session(&vm, request, fd, err);
    }
    if (strcmp(what, "logs") == 0) {
        return logs_session(&vm, request, fd, err);
    }
    if (strcmp(what, "exec") == 0 || strcmp(what, "push") == 0 || strcmp(what, "pull") == 0) {
        if (vm_process_find(place, vm.name) == 0) {
            return error_set(err, ESRCH, "vm %s: it does not run", vm.name);
        }
        return agent_wait_session(&vm, request, fd, err);
    }
    return error_set(err, EINVAL, "session: %s: exec, console, push, pull or logs", what);
}
