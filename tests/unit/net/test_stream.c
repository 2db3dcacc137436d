/* Covers net/stream.c, net/net.c and net/none.c, over socket pairs. */
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
#include "base/host/log.h"
#include "net/net.h"

struct fixture {
    struct event_loop *loop;
    struct net *net;
    int peer;
    bool has_room;
    int frames, sendable_calls, link_calls;
    size_t last_size;
    uint8_t last[NET_MAX_FRAME];
};

static bool take_frame(void *ctx, const uint8_t *frame, size_t size)
{
    struct fixture *f = ctx;
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
    struct fixture *f = ctx;
    f->sendable_calls++;
    event_loop_stop(f->loop);
}

static void link_changed(void *ctx, bool is_up)
{
    struct fixture *f = ctx;
    assert_false(is_up);
    f->link_calls++;
    event_loop_stop(f->loop);
}

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    int fds[2];
    assert_non_null(f);
    log_init(-1, LOG_LEVEL_ERROR, "test"); /* closed links are wanted here */
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    f->peer = fds[1];
    f->has_room = true;
    assert_int_equal(event_loop_create(&f->loop, NULL), 0);
    assert_int_equal(net_open_stream(fds[0], "test", f->loop, &f->net, NULL), 0);
    struct net_client client = {
        .ctx = f, .receive = take_frame, .sendable = sendable, .link = link_changed};
    net_set_client(f->net, &client);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    net_close(f->net);
    event_loop_destroy(f->loop);
    if (f->peer >= 0) {
        close(f->peer);
    }
    free(f);
    return 0;
}

static void run(struct fixture *f)
{
    assert_int_equal(event_loop_run(f->loop, NULL), 0);
}

static void stop_loop(void *ctx)
{
    event_loop_stop(ctx);
}

/* Handles what is there already. */
static void run_once(struct fixture *f)
{
    assert_int_equal(event_loop_defer(f->loop, stop_loop, f->loop, NULL), 0);
    run(f);
}

static void peer_sends(struct fixture *f, const void *data, size_t size)
{
    assert_int_equal(send(f->peer, data, size, MSG_NOSIGNAL), size);
}

static void make_message(uint8_t *message, uint32_t size, uint8_t fill)
{
    be32_put(message, size);
    memset(message + 4, fill, size);
}

static void frame_in_pieces_arrives_whole(void **state)
{
    struct fixture *f = *state;
    uint8_t message[4 + 100];
    make_message(message, 100, 7);
    peer_sends(f, message, 2);
    run_once(f);
    peer_sends(f, message + 2, 50);
    run_once(f);
    assert_int_equal(f->frames, 0);
    peer_sends(f, message + 52, sizeof(message) - 52);
    run(f);
    assert_int_equal(f->frames, 1);
    assert_int_equal(f->last_size, 100);
    assert_memory_equal(f->last, message + 4, 100);
}

static void many_frames_in_one_write_arrive_in_order(void **state)
{
    struct fixture *f = *state;
    uint8_t messages[20][4 + 60];
    for (uint8_t i = 0; i < 20; i++) {
        make_message(messages[i], 60, i);
    }
    peer_sends(f, messages, sizeof(messages));
    while (f->frames < 20) {
        run(f);
        assert_int_equal(f->last[0], f->frames - 1);
    }
}

static void frames_wait_for_room(void **state)
{
    struct fixture *f = *state;
    uint8_t message[4 + 60];
    make_message(message, 60, 1);
    f->has_room = false;
    peer_sends(f, message, sizeof(message));
    run(f);
    peer_sends(f, message, sizeof(message));
    run_once(f);
    assert_int_equal(f->frames, 0);
    f->has_room = true;
    net_resume(f->net);
    assert_int_equal(f->frames, 0); /* never from inside net_resume */
    while (f->frames < 2) {
        run(f);
    }
}

static void short_frames_are_dropped(void **state)
{
    struct fixture *f = *state;
    uint8_t messages[4 + 0 + 4 + 13 + 4 + 14];
    make_message(messages, 0, 0);
    make_message(messages + 4, 13, 0);
    make_message(messages + 4 + 4 + 13, 14, 9);
    peer_sends(f, messages, sizeof(messages));
    run(f);
    assert_int_equal(f->frames, 1);
    assert_int_equal(f->last_size, 14);
}

static void largest_frame_passes_and_larger_closes(void **state)
{
    struct fixture *f = *state;
    uint8_t *message = malloc(4 + NET_MAX_FRAME);
    assert_non_null(message);
    make_message(message, NET_MAX_FRAME, 3);
    peer_sends(f, message, 4 + NET_MAX_FRAME);
    run(f);
    assert_int_equal(f->frames, 1);
    assert_int_equal(f->last_size, NET_MAX_FRAME);
    be32_put(message, NET_MAX_FRAME + 1);
    peer_sends(f, message, 4);
    run(f);
    assert_int_equal(f->link_calls, 1);
    assert_int_equal(recv(f->peer, message, 1, 0), 0); /* closed */
    struct iovec iov = {message, 60};
    assert_int_equal(net_send(f->net, &iov, 1, 60), -ENETDOWN);
    free(message);
}

static void peer_that_leaves_takes_the_link_down(void **state)
{
    struct fixture *f = *state;
    run_once(f);
    close(f->peer);
    f->peer = -1;
    run(f);
    assert_int_equal(f->link_calls, 1);
    net_resume(f->net);
    run_once(f);
    assert_int_equal(f->link_calls, 1);
}

static void peer_that_leaves_while_the_card_is_full_takes_the_link_down(void **state)
{
    struct fixture *f = *state;
    uint8_t message[4 + 60];
    make_message(message, 60, 1);
    f->has_room = false;
    peer_sends(f, message, sizeof(message));
    run(f);
    close(f->peer);
    f->peer = -1;
    while (f->link_calls == 0) {
        run(f);
    }
    assert_int_equal(f->frames, 0);
}

static void peer_that_is_gone_fails_a_send(void **state)
{
    struct fixture *f = *state;
    uint8_t frame[60] = {0};
    struct iovec iov = {frame, sizeof(frame)};
    close(f->peer);
    f->peer = -1;
    assert_int_equal(net_send(f->net, &iov, 1, sizeof(frame)), -ENETDOWN);
    assert_int_equal(f->link_calls, 0); /* never from inside net_send */
    run(f);
    assert_int_equal(f->link_calls, 1);
}

static void wrong_sizes_are_refused(void **state)
{
    struct fixture *f = *state;
    static uint8_t frame[NET_MAX_FRAME + 1];
    struct iovec iov = {frame, 60};
    assert_int_equal(net_send(f->net, &iov, 1, 59), -EINVAL);
    assert_int_equal(net_send(f->net, &iov, 1, 61), -EINVAL);
    iov.iov_len = 13;
    assert_int_equal(net_send(f->net, &iov, 1, 13), -EINVAL);
    iov.iov_len = sizeof(frame);
    assert_int_equal(net_send(f->net, &iov, 1, sizeof(frame)), -EMSGSIZE);
}

static void full_socket_holds_frames_back_and_loses_none(void **state)
{
    struct fixture *f = *state;
    static uint8_t head[14], body[9000];
    size_t size = sizeof(head) + sizeof(body);
    uint32_t sent = 0, received = 0;
    static uint8_t in[1 << 20];
    size_t in_size = 0;
    while (received < 500) {
        int rc = 0;
        while (sent < 500 && rc == 0) {
            le32_put(head, sent);
            struct iovec iov[2] = {{head, sizeof(head)}, {body, sizeof(body)}};
            rc = net_send(f->net, iov, 2, size);
            sent += rc == 0;
        }
        assert_true(rc == 0 || rc == -EAGAIN);
        ssize_t got = recv(f->peer, in + in_size, sizeof(in) - in_size, MSG_DONTWAIT);
        assert_true(got > 0);
        in_size += (size_t)got;
        size_t done = 0;
        while (in_size - done >= 4 + size) {
            assert_int_equal(be32_get(in + done), size);
            assert_int_equal(le32_get(in + done + 4), received++);
            done += 4 + size;
        }
        memmove(in, in + done, in_size - done);
        in_size -= done;
        if (rc == -EAGAIN) {
            int calls = f->sendable_calls;
            run(f);
            assert_int_equal(f->sendable_calls, calls + 1);
        } else {
            run_once(f);
        }
    }
    assert_true(f->sendable_calls > 0);
}

static void other_descriptors_are_refused(void **state)
{
    struct fixture *f = *state;
    struct error err;
    struct net *net = NULL;
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM, 0, fds), 0);
    assert_int_equal(net_open_stream(fds[0], "test", f->loop, &net, &err), -EINVAL);
    assert_non_null(strstr(err.text, "stream socket"));
    assert_int_equal(close(fds[0]), -1); /* owned on failure too */
    close(fds[1]);
}

static void none_takes_everything(void **state)
{
    struct fixture *f = *state;
    struct net *net;
    uint8_t frame[60] = {0};
    struct iovec iov = {frame, sizeof(frame)};
    assert_int_equal(net_open_none(f->loop, &net, NULL), 0);
    struct net_client client = {.ctx = f, .receive = take_frame, .sendable = sendable};
    net_set_client(net, &client);
    assert_int_equal(net_send(net, &iov, 1, sizeof(frame)), 0);
    assert_false(net_can_offload(net));
    run_once(f);
    net_close(net);
    net_close(NULL);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(frame_in_pieces_arrives_whole),
        TEST(many_frames_in_one_write_arrive_in_order),
        TEST(frames_wait_for_room),
        TEST(short_frames_are_dropped),
        TEST(largest_frame_passes_and_larger_closes),
        TEST(peer_that_leaves_takes_the_link_down),
        TEST(peer_that_leaves_while_the_card_is_full_takes_the_link_down),
        TEST(peer_that_is_gone_fails_a_send),
        TEST(wrong_sizes_are_refused),
        TEST(full_socket_holds_frames_back_and_loses_none),
        TEST(other_descriptors_are_refused),
        TEST(none_takes_everything),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
