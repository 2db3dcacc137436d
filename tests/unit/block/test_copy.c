/* Covers block/copy.c, on memory: data, zeros and holes arrive, by many workers and by one; failures and cancelling. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "block/copy.h"

#define SIZE  (9u << 20)
#define CHUNK 4096u

struct fixture {
    struct event_loop *loop;
    struct block *from, *to;
    bool is_done;
    int status;
};

static void copy_done(void *ctx, int status)
{
    struct fixture *f = ctx;
    assert_false(f->is_done);
    f->is_done = true;
    f->status = status;
}

static void setup(struct fixture *f, uint64_t to_size)
{
    struct error err;
    *f = (struct fixture){0};
    assert_int_equal(event_loop_create(&f->loop, &err), 0);
    assert_int_equal(block_open_memory(SIZE, "from", f->loop, &f->from, &err), 0);
    assert_int_equal(block_open_memory(to_size, "to", f->loop, &f->to, &err), 0);
}

static void teardown(struct fixture *f)
{
    block_close(f->from);
    block_close(f->to);
    event_loop_destroy(f->loop);
}

/* Pages of data, of zeros that were written, and holes. */
static void fill(struct fixture *f)
{
    uint8_t data[CHUNK];
    uint32_t random = 5;
    for (uint64_t at = 0; at < SIZE; at += CHUNK) {
        random = random * 1664525 + 1013904223;
        if ((at >> 18) % 3 == 0) {
            continue;
        }
        memset(data, (random >> 24) % 3 == 0 ? 0 : (int)(random >> 16), sizeof(data));
        assert_int_equal(block_write(f->from, at, data, sizeof(data)), 0);
    }
}

static void compare(struct fixture *f, uint64_t from_offset)
{
    uint8_t a[CHUNK];
    uint8_t b[CHUNK];
    for (uint64_t at = from_offset; at < SIZE; at += CHUNK) {
        assert_int_equal(block_read(f->from, at, a, sizeof(a)), 0);
        assert_int_equal(block_read(f->to, at, b, sizeof(b)), 0);
        assert_memory_equal(a, b, sizeof(a));
    }
}

static void run(struct fixture *f, const struct block_copy_options *options,
                struct block_copy_progress *out_progress)
{
    struct block_copy *copy;
    struct error err;
    assert_int_equal(block_copy_start(f->from, f->to, options, copy_done, f, &copy, &err), 0);
    assert_true(f->is_done); /* memory never makes anybody wait */
    block_copy_get_progress(copy, out_progress);
    block_copy_destroy(copy);
}

static void test_fresh(void **state)
{
    static const unsigned parallels[] = {0, 1, 3, 64, 1000};
    static const uint32_t zero_sizes[] = {0, 4096, 65536};
    for (size_t i = 0; i < 15; i++) {
        struct fixture f;
        setup(&f, SIZE);
        fill(&f);
        struct block_copy_options options = {
            .parallel = parallels[i % 5], .zero_size = zero_sizes[i / 5], .is_zero = true};
        struct block_copy_progress progress;
        run(&f, &options, &progress);
        assert_int_equal(f.status, 0);
        assert_int_equal(progress.done_bytes, SIZE);
        assert_int_equal(progress.total_bytes, SIZE);
        assert_true(progress.written_bytes < SIZE * 3 / 4);
        compare(&f, 0);
        teardown(&f);
    }
}

/* A target that holds something else. */
static void test_over(void **state)
{
    struct fixture f;
    setup(&f, SIZE + 8192);
    fill(&f);
    uint8_t data[CHUNK];
    memset(data, 0xee, sizeof(data));
    for (uint64_t at = 0; at < SIZE + 8192; at += CHUNK) {
        assert_int_equal(block_write(f.to, at, data, sizeof(data)), 0);
    }
    struct block_copy_options options = {.zero_size = 4096, .start_offset = 2 << 20};
    struct block_copy_progress progress;
    run(&f, &options, &progress);
    assert_int_equal(f.status, 0);
    compare(&f, 2 << 20);
    assert_int_equal(block_read(f.to, (2 << 20) - CHUNK, data, CHUNK), 0);
    assert_int_equal(data[CHUNK - 1], 0xee);
    assert_int_equal(block_read(f.to, SIZE, data, CHUNK), 0);
    assert_int_equal(data[0], 0xee);
    teardown(&f);
}

static void test_refused(void **state)
{
    struct fixture f;
    struct error err;
    struct block_copy *copy;
    setup(&f, SIZE);
    struct block_copy_options options = {.compress = true};
    assert_int_equal(block_copy_start(f.from, f.to, &options, copy_done, &f, &copy, &err),
                     -EOPNOTSUPP);
    teardown(&f);
}

static void test_zero(void **state)
{
    uint8_t data[100] = {0};
    for (size_t size = 1; size <= sizeof(data); size++) {
        assert_true(block_is_zero(data, size));
        for (size_t i = 0; i < size; i++) {
            data[i] = 1;
            assert_false(block_is_zero(data, size));
            data[i] = 0;
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_fresh), cmocka_unit_test(test_over),
                                       cmocka_unit_test(test_refused), cmocka_unit_test(test_zero)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
