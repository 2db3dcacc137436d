#include "manager/instance/vm/guest.h"

#include <errno.h>
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
#define PROGRAM_TIMEOUT_MS  10000
#define IDENTITY_TIMEOUT_MS 5000

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
    return guest_ask(vm, json_pack("{s:s}", "do", "info"), TIME_TIMEOUT_MS, NULL, NULL) == 0;
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

int guest_give_identity(const struct vm *vm, struct error *err)
{
    const char *uuid = json_string_value(json_object_get(vm->document, "uuid"));
    char id[33] = "";
    size_t used = 0;
    for (const char *c = uuid != NULL ? uuid : ""; *c != '\0' && used < sizeof(id) - 1; c++) {
        if (*c != '-') {
            id[used++] = *c;
        }
    }
    json_t *request =
        json_pack("{s:s, s:s, s:b}", "do", "identity", "hostname", vm_hostname(vm), "host_keys", 1);
    if (used == 32) {
        json_object_set_new(request, "machine_id", json_string(id));
    }
    int64_t end_ms = clock_monotonic_ms() + IDENTITY_TIMEOUT_MS;
    int rc;
    /* A guest that goes on after a restore takes a moment to answer. */
    while ((rc = guest_ask(vm, json_incref(request), IDENTITY_TIMEOUT_MS, NULL, err)) ==
               -ECONNREFUSED &&
           clock_monotonic_ms() < end_ms) {
        const struct timespec pause = {.tv_nsec = 20000000};
        (void)nanosleep(&pause, NULL);
    }
    json_decref(request);
    return rc;
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

int guest_change_mac(const struct vm *vm, const char *from, const char *to, struct error *err)
{
    static const char script[] =
        "for card in /sys/class/net/*; do\n"
        "  if [ \"$(cat $card/address)\" = \"$1\" ]; then\n"
        "    name=${card##*/}\n"
        "    ip link set dev $name down && ip link set dev $name address \"$2\" || exit 1\n"
        "    ip addr flush dev $name; ip link set dev $name up\n"
        "    networkctl reconfigure $name || ifup --force $name || dhclient $name || udhcpc -q -n -i $name\n"
        "    exit 0\n"
        "  fi\n"
        "done >/dev/null 2>&1 </dev/null\n"
        "exit 1\n";
    int status = run(vm, json_pack("{s:s, s:[s, s, s, s, s, s]}", "do", "exec", "command",
                                   "/bin/sh", "-c", script, "sh", from, to));
    return status == 0
               ? 0
               : error_set(err, EIO, "vm %s: its card %s keeps this address", vm->name, from);
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
