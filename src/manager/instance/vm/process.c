#include "manager/instance/vm/process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/host/event_loop.h"
#include "base/host/file.h"
#include "base/host/pid_file.h"
#include "base/host/program.h"

#define START_TIMEOUT_MS  30000
#define ANSWER_TIMEOUT_MS 10000
#define CANCEL_POLL_MS    200

static int read_number(const char *path)
{
    char text[24] = "";
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    ssize_t count = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
    char *end;
    long number = count > 0 ? strtol(text, &end, 10) : -1;
    return count > 0 && *end == '\n' && number >= 0 && number <= INT_MAX ? (int)number : -1;
}

pid_t vm_process_find(const struct place *place, const char *name)
{
    char path[PATH_MAX];
    place_run_path(place, "instances", name, "pid", path);
    return pid_file_find(path);
}

int vm_process_status(const struct place *place, const char *name)
{
    char path[PATH_MAX];
    place_run_path(place, "instances", name, "status", path);
    return read_number(path);
}

int vm_control_open(const struct place *place, const char *name, int timeout_ms,
                    struct control_client *out_client, struct error *err)
{
    char path[PATH_MAX];
    place_run_path(place, "instances", name, "control.sock", path);
    int rc = vm_process_find(place, name) == 0
                 ? error_set(err, ESRCH, "vm %s: it does not run", name)
                 : control_client_open(path, out_client, err);
    struct timeval limit = {.tv_sec = timeout_ms / 1000, .tv_usec = timeout_ms % 1000 * 1000};
    if (rc == 0 &&
        (setsockopt(out_client->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) < 0 ||
         setsockopt(out_client->fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) < 0)) {
        rc = error_set_errno(err, errno, "vm %s: control socket", name);
        control_client_close(out_client);
    }
    return rc;
}

int vm_control_ask(struct control_client *client, json_t *request, int fd, json_t **out_answer,
                   struct error *err)
{
    static json_int_t last_id;
    json_int_t id = ++last_id;
    json_t *answer = NULL;
    if (request == NULL || json_object_set_new(request, "id", json_integer(id)) < 0) {
        json_decref(request);
        return error_set_errno(err, ENOMEM, "control request");
    }
    int rc = control_client_send(client, request, fd, err);
    json_decref(request);
    if (rc == 0) {
        rc = control_client_await(client, id, NULL, NULL, &answer, err);
    }
    if (rc == 0 && out_answer != NULL) {
        *out_answer = json_incref(answer);
    }
    json_decref(answer);
    return rc;
}

int vm_control(const struct vm *vm, const char *verb, json_t **out_answer, struct error *err)
{
    struct control_client client;
    int rc = vm_control_open(vm->place, vm->name, ANSWER_TIMEOUT_MS, &client, err);
    if (rc < 0) {
        return rc;
    }
    rc = vm_control_ask(&client, json_pack("{s:s}", "do", verb), -1, out_answer, err);
    control_client_close(&client);
    return rc < 0 ? error_prefix(err, rc, "vm %s: %s", vm->name, verb) : 0;
}

/* The last line that `hull boot` left, without "hull: ". */
static int why_it_ended(const struct vm *vm, int status, struct error *err)
{
    char path[PATH_MAX];
    char text[2048] = "";
    vm_run_path(vm, "boot.err", path);
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    off_t size = fd < 0 ? 0 : lseek(fd, 0, SEEK_END);
    off_t from = MAX(size - (off_t)sizeof(text) + 1, (off_t)0);
    ssize_t count = fd < 0 ? 0 : pread(fd, text, sizeof(text) - 1, from);
    while (count > 0 && text[count - 1] == '\n') {
        text[--count] = '\0';
    }
    const char *line = strrchr(text, '\n');
    line = line != NULL ? line + 1 : text;
    line += strncmp(line, "hull: ", 6) == 0 ? 6 : 0;
    int code = strstr(line, "locked") != NULL ? EBUSY : EIO;
    return line[0] != '\0'
               ? error_set(err, code, "vm %s: %s", vm->name, line)
               : error_set(err, EIO, "vm %s: hull boot ended with status %d", vm->name, status);
}

static void wait_a_little(void)
{
    struct timespec pause = {.tv_nsec = 2000000};
    (void)nanosleep(&pause, NULL);
}

/* Its control socket is there before the machine is, and answers when that may run. */
static int await_answer(const struct vm *vm, pid_t pid, struct error *err)
{
    int64_t deadline_ms = clock_monotonic_ms() + START_TIMEOUT_MS;
    for (;;) {
        struct control_client client;
        int status;
        if (waitpid(pid, &status, WNOHANG) == pid) {
            return why_it_ended(vm, WIFEXITED(status) ? WEXITSTATUS(status) : -1, err);
        }
        if (vm_control_open(vm->place, vm->name, START_TIMEOUT_MS, &client, NULL) == 0) {
            int rc = vm_control_ask(&client, json_pack("{s:s}", "do", "status"), -1, NULL, err);
            control_client_close(&client);
            if (rc == 0) {
                return 0;
            }
        }
        if (clock_monotonic_ms() >= deadline_ms) {
            (void)kill(pid, SIGKILL);
            (void)waitpid(pid, NULL, 0);
            return error_set(err, ETIMEDOUT, "vm %s: its process does not answer", vm->name);
        }
        wait_a_little();
    }
}

int vm_process_start(const struct vm *vm, const char *const *argv, struct error *err)
{
    char path[PATH_MAX];
    vm_run_path(vm, "status", path);
    if (unlink(path) < 0 && errno != ENOENT) {
        return error_set_errno(err, errno, "vm %s: %s", vm->name, path);
    }
    vm_run_path(vm, "boot.err", path);
    AUTO_CLOSE int words = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
    if (words < 0) {
        return error_set_errno(err, errno, "vm %s: %s", vm->name, path);
    }
    struct process_spec spec = {
        .program = "hull", .argv = argv, .stdout_fd = -1, .stderr_fd = words, .outlives_us = true};
    pid_t pid;
    int rc = process_spawn(&spec, false, &pid, err);
    return rc < 0 ? rc : await_answer(vm, pid, err);
}

int vm_process_await_end(const struct vm *vm, const struct job *job, int timeout_ms,
                         struct error *err)
{
    int64_t deadline_ms = clock_monotonic_ms() + timeout_ms;
    pid_t pid = vm_process_find(vm->place, vm->name);
    AUTO_CLOSE int process = pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
    while (vm_process_find(vm->place, vm->name) != 0) {
        int64_t left_ms = timeout_ms < 0 ? CANCEL_POLL_MS : deadline_ms - clock_monotonic_ms();
        if (left_ms <= 0) {
            return error_set(err, ETIMEDOUT, "vm %s: it does not end", vm->name);
        }
        if (job != NULL && job_is_cancelled(job)) {
            return error_set(err, ECANCELED, "vm %s: cancelled", vm->name);
        }
        struct pollfd end = {.fd = process, .events = POLLIN};
        if (poll(&end, 1, (int)MIN(left_ms, CANCEL_POLL_MS)) > 0) {
            wait_a_little(); /* its descriptors are closed by now, or at once */
        }
        (void)waitpid(pid, NULL, WNOHANG); /* if it is ours */
    }
    return 0;
}

void vm_process_kill(const struct vm *vm)
{
    pid_t pid = vm_process_find(vm->place, vm->name);
    if (pid > 0) {
        (void)kill(pid, SIGKILL); /* it may have ended at this moment */
    }
}
