#include "manager/instance/vm/guest.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/host/event_loop.h"
#include "base/host/file.h"
#include "manager/instance/vm/agent.h"
#include "session/frames.h"

#define FREEZE_TIMEOUT_MS   5000
#define TIME_TIMEOUT_MS     1000
#define INFO_TIMEOUT_MS     5000
#define IDENTITY_TIMEOUT_MS 5000  /* until an agent answers */
#define KEYS_TIMEOUT_MS     60000 /* a slow guest makes keys of RSA */
#define PROGRAM_TIMEOUT_MS  10000
#define RENEW_TIMEOUT_MS    60000 /* as long as a guest may take to boot */

int guest_ask(const struct vm *vm, json_t *request, int timeout_ms, json_t **out_answer,
              struct error *err)
{
    char folder[PATH_MAX];
    json_t *answer = NULL;
    vm_run_path(vm, "vsock", folder);
    int rc = request == NULL ? error_set_errno(err, ENOMEM, "request to the guest")
                             : agent_call(folder, request, timeout_ms, &answer, err);
    json_decref(request);
    if (rc == 0 && out_answer != NULL) {
        *out_answer = json_incref(answer);
    }
    json_decref(answer);
    return rc;
}

bool guest_has_agent(const struct vm *vm)
{
    /* Where none is, that is said at once; one that is there may be slow. */
    return guest_ask(vm, json_pack("{s:s}", "do", "info"), INFO_TIMEOUT_MS, NULL, NULL) == 0;
}

int guest_freeze(const struct vm *vm)
{
    char folder[PATH_MAX];
    json_t *answer = NULL;
    json_t *request = json_pack("{s:s}", "do", "freeze");
    int fd = -1;
    vm_run_path(vm, "vsock", folder);
    int rc = agent_hold(folder, request, FREEZE_TIMEOUT_MS, &answer, &fd, NULL);
    json_decref(request);
    json_decref(answer);
    return rc == 0 ? fd : -1;
}

void guest_thaw(const struct vm *vm, int fd)
{
    if (fd >= 0) {
        /* If it fails, the end of the connection does it. */
        error_ignore(
            guest_ask(vm, json_pack("{s:s}", "do", "thaw"), FREEZE_TIMEOUT_MS, NULL, NULL));
        close(fd);
    }
}

void guest_set_time(const struct vm *vm)
{
    json_t *request = json_pack("{s:s, s:I}", "do", "time", "ns", (json_int_t)clock_realtime_ns());
    error_ignore(guest_ask(vm, request, TIME_TIMEOUT_MS, NULL, NULL));
}

/* Those of its cards that have another MAC than the old one's of the same name. */
static json_t *other_cards(const struct vm *vm, const struct vm *old)
{
    const json_t *before = json_object_get(old->document, "devices");
    json_t *cards = json_array();
    const char *name;
    json_t *device;
    json_object_foreach(json_object_get(vm->document, "devices"), name, device)
    {
        const char *type = vm_property(device, "type");
        const char *from = vm_property(json_object_get(before, name), "mac");
        const char *to = vm_property(device, "mac");
        if (type != NULL && strcmp(type, "nic") == 0 && from != NULL && to != NULL &&
            strcmp(from, to) != 0) {
            (void)json_array_append_new(cards, json_pack("{s:s, s:s}", "from", from, "to", to));
        }
    }
    return cards;
}

static json_t *make_identity(const struct vm *vm, const struct vm *old)
{
    const char *uuid = json_string_value(json_object_get(vm->document, "uuid"));
    char id[33] = "";
    size_t used = 0;
    for (const char *c = uuid != NULL ? uuid : ""; *c != '\0' && used < sizeof(id) - 1; c++) {
        if (*c != '-') {
            id[used++] = *c;
        }
    }
    json_t *request = json_pack("{s:s, s:s, s:b, s:o}", "do", "identity", "hostname",
                                vm_hostname(vm), "host_keys", 1, "cards", other_cards(vm, old));
    if (used == 32) {
        json_object_set_new(request, "machine_id", json_string(id));
    }
    return request;
}

/* 'request' is taken over. */
static int give(const struct vm *vm, json_t *request, struct error *err)
{
    json_t *answer = NULL;
    int64_t end_ms = clock_monotonic_ms() + IDENTITY_TIMEOUT_MS;
    int rc;
    /* A guest that goes on after a restore takes a moment to answer. */
    while ((rc = guest_ask(vm, json_incref(request), KEYS_TIMEOUT_MS, &answer, err)) ==
               -ECONNREFUSED &&
           clock_monotonic_ms() < end_ms) {
        const struct timespec pause = {.tv_nsec = 5000000};
        (void)nanosleep(&pause, NULL);
    }
    size_t wanted = json_array_size(json_object_get(request, "cards"));
    if (rc == 0 && json_integer_value(json_object_get(answer, "cards")) != (json_int_t)wanted) {
        rc = error_set(err, EOPNOTSUPP,
                       "the guest's hull-agent is an older one: its cards keep their addresses");
    }
    json_decref(request);
    json_decref(answer);
    return rc;
}

int guest_give_identity(const struct vm *vm, const struct vm *old, struct error *err)
{
    return give(vm, make_identity(vm, old), err);
}

int guest_give_cards(const struct vm *vm, const json_t *before, struct error *err)
{
    const struct vm old = {.document = before};
    json_t *cards = other_cards(vm, &old);
    if (json_array_size(cards) == 0) {
        json_decref(cards);
        return 0;
    }
    return give(vm, json_pack("{s:s, s:o}", "do", "identity", "cards", cards), err);
}

static int make_mark(const struct vm *vm, const char *name, struct error *err)
{
    char path[PATH_MAX];
    vm_state_path(vm, name, path);
    AUTO_CLOSE int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    return fd < 0 ? error_set_errno(err, errno, "making %s", path) : 0;
}

int guest_renew_later(const struct vm *vm, struct error *err)
{
    return make_mark(vm, VM_RENEW, err);
}

int guest_give_keys_later(const struct vm *vm, struct error *err)
{
    return make_mark(vm, VM_KEYS, err);
}

bool guest_is_to_renew(const struct vm *vm)
{
    char path[PATH_MAX];
    vm_state_path(vm, VM_RENEW, path);
    return access(path, F_OK) == 0;
}

/* Of a guest that boots. */
static void await_agent(const struct vm *vm, const struct job *job)
{
    int64_t end_ms = clock_monotonic_ms() + RENEW_TIMEOUT_MS;
    while (!guest_has_agent(vm) && clock_monotonic_ms() < end_ms && !job_is_cancelled(job)) {
        const struct timespec pause = {.tv_nsec = 100000000};
        (void)nanosleep(&pause, NULL);
    }
}

void guest_renew(const struct vm *vm, struct job *job)
{
    char path[PATH_MAX];
    if (!guest_is_to_renew(vm)) {
        return;
    }
    job_progress(job, "giving the guest a name and keys of its own", 0, 0);
    await_agent(vm, job);
    if (guest_give_identity(vm, vm, NULL) < 0) {
        job_progress(job, "the guest has no hull-agent: it keeps its name and keys", 0, 0);
    }
    vm_state_path(vm, VM_RENEW, path);
    (void)unlink(path); /* it is tried once */
}

/* A program in the guest, on a thread that ends with its socket. */
struct program {
    const struct vm *vm;
    json_t *request;
    int frames;
};

static void *run_program(void *ctx)
{
    struct program *program = ctx;
    char folder[PATH_MAX];
    vm_run_path(program->vm, "vsock", folder);
    /* How it ended is in its frames. */
    error_ignore(
        agent_session(folder, program->request, program->frames, PROGRAM_TIMEOUT_MS, NULL));
    (void)shutdown(program->frames, SHUT_RDWR);
    return NULL;
}

/* Its exit status; -1: none came in time. What it writes is lost. */
static int await_exit(int fd)
{
    AUTO_FREE uint8_t *data = malloc(SESSION_MAX_PAYLOAD);
    int64_t end_ms = clock_monotonic_ms() + PROGRAM_TIMEOUT_MS;
    int status = -1;
    int64_t left_ms;
    while (data != NULL && status < 0 && (left_ms = end_ms - clock_monotonic_ms()) > 0) {
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        enum session_frame type;
        size_t size;
        if (poll(&ready, 1, (int)left_ms) <= 0 ||
            session_receive(fd, &type, data, &size, NULL) < 0) {
            break;
        }
        json_t *control =
            type == SESSION_CONTROL ? json_loadb((const char *)data, size, 0, NULL) : NULL;
        json_t *code = json_object_get(control, "exit");
        status = json_is_integer(code) ? (int)json_integer_value(code) : -1;
        json_decref(control);
    }
    return status;
}

/* Takes the request over. */
static int run(const struct vm *vm, json_t *request)
{
    int pair[2];
    pthread_t thread;
    int status = -1;
    if (request != NULL && socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0) {
        struct program program = {.vm = vm, .request = request, .frames = pair[0]};
        if (pthread_create(&thread, NULL, run_program, &program) == 0) {
            status = await_exit(pair[1]);
            (void)shutdown(pair[1], SHUT_RDWR); /* who is late is not waited for */
            (void)pthread_join(thread, NULL);
        }
        close(pair[0]);
        close(pair[1]);
    }
    json_decref(request);
    return status;
}

int guest_online_cpus(const struct vm *vm, uint32_t count)
{
    /* The first CPU has no switch as a rule. */
    static const char script[] = "tries=60\n"
                                 "while [ $tries -gt 0 ]; do\n"
                                 "  count=0\n"
                                 "  for cpu in /sys/devices/system/cpu/cpu[0-9]*; do\n"
                                 "    state=1\n"
                                 "    [ -e $cpu/online ] && read state <$cpu/online\n"
                                 "    [ $state = 1 ] || { echo 1 >$cpu/online && state=1; }\n"
                                 "    [ $state = 1 ] && count=$((count + 1))\n"
                                 "  done\n"
                                 "  [ $count -ge $1 ] && exit 0\n"
                                 "  tries=$((tries - 1)); sleep 0.05\n"
                                 "done >/dev/null 2>&1 </dev/null\n"
                                 "exit 1\n";
    char text[16];
    (void)snprintf(text, sizeof(text), "%u", count);
    return run(vm, json_pack("{s:s, s:[s, s, s, s, s]}", "do", "exec", "command", "/bin/sh", "-c",
                             script, "sh", text)) == 0
               ? 0
               : -EIO;
}

void guest_give_keys(const struct vm *vm, struct job *job)
{
    static const char script[] = "umask 077 && mkdir -p /root/.ssh && "
                                 "printf '%s\\n' \"$@\" >>/root/.ssh/authorized_keys";
    char path[PATH_MAX];
    vm_state_path(vm, VM_KEYS, path);
    if (access(path, F_OK) < 0) {
        return;
    }
    json_t *command = json_pack("[s, s, s, s]", "/bin/sh", "-c", script, "sh");
    json_t *keys = instance_values(vm->document, "ssh_keys");
    bool has_keys = json_array_size(keys) != 0;
    (void)json_array_extend(command, keys);
    json_decref(keys);
    json_t *request = json_pack("{s:s, s:o}", "do", "exec", "command", command);
    if (has_keys) {
        job_progress(job, "giving the guest its keys", 0, 0);
        await_agent(vm, job);
    }
    if (!has_keys) {
        json_decref(request);
    } else if (run(vm, request) != 0) {
        job_progress(job, "the guest has not taken its ssh_keys", 0, 0);
    }
    (void)unlink(path); /* it is tried once */
}
