/* A session: the user's streams and a program's, or a console's. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/host/file.h"
#include "cli/managed/managed.h"
#include "cli/terminal.h"
#include "session/frames.h"

#define ESCAPE     0x1d /* Ctrl-] */
#define INPUT_SIZE 16384

struct session {
    struct client_socket *socket;
    const struct session_terminal *how;
    int signals;
    bool reads;      /* standard input has more */
    bool is_escaped; /* Ctrl-] was typed */
    int status;      /* what it ended with; -1: it goes on */
};

static int send_control(struct session *session, json_t *control, struct error *err)
{
    AUTO_FREE char *text = json_dumps(control, JSON_COMPACT);
    json_decref(control);
    return text == NULL
               ? error_set(err, ENOMEM, "a session")
               : client_socket_send(session->socket, SESSION_CONTROL, text, strlen(text), err);
}

static int send_size(struct session *session, struct error *err)
{
    struct winsize window;
    if (ioctl(STDIN_FILENO, TIOCGWINSZ, &window) < 0 || window.ws_col == 0) {
        return 0;
    }
    return send_control(session, json_pack("{s:[i, i]}", "resize", window.ws_col, window.ws_row),
                        err);
}

static int take_signal(struct session *session, struct error *err)
{
    struct signalfd_siginfo info;
    if (read(session->signals, &info, sizeof(info)) != (ssize_t)sizeof(info)) {
        return 0;
    }
    bool is_stuck = client_socket_is_sending(session->socket);
    if (info.ssi_signo == SIGWINCH) {
        return session->how->is_raw && !is_stuck ? send_size(session, err) : 0;
    }
    if (session->how->is_console || is_stuck) {
        session->status = 128 + (int)info.ssi_signo;
        return 0;
    }
    return send_control(session, json_pack("{s:i}", "signal", (int)info.ssi_signo), err);
}

static void tell_keys(void)
{
    (void)fputs("\r\nCtrl-] q leaves the console, Ctrl-] Ctrl-] sends Ctrl-]\r\n", stderr);
}

/* Takes Ctrl-] and what follows it out of what was typed. */
static size_t take_escapes(struct session *session, uint8_t *data, size_t size)
{
    size_t used = 0;
    for (size_t i = 0; i < size; i++) {
        if (!session->is_escaped && data[i] == ESCAPE) {
            session->is_escaped = true;
            continue;
        }
        if (session->is_escaped) {
            session->is_escaped = false;
            if (data[i] == 'q' || data[i] == 'Q') {
                session->status = CLI_OK;
                return used;
            }
            if (data[i] == '?') {
                tell_keys();
            }
            if (data[i] != ESCAPE) {
                continue;
            }
        }
        data[used++] = data[i];
    }
    return used;
}

static int take_input(struct session *session, struct error *err)
{
    uint8_t data[INPUT_SIZE];
    ssize_t got = read(STDIN_FILENO, data, sizeof(data));
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) {
        return 0;
    }
    if (got <= 0) {
        session->reads = false;
        return session->how->is_console ? 0
                                        : send_control(session, json_pack("{s:b}", "eof", 1), err);
    }
    size_t size = (size_t)got;
    if (session->how->is_console && session->how->is_raw) {
        size = take_escapes(session, data, size);
    }
    return size == 0 ? 0 : client_socket_send(session->socket, SESSION_STDIN, data, size, err);
}

static int take_control(struct session *session, const uint8_t *data, size_t size,
                        struct error *err)
{
    json_t *control = json_loadb((const char *)data, size, JSON_REJECT_DUPLICATES, NULL);
    const json_t *exit = json_object_get(control, "exit");
    const json_t *signalled = json_object_get(control, "signalled");
    const json_t *error = json_object_get(control, "error");
    int rc = 0;
    if (json_is_integer(exit)) {
        session->status = (int)(json_integer_value(exit) & 0xff);
    } else if (json_is_integer(signalled)) {
        session->status = 128 + (int)(json_integer_value(signalled) & 0x7f);
    } else if (json_is_object(error)) {
        const char *message = json_string_value(json_object_get(error, "message"));
        rc = client_error(err, EIO, message != NULL ? message : "the session has failed");
    } else if (!json_is_object(control)) {
        rc = error_set(err, EPROTO, "hulld's connection: a message that is no object");
    }
    json_decref(control);
    return rc;
}

/* All messages that are there. */
static int take_messages(struct session *session, struct error *err)
{
    for (;;) {
        bool is_text;
        const uint8_t *data;
        size_t size;
        if (session->status >= 0) {
            return 0;
        }
        int rc = client_socket_receive(session->socket, &is_text, &data, &size, err);
        if (rc == -EAGAIN) {
            return 0;
        }
        if (rc == 0 && (is_text || size == 0 || size > SESSION_MAX_PAYLOAD + 1)) {
            rc = error_set(err, EPROTO, "hulld's connection: a message that is no frame");
        }
        if (rc == 0 && data[0] == SESSION_CONTROL) {
            rc = take_control(session, data + 1, size - 1, err);
        } else if (rc == 0 && (data[0] == SESSION_STDOUT || data[0] == SESSION_STDERR)) {
            int fd = data[0] == SESSION_STDOUT ? STDOUT_FILENO : STDERR_FILENO;
            rc = file_write_all(fd, data + 1, size - 1, "output", err);
        } else if (rc == 0) {
            rc = error_set(err, EPROTO, "hulld's connection: a frame of kind %u", data[0]);
        }
        if (rc < 0) {
            return rc;
        }
    }
}

static int loop(struct session *session, struct error *err)
{
    int rc = 0;
    while (rc == 0 && session->status < 0) {
        bool is_sending = client_socket_is_sending(session->socket);
        struct pollfd polled[] = {
            {.fd = client_socket_fd(session->socket),
             .events = (short)(POLLIN | (is_sending ? POLLOUT : 0))},
            {.fd = session->signals, .events = POLLIN},
            {.fd = is_sending || !session->reads ? -1 : STDIN_FILENO, .events = POLLIN},
        };
        if (poll(polled, ARRAY_COUNT(polled), -1) < 0) {
            rc = errno == EINTR ? 0 : error_set_errno(err, errno, "waiting");
            continue;
        }
        if (polled[0].revents & POLLOUT) {
            rc = client_socket_flush(session->socket, err);
        }
        if (rc == 0 && polled[0].revents & ~POLLOUT) {
            rc = take_messages(session, err);
        }
        if (rc == 0 && polled[1].revents != 0) {
            rc = take_signal(session, err);
        }
        if (rc == 0 && polled[2].revents != 0 && session->status < 0 &&
            !client_socket_is_sending(session->socket)) {
            rc = take_input(session, err);
        }
    }
    return rc;
}

int session_run(struct client_socket *socket, const struct session_terminal *how, struct error *err)
{
    struct session session = {.socket = socket, .how = how, .reads = true, .status = -1};
    sigset_t taken, before;
    sigemptyset(&taken);
    sigaddset(&taken, SIGWINCH);
    sigaddset(&taken, SIGINT);
    sigaddset(&taken, SIGTERM);
    sigaddset(&taken, SIGHUP);
    sigaddset(&taken, SIGQUIT);
    (void)sigprocmask(SIG_BLOCK, &taken, &before);
    AUTO_CLOSE int signals = signalfd(-1, &taken, SFD_CLOEXEC | SFD_NONBLOCK);
    session.signals = signals;
    (void)signal(SIGPIPE, SIG_IGN); /* an error, so that the terminal is set back */
    bool is_raw = how->is_raw && terminal_set_transparent(STDIN_FILENO);
    int rc = is_raw ? send_size(&session, err) : 0;
    rc = rc < 0 ? rc : take_messages(&session, err); /* what came with the handshake */
    rc = rc < 0 ? rc : loop(&session, err);
    if (is_raw) {
        terminal_restore();
    }
    if (how->is_console && rc == -ENODATA) {
        session.status = CLI_OK; /* the instance has ended */
        rc = 0;
    }
    (void)sigprocmask(SIG_SETMASK, &before, NULL);
    return rc < 0 ? rc : session.status;
}
