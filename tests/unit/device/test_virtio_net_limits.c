/* Covers device/virtio/net.c where guest or backend leave the ordinary: sizes, too few buffers, a link that goes. */
#include "virtio_driver.h"

#include <sys/socket.h>
#include <unistd.h>

#include "base/core/endian.h"
#include "base/host/log.h"
#include "device/virtio/net.h"

#define RX            0u
#define TX            1u
#define CTRL          2u
#define HEADER        12u
#define FEATURE_MRG   (1ull << 15)
#define FEATURE_MAC   (1ull << 5)
#define FEATURE_LINK  (1ull << 16)
#define FEATURE_CTRL  (3ull << 17 | 1ull << 23)
#define ALL_FEATURES  (FEATURE_MRG | FEATURE_MAC | FEATURE_LINK)
#define CONFIG_STATUS 6u

static const uint8_t our_mac[6] = {0x52, 0x54, 0, 1, 2, 3};

struct fixture {
    struct driver driver;
    int peer;
};

static void setup(struct fixture *f, uint64_t features, uint16_t size)
{
    *f = (struct fixture){0};
    driver_create(&f->driver);
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    f->peer = fds[1];
    struct virtio_net_options options = {.common = driver_options(&f->driver)};
    memcpy(options.mac, our_mac, sizeof(our_mac));
    assert_int_equal(net_open_stream(fds[0], "test", f->driver.loop, &options.net, NULL), 0);
    struct device *device;
    assert_int_equal(virtio_net_create(&options, &device, NULL), 0);
    driver_attach(&f->driver, device);
    driver_start(&f->driver, features, 3, size);
}

static void teardown(struct fixture *f)
{
    driver_destroy(&f->driver);
    if (f->peer >= 0) {
        close(f->peer);
    }
}

static void peer_sends(struct fixture *f, uint8_t fill, uint32_t size)
{
    uint8_t message[4 + 2000];
    be32_put(message, size);
    memset(message + 4, fill, size);
    memcpy(message + 4, our_mac, sizeof(our_mac));
    assert_int_equal(send(f->peer, message, 4 + size, 0), 4 + size);
}

static uint64_t add_receive_buffer(struct fixture *f, uint32_t size)
{
    struct driver_buffer buffer = {driver_alloc(&f->driver, size), size, true};
    driver_add(&f->driver, RX, &buffer, 1);
    return buffer.gpa;
}

static void count_notifications(void *ctx, const char *name, uint64_t value)
{
    if (strcmp(name, "notifications") == 0) {
        *(uint64_t *)ctx = value;
    }
}

static uint64_t notifications(struct fixture *f)
{
    uint64_t count = 0;
    f->driver.device->ops->stats(f->driver.device, count_notifications, &count);
    return count;
}

static void frames_leave_without_their_header(void **state)
{
    struct fixture f;
    setup(&f, ALL_FEATURES | FEATURE_INDIRECT, 8);
    struct driver *d = &f.driver;
    uint8_t got[200];
    for (uint32_t cut = 1; cut < HEADER + 60; cut += 7) {
        uint64_t gpa = driver_alloc(d, HEADER + 60);
        memset(driver_at(d, gpa, HEADER + 60), (int)cut, HEADER + 60);
        struct driver_buffer buffers[2] = {{gpa, cut, false},
                                           {gpa + cut, HEADER + 60 - cut, false}};
        uint16_t used = driver_used_index(d, TX);
        driver_add_indirect(d, TX, buffers, 2);
        driver_kick(d, TX);
        driver_wait_used(d, TX, (uint16_t)(used + 1));
        assert_int_equal(recv(f.peer, got, sizeof(got), MSG_DONTWAIT), 4 + 60);
        assert_int_equal(be32_get(got), 60);
        assert_int_equal(got[4], cut);
        assert_int_equal(got[63], cut);
    }
    teardown(&f);
}

static void impossible_frames_are_dropped_and_given_back(void **state)
{
    struct fixture f;
    setup(&f, ALL_FEATURES, 8);
    struct driver *d = &f.driver;
    const uint32_t sizes[] = {1, HEADER, HEADER + 13, HEADER + NET_MAX_FRAME + 1, 0x300000};
    uint8_t byte;
    uint64_t gpa = driver_alloc(d, 0x300000);
    for (uint16_t i = 0; i < ARRAY_COUNT(sizes); i++) {
        struct driver_buffer buffer = {gpa, sizes[i], false};
        driver_add(d, TX, &buffer, 1);
        driver_kick(d, TX);
        driver_wait_used(d, TX, (uint16_t)(i + 1));
    }
    assert_int_equal(recv(f.peer, &byte, 1, MSG_DONTWAIT), -1);
    assert_int_equal(driver_status(d), 15);
    teardown(&f);
}

/* With and without event indices: the device sleeps until there are more buffers, and is told of them. */
static void frame_waits_for_enough_buffers(void **state)
{
    for (int event_idx = 0; event_idx < 2; event_idx++) {
        struct fixture f;
        setup(&f, ALL_FEATURES | (event_idx ? FEATURE_EVENT_IDX : 0), 8);
        struct driver *d = &f.driver;
        uint64_t first = add_receive_buffer(&f, 600);
        (void)add_receive_buffer(&f, 600);
        peer_sends(&f, 9, 1500);
        driver_run(d);
        driver_run(d);
        assert_int_equal(driver_used_index(d, RX), 0);
        uint64_t before = notifications(&f);
        driver_run(d);
        driver_run(d);
        assert_int_equal(notifications(&f), before); /* it sleeps */
        if (event_idx) {
            const struct driver_queue *queue = &d->queue[RX];
            const uint8_t *avail_event = driver_at(d, queue->used + 4 + queue->size * 8u, 2);
            assert_int_equal(le16_get(avail_event), 2); /* the third one is wanted */
        }
        (void)add_receive_buffer(&f, 600);
        driver_kick(d, RX);
        driver_wait_used(d, RX, 3);
        assert_int_equal(le16_get((uint8_t *)driver_at(d, first, 600) + 10), 3);
        assert_int_equal(driver_used_length(d, RX, 0), 600);
        assert_int_equal(driver_used_length(d, RX, 2), HEADER + 1500 - 1200);
        teardown(&f);
    }
}

static void frame_larger_than_all_buffers_is_lost(void **state)
{
    struct fixture f;
    setup(&f, ALL_FEATURES, 4);
    struct driver *d = &f.driver;
    for (int i = 0; i < 4; i++) {
        (void)add_receive_buffer(&f, 100);
    }
    peer_sends(&f, 1, 1500);
    peer_sends(&f, 2, 60);
    driver_wait_used(d, RX, 1);
    assert_int_equal(driver_used_length(d, RX, 0), HEADER + 60);
    assert_int_equal(driver_status(d), 15);
    teardown(&f);
}

static void buffer_without_room_for_the_header_breaks_the_device(void **state)
{
    struct fixture f;
    setup(&f, ALL_FEATURES, 4);
    (void)add_receive_buffer(&f, HEADER - 1);
    peer_sends(&f, 1, 60);
    driver_run(&f.driver);
    assert_int_equal(driver_status(&f.driver), 15 | 64);
    driver_reset(&f.driver);
    driver_start(&f.driver, ALL_FEATURES, 3, 4);
    (void)add_receive_buffer(&f, 100);
    peer_sends(&f, 1, 60);
    driver_wait_used(&f.driver, RX, 1);
    teardown(&f);
}

static void link_follows_the_peer(void **state)
{
    struct fixture f;
    setup(&f, ALL_FEATURES, 4);
    struct driver *d = &f.driver;
    assert_int_equal(driver_read(d, d->config + CONFIG_STATUS, 2), 1);
    close(f.peer);
    f.peer = -1;
    driver_run(d);
    driver_run(d);
    assert_int_equal(driver_read(d, d->config + CONFIG_STATUS, 2), 0);
    assert_true(d->msi[DRIVER_CONFIG_MSI] > 0);
    struct driver_buffer buffer = {driver_alloc(d, 100), 100, false};
    driver_add(d, TX, &buffer, 1);
    driver_kick(d, TX);
    driver_wait_used(d, TX, 1); /* dropped, not kept */
    teardown(&f);
}

static void control_commands_of_any_size_do_no_harm(void **state)
{
    struct fixture f;
    setup(&f, ALL_FEATURES | FEATURE_CTRL, 8);
    struct driver *d = &f.driver;
    uint16_t used = 0;
    for (uint8_t class = 0; class < 6; class ++) {
        for (uint8_t command = 0; command < 4; command++) {
            for (uint32_t size = 1; size < 40; size += 3) {
                uint64_t gpa = driver_alloc(d, size);
                uint8_t *data = driver_at(d, gpa, size);
                memset(data, 0xfe, size);
                data[0] = class;
                if (size > 1) {
                    data[1] = command;
                }
                struct driver_buffer buffers[2] = {{gpa, size, false},
                                                   {driver_alloc(d, 1), 1, true}};
                driver_add(d, CTRL, buffers, 2);
                driver_kick(d, CTRL);
                driver_wait_used(d, CTRL, ++used);
            }
        }
    }
    assert_int_equal(driver_status(d), 15);
    teardown(&f);
}

static void saved_state_is_checked(void **state)
{
    struct fixture f;
    setup(&f, ALL_FEATURES, 8);
    (void)add_receive_buffer(&f, 2000);
    driver_save_and_restore(&f.driver);
    peer_sends(&f, 5, 100);
    driver_wait_used(&f.driver, RX, 1);
    driver_restore_rubbish(&f.driver);
    teardown(&f);
}

int main(void)
{
    log_init(-1, LOG_LEVEL_ERROR, "test"); /* broken protocols and closed links are wanted here */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames_leave_without_their_header),
        cmocka_unit_test(impossible_frames_are_dropped_and_given_back),
        cmocka_unit_test(frame_waits_for_enough_buffers),
        cmocka_unit_test(frame_larger_than_all_buffers_is_lost),
        cmocka_unit_test(buffer_without_room_for_the_header_breaks_the_device),
        cmocka_unit_test(link_follows_the_peer),
        cmocka_unit_test(control_commands_of_any_size_do_no_harm),
        cmocka_unit_test(saved_state_is_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
