/* Rubbish, or code of this program with some of it changed, as guest code: the translator makes blocks of it in all modes,
 * each of which the verifier must take. Then a short run at CPL 3 under the translator and under the interpreter, which
 * must come to the same end. */
#include <link.h>
#include <sanitizer/lsan_interface.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../differential/guest.h"
#include "engine/soft/soft.h"
#include "engine/soft/translate/verify.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define HEADER 8

static struct {
    struct guest_memory *memory;
    struct vm *vm;
    struct vcpu *vcpu;
    struct native_verifier *verifier;
    struct guest *translator, *windows, *interpreter;
    const uint8_t *text;
    size_t text_size;
} bed;

static void require(bool good, const struct error *err)
{
    if (!good) {
        fprintf(stderr, "fuzz_translate: %s\n", err->text);
        abort();
    }
}

static int find_text(struct dl_phdr_info *info, size_t size, void *ctx)
{
    for (size_t i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *header = &info->dlpi_phdr[i];
        if (header->p_type == PT_LOAD && header->p_flags & PF_X && header->p_flags & PF_R &&
            header->p_filesz > bed.text_size) {
            bed.text = (const uint8_t *)(info->dlpi_addr + header->p_vaddr);
            bed.text_size = header->p_filesz;
        }
    }
    return 0;
}

/* vCPUs are in memory of their own, which the leak check does not look at unless it is told. */
static void show_to_leak_check(struct vcpu *vcpu)
{
    __lsan_register_root_region(soft_from_vcpu(vcpu), sizeof(struct soft_vcpu));
}

static void set_up(void)
{
    static uint8_t constants[CASE_CONST_SIZE];
    struct error err = {0};
    struct x86_cpuid cpuid;
    struct vm_config config = {.vcpu_count = 1};
    require(guest_memory_create(&config.memory, &err) == 0, &err);
    require(guest_memory_add(config.memory, 0, 1u << 20, false, false, &err) == 0, &err);
    require(soft_engine_ops.supported_cpuid(&cpuid, &err) == 0, &err);
    require(soft_engine_ops.vm_create(&config, &bed.vm, &err) == 0, &err);
    require(soft_engine_ops.vcpu_create(bed.vm, 0, &cpuid, &bed.vcpu, &err) == 0, &err);
    bed.verifier = native_verifier_create(65536);
    require(bed.verifier, &err);
    require(guest_create(&soft_engine_ops, "flags=exact,verify=on", constants, &bed.translator,
                         &err) == 0,
            &err);
    require(guest_create(&soft_engine_ops, "flags=exact,verify=on,windows=always", constants,
                         &bed.windows, &err) == 0,
            &err);
    require(guest_create(&soft_engine_ops, "translate=off", constants, &bed.interpreter, &err) == 0,
            &err);
    show_to_leak_check(bed.vcpu);
    show_to_leak_check(guest_vcpu(bed.translator));
    show_to_leak_check(guest_vcpu(bed.windows));
    show_to_leak_check(guest_vcpu(bed.interpreter));
    dl_iterate_phdr(find_text, NULL);
}

static void translate_all(uint32_t offset, const uint8_t *page)
{
    static const uint32_t vectors[] = {0, NATIVE_MODE_SSE, NATIVE_MODE_SSE | NATIVE_MODE_AVX};
    static const uint32_t memory[] = {SOFT_TLB_SUPERVISOR, SOFT_TLB_USER, SOFT_TLB_SUPERVISOR_AC,
                                      SOFT_TLB_USER | NATIVE_MODE_WINDOWS};
    struct soft_vcpu *v = soft_from_vcpu(bed.vcpu);
    for (uint32_t i = 0; i < ARRAY_COUNT(memory) * ARRAY_COUNT(vectors); i++) {
        uint32_t mode = memory[i / ARRAY_COUNT(vectors)] | vectors[i % ARRAY_COUNT(vectors)];
        if (mode & NATIVE_MODE_WINDOWS && !v->windows) {
            continue;
        }
        uint64_t rip =
            ((mode & NATIVE_MODE_TLB) != SOFT_TLB_USER ? 0xffffffff81234000 : 0x401000) + offset;
        struct error err;
        v->native->used = v->native->fixed;
        v->native->meta_used = 0;
        native_window_sites_empty(v->native);
        const struct native_block *block = native_translate(v, rip, 0x5000 + offset, mode, page);
        if (block && native_verify(bed.verifier, v, block, &err) < 0) {
            require(false, &err);
        }
    }
}

/* Can the two runs be compared: does nothing read flags that are undefined, nor what differs each time? */
static bool is_comparable(const struct case_input *in, uint32_t *out_undefined)
{
    uint32_t offset = 0, undefined = 0, read = 0;
    uint8_t is_start[CASE_MAX_CODE + 1] = {0};
    struct x86_insn insn;
    uint32_t end = in->code_bytes;
    while (offset < end &&
           x86_decode(in->code + offset, end - offset, X86_CODE_64, &insn) == X86_DECODE_OK) {
        const struct x86_row *row = &x86_rows[insn.row];
        is_start[offset] = 1;
        if (row->attributes & X86_ROW_SYSTEM) {
            return false;
        }
        if (insn.id == X86_ID_RDRAND || insn.id == X86_ID_RDSEED) {
            return false;
        }
        /* Shifts by zero read all that they may write. */
        undefined |= row->flags_undefined & X86_FLAGS_STATUS;
        read |= row->flags_read & X86_FLAGS_STATUS;
        offset += insn.length;
    }
    uint32_t last = offset;
    is_start[last] = 1;
    for (offset = 0; offset < last; offset += insn.length) {
        (void)x86_decode(in->code + offset, end - offset, X86_CODE_64, &insn);
        if (!(x86_rows[insn.row].attributes & X86_ROW_BRANCH)) {
            continue;
        }
        /* Only branches to the beginning of an instruction, and none that may loop for long. */
        uint64_t target = offset + insn.length + insn.imm;
        if (insn.operand_count == 0 || insn.operand[0].kind != X86_OPERAND_REL ||
            target <= offset || target > last || !is_start[target]) {
            return false;
        }
    }
    *out_undefined = undefined;
    return !(undefined & read);
}

static bool differs(const struct case_output *a, const struct case_output *b, uint32_t undefined)
{
    return memcmp(a->state.gpr, b->state.gpr, sizeof(a->state.gpr)) != 0 ||
           a->state.rip != b->state.rip || ((a->state.rflags ^ b->state.rflags) & ~undefined) ||
           memcmp(a->state.xsave, b->state.xsave, CASE_XSAVE_SIZE) != 0 || a->vector != b->vector ||
           a->error != b->error || a->cr2 != b->cr2 ||
           memcmp(a->data, b->data, sizeof(a->data)) != 0;
}

static void fill(uint64_t seed, void *out, size_t size)
{
    uint8_t *bytes = out;
    for (size_t i = 0; i < size; i++) {
        seed = seed * 6364136223846793005ull + 1442695040888963407ull;
        bytes[i] = (uint8_t)(seed >> 56);
    }
}

static void run_all(uint64_t seed, uint32_t offset, const uint8_t *page)
{
    static uint8_t data[CASE_DATA_SIZE];
    static struct case_input in;
    static struct case_output outputs[3];
    struct error err = {0};
    uint32_t undefined;
    memset(&in, 0, sizeof(in));
    in.code_size = X86_CODE_64;
    in.cs = CASE_SELECTOR_CODE64;
    in.ss = in.ds = in.es = CASE_SELECTOR_DATA;
    in.code_offset = (uint16_t)offset;
    in.code_bytes = (uint16_t)MIN(CASE_CODE_SIZE - offset, CASE_MAX_CODE);
    memcpy(in.code, page + offset, in.code_bytes);
    in.code[in.code_bytes - 1] = 0xf4;
    if (!is_comparable(&in, &undefined)) {
        return;
    }
    for (int i = 0; i < 16; i++) {
        uint64_t random;
        fill(seed + (uint64_t)i, &random, sizeof(random));
        /* Mostly addresses, some near the end of a page. */
        in.state.gpr[i] = random >> 62 ? CASE_DATA_BASE + (random & 0x1fff) : random;
    }
    in.state.gpr[X86_RSP] = CASE_DATA_BASE + 0x1800;
    in.state.rip = CASE_CODE_BASE + offset;
    in.state.rflags = 0x202;
    fill(seed, data, sizeof(data));
    in.state.xsave[0] = 0x7f;
    in.state.xsave[1] = 0x03;
    in.state.xsave[25] = 0x1f;
    in.state.xsave[24] = 0x80;
    fill(seed + 99, in.state.xsave + 160, 256);
    in.state.xsave[512] = 7;
    struct guest *guests[] = {bed.translator, bed.windows, bed.interpreter};
    const char *names[] = {"translator", "with windows", "interpreter"};
    for (int i = 0; i < 3; i++) {
        require(guest_run(guests[i], &in, data, &outputs[i], &err) == 0, &err);
        if (outputs[i].vector == CASE_VECTOR_TIMEOUT) {
            return;
        }
    }
    if (differs(&outputs[0], &outputs[2], undefined) ||
        differs(&outputs[1], &outputs[2], undefined)) {
        for (int i = 0; i < 3; i++) {
            const struct case_output *o = &outputs[i];
            fprintf(stderr, "%s: rip %llx rflags %llx vector %u error %x cr2 %llx\n", names[i],
                    (unsigned long long)o->state.rip, (unsigned long long)o->state.rflags,
                    o->vector, o->error, (unsigned long long)o->cr2);
            for (int k = 0; k < 16; k++) {
                fprintf(stderr, " %llx", (unsigned long long)o->state.gpr[k]);
            }
            fprintf(stderr, "\n");
        }
        abort();
    }
}

/* First the header: where in the page, which code lies below, the registers; then pairs of changes or the code itself. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t page[CASE_CODE_SIZE];
    if (!bed.vm) {
        set_up();
    }
    if (size < HEADER) {
        return 0;
    }
    uint64_t seed;
    memcpy(&seed, data, sizeof(seed));
    uint32_t offset = (uint32_t)(seed & 0xfff);
    const uint8_t *rest = data + HEADER;
    size_t left = size - HEADER;
    if (seed >> 12 & 1) {
        /* Real code, with bytes exchanged: pairs of place and value. */
        size_t start = (size_t)(seed >> 16 & 0xffffffff) % (bed.text_size - sizeof(page));
        memcpy(page, bed.text + start, sizeof(page));
        for (size_t i = 0; i + 1 < left; i += 2) {
            page[(offset + rest[i]) % sizeof(page)] = rest[i + 1];
        }
    } else {
        memset(page, 0xf4, sizeof(page));
        memcpy(page + offset, rest, MIN(left, sizeof(page) - offset));
    }
    translate_all(offset, page);
    run_all(seed, offset, page);
    return 0;
}
