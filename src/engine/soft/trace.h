/* What the translator makes and what the interpreter runs for it, as text; and the map by which `perf` names translated
 * code. Both for debugging, opened when the VM is made (the process is jailed later). */
#ifndef ENGINE_SOFT_TRACE_H
#define ENGINE_SOFT_TRACE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/core/compiler.h"
#include "base/core/error.h"
#include "cpu/x86/decode.h"

struct soft_vcpu;
struct native_block;
struct native_source;
struct soft_trace;

struct soft_trace_options {
    char path[256];    /* of the log; empty: none */
    char symbols[256]; /* of a System.map or a copy of the guest's /proc/kallsyms; empty: none */
    bool has_perf_map; /* /tmp/perf-PID.map */
};

/* Errors: files that cannot be opened. *out_trace is NULL if nothing is wanted. */
int must_check soft_trace_create(const struct soft_trace_options *options,
                                 struct soft_trace **out_trace, struct error *err);
void soft_trace_destroy(struct soft_trace *trace);

/* A block that has just been made of 'source'. Threads: any. */
void soft_trace_block(struct soft_trace *trace, const struct soft_vcpu *v,
                      const struct native_block *block, const struct native_source *source);
/* The interpreter runs the instruction at RIP; 'reason' NULL: it has no template, or its access missed. */
void soft_trace_interpreted(struct soft_trace *trace, struct soft_vcpu *v, const char *reason);
/* The instruction at RIP, without faults and without changing accessed bits. False: it cannot be read or is none. */
bool soft_read_instruction(struct soft_vcpu *v, uint8_t out_bytes[X86_INSN_MAX_LENGTH],
                           struct x86_insn *out_insn);
/* Is the instruction at RIP a string instruction with a prefix that repeats it? */
bool soft_is_at_repetition(struct soft_vcpu *v);
/* A line of its own. */
void soft_trace_note(struct soft_trace *trace, const struct soft_vcpu *v, const char *text);

#endif
