/* One loop over the connection, the program's streams and its end. Nothing blocks: what a side does not take waits in a
 * buffer of bounded size, and its source is not read meanwhile. */
#include "agent/exec.h"

#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/program.h"
#include "base/core/endian.h"
#include "base/host/file.h"
#include "session/frames.h"

#define HEAD      5u /* of a frame: length and kind */
#define FRAME_MAX (HEAD + SESSION_MAX_PAYLOAD)
#define INPUT_MAX (2u * SESSION_MAX_PAYLOAD) /* STDIN that the program has not taken */
#define LEFT_MAX  (1u << 20)                 /* what is still read when the program has ended */
#define TERMINAL_END_MS                                                                            \
    2000 /* a terminal's last output comes a little later than the program's end */

struct exec {
    int fd;
    struct program program;
    bool is_terminal;
    bool is_ended;   /* the program has */
    int status;      /* then: of waitpid */
    bool input_ends; /* when what waits has been written */
    bool host_is_gone;
    size_t left;        /* to be read behind the program's end */
    uint8_t *from_host; /* FRAME_MAX: the frame that comes in */
    size_t from_host_size;
    uint8_t *input; /* INPUT_MAX */
    size_t input_start, input_size;
    uint8_t *to_host; /* FRAME_MAX: the frame that goes out */
    size_t to_host_start, to_host_size;
};

static void put_frame(struct exec *e, enum session_frame type, size_t size)
{
    le32_put(e->to_host, (uint32_t)size + 1);
    e->to_host[4] = (uint8_t)type;
    e->to_host_start = 0;
    e->to_host_size = HEAD + size;
}

static void put_control(struct exec *e, json_t *control)
{
    size_t size = control == NULL ? 0
                                  : json_dumpb(control, (char *)e->to_host + HEAD,
                                               SESSION_MAX_PAYLOAD, JSON_COMPACT);
    json_decref(control);
    if (size == 0) {
        e->host_is_gone = true; /* no memory: the connection ends without more words */
        return;
    }
    put_frame(e, SESSION_CONTROL, size);
}

static void send_some(struct exec *e)
{
    ssize_t sent = send(e->fd, e->to_host + e->to_host_start, e->to_host_size - e->to_host_start,
                        MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent > 0) {
        e->to_host_start += (size_t)sent;
    } else if (sent < 0 && errno != EAGAIN && errno != EINTR) {
        e->host_is_gone = true;
    }
    if (e->to_host_start == e->to_host_size) {
        e->to_host_start = e->to_host_size = 0;
    }
}

static void close_stream(int *fd)
{
    close(*fd);
    *fd = -1;
}

/* From the program into the frame that goes out, which is empty. */
static void take_output(struct exec *e, int *fd, enum session_frame type)
{
    size_t most = e->is_ended ? MIN(e->left, (size_t)SESSION_MAX_PAYLOAD) : SESSION_MAX_PAYLOAD;
    ssize_t got = read(*fd, e->to_host + HEAD, most);
    if (got > 0) {
        e->left -= e->is_ended ? (size_t)got : 0;
        put_frame(e, type, (size_t)got);
    } else if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
        close_stream(fd); /* EIO: nobody has the terminal open any more */
    }
}

static void give_input(struct exec *e)
{
    int *to = &e->program.input;
    if (*to >= 0 && e->input_size > 0) {
        ssize_t taken = write(*to, e->input + e->input_start, e->input_size);
        if (taken > 0) {
            e->input_start += (size_t)taken;
            e->input_size -= (size_t)taken;
        } else if (taken < 0 && errno != EAGAIN && errno != EINTR) {
            close_stream(to); /* the program reads no more */
        }
    }
    if (*to < 0 || e->input_size == 0) {
        e->input_start = e->input_size = 0;
    }
    if (*to < 0 || e->input_size != 0 || !e->input_ends) {
        return;
    }
    e->input_ends = false;
    if (e->is_terminal) { /* its line's end of file; others may still type */
        e->input[e->input_size++] = 4;
    } else {
        close_stream(to);
    }
}

static void resize(struct exec *e, const json_t *size)
{
    json_int_t columns = json_integer_value(json_array_get(size, 0));
    json_int_t rows = json_integer_value(json_array_get(size, 1));
    struct winsize winsize = {.ws_col = (uint16_t)columns, .ws_row = (uint16_t)rows};
    if (e->is_terminal && e->program.output >= 0 && columns > 0 && columns <= UINT16_MAX &&
        rows > 0 && rows <= UINT16_MAX) {
        (void)ioctl(e->program.output, TIOCSWINSZ, &winsize); /* a wish */
    }
}

static void take_control(struct exec *e, const uint8_t *data, size_t size)
{
    json_t *control = json_loadb((const char *)data, size, 0, NULL);
    const json_t *signal = json_object_get(control, "signal");
    json_int_t number = json_integer_value(signal);
    if (number > 0 && number < 65 && !e->is_ended) {
        (void)kill(-e->program.pid, (int)number);
    }
    if (json_object_get(control, "resize") != NULL) {
        resize(e, json_object_get(control, "resize"));
    }
    if (json_is_true(json_object_get(control, "eof"))) {
        e->input_ends = true;
    }
    json_decref(control); /* what this agent does not know it leaves alone */
}

static void take_frame(struct exec *e, uint8_t type, const uint8_t *data, size_t size)
{
    if (type == SESSION_CONTROL) {
        take_control(e, data, size);
    } else if (type == SESSION_STDIN && e->program.input >= 0) {
        if (e->input_start + e->input_size + size > INPUT_MAX) {
            memmove(e->input, e->input + e->input_start, e->input_size);
            e->input_start = 0;
        }
        memcpy(e->input + e->input_start + e->input_size, data, size);
        e->input_size += size;
    }
}

/* Is there room for whatever the next frame is? */
static bool has_room(const struct exec *e)
{
    return e->input_size + SESSION_MAX_PAYLOAD <= INPUT_MAX;
}

static void take_from_host(struct exec *e)
{
    size_t want = HEAD;
    if (e->from_host_size >= HEAD) {
        want = HEAD - 1 + le32_get(e->from_host);
    }
    ssize_t got =
        recv(e->fd, e->from_host + e->from_host_size, want - e->from_host_size, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (got <= 0) {
        e->host_is_gone = true;
        return;
    }
    e->from_host_size += (size_t)got;
    if (e->from_host_size < HEAD) {
        return;
    }
    uint32_t size = le32_get(e->from_host);
    if (size == 0 || size - 1 > SESSION_MAX_PAYLOAD) {
        e->host_is_gone = true; /* or speaks something else */
    } else if (e->from_host_size == HEAD - 1 + size) {
        e->from_host_size = 0;
        take_frame(e, e->from_host[4], e->from_host + HEAD, size - 1);
    }
}

static void take_end(struct exec *e)
{
    struct signalfd_siginfo info;
    while (read(e->program.ended, &info, sizeof(info)) > 0) {
        continue; /* it says that something ended; waitpid says what */
    }
    if (waitpid(e->program.pid, &e->status, WNOHANG) != e->program.pid) {
        return;
    }
    e->is_ended = true;
    e->left = LEFT_MAX;
}

/* One wait and what it found. False: the program has ended and has nothing more to say. */
static bool step(struct exec *e)
{
    bool can_put = e->to_host_size == 0;
    struct program *p = &e->program;
    struct pollfd wait[] = {
        {.fd = e->fd,
         .events = (short)(POLLRDHUP | (has_room(e) ? POLLIN : 0) | (can_put ? 0 : POLLOUT))},
        {.fd = e->is_ended ? -1 : p->ended, .events = POLLIN},
        {.fd = can_put ? p->output : -1, .events = POLLIN},
        {.fd = can_put ? p->errors : -1, .events = POLLIN},
        {.fd = e->input_size > 0 ? p->input : -1, .events = POLLOUT},
    };
    int timeout_ms = !e->is_ended || !can_put ? -1 : e->is_terminal ? TERMINAL_END_MS : 0;
    int ready = poll(wait, ARRAY_COUNT(wait), timeout_ms);
    if (ready < 0) {
        return true; /* EINTR */
    }
    if (ready == 0) {
        return false;
    }
    if (wait[0].revents & (POLLRDHUP | POLLHUP | POLLERR)) {
        e->host_is_gone = true;
        return true;
    }
    if (wait[0].revents & POLLOUT) {
        send_some(e);
    }
    if (wait[0].revents & POLLIN) {
        take_from_host(e);
    }
    if (wait[2].revents != 0) {
        take_output(e, &p->output, SESSION_STDOUT);
    }
    if (wait[3].revents != 0 && e->to_host_size == 0) {
        take_output(e, &p->errors, SESSION_STDERR);
    }
    give_input(e);
    if (wait[1].revents != 0) {
        take_end(e);
    }
    return !e->is_ended || e->to_host_size != 0 ||
           (e->left > 0 && (p->output >= 0 || p->errors >= 0));
}

static void pump(struct exec *e)
{
    put_control(e, json_pack("{s:b}", "started", true));
    while (!e->host_is_gone && step(e)) {
        continue;
    }
    if (e->host_is_gone) {
        return;
    }
    put_control(e, WIFSIGNALED(e->status) ? json_pack("{s:i}", "signalled", WTERMSIG(e->status))
                                          : json_pack("{s:i}", "exit", WEXITSTATUS(e->status)));
    struct pollfd wait = {.fd = e->fd, .events = POLLOUT | POLLRDHUP};
    while (!e->host_is_gone && e->to_host_size != 0 &&
           (poll(&wait, 1, -1) >= 0 || errno == EINTR)) {
        send_some(e);
    }
}

int exec_serve(int fd, const struct request *request, struct error *err)
{
    AUTO_FREE uint8_t *buffers = malloc(2 * FRAME_MAX + INPUT_MAX);
    if (buffers == NULL) {
        return error_set_errno(err, ENOMEM, "session");
    }
    struct exec e = {.fd = fd,
                     .is_terminal = request->has_terminal,
                     .from_host = buffers,
                     .to_host = buffers + FRAME_MAX,
                     .input = buffers + 2 * FRAME_MAX};
    int rc = program_start(request, &e.program, err);
    if (rc < 0) {
        return rc;
    }
    pump(&e);
    if (e.is_terminal && e.program.input >= 0) {
        close_stream(&e.program.input);
    }
    if (!e.is_ended) {
        program_kill(&e.program);
    }
    program_close(&e.program);
    return 0;
}
