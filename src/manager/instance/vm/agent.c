#include "manager/instance/vm/agent.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/core/endian.h"
#include "base/host/event_loop.h"
#include "base/host/file.h"
#include "manager/instance/vm/agent_text.h"
#include "session/frames.h"

#define AGENT_PORT 1023 /* agent/agent.h */
#define LENGTH     4u   /* before a frame in a stream */
#define FRAME_MAX  (1u + SESSION_MAX_PAYLOAD)
#define LINE_MAX_  32u

static int fail_closed(struct error *err)
{
    return error_set(err, EPROTO, "guest agent: it closed the connection before the end");
}

/* Until the descriptor is ready, at most until 'end_ms' (of clock_monotonic_ms). */
static int await(int fd, short events, int64_t end_ms, struct error *err)
{
    for (;;) {
        struct pollfd wait = {.fd = fd, .events = events};
        int64_t left = end_ms - clock_monotonic_ms();
        int ready = left > 0 ? poll(&wait, 1, (int)MIN(left, (int64_t)1000000)) : 0;
        if (ready > 0) {
            return 0;
        }
        if (ready == 0 && left <= 1000000) {
            return error_set(err, ETIMEDOUT, "guest agent: no answer in time");
        }
        if (ready < 0 && errno != EINTR) {
            return error_set_errno(err, errno, "guest agent");
        }
    }
}

static int receive_all(int fd, uint8_t *data, size_t size, int64_t end_ms, struct error *err)
{
    while (size > 0) {
        ssize_t got = recv(fd, data, size, MSG_DONTWAIT);
        if (got == 0 || (got < 0 && errno == ECONNRESET)) {
            return fail_closed(err);
        }
        if (got < 0 && errno != EAGAIN && errno != EINTR) {
            return error_set_errno(err, errno, "guest agent");
        }
        if (got < 0) {
            int rc = await(fd, POLLIN, end_ms, err);
            if (rc < 0) {
                return rc;
            }
            continue;
        }
        data += got;
        size -= (size_t)got;
    }
    return 0;
}

static int send_all(int fd, const uint8_t *data, size_t size, int64_t end_ms, struct error *err)
{
    while (size > 0) {
        ssize_t sent = send(fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0 && (errno == EPIPE || errno == ECONNRESET)) {
            return 0; /* it may have said why before: that is read next */
        }
        if (sent < 0 && errno != EAGAIN && errno != EINTR) {
            return error_set_errno(err, errno, "guest agent");
        }
        if (sent < 0) {
            int rc = await(fd, POLLOUT, end_ms, err);
            if (rc < 0) {
                return rc;
            }
            continue;
        }
        data += sent;
        size -= (size_t)sent;
    }
    return 0;
}

/* By a descriptor of the folder: paths of sockets are short, those of folders need not be. */
static int connect_folder(const char *vsock_dir, int *out_fd, struct error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    AUTO_CLOSE int folder = open(vsock_dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0) {
        return error_set_errno(err, errno, "guest agent: %s", vsock_dir);
    }
    AUTO_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    (void)snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/connect", folder);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
        return error_set_errno(err, errno, "guest agent: %s/connect", vsock_dir);
    }
    *out_fd = TAKE_FD(fd);
    return 0;
}

/* "OK 1073741824\n". A closed connection means that nobody listens on the guest's port. */
static int receive_line(int fd, int64_t end_ms, struct error *err)
{
    uint8_t line[LINE_MAX_];
    for (size_t size = 0; size < sizeof(line); size++) {
        int rc = receive_all(fd, line + size, 1, end_ms, err);
        if (rc == -EPROTO) {
            return error_set(err, ECONNREFUSED,
                             "guest agent: none answers, or not yet: hull-agent "
                             "has to run in the guest");
        }
        if (rc < 0) {
            return rc;
        }
        if (line[size] == '\n') {
            return size >= 3 && memcmp(line, "OK ", 3) == 0
                       ? 0
                       : error_set(err, EPROTO, "guest agent: the VM's vsock answered nonsense");
        }
    }
    return error_set(err, EPROTO, "guest agent: the VM's vsock answered nonsense");
}

static int send_request(int fd, const json_t *request, int64_t end_ms, struct error *err)
{
    AUTO_FREE char *text = json_dumps(request, JSON_COMPACT);
    size_t size = text == NULL ? 0 : strlen(text);
    AUTO_FREE uint8_t *frame = malloc(LENGTH + 1 + size);
    if (text == NULL || frame == NULL) {
        return error_set_errno(err, ENOMEM, "guest agent");
    }
    if (size > SESSION_MAX_PAYLOAD) {
        return error_set(err, EMSGSIZE, "guest agent: a request of %zu bytes: at most %d", size,
                         SESSION_MAX_PAYLOAD);
    }
    le32_put(frame, (uint32_t)size + 1);
    frame[LENGTH] = SESSION_CONTROL;
    memcpy(frame + LENGTH + 1, text, size);
    return send_all(fd, frame, LENGTH + 1 + size, end_ms, err);
}

static int open_connection(const char *vsock_dir, const json_t *request, int64_t end_ms,
                           int *out_fd, struct error *err)
{
    char line[LINE_MAX_];
    int length = snprintf(line, sizeof(line), "CONNECT %d\n", AGENT_PORT);
    AUTO_CLOSE int fd = -1;
    int rc = connect_folder(vsock_dir, &fd, err);
    rc = rc < 0 ? rc : send_all(fd, (const uint8_t *)line, (size_t)length, end_ms, err);
    rc = rc < 0 ? rc : receive_line(fd, end_ms, err);
    rc = rc < 0 ? rc : send_request(fd, request, end_ms, err);
    if (rc == 0) {
        *out_fd = TAKE_FD(fd);
    }
    return rc;
}

/* One frame with its kind; 'frame' has FRAME_MAX bytes. */
static int receive_frame(int fd, uint8_t *frame, size_t *out_size, int64_t end_ms,
                         struct error *err)
{
    uint8_t length[LENGTH];
    int rc = receive_all(fd, length, sizeof(length), end_ms, err);
    if (rc < 0) {
        return rc;
    }
    uint32_t size = le32_get(length);
    if (size == 0 || size > FRAME_MAX) {
        return error_set(err, EPROTO, "guest agent: a frame of %u bytes: 1 to %u", size, FRAME_MAX);
    }
    *out_size = size;
    return receive_all(fd, frame, size, end_ms, err);
}

static int take_answer(const uint8_t *frame, size_t size, json_t **out_answer, struct error *err)
{
    json_t *answer = NULL;
    int rc =
        frame[0] == SESSION_CONTROL
            ? agent_text_parse((const char *)frame + 1, size - 1, &answer, err)
            : error_set(err, EPROTO, "guest agent: no answer, but a frame of kind %u", frame[0]);
    if (rc < 0) {
        return rc;
    }
    json_t *ok = json_object_get(answer, "ok");
    const json_t *problem = json_object_get(answer, "error");
    if (problem != NULL) {
        rc = agent_text_error(problem, err);
    } else if (!json_is_object(ok)) {
        rc = error_set(err, EPROTO, "guest agent: an answer without \"ok\"");
    } else {
        *out_answer = json_incref(ok);
    }
    json_decref(answer);
    return rc;
}

int agent_hold(const char *vsock_dir, const json_t *request, int timeout_ms, json_t **out_answer,
               int *out_fd, struct error *err)
{
    int64_t end_ms = clock_monotonic_ms() + timeout_ms;
    AUTO_FREE uint8_t *frame = malloc(FRAME_MAX);
    AUTO_CLOSE int fd = -1;
    size_t size;
    if (frame == NULL) {
        return error_set_errno(err, ENOMEM, "guest agent");
    }
    int rc = open_connection(vsock_dir, request, end_ms, &fd, err);
    rc = rc < 0 ? rc : receive_frame(fd, frame, &size, end_ms, err);
    rc = rc < 0 ? rc : take_answer(frame, size, out_answer, err);
    if (rc == 0) {
        *out_fd = TAKE_FD(fd);
    }
    return rc;
}

int agent_call(const char *vsock_dir, const json_t *request, int timeout_ms, json_t **out_answer,
               struct error *err)
{
    AUTO_CLOSE int fd = -1;
    return agent_hold(vsock_dir, request, timeout_ms, out_answer, &fd, err);
}

/* One frame at a time each way: who does not take it holds up who sends. */
struct relay {
    int agent, frames;
    uint8_t *down; /* LENGTH + FRAME_MAX: from the agent */
    size_t down_size;
    bool is_whole; /* 'down' waits to be passed on */
    bool is_last;  /* and ends the session */
    uint8_t *up;   /* LENGTH + FRAME_MAX: to the agent */
    size_t up_start, up_size;
    bool has_ended;
};

/* What the agent says of its program, in our words. */
static int check_down(struct relay *r, struct error *err)
{
    uint8_t *frame = r->down + LENGTH;
    size_t size = r->down_size - LENGTH;
    if (frame[0] == SESSION_STDOUT || frame[0] == SESSION_STDERR) {
        return 0;
    }
    if (frame[0] != SESSION_CONTROL) {
        return error_set(err, EPROTO, "guest agent: a frame of kind %u", frame[0]);
    }
    json_t *control = NULL;
    int rc = agent_text_control((const char *)frame + 1, size - 1, &control, &r->is_last, err);
    if (rc < 0) {
        return rc;
    }
    size = json_dumpb(control, (char *)frame + 1, SESSION_MAX_PAYLOAD, JSON_COMPACT);
    json_decref(control);
    r->down_size = LENGTH + 1 + size;
    return 0;
}

static int take_down(struct relay *r, struct error *err)
{
    size_t want = r->down_size < LENGTH ? LENGTH : LENGTH + le32_get(r->down);
    ssize_t got = recv(r->agent, r->down + r->down_size, want - r->down_size, MSG_DONTWAIT);
    if (got == 0 || (got < 0 && errno == ECONNRESET)) {
        return fail_closed(err);
    }
    if (got < 0) {
        return errno == EAGAIN || errno == EINTR ? 0 : error_set_errno(err, errno, "guest agent");
    }
    r->down_size += (size_t)got;
    if (r->down_size < LENGTH) {
        return 0;
    }
    uint32_t size = le32_get(r->down);
    if (size == 0 || size > FRAME_MAX) {
        return error_set(err, EPROTO, "guest agent: a frame of %u bytes: 1 to %u", size, FRAME_MAX);
    }
    r->is_whole = r->down_size == LENGTH + size;
    return r->is_whole ? check_down(r, err) : 0;
}

static void pass_down(struct relay *r)
{
    ssize_t sent =
        send(r->frames, r->down + LENGTH, r->down_size - LENGTH, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    r->has_ended = sent < 0 || r->is_last;
    r->is_whole = false;
    r->down_size = 0;
}

static int take_up(struct relay *r, struct error *err)
{
    struct iovec part = {r->up + LENGTH, FRAME_MAX};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    ssize_t got = recvmsg(r->frames, &message, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
        return 0;
    }
    if (got <= 0) {
        r->has_ended = true;
        return 0;
    }
    if ((message.msg_flags & MSG_TRUNC) != 0) {
        return error_set(err, EMSGSIZE, "session: a frame of more than %d bytes",
                         SESSION_MAX_PAYLOAD);
    }
    le32_put(r->up, (uint32_t)got);
    r->up_start = 0;
    r->up_size = LENGTH + (size_t)got;
    return 0;
}

static void pass_up(struct relay *r)
{
    ssize_t sent = send(r->agent, r->up + r->up_start, r->up_size, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent > 0) {
        r->up_start += (size_t)sent;
        r->up_size -= (size_t)sent;
    } else if (sent < 0 && errno != EAGAIN && errno != EINTR) {
        r->up_size = 0; /* it takes no more; what it says of that is on its way */
    }
}

static int step(struct relay *r, struct error *err)
{
    struct pollfd wait[] = {
        {.fd = r->is_whole && r->up_size == 0 ? -1 : r->agent,
         .events = (short)((r->is_whole ? 0 : POLLIN) | (r->up_size > 0 ? POLLOUT : 0))},
        {.fd = r->frames,
         .events = (short)((r->is_whole ? POLLOUT : 0) | (r->up_size > 0 ? 0 : POLLIN))},
    };
    if (poll(wait, 2, -1) < 0) {
        return errno == EINTR ? 0 : error_set_errno(err, errno, "guest agent");
    }
    int rc = 0;
    if ((wait[1].revents & (POLLHUP | POLLERR | POLLNVAL)) != 0) {
        r->has_ended = true; /* whoever had the session is gone */
        return 0;
    }
    if ((wait[1].revents & POLLIN) != 0 && r->up_size == 0) {
        rc = take_up(r, err);
    }
    if (r->up_size > 0 && !r->has_ended) {
        pass_up(r);
    }
    if (rc == 0 && !r->is_whole && (wait[0].revents & (POLLIN | POLLHUP | POLLERR)) != 0) {
        rc = take_down(r, err);
    } else if (rc == 0 && (wait[0].revents & (POLLHUP | POLLERR)) != 0) {
        r->up_size = 0; /* nothing more goes up; 'down' is passed on first */
    }
    if (rc == 0 && r->is_whole && !r->has_ended) {
        pass_down(r);
    }
    return rc;
}

/* The first frame, within the time for that. */
static int begin(struct relay *r, int64_t end_ms, struct error *err)
{
    size_t size;
    int rc = receive_frame(r->agent, r->down + LENGTH, &size, end_ms, err);
    if (rc == 0) {
        r->down_size = LENGTH + size;
        r->is_whole = true;
        rc = check_down(r, err);
    }
    return rc;
}

int agent_session(const char *vsock_dir, const json_t *request, int frames_fd, int timeout_ms,
                  struct error *err)
{
    int64_t end_ms = clock_monotonic_ms() + timeout_ms;
    AUTO_FREE uint8_t *buffers = malloc(2 * (LENGTH + FRAME_MAX));
    AUTO_CLOSE int fd = -1;
    if (buffers == NULL) {
        return error_set_errno(err, ENOMEM, "guest agent");
    }
    int rc = open_connection(vsock_dir, request, end_ms, &fd, err);
    struct relay relay = {
        .agent = fd, .frames = frames_fd, .down = buffers, .up = buffers + LENGTH + FRAME_MAX};
    rc = rc < 0 ? rc : begin(&relay, end_ms, err);
    while (rc == 0 && !relay.has_ended) {
        rc = step(&relay, err);
    }
    return rc;
}
