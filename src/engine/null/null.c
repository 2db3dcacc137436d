/* The null engine. One lock for a VM guards all that more than one thread touches. */
#include "engine/null/null.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/core/invariant.h"

#define TSC_HZ       1000000000ull
#define SIGNAL_COUNT (VCPU_SIGNAL_SMI + 1)
#define LINE_COUNT   24

struct null_vm {
    struct vm vm;
    pthread_mutex_t lock;
    bool line[LINE_COUNT];
    uint64_t message_address[NULL_MAX_MESSAGES];
    uint32_t message_data[NULL_MAX_MESSAGES];
    size_t message_count;
    struct x86_ioapic_state ioapic;
    int64_t clock_offset_ns;
};

struct null_vcpu {
    struct vcpu vcpu;
    struct x86_state state;
    struct null_access *script;
    size_t script_count, script_next;
    enum vcpu_exit script_end;
    uint64_t accesses; /* atomic: read by vcpu_stats */

    pthread_cond_t changed; /* with the VM's lock: */
    bool is_kicked;
    uint32_t signal_count[SIGNAL_COUNT];
    uint8_t signal_value[SIGNAL_COUNT];
};

static struct null_vm *null_from_vm(struct vm *vm)
{
    return container_of(vm, struct null_vm, vm);
}

static struct null_vcpu *null_from_vcpu(struct vcpu *vcpu)
{
    return container_of(vcpu, struct null_vcpu, vcpu);
}

static void lock(struct null_vm *vm)
{
    invariant(pthread_mutex_lock(&vm->lock) == 0);
}

static void unlock(struct null_vm *vm)
{
    invariant(pthread_mutex_unlock(&vm->lock) == 0);
}

static uint64_t now_ns(void)
{
    struct timespec now;
    invariant(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void null_probe(struct engine_probe *out_probe)
{
    *out_probe = (struct engine_probe){.quality = ENGINE_TOY};
    (void)snprintf(out_probe->reason, sizeof(out_probe->reason), "it runs no code: for tests");
}

/* Everything: a table of all ones in the leaves that models ask for would promise what no CPU has, so this is the
 * smallest table that the model "host" can be built from. */
static int null_supported_cpuid(struct x86_cpuid *out_cpuid, struct error *err)
{
    *out_cpuid = (struct x86_cpuid){
        .entry = {{.leaf = 0, .eax = 1},
                  {.leaf = 1, .eax = 0x600},
                  {.leaf = 0x80000000u, .eax = 0x80000008u},
                  {.leaf = 0x80000008u, .eax = 48 << 8 | 40}},
        .count = 4,
    };
    return 0;
}

static void null_hypervisor_cpuid(struct x86_cpuid *out_cpuid)
{
    out_cpuid->count = 0;
}

static int null_vm_create(const struct vm_config *config, struct vm **out_vm, struct error *err)
{
    struct null_vm *vm = calloc(1, sizeof(*vm));
    if (vm == NULL) {
        return error_set(err, ENOMEM, "creating a VM of the null engine");
    }
    vm->vm.ops = &null_engine_ops;
    vm->vm.config = *config;
    if (config->options != NULL && strstr(config->options, "irqchip") != NULL) {
        vm->vm.features = VM_HAS_IRQCHIP | VM_HAS_IOEVENTFD | VM_HAS_IRQFD;
    }
    invariant(pthread_mutex_init(&vm->lock, NULL) == 0);
    *out_vm = &vm->vm;
    return 0;
}

static void null_vm_destroy(struct vm *public)
{
    if (public != NULL) {
        struct null_vm *vm = null_from_vm(public);
        invariant(pthread_mutex_destroy(&vm->lock) == 0);
        free(vm);
    }
}

static int null_vm_irq_line(struct vm *public, uint32_t gsi, bool level)
{
    struct null_vm *vm = null_from_vm(public);
    if (gsi >= LINE_COUNT) {
        return -EINVAL;
    }
    lock(vm);
    vm->line[gsi] = level;
    unlock(vm);
    return 0;
}

static int null_vm_msi(struct vm *public, uint64_t address, uint32_t data)
{
    struct null_vm *vm = null_from_vm(public);
    lock(vm);
    if (vm->message_count < NULL_MAX_MESSAGES) {
        vm->message_address[vm->message_count] = address;
        vm->message_data[vm->message_count] = data;
        vm->message_count++;
    }
    unlock(vm);
    return 0;
}

static int null_vm_ioeventfd(struct vm *vm, bool is_pio, uint64_t address, unsigned size, int fd,
                             bool attach, struct error *err)
{
    return 0;
}

static int null_vm_irqfd(struct vm *vm, int fd, uint64_t address, uint32_t data, bool attach,
                         struct error *err)
{
    return 0;
}

static int null_vm_get_ioapic(struct vm *public, struct x86_ioapic_state *out_state,
                              struct error *err)
{
    struct null_vm *vm = null_from_vm(public);
    lock(vm);
    *out_state = vm->ioapic;
    unlock(vm);
    return 0;
}

static int null_vm_set_ioapic(struct vm *public, const struct x86_ioapic_state *state,
                              struct error *err)
{
    struct null_vm *vm = null_from_vm(public);
    lock(vm);
    vm->ioapic = *state;
    unlock(vm);
    return 0;
}

static uint64_t null_vm_get_clock(struct vm *public)
{
    struct null_vm *vm = null_from_vm(public);
    lock(vm);
    uint64_t ns = now_ns() + (uint64_t)vm->clock_offset_ns;
    unlock(vm);
    return ns;
}

static void null_vm_set_clock(struct vm *public, uint64_t ns)
{
    struct null_vm *vm = null_from_vm(public);
    lock(vm);
    vm->clock_offset_ns = (int64_t)(ns - now_ns());
    unlock(vm);
}

static int null_vm_log_start(struct vm *vm, struct error *err)
{
    return 0;
}

static void null_vm_log_stop(struct vm *vm)
{
}

/* A guest that runs no code writes nothing. */
static int null_vm_log_fetch(struct vm *vm, size_t slot, uint64_t *out_bitmap, struct error *err)
{
    return 0;
}

static int null_vcpu_create(struct vm *vm, uint32_t index, const struct x86_cpuid *cpuid,
                            struct vcpu **out_vcpu, struct error *err)
{
    struct null_vcpu *vcpu = aligned_alloc(_Alignof(struct null_vcpu), sizeof(*vcpu));
    if (vcpu == NULL) {
        return error_set(err, ENOMEM, "creating vCPU %u of the null engine", index);
    }
    memset(vcpu, 0, sizeof(*vcpu));
    vcpu->vcpu.vm = vm;
    vcpu->vcpu.index = index;
    vcpu->script_end = VCPU_EXIT_KICKED;
    invariant(pthread_cond_init(&vcpu->changed, NULL) == 0);
    x86_state_reset(&vcpu->state, index == 0, false);
    *out_vcpu = &vcpu->vcpu;
    return 0;
}

static void null_vcpu_destroy(struct vcpu *public)
{
    if (public != NULL) {
        struct null_vcpu *vcpu = null_from_vcpu(public);
        invariant(pthread_cond_destroy(&vcpu->changed) == 0);
        free(vcpu);
    }
}

static int null_vcpu_set_cpuid(struct vcpu *vcpu, const struct x86_cpuid *cpuid, struct error *err)
{
    return 0; /* its vCPUs execute no CPUID */
}

static int null_vcpu_set_tsc_hz(struct vcpu *vcpu, uint64_t hz, struct error *err)
{
    return engine_same_tsc_rate(TSC_HZ, hz) ? 0 : -ENOTSUP;
}

static void make_access(struct null_vcpu *vcpu, struct null_access *access)
{
    const struct vm_callbacks *call = &vcpu->vcpu.vm->config.callbacks;
    uint32_t index = vcpu->vcpu.index;
    if (access->is_pio && access->is_write) {
        call->pio_write(call->ctx, index, (uint16_t)access->address, access->size,
                        (uint32_t)access->value);
    } else if (access->is_pio) {
        access->value = call->pio_read(call->ctx, index, (uint16_t)access->address, access->size);
    } else if (access->is_write) {
        call->mmio_write(call->ctx, index, access->address, access->size, access->value);
    } else {
        access->value = call->mmio_read(call->ctx, index, access->address, access->size);
    }
    __atomic_add_fetch(&vcpu->accesses, 1, __ATOMIC_RELAXED);
}

static bool take_kick(struct null_vcpu *vcpu, bool wait)
{
    struct null_vm *vm = null_from_vm(vcpu->vcpu.vm);
    lock(vm);
    while (wait && !vcpu->is_kicked) {
        invariant(pthread_cond_wait(&vcpu->changed, &vm->lock) == 0);
    }
    bool was_kicked = vcpu->is_kicked;
    vcpu->is_kicked = false;
    unlock(vm);
    return was_kicked;
}

static enum vcpu_exit null_vcpu_run(struct vcpu *public)
{
    struct null_vcpu *vcpu = null_from_vcpu(public);
    while (vcpu->script_next < vcpu->script_count) {
        if (take_kick(vcpu, false)) {
            return VCPU_EXIT_KICKED;
        }
        make_access(vcpu, &vcpu->script[vcpu->script_next++]);
    }
    if (vcpu->script_end == VCPU_EXIT_KICKED) {
        (void)take_kick(vcpu, true); /* it waited for one */
        return VCPU_EXIT_KICKED;
    }
    return vcpu->script_end;
}

static void null_vcpu_kick(struct vcpu *public)
{
    struct null_vcpu *vcpu = null_from_vcpu(public);
    struct null_vm *vm = null_from_vm(public->vm);
    lock(vm);
    vcpu->is_kicked = true;
    invariant(pthread_cond_signal(&vcpu->changed) == 0);
    unlock(vm);
}

static void null_vcpu_signal(struct vcpu *public, enum vcpu_signal signal, uint8_t value)
{
    struct null_vcpu *vcpu = null_from_vcpu(public);
    struct null_vm *vm = null_from_vm(public->vm);
    lock(vm);
    vcpu->signal_count[signal]++;
    vcpu->signal_value[signal] = value;
    unlock(vm);
}

static int null_vcpu_get_state(struct vcpu *vcpu, struct x86_state *out_state, struct error *err)
{
    *out_state = null_from_vcpu(vcpu)->state;
    return 0;
}

static int null_vcpu_set_state(struct vcpu *vcpu, const struct x86_state *state, struct error *err)
{
    null_from_vcpu(vcpu)->state = *state;
    return 0;
}

static void null_vcpu_error(struct vcpu *vcpu, struct error *out_error)
{
    (void)error_set(out_error, EIO, "vCPU %u: the script ended so", vcpu->index);
}

static uint64_t null_vcpu_tsc_hz(struct vcpu *vcpu)
{
    return TSC_HZ;
}

static uint64_t null_vcpu_tsc(struct vcpu *vcpu)
{
    return now_ns();
}

static void null_vcpu_stats(struct vcpu *public,
                            void (*emit)(void *ctx, const char *name, uint64_t value), void *ctx)
{
    struct null_vcpu *vcpu = null_from_vcpu(public);
    emit(ctx, "accesses", __atomic_load_n(&vcpu->accesses, __ATOMIC_RELAXED));
}

void null_vcpu_script(struct vcpu *public, struct null_access *list, size_t count,
                      enum vcpu_exit end)
{
    struct null_vcpu *vcpu = null_from_vcpu(public);
    vcpu->script = list;
    vcpu->script_count = count;
    vcpu->script_next = 0;
    vcpu->script_end = end;
}

uint32_t null_vcpu_signals(struct vcpu *public, enum vcpu_signal signal, uint8_t *out_value)
{
    struct null_vcpu *vcpu = null_from_vcpu(public);
    struct null_vm *vm = null_from_vm(public->vm);
    lock(vm);
    uint32_t count = vcpu->signal_count[signal];
    *out_value = vcpu->signal_value[signal];
    unlock(vm);
    return count;
}

bool null_vm_line(struct vm *public, uint32_t gsi)
{
    struct null_vm *vm = null_from_vm(public);
    invariant(gsi < LINE_COUNT);
    lock(vm);
    bool level = vm->line[gsi];
    unlock(vm);
    return level;
}

size_t null_vm_messages(struct vm *public, uint64_t out_address[NULL_MAX_MESSAGES],
                        uint32_t out_data[NULL_MAX_MESSAGES])
{
    struct null_vm *vm = null_from_vm(public);
    lock(vm);
    size_t count = vm->message_count;
    memcpy(out_address, vm->message_address, sizeof(vm->message_address));
    memcpy(out_data, vm->message_data, sizeof(vm->message_data));
    unlock(vm);
    return count;
}

const struct engine_ops null_engine_ops = {
    .name = "null",
    .probe = null_probe,
    .supported_cpuid = null_supported_cpuid,
    .hypervisor_cpuid = null_hypervisor_cpuid,
    .vm_create = null_vm_create,
    .vm_destroy = null_vm_destroy,
    .vm_irq_line = null_vm_irq_line,
    .vm_msi = null_vm_msi,
    .vm_ioeventfd = null_vm_ioeventfd,
    .vm_irqfd = null_vm_irqfd,
    .vm_get_ioapic = null_vm_get_ioapic,
    .vm_set_ioapic = null_vm_set_ioapic,
    .vm_get_clock = null_vm_get_clock,
    .vm_set_clock = null_vm_set_clock,
    .vm_log_start = null_vm_log_start,
    .vm_log_stop = null_vm_log_stop,
    .vm_log_fetch = null_vm_log_fetch,
    .vcpu_create = null_vcpu_create,
    .vcpu_destroy = null_vcpu_destroy,
    .vcpu_set_cpuid = null_vcpu_set_cpuid,
    .vcpu_set_tsc_hz = null_vcpu_set_tsc_hz,
    .vcpu_run = null_vcpu_run,
    .vcpu_kick = null_vcpu_kick,
    .vcpu_signal = null_vcpu_signal,
    .vcpu_get_state = null_vcpu_get_state,
    .vcpu_set_state = null_vcpu_set_state,
    .vcpu_error = null_vcpu_error,
    .vcpu_tsc_hz = null_vcpu_tsc_hz,
    .vcpu_tsc = null_vcpu_tsc,
    .vcpu_stats = null_vcpu_stats,
};
