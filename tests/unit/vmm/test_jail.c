/* Covers vmm/jail.c: what a process in the jail can still do, and what ends it. Each case is a child of its own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/jail.h"

/* How a child that does 'act' in the jail ends: its wait status. */
static int in_jail(void (*act)(void), const struct jail_needs *needs)
{
    pid_t pid = fork();
    if (pid == 0) {
        struct error err = {0};
        (void)prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        if (jail_filter_install(needs, &err) < 0) {
            _exit(77);
        }
        act();
        _exit(0);
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static void check_killed(void (*act)(void))
{
    struct jail_needs needs = {0};
    int status = in_jail(act, &needs);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGSYS);
}

static void check_alive(void (*act)(void), struct jail_needs needs)
{
    int status = in_jail(act, &needs);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void open_file(void)
{
    (void)open("/etc/passwd", O_RDONLY);
}

static void make_process(void)
{
    (void)fork();
}

static void run_program(void)
{
    char *argv[] = {"true", NULL};
    (void)execv("/bin/true", argv);
}

static void make_socket(void)
{
    (void)socket(AF_UNIX, SOCK_STREAM, 0);
}

static void make_internet_socket(void)
{
    (void)socket(AF_INET, SOCK_STREAM, 0);
}

static void make_code(void)
{
    (void)mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static void make_memory_executable(void)
{
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    (void)mprotect(page, 4096, PROT_READ | PROT_EXEC);
}

static void kill_another(void)
{
    (void)kill(getppid(), 0);
}

static void use_kvm(void)
{
    (void)ioctl(1, 0xae80, 0); /* KVM_RUN on what is none: ENOTTY */
}

static void push_typed_characters(void)
{
    (void)ioctl(0, TIOCSTI, "x");
}

static void *thread_body(void *ctx)
{
    return ctx;
}

static void work(void)
{
    pthread_t thread;
    uint64_t one = 1;
    struct rusage usage;
    int fd = eventfd(0, EFD_CLOEXEC);
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (fd < 0 || page == MAP_FAILED || write(fd, &one, sizeof(one)) != (ssize_t)sizeof(one) ||
        getrusage(RUSAGE_THREAD, &usage) < 0 ||
        pthread_create(&thread, NULL, thread_body, page) != 0 || pthread_join(thread, NULL) != 0) {
        _exit(1);
    }
}

static int compare_numbers(const void *a, const void *b)
{
    return *(const int *)a - *(const int *)b;
}

/* Large enough that the C library asks how much memory there is. */
static void sort_much(void)
{
    static int numbers[100000];
    for (int i = 0; i < 100000; i++) {
        numbers[i] = i ^ 0x5555;
    }
    qsort(numbers, 100000, sizeof(int), compare_numbers);
}

static void forbidden_calls_end_the_process(void **state)
{
    check_killed(open_file);
    check_killed(make_process);
    check_killed(run_program);
    check_killed(make_socket);
    check_killed(make_internet_socket);
    check_killed(make_code);
    check_killed(make_memory_executable);
    check_killed(kill_another);
    check_killed(use_kvm);
    check_killed(push_typed_characters);
}

static void the_work_of_a_vm_goes_on(void **state)
{
    check_alive(work, (struct jail_needs){0});
    check_alive(sort_much, (struct jail_needs){0});
    check_alive(use_kvm, (struct jail_needs){.has_kvm = true});
    check_alive(make_socket, (struct jail_needs){.has_unix_sockets = true});
}

static void *open_in_thread(void *ctx)
{
    int go;
    (void)!read(*(int *)ctx, &go, sizeof(go));
    open_file();
    return NULL;
}

/* A thread that was there before the filter is in it too. */
static void all_threads_are_in(void **state)
{
    pid_t pid = fork();
    if (pid == 0) {
        int fds[2];
        pthread_t thread;
        struct jail_needs needs = {0};
        (void)prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        if (pipe(fds) < 0 || pthread_create(&thread, NULL, open_in_thread, &fds[0]) != 0 ||
            jail_filter_install(&needs, NULL) < 0) {
            _exit(77);
        }
        (void)!write(fds[1], "gogo", 4);
        (void)pthread_join(thread, NULL);
        _exit(0);
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGSYS);
}

/* The whole way in works here, as root and as anybody. */
static void the_jail_takes_everything(void **state)
{
    pid_t pid = fork();
    if (pid == 0) {
        struct error err = {0};
        struct jail_needs needs = {
            .uid = JAIL_NOBODY, .gid = JAIL_NOBODY, .has_own_mounts = jail_enter_early(false)};
        bool was_root = geteuid() == 0;
        if (jail_enter_late(&needs, &err) < 0) {
            (void)fprintf(stderr, "%s\n", err.text);
            _exit(1);
        }
        _exit(was_root ? 3 : 4);
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), geteuid() == 0 ? 3 : 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forbidden_calls_end_the_process),
        cmocka_unit_test(the_work_of_a_vm_goes_on),
        cmocka_unit_test(all_threads_are_in),
        cmocka_unit_test(the_jail_takes_everything),
    };
#ifdef __SANITIZE_ADDRESS__
    (void)tests;
    (void)puts("skipped: sanitizers make system calls that the filter does not allow");
    return 77;
#else
    return cmocka_run_group_tests(tests, NULL, NULL);
#endif
}
