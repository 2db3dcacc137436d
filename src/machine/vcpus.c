/* The vCPUs' threads: run, pause, resume, and what happens when a run ends for another reason than a kick. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/core/bits.h"
#include "base/core/endian.h"
#include "base/core/invariant.h"
#include "cpu/x86/cpuid.h"
#include "cpu/x86/hypervisor.h"
#include "device/acpi/cpus.h"
#include "machine/internal.h"

static const struct engine_ops *ops_of(const struct machine *machine)
{
    return machine->config.engine;
}

/* Waits until it may run. False: the thread is to end. */
static bool wait_for_go(struct machine_vcpu *vcpu)
{
    struct machine *machine = vcpu->machine;

    pthread_mutex_lock(&machine->lock);
    while ((machine->is_pause_wanted || !vcpu->is_present) && !machine->is_quitting) {
        if (!vcpu->is_paused) {
            vcpu->is_paused = true;
            pthread_cond_broadcast(&machine->changed);
        }
        pthread_cond_wait(&machine->changed, &machine->lock);
    }
    vcpu->is_paused = false;
    bool goes_on = !machine->is_quitting;
    pthread_mutex_unlock(&machine->lock);
    return goes_on;
}

static void report_exit(struct machine_vcpu *vcpu, enum vcpu_exit exit)
{
    struct machine *machine = vcpu->machine;
    struct error why = {0};
    char text[MACHINE_WHY_SIZE];

    switch (exit) {
    case VCPU_EXIT_KICKED:
        return;
    case VCPU_EXIT_RESET_REQUESTED:
        machine_request_end(machine, MACHINE_END_RESET, 0, "");
        return;
    case VCPU_EXIT_SHUTDOWN:
        (void)snprintf(text, sizeof(text), "vcpu %u", vcpu->index);
        machine_request_end(machine, MACHINE_END_TRIPLE_FAULT, 0, text);
        return;
    case VCPU_EXIT_DEBUG:
        (void)snprintf(text, sizeof(text), "vcpu %u: a debug exit that nobody asked for",
                       vcpu->index);
        machine_request_end(machine, MACHINE_END_ENGINE, 0, text);
        return;
    case VCPU_EXIT_ERROR:
        ops_of(machine)->vcpu_error(vcpu->vcpu, &why);
        (void)snprintf(text, sizeof(text), "vcpu %u: %.140s", vcpu->index, why.text);
        machine_request_end(machine, MACHINE_END_ENGINE, 0, text);
        return;
    }
}

static void *vcpu_thread(void *ctx)
{
    struct machine_vcpu *vcpu = ctx;
    char name[16];

    (void)snprintf(name, sizeof(name), "vcpu %u", vcpu->index);
    (void)pthread_setname_np(pthread_self(), name); /* for people who look */
    while (wait_for_go(vcpu)) {
        report_exit(vcpu, ops_of(vcpu->machine)->vcpu_run(vcpu->vcpu));
    }
    return NULL;
}

static void timer_expired(void *ctx)
{
    struct machine_vcpu *vcpu = ctx;

    if (vcpu->machine->lapics != NULL) {
        lapic_timer_expired(vcpu->machine->lapics, vcpu->index);
    }
}

static int vcpu_create(struct machine *machine, uint32_t index, const char *model,
                       const struct x86_cpuid *supported, const struct x86_cpuid *hypervisor,
                       struct error *err)
{
    struct machine_vcpu *vcpu = &machine->vcpu[index];
    const struct x86_cpuid_topology topology = {machine->config.vcpu_max, index};

    vcpu->machine = machine;
    vcpu->index = index;
    vcpu->is_present = index < machine->config.vcpu_count;
    int rc = x86_cpuid_build(model, supported, hypervisor, &topology, &vcpu->cpuid, err);
    if (rc == 0) {
        rc = event_timer_create(machine->config.loop, timer_expired, vcpu, &vcpu->timer, err);
    }
    if (rc == 0) {
        rc = ops_of(machine)->vcpu_create(machine->vm, index, &vcpu->cpuid, &vcpu->vcpu, err);
    }
    if (rc == 0) {
        vcpu->guest_tsc_hz = ops_of(machine)->vcpu_tsc_hz(vcpu->vcpu);
    }
    return rc;
}

/* The leaves of the hypervisor that the guest is to see, by what the CPU model says of it. */
static int hypervisor_leaves(const struct machine *machine, struct x86_cpu_choice *out_choice,
                             struct x86_cpuid *out_leaves, struct error *err)
{
    const char *text = machine->config.cpu_model != NULL ? machine->config.cpu_model : "host";
    struct x86_cpuid kvm = {0};
    int rc = x86_cpu_choice_parse(text, out_choice, err);
    if (rc < 0) {
        return rc;
    }
    if (out_choice->has_hyperv &&
        (ops_of(machine)->has_hyperv == NULL || !ops_of(machine)->has_hyperv())) {
        return error_set(err, ENOTSUP, "the engine %s has no interface of Hyper-V here: hyperv=off",
                         ops_of(machine)->name);
    }
    ops_of(machine)->hypervisor_cpuid(&kvm);
    x86_hypervisor_build(out_choice, machine->config.vcpu_max, &kvm, out_leaves);
    return 0;
}

int vcpus_create(struct machine *machine, struct error *err)
{
    const uint32_t count = machine->config.vcpu_max;
    struct x86_cpuid supported = {0};
    struct x86_cpuid hypervisor = {0};

    machine->vcpu = calloc(count, sizeof(*machine->vcpu));
    if (machine->vcpu == NULL) {
        return error_set(err, ENOMEM, "allocating %u vcpus", count);
    }
    machine->is_pause_wanted = true;
    struct x86_cpu_choice choice;
    int rc = ops_of(machine)->supported_cpuid(&supported, err);
    rc = rc < 0 ? rc : hypervisor_leaves(machine, &choice, &hypervisor, err);
    for (uint32_t i = 0; rc == 0 && i < count; i++) {
        machine->vcpu_count = i + 1;
        rc = vcpu_create(machine, i, choice.model, &supported, &hypervisor, err);
    }
    return rc;
}

/* Threads begin when the guest first runs: before that the process changes its user, which every thread would have to be
 * woken for. Those of vCPUs that are not there begin with them. */
static int start_threads(struct machine *machine)
{
    int status = 0;
    pthread_mutex_lock(&machine->lock);
    for (uint32_t i = 0; status == 0 && i < machine->vcpu_count; i++) {
        struct machine_vcpu *vcpu = &machine->vcpu[i];
        if (!vcpu->has_thread && vcpu->is_present) {
            status = pthread_create(&vcpu->thread, NULL, vcpu_thread, vcpu);
            vcpu->has_thread = status == 0;
        }
    }
    pthread_mutex_unlock(&machine->lock);
    return status;
}

void vcpus_kick(struct machine *machine)
{
    for (uint32_t i = 0; i < machine->vcpu_count; i++) {
        if (machine->vcpu[i].vcpu != NULL) {
            ops_of(machine)->vcpu_kick(machine->vcpu[i].vcpu);
        }
    }
}

void vcpus_destroy(struct machine *machine)
{
    if (machine->vcpu == NULL) {
        return;
    }
    pthread_mutex_lock(&machine->lock);
    machine->is_quitting = true;
    pthread_cond_broadcast(&machine->changed);
    pthread_mutex_unlock(&machine->lock);
    vcpus_kick(machine);
    for (uint32_t i = 0; i < machine->vcpu_count; i++) {
        if (machine->vcpu[i].has_thread) {
            pthread_join(machine->vcpu[i].thread, NULL);
        }
    }
    for (uint32_t i = 0; i < machine->vcpu_count; i++) {
        if (machine->vcpu[i].timer != NULL) {
            event_timer_destroy(machine->vcpu[i].timer);
        }
        if (machine->vcpu[i].vcpu != NULL) {
            ops_of(machine)->vcpu_destroy(machine->vcpu[i].vcpu);
        }
    }
    free(machine->vcpu);
    machine->vcpu = NULL;
    machine->vcpu_count = 0;
}

bool vcpus_start_threads(struct machine *machine)
{
    int status = start_threads(machine);
    if (status != 0) {
        char text[MACHINE_WHY_SIZE];
        (void)snprintf(text, sizeof(text), "starting the vcpus' threads: %s", strerror(status));
        machine_request_end(machine, MACHINE_END_ENGINE, 0, text);
    }
    return status == 0;
}

void vcpus_follow(struct machine *machine)
{
    uint64_t gone = 0;

    pthread_mutex_lock(&machine->lock);
    uint64_t present = cpus_present(machine->cpus);
    for (uint32_t i = 0; i < machine->vcpu_count; i++) {
        bool is_present = (present >> i & 1) != 0;
        gone |= machine->vcpu[i].is_present && !is_present ? BIT(i) : 0;
        machine->vcpu[i].is_present = is_present;
    }
    pthread_cond_broadcast(&machine->changed);
    pthread_mutex_unlock(&machine->lock);
    for (uint32_t i = 0; i < machine->vcpu_count; i++) {
        if ((gone >> i & 1) != 0) {
            ops_of(machine)->vcpu_kick(machine->vcpu[i].vcpu);
        }
    }
}

void vcpus_resume(struct machine *machine)
{
    if (!vcpus_start_threads(machine)) {
        return;
    }
    pthread_mutex_lock(&machine->lock);
    machine->is_pause_wanted = false;
    pthread_cond_broadcast(&machine->changed);
    pthread_mutex_unlock(&machine->lock);
}

void vcpus_pause(struct machine *machine)
{
    pthread_mutex_lock(&machine->lock);
    machine->is_pause_wanted = true;
    pthread_mutex_unlock(&machine->lock);
    vcpus_kick(machine);
    pthread_mutex_lock(&machine->lock);
    for (uint32_t i = 0; i < machine->vcpu_count; i++) {
        while (machine->vcpu[i].has_thread && !machine->vcpu[i].is_paused) {
            pthread_cond_wait(&machine->changed, &machine->lock);
        }
    }
    pthread_mutex_unlock(&machine->lock);
}

/* An APIC page after reset, for engines that hold the APICs themselves (SDM 3A 10.4.7.1). */
static void lapic_page_reset(uint8_t page[X86_LAPIC_SIZE], uint32_t index)
{
    memset(page, 0, X86_LAPIC_SIZE);
    le32_put(page + 0x20, index << 24);
    le32_put(page + 0x30, 0x00050014u);
    le32_put(page + 0xe0, ~0u);
    le32_put(page + 0xf0, 0xff);
    for (unsigned entry = 0x320; entry <= 0x370; entry += 0x10) {
        le32_put(page + entry, 0x10000);
    }
}

int vcpus_reset(struct machine *machine, bool is_booted, struct error *err)
{
    struct x86_state *state = aligned_alloc(64, (sizeof(*state) + 63) / 64 * 64);
    if (state == NULL) {
        return error_set(err, ENOMEM, "allocating a vcpu's state");
    }
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < machine->vcpu_count; i++) {
        x86_state_reset(state, i == 0, false);
        if (i == 0 && is_booted && machine->kernel_fd >= 0) {
            rc = micro_boot(machine, state, err);
        }
        if (rc == 0 && machine->has_irqchip) {
            lapic_page_reset(state->lapic, i);
            rc = ops_of(machine)->vcpu_set_state(machine->vcpu[i].vcpu, state, err);
        } else if (rc == 0) {
            lapic_reset(machine->lapics, i, false);
            lapic_save(machine->lapics, i, state);
            rc = ops_of(machine)->vcpu_set_state(machine->vcpu[i].vcpu, state, err);
        }
    }
    free(state);
    return rc;
}

int vcpus_adopt(struct machine *machine, uint32_t index, const struct x86_cpuid *cpuid,
                uint64_t tsc_hz, struct error *err)
{
    struct machine_vcpu *vcpu = &machine->vcpu[index];

    int rc = x86_cpuid_check(cpuid, &vcpu->cpuid, ops_of(machine)->stands_for_any_vendor, err);
    if (rc == 0) {
        rc = ops_of(machine)->vcpu_set_cpuid(vcpu->vcpu, cpuid, err);
    }
    if (rc < 0) {
        return rc;
    }
    vcpu->cpuid = *cpuid;
    rc = ops_of(machine)->vcpu_set_tsc_hz(vcpu->vcpu, tsc_hz, err);
    if (rc < 0 && rc != -ENOTSUP) {
        return rc;
    }
    /* Where the rate cannot be had: the guest still counts on it, and may come to a host that has it. */
    vcpu->guest_tsc_hz = tsc_hz;
    return 0;
}

bool machine_has_other_tsc_rate(const struct machine *machine, uint64_t *out_guest_hz,
                                uint64_t *out_real_hz)
{
    *out_guest_hz = machine->vcpu[0].guest_tsc_hz;
    *out_real_hz = ops_of(machine)->vcpu_tsc_hz(machine->vcpu[0].vcpu);
    return !engine_same_tsc_rate(*out_guest_hz, *out_real_hz);
}

int vcpus_get_state(struct machine *machine, uint32_t index, struct x86_state *out_state,
                    struct error *err)
{
    int rc = ops_of(machine)->vcpu_get_state(machine->vcpu[index].vcpu, out_state, err);
    if (rc == 0 && !machine->has_irqchip) {
        lapic_save(machine->lapics, index, out_state);
    }
    return rc;
}

int vcpus_set_state(struct machine *machine, uint32_t index, const struct x86_state *state,
                    struct error *err)
{
    /* First the engine: the APIC's timer needs its TSC. */
    int rc = ops_of(machine)->vcpu_set_state(machine->vcpu[index].vcpu, state, err);
    if (rc == 0 && !machine->has_irqchip) {
        rc = lapic_restore(machine->lapics, index, state, err);
    }
    return rc;
}

bool vcpus_are_halted_for_good(struct machine *machine)
{
    struct x86_state *state = aligned_alloc(64, (sizeof(*state) + 63) / 64 * 64);
    bool is_over = state != NULL;

    for (uint32_t i = 0; is_over && i < machine->vcpu_count; i++) {
        if (ops_of(machine)->vcpu_get_state(machine->vcpu[i].vcpu, state, NULL) < 0) {
            is_over = false;
            break;
        }
        bool is_deaf = state->activity == X86_ACTIVITY_HALTED &&
                       (state->rflags & X86_FLAG_IF) == 0 && !state->nmi_pending &&
                       !state->exception_pending && !state->interrupt_injected;
        bool is_parked = state->activity == X86_ACTIVITY_WAIT_FOR_SIPI ||
                         state->activity == X86_ACTIVITY_WAIT_FOR_INIT;
        /* An application processor that was never started wakes by another one's order only. */
        is_over = is_deaf || (is_parked && !state->sipi_pending);
    }
    free(state);
    return is_over;
}

static void add_counter(void *ctx, const char *name, uint64_t value)
{
    *(uint64_t *)ctx += value;
}

uint64_t vcpus_counter(struct machine *machine)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < machine->vcpu_count; i++) {
        ops_of(machine)->vcpu_stats(machine->vcpu[i].vcpu, add_counter, &sum);
    }
    return sum;
}
