/* What happens when a disk fails at what its guest asks for: the VM stops and goes on when the disk works again. It is tried now
 * and then, since neither a file system that has space again nor a server that is back tells anybody. */
#include <string.h>

#include "vmm/vmm.h"

#define FIRST_DELAY_NS   1000000000ull
#define LONGEST_DELAY_NS 5000000000ull
/* A try that has not failed after that time has succeeded. */
#define PROOF_NS 1000000000ull

static void send_event(struct vmm *vmm, const char *event, const char *why)
{
    if (vmm->control != NULL) {
        control_send_event(vmm->control, json_pack("{s:s, s:s, s:s}", "event", event, "name",
                                                   vmm->config.name, "why", why));
    }
}

static void pause_for_disk(void *ctx)
{
    struct vmm *vmm = ctx;
    struct vmm_disk_stop *stop = &vmm->stop;
    stop->is_pause_pending = false;
    if (!machine_is_running(vmm->machine)) {
        return; /* it is the user's pause, or ends */
    }
    machine_pause(vmm->machine);
    send_event(vmm, "paused", stop->reason);
    stop->delay_ns =
        stop->state == VMM_DISK_TRIED ? MIN(2 * stop->delay_ns, LONGEST_DELAY_NS) : FIRST_DELAY_NS;
    stop->state = VMM_DISK_STOPPED;
    event_timer_arm(stop->timer, clock_monotonic_ns() + stop->delay_ns);
}

static void timer_fired(void *ctx)
{
    struct vmm *vmm = ctx;
    struct vmm_disk_stop *stop = &vmm->stop;
    if (stop->state == VMM_DISK_TRIED && !stop->is_pause_pending) {
        stop->state = VMM_DISK_WORKS;
        log_warning("vm %s: the disk works again: the VM goes on", vmm->config.name);
    } else if (stop->state == VMM_DISK_STOPPED && !machine_is_running(vmm->machine)) {
        stop->state = VMM_DISK_TRIED;
        event_timer_arm(stop->timer, clock_monotonic_ns() + PROOF_NS);
        send_event(vmm, "resumed", "the disk is tried again");
        stop->reason[0] = '\0';
        machine_resume(vmm->machine);
    }
}

int vmm_watch_disks(struct vmm *vmm, struct error *err)
{
    return event_timer_create(vmm->loop, timer_fired, vmm, &vmm->stop.timer, err);
}

void vmm_disk_stop_ends(struct vmm *vmm)
{
    vmm->stop.state = VMM_DISK_WORKS;
    event_timer_disarm(vmm->stop.timer);
}

void vmm_disk_failed(void *ctx, const char *device_name, bool is_write, int error, bool stops)
{
    struct vmm *vmm = ctx;
    struct vmm_disk_stop *stop = &vmm->stop;
    const char *number = strchr(device_name, '.');
    struct error text = {0};
    char disk[48];
    (void)snprintf(disk, sizeof(disk), "disk%s", number != NULL ? number + 1 : "?");
    (void)error_set_errno(&text, error, "%s: %s", disk, is_write ? "write" : "read");
    /* Whoever was told that it is tried again needs not be told of each time. */
    log_limited(&stop->log_limit,
                !stops                          ? LOG_LEVEL_WARNING
                : stop->state == VMM_DISK_TRIED ? LOG_LEVEL_DEBUG
                                                : LOG_LEVEL_ERROR,
                "vm %s: %s%s", vmm->config.name, text.text,
                stops ? "; the VM is paused until that works" : "");
    if (!stops) {
        return;
    }
    if (stop->reason[0] == '\0') {
        (void)snprintf(stop->reason, sizeof(stop->reason), "%s", text.text);
        if (vmm->control != NULL) {
            control_send_event(vmm->control,
                               json_pack("{s:s, s:s, s:s, s:s, s:s}", "event", "disk-error", "name",
                                         vmm->config.name, "disk", disk, "operation",
                                         is_write ? "write" : "read", "why", text.text));
        }
    }
    if (!stop->is_pause_pending && event_loop_defer(vmm->loop, pause_for_disk, vmm, NULL) == 0) {
        stop->is_pause_pending = true;
    }
}
