/* The system calls that a running VM makes: everything else ends the process. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/if_tun.h>
#include <sched.h>
#include <seccomp.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm/jail.h"

/* Allowed whatever the arguments: they work on descriptors that are open, or on this process alone. */
static const int plain_calls[] = {
    /* data */
    SCMP_SYS(read),
    SCMP_SYS(write),
    SCMP_SYS(readv),
    SCMP_SYS(writev),
    SCMP_SYS(pread64),
    SCMP_SYS(pwrite64),
    SCMP_SYS(preadv),
    SCMP_SYS(pwritev),
    SCMP_SYS(preadv2),
    SCMP_SYS(pwritev2),
    SCMP_SYS(lseek),
    SCMP_SYS(fsync),
    SCMP_SYS(fdatasync),
    SCMP_SYS(fallocate),
    SCMP_SYS(ftruncate),
    SCMP_SYS(close),
    SCMP_SYS(fstat),
    SCMP_SYS(newfstatat),
    /* sockets that exist */
    SCMP_SYS(recvmsg),
    SCMP_SYS(sendmsg),
    SCMP_SYS(recvfrom),
    SCMP_SYS(sendto),
    SCMP_SYS(accept4),
    SCMP_SYS(shutdown),
    /* waiting */
    SCMP_SYS(epoll_create1),
    SCMP_SYS(epoll_ctl),
    SCMP_SYS(epoll_wait),
    SCMP_SYS(epoll_pwait),
    SCMP_SYS(poll),
    SCMP_SYS(ppoll),
    SCMP_SYS(eventfd2),
    SCMP_SYS(timerfd_create),
    SCMP_SYS(timerfd_settime),
    SCMP_SYS(timerfd_gettime),
    SCMP_SYS(io_uring_enter),
    SCMP_SYS(futex),
    SCMP_SYS(clock_gettime),
    SCMP_SYS(clock_nanosleep),
    SCMP_SYS(nanosleep),
    SCMP_SYS(gettimeofday),
    SCMP_SYS(restart_syscall),
    SCMP_SYS(sched_yield),
    SCMP_SYS(getrusage), /* how often a vCPU's thread was preempted */
    /* memory; mmap and mprotect have conditions below */
    SCMP_SYS(munmap),
    SCMP_SYS(mremap),
    SCMP_SYS(madvise),
    SCMP_SYS(brk),
    SCMP_SYS(membarrier),
    /* threads and signals of this process */
    SCMP_SYS(rt_sigaction),
    SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(rt_sigreturn),
    SCMP_SYS(rt_sigtimedwait),
    SCMP_SYS(sigaltstack),
    SCMP_SYS(set_robust_list),
    SCMP_SYS(rseq),
    SCMP_SYS(sched_getaffinity),
    SCMP_SYS(gettid),
    SCMP_SYS(getpid),
    SCMP_SYS(getcpu),
    SCMP_SYS(sysinfo), /* qsort(3) of much asks how much memory there is */
    SCMP_SYS(exit),
    SCMP_SYS(exit_group),
    SCMP_SYS(getrandom),
};

static int allow(scmp_filter_ctx filter, int call)
{
    return seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, call, 0, NULL);
}

static int allow_if(scmp_filter_ctx filter, int call, struct scmp_arg_cmp condition)
{
    return seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, call, 1, &condition);
}

static int allow_ioctls(scmp_filter_ctx filter, const struct jail_needs *needs)
{
    int rc = allow_if(filter, SCMP_SYS(ioctl), SCMP_A1(SCMP_CMP_EQ, FIONREAD));
    if (rc == 0 && needs->has_kvm) {
        /* All of KVM's have 0xae as their type (linux/kvm.h: KVMIO), and only its descriptors know them. */
        rc = allow_if(filter, SCMP_SYS(ioctl), SCMP_A1(SCMP_CMP_MASKED_EQ, 0xff00, 0xae00));
    }
    /* Of taps and block devices, those too that come later: what the guest's driver negotiates, and what they are. */
    static const uint32_t of_devices[] = {TUNGETIFF,  TUNSETOFFLOAD, TUNSETVNETHDRSZ, BLKDISCARD,
                                          BLKZEROOUT, BLKGETSIZE64,  BLKSSZGET,       BLKPBSZGET};
    for (size_t i = 0; rc == 0 && i < sizeof(of_devices) / sizeof(of_devices[0]); i++) {
        rc = allow_if(filter, SCMP_SYS(ioctl), SCMP_A1(SCMP_CMP_EQ, of_devices[i]));
    }
    return rc;
}

/* Memory that can be executed is never made: the code of this process is all there is. */
static int allow_memory(scmp_filter_ctx filter)
{
    int rc = allow_if(filter, SCMP_SYS(mmap), SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    if (rc == 0) {
        rc = allow_if(filter, SCMP_SYS(mprotect), SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    }
    return rc;
}

/* Threads, never processes. clone3 hides its arguments behind a pointer: the C library falls back to clone. */
static int allow_threads(scmp_filter_ctx filter)
{
    int rc =
        allow_if(filter, SCMP_SYS(clone),
                 SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD | CLONE_VM, CLONE_THREAD | CLONE_VM));
    if (rc == 0) {
        rc = seccomp_rule_add_array(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0, NULL);
    }
    scmp_datum_t own = (scmp_datum_t)getpid();
    if (rc == 0) {
        rc = allow_if(filter, SCMP_SYS(tgkill), SCMP_A0(SCMP_CMP_EQ, own));
    }
    if (rc == 0) {
        rc = allow_if(filter, SCMP_SYS(prctl), SCMP_A0(SCMP_CMP_EQ, PR_SET_NAME));
    }
    return rc;
}

static int allow_descriptors(scmp_filter_ctx filter, const struct jail_needs *needs)
{
    /* The last two: images that come later, for disk jobs, are locked too. */
    static const int commands[] = {F_GETFL,         F_SETFL,     F_GETFD,    F_SETFD,
                                   F_DUPFD_CLOEXEC, F_OFD_SETLK, F_OFD_GETLK};
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < sizeof(commands) / sizeof(commands[0]); i++) {
        rc = allow_if(filter, SCMP_SYS(fcntl), SCMP_A1(SCMP_CMP_EQ, (scmp_datum_t)commands[i]));
    }
    /* Is it a stream? Of those that come later, for network cards. */
    if (rc == 0 && !needs->has_unix_sockets) {
        rc = allow_if(filter, SCMP_SYS(getsockopt), SCMP_A2(SCMP_CMP_EQ, SO_TYPE));
    }
    if (rc == 0 && needs->has_unix_sockets) {
        static const int calls[] = {SCMP_SYS(connect), SCMP_SYS(bind), SCMP_SYS(listen),
                                    SCMP_SYS(unlinkat), SCMP_SYS(getsockopt)};
        rc = allow_if(filter, SCMP_SYS(socket), SCMP_A0(SCMP_CMP_EQ, AF_UNIX));
        for (size_t i = 0; rc == 0 && i < sizeof(calls) / sizeof(calls[0]); i++) {
            rc = allow(filter, calls[i]);
        }
    }
    return rc;
}

int jail_filter_install(const struct jail_needs *needs, struct error *err)
{
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_KILL_PROCESS);
    if (filter == NULL) {
        return error_set_errno(err, ENOMEM, "jail: making the system call filter");
    }
    int rc = seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1);
    for (size_t i = 0; rc == 0 && i < sizeof(plain_calls) / sizeof(plain_calls[0]); i++) {
        rc = allow(filter, plain_calls[i]);
    }
    if (rc == 0) {
        rc = allow_ioctls(filter, needs);
    }
    if (rc == 0) {
        rc = allow_memory(filter);
    }
    if (rc == 0) {
        rc = allow_threads(filter);
    }
    if (rc == 0) {
        rc = allow_descriptors(filter, needs);
    }
    if (rc == 0) {
        rc = seccomp_load(filter);
    }
    seccomp_release(filter);
    return rc < 0 ? error_set_errno(err, -rc, "jail: installing the system call filter") : 0;
}
