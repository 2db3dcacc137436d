#include "manager/instance/vm/limits.h"

#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/core/bits.h"
#include "base/core/size.h"
#include "base/host/event_loop.h"
#include "manager/instance/vm/guest.h"
#include "manager/instance/vm/process.h"

#define MOST_CPUS         64
#define MOST_MEMORY       (1ull << 40)
#define MEMORY_STEP       (2ull << 20)
#define DEFAULT_MEMORY    (512ull << 20)
#define DEFAULT_TIMES     4 /* so much more may be had while it runs, if nothing is said of it */
#define CHANGE_TIMEOUT_MS 5000
#define GUEST_TIMEOUT_MS  5000
#define STEP_NS           20000000

static int read_number(const struct vm *vm, const char *key, uint64_t fallback, uint64_t *out_value,
                       struct error *err)
{
    const char *text = vm_config(vm, key);
    *out_value = fallback;
    int rc = text != NULL ? number_parse(text, 1, MOST_CPUS, out_value, err) : 0;
    return rc < 0 ? error_prefix(err, rc, "vm %s: %s", vm->name, key) : 0;
}

static int read_size(const struct vm *vm, const char *key, uint64_t fallback, uint64_t *out_bytes,
                     struct error *err)
{
    const char *text = vm_config(vm, key);
    *out_bytes = fallback;
    int rc = text != NULL ? size_parse(text, 1ull << 20, out_bytes, err) : 0;
    return rc < 0 ? error_prefix(err, rc, "vm %s: %s", vm->name, key) : 0;
}

int vm_limits_read(const struct vm *vm, struct vm_limits *out_limits, struct error *err)
{
    uint64_t cpus, cpus_max, bytes, bytes_max;
    long of_host = sysconf(_SC_NPROCESSORS_ONLN);
    int rc = read_number(vm, "cpus", 1, &cpus, err);
    if (rc == 0) {
        uint64_t more = MIN(cpus * DEFAULT_TIMES, (uint64_t)MAX(of_host, 1));
        rc = read_number(vm, "cpus_max", MIN(more, (uint64_t)MOST_CPUS), &cpus_max, err);
    }
    if (rc == 0) {
        rc = read_size(vm, "memory", DEFAULT_MEMORY, &bytes, err);
    }
    if (rc == 0) {
        /* Huge pages are taken at the start, all of them. */
        uint64_t times = vm_is_on(vm_config(vm, "huge_pages")) ? 1 : DEFAULT_TIMES;
        rc = read_size(vm, "memory_max", MIN(bytes, MOST_MEMORY / times) * times, &bytes_max, err);
    }
    if (rc == 0) {
        bytes_max = MAX(bytes, MIN(bytes_max, MOST_MEMORY));
        *out_limits = (struct vm_limits){
            .cpus = (uint32_t)cpus,
            .cpus_max = (uint32_t)MAX(cpus, cpus_max),
            .memory_bytes = bytes,
            .memory_max_bytes = bytes + align_down(bytes_max - bytes, MEMORY_STEP),
        };
    }
    return rc;
}

static uint64_t number_of(const json_t *status, const char *name)
{
    json_int_t value = json_integer_value(json_object_get(status, name));
    return value > 0 ? (uint64_t)value : 0;
}

static bool has_come_to(const json_t *status, const struct vm_limits *wanted)
{
    return number_of(status, "vcpus") == wanted->cpus &&
           number_of(status, "memory_present_bytes") == wanted->memory_bytes;
}

/* Guests take and give in their own time, and need not. */
static bool await_guest(struct control_client *client, const struct vm_limits *wanted)
{
    int64_t end_ms = clock_monotonic_ms() + GUEST_TIMEOUT_MS;
    bool is_there = false;
    while (!is_there && clock_monotonic_ms() < end_ms) {
        const struct timespec pause = {.tv_nsec = STEP_NS};
        json_t *status = NULL;
        if (vm_control_ask(client, json_pack("{s:s}", "do", "status"), -1, &status, NULL) < 0) {
            return false;
        }
        const char *state = vm_property(status, "state");
        bool is_paused = state != NULL && strcmp(state, "paused") == 0;
        is_there = has_come_to(status, wanted);
        json_decref(status);
        if (is_paused) {
            break;
        }
        if (!is_there) {
            (void)nanosleep(&pause, NULL);
        }
    }
    return is_there;
}

static bool order(struct control_client *client, const char *verb, const char *name, uint64_t value)
{
    return vm_control_ask(client, json_pack("{s:s, s:I}", "do", verb, name, (json_int_t)value), -1,
                          NULL, NULL) == 0;
}

static int change(const struct vm *vm, struct control_client *client, struct vm_limits *limits,
                  bool *out_waits, struct error *err)
{
    json_t *status = NULL;
    int rc = vm_control_ask(client, json_pack("{s:s}", "do", "status"), -1, &status, err);
    uint64_t cpus = number_of(status, "vcpus"), cpus_max = number_of(status, "vcpus_max");
    uint64_t bytes_max = number_of(status, "memory_max_bytes");
    bool is_there = rc == 0 && has_come_to(status, limits);
    json_decref(status);
    if (rc < 0 || is_there) {
        return rc;
    }
    if (limits->cpus > cpus_max || limits->memory_bytes > bytes_max) {
        *out_waits = true;
        limits->cpus = (uint32_t)MIN(limits->cpus, cpus_max);
        limits->memory_bytes = MIN(limits->memory_bytes, bytes_max);
    }
    bool is_done = order(client, "memory", "size", limits->memory_bytes);
    is_done = order(client, "cpus", "count", limits->cpus) && is_done;
    if (is_done && limits->cpus > cpus) {
        is_done = guest_online_cpus(vm, limits->cpus) == 0;
    }
    *out_waits = *out_waits || !is_done || !await_guest(client, limits);
    return 0;
}

int vm_limits_change(const struct vm *vm, bool *out_waits, struct error *err)
{
    struct control_client client;
    struct vm_limits limits;
    int rc = vm_limits_read(vm, &limits, err);
    if (rc == 0) {
        rc = vm_control_open(vm->place, vm->name, CHANGE_TIMEOUT_MS, &client, err);
    }
    if (rc == 0) {
        rc = change(vm, &client, &limits, out_waits, err);
        control_client_close(&client);
    }
    return rc;
}
