/* Covers base/host/event_loop.c. */
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/host/event_loop.h"

struct fixture {
    struct event_loop *loop;
    struct event_source *source;
    struct event_timer *timer;
    int calls;
};

static void count_and_stop(void *ctx)
{
    struct fixture *f = ctx;
    f->calls++;
    event_loop_stop(f->loop);
}

static void readable(void *ctx, int fd, uint32_t events)
{
    struct fixture *f = ctx;
    char byte;
    assert_int_equal(read(fd, &byte, 1), 1);
    event_source_remove(f->source); /* from its own callback */
    count_and_stop(f);
}

static void descriptor_calls_until_removed(void **state)
{
    struct fixture f = {0};
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    assert_int_equal(event_loop_create(&f.loop, NULL), 0);
    assert_int_equal(event_loop_add_fd(f.loop, fds[0], EPOLLIN, readable, &f, &f.source, NULL), 0);
    assert_int_equal(write(fds[1], "ab", 2), 2);
    assert_int_equal(event_loop_run(f.loop, NULL), 0);
    assert_int_equal(event_loop_defer(f.loop, count_and_stop, &f, NULL), 0);
    assert_int_equal(event_loop_run(f.loop, NULL), 0);
    assert_int_equal(f.calls, 2); /* one byte is still there and called nobody */
    event_loop_destroy(f.loop);
    close(fds[0]);
    close(fds[1]);
}

/* As a thread sees it that waits on the loop's descriptor with poll. */
static void turns_do_what_is_ready(void **state)
{
    struct fixture f = {0};
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    assert_int_equal(event_loop_create(&f.loop, NULL), 0);
    assert_int_equal(event_loop_add_fd(f.loop, fds[0], EPOLLIN, readable, &f, &f.source, NULL), 0);
    bool is_stopped = true;
    assert_int_equal(event_loop_turn(f.loop, &is_stopped, NULL), 0); /* nothing: does not wait */
    assert_int_equal(f.calls, 0);
    assert_false(is_stopped);
    assert_false(event_loop_is_own_thread(f.loop));
    struct pollfd waits = {.fd = event_loop_fd(f.loop), .events = POLLIN};
    assert_int_equal(poll(&waits, 1, 0), 0);
    assert_int_equal(write(fds[1], "a", 1), 1);
    assert_int_equal(poll(&waits, 1, 0), 1);
    assert_int_equal(event_loop_turn(f.loop, &is_stopped, NULL), 0);
    assert_int_equal(f.calls, 1);
    assert_true(is_stopped);
    /* The stop's own wake-up, after which nothing is left. */
    assert_int_equal(event_loop_turn(f.loop, &is_stopped, NULL), 0);
    assert_false(is_stopped);
    assert_int_equal(poll(&waits, 1, 0), 0);
    event_loop_destroy(f.loop);
    close(fds[0]);
    close(fds[1]);
}

static void timer_fires_also_in_the_past(void **state)
{
    struct fixture f = {0};
    assert_int_equal(event_loop_create(&f.loop, NULL), 0);
    assert_int_equal(event_timer_create(f.loop, count_and_stop, &f, &f.timer, NULL), 0);
    uint64_t start_ns = clock_monotonic_ns();
    event_timer_arm(f.timer, start_ns + 2000000);
    assert_int_equal(event_loop_run(f.loop, NULL), 0);
    assert_true(clock_monotonic_ns() - start_ns >= 2000000);
    event_timer_arm(f.timer, 0);
    assert_int_equal(event_loop_run(f.loop, NULL), 0);
    event_timer_arm(f.timer, clock_monotonic_ns() + 1000000);
    event_timer_disarm(f.timer);
    assert_int_equal(event_loop_defer(f.loop, count_and_stop, &f, NULL), 0);
    assert_int_equal(event_loop_run(f.loop, NULL), 0);
    assert_int_equal(f.calls, 3);
    event_timer_destroy(f.timer);
    event_loop_destroy(f.loop);
}

static void notifier_merges(void **state)
{
    struct fixture f = {0};
    struct event_notifier *notifier;
    assert_int_equal(event_loop_create(&f.loop, NULL), 0);
    assert_int_equal(event_notifier_create(f.loop, count_and_stop, &f, &notifier, NULL), 0);
    event_notifier_signal(notifier);
    event_notifier_signal(notifier);
    assert_int_equal(event_loop_run(f.loop, NULL), 0);
    assert_int_equal(f.calls, 1);
    event_notifier_destroy(notifier);
    event_loop_destroy(f.loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(descriptor_calls_until_removed),
        cmocka_unit_test(turns_do_what_is_ready),
        cmocka_unit_test(timer_fires_also_in_the_past),
        cmocka_unit_test(notifier_merges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
