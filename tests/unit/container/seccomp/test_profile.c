/* Covers src/container/seccomp/profile.h and the calls that are younger than a profile. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/core/compiler.h"
#include "container/seccomp/profile.h"
#include "container/seccomp/program.h"
#include "support.h"

#define FUTURE_CALL 1000

static struct seccomp_program *profile_program(const struct seccomp_profile_options *options)
{
    json_t *profile = seccomp_default_profile(options);
    assert_non_null(profile);
    char *text = json_dumps(profile, JSON_COMPACT);
    json_decref(profile);
    assert_non_null(text);
    text[strlen(text) - 1] = '\0'; /* members alone */
    struct seccomp_program *program = program_with(text + 1, NULL);
    free(text);
    return program;
}

/* Calls a number with arguments that no call takes for right; the errno. */
static int call(void *number)
{
    return syscall(*(long *)number, -1L, -1L, -1L, -1L, -1L, -1L) < 0 ? errno : 0;
}

static int answer(const struct seccomp_program *program, long number)
{
    int status = status_of(program, call, &number);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static void what_is_refused(void **state)
{
    static const long administrators[] = {
        SYS_init_module,  SYS_finit_module,      SYS_delete_module, SYS_kexec_load,
        SYS_iopl,         SYS_open_by_handle_at, SYS_swapon,        SYS_acct,
        SYS_settimeofday, SYS_clock_settime,     SYS_adjtimex,      SYS_perf_event_open,
        SYS_quotactl,     SYS_kexec_file_load,
    };
    static const long absent[] = {SYS_io_uring_setup, SYS_userfaultfd, SYS_uselib,
                                  SYS_ustat,          SYS_nfsservctl,  FUTURE_CALL};
    static const long nested[] = {SYS_bpf, SYS_keyctl, SYS_add_key, SYS_request_key};
    for (int may_nest = 0; may_nest < 2; may_nest++) {
        struct seccomp_program *program =
            profile_program(&(struct seccomp_profile_options){.may_nest = may_nest});
        for (size_t i = 0; i < ARRAY_COUNT(administrators); i++) {
            assert_int_equal(answer(program, administrators[i]), EPERM);
        }
        for (size_t i = 0; i < ARRAY_COUNT(absent); i++) {
            assert_int_equal(answer(program, absent[i]), ENOSYS);
        }
        for (size_t i = 0; i < ARRAY_COUNT(nested); i++) {
            int wanted = nested[i] == SYS_bpf ? EPERM : ENOSYS, got = answer(program, nested[i]);
            assert_true(may_nest ? got != wanted : got == wanted);
        }
        seccomp_program_free(program);
    }
}

/* What an init, and programs as usual, need: the answers are the kernel's own. */
static void what_is_allowed(void **state)
{
    static const struct {
        long number;
        int error;
    } calls[] = {{SYS_pivot_root, EFAULT}, {SYS_mount, EFAULT},   {SYS_setns, EBADF},
                 {SYS_close, EBADF},       {SYS_openat2, EINVAL}, {SYS_fsopen, EFAULT},
                 {SYS_statx, EINVAL},      {SYS_clone3, EINVAL}};
    struct seccomp_program *program = profile_program(&(struct seccomp_profile_options){0});
    for (size_t i = 0; i < ARRAY_COUNT(calls); i++) {
        long number = calls[i].number;
        int got = answer(program, number), own = call(&number);
        if (got != own) {
            fail_msg("call %ld: %d, not %d", number, got, own);
        }
    }
    assert_int_equal(status_of(program, try_mkdir, NULL) >> 8, EEXIST);
    seccomp_program_free(program);
}

static void sysinfo_is_notified(void **state)
{
    struct seccomp_program *plain = profile_program(&(struct seccomp_profile_options){0});
    assert_false(seccomp_program_notifies(plain));
    seccomp_program_free(plain);
    struct seccomp_program *program =
        profile_program(&(struct seccomp_profile_options){.sysinfo_listener = "/run/agent"});
    assert_true(seccomp_program_notifies(program));
    seccomp_program_free(program);
}

#define MAX_STEPS 24 /* of a tree over some 400 calls, behind the architecture */

/* As the kernel looks for calls that it then allows without the filter (kernel/seccomp.c, seccomp_is_const_allow): one that
 * reads more than number and architecture on the way is run each time. */
static bool is_known_to_be_allowed(const struct seccomp_program *program, uint32_t number)
{
    uint32_t value = 0;
    for (size_t at = 0, steps = 0; at < program->count && steps < MAX_STEPS; at++, steps++) {
        const struct sock_filter *filter = &program->filter[at];
        bool is_taken = false;
        switch (filter->code) {
        case BPF_LD | BPF_W | BPF_ABS:
            if (filter->k != offsetof(struct seccomp_data, nr) &&
                filter->k != offsetof(struct seccomp_data, arch)) {
                return false;
            }
            value = filter->k == 0 ? number : AUDIT_ARCH_X86_64;
            continue;
        case BPF_RET | BPF_K:
            return filter->k == SECCOMP_RET_ALLOW;
        case BPF_JMP | BPF_JA:
            at += filter->k;
            continue;
        case BPF_JMP | BPF_JEQ | BPF_K:
            is_taken = value == filter->k;
            break;
        case BPF_JMP | BPF_JGE | BPF_K:
            is_taken = value >= filter->k;
            break;
        case BPF_JMP | BPF_JGT | BPF_K:
            is_taken = value > filter->k;
            break;
        case BPF_JMP | BPF_JSET | BPF_K:
            is_taken = (value & filter->k) != 0;
            break;
        case BPF_ALU | BPF_AND | BPF_K:
            value &= filter->k;
            continue;
        default:
            return false;
        }
        at += is_taken ? filter->jt : filter->jf;
    }
    return false;
}

static void usual_calls_need_no_filter(void **state)
{
    static const long usual[] = {
        SYS_read,    SYS_write,      SYS_close,         SYS_openat,       SYS_newfstatat,
        SYS_mmap,    SYS_munmap,     SYS_brk,           SYS_rt_sigaction, SYS_ioctl,
        SYS_pread64, SYS_futex,      SYS_poll,          SYS_epoll_wait,   SYS_epoll_ctl,
        SYS_socket,  SYS_connect,    SYS_accept4,       SYS_sendto,       SYS_recvfrom,
        SYS_sendmsg, SYS_recvmsg,    SYS_clone,         SYS_clone3,       SYS_execve,
        SYS_wait4,   SYS_kill,       SYS_fcntl,         SYS_getdents64,   SYS_getppid,
        SYS_gettid,  SYS_prctl,      SYS_clock_gettime, SYS_sched_yield,  SYS_statx,
        SYS_lseek,   SYS_unshare,    SYS_personality,   SYS_nanosleep,    SYS_getrandom,
        SYS_madvise, SYS_exit_group,
    };
    static const long others[] = {SYS_sysinfo, SYS_init_module, SYS_io_uring_enter, FUTURE_CALL};
    const struct seccomp_profile_options options[] = {
        {.sysinfo_listener = "/run/agent"},
        {.sysinfo_listener = "/run/agent", .may_nest = true},
    };
    for (size_t n = 0; n < ARRAY_COUNT(options); n++) {
        struct seccomp_program *program = profile_program(&options[n]);
        for (size_t i = 0; i < ARRAY_COUNT(usual); i++) {
            if (!is_known_to_be_allowed(program, (uint32_t)usual[i])) {
                fail_msg("call %ld: the filter is run for it", usual[i]);
            }
        }
        for (size_t i = 0; i < ARRAY_COUNT(others); i++) {
            assert_false(is_known_to_be_allowed(program, (uint32_t)others[i]));
        }
        seccomp_program_free(program);
    }
}

#define NAMES                                                                                      \
    "\"syscalls\": [{\"names\": [\"exit_group\", \"%s\"], \"action\": \"SCMP_ACT_ALLOW\"}]"

static int of_profile(const char *start, const char *newest, long number)
{
    char members[512];
    int size = snprintf(members, sizeof(members), "%s, ", start);
    (void)snprintf(members + size, sizeof(members) - (size_t)size, NAMES, newest);
    struct seccomp_program *program = program_with(members, NULL);
    int got = answer(program, number);
    seccomp_program_free(program);
    return got;
}

/* Beyond the newest call that a profile names: ENOSYS. Up to it: as it says. */
static void younger_calls(void **state)
{
    static const char eperm[] = "\"defaultAction\": \"SCMP_ACT_ERRNO\"";
    assert_int_equal(of_profile(eperm, "statx", SYS_statx), EINVAL);
    assert_int_equal(of_profile(eperm, "statx", SYS_mkdir), EPERM);
    assert_int_equal(of_profile(eperm, "statx", SYS_statx - 1), EPERM);
    assert_int_equal(of_profile(eperm, "statx", SYS_statx + 1), ENOSYS);
    assert_int_equal(of_profile(eperm, "statx", SYS_clone3), ENOSYS);
    assert_int_equal(of_profile(eperm, "statx", FUTURE_CALL), ENOSYS);
    assert_int_equal(of_profile(eperm, "clone3", SYS_statx + 1), EPERM);
    /* Other numbers of the profile's choice, too; not where it kills or allows. */
    assert_int_equal(of_profile("\"defaultAction\": \"SCMP_ACT_ERRNO\", \"defaultErrnoRet\": 71",
                                "statx", FUTURE_CALL),
                     ENOSYS);
    assert_int_equal(
        of_profile("\"defaultAction\": \"SCMP_ACT_KILL_PROCESS\"", "statx", FUTURE_CALL), -SIGSYS);
    assert_int_equal(of_profile("\"defaultAction\": \"SCMP_ACT_TRAP\"", "statx", FUTURE_CALL),
                     -SIGSYS);
    /* x32's numbers are above all others, and are no call of this architecture: still refused. */
    int x32 = of_profile(eperm, "statx", 0x40000000 | SYS_getppid);
    assert_true(x32 == -SIGSYS || x32 == ENOSYS || x32 == EPERM);
    /* Further architectures do not change what this one's are. */
    assert_int_equal(of_profile("\"defaultAction\": \"SCMP_ACT_ERRNO\", \"architectures\": "
                                "[\"SCMP_ARCH_X86_64\", \"SCMP_ARCH_X86\", \"SCMP_ARCH_X32\", "
                                "\"SCMP_ARCH_AARCH64\", \"SCMP_ARCH_RISCV64\"]",
                                "statx", SYS_clone3),
                     ENOSYS);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_refused),     cmocka_unit_test(what_is_allowed),
        cmocka_unit_test(sysinfo_is_notified), cmocka_unit_test(usual_calls_need_no_filter),
        cmocka_unit_test(younger_calls),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
