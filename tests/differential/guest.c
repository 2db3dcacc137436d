/* The engine's side of the differential test.
 *
 * Guest physical memory: page tables and descriptor tables in the first 64 KiB, then the pages of the cases. A case runs
 * at CPL 3 with the selectors that Linux gives a process; its exception goes through the IDT to a handler that writes
 * to the port with the vector's number, which ends the run. */
#include "guest.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/core/endian.h"

#define GPA_PML4      0x1000u
#define GPA_PDPT_LOW  0x2000u
#define GPA_PD_LOW    0x3000u
#define GPA_PT_CODE   0x4000u
#define GPA_PT_DATA   0x5000u
#define GPA_PDPT_HIGH 0x6000u
#define GPA_PD_HIGH   0x7000u
#define GPA_PT_HIGH   0x8000u
#define GPA_GDT       0x9000u
#define GPA_IDT       0xa000u
#define GPA_TSS       0xb000u
#define GPA_HANDLERS  0xc000u
#define GPA_STACK     0xd000u
#define GPA_LDT       0xe000u
#define GPA_CODE      0x10000u
#define GPA_DATA      0x20000u
#define MEMORY_SIZE   0x100000u

/* The first 64 KiB are at this address, for the supervisor. */
#define KERNEL_GVA 0xffffffff80000000ull

#define PTE_PRESENT  0x1u
#define PTE_WRITE    0x2u
#define PTE_USER     0x4u
#define PTE_ACCESSED 0x20u
#define PTE_DIRTY    0x40u
#define PTE_NX       (1ull << 63)

#define SELECTOR_KERNEL_CODE 0x10u
#define SELECTOR_KERNEL_DATA 0x18u
#define SELECTOR_TSS         0x40u
#define SELECTOR_LDT         0x50u
#define STACK_TOP            (KERNEL_GVA + GPA_STACK + 0x1000)

/* A host with much else to do may take seconds for a case. */
#define WATCHDOG_MS      500
#define WATCHDOG_SAMPLES 20

struct guest {
    const struct engine_ops *engine;
    struct guest_memory *memory;
    struct vm *vm;
    struct vcpu *vcpu;
    uint8_t *ram;
    struct x86_state start; /* what all cases have in common */
    int vector;             /* that ended the run, -1: none */
    pthread_t watchdog;
    bool has_watchdog;
    atomic_bool is_ending;
    _Atomic uint64_t runs; /* odd: one is under way */
};

static uint64_t pio_read(void *ctx, uint32_t vcpu, uint16_t port, unsigned size)
{
    (void)ctx, (void)vcpu, (void)port, (void)size;
    return ~0ull;
}

static void pio_write(void *ctx, uint32_t vcpu, uint16_t port, unsigned size, uint32_t value)
{
    (void)vcpu, (void)size, (void)value;
    struct guest *guest = ctx;
    if (guest->vector < 0) {
        guest->vector = port;
    }
    guest->engine->vcpu_kick(guest->vcpu);
}

static uint64_t mmio_read(void *ctx, uint32_t vcpu, uint64_t gpa, unsigned size)
{
    (void)ctx, (void)vcpu, (void)gpa, (void)size;
    return ~0ull;
}

static void mmio_write(void *ctx, uint32_t vcpu, uint64_t gpa, unsigned size, uint64_t value)
{
    (void)ctx, (void)vcpu, (void)gpa, (void)size, (void)value;
}

static int apic_acknowledge(void *ctx, uint32_t vcpu)
{
    (void)ctx, (void)vcpu;
    return -1;
}

static bool apic_has_interrupt(void *ctx, uint32_t vcpu)
{
    (void)ctx, (void)vcpu;
    return false;
}

static bool apic_msr_read(void *ctx, uint32_t vcpu, uint32_t msr, uint64_t *out_value)
{
    (void)ctx, (void)vcpu, (void)msr;
    *out_value = 0;
    return true;
}

static bool apic_msr_write(void *ctx, uint32_t vcpu, uint32_t msr, uint64_t value)
{
    (void)ctx, (void)vcpu, (void)msr, (void)value;
    return true;
}

static uint8_t apic_get_cr8(void *ctx, uint32_t vcpu)
{
    (void)ctx, (void)vcpu;
    return 0;
}

static void apic_set_cr8(void *ctx, uint32_t vcpu, uint8_t value)
{
    (void)ctx, (void)vcpu, (void)value;
}

static void entry_put(struct guest *guest, uint32_t table, unsigned index, uint64_t value)
{
    le64_put(guest->ram + table + index * 8, value);
}

static void write_page_tables(struct guest *guest)
{
    uint64_t table = PTE_PRESENT | PTE_WRITE | PTE_USER | PTE_ACCESSED;
    uint64_t page = PTE_PRESENT | PTE_USER | PTE_ACCESSED | PTE_DIRTY;
    entry_put(guest, GPA_PML4, 0, GPA_PDPT_LOW | table);
    entry_put(guest, GPA_PDPT_LOW, 0, GPA_PD_LOW | table);
    entry_put(guest, GPA_PD_LOW, CASE_CODE_BASE >> 21, GPA_PT_CODE | table);
    entry_put(guest, GPA_PD_LOW, CASE_DATA_BASE >> 21, GPA_PT_DATA | table);
    entry_put(guest, GPA_PT_CODE, 0, GPA_CODE | page);
    entry_put(guest, GPA_PT_CODE, 1, (GPA_CODE + 0x1000) | page);
    entry_put(guest, GPA_PT_DATA, 0, GPA_DATA | page | PTE_WRITE | PTE_NX);
    entry_put(guest, GPA_PT_DATA, 1, (GPA_DATA + 0x1000) | page | PTE_WRITE | PTE_NX);
    entry_put(guest, GPA_PT_DATA, 2, (GPA_DATA + 0x2000) | page | PTE_NX);
    entry_put(guest, GPA_PML4, 511, GPA_PDPT_HIGH | table);
    entry_put(guest, GPA_PDPT_HIGH, 510, GPA_PD_HIGH | table);
    entry_put(guest, GPA_PD_HIGH, 0, GPA_PT_HIGH | table);
    for (unsigned i = 0; i < 16; i++) {
        entry_put(guest, GPA_PT_HIGH, i, i * 0x1000 | (page & ~(uint64_t)PTE_USER) | PTE_WRITE);
    }
}

static struct x86_segment user_segment(uint16_t selector, uint16_t attributes)
{
    return (struct x86_segment){.limit = 0xffffffff,
                                .selector = selector,
                                .attributes = (uint16_t)(attributes | X86_SEGMENT_P |
                                                         X86_SEGMENT_S | X86_SEGMENT_DPL |
                                                         X86_SEGMENT_G | X86_SEGMENT_ACCESSED)};
}

static struct x86_segment ldt_segment(unsigned i)
{
    const struct case_ldt *entry = &case_ldt[i];
    uint16_t attributes = X86_SEGMENT_P | X86_SEGMENT_S | X86_SEGMENT_DPL | X86_SEGMENT_ACCESSED;
    if (entry->is_code) {
        attributes |= X86_SEGMENT_CODE | X86_SEGMENT_READABLE;
    } else {
        attributes |= entry->is_readonly ? 0 : X86_SEGMENT_WRITABLE;
        attributes |= entry->is_down ? X86_SEGMENT_DOWN : 0;
    }
    return (struct x86_segment){
        .base = entry->base,
        .limit = entry->limit,
        .selector = CASE_LDT_SELECTOR(i),
        .attributes = (uint16_t)(attributes | (entry->is_32bit ? X86_SEGMENT_DB : 0)),
    };
}

/* What loading 'selector' gives. */
static struct x86_segment case_segment(uint16_t selector)
{
    uint16_t code = X86_SEGMENT_CODE | X86_SEGMENT_READABLE;
    switch (selector) {
    case CASE_SELECTOR_CODE64:
        return user_segment(selector, code | X86_SEGMENT_L);
    case CASE_SELECTOR_CODE32:
        return user_segment(selector, code | X86_SEGMENT_DB);
    case CASE_SELECTOR_DATA:
        return user_segment(selector, X86_SEGMENT_WRITABLE | X86_SEGMENT_DB);
    default:
        return ldt_segment(selector >> 3);
    }
}

static bool vector_is_user(unsigned vector)
{
    return vector == X86_BP || vector == X86_OF;
}

static void write_descriptors(struct guest *guest)
{
    static const uint64_t gdt[8] = {
        [SELECTOR_KERNEL_CODE / 8] = 0x00af9b000000ffff,
        [SELECTOR_KERNEL_DATA / 8] = 0x00cf93000000ffff,
        [CASE_SELECTOR_CODE32 / 8] = 0x00cffb000000ffff,
        [CASE_SELECTOR_DATA / 8] = 0x00cff3000000ffff,
        [CASE_SELECTOR_CODE64 / 8] = 0x00affb000000ffff,
    };
    memcpy(guest->ram + GPA_GDT, gdt, sizeof(gdt));
    for (unsigned i = 0; i < CASE_LDT_COUNT; i++) {
        struct x86_segment segment = ldt_segment(i);
        entry_put(guest, GPA_LDT, i,
                  (segment.limit & 0xffff) | (segment.base & 0xffffff) << 16 |
                      (uint64_t)segment.attributes << 40 | (uint64_t)(segment.limit >> 16) << 48 |
                      (segment.base >> 24) << 56);
    }
    uint64_t tss = KERNEL_GVA + GPA_TSS;
    entry_put(guest, GPA_GDT, SELECTOR_TSS / 8,
              0x67ull | (tss & 0xffffff) << 16 | 0x8bull << 40 | ((tss >> 24) & 0xff) << 56);
    entry_put(guest, GPA_GDT, SELECTOR_TSS / 8 + 1, tss >> 32);
    le64_put(guest->ram + GPA_TSS + 4, STACK_TOP);
    le16_put(guest->ram + GPA_TSS + 102, 0x68); /* no I/O bitmap */
    for (unsigned vector = 0; vector < 256; vector++) {
        uint64_t handler = KERNEL_GVA + GPA_HANDLERS + vector * 8;
        uint64_t attributes = vector_is_user(vector) ? 0xeeull : 0x8eull;
        entry_put(guest, GPA_IDT, vector * 2,
                  (handler & 0xffff) | (uint64_t)SELECTOR_KERNEL_CODE << 16 | attributes << 40 |
                      ((handler >> 16) & 0xffff) << 48);
        entry_put(guest, GPA_IDT, vector * 2 + 1, handler >> 32);
        /* out vector, al; jmp . */
        const uint8_t code[] = {0xe6, (uint8_t)vector, 0xeb, 0xfe};
        memcpy(guest->ram + GPA_HANDLERS + vector * 8, code, sizeof(code));
    }
}

static void set_start_state(struct guest *guest)
{
    struct x86_state *s = &guest->start;
    x86_state_reset(s, true, false);
    s->cr0 =
        X86_CR0_PG | X86_CR0_AM | X86_CR0_WP | X86_CR0_NE | X86_CR0_ET | X86_CR0_MP | X86_CR0_PE;
    s->cr3 = GPA_PML4;
    s->cr4 = X86_CR4_PAE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE | X86_CR4_FSGSBASE;
    s->efer = X86_EFER_SCE | X86_EFER_LME | X86_EFER_LMA | X86_EFER_NXE;
    s->xcr0 = X86_XCR0_X87 | X86_XCR0_SSE | X86_XCR0_AVX;
    s->gdtr = (struct x86_table){KERNEL_GVA + GPA_GDT, SELECTOR_TSS + 15};
    s->idtr = (struct x86_table){KERNEL_GVA + GPA_IDT, 4095};
    s->tr = (struct x86_segment){KERNEL_GVA + GPA_TSS, 0x67, SELECTOR_TSS, 0x8b};
    s->ldtr =
        (struct x86_segment){KERNEL_GVA + GPA_LDT, CASE_LDT_COUNT * 8 - 1, SELECTOR_LDT, 0x82};
    s->segment[X86_FS] =
        (struct x86_segment){.base = CASE_FS_BASE, .attributes = X86_SEGMENT_UNUSABLE};
    s->segment[X86_GS] =
        (struct x86_segment){.base = CASE_GS_BASE, .attributes = X86_SEGMENT_UNUSABLE};
    s->activity = X86_ACTIVITY_RUNNING;
}

static void *watchdog_main(void *opaque)
{
    struct guest *guest = opaque;
    uint64_t last = 0;
    unsigned seen = 0;
    while (!atomic_load(&guest->is_ending)) {
        const struct timespec pause = {.tv_nsec = WATCHDOG_MS * 1000000l};
        nanosleep(&pause, NULL);
        uint64_t now = atomic_load(&guest->runs);
        seen = now == last && (now & 1) != 0 ? seen + 1 : 0;
        if (seen >= WATCHDOG_SAMPLES) {
            guest->engine->vcpu_kick(guest->vcpu);
        }
        last = now;
    }
    return NULL;
}

static int create_vcpu(struct guest *guest, const char *options, struct error *err)
{
    struct vm_config config = {
        .options = options,
        .vcpu_count = 1,
        .memory = guest->memory,
        .callbacks =
            {
                .ctx = guest,
                .pio_read = pio_read,
                .pio_write = pio_write,
                .mmio_read = mmio_read,
                .mmio_write = mmio_write,
                .apic_acknowledge = apic_acknowledge,
                .apic_has_interrupt = apic_has_interrupt,
                .apic_msr_read = apic_msr_read,
                .apic_msr_write = apic_msr_write,
                .apic_get_cr8 = apic_get_cr8,
                .apic_set_cr8 = apic_set_cr8,
            },
    };
    int rc = guest->engine->vm_create(&config, &guest->vm, err);
    if (rc < 0) {
        return rc;
    }
    struct x86_cpuid cpuid;
    rc = guest->engine->supported_cpuid(&cpuid, err);
    if (rc < 0) {
        return rc;
    }
    return guest->engine->vcpu_create(guest->vm, 0, &cpuid, &guest->vcpu, err);
}

int guest_create(const struct engine_ops *engine, const char *options, const uint8_t *constants,
                 struct guest **out_guest, struct error *err)
{
    struct guest *guest = calloc(1, sizeof(*guest));
    if (guest == NULL) {
        return error_set(err, ENOMEM, "no memory for the guest");
    }
    guest->engine = engine;
    int rc = guest_memory_create(&guest->memory, err);
    if (rc == 0) {
        rc = guest_memory_add(guest->memory, 0, MEMORY_SIZE, false, false, err);
    }
    if (rc == 0) {
        guest->ram = guest_memory_map(guest->memory, 0, MEMORY_SIZE, true);
        write_page_tables(guest);
        write_descriptors(guest);
        memset(guest->ram + GPA_CODE, 0xf4, CASE_CODE_SIZE);
        memcpy(guest->ram + GPA_DATA + CASE_DATA_SIZE, constants, CASE_CONST_SIZE);
        rc = create_vcpu(guest, options, err);
    }
    if (rc < 0) {
        guest_destroy(guest);
        return rc;
    }
    set_start_state(guest);
    guest->has_watchdog = pthread_create(&guest->watchdog, NULL, watchdog_main, guest) == 0;
    *out_guest = guest;
    return 0;
}

void guest_destroy(struct guest *guest)
{
    if (guest == NULL) {
        return;
    }
    if (guest->has_watchdog) {
        atomic_store(&guest->is_ending, true);
        pthread_join(guest->watchdog, NULL);
    }
    if (guest->vcpu != NULL) {
        guest->engine->vcpu_destroy(guest->vcpu);
    }
    if (guest->vm != NULL) {
        guest->engine->vm_destroy(guest->vm);
    }
    guest_memory_destroy(guest->memory);
    free(guest);
}

static bool has_error_code(unsigned vector)
{
    return vector == X86_DF || (vector >= X86_TS && vector <= X86_PF) || vector == X86_AC;
}

static void fetch_result(struct guest *guest, const struct x86_state *state,
                         struct case_output *out)
{
    const uint8_t *frame = guest->ram + GPA_STACK + 0x1000 - 40;
    memcpy(out->state.gpr, state->gpr, sizeof(out->state.gpr));
    out->state.rip = le64_get(frame);
    out->state.rflags = le64_get(frame + 16);
    out->state.gpr[X86_RSP] = le64_get(frame + 24);
    memcpy(out->state.xsave, state->xsave, CASE_XSAVE_SIZE);
    out->vector = (uint32_t)guest->vector;
    out->error = has_error_code(out->vector) ? le32_get(frame - 8) : 0;
    out->cr2 = out->vector == X86_PF ? state->cr2 : 0;
}

int guest_run(struct guest *guest, const struct case_input *in, const uint8_t *data,
              struct case_output *out, struct error *err)
{
    uint32_t code_offset = in->code_offset;
    memcpy(guest->ram + GPA_DATA, data, CASE_DATA_SIZE);
    memcpy(guest->ram + GPA_CODE + code_offset, in->code, in->code_bytes);
    guest_memory_written(guest->memory, GPA_CODE + code_offset, in->code_bytes);

    struct x86_state *s = &guest->start;
    memcpy(s->gpr, in->state.gpr, sizeof(s->gpr));
    s->rip = in->state.rip;
    s->rflags = in->state.rflags;
    memcpy(s->xsave, in->state.xsave, CASE_XSAVE_SIZE);
    s->segment[X86_CS] = case_segment(in->cs);
    s->segment[X86_SS] = case_segment(in->ss);
    s->segment[X86_DS] = case_segment(in->ds);
    s->segment[X86_ES] = case_segment(in->es);
    int rc = guest->engine->vcpu_set_state(guest->vcpu, s, err);
    if (rc < 0) {
        return rc;
    }
    guest->vector = -1;
    atomic_fetch_add(&guest->runs, 1);
    enum vcpu_exit why = guest->engine->vcpu_run(guest->vcpu);
    atomic_fetch_add(&guest->runs, 1);
    if (why != VCPU_EXIT_KICKED) {
        guest->engine->vcpu_error(guest->vcpu, err);
        return error_prefix(err, -EIO, "the vcpu left with exit %d", (int)why);
    }
    struct x86_state state;
    rc = guest->engine->vcpu_get_state(guest->vcpu, &state, err);
    if (rc < 0) {
        return rc;
    }
    if (guest->vector < 0) {
        memset(out, 0, offsetof(struct case_output, data));
        out->vector = CASE_VECTOR_TIMEOUT;
        out->state.rip = state.rip;
    } else {
        fetch_result(guest, &state, out);
    }
    memcpy(out->data, guest->ram + GPA_DATA, CASE_DATA_SIZE);
    memset(guest->ram + GPA_CODE + code_offset, 0xf4, in->code_bytes);
    guest_memory_written(guest->memory, GPA_CODE + code_offset, in->code_bytes);
    return 0;
}

struct vcpu *guest_vcpu(struct guest *guest)
{
    return guest->vcpu;
}
