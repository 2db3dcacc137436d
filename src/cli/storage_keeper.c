#include "cli/storage_keeper.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/host/event_loop.h"
#include "base/host/file.h"
#include "base/host/pass_fd.h"
#include "cli/boot_files.h"

#define REPORT_FD 3 /* the keeper's way to who has started it */

/* What it says once: 'code' 0, with the channel, or the error. */
struct report {
    int code;
    char text[ERROR_TEXT_SIZE];
};

union passed_fd {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(sizeof(int))];
};

static void send_report(int rc, int channel, const struct error *err)
{
    struct report report = {.code = rc < 0 ? -rc : 0};
    if (rc < 0) {
        memcpy(report.text, err->text, sizeof(report.text));
    }
    /* Without a listener the VM does not come either. */
    (void)pass_fd_send(REPORT_FD, &report, sizeof(report), &channel, rc < 0 ? 0 : 1, 0);
}

/* Of the process that goes on: nothing of the terminal, nor of the VM's control connection. -1: it cannot be. */
static int leave_behind(int report_fd, int log_fd)
{
    int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    sigset_t signals;
    (void)setsid(); /* fails only for a group leader, which a new child is not */
    (void)prctl(PR_SET_NAME, "hull-keeper");
    if (null_fd < 0 || dup2(null_fd, 0) < 0 || dup2(null_fd, 1) < 0 ||
        dup2(log_fd > 0 ? log_fd : null_fd, 2) < 0 ||
        (report_fd != REPORT_FD && dup2(report_fd, REPORT_FD) < 0) ||
        syscall(SYS_close_range, REPORT_FD + 1, ~0u, 0) < 0 ||
        fcntl(REPORT_FD, F_SETFD, FD_CLOEXEC) < 0) {
        return -1;
    }
    (void)sigemptyset(&signals);
    (void)sigaddset(&signals, SIGCHLD);
    (void)sigprocmask(SIG_BLOCK, &signals, NULL); /* valid signals */
    return signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
}

static int timeout_ms(const struct boot_files *files)
{
    uint64_t deadline = boot_storage_deadline(files);
    uint64_t now = clock_monotonic_ns();
    return deadline == 0     ? -1
           : deadline <= now ? 0
                             : (int)MIN((deadline - now) / 1000000 + 1, (uint64_t)1000000);
}

/* Until the VM wants it no more. Then it has some time to make durable what it has. */
static void keep(struct boot_files *files, int signal_fd)
{
    while (files->storage[0].channel >= 0) {
        struct pollfd fds[2 + BOOT_MAX_STORAGES] = {{.fd = signal_fd, .events = POLLIN},
                                                    {.fd = files->storage[0].channel}};
        unsigned count = boot_storage_poll(files, fds + 2);
        if (poll(fds, 2 + count, timeout_ms(files)) < 0) {
            continue; /* a signal */
        }
        struct signalfd_siginfo signals[4];
        (void)!read(signal_fd, signals, sizeof(signals)); /* who has ended says waitpid */
        if (fds[1].revents != 0) {
            break; /* the VM has closed its end */
        }
        boot_storage_serve(files, fds + 2, count);
        boot_storage_reap(files);
    }
    boot_end_storage(files);
}

noreturn_fn static void run_keeper(const struct storage_process *process, int report_fd)
{
    static struct boot_files files;
    struct storage_process own = *process;
    struct error err = {0};
    int channel = -1;
    boot_files_init(&files);
    int signal_fd = leave_behind(report_fd, process->log_fd);
    own.log_fd = 0; /* the keeper's own standard error */
    own.outlives_us = true;
    int rc = signal_fd < 0 ? error_set_errno(&err, errno, "starting a process for a remote disk")
                           : boot_storage_open(&own, &files, &channel, &err);
    send_report(rc, channel, &err);
    if (rc < 0) {
        boot_end_storage(&files);
        _exit(1);
    }
    close(channel);
    close(REPORT_FD);
    keep(&files, signal_fd);
    _exit(0);
}

static int receive_report(int fd, int *out_channel, struct error *err)
{
    struct report report;
    union passed_fd ancillary = {0};
    struct iovec iov = {&report, sizeof(report)};
    struct msghdr message = {.msg_iov = &iov,
                             .msg_iovlen = 1,
                             .msg_control = &ancillary,
                             .msg_controllen = sizeof(ancillary)};
    ssize_t size;
    do {
        size = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
    } while (size < 0 && errno == EINTR);
    if (size != (ssize_t)sizeof(report)) {
        return error_set(err, ECHILD, "the process for a remote disk has ended");
    }
    if (report.code != 0) {
        return error_set(err, report.code, "%s", report.text);
    }
    const struct cmsghdr *part = CMSG_FIRSTHDR(&message);
    if (part == NULL || part->cmsg_type != SCM_RIGHTS || part->cmsg_len != CMSG_LEN(sizeof(int))) {
        return error_set(err, EMFILE, "too many open files");
    }
    memcpy(out_channel, CMSG_DATA(part), sizeof(*out_channel));
    return 0;
}

int storage_keeper_start(const struct storage_process *process, int *out_channel, struct error *err)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
        return error_set_errno(err, errno, "making a socket pair");
    }
    AUTO_CLOSE int own_fd = pair[0];
    int report_fd = pair[1];
    pid_t pid = fork();
    if (pid == 0) {
        run_keeper(process, report_fd);
    }
    close(report_fd);
    if (pid < 0) {
        return error_set_errno(err, errno, "starting a process for a remote disk");
    }
    int rc = receive_report(own_fd, out_channel, err);
    if (rc < 0) {
        (void)waitpid(pid, NULL, 0);
    }
    return rc;
}
