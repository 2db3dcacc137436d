/* Covers device/virtio/net.c: frames both ways, merged buffers, back pressure, the control queue. */
#include "virtio_driver.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/core/endian.h"
#include "device/virtio/net.h"

#define RECEIVE  0u
#define TRANSMIT 1u
#define CONTROL  2u
#define HEADER   12u
#define MRG      (1ull << 15)

static const uint8_t own_mac[6] = {0x52, 0x54, 0, 1, 2, 3};

struct fixture {
    struct driver driver;
    int peer; /* the other end of the frame socket */
};

static void setup(struct fixture *f, uint64_t features)
{
    *f = (struct fixture){0};
    driver_create(&f->driver);
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    f->peer = fds[1];
    assert_int_equal(fcntl(f->peer, F_SETFL, O_NONBLOCK), 0);
    struct virtio_net_options options = {.common = driver_options(&f->driver)};
    memcpy(options.mac, own_mac, 6);
    assert_int_equal(net_open_stream(fds[0], "test", f->driver.loop, &options.net, NULL), 0);
    struct device *device;
    assert_int_equal(virtio_net_create(&options, &device, NULL), 0);
    driver_attach(&f->driver, device);
    assert_int_equal(driver_offered(&f->driver) & features, features);
    driver_start(&f->driver, features, 3, 64);
}

static void teardown(struct fixture *f)
{
    driver_destroy(&f->driver);
    close(f->peer);
}

/* A frame to 'mac' whose bytes depend on 'seed'. */
static void make_frame(uint8_t *frame, size_t size, const uint8_t *mac, unsigned seed)
{
    for (size_t i = 0; i < size; i++) {
        frame[i] = (uint8_t)(i + seed);
    }
    memcpy(frame, mac, 6);
}

static void peer_sends(struct fixture *f, const uint8_t *frame, size_t size)
{
    uint8_t length[4];
    be32_put(length, (uint32_t)size);
    assert_int_equal(write(f->peer, length, 4), 4);
    assert_int_equal(write(f->peer, frame, size), size);
    driver_run(&f->driver);
}

static uint64_t post_buffer(struct fixture *f, uint32_t size)
{
    uint64_t gpa = driver_alloc(&f->driver, size);
    driver_add(&f->driver, RECEIVE, &(struct driver_buffer){gpa, size, true}, 1);
    driver_kick(&f->driver, RECEIVE);
    driver_run(&f->driver);
    return gpa;
}

static void add_frame(struct fixture *f, uint64_t gpa, uint32_t size)
{
    struct driver_buffer buffers[2] = {{gpa, HEADER, false}, {gpa + HEADER, size, false}};
    driver_add(&f->driver, TRANSMIT, buffers, 2);
}

static void sends_frames(void **state)
{
    struct fixture f;
    setup(&f, MRG);
    struct driver *d = &f.driver;
    uint64_t gpa = driver_alloc(d, HEADER + 1514);
    uint8_t *data = driver_at(d, gpa, HEADER + 1514);
    memset(data, 0, HEADER);
    make_frame(data + HEADER, 1514, own_mac, 7);
    add_frame(&f, gpa, 1514);
    add_frame(&f, gpa, 5);     /* no frame */
    add_frame(&f, gpa, 65600); /* nor this: larger than any */
    driver_kick(d, TRANSMIT);
    driver_wait_used(d, TRANSMIT, 3);
    uint8_t got[2000];
    assert_int_equal(read(f.peer, got, sizeof(got)), 4 + 1514);
    assert_int_equal(be32_get(got), 1514);
    assert_memory_equal(got + 4, data + HEADER, 1514);
    assert_int_equal(driver_status(d), 15);
    teardown(&f);
}

static void waits_while_the_backend_is_full(void **state)
{
    struct fixture f;
    setup(&f, MRG);
    struct driver *d = &f.driver;
    uint64_t gpa = driver_alloc(d, HEADER + 60000);
    memset(driver_at(d, gpa, HEADER + 60000), 1, HEADER + 60000);
    for (unsigned i = 0; i < 32; i++) { /* more than a socket holds */
        add_frame(&f, gpa, 60000);
    }
    driver_kick(d, TRANSMIT);
    driver_run(d);
    assert_true(driver_used_index(d, TRANSMIT) < 32);
    static uint8_t got[1 << 20];
    size_t total = 0;
    for (unsigned i = 0; i < 1000 && total < 32 * 60004; i++) {
        ssize_t n = read(f.peer, got, sizeof(got));
        total += n > 0 ? (size_t)n : 0;
        driver_run(d);
    }
    assert_int_equal(total, 32 * 60004);
    assert_int_equal(driver_used_index(d, TRANSMIT), 32);
    teardown(&f);
}

static void receives_frames(void **state)
{
    struct fixture f;
    setup(&f, MRG);
    struct driver *d = &f.driver;
    uint64_t buffer[3];
    for (unsigned i = 0; i < 3; i++) {
        buffer[i] = post_buffer(&f, 1000);
    }
    uint8_t frame[2500];
    make_frame(frame, 100, own_mac, 1);
    peer_sends(&f, frame, 100);
    driver_wait_used(d, RECEIVE, 1);
    assert_int_equal(driver_used_length(d, RECEIVE, 0), HEADER + 100);
    assert_memory_equal(driver_at(d, buffer[0] + HEADER, 100), frame, 100);
    assert_int_equal(le16_get(driver_at(d, buffer[0] + 10, 2)), 1);
    /* Larger than what is there: waits with the backend until the guest has room, then spreads over three. */
    make_frame(frame, 2500, own_mac, 2);
    peer_sends(&f, frame, 2500);
    assert_int_equal(driver_used_index(d, RECEIVE), 1);
    uint64_t last = post_buffer(&f, 1000);
    driver_wait_used(d, RECEIVE, 4);
    assert_int_equal(le16_get(driver_at(d, buffer[1] + 10, 2)), 3);
    assert_memory_equal(driver_at(d, buffer[1] + HEADER, 988), frame, 988);
    assert_memory_equal(driver_at(d, buffer[2], 1000), frame + 988, 1000);
    assert_memory_equal(driver_at(d, last, 512), frame + 1988, 512);
    assert_int_equal(driver_used_length(d, RECEIVE, 3), 512);
    teardown(&f);
}

static void small_buffers_without_merging_lose_the_frame(void **state)
{
    struct fixture f;
    setup(&f, 0);
    struct driver *d = &f.driver;
    post_buffer(&f, 100);
    uint64_t large = post_buffer(&f, 1600);
    uint8_t frame[1514];
    make_frame(frame, 1514, own_mac, 2);
    peer_sends(&f, frame, 1514);
    driver_wait_used(d, RECEIVE, 1);
    assert_int_equal(driver_used_length(d, RECEIVE, 0), 0);
    peer_sends(&f, frame, 1514);
    driver_wait_used(d, RECEIVE, 2);
    assert_memory_equal(driver_at(d, large + HEADER, 1514), frame, 1514);
    /* A buffer that cannot even hold the header breaks the queue. */
    post_buffer(&f, 5);
    peer_sends(&f, frame, 1514);
    assert_int_equal(driver_status(d), 15 | 64);
    teardown(&f);
}

static uint8_t control(struct fixture *f, const uint8_t *command, uint32_t size, uint16_t nth)
{
    struct driver *d = &f->driver;
    uint64_t gpa = driver_alloc(d, 64), ack = driver_alloc(d, 1);
    memcpy(driver_at(d, gpa, size), command, size);
    *(uint8_t *)driver_at(d, ack, 1) = 0xee;
    struct driver_buffer buffers[2] = {{gpa, size, false}, {ack, 1, true}};
    driver_add(d, CONTROL, buffers, 2);
    driver_kick(d, CONTROL);
    driver_wait_used(d, CONTROL, nth);
    return *(uint8_t *)driver_at(d, ack, 1);
}

static void control_queue_sets_filters(void **state)
{
    struct fixture f;
    setup(&f, MRG | 1ull << 17 | 1ull << 18 | 1ull << 23);
    struct driver *d = &f.driver;
    const uint8_t other[6] = {0x52, 0x54, 0, 9, 9, 9}, group[6] = {1, 0, 0x5e, 0, 0, 1};
    assert_int_equal(control(&f, (const uint8_t[]){0, 0, 0}, 3, 1), 0); /* no longer promiscuous */
    post_buffer(&f, 1600);
    post_buffer(&f, 1600);
    uint8_t frame[60];
    make_frame(frame, 60, other, 0);
    peer_sends(&f, frame, 60);
    assert_int_equal(driver_used_index(d, RECEIVE), 0);
    make_frame(frame, 60, group, 0);
    peer_sends(&f, frame, 60);
    driver_wait_used(d, RECEIVE, 1);
    uint8_t set_mac[8] = {1, 1};
    memcpy(set_mac + 2, other, 6);
    assert_int_equal(control(&f, set_mac, 8, 2), 0);
    assert_int_equal(driver_read(d, d->config, 4), le32_get(other));
    make_frame(frame, 60, other, 0);
    peer_sends(&f, frame, 60);
    driver_wait_used(d, RECEIVE, 2);
    assert_int_equal(control(&f, set_mac, 7, 3), 1);
    assert_int_equal(control(&f, (const uint8_t[]){9, 9, 9}, 3, 4), 1);
    assert_int_equal(control(&f, (const uint8_t[]){0}, 1, 5), 1);
    driver_save_and_restore(d);
    assert_int_equal(driver_read(d, d->config, 4), le32_get(other));
    teardown(&f);
}

static void restored_card_goes_on(void **state)
{
    struct fixture f;
    setup(&f, MRG | FEATURE_EVENT_IDX | FEATURE_INDIRECT);
    struct driver *d = &f.driver;
    uint64_t buffer = post_buffer(&f, 1600);
    d->device->ops->pause(d->device, true);
    uint8_t frame[60];
    make_frame(frame, 60, own_mac, 0);
    peer_sends(&f, frame, 60); /* while it is paused */
    assert_int_equal(driver_used_index(d, RECEIVE), 0);
    d->device->ops->pause(d->device, false);
    driver_run(d);
    assert_int_equal(driver_used_index(d, RECEIVE), 1);
    assert_memory_equal(driver_at(d, buffer + HEADER, 60), frame, 60);
    driver_save_and_restore(d);
    buffer = post_buffer(&f, 1600);
    peer_sends(&f, frame, 60);
    driver_wait_used(d, RECEIVE, 2);
    driver_restore_rubbish(d);
    driver_reset(d);
    close(f.peer);
    f.peer = -1;
    driver_run(d);
    assert_int_equal(driver_read(d, d->config + 6, 2), 0); /* the link is down */
    teardown(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sends_frames),
        cmocka_unit_test(waits_while_the_backend_is_full),
        cmocka_unit_test(receives_frames),
        cmocka_unit_test(small_buffers_without_merging_lose_the_frame),
        cmocka_unit_test(control_queue_sets_filters),
        cmocka_unit_test(restored_card_goes_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
