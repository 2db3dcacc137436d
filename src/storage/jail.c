#include "storage/jail.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/host/confine.h"

#define MAX_DESCRIPTORS 4096

/* Whether it dies with who has started it is for that one to say (PR_SET_PDEATHSIG): hull boot wants that, hull ctl does not.
 * The user stays who it is, and without capabilities root is a user like others: a server's unix socket, and the keys that TLS
 * reads for each new connection, belong to somebody. */
static int drop_privileges(struct error *err)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {0};
    for (int capability = 0; capability <= 63; capability++) {
        (void)prctl(PR_CAPBSET_DROP,
                    capability); /* those beyond the kernel's last fail, harmlessly */
    }
    if (syscall(SYS_capset, &header, none) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
        prctl(PR_SET_DUMPABLE, 0) < 0) {
        return error_set_errno(err, errno, "jail: giving up privileges");
    }
    return 0;
}

/* Calls without a condition: on descriptors that are open, on this process alone, or on the network. None of them makes or names
 * another process, or changes a file by name. */
static const int plain_calls[] = {
    /* servers and the client */
    SCMP_SYS(connect),
    SCMP_SYS(bind),
    SCMP_SYS(shutdown),
    SCMP_SYS(getsockname),
    SCMP_SYS(getpeername),
    SCMP_SYS(getsockopt),
    SCMP_SYS(setsockopt),
    SCMP_SYS(sendto),
    SCMP_SYS(sendmsg),
    SCMP_SYS(sendmmsg),
    SCMP_SYS(recvfrom),
    SCMP_SYS(recvmsg),
    SCMP_SYS(recvmmsg),
    SCMP_SYS(socketpair),
    SCMP_SYS(read),
    SCMP_SYS(readv),
    SCMP_SYS(write),
    SCMP_SYS(writev),
    SCMP_SYS(pread64),
    SCMP_SYS(close),
    SCMP_SYS(pipe2),
    SCMP_SYS(dup),
    SCMP_SYS(ioctl),
    /* files that are read: keys, the names of hosts */
    SCMP_SYS(lseek),
    SCMP_SYS(fstat),
    SCMP_SYS(stat),
    SCMP_SYS(lstat),
    SCMP_SYS(newfstatat),
    SCMP_SYS(statx),
    SCMP_SYS(access),
    SCMP_SYS(faccessat),
    SCMP_SYS(faccessat2),
    SCMP_SYS(readlink),
    SCMP_SYS(readlinkat),
    SCMP_SYS(getdents64),
    SCMP_SYS(getcwd),
    SCMP_SYS(fadvise64),
    /* waiting */
    SCMP_SYS(poll),
    SCMP_SYS(ppoll),
    SCMP_SYS(select),
    SCMP_SYS(pselect6),
    SCMP_SYS(epoll_create1),
    SCMP_SYS(epoll_ctl),
    SCMP_SYS(epoll_wait),
    SCMP_SYS(epoll_pwait),
    SCMP_SYS(eventfd2),
    SCMP_SYS(timerfd_create),
    SCMP_SYS(timerfd_settime),
    SCMP_SYS(futex),
    SCMP_SYS(clock_gettime),
    SCMP_SYS(clock_getres),
    SCMP_SYS(clock_nanosleep),
    SCMP_SYS(nanosleep),
    SCMP_SYS(gettimeofday),
    SCMP_SYS(time),
    SCMP_SYS(restart_syscall),
    SCMP_SYS(sched_yield),
    /* memory */
    SCMP_SYS(brk),
    SCMP_SYS(munmap),
    SCMP_SYS(mremap),
    SCMP_SYS(madvise),
    SCMP_SYS(mlock),
    SCMP_SYS(munlock),
    SCMP_SYS(membarrier),
    /* threads and signals of this process */
    SCMP_SYS(rt_sigaction),
    SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(rt_sigreturn),
    SCMP_SYS(rt_sigtimedwait),
    SCMP_SYS(sigaltstack),
    SCMP_SYS(signalfd4),
    SCMP_SYS(set_robust_list),
    SCMP_SYS(rseq),
    SCMP_SYS(sched_getaffinity),
    SCMP_SYS(gettid),
    SCMP_SYS(getpid),
    SCMP_SYS(getppid),
    SCMP_SYS(getuid),
    SCMP_SYS(geteuid),
    SCMP_SYS(getgid),
    SCMP_SYS(getegid),
    SCMP_SYS(getcpu),
    SCMP_SYS(getrusage),
    SCMP_SYS(sysinfo),
    SCMP_SYS(uname),
    SCMP_SYS(getrandom),
    SCMP_SYS(exit),
    SCMP_SYS(exit_group),
};

struct conditional_call {
    int number;
    unsigned argument;
    enum scmp_compare compare;
    uint64_t a, b;
};

static const struct conditional_call conditional_calls[] = {
    {SCMP_SYS(socket), 0, SCMP_CMP_EQ, AF_INET},
    {SCMP_SYS(socket), 0, SCMP_CMP_EQ, AF_INET6},
    {SCMP_SYS(socket), 0, SCMP_CMP_EQ, AF_UNIX},
    {SCMP_SYS(socket), 0, SCMP_CMP_EQ, AF_VSOCK},
    {SCMP_SYS(socket), 0, SCMP_CMP_EQ,
     AF_NETLINK}, /* getaddrinfo(3) asks which addresses there are */
    {SCMP_SYS(openat), 2, SCMP_CMP_MASKED_EQ, O_ACCMODE | O_CREAT | O_TRUNC, O_RDONLY},
    {SCMP_SYS(open), 1, SCMP_CMP_MASKED_EQ, O_ACCMODE | O_CREAT | O_TRUNC, O_RDONLY},
    {SCMP_SYS(fcntl), 1, SCMP_CMP_EQ, F_GETFL},
    {SCMP_SYS(fcntl), 1, SCMP_CMP_EQ, F_SETFL},
    {SCMP_SYS(fcntl), 1, SCMP_CMP_EQ, F_GETFD},
    {SCMP_SYS(fcntl), 1, SCMP_CMP_EQ, F_SETFD},
    {SCMP_SYS(fcntl), 1, SCMP_CMP_EQ, F_DUPFD_CLOEXEC},
    /* Code that is there is all there is: what the libraries load later, they cannot. */
    {SCMP_SYS(mmap), 2, SCMP_CMP_MASKED_EQ, PROT_EXEC, 0},
    {SCMP_SYS(mprotect), 2, SCMP_CMP_MASKED_EQ, PROT_EXEC, 0},
    {SCMP_SYS(clone), 0, SCMP_CMP_MASKED_EQ, CLONE_THREAD | CLONE_VM, CLONE_THREAD | CLONE_VM},
    {SCMP_SYS(prctl), 0, SCMP_CMP_EQ, PR_SET_NAME},
    {SCMP_SYS(prctl), 0, SCMP_CMP_EQ, PR_GET_NAME},
};

static int add_rules(scmp_filter_ctx filter)
{
    int rc = seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1);
    for (size_t i = 0; i < ARRAY_COUNT(plain_calls) && rc == 0; i++) {
        rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, plain_calls[i], 0);
    }
    for (size_t i = 0; i < ARRAY_COUNT(conditional_calls) && rc == 0; i++) {
        const struct conditional_call *call = &conditional_calls[i];
        struct scmp_arg_cmp condition = SCMP_CMP(call->argument, call->compare, call->a, call->b);
        rc = seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, call->number, 1, &condition);
    }
    if (rc == 0) { /* hides its arguments behind a pointer: the C library falls back to clone */
        rc = seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
    }
    if (rc == 0) {
        struct scmp_arg_cmp own = SCMP_CMP(0, SCMP_CMP_EQ, (scmp_datum_t)getpid());
        rc = seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1, &own);
    }
    return rc;
}

static int filter_calls(struct error *err)
{
    /* A refusal, not a kill: libraries try calls that they can do without. */
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ERRNO(EPERM));
    if (filter == NULL) {
        return error_set_errno(err, ENOMEM, "jail: making the filter of system calls");
    }
    int rc = add_rules(filter);
    if (rc == 0) {
        rc = seccomp_load(filter);
    }
    seccomp_release(filter);
    return rc < 0 ? error_set_errno(err, -rc, "jail: filtering system calls") : 0;
}

int storage_jail_enter(struct error *err)
{
    (void)confine_limit(RLIMIT_CORE, 0); /* a core would hold keys */
    (void)confine_limit(RLIMIT_NOFILE, MAX_DESCRIPTORS);
    int rc = drop_privileges(err);
    return rc < 0 ? rc : filter_calls(err);
}
