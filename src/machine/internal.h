/* Shared by the files of this folder.
 *
 * Threads: 'lock' guards the orders to vCPU threads and what they report; everything else belongs to the loop's thread or does
 * not change after machine_create. */
#ifndef MACHINE_INTERNAL_H
#define MACHINE_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "device/bus.h"
#include "device/device.h"
#include "device/irqchip/ioapic.h"
#include "device/irqchip/lapic.h"
#include "device/pci/pci.h"
#include "machine/machine.h"

/* Disks, nets, and one each of the rest. */
#define MACHINE_MAX_DEVICES                                                                        \
    (MACHINE_MAX_DISKS + MACHINE_MAX_NETS + MACHINE_MAX_SHARES + MACHINE_MAX_SERIALS + 8)
#define MACHINE_WHY_SIZE 160

/* Where the board's memory is. */
struct machine_layout {
    uint64_t low_bytes;  /* RAM from 0 */
    uint64_t high_bytes; /* RAM from 4 GiB */
    uint64_t later_gpa,
        later_bytes; /* where memory comes and goes while the guest runs; size 0: nowhere */
    struct pci_windows pci;
};

struct machine_vcpu {
    struct machine *machine;
    struct vcpu *vcpu;
    uint32_t index;
    pthread_t thread;
    bool has_thread;
    bool is_present; /* with the machine's lock: it may run */
    bool is_paused;  /* with the machine's lock: it stands between two runs and waits */
    struct event_timer *timer;
    struct x86_cpuid cpuid; /* as the guest sees it */
    uint64_t guest_tsc_hz;  /* as the guest found its TSC: by CPUID, kvmclock or measurement */
};

struct machine {
    struct machine_config config;
    char *command_line;
    char *kernel_name, *initrd_name;
    int kernel_fd, initrd_fd; /* copies, for resets */

    struct machine_layout layout;
    struct guest_memory *memory;
    struct vm *vm;
    bool has_cpu_events; /* vCPUs come and go */
    bool has_own_time;   /* VM_HAS_OWN_TIME */
    bool has_irqchip;    /* the engine's; else these two: */
    struct lapic_set *lapics;
    struct ioapic *ioapic;
    struct bus *mmio, *pio;
    struct pci_bus *pci;
    struct device_host host;
    struct device *device[MACHINE_MAX_DEVICES];
    size_t device_count;
    struct device *power, *cpus, *balloon, *mem, *console; /* of those, or NULL */
    struct device *serial[1 + MACHINE_MAX_SERIALS];
    struct device *disk[MACHINE_MAX_DISKS], *net[MACHINE_MAX_NETS];
    struct event_notifier *eject_notifier; /* the guest has let go of a device */

    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool is_pause_wanted, is_quitting;
    bool is_running; /* as the owner sees it */
    struct machine_vcpu *vcpu;
    uint32_t vcpu_count; /* created so far */

    /* The end that was asked for, with the lock; carried out on the loop's thread. */
    struct event_notifier *end_notifier;
    bool has_end, is_over;
    enum machine_end end;
    uint32_t end_code;
    char end_why[MACHINE_WHY_SIZE];

    /* Looks for machines that have halted for good. */
    struct event_timer *idle_timer;
    uint64_t idle_counter;
    bool is_idle_checked;
};

/* Any thread; the first one counts. The vCPUs stop soon. */
void machine_request_end(struct machine *machine, enum machine_end end, uint32_t code,
                         const char *why);

/* vcpus.c */
int must_check vcpus_create(struct machine *machine, struct error *err);
void vcpus_destroy(struct machine *machine);
void vcpus_resume(struct machine *machine);
void vcpus_pause(struct machine *machine);
/* All to their state after reset, the first one to the kernel's entry. Paused. */
int must_check vcpus_reset(struct machine *machine, bool is_booted, struct error *err);
void vcpus_kick(struct machine *machine);
/* vCPUs have come or gone, as machine->cpus says: those that are not there stop soon; others go on as they were left, where the
 * INIT of another one finds them. Any thread. */
void vcpus_follow(struct machine *machine);
/* Of those that are there and have none. False: the machine ends. Loop's thread. */
bool vcpus_start_threads(struct machine *machine);
/* All vCPUs wait for what cannot come. Paused. */
bool vcpus_are_halted_for_good(struct machine *machine);
uint64_t vcpus_counter(struct machine *machine);
/* A guest from elsewhere goes on: what it was told of its CPU, before its state. -EINVAL, naming the features that it would
 * miss. */
int must_check vcpus_adopt(struct machine *machine, uint32_t index, const struct x86_cpuid *cpuid,
                           uint64_t tsc_hz, struct error *err);
/* With the interrupt controller's part from whoever has it. Paused. */
int must_check vcpus_get_state(struct machine *machine, uint32_t index, struct x86_state *out_state,
                               struct error *err);
int must_check vcpus_set_state(struct machine *machine, uint32_t index,
                               const struct x86_state *state, struct error *err);

/* micro.c */
int must_check micro_layout(const struct machine_config *config, struct machine_layout *out_layout,
                            struct error *err);
/* For engines without; before there are vCPUs: an engine asks for the task priority when it makes one. */
int must_check micro_create_irqchip(struct machine *machine, struct error *err);
int must_check micro_create(struct machine *machine, struct error *err);
void micro_destroy(struct machine *machine);
/* config.disk[index] or config.net[index], whose block or net is the device's, also on failure. Paused. */
int must_check micro_create_disk(struct machine *machine, uint32_t index, bool is_plugged,
                                 struct error *err);
int must_check micro_create_net(struct machine *machine, uint32_t index, bool is_plugged,
                                struct error *err);
/* ACPI tables and kernel into memory, the first vCPU's entry into 'state'. */
int must_check micro_boot(struct machine *machine, struct x86_state *state, struct error *err);
struct vm_callbacks micro_callbacks(struct machine *machine);

/* hotplug.c: takes out what the guest has ejected, and with 'asked_too' what it was asked for. Paused, the devices not yet. */
void hotplug_take_out(struct machine *machine, bool asked_too);
/* The eject notifier's. */
void hotplug_ejected(void *ctx);

/* vcpu_state.c: all fields but those that the archive's reader must not choose. */
void vcpu_cpuid_save(const struct x86_cpuid *cpuid, struct archive_writer *writer);
int must_check vcpu_cpuid_restore(struct x86_cpuid *cpuid, struct archive_reader *reader,
                                  struct error *err);
void vcpu_state_save(const struct x86_state *state, struct archive_writer *writer);
int must_check vcpu_state_restore(struct x86_state *state, uint32_t version,
                                  struct archive_reader *reader, struct error *err);
/* Version 2: CPUID and the rate of the TSC behind the state. 3: with pv_unhalted. 4: with Hyper-V's MSRs. */
#define VCPU_STATE_VERSION 4u

#endif
