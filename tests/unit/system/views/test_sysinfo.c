/* Covers src/system/views/sysinfo.c: children install a filter that notifies of sysinfo, and call it. Needs root, FUSE and
 * seccomp's notifications. */
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/host/pass_fd.h"
#include "system/views/sysinfo.h"
#include "system/views/views.h"

#define GIVE_UP_MS 60000
#define GIB        (UINT64_C(1) << 30)
#define WRITERS    4 /* that may wait at the same time */

static int proc_fd;
static struct sysinfo_desk *desk;
static struct views *views;
static char folder[] = "/tmp/hull-test-XXXXXX";

static const struct memory_totals totals = {
    .total = 8 * GIB,
    .free = 3 * GIB,
    .available = 4 * GIB,
    .shared = 4096,
    .buffers = 8192,
    .swap_total = 2 * GIB,
    .swap_free = GIB,
};
static const struct load load = {
    .average = {2048, 1024, 512},
    .counts = {.total = 17},
};

static void fill(void *ctx, struct sysinfo *out_info)
{
    sysinfo_fill(out_info, &totals, UINT64_C(1500000000), &load);
}

/* getppid is notified of too, which goes on as if nothing had happened. */
static int install_filter(void)
{
    static struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_sysinfo, 5, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 4, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 116, 0, 2), /* sysinfo of i386 */
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_I386, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
    };
    const struct sock_fprog program = {.len = sizeof(code) / sizeof(*code), .filter = code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) {
        return -1;
    }
    return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER,
                        &program);
}

struct caller {
    pid_t pid;
    int listener_fd;
};

static int receive_fd(int socket)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } ancillary;
    char byte;
    struct iovec iov = {.iov_base = &byte, .iov_len = 1};
    struct msghdr message = {.msg_iov = &iov,
                             .msg_iovlen = 1,
                             .msg_control = &ancillary,
                             .msg_controllen = sizeof(ancillary)};
    assert_int_equal(recvmsg(socket, &message, MSG_CMSG_CLOEXEC), 1);
    struct cmsghdr *part = CMSG_FIRSTHDR(&message);
    assert_non_null(part);
    int fd;
    memcpy(&fd, CMSG_DATA(part), sizeof(fd));
    return fd;
}

static struct caller start_caller(int (*fn)(void))
{
    int sockets[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
    struct caller caller = {.pid = fork()};
    assert_true(caller.pid >= 0);
    if (caller.pid == 0) {
        int fd = install_filter();
        if (fd < 0 || pass_fd_send(sockets[1], "l", 1, &fd, 1, 0) != 1) {
            _exit(255);
        }
        close(fd);
        _exit(fn());
    }
    close(sockets[1]);
    caller.listener_fd = receive_fd(sockets[0]);
    close(sockets[0]);
    return caller;
}

static void wait_for_call(const struct caller *caller)
{
    struct pollfd waiting = {.fd = caller->listener_fd, .events = POLLIN};
    assert_int_equal(poll(&waiting, 1, GIVE_UP_MS), 1);
}

static int answer_one(const struct caller *caller)
{
    struct error err = {0};
    wait_for_call(caller);
    return sysinfo_answer(desk, caller->listener_fd, proc_fd, fill, NULL, &err);
}

/* The status with which it ends. */
static int end_caller(struct caller *caller)
{
    int status;
    assert_int_equal(waitpid(caller->pid, &status, 0), caller->pid);
    close(caller->listener_fd);
    return status;
}

static void assert_answered(int (*fn)(void))
{
    struct caller caller = start_caller(fn);
    assert_int_equal(answer_one(&caller), 0);
    assert_int_equal(end_caller(&caller), 0);
}

static int call_native(void)
{
    struct sysinfo info[2];
    memset(info, 0x55, sizeof(info));
    if (sysinfo(&info[0]) != 0) {
        return 1;
    }
    const unsigned char *behind = (const unsigned char *)&info[1];
    if (behind[0] != 0x55) {
        return 2;
    }
    return !(info[0].uptime == 2 && info[0].totalram == 8 * GIB && info[0].freeram == 3 * GIB &&
             info[0].sharedram == 4096 && info[0].bufferram == 8192 &&
             info[0].totalswap == 2 * GIB && info[0].freeswap == GIB && info[0].procs == 17 &&
             info[0].mem_unit == 1 && info[0].loads[0] == 65536 && info[0].loads[1] == 32768 &&
             info[0].loads[2] == 16384);
}

static void native_call(void **state)
{
    assert_answered(call_native);
}

#if defined(__x86_64__)
static int call_i386(void)
{
    size_t size = 4096;
    struct sysinfo_32 *info =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    if (info == MAP_FAILED) {
        return 1;
    }
    memset(info, 0x55, size);
    long rc;
    __asm__ volatile("int $0x80"
                     : "=a"(rc)
                     : "a"(116L), "b"(info)
                     : "memory", "r8", "r9", "r10", "r11");
    if (rc != 0) {
        return 2;
    }
    const unsigned char *behind = (const unsigned char *)&info[1];
    if (sizeof(*info) != 64 || *behind != 0x55) {
        return 3;
    }
    return !(info->uptime == 2 && info->mem_unit == 4096 && info->totalram == 8 * GIB / 4096 &&
             info->freeram == 3 * GIB / 4096 && info->totalswap == 2 * GIB / 4096 &&
             info->procs == 17 && info->loads[0] == 65536);
}

static bool has_i386(void)
{
    pid_t pid = fork();
    if (pid == 0) {
        long rc;
        __asm__ volatile("int $0x80" : "=a"(rc) : "a"(20L) : "memory", "r8", "r9", "r10", "r11");
        _exit(rc == getpid() ? 0 : 1);
    }
    int status;
    return waitpid(pid, &status, 0) == pid && status == 0;
}

static void i386_call(void **state)
{
    if (has_i386()) {
        assert_answered(call_i386);
    } else {
        print_message("the host's kernel runs no programs for i386\n");
    }
}
#endif

static void i386_units(void **state)
{
    struct sysinfo info = {.totalram = UINT32_MAX, .freeram = 4097, .mem_unit = 1, .loads = {1}};
    struct sysinfo_32 compat;
    sysinfo_fill_32(&compat, &info);
    assert_int_equal(compat.totalram, UINT32_MAX);
    assert_int_equal(compat.freeram, 4097);
    assert_int_equal(compat.mem_unit, 1);
    info.totalswap = UINT64_C(1) << 32;
    sysinfo_fill_32(&compat, &info);
    assert_int_equal(compat.freeram, 1);
    assert_int_equal(compat.totalswap, 1 << 20);
    assert_int_equal(compat.mem_unit, 4096);
}

static int call_badly(void)
{
    static const uintptr_t addresses[] = {0, 1, UINTPTR_MAX, UINTPTR_MAX - 4095, INTPTR_MAX - 50};
    for (size_t i = 0; i < ARRAY_COUNT(addresses); i++) {
        if (syscall(SYS_sysinfo, addresses[i]) != -1 || errno != EFAULT) {
            return (int)i + 1;
        }
    }
    return 0;
}

static void bad_addresses(void **state)
{
    struct caller caller = start_caller(call_badly);
    for (unsigned i = 0; i < 5; i++) {
        assert_int_equal(answer_one(&caller), 0);
    }
    assert_int_equal(end_caller(&caller), 0);
}

static pid_t test_pid;

static int call_another(void)
{
    return getppid() == test_pid ? 0 : 1;
}

static void other_calls_go_on(void **state)
{
    test_pid = getpid();
    assert_answered(call_another);
}

static void caller_is_gone(void **state)
{
    struct caller caller = start_caller(call_native);
    wait_for_call(&caller);
    assert_int_equal(kill(caller.pid, SIGKILL), 0);
    int status;
    assert_int_equal(waitpid(caller.pid, &status, 0), caller.pid);
    assert_int_equal(sysinfo_answer(desk, caller.listener_fd, proc_fd, fill, NULL, NULL), -ENOENT);
    close(caller.listener_fd);
}

/* Serves the views until the descriptor is readable. */
static void serve_until(int fd)
{
    struct pollfd waiting[] = {
        {.fd = fd, .events = POLLIN},
        {.fd = views_fd(views), .events = POLLIN},
    };
    while (waiting[0].revents == 0) {
        assert_true(poll(waiting, 2, GIVE_UP_MS) > 0);
        assert_int_equal(views_serve(views, NULL), 0);
    }
}

static void serve_until_end(pid_t pid)
{
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    assert_true(fd >= 0);
    serve_until(fd);
    close(fd);
}

/* By another process, as opening has to be served. */
static int open_view(const char *name)
{
    int sockets[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        char path[64];
        (void)snprintf(path, sizeof(path), "%s/%s", folder, name);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        _exit(fd >= 0 && pass_fd_send(sockets[1], "v", 1, &fd, 1, 0) == 1 ? 0 : 1);
    }
    close(sockets[1]);
    serve_until(sockets[0]);
    int fd = receive_fd(sockets[0]);
    close(sockets[0]);
    serve_until_end(pid);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    return fd;
}

/* Memory that is there only when the one who answers has answered something else: a copy of a page of the views. Mapped once,
 * as a second mapping waits for the page of the first. */
static char *view_page;

static int call_into_a_view(void)
{
    char *page = view_page;
    struct sysinfo *info = (struct sysinfo *)(page + 64);
    if (syscall(SYS_sysinfo, info) != 0) {
        return 1;
    }
    return info->procs == 17 && page[0] == '0' ? 0 : 2;
}

static int call_and_see_the_host(void)
{
    struct sysinfo info;
    return sysinfo(&info) == 0 && info.procs != 17 ? 0 : 1;
}

/* Nobody in the container can hold up the one who answers. */
static void writes_that_wait(void **state)
{
    struct caller callers[WRITERS];
    int view_fd = open_view("cpu_online");
    view_page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, view_fd, 0);
    assert_true(view_page != MAP_FAILED);
    for (size_t i = 0; i < WRITERS; i++) {
        callers[i] = start_caller(call_into_a_view);
        assert_int_equal(answer_one(&callers[i]), 0);
        if (i + 1 < WRITERS) {
            assert_answered(call_native);
        }
    }
    assert_answered(call_and_see_the_host);
    /* One goes before its answer comes; the others get theirs. */
    assert_int_equal(kill(callers[0].pid, SIGKILL), 0);
    for (size_t i = 0; i < WRITERS; i++) {
        serve_until_end(callers[i].pid);
        assert_int_equal(end_caller(&callers[i]), i == 0 ? SIGKILL : 0);
    }
    assert_int_equal(munmap(view_page, 4096), 0);
    close(view_fd);
}

static int call_and_see_something(void)
{
    struct sysinfo info;
    memset(&info, 0, sizeof(info));
    return sysinfo(&info) == 0 && info.totalram > 0 && info.mem_unit == 1 ? 0 : 1;
}

static void views_answer(void **state)
{
    struct caller caller = start_caller(call_and_see_something);
    wait_for_call(&caller);
    assert_int_equal(views_sysinfo(views, caller.listener_fd, NULL), 0);
    assert_int_equal(end_caller(&caller), 0);
}

static int setup(void **state)
{
    return sysinfo_desk_create(&desk, NULL);
}

static int teardown(void **state)
{
    sysinfo_desk_destroy(desk);
    return 0;
}

static bool can_install_filters(void)
{
    pid_t pid = fork();
    if (pid == 0) {
        _exit(install_filter() >= 0 ? 0 : 1);
    }
    int status;
    return waitpid(pid, &status, 0) == pid && status == 0;
}

static int finish(void **state)
{
    int rc = umount2(folder, MNT_DETACH);
    views_destroy(views);
    return rc < 0 || rmdir(folder) < 0 ? -1 : 0;
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
    proc_fd = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (proc_fd < 0 || !can_install_filters()) {
        print_message("the kernel has no notifications of seccomp\n");
        return 77;
    }
    if (geteuid() != 0 || unshare(CLONE_NEWNS) < 0 ||
        mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) {
        print_message("a mount namespace of its own needs root\n");
        return 77;
    }
    struct error err = {0};
    if (mkdtemp(folder) == NULL || views_create(folder, &views, &err) < 0) {
        print_message("%s\n", err.text);
        (void)rmdir(folder);
        return 77;
    }
    const struct CMUnitTest tests[] = {
        TEST(native_call),
#if defined(__x86_64__)
        TEST(i386_call),
#endif
        TEST(i386_units),
        TEST(bad_addresses),
        TEST(other_calls_go_on),
        TEST(caller_is_gone),
        TEST(writes_that_wait),
        TEST(views_answer),
    };
    return cmocka_run_group_tests(tests, NULL, finish);
}
