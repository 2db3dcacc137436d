#include "manager/instance/vm/status.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/host/file.h"
#include "manager/instance/vm/places.h"
#include "manager/instance/vm/process.h"
#include "manager/network/network.h"

#define ANSWER_TIMEOUT_MS 50

bool vm_has_failed(const struct place *place, const char *name, char *why, size_t why_size)
{
    static const char *const reasons[] = {
        [1] = "the host failed it: see logs/vm.log",
        [3] = "the guest's CPU came to a state without a way out (triple fault): see logs/vm.log",
        [4] = "a device stopped it, as the guest broke its protocol: see logs/vm.log",
    };
    char path[PATH_MAX];
    struct stat info;
    int status = vm_process_status(place, name);
    place_run_path(place, "instances", name, "pid", path);
    if (status == 0 || (status < 0 && stat(path, &info) < 0)) {
        return false;
    }
    if (status < 0) {
        (void)snprintf(why, why_size, "its process was killed");
    } else if ((size_t)status < ARRAY_COUNT(reasons) && reasons[status] != NULL) {
        (void)snprintf(why, why_size, "%s", reasons[status]);
    } else {
        (void)snprintf(why, why_size, "it ended with status %d", status);
    }
    return true;
}

/* NULL: it does not answer. */
static json_t *ask(struct control_client *client, const char *verb)
{
    json_t *answer = NULL;
    return vm_control_ask(client, json_pack("{s:s}", "do", verb), -1, &answer, NULL) == 0 ? answer
                                                                                          : NULL;
}

static enum instance_status status_of(const json_t *answer, char *why, size_t why_size)
{
    const char *state = json_string_value(json_object_get(answer, "state"));
    const char *reason = json_string_value(json_object_get(answer, "why"));
    (void)snprintf(why, why_size, "%s", reason != NULL ? reason : "");
    return state != NULL && strcmp(state, "paused") == 0 ? INSTANCE_PAUSED : INSTANCE_RUNNING;
}

enum instance_status vm_status(const struct place *place, const char *name, char *why,
                               size_t why_size)
{
    struct control_client client;
    (void)snprintf(why, why_size, "%s", "");
    if (vm_process_find(place, name) == 0) {
        return vm_has_failed(place, name, why, why_size) ? INSTANCE_ERROR : INSTANCE_STOPPED;
    }
    if (vm_control_open(place, name, ANSWER_TIMEOUT_MS, &client, NULL) < 0) {
        return INSTANCE_STARTING;
    }
    json_t *answer = ask(&client, "status");
    control_client_close(&client);
    enum instance_status status = status_of(answer, why, why_size);
    json_decref(answer);
    return status;
}

static void add_process(json_t *info, pid_t pid)
{
    char path[64];
    unsigned long long user, system, resident;
    (void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    FILE *file = fopen(path, "re");
    /* The name in parentheses is hull-vmm, without any. */
    if (file != NULL &&
        fscanf(file, "%*d %*s %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", &user,
               &system) == 2) {
        uint64_t tick_ns = 1000000000ull / (uint64_t)sysconf(_SC_CLK_TCK);
        json_object_set_new(info, "cpu_time_ns",
                            json_integer((json_int_t)((user + system) * tick_ns)));
    }
    if (file != NULL) {
        fclose(file);
    }
    (void)snprintf(path, sizeof(path), "/proc/%d/statm", (int)pid);
    file = fopen(path, "re");
    if (file != NULL && fscanf(file, "%*u %llu", &resident) == 1) {
        json_object_set_new(info, "memory_used_bytes",
                            json_integer((json_int_t)(resident * (uint64_t)sysconf(_SC_PAGESIZE))));
    }
    if (file != NULL) {
        fclose(file);
    }
}

static void add_started_at(json_t *info, const struct place *place, const char *name)
{
    char path[PATH_MAX];
    char text[32];
    struct stat pid_file;
    struct tm when;
    place_run_path(place, "instances", name, "pid", path);
    if (stat(path, &pid_file) == 0 && gmtime_r(&pid_file.st_mtime, &when) != NULL &&
        strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &when) != 0) {
        json_object_set_new(info, "started_at", json_string(text));
    }
}

static void add_addresses(json_t *info, const struct vm *vm)
{
    json_t *ipv4 = json_array();
    json_t *ipv6 = json_array();
    const char *name;
    json_t *device;
    json_object_foreach(json_object_get(vm->document, "devices"), name, device)
    {
        const char *type = vm_property(device, "type");
        const char *network = vm_property(device, "network");
        const char *mac = vm_property(device, "mac");
        json_t *addresses = NULL;
        size_t index;
        json_t *address;
        if (type == NULL || strcmp(type, "nic") != 0) {
            continue;
        }
        if (mac != NULL && network_addresses(vm->place, network != NULL ? network : "default", mac,
                                             &addresses, NULL) == 0) {
            json_array_foreach(addresses, index, address)
            {
                const char *text = json_string_value(address);
                json_array_append(text != NULL && strchr(text, ':') != NULL ? ipv6 : ipv4, address);
            }
            json_decref(addresses);
        }
    }
    json_object_set_new(info, "ipv4", ipv4);
    json_object_set_new(info, "ipv6", ipv6);
}

/* A device's counters under their own name: 'object' is that of the VM's process, with its number. */
static void add_counters(json_t *list, const char *name, const json_t *stats, const char *object,
                         unsigned number, const char *const keys[2])
{
    char key[32];
    (void)snprintf(key, sizeof(key), "%s.%u", object, number);
    const json_t *counters = json_object_get(stats, key);
    if (counters != NULL) {
        json_array_append_new(list, json_pack("{s:s, s:O?, s:O?}", "name", name, keys[0],
                                              json_object_get(counters, keys[0]), keys[1],
                                              json_object_get(counters, keys[1])));
    }
}

static void add_traffic(json_t *info, const struct vm *vm, const json_t *stats)
{
    static const char *const disk_keys[] = {"read_bytes", "written_bytes"};
    static const char *const nic_keys[] = {"received_bytes", "sent_bytes"};
    json_t *disks = json_array();
    json_t *nics = json_array();
    struct vm_places places = {0};
    const char *name;
    json_t *device;
    if (vm_places_load(vm, &places, NULL) == 0) {
        json_object_foreach(json_object_get(vm->document, "devices"), name, device)
        {
            const char *type = vm_property(device, "type");
            if (type != NULL && strcmp(type, "disk") == 0) {
                add_counters(disks, name, stats, "virtio-blk", vm_places_index(&places, true, name),
                             disk_keys);
            } else if (type != NULL && strcmp(type, "nic") == 0) {
                add_counters(nics, name, stats, "virtio-net", vm_places_index(&places, false, name),
                             nic_keys);
            }
        }
    }
    vm_places_fini(&places);
    json_object_set_new(info, "disk", disks);
    json_object_set_new(info, "network", nics);
}

/* What it has now, and what it may get while it runs. */
static void add_limits(json_t *info, const json_t *status)
{
    static const char *const names[][2] = {{"cpus", "vcpus"},
                                           {"cpus_max", "vcpus_max"},
                                           {"memory_bytes", "memory_present_bytes"},
                                           {"memory_max_bytes", "memory_max_bytes"}};
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        json_t *value = json_object_get(status, names[i][1]);
        if (value != NULL) {
            json_object_set(info, names[i][0], value);
        }
    }
}

int vm_info(const struct place *place, const json_t *document, json_t **out_info, struct error *err)
{
    struct vm vm;
    struct control_client client;
    vm_init(&vm, place, NULL, document);
    pid_t pid = vm_process_find(place, vm.name);
    json_t *info = json_object();
    if (info == NULL) {
        return error_set_errno(err, ENOMEM, "vm %s", vm.name);
    }
    *out_info = info;
    if (pid == 0) {
        return 0;
    }
    json_object_set_new(info, "pid", json_integer(pid));
    add_started_at(info, place, vm.name);
    add_addresses(info, &vm);
    if (vm_control_open(place, vm.name, ANSWER_TIMEOUT_MS, &client, NULL) < 0) {
        return 0;
    }
    json_t *status = ask(&client, "status");
    json_t *stats = status != NULL ? ask(&client, "stats") : NULL;
    control_client_close(&client);
    pid_t vmm = (pid_t)json_integer_value(json_object_get(status, "pid"));
    if (vmm > 0) {
        add_process(info, vmm);
        json_object_set(info, "engine", json_object_get(status, "engine"));
        add_limits(info, status);
    }
    if (stats != NULL) {
        json_object_set(info, "counters", stats);
        add_traffic(info, &vm, stats);
    }
    json_decref(status);
    json_decref(stats);
    return 0;
}
