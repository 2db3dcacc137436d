/* What `hull disk serve` may still do when clients come: work on what is open. The filter is written in the kernel's own terms
 * (seccomp(2)), so that hull needs no library for it. */
#include <errno.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/fs.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cli/disk/serve.h"

/* Those used most come first. */
static const uint16_t plain_calls[] = {
    /* data of clients and disks */
    SYS_recvmsg,
    SYS_sendmsg,
    SYS_io_uring_enter,
    SYS_epoll_wait,
    SYS_read,
    SYS_write,
    SYS_futex,
    SYS_preadv,
    SYS_pwritev,
    SYS_pread64,
    SYS_pwrite64,
    SYS_preadv2,
    SYS_pwritev2,
    SYS_readv,
    SYS_writev,
    SYS_recvfrom,
    SYS_sendto,
    SYS_lseek,
    SYS_fsync,
    SYS_fdatasync,
    SYS_fallocate,
    SYS_ftruncate,
    SYS_fstat,
    SYS_newfstatat,
    SYS_fcntl,
    SYS_close,
    /* clients that come and go */
    SYS_accept4,
    SYS_setsockopt,
    SYS_getsockopt,
    SYS_getsockname,
    SYS_getpeername,
    SYS_shutdown,
    SYS_epoll_ctl,
    SYS_epoll_pwait,
    SYS_epoll_create1,
    SYS_timerfd_create,
    SYS_timerfd_settime,
    SYS_eventfd2,
    SYS_poll,
    SYS_ppoll,
    /* memory; mmap and mprotect have conditions below */
    SYS_brk,
    SYS_munmap,
    SYS_mremap,
    SYS_madvise,
    SYS_membarrier,
    /* time, threads and signals of this process */
    SYS_clock_gettime,
    SYS_clock_nanosleep,
    SYS_nanosleep,
    SYS_gettimeofday,
    SYS_time,
    SYS_restart_syscall,
    SYS_sched_yield,
    SYS_sched_getaffinity,
    SYS_rt_sigaction,
    SYS_rt_sigprocmask,
    SYS_rt_sigreturn,
    SYS_rt_sigtimedwait,
    SYS_sigaltstack,
    SYS_set_robust_list,
    SYS_rseq,
    SYS_gettid,
    SYS_getpid,
    SYS_getcpu,
    SYS_getrandom,
    SYS_sysinfo, /* qsort(3) of much asks how much memory there is */
    SYS_exit,
    SYS_exit_group,
    /* the socket at the end: removing is all that can be done to names */
    SYS_unlink,
};

/* Allowed if the argument, masked, has the value. */
struct conditional_call {
    uint16_t number;
    uint8_t argument;
    uint32_t mask, value;
};

static const struct conditional_call conditional_calls[] = {
    /* Code that is there is all there is. */
    {SYS_mmap, 2, PROT_EXEC, 0},
    {SYS_mprotect, 2, PROT_EXEC, 0},
    {SYS_clone, 0, CLONE_THREAD | CLONE_VM, CLONE_THREAD | CLONE_VM},
    {SYS_prctl, 0, UINT32_MAX, PR_SET_NAME},
    {SYS_ioctl, 1, UINT32_MAX, BLKDISCARD},
    {SYS_ioctl, 1, UINT32_MAX, BLKZEROOUT},
    {SYS_ioctl, 1, UINT32_MAX, FIONREAD},
};

#define MAX_STEPS (4 + 2 * ARRAY_COUNT(plain_calls) + 6 * (ARRAY_COUNT(conditional_calls) + 1) + 3)

struct program {
    struct sock_filter step[MAX_STEPS];
    unsigned short count;
};

static void add(struct program *program, uint16_t code, uint32_t k, uint8_t if_true,
                uint8_t if_false)
{
    program->step[program->count++] = (struct sock_filter){code, if_true, if_false, k};
}

static void load(struct program *program, size_t offset)
{
    add(program, BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset, 0, 0);
}

static void give(struct program *program, uint32_t result)
{
    add(program, BPF_RET | BPF_K, result, 0, 0);
}

static void allow_if(struct program *program, const struct conditional_call *call)
{
    add(program, BPF_JMP | BPF_JEQ | BPF_K, call->number, 0, 5);
    /* The low half: that of a little-endian machine comes first, and the kernel's types are that wide. */
    load(program, offsetof(struct seccomp_data, args) + sizeof(uint64_t) * call->argument);
    add(program, BPF_ALU | BPF_AND | BPF_K, call->mask, 0, 0);
    add(program, BPF_JMP | BPF_JEQ | BPF_K, call->value, 0, 1);
    give(program, SECCOMP_RET_ALLOW);
    load(program, offsetof(struct seccomp_data, nr));
}

static void make_program(struct program *program)
{
    load(program, offsetof(struct seccomp_data, arch));
    add(program, BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0);
    give(program, SECCOMP_RET_KILL_PROCESS);
    load(program, offsetof(struct seccomp_data, nr));
    for (size_t i = 0; i < ARRAY_COUNT(plain_calls); i++) {
        add(program, BPF_JMP | BPF_JEQ | BPF_K, plain_calls[i], 0, 1);
        give(program, SECCOMP_RET_ALLOW);
    }
    for (size_t i = 0; i < ARRAY_COUNT(conditional_calls); i++) {
        allow_if(program, &conditional_calls[i]);
    }
    /* For abort(3). */
    struct conditional_call own = {SYS_tgkill, 0, UINT32_MAX, (uint32_t)getpid()};
    allow_if(program, &own);
    /* It hides its arguments behind a pointer: the C library falls back to clone. */
    add(program, BPF_JMP | BPF_JEQ | BPF_K, SYS_clone3, 0, 1);
    give(program, SECCOMP_RET_ERRNO | ENOSYS);
    give(program, SECCOMP_RET_ERRNO | EPERM);
}

int serve_jail_enter(struct error *err)
{
    struct rlimit none = {0};
    (void)setrlimit(RLIMIT_CORE, &none); /* a core would hold keys; less is always granted */
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct no_capabilities[_LINUX_CAPABILITY_U32S_3] = {{0}};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
        syscall(SYS_capset, &head, no_capabilities) < 0) {
        return error_set_errno(err, errno, "giving up rights");
    }
    struct program program = {.count = 0};
    make_program(&program);
    struct sock_fprog filter = {program.count, program.step};
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &filter) != 0) {
        return error_set_errno(err, errno, "filtering system calls");
    }
    return 0;
}
