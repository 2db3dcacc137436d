#include "device/virtio/fs.h"

#include <fcntl.h>
#include <linux/fuse.h>
#include <linux/virtio_fs.h>
#include <linux/virtio_ids.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/core/invariant.h"
#include "device/virtio/fs_wire.h"
#include "device/virtio/virtio.h"

#define URGENT          0u /* queues, as the guest names them: 5.11.2 */
#define REQUESTS        1u
#define QUEUE_COUNT     2u
#define URGENT_SIZE     64u
#define REQUESTS_SIZE   256u
#define SLOTS           (URGENT_SIZE + REQUESTS_SIZE) /* never too few: a queue has that many in flight */
#define CHAINS_PER_TURN 64u
#define IN_SIZE         4096u
#define ANSWER_MS       60000 /* who pauses or resets the machine waits for replies that long */

_Static_assert(FS_MAX_PAGES <= REQUESTS_SIZE - 4, "requests fit into the queue");

/* A request that hull-share has, or gets. */
struct fs_slot {
    struct virtqueue_chain chain;
    uint64_t unique;
    uint8_t queue;
    bool is_used;
};

struct virtio_fs {
    struct virtio_device virtio;
    char tag[FS_TAG_SIZE];
    int fd; /* -1: hull-share is lost */
    struct event_source *source;

    struct fs_slot *slot; /* [SLOTS] */
    uint16_t free_slot[SLOTS];
    unsigned free_count;
    bool is_discarding; /* replies are for nobody */
    bool is_full;       /* the socket took no more, and says when it does */

    /* The request that is being sent, or NULL, and how many bytes of its frame and its own are. */
    struct fs_slot *sending;
    size_t sent;

    /* What was received and not looked at: in[in_start .. in_end); and the frame whose data come now. */
    size_t in_start, in_end;
    bool has_frame;
    struct fs_frame frame;
    size_t received;
    uint8_t in[IN_SIZE];

    uint64_t requests, failed, read_bytes, written_bytes;
    struct virtqueue_chain refused; /* of a request that is answered at once */
    struct iovec vector[VIRTQUEUE_MAX_SEGMENTS + 1];
};

static struct virtio_fs *fs_from_virtio(struct virtio_device *virtio)
{
    return container_of(virtio, struct virtio_fs, virtio);
}

static unsigned in_flight(const struct virtio_fs *fs)
{
    return SLOTS - fs->free_count;
}

static void push(struct virtio_fs *fs, unsigned queue, const struct virtqueue_chain *chain,
                 uint32_t size)
{
    struct virtqueue *ring = virtio_queue(&fs->virtio, queue);
    if (!fs->is_discarding && ring->broken == NULL) {
        virtqueue_push(ring, chain, size);
        virtio_interrupt(&fs->virtio, queue);
    }
}

static void answer_eio(struct virtio_fs *fs, unsigned queue, const struct virtqueue_chain *chain,
                       uint64_t unique)
{
    const struct fuse_out_header header = {.len = sizeof(header), .error = -EIO, .unique = unique};
    bool is_silent = chain->writable_bytes == 0 || fs->is_discarding;
    fs->failed++;
    push(fs, queue, chain,
         is_silent ? 0 : (uint32_t)virtqueue_write(chain, 0, &header, sizeof(header)));
}

static void free_slot(struct virtio_fs *fs, struct fs_slot *slot)
{
    slot->is_used = false;
    fs->free_slot[fs->free_count++] = (uint16_t)(slot - fs->slot);
}

/* From now on there is nobody who answers. */
static void lose(struct virtio_fs *fs, const char *why)
{
    if (fs->fd < 0) {
        return;
    }
    event_source_remove(fs->source);
    fs->source = NULL;
    close(fs->fd);
    fs->fd = -1;
    fs->sending = NULL;
    fs->has_frame = false;
    fs->in_start = 0;
    fs->in_end = 0;
    for (unsigned i = 0; i < SLOTS; i++) {
        struct fs_slot *slot = &fs->slot[i];
        if (slot->is_used) {
            answer_eio(fs, slot->queue, &slot->chain, slot->unique);
            free_slot(fs, slot);
        }
    }
    if (fs->virtio.host->share_lost != NULL) {
        fs->virtio.host->share_lost(fs->virtio.host->ctx, fs->virtio.device.name, why);
    }
}

/* Sending. */

/* Adds [offset, end) of 'iov' to the vector. */
static unsigned add_rest(struct iovec *vector, unsigned used, const struct iovec *iov,
                         unsigned count, size_t *offset)
{
    for (unsigned i = 0; i < count; i++) {
        size_t cut = MIN(*offset, iov[i].iov_len);
        *offset -= cut;
        if (iov[i].iov_len > cut) {
            vector[used++] = (struct iovec){(uint8_t *)iov[i].iov_base + cut, iov[i].iov_len - cut};
        }
    }
    return used;
}

/* Sends on what is under way. False: the socket takes no more now. */
static bool send_on(struct virtio_fs *fs)
{
    while (fs->sending != NULL) {
        struct fs_slot *slot = fs->sending;
        const struct virtqueue_chain *chain = &slot->chain;
        struct fs_frame frame = {.size = (uint32_t)chain->readable_bytes,
                                 .kind = FS_REQUEST,
                                 .tag = (uint32_t)(slot - fs->slot),
                                 .room = (uint32_t)chain->writable_bytes};
        const struct iovec head = {&frame, sizeof(frame)};
        size_t offset = fs->sent;
        unsigned count = add_rest(fs->vector, 0, &head, 1, &offset);
        count = add_rest(fs->vector, count, chain->iov, chain->readable_count, &offset);
        struct msghdr message = {.msg_iov = fs->vector, .msg_iovlen = count};
        ssize_t sent = sendmsg(fs->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && errno == EINTR) {
            continue;
        }
        if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            if (!fs->is_full) {
                event_source_set_events(fs->source, EPOLLIN | EPOLLOUT);
            }
            fs->is_full = true;
            return false;
        }
        if (sent < 0) {
            lose(fs, "hull-share has ended");
            return true;
        }
        fs->sent += (size_t)sent;
        if (fs->sent == sizeof(frame) + chain->readable_bytes) {
            fs->sending = NULL;
            if (chain->writable_bytes == 0) {
                push(fs, slot->queue, chain, 0);
                free_slot(fs, slot);
            }
        }
    }
    return true;
}

static const char *check_request(const struct virtqueue_chain *chain)
{
    if (chain->readable_bytes < sizeof(struct fuse_in_header)) {
        return "request without a header";
    }
    if (chain->writable_bytes != 0 && chain->writable_bytes < sizeof(struct fuse_out_header)) {
        return "request without room for a reply";
    }
    if (chain->readable_bytes > FS_MAX_MESSAGE || chain->writable_bytes > FS_MAX_MESSAGE) {
        return "request larger than any";
    }
    return NULL;
}

/* Takes the next request and begins to send it. False: none is there. */
static bool start_next(struct virtio_fs *fs, unsigned queue)
{
    struct virtio_device *virtio = &fs->virtio;
    bool is_lost = fs->fd < 0;
    struct fs_slot *slot = is_lost ? NULL : &fs->slot[fs->free_slot[fs->free_count - 1]];
    struct virtqueue_chain *chain = is_lost ? &fs->refused : &slot->chain;
    if (!virtio_pop(virtio, queue, chain)) {
        return false;
    }
    const char *why = check_request(chain);
    if (why != NULL) {
        virtio_queue(virtio, queue)->broken = why;
        virtio_break(virtio, why);
        return false;
    }
    struct fuse_in_header header;
    (void)virtqueue_read(chain, 0, &header, sizeof(header)); /* the bytes are there */
    fs->requests++;
    fs->written_bytes += chain->readable_bytes;
    if (is_lost) {
        answer_eio(fs, queue, chain, header.unique);
        return true;
    }
    fs->free_count--;
    slot->is_used = true;
    slot->queue = (uint8_t)queue;
    slot->unique = header.unique;
    fs->sending = slot;
    fs->sent = 0;
    return true;
}

/* Receiving. */

/* The frame's data lead into this slot, or nowhere: NULL, with the reason if there is one. */
static struct fs_slot *slot_of(struct virtio_fs *fs, const char **out_why)
{
    const struct fs_frame *frame = &fs->frame;
    struct fs_slot *slot = frame->tag < SLOTS ? &fs->slot[frame->tag] : NULL;
    if (frame->kind != FS_REQUEST || slot == NULL || !slot->is_used || slot == fs->sending ||
        frame->size < sizeof(struct fuse_out_header) || frame->size > slot->chain.writable_bytes) {
        *out_why = "hull-share sent a reply that is none";
        return NULL;
    }
    return slot;
}

static void finish_reply(struct virtio_fs *fs, struct fs_slot *slot)
{
    fs->has_frame = false;
    fs->read_bytes += fs->frame.size;
    push(fs, slot->queue, &slot->chain, fs->frame.size);
    free_slot(fs, slot);
}

/* Data of a reply that are not here yet: straight into the guest's memory. */
static ssize_t receive_data(struct virtio_fs *fs, const struct fs_slot *slot)
{
    size_t offset = fs->received;
    size_t left = fs->frame.size - fs->received;
    const struct virtqueue_chain *chain = &slot->chain;
    if (fs->is_discarding) {
        return recv(fs->fd, fs->in, MIN(left, sizeof(fs->in)), MSG_DONTWAIT);
    }
    unsigned count =
        add_rest(fs->vector, 0, chain->iov + chain->readable_count, chain->writable_count, &offset);
    unsigned used = 0;
    for (; used < count && left > 0; used++) {
        fs->vector[used].iov_len = MIN(left, fs->vector[used].iov_len);
        left -= fs->vector[used].iov_len;
    }
    struct msghdr message = {.msg_iov = fs->vector, .msg_iovlen = used};
    return recvmsg(fs->fd, &message, MSG_DONTWAIT);
}

/* Takes what is in the buffer: frames, and data up to its end. */
static void take_buffer(struct virtio_fs *fs)
{
    while (fs->fd >= 0) {
        size_t left = fs->in_end - fs->in_start;
        if (!fs->has_frame) {
            if (left < sizeof(fs->frame)) {
                break;
            }
            memcpy(&fs->frame, fs->in + fs->in_start, sizeof(fs->frame));
            fs->in_start += sizeof(fs->frame);
            fs->has_frame = true;
            fs->received = 0;
            continue;
        }
        const char *why = NULL;
        struct fs_slot *slot = slot_of(fs, &why);
        if (slot == NULL) {
            lose(fs, why);
            return;
        }
        size_t part = MIN(left, fs->frame.size - fs->received);
        if (!fs->is_discarding) {
            (void)virtqueue_write(&slot->chain, fs->received, fs->in + fs->in_start, part);
        }
        fs->in_start += part;
        fs->received += part;
        if (fs->received < fs->frame.size) {
            break;
        }
        finish_reply(fs, slot);
    }
    memmove(fs->in, fs->in + fs->in_start, fs->in_end - fs->in_start);
    fs->in_end -= fs->in_start;
    fs->in_start = 0;
}

/* One read. False: nothing came. */
static bool receive(struct virtio_fs *fs)
{
    ssize_t got;
    const char *why = NULL;
    /* What take_buffer left is less than a frame, or nothing. */
    struct fs_slot *slot = fs->has_frame ? slot_of(fs, &why) : NULL;
    if (slot != NULL) {
        got = receive_data(fs, slot);
    } else {
        got = recv(fs->fd, fs->in + fs->in_end, sizeof(fs->in) - fs->in_end, MSG_DONTWAIT);
    }
    if (got < 0 && (errno == EINTR || errno == EAGAIN || errno == EWOULDBLOCK)) {
        return false;
    }
    if (got <= 0) {
        lose(fs, "hull-share has ended");
        return false;
    }
    if (slot == NULL) {
        fs->in_end += (size_t)got;
        take_buffer(fs);
        return true;
    }
    fs->received += (size_t)got;
    if (fs->received == fs->frame.size) {
        finish_reply(fs, slot);
    }
    return true;
}

/* Until hull-share has answered all that it has got, and what it has got in part. */
static void settle(struct virtio_fs *fs)
{
    while (fs->fd >= 0 && in_flight(fs) > 0) {
        if (!send_on(fs) || in_flight(fs) > 0) {
            struct pollfd ready = {.fd = fs->fd, .events = POLLIN};
            ready.events = (short)(POLLIN | (fs->sending != NULL ? POLLOUT : 0));
            if (fs->fd >= 0 && poll(&ready, 1, ANSWER_MS) == 0) {
                lose(fs, "hull-share does not answer");
            } else if (fs->fd >= 0 && (ready.revents & (POLLIN | POLLHUP | POLLERR)) != 0) {
                (void)receive(fs);
            }
        }
    }
}

/* The device's turn. */

static void take_requests(struct virtio_fs *fs, unsigned index)
{
    struct virtio_device *virtio = &fs->virtio;
    struct virtqueue *queue = virtio_queue(virtio, index);
    bool is_repeatable = virtio->host->is_repeatable;
    unsigned count = 0;
    if (fs->sending != NULL) {
        return; /* it goes on when the socket takes more */
    }
    do {
        virtqueue_set_notify(queue, false);
        while ((is_repeatable || count < CHAINS_PER_TURN) && start_next(fs, index)) {
            count++;
            if (is_repeatable) {
                settle(fs);
            } else if (!send_on(fs)) {
                return;
            }
        }
        virtqueue_set_notify(queue, true);
    } while ((is_repeatable || count < CHAINS_PER_TURN) && virtio_is_running(virtio) &&
             virtqueue_has_chain(queue) && queue->in_flight < queue->size);
    if (!is_repeatable && count >= CHAINS_PER_TURN) {
        virtio_notify(virtio, index); /* others' turn first */
    }
}

static void fs_process(struct virtio_device *virtio, unsigned index)
{
    take_requests(fs_from_virtio(virtio), index);
}

static void socket_ready(void *ctx, int fd, uint32_t events)
{
    struct virtio_fs *fs = ctx;
    struct virtio_device *virtio = &fs->virtio;
    virtio_lock(virtio);
    for (unsigned i = 0; i < CHAINS_PER_TURN && fs->fd >= 0 && receive(fs); i++) {
    }
    if (fs->is_full && fs->fd >= 0 && send_on(fs) && fs->fd >= 0) {
        event_source_set_events(fs->source, EPOLLIN);
        fs->is_full = false;
    }
    /* Also where none is there now: the guest was told not to notify when the socket was full. */
    for (unsigned i = 0; i < QUEUE_COUNT && virtio_is_running(virtio); i++) {
        take_requests(fs, i);
    }
    virtio_unlock(virtio);
}

static void fs_drain(struct virtio_device *virtio)
{
    settle(fs_from_virtio(virtio));
}

/* Frames of the device's own, between requests. */

static int wait_for(struct virtio_fs *fs, short events)
{
    struct pollfd ready = {.fd = fs->fd, .events = events};
    return poll(&ready, 1, ANSWER_MS) == 0 ? -ETIMEDOUT : 0;
}

static int send_all(struct virtio_fs *fs, const void *data, size_t size)
{
    const uint8_t *from = data;
    while (size > 0) {
        ssize_t sent = send(fs->fd, from, size, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && errno != EINTR && errno != EAGAIN && errno != EWOULDBLOCK) {
            return -errno;
        }
        size_t done = sent > 0 ? (size_t)sent : 0;
        from += done;
        size -= done;
        if (done == 0 && wait_for(fs, POLLOUT) < 0) {
            return -ETIMEDOUT;
        }
    }
    return 0;
}

static int receive_all(struct virtio_fs *fs, void *out_data, size_t size)
{
    uint8_t *to = out_data;
    while (size > 0) {
        ssize_t got = recv(fs->fd, to, size, MSG_DONTWAIT);
        if (got == 0) {
            return -EPIPE;
        }
        if (got < 0 && errno != EINTR && errno != EAGAIN && errno != EWOULDBLOCK) {
            return -errno;
        }
        size_t done = got > 0 ? (size_t)got : 0;
        to += done;
        size -= done;
        if (done == 0 && wait_for(fs, POLLIN) < 0) {
            return -ETIMEDOUT;
        }
    }
    return 0;
}

/* Sends a frame with 'size' bytes, and takes the head of the answer if there is one. Nothing is in flight. */
static int order(struct virtio_fs *fs, enum fs_frame_kind kind, const void *data, uint32_t size,
                 struct fs_frame *out_answer)
{
    struct fs_frame frame = {.size = size, .kind = (uint32_t)kind};
    if (fs->fd < 0) {
        return -EIO;
    }
    int rc = send_all(fs, &frame, sizeof(frame));
    if (rc == 0) {
        rc = send_all(fs, data, size);
    }
    if (rc == 0 && out_answer != NULL) {
        rc = receive_all(fs, out_answer, sizeof(*out_answer));
        if (rc == 0 && (out_answer->kind != (uint32_t)kind || out_answer->size > FS_MAX_STATE)) {
            rc = -EBADMSG;
        }
    }
    if (rc < 0) {
        lose(fs, rc == -ETIMEDOUT ? "hull-share does not answer" : "hull-share has ended");
    }
    return rc;
}

static void fs_reset(struct virtio_device *virtio)
{
    struct virtio_fs *fs = fs_from_virtio(virtio);
    fs->is_discarding = true;
    settle(fs);
    fs->is_discarding = false;
    invariant(in_flight(fs) == 0 && !fs->has_frame);
    (void)order(fs, FS_FORGET_ALL, NULL, 0, NULL); /* a loss has been told */
}

static void fs_read_config(struct virtio_device *virtio, uint32_t offset, void *out_data,
                           uint32_t size)
{
    const struct virtio_fs *fs = fs_from_virtio(virtio);
    struct virtio_fs_config config = {.num_request_queues = 1};
    memcpy(config.tag, fs->tag, sizeof(config.tag));
    memcpy(out_data, (const uint8_t *)&config + offset, size);
}

static void fs_save(struct virtio_device *virtio, struct archive_writer *writer)
{
    struct virtio_fs *fs = fs_from_virtio(virtio);
    struct fs_frame answer;
    uint8_t *state = NULL;
    int rc = order(fs, FS_SAVE, NULL, 0, &answer);
    if (rc == 0) {
        state = malloc(answer.size + 1u);
        rc = state == NULL ? -ENOMEM : receive_all(fs, state, answer.size);
        if (rc < 0) {
            lose(fs, "hull-share sent no state");
        }
    }
    archive_put(writer, fs->tag, sizeof(fs->tag));
    archive_put_bool(writer, rc == 0);
    if (rc == 0) {
        archive_put_blob(writer, state, answer.size);
    }
    free(state);
}

static int fs_restore(struct virtio_device *virtio, struct archive_reader *reader, uint32_t version,
                      struct error *err)
{
    struct virtio_fs *fs = fs_from_virtio(virtio);
    char tag[FS_TAG_SIZE];
    struct fs_frame answer;
    uint32_t size = 0;
    archive_get(reader, tag, sizeof(tag));
    bool has_state = archive_get_bool(reader);
    const void *state = has_state ? archive_get_blob(reader, FS_MAX_STATE, &size) : NULL;
    if (reader->status < 0) {
        return error_set(err, -reader->status, "share %.36s: a state that ends early", fs->tag);
    }
    if (memcmp(tag, fs->tag, sizeof(tag)) != 0) {
        return error_set(err, EINVAL, "share %.36s: the state was saved with %.36s here", fs->tag,
                         tag);
    }
    if (!has_state) { /* it was lost already then: what the guest had open is stale, a new mount works */
        return 0;
    }
    int rc = order(fs, FS_RESTORE, state, size, &answer);
    if (rc == 0 && (answer.tag != 0 || answer.size != 0)) {
        rc = -EINVAL;
    }
    return rc < 0 ? error_set(err, -rc, "share %.36s: hull-share does not take the saved state",
                              fs->tag)
                  : 0;
}

static void fs_stats(struct virtio_device *virtio,
                     void (*emit)(void *ctx, const char *name, uint64_t value), void *ctx)
{
    const struct virtio_fs *fs = fs_from_virtio(virtio);
    emit(ctx, "requests", fs->requests);
    emit(ctx, "failed", fs->failed);
    emit(ctx, "bytes_from_guest", fs->written_bytes);
    emit(ctx, "bytes_to_guest", fs->read_bytes);
}

static void free_fs(struct virtio_fs *fs)
{
    event_source_remove(fs->source);
    if (fs->fd >= 0) {
        close(fs->fd);
    }
    free(fs->slot);
    free(fs);
}

static void fs_destroy(struct virtio_device *virtio)
{
    virtio_fini(virtio);
    free_fs(fs_from_virtio(virtio));
}

static const struct virtio_ops fs_ops = {
    .type = "virtio-fs",
    .version = 1,
    .device_id = VIRTIO_ID_FS,
    .pci_class = 0x018000,
    .queue_count = QUEUE_COUNT,
    .queue_size = {URGENT_SIZE, REQUESTS_SIZE},
    .config_size = sizeof(struct virtio_fs_config),
    .process = fs_process,
    .reset = fs_reset,
    .drain = fs_drain,
    .read_config = fs_read_config,
    .save = fs_save,
    .restore = fs_restore,
    .stats = fs_stats,
    .destroy = fs_destroy,
};

int virtio_fs_create(const struct virtio_fs_options *options, struct device **out_device,
                     struct error *err)
{
    struct virtio_fs *fs = calloc(1, sizeof(*fs));
    struct fs_slot *slots = calloc(SLOTS, sizeof(*slots));
    if (fs == NULL || slots == NULL) {
        free(fs);
        free(slots);
        close(options->fd);
        return error_set_errno(err, ENOMEM, "creating a shared folder");
    }
    fs->fd = options->fd;
    fs->slot = slots;
    for (unsigned i = 0; i < SLOTS; i++) {
        fs->free_slot[fs->free_count++] = (uint16_t)(SLOTS - 1 - i);
    }
    memcpy(fs->tag, options->tag, strnlen(options->tag, sizeof(fs->tag)));
    int rc = event_loop_add_fd(options->common.host->loop, fs->fd, EPOLLIN, socket_ready, fs,
                               &fs->source, err);
    if (rc == 0) {
        rc = virtio_init(&fs->virtio, &fs_ops, 0, &options->common, err);
    }
    if (rc < 0) {
        free_fs(fs);
        return rc;
    }
    *out_device = &fs->virtio.device;
    return 0;
}
