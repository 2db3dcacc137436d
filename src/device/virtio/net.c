#include "device/virtio/net.h"

#include <linux/virtio_net.h>
#include <stdlib.h>
#include <string.h>

#include "base/core/endian.h"
#include "device/virtio/virtio.h"

#define RECEIVE         0u /* queues, as the guest names them */
#define TRANSMIT        1u
#define CONTROL         2u
#define QUEUE_SIZE      256u
#define CHAINS_PER_TURN 256u
#define HEADER_SIZE     12u /* struct virtio_net_hdr_v1 */
#define BUFFERS_OFFSET  10u /* num_buffers in it */
#define ETHERNET_HEADER 14u
#define MAC_SIZE        6u

struct virtio_net {
    struct virtio_device virtio;
    struct net *net;
    uint8_t mac[MAC_SIZE];
    bool is_link_up;
    bool has_offload; /* frames to and from the backend carry the header */
    bool is_promiscuous;
    bool is_send_blocked;    /* the backend said -EAGAIN */
    bool is_receive_blocked; /* the guest had too few buffers */
    unsigned too_few;        /* so many */

    uint64_t sent_frames, sent_bytes, received_frames, received_bytes, dropped;
    struct virtqueue_chain chain;
    struct virtqueue_chain first; /* of a received frame: it has the header */
    struct iovec vector[VIRTQUEUE_MAX_SEGMENTS];
};

static struct virtio_net *net_from_virtio(struct virtio_device *virtio)
{
    return container_of(virtio, struct virtio_net, virtio);
}

/* The chain's frame without the header. */
static int skip_header(struct virtio_net *card)
{
    size_t skip = HEADER_SIZE;
    int parts = 0;
    for (unsigned i = 0; i < card->chain.readable_count; i++) {
        const struct iovec *iov = &card->chain.iov[i];
        size_t cut = MIN(skip, iov->iov_len);
        skip -= cut;
        if (iov->iov_len > cut) {
            card->vector[parts++] =
                (struct iovec){(uint8_t *)iov->iov_base + cut, iov->iov_len - cut};
        }
    }
    return parts;
}

static int send_chain(struct virtio_net *card)
{
    const struct virtqueue_chain *chain = &card->chain;
    uint64_t size = chain->readable_bytes;
    if (size < HEADER_SIZE + ETHERNET_HEADER || size > HEADER_SIZE + NET_MAX_FRAME) {
        return -EINVAL;
    }
    if (card->has_offload) {
        return net_send(card->net, chain->iov, chain->readable_count, (size_t)size);
    }
    int count = skip_header(card);
    return net_send(card->net, card->vector, count, (size_t)size - HEADER_SIZE);
}

static void transmit(struct virtio_net *card)
{
    struct virtio_device *virtio = &card->virtio;
    struct virtqueue *queue = virtio_queue(virtio, TRANSMIT);
    unsigned count = 0;
    if (card->is_send_blocked) {
        return;
    }
    do {
        virtqueue_set_notify(queue, false);
        while (count < CHAINS_PER_TURN && virtio_pop(virtio, TRANSMIT, &card->chain)) {
            int rc = send_chain(card);
            if (rc == -EAGAIN) {
                virtqueue_unpop(queue);
                card->is_send_blocked = true;
                virtio_interrupt(virtio, TRANSMIT);
                return; /* no notifications wanted until the backend takes frames again */
            }
            card->sent_frames += rc == 0;
            card->sent_bytes += rc == 0 ? card->chain.readable_bytes - HEADER_SIZE : 0;
            card->dropped += rc != 0;
            virtqueue_push(queue, &card->chain, 0);
            count++;
        }
        virtqueue_set_notify(queue, true);
    } while (count < CHAINS_PER_TURN && virtio_is_running(virtio) && virtqueue_has_chain(queue));
    virtio_interrupt(virtio, TRANSMIT);
    if (count >= CHAINS_PER_TURN) {
        virtio_notify(virtio, TRANSMIT); /* others' turn first */
    }
}

static void backend_sendable(void *ctx)
{
    struct virtio_net *card = ctx;
    virtio_lock(&card->virtio);
    card->is_send_blocked = false;
    if (virtio_is_running(&card->virtio)) {
        transmit(card);
    }
    virtio_unlock(&card->virtio);
}

/* Frames to other stations are not for this card; groups all are. */
static bool is_for_card(const struct virtio_net *card, const uint8_t *ethernet)
{
    return card->is_promiscuous || (ethernet[0] & 1) != 0 ||
           memcmp(ethernet, card->mac, MAC_SIZE) == 0;
}

/* A frame wants more chains than the 'popped' that there were. True: there can be no more, so it is lost. */
static bool wait_for_buffers(struct virtio_net *card, unsigned popped)
{
    struct virtqueue *queue = virtio_queue(&card->virtio, RECEIVE);
    for (unsigned i = 0; i < popped; i++) {
        virtqueue_unpop(queue);
    }
    if (popped >= queue->size) {
        card->dropped++;
        return true;
    }
    card->is_receive_blocked = true;
    card->too_few = popped;
    if (!virtqueue_await_more(queue, popped)) {
        virtio_notify(&card->virtio, RECEIVE);
    }
    return false;
}

/* Copies header and frame into as many chains as it takes (one without MRG_RXBUF). False: not enough there; the frame stays
 * with the backend. */
static bool fill_chains(struct virtio_net *card, const uint8_t *header, const uint8_t *frame,
                        size_t size)
{
    struct virtio_device *virtio = &card->virtio;
    struct virtqueue *queue = virtio_queue(virtio, RECEIVE);
    bool may_merge = virtio_has_feature(virtio, VIRTIO_NET_F_MRG_RXBUF);
    unsigned count = 0;
    size_t done = 0;
    while (done < size || count == 0) {
        struct virtqueue_chain *chain = count == 0 ? &card->first : &card->chain;
        if (!virtio_pop(virtio, RECEIVE, chain)) {
            if (queue->broken != NULL) {
                return true; /* nobody will take the frame */
            }
            return wait_for_buffers(card, count);
        }
        uint32_t written = 0;
        if (count == 0) {
            if (chain->writable_bytes < HEADER_SIZE) {
                queue->broken = "receive buffer without room for the header";
                return true;
            }
            written = (uint32_t)virtqueue_write(chain, 0, header, HEADER_SIZE);
        }
        size_t part = virtqueue_write(chain, written, frame + done, size - done);
        done += part;
        written += (uint32_t)part;
        if (part == 0 && size > 0 && chain->writable_bytes <= written && count > 0) {
            queue->broken = "empty receive buffer";
            return true;
        }
        if (done < size && !may_merge) {
            virtqueue_push(queue, chain,
                           0); /* too small: the frame is lost, and so the guest learns */
            card->dropped++;
            return true;
        }
        virtqueue_fill(queue, chain, written, (uint16_t)count);
        count++;
    }
    uint8_t buffers[2];
    le16_put(buffers, (uint16_t)count);
    (void)virtqueue_write(&card->first, BUFFERS_OFFSET, buffers, 2); /* the header is there */
    virtqueue_flush(queue, (uint16_t)count);
    card->received_frames++;
    card->received_bytes += size;
    return true;
}

static bool backend_receive(void *ctx, const uint8_t *frame, size_t size)
{
    struct virtio_net *card = ctx;
    struct virtio_device *virtio = &card->virtio;
    uint8_t header[HEADER_SIZE] = {0};
    bool is_taken = true;
    virtio_lock(virtio);
    size_t skip = card->has_offload ? HEADER_SIZE : 0;
    if (virtio->is_paused) {
        card->is_receive_blocked = true;
        card->too_few = 0;
        is_taken = false;
    } else if (!virtio_is_running(virtio) || !virtio_queue(virtio, RECEIVE)->is_enabled ||
               size < skip + ETHERNET_HEADER || size > skip + NET_MAX_FRAME ||
               !is_for_card(card, frame + skip)) {
        card->dropped++;
    } else {
        memcpy(header, frame, skip);
        is_taken = fill_chains(card, header, frame + skip, size - skip);
        if (virtio_queue(virtio, RECEIVE)->broken != NULL) {
            virtio_break(virtio, virtio_queue(virtio, RECEIVE)->broken);
        }
        virtio_interrupt(virtio, RECEIVE);
    }
    virtio_unlock(virtio);
    return is_taken;
}

static void backend_link(void *ctx, bool is_up)
{
    struct virtio_net *card = ctx;
    virtio_lock(&card->virtio);
    if (card->is_link_up != is_up) {
        card->is_link_up = is_up;
        virtio_config_changed(&card->virtio);
    }
    virtio_unlock(&card->virtio);
}

/* One command of the control queue (5.1.6.5). */
static bool obey(struct virtio_net *card, const uint8_t *command, size_t size, uint64_t total)
{
    if (size < 3) {
        return false;
    }
    switch (command[0] << 8 | command[1]) {
    case VIRTIO_NET_CTRL_RX << 8 | VIRTIO_NET_CTRL_RX_PROMISC:
        card->is_promiscuous = command[2] != 0;
        return true;
    case VIRTIO_NET_CTRL_RX << 8 | VIRTIO_NET_CTRL_RX_ALLMULTI:
        return true; /* groups are let through anyhow */
    case VIRTIO_NET_CTRL_MAC << 8 | VIRTIO_NET_CTRL_MAC_TABLE_SET:
        /* Two tables: stations, then groups. A station besides the own one: let all through. */
        if (size < 6 || total < 2 + 4) {
            return false;
        }
        card->is_promiscuous |= le32_get(command + 2) != 0;
        return true;
    case VIRTIO_NET_CTRL_MAC << 8 | VIRTIO_NET_CTRL_MAC_ADDR_SET:
        if (total != 2 + MAC_SIZE || (command[2] & 1) != 0) {
            return false;
        }
        memcpy(card->mac, command + 2, MAC_SIZE);
        return true;
    default:
        return false;
    }
}

static void control(struct virtio_net *card)
{
    struct virtio_device *virtio = &card->virtio;
    struct virtqueue *queue = virtio_queue(virtio, CONTROL);
    unsigned count = 0;
    while (count < CHAINS_PER_TURN && virtio_pop(virtio, CONTROL, &card->chain)) {
        uint8_t command[2 + MAC_SIZE];
        size_t size = virtqueue_read(&card->chain, 0, command, sizeof(command));
        uint8_t ack =
            obey(card, command, size, card->chain.readable_bytes) ? VIRTIO_NET_OK : VIRTIO_NET_ERR;
        virtqueue_push(queue, &card->chain, (uint32_t)virtqueue_write(&card->chain, 0, &ack, 1));
        count++;
    }
    virtqueue_set_notify(queue, true);
    virtio_interrupt(virtio, CONTROL);
    if (virtqueue_has_chain(queue)) {
        virtio_notify(virtio, CONTROL);
    }
}

static void net_process(struct virtio_device *virtio, unsigned index)
{
    struct virtio_net *card = net_from_virtio(virtio);
    if (index == TRANSMIT) {
        transmit(card);
    } else if (index == CONTROL) {
        control(card);
    } else if (card->is_receive_blocked &&
               virtqueue_has_more_than(virtio_queue(virtio, RECEIVE), card->too_few)) {
        card->is_receive_blocked = false;
        net_resume(card->net);
    }
}

static void net_start(struct virtio_device *virtio)
{
    struct virtio_net *card = net_from_virtio(virtio);
    card->has_offload = net_can_offload(card->net);
    net_set_offload(card->net, card->has_offload ? HEADER_SIZE : 0,
                    virtio_has_feature(virtio, VIRTIO_NET_F_GUEST_CSUM),
                    virtio_has_feature(virtio, VIRTIO_NET_F_GUEST_TSO4),
                    virtio_has_feature(virtio, VIRTIO_NET_F_GUEST_TSO6), false);
}

static void net_reset(struct virtio_device *virtio)
{
    struct virtio_net *card = net_from_virtio(virtio);
    card->is_promiscuous = true;
    if (card->has_offload) {
        card->has_offload = false;
        net_set_offload(card->net, 0, false, false, false, false);
    }
    if (card->is_receive_blocked) {
        card->is_receive_blocked = false;
        net_resume(card->net); /* what waits there is for nobody now */
    }
}

static void net_read_config(struct virtio_device *virtio, uint32_t offset, void *out_data,
                            uint32_t size)
{
    const struct virtio_net *card = net_from_virtio(virtio);
    struct virtio_net_config config = {.status = card->is_link_up ? VIRTIO_NET_S_LINK_UP : 0,
                                       .max_virtqueue_pairs = 1};
    memcpy(config.mac, card->mac, MAC_SIZE);
    memcpy(out_data, (const uint8_t *)&config + offset, size);
}

static void net_save(struct virtio_device *virtio, struct archive_writer *writer)
{
    const struct virtio_net *card = net_from_virtio(virtio);
    archive_put(writer, card->mac, MAC_SIZE);
    archive_put_bool(writer, card->is_promiscuous);
}

static int net_restore(struct virtio_device *virtio, struct archive_reader *reader,
                       uint32_t version, struct error *err)
{
    struct virtio_net *card = net_from_virtio(virtio);
    archive_get(reader, card->mac, MAC_SIZE);
    card->is_promiscuous = archive_get_bool(reader);
    return 0;
}

static void net_stats(struct virtio_device *virtio,
                      void (*emit)(void *ctx, const char *name, uint64_t value), void *ctx)
{
    const struct virtio_net *card = net_from_virtio(virtio);
    emit(ctx, "sent_frames", card->sent_frames);
    emit(ctx, "sent_bytes", card->sent_bytes);
    emit(ctx, "received_frames", card->received_frames);
    emit(ctx, "received_bytes", card->received_bytes);
    emit(ctx, "dropped_frames", card->dropped);
}

static void net_destroy(struct virtio_device *virtio)
{
    struct virtio_net *card = net_from_virtio(virtio);
    net_close(card->net);
    virtio_fini(virtio);
    free(card);
}

static const struct virtio_ops net_ops = {
    .type = "virtio-net",
    .version = 1,
    .device_id = VIRTIO_ID_NET,
    .pci_class = 0x020000,
    .queue_count = 3,
    .queue_size = {QUEUE_SIZE, QUEUE_SIZE, 64},
    .config_size = offsetof(struct virtio_net_config, mtu),
    .process = net_process,
    .start = net_start,
    .reset = net_reset,
    .read_config = net_read_config,
    .save = net_save,
    .restore = net_restore,
    .stats = net_stats,
    .destroy = net_destroy,
};

int virtio_net_create(const struct virtio_net_options *options, struct device **out_device,
                      struct error *err)
{
    struct virtio_net *card = calloc(1, sizeof(*card));
    if (card == NULL) {
        net_close(options->net);
        return error_set_errno(err, ENOMEM, "creating a virtio network card");
    }
    card->net = options->net;
    card->is_link_up = true;
    card->is_promiscuous = true;
    memcpy(card->mac, options->mac, MAC_SIZE);
    uint64_t features = BIT(VIRTIO_NET_F_MAC) | BIT(VIRTIO_NET_F_STATUS) |
                        BIT(VIRTIO_NET_F_MRG_RXBUF) | BIT(VIRTIO_NET_F_CTRL_VQ) |
                        BIT(VIRTIO_NET_F_CTRL_RX) | BIT(VIRTIO_NET_F_CTRL_MAC_ADDR);
    if (net_can_offload(card->net)) {
        features |= BIT(VIRTIO_NET_F_CSUM) | BIT(VIRTIO_NET_F_GUEST_CSUM) |
                    BIT(VIRTIO_NET_F_HOST_TSO4) | BIT(VIRTIO_NET_F_HOST_TSO6) |
                    BIT(VIRTIO_NET_F_GUEST_TSO4) | BIT(VIRTIO_NET_F_GUEST_TSO6);
    }
    int rc = virtio_init(&card->virtio, &net_ops, features, &options->common, err);
    if (rc < 0) {
        net_close(card->net);
        free(card);
        return rc;
    }
    const struct net_client client = {.ctx = card,
                                      .receive = backend_receive,
                                      .sendable = backend_sendable,
                                      .link = backend_link};
    net_set_client(card->net, &client);
    *out_device = &card->virtio.device;
    return 0;
}
