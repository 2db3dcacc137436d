/* What the verbs of the control connection do: one table. */
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/host/log.h"
#include "migrate/save.h"
#include "vmm/disk_verbs.h"
#include "vmm/vmm.h"

static const char *state_name(const struct vmm *vmm)
{
    if (vmm->has_ended) {
        return "ended";
    }
    return machine_is_running(vmm->machine) ? "running" : "paused";
}

static void send_event(struct vmm *vmm, const char *name)
{
    control_send_event(vmm->control,
                       json_pack("{s:s, s:s}", "event", name, "name", vmm->config.name));
}

static int run_status(struct vmm *vmm, struct control_client *client,
                      struct control_request *request, json_t **out_answer, struct error *err)
{
    const struct machine_config *machine = machine_get_config(vmm->machine);
    const struct machine_memory_size memory = machine_memory_size(vmm->machine);
    const struct machine_vcpu_count vcpus = machine_vcpu_count(vmm->machine);
    *out_answer = json_pack(
        "{s:s, s:s, s:s, s:s, s:s, s:s, s:i, s:i, s:i, s:I, s:I, s:I, s:I, s:i}", "name",
        vmm->config.name, "state", state_name(vmm), "engine", machine->engine->name,
        "engine_reason", vmm->engine_reason, "board", machine->board, "cpu_model",
        machine->cpu_model != NULL ? machine->cpu_model : "host", "vcpus", (int)vcpus.present,
        "vcpus_leaving", (int)vcpus.leaving, "vcpus_max", (int)vcpus.max, "memory_bytes",
        (json_int_t)memory.wanted, "memory_present_bytes", (json_int_t)memory.present,
        "memory_start_bytes", (json_int_t)machine->memory_bytes, "memory_max_bytes",
        (json_int_t)memory.max, "pid", (int)getpid());
    if (vmm->stop.reason[0] != '\0' && !machine_is_running(vmm->machine)) {
        json_object_set_new(*out_answer, "why", json_string(vmm->stop.reason));
    }
    return 0;
}

static int run_pause(struct vmm *vmm, struct control_client *client,
                     struct control_request *request, json_t **out_answer, struct error *err)
{
    vmm_disk_stop_ends(vmm);
    if (machine_is_running(vmm->machine)) {
        machine_pause(vmm->machine);
        send_event(vmm, "paused");
    }
    return 0;
}

static int run_resume(struct vmm *vmm, struct control_client *client,
                      struct control_request *request, json_t **out_answer, struct error *err)
{
    if (!machine_is_running(vmm->machine)) {
        vmm_disk_stop_ends(vmm);
        vmm->stop.reason[0] = '\0'; /* what failed is tried again */
        machine_resume(vmm->machine);
        send_event(vmm, "resumed");
    }
    return 0;
}

static int run_poweroff(struct vmm *vmm, struct control_client *client,
                        struct control_request *request, json_t **out_answer, struct error *err)
{
    machine_power_button(vmm->machine);
    return 0;
}

static int run_reset(struct vmm *vmm, struct control_client *client,
                     struct control_request *request, json_t **out_answer, struct error *err)
{
    int rc = machine_reset(vmm->machine, err);
    if (rc == 0) {
        send_event(vmm, "reset");
    }
    return rc;
}

static int run_quit(struct vmm *vmm, struct control_client *client, struct control_request *request,
                    json_t **out_answer, struct error *err)
{
    log_info("vm %s: quit on request", vmm->config.name);
    vmm_end(vmm, 0);
    return 0;
}

static void stats_emit(void *ctx, const char *object, const char *name, uint64_t value)
{
    json_t *answer = ctx;
    json_t *entry = json_object_get(answer, object);
    if (entry == NULL) {
        entry = json_object();
        if (json_object_set_new(answer, object, entry) < 0) {
            return;
        }
    }
    json_object_set_new(entry, name, json_integer((json_int_t)value));
}

static int run_stats(struct vmm *vmm, struct control_client *client,
                     struct control_request *request, json_t **out_answer, struct error *err)
{
    *out_answer = json_object();
    machine_stats(vmm->machine, stats_emit, *out_answer);
    return 0;
}

static void device_emit(void *ctx, const char *name)
{
    json_array_append_new(ctx, json_string(name));
}

static int run_devices(struct vmm *vmm, struct control_client *client,
                       struct control_request *request, json_t **out_answer, struct error *err)
{
    json_t *names = json_array();
    machine_devices(vmm->machine, device_emit, names);
    *out_answer = json_pack("{s:o, s:o}", "devices", names, "parts", vmm_list_parts(vmm));
    return 0;
}

static int run_balloon(struct vmm *vmm, struct control_client *client,
                       struct control_request *request, json_t **out_answer, struct error *err)
{
    const json_t *bytes = json_object_get(request->arguments, "bytes");
    uint64_t all = machine_get_config(vmm->machine)->memory_bytes;
    if (!json_is_integer(bytes) || json_integer_value(bytes) < 0 ||
        (uint64_t)json_integer_value(bytes) > all) {
        return error_set(err, EINVAL,
                         "balloon: \"bytes\" is what the guest keeps: a number from 0 to %llu",
                         (unsigned long long)all);
    }
    return machine_set_balloon(vmm->machine, (uint64_t)json_integer_value(bytes), err);
}

static int run_memory(struct vmm *vmm, struct control_client *client,
                      struct control_request *request, json_t **out_answer, struct error *err)
{
    const json_t *size = json_object_get(request->arguments, "size");
    uint64_t max = machine_get_config(vmm->machine)->memory_max_bytes;
    if (!json_is_integer(size) || json_integer_value(size) < 0 ||
        (uint64_t)json_integer_value(size) > max) {
        return error_set(err, EINVAL,
                         "memory: \"size\" is what the guest shall have: a number from 0 to %llu",
                         (unsigned long long)max);
    }
    int rc = machine_set_memory(vmm->machine, (uint64_t)json_integer_value(size), err);
    if (rc == 0) {
        const struct machine_memory_size now = machine_memory_size(vmm->machine);
        *out_answer = json_pack("{s:I, s:I}", "memory_bytes", (json_int_t)now.wanted,
                                "memory_present_bytes", (json_int_t)now.present);
    }
    return rc;
}

static int run_cpus(struct vmm *vmm, struct control_client *client, struct control_request *request,
                    json_t **out_answer, struct error *err)
{
    const json_t *count = json_object_get(request->arguments, "count");
    uint32_t max = machine_get_config(vmm->machine)->vcpu_max;
    if (!json_is_integer(count) || json_integer_value(count) < 1 ||
        json_integer_value(count) > max) {
        return error_set(err, EINVAL,
                         "cpus: \"count\" is how many the guest shall have: a number from 1 to %u",
                         max);
    }
    int rc = machine_set_vcpus(vmm->machine, (uint32_t)json_integer_value(count), err);
    if (rc == 0) {
        const struct machine_vcpu_count now = machine_vcpu_count(vmm->machine);
        *out_answer =
            json_pack("{s:i, s:i}", "vcpus", (int)now.present, "vcpus_leaving", (int)now.leaving);
    }
    return rc;
}

static int run_events(struct vmm *vmm, struct control_client *client,
                      struct control_request *request, json_t **out_answer, struct error *err)
{
    const json_t *on = json_object_get(request->arguments, "on");
    if (on != NULL && !json_is_boolean(on)) {
        return error_set(err, EINVAL, "events: \"on\" is true or false");
    }
    control_client_wants_events(client, !json_is_false(on));
    return 0;
}

static int run_console_size(struct vmm *vmm, struct control_client *client,
                            struct control_request *request, json_t **out_answer, struct error *err)
{
    json_int_t columns = json_integer_value(json_object_get(request->arguments, "columns"));
    json_int_t rows = json_integer_value(json_object_get(request->arguments, "rows"));
    if (columns < 1 || columns > UINT16_MAX || rows < 1 || rows > UINT16_MAX) {
        return error_set(err, EINVAL,
                         "console-size: \"columns\" and \"rows\" are numbers from 1 to %d",
                         UINT16_MAX);
    }
    machine_virtio_console_resize(vmm->machine, (uint16_t)columns, (uint16_t)rows);
    return 0;
}

struct save_progress {
    struct control_client *client;
    const json_t *id;
    uint64_t last_ns;
};

static void save_progress(void *ctx, uint64_t done, uint64_t total)
{
    struct save_progress *progress = ctx;
    uint64_t now_ns = clock_monotonic_ns();
    if (now_ns - progress->last_ns < 100000000u && done != total) {
        return;
    }
    progress->last_ns = now_ns;
    json_t *event = json_pack("{s:s, s:I, s:I}", "event", "progress", "done", (json_int_t)done,
                              "total", (json_int_t)total);
    if (progress->id != NULL) {
        json_object_set(event, "id", (json_t *)progress->id);
    }
    control_client_send(progress->client, event);
}

/* What happens to the VM after a save: by default it stays paused, because a guest that went on would change its disks
 * and the saved state would not fit them any more. */
static int save_then(const struct control_request *request, const char **out_then,
                     struct error *err)
{
    static const char *const words[] = {"pause", "resume", "quit"};
    const json_t *then = json_object_get(request->arguments, "then");
    *out_then = words[0];
    for (size_t i = 0; then != NULL && i < ARRAY_COUNT(words); i++) {
        if (json_is_string(then) && strcmp(json_string_value(then), words[i]) == 0) {
            *out_then = words[i];
            return 0;
        }
    }
    return then == NULL ? 0 : error_set(err, EINVAL, "save: \"then\" is pause, resume or quit");
}

static int run_save(struct vmm *vmm, struct control_client *client, struct control_request *request,
                    json_t **out_answer, struct error *err)
{
    struct stat status;
    const char *then;
    int rc = save_then(request, &then, err);
    if (rc < 0) {
        return rc;
    }
    if (request->fd < 0 || fstat(request->fd, &status) < 0 || !S_ISREG(status.st_mode) ||
        status.st_size != 0) {
        return error_set(err, EINVAL,
                         "save: an empty file is needed, as a descriptor sent with the request");
    }
    if (block_jobs_running(vmm->jobs) > 0) {
        return error_set(err, EBUSY,
                         "save: a disk job is running, which a saved state does not hold: none may "
                         "be (jobs, job-cancel)");
    }
    bool was_running = machine_is_running(vmm->machine);
    if (was_running) {
        machine_pause(vmm->machine);
    }
    struct save_progress progress = {.client = client,
                                     .id = json_object_get(request->arguments, "id")};
    rc = save_write(vmm->machine, request->fd, save_progress, &progress, err);
    if (was_running && (rc < 0 || strcmp(then, "resume") == 0)) {
        machine_resume(vmm->machine);
    } else if (was_running) {
        send_event(vmm, "paused");
    }
    if (rc < 0) {
        return rc;
    }
    vmm_disk_stop_ends(vmm); /* or it would go on by itself */
    if (strcmp(then, "quit") == 0) {
        vmm_end(vmm, 0);
    }
    (void)fstat(request->fd, &status); /* worked before */
    *out_answer =
        json_pack("{s:I, s:I, s:s}", "size_bytes", (json_int_t)status.st_size, "used_bytes",
                  (json_int_t)status.st_blocks * 512, "state", state_name(vmm));
    return 0;
}

static const struct control_verb control_verbs[] = {
    {"status", run_status},   {"pause", run_pause},
    {"resume", run_resume},   {"poweroff", run_poweroff},
    {"reset", run_reset},     {"quit", run_quit},
    {"stats", run_stats},     {"devices", run_devices},
    {"balloon", run_balloon}, {"memory", run_memory},
    {"cpus", run_cpus},       {"events", run_events},
    {"save", run_save},       {"console-size", run_console_size},
};

static const struct control_verb *find_verb(const struct control_verb *table, size_t count,
                                            const char *name)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(name, table[i].name) == 0) {
            return &table[i];
        }
    }
    return NULL;
}

int vmm_handle_request(void *ctx, struct control_client *client, struct control_request *request,
                       json_t **out_answer, struct error *err)
{
    const struct control_verb *verb =
        find_verb(control_verbs, ARRAY_COUNT(control_verbs), request->verb);
    if (verb == NULL) {
        verb = find_verb(vmm_disk_verbs, vmm_disk_verb_count, request->verb);
    }
    if (verb == NULL) {
        verb = find_verb(vmm_plug_verbs, vmm_plug_verb_count, request->verb);
    }
    if (verb == NULL) {
        verb = find_verb(vmm_job_verbs, vmm_job_verb_count, request->verb);
    }
    if (verb == NULL) {
        verb = find_verb(vmm_bitmap_verbs, vmm_bitmap_verb_count, request->verb);
    }
    if (verb != NULL) {
        return verb->run(ctx, client, request, out_answer, err);
    }
    return error_set(
        err, ENOSYS,
        "verb %.40s is unknown: status, pause, resume, poweroff, reset, quit, stats, "
        "devices, plug, unplug, balloon, memory, cpus, events, save, console-size, disk-list, jobs and more for disks",
        request->verb);
}
