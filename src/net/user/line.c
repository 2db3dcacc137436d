#include "net/user/line.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/host/event_loop.h"
#include "base/host/log.h"

#define TAP_FRAMES_PER_TURN 64
/* One that is slow for so long does not hold up the others any more. */
#define PATIENCE_MS 100

static int prepare_tap(int fd, bool *out_has_header, struct error *err)
{
    struct ifreq request = {0};
    int header_size = (int)sizeof(struct virtio_net_hdr);
    if (ioctl(fd, TUNGETIFF, &request) < 0) {
        return error_set(err, EINVAL, "descriptor: expected a stream socket or a tap interface");
    }
    if ((request.ifr_flags & (IFF_TAP | IFF_NO_PI)) != (IFF_TAP | IFF_NO_PI)) {
        return error_set(err, EINVAL, "descriptor: a tap interface with IFF_NO_PI was expected");
    }
    *out_has_header = (request.ifr_flags & IFF_VNET_HDR) != 0;
    if (*out_has_header &&
        (ioctl(fd, TUNSETVNETHDRSZ, &header_size) < 0 || ioctl(fd, TUNSETOFFLOAD, 0ul) < 0)) {
        return error_set_errno(err, errno, "descriptor: setting the header of frames");
    }
    int flags = fcntl(fd, F_GETFL);
    return flags >= 0 && fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0
               ? 0
               : error_set_errno(err, errno, "descriptor");
}

static int make(int fd, struct line **out_line, struct error *err)
{
    int type = 0;
    socklen_t size = sizeof(type);
    bool is_socket = getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0;
    bool has_header = false;
    if (is_socket && type != SOCK_STREAM) {
        return error_set(err, EINVAL, "descriptor: expected a stream socket or a tap interface");
    }
    int rc = is_socket ? 0 : prepare_tap(fd, &has_header, err);
    if (rc < 0) {
        return rc;
    }
    struct line *line = calloc(1, sizeof(*line));
    struct frames *frames = is_socket ? malloc(sizeof(*frames)) : NULL;
    if (line == NULL || (is_socket && frames == NULL)) {
        free(frames);
        free(line);
        return error_set_errno(err, ENOMEM, "a port");
    }
    line->fd = fd;
    line->is_tap = !is_socket;
    line->has_header = has_header;
    line->frames = frames;
    line->port.send = line_send;
    line->port.send_ctx = line;
    if (frames != NULL) {
        frames_init(frames, fd);
    }
    *out_line = line;
    return 0;
}

int line_open(int fd, struct line **out_line, struct error *err)
{
    int rc = make(fd, out_line, err);
    if (rc < 0) {
        close(fd);
    }
    return rc;
}

void line_close(struct line *line)
{
    close(line->fd);
    free(line->frames);
    free(line);
}

/* The kernel gives and takes frames without requests: the header is zeros. */
static bool send_tap(struct line *line, const uint8_t *frame, size_t size)
{
    static const struct virtio_net_hdr no_requests;
    const struct iovec parts[] = {{(void *)&no_requests, sizeof(no_requests)},
                                  {(void *)frame, size}};
    unsigned skip = line->has_header ? 0 : 1;
    ssize_t sent;
    do {
        sent = writev(line->fd, parts + skip, (int)(2 - skip));
    } while (sent < 0 && errno == EINTR);
    if (sent < 0 && errno == EBADFD) {
        line->has_ended = true;
    }
    return sent >= 0;
}

bool line_send(void *ctx, const uint8_t *frame, size_t size)
{
    struct line *line = ctx;
    if (line->has_ended) {
        return false;
    }
    if (line->is_tap) {
        return send_tap(line, frame, size);
    }
    return frames_send(line->frames, frame, size);
}

void line_flush(struct line *line)
{
    if (line->frames == NULL || line->has_ended) {
        return;
    }
    line->has_ended = frames_flush(line->frames, NULL) < 0;
}

bool line_has_queued(const struct line *line)
{
    return line->frames != NULL && frames_has_queued(line->frames);
}

bool line_is_congested(struct line *line)
{
    size_t waiting = line->frames != NULL ? line->frames->out_end - line->frames->out_start : 0;
    if (waiting < FRAMES_OUT_HIGH / 2) {
        line->congested_ms = 0;
    }
    if (waiting < FRAMES_OUT_HIGH) {
        return false;
    }
    int64_t now_ms = clock_monotonic_ms();
    if (line->congested_ms == 0) {
        line->congested_ms = now_ms;
    }
    return now_ms - line->congested_ms < PATIENCE_MS;
}

static void receive_tap(struct line *line, line_frame_fn fn, void *ctx)
{
    static uint8_t buffer[sizeof(struct virtio_net_hdr) + FRAMES_MAX_SIZE];
    size_t header = line->has_header ? sizeof(struct virtio_net_hdr) : 0;
    for (unsigned i = 0; i < TAP_FRAMES_PER_TURN && !line->has_ended; i++) {
        ssize_t got = read(line->fd, buffer, sizeof(buffer));
        if (got < 0) {
            /* An interface that is down is one that may come up again. */
            line->has_ended = errno == EBADFD || errno == EIO;
            return;
        }
        if ((size_t)got >= header) {
            fn(ctx, line, buffer + header, (size_t)got - header);
        }
    }
}

static void receive_stream(struct line *line, line_frame_fn fn, void *ctx)
{
    static struct log_limit limit = LOG_LIMIT(5);
    struct error err;
    const uint8_t *frame;
    size_t size;
    int rc = frames_receive(line->frames, &err);
    if (rc == -EAGAIN) {
        return;
    }
    line->has_ended = rc <= 0;
    while (rc > 0 && (rc = frames_next(line->frames, &frame, &size, &err)) > 0) {
        fn(ctx, line, frame, size);
    }
    if (rc < 0) {
        line->has_ended = true;
        log_limited(&limit, LOG_LEVEL_WARNING, "port %s: %s: closing it", line->port.name,
                    err.text);
    }
}

void line_receive(struct line *line, line_frame_fn fn, void *ctx)
{
    if (line->is_tap) {
        receive_tap(line, fn, ctx);
        return;
    }
    receive_stream(line, fn, ctx);
}

void line_look(struct line *line)
{
    struct pollfd now = {.fd = line->fd};
    if (poll(&now, 1, 0) > 0 && (now.revents & (POLLERR | POLLHUP)) != 0) {
        line->has_ended = true;
    }
}
