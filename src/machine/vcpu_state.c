/* A vCPU as a section: every field of its architectural state in the order of struct x86_state, and its CPUID. */
#include <string.h>

#include "machine/internal.h"

/* One walk for both directions, so that they cannot drift apart. */
struct walk {
    struct archive_writer *writer; /* or */
    struct archive_reader *reader;
    uint32_t version;
};

static void walk_bytes(struct walk *walk, void *data, size_t size)
{
    if (walk->writer != NULL) {
        archive_put(walk->writer, data, size);
    } else {
        archive_get(walk->reader, data, size);
    }
}

static void walk_u8(struct walk *walk, uint8_t *value)
{
    walk_bytes(walk, value, 1);
}

static void walk_u16(struct walk *walk, uint16_t *value)
{
    if (walk->writer != NULL) {
        archive_put_u16(walk->writer, *value);
    } else {
        *value = archive_get_u16(walk->reader);
    }
}

static void walk_u32(struct walk *walk, uint32_t *value)
{
    if (walk->writer != NULL) {
        archive_put_u32(walk->writer, *value);
    } else {
        *value = archive_get_u32(walk->reader);
    }
}

static void walk_u64s(struct walk *walk, uint64_t *values, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (walk->writer != NULL) {
            archive_put_u64(walk->writer, values[i]);
        } else {
            values[i] = archive_get_u64(walk->reader);
        }
    }
}

static void walk_bool(struct walk *walk, bool *value)
{
    if (walk->writer != NULL) {
        archive_put_bool(walk->writer, *value);
    } else {
        *value = archive_get_bool(walk->reader);
    }
}

static void walk_segment(struct walk *walk, struct x86_segment *segment)
{
    walk_u64s(walk, &segment->base, 1);
    walk_u32(walk, &segment->limit);
    walk_u16(walk, &segment->selector);
    walk_u16(walk, &segment->attributes);
}

static void walk_registers(struct walk *walk, struct x86_state *state)
{
    walk_u64s(walk, state->gpr, X86_GPR_COUNT);
    walk_u64s(walk, &state->rip, 1);
    walk_u64s(walk, &state->rflags, 1);
    for (int i = 0; i < X86_SEGMENT_COUNT; i++) {
        walk_segment(walk, &state->segment[i]);
    }
    walk_segment(walk, &state->ldtr);
    walk_segment(walk, &state->tr);
    walk_u64s(walk, &state->gdtr.base, 1);
    walk_u16(walk, &state->gdtr.limit);
    walk_u64s(walk, &state->idtr.base, 1);
    walk_u16(walk, &state->idtr.limit);
    uint64_t *const control[] = {&state->cr0, &state->cr2,  &state->cr3, &state->cr4,
                                 &state->cr8, &state->xcr0, &state->efer};
    for (size_t i = 0; i < ARRAY_COUNT(control); i++) {
        walk_u64s(walk, control[i], 1);
    }
    walk_u64s(walk, state->dr, 4);
    walk_u64s(walk, &state->dr6, 1);
    walk_u64s(walk, &state->dr7, 1);
    walk_u64s(walk, state->pdpte, 4);
    walk_bytes(walk, state->xsave, sizeof(state->xsave));
}

static void walk_msrs(struct walk *walk, struct x86_state *state)
{
    uint64_t *const msr[] = {
        &state->star,
        &state->lstar,
        &state->cstar,
        &state->sfmask,
        &state->kernel_gs_base,
        &state->sysenter_cs,
        &state->sysenter_esp,
        &state->sysenter_eip,
        &state->pat,
        &state->tsc,
        &state->tsc_aux,
        &state->tsc_adjust,
        &state->tsc_deadline,
        &state->apic_base,
        &state->misc_enable,
        &state->spec_ctrl,
        &state->xss,
        &state->mtrr_def_type,
        &state->mcg_status,
        &state->mcg_cap,
        &state->kvm_system_time,
        &state->kvm_wall_clock,
        &state->kvm_steal_time,
        &state->kvm_async_pf,
        &state->kvm_async_pf_int,
        &state->kvm_pv_eoi,
        &state->kvm_poll_control,
    };
    for (size_t i = 0; i < ARRAY_COUNT(msr); i++) {
        walk_u64s(walk, msr[i], 1);
    }
    walk_u64s(walk, state->mtrr_fixed, ARRAY_COUNT(state->mtrr_fixed));
    walk_u64s(walk, state->mtrr_base, ARRAY_COUNT(state->mtrr_base));
    walk_u64s(walk, state->mtrr_mask, ARRAY_COUNT(state->mtrr_mask));
    if (walk->version >= 4) {
        walk_u64s(walk, &state->hyperv_guest_os_id, 1);
        walk_u64s(walk, &state->hyperv_hypercall, 1);
        walk_u64s(walk, &state->hyperv_reference_tsc, 1);
        walk_u64s(walk, &state->hyperv_vp_assist, 1);
    }
}

static void walk_events(struct walk *walk, struct x86_state *state)
{
    walk_bool(walk, &state->exception_pending);
    walk_bool(walk, &state->exception_has_error);
    walk_u8(walk, &state->exception_vector);
    walk_u32(walk, &state->exception_error);
    walk_bool(walk, &state->interrupt_injected);
    walk_bool(walk, &state->interrupt_is_soft);
    walk_u8(walk, &state->interrupt_vector);
    walk_bool(walk, &state->nmi_pending);
    walk_bool(walk, &state->nmi_injected);
    walk_bool(walk, &state->nmi_masked);
    walk_bool(walk, &state->interrupt_shadow_sti);
    walk_bool(walk, &state->interrupt_shadow_mov_ss);
    walk_bool(walk, &state->sipi_pending);
    walk_u8(walk, &state->sipi_vector);
    uint8_t activity = (uint8_t)state->activity;
    walk_u8(walk, &activity);
    state->activity = (enum x86_activity)activity;
    if (walk->version >= 3) {
        walk_bool(walk, &state->pv_unhalted);
    }
    walk_bytes(walk, state->lapic, sizeof(state->lapic));
}

static void walk_all(struct walk *walk, struct x86_state *state)
{
    walk_registers(walk, state);
    walk_msrs(walk, state);
    walk_events(walk, state);
}

void vcpu_state_save(const struct x86_state *state, struct archive_writer *writer)
{
    struct walk walk = {.writer = writer, .version = VCPU_STATE_VERSION};
    /* The writing walk changes nothing: 'activity' is put back as it was. */
    walk_all(&walk, (struct x86_state *)state);
}

int vcpu_state_restore(struct x86_state *state, uint32_t version, struct archive_reader *reader,
                       struct error *err)
{
    struct walk walk = {.reader = reader, .version = version};

    memset(state, 0, sizeof(*state));
    walk_all(&walk, state);
    if (reader->status < 0) {
        return error_set(err, EBADMSG, "the vcpu's state is cut short");
    }
    if (state->activity > X86_ACTIVITY_SHUTDOWN) {
        return error_set(err, EINVAL, "the vcpu's activity is none that there is");
    }
    return 0;
}

void vcpu_cpuid_save(const struct x86_cpuid *cpuid, struct archive_writer *writer)
{
    archive_put_u32(writer, (uint32_t)cpuid->count);
    for (size_t i = 0; i < cpuid->count; i++) {
        const struct x86_cpuid_entry *entry = &cpuid->entry[i];
        archive_put_u32(writer, entry->leaf);
        archive_put_u32(writer, entry->subleaf);
        archive_put_bool(writer, entry->has_subleaf);
        archive_put_u32(writer, entry->eax);
        archive_put_u32(writer, entry->ebx);
        archive_put_u32(writer, entry->ecx);
        archive_put_u32(writer, entry->edx);
    }
}

int vcpu_cpuid_restore(struct x86_cpuid *cpuid, struct archive_reader *reader, struct error *err)
{
    uint32_t count = archive_get_u32(reader);

    if (reader->status == 0 && count > X86_CPUID_MAX_ENTRIES) {
        return error_set(err, EINVAL, "the vcpu's CPUID has %u leaves, expected at most %d", count,
                         X86_CPUID_MAX_ENTRIES);
    }
    *cpuid = (struct x86_cpuid){.count = 0};
    for (uint32_t i = 0; i < count && reader->status == 0; i++) {
        struct x86_cpuid_entry *entry = &cpuid->entry[cpuid->count++];
        entry->leaf = archive_get_u32(reader);
        entry->subleaf = archive_get_u32(reader);
        entry->has_subleaf = archive_get_bool(reader);
        entry->eax = archive_get_u32(reader);
        entry->ebx = archive_get_u32(reader);
        entry->ecx = archive_get_u32(reader);
        entry->edx = archive_get_u32(reader);
    }
    return reader->status < 0 ? error_set(err, EBADMSG, "the vcpu's CPUID is cut short") : 0;
}
