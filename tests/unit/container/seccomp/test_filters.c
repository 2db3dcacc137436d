/* Covers src/container/seccomp: what filters do to real calls, for each action, comparison and architecture. */
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
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support.h"

#define ALLOW  "\"defaultAction\": \"SCMP_ACT_ALLOW\""
#define MKDIRS "\"syscalls\": [{\"names\": [\"mkdir\"], \"action\": \"SCMP_ACT_"

static void assert_exit(const char *members, int (*run)(void *), void *argument, int expected)
{
    struct seccomp_program *program = program_with(members, NULL);
    int status = status_of(program, run, argument);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != expected) {
        fail_msg("%s: status %x, not %d", members, (unsigned)status, expected);
    }
    seccomp_program_free(program);
}

static void assert_killed(const char *members, int (*run)(void *))
{
    struct seccomp_program *program = program_with(members, NULL);
    int status = status_of(program, run, NULL);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGSYS);
    seccomp_program_free(program);
}

static int catch_trap(void *unused);

static void actions(void **state)
{
    assert_exit(ALLOW, try_mkdir, NULL, EEXIST);
    assert_exit(ALLOW ", " MKDIRS "ERRNO\"}]", try_mkdir, NULL, EPERM);
    assert_exit(ALLOW ", " MKDIRS "ERRNO\", \"errnoRet\": 38}]", try_mkdir, NULL, ENOSYS);
    assert_exit(ALLOW ", " MKDIRS "ERRNO\", \"errnoRet\": 0}]", try_mkdir, NULL, 0);
    assert_exit(ALLOW ", " MKDIRS "LOG\"}]", try_mkdir, NULL, EEXIST);
    assert_exit(ALLOW ", " MKDIRS "TRACE\"}]", try_mkdir, NULL, ENOSYS); /* nobody traces */
    assert_exit(ALLOW ", " MKDIRS "ALLOW\"}]", try_mkdir, NULL, EEXIST);
    assert_exit(ALLOW ", " MKDIRS "TRAP\"}]", catch_trap, NULL, 44);
    assert_killed(ALLOW ", " MKDIRS "TRAP\"}]", try_mkdir);
    assert_killed(ALLOW ", " MKDIRS "KILL\"}]", try_mkdir);
    assert_killed(ALLOW ", " MKDIRS "KILL_THREAD\"}]", try_mkdir);
    assert_killed(ALLOW ", " MKDIRS "KILL_PROCESS\"}]", try_mkdir);
}

static void on_trap(int signal, siginfo_t *info, void *context)
{
    syscall(SYS_exit_group, info->si_syscall == SYS_mkdir ? 44 : 1);
}

static int catch_trap(void *unused)
{
    struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO};
    (void)sigaction(SIGSYS, &action, NULL);
    return try_mkdir(NULL);
}

static void default_action(void **state)
{
    static const char exits[] =
        ", \"syscalls\": [{\"names\": [\"exit_group\", \"no_such_call\"], \"action\": "
        "\"SCMP_ACT_ALLOW\"}]";
    char members[512];
    (void)snprintf(members, sizeof(members), "\"defaultAction\": \"SCMP_ACT_ERRNO\"%s", exits);
    assert_exit(members, try_mkdir, NULL, EPERM);
    (void)snprintf(members, sizeof(members),
                   "\"defaultAction\": \"SCMP_ACT_ERRNO\", \"defaultErrnoRet\": 38%s", exits);
    assert_exit(members, try_mkdir, NULL, ENOSYS);
    (void)snprintf(members, sizeof(members), "\"defaultAction\": \"SCMP_ACT_KILL_PROCESS\"%s",
                   exits);
    assert_killed(members, try_mkdir);
}

/* lseek of no descriptor is EBADF, unless the filter meets its offset. */
static int seek(void *argument)
{
    return syscall(SYS_lseek, -1, *(uint64_t *)argument, 3) < 0 ? errno : 0;
}

static void comparisons(void **state)
{
    static const struct {
        const char *op;
        uint64_t value, value_two, argument;
        bool is_met;
    } cases[] = {
        {"EQ", 5, 0, 5, true},
        {"EQ", 5, 0, UINT64_C(0x100000005), false},
        {"EQ", UINT64_MAX, 0, UINT64_MAX, true},
        {"NE", 5, 0, 5, false},
        {"NE", 5, 0, 6, true},
        {"LT", UINT64_C(0x100000000), 0, UINT32_MAX, true},
        {"LT", 5, 0, 5, false},
        {"LE", 5, 0, 5, true},
        {"LE", 5, 0, 6, false},
        {"GE", 5, 0, 5, true},
        {"GE", 5, 0, 4, false},
        {"GT", UINT64_C(0x8000000000000000), 0, UINT64_C(0x8000000000000001), true},
        {"GT", 5, 0, 5, false},
        {"MASKED_EQ", 0xf0, 0x50, 0x25f, true},
        {"MASKED_EQ", 0xf0, 0x50, 0x26f, false},
        {"MASKED_EQ", UINT64_C(0xff00000000000000), UINT64_C(0xab00000000000000),
         UINT64_C(0xabcdef0000000001), true},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        char members[512];
        (void)snprintf(members, sizeof(members),
                       ALLOW ", \"syscalls\": [{\"names\": [\"lseek\"], \"action\": "
                             "\"SCMP_ACT_ERRNO\", \"errnoRet\": 77, \"args\": [{\"index\": 1, "
                             "\"value\": %llu, \"valueTwo\": %llu, \"op\": \"SCMP_CMP_%s\"}]}]",
                       (unsigned long long)cases[i].value, (unsigned long long)cases[i].value_two,
                       cases[i].op);
        uint64_t argument = cases[i].argument;
        assert_exit(members, seek, &argument, cases[i].is_met ? 77 : EBADF);
    }
}

/* Conditions on several arguments must all hold; of those on the same one any. */
static void several_conditions(void **state)
{
    static const char rule[] =
        ALLOW ", \"syscalls\": [{\"names\": [\"lseek\"], \"action\": \"SCMP_ACT_ERRNO\", "
              "\"errnoRet\": 77, \"args\": [{\"index\": 1, \"value\": 5, \"op\": "
              "\"SCMP_CMP_EQ\"}, {\"index\": %d, \"value\": %d, \"op\": \"SCMP_CMP_EQ\"}]}]";
    static const struct {
        int index, value;
        uint64_t argument;
        int expected;
    } cases[] = {
        {2, 3, 5, 77}, {2, 4, 5, EBADF}, {2, 3, 6, EBADF},
        {1, 6, 5, 77}, {1, 6, 6, 77},    {1, 6, 7, EBADF},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        char members[512];
        (void)snprintf(members, sizeof(members), rule, cases[i].index, cases[i].value);
        uint64_t argument = cases[i].argument;
        assert_exit(members, seek, &argument, cases[i].expected);
    }
}

/* mkdir as a 32-bit program calls it: number 39. */
static int try_mkdir32(void *unused)
{
    long rc = 39;
    __asm__ volatile("int $0x80" : "+a"(rc) : "b"(0L), "c"(0L) : "memory");
    return rc < 0 ? (int)-rc : 0;
}

static void architectures(void **state)
{
    pid_t child = fork();
    if (child == 0) {
        (void)signal(SIGSEGV, SIG_DFL);
        _exit(try_mkdir32(NULL) == EFAULT ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    if (status != 0) {
        print_message("this kernel runs no 32-bit calls: only compiled\n");
    } else {
        assert_killed(ALLOW ", " MKDIRS "ERRNO\"}]", try_mkdir32);
        assert_exit(ALLOW ", \"architectures\": [\"SCMP_ARCH_X86\"], " MKDIRS "ERRNO\"}]",
                    try_mkdir32, NULL, EPERM);
        assert_exit(ALLOW ", \"architectures\": [\"SCMP_ARCH_X86\"], " MKDIRS "ERRNO\"}]",
                    try_mkdir, NULL, EPERM);
        assert_exit(ALLOW ", \"architectures\": [\"SCMP_ARCH_X86_64\", \"SCMP_ARCH_X32\", "
                          "\"SCMP_ARCH_X86\"]",
                    try_mkdir32, NULL, EFAULT);
    }
    struct seccomp_program *many = program_with(
        ALLOW ", \"architectures\": [\"SCMP_ARCH_X86\", \"SCMP_ARCH_ARM\", \"SCMP_ARCH_AARCH64\", "
              "\"SCMP_ARCH_MIPSEL\", \"SCMP_ARCH_PPC64LE\", \"SCMP_ARCH_RISCV64\"], " MKDIRS
              "ERRNO\"}]",
        NULL);
    assert_int_equal(WEXITSTATUS(status_of(many, try_mkdir, NULL)), EPERM);
    seccomp_program_free(many);
}

/* Of another byte order, or younger than the library: told, and the rest holds. */
static void foreign_architectures_are_told(void **state)
{
    struct spec *spec =
        spec_with(ALLOW ", \"architectures\": [\"SCMP_ARCH_S390X\"], " MKDIRS "ERRNO\"}]");
    struct seccomp_program *program = NULL;
    struct degrade degrade = {0};
    assert_int_equal(seccomp_program_create(&spec->linux_.seccomp, NULL, &program, &degrade, NULL),
                     0);
    assert_non_null(strstr(degrade.text, "linux.seccomp.architectures\t[0]"));
    assert_int_equal(WEXITSTATUS(status_of(program, try_mkdir, NULL)), EPERM);
    seccomp_program_free(program);
    spec_destroy(spec);
}

static void flags(void **state)
{
    assert_exit(ALLOW ", \"flags\": [\"SECCOMP_FILTER_FLAG_LOG\", \"SECCOMP_FILTER_FLAG_TSYNC\", "
                      "\"SECCOMP_FILTER_FLAG_SPEC_ALLOW\", "
                      "\"SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV\"], " MKDIRS "ERRNO\"}]",
                try_mkdir, NULL, EPERM);
}

/* A kernel that knows neither actions nor flags, by a filter over seccomp(2) itself. */
static void block_questions(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_seccomp, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EINVAL),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = ARRAY_COUNT(code), .filter = code};
    (void)prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    (void)prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

static void missing_actions_are_told(void **state)
{
    struct spec *spec = spec_with(
        ALLOW ", \"listenerPath\": \"/s\", \"flags\": [\"SECCOMP_FILTER_FLAG_LOG\"], " MKDIRS
              "KILL_PROCESS\"}, {\"names\": [\"rmdir\"], \"action\": \"SCMP_ACT_LOG\"}, "
              "{\"names\": [\"chmod\"], \"action\": \"SCMP_ACT_NOTIFY\"}]");
    pid_t child = fork();
    if (child == 0) {
        struct seccomp_program *program = NULL;
        struct degrade degrade = {0};
        block_questions();
        int rc = seccomp_program_create(&spec->linux_.seccomp, NULL, &program, &degrade, NULL);
        _exit(rc == 0 && strstr(degrade.text, "no SCMP_ACT_LOG:") != NULL &&
                      strstr(degrade.text, "no SCMP_ACT_KILL_PROCESS:") != NULL &&
                      strstr(degrade.text, "no SCMP_ACT_NOTIFY:") != NULL &&
                      strstr(degrade.text, "no SECCOMP_FILTER_FLAG_LOG") != NULL &&
                      !seccomp_program_notifies(program)
                  ? 0
                  : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    spec_destroy(spec);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(actions),       cmocka_unit_test(default_action),
        cmocka_unit_test(comparisons),   cmocka_unit_test(several_conditions),
        cmocka_unit_test(architectures), cmocka_unit_test(foreign_architectures_are_told),
        cmocka_unit_test(flags),         cmocka_unit_test(missing_actions_are_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
