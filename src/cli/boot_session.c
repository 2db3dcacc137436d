#include "cli/boot_session.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/host/event_loop.h"
#include "cli/terminal.h"

#define ESCAPE        0x1d /* Ctrl-] */
#define PUMP_SIZE     4096 /* one write that poll allowed does not block: a pipe takes PIPE_BUF */
#define QUIT_GRACE_NS 3000000000ull
#define TERM_GRACE_NS 60000000000ull /* for a guest to shut down after SIGTERM */

/* One direction of the console: what was read and is not written yet. */
struct pump {
    uint8_t data[PUMP_SIZE];
    size_t start, end;
    bool is_closed; /* nothing more to read */
};

struct session {
    const struct boot_options *options;
    struct boot_files *files;
    pid_t vmm;
    int signal_fd, console_fd, control_fd;
    struct pump typed; /* standard input to the guest */
    struct pump shown; /* the guest to standard output */
    bool is_terminal;
    bool is_escape; /* Ctrl-] was typed: the next key is for hull */
    bool is_paused;
    bool is_dead;          /* the VM's process ended: 'wait_status' */
    bool is_output_broken; /* nobody reads standard output any more */
    int wait_status;
    unsigned stop_signals;
    uint64_t timeout_ns; /* when --timeout ends, 0: never */
    uint64_t kill_ns;    /* when patience ends, 0: not asked to quit */
    bool has_timed_out, was_killed;
    char answer[512]; /* start of a line from the VM's control connection */
    size_t answer_length;
};

/* Orders to the VM; it reads them on its loop, and a full socket means that it hangs: then the kill timer helps. */
static void order(struct session *session, const char *verb)
{
    char line[64];
    int length = snprintf(line, sizeof(line), "{\"do\":\"%s\"}\n", verb);
    (void)!send(session->control_fd, line, (size_t)length, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* A serial line has no size; the virtio console has. */
static void tell_size(struct session *session)
{
    struct winsize size;
    char line[96];
    if (!session->options->has_virtio_console || session->console_fd < 0 ||
        ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) < 0 || size.ws_col == 0 || size.ws_row == 0) {
        return;
    }
    int length =
        snprintf(line, sizeof(line), "{\"do\":\"console-size\",\"columns\":%u,\"rows\":%u}\n",
                 size.ws_col, size.ws_row);
    (void)!send(session->control_fd, line, (size_t)length, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void note(const char *text)
{
    (void)fprintf(stderr, "hull: %s\n", text);
}

static void quit(struct session *session)
{
    order(session, "quit");
    if (session->kill_ns == 0) {
        session->kill_ns = clock_monotonic_ns() + QUIT_GRACE_NS;
    }
}

static void kill_vmm(struct session *session)
{
    session->was_killed = true;
    session->kill_ns = 0;
    (void)kill(session->vmm, SIGKILL); /* it may have ended at this moment */
}

static void escape_key(struct session *session, uint8_t key)
{
    switch (key) {
    case 'q':
        quit(session);
        break;
    case 'o':
        order(session, "poweroff");
        note("power button pressed");
        break;
    case 'r':
        order(session, "reset");
        note("reset");
        break;
    case 'p':
        session->is_paused = !session->is_paused;
        order(session, session->is_paused ? "pause" : "resume");
        note(session->is_paused ? "paused; Ctrl-] p goes on" : "resumed");
        break;
    case '?':
    case 'h':
        note(
            "after Ctrl-]: q quit, o power button, r reset, p pause or go on, Ctrl-] sends itself");
        break;
    default:
        note("unknown key after Ctrl-]: ? lists them");
        break;
    }
}

/* Takes the keys for hull out of what was typed. */
static void filter_escapes(struct session *session, struct pump *pump, size_t from)
{
    size_t kept = from;
    for (size_t i = from; i < pump->end; i++) {
        uint8_t key = pump->data[i];
        if (session->is_escape) {
            session->is_escape = false;
            if (key == ESCAPE) {
                pump->data[kept++] = key;
            } else {
                escape_key(session, key);
            }
        } else if (key == ESCAPE) {
            session->is_escape = true;
        } else {
            pump->data[kept++] = key;
        }
    }
    pump->end = kept;
}

static void pump_read(struct pump *pump, int fd)
{
    if (pump->start == pump->end) {
        pump->start = 0;
        pump->end = 0;
    }
    ssize_t count = read(fd, pump->data + pump->end, sizeof(pump->data) - pump->end);
    if (count > 0) {
        pump->end += (size_t)count;
    } else if (count == 0 || (errno != EINTR && errno != EAGAIN)) {
        pump->is_closed = true;
    }
}

/* False when the other side is gone. */
static bool pump_write(struct pump *pump, int fd)
{
    ssize_t count = write(fd, pump->data + pump->start, pump->end - pump->start);
    if (count > 0) {
        pump->start += (size_t)count;
        return true;
    }
    return count < 0 && (errno == EINTR || errno == EAGAIN);
}

static bool pump_is_empty(const struct pump *pump)
{
    return pump->start == pump->end;
}

/* Errors that the VM answers to our orders; everything else is of no interest here. */
static void read_answers(struct session *session)
{
    char bytes[256];
    ssize_t count = recv(session->control_fd, bytes, sizeof(bytes), MSG_DONTWAIT);
    if (count == 0 || (count < 0 && errno != EAGAIN && errno != EINTR)) {
        session->control_fd = -1; /* borrowed: closed by the caller */
        return;
    }
    for (ssize_t i = 0; i < count; i++) {
        if (bytes[i] != '\n') {
            if (session->answer_length < sizeof(session->answer) - 1) {
                session->answer[session->answer_length++] = bytes[i];
            }
            continue;
        }
        session->answer[session->answer_length] = '\0';
        session->answer_length = 0;
        const char *message = strstr(session->answer, "\"message\":\"");
        if (message != NULL && strstr(session->answer, "\"error\":") != NULL) {
            message += strlen("\"message\":\"");
            (void)fprintf(stderr, "hull: %.*s\n", (int)strcspn(message, "\""), message);
        }
    }
}

static void stop_signal(struct session *session, int number)
{
    if (number == SIGHUP) {
        quit(session); /* nobody is left to answer */
        return;
    }
    session->stop_signals++;
    if (session->stop_signals == 1) {
        order(session, "poweroff");
        note("power button pressed; once more to stop at once");
        if (number == SIGTERM) {
            /* From a script, which may have nobody to press twice. */
            session->kill_ns = clock_monotonic_ns() + TERM_GRACE_NS;
        }
    } else {
        kill_vmm(session);
    }
}

static void reap(struct session *session)
{
    /* Those of networks are waited for by who started them. */
    if (!session->is_dead &&
        waitpid(session->vmm, &session->wait_status, WNOHANG) == session->vmm) {
        session->is_dead = true;
    }
    if (!session->is_dead) {
        boot_storage_reap(session->files);
    }
}

static void read_signals(struct session *session)
{
    struct signalfd_siginfo info;
    if (read(session->signal_fd, &info, sizeof(info)) != (ssize_t)sizeof(info)) {
        return;
    }
    switch (info.ssi_signo) {
    case SIGCHLD:
        reap(session);
        break;
    case SIGTSTP:
        terminal_restore();
        (void)kill(getpid(), SIGSTOP);
        terminal_resume();
        break;
    case SIGCONT:
        terminal_resume();
        break;
    case SIGWINCH:
        tell_size(session);
        break;
    default:
        stop_signal(session, (int)info.ssi_signo);
        break;
    }
}

/* Milliseconds until the next thing to do, -1: no such. */
static int next_timeout_ms(const struct session *session)
{
    uint64_t deadline_ns = session->timeout_ns;
    uint64_t storage_ns = boot_storage_deadline(session->files);
    if (storage_ns != 0 && (deadline_ns == 0 || storage_ns < deadline_ns)) {
        deadline_ns = storage_ns;
    }
    if (session->kill_ns != 0 && (deadline_ns == 0 || session->kill_ns < deadline_ns)) {
        deadline_ns = session->kill_ns;
    }
    if (deadline_ns == 0) {
        return -1;
    }
    uint64_t now_ns = clock_monotonic_ns();
    if (now_ns >= deadline_ns) {
        return 0;
    }
    uint64_t ms = (deadline_ns - now_ns + 999999) / 1000000;
    return ms > 3600000 ? 3600000 : (int)ms;
}

static void check_time(struct session *session)
{
    uint64_t now_ns = clock_monotonic_ns();
    if (session->timeout_ns != 0 && now_ns >= session->timeout_ns) {
        session->timeout_ns = 0;
        session->has_timed_out = true;
        quit(session);
    }
    if (session->kill_ns != 0 && now_ns >= session->kill_ns) {
        kill_vmm(session);
    }
}

enum {
    FD_SIGNAL,
    FD_CONTROL,
    FD_CONSOLE,
    FD_STDIN,
    FD_STDOUT,
    FD_COUNT
};

static void prepare_fds(const struct session *session, struct pollfd *fds)
{
    for (int i = 0; i < FD_COUNT; i++) {
        fds[i] = (struct pollfd){.fd = -1};
    }
    fds[FD_SIGNAL] = (struct pollfd){.fd = session->signal_fd, .events = POLLIN};
    fds[FD_CONTROL] = (struct pollfd){.fd = session->control_fd, .events = POLLIN};
    if (session->console_fd < 0) {
        return;
    }
    bool wants_shown = pump_is_empty(&session->shown) && !session->shown.is_closed;
    bool has_typed = !pump_is_empty(&session->typed) && !session->shown.is_closed;
    if (wants_shown || has_typed) {
        fds[FD_CONSOLE].fd = session->console_fd;
        fds[FD_CONSOLE].events = (short)((wants_shown ? POLLIN : 0) | (has_typed ? POLLOUT : 0));
    }
    if (pump_is_empty(&session->typed) && !session->typed.is_closed && !session->is_dead) {
        fds[FD_STDIN] = (struct pollfd){.fd = STDIN_FILENO, .events = POLLIN};
    }
    if (!pump_is_empty(&session->shown)) {
        fds[FD_STDOUT] = (struct pollfd){.fd = STDOUT_FILENO, .events = POLLOUT};
    }
}

static void serve_console(struct session *session, const struct pollfd *fds)
{
    if (fds[FD_STDIN].revents != 0) {
        pump_read(&session->typed, STDIN_FILENO);
        if (session->is_terminal) {
            filter_escapes(session, &session->typed, session->typed.start);
        }
    }
    if ((fds[FD_CONSOLE].revents & POLLOUT) != 0 &&
        !pump_write(&session->typed, session->console_fd)) {
        session->typed.start = session->typed.end;
        session->typed.is_closed = true;
    }
    if ((fds[FD_CONSOLE].revents & (POLLIN | POLLHUP | POLLERR)) != 0 &&
        pump_is_empty(&session->shown)) {
        pump_read(&session->shown, session->console_fd);
    }
    if (session->is_output_broken) {
        session->shown.start = session->shown.end;
    } else if (fds[FD_STDOUT].revents != 0 && !pump_write(&session->shown, STDOUT_FILENO)) {
        /* As with a pipe's reader that left: the VM goes on, its output goes nowhere. */
        session->is_output_broken = true;
    }
}

/* The VM is gone and all that it wrote is out. */
static bool is_finished(const struct session *session)
{
    return session->is_dead && (session->console_fd < 0 ||
                                (session->shown.is_closed && pump_is_empty(&session->shown)));
}

static int exit_status(const struct session *session)
{
    if (session->has_timed_out) {
        (void)fprintf(stderr, "hull: %s: stopped after %g seconds\n", session->options->name,
                      session->options->timeout_s);
        return BOOT_STATUS_TIMEOUT;
    }
    if (WIFEXITED(session->wait_status)) {
        return WEXITSTATUS(session->wait_status);
    }
    int number = WTERMSIG(session->wait_status);
    if (!session->was_killed || number != SIGKILL) {
        (void)fprintf(stderr, "hull: %s: hull-vmm ended by signal %d (%s)%s\n",
                      session->options->name, number, strsignal(number),
                      number == SIGSYS ? ": its sandbox does not allow a system call" : "");
    } else {
        (void)fprintf(stderr, "hull: %s: stopped at once\n", session->options->name);
    }
    return 1;
}

int boot_session_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGTSTP);
    sigaddset(&set, SIGCONT);
    sigaddset(&set, SIGWINCH);
    if (sigprocmask(SIG_BLOCK, &set, NULL) < 0) {
        return -1;
    }
    (void)signal(SIGPIPE, SIG_IGN);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

int boot_session_run(const struct boot_options *options, pid_t vmm, int signal_fd, int console_fd,
                     struct boot_files *files)
{
    struct session session = {
        .options = options,
        .vmm = vmm,
        .signal_fd = signal_fd,
        .console_fd = console_fd,
        .control_fd = files->control_own,
        .files = files,
        .is_paused = options->paused,
    };
    if (options->timeout_s > 0) {
        session.timeout_ns = clock_monotonic_ns() + (uint64_t)(options->timeout_s * 1e9);
    }
    if (console_fd >= 0) {
        session.is_terminal = terminal_set_raw(STDIN_FILENO);
    }
    tell_size(&session);
    reap(&session);
    while (!is_finished(&session)) {
        struct pollfd fds[FD_COUNT + BOOT_MAX_STORAGES];
        prepare_fds(&session, fds);
        unsigned storages = boot_storage_poll(files, fds + FD_COUNT);
        if (poll(fds, FD_COUNT + storages, next_timeout_ms(&session)) < 0 && errno != EINTR) {
            kill_vmm(&session);
            (void)waitpid(vmm, &session.wait_status, 0);
            break;
        }
        if (!session.is_dead) {
            boot_storage_serve(files, fds + FD_COUNT, storages);
        }
        if (fds[FD_SIGNAL].revents != 0) {
            read_signals(&session);
        }
        if (fds[FD_CONTROL].revents != 0) {
            read_answers(&session);
        }
        if (console_fd >= 0) {
            serve_console(&session, fds);
        }
        check_time(&session);
    }
    terminal_restore();
    return exit_status(&session);
}
