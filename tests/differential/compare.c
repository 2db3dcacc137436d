/* What must be equal, and how it is shown when it is not. */
#include "compare.h"

#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

#include "aim.h"
#include "base/core/compiler.h"
#include "base/core/endian.h"
#include "cpu/x86/decode.h"
#include "cpu/x86/paging.h"
#include "cpu/x86/state.h"

/* Processes of Linux end here. */
#define NATIVE_END 0x7ffffffff000

/* AMD's bit for SSE operands without alignment. */
#define MXCSR_MISALIGNED (1u << 17)

/* MXCSR's bits for exceptions that have been met. */
#define MXCSR_FLAGS 0x3fu

struct comparison {
    FILE *file;
    bool differs;
};

static void printf_like(2, 3) differ(struct comparison *c, const char *format, ...)
{
    c->differs = true;
    if (c->file == NULL) {
        return;
    }
    va_list args;
    va_start(args, format);
    fputs("  ", c->file);
    vfprintf(c->file, format, args);
    fputc('\n', c->file);
    va_end(args);
}

static void check_value(struct comparison *c, const char *name, uint64_t native, uint64_t guest)
{
    if (native != guest) {
        differ(c, "%-8s native %016" PRIx64 "  guest %016" PRIx64, name, native, guest);
    }
}

static void check_bytes(struct comparison *c, const char *name, int number, const uint8_t *native,
                        const uint8_t *guest, size_t size)
{
    if (memcmp(native, guest, size) == 0) {
        return;
    }
    char text[2][2 * 32 + 1];
    for (size_t i = 0; i < size; i++) {
        snprintf(&text[0][2 * i], 3, "%02x", native[size - 1 - i]);
        snprintf(&text[1][2 * i], 3, "%02x", guest[size - 1 - i]);
    }
    differ(c, "%s%-5d native %s\n           guest  %s", name, number, text[0], text[1]);
}

static const char *const gpr_names[16] = {
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
    "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15",
};

/* May this branch go into the middle of an instruction? Then nobody knows what ran. */
static bool is_blind_branch(const struct x86_insn *insn)
{
    if (insn->map != 0) {
        return false;
    }
    bool is_return = insn->opcode == 0xc2 || insn->opcode == 0xc3;
    unsigned reg = insn->modrm >> 3 & 7;
    return is_return || (insn->opcode == 0xff && (reg == 2 || reg == 4));
}

/* Flags that are undefined when the run has come to 'rip': what earlier instructions left undefined and none has defined
 * since. A shift or rotate by zero defines nothing, so these never make a flag defined again. */
static uint32_t undefined_flags(const struct case_input *in, uint64_t rip)
{
    uint32_t undefined = 0;
    if (rip < in->state.rip || rip > in->state.rip + in->code_bytes) {
        rip = UINT64_MAX; /* a branch has left the case: any of them may have run */
    }
    enum x86_code_size code_size = in->code_size;
    for (unsigned i = 0; i < in->insn_count; i++) {
        if (in->state.rip + in->insn_offset[i] >= rip) {
            break;
        }
        struct x86_insn insn;
        if (case_decode(in->code + in->insn_offset[i], X86_INSN_MAX_LENGTH, code_size, &insn) !=
            X86_DECODE_OK) {
            break;
        }
        undefined |= is_blind_branch(&insn) ? X86_FLAGS_STATUS : x86_rows[insn.row].flags_undefined;
    }
    return undefined & X86_FLAGS_STATUS;
}

static bool is_address_fault(uint32_t vector)
{
    return vector == X86_SS_FAULT || vector == X86_GP || vector == X86_PF;
}

/* The instruction that the native run ended at. */
static bool decode_last(const struct case_input *in, const struct case_output *native,
                        struct x86_insn *out_insn)
{
    uint64_t offset = native->state.rip - in->state.rip;
    return offset < in->code_bytes && case_decode(in->code + offset, X86_INSN_MAX_LENGTH,
                                                  in->code_size, out_insn) == X86_DECODE_OK;
}

/* With TF a gather that comes to a faulting element may first report the elements before it. */
static bool is_gather_trap(const struct case_input *in, const struct case_output *native,
                           const struct case_output *guest)
{
    struct x86_insn insn;
    return native->vector == X86_DB && is_address_fault(guest->vector) &&
           native->state.rip == guest->state.rip && decode_last(in, native, &insn) && insn.is_vsib;
}

/* Operands of more than 32 bytes are accessed in pieces, in an order of the model's own: which of them is the first that
 * faults, and why, says nothing. */
static bool has_wide_operand(const struct case_input *in, const struct case_output *native)
{
    struct x86_insn insn;
    if (!decode_last(in, native, &insn)) {
        return false;
    }
    for (unsigned i = 0; i < insn.operand_count; i++) {
        if (insn.operand[i].kind == X86_OPERAND_MEM && insn.operand[i].size_bytes > 32) {
            return true;
        }
    }
    if (aim_is_xsave(&insn)) {
        return true;
    }
    /* The x87 environment. */
    bool has_image = insn.map == 0 && insn.has_memory && (insn.opcode & 0xfb) == 0xd9;
    return has_image && (insn.modrm & 0x28) == 0x20;
}

/* Element 'lane' of a gather's vector of indices. */
static uint64_t gather_index(const struct case_state *state, const struct x86_insn *insn,
                             unsigned lane)
{
    bool is_64 = insn->opcode & 1;
    unsigned byte = lane * (is_64 ? 8 : 4);
    const uint8_t *half = state->xsave + (byte < 16 ? 160 : X86_XSAVE_AVX_OFFSET);
    const uint8_t *at = half + 16u * insn->index + byte % 16;
    return is_64 ? le64_get(at) : (uint64_t)(int64_t)(int32_t)le32_get(at);
}

/* Of an operand in a segment with base 0. */
static uint64_t flat_address(const struct x86_insn *insn, const struct case_state *state)
{
    return (uint64_t)insn->disp + (insn->base < 16 ? state->gpr[insn->base] : 0) +
           (insn->index < 16 ? state->gpr[insn->index] * insn->scale : 0);
}

/* CPUs of AMD want FS and GS to be added to a canonical address; the SDM asks for a canonical sum only. */
static bool is_strict_address_fault(const struct case_input *in, const struct case_output *native)
{
    struct x86_insn insn;
    if (in->code_size != X86_CODE_64 || native->vector != X86_GP ||
        !decode_last(in, native, &insn) || !insn.has_memory || insn.address_bytes != 8 ||
        (insn.segment != X86_FS && insn.segment != X86_GS)) {
        return false;
    }
    const uint64_t *gpr = native->state.gpr;
    uint64_t address = (uint64_t)insn.disp + (insn.base < 16 ? gpr[insn.base] : 0);
    if (!insn.is_vsib) {
        return !x86_is_canonical(address + (insn.index < 16 ? gpr[insn.index] * insn.scale : 0));
    }
    bool is_strict = false;
    for (unsigned lane = 0; lane < (insn.opcode & 1 ? 2u : 4u) << insn.vex_l; lane++) {
        uint64_t index = gather_index(&native->state, &insn, lane);
        is_strict |= !x86_is_canonical(address + index * insn.scale);
    }
    return is_strict;
}

/* Which of ENTER's accesses are checked for alignment is the model's choice. */
static bool is_unaligned_enter(const struct case_input *in, const struct case_output *native,
                               const struct case_output *guest)
{
    struct x86_insn insn;
    return (native->vector == X86_AC || guest->vector == X86_AC) &&
           native->state.rip == guest->state.rip && decode_last(in, native, &insn) &&
           insn.id == X86_ID_ENTER;
}

/* XSAVE and its kin with RFLAGS.AC: which of #AC and #GP an unaligned area raises is the model's choice (SDM 2, XSAVE). */
static bool is_unaligned_xsave(const struct case_input *in, const struct case_output *native,
                               const struct case_output *guest)
{
    struct x86_insn insn;
    return case_host_is_intel() && native->vector == X86_AC && guest->vector == X86_GP &&
           native->state.rip == guest->state.rip && decode_last(in, native, &insn) &&
           aim_is_xsave(&insn);
}

/* CPUs of Intel convert before VCVTPS2PH looks at memory: MXCSR has its flags, or #XM comes first. */
static bool is_late_store(const struct case_input *in, const struct case_output *native,
                          const struct case_output *guest)
{
    struct x86_insn insn;
    return case_host_is_intel() && native->state.rip == guest->state.rip &&
           (is_address_fault(guest->vector) || guest->vector == X86_AC) &&
           decode_last(in, native, &insn) && insn.id == X86_ID_VCVTPS2PH;
}

static bool is_masked_move(const struct x86_insn *insn)
{
    return insn->id == X86_ID_VMASKMOVPS || insn->id == X86_ID_VMASKMOVPD ||
           insn->id == X86_ID_VPMASKMOVD || insn->id == X86_ID_VPMASKMOVQ;
}

/* The address that #PF of a masked move to two pages tells: on CPUs of Intel any of its bytes in the page. */
static bool is_masked_page_fault(const struct case_input *in, const struct case_output *native,
                                 const struct case_output *guest)
{
    struct x86_insn insn;
    if (!case_host_is_intel() || native->vector != X86_PF || guest->vector != X86_PF ||
        native->error != guest->error || native->cr2 >> 12 != guest->cr2 >> 12 ||
        !decode_last(in, native, &insn)) {
        return false;
    }
    return is_masked_move(&insn);
}

/* A masked move over the end of a segment: CPUs of AMD differ in whether elements that are not moved are checked, and whether each one's
 * 16-bit address wraps for itself. */
static bool is_masked_end(const struct case_input *in, const struct case_output *native,
                          const struct case_output *guest)
{
    struct x86_insn insn;
    bool is_end = guest->vector == X86_GP || guest->vector == X86_SS_FAULT;
    bool is_wrap = guest->vector == X86_PF && native->vector == X86_PF &&
                   (uint16_t)native->cr2 == (uint16_t)guest->cr2;
    bool is_same = native->state.rip == guest->state.rip && native->vector == guest->vector &&
                   native->cr2 == guest->cr2;
    return !case_host_is_intel() && in->code_size != X86_CODE_64 && !is_same &&
           (is_end || is_wrap) && decode_last(in, guest, &insn) && is_masked_move(&insn);
}

/* Which of the two operands of CMPS is read first, if both fault: CPUs of AMD differ from generation to generation. */
static bool is_compare_of_two(const struct case_input *in, const struct case_output *native,
                              const struct case_output *guest)
{
    struct x86_insn insn;
    return !case_host_is_intel() && native->state.rip == guest->state.rip &&
           (is_address_fault(native->vector) || native->vector == X86_AC) &&
           (is_address_fault(guest->vector) || guest->vector == X86_AC) &&
           decode_last(in, native, &insn) && insn.id == X86_ID_CMPS;
}

/* An access over the end of a segment of 4 GiB may wrap instead of raising #GP or #SS (SDM 3 5.3), which CPUs of Intel do. */
#define WRAP_BYTES 64u
static bool is_near_wrap(uint64_t address)
{
    return address <= UINT32_MAX && (uint32_t)(address + WRAP_BYTES) < 2 * WRAP_BYTES;
}

static bool is_wrap_open(const struct case_input *in, const struct case_output *native,
                         const struct case_output *guest)
{
    struct x86_insn insn;
    if (!case_host_is_intel() || in->code_size == X86_CODE_64 ||
        (guest->vector != X86_GP && guest->vector != X86_SS_FAULT)) {
        return false;
    }
    if (native->vector != X86_AC) {
        return native->vector == X86_PF && is_near_wrap(native->cr2);
    }
    return decode_last(in, native, &insn) && insn.has_memory &&
           is_near_wrap((uint32_t)flat_address(&insn, &native->state));
}

/* Is the exception itself one that manuals leave open? */
static bool is_fault_open(const struct case_input *in, const struct case_output *native,
                          const struct case_output *guest)
{
    if (is_unaligned_enter(in, native, guest) || is_unaligned_xsave(in, native, guest) ||
        is_masked_page_fault(in, native, guest) || is_wrap_open(in, native, guest) ||
        is_compare_of_two(in, native, guest) ||
        (native->vector == X86_XM && is_late_store(in, native, guest))) {
        return true;
    }
    if (is_address_fault(native->vector) && is_address_fault(guest->vector) &&
        has_wide_operand(in, native)) {
        return true;
    }
    return native->vector != guest->vector &&
           (is_strict_address_fault(in, native) || is_gather_trap(in, native, guest));
}

/* A header for XRSTOR that an instruction before has written to may name components that the host has and no guest. */
static bool is_restore_open(const struct case_input *in, const struct case_output *native,
                            const struct case_output *guest)
{
    struct x86_insn insn;
    const uint8_t *header = native->data + CASE_XSAVE_OFFSET + X86_XSAVE_HEADER;
    uint64_t named = (le64_get(header) | le64_get(header + 8)) & ~(1ull << 63);
    return guest->vector == X86_GP && guest->state.rip != native->state.rip &&
           (named & ~7ull) != 0 && decode_last(in, guest, &insn) && insn.id == X86_ID_XRSTOR;
}

/* LDMXCSR of a value with AMD's bit: the host goes on, and may have loaded another value since. */
static bool is_load_of_misaligned(const struct case_input *in, const struct case_output *native,
                                  const struct case_output *guest)
{
    struct x86_insn insn;
    if (guest->vector != X86_GP || guest->state.rip == native->state.rip ||
        !decode_last(in, guest, &insn) ||
        (insn.id != X86_ID_LDMXCSR && insn.id != X86_ID_VLDMXCSR)) {
        return false;
    }
    uint64_t offset = flat_address(&insn, &guest->state) - CASE_DATA_BASE;
    return offset <= CASE_DATA_SIZE - 4 && (le32_get(guest->data + offset) & MXCSR_MISALIGNED) != 0;
}

/* CPUs of Intel do not check each of these for alignment. */
static bool is_unchecked(const struct case_input *in, const struct case_output *guest)
{
    struct x86_insn insn;
    return case_host_is_intel() && guest->vector == X86_AC && decode_last(in, guest, &insn) &&
           (insn.id == X86_ID_MOVBE || insn.id == X86_ID_VCVTPH2PS || insn.id == X86_ID_VCVTPS2PH);
}

/* Did the case end within one of its instructions? A return has led there, and what ran then may have gone by flags that an
 * instruction of the case had left undefined. */
static bool is_astray(const struct case_input *in, const struct case_output *out)
{
    uint64_t offset = out->state.rip - in->state.rip;
    for (unsigned i = 0; i <= in->insn_count; i++) {
        if (offset == in->insn_offset[i]) {
            return false;
        }
    }
    return offset < in->code_bytes;
}

/* What an instruction that ended with a fault has already done is the model's choice for some: ENTER has pushed frame
 * pointers, POPA has popped registers. */
static bool has_partial_result(const struct case_input *in, const struct case_output *native)
{
    struct x86_insn insn;
    return is_address_fault(native->vector) && decode_last(in, native, &insn) &&
           (insn.id == X86_ID_POPA || (insn.id == X86_ID_ENTER && insn.imm2 != 0));
}

/* Is there no instruction at RIP because it is beyond the code segment's limit, or not canonical? If an interrupt came in
 * this place, it is the kernel's IRET that raises #GP, and RF is not set. */
static bool is_end_of_code(const struct case_input *in, const struct case_output *native)
{
    if (native->vector != X86_GP) {
        return false;
    }
    return in->code_size == X86_CODE_64
               ? !x86_is_canonical(native->state.rip)
               : (in->cs & 4) != 0 && native->state.rip > case_ldt[in->cs >> 3].limit;
}

static void compare_flags(struct comparison *c, const struct case_input *in,
                          const struct case_output *native, const struct case_output *guest)
{
    uint64_t mask = ~(uint64_t)undefined_flags(in, native->state.rip);
    if (native->vector != guest->vector || is_end_of_code(in, native)) {
        mask &= ~(uint64_t)X86_FLAG_RF; /* set by faults, not by traps or interrupts */
    }
    check_value(c, "rflags", native->state.rflags & mask, guest->state.rflags & mask);
}

/* FXSAVE tells which bits MXCSR has. Hosts of AMD have one that no guest has. */
static bool is_mask_of_mxcsr(const uint8_t *native, const uint8_t *guest)
{
    return le32_get(native + 12) == (0xffffu | MXCSR_MISALIGNED) &&
           le32_get(guest + 12) == 0xffff && memcmp(native, guest, 12) == 0;
}

static bool is_zero(const uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (bytes[i] != 0) {
            return false;
        }
    }
    return true;
}

/* Registers that are zero may count as in use or as in their initial state (SDM 1 13.6), and so XSAVE and its kin say the one
 * or the other, and write them or not. After VZEROALL and VZEROUPPER CPUs remember that all are zero, until the next write,
 * whatever it writes. */
static bool is_use_open(const struct case_input *in, const struct case_output *native)
{
    const uint8_t *image = native->state.xsave;
    size_t count = in->code_size != X86_CODE_64 ? 8 : 16;
    struct x86_insn insn;
    if (!is_zero(image + 160, count * 16) && !is_zero(image + X86_XSAVE_AVX_OFFSET, count * 16)) {
        return false;
    }
    for (unsigned i = 0; i < in->insn_count; i++) {
        if (case_decode(in->code + in->insn_offset[i], X86_INSN_MAX_LENGTH, in->code_size, &insn) ==
                X86_DECODE_OK &&
            aim_is_xsave(&insn)) {
            return true;
        }
    }
    return false;
}

/* On CPUs of Intel a store of 80 bits, or MOVBE, to two pages may have written to the first one when the second faults. Only the
 * end of the data is before a page that does. */
#define FIRST_PART 10u
static bool has_first_part(const struct case_input *in, const struct case_output *native)
{
    struct x86_insn insn;
    if (!case_host_is_intel() || !is_address_fault(native->vector) ||
        !decode_last(in, native, &insn)) {
        return false;
    }
    bool is_long =
        (insn.id == X86_ID_FSTP || insn.id == X86_ID_FBSTP) && insn.operand[0].size_bytes == 10;
    return is_long || insn.id == X86_ID_MOVBE;
}

static void compare_memory(struct comparison *c, const struct case_input *in,
                           const struct case_output *native, const struct case_output *guest)
{
    if (memcmp(native->data, guest->data, CASE_DATA_SIZE) == 0 || is_use_open(in, native)) {
        return;
    }
    if (has_first_part(in, native) &&
        memcmp(native->data, guest->data, CASE_DATA_SIZE - FIRST_PART) == 0) {
        return;
    }
    for (size_t i = 0; i < CASE_DATA_SIZE; i += 16) {
        if (memcmp(native->data + i, guest->data + i, 16) != 0 &&
            !is_mask_of_mxcsr(native->data + i, guest->data + i)) {
            check_bytes(c, "mem", (int)i, native->data + i, guest->data + i, 16);
        }
    }
}

static void compare_extended(struct comparison *c, const struct case_input *in,
                             const uint8_t *native, const uint8_t *guest, bool is_mxcsr_open)
{
    check_value(c, "fcw", le16_get(native), le16_get(guest));
    check_value(c, "fsw", le16_get(native + 2), le16_get(guest + 2));
    check_value(c, "ftw", native[4], guest[4]);
    check_value(c, "fop", le16_get(native + 6), le16_get(guest + 6));
    check_value(c, "fip", le64_get(native + 8), le64_get(guest + 8));
    check_value(c, "fdp", le64_get(native + 16), le64_get(guest + 16));
    uint32_t open = is_mxcsr_open ? MXCSR_FLAGS : 0;
    check_value(c, "mxcsr", le32_get(native + 24) & ~open, le32_get(guest + 24) & ~open);
    for (int i = 0; i < 8; i++) {
        check_bytes(c, "st", i, native + 32 + i * 16, guest + 32 + i * 16, 10);
    }
    int count = in->code_size != X86_CODE_64 ? 8 : 16;
    for (int i = 0; i < count; i++) {
        check_bytes(c, "xmm", i, native + 160 + i * 16, guest + 160 + i * 16, 16);
        const size_t high = X86_XSAVE_AVX_OFFSET + (size_t)i * 16;
        check_bytes(c, "ymmh", i, native + high, guest + high, 16);
    }
}

/* What the kernel reports of a fault differs from what the CPU pushed in one point: it hides from processes whether an
 * address of its own is mapped. */
static uint32_t visible_error(const struct case_output *output)
{
    if (output->vector == X86_PF && output->cr2 >= NATIVE_END) {
        return output->error & ~X86_PF_PRESENT;
    }
    return output->error;
}

/* Where the child's own text, heap and stack may be mapped, nothing is in the guest. */
static bool hits_child(const struct case_output *native, const struct case_output *guest)
{
    bool is_same = native->vector == guest->vector && native->cr2 == guest->cr2 &&
                   native->error == guest->error;
    return guest->vector == X86_PF && guest->cr2 > UINT32_MAX && guest->cr2 < NATIVE_END &&
           !is_same;
}

enum compare_result compare_outputs(const struct case_input *in, const struct case_output *native,
                                    const struct case_output *guest, FILE *file)
{
    if (native->vector == CASE_VECTOR_ESCAPED || native->vector == CASE_VECTOR_TIMEOUT) {
        return COMPARE_NOTHING;
    }
    if (hits_child(native, guest) || is_restore_open(in, native, guest) ||
        is_unchecked(in, guest) || is_masked_end(in, native, guest)) {
        return COMPARE_NOTHING;
    }
    if ((le32_get(native->state.xsave + 24) & MXCSR_MISALIGNED) != 0 ||
        is_load_of_misaligned(in, native, guest) ||
        (native->state.rip != guest->state.rip &&
         (is_astray(in, native) || is_astray(in, guest)))) {
        return COMPARE_NOTHING;
    }
    struct comparison c = {.file = file};
    uint64_t width = in->code_size != X86_CODE_64 ? 0xffffffff : ~0ull;
    if (!is_fault_open(in, native, guest)) {
        check_value(&c, "vector", native->vector, guest->vector);
        check_value(&c, "error", visible_error(native), visible_error(guest));
        check_value(&c, "cr2", native->cr2, guest->cr2);
    }
    check_value(&c, "rip", native->state.rip, guest->state.rip);
    compare_flags(&c, in, native, guest);
    bool is_partial = has_partial_result(in, native);
    for (int i = 0; i < (in->code_size != X86_CODE_64 ? 8 : 16) && !is_partial; i++) {
        check_value(&c, gpr_names[i], native->state.gpr[i] & width, guest->state.gpr[i] & width);
    }
    compare_extended(&c, in, native->state.xsave, guest->state.xsave,
                     is_late_store(in, native, guest));
    if (!is_partial) {
        compare_memory(&c, in, native, guest);
    }
    return c.differs ? COMPARE_DIFFERENT : COMPARE_SAME;
}

static void print_registers(const struct case_input *in, FILE *file)
{
    for (int i = 0; i < (in->code_size != X86_CODE_64 ? 8 : 16); i++) {
        fprintf(file, "%s%-3s %016" PRIx64 "%s", i % 4 == 0 ? "    " : "  ", gpr_names[i],
                in->state.gpr[i], i % 4 == 3 ? "\n" : "");
    }
    const uint8_t *legacy = in->state.xsave;
    fprintf(file, "    rflags %08" PRIx64 "  fcw %04x fsw %04x ftw %02x  mxcsr %08x\n",
            in->state.rflags, le16_get(legacy), le16_get(legacy + 2), legacy[4],
            le32_get(legacy + 24));
}

static void print_vectors(const struct case_input *in, FILE *file)
{
    for (int i = 0; i < (in->code_size != X86_CODE_64 ? 8 : 16); i++) {
        const uint8_t *low = in->state.xsave + 160 + i * 16;
        const uint8_t *high = in->state.xsave + X86_XSAVE_AVX_OFFSET + i * 16;
        fprintf(file, "    ymm%-2d %016" PRIx64 "%016" PRIx64 "%016" PRIx64 "%016" PRIx64 "\n", i,
                le64_get(high + 8), le64_get(high), le64_get(low + 8), le64_get(low));
    }
    for (int i = 0; i < 8; i++) {
        const uint8_t *st = in->state.xsave + 32 + i * 16;
        fprintf(file, "    st%d %04x %016" PRIx64 "%s", i, le16_get(st + 8), le64_get(st),
                i % 4 == 3 ? "\n" : "");
    }
}

void compare_print_case(const struct case_input *in, FILE *file)
{
    enum x86_code_size code_size = in->code_size;
    bool uses_vectors = false;
    for (unsigned i = 0; i < in->insn_count; i++) {
        const uint8_t *bytes = in->code + in->insn_offset[i];
        uint64_t rip = in->state.rip + in->insn_offset[i];
        char text[128] = "(none)";
        struct x86_insn insn;
        if (case_decode(bytes, X86_INSN_MAX_LENGTH, code_size, &insn) == X86_DECODE_OK) {
            (void)x86_disassemble(&insn, rip, text, sizeof(text));
            uses_vectors |= (x86_rows[insn.row].attributes &
                             (X86_ROW_X87 | X86_ROW_MMX | X86_ROW_SSE | X86_ROW_VEX)) != 0;
        }
        fprintf(file, "    %08" PRIx64 "  ", rip);
        unsigned length = in->insn_offset[i + 1] - in->insn_offset[i];
        for (unsigned k = 0; k < length; k++) {
            fprintf(file, "%02x ", bytes[k]);
        }
        fprintf(file, "  %s\n", text);
    }
    static const char *const sizes[] = {"16-bit", "32-bit", "64-bit"};
    fprintf(file, "    then ud2; %s code, cs %02x ss %02x ds %02x es %02x\n", sizes[in->code_size],
            in->cs, in->ss, in->ds, in->es);
    print_registers(in, file);
    if (uses_vectors) {
        print_vectors(in, file);
    }
}
