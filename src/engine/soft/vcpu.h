/* One vCPU of the software engine: registers in the form that the interpreter likes, TLBs, the block cache.
 * Private to engine/soft. All but 'requests' belongs to the vCPU's own thread. */
#ifndef ENGINE_SOFT_VCPU_H
#define ENGINE_SOFT_VCPU_H

#include <pthread.h>
#include <setjmp.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/core/bits.h"
#include "base/core/compiler.h"
#include "cpu/x86/decode_cache.h"
#include "cpu/x86/paging.h"
#include "cpu/x86/state.h"
#include "engine/engine.h"
#include "engine/memory.h"
#include "engine/soft/halt_poll.h"
#include "engine/soft/op.h"

struct soft_block;
struct soft_native;
struct native_block;
struct soft_simd;
struct soft_trace;
struct soft_lockstep;
struct soft_vm;

/* Bits of 'requests': reasons to leave the blocks, raised by any thread (and by the vCPU for itself). */
#define SOFT_REQUEST_KICK      0x0001u
#define SOFT_REQUEST_INTERRUPT 0x0002u
#define SOFT_REQUEST_NMI       0x0004u
#define SOFT_REQUEST_INIT      0x0008u
#define SOFT_REQUEST_SIPI      0x0010u
#define SOFT_REQUEST_FLUSH_WRITES                                                                  \
    0x0020u /* drop the write entries of the TLBs, then clear the bit */
#define SOFT_REQUEST_STEP                                                                          \
    0x0040u /* own: TF, an interrupt shadow or a breakpoint: one instruction at a time */

#define SOFT_REQUEST_STOP  0x0080u /* stay out of the guest until another vCPU takes this back */
#define SOFT_REQUEST_CODE  0x0200u /* others have written to pages that hold code */
#define SOFT_REQUEST_CLOCK 0x0100u /* write the kvmclock structure again */
#define SOFT_REQUEST_FLUSH 0x0800u /* drop all translations, then clear the bit; see hyperv.c */
#define SOFT_REQUEST_KICKED_BY_GUEST                                                               \
    0x0400u /* another vCPU woke it by a hypercall: its HLT, or its next one, ends */

/* Those that wake a sleeper. */
#define SOFT_REQUESTS_WAKING                                                                       \
    (SOFT_REQUEST_KICK | SOFT_REQUEST_INTERRUPT | SOFT_REQUEST_NMI | SOFT_REQUEST_INIT |           \
     SOFT_REQUEST_SIPI | SOFT_REQUEST_KICKED_BY_GUEST)

/* The soft TLB: direct mapped, one array for each kind of access rights. A tag is the page's address; those of permissions
 * that the entry lacks are soft_tlb_invalid(index): an address that is not canonical and has its place in another entry, so
 * that no access ever matches it. */
#define SOFT_TLB_BITS 12
#define SOFT_TLB_SIZE (1u << SOFT_TLB_BITS)

enum soft_tlb_mode {
    SOFT_TLB_SUPERVISOR, /* SMAP in force */
    SOFT_TLB_USER,
    SOFT_TLB_SUPERVISOR_AC, /* no SMAP, or RFLAGS.AC lifts it */
    SOFT_TLB_MODES,
};

struct soft_tlb {
    uint64_t read_tag[SOFT_TLB_SIZE], write_tag[SOFT_TLB_SIZE], fetch_tag[SOFT_TLB_SIZE];
    uint8_t *hva[SOFT_TLB_SIZE]; /* of the page */
    /* Which entries may hold something of each enum soft_tlb_class: what a flush has to visit. */
    uint64_t filled[3][SOFT_TLB_SIZE / 64];
    uint64_t filled_words[3]; /* those that may not be 0 */
};

static inline uint64_t soft_tlb_invalid(size_t index)
{
    return BIT(63) | (index ? 0 : GUEST_PAGE_SIZE);
}

/* The second level, see tlb.h. Keys: number of the page, then the tag of its address space. */
#define SOFT_SPACE_TAG_BITS 28u
#define SOFT_SPACE_COUNT    4096u /* PCIDs */
#define SOFT_SECOND_SETS    2048u
#define SOFT_SECOND_WAYS    4u
#define SOFT_SECOND_LARGE   1024u
#define SOFT_LARGE_SHIFT    21
#define SOFT_LARGE_BITS     512u
#define SOFT_HUGE_SIZE      (1ull << 30)

struct soft_tlb_entry {
    uint64_t key;
    uint64_t page; /* guest physical address and SOFT_PAGE_* */
};

/* An address space that does not run. */
struct soft_space {
    uint32_t tag;
    uint64_t native_epoch; /* of its lower half */
};

struct soft_second {
    struct soft_tlb_entry page[SOFT_SECOND_SETS][SOFT_SECOND_WAYS] __attribute__((aligned(64)));
    struct soft_tlb_entry large[SOFT_SECOND_LARGE]; /* 2 MiB each */
    uint32_t tag, global_tag;                       /* now; all tags that ever were are lower */
    uint32_t last_tag;
    uint32_t oldest_tag; /* those of 'space' before it are void */
    uint16_t pcid;
    struct soft_space space[SOFT_SPACE_COUNT];
};

/* Addresses that pages of more than 2 MiB span: INVLPG there flushes all. Empty: first > last. */
struct soft_huge_range {
    uint64_t first, last;
};

/* Written by the vCPU's thread, read by any: whole words, no order. */
struct soft_stats {
    uint64_t instructions, blocks_decoded, blocks_translated, code_cache_flushes, native_misses,
        tlb_misses, tlb_second_hits, tlb_walks, tlb_faults, tlb_unbacked, tlb_code_writes,
        tlb_long_way, tlb_flushes, tlb_flushes_all, tlb_page_flushes, tlb_space_switches,
        code_forgotten, exits_mmio, exits_pio, interrupts, exceptions, halts, halt_polls,
        halt_polls_woken, halt_polls_busy, lockstep_equal, lockstep_repeated, lockstep_left_out,
        window_faults, window_fills, window_checks;
};

/* A page with code that may be written, but never by a write entry of the TLB: so that its writers need no page walk. Good
 * while no translation has gone. */
struct soft_code_page {
    uint64_t tag; /* as the TLB's */
    const struct soft_tlb *tlb;
    uint64_t epoch;
    const struct guest_slot *slot;
    size_t index;
    uint8_t *hva;
};
#define SOFT_CODE_PAGES 16u

#define SOFT_JUMP_CACHE_BITS 12
#define SOFT_BLOCK_HASH_BITS 14
#define SOFT_BLOCK_PAGE_BITS 12
#define SOFT_ARENA_SEGMENTS  8

struct soft_jump_entry {
    uint64_t linear;
    uint64_t tag; /* mode and epoch, see soft_block_tag */
    struct soft_block *block;
};

/* What x87 instructions note of themselves (SDM 1 8.1.8 and 8.1.9), as the host's do: its own units keep these fields.
 * 'has_fop', 'has_fdp': each of them, not those alone that raise an unmasked exception. CPUs of Intel do so with FDP if they are
 * old, with FOP never. 'has_selectors': FCS and FDS, which are 0 on newer ones. 'hides_pointers': FXSAVE and XSAVE show pointers
 * only while an exception is pending. CPUs of AMD do all four. 'pointer_bits': of FIP and FDP where they are kept as linear
 * addresses: 48, or 57 if the host's have so many. */
struct soft_x87_model {
    bool has_fop, has_fdp, has_selectors, hides_pointers;
    uint8_t pointer_bits;
};

#define NATIVE_X87_NOTED 0x10000u

/* An entry of translated code's jump cache; see translate/block_table.h. */
#define NATIVE_JUMP_BITS 16
#define NATIVE_JUMP_SIZE (1u << NATIVE_JUMP_BITS)

struct soft_native_jump {
    uint64_t rip;
    uint64_t tag;              /* mode and epoch; 0: empty */
    const uint8_t *code;       /* with the status flags in 'status' */
    const uint8_t *flags_code; /* with them in the host's */
};

/* What a CALL of translated code leaves for the RET that takes the return address from the same place of the stack; see
 * translate/call_return.c. */
#define NATIVE_CALL_BITS 8

struct soft_native_call {
    uint64_t rip; /* the return address */
    const uint8_t *code;
};

/* By bits 55:40 of an address: what lies higher makes a host address that is not canonical. */
#define SOFT_WINDOW_SHIFT 40
#define SOFT_WINDOW_SLOTS 65536u

/* Windows by what a process has them for rather than by where they are, which differs from process to process where layouts are
 * random: its first ones in the order of their addresses (program and heap; libraries), and the last one (the stack). Blocks that
 * processes share guess these. */
#define SOFT_WINDOW_ROLES     4u
#define SOFT_WINDOW_ROLE_LAST (SOFT_WINDOW_ROLES - 1)

/* Results of CPUID, for translated code: by the sum of leaf and subleaf. Those of no use are of a leaf that is looked for
 * elsewhere. */
#define SOFT_CPUID_KNOWN 16u
struct soft_cpuid_known {
    uint32_t leaf, subleaf;
    uint32_t eax, ebx, ecx, edx;
    uint64_t unused;
};

/* What paravirt.c keeps beside the MSRs. */
struct soft_paravirt {
    uint32_t features;         /* KVM_FEATURE_*, as announced to the guest */
    bool has_hyperv;           /* announced */
    uint64_t hyperv_vp_assist; /* MSR */
    bool is_unhalted;          /* the next HLT ends at once */
    atomic_bool is_running;    /* between soft_paravirt_begin and soft_paravirt_end */
    bool
        is_end_in_memory; /* of the interrupt in service: the guest may have noted it instead of writing to EOI */
    uint64_t end_gpa; /* where */
    /* Steal time: the host's clocks when last looked at, what is still to be told to the guest, and when. */
    uint64_t wall_ns, thread_ns, due_tsc;
    int64_t stolen_ns;
};

#define SOFT_DR6_BS (1u << 14)

/* A vCPU that spins waits for others, which may need its host CPU. Some microseconds of a usual spin loop: more than what most
 * locks are held for. */
#define SOFT_PAUSES_UNTIL_YIELD 64

struct soft_vcpu {
    /* The hot part. What translated code uses most is near the element for R13, where its RSP points to (block_table.h's
     * NATIVE_ANCHOR); the registers before that are in the host's while it runs. */
    uint64_t native_tag;             /* of blocks in the jump cache that may run */
    uint64_t native_target;          /* of an indirect branch under way */
    uint64_t native_return;          /* of the stub that fills the TLB */
    uint64_t gpr[X86_GPR_COUNT + 3]; /* and the pseudo registers SOFT_REG_* */
    /* Status flags as LAHF and SETO give them: AH in bits 15:8 (SF ZF 0 AF 0 PF 1 CF), OF in bit 0. */
    uint16_t status;
    uint8_t native_vectors_live; /* the host's registers hold vector[] and mxcsr */
    uint8_t native_x87_live;     /* and fx[] */
    _Atomic uint32_t requests;
    uint32_t native_epoch[2]; /* of the halves of the address space; translate/block_table.c */
    uint64_t
        native_page; /* what blocks' RIPs lack: the page's number (address >> 12), of shared ones; or 0 */
    uint64_t window_role_add[SOFT_WINDOW_ROLES]; /* the elements of window_table at ... */
    uint8_t window_role_slot[SOFT_WINDOW_ROLES]; /* ... these bits 47:40 of addresses */
    uint64_t native_group[16]; /* host addresses of groups of accesses in the block that runs */
    uint64_t rip;              /* between blocks */
    uint32_t flags;            /* RFLAGS without the status flags */
    struct soft_tlb *tlb;      /* the one of the current mode */
    uint64_t segment_base[X86_SEGMENT_COUNT]; /* as added to addresses in this mode */
    uint8_t flat_read, flat_write; /* bit n: segment n has base 0, limit 4 GiB and allows it */
    uint8_t cpl;
    uint8_t code_size;   /* enum x86_code_size */
    uint8_t stack_bytes; /* 2, 4, 8: width of the stack pointer */
    bool align_check;    /* CPL 3, CR0.AM and RFLAGS.AC */
    /* Translated code's own. */
    uint32_t native_mode; /* of the blocks that run */
    uint64_t native_host_rsp;
    struct {
        uint64_t access;     /* 32 bits of it */
        uint8_t had_vectors; /* the host's registers held them */
        bool has_fault;      /* it is the guest's #PF, and native_on_page_fault's turn */
        uint32_t error;
        uint64_t gva;
        uint8_t *hva;          /* NATIVE_MISS_ONCE */
    } native_miss;             /* that native_on_fill is asked about */
    uint64_t native_fault_rip; /* of the instruction that may fault on the host */
    int32_t native_budget;     /* icount.h: instructions that may run until something is due */
    uint32_t
        native_fault_unrun; /* those of the block that have not run when native_fault_rip faults */
    uint32_t native_host_mxcsr;
    uint8_t native_x87_is_saved; /* fx[] comes from the host: its pointers are to be seen to */
    struct {
        uint64_t fip, fdp;
        uint32_t fop, segment;    /* with NATIVE_X87_NOTED */
    } native_x87;                 /* the last instruction and operand */
    struct soft_native *native;   /* NULL: interpreter only */
    struct soft_windows *windows; /* NULL: none; windows.h */
    uint8_t window_state;         /* enum soft_window_state */
    bool windows_own_blocks; /* blocks with windows are the process's own, not shared with others */
    struct soft_lockstep *lockstep; /* NULL: off */
    const struct soft_op *op;       /* the instruction under way, for the RIP of exceptions */
    struct soft_block *block;
    uint64_t block_epoch
        [2]; /* of the halves of the address space: part of the jump cache's tags, raised when blocks or mappings go */
    uintptr_t chain_floor; /* the stack pointer's least value for a chain to go on */
    uint64_t
        chain_tag[2]; /* the tags of blocks that may follow at once, in each half; see block.h */

    /* Vector registers: all 32 bytes, YMM in one piece. */
    uint8_t vector[16][32] __attribute__((aligned(64)));
    /* x87 and MMX in FXSAVE64 format (XMM and MXCSR fields unused). */
    uint8_t fx[512] __attribute__((aligned(64)));
    uint8_t fx_header[64]; /* for XSAVE and XRSTOR by translated code */
    uint32_t mxcsr;
    struct soft_simd *simd; /* simd.c's own */

    struct x86_segment segment[X86_SEGMENT_COUNT];
    struct x86_segment ldtr, tr;
    struct x86_table gdtr, idtr;
    uint64_t cr0, cr2, cr3, cr4, xcr0, efer;
    uint64_t dr[4], dr6, dr7;
    uint64_t pdpte[4];
    uint64_t star, lstar, cstar, sfmask, kernel_gs_base;
    uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
    uint64_t pat, tsc_aux, tsc_adjust, misc_enable, spec_ctrl, xss;
    uint64_t apic_base, tsc_deadline;
    uint64_t mtrr_def_type, mtrr_fixed[11], mtrr_base[8], mtrr_mask[8];
    uint64_t mcg_status, mcg_cap;
    uint64_t kvm_system_time, kvm_wall_clock, kvm_steal_time, kvm_async_pf, kvm_async_pf_int,
        kvm_pv_eoi, kvm_poll_control;
    _Atomic uint64_t tsc_offset; /* guest TSC minus the host's, at the guest's rate */
    uint32_t clock_version;      /* of the kvmclock structure */
    struct soft_paravirt paravirt;
    struct {
        uint64_t end; /* how many instructions will have run when native_budget is 0 */
        uint64_t skipped_ns, deadline_ns;
        uint64_t random;
    } icount; /* icount.h */

    /* Events. */
    bool shadow_sti, shadow_mov_ss; /* until after the next instruction */
    bool nmi_masked;
    bool exception_pending; /* from set_state: deliver first */
    bool exception_has_error;
    uint8_t exception_vector;
    uint32_t exception_error;
    bool interrupt_injected, interrupt_is_soft, nmi_injected; /* same */
    uint8_t interrupt_vector;
    _Atomic uint8_t sipi_vector;
    uint64_t pending_dr6;
    enum x86_activity activity;
    uint64_t monitor_gpa;

    /* The exception that soft_raise carries to the loop. */
    sigjmp_buf raise_to;
    struct {
        uint8_t vector;
        bool has_error;
        bool is_external; /* not of this instruction */
        uint32_t error;
    } raised;

    /* The vector under delivery (-1: none): how a second exception becomes a double or triple fault. */
    int delivering;
    bool interrupt_waiting; /* the APIC has one, but IF or a shadow is against it */
    bool nmi_waiting;
    bool goes_by_new_tf; /* SYSCALL and SYSRET: single steps go by the TF that they leave */
    bool is_stepping;
    bool has_stopped_others;
    uint32_t pauses;    /* PAUSE since the host's CPU was last offered to others */
    bool has_delivered; /* an event, since the step began: no single-step trap for INT n */
    /* halt.c */
    atomic_bool is_sleeping;
    struct soft_halt_poll halt_poll;
    uint64_t halt_yield_ticks, halt_short_yield_ticks, halt_long_gap_ticks;

    struct vcpu vcpu;
    struct soft_vm *vm;
    struct x86_cpuid cpuid;
    struct soft_cpuid_known cpuid_known[SOFT_CPUID_KNOWN];
    uint64_t instruction_sets; /* bit n: enum x86_feature n is announced to the guest */
    uint8_t physical_bits;
    struct soft_features {
        bool pcid, smep, smap, umip, fsgsbase, nx, gbpages, rdtscp, rdpid, invpcid, xsave, x2apic,
            tsc_deadline, vme, automatic_ibrs, pge, avx, arch_capabilities, spec_ctrl, bhi_ctrl,
            ffxsr;
    } features;
    struct error error;

    atomic_bool is_in_guest; /* for those who wait for it to leave guest code */

    struct x86_decode_cache decode_cache;
    uint32_t native_jump_patience; /* hits beside their place until the next one gets it */
    struct soft_native_jump native_jump[NATIVE_JUMP_SIZE] __attribute__((aligned(64)));
    uint32_t native_jump_block[NATIVE_JUMP_SIZE]; /* their blocks; 0: none */
    /* Of each mode; and for which tag they are good: those of supervisors, of users. */
    struct soft_native_call native_call[SOFT_TLB_MODES][1u << NATIVE_CALL_BITS]
        __attribute__((aligned(64)));
    uint64_t native_call_tag[2];
    uint64_t window_table[SOFT_WINDOW_SLOTS]; /* windows.h */
    struct soft_tlb tlbs[SOFT_TLB_MODES];
    struct soft_code_page code_page[SOFT_CODE_PAGES];
    uint64_t code_page_epoch; /* raised with each flush */
    struct soft_second second;
    /* Which regions of 2 MiB may have entries of large pages in the first level, in each half; and which had code in such. */
    uint64_t large_regions[2][SOFT_LARGE_BITS / 64], large_code_regions[SOFT_LARGE_BITS / 64];
    struct soft_huge_range huge[2];
    /* There is, or was, code in pages of the upper half that are not global, of the lower half that are. */
    bool upper_code_has_local, lower_code_has_global;
    struct soft_jump_entry jump_cache[1u << SOFT_JUMP_CACHE_BITS];
    uint64_t block_pages[(1u << SOFT_BLOCK_PAGE_BITS) / 64]; /* see soft_block_page_bit */
    struct soft_block *block_hash[1u << SOFT_BLOCK_HASH_BITS];
    uint8_t *arena; /* blocks, in a ring of segments; see block.c */
    struct soft_block *segment_blocks[SOFT_ARENA_SEGMENTS];
    uint32_t arena_segment; /* the one that fills, and how far from its two ends */
    size_t arena_used, arena_kept;

    struct soft_stats stats;
};

/* Which processes have windows (windows.h). */
enum soft_windows_policy {
    SOFT_WINDOWS_AUTO,
    SOFT_WINDOWS_NEVER,
    SOFT_WINDOWS_ALWAYS, /* all at once: for tests */
};

/* Are jumps kept from lying badly for some CPUs of Intel's (emit_fit)? */
enum soft_jumps_policy {
    SOFT_JUMPS_AUTO, /* on those */
    SOFT_JUMPS_FIT,
    SOFT_JUMPS_FREE,
};

struct soft_vm {
    struct vm vm;
    struct soft_vcpu *_Atomic vcpu[ENGINE_MAX_VCPUS];
    pthread_mutex_t lock;      /* the vcpu array, the dirty log */
    pthread_mutex_t code_lock; /* block.c: a page is being marked as code */
    pthread_mutex_t stop_lock; /* held by the vCPU that has stopped all others, see stop.c */
    _Atomic(_Atomic uint64_t *) dirty[GUEST_MEMORY_MAX_SLOTS];
    _Atomic uint64_t *dirty_storage[GUEST_MEMORY_MAX_SLOTS];
    /* Hyper-V's MSRs of the VM. */
    _Atomic uint64_t hyperv_guest_os_id, hyperv_hypercall, hyperv_reference_tsc;
    _Atomic uint32_t hyperv_sequence; /* of the reference TSC page */
    bool interprets;                  /* option: no translator */
    bool has_exact_flags;             /* option: see docs/engines.md */
    bool keeps_locks;                 /* option: LOCK means something with one vCPU, too */
    size_t code_cache_size;           /* option: bytes of translated code for each vCPU */
    uint32_t halt_poll_ns;            /* option: see halt_poll.h */
    enum soft_windows_policy windows; /* option */
    enum soft_jumps_policy jumps;     /* option: see emit_fit */
    bool verifies;                    /* option: each translated block is verified */
    struct soft_trace *trace;         /* NULL: none */
    struct {
        bool is_on;
        uint32_t shift;          /* an instruction takes 1 << shift ns */
    } icount;                    /* option: see icount.h */
    bool is_lockstep;            /* option: the interpreter checks the translator */
    uint64_t initial_tsc_offset; /* so that the guest's counter starts near 0 */
    bool is_intel; /* the guest's CPU: the host's vendor, or what a saved guest has seen */
    struct soft_x87_model x87;
    uint64_t tsc_hz;           /* the guest's */
    uint64_t tsc_ratio;        /* guest ticks in a host tick, times 2^32; 0: they are the same */
    _Atomic uint64_t tsc_base; /* of vCPU 0 as restored: its offset without TSC_ADJUST */
    _Atomic int64_t clock_offset_ns; /* kvmclock minus the host's TSC in ns */
};

static inline struct soft_vcpu *soft_from_vcpu(struct vcpu *vcpu)
{
    return container_of(vcpu, struct soft_vcpu, vcpu);
}

static inline struct soft_vm *soft_from_vm(struct vm *vm)
{
    return container_of(vm, struct soft_vm, vm);
}

/* Raise an exception of the instruction under way (v->op is set by the accessors' slow paths; handlers that raise by
 * themselves pass their op): the registers must be as before it. Never return. */
noreturn_fn void soft_raise(struct soft_vcpu *v, const struct soft_op *op, uint8_t vector);
noreturn_fn void soft_raise_error(struct soft_vcpu *v, const struct soft_op *op, uint8_t vector,
                                  uint32_t error);
/* #PF with CR2. */
noreturn_fn void soft_raise_page_fault(struct soft_vcpu *v, uint64_t gva, uint32_t error);

/* RFLAGS in whole, and the status flags alone from RFLAGS' layout. */
static inline uint32_t soft_rflags(const struct soft_vcpu *v)
{
    return v->flags | ((v->status >> 8) & 0xd5u) | (v->status & 1u) << 11;
}

static inline void soft_set_status(struct soft_vcpu *v, uint32_t rflags)
{
    v->status = (uint16_t)((rflags & 0xd5u) << 8 | 0x200u | ((rflags >> 11) & 1u));
}

static inline void soft_request(struct soft_vcpu *v, uint32_t bits)
{
    atomic_fetch_or(&v->requests, bits);
}

static inline bool soft_is_long(const struct soft_vcpu *v)
{
    return v->efer & X86_EFER_LMA;
}

static inline bool soft_is_64(const struct soft_vcpu *v)
{
    return v->code_size == X86_CODE_64;
}

static inline bool soft_is_protected(const struct soft_vcpu *v)
{
    return v->cr0 & X86_CR0_PE;
}

static inline bool soft_is_v86(const struct soft_vcpu *v)
{
    return v->flags & X86_FLAG_VM;
}

/* How the decoder is to read code: as the guest's CPU does. */
static inline enum x86_code_size soft_decode_as(const struct soft_vm *vm, enum x86_code_size size)
{
    return size == X86_CODE_64 && vm->is_intel ? X86_CODE_64_INTEL : size;
}

/* RIP of 'op' and of the instruction behind it. */
static inline uint64_t soft_mask_ip(const struct soft_vcpu *v, uint64_t ip)
{
    return v->code_size == X86_CODE_64   ? ip
           : v->code_size == X86_CODE_32 ? (uint32_t)ip
                                         : (uint16_t)ip;
}

static inline uint64_t soft_op_rip(const struct soft_vcpu *v, const struct soft_op *op)
{
    return soft_mask_ip(v, v->gpr[SOFT_REG_RIP] + op->offset);
}

static inline uint64_t soft_op_next_rip(const struct soft_vcpu *v, const struct soft_op *op)
{
    return soft_mask_ip(v, v->gpr[SOFT_REG_RIP] + op->offset + op->length);
}

/* simd.c: per-vCPU parts. */
int soft_simd_init(struct soft_vcpu *v, struct error *err);
void soft_simd_fini(struct soft_vcpu *v);

#endif
