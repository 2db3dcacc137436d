/* Covers net/user/frames.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/core/endian.h"
#include "net/user/frames.h"

struct pair {
    struct frames a, b;
};

static int set_up(void **state)
{
    struct pair *pair = malloc(sizeof(*pair));
    int fds[2];
    assert_non_null(pair);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    frames_init(&pair->a, fds[0]);
    frames_init(&pair->b, fds[1]);
    *state = pair;
    return 0;
}

static int tear_down(void **state)
{
    struct pair *pair = *state;
    close(pair->a.fd);
    close(pair->b.fd);
    free(pair);
    return 0;
}

static void frames_keep_their_order_and_content_when_the_socket_is_full(void **state)
{
    struct pair *pair = *state;
    static uint8_t frame[FRAMES_MAX_SIZE];
    const uint8_t *got;
    size_t size;
    uint32_t sent = 0, received = 0;
    bool was_congested = false;
    while (received < 2000) {
        while (sent < 2000 && !frames_is_congested(&pair->a)) {
            memset(frame, (int)sent, sizeof(frame));
            le32_put(frame, sent);
            frames_send(&pair->a, frame, 14 + (sent * 37) % (FRAMES_MAX_SIZE - 13));
            sent++;
        }
        was_congested |= frames_is_congested(&pair->a);
        assert_int_equal(frames_receive(&pair->b, NULL), 1);
        while (frames_next(&pair->b, &got, &size, NULL) == 1) {
            assert_int_equal(size, 14 + (received * 37) % (FRAMES_MAX_SIZE - 13));
            assert_int_equal(le32_get(got), received);
            assert_int_equal(got[size - 1], (uint8_t)received);
            received++;
        }
        assert_int_equal(frames_flush(&pair->a, NULL), 0);
    }
    assert_true(was_congested);
    assert_false(frames_has_queued(&pair->a));
}

static void full_queue_loses_whole_frames(void **state)
{
    struct pair *pair = *state;
    static uint8_t frame[60000];
    const uint8_t *got;
    size_t size;
    int received = 0;
    for (int i = 0; i < 100; i++) {
        frames_send(&pair->a, frame, sizeof(frame));
    }
    do {
        assert_int_equal(frames_flush(&pair->a, NULL), 0);
        int rc = frames_receive(&pair->b, NULL);
        if (rc == -EAGAIN) {
            break;
        }
        assert_int_equal(rc, 1);
        while (frames_next(&pair->b, &got, &size, NULL) == 1) {
            assert_int_equal(size, sizeof(frame));
            received++;
        }
    } while (true);
    assert_in_range(received, FRAMES_OUT_SIZE / sizeof(frame) - 1, 99);
    assert_int_equal(pair->b.in_start, pair->b.in_end);
}

static void too_large_a_frame_is_an_error(void **state)
{
    struct pair *pair = *state;
    const uint8_t *got;
    size_t size;
    struct error err;
    uint8_t length[4];
    be32_put(length, FRAMES_MAX_SIZE + 1);
    assert_int_equal(send(pair->a.fd, length, sizeof(length), 0), sizeof(length));
    assert_int_equal(frames_receive(&pair->b, NULL), 1);
    assert_int_equal(frames_next(&pair->b, &got, &size, &err), -EPROTO);
}

static void closed_socket_is_seen(void **state)
{
    struct pair *pair = *state;
    assert_int_equal(frames_receive(&pair->b, NULL), -EAGAIN);
    assert_int_equal(shutdown(pair->a.fd, SHUT_RDWR), 0);
    assert_int_equal(frames_receive(&pair->b, NULL), 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(frames_keep_their_order_and_content_when_the_socket_is_full),
        TEST(full_queue_loses_whole_frames),
        TEST(too_large_a_frame_is_an_error),
        TEST(closed_socket_is_seen),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
