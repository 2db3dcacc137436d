/* Covers cpu/x86/state_check.c and state_check_msr.c: states that CPUs come to are taken, each impossible value is refused by
 * the name of its field. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/core/bits.h"
#include "base/core/endian.h"
#include "cpu/x86/state_check.h"

/* A CPU of Intel's with 40 physical bits, and what Linux uses of it. */
static const struct x86_cpuid intel = {
    .entry =
        {
            {.leaf = 0, .eax = 0xd, .ebx = 0x756e6547, .ecx = 0x6c65746e, .edx = 0x49656e69},
            {.leaf = 1, .ecx = BIT(17) | BIT(21) | BIT(26) | BIT(28), .edx = 0x078bfbff},
            {.leaf = 7, .has_subleaf = true, .ebx = BIT(0) | BIT(7) | BIT(20), .ecx = BIT(2)},
            {.leaf = 0xb, .has_subleaf = true, .edx = 3},
            {.leaf = 0xd, .has_subleaf = true, .eax = 7, .ebx = 832, .ecx = 832},
            {.leaf = 0x80000001u, .edx = BIT(11) | BIT(20) | BIT(27) | BIT(29)},
            {.leaf = 0x80000008u, .eax = 48 << 8 | 40},
        },
    .count = 7,
};

static struct x86_cpuid amd;
static struct x86_state real, flat, pae, compat, wide, v86;

static void set_segments(struct x86_state *s, uint16_t code, uint16_t data)
{
    for (unsigned i = 0; i < X86_SEGMENT_COUNT; i++) {
        s->segment[i] = (struct x86_segment){.selector = i == X86_CS ? 8 : 16,
                                             .limit = UINT32_MAX,
                                             .attributes = i == X86_CS ? code : data};
    }
}

static int setup(void **unused)
{
    amd = intel;
    amd.entry[0].ebx = 0x68747541u;
    amd.entry[5].edx |= BIT(25);
    x86_state_reset(&real, true, false);
    flat = real;
    flat.cr0 = X86_CR0_PE | X86_CR0_ET | X86_CR0_NE;
    set_segments(&flat, 0xc09b, 0xc093);
    pae = flat;
    pae.cr0 |= X86_CR0_PG;
    pae.cr4 = X86_CR4_PAE;
    pae.cr3 = 0x1000;
    pae.pdpte[0] = 0x2001;
    wide = flat;
    wide.cr0 |= X86_CR0_PG;
    wide.cr3 = 0x1000;
    wide.cr4 = X86_CR4_PAE | X86_CR4_PCIDE | X86_CR4_OSXSAVE;
    wide.efer = X86_EFER_LME | X86_EFER_LMA | X86_EFER_SCE | X86_EFER_NXE;
    wide.rip = 0xffffffff81000000;
    wide.lstar = 0xffffffff81000000;
    wide.xcr0 = 7;
    set_segments(&wide, 0xa09b, 0xc093);
    wide.segment[X86_GS].base = 0xffff888000000000;
    compat = wide;
    compat.rip = 0x400000;
    set_segments(&compat, 0xc0fb, 0xc0f3);
    v86 = flat;
    v86.rflags |= X86_FLAG_VM;
    for (unsigned i = 0; i < X86_SEGMENT_COUNT; i++) {
        v86.segment[i] = (struct x86_segment){
            .base = 0x12340, .limit = 0xffff, .selector = 0x1234, .attributes = 0xf3};
    }
    return 0;
}

static void check_takes(const struct x86_state *s, const struct x86_cpuid *cpuid)
{
    struct error err = {0};
    if (x86_state_check(s, cpuid, &err) < 0) {
        fail_msg("%s", err.text);
    }
}

static void check_refuses(const struct x86_state *s, const struct x86_cpuid *cpuid,
                          const char *field, int line)
{
    char wanted[64];
    struct error err = {0};
    (void)snprintf(wanted, sizeof(wanted), "state of a vCPU: %s is 0x", field);
    int rc = x86_state_check(s, cpuid, &err);
    if (rc != -EINVAL || strncmp(err.text, wanted, strlen(wanted)) != 0 ||
        strstr(err.text, ", expected ") == NULL) {
        fail_msg("line %d: %s: %d %s", line, field, rc, err.text);
    }
}

/* 'change' makes a state of 'from' impossible: the text names 'field'. */
#define REFUSES(from, field, change)                                                               \
    do {                                                                                           \
        struct x86_state s = from;                                                                 \
        change;                                                                                    \
        check_refuses(&s, &intel, field, __LINE__);                                                \
    } while (0)
#define TAKES(from, change)                                                                        \
    do {                                                                                           \
        struct x86_state s = from;                                                                 \
        change;                                                                                    \
        check_takes(&s, &intel);                                                                   \
    } while (0)

static void modes_pass(void **unused)
{
    const struct x86_state *const states[] = {&real, &flat, &pae, &wide, &compat, &v86};
    for (size_t i = 0; i < ARRAY_COUNT(states); i++) {
        check_takes(states[i], &intel);
        check_takes(states[i], &amd);
    }
    struct x86_state application;
    x86_state_reset(&application, false, false);
    check_takes(&application, &intel);
    x86_state_reset(&application, false, true);
    check_takes(&application, &intel);
}

static void control_registers(void **unused)
{
    REFUSES(flat, "cr0", s.cr0 |= 1u << 7);
    REFUSES(flat, "cr0", s.cr0 |= 1ull << 32);
    REFUSES(flat, "cr0", s.cr0 &= ~(uint64_t)X86_CR0_ET);
    REFUSES(flat, "cr0", s.cr0 |= X86_CR0_NW);
    REFUSES(real, "cr0", s.cr0 |= X86_CR0_PG);
    REFUSES(wide, "cr4", s.cr4 |= X86_CR4_LA57);
    REFUSES(wide, "cr4", s.cr4 |= BIT(23)); /* CET */
    REFUSES(wide, "cr4", s.cr4 |= BIT(63));
    REFUSES(wide, "cr4", s.cr4 &= ~(uint64_t)X86_CR4_PAE);
    REFUSES(flat, "cr4", s.cr4 |= X86_CR4_PCIDE);
    TAKES(flat, s.cr4 |= 0x7ff);
    REFUSES(wide, "efer", s.efer &= ~(uint64_t)X86_EFER_LMA);
    REFUSES(wide, "efer", s.efer &= ~(uint64_t)X86_EFER_LME);
    REFUSES(flat, "efer", s.efer |= X86_EFER_LMA);
    REFUSES(flat, "efer", s.efer |= X86_EFER_FFXSR);
    REFUSES(flat, "efer", s.efer |= X86_EFER_AIBRSE);
    REFUSES(flat, "efer", s.efer |= X86_EFER_SVME);
    TAKES(flat, s.efer |= X86_EFER_LME);
    REFUSES(wide, "cr3", s.cr3 |= BIT(40));
    REFUSES(flat, "cr3", s.cr3 |= BIT(63));
    TAKES(wide, s.cr3 |= BIT(39) | 0xfff);
    REFUSES(real, "cr8", s.cr8 = 16);
    REFUSES(pae, "pdpte[0]", s.pdpte[0] |= 2);
    REFUSES(pae, "pdpte[3]", s.pdpte[3] = 1 | BIT(45));
    TAKES(pae, s.pdpte[2] = ~1ull);
    TAKES(flat, s.pdpte[2] = ~0ull);
    REFUSES(flat, "dr6", s.dr6 = 0);
    REFUSES(flat, "dr6", s.dr6 |= BIT(12));
    REFUSES(flat, "dr6", s.dr6 |= BIT(32));
    TAKES(flat, s.dr6 |= 0xe00f);
    REFUSES(flat, "dr7", s.dr7 = 0);
    REFUSES(flat, "dr7", s.dr7 |= BIT(14));
    REFUSES(flat, "dr7", s.dr7 |= BIT(32));
    TAKES(flat, s.dr7 = 0xffff2fff);
    struct x86_state s = flat;
    s.efer |= X86_EFER_FFXSR;
    check_takes(&s, &amd);
}

static void extended_state(void **unused)
{
    REFUSES(wide, "xcr0", s.xcr0 = 0);
    REFUSES(wide, "xcr0", s.xcr0 = 5);
    REFUSES(wide, "xcr0", s.xcr0 = 0xe7);
    TAKES(wide, s.xcr0 = 1);
    REFUSES(wide, "the xsave area's xstate_bv", s.xsave[512] = 8);
    TAKES(wide, s.xsave[512] = 7; s.xsave[513] = 2);
    REFUSES(wide, "the xsave area's xcomp_bv", s.xsave[527] = 0x80);
    REFUSES(wide, "a reserved word of the xsave header", s.xsave[575] = 1);
    REFUSES(wide, "mxcsr", s.xsave[26] = 1);
    REFUSES(wide, "mxcsr", s.xsave[26] = 2);
    struct x86_state s = wide;
    s.xsave[26] = 2;
    check_takes(&s, &amd);
}

static void flow(void **unused)
{
    REFUSES(flat, "rflags", s.rflags = 0);
    REFUSES(flat, "rflags", s.rflags |= 8);
    REFUSES(flat, "rflags", s.rflags |= BIT(22));
    REFUSES(compat, "rflags", s.rflags |= X86_FLAG_VM);
    REFUSES(real, "rflags", s.rflags |= X86_FLAG_VM);
    REFUSES(flat, "rip", s.rip = BIT(32));
    REFUSES(compat, "rip", s.rip = BIT(32));
    REFUSES(wide, "rip", s.rip = BIT(50));
    TAKES(wide, s.rip = BIT(47)); /* behind the end of the lower half */
    struct x86_state s = wide;
    s.rip = BIT(50);
    check_takes(&s, &amd);
}

static void segments(void **unused)
{
    REFUSES(flat, "cs's attributes", s.segment[X86_CS].attributes |= X86_SEGMENT_UNUSABLE);
    REFUSES(flat, "cs's attributes", s.segment[X86_CS].attributes ^= X86_SEGMENT_P);
    REFUSES(flat, "cs's attributes", s.segment[X86_CS].attributes ^= X86_SEGMENT_S);
    REFUSES(flat, "cs's attributes", s.segment[X86_CS].attributes |= 0x60);
    REFUSES(flat, "cs's attributes", s.segment[X86_CS].attributes = 0xc091);
    REFUSES(compat, "cs's attributes", s.segment[X86_CS].attributes = 0xc0f3);
    REFUSES(compat, "cs's attributes", s.segment[X86_CS].attributes &= ~X86_SEGMENT_DPL);
    REFUSES(wide, "cs's attributes", s.segment[X86_CS].attributes |= X86_SEGMENT_DB);
    TAKES(compat, s.segment[X86_CS].attributes = 0xc09f); /* conforming */
    REFUSES(flat, "cs's limit", s.segment[X86_CS].limit = 0x123456);
    REFUSES(flat, "ds's limit", s.segment[X86_DS].limit = 0x123456);
    REFUSES(flat, "ds's limit", s.segment[X86_DS].attributes &= 0x7fff);
    REFUSES(flat, "es's attributes", s.segment[X86_ES].attributes |= 0x200);
    REFUSES(flat, "es's attributes", s.segment[X86_ES].attributes = 0xc082);
    REFUSES(flat, "es's attributes", s.segment[X86_ES].attributes = 0xc099);
    TAKES(flat, s.segment[X86_ES].attributes = 0xc0fb);
    REFUSES(flat, "ss's attributes", s.segment[X86_SS].attributes = 0xc09b);
    REFUSES(flat, "ss's attributes", s.segment[X86_SS].attributes = 0xc091);
    TAKES(flat, s.segment[X86_SS].attributes = 0xffff & ~X86_SEGMENT_DPL);
    REFUSES(real, "cs's attributes", s.segment[X86_SS].attributes |= 0x20);
    REFUSES(real, "ss's attributes", s.segment[X86_SS].attributes |= 0x20;
            s.segment[X86_CS].attributes |= 0x20);
    TAKES(real, s.segment[X86_CS].attributes = 0x93);
    REFUSES(flat, "ss's base", s.segment[X86_SS].base = BIT(32));
    REFUSES(wide, "fs's base", s.segment[X86_FS].base = BIT(47));
    REFUSES(v86, "gs's base", s.segment[X86_GS].base = 0);
    REFUSES(v86, "ds's limit", s.segment[X86_DS].limit = 0xfffff);
    REFUSES(v86, "es's attributes", s.segment[X86_ES].attributes = 0x93);
    REFUSES(v86, "ss's attributes", s.segment[X86_SS].attributes |= X86_SEGMENT_DB);
    REFUSES(v86, "cs's attributes", s.segment[X86_CS].attributes |= X86_SEGMENT_UNUSABLE);
}

static void tables(void **unused)
{
    REFUSES(flat, "tr's attributes", s.tr.attributes = 0x89);
    REFUSES(flat, "tr's attributes", s.tr.attributes |= X86_SEGMENT_UNUSABLE);
    REFUSES(wide, "tr's attributes", s.tr.attributes = 0x83);
    REFUSES(flat, "tr's attributes", s.tr.attributes = 0x0b);
    TAKES(flat, s.tr.attributes = 0x83);
    REFUSES(flat, "tr's selector", s.tr.selector = 0x2c);
    REFUSES(flat, "tr's limit", s.tr.attributes |= X86_SEGMENT_G; s.tr.limit = 0x67);
    REFUSES(wide, "tr's base", s.tr.base = BIT(60));
    REFUSES(flat, "ldtr's attributes", s.ldtr.attributes = 0x92);
    REFUSES(flat, "ldtr's selector", s.ldtr.selector = 4);
    REFUSES(wide, "ldtr's base", s.ldtr.base = BIT(60));
    TAKES(flat, s.ldtr.attributes = X86_SEGMENT_UNUSABLE; s.ldtr.base = BIT(60));
    REFUSES(wide, "gdtr's base", s.gdtr.base = BIT(60));
    REFUSES(wide, "idtr's base", s.idtr.base = BIT(60));
}

static void msrs(void **unused)
{
    REFUSES(wide, "lstar", s.lstar = BIT(47));
    REFUSES(wide, "cstar", s.cstar = BIT(63));
    REFUSES(wide, "kernel_gs_base", s.kernel_gs_base = BIT(48));
    REFUSES(wide, "sysenter_esp", s.sysenter_esp = BIT(48));
    REFUSES(wide, "sysenter_eip", s.sysenter_eip = BIT(48));
    REFUSES(wide, "sysenter_cs", s.sysenter_cs = BIT(32));
    REFUSES(wide, "sfmask", s.sfmask = BIT(32));
    REFUSES(wide, "tsc_aux", s.tsc_aux = BIT(32));
    REFUSES(wide, "apic_base", s.apic_base |= BIT(40));
    REFUSES(wide, "apic_base", s.apic_base |= BIT(9));
    REFUSES(wide, "apic_base", s.apic_base = X86_APIC_BASE_X2APIC);
    REFUSES(wide, "spec_ctrl", s.spec_ctrl = 1);
    REFUSES(wide, "xss", s.xss = 0x100);
    REFUSES(wide, "pat", s.pat = 2);
    REFUSES(wide, "pat", s.pat = BIT(63));
    REFUSES(wide, "mtrr_def_type", s.mtrr_def_type = 7);
    REFUSES(wide, "mtrr_def_type", s.mtrr_def_type = BIT(12));
    TAKES(wide, s.mtrr_def_type = 0xc06);
    REFUSES(wide, "mtrr_fixed[10]", s.mtrr_fixed[10] = 0x0200);
    REFUSES(wide, "mtrr_base[7]", s.mtrr_base[7] = 3);
    REFUSES(wide, "mtrr_base[0]", s.mtrr_base[0] = BIT(40));
    REFUSES(wide, "mtrr_mask[2]", s.mtrr_mask[2] = 0x400);
    TAKES(wide, s.mtrr_mask[2] = BITS(39, 11));
    REFUSES(wide, "mcg_cap", s.mcg_cap = 33);
    REFUSES(wide, "mcg_cap", s.mcg_cap = BIT(60));
    REFUSES(wide, "kvm_steal_time", s.kvm_steal_time = 2);
    REFUSES(wide, "kvm_async_pf", s.kvm_async_pf = 0x10);
    REFUSES(wide, "kvm_async_pf_int", s.kvm_async_pf_int = 0x100);
    REFUSES(wide, "kvm_pv_eoi", s.kvm_pv_eoi = 2);
    REFUSES(wide, "kvm_poll_control", s.kvm_poll_control = 2);
}

static void events(void **unused)
{
    REFUSES(flat, "activity", s.activity = (enum x86_activity)5);
    REFUSES(compat, "activity", s.activity = X86_ACTIVITY_HALTED);
    TAKES(flat, s.activity = X86_ACTIVITY_HALTED);
    REFUSES(flat, "exception_vector", s.exception_pending = true; s.exception_vector = 2);
    REFUSES(flat, "exception_vector", s.exception_pending = true; s.exception_vector = 32);
    REFUSES(flat, "exception_has_error", s.exception_pending = true; s.exception_vector = X86_PF);
    REFUSES(flat, "exception_has_error", s.exception_pending = true; s.exception_vector = X86_UD;
            s.exception_has_error = true);
    REFUSES(flat, "exception_error", s.exception_pending = true; s.exception_vector = X86_GP;
            s.exception_has_error = true; s.exception_error = 0x10000);
    TAKES(flat, s.exception_pending = true; s.exception_vector = X86_GP;
          s.exception_has_error = true; s.exception_error = 0xfff8);
    TAKES(real, s.exception_pending = true; s.exception_vector = X86_GP);
    TAKES(flat, s.interrupt_shadow_sti = s.interrupt_shadow_mov_ss = true); /* SVM has one bit */
}

static void put_lapic(struct x86_state *s, unsigned offset, uint32_t value)
{
    le32_put(s->lapic + 0x30, 0x50014);
    le32_put(s->lapic + offset, value);
}

static void lapic(void **unused)
{
    static const struct {
        unsigned offset;
        const char *name;
        uint32_t wrong;
    } registers[] = {
        {0x80, "the lapic's tpr", 0x100},
        {0xf0, "the lapic's svr", 0x2000},
        {0x320, "the lapic's lvt timer", 0x100},
        {0x330, "the lapic's lvt thermal", 0x20000},
        {0x340, "the lapic's lvt performance", 0x2000},
        {0x350, "the lapic's lvt lint0", 0x800},
        {0x360, "the lapic's lvt lint1", 0x20000},
        {0x370, "the lapic's lvt error", 0x700},
        {0x3e0, "the lapic's divide configuration", 4},
        {0x20, "the lapic's id", 1},
        {0xd0, "the lapic's ldr", 1},
    };
    for (size_t i = 0; i < ARRAY_COUNT(registers); i++) {
        REFUSES(flat, registers[i].name, put_lapic(&s, registers[i].offset, registers[i].wrong));
    }
    TAKES(flat, put_lapic(&s, 0x20, 0x11000000));
    REFUSES(flat, "the lapic's id", put_lapic(&s, 0x20, 2); s.apic_base |= X86_APIC_BASE_X2APIC);
    TAKES(flat, put_lapic(&s, 0x20, 3); s.apic_base |= X86_APIC_BASE_X2APIC);
}

/* What a table lacks, its vCPU cannot have. */
static void older_models(void **unused)
{
    static struct x86_cpuid old;
    old = intel;
    old.entry[1].ecx = 0;
    old.entry[2] = (struct x86_cpuid_entry){.leaf = 7, .has_subleaf = true};
    old.entry[4] = (struct x86_cpuid_entry){.leaf = 0xd, .has_subleaf = true};
    old.entry[5] = (struct x86_cpuid_entry){.leaf = 0x80000001u};
    check_takes(&real, &old);
    check_takes(&pae, &old);
    check_refuses(&wide, &old, "cr4", __LINE__);
    struct x86_state s = flat;
    s.efer = X86_EFER_NXE;
    check_refuses(&s, &old, "efer", __LINE__);
    s = flat;
    s.xcr0 = 7;
    check_refuses(&s, &old, "xcr0", __LINE__);
    s = flat;
    s.tsc_aux = 1;
    check_refuses(&s, &old, "tsc_aux", __LINE__);
    s = flat;
    s.apic_base |= X86_APIC_BASE_X2APIC;
    check_refuses(&s, &old, "apic_base", __LINE__);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(modes_pass),     cmocka_unit_test(control_registers),
        cmocka_unit_test(extended_state), cmocka_unit_test(flow),
        cmocka_unit_test(segments),       cmocka_unit_test(tables),
        cmocka_unit_test(msrs),           cmocka_unit_test(events),
        cmocka_unit_test(lapic),          cmocka_unit_test(older_models),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
