#include "vmm/vmm.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/host/file.h"
#include "base/host/log.h"
#include "migrate/save.h"
#include "vmm/disk_verbs.h"
#include "vmm/jail.h"

/* Exit statuses of cli.md. */
#define STATUS_POWEROFF     0
#define STATUS_FAILURE      1
#define STATUS_RESET        2
#define STATUS_TRIPLE_FAULT 3
#define STATUS_DEVICE       4

/* For images that disk jobs add later. */
#define RINGS_PER_DISK 3

void vmm_end(struct vmm *vmm, int exit_status)
{
    if (!vmm->has_ended) {
        vmm->has_ended = true;
        vmm->exit_status = exit_status;
        event_loop_stop(vmm->loop);
    }
}

static void dump_vcpus(struct vmm *vmm)
{
    for (uint32_t i = 0; i < machine_get_config(vmm->machine)->vcpu_max; i++) {
        char text[4096];
        machine_dump_vcpu(vmm->machine, i, text, sizeof(text));
        /* A log line each: the dump has many. */
        char *rest = text;
        for (char *line = strsep(&rest, "\n"); line != NULL; line = strsep(&rest, "\n")) {
            if (*line != '\0') {
                log_error("vm %s: vcpu %u: %s", vmm->config.name, i, line);
            }
        }
    }
}

static void machine_ended(void *ctx, enum machine_end end, uint32_t code, const char *why)
{
    struct vmm *vmm = ctx;
    static const struct {
        const char *word;
        enum log_level level;
        int status;
    } ends[] = {
        [MACHINE_END_POWEROFF] = {"powered off", LOG_LEVEL_INFO, STATUS_POWEROFF},
        [MACHINE_END_RESET] = {"reset, and --no-reboot was given", LOG_LEVEL_INFO, STATUS_RESET},
        [MACHINE_END_TRIPLE_FAULT] = {"triple fault", LOG_LEVEL_ERROR, STATUS_TRIPLE_FAULT},
        [MACHINE_END_DEVICE] = {"stopped by a device", LOG_LEVEL_ERROR, STATUS_DEVICE},
        [MACHINE_END_ENGINE] = {"the engine failed", LOG_LEVEL_ERROR, STATUS_FAILURE},
        [MACHINE_END_DEBUG_EXIT] = {"debug exit", LOG_LEVEL_INFO, 0},
    };
    int status = end == MACHINE_END_DEBUG_EXIT ? (int)((code << 1 | 1) & 0xff) : ends[end].status;
    if (vmm->has_ended) {
        return;
    }
    log_write(ends[end].level, "vm %s: %s%s%s", vmm->config.name, ends[end].word,
              why != NULL && why[0] != '\0' ? ": " : "", why != NULL ? why : "");
    if (end == MACHINE_END_TRIPLE_FAULT || end == MACHINE_END_ENGINE) {
        dump_vcpus(vmm);
    }
    if (vmm->control != NULL) {
        control_send_event(vmm->control, json_pack("{s:s, s:s, s:i}", "event", "ended", "name",
                                                   vmm->config.name, "status", status));
    }
    vmm_end(vmm, status);
}

int vmm_open_net(struct vmm *vmm, size_t index, struct machine_net *out_net, struct error *err)
{
    struct config_net *net = &vmm->config.net[index];
    int rc = 0;
    int fd = net->fd;
    net->fd = -1; /* the net's, also on failure */
    *out_net = (struct machine_net){.slot = net->place.slot};
    memcpy(out_net->mac, net->mac, sizeof(out_net->mac));
    switch (net->kind) {
    case CONFIG_NET_STREAM:
        rc = net_open_stream(fd, net->name, vmm->loop, &out_net->net, err);
        break;
    case CONFIG_NET_TAP:
        rc = net_open_tap(fd, net->name, vmm->loop, &out_net->net, err);
        break;
    case CONFIG_NET_NONE:
        rc = net_open_none(vmm->loop, &out_net->net, err);
        break;
    }
    return rc;
}

/* The guest learns by EIO; who looks after the VM learns here. */
static void share_lost(void *ctx, const char *device_name, const char *why)
{
    struct vmm *vmm = ctx;
    const char *number = strchr(device_name, '.');
    size_t index = number != NULL ? strtoul(number + 1, NULL, 10) : 0;
    const char *tag = index < vmm->config.share_count ? vmm->config.share[index].tag : "?";
    log_error("vm %s: share %s: %s: the guest's requests fail until the VM is started again",
              vmm->config.name, tag, why);
    if (vmm->control != NULL) {
        control_send_event(vmm->control,
                           json_pack("{s:s, s:s, s:s, s:s}", "event", "share-lost", "name",
                                     vmm->config.name, "share", tag, "why", why));
    }
}

static int open_nets(struct vmm *vmm, struct machine_config *machine, struct error *err)
{
    for (size_t i = 0; i < vmm->config.net_count; i++) {
        if (vmm->config.net[i].place.is_there) {
            int rc = vmm_open_net(vmm, i, &machine->net[i], err);
            if (rc < 0) {
                return rc;
            }
        }
        machine->net_count = i + 1;
    }
    return 0;
}

/* What was opened for a machine that is not made. */
static void close_parts(struct machine_config *machine)
{
    for (size_t i = 0; i < machine->disk_count; i++) {
        block_close(machine->disk[i].block);
    }
    for (size_t i = 0; i < machine->net_count; i++) {
        if (machine->net[i].net != NULL) {
            net_close(machine->net[i].net);
        }
    }
    for (size_t i = 0; i < machine->share_count; i++) {
        close(machine->share[i].fd);
    }
}

/* "soft,trace=1": what follows the comma is the engine's own. */
static const char *engine_options(const char *engine)
{
    const char *comma = strchr(engine, ',');
    return comma != NULL ? comma + 1 : NULL;
}

/* What the command line does not say is as in the saved state. */
static int complete_sizes(struct config *config, struct error *err)
{
    struct save_sizes sizes;
    if (config->vcpu_count != 0 && config->memory_bytes != 0) {
        return 0;
    }
    int rc = save_read_sizes(config->restore_fd, &sizes, err);
    if (rc < 0) {
        return error_prefix(err, rc, "saved state %s", config->restore_name);
    }
    if (config->vcpu_count == 0) {
        config->vcpu_count = sizes.vcpu_count;
        config->vcpu_max = sizes.vcpu_max;
    }
    if (config->memory_bytes == 0) {
        config->memory_bytes = sizes.memory_bytes;
        config->memory_max_bytes = sizes.memory_max_bytes;
    }
    return 0;
}

static int create_machine(struct vmm *vmm, struct error *err)
{
    const struct config *config = &vmm->config;
    const struct engine_ops *engine;
    int rc = complete_sizes(&vmm->config, err);
    if (rc < 0) {
        return rc;
    }
    rc = engine_choose(config->engine, &engine, vmm->engine_reason, err);
    if (rc < 0) {
        return rc;
    }
    log_debug("vm %s: engine %s: %s", config->name, engine->name, vmm->engine_reason);
    bool is_virtio = config->is_console_virtio;
    struct machine_config machine = {
        .board = config->board,
        .engine = engine,
        .engine_options = engine_options(config->engine),
        .cpu_model = config->cpu_model,
        .vcpu_count = config->vcpu_count,
        .vcpu_max = config->vcpu_max,
        .memory_bytes = config->memory_bytes,
        .memory_max_bytes = config->memory_max_bytes,
        .huge_pages = config->huge_pages,
        .debug_exit = config->debug_exit,
        .no_reboot = config->no_reboot,
        .kernel_fd = config->kernel_fd,
        .initrd_fd = config->initrd_fd,
        .is_restored = config->restore_fd >= 0,
        .kernel_name = config->kernel_name,
        .initrd_name = config->initrd_name,
        .command_line = config->command_line,
        .has_balloon = config->has_balloon,
        .has_rng = config->has_rng,
        .has_vsock = config->vsock_cid != 0,
        .has_virtio_console = is_virtio,
        .vsock_cid = config->vsock_cid,
        .vsock_dir_fd = config->vsock_dir_fd,
        .serial_console = console_serial_backend(vmm->console),
        .virtio_console = console_virtio_backend(vmm->console),
        .loop = vmm->loop,
        .ended = machine_ended,
        .disk_failed = vmm_disk_failed,
        .unplugged = vmm_unplugged,
        .share_lost = share_lost,
        .share_count = config->share_count,
        .ctx = vmm,
    };
    for (size_t i = 0; i < config->serial_count; i++) {
        machine.serial[i] = console_serial_backend(vmm->serial[i]);
    }
    machine.serial_count = config->serial_count;
    memcpy(machine.share, config->share, sizeof(machine.share));
    rc = vmm_open_disks(vmm, &machine, err);
    if (rc == 0) {
        rc = open_nets(vmm, &machine, err);
    }
    if (rc < 0) {
        close_parts(&machine);
        return rc;
    }
    return machine_create(&machine, &vmm->machine, err);
}

static int restore(struct vmm *vmm, struct error *err)
{
    if (vmm->config.restore_fd < 0) {
        return 0;
    }
    int rc = save_restore(vmm->machine, vmm->config.restore_fd, err);
    if (rc < 0) {
        return error_prefix(err, rc, "saved state %s", vmm->config.restore_name);
    }
    uint64_t guest_hz, real_hz;
    if (machine_has_other_tsc_rate(vmm->machine, &guest_hz, &real_hz)) {
        log_warning("vm %s: the guest takes its TSC for one of %.3f MHz, here it has %.3f MHz and "
                    "this CPU cannot scale: clocks that it drives go wrong",
                    vmm->config.name, (double)guest_hz / 1e6, (double)real_hz / 1e6);
    }
    return 0;
}

static void read_needs(const struct config *config, struct jail_needs *needs)
{
    struct stat folder;
    *needs = (struct jail_needs){
        .uid = JAIL_NOBODY,
        .gid = JAIL_NOBODY,
        .has_unix_sockets = config->vsock_cid != 0,
    };
    if (config->vsock_cid != 0 && fstat(config->vsock_dir_fd, &folder) == 0) {
        needs->uid = folder.st_uid;
        needs->gid = folder.st_gid;
    }
}

/* Sanitizers make system calls of their own, and a debugger wants its process unconfined. */
static bool is_jail_wanted(void)
{
#ifdef HULL_SANITIZED
    return false;
#else
    const char *off = getenv("HULL_NO_JAIL");
    return off == NULL || strcmp(off, "1") != 0;
#endif
}

/* What has been read; the machine keeps its own hold of the boot files, for resets. */
static void close_inputs(struct config *config)
{
    int *const fds[] = {&config->kernel_fd, &config->initrd_fd, &config->restore_fd};
    for (size_t i = 0; i < ARRAY_COUNT(fds); i++) {
        if (*fds[i] >= 0) {
            close(*fds[i]);
            *fds[i] = -1;
        }
    }
}

/* Everything up to the first guest instruction. */
static int start(struct vmm *vmm, struct error *err)
{
    const struct config *config = &vmm->config;
    bool is_jailed = is_jail_wanted();
    struct jail_needs needs;
    read_needs(config, &needs);
    needs.has_own_mounts = is_jailed && jail_enter_early(needs.uid == 0);
    int rc = event_loop_create(&vmm->loop, err);
    if (rc == 0) {
        rc = console_create(config->console, config->console_fd, config->is_console_virtio,
                            vmm->loop, &vmm->console, err);
    }
    for (size_t i = 0; rc == 0 && i < config->serial_count; i++) {
        rc = console_create(config->serial[i].kind, config->serial[i].fd, false, vmm->loop,
                            &vmm->serial[i], err);
        if (rc == 0) {
            console_set_port(vmm->serial[i], (unsigned)i + 1);
        }
    }
    if (rc == 0) {
        console_set_log(vmm->console, config->console_log_fd, config->console_old_log_fd);
    }
    if (rc == 0) {
        rc = block_jobs_create(vmm->loop, vmm_job_event, vmm, &vmm->jobs, err);
    }
    if (rc == 0) {
        rc = vmm_watch_disks(vmm, err);
    }
    if (rc == 0) {
        rc = create_machine(vmm, err);
    }
    if (rc == 0) {
        block_reserve_rings(vmm->loop, (unsigned)config->disk_count * RINGS_PER_DISK);
        rc = restore(vmm, err);
    }
    close_inputs(&vmm->config);
    if (rc == 0) {
        rc = control_create(vmm->loop, config->control_fd, config->owner_fd, vmm_handle_request,
                            vmm, &vmm->control, err);
    }
    if (rc == 0 && is_jailed) {
        needs.has_kvm = strcmp(machine_get_config(vmm->machine)->engine->name, "kvm") == 0;
        rc = jail_enter_late(&needs, err);
    }
    return rc;
}

static void log_start(const struct vmm *vmm)
{
    uint64_t started_ns = vmm->config.started_ns;
    double ms = started_ns == 0 ? 0 : (double)(clock_monotonic_ns() - started_ns) / 1e6;
    log_info("vm %s: starts after %.1f ms, engine %s", vmm->config.name, ms,
             machine_get_config(vmm->machine)->engine->name);
}

/* What hull sends: the configuration, a byte of 0, and one more when what the guest may reach serves. */
struct input {
    int fd;
    char *text;
    size_t size;
    bool has_go;
};

static int await_go(const struct input *input, struct error *err)
{
    char go;
    ssize_t count = input->has_go ? 1 : -1;
    while (count < 0) {
        count = read(input->fd, &go, sizeof(go));
        if (count < 0 && errno != EINTR) {
            break;
        }
    }
    return count == 1 ? 0 : error_set(err, ECANCELED, "hull gave the start up");
}

static int run(struct vmm *vmm, const struct input *input, struct error *err)
{
    int rc = start(vmm, err);
    if (rc == 0) {
        rc = await_go(input, err);
        close(input->fd);
    }
    if (rc < 0) {
        return rc;
    }
    console_attach(vmm->console, vmm->machine);
    for (size_t i = 0; i < vmm->config.serial_count; i++) {
        console_attach(vmm->serial[i], vmm->machine);
    }
    log_start(vmm);
    if (!vmm->config.is_paused) {
        machine_resume(vmm->machine);
    }
    return event_loop_run(vmm->loop, err);
}

/* A failure goes to the log and always to standard error: it is the one line that the user of hull gets. */
static void report(const struct vmm *vmm, const struct error *err)
{
    log_error("%s", err->text);
    if (vmm->config.log_fd >= 0) {
        (void)dprintf(STDERR_FILENO, "hull: %s\n", err->text);
    }
}

static int run_config(const struct input *input)
{
    struct error err = {0};
    struct vmm vmm = {.config = {.log_fd = -1}, .stop.log_limit = LOG_LIMIT(10)};
    if (config_parse(input->text, input->size, &vmm.config, &err) < 0) {
        report(&vmm, &err);
        return STATUS_FAILURE;
    }
    log_init(vmm.config.log_fd >= 0 ? vmm.config.log_fd : STDERR_FILENO,
             vmm.config.is_verbose ? LOG_LEVEL_DEBUG : LOG_LEVEL_WARNING, "hull");
    (void)signal(SIGPIPE, SIG_IGN);
    if (run(&vmm, input, &err) < 0) {
        report(&vmm, &err);
        vmm.exit_status = STATUS_FAILURE;
    }
    if (vmm.jobs != NULL) {
        block_jobs_stop(vmm.jobs);
    }
    machine_destroy(vmm.machine); /* stops the vCPUs, and finishes what is in flight to the disks */
    if (vmm.console != NULL) {
        console_finish(vmm.console);
    }
    for (size_t i = 0; i < MACHINE_MAX_SERIALS; i++) {
        if (vmm.serial[i] != NULL) {
            console_finish(vmm.serial[i]);
        }
    }
    block_jobs_destroy(vmm.jobs);
    vmm_close_disks(&vmm);
    event_timer_destroy(vmm.stop.timer);
    control_destroy(vmm.control);
    console_destroy(vmm.console);
    for (size_t i = 0; i < MACHINE_MAX_SERIALS; i++) {
        console_destroy(vmm.serial[i]);
    }
    block_release_rings();
    event_loop_destroy(vmm.loop);
    config_fini(&vmm.config);
    return vmm.exit_status;
}

/* The whole document; what comes behind it may have been sent already. */
static bool read_config(struct input *input)
{
    size_t capacity = 16384, size = 0;
    input->text = malloc(capacity);
    while (input->text != NULL) {
        ssize_t count = read(input->fd, input->text + size, capacity - size);
        if (count < 0 && errno == EINTR) {
            continue;
        }
        size_t more = count > 0 ? (size_t)count : 0;
        const char *end = memchr(input->text + size, '\0', more);
        size += more;
        if (end != NULL || more == 0) {
            input->size = end != NULL ? (size_t)(end - input->text) : size;
            input->has_go = end != NULL && size > input->size + 1;
            return true;
        }
        if (size == capacity) {
            capacity *= 2;
            char *larger = capacity <= CONFIG_MAX_SIZE ? realloc(input->text, capacity) : NULL;
            if (larger == NULL) {
                free(input->text);
            }
            input->text = larger;
        }
    }
    return false;
}

int vmm_main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--version") == 0) {
        (void)printf("hull-vmm %s\n", HULL_VERSION);
        return 0;
    }
    if (argc == 2 && strcmp(argv[1], "--probe") == 0) {
        return vmm_probe();
    }
    char *end;
    long fd = argc == 3 && strcmp(argv[1], "--config-fd") == 0 ? strtol(argv[2], &end, 10) : -1;
    if (fd < 0 || fd > 1000000 || *end != '\0') {
        (void)fprintf(stderr, "hull-vmm: started by hull: --config-fd N, --probe or --version\n");
        return STATUS_FAILURE;
    }
    engine_prepare();
    struct input input = {.fd = (int)fd};
    int status = STATUS_FAILURE;
    if (!read_config(&input)) {
        (void)fprintf(stderr, "hull-vmm: reading the configuration failed\n");
    } else if (input.size > 0) {
        status = run_config(&input);
    } /* or else hull has failed meanwhile, and has said why */
    free(input.text);
    return status;
}
