/* For tests of the verifier: blocks written by hand, with what the translator makes and with what it must never make. */
#ifndef TESTS_UNIT_ENGINE_VERIFY_BENCH_H
#define TESTS_UNIT_ENGINE_VERIFY_BENCH_H

#include "engine/soft/translate/code_cache.h"
#include "engine/soft/translate/native_system.h"
#include "engine/soft/translate/verify.h"

#include <stdlib.h>

#include "soft_guest.h"

#define R14 HOST_R14
#define R15 HOST_R15

#define TLB(member)  (VCPU_FIELD(tlbs) + (int32_t)offsetof(struct soft_tlb, member))
#define JUMP(member) (VCPU_FIELD(native_jump) + (int32_t)offsetof(struct soft_native_jump, member))

struct bench {
    struct soft_guest guest;
    struct soft_vcpu *v;
    struct native_verifier *verifier;
    struct native_block *block, *other; /* in the memory of descriptions */
    struct emitter e;
    struct error err;
};

static inline int set_up(void **state)
{
    struct bench *b = calloc(1, sizeof(*b));
    assert_non_null(b);
    guest_start(&b->guest, 1);
    b->v = soft_from_vcpu(b->guest.vcpu[0]);
    b->verifier = native_verifier_create(65536);
    assert_non_null(b->verifier);
    *state = b;
    return 0;
}

static inline int tear_down(void **state)
{
    struct bench *b = *state;
    native_verifier_destroy(b->verifier);
    guest_end(&b->guest);
    free(b);
    return 0;
}

static inline void begin(struct bench *b)
{
    struct soft_native *n = b->v->native;
    b->block = native_cache_new_block(n);
    b->block->address = b->block->gpa = 0x1000;
    b->block->mode = SOFT_TLB_SUPERVISOR;
    b->block->cold = b->block->code; /* where stubs count from; nothing is elsewhere */
    b->e.at = native_entry_saved(n, b->block);
    /* Behind it, with all its links. */
    b->other = native_at(n, (native_ref)n->meta_used + 256);
    *b->other = (struct native_block){.mode = SOFT_TLB_SUPERVISOR, .second_entry = 8};
}

static inline void put(struct bench *b, size_t size, const void *bytes)
{
    memcpy(b->e.at, bytes, size);
    b->e.at += size;
}
#define PUT(b, ...) put(b, sizeof((uint8_t[]){__VA_ARGS__}), (uint8_t[]){__VA_ARGS__})

static inline void call(struct bench *b, const uint8_t *target, uint64_t rip, uint64_t next)
{
    emit_bind(emit_call(&b->e), target);
    emit64(&b->e, rip);
    emit64(&b->e, next);
}

static inline void finish(struct bench *b)
{
    call(b, b->v->native->exit_at, 0x1000, 0);
}

static inline int verify(struct bench *b)
{
    b->block->code_size = (uint16_t)(b->e.at - native_entry_saved(b->v->native, b->block));
    b->err = (struct error){0};
    return native_verify(b->verifier, b->v, b->block, &b->err);
}

static inline void accepted(struct bench *b)
{
    int rc = verify(b);
    if (rc < 0) {
        fail_msg("refused: %s", b->err.text);
    }
}

static inline void refused(struct bench *b, const char *reason)
{
    if (verify(b) == 0) {
        fail_msg("accepted, instead of: %s", reason);
    }
    if (!strstr(b->err.text, reason)) {
        fail_msg("refused for another reason than '%s': %s", reason, b->err.text);
    }
}

#define MASK(entries) ((entries)-1) & 0xff, ((entries)-1) >> 8, 0x00, 0x00
#define TLB_MASK      MASK(SOFT_TLB_SIZE)

/* The parts of a check of an address in R14, as the translator makes it. */
static inline void check_index(struct bench *b)
{
    PUT(b, 0x45, 0x89, 0xf7);           /* mov r15d, r14d */
    PUT(b, 0x41, 0xc1, 0xef, 12);       /* shr r15d, 12 */
    PUT(b, 0x41, 0x81, 0xe7, TLB_MASK); /* and r15d, entries - 1 */
}

static inline void check_limit(struct bench *b, uint32_t limit, uint8_t condition)
{
    PUT(b, 0x49, 0x81, 0xfe); /* cmp r14, limit */
    emit32(&b->e, limit);
    uint8_t *over = emit_jcc(&b->e, condition ^ 1);
    finish(b);
    emit_bind(over, b->e.at);
}

static inline void check(struct bench *b, uint32_t size, bool is_write)
{
    check_index(b);
    emit_op_table(&b->e, HOST_OP_SUB_REG_RM, R14, R15, is_write ? TLB(write_tag) : TLB(read_tag));
    check_limit(b, 4096 - size, HOST_IF_ABOVE);
    emit_op_table(&b->e, HOST_OP_ADD_REG_RM, R14, R15, TLB(hva));
}

static inline void load(struct bench *b, int32_t disp)
{
    emit_op_base(&b->e, HOST_OP_MOV_REG_RM, HOST_RAX, R14, disp);
}

static inline void store(struct bench *b, int32_t disp)
{
    emit_op_base(&b->e, HOST_OP_MOV_RM_REG, HOST_RAX, R14, disp);
}

#endif
