/* Covers net/tap.c with a real interface in a network namespace of its own. */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/core/endian.h"
#include "base/host/log.h"
#include "net/net.h"

#define TEST_TYPE 0x88b5 /* IEEE 802: for local experiments */

struct fixture {
    struct event_loop *loop;
    struct net *net;
    int packet_fd; /* the kernel's side of the interface */
    int control_fd;
    struct ifreq interface;
    bool has_room;
    int frames, link_calls;
    size_t header_size;
    uint8_t last[NET_MAX_FRAME + 64];
    size_t last_size;
};

static bool take_frame(void *ctx, const uint8_t *frame, size_t size)
{
    struct fixture *f = ctx;
    if (size < f->header_size + 14 || be16_get(frame + f->header_size + 12) != TEST_TYPE) {
        return true; /* the kernel's own, IPv6 neighbours and the like */
    }
    event_loop_stop(f->loop);
    if (!f->has_room) {
        return false;
    }
    f->frames++;
    f->last_size = size;
    memcpy(f->last, frame, size);
    return true;
}

static void sendable(void *ctx)
{
}

static void link_changed(void *ctx, bool is_up)
{
    struct fixture *f = ctx;
    f->link_calls++;
    event_loop_stop(f->loop);
}

static int open_interface(struct ifreq *interface, short flags)
{
    int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        return -1;
    }
    *interface = (struct ifreq){.ifr_flags = flags};
    if (ioctl(fd, TUNSETIFF, interface) < 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static struct fixture *fixture_create(short extra_flags)
{
    struct fixture *f = calloc(1, sizeof(*f));
    assert_non_null(f);
    f->has_room = true;
    int fd = open_interface(&f->interface, (short)(IFF_TAP | IFF_NO_PI | extra_flags));
    assert_true(fd >= 0);
    f->control_fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    f->interface.ifr_flags = IFF_UP;
    assert_int_equal(ioctl(f->control_fd, SIOCSIFFLAGS, &f->interface), 0);
    f->packet_fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htobe16(TEST_TYPE));
    assert_true(f->packet_fd >= 0);
    struct sockaddr_ll address = {.sll_family = AF_PACKET,
                                  .sll_protocol = htobe16(TEST_TYPE),
                                  .sll_ifindex = (int)if_nametoindex(f->interface.ifr_name)};
    assert_int_equal(bind(f->packet_fd, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(event_loop_create(&f->loop, NULL), 0);
    assert_int_equal(net_open_tap(fd, "test", f->loop, &f->net, NULL), 0);
    struct net_client client = {
        .ctx = f, .receive = take_frame, .sendable = sendable, .link = link_changed};
    net_set_client(f->net, &client);
    return f;
}

static void fixture_destroy(struct fixture *f)
{
    net_close(f->net);
    event_loop_destroy(f->loop);
    close(f->packet_fd);
    close(f->control_fd);
    free(f);
}

static void run(struct fixture *f)
{
    assert_int_equal(event_loop_run(f->loop, NULL), 0);
}

static void make_frame(uint8_t *frame, size_t size, uint8_t fill)
{
    memset(frame, fill, size);
    memset(frame, 0xff, 12);
    be16_put(frame + 12, TEST_TYPE);
}

static void check_both_ways(struct fixture *f, size_t header_size)
{
    uint8_t sent[12 + 100] = {0}, got[200];
    make_frame(sent + header_size, 100, 0x5a);
    struct iovec iov[2] = {{sent, header_size + 20}, {sent + header_size + 20, 80}};
    assert_int_equal(net_send(f->net, iov, 2, header_size + 100), 0);
    assert_int_equal(recv(f->packet_fd, got, sizeof(got), 0), 100);
    assert_memory_equal(got, sent + header_size, 100);

    f->header_size = header_size;
    int frames = f->frames;
    assert_int_equal(send(f->packet_fd, sent + header_size, 100, 0), 100);
    while (f->frames == frames) {
        run(f);
    }
    assert_int_equal(f->last_size, header_size + 100);
    assert_memory_equal(f->last + header_size, sent + header_size, 100);
}

static void plain_interface_carries_plain_frames(void **state)
{
    struct fixture *f = fixture_create(0);
    assert_false(net_can_offload(f->net));
    net_set_offload(f->net, 12, true, true, true, true); /* nothing to set */
    check_both_ways(f, 0);
    fixture_destroy(f);
}

static void header_is_the_cards_choice(void **state)
{
    struct fixture *f = fixture_create(IFF_VNET_HDR);
    assert_true(net_can_offload(f->net));
    check_both_ways(f, 0);
    net_set_offload(f->net, 12, true, true, true, true);
    check_both_ways(f, 12);
    net_set_offload(f->net, 10, false, false, false, false);
    check_both_ways(f, 10);
    net_set_offload(f->net, 0, false, false, false, false);
    check_both_ways(f, 0);
    fixture_destroy(f);
}

static void header_of_the_guest_is_checked_by_the_kernel(void **state)
{
    struct fixture *f = fixture_create(IFF_VNET_HDR);
    net_set_offload(f->net, 12, true, true, true, false);
    uint8_t frame[12 + 100] = {0};
    struct virtio_net_hdr header = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
                                    .gso_type = 0x7f,
                                    .hdr_len = 0xffff,
                                    .csum_start = 0xfff0,
                                    .csum_offset = 0xfff0};
    memcpy(frame, &header, sizeof(header));
    make_frame(frame + 12, 100, 1);
    struct iovec iov = {frame, sizeof(frame)};
    assert_true(net_send(f->net, &iov, 1, sizeof(frame)) < 0);
    check_both_ways(f, 12);
    fixture_destroy(f);
}

static void frames_wait_for_room(void **state)
{
    struct fixture *f = fixture_create(IFF_VNET_HDR);
    uint8_t frame[100];
    f->has_room = false;
    for (uint8_t i = 0; i < 5; i++) {
        make_frame(frame, sizeof(frame), i);
        assert_int_equal(send(f->packet_fd, frame, sizeof(frame), 0), sizeof(frame));
    }
    run(f);
    assert_int_equal(f->frames, 0);
    f->has_room = true;
    net_resume(f->net);
    while (f->frames < 5) {
        run(f);
    }
    assert_int_equal(f->last[50], 4);
    fixture_destroy(f);
}

static void interface_that_is_down_drops(void **state)
{
    struct fixture *f = fixture_create(0);
    uint8_t frame[100];
    make_frame(frame, sizeof(frame), 1);
    struct iovec iov = {frame, sizeof(frame)};
    f->interface.ifr_flags = 0;
    assert_int_equal(ioctl(f->control_fd, SIOCSIFFLAGS, &f->interface), 0);
    assert_int_equal(net_send(f->net, &iov, 1, sizeof(frame)), -EIO);
    f->interface.ifr_flags = IFF_UP;
    assert_int_equal(ioctl(f->control_fd, SIOCSIFFLAGS, &f->interface), 0);
    int went_down = 0; /* the packet socket reports it once */
    socklen_t size = sizeof(went_down);
    assert_int_equal(getsockopt(f->packet_fd, SOL_SOCKET, SO_ERROR, &went_down, &size), 0);
    check_both_ways(f, 0);
    fixture_destroy(f);
}

static void other_descriptors_are_refused(void **state)
{
    struct event_loop *loop;
    struct net *net = NULL;
    struct error err;
    struct ifreq interface;
    assert_int_equal(event_loop_create(&loop, NULL), 0);
    int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    assert_true(net_open_tap(fd, "test", loop, &net, &err) < 0);
    assert_int_equal(close(fd), -1); /* owned on failure too */
    fd = open_interface(&interface, IFF_TUN | IFF_NO_PI);
    assert_true(fd >= 0);
    assert_int_equal(net_open_tap(fd, "test", loop, &net, &err), -EINVAL);
    assert_non_null(strstr(err.text, "IFF_TAP"));
    event_loop_destroy(loop);
}

int main(void)
{
    struct ifreq interface;
    if (unshare(CLONE_NEWNET) < 0 && unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0) {
        printf("skipped: no network namespace of its own: %s\n", strerror(errno));
        return 77;
    }
    int fd = open_interface(&interface, IFF_TAP | IFF_NO_PI | IFF_VNET_HDR);
    if (fd < 0) {
        printf("skipped: no tap interface: %s\n", strerror(errno));
        return 77;
    }
    close(fd);
    log_init(-1, LOG_LEVEL_ERROR, "test");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_interface_carries_plain_frames),
        cmocka_unit_test(header_is_the_cards_choice),
        cmocka_unit_test(header_of_the_guest_is_checked_by_the_kernel),
        cmocka_unit_test(frames_wait_for_room),
        cmocka_unit_test(interface_that_is_down_drops),
        cmocka_unit_test(other_descriptors_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
