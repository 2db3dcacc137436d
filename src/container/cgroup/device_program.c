/* Device rules as a program for the kernel. */
#include "container/cgroup/device_program.h"

#include <errno.h>
#include <stdlib.h>

#include "base/host/file.h"

#define MAX_RULES        8192
#define MAX_INSNS_A_RULE 8
#define MASK_BITS        32
#define ANY              (-1)

const struct spec_device_rule device_default_rules[] = {
    {true, 'c', 1, 3, true, true, true},       /* null */
    {true, 'c', 1, 5, true, true, true},       /* zero */
    {true, 'c', 1, 7, true, true, true},       /* full */
    {true, 'c', 1, 8, true, true, true},       /* random */
    {true, 'c', 1, 9, true, true, true},       /* urandom */
    {true, 'c', 5, 0, true, true, true},       /* tty */
    {true, 'c', 5, 1, true, true, true},       /* console */
    {true, 'c', 5, 2, true, true, true},       /* ptmx */
    {true, 'c', 136, ANY, true, true, true},   /* pts */
    {true, 'a', ANY, ANY, false, false, true}, /* a node alone opens nothing */
};
const size_t device_default_rule_count = ARRAY_COUNT(device_default_rules);

/* The context (struct bpf_cgroup_dev_ctx) lies in R1:
 *   access_type = access << 16 | type
 * Registers: R0 the result, R2 the type, R3 the rights that no rule has spoken of yet, R4 major, R5 minor. */
enum {
    REG_TYPE = BPF_REG_2,
    REG_ACCESS = BPF_REG_3,
    REG_MAJOR = BPF_REG_4,
    REG_MINOR = BPF_REG_5
};

struct assembler {
    struct bpf_insn *insn;
    size_t count;
};

static void emit(struct assembler *as, uint8_t code, uint8_t dst, uint8_t src, int16_t offset,
                 int32_t value)
{
    as->insn[as->count++] = (struct bpf_insn){
        .code = code, .dst_reg = dst & 0xf, .src_reg = src & 0xf, .off = offset, .imm = value};
}

static void emit_load(struct assembler *as, uint8_t reg, size_t offset)
{
    emit(as, BPF_LDX | BPF_MEM | BPF_W, reg, BPF_REG_1, (int16_t)offset, 0);
}

static void emit_return(struct assembler *as, bool is_allowed)
{
    emit(as, BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, is_allowed);
    emit(as, BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
}

/* Numbers beside type 'a' mean nothing, as in v1. */
static bool is_any_type(const struct spec_device_rule *rule)
{
    return rule->type == 'a' || rule->type == '\0';
}

static int32_t access_of(const struct spec_device_rule *rule)
{
    return (rule->can_read ? BPF_DEVCG_ACC_READ : 0) | (rule->can_write ? BPF_DEVCG_ACC_WRITE : 0) |
           (rule->can_mknod ? BPF_DEVCG_ACC_MKNOD : 0);
}

/* Jumps over the rule where a register has another value; the targets are still unknown. */
#define MAX_SKIPS 4
struct skips {
    size_t at[MAX_SKIPS], count;
};

static void emit_skip(struct assembler *as, struct skips *skips, uint8_t operation, uint8_t reg,
                      int64_t value)
{
    skips->at[skips->count++] = as->count;
    emit(as, BPF_JMP32 | operation | BPF_K, reg, 0, 0, (int32_t)value);
}

static void emit_type_and_major(struct assembler *as, struct skips *skips,
                                const struct spec_device_rule *rule)
{
    if (!is_any_type(rule)) {
        emit_skip(as, skips, BPF_JNE, REG_TYPE,
                  rule->type == 'b' ? BPF_DEVCG_DEV_BLOCK : BPF_DEVCG_DEV_CHAR);
        if (rule->major >= 0) {
            emit_skip(as, skips, BPF_JNE, REG_MAJOR, rule->major);
        }
    }
}

static void resolve(const struct assembler *as, const struct skips *skips)
{
    for (size_t i = 0; i < skips->count; i++) {
        as->insn[skips->at[i]].off = (int16_t)(as->count - skips->at[i] - 1);
    }
}

static bool has_all_rights(const struct spec_device_rule *rule)
{
    return rule->can_read && rule->can_write && rule->can_mknod;
}

static void emit_rule(struct assembler *as, const struct spec_device_rule *rule)
{
    struct skips skips = {0};
    emit_type_and_major(as, &skips, rule);
    if (!is_any_type(rule) && rule->minor >= 0) {
        emit_skip(as, &skips, BPF_JNE, REG_MINOR, rule->minor);
    }
    if (rule->is_allowed && !has_all_rights(rule)) {
        emit(as, BPF_ALU | BPF_AND | BPF_K, REG_ACCESS, 0, 0, ~access_of(rule));
        emit_skip(as, &skips, BPF_JNE, REG_ACCESS, 0);
    } else if (!rule->is_allowed) {
        emit(as, BPF_JMP32 | BPF_JSET | BPF_K, REG_ACCESS, 0, 1, access_of(rule));
        skips.at[skips.count++] = as->count;
        emit(as, BPF_JMP | BPF_JA, 0, 0, 0, 0);
    }
    emit_return(as, rule->is_allowed);
    resolve(as, &skips);
}

/* Single devices with one major number that are allowed altogether become bits of a mask: the kernel's check of a program takes
 * longer with each branch in it, and is most of the time of its loading. */
static bool is_for_mask(const struct spec_device_rule *rule)
{
    return rule->is_allowed && has_all_rights(rule) && !is_any_type(rule) && rule->major >= 0 &&
           rule->minor >= 0 && rule->minor < MASK_BITS;
}

static void emit_mask(struct assembler *as, const struct spec_device_rule *rule, uint32_t minors)
{
    struct skips skips = {0};
    emit_type_and_major(as, &skips, rule);
    emit_skip(as, &skips, BPF_JGT, REG_MINOR, MASK_BITS - 1);
    emit(as, BPF_ALU | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, (int32_t)minors);
    emit(as, BPF_ALU | BPF_RSH | BPF_X, BPF_REG_0, REG_MINOR, 0, 0);
    emit(as, BPF_ALU | BPF_AND | BPF_K, BPF_REG_0, 0, 0, 1);
    emit_skip(as, &skips, BPF_JEQ, BPF_REG_0, 0);
    emit(as, BPF_JMP | BPF_EXIT, 0, 0, 0, 0); /* with 1 in it */
    resolve(as, &skips);
}

/* A rule about everything leaves nothing for those before it. */
static bool is_final(const struct spec_device_rule *rule)
{
    return (is_any_type(rule) || rule->type == '\0') && rule->can_read && rule->can_write &&
           rule->can_mknod;
}

static const struct spec_device_rule *rule_at(const struct spec_device_rule *rules, size_t count,
                                              size_t i)
{
    return i < count ? &rules[i] : &device_default_rules[i - count];
}

int device_program_create(const struct spec_device_rule *rules, size_t count,
                          struct bpf_insn **out_program, size_t *out_count, struct error *err)
{
    if (count > MAX_RULES) {
        return error_set(err, E2BIG, "linux.resources.devices: %zu rules, at most %d are possible",
                         count, MAX_RULES);
    }
    size_t total = count + device_default_rule_count;
    struct assembler as = {.insn = calloc(total * MAX_INSNS_A_RULE + 8, sizeof(*as.insn))};
    if (as.insn == NULL) {
        return error_set(err, ENOMEM, "no memory for a device filter");
    }
    emit_load(&as, REG_TYPE, offsetof(struct bpf_cgroup_dev_ctx, access_type));
    emit(&as, BPF_ALU | BPF_MOV | BPF_X, REG_ACCESS, REG_TYPE, 0, 0);
    emit(&as, BPF_ALU | BPF_AND | BPF_K, REG_TYPE, 0, 0, 0xffff);
    emit(&as, BPF_ALU | BPF_RSH | BPF_K, REG_ACCESS, 0, 0, 16);
    emit_load(&as, REG_MAJOR, offsetof(struct bpf_cgroup_dev_ctx, major));
    emit_load(&as, REG_MINOR, offsetof(struct bpf_cgroup_dev_ctx, minor));
    bool is_decided = false;
    for (size_t i = total; i-- > 0 && !is_decided;) {
        const struct spec_device_rule *rule = rule_at(rules, count, i);
        if (is_final(rule)) {
            emit_return(&as, rule->is_allowed);
            is_decided = true;
        } else if (is_for_mask(rule)) {
            uint32_t minors = 1U << rule->minor;
            for (const struct spec_device_rule *next;
                 i > 0 && is_for_mask(next = rule_at(rules, count, i - 1)) &&
                 next->type == rule->type && next->major == rule->major;
                 i--) {
                minors |= 1U << next->minor;
            }
            emit_mask(&as, rule, minors);
        } else {
            emit_rule(&as, rule);
        }
    }
    if (!is_decided) {
        emit_return(&as, false);
    }
    *out_program = as.insn;
    *out_count = as.count;
    return 0;
}
