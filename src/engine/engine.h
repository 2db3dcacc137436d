/* Engines: what executes vCPUs. A machine never knows which one runs it.
 *
 * How a vCPU reaches the machine: the engine calls back on the vCPU's own thread for port and memory-mapped I/O and, when
 * the engine has no interrupt controller of its own, for the local APIC (struct vm_callbacks). Everything else ends
 * vcpu_run with an exit. Callbacks in place of exits for I/O: an instruction that touches a device in its middle (string
 * I/O, read-modify-write) needs no state between two runs, so the architectural state is whole at every exit.
 *
 * Threads: a vCPU is created, run, read and written by one thread at a time (its own); vcpu_signal, vcpu_kick and the vm_*
 * interrupt calls come from any thread. */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/core/error.h"
#include "cpu/x86/cpuid.h"
#include "cpu/x86/state.h"
#include "engine/memory.h"

#define ENGINE_MAX_VCPUS 64

/* Rates of TSCs that differ by less are the same: no measurement is better, and a guest's clock discipline copes. */
#define ENGINE_TSC_TOLERANCE_PPM 250

/* Why vcpu_run returned. */
enum vcpu_exit {
    VCPU_EXIT_KICKED,          /* vcpu_kick was called: look at your orders, run again */
    VCPU_EXIT_SHUTDOWN,        /* triple fault */
    VCPU_EXIT_DEBUG,           /* breakpoint or single step of a debugger */
    VCPU_EXIT_RESET_REQUESTED, /* never from guest code alone; reserved for engines with a firmware path */
    VCPU_EXIT_ERROR,           /* the engine cannot go on: vcpu_error tells why */
};

/* What vcpu_signal raises, for engines without an interrupt controller of their own. */
enum vcpu_signal {
    VCPU_SIGNAL_INTERRUPT, /* the APIC has something to deliver: ask apic_acknowledge */
    VCPU_SIGNAL_NMI,
    VCPU_SIGNAL_INIT,
    VCPU_SIGNAL_SIPI, /* 'value' is the vector */
    VCPU_SIGNAL_SMI,  /* ignored: there is no SMM */
};

/* The machine's side. 'vcpu' is the index of the vCPU that accesses. Sizes: 1, 2, 4 (ports), and 8 (memory). */
struct vm_callbacks {
    void *ctx;
    /* Addresses without a device: all ones; writes vanish. */
    uint64_t (*pio_read)(void *ctx, uint32_t vcpu, uint16_t port, unsigned size);
    void (*pio_write)(void *ctx, uint32_t vcpu, uint16_t port, unsigned size, uint32_t value);
    uint64_t (*mmio_read)(void *ctx, uint32_t vcpu, uint64_t gpa, unsigned size);
    void (*mmio_write)(void *ctx, uint32_t vcpu, uint64_t gpa, unsigned size, uint64_t value);

    /* Local APIC, only called by engines without VM_HAS_IRQCHIP. */

    /* The vector to deliver now, moved from IRR to ISR; -1: none that passes the priority. */
    int (*apic_acknowledge)(void *ctx, uint32_t vcpu);
    /* Would apic_acknowledge give one? */
    bool (*apic_has_interrupt)(void *ctx, uint32_t vcpu);
    /* x2APIC MSRs (0x800..0x8ff), APIC_BASE and TSC_DEADLINE. False: #GP. */
    bool (*apic_msr_read)(void *ctx, uint32_t vcpu, uint32_t msr, uint64_t *out_value);
    bool (*apic_msr_write)(void *ctx, uint32_t vcpu, uint32_t msr, uint64_t value);
    uint8_t (*apic_get_cr8)(void *ctx, uint32_t vcpu);
    void (*apic_set_cr8)(void *ctx, uint32_t vcpu, uint8_t value);
    /* For interrupts whose end the guest only notes in memory. May the end of 'vector', just acknowledged, be told late: does
     * nobody wait for it? And the end itself, as a write to EOI. NULL: such ends are not to be had. */
    bool (*apic_can_end_late)(void *ctx, uint32_t vcpu, uint8_t vector);
    void (*apic_end)(void *ctx, uint32_t vcpu);
    /* Sends what the low half of ICR says (vector, delivery mode) to vCPU 'target'. False: there is none. */
    bool (*apic_send)(void *ctx, uint32_t target, uint32_t icr);
    /* The vCPU's timer (vcpu_set_timer) is due; it is off until it is set again. Only with VM_HAS_OWN_TIME. */
    void (*timer_expired)(void *ctx, uint32_t vcpu);
};

/* What a VM of this engine can do by itself. */
#define VM_HAS_IRQCHIP                                                                             \
    (1u                                                                                            \
     << 0) /* LAPICs and IOAPIC are the engine's: use vm_irq_line, vm_msi; lapic state is in x86_state */
#define VM_HAS_IOEVENTFD (1u << 1)
#define VM_HAS_IRQFD     (1u << 2)
/* Time is the engine's: vm_now_ns, vcpu_set_timer. Whoever runs such a VM keeps the host's clocks and random numbers from the
 * guest, and is done with its requests before it goes on, so that two runs are the same. Without VM_HAS_IRQCHIP. */
#define VM_HAS_OWN_TIME (1u << 3)
/* When such a VM's time begins, in seconds since 1970: the first of January 2026. */
#define ENGINE_OWN_EPOCH_S 1767225600u

struct vm_config {
    uint32_t vcpu_count;         /* 1..ENGINE_MAX_VCPUS */
    struct guest_memory *memory; /* borrowed for the VM's life; slots complete */
    struct vm_callbacks callbacks;
    const char *options; /* what followed "soft," or "kvm," in --engine, or NULL */
};

/* IOAPIC in terms of the architecture, for save between engines. */
struct x86_ioapic_state {
    uint64_t base_gpa;
    uint32_t select;
    uint32_t id;
    uint32_t irr; /* level of each input line */
    uint64_t redirection[24];
};

/* How well an engine would run here. */
enum engine_quality {
    ENGINE_UNUSABLE,
    ENGINE_TOY, /* runs, but not ordinary guests: never chosen by auto */
    ENGINE_USABLE,
};

struct engine_probe {
    enum engine_quality quality;
    char reason[200]; /* one clause in words: "the CPU shows no svm or vmx" */
    char remedy[200]; /* what the user can do, or empty */
};

/* Every VM and vCPU of an engine begins with these. */
struct vm {
    const struct engine_ops *ops;
    struct vm_config config;
    uint32_t features; /* VM_HAS_* */
};

struct vcpu {
    struct vm *vm;
    uint32_t index;
};

/* All mandatory unless it says NULL is fine. */
struct engine_ops {
    const char *name; /* as written after --engine */
    /* Guests that have seen a CPU of another vendor go on here if they saw no feature that is missing. */
    bool stands_for_any_vendor;

    void (*probe)(struct engine_probe *out_probe);
    /* The CPUID that this engine can run, leaf by leaf, for x86_cpuid_build. */
    int (*supported_cpuid)(struct x86_cpuid *out_cpuid, struct error *err);
    /* The leaves 0x40000000.. of KVM's interface that this engine stands for. */
    void (*hypervisor_cpuid)(struct x86_cpuid *out_cpuid);
    /* Can it stand for Hyper-V's interface (cpu/x86/hypervisor.h), too? NULL: it cannot. */
    bool (*has_hyperv)(void);

    int (*vm_create)(const struct vm_config *config, struct vm **out_vm, struct error *err);
    void (*vm_destroy)(struct vm *vm);
    /* Input 'gsi' (0..23 are the IOAPIC's pins) to 'level'. Only with VM_HAS_IRQCHIP. */
    int (*vm_irq_line)(struct vm *vm, uint32_t gsi, bool level);
    int (*vm_msi)(struct vm *vm, uint64_t address, uint32_t data);
    /* A write of 'size' bytes (0: any) at 'address' signals 'fd' and reaches no callback. 'is_pio': a port. NULL is fine. */
    int (*vm_ioeventfd)(struct vm *vm, bool is_pio, uint64_t address, unsigned size, int fd,
                        bool attach, struct error *err);
    /* Signals on 'fd' send the message. NULL is fine. */
    int (*vm_irqfd)(struct vm *vm, int fd, uint64_t address, uint32_t data, bool attach,
                    struct error *err);
    int (*vm_get_ioapic)(struct vm *vm, struct x86_ioapic_state *out_state, struct error *err);
    int (*vm_set_ioapic)(struct vm *vm, const struct x86_ioapic_state *state, struct error *err);
    /* The guest's kvmclock, ns since its boot; setting it makes all vCPUs' clocks go on from there. */
    uint64_t (*vm_get_clock)(struct vm *vm);
    void (*vm_set_clock)(struct vm *vm, uint64_t ns);
    /* Nanoseconds of the VM's own time. NULL is fine without VM_HAS_OWN_TIME. */
    uint64_t (*vm_now_ns)(struct vm *vm);
    /* Dirty log of guest writes (host-side ones are in guest_memory). Fetch ors into and clears. */
    int (*vm_log_start)(struct vm *vm, struct error *err);
    void (*vm_log_stop)(struct vm *vm);
    int (*vm_log_fetch)(struct vm *vm, size_t slot, uint64_t *out_bitmap, struct error *err);

    int (*vcpu_create)(struct vm *vm, uint32_t index, const struct x86_cpuid *cpuid,
                       struct vcpu **out_vcpu, struct error *err);
    void (*vcpu_destroy)(struct vcpu *vcpu);
    /* For a guest that goes on here, before its first run and before vcpu_set_state: the table that it saw so far
     * (x86_cpuid_check found it to be possible), in place of that of vcpu_create. */
    int (*vcpu_set_cpuid)(struct vcpu *vcpu, const struct x86_cpuid *cpuid, struct error *err);
    /* The same for the rate of its TSC. -ENOTSUP, without text: this CPU cannot, the TSC keeps its own rate. */
    int (*vcpu_set_tsc_hz)(struct vcpu *vcpu, uint64_t hz, struct error *err);
    /* Runs guest code, sleeps while the guest halts or waits for SIPI, until one of the exits. */
    enum vcpu_exit (*vcpu_run)(struct vcpu *vcpu);
    /* Makes a vcpu_run that is under way, or else the next one, return VCPU_EXIT_KICKED. Any thread. */
    void (*vcpu_kick)(struct vcpu *vcpu);
    /* Not called with VM_HAS_IRQCHIP, except for NMI. Any thread. */
    void (*vcpu_signal)(struct vcpu *vcpu, enum vcpu_signal signal, uint8_t value);
    int (*vcpu_get_state)(struct vcpu *vcpu, struct x86_state *out_state, struct error *err);
    /* callbacks.timer_expired at 'deadline_ns' of vm_now_ns; UINT64_MAX: never. Replaces what was set. On the vCPU's thread, or
     * while it does not run. NULL is fine without VM_HAS_OWN_TIME. */
    void (*vcpu_set_timer)(struct vcpu *vcpu, uint64_t deadline_ns);
    /* -EINVAL (named) for a state that no CPU can have: it may come from a file. */
    int (*vcpu_set_state)(struct vcpu *vcpu, const struct x86_state *state, struct error *err);
    /* After VCPU_EXIT_ERROR or SHUTDOWN: why, in words. */
    void (*vcpu_error)(struct vcpu *vcpu, struct error *out_error);
    /* Hertz of the guest's TSC. */
    uint64_t (*vcpu_tsc_hz)(struct vcpu *vcpu);
    /* The guest's TSC now. Any thread. */
    uint64_t (*vcpu_tsc)(struct vcpu *vcpu);
    /* Calls emit(ctx, name, value) for each counter ("instructions", "exits_mmio", ...). Any thread. */
    void (*vcpu_stats)(struct vcpu *vcpu, void (*emit)(void *ctx, const char *name, uint64_t value),
                       void *ctx);
};

/* All engines of this build, best first, NULL at the end. */
extern const struct engine_ops *const engines[];

bool engine_same_tsc_rate(uint64_t hz, uint64_t other_hz);

/* Optional, as soon as a process knows that it will make a VM: engines measure clocks, and time has to pass between. */
void engine_prepare(void);

/* By name ("kvm", "soft", "null"), options after a comma ignored; NULL: there is none. */
const struct engine_ops *engine_find(const char *name);

/* "auto" takes the first usable one; a name takes that one unless it is unusable. The reason of the choice in words
 * goes to 'out_reason' (size ERROR_TEXT_SIZE). */
int must_check engine_choose(const char *name, const struct engine_ops **out_engine,
                             char *out_reason, struct error *err);

#endif
