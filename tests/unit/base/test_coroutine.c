/* Covers base/host/coroutine.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/host/coroutine.h"

struct trace {
    char text[256];
    struct coroutine *self;
    struct coroutine_queue queue;
    struct coroutine_mutex mutex;
    int count;
};

static void note(struct trace *trace, const char *word)
{
    strncat(trace->text, word, sizeof(trace->text) - strlen(trace->text) - 1);
}

static void two_steps(void *ctx)
{
    struct trace *trace = ctx;
    trace->self = coroutine_self();
    note(trace, "a");
    coroutine_yield();
    note(trace, "b");
}

static void noted_after(void *ctx)
{
    struct trace *trace = ctx;
    assert_null(coroutine_self());
    note(trace, "after");
}

static void stops_and_goes_on(void **state)
{
    struct trace trace = {0};
    assert_null(coroutine_self());
    assert_int_equal(coroutine_start(two_steps, noted_after, &trace), 0);
    note(&trace, "-");
    coroutine_resume(trace.self);
    assert_string_equal(trace.text, "a-bafter");
    coroutine_trim();
}

static void starts_another(void *ctx)
{
    struct trace *trace = ctx;
    note(trace, "x");
    assert_int_equal(coroutine_start(two_steps, NULL, trace), 0);
    note(trace, "y");
    coroutine_resume(trace->self); /* not before this one gives way */
    note(trace, "z");
}

static void nests(void **state)
{
    struct trace trace = {0};
    assert_int_equal(coroutine_start(starts_another, NULL, &trace), 0);
    assert_string_equal(trace.text, "xayzb");
}

static void locked_step(void *ctx)
{
    struct trace *trace = ctx;
    char word[8];
    (void)snprintf(word, sizeof(word), "%d", trace->count++);
    coroutine_mutex_lock(&trace->mutex);
    note(trace, word);
    coroutine_queue_wait(&trace->queue);
    note(trace, word);
    coroutine_mutex_unlock(&trace->mutex);
}

static void mutex_is_handed_over_in_order(void **state)
{
    struct trace trace = {0};
    for (int i = 0; i < 3; i++) {
        assert_int_equal(coroutine_start(locked_step, NULL, &trace), 0);
    }
    while (coroutine_queue_wake_one(&trace.queue)) {
    }
    assert_string_equal(trace.text, "001122");
    assert_false(trace.mutex.is_locked);
}

static uint64_t sum(unsigned depth)
{
    volatile uint8_t frame[256];
    frame[depth % sizeof(frame)] = (uint8_t)depth;
    return depth == 0 ? 0 : sum(depth - 1) + frame[depth % sizeof(frame)];
}

static void waits_deep_in_the_stack(void *ctx)
{
    struct trace *trace = ctx;
    double value = trace->count * 0.5;
    uint64_t before = sum(100);
    coroutine_queue_wait(&trace->queue);
    assert_true(sum(100) == before && value >= 0);
    trace->count++;
}

static void many_at_once(void **state)
{
    struct trace trace = {0};
    for (int i = 0; i < 1000; i++) {
        assert_int_equal(coroutine_start(waits_deep_in_the_stack, NULL, &trace), 0);
    }
    coroutine_queue_wake_all(&trace.queue);
    assert_int_equal(trace.count, 1000);
    coroutine_trim();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stops_and_goes_on),
        cmocka_unit_test(nests),
        cmocka_unit_test(mutex_is_handed_over_in_order),
        cmocka_unit_test(many_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
