/* A machine: the virtual hardware of one VM on an engine.
 *
 * Threads: created, paused, saved and destroyed on the loop's thread; it owns a thread for each vCPU. */
#ifndef MACHINE_MACHINE_H
#define MACHINE_MACHINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/core/archive.h"
#include "base/core/error.h"
#include "base/host/event_loop.h"
#include "block/block.h"
#include "device/virtio/block.h"
#include "engine/engine.h"
#include "net/net.h"

#define MACHINE_MAX_DISKS   16
#define MACHINE_MAX_NETS    8
#define MACHINE_MAX_SHARES  8
#define MACHINE_MAX_SERIALS 3 /* behind the console's */

struct machine;

/* How a VM ended, for the exit status (cli.md). */
enum machine_end {
    MACHINE_END_POWEROFF,     /* ACPI power off, or all vCPUs halted for good */
    MACHINE_END_RESET,        /* the guest asked for a reset and 'no_reboot' is set */
    MACHINE_END_TRIPLE_FAULT, /* or an unrecoverable vCPU state */
    MACHINE_END_DEVICE,       /* a device stopped the VM */
    MACHINE_END_ENGINE,       /* the engine failed */
    MACHINE_END_DEBUG_EXIT,   /* write to port 0xf4: 'code' is the value */
};

/* Where the console's bytes go and come from: the vmm's side of a terminal, pty, socket or file. */
struct console_backend {
    void *ctx;
    /* Guest output, any vCPU or the loop's thread; takes all bytes, drops what it cannot hold. */
    void (*write)(void *ctx, const uint8_t *data, size_t size);
    /* The guest has room again after machine_*_input took less than it was given. Any vCPU or the loop's thread; returns
     * at once. NULL: nobody types here. */
    void (*input_ready)(void *ctx);
};

struct machine_disk {
    struct block *block; /* owned by the machine from then on */
    char serial[21];     /* virtio-blk's 20 bytes, may be empty */
    enum virtio_blk_on_error on_read_error, on_write_error;
    bool is_write_through;
    unsigned slot; /* on the PCI bus; 0: a free one */
};

struct machine_net {
    struct net *net; /* owned by the machine from then on */
    uint8_t mac[6];
    unsigned slot; /* as a disk's */
};

/* What may come and go while the guest runs. */
enum machine_part {
    MACHINE_PART_DISK,
    MACHINE_PART_NET,
};

struct machine_share {
    int fd;          /* of its hull-share; owned by the machine from then on */
    const char *tag; /* borrowed, for machine_create */
};

struct machine_config {
    const char *board; /* "micro" */
    const struct engine_ops *engine;
    const char *engine_options;
    const char *cpu_model;     /* NULL: "host" */
    uint32_t vcpu_count;       /* there from the start */
    uint32_t vcpu_max;         /* with those that may come later; 0: none do, and none goes */
    uint64_t memory_bytes;     /* from the start; at most 1 TiB */
    uint64_t memory_max_bytes; /* with what may come later; 0: nothing does */
    bool huge_pages;
    bool debug_exit; /* port 0xf4 */
    bool no_reboot;
    bool is_restored; /* a saved state comes before it runs: boot files are only read for resets */

    /* Files for direct boot; borrowed, read during machine_create; -1: none. */
    int kernel_fd, initrd_fd;
    const char *kernel_name, *initrd_name; /* for messages */
    const char *command_line;              /* NULL: a default that puts the console on ttyS0 */

    /* Those without a block or net are left out: the numbers of the others stay. */
    struct machine_disk disk[MACHINE_MAX_DISKS];
    size_t disk_count;
    struct machine_net net[MACHINE_MAX_NETS];
    size_t net_count;
    struct machine_share share[MACHINE_MAX_SHARES];
    size_t share_count;
    bool has_balloon, has_rng, has_vsock, has_virtio_console;
    uint32_t vsock_cid;
    int vsock_dir_fd; /* directory in which guest port N meets unix socket "N"; -1: none */
    struct console_backend serial_console;              /* ttyS0 */
    struct console_backend serial[MACHINE_MAX_SERIALS]; /* ttyS1 and so on */
    size_t serial_count;
    struct console_backend virtio_console; /* hvc0 */

    struct event_loop *loop;
    /* The VM ended, or asked for a reset that was carried out (was_reset). On the loop's thread. 'why' is one line. */
    void (*ended)(void *ctx, enum machine_end end, uint32_t code, const char *why);
    /* See device_host.disk_failed; pausing the VM is the owner's business. NULL: nobody does. */
    void (*disk_failed)(void *ctx, const char *device_name, bool is_write, int error, bool stops);
    /* The part has left the machine, and its block or net is closed. On the loop's thread. NULL: nobody wants to know. */
    void (*unplugged)(void *ctx, enum machine_part part, size_t index);
    /* See device_host.share_lost. NULL: nobody does. */
    void (*share_lost)(void *ctx, const char *device_name, const char *why);
    void *ctx;
};

/* Builds everything and loads the kernel; vCPUs do not run yet. Takes over the disks, nets and shares, also on failure. */
int must_check machine_create(const struct machine_config *config, struct machine **out_machine,
                              struct error *err);
/* Stops the vCPUs, frees all. NULL is fine. */
void machine_destroy(struct machine *machine);

/* Starts or goes on. */
void machine_resume(struct machine *machine);
/* All vCPUs stand between two instructions and no device request is in flight when it returns. */
void machine_pause(struct machine *machine);
bool machine_is_running(const struct machine *machine);
/* ACPI power button. */
void machine_power_button(struct machine *machine);
/* As the guest's own reset: registers, devices, memory of the boot files again. */
int must_check machine_reset(struct machine *machine, struct error *err);

/* Bytes typed at a console, or at serial port 'port' (0: the console's, 1: config.serial[0]); returns how many the guest took now (it asks for more by 'input_ready'). */
size_t machine_serial_input(struct machine *machine, unsigned port, const uint8_t *data,
                            size_t size);
size_t machine_virtio_console_input(struct machine *machine, const uint8_t *data, size_t size);
void machine_virtio_console_resize(struct machine *machine, uint16_t columns, uint16_t rows);
/* Balloon target: bytes that the guest should keep. -ENODEV without a balloon. */
int must_check machine_set_balloon(struct machine *machine, uint64_t bytes, struct error *err);

/* Adds a disk or card, with a number that is free, and tells the guest. The block or net is the machine's, also on failure. -EBUSY:
 * the slot is taken; -ENOSPC: all are. hotplug.c. */
int must_check machine_plug_disk(struct machine *machine, size_t index,
                                 const struct machine_disk *disk, struct error *err);
int must_check machine_plug_net(struct machine *machine, size_t index,
                                const struct machine_net *net, struct error *err);
/* Asks the guest to let go of it; config.unplugged says when it has, or when the machine is reset meanwhile. May be asked again.
 * There is no taking away without asking: drivers wait for devices that answer no more, for good. -ENODEV: there is none. */
int must_check machine_unplug(struct machine *machine, enum machine_part part, size_t index,
                              struct error *err);
bool machine_has_part(const struct machine *machine, enum machine_part part, size_t index);
/* Of a part that is there. */
unsigned machine_slot(const struct machine *machine, enum machine_part part, size_t index);
bool machine_is_leaving(const struct machine *machine, enum machine_part part, size_t index);
/* Has the guest a driver that listens to what comes and goes? */
bool machine_listens_to_plugs(const struct machine *machine);

/* Memory in bytes: what the guest was last asked to have, what it has of that (without what its balloon holds), and the most. */
struct machine_memory_size {
    uint64_t wanted, present, max;
};
/* Asks the guest to have so much, from 'memory_bytes' on by memory that comes and goes, below by the balloon. */
int must_check machine_set_memory(struct machine *machine, uint64_t bytes, struct error *err);
struct machine_memory_size machine_memory_size(struct machine *machine);

/* vCPUs: how many are there, how many of those the guest was asked to let go, and the most. */
struct machine_vcpu_count {
    uint32_t present, leaving, max;
};
/* Adds vCPUs at once, or asks the guest to let some go. -ENODEV if the machine was not made for that. */
int must_check machine_set_vcpus(struct machine *machine, uint32_t count, struct error *err);
struct machine_vcpu_count machine_vcpu_count(struct machine *machine);

/* The size of disk 'index' has changed: the guest is told. */
void machine_disk_resized(struct machine *machine, size_t index);

/* Visits each part of the state in order: "vcpu.N", "ioapic", "clock", each device. Paused machines only. 'name' lasts only
 * for the call. Returns the first non-zero result of 'visit'. */
struct machine_section {
    char name[48];
    uint32_t version;
    void *object; /* the machine's own */
};
typedef int (*machine_section_fn)(void *ctx, struct machine *machine,
                                  const struct machine_section *section);
int must_check machine_each_section(struct machine *machine, machine_section_fn visit, void *ctx);
void machine_save_section(struct machine *machine, const struct machine_section *section,
                          struct archive_writer *writer);
int must_check machine_restore_section(struct machine *machine,
                                       const struct machine_section *section, uint32_t version,
                                       struct archive_reader *reader, struct error *err);

/* After a restore: does the guest's TSC run at another rate than the guest takes it for? */
bool machine_has_other_tsc_rate(const struct machine *machine, uint64_t *out_guest_hz,
                                uint64_t *out_real_hz);

struct guest_memory *machine_memory(struct machine *machine);
const struct machine_config *machine_get_config(const struct machine *machine);
/* Counters of vCPUs and devices: emit(ctx, "vcpu.0", "instructions", value). */
void machine_stats(struct machine *machine,
                   void (*emit)(void *ctx, const char *object, const char *name, uint64_t value),
                   void *ctx);
/* Names of all devices, in order: emit(ctx, name). */
void machine_devices(struct machine *machine, void (*emit)(void *ctx, const char *name), void *ctx);
/* Registers of vCPU 'index' as text for a log, after a triple fault. */
void machine_dump_vcpu(struct machine *machine, uint32_t index, char *out_text, size_t size);

#endif
