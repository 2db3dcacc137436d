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
#include <linux/filter.h>
#include <seccomp.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/core/compiler.h"
#include "container/seccomp/profile.h"
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
        cmocka_unit_test(what_is_refused),
        cmocka_unit_test(what_is_allowed),
        cmocka_unit_test(sysinfo_is_notified),
        cmocka_unit_test(younger_calls),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
