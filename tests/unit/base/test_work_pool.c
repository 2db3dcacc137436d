/* Covers base/host/work_pool.c and iov.c: work of coroutines on threads, waited for with and without the loop. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/host/coroutine.h"
#include "base/host/iov.h"
#include "base/host/work_pool.h"

#define JOBS  200
#define TURNS 20

struct fixture {
    struct event_loop *loop;
    struct work_pool *pool;
    atomic_uint worked;
    unsigned ended;
    bool stops_loop;
};

static struct fixture fixture;

static void work(void *ctx)
{
    atomic_fetch_add((atomic_uint *)ctx, 1);
}

static void run_job(void *ctx)
{
    for (int i = 0; i < TURNS; i++) {
        unsigned before = atomic_load(&fixture.worked);
        work_pool_run(fixture.pool, work, &fixture.worked);
        assert_true(atomic_load(&fixture.worked) > before);
    }
    fixture.ended++;
    if (fixture.stops_loop && fixture.ended == JOBS) {
        event_loop_stop(fixture.loop);
    }
}

static void start_all(bool stops_loop)
{
    struct error err;
    atomic_store(&fixture.worked, 0);
    fixture.ended = 0;
    fixture.stops_loop = stops_loop;
    assert_int_equal(event_loop_create(&fixture.loop, &err), 0);
    assert_int_equal(work_pool_create(3, fixture.loop, &fixture.pool, &err), 0);
    assert_int_equal(work_pool_thread_count(fixture.pool), 3);
    for (int i = 0; i < JOBS; i++) {
        assert_int_equal(coroutine_start(run_job, NULL, NULL), 0);
    }
    assert_true(work_pool_is_busy(fixture.pool));
}

static void end_all(void)
{
    assert_int_equal(fixture.ended, JOBS);
    assert_int_equal(atomic_load(&fixture.worked), JOBS * TURNS);
    assert_false(work_pool_is_busy(fixture.pool));
    work_pool_destroy(fixture.pool);
    event_loop_destroy(fixture.loop);
}

static void test_wait(void **state)
{
    start_all(false);
    while (work_pool_is_busy(fixture.pool)) {
        work_pool_wait(fixture.pool);
    }
    end_all();
}

static void test_loop(void **state)
{
    struct error err;
    start_all(true);
    assert_int_equal(event_loop_run(fixture.loop, &err), 0);
    end_all();
}

static void test_without(void **state)
{
    atomic_uint count = 0;
    work_pool_run(NULL, work, &count);
    assert_int_equal(count, 1);
    work_pool_destroy(NULL);
}

static void test_iov(void **state)
{
    char a[4] = "abcd";
    char b[1] = "e";
    char c[5] = "fghij";
    struct iovec iov[] = {{a, 4}, {b, 1}, {NULL, 0}, {c, 5}};
    struct iovec part[4];
    char bytes[8];
    assert_int_equal(iov_cut(part, iov, 4, 3, 4), 3);
    assert_ptr_equal(part[0].iov_base, a + 3);
    assert_int_equal(part[0].iov_len, 1);
    assert_int_equal(part[2].iov_len, 2);
    assert_int_equal(iov_cut(part, iov, 4, 0, 4), 1);
    assert_int_equal(iov_cut(part, iov, 4, 5, 5), 1);
    assert_ptr_equal(part[0].iov_base, c);
    iov_get(iov, 4, 2, bytes, 6);
    assert_memory_equal(bytes, "cdefgh", 6);
    iov_put(iov, 4, 4, "XYZ", 3);
    iov_zero(iov, 4, 8, 2);
    iov_get(iov, 4, 3, bytes, 7);
    assert_memory_equal(bytes, "dXYZh\0\0", 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_wait), cmocka_unit_test(test_loop),
                                       cmocka_unit_test(test_without), cmocka_unit_test(test_iov)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
