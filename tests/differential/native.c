/* The native side of the differential test.
 *
 * The child needs no assembly: it lives in a signal handler. Each case ends with a fault; the kernel stores the whole
 * state in the signal frame, the handler copies it out, writes the next case's state into the frame and returns into it.
 * That is one signal a case, about two microseconds. The child has no descriptors and a seccomp filter that only lets its
 * own text call sigreturn, futex and arch_prctl. Its FS base belongs to the cases, so nothing here may use thread-local storage once
 * the cases run. */
#include "native.h"

#include <asm/ldt.h>
#include <asm/prctl.h>
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "cpu/x86/state.h"

#define HANDLER_STACK_SIZE (256 * 1024)
#define WATCHDOG_US        50000

struct native {
    struct case_batch *batch;
    uint8_t *code;      /* writable alias of the code page */
    uint8_t *constants; /* and of the read-only page */
    int memory_fd;
    size_t batch_offset, total_size;
    pid_t child;
};

/* The child's own, set before its first case. */
static struct {
    struct case_batch *batch;
    uint8_t *code;
    uint32_t watched_sequence, watched_index;
    bool is_running;
} child;

static long raw_syscall(long number, long a, long b, long c, long d)
{
    long result;
    register long r10 __asm__("r10") = d;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10)
                     : "rcx", "r11", "memory");
    return result;
}

static void copy_bytes(void *to, const void *from, size_t size)
{
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
}

static void fill_bytes(void *to, uint8_t value, size_t size)
{
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(size) : "a"(value) : "memory");
}

static const uint8_t frame_gregs[16] = {
    REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
    REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15,
};

/* Bytes 464..511 of the legacy region are the kernel's in a signal frame. */
#define FRAME_SOFTWARE_OFFSET 464

static void case_save(struct case_output *out, int signal_number, const ucontext_t *context)
{
    const greg_t *gregs = context->uc_mcontext.gregs;
    for (int i = 0; i < 16; i++) {
        out->state.gpr[i] = (uint64_t)gregs[frame_gregs[i]];
    }
    out->state.rip = (uint64_t)gregs[REG_RIP];
    out->state.rflags = (uint64_t)gregs[REG_EFL];
    const uint8_t *frame = (const uint8_t *)context->uc_mcontext.fpregs;
    copy_bytes(out->state.xsave, frame, FRAME_SOFTWARE_OFFSET);
    copy_bytes(out->state.xsave + X86_XSAVE_HEADER, frame + X86_XSAVE_HEADER,
               CASE_XSAVE_SIZE - X86_XSAVE_HEADER);
    out->vector = (uint32_t)gregs[REG_TRAPNO];
    out->error = (uint32_t)gregs[REG_ERR];
    out->cr2 = out->vector == X86_PF ? (uint64_t)gregs[REG_CR2] : 0;
    if (signal_number == SIGVTALRM) {
        out->vector = CASE_VECTOR_TIMEOUT;
    } else if (signal_number == SIGSYS) {
        out->vector = CASE_VECTOR_ESCAPED;
    }
    copy_bytes(out->data, (const void *)(uintptr_t)CASE_DATA_BASE, CASE_DATA_SIZE);
}

static void case_load(const struct case_input *in, ucontext_t *context)
{
    greg_t *gregs = context->uc_mcontext.gregs;
    for (int i = 0; i < 16; i++) {
        gregs[frame_gregs[i]] = (greg_t)in->state.gpr[i];
    }
    gregs[REG_RIP] = (greg_t)in->state.rip;
    gregs[REG_EFL] = (greg_t)in->state.rflags;
    uint16_t *selectors = (uint16_t *)&gregs[REG_CSGSFS]; /* CS, GS, FS, SS */
    selectors[0] = in->cs;
    selectors[3] = in->ss;
    context->uc_flags |= 4; /* UC_STRICT_RESTORE_SS */
    uint8_t *frame = (uint8_t *)context->uc_mcontext.fpregs;
    copy_bytes(frame, in->state.xsave, FRAME_SOFTWARE_OFFSET);
    copy_bytes(frame + X86_XSAVE_HEADER, in->state.xsave + X86_XSAVE_HEADER,
               CASE_XSAVE_SIZE - X86_XSAVE_HEADER);
    copy_bytes((void *)(uintptr_t)CASE_DATA_BASE, child.batch->data, CASE_DATA_SIZE);
    copy_bytes(child.code + in->code_offset, in->code, in->code_bytes);
}

/* No signal frame restores these. */
static void load_segments(uint16_t ds, uint16_t es)
{
    __asm__ volatile("mov %0, %%ds\n\tmov %1, %%es\n\tmov %2, %%fs\n\tmov %2, %%gs"
                     :
                     : "r"((uint32_t)ds), "r"((uint32_t)es), "r"(0));
    raw_syscall(SYS_arch_prctl, ARCH_SET_GS, CASE_GS_BASE, 0, 0);
    raw_syscall(SYS_arch_prctl, ARCH_SET_FS, CASE_FS_BASE, 0, 0);
}

static void wait_for_batch(void)
{
    struct case_batch *batch = child.batch;
    uint32_t done = __atomic_load_n(&batch->done, __ATOMIC_ACQUIRE);
    while (__atomic_load_n(&batch->sequence, __ATOMIC_ACQUIRE) == done) {
        raw_syscall(SYS_futex, (long)&batch->sequence, FUTEX_WAIT, done, 0);
    }
}

static void on_signal(int signal_number, siginfo_t *info, void *opaque)
{
    (void)info;
    /* A case may leave AC, NT or ID set; none of them is for the code here. */
    __builtin_ia32_writeeflags_u64(X86_FLAG_ONE | X86_FLAG_IF);
    struct case_batch *batch = child.batch;
    if (signal_number == SIGVTALRM) {
        bool is_stuck = child.is_running && child.watched_index == batch->index &&
                        child.watched_sequence == batch->sequence;
        child.watched_index = batch->index;
        child.watched_sequence = batch->sequence;
        if (!is_stuck) {
            return;
        }
    }
    if (child.is_running) {
        const struct case_input *in = &batch->input[batch->index];
        case_save(&batch->output[batch->index], signal_number, opaque);
        fill_bytes(child.code + in->code_offset, 0xf4, in->code_bytes);
        __atomic_store_n(&batch->index, batch->index + 1, __ATOMIC_RELEASE);
    }
    child.is_running = false;
    while (batch->index >= batch->count) {
        __atomic_store_n(&batch->done, batch->sequence, __ATOMIC_RELEASE);
        raw_syscall(SYS_futex, (long)&batch->done, FUTEX_WAKE, 1, 0);
        wait_for_batch();
    }
    const struct case_input *next = &batch->input[batch->index];
    load_segments(next->ds, next->es);
    case_load(next, opaque);
    child.is_running = true;
}

/* System calls by number, and only from addresses above 4 GiB, where the cases' code is not. */
static long install_filter(void)
{
#define FIELD_OF(member) ((uint32_t)offsetof(struct seccomp_data, member))
    static const struct sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, FIELD_OF(arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 0, 6),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, FIELD_OF(instruction_pointer) + 4),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 4, 0),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, FIELD_OF(nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_rt_sigreturn, 3, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_arch_prctl, 2, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_futex, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {
        .len = ARRAY_COUNT(program),
        .filter = (struct sock_filter *)program,
    };
    return raw_syscall(SYS_prctl, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, (long)&filter, 0);
}

/* How a child ends for which the kernel lacks something. */
#define CHILD_WITHOUT_FILTER 4
#define CHILD_WITHOUT_LDT    5

/* A kernel without LDTs ends the child, as the cases with them cannot run. */
static void install_ldt(void)
{
    for (unsigned i = 0; i < CASE_LDT_COUNT; i++) {
        const struct case_ldt *entry = &case_ldt[i];
        struct user_desc segment = {
            .entry_number = i,
            .base_addr = entry->base,
            .limit = entry->limit,
            .seg_32bit = entry->is_32bit,
            .contents = entry->is_code   ? 2
                        : entry->is_down ? 1
                                         : 0,
            .read_exec_only = entry->is_readonly,
            .useable = 1,
        };
        if (raw_syscall(SYS_modify_ldt, 1, (long)&segment, sizeof(segment), 0) != 0) {
            raw_syscall(SYS_exit_group, CHILD_WITHOUT_LDT, 0, 0, 0);
        }
    }
}

noreturn_fn static void child_main(struct native *native)
{
    child.batch = native->batch;
    child.code = native->code;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    const struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    setrlimit(RLIMIT_FSIZE, &none);

    int prot_rw = PROT_READ | PROT_WRITE;
    void *code = mmap((void *)(uintptr_t)CASE_CODE_BASE, CASE_CODE_SIZE, PROT_READ | PROT_EXEC,
                      MAP_SHARED | MAP_FIXED_NOREPLACE | MAP_POPULATE, native->memory_fd, 0);
    void *constants =
        mmap((void *)(uintptr_t)(CASE_DATA_BASE + CASE_DATA_SIZE), CASE_CONST_SIZE, PROT_READ,
             MAP_SHARED | MAP_FIXED_NOREPLACE | MAP_POPULATE, native->memory_fd, CASE_CODE_SIZE);
    void *data = mmap((void *)(uintptr_t)CASE_DATA_BASE, CASE_DATA_SIZE, prot_rw,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | MAP_POPULATE, -1, 0);
    void *stack = mmap(NULL, HANDLER_STACK_SIZE, prot_rw, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (code == MAP_FAILED || constants == MAP_FAILED || data == MAP_FAILED ||
        stack == MAP_FAILED) {
        _exit(3);
    }
    stack_t alternative = {.ss_sp = stack, .ss_size = HANDLER_STACK_SIZE};
    sigaltstack(&alternative, NULL);
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigfillset(&action.sa_mask);
    static const int caught[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS, SIGVTALRM};
    sigset_t mask;
    sigfillset(&mask);
    for (size_t i = 0; i < ARRAY_COUNT(caught); i++) {
        sigaction(caught[i], &action, NULL);
        sigdelset(&mask, caught[i]);
    }
    sigprocmask(SIG_SETMASK, &mask, NULL);
    const struct itimerval timer = {{0, WATCHDOG_US}, {0, WATCHDOG_US}};
    setitimer(ITIMER_VIRTUAL, &timer, NULL);
    close_range(0, ~0u, 0);

    install_ldt();
    load_segments(CASE_SELECTOR_DATA, CASE_SELECTOR_DATA);
    if (install_filter() != 0) {
        raw_syscall(SYS_exit_group, CHILD_WITHOUT_FILTER, 0, 0, 0);
    }
    __asm__ volatile("ud2");
    __builtin_unreachable();
}

static int child_start(struct native *native, struct error *err)
{
    pid_t pid = fork();
    if (pid < 0) {
        return error_set_errno(err, errno, "starting the native child");
    }
    if (pid == 0) {
        child_main(native);
    }
    native->child = pid;
    return 0;
}

int native_create(struct native **out_native, struct error *err)
{
    struct native *native = calloc(1, sizeof(*native));
    if (native == NULL) {
        return error_set(err, ENOMEM, "no memory for the native side");
    }
    native->batch_offset = CASE_CODE_SIZE + CASE_CONST_SIZE;
    native->total_size = native->batch_offset + sizeof(struct case_batch);
    native->memory_fd = memfd_create("differential", MFD_CLOEXEC);
    uint8_t *memory = MAP_FAILED;
    if (native->memory_fd >= 0 && ftruncate(native->memory_fd, (off_t)native->total_size) == 0) {
        memory = mmap(NULL, native->total_size, PROT_READ | PROT_WRITE, MAP_SHARED,
                      native->memory_fd, 0);
    }
    if (memory == MAP_FAILED) {
        int rc = error_set_errno(err, errno, "mapping memory to share with the native child");
        native_destroy(native);
        return rc;
    }
    native->code = memory;
    native->constants = memory + CASE_CODE_SIZE;
    native->batch = (struct case_batch *)(void *)(memory + native->batch_offset);
    memset(native->code, 0xf4, CASE_CODE_SIZE);
    int rc = child_start(native, err);
    if (rc < 0) {
        native_destroy(native);
        return rc;
    }
    *out_native = native;
    return 0;
}

void native_destroy(struct native *native)
{
    if (native == NULL) {
        return;
    }
    if (native->child > 0) {
        kill(native->child, SIGKILL);
        waitpid(native->child, NULL, 0);
    }
    if (native->code != NULL) {
        munmap(native->code, native->total_size);
    }
    if (native->memory_fd >= 0) {
        close(native->memory_fd);
    }
    free(native);
}

struct case_batch *native_batch(struct native *native)
{
    return native->batch;
}

uint8_t *native_constants(struct native *native)
{
    return native->constants;
}

void native_start(struct native *native)
{
    struct case_batch *batch = native->batch;
    batch->index = 0;
    __atomic_store_n(&batch->sequence, batch->sequence + 1, __ATOMIC_RELEASE);
    syscall(SYS_futex, &batch->sequence, FUTEX_WAKE, 1, NULL);
}

static int child_failed(int status, struct error *err)
{
    switch (status) {
    case CHILD_WITHOUT_LDT:
        return error_set(err, EOPNOTSUPP, "this kernel has no modify_ldt for segments to compare");
    case CHILD_WITHOUT_FILTER:
        return error_set(err, EOPNOTSUPP, "this kernel has no seccomp filters to hold cases");
    default:
        return error_set(err, EIO, "the native child could not set itself up (status %d)", status);
    }
}

int native_wait(struct native *native, struct error *err)
{
    struct case_batch *batch = native->batch;
    for (;;) {
        uint32_t done = __atomic_load_n(&batch->done, __ATOMIC_ACQUIRE);
        if (done == batch->sequence) {
            return 0;
        }
        const struct timespec timeout = {.tv_nsec = 200 * 1000 * 1000};
        syscall(SYS_futex, &batch->done, FUTEX_WAIT, done, &timeout);
        int status;
        if (waitpid(native->child, &status, WNOHANG) != native->child) {
            continue;
        }
        native->child = 0;
        if (WIFEXITED(status)) {
            return child_failed(WEXITSTATUS(status), err);
        }
        if (batch->index < batch->count) {
            const struct case_input *in = &batch->input[batch->index];
            batch->output[batch->index].vector = CASE_VECTOR_ESCAPED;
            memset(native->code + in->code_offset, 0xf4, in->code_bytes);
            batch->index++;
        }
        int rc = child_start(native, err);
        if (rc < 0) {
            return rc;
        }
    }
}
