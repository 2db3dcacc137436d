/* States that nobody vouches for: valid ones of every mode, changed at random, are refused by name or run, for a moment, without
 * harm to the host. What the engine then has is a state that it takes again.
 *
 * Arguments: how many states for each engine (default 3000), seed (default 1). */
#include "soft_guest.h"

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/core/bits.h"
#include "cpu/x86/state_check.h"

#define RUN_NS         50000
#define HUNG_SECONDS   60
#define IDT_LEGACY     0x17000u
#define TSS_LEGACY     0x1a000u /* gates of 8 bytes */
#define PAGE_DIRECTORY 0x18000u
#define PDPT           0x19000u

/* A bit of everything that depends on modes: memory, stacks, segments, privileged registers, extended state. It goes around
 * until somebody stops it. */
GUEST_CODE_BLOCK(code64, ".code64",
                 "1: mov $0x20000, %ebx\n mov %ds, %eax\n mov %eax, %ds\n push %rax\n pop %rcx\n"
                 "mov %rbx, %rdi\n mov $64, %ecx\n rep stosq\n lock incq (%rbx)\n"
                 "movdqa %xmm1, 0x40(%rbx)\n fld1\n fstpl 8(%rbx)\n fxsave64 0x400(%rbx)\n"
                 "fxrstor64 0x400(%rbx)\n stmxcsr 16(%rbx)\n ldmxcsr 16(%rbx)\n"
                 "mov %gs:(%rbx), %eax\n mov %fs:0x100(%rbx), %al\n call 2f\n"
                 "sgdt 0x80(%rbx)\n str %ax\n sldt %ax\n lar %ax, %ecx\n verr %ax\n"
                 "pushfq\n popfq\n mov %cr0, %rax\n mov %cr3, %rax\n mov %rax, %cr3\n"
                 "mov $0xc0000080, %ecx\n rdmsr\n wrmsr\n mov $0x277, %ecx\n rdmsr\n wrmsr\n"
                 "mov %dr7, %rax\n mov %rax, %dr7\n xor %ecx, %ecx\n cpuid\n rdtsc\n"
                 "mov $0x7f, %dl\n in %dx, %al\n int $0x21\n sti\n nop\n cli\n swapgs\n swapgs\n"
                 "mov $7, %eax\n xor %edx, %edx\n xsave 0x800(%rbx)\n xrstor 0x800(%rbx)\n"
                 "vpaddd %ymm1, %ymm2, %ymm3\n jmp 1b\n 2: inc %rax\n ret\n");
GUEST_CODE_BLOCK(
    code32, ".code32",
    "1: mov $0x20000, %ebx\n mov %ds, %eax\n mov %eax, %ds\n push %eax\n pop %ecx\n"
    "mov %ebx, %edi\n mov $64, %ecx\n rep stosl\n lock incl (%ebx)\n"
    "movdqa %xmm1, 0x40(%ebx)\n fld1\n fstpl 8(%ebx)\n fsave 0x400(%ebx)\n"
    "frstor 0x400(%ebx)\n push %es\n pop %es\n call 2f\n lds 0x100(%ebx), %eax\n"
    "mov %ss, %eax\n mov %eax, %ds\n sgdt 0x80(%ebx)\n str %ax\n lsl %ax, %ecx\n"
    "pushf\n popf\n mov %cr4, %eax\n mov %eax, %cr4\n mov %cr3, %eax\n mov %eax, %cr3\n"
    "mov $0xc0000080, %ecx\n rdmsr\n wrmsr\n mov %dr6, %eax\n mov %eax, %dr6\n"
    "aaa\n mov $16, %eax\n movl $0, (%ebx)\n movl $32, 4(%ebx)\n bound %eax, (%ebx)\n in $0x7f, %al\n int $0x21\n sti\n nop\n cli\n jmp 1b\n"
    "2: inc %eax\n ret\n");
GUEST_CODE_BLOCK(code16, ".code16",
                 "1: mov $0x2000, %bx\n mov %ds, %ax\n mov %ax, %ds\n push %ax\n pop %cx\n"
                 "mov %bx, %di\n mov $16, %cx\n rep stosw\n lock incw (%bx)\n fld1\n fstpl 8(%bx)\n"
                 "push %es\n pop %es\n push %cs\n call 2f\n mov %cs, %ax\n mov %ax, %fs\n"
                 "pushfl\n popfl\n smsw %ax\n in $0x7f, %al\n int $0x21\n sti\n nop\n cli\n"
                 ".byte 0x67, 0x8b, 0x44, 0x24, 0x10\n jmp 1b\n 2: lret\n");
/* Interrupts return, exceptions stay. */
GUEST_CODE_BLOCK(handler64, ".code64", "iretq\n 1: jmp 1b\n");
GUEST_CODE_BLOCK(handler32, ".code32", "iret\n 1: jmp 1b\n");

enum {
    MODE_REAL,
    MODE_V86,
    MODE_FLAT,
    MODE_16,
    MODE_PAGED,
    MODE_PAE,
    MODE_LONG,
    MODE_USER,
    MODE_COMPAT,
    MODE_COUNT,
};

static struct {
    struct soft_guest guest;
    struct x86_cpuid cpuid;
    struct x86_state base[MODE_COUNT];
    uint64_t random;
    unsigned refused, ran;

    pthread_t thread;
    sem_t started, ended;
    atomic_bool is_running, is_over;
} bed;

static uint64_t draw(void)
{
    bed.random ^= bed.random << 13;
    bed.random ^= bed.random >> 7;
    bed.random ^= bed.random << 17;
    return bed.random * 0x2545f4914f6cdd1dull;
}

static uint64_t below(uint64_t bound)
{
    return (draw() >> 16) % bound;
}

/* Ends each run after a moment, and the whole test where a run does not end. */
static void *kick_runs(void *unused)
{
    for (;;) {
        sem_wait(&bed.started);
        if (atomic_load(&bed.is_over)) {
            return NULL;
        }
        const time_t end = time(NULL) + HUNG_SECONDS;
        while (atomic_load(&bed.is_running)) {
            const struct timespec moment = {.tv_nsec = RUN_NS};
            nanosleep(&moment, NULL);
            soft_engine_ops.vcpu_kick(bed.guest.vcpu[0]);
            if (time(NULL) > end) {
                (void)!write(2, "a vCPU does not stop\n", 21);
                _exit(1);
            }
        }
        sem_post(&bed.ended);
    }
}

static void fill_memory(void)
{
    struct soft_guest *g = &bed.guest;
    guest_put(g, GUEST_CODE + 0x4000, code32, GUEST_CODE_SIZE(code32));
    guest_put(g, GUEST_CODE + 0x5000, code16, GUEST_CODE_SIZE(code16));
    guest_put(g, GUEST_CODE + 0x6000, handler64, GUEST_CODE_SIZE(handler64));
    guest_put(g, GUEST_CODE + 0x6010, handler32, GUEST_CODE_SIZE(handler32));
    guest_put64(g, GUEST_GDT + 0x28, 0x00008b0000000067 | (uint64_t)GUEST_TSS << 16);
    guest_put64(g, GUEST_GDT + 0x30, 0);
    guest_put64(g, GUEST_GDT + 0x38, 0x00cf9b000000ffff);
    guest_put64(g, GUEST_GDT + 0x40, 0x00009b010000ffff);
    guest_put64(g, GUEST_GDT + 0x48, 0);
    for (unsigned i = 0; i < 64; i++) {
        unsigned stays = i < 32;
        uint64_t handler = GUEST_CODE + 0x6010 + stays;
        guest_gate(g, i, GUEST_CODE + 0x6000 + 2 * stays, 0, 3);
        guest_put64(g, IDT_LEGACY + i * 8,
                    (handler & 0xffff) | 0x38ull << 16 | 0xeeull << 40 | (handler >> 16) << 48);
        guest_put64(g, i * 4,
                    handler - GUEST_CODE + ((uint64_t)GUEST_CODE >> 4 << 16)); /* real mode */
    }
    /* 4-MiB pages; and PAE over the page directory of long mode. */
    guest_put64(g, PAGE_DIRECTORY, 0x00400087 | 0x00000087ull);
    for (uint64_t i = 0; i < 4; i++) {
        uint32_t entry = (uint32_t)(i << 22) | 0x87;
        guest_put(g, PAGE_DIRECTORY + i * 4, &entry, sizeof(entry));
    }
    const uint32_t stack[2] = {GUEST_STACK - 0x8000, GUEST_DS};
    const uint16_t port_map = 0x68;
    guest_put(g, TSS_LEGACY + 4, stack, sizeof(stack));
    guest_put(g, TSS_LEGACY + 102, &port_map, sizeof(port_map));
    guest_put64(g, PDPT, (GUEST_PML4 + 0x2000) | 1);
}

static void flat_segments(struct x86_state *s, uint16_t cs, uint16_t code, uint16_t ds,
                          uint16_t data)
{
    for (unsigned i = 0; i < X86_SEGMENT_COUNT; i++) {
        s->segment[i] = (struct x86_segment){.selector = i == X86_CS ? cs : ds,
                                             .limit = data & X86_SEGMENT_G ? UINT32_MAX : 0xfffff,
                                             .attributes = i == X86_CS ? code : data};
    }
}

static void make_states(void)
{
    struct x86_state *base = bed.base;
    guest_long_mode(&bed.guest, 0, code64, GUEST_CODE_SIZE(code64), &base[MODE_LONG]);
    base[MODE_LONG].cr4 |= X86_CR4_OSXSAVE;
    base[MODE_LONG].xcr0 = bed.cpuid.count != 0 ? 7 : 1;
    base[MODE_USER] = base[MODE_LONG];
    flat_segments(&base[MODE_USER], GUEST_CS_USER, 0xa0fb, GUEST_DS_USER, 0xc0f3);
    base[MODE_USER].rflags |= X86_FLAG_IF;
    base[MODE_COMPAT] = base[MODE_LONG];
    base[MODE_COMPAT].rip = GUEST_CODE + 0x4000;
    base[MODE_COMPAT].gdtr.limit = 0x3f;
    flat_segments(&base[MODE_COMPAT], 0x38, 0xc09b, GUEST_DS, 0xc093);
    struct x86_state flat = base[MODE_COMPAT];
    flat.cr0 = X86_CR0_PE | X86_CR0_ET;
    flat.cr4 = X86_CR4_OSFXSR | X86_CR4_PSE;
    flat.efer = 0;
    flat.idtr.base = IDT_LEGACY;
    flat.tr.base = TSS_LEGACY;
    flat.tr.limit = 0xfff;
    flat.gdtr.limit = 0x4f;
    base[MODE_FLAT] = flat;
    base[MODE_PAGED] = flat;
    base[MODE_PAGED].cr0 |= X86_CR0_PG;
    base[MODE_PAGED].cr3 = PAGE_DIRECTORY;
    base[MODE_PAE] = flat;
    base[MODE_PAE].cr0 |= X86_CR0_PG | X86_CR0_WP;
    base[MODE_PAE].cr4 |= X86_CR4_PAE;
    base[MODE_PAE].cr3 = PDPT;
    base[MODE_PAE].pdpte[0] = (GUEST_PML4 + 0x2000) | 1;
    base[MODE_16] = flat;
    base[MODE_16].rip = 0x5000;
    flat_segments(&base[MODE_16], 0x40, 0x9b, GUEST_DS, 0xc093);
    base[MODE_16].segment[X86_CS].base = GUEST_CODE;
    base[MODE_16].segment[X86_CS].limit = 0xffff;
    base[MODE_16].gdtr.limit = 0x4f;
    base[MODE_V86] = flat;
    base[MODE_V86].rflags |= X86_FLAG_VM | X86_FLAG_IOPL;
    base[MODE_REAL] = flat;
    base[MODE_REAL].cr0 = X86_CR0_ET;
    base[MODE_REAL].idtr = (struct x86_table){.limit = 0x3ff};
    for (unsigned i = 0; i < X86_SEGMENT_COUNT; i++) {
        struct x86_segment segment = {
            .selector = 0x1000, .base = 0x10000, .limit = 0xffff, .attributes = 0xf3};
        base[MODE_V86].segment[i] = segment;
        segment.attributes = i == X86_CS ? 0x9b : 0x93;
        base[MODE_REAL].segment[i] = segment;
    }
    base[MODE_V86].rip = base[MODE_REAL].rip = 0x5000;
    base[MODE_V86].gpr[X86_RSP] = base[MODE_REAL].gpr[X86_RSP] = 0xff00;
}

/* Numbers in struct x86_state. */
#define FIELD_OF(member)                                                                           \
    {                                                                                              \
        offsetof(struct x86_state, member), sizeof(((struct x86_state *)0)->member)                \
    }
#define SEGMENT_OF(member)                                                                         \
    FIELD_OF(member.base), FIELD_OF(member.limit), FIELD_OF(member.selector),                      \
        FIELD_OF(member.attributes)
static const struct {
    size_t offset, size;
} fields[] = {
    FIELD_OF(rip),
    FIELD_OF(rflags),
    FIELD_OF(gpr[X86_RSP]),
    FIELD_OF(gpr[X86_RBX]),
    FIELD_OF(gpr[X86_RCX]),
    SEGMENT_OF(segment[X86_ES]),
    SEGMENT_OF(segment[X86_CS]),
    SEGMENT_OF(segment[X86_SS]),
    SEGMENT_OF(segment[X86_DS]),
    SEGMENT_OF(segment[X86_FS]),
    SEGMENT_OF(segment[X86_GS]),
    SEGMENT_OF(ldtr),
    SEGMENT_OF(tr),
    FIELD_OF(gdtr.base),
    FIELD_OF(gdtr.limit),
    FIELD_OF(idtr.base),
    FIELD_OF(idtr.limit),
    FIELD_OF(cr0),
    FIELD_OF(cr2),
    FIELD_OF(cr3),
    FIELD_OF(cr4),
    FIELD_OF(cr8),
    FIELD_OF(xcr0),
    FIELD_OF(efer),
    FIELD_OF(dr[0]),
    FIELD_OF(dr[3]),
    FIELD_OF(dr6),
    FIELD_OF(dr7),
    FIELD_OF(pdpte[0]),
    FIELD_OF(pdpte[3]),
    FIELD_OF(star),
    FIELD_OF(lstar),
    FIELD_OF(cstar),
    FIELD_OF(sfmask),
    FIELD_OF(kernel_gs_base),
    FIELD_OF(sysenter_cs),
    FIELD_OF(sysenter_esp),
    FIELD_OF(sysenter_eip),
    FIELD_OF(pat),
    FIELD_OF(tsc),
    FIELD_OF(tsc_aux),
    FIELD_OF(tsc_adjust),
    FIELD_OF(tsc_deadline),
    FIELD_OF(apic_base),
    FIELD_OF(misc_enable),
    FIELD_OF(spec_ctrl),
    FIELD_OF(xss),
    FIELD_OF(mtrr_def_type),
    FIELD_OF(mtrr_fixed[0]),
    FIELD_OF(mtrr_fixed[10]),
    FIELD_OF(mtrr_base[0]),
    FIELD_OF(mtrr_mask[7]),
    FIELD_OF(mcg_status),
    FIELD_OF(mcg_cap),
    FIELD_OF(kvm_system_time),
    FIELD_OF(kvm_wall_clock),
    FIELD_OF(kvm_steal_time),
    FIELD_OF(kvm_async_pf),
    FIELD_OF(kvm_async_pf_int),
    FIELD_OF(kvm_pv_eoi),
    FIELD_OF(kvm_poll_control),
    FIELD_OF(exception_vector),
    FIELD_OF(exception_error),
    FIELD_OF(interrupt_vector),
    FIELD_OF(sipi_vector),
    FIELD_OF(activity),
};

static const size_t flags[] = {
    offsetof(struct x86_state, exception_pending),
    offsetof(struct x86_state, exception_has_error),
    offsetof(struct x86_state, interrupt_injected),
    offsetof(struct x86_state, interrupt_is_soft),
    offsetof(struct x86_state, nmi_pending),
    offsetof(struct x86_state, nmi_injected),
    offsetof(struct x86_state, nmi_masked),
    offsetof(struct x86_state, interrupt_shadow_sti),
    offsetof(struct x86_state, interrupt_shadow_mov_ss),
    offsetof(struct x86_state, sipi_pending),
};

static uint64_t changed(uint64_t value, unsigned bits)
{
    static const uint64_t borders[] = {
        0,           1,          0x7f,       0xff,    0xfff,   0x1000,      0xffff,
        0x7fffffff,  0x80000000, 0xfffff000, BIT(32), BIT(39), BIT(40),     BIT(47),
        BIT(47) - 1, BIT(48),    BIT(52),    BIT(63), ~0ull,   ~0ull << 47, ~0ull << 12,
    };
    switch (below(5)) {
    case 0:
    case 1:
        return value ^ BIT(below(bits));
    case 2:
        return value ^ BIT(below(bits)) ^ BIT(below(bits));
    case 3:
        return borders[below(ARRAY_COUNT(borders))];
    default:
        return value + below(17) - 8;
    }
}

static void mutate(struct x86_state *s)
{
    uint8_t *bytes = (uint8_t *)s;
    uint64_t kind = below(16);
    if (kind == 0) {
        bool *flag = (bool *)(bytes + flags[below(ARRAY_COUNT(flags))]);
        *flag = !*flag;
    } else if (kind == 1) {
        s->xsave[below(2) ? below(X86_XSAVE_SIZE) : below(640)] ^= (uint8_t)BIT(below(8));
    } else if (kind == 2) {
        /* A field as it is in another mode. */
        size_t i = below(ARRAY_COUNT(fields));
        memcpy(bytes + fields[i].offset,
               (const uint8_t *)&bed.base[below(MODE_COUNT)] + fields[i].offset, fields[i].size);
    } else {
        size_t i = below(ARRAY_COUNT(fields));
        uint64_t value = 0;
        memcpy(&value, bytes + fields[i].offset, fields[i].size);
        value = changed(value, (unsigned)fields[i].size * 8);
        memcpy(bytes + fields[i].offset, &value, fields[i].size);
    }
}

/* An engine that runs a state ends with one that it would take. */
static void check_result(unsigned number, const char *when)
{
    static struct x86_state after;
    struct error err = {0};
    assert_int_equal(soft_engine_ops.vcpu_get_state(bed.guest.vcpu[0], &after, &err), 0);
    if (x86_state_check(&after, &bed.cpuid, &err) < 0) {
        fail_msg("state %u %s: %s", number, when, err.text);
    }
}

static enum vcpu_exit run_for_a_moment(void)
{
    atomic_store(&bed.is_running, true);
    sem_post(&bed.started);
    enum vcpu_exit exit = soft_engine_ops.vcpu_run(bed.guest.vcpu[0]);
    atomic_store(&bed.is_running, false);
    sem_wait(&bed.ended);
    /* A kick may have come too late: take it. */
    soft_engine_ops.vcpu_kick(bed.guest.vcpu[0]);
    assert_int_equal(soft_engine_ops.vcpu_run(bed.guest.vcpu[0]), VCPU_EXIT_KICKED);
    return exit;
}

static void run_one(unsigned number)
{
    static struct x86_state state;
    struct error err = {0};
    state = bed.base[below(MODE_COUNT)];
    for (uint64_t count = 1 + below(3); count > 0; count--) {
        mutate(&state);
    }
    if (soft_engine_ops.vcpu_set_state(bed.guest.vcpu[0], &state, &err) < 0) {
        bed.refused++;
        if (strncmp(err.text, "state of a vCPU: ", 17) != 0) {
            fail_msg("state %u is refused without a name: %s", number, err.text);
        }
        return;
    }
    bed.ran++;
    check_result(number, "before it ran");
    (void)run_for_a_moment();
    check_result(number, "after it ran");
}

static unsigned state_count = 3000;
static uint64_t seed = 1;

static void start(const char *options)
{
    struct error err = {0};
    bed.random = seed * 0x9e3779b97f4a7c15ull | 1;
    bed.refused = bed.ran = 0;
    atomic_store(&bed.is_over, false);
    guest_start_with(&bed.guest, 1, options);
    assert_int_equal(soft_engine_ops.supported_cpuid(&bed.cpuid, &err), 0);
    make_states();
    assert_int_equal(sem_init(&bed.started, 0, 0), 0);
    assert_int_equal(sem_init(&bed.ended, 0, 0), 0);
    assert_int_equal(pthread_create(&bed.thread, NULL, kick_runs, NULL), 0);
}

static void end(void)
{
    atomic_store(&bed.is_over, true);
    sem_post(&bed.started);
    pthread_join(bed.thread, NULL);
    guest_end(&bed.guest);
}

static void run_states(const char *options)
{
    start(options);
    for (unsigned i = 0; i < state_count; i++) {
        if (i % 16 == 0) { /* what ran has written here and there */
            make_states();
            fill_memory();
        }
        run_one(i);
    }
    end();
    print_message("%u states: %u refused, %u run\n", state_count, bed.refused, bed.ran);
    assert_true(bed.refused > state_count / 10);
    assert_true(bed.ran > state_count / 10);
}

/* Without a change they are taken, and go around for as long as they may. */
static void bases_run(void **unused)
{
    struct error err = {0};
    start(NULL);
    for (unsigned i = 0; i < MODE_COUNT; i++) {
        static struct x86_state after;
        make_states();
        fill_memory();
        if (soft_engine_ops.vcpu_set_state(bed.guest.vcpu[0], &bed.base[i], &err) < 0) {
            fail_msg("mode %u: %s", i, err.text);
        }
        enum vcpu_exit exit = run_for_a_moment();
        for (unsigned n = 0; n < 50 && exit == VCPU_EXIT_KICKED; n++) {
            exit = run_for_a_moment();
        }
        assert_int_equal(soft_engine_ops.vcpu_get_state(bed.guest.vcpu[0], &after, &err), 0);
        bool has_faulted = (after.rip & 0xff00) == 0x6000 && (after.rip & 0xf) != 0;
        if (has_faulted != (i == MODE_USER)) { /* that has come to a privileged instruction */
            const uint64_t sp = after.segment[X86_SS].base + after.gpr[X86_RSP];
            fail_msg("mode %u: its last exception left 0x%llx 0x%llx on the stack", i,
                     (unsigned long long)guest_get64(&bed.guest, sp),
                     (unsigned long long)guest_get64(&bed.guest, sp + 8));
        }
        if (exit != VCPU_EXIT_KICKED) {
            soft_engine_ops.vcpu_error(bed.guest.vcpu[0], &err);
            fail_msg("mode %u: %s", i, err.text);
        }
    }
    end();
}

static void translator(void **unused)
{
    run_states("translate=on");
}

static void interpreter(void **unused)
{
    run_states("translate=off");
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bases_run),
        cmocka_unit_test(interpreter),
        cmocka_unit_test(translator),
    };
    if (argc > 1) {
        state_count = (unsigned)strtoul(argv[1], NULL, 0);
    }
    if (argc > 2) {
        seed = strtoull(argv[2], NULL, 0);
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
