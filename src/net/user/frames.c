#include "net/user/frames.h"

#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "base/core/endian.h"

#define LENGTH_SIZE 4

void frames_init(struct frames *frames, int fd)
{
    frames->fd = fd;
    frames->in_start = frames->in_end = 0;
    frames->out_start = frames->out_end = 0;
}

bool frames_has_queued(const struct frames *frames)
{
    return frames->out_start < frames->out_end;
}

bool frames_is_congested(const struct frames *frames)
{
    return frames->out_end - frames->out_start >= FRAMES_OUT_HIGH;
}

/* Makes room behind what is queued; false: there is none. */
static bool make_room(struct frames *frames, size_t size)
{
    if (FRAMES_OUT_SIZE - frames->out_end >= size) {
        return true;
    }
    size_t queued = frames->out_end - frames->out_start;
    if (FRAMES_OUT_SIZE - queued < size) {
        return false;
    }
    memmove(frames->out, frames->out + frames->out_start, queued);
    frames->out_start = 0;
    frames->out_end = queued;
    return true;
}

bool frames_send(struct frames *frames, const void *frame, size_t size)
{
    uint8_t length[LENGTH_SIZE];
    be32_put(length, (uint32_t)size);
    if (size > FRAMES_MAX_SIZE) {
        return false;
    }
    size_t done = 0;
    if (!frames_has_queued(frames)) {
        struct iovec parts[2] = {{length, sizeof(length)}, {(void *)frame, size}};
        struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
        ssize_t sent = sendmsg(frames->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
        done = sent > 0 ? (size_t)sent : 0;
    }
    if (done == LENGTH_SIZE + size) {
        return true;
    }
    if (!make_room(frames, LENGTH_SIZE + size - done)) {
        return false;
    }
    uint8_t *end = frames->out + frames->out_end;
    if (done < LENGTH_SIZE) {
        memcpy(end, length + done, LENGTH_SIZE - done);
        memcpy(end + LENGTH_SIZE - done, frame, size);
    } else {
        memcpy(end, (const uint8_t *)frame + done - LENGTH_SIZE, LENGTH_SIZE + size - done);
    }
    frames->out_end += LENGTH_SIZE + size - done;
    return true;
}

int frames_flush(struct frames *frames, struct error *err)
{
    while (frames_has_queued(frames)) {
        ssize_t sent = send(frames->fd, frames->out + frames->out_start,
                            frames->out_end - frames->out_start, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent >= 0) {
            frames->out_start += (size_t)sent;
        } else if (errno == EAGAIN) {
            return 0;
        } else if (errno != EINTR) {
            return error_set_errno(err, errno, "sending frames to the VM");
        }
    }
    frames->out_start = frames->out_end = 0;
    return 0;
}

int frames_receive(struct frames *frames, struct error *err)
{
    /* What is left here is less than a whole message: the caller has taken the rest. */
    frames->in_end -= frames->in_start;
    memmove(frames->in, frames->in + frames->in_start, frames->in_end);
    frames->in_start = 0;
    ssize_t got = recv(frames->fd, frames->in + frames->in_end, FRAMES_IN_SIZE - frames->in_end,
                       MSG_DONTWAIT);
    if (got > 0) {
        frames->in_end += (size_t)got;
        return 1;
    }
    if (got == 0 || errno == ECONNRESET) {
        return 0;
    }
    return errno == EINTR || errno == EAGAIN
               ? -EAGAIN
               : error_set_errno(err, errno, "receiving frames from the VM");
}

int frames_next(struct frames *frames, const uint8_t **out_frame, size_t *out_size,
                struct error *err)
{
    size_t left = frames->in_end - frames->in_start;
    if (left < LENGTH_SIZE) {
        return 0;
    }
    const uint8_t *message = frames->in + frames->in_start;
    uint32_t size = be32_get(message);
    if (size > FRAMES_MAX_SIZE) {
        return error_set(err, EPROTO, "the VM announced a frame of %u bytes: at most %u may be",
                         size, FRAMES_MAX_SIZE);
    }
    if (left < LENGTH_SIZE + size) {
        return 0;
    }
    frames->in_start += LENGTH_SIZE + size;
    *out_frame = message + LENGTH_SIZE;
    *out_size = size;
    return 1;
}
