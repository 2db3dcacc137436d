/* Runs of string instructions: as many elements as lie in one page on each side, by the host's own repeated instruction.
 * string_run.c is built without vector registers, so that the guest's may stay in the host's. */
#ifndef ENGINE_SOFT_STRING_RUN_H
#define ENGINE_SOFT_STRING_RUN_H

#include "engine/soft/vcpu.h"

enum soft_string_kind {
    SOFT_STRING_MOVS,
    SOFT_STRING_STOS,
    SOFT_STRING_LODS,
    SOFT_STRING_CMPS, /* this and the next end by ZF, too */
    SOFT_STRING_SCAS,
};

struct soft_string {
    uint8_t kind;       /* enum soft_string_kind */
    uint8_t size_bytes; /* of an element */
    bool is_down;
    bool is_repne; /* CMPS, SCAS: until they are equal */
};

/* Does up to 'count' (at least 1) elements from and to these linear addresses; only RAX and the status flags change. Returns how
 * many; 0: the first one needs the slow way, and nothing has happened. */
uint64_t soft_string_run(struct soft_vcpu *v, const struct soft_string *s, uint64_t from,
                         uint64_t to, uint64_t count);

/* The same where 'to' lies at host address 'out' (NULL for LODS), for up to the rest of its page. */
uint64_t soft_string_run_at(struct soft_vcpu *v, const struct soft_string *s, uint64_t from,
                            uint64_t to, uint8_t *out, uint64_t count);

/* Of a run that has just been done: no more elements, whatever the count. */
static inline bool soft_string_is_over(const struct soft_vcpu *v, const struct soft_string *s)
{
    return s->kind >= SOFT_STRING_CMPS && ((v->status >> 14 & 1) != 0) == s->is_repne;
}

#endif
