/* Frames over a tap interface of the kernel, with its virtio-net header where the interface has one. */
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/host/file.h"
#include "base/host/log.h"
#include "net/backend.h"

#define MIN_HEADER      ((unsigned)sizeof(struct virtio_net_hdr)) /* what the kernel starts with */
#define MAX_HEADER      64u
#define FRAMES_PER_WAKE 64 /* then other descriptors of the loop have their turn */

struct tap {
    struct net net;
    bool has_header;        /* IFF_VNET_HDR */
    unsigned kernel_header; /* bytes before each frame on the descriptor */
    unsigned client_header; /* bytes before each frame at the card: 0 or kernel_header */
    size_t kept_size;       /* a frame that the card had no room for, or 0 */
    uint8_t frame[MAX_HEADER + NET_MAX_FRAME];
};

static struct tap *tap_from_net(struct net *net)
{
    return container_of(net, struct tap, net);
}

static int tap_send(struct net *net, const struct iovec *iov, int iov_count, size_t size)
{
    struct tap *tap = tap_from_net(net);
    if (size > tap->client_header + NET_MAX_FRAME) {
        return -EMSGSIZE;
    }
    static const uint8_t no_requests[MAX_HEADER];
    struct iovec parts[NET_MAX_BUFFERS + 1];
    int part_count = 0;
    if (tap->kernel_header != tap->client_header) {
        parts[part_count++] =
            (struct iovec){.iov_base = (void *)no_requests, .iov_len = tap->kernel_header};
    }
    memcpy(&parts[part_count], iov, (size_t)iov_count * sizeof(*iov));
    part_count += iov_count;
    ssize_t sent;
    do {
        sent = writev(net->fd, parts, part_count);
    } while (sent < 0 && errno == EINTR);
    if (sent >= 0) {
        return 0;
    }
    int code = errno;
    if (code == EBADFD) {
        net_go_down(net, "the interface was removed");
        return -ENETDOWN;
    }
    /* A header that makes no sense, an interface that is down: the frame is lost. */
    return -code;
}

static bool tap_writable(struct net *net)
{
    return true;
}

static bool tap_deliver(struct tap *tap, size_t size)
{
    unsigned skip = tap->kernel_header - tap->client_header;
    if (size <= skip || net_deliver(&tap->net, tap->frame + skip, size - skip)) {
        return true;
    }
    tap->kept_size = size;
    return false;
}

static void tap_readable(struct net *net, bool is_resumed)
{
    struct tap *tap = tap_from_net(net);
    if (tap->kept_size != 0) {
        size_t size = tap->kept_size;
        tap->kept_size = 0;
        if (!tap_deliver(tap, size)) {
            return;
        }
    }
    for (int i = 0; i < FRAMES_PER_WAKE; i++) {
        ssize_t got = read(net->fd, tap->frame, sizeof(tap->frame));
        if (got < 0) {
            if (errno == EBADFD) {
                net_go_down(net, "the interface was removed");
            } else if (errno != EAGAIN && errno != EINTR) {
                net_go_down(net, "receiving frames: %s", strerror(errno));
            }
            return;
        }
        if (!tap_deliver(tap, (size_t)got)) {
            return;
        }
    }
}

static bool tap_can_offload(const struct net *net)
{
    return container_of(net, const struct tap, net)->has_header;
}

static void tap_set_offload(struct net *net, unsigned header_size, unsigned tun_flags)
{
    struct tap *tap = tap_from_net(net);
    int kernel_header = (int)(header_size == 0 ? MIN_HEADER : header_size);
    if (header_size > MAX_HEADER || ioctl(net->fd, TUNSETVNETHDRSZ, &kernel_header) < 0) {
        net_go_down(net, "setting a header of %u bytes failed", header_size);
        return;
    }
    tap->kernel_header = (unsigned)kernel_header;
    tap->client_header = header_size;
    tap->kept_size = 0; /* it has the old header */
    /* Refused flags only mean that the kernel does the work before it hands over a frame. */
    if (ioctl(net->fd, TUNSETOFFLOAD, (unsigned long)tun_flags) < 0 &&
        ioctl(net->fd, TUNSETOFFLOAD, (unsigned long)(tun_flags & ~(unsigned)TUN_F_UFO)) < 0 &&
        ioctl(net->fd, TUNSETOFFLOAD, 0ul) < 0) {
        net_go_down(net, "setting offloads: %s", strerror(errno));
    }
}

static void tap_destroy(struct net *net)
{
    net_fini(net);
    free(tap_from_net(net));
}

static const struct net_ops tap_net_ops = {
    .send = tap_send,
    .readable = tap_readable,
    .writable = tap_writable,
    .can_offload = tap_can_offload,
    .set_offload = tap_set_offload,
    .destroy = tap_destroy,
};

/* Checks what the descriptor is and puts it into the state that net.h promises. */
static int tap_prepare(int fd, const char *name, bool *out_has_header, struct error *err)
{
    struct ifreq request = {0};
    if (ioctl(fd, TUNGETIFF, &request) < 0) {
        return error_set_errno(err, errno, "network %s: asking which tap interface it is", name);
    }
    if ((request.ifr_flags & (IFF_TAP | IFF_NO_PI)) != (IFF_TAP | IFF_NO_PI)) {
        return error_set(
            err, EINVAL,
            "network %s: interface %.16s is no tap interface without packet information: "
            "expected IFF_TAP and IFF_NO_PI",
            name, request.ifr_name);
    }
    *out_has_header = (request.ifr_flags & IFF_VNET_HDR) != 0;
    int header_size = (int)MIN_HEADER;
    if (*out_has_header &&
        (ioctl(fd, TUNSETVNETHDRSZ, &header_size) < 0 || ioctl(fd, TUNSETOFFLOAD, 0ul) < 0)) {
        return error_set_errno(err, errno, "network %s: setting the header of frames", name);
    }
    int rc = file_set_nonblocking(fd, err);
    return rc < 0 ? error_prefix(err, rc, "network %s", name) : 0;
}

int net_open_tap(int fd, const char *name, struct event_loop *loop, struct net **out_net,
                 struct error *err)
{
    bool has_header = false;
    int rc = tap_prepare(fd, name, &has_header, err);
    if (rc < 0) {
        close(fd);
        return rc;
    }
    struct tap *tap = calloc(1, sizeof(*tap));
    if (tap == NULL) {
        close(fd);
        return error_set_errno(err, ENOMEM, "opening network %s", name);
    }
    tap->has_header = has_header;
    tap->kernel_header = has_header ? MIN_HEADER : 0;
    rc = net_init(&tap->net, &tap_net_ops, fd, name, loop, err);
    if (rc < 0) {
        free(tap);
        return rc;
    }
    *out_net = &tap->net;
    return 0;
}
