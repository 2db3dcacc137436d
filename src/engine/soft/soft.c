/* The engine "soft": VMs and vCPUs, and the table of its operations. */
#include "engine/soft/soft.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/core/bits.h"
#include "base/host/huge.h"
#include "engine/soft/block.h"
#include "engine/soft/icount.h"
#include "engine/soft/mmu.h"
#include "engine/soft/options.h"
#include "engine/soft/system.h"
#include "engine/soft/translate/native.h"

static void soft_probe(struct engine_probe *out_probe)
{
    *out_probe = (struct engine_probe){.quality = ENGINE_USABLE};
    strcpy(out_probe->reason, "the software CPU runs on every x86-64 host");
}

static bool soft_has_hyperv(void)
{
    return true;
}

/* A device has written to a page that holds code. */
static void on_code_written(void *ctx)
{
    soft_vm_code_written(ctx, NULL);
}

static int soft_vm_create(const struct vm_config *config, struct vm **out_vm, struct error *err)
{
    if (config->vcpu_count < 1 || config->vcpu_count > ENGINE_MAX_VCPUS) {
        return error_set(err, EINVAL, "creating a VM with %u vCPUs: 1 to %d are possible",
                         config->vcpu_count, ENGINE_MAX_VCPUS);
    }
    int rc = guest_memory_track_code(config->memory, err);
    if (rc < 0) {
        return rc;
    }
    struct soft_vm *vm = calloc(1, sizeof(*vm));
    if (!vm) {
        return error_set(err, ENOMEM, "creating a VM of the software CPU");
    }
    struct soft_trace_options trace = {0};
    rc = soft_options_parse(vm, &trace, config->options, err);
    rc = rc < 0 ? rc : soft_trace_create(&trace, &vm->trace, err);
    if (rc < 0) {
        free(vm);
        return rc;
    }
    if (vm->icount.is_on && config->vcpu_count > 1) {
        soft_trace_destroy(vm->trace);
        free(vm);
        return error_set(
            err, EINVAL,
            "creating a VM with %u vCPUs that counts its instructions: icount is for 1",
            config->vcpu_count);
    }
    vm->vm.features = vm->icount.is_on ? VM_HAS_OWN_TIME : 0;
    vm->vm.ops = &soft_engine_ops;
    vm->vm.config = *config;
    pthread_mutex_init(&vm->lock, NULL);
    pthread_mutex_init(&vm->code_lock, NULL);
    pthread_mutex_init(&vm->stop_lock, NULL);
    vm->is_intel = soft_host_is_intel();
    vm->x87 = soft_host_x87();
    soft_clock_init(vm);
    guest_memory_on_code_written(config->memory, on_code_written, vm);
    *out_vm = &vm->vm;
    return 0;
}

static void free_dirty(struct soft_vm *vm)
{
    for (size_t i = 0; i < GUEST_MEMORY_MAX_SLOTS; i++) {
        free(vm->dirty_storage[i]);
        vm->dirty_storage[i] = NULL;
    }
}

static void soft_vm_destroy(struct vm *base)
{
    if (!base) {
        return;
    }
    struct soft_vm *vm = soft_from_vm(base);
    guest_memory_on_code_written(base->config.memory, NULL, NULL);
    free_dirty(vm);
    soft_trace_destroy(vm->trace);
    pthread_mutex_destroy(&vm->lock);
    pthread_mutex_destroy(&vm->code_lock);
    pthread_mutex_destroy(&vm->stop_lock);
    free(vm);
}

/* Interrupt controllers are not this engine's: nobody calls these without VM_HAS_IRQCHIP. */
static int soft_vm_irq_line(struct vm *vm, uint32_t gsi, bool level)
{
    return -ENOTSUP;
}

static int soft_vm_msi(struct vm *vm, uint64_t address, uint32_t data)
{
    return -ENOTSUP;
}

static int soft_vm_get_ioapic(struct vm *vm, struct x86_ioapic_state *out_state, struct error *err)
{
    return error_set(err, ENOTSUP, "the software CPU has no I/O APIC of its own");
}

static int soft_vm_set_ioapic(struct vm *vm, const struct x86_ioapic_state *state,
                              struct error *err)
{
    return error_set(err, ENOTSUP, "the software CPU has no I/O APIC of its own");
}

static uint64_t soft_vm_get_clock(struct vm *vm)
{
    return soft_clock_now_ns(soft_from_vm(vm));
}

static void soft_vm_set_clock(struct vm *vm, uint64_t ns)
{
    soft_clock_set_ns(soft_from_vm(vm), ns);
}

static uint64_t soft_vm_now_ns(struct vm *vm)
{
    return soft_icount_now_ns(soft_from_vm(vm));
}

static size_t dirty_words(const struct guest_slot *slot)
{
    return (slot->size_bytes / GUEST_PAGE_SIZE + 63) / 64;
}

/* The bitmaps stay until the VM goes: a vCPU may hold a pointer for as long as it runs. */
static int soft_vm_log_start(struct vm *base, struct error *err)
{
    struct soft_vm *vm = soft_from_vm(base);
    const struct guest_memory *memory = base->config.memory;
    pthread_mutex_lock(&vm->lock);
    for (size_t i = 0; i < memory->slot_count; i++) {
        size_t words = dirty_words(&memory->slot[i]);
        if (!vm->dirty_storage[i]) {
            vm->dirty_storage[i] = calloc(words, sizeof(uint64_t));
        }
        if (!vm->dirty_storage[i]) {
            pthread_mutex_unlock(&vm->lock);
            return error_set(err, ENOMEM, "starting the log of written pages");
        }
        for (size_t w = 0; w < words; w++) {
            atomic_store(&vm->dirty_storage[i][w], 0);
        }
        atomic_store(&vm->dirty[i], vm->dirty_storage[i]);
    }
    soft_vm_flush_writes(vm, NULL);
    pthread_mutex_unlock(&vm->lock);
    return 0;
}

static void soft_vm_log_stop(struct vm *base)
{
    struct soft_vm *vm = soft_from_vm(base);
    for (size_t i = 0; i < GUEST_MEMORY_MAX_SLOTS; i++) {
        atomic_store(&vm->dirty[i], NULL);
    }
}

/* Bits first, entries after: a write through an old entry between the two is of a page that is reported, and is done when
 * this returns. */
static int soft_vm_log_fetch(struct vm *base, size_t slot, uint64_t *out_bitmap, struct error *err)
{
    struct soft_vm *vm = soft_from_vm(base);
    const struct guest_memory *memory = base->config.memory;
    if (slot >= memory->slot_count || !atomic_load(&vm->dirty[slot])) {
        return error_set(err, EINVAL, "reading the log of written pages: there is none");
    }
    pthread_mutex_lock(&vm->lock);
    size_t words = dirty_words(&memory->slot[slot]);
    for (size_t w = 0; w < words; w++) {
        out_bitmap[w] |= atomic_exchange(&vm->dirty_storage[slot][w], 0);
    }
    soft_vm_flush_writes(vm, NULL);
    pthread_mutex_unlock(&vm->lock);
    return 0;
}

static void soft_vcpu_destroy(struct vcpu *vcpu)
{
    if (!vcpu) {
        return;
    }
    struct soft_vcpu *v = soft_from_vcpu(vcpu);
    if (v->vm->icount.is_on) {
        soft_icount_report(v);
    }
    atomic_store(&v->vm->vcpu[vcpu->index], NULL);
    soft_native_fini(v);
    soft_simd_fini(v);
    soft_block_fini(v);
    (void)munmap((uint8_t *)v - NATIVE_STACK_SIZE, NATIVE_VCPU_MEMORY); /* it is a mapping */
}

_Static_assert(NATIVE_STACK_SIZE + sizeof(struct soft_vcpu) <= 2 * HUGE_PAGE_SIZE,
               "a huge page more for each vCPU: docs/engines.md has too small a number for the tables");

static int soft_vcpu_create(struct vm *base, uint32_t index, const struct x86_cpuid *cpuid,
                            struct vcpu **out_vcpu, struct error *err)
{
    struct soft_vm *vm = soft_from_vm(base);
    if (index >= base->config.vcpu_count || atomic_load(&vm->vcpu[index])) {
        return error_set(err, EINVAL, "creating vCPU %u: taken, or beyond the VM's %u", index,
                         base->config.vcpu_count);
    }
    uint8_t *memory = huge_map(NATIVE_VCPU_MEMORY, PROT_READ | PROT_WRITE, -1);
    if (!memory) {
        return error_set_errno(err, errno, "creating vCPU %u", index);
    }
    struct soft_vcpu *v = (struct soft_vcpu *)(void *)(memory + NATIVE_STACK_SIZE);
    v->vcpu = (struct vcpu){.vm = base, .index = index};
    v->vm = vm;
    v->cpuid = *cpuid;
    v->delivering = -1;
    soft_icount_init(v);
    soft_tlb_init(v);
    v->tlb = &v->tlbs[SOFT_TLB_SUPERVISOR];
    soft_halt_init(v);
    soft_features_set(v);
    int rc = soft_block_init(v, err);
    rc = rc < 0 ? rc : soft_simd_init(v, err);
    if (rc == 0 && !vm->interprets) {
        rc = soft_native_init(v, err);
    }
    if (rc < 0) {
        soft_vcpu_destroy(&v->vcpu);
        return rc;
    }
    struct x86_state state;
    x86_state_reset(&state, index == 0, false);
    rc = soft_state_set(v, &state, err);
    if (rc < 0) {
        soft_vcpu_destroy(&v->vcpu);
        return rc;
    }
    atomic_store(&v->tsc_offset, vm->initial_tsc_offset);
    atomic_store(&vm->vcpu[index], v);
    *out_vcpu = &v->vcpu;
    return 0;
}

static int soft_vcpu_set_cpuid(struct vcpu *vcpu, const struct x86_cpuid *cpuid, struct error *err)
{
    struct soft_vcpu *v = soft_from_vcpu(vcpu);
    bool is_intel = soft_cpuid_is_intel(cpuid);
    if (vcpu->index == 0) {
        v->vm->is_intel = is_intel;
    } else if (v->vm->is_intel != is_intel) {
        return error_set(err, EINVAL, "its CPU is of another vendor than vCPU 0");
    }
    v->cpuid = *cpuid;
    soft_features_set(v);
    return 0;
}

static int soft_vcpu_set_tsc_hz(struct vcpu *vcpu, uint64_t hz, struct error *err)
{
    struct soft_vm *vm = soft_from_vcpu(vcpu)->vm;
    if (!engine_same_tsc_rate(vm->tsc_hz, hz)) {
        if (vm->icount.is_on) {
            return -ENOTSUP;
        }
        soft_tsc_set_hz(vm, hz);
    }
    return 0;
}

static void soft_vcpu_set_timer(struct vcpu *vcpu, uint64_t deadline_ns)
{
    soft_icount_set_timer(soft_from_vcpu(vcpu), deadline_ns);
}

static int soft_get_state(struct vcpu *vcpu, struct x86_state *out_state, struct error *err)
{
    soft_state_get(soft_from_vcpu(vcpu), out_state);
    return 0;
}

static int soft_set_state(struct vcpu *vcpu, const struct x86_state *state, struct error *err)
{
    return soft_state_set(soft_from_vcpu(vcpu), state, err);
}

static void soft_vcpu_error(struct vcpu *vcpu, struct error *out_error)
{
    *out_error = soft_from_vcpu(vcpu)->error;
}

static uint64_t soft_vcpu_tsc_hz(struct vcpu *vcpu)
{
    return soft_from_vcpu(vcpu)->vm->tsc_hz;
}

static uint64_t soft_vcpu_tsc(struct vcpu *vcpu)
{
    return soft_tsc(soft_from_vcpu(vcpu));
}

static void soft_vcpu_stats(struct vcpu *vcpu,
                            void (*emit)(void *ctx, const char *name, uint64_t value), void *ctx)
{
    const struct soft_vcpu *v = soft_from_vcpu(vcpu);
    const struct soft_stats *stats = &v->stats;
    const struct {
        const char *name;
        const uint64_t *value;
    } counters[] = {
        {"instructions", &stats->instructions},
        {"blocks_decoded", &stats->blocks_decoded},
        {"blocks_translated", &stats->blocks_translated},
        {"code_cache_flushes", &stats->code_cache_flushes},
        {"native_misses", &stats->native_misses},
        {"tlb_misses", &stats->tlb_misses},
        {"tlb_second_hits", &stats->tlb_second_hits},
        {"tlb_walks", &stats->tlb_walks},
        {"tlb_faults", &stats->tlb_faults},
        {"tlb_unbacked", &stats->tlb_unbacked},
        {"tlb_code_writes", &stats->tlb_code_writes},
        {"tlb_long_way", &stats->tlb_long_way},
        {"tlb_flushes", &stats->tlb_flushes},
        {"tlb_flushes_all", &stats->tlb_flushes_all},
        {"tlb_page_flushes", &stats->tlb_page_flushes},
        {"tlb_space_switches", &stats->tlb_space_switches},
        {"code_forgotten", &stats->code_forgotten},
        {"window_faults", &stats->window_faults},
        {"window_fills", &stats->window_fills},
        {"window_checks", &stats->window_checks},
        {"exits_mmio", &stats->exits_mmio},
        {"exits_pio", &stats->exits_pio},
        {"interrupts", &stats->interrupts},
        {"exceptions", &stats->exceptions},
        {"halts", &stats->halts},
        {"halt_polls", &stats->halt_polls},
        {"halt_polls_woken", &stats->halt_polls_woken},
        {"halt_polls_busy", &stats->halt_polls_busy},
        {"lockstep_equal", &stats->lockstep_equal},
        {"lockstep_repeated", &stats->lockstep_repeated},
        {"lockstep_left_out", &stats->lockstep_left_out},
    };
    for (size_t i = 0; i < ARRAY_COUNT(counters); i++) {
        emit(ctx, counters[i].name, __atomic_load_n(counters[i].value, __ATOMIC_RELAXED));
    }
    if (v->vm->icount.is_on) {
        emit(ctx, "icount", soft_icount_executed(v));
    }
}

const struct engine_ops soft_engine_ops = {
    .name = "soft",
    .probe = soft_probe,
    .stands_for_any_vendor = true,
    .supported_cpuid = soft_supported_cpuid,
    .hypervisor_cpuid = soft_hypervisor_cpuid,
    .has_hyperv = soft_has_hyperv,
    .vm_create = soft_vm_create,
    .vm_destroy = soft_vm_destroy,
    .vm_irq_line = soft_vm_irq_line,
    .vm_msi = soft_vm_msi,
    .vm_get_ioapic = soft_vm_get_ioapic,
    .vm_set_ioapic = soft_vm_set_ioapic,
    .vm_get_clock = soft_vm_get_clock,
    .vm_set_clock = soft_vm_set_clock,
    .vm_now_ns = soft_vm_now_ns,
    .vm_log_start = soft_vm_log_start,
    .vm_log_stop = soft_vm_log_stop,
    .vm_log_fetch = soft_vm_log_fetch,
    .vcpu_create = soft_vcpu_create,
    .vcpu_destroy = soft_vcpu_destroy,
    .vcpu_set_cpuid = soft_vcpu_set_cpuid,
    .vcpu_set_tsc_hz = soft_vcpu_set_tsc_hz,
    .vcpu_run = soft_run,
    .vcpu_kick = soft_kick,
    .vcpu_set_timer = soft_vcpu_set_timer,
    .vcpu_signal = soft_signal,
    .vcpu_get_state = soft_get_state,
    .vcpu_set_state = soft_set_state,
    .vcpu_error = soft_vcpu_error,
    .vcpu_tsc_hz = soft_vcpu_tsc_hz,
    .vcpu_tsc = soft_vcpu_tsc,
    .vcpu_stats = soft_vcpu_stats,
};
