/* Time: the guest's TSC is the host's plus an offset; kvmclock structures tell the guest how to make nanoseconds of it
 * (layouts: Linux arch/x86/include/asm/pvclock-abi.h). */
#include <cpuid.h>
#include <pthread.h>
#include <string.h>
#include <time.h>
#include <x86intrin.h>

#include "engine/soft/icount.h"
#include "engine/soft/mmu.h"
#include "engine/soft/soft.h"
#include "engine/soft/system.h"

#define NS_PER_SECOND 1000000000ull

struct pvclock_time_info {
    uint32_t version, padding;
    uint64_t tsc_timestamp, system_time;
    uint32_t tsc_to_system_mul;
    int8_t tsc_shift;
    uint8_t flags;
    uint8_t padding2[2];
} __attribute__((packed));

struct pvclock_wall_clock {
    uint32_t version, seconds, nanoseconds;
} __attribute__((packed));

#define PVCLOCK_TSC_STABLE 1u

static uint64_t tsc_hz;
static pthread_once_t tsc_hz_once = PTHREAD_ONCE_INIT;

static uint64_t raw_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_RAW, &now);
    return (uint64_t)now.tv_sec * NS_PER_SECOND + (uint64_t)now.tv_nsec;
}

#define CALIBRATION_NS    1000000u
#define CALIBRATION_TRIES 16

/* Both clocks at one moment. */
struct clock_pair {
    uint64_t tsc, ns;
};

/* The pair read in the shortest time of several: so that nothing came between the two readings. */
static struct clock_pair read_clocks(void)
{
    struct clock_pair best = {0};
    uint64_t best_ticks = UINT64_MAX;
    for (unsigned i = 0; i < CALIBRATION_TRIES; i++) {
        uint64_t before = __rdtsc(), ns = raw_ns(), ticks = __rdtsc() - before;
        if (ticks < best_ticks) {
            best_ticks = ticks;
            best = (struct clock_pair){.tsc = before + ticks / 2, .ns = ns};
        }
    }
    return best;
}

static struct clock_pair first_reading;

void soft_engine_prepare(void)
{
    first_reading = read_clocks();
}

/* Against the kernel's own calibrated clock. A pair is exact to some 10 ns, thus the result to some parts in 100000 even
 * after so short a time, which has passed already if it was prepared for. */
static uint64_t calibrate(void)
{
    struct clock_pair first = first_reading.ns ? first_reading : read_clocks();
    uint64_t passed = raw_ns() - first.ns;
    if (passed < CALIBRATION_NS) {
        const struct timespec pause = {.tv_nsec = (long)(CALIBRATION_NS - passed)};
        nanosleep(&pause, NULL);
    }
    struct clock_pair last = read_clocks();
    uint64_t ns = MAX(last.ns - first.ns, 1);
    return (uint64_t)((unsigned __int128)(last.tsc - first.tsc) * NS_PER_SECOND / ns);
}

static void find_tsc_hz(void)
{
    uint32_t eax, ebx, ecx, edx;
    if (__get_cpuid_max(0, NULL) >= 0x15) {
        __cpuid(0x15, eax, ebx, ecx, edx);
        if (eax && ebx && ecx) {
            tsc_hz = (uint64_t)ecx * ebx / eax;
            return;
        }
    }
    tsc_hz = calibrate();
}

uint64_t soft_host_tsc_hz(void)
{
    pthread_once(&tsc_hz_once, find_tsc_hz);
    return tsc_hz;
}

/* The host's counter at the guest's rate. */
static uint64_t scaled(const struct soft_vm *vm, uint64_t host_tsc)
{
    return vm->tsc_ratio == 0 ? host_tsc
                              : (uint64_t)(((unsigned __int128)host_tsc * vm->tsc_ratio) >> 32);
}

/* The counter that all of the guest's clocks go by, and its rate: the host's TSC, or what icount.c counts. */
static uint64_t counter(const struct soft_vm *vm)
{
    return unlikely(vm->icount.is_on) ? soft_icount_now_ns(vm) : __rdtsc();
}

static uint64_t counter_hz(const struct soft_vm *vm)
{
    return vm->icount.is_on ? SOFT_ICOUNT_HZ : soft_host_tsc_hz();
}

uint64_t soft_tsc(const struct soft_vcpu *v)
{
    return scaled(v->vm, counter(v->vm)) +
           atomic_load_explicit(&v->tsc_offset, memory_order_relaxed);
}

void soft_tsc_set_hz(struct soft_vm *vm, uint64_t hz)
{
    vm->tsc_hz = hz;
    vm->tsc_ratio = (uint64_t)(((unsigned __int128)hz << 32) / soft_host_tsc_hz());
}

/* Counters in step were read one after the other when they were saved: what lies within a second of vCPU 0's, apart from
 * what the guest itself adjusted, is in step again. */
void soft_tsc_restore(struct soft_vcpu *v, uint64_t tsc)
{
    struct soft_vm *vm = v->vm;
    uint64_t base = tsc - v->tsc_adjust - scaled(vm, counter(vm));
    if (v->vcpu.index == 0) {
        atomic_store(&vm->tsc_base, base);
    } else {
        int64_t apart = (int64_t)(base - atomic_load(&vm->tsc_base));
        if (apart < (int64_t)vm->tsc_hz && apart > -(int64_t)vm->tsc_hz) {
            base = atomic_load(&vm->tsc_base);
        }
    }
    atomic_store(&v->tsc_offset, base + v->tsc_adjust);
}

/* ns = (ticks << shift, or >> -shift) * mul >> 32, with the largest mul that fits. */
static void scale_of(uint64_t hz, uint32_t *out_mul, int8_t *out_shift)
{
    int8_t shift = 0;
    uint64_t scaled = hz;
    while (scaled > NS_PER_SECOND * 2) {
        scaled >>= 1;
        shift--;
    }
    while (scaled <= NS_PER_SECOND) {
        scaled <<= 1;
        shift++;
    }
    *out_mul = (uint32_t)(((unsigned __int128)NS_PER_SECOND << 32) / scaled);
    *out_shift = shift;
}

static uint64_t ticks_to_ns(const struct soft_vm *vm, uint64_t ticks)
{
    return (uint64_t)((unsigned __int128)ticks * NS_PER_SECOND / counter_hz(vm));
}

void soft_clock_init(struct soft_vm *vm)
{
    uint64_t now = counter(vm);
    vm->tsc_hz = counter_hz(vm);
    vm->initial_tsc_offset = 0 - now;
    atomic_store(&vm->clock_offset_ns, -(int64_t)ticks_to_ns(vm, now));
}

uint64_t soft_clock_now_ns(struct soft_vm *vm)
{
    return ticks_to_ns(vm, counter(vm)) + (uint64_t)atomic_load(&vm->clock_offset_ns);
}

/* Every vCPU writes its structure again when it runs next. */
void soft_clock_set_ns(struct soft_vm *vm, uint64_t ns)
{
    atomic_store(&vm->clock_offset_ns, (int64_t)(ns - ticks_to_ns(vm, counter(vm))));
    for (size_t i = 0; i < ENGINE_MAX_VCPUS; i++) {
        struct soft_vcpu *v = atomic_load(&vm->vcpu[i]);
        if (v) {
            soft_request(v, SOFT_REQUEST_CLOCK);
        }
    }
}

void soft_clock_set_system_time(struct soft_vcpu *v, uint64_t msr_value)
{
    struct pvclock_time_info info = {.flags = PVCLOCK_TSC_STABLE};
    if (!(msr_value & 1)) {
        return;
    }
    uint64_t gpa = msr_value & ~1ull;
    uint64_t now = counter(v->vm);
    if ((gpa & 4095) + sizeof(info) > 4096 || !soft_page_find(v->vm, gpa).slot) {
        return;
    }
    v->clock_version += 2;
    info.version = v->clock_version;
    info.tsc_timestamp = scaled(v->vm, now) + atomic_load(&v->tsc_offset);
    info.system_time = ticks_to_ns(v->vm, now) + (uint64_t)atomic_load(&v->vm->clock_offset_ns);
    uint32_t mul;
    int8_t shift;
    scale_of(v->vm->tsc_hz, &mul, &shift);
    info.tsc_to_system_mul = mul;
    info.tsc_shift = shift;
    uint32_t odd = info.version - 1;
    soft_physical_store(v, gpa, &odd, sizeof(odd));
    soft_physical_store(v, gpa + 4, (uint8_t *)&info + 4, sizeof(info) - 4);
    soft_physical_store(v, gpa, &info.version, sizeof(info.version));
}

uint64_t soft_wall_clock_ns(const struct soft_vm *vm)
{
    if (vm->icount.is_on) {
        return ENGINE_OWN_EPOCH_S * NS_PER_SECOND + soft_icount_now_ns(vm);
    }
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * NS_PER_SECOND + (uint64_t)now.tv_nsec;
}

/* The wall clock at the guest's boot. */
void soft_clock_write_wall_clock(struct soft_vcpu *v, uint64_t gpa)
{
    struct pvclock_wall_clock wall = {.version = 2};
    if ((gpa & 4095) + sizeof(wall) > 4096 || !soft_page_find(v->vm, gpa).slot) {
        return;
    }
    uint64_t boot = soft_wall_clock_ns(v->vm) - soft_clock_now_ns(v->vm);
    wall.seconds = (uint32_t)(boot / NS_PER_SECOND);
    wall.nanoseconds = (uint32_t)(boot % NS_PER_SECOND);
    soft_physical_store(v, gpa, &wall, sizeof(wall));
}
