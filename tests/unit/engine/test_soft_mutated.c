/* Blocks of real code with a few bits changed: whatever of them the verifier takes is run, in a child whose guest memory
 * lies between guard pages and whose other memory is read-only. It must not fault but where the guest may, and must leave
 * alone what is not for blocks. The guest code is that of this program and its libraries.
 *
 * Zydis, where it is there, has to agree with the decoder about every instruction of the blocks as well: the verifier is
 * only as good as it. */
#include "engine/soft/translate/verify.h"

#include <errno.h>
#include <link.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "soft_guest.h"

#ifdef HAVE_ZYDIS
#include <Zydis/Zydis.h>
#endif

#define RAM_SIZE  ((size_t)SOFT_TLB_SIZE * GUEST_PAGE_SIZE)
#define BLOCKS    120 /* MUTATION_BLOCKS in the environment: another number */
#define MUTATIONS 250
#define MAX_TAKEN MUTATIONS

struct mutation {
    uint32_t offset;
    uint8_t size;
    uint8_t bytes[4];
};

struct bed {
    struct soft_guest guest;
    struct soft_vcpu *v;
    struct native_verifier *verifier;
    uint8_t *
        ram; /* a page of the linear address space in each TLB entry; every other one is read-only */
    uint64_t random;
    struct mutation taken[MAX_TAKEN];
    size_t taken_count;
    uint8_t *vcpu_before;
    uint8_t stubs[16384];
    size_t used, cold_used, meta_used; /* of a code cache without blocks */
    struct {
        const uint8_t *pages;
        size_t count;
    } text[8];
    size_t text_count;
};

static uint64_t next_random(struct bed *b)
{
    b->random ^= b->random << 13;
    b->random ^= b->random >> 7;
    b->random ^= b->random << 17;
    return b->random * 0x2545f4914f6cdd1dull;
}

static bool is_read_only(size_t page)
{
    return page & 1;
}

/* Pages of the linear address space [0, RAM_SIZE), all of which the TLBs know. */
static void map_ram(struct bed *b)
{
    uint8_t *all =
        mmap(NULL, RAM_SIZE * 3, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert_ptr_not_equal(all, MAP_FAILED);
    /* Each page has a guard page on either side. */
    b->ram = all;
    for (size_t i = 0; i < SOFT_TLB_SIZE; i++) {
        uint8_t *page = all + (3 * i + 1) * GUEST_PAGE_SIZE;
        assert_int_equal(mprotect(page, GUEST_PAGE_SIZE, PROT_READ | PROT_WRITE), 0);
        for (size_t k = 0; k < GUEST_PAGE_SIZE; k += 8) {
            uint64_t value = next_random(b) % RAM_SIZE;
            memcpy(page + k, &value, sizeof(value));
        }
        for (size_t mode = 0; mode < SOFT_TLB_MODES; mode++) {
            struct soft_tlb *tlb = &b->v->tlbs[mode];
            tlb->hva[i] = page;
            tlb->read_tag[i] = i * GUEST_PAGE_SIZE;
            tlb->write_tag[i] = is_read_only(i) ? soft_tlb_invalid(i) : tlb->read_tag[i];
        }
        if (is_read_only(i)) {
            assert_int_equal(mprotect(page, GUEST_PAGE_SIZE, PROT_READ), 0);
        }
    }
}

static int add_text(struct dl_phdr_info *info, size_t size, void *ctx)
{
    struct bed *b = ctx;
    for (size_t i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *header = &info->dlpi_phdr[i];
        if (header->p_type == PT_LOAD && header->p_flags & PF_X && header->p_flags & PF_R &&
            header->p_filesz >= GUEST_PAGE_SIZE && b->text_count < ARRAY_COUNT(b->text)) {
            b->text[b->text_count].pages = (const uint8_t *)(info->dlpi_addr + header->p_vaddr);
            b->text[b->text_count++].count = header->p_filesz / GUEST_PAGE_SIZE;
        }
    }
    return 0;
}

/* A page of this program or of a library. */
static const uint8_t *random_text(struct bed *b)
{
    size_t i = next_random(b) % b->text_count;
    return b->text[i].pages + next_random(b) % b->text[i].count * GUEST_PAGE_SIZE;
}

static int set_up(void **state)
{
    struct bed *b = calloc(1, sizeof(*b));
    assert_non_null(b);
    const char *seed = getenv("MUTATION_SEED");
    b->random = seed ? strtoull(seed, NULL, 0) | 1 : 0x123456789abcdef1ull;
    guest_start_with(&b->guest, 1, "verify=on");
    b->v = soft_from_vcpu(b->guest.vcpu[0]);
    b->verifier = native_verifier_create(65536);
    b->vcpu_before = malloc(sizeof(*b->v));
    assert_true(b->verifier && b->vcpu_before);
    map_ram(b);
    dl_iterate_phdr(add_text, b);
    assert_true(b->text_count > 0 && b->v->native->fixed <= sizeof(b->stubs));
    memcpy(b->stubs, b->v->native->writable, b->v->native->fixed);
    b->used = b->v->native->used;
    b->cold_used = b->v->native->cold_used;
    b->meta_used = b->v->native->meta_used;
    *state = b;
    return 0;
}

static int tear_down(void **state)
{
    struct bed *b = *state;
    native_verifier_destroy(b->verifier);
    munmap(b->ram, RAM_SIZE * 3);
    guest_end(&b->guest);
    free(b->vcpu_before);
    free(b);
    return 0;
}

static uint8_t *code_of(const struct bed *b, const struct native_block *block)
{
    return native_code(b->v->native, block);
}

static struct native_block *random_block(struct bed *b)
{
    static const uint32_t vectors[] = {0, NATIVE_MODE_SSE, NATIVE_MODE_SSE | NATIVE_MODE_AVX};
    struct soft_native *n = b->v->native;
    uint32_t mode = (uint32_t)(next_random(b) % SOFT_TLB_MODES) | vectors[next_random(b) % 3];
    n->used = b->used;
    n->cold_used = b->cold_used;
    n->meta_used = b->meta_used;
    struct native_block *block = NULL;
    while (!block) {
        uint64_t rip = 0x7000 + next_random(b) % 0xf00;
        block = native_translate(b->v, rip, rip, mode, random_text(b));
    }
    b->v->native_mode = mode;
    return block;
}

static struct mutation random_mutation(struct bed *b, const struct native_block *block)
{
    static const uint8_t values[] = {0x00, 0xff, 0x80, 0x7f, 0x01, 0x90, 0x48, 0x49, 0x4c};
    uint64_t at_byte = next_random(b) % (block->code_size + block->cold_size);
    bool is_cold = at_byte >= block->code_size;
    uint32_t start = is_cold ? block->cold : block->code;
    uint32_t size = is_cold ? block->cold_size : block->code_size;
    uint8_t *code = b->v->native->writable;
    struct mutation m = {.offset = start + (uint32_t)(next_random(b) % size), .size = 1};
    const uint8_t *at = code + m.offset;
    int32_t value;
    switch (next_random(b) % 4) {
    case 0:
        m.bytes[0] = *at ^ (uint8_t)(1u << next_random(b) % 8);
        break;
    case 1:
        m.bytes[0] = values[next_random(b) % ARRAY_COUNT(values)];
        break;
    case 2:
        m.bytes[0] = (uint8_t)next_random(b);
        break;
    default:
        /* What may be a displacement moves a little. */
        m.offset = start + (uint32_t)(next_random(b) % (MAX(size, 4) - 3));
        m.size = 4;
        memcpy(&value, code + m.offset, sizeof(value));
        value += (int32_t)(next_random(b) % 257) - 128;
        memcpy(m.bytes, &value, sizeof(value));
        break;
    }
    return m;
}

static void exchange(uint8_t *code, struct mutation *m)
{
    uint8_t old[4];
    memcpy(old, code + m->offset, m->size);
    memcpy(code + m->offset, m->bytes, m->size);
    memcpy(m->bytes, old, m->size);
}

static void take_mutations(struct bed *b, const struct native_block *block)
{
    b->taken_count = 0;
    for (int i = 0; i < MUTATIONS; i++) {
        struct mutation m = random_mutation(b, block), back = m;
        if (memcmp(b->v->native->writable + m.offset, m.bytes, m.size) == 0) {
            continue;
        }
        exchange(b->v->native->writable, &back);
        if (native_verify(b->verifier, b->v, block, NULL) == 0) {
            b->taken[b->taken_count++] = m;
        }
        exchange(b->v->native->writable, &back);
    }
}

/* In the child from here on. */

static sigjmp_buf after_run;
static const struct mutation *under_way;
static uint8_t signal_stack[65536] __attribute__((aligned(4096)));

static void say(const char *text)
{
    (void)!write(STDERR_FILENO, text, strlen(text));
}

static void on_signal(int number, siginfo_t *info, void *context)
{
    if (number == SIGVTALRM || number == SIGFPE) {
        siglongjmp(after_run, 1); /* a loop; a division */
    }
    char line[160];
    const ucontext_t *c = context;
    snprintf(line, sizeof(line),
             "signal %d at pc %llx, address %p; mutation at %x: %02x %02x %02x %02x\n", number,
             (unsigned long long)c->uc_mcontext.gregs[REG_RIP], info->si_addr, under_way->offset,
             under_way->bytes[0], under_way->bytes[1], under_way->bytes[2], under_way->bytes[3]);
    say(line);
    _exit(2);
}

/* All but guest memory, the vCPU, its code and the stack becomes read-only. */
static void close_memory(const struct bed *b)
{
    uintptr_t here = (uintptr_t)__builtin_frame_address(0);
    const struct {
        uintptr_t start, end;
    } open[] = {
        {(uintptr_t)b->v - NATIVE_STACK_SIZE, (uintptr_t)(b->v + 1)},
        {(uintptr_t)b->ram, (uintptr_t)b->ram + RAM_SIZE * 3},
        {(uintptr_t)b->v->native->writable, (uintptr_t)b->v->native->writable + b->v->native->size},
        {(uintptr_t)&after_run & ~4095ul, (uintptr_t)(&after_run + 1)},
        {(uintptr_t)&under_way & ~4095ul, (uintptr_t)(&under_way + 1)},
        {(uintptr_t)signal_stack, (uintptr_t)signal_stack + sizeof(signal_stack)},
        {(uintptr_t)b, (uintptr_t)(b + 1)},
        {(uintptr_t)b->vcpu_before, (uintptr_t)b->vcpu_before + sizeof(*b->v)},
    };
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[512];
    unsigned long start[512], end[512];
    size_t count = 0;
    while (maps && count < 512 && fgets(line, sizeof(line), maps)) {
        char rights[8];
        if (sscanf(line, "%lx-%lx %7s", &start[count], &end[count], rights) == 3 &&
            rights[1] == 'w' && !(here >= start[count] && here < end[count])) {
            count++;
        }
    }
    for (size_t i = 0; i < count; i++) {
        for (uintptr_t page = start[i]; page < end[i]; page += GUEST_PAGE_SIZE) {
            bool is_open = false;
            for (size_t k = 0; k < ARRAY_COUNT(open); k++) {
                is_open |= page + GUEST_PAGE_SIZE > open[k].start && page < open[k].end;
            }
            if (is_open) {
                continue;
            }
            uintptr_t last = page + GUEST_PAGE_SIZE;
            while (last < end[i]) {
                bool next_is_open = false;
                for (size_t k = 0; k < ARRAY_COUNT(open); k++) {
                    next_is_open |= last + GUEST_PAGE_SIZE > open[k].start && last < open[k].end;
                }
                if (next_is_open) {
                    break;
                }
                last += GUEST_PAGE_SIZE;
            }
            mprotect((void *)page, last - page, PROT_READ);
            page = last - GUEST_PAGE_SIZE;
        }
    }
}

/* There are no TLB entries to be had; who asks for an address for one time gets one that is followed by a guard page at once. */
static void short_fill(const struct bed *b)
{
    uint8_t *page_end = b->ram + 2 * GUEST_PAGE_SIZE; /* of the first, which may be written */
    struct emitter e = {.at = b->v->native->fill};
    static const uint8_t asks[] = {
        0x41, 0xf7, 0xc7, 0x00, NATIVE_FILL_ONCE >> 8,
        0,    0,    /* test r15d, NATIVE_FILL_ONCE */
        0x74, 0x22, /* jz fails */
        0x41, 0x81, 0xe7, 0xff, (NATIVE_FILL_ONCE - 1) >> 8,
        0,    0, /* and r15d, NATIVE_FILL_ONCE - 1 */
        0x41, 0x81, 0xff, 0x00, GUEST_PAGE_SIZE >> 8,
        0,    0,    /* cmp r15d, GUEST_PAGE_SIZE */
        0x77, 0x12, /* ja fails */
    };
    static const uint8_t answers[] = {
        0x4d, 0x29, 0xfe,             /* sub r14, r15 */
        0x48, 0x83, 0xfc, 0x00, 0xc3, /* cmp rsp, 0; ret: 'above' */
        0x45, 0x31, 0xff,             /* fails: xor r15d, r15d */
        0x41, 0x83, 0xff, 0x01, 0xc3, /* cmp r15d, 1; ret: 'below' */
    };
    memcpy(e.at, asks, sizeof(asks));
    e.at += sizeof(asks);
    emit8(&e, 0x49); /* mov r14, page_end */
    emit8(&e, 0xbe);
    emit64(&e, (uint64_t)(uintptr_t)page_end);
    memcpy(e.at, answers, sizeof(answers));
}

/* Stubs that would call C code leave at once. */
static void short_stubs(const struct bed *b)
{
    struct soft_native *n = b->v->native;
    uint8_t *const called[] = {n->interpret,  n->string,  n->syscall,  n->sysret,
                               n->iret,       n->exit_at, n->indirect, n->indirect_shared,
                               n->page_fault, n->invlpg};
    for (size_t i = 0; i < ARRAY_COUNT(called); i++) {
        struct emitter e = {.at = called[i]};
        emit8(&e, 0x41); /* pop r14 */
        emit8(&e, 0x5e);
        emit_bind(emit_jmp(&e), n->leave);
    }
    for (size_t i = 0; i < NATIVE_STRING_STUBS; i++) {
        struct emitter e = {.at = n->window_string[i].code};
        emit_bind(emit_jmp(&e), n->string);
        for (size_t mode = 0; mode < SOFT_TLB_MODES; mode++) {
            e.at = n->tlb_string[mode][i];
            emit_bind(emit_jmp(&e), n->string);
        }
    }
    uint8_t *const jumped_to[] = {n->make_link, n->no_call};
    for (size_t i = 0; i < ARRAY_COUNT(jumped_to); i++) {
        struct emitter e = {.at = jumped_to[i]};
        emit_bind(emit_jmp(&e), n->leave);
    }
    short_fill(b);
    for (size_t i = 0; i < NATIVE_SMALL_COUNT; i++) {
        *n->small[i] = 0xc3;
    }
}

static bool comes_back(const struct soft_native *n, const uint8_t *stub)
{
    bool is_small = stub == n->load_vectors || stub == n->load_x87 || stub == n->fill;
    for (size_t i = 0; i < NATIVE_SMALL_COUNT; i++) {
        is_small = is_small || stub == n->small[i];
    }
    return is_small;
}

static void random_registers(struct bed *b)
{
    for (int i = 0; i < X86_GPR_COUNT; i++) {
        uint64_t value = next_random(b) % RAM_SIZE;
        switch (next_random(b) % 8) {
        case 0:
            value |= 0xff8; /* near the end of a page */
            break;
        case 1:
            value = next_random(b);
            break;
        case 2:
            value &= 0xff;
            break;
        default:
            break;
        }
        b->v->gpr[i] = value;
    }
    b->v->status = (uint16_t)(next_random(b) & 0xd501);
}

struct span {
    size_t offset, size;
};
#define SPAN(member)                                                                               \
    {                                                                                              \
        offsetof(struct soft_vcpu, member), sizeof(((struct soft_vcpu *)0)->member)                \
    }

/* What blocks and the way in may change in the vCPU. */
static bool vcpu_is_intact(const struct bed *b)
{
    static const struct span open[] = {
        SPAN(gpr),
        SPAN(status),
        SPAN(native_host_rsp),
        SPAN(native_group),
        SPAN(native_target),
        SPAN(native_page),
        SPAN(native_fault_rip),
        SPAN(native_fault_unrun),
        SPAN(native_budget),
        SPAN(native_vectors_live),
        SPAN(native_x87_live),
        SPAN(native_x87),
        SPAN(native_x87_is_saved),
        SPAN(fx_header),
        SPAN(native_call), /* see calls_are_intact */
    };
    for (size_t i = 0; i < ARRAY_COUNT(open); i++) {
        memcpy(b->vcpu_before + open[i].offset, (const uint8_t *)b->v + open[i].offset,
               open[i].size);
    }
    return memcmp(b->vcpu_before, b->v, sizeof(*b->v)) == 0;
}

/* Does one of the block's calls come back to 'code'? */
static bool is_landing(const struct bed *b, const struct native_block *block, const uint8_t *code)
{
    const struct soft_native *n = b->v->native;
    for (size_t i = 0; i < block->link_count; i++) {
        const struct native_link *link = &block->link[i];
        const uint8_t *target = link->target ? native_entry_saved(n, native_at(n, link->target))
                                             : native_link_stub(n, link);
        if (link->is_landing && code == native_executable(n, target)) {
            return true;
        }
    }
    return false;
}

/* Returns go to nothing but landings. */
static bool calls_are_intact(const struct bed *b, const struct native_block *block)
{
    for (size_t mode = 0; mode < SOFT_TLB_MODES; mode++) {
        for (size_t i = 0; i < ARRAY_COUNT(b->v->native_call[mode]); i++) {
            const uint8_t *code = b->v->native_call[mode][i].code;
            if (code != b->v->native->no_calls[i].code && !is_landing(b, block, code)) {
                return false;
            }
        }
    }
    return true;
}

static noreturn_fn void report_change(const struct bed *b)
{
    char line[160];
    const uint8_t *now = (const uint8_t *)b->v;
    size_t at = 0;
    while (now[at] == b->vcpu_before[at]) {
        at++;
    }
    snprintf(line, sizeof(line), "offset 0x%zx of the vCPU has changed; mutation at %x: %02x\n", at,
             under_way->offset, under_way->bytes[0]);
    say(line);
    _exit(3);
}

static void run_once(const struct bed *b, const struct native_block *block)
{
    const struct soft_native *n = b->v->native;
    void (*enter)(struct soft_vcpu *, const uint8_t *);
    const uint8_t *code = native_executable(n, n->enter);
    memcpy(&enter, &code, sizeof(enter));
    /* Time of the CPU, so that runs on a busy machine get theirs. It must not end before there is somewhere to go. */
    if (sigsetjmp(after_run, 0) == 0) {
        (void)setitimer(ITIMER_VIRTUAL, &(struct itimerval){.it_value.tv_usec = 5000}, NULL);
        enter(b->v, native_executable(n, native_entry_saved(n, block)));
    }
    (void)setitimer(ITIMER_VIRTUAL, &(struct itimerval){0}, NULL);
}

static noreturn_fn void run_taken(struct bed *b, const struct native_block *block)
{
    (void)sigaltstack(&(stack_t){.ss_sp = signal_stack, .ss_size = sizeof(signal_stack)}, NULL);
    const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGFPE, SIGVTALRM, SIGSYS};
    for (size_t i = 0; i < ARRAY_COUNT(signals); i++) {
        struct sigaction action = {.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
        action.sa_sigaction = on_signal;
        if (signals[i] != SIGVTALRM && signals[i] != SIGFPE) {
            sigfillset(&action.sa_mask); /* the end of the run's time is not to hide it */
        }
        (void)sigaction(signals[i], &action, NULL);
    }
    short_stubs(b);
    b->v->mxcsr = b->v->native_host_mxcsr = 0x1f80;
    b->v->native_tag = 0x100;
    close_memory(b);
    memcpy(b->vcpu_before, b->v,
           sizeof(*b->v)); /* what runs may change is taken over behind each */
    for (size_t i = 0; i < b->taken_count; i++) {
        under_way = &b->taken[i];
        exchange(b->v->native->writable, &b->taken[i]);
        for (int run = 0; run < 4; run++) {
            random_registers(b);
            run_once(b, block);
            if (!vcpu_is_intact(b)) {
                report_change(b);
            }
            if (!calls_are_intact(b, block)) {
                say("a call has left something else than a landing\n");
                _exit(4);
            }
        }
        exchange(b->v->native->writable, &b->taken[i]);
    }
    _exit(0);
}

static void test_taken_mutations_are_harmless(void **state)
{
    struct bed *b = *state;
    size_t taken = 0, runs = 0;
    const char *blocks = getenv("MUTATION_BLOCKS");
    int count = blocks ? atoi(blocks) : BLOCKS;
    for (int i = 0; i < count; i++) {
        struct native_block *block = random_block(b);
        struct error err;
        if (native_verify(b->verifier, b->v, block, &err) < 0) {
            fail_msg("%s", err.text);
        }
        take_mutations(b, block);
        taken += b->taken_count;
        runs += MUTATIONS;
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            run_taken(b, block);
        }
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        /* The memory of code is shared with the child. */
        memcpy(b->v->native->writable, b->stubs, b->v->native->fixed);
        if (status != 0) {
            fail_msg("block %d, status 0x%x", i, (unsigned)status);
        }
    }
    print_message("%zu of %zu mutations taken and run\n", taken, runs);
    /* Most bytes of a block are part of checks or of addresses. */
    assert_in_range(taken, runs / 50, runs * 3 / 4);
}

#ifdef HAVE_ZYDIS

/* What the verifier asks the decoder for: lengths, memory operands and their sizes, registers written. */
static void compare_decoders(const ZydisDecoder *zydis, const uint8_t *code, size_t left,
                             const struct x86_insn *insn)
{
    ZydisDecodedInstruction other;
    ZydisDecodedOperand operand[ZYDIS_MAX_OPERAND_COUNT];
    assert_true(ZYAN_SUCCESS(ZydisDecoderDecodeFull(zydis, code, left, &other, operand)));
    assert_int_equal(other.length, insn->length);
    uint32_t written = 0, expected = 0, size = 0;
    bool reads = false, writes = false;
    for (uint32_t i = 0; i < other.operand_count; i++) {
        const ZydisDecodedOperand *o = &operand[i];
        if (o->type == ZYDIS_OPERAND_TYPE_REGISTER &&
            o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) {
            ZydisRegister full =
                ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, o->reg.value);
            if (ZydisRegisterGetClass(full) == ZYDIS_REGCLASS_GPR64) {
                expected |= 1u << ZydisRegisterGetId(full);
            }
        }
        if (o->type == ZYDIS_OPERAND_TYPE_MEMORY && o->mem.type == ZYDIS_MEMOP_TYPE_MEM) {
            size = MAX(size, o->size / 8u);
            reads |= o->actions & ZYDIS_OPERAND_ACTION_MASK_READ;
            writes |= o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
        }
    }
    uint32_t own_size = 0;
    uint8_t access = 0;
    for (uint32_t i = 0; i < insn->operand_count; i++) {
        const struct x86_operand *o = &insn->operand[i];
        if (o->kind == X86_OPERAND_REG && o->reg_class == X86_REG_GPR &&
            o->access & X86_OPERAND_WRITE) {
            written |= 1u << o->reg;
        }
        if (o->kind == X86_OPERAND_MEM && insn->id != X86_ID_LEA) {
            own_size = MAX(own_size, o->size_bytes);
            access |= o->access;
        }
    }
    char text[96];
    x86_disassemble(insn, 0, text, sizeof(text));
    if (other.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE) {
        return; /* the verifier has rules of its own for each of them */
    }
    if (expected & ~written) {
        fail_msg("%s: writes registers 0x%x, not 0x%x", text, expected, written);
    }
    if (size > own_size || (writes && !(access & X86_OPERAND_WRITE)) ||
        (reads && !(access & X86_OPERAND_READ))) {
        fail_msg("%s: accesses %u bytes, not %u; access %u", text, size, own_size, access);
    }
}

/* Returns how many instructions there are. */
static size_t compare_part(const struct bed *b, const ZydisDecoder *zydis, const uint8_t *code,
                           uint32_t size)
{
    size_t count = 0;
    for (uint32_t offset = 0; offset < size; count++) {
        struct x86_insn insn;
        uint32_t left = size - offset;
        if (x86_decode(code + offset, MIN(left, X86_INSN_MAX_LENGTH), X86_CODE_64, &insn) !=
            X86_DECODE_OK) {
            break;
        }
        compare_decoders(zydis, code + offset, left, &insn);
        offset += insn.length;
        if (insn.id == X86_ID_CALL) {
            bool has_site = !comes_back(b->v->native, code + offset + insn.imm);
            offset += has_site ? (uint32_t)sizeof(struct native_site) : 0;
        }
    }
    return count;
}

static void test_zydis_agrees(void **state)
{
    struct bed *b = *state;
    ZydisDecoder zydis;
    size_t count = 0;
    assert_true(
        ZYAN_SUCCESS(ZydisDecoderInit(&zydis, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64)));
    for (int i = 0; i < 4 * BLOCKS; i++) {
        const struct native_block *block = random_block(b);
        count += compare_part(b, &zydis, code_of(b, block), block->code_size);
        count += compare_part(b, &zydis, native_cold(b->v->native, block), block->cold_size);
    }
    print_message("%zu instructions of blocks compared\n", count);
}

#else

static void test_zydis_agrees(void **state)
{
    skip();
}

#endif

int main(void)
{
#ifdef __SANITIZE_ADDRESS__
    /* Whatever is not a mutated block's is closed to it, the sanitizer's shadow too. */
    print_message("the address sanitizer's shadow is closed to the child: skipped\n");
    return 77;
#endif
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_taken_mutations_are_harmless),
        cmocka_unit_test(test_zydis_agrees),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
