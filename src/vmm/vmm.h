/* hull-vmm: one VM in one process. */
#ifndef VMM_VMM_H
#define VMM_VMM_H

#include "base/host/log.h"
#include "block/job.h"
#include "machine/machine.h"
#include "vmm/config.h"
#include "vmm/console.h"
#include "vmm/control.h"

struct vmm_disk_policy {
    struct block_throttle_group *throttle; /* its own, or one that it shares */
    bool owns_throttle;
};

enum vmm_disk_state {
    VMM_DISK_WORKS,
    VMM_DISK_STOPPED, /* the VM is paused for one, which will be tried again */
    VMM_DISK_TRIED,   /* the VM runs again, and it is not known yet whether the disk works */
};

/* Of a VM that a disk's failure has stopped: disk_errors.c. */
struct vmm_disk_stop {
    enum vmm_disk_state state;
    struct event_timer *timer;
    uint64_t delay_ns;
    char reason[ERROR_TEXT_SIZE]; /* what failed and waits for a resume; "": nothing */
    bool is_pause_pending;
    struct log_limit log_limit;
};

struct vmm {
    struct config config;
    struct event_loop *loop;
    struct machine *machine;
    struct console *console;
    struct console *serial[MACHINE_MAX_SERIALS];
    struct control *control;
    struct block_jobs *jobs;
    /* Of each disk: what the device has, and the front somewhere below. The machine closes them. */
    struct block *disk[MACHINE_MAX_DISKS];
    struct block_front *front[MACHINE_MAX_DISKS];
    char engine_reason[ERROR_TEXT_SIZE];
    struct vmm_disk_policy policy[MACHINE_MAX_DISKS];
    struct vmm_disk_stop stop;
    bool is_saving;
    bool has_ended;
    int exit_status;
};

/* main() of hull-vmm:
 *   --config-fd N   read the configuration and a byte of 0 from descriptor N, make the machine, and run it when
 *                   one more byte has come
 *   --probe         print what this host's engines can do, as JSON
 * Returns the exit status of cli.md. */
int vmm_main(int argc, char **argv);

/* Ends the run loop with this status; the first call counts. */
void vmm_end(struct vmm *vmm, int exit_status);

/* Opens the disks of vmm->config for the machine that is to be made. On failure those that are open are in machine->disk. */
int must_check vmm_open_disks(struct vmm *vmm, struct machine_config *machine, struct error *err);

/* One of them. On failure nothing of it is open but what vmm_forget_disk closes. */
int must_check vmm_open_disk(struct vmm *vmm, size_t index, struct machine_disk *out_disk,
                             struct error *err);
/* It has left the machine, or did not get there. */
void vmm_forget_disk(struct vmm *vmm, size_t index);
/* The same of a card. */
int must_check vmm_open_net(struct vmm *vmm, size_t index, struct machine_net *out_net,
                            struct error *err);

/* After the machine has gone. */
void vmm_close_disks(struct vmm *vmm);
/* Before the machine is made. */
int must_check vmm_watch_disks(struct vmm *vmm, struct error *err);
/* If the VM is paused for a disk, it stays so, or goes on, as the user wants it from now on. */
void vmm_disk_stop_ends(struct vmm *vmm);
/* machine_config.disk_failed. */
void vmm_disk_failed(void *ctx, const char *device_name, bool is_write, int error, bool stops);

/* machine_config.unplugged: plug_verbs.c. */
void vmm_unplugged(void *ctx, enum machine_part part, size_t index);

/* Prints the engines and their probes to stdout. Returns an exit status. */
int vmm_probe(void);

/* control_handle_fn with a struct vmm as context. */
int vmm_handle_request(void *ctx, struct control_client *client, struct control_request *request,
                       json_t **out_answer, struct error *err);

#endif
