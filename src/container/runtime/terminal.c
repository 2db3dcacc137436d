/* Terminals and the wait for a process in the foreground. */
#include "container/runtime/terminal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "base/host/file.h"
#include "base/host/pass_fd.h"

int terminal_connect(const char *path, const char *what, int *out_socket, struct error *err)
{
    AUTO_CLOSE int place = open(
        path, O_PATH | O_CLOEXEC); /* names of sockets are short, those of descriptors always are */
    AUTO_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    (void)snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d", place);
    if (place < 0 || fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
        return error_set_errno(err, errno, "%s: connecting to %s", what, path);
    }
    *out_socket = TAKE_FD(fd);
    return 0;
}

int terminal_send(int socket, int fd, const char *text, struct error *err)
{
    ssize_t sent;
    do {
        sent = pass_fd_send(socket, text, strlen(text), &fd, 1, MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    return sent < 0 ? error_set_errno(err, errno, "handing over %s", text) : 0;
}

int terminal_send_pidfd(const char *path, int pidfd, const char *id, struct error *err)
{
    AUTO_CLOSE int socket = -1;
    int rc = terminal_connect(path, "--pidfd-socket", &socket, err);
    return rc < 0 ? rc : terminal_send(socket, pidfd, id, err);
}

int terminal_take(int slave, struct error *err)
{
    if (setsid() < 0 && errno != EPERM) { /* EPERM: has one of its own already */
        return error_set_errno(err, errno, "beginning a session");
    }
    if (ioctl(slave, TIOCSCTTY, 0) < 0) {
        return error_set_errno(err, errno, "taking the terminal");
    }
    for (int fd = 0; fd <= 2; fd++) {
        if (dup3(slave, fd, 0) < 0) {
            return error_set_errno(err, errno, "taking the terminal");
        }
    }
    close(slave);
    return 0;
}

int terminal_set_size(int fd, uint16_t rows, uint16_t columns, struct error *err)
{
    struct winsize size = {.ws_row = rows, .ws_col = columns};
    return ioctl(fd, TIOCSWINSZ, &size) < 0
               ? error_set_errno(err, errno, "setting the terminal's size")
               : 0;
}

void terminal_copy_size(int master)
{
    struct winsize size;
    if (master >= 0 && ioctl(STDIN_FILENO, TIOCGWINSZ, &size) == 0) {
        (void)ioctl(master, TIOCSWINSZ, &size);
    }
}

struct session {
    pid_t pid;
    int pidfd, master, signals;
    bool has_input; /* standard input is still read */
};

static void pass_signal(struct session *s)
{
    struct signalfd_siginfo info;
    if (read(s->signals, &info, sizeof(info)) != sizeof(info) || info.ssi_signo == SIGCHLD) {
        return;
    }
    if (info.ssi_signo == SIGWINCH && s->master >= 0) {
        terminal_copy_size(s->master);
        return;
    }
    (void)syscall(SYS_pidfd_send_signal, s->pidfd, (int)info.ssi_signo, NULL, 0);
}

static bool write_all(int fd, const char *data, size_t size)
{
    while (size > 0) {
        ssize_t n = write(fd, data, size);
        if (n < 0 && errno != EINTR) {
            return false;
        }
        if (n > 0) {
            data += n;
            size -= (size_t)n;
        }
    }
    return true;
}

/* False at the end. */
static bool copy(int from, int to)
{
    char data[4096];
    ssize_t n;
    do {
        n = read(from, data, sizeof(data));
    } while (n < 0 && errno == EINTR);
    return n > 0 && write_all(to, data, (size_t)n);
}

/* Until the process has ended. */
static int pump(struct session *s, struct error *err)
{
    for (;;) {
        struct pollfd wait[4] = {
            {.fd = s->pidfd, .events = POLLIN},
            {.fd = s->signals, .events = POLLIN},
            {.fd = s->master, .events = POLLIN},
            {.fd = s->master >= 0 && s->has_input ? STDIN_FILENO : -1, .events = POLLIN},
        };
        if (poll(wait, 4, -1) < 0) {
            if (errno == EINTR) {
                continue;
            }
            return error_set_errno(err, errno, "waiting for the container");
        }
        if (wait[1].revents != 0) {
            pass_signal(s);
        }
        if (wait[2].revents != 0 && !copy(s->master, STDOUT_FILENO)) {
            s->master = -1; /* nobody has the other end open any more */
        }
        if (wait[3].revents != 0 && !copy(STDIN_FILENO, s->master)) {
            s->has_input = false;
        }
        if (wait[0].revents != 0) {
            break;
        }
    }
    /* What it wrote last. */
    struct pollfd rest = {.fd = s->master, .events = POLLIN};
    while (s->master >= 0 && poll(&rest, 1, 0) > 0 && (rest.revents & POLLIN) != 0) {
        if (!copy(s->master, STDOUT_FILENO)) {
            break;
        }
    }
    return 0;
}

int terminal_wait(pid_t pid, int pidfd, int master, const sigset_t *signals, int *out_status,
                  struct error *err)
{
    AUTO_CLOSE int signal_fd = signalfd(-1, signals, SFD_CLOEXEC);
    if (signal_fd < 0) {
        return error_set_errno(err, errno, "waiting for signals");
    }
    struct session session = {
        .pid = pid, .pidfd = pidfd, .master = master, .signals = signal_fd, .has_input = true};
    struct termios before;
    bool is_raw = master >= 0 && tcgetattr(STDIN_FILENO, &before) == 0;
    if (is_raw) {
        struct termios raw = before;
        cfmakeraw(&raw);
        (void)tcsetattr(STDIN_FILENO, TCSANOW, &raw);
        terminal_copy_size(session.master);
    }
    int rc = pump(&session, err);
    if (is_raw) {
        (void)tcsetattr(STDIN_FILENO, TCSANOW, &before);
    }
    int status = 0;
    while (rc == 0 && waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR) {
            rc = error_set_errno(err, errno, "waiting for the container");
        }
    }
    if (rc == 0) {
        *out_status = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    }
    return rc;
}
