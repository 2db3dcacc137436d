/* What system instructions, event delivery and the run loop share. */
#ifndef ENGINE_SOFT_SYSTEM_H
#define ENGINE_SOFT_SYSTEM_H

#include "engine/soft/vcpu.h"

/* segment.c */
struct soft_descriptor {
    uint64_t low, high; /* as in memory; high only for 16-byte ones */
    uint64_t address;   /* linear, of the descriptor */
    struct x86_segment segment;
};

static inline unsigned soft_descriptor_type(const struct soft_descriptor *d)
{
    return d->segment.attributes & X86_SEGMENT_TYPE;
}
static inline unsigned soft_descriptor_dpl(const struct soft_descriptor *d)
{
    return (d->segment.attributes & X86_SEGMENT_DPL) >> 5;
}
static inline bool soft_descriptor_is_present(const struct soft_descriptor *d)
{
    return d->segment.attributes & X86_SEGMENT_P;
}
/* S set and the code bit. */
static inline bool soft_descriptor_is_code(const struct soft_descriptor *d)
{
    return (d->segment.attributes & (X86_SEGMENT_S | X86_SEGMENT_CODE)) ==
           (X86_SEGMENT_S | X86_SEGMENT_CODE);
}

/* What the 8 bytes of a code or data descriptor say. */
static inline struct x86_segment soft_descriptor_segment(uint64_t raw, uint16_t selector)
{
    uint32_t limit = (uint32_t)((raw & 0xffff) | ((raw >> 32) & 0xf0000));
    uint16_t attributes = (uint16_t)((raw >> 40) & 0xf0ff);
    if (attributes & X86_SEGMENT_G) {
        limit = limit << 12 | 0xfff;
    }
    return (struct x86_segment){
        .base = ((raw >> 16) & 0xffffff) | ((raw >> 32) & 0xff000000),
        .limit = limit,
        .selector = selector,
        .attributes = attributes,
    };
}

/* Flat segments as SYSCALL and its like load them, whatever the tables say, and the CPL. */
static inline void soft_set_flat_segments(struct soft_vcpu *v, uint16_t cs, uint16_t ss,
                                          unsigned cpl, bool is_long)
{
    uint16_t common = (uint16_t)(X86_SEGMENT_P | X86_SEGMENT_S | X86_SEGMENT_G |
                                 X86_SEGMENT_ACCESSED | X86_SEGMENT_WRITABLE | cpl << 5);
    v->segment[X86_CS] = (struct x86_segment){
        .selector = (uint16_t)((cs & ~3u) | cpl),
        .limit = UINT32_MAX,
        .attributes = common | X86_SEGMENT_CODE | (is_long ? X86_SEGMENT_L : X86_SEGMENT_DB),
    };
    v->segment[X86_SS] = (struct x86_segment){
        .selector = (uint16_t)((ss & ~3u) | cpl),
        .limit = UINT32_MAX,
        .attributes = common | X86_SEGMENT_DB,
    };
    v->cpl = (uint8_t)cpl;
}

/* Reads the descriptor that 'selector' names; false: outside of its table. Null selectors: false. */
bool soft_descriptor_read(struct soft_vcpu *v, uint16_t selector, struct soft_descriptor *out);
/* The upper half of a system descriptor in long mode, base included. False: outside of the table. */
bool soft_descriptor_read_high(struct soft_vcpu *v, uint16_t selector, struct soft_descriptor *d);
void soft_descriptor_set_accessed(struct soft_vcpu *v, struct soft_descriptor *d);
/* MOV, POP and L?S to a data segment or SS, with all checks. */
void soft_load_segment(struct soft_vcpu *v, const struct soft_op *op, enum x86_segment_id id,
                       uint16_t selector);
/* The descriptor of a new stack segment for privilege 'cpl': raises 'vector' (#TS, #GP) or #SS. */
void soft_check_stack_segment(struct soft_vcpu *v, uint16_t selector, unsigned cpl, uint8_t vector,
                              uint32_t ext, struct soft_descriptor *out);
/* In real and virtual-8086 mode. */
void soft_set_real_segment(struct soft_vcpu *v, enum x86_segment_id id, uint16_t selector);
void soft_set_null_segment(struct x86_segment *segment, uint16_t selector, unsigned dpl);
/* On a return to an outer level: data segments that it may not use become null. */
void soft_drop_inner_segments(struct soft_vcpu *v);

/* exception.c */
#define SOFT_EVENT_HAS_ERROR 0x01u
#define SOFT_EVENT_EXTERNAL  0x02u /* interrupt, NMI */
#define SOFT_EVENT_SOFTWARE  0x04u /* INT n, INT3, INTO: the gate's DPL counts */
#define SOFT_EVENT_INT1      0x08u /* as an exception, but not from a fault */

/* Delivers 'vector' through the IDT: the state is the handler's afterwards. 'return_rip' is what the handler returns to.
 * Faults on the way are raised. */
void soft_deliver(struct soft_vcpu *v, uint8_t vector, unsigned event, uint32_t error,
                  uint64_t return_rip);
/* What soft_raise left: delivers it, turning it into a double fault where it belongs. False: triple fault. */
bool soft_deliver_raised(struct soft_vcpu *v);

/* task.c */
enum soft_task_reason {
    SOFT_TASK_JUMP,
    SOFT_TASK_CALL, /* and events */
    SOFT_TASK_IRET,
};
/* Switches to the TSS that 'selector' (with descriptor 'd') names; the old task goes on at 'return_rip'. */
void soft_task_switch(struct soft_vcpu *v, uint16_t selector, struct soft_descriptor *d,
                      enum soft_task_reason reason, uint64_t return_rip, bool has_error,
                      uint32_t error);
/* Stack for privilege 'cpl' from the 16- or 32-bit TSS. */
void soft_task_stack(struct soft_vcpu *v, unsigned cpl, uint32_t ext, uint16_t *out_ss,
                     uint32_t *out_esp);
/* RSPn (0..2) or ISTn (3 + n) of the 64-bit TSS. */
uint64_t soft_task_stack_long(struct soft_vcpu *v, unsigned index, uint32_t ext);
/* May CPL > IOPL use these ports? */
bool soft_task_allows_io(struct soft_vcpu *v, uint16_t port, uint32_t size);

/* control.c */
/* RFLAGS bits of 'mask' from 'value', and what follows from IF, TF, AC and VM. */
void soft_set_flags(struct soft_vcpu *v, uint32_t value, uint32_t mask);
bool soft_set_cr0(struct soft_vcpu *v, uint64_t value);
bool soft_set_cr4(struct soft_vcpu *v, uint64_t value);
bool soft_set_cr3(struct soft_vcpu *v, uint64_t value);

/* system.c */
static inline noreturn_fn void soft_general_protection(struct soft_vcpu *v,
                                                       const struct soft_op *op)
{
    soft_raise_error(v, op, X86_GP, 0);
}
static inline void soft_require_cpl0(struct soft_vcpu *v, const struct soft_op *op)
{
    v->op = op;
    if (v->cpl != 0) {
        soft_general_protection(v, op);
    }
}
void soft_check_io(struct soft_vcpu *v, const struct soft_op *op, uint16_t port, uint32_t size);
uint32_t soft_port_read(struct soft_vcpu *v, uint16_t port, uint32_t size);
void soft_port_write(struct soft_vcpu *v, uint16_t port, uint32_t size, uint32_t value);

/* msr.c; false: #GP. */
bool soft_msr_read(struct soft_vcpu *v, uint32_t msr, uint64_t *out_value);
bool soft_msr_write(struct soft_vcpu *v, uint32_t msr, uint64_t value);

/* clock.c */
uint64_t soft_host_tsc_hz(void);
uint64_t soft_tsc(const struct soft_vcpu *v);
/* The counter goes on from 'tsc', as a saved state has it. */
void soft_tsc_restore(struct soft_vcpu *v, uint64_t tsc);
void soft_tsc_set_hz(struct soft_vm *vm, uint64_t hz);
void soft_clock_set_system_time(struct soft_vcpu *v, uint64_t msr_value);
void soft_clock_write_wall_clock(struct soft_vcpu *v, uint64_t msr_value);
uint64_t soft_clock_now_ns(struct soft_vm *vm);
/* Since 1970, as the guest is told. */
uint64_t soft_wall_clock_ns(const struct soft_vm *vm);
void soft_clock_set_ns(struct soft_vm *vm, uint64_t ns);
void soft_clock_init(struct soft_vm *vm);

/* paravirt.c, for the vCPU's own thread, within soft_enter_guest and soft_leave_guest. */
/* False: #GP. */
bool soft_paravirt_msr_read(struct soft_vcpu *v, uint32_t msr, uint64_t *out_value);
bool soft_paravirt_msr_write(struct soft_vcpu *v, uint32_t msr, uint64_t value);
/* Guest code runs from here, and no longer from here: a run of the vCPU, or the sleep of HLT. */
void soft_paravirt_begin(struct soft_vcpu *v);
void soft_paravirt_end(struct soft_vcpu *v);
/* 'vector' has been acknowledged and is about to be delivered. */
void soft_paravirt_interrupt(struct soft_vcpu *v, uint8_t vector);
/* Before the local APIC is asked for anything that depends on what is in service. */
void soft_paravirt_end_interrupt(struct soft_vcpu *v);
void soft_paravirt_reset(struct soft_vcpu *v);
/* hyperv.c; false: #GP. */
bool soft_hyperv_msr_read(struct soft_vcpu *v, uint32_t msr, uint64_t *out_value);
bool soft_hyperv_msr_write(struct soft_vcpu *v, uint32_t msr, uint64_t value);
/* Writes the reference TSC page again: rate or clock have changed. */
void soft_hyperv_update_clock(struct soft_vcpu *v);
/* A hypercall of a guest that has told Hyper-V its name. Registers in and out as that specification has them. */
void soft_hyperv_call(struct soft_vcpu *v, const struct soft_op *op);
/* SOFT_REQUEST_FLUSH. */
void soft_hyperv_flush(struct soft_vcpu *v);

/* VMCALL or VMMCALL. */
void soft_hypercall(struct soft_vcpu *v, const struct soft_op *op);

static inline void soft_sync_apic(struct soft_vcpu *v)
{
    if (unlikely(v->paravirt.is_end_in_memory)) {
        soft_paravirt_end_interrupt(v);
    }
}

/* cpuid.c */
int soft_supported_cpuid(struct x86_cpuid *out_cpuid, struct error *err);
void soft_hypervisor_cpuid(struct x86_cpuid *out_cpuid);
void soft_features_set(struct soft_vcpu *v);
/* After a change of what CPUID tells of: CR4, XCR0, the APIC base. */
void soft_cpuid_forget(struct soft_vcpu *v);
bool soft_host_is_intel(void);
bool soft_cpuid_is_intel(const struct x86_cpuid *cpuid);
struct soft_x87_model soft_host_x87(void);

/* state.c */
void soft_state_get(struct soft_vcpu *v, struct x86_state *out);
/* All of 'state' but its SIPI; events that were requested of the vCPU stay requested. */
int soft_state_load(struct soft_vcpu *v, const struct x86_state *state, struct error *err);
int soft_state_set(struct soft_vcpu *v, const struct x86_state *state, struct error *err);

/* run.c */
enum vcpu_exit soft_run(struct vcpu *vcpu);
void soft_kick(struct vcpu *vcpu);
void soft_wake_from_guest(struct soft_vcpu *v);

/* halt.c. A vCPU's own thread: until one of SOFT_REQUESTS_WAKING is there; soft_halt also returns for other requests, which are
 * to be served first. Any thread, after it has raised a request: soft_wake. */
void soft_halt_init(struct soft_vcpu *v);
void soft_halt(struct soft_vcpu *v);
void soft_sleep(struct soft_vcpu *v);
void soft_wake(struct soft_vcpu *v);
void soft_signal(struct vcpu *vcpu, enum vcpu_signal signal, uint8_t value);

#endif
