/* A vCPU of the kernel: the run loop, kicks, and the table of the engine. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/core/bits.h"
#include "base/core/invariant.h"
#include "base/host/file.h"
#include "engine/kvm/kvm_internal.h"

/* The first real-time signals belong to the C library and to debugging tools. */
#define KICK_SIGNAL (SIGRTMIN + 5)

static void kick_arrived(int signal_number)
{
    /* Its arrival alone ends KVM_RUN. */
}

int kvm_kick_prepare(struct error *err)
{
    /* A kick may also hit a device handler on the vCPU's thread: that one's system calls go on. */
    struct sigaction action = {.sa_handler = kick_arrived, .sa_flags = SA_RESTART};
    return sigaction(KICK_SIGNAL, &action, NULL) < 0
               ? error_set_errno(err, errno, "preparing the signal that interrupts vCPUs")
               : 0;
}

static int set_cpuid(struct kvm_processor *processor, const struct x86_cpuid *cpuid,
                     struct error *err)
{
    AUTO_FREE struct kvm_cpuid2 *list =
        calloc(1, sizeof(*list) + cpuid->count * sizeof(list->entries[0]));
    if (list == NULL) {
        return error_set(err, ENOMEM, "allocating KVM's CPUID table");
    }
    list->nent = (uint32_t)cpuid->count;
    for (size_t i = 0; i < cpuid->count; i++) {
        const struct x86_cpuid_entry *from = &cpuid->entry[i];
        list->entries[i] = (struct kvm_cpuid_entry2){
            .function = from->leaf,
            .index = from->subleaf,
            .flags = from->has_subleaf ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
            .eax = from->eax,
            .ebx = from->ebx,
            .ecx = from->ecx,
            .edx = from->edx,
        };
    }
    int rc = kvm_ioctl(processor->fd, KVM_SET_CPUID2, list);
    if (rc < 0) {
        return error_set_errno(err, -rc, "giving KVM the CPUID table of vCPU %u",
                               processor->vcpu.index);
    }
    processor->cpuid = *cpuid;
    return 0;
}

int kvm_vcpu_create(struct vm *vm, uint32_t index, const struct x86_cpuid *cpuid,
                    struct vcpu **out_vcpu, struct error *err)
{
    struct kvm_guest *guest = kvm_guest_from_vm(vm);
    struct kvm_processor *processor = calloc(1, sizeof(*processor));
    if (processor == NULL) {
        return error_set(err, ENOMEM, "creating vCPU %u", index);
    }
    processor->vcpu = (struct vcpu){.vm = vm, .index = index};
    processor->fd = kvm_ioctl(guest->vm_fd, KVM_CREATE_VCPU, (void *)(uintptr_t)index);
    if (processor->fd < 0) {
        int rc = error_set_errno(err, -processor->fd, "creating vCPU %u of KVM", index);
        free(processor);
        return rc;
    }
    processor->run_size = guest->run_size;
    processor->run =
        mmap(NULL, guest->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, processor->fd, 0);
    int rc;
    if (processor->run == MAP_FAILED) {
        processor->run = NULL;
        rc = error_set_errno(err, errno, "mapping the run structure of vCPU %u", index);
    } else {
        rc = set_cpuid(processor, cpuid, err);
    }
    if (rc < 0) {
        kvm_vcpu_destroy(&processor->vcpu);
        return rc;
    }
    int tsc_khz = kvm_ioctl(processor->fd, KVM_GET_TSC_KHZ, NULL);
    processor->tsc_hz = processor->host_tsc_hz = tsc_khz > 0 ? (uint64_t)tsc_khz * 1000 : 0;
    kvm_measure_tsc(processor);
    *out_vcpu = &processor->vcpu;
    return 0;
}

void kvm_vcpu_destroy(struct vcpu *vcpu)
{
    if (vcpu == NULL) {
        return;
    }
    struct kvm_processor *processor = kvm_processor_from_vcpu(vcpu);
    if (processor->run != NULL) {
        invariant(munmap(processor->run, processor->run_size) == 0);
    }
    (void)close(processor->fd); /* nothing to report */
    free(processor);
}

static int kvm_vcpu_set_cpuid(struct vcpu *vcpu, const struct x86_cpuid *cpuid, struct error *err)
{
    return set_cpuid(kvm_processor_from_vcpu(vcpu), cpuid, err);
}

/* Only where the CPU scales: the kernel's substitute, counters that it pushes on now and then, is worse than another rate. */
static int kvm_vcpu_set_tsc_hz(struct vcpu *vcpu, uint64_t hz, struct error *err)
{
    struct kvm_processor *processor = kvm_processor_from_vcpu(vcpu);
    struct kvm_guest *guest = kvm_guest_from_vm(vcpu->vm);
    if (engine_same_tsc_rate(processor->tsc_hz, hz)) {
        return 0;
    }
    if (processor->host_tsc_hz == 0 ||
        kvm_ioctl(guest->kvm_fd, KVM_CHECK_EXTENSION, (void *)(long)KVM_CAP_TSC_CONTROL) <= 0) {
        return -ENOTSUP;
    }
    int rc = kvm_ioctl(processor->fd, KVM_SET_TSC_KHZ, (void *)(uintptr_t)(hz / 1000));
    if (rc < 0) {
        return error_set_errno(err, -rc, "setting the TSC of vCPU %u to %llu Hz", vcpu->index,
                               (unsigned long long)hz);
    }
    processor->tsc_hz = hz;
    kvm_measure_tsc(processor);
    return 0;
}

void kvm_vcpu_kick(struct vcpu *vcpu)
{
    struct kvm_processor *processor = kvm_processor_from_vcpu(vcpu);
    atomic_store(&processor->is_kicked, true);
    /* A KVM_RUN that has not begun returns at once; one that has is interrupted. */
    __atomic_store_n(&processor->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    pid_t tid = atomic_load(&processor->running_tid);
    if (tid != 0) {
        (void)syscall(SYS_tgkill, getpid(), tid,
                      KICK_SIGNAL); /* a thread that is gone runs nothing */
    }
}

static void count(_Atomic uint64_t *counter)
{
    /* One writer: no need for a locked instruction. */
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + 1,
                          memory_order_relaxed);
}

static void do_pio(struct kvm_processor *processor)
{
    const struct vm_callbacks *call = &processor->vcpu.vm->config.callbacks;
    const struct kvm_run *run = processor->run;
    uint8_t *data = (uint8_t *)run + run->io.data_offset;
    unsigned size = run->io.size;
    for (uint32_t i = 0; i < run->io.count; i++, data += size) {
        uint32_t value = 0;
        if (run->io.direction == KVM_EXIT_IO_OUT) {
            memcpy(&value, data, size);
            call->pio_write(call->ctx, processor->vcpu.index, run->io.port, size, value);
        } else {
            value = (uint32_t)call->pio_read(call->ctx, processor->vcpu.index, run->io.port, size);
            memcpy(data, &value, size);
        }
    }
    count(&processor->counters.exits_pio);
}

static void do_mmio(struct kvm_processor *processor)
{
    const struct vm_callbacks *call = &processor->vcpu.vm->config.callbacks;
    struct kvm_run *run = processor->run;
    uint32_t length = MIN(run->mmio.len, sizeof(run->mmio.data));
    /* Accesses that straddle memory and a device leave odd lengths: cut them into what a bus knows. */
    for (uint32_t at = 0; at < length;) {
        uint32_t size = 8;
        while (size > length - at) {
            size /= 2;
        }
        uint64_t gpa = run->mmio.phys_addr + at;
        uint64_t value = 0;
        if (run->mmio.is_write) {
            memcpy(&value, run->mmio.data + at, size);
            call->mmio_write(call->ctx, processor->vcpu.index, gpa, size, value);
        } else {
            value = call->mmio_read(call->ctx, processor->vcpu.index, gpa, size);
            memcpy(run->mmio.data + at, &value, size);
        }
        at += size;
    }
    count(&processor->counters.exits_mmio);
}

/* "..., at cs:rip ..." for the log. */
static void describe_registers(struct kvm_processor *processor, char *out_text, size_t size)
{
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    if (kvm_ioctl(processor->fd, KVM_GET_REGS, &regs) < 0 ||
        kvm_ioctl(processor->fd, KVM_GET_SREGS, &sregs) < 0) {
        (void)snprintf(out_text, size, "registers not readable"); /* fits */
        return;
    }
    (void)snprintf(out_text, size,
                   "cs:rip %x:%llx rsp %llx rflags %llx rax %llx cr0 %llx cr2 %llx cr3 %llx cr4 "
                   "%llx efer %llx",
                   sregs.cs.selector, regs.rip, regs.rsp, regs.rflags, regs.rax, sregs.cr0,
                   sregs.cr2, sregs.cr3, sregs.cr4, sregs.efer); /* cut is fine */
}

static enum vcpu_exit fail(struct kvm_processor *processor, const char *what, uint64_t detail)
{
    char registers[180];
    describe_registers(processor, registers, sizeof(registers));
    (void)error_set(&processor->error, EIO, "vCPU %u: %s 0x%llx: %s", processor->vcpu.index, what,
                    (unsigned long long)detail, registers);
    return VCPU_EXIT_ERROR;
}

static enum vcpu_exit shut_down(struct kvm_processor *processor)
{
    char registers[180];
    describe_registers(processor, registers, sizeof(registers));
    (void)error_set(&processor->error, EIO, "vCPU %u: triple fault: %s", processor->vcpu.index,
                    registers);
    processor->is_shut_down = true;
    return VCPU_EXIT_SHUTDOWN;
}

/* Serves an exit. False: *out_exit is what vcpu_run returns. */
static bool handle_exit(struct kvm_processor *processor, enum vcpu_exit *out_exit)
{
    struct kvm_run *run = processor->run;
    count(&processor->counters.exits);
    switch (run->exit_reason) {
    case KVM_EXIT_IO:
        do_pio(processor);
        processor->has_io_to_complete = true;
        return true;
    case KVM_EXIT_MMIO:
        do_mmio(processor);
        processor->has_io_to_complete = true;
        return true;
    case KVM_EXIT_INTR:
    case KVM_EXIT_IRQ_WINDOW_OPEN:
    case KVM_EXIT_HLT: /* the kernel sleeps for us; should it not, halting again does no harm */
        return true;
    case KVM_EXIT_SHUTDOWN:
        *out_exit = shut_down(processor);
        return false;
    case KVM_EXIT_DEBUG:
        *out_exit = VCPU_EXIT_DEBUG;
        return false;
    case KVM_EXIT_FAIL_ENTRY:
        *out_exit = fail(processor, "the CPU refused to enter the guest, reason",
                         run->fail_entry.hardware_entry_failure_reason);
        return false;
    case KVM_EXIT_INTERNAL_ERROR:
        *out_exit = fail(processor, "KVM could not go on, internal error", run->internal.suberror);
        return false;
    default:
        *out_exit = fail(processor, "KVM ended with the unexpected exit", run->exit_reason);
        return false;
    }
}

static enum vcpu_exit run_loop(struct kvm_processor *processor)
{
    struct kvm_run *run = processor->run;
    for (;;) {
        __atomic_store_n(&run->immediate_exit, 0, __ATOMIC_SEQ_CST);
        bool is_kicked = atomic_exchange(&processor->is_kicked, false);
        if (is_kicked) {
            if (!processor->has_io_to_complete) {
                count(&processor->counters.kicks);
                return VCPU_EXIT_KICKED;
            }
            /* Let the instruction complete, and run no other one. */
            __atomic_store_n(&run->immediate_exit, 1, __ATOMIC_SEQ_CST);
        }
        /* No retry here: EINTR is what a kick looks like. */
        int rc = ioctl(processor->fd, KVM_RUN, NULL) < 0 ? -errno : 0;
        processor->has_io_to_complete = false;
        if (is_kicked) {
            atomic_store(&processor->is_kicked, true);
        }
        if (rc == -EINTR || rc == -EAGAIN) {
            continue; /* EAGAIN: a vCPU that waited has got its INIT or SIPI */
        }
        if (rc < 0) {
            return fail(processor, "KVM_RUN failed, error", (uint64_t)-rc);
        }
        enum vcpu_exit result;
        if (!handle_exit(processor, &result)) {
            return result;
        }
    }
}

enum vcpu_exit kvm_vcpu_run(struct vcpu *vcpu)
{
    struct kvm_processor *processor = kvm_processor_from_vcpu(vcpu);
    if (processor->is_shut_down) {
        return VCPU_EXIT_SHUTDOWN;
    }
    pid_t tid = gettid();
    if (processor->unblocked_tid != tid) {
        /* Programs with an event loop tend to block every signal in their threads. */
        sigset_t kick;
        (void)sigemptyset(&kick);            /* cannot fail */
        (void)sigaddset(&kick, KICK_SIGNAL); /* cannot fail: a valid signal */
        invariant(pthread_sigmask(SIG_UNBLOCK, &kick, NULL) == 0);
        processor->unblocked_tid = tid;
    }
    atomic_store(&processor->running_tid, tid);
    enum vcpu_exit result = run_loop(processor);
    atomic_store(&processor->running_tid, 0);
    return result;
}

static void kvm_vcpu_error(struct vcpu *vcpu, struct error *out_error)
{
    *out_error = kvm_processor_from_vcpu(vcpu)->error;
}

static uint64_t kvm_vcpu_tsc_hz(struct vcpu *vcpu)
{
    return kvm_processor_from_vcpu(vcpu)->tsc_hz;
}

uint64_t kvm_scaled_tsc(const struct kvm_processor *processor)
{
    uint64_t tsc = __builtin_ia32_rdtsc();
    return processor->tsc_hz == processor->host_tsc_hz
               ? tsc
               : (uint64_t)((unsigned __int128)tsc * processor->tsc_hz / processor->host_tsc_hz);
}

static uint64_t kvm_vcpu_tsc(struct vcpu *vcpu)
{
    const struct kvm_processor *processor = kvm_processor_from_vcpu(vcpu);
    return kvm_scaled_tsc(processor) + atomic_load(&processor->tsc_offset);
}

static void kvm_vcpu_stats(struct vcpu *vcpu,
                           void (*emit)(void *ctx, const char *name, uint64_t value), void *ctx)
{
    const struct kvm_counters *counters = &kvm_processor_from_vcpu(vcpu)->counters;
    emit(ctx, "exits", atomic_load_explicit(&counters->exits, memory_order_relaxed));
    emit(ctx, "exits_pio", atomic_load_explicit(&counters->exits_pio, memory_order_relaxed));
    emit(ctx, "exits_mmio", atomic_load_explicit(&counters->exits_mmio, memory_order_relaxed));
    emit(ctx, "kicks", atomic_load_explicit(&counters->kicks, memory_order_relaxed));
}

const struct engine_ops kvm_engine_ops = {
    .name = "kvm",
    .probe = kvm_probe,
    .supported_cpuid = kvm_supported_cpuid,
    .hypervisor_cpuid = kvm_hypervisor_cpuid,
    .has_hyperv = kvm_has_hyperv,
    .vm_create = kvm_vm_create,
    .vm_destroy = kvm_vm_destroy,
    .vm_irq_line = kvm_vm_irq_line,
    .vm_msi = kvm_vm_msi,
    .vm_ioeventfd = kvm_vm_ioeventfd,
    .vm_irqfd = kvm_vm_irqfd,
    .vm_get_ioapic = kvm_vm_get_ioapic,
    .vm_set_ioapic = kvm_vm_set_ioapic,
    .vm_get_clock = kvm_vm_get_clock,
    .vm_set_clock = kvm_vm_set_clock,
    .vm_log_start = kvm_vm_log_start,
    .vm_log_stop = kvm_vm_log_stop,
    .vm_log_fetch = kvm_vm_log_fetch,
    .vcpu_create = kvm_vcpu_create,
    .vcpu_destroy = kvm_vcpu_destroy,
    .vcpu_set_cpuid = kvm_vcpu_set_cpuid,
    .vcpu_set_tsc_hz = kvm_vcpu_set_tsc_hz,
    .vcpu_run = kvm_vcpu_run,
    .vcpu_kick = kvm_vcpu_kick,
    .vcpu_signal = kvm_vcpu_signal,
    .vcpu_get_state = kvm_vcpu_get_state,
    .vcpu_set_state = kvm_vcpu_set_state,
    .vcpu_error = kvm_vcpu_error,
    .vcpu_tsc_hz = kvm_vcpu_tsc_hz,
    .vcpu_tsc = kvm_vcpu_tsc,
    .vcpu_stats = kvm_vcpu_stats,
};
