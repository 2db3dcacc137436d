/* What the files of engine/kvm share.
 *
 * All descriptors are opened by vm_create and vcpu_create. In a jail the engine still needs: futex, tgkill, getpid and
 * rt_sigreturn, rt_sigprocmask, and these ioctls:
 *   vCPU thread      KVM_RUN; KVM_GET_* and KVM_SET_* of REGS, SREGS, SREGS2, DEBUGREGS, XCRS, XSAVE, MSRS, LAPIC,
 *                    VCPU_EVENTS, MP_STATE (pause, save, restore, reset)
 *   any thread       KVM_IRQ_LINE, KVM_SIGNAL_MSI
 *   loop, vCPUs      KVM_IOEVENTFD, KVM_IRQFD, KVM_SET_GSI_ROUTING (drivers come and go)
 *   loop             KVM_GET_IRQCHIP, KVM_SET_IRQCHIP, KVM_GET_CLOCK, KVM_SET_CLOCK, KVM_SET_USER_MEMORY_REGION and
 *                    KVM_GET_DIRTY_LOG (the dirty log) */
#ifndef ENGINE_KVM_KVM_INTERNAL_H
#define ENGINE_KVM_KVM_INTERNAL_H

#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/core/compiler.h"
#include "engine/kvm/kvm.h"

#define KVM_ENGINE_PINS       24 /* inputs of the IOAPIC: GSIs 0..23 */
#define KVM_ENGINE_MAX_IRQFDS 1024

/* One message of an irqfd; its GSI is KVM_ENGINE_PINS plus its place in the table. */
struct kvm_message {
    bool is_used;
    int fd;
    uint64_t address;
    uint32_t data;
};

struct kvm_guest {
    struct vm vm;
    int kvm_fd, vm_fd;
    bool has_sregs2;
    size_t run_size; /* of the page(s) shared with KVM_RUN */

    pthread_mutex_t lock; /* the messages, the routing made of them */
    struct kvm_message message[KVM_ENGINE_MAX_IRQFDS];
};

/* Counters: written by the vCPU's thread, read by any. */
struct kvm_counters {
    _Atomic uint64_t exits, exits_pio, exits_mmio, kicks;
};

struct kvm_processor {
    struct vcpu vcpu;
    int fd;
    struct x86_cpuid cpuid; /* as the guest sees it */
    struct kvm_run *run;
    size_t run_size;

    atomic_bool is_kicked;
    _Atomic pid_t running_tid; /* 0: not in vcpu_run */
    pid_t unblocked_tid;       /* the thread that lets the kick's signal through */
    /* The kernel completes an I/O instruction only on the next KVM_RUN. */
    bool has_io_to_complete;
    bool is_shut_down;

    _Atomic uint64_t tsc_offset;  /* guest TSC minus the host's at the guest's rate */
    uint64_t tsc_hz, host_tsc_hz; /* the same, but where the kernel scales */
    struct kvm_counters counters;
    struct error error;
};

static inline struct kvm_guest *kvm_guest_from_vm(struct vm *vm)
{
    return container_of(vm, struct kvm_guest, vm);
}

static inline struct kvm_processor *kvm_processor_from_vcpu(struct vcpu *vcpu)
{
    return container_of(vcpu, struct kvm_processor, vcpu);
}

/* ioctl over EINTR: -errno or its result. */
int kvm_ioctl(int fd, unsigned long request, void *argument);

/* probe.c */
void kvm_probe(struct engine_probe *out_probe);
int kvm_supported_cpuid(struct x86_cpuid *out_cpuid, struct error *err);
void kvm_hypervisor_cpuid(struct x86_cpuid *out_cpuid);
bool kvm_has_hyperv(void);

/* vm.c */
int kvm_vm_create(const struct vm_config *config, struct vm **out_vm, struct error *err);
void kvm_vm_destroy(struct vm *vm);
int kvm_vm_get_ioapic(struct vm *vm, struct x86_ioapic_state *out_state, struct error *err);
int kvm_vm_set_ioapic(struct vm *vm, const struct x86_ioapic_state *state, struct error *err);
uint64_t kvm_vm_get_clock(struct vm *vm);
void kvm_vm_set_clock(struct vm *vm, uint64_t ns);
int kvm_vm_log_start(struct vm *vm, struct error *err);
void kvm_vm_log_stop(struct vm *vm);
int kvm_vm_log_fetch(struct vm *vm, size_t slot, uint64_t *out_bitmap, struct error *err);

/* irq.c */
int kvm_set_routing(struct kvm_guest *guest);
int kvm_vm_irq_line(struct vm *vm, uint32_t gsi, bool level);
int kvm_vm_msi(struct vm *vm, uint64_t address, uint32_t data);
int kvm_vm_ioeventfd(struct vm *vm, bool is_pio, uint64_t address, unsigned size, int fd,
                     bool attach, struct error *err);
int kvm_vm_irqfd(struct vm *vm, int fd, uint64_t address, uint32_t data, bool attach,
                 struct error *err);
void kvm_vcpu_signal(struct vcpu *vcpu, enum vcpu_signal signal, uint8_t value);

/* vcpu.c */
int kvm_kick_prepare(struct error *err);
int kvm_vcpu_create(struct vm *vm, uint32_t index, const struct x86_cpuid *cpuid,
                    struct vcpu **out_vcpu, struct error *err);
void kvm_vcpu_destroy(struct vcpu *vcpu);
enum vcpu_exit kvm_vcpu_run(struct vcpu *vcpu);
void kvm_vcpu_kick(struct vcpu *vcpu);

/* state.c */
int kvm_vcpu_get_state(struct vcpu *vcpu, struct x86_state *out_state, struct error *err);
int kvm_vcpu_set_state(struct vcpu *vcpu, const struct x86_state *state, struct error *err);
/* The host's TSC at the guest's rate. */
uint64_t kvm_scaled_tsc(const struct kvm_processor *processor);
/* Measures how far the guest's TSC is from that. */
void kvm_measure_tsc(struct kvm_processor *processor);

#endif
