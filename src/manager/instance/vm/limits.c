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
#define GUEST_IDLE_MS     5000 /* so long after the last change a guest is given up */
#define GUEST_TIMEOUT_MS  30000
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

/* What it has was asked for, in the VM's own steps. */
static bool has_its_memory(const json_t *status)
{
    return number_of(status, "memory_present_bytes") == number_of(status, "memory_bytes");
}

static bool has_cpus(const json_t *status)
{
    return number_of(status, "vcpus_leaving") == 0;
}

/* Guests take and give in their own time, and need not. */
static bool await_guest(struct control_client *client, bool (*has_come)(const json_t *status))
{
    int64_t now_ms = clock_monotonic_ms(), end_ms = now_ms + GUEST_TIMEOUT_MS, moved_ms = now_ms;
    uint64_t cpus = 0, bytes = 0;
    bool is_there = false, is_over = false;
    while (!is_there && !is_over) {
        const struct timespec pause = {.tv_nsec = STEP_NS};
        json_t *status = NULL;
        if (vm_control_ask(client, json_pack("{s:s}", "do", "status"), -1, &status, NULL) < 0) {
            return false;
        }
        now_ms = clock_monotonic_ms();
        if (number_of(status, "vcpus") != cpus ||
            number_of(status, "memory_present_bytes") != bytes) {
            cpus = number_of(status, "vcpus");
            bytes = number_of(status, "memory_present_bytes");
            moved_ms = now_ms;
        }
        const char *state = vm_property(status, "state");
        is_there = has_come(status);
        is_over = now_ms >= end_ms || now_ms >= moved_ms + GUEST_IDLE_MS ||
                  (state != NULL && strcmp(state, "paused") == 0);
        json_decref(status);
        if (!is_there && !is_over) {
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

static bool change_cpus(const struct vm *vm, struct control_client *client, uint32_t now,
                        uint32_t wanted)
{
    if (now == wanted) {
        return true;
    }
    return order(client, "cpus", "count", wanted) &&
           (wanted < now || guest_online_cpus(vm, wanted) == 0) && await_guest(client, has_cpus);
}

/* A guest that is to have less than at its start gives back what has come since, and only then inflates its balloon: the pages of
 * that would be in the way. */
static bool change_memory(struct control_client *client, uint64_t now, uint64_t at_start,
                          uint64_t wanted)
{
    bool is_done =
        now <= at_start || wanted >= at_start ||
        (order(client, "memory", "size", at_start) && await_guest(client, has_its_memory));
    return order(client, "memory", "size", wanted) && is_done &&
           await_guest(client, has_its_memory);
}

static int change(const struct vm *vm, struct control_client *client,
                  const struct vm_limits *wanted, bool *out_waits, struct error *err)
{
    json_t *status = NULL;
    int rc = vm_control_ask(client, json_pack("{s:s}", "do", "status"), -1, &status, err);
    const struct vm_limits now = {
        .cpus = (uint32_t)(number_of(status, "vcpus") - number_of(status, "vcpus_leaving")),
        .cpus_max = (uint32_t)number_of(status, "vcpus_max"),
        .memory_bytes = number_of(status, "memory_bytes"),
        .memory_max_bytes = number_of(status, "memory_max_bytes"),
    };
    uint64_t at_start = number_of(status, "memory_start_bytes");
    json_decref(status);
    if (rc < 0) {
        return rc;
    }
    uint32_t cpus = MIN(wanted->cpus, now.cpus_max);
    uint64_t bytes = MIN(wanted->memory_bytes, now.memory_max_bytes);
    bool is_done = cpus == wanted->cpus && bytes == wanted->memory_bytes;
    is_done = change_cpus(vm, client, now.cpus, cpus) && is_done;
    is_done =
        (bytes == now.memory_bytes || change_memory(client, now.memory_bytes, at_start, bytes)) &&
        is_done;
    *out_waits = *out_waits || !is_done;
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
