/* The machine's state by sections, in the order in which a restore can take them; and a vCPU's registers as text. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "device/acpi/cpus.h"
#include "machine/internal.h"

#define IOAPIC_VERSION 1u
#define CLOCK_VERSION  2u /* 2: with vCPU 0's TSC at the same moment */

/* No CPU's TSC is slower or faster. */
#define TSC_HZ_MIN 1000000u
#define TSC_HZ_MAX 100000000000ull

static struct x86_state *state_new(void)
{
    return aligned_alloc(64, (sizeof(struct x86_state) + 63) / 64 * 64);
}

int machine_each_section(struct machine *machine, machine_section_fn visit, void *ctx)
{
    struct machine_section section = {{0}, 0, NULL};

    for (uint32_t i = 0; i < machine->vcpu_count; i++) {
        (void)snprintf(section.name, sizeof(section.name), "vcpu.%u", i);
        section.version = VCPU_STATE_VERSION;
        section.object = &machine->vcpu[i];
        int rc = visit(ctx, machine, &section);
        if (rc != 0) {
            return rc;
        }
    }
    /* The objects of the three are told apart by where they stand in the machine. */
    const struct machine_section parts[] = {
        {"ioapic", IOAPIC_VERSION, &machine->ioapic},
        {"clock", CLOCK_VERSION, &machine->vm},
        {"pci", PCI_BUS_VERSION, &machine->pci},
    };
    for (size_t i = 0; i < ARRAY_COUNT(parts); i++) {
        int rc = visit(ctx, machine, &parts[i]);
        if (rc != 0) {
            return rc;
        }
    }
    for (size_t i = 0; i < machine->device_count; i++) {
        struct device *device = machine->device[i];
        (void)snprintf(section.name, sizeof(section.name), "%s", device->name);
        section.version = device->ops->version;
        section.object = device;
        int rc = visit(ctx, machine, &section);
        if (rc != 0) {
            return rc;
        }
    }
    return 0;
}

/* The vCPU that the section is of, or NULL. */
static struct machine_vcpu *section_vcpu(const struct machine *machine,
                                         const struct machine_section *section)
{
    for (uint32_t i = 0; i < machine->vcpu_count; i++) {
        if (section->object == &machine->vcpu[i]) {
            return &machine->vcpu[i];
        }
    }
    return NULL;
}

static void fail(struct archive_writer *writer, int status)
{
    if (writer->status == 0) {
        writer->status = status;
    }
}

static void save_vcpu(struct machine *machine, uint32_t index, struct archive_writer *writer)
{
    struct x86_state *state = state_new();
    if (state == NULL) {
        fail(writer, -ENOMEM);
        return;
    }
    int rc = vcpus_get_state(machine, index, state, NULL);
    if (rc < 0) {
        fail(writer, rc);
    } else {
        vcpu_state_save(state, writer);
        vcpu_cpuid_save(&machine->vcpu[index].cpuid, writer);
        archive_put_u64(writer, machine->vcpu[index].guest_tsc_hz);
    }
    free(state);
}

static void save_ioapic(struct machine *machine, struct archive_writer *writer)
{
    struct x86_ioapic_state state;

    if (machine->has_irqchip) {
        int rc = machine->config.engine->vm_get_ioapic(machine->vm, &state, NULL);
        if (rc < 0) {
            fail(writer, rc);
            return;
        }
    } else {
        ioapic_save(machine->ioapic, &state);
    }
    archive_put_u64(writer, state.base_gpa);
    archive_put_u32(writer, state.select);
    archive_put_u32(writer, state.id);
    archive_put_u32(writer, state.irr);
    for (size_t i = 0; i < ARRAY_COUNT(state.redirection); i++) {
        archive_put_u64(writer, state.redirection[i]);
    }
}

static void save_clock(struct machine *machine, struct archive_writer *writer)
{
    const struct engine_ops *ops = machine->config.engine;
    uint64_t ns = ops->vm_get_clock(machine->vm);
    uint64_t tsc = ops->vcpu_tsc(machine->vcpu[0].vcpu);

    archive_put_u64(writer, ns);
    archive_put_u64(writer, tsc);
}

void machine_save_section(struct machine *machine, const struct machine_section *section,
                          struct archive_writer *writer)
{
    const struct machine_vcpu *vcpu = section_vcpu(machine, section);

    if (vcpu != NULL) {
        save_vcpu(machine, vcpu->index, writer);
    } else if (section->object == &machine->ioapic) {
        save_ioapic(machine, writer);
    } else if (section->object == &machine->vm) {
        save_clock(machine, writer);
    } else if (section->object == &machine->pci) {
        pci_bus_save(machine->pci, writer);
    } else {
        struct device *device = section->object;
        device->ops->save(device, writer);
    }
}

/* What the guest was told of its CPU; version 1 did not save it. */
static int restore_identity(struct machine *machine, uint32_t index, struct archive_reader *reader,
                            struct error *err)
{
    struct x86_cpuid cpuid;
    int rc = vcpu_cpuid_restore(&cpuid, reader, err);
    uint64_t tsc_hz = archive_get_u64(reader);
    if (rc < 0) {
        return rc;
    }
    if (reader->status < 0 || tsc_hz < TSC_HZ_MIN || tsc_hz > TSC_HZ_MAX) {
        return error_set(err, EBADMSG, "the rate of the vcpu's TSC cannot be");
    }
    return vcpus_adopt(machine, index, &cpuid, tsc_hz, err);
}

static int restore_vcpu(struct machine *machine, uint32_t index, uint32_t version,
                        struct archive_reader *reader, struct error *err)
{
    struct x86_state *state = state_new();
    if (state == NULL) {
        return error_set(err, ENOMEM, "allocating a vcpu's state");
    }
    int rc = vcpu_state_restore(state, version, reader, err);
    if (rc == 0 && version >= 2) {
        rc = restore_identity(machine, index, reader, err);
    }
    if (rc == 0) {
        rc = vcpus_set_state(machine, index, state, err);
    }
    free(state);
    return rc;
}

static int restore_ioapic(struct machine *machine, struct archive_reader *reader, struct error *err)
{
    struct x86_ioapic_state state = {.base_gpa = archive_get_u64(reader)};

    state.select = archive_get_u32(reader);
    state.id = archive_get_u32(reader);
    state.irr = archive_get_u32(reader);
    for (size_t i = 0; i < ARRAY_COUNT(state.redirection); i++) {
        state.redirection[i] = archive_get_u64(reader);
    }
    if (reader->status < 0) {
        return error_set(err, EBADMSG, "the ioapic's state is cut short");
    }
    if (state.base_gpa != IOAPIC_DEFAULT_GPA) {
        return error_set(err, EINVAL, "the ioapic is at 0x%" PRIx64 ", expected 0x%x",
                         state.base_gpa, IOAPIC_DEFAULT_GPA);
    }
    if (state.select > 0xff || state.id > 0xf || state.irr >> IOAPIC_PIN_COUNT != 0) {
        return error_set(
            err, EINVAL,
            "the ioapic has select 0x%x, id 0x%x, inputs 0x%x, expected 8, 4 and 24 bits",
            state.select, state.id, state.irr);
    }
    if (machine->has_irqchip) {
        return machine->config.engine->vm_set_ioapic(machine->vm, &state, err);
    }
    ioapic_restore(machine->ioapic, &state);
    return 0;
}

/* The two count the same time: as far as the TSC has come since it was restored, the clock has, too. Guests watch one
 * with the other. */
static void restore_clock(struct machine *machine, uint32_t version, struct archive_reader *reader)
{
    const struct engine_ops *ops = machine->config.engine;
    uint64_t ns = archive_get_u64(reader);

    if (version >= 2) {
        uint64_t saved_tsc = archive_get_u64(reader);
        uint64_t hz = ops->vcpu_tsc_hz(machine->vcpu[0].vcpu);
        int64_t ticks = (int64_t)(ops->vcpu_tsc(machine->vcpu[0].vcpu) - saved_tsc);
        ns += hz == 0 ? 0 : (uint64_t)((__int128)ticks * 1000000000 / (int64_t)hz);
    }
    if (reader->status == 0) {
        ops->vm_set_clock(machine->vm, ns);
    }
}

int machine_restore_section(struct machine *machine, const struct machine_section *section,
                            uint32_t version, struct archive_reader *reader, struct error *err)
{
    const struct machine_vcpu *vcpu = section_vcpu(machine, section);
    int rc = 0;

    if (version < 1 || version > section->version) {
        return error_set(err, EINVAL, "%s: version %u of its state: expected 1 to %u",
                         section->name, version, section->version);
    }
    if (vcpu != NULL) {
        rc = restore_vcpu(machine, vcpu->index, version, reader, err);
    } else if (section->object == &machine->ioapic) {
        rc = restore_ioapic(machine, reader, err);
    } else if (section->object == &machine->vm) {
        restore_clock(machine, version, reader);
    } else if (section->object == &machine->pci) {
        rc = pci_bus_restore(machine->pci, reader, version, err);
    } else {
        struct device *device = section->object;
        rc = device->ops->restore(device, reader, version, err);
        if (rc == 0 && device == machine->cpus) {
            vcpus_follow(machine);
        }
    }
    return rc < 0 ? rc : archive_finish(reader, err);
}

void machine_dump_vcpu(struct machine *machine, uint32_t index, char *out_text, size_t size)
{
    static const char *const names[X86_GPR_COUNT] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp",
                                                     "rsi", "rdi", "r8",  "r9",  "r10", "r11",
                                                     "r12", "r13", "r14", "r15"};
    static const char *const segments[X86_SEGMENT_COUNT] = {"es", "cs", "ss", "ds", "fs", "gs"};
    struct x86_state *state = state_new();
    struct error err = {0};
    size_t used = 0;

    if (state == NULL || index >= machine->vcpu_count ||
        vcpus_get_state(machine, index, state, &err) < 0) {
        (void)snprintf(out_text, size, "no registers: %s\n", err.text);
        free(state);
        return;
    }
#define ADD(...)                                                                                   \
    do {                                                                                           \
        int printed = snprintf(out_text + used, size - used, __VA_ARGS__);                         \
        used = printed < 0 || (size_t)printed >= size - used ? size - 1 : used + (size_t)printed;  \
    } while (0)
    for (int i = 0; i < X86_GPR_COUNT; i++) {
        ADD("%-3s %016" PRIx64 "%c", names[i], state->gpr[i], i % 4 == 3 ? '\n' : ' ');
    }
    ADD("rip %016" PRIx64 " rflags %08" PRIx64 " activity %d\n", state->rip, state->rflags,
        (int)state->activity);
    ADD("cr0 %08" PRIx64 " cr2 %016" PRIx64 " cr3 %016" PRIx64 " cr4 %08" PRIx64 " efer %" PRIx64
        "\n",
        state->cr0, state->cr2, state->cr3, state->cr4, state->efer);
    for (int i = 0; i < X86_SEGMENT_COUNT; i++) {
        const struct x86_segment *segment = &state->segment[i];
        ADD("%s %04x base %016" PRIx64 " limit %08x attributes %04x\n", segments[i],
            segment->selector, segment->base, segment->limit, segment->attributes);
    }
    ADD("gdt %016" PRIx64 " limit %04x idt %016" PRIx64 " limit %04x tr %04x base %016" PRIx64 "\n",
        state->gdtr.base, state->gdtr.limit, state->idtr.base, state->idtr.limit,
        state->tr.selector, state->tr.base);
    ADD("pending: exception %d vector %u, interrupt %d vector %u, nmi %d\n",
        state->exception_pending, state->exception_vector, state->interrupt_injected,
        state->interrupt_vector, state->nmi_pending);
#undef ADD
    free(state);
}
