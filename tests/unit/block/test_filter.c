/* Covers block/filter: limits with a clock of the test's own, zeros and discards, copies of what is read. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "block/filter.h"
#include "block/image.h"

#define KIB 1024u
#define MIB (1024u * 1024)
#define S   1000000000ull

static uint64_t now_ns;

static uint64_t test_clock(void *ctx)
{
    return now_ns;
}

/* A disk that is asked for more as soon as it has done something. */
struct load {
    struct block *block;
    struct block_request request;
    struct iovec iov;
    uint8_t data[64 * KIB];
    uint64_t done;
    bool is_stopped;
    bool is_in_flight, is_submitting;
};

static void load_done(struct block_request *request, int status)
{
    struct load *load = container_of(request, struct load, request);
    assert_int_equal(status, 0);
    load->done++;
    load->is_in_flight = false;
}

/* Until one is held back. */
static void load_submit(struct load *load)
{
    while (!load->is_in_flight && !load->is_stopped) {
        load->is_in_flight = true;
        block_submit(load->block, &load->request);
    }
}

static void load_init(struct load *load, struct block *block, enum block_op op, size_t size)
{
    *load = (struct load){.block = block};
    load->iov = (struct iovec){load->data, size};
    load->request = (struct block_request){
        .op = op, .size_bytes = size, .iov = &load->iov, .iov_count = 1, .done = load_done};
}

struct bench {
    struct event_loop *loop;
    struct block_throttle_group *group;
    struct block *block[3];
    struct load *load;
    unsigned count;
};

static void bench_open(struct bench *bench, const struct block_throttle_limits *limits,
                       unsigned count)
{
    *bench = (struct bench){.count = count};
    assert_int_equal(event_loop_create(&bench->loop, NULL), 0);
    assert_int_equal(block_throttle_check(limits, NULL), 0);
    assert_int_equal(
        block_throttle_create(limits, bench->loop, test_clock, NULL, &bench->group, NULL), 0);
    bench->load = calloc(count, sizeof(*bench->load));
    for (unsigned i = 0; i < count; i++) {
        struct block *memory;
        assert_int_equal(block_open_memory(MIB, "disk", bench->loop, &memory, NULL), 0);
        assert_int_equal(block_filter_throttle(memory, bench->group, &bench->block[i], NULL), 0);
    }
}

static void bench_close(struct bench *bench)
{
    for (unsigned i = 0; i < bench->count; i++) {
        bench->load[i].is_stopped = true;
        block_close(bench->block[i]); /* lets the last one go */
        assert_false(bench->load[i].is_in_flight);
    }
    block_throttle_put(bench->group);
    event_loop_destroy(bench->loop);
    free(bench->load);
}

/* Lets time go on from one deadline to the next, as the timer does. */
static void bench_run(struct bench *bench, uint64_t ns)
{
    uint64_t end_ns = now_ns + ns;
    for (;;) {
        for (unsigned i = 0; i < bench->count; i++) {
            if (bench->load[i].block != NULL) {
                load_submit(&bench->load[i]);
            }
        }
        uint64_t next_ns = block_throttle_deadline(bench->group);
        if (next_ns > end_ns) {
            break;
        }
        now_ns = MAX(next_ns, now_ns);
        block_throttle_poll(bench->group);
    }
    now_ns = end_ns;
}

static void assert_near(uint64_t value, uint64_t expected)
{
    assert_in_range(value, expected * 98 / 100, expected * 102 / 100);
}

static void limits_of_operations(void **state)
{
    struct block_throttle_limits limits = {.kind[BLOCK_THROTTLE_IOPS] = {.rate = 500}};
    struct bench bench;
    bench_open(&bench, &limits, 1);
    load_init(&bench.load[0], bench.block[0], BLOCK_READ, 4 * KIB);
    bench_run(&bench, 1 * S);
    uint64_t first = bench.load[0].done;
    assert_in_range(first, 500, 560); /* with the slack of a tenth */
    bench_run(&bench, 10 * S);
    assert_near(bench.load[0].done - first, 5000);
    bench_close(&bench);
}

static void limits_of_bytes_by_direction(void **state)
{
    struct block_throttle_limits limits = {.kind[BLOCK_THROTTLE_BPS_READ] = {.rate = 4 * MIB},
                                           .kind[BLOCK_THROTTLE_BPS_WRITE] = {.rate = MIB}};
    struct bench bench;
    bench_open(&bench, &limits, 2);
    load_init(&bench.load[0], bench.block[0], BLOCK_READ, 64 * KIB);
    load_init(&bench.load[1], bench.block[1], BLOCK_WRITE, 16 * KIB);
    bench_run(&bench, 1 * S);
    uint64_t reads = bench.load[0].done, writes = bench.load[1].done;
    bench_run(&bench, 20 * S);
    assert_near((bench.load[0].done - reads) * 64 * KIB, 20ull * 4 * MIB);
    assert_near((bench.load[1].done - writes) * 16 * KIB, 20ull * MIB);
    bench_close(&bench);
}

static void bursts_last_as_long_as_said(void **state)
{
    struct block_throttle_limits limits = {
        .kind[BLOCK_THROTTLE_IOPS] = {.rate = 100, .burst = 1000, .burst_length_s = 5}};
    struct bench bench;
    bench_open(&bench, &limits, 1);
    load_init(&bench.load[0], bench.block[0], BLOCK_READ, 4 * KIB);
    bench_run(&bench, 5 * S);
    assert_in_range(bench.load[0].done, 4400, 5100);
    bench_run(&bench, 1 * S);
    uint64_t before = bench.load[0].done;
    bench_run(&bench, 10 * S);
    assert_near(bench.load[0].done - before, 1000);
    /* Rest earns the next one. */
    bench.load[0].is_stopped = true;
    bench_run(&bench, 60 * S);
    bench.load[0].is_stopped = false;
    before = bench.load[0].done;
    bench_run(&bench, 4 * S);
    assert_in_range(bench.load[0].done - before, 3900, 4200);
    bench_close(&bench);
}

static void large_requests_count_more(void **state)
{
    struct block_throttle_limits limits = {.kind[BLOCK_THROTTLE_IOPS] = {.rate = 100},
                                           .operation_bytes = 16 * KIB};
    struct bench bench;
    bench_open(&bench, &limits, 1);
    load_init(&bench.load[0], bench.block[0], BLOCK_READ, 64 * KIB);
    bench_run(&bench, 1 * S);
    uint64_t before = bench.load[0].done;
    bench_run(&bench, 20 * S);
    assert_near(bench.load[0].done - before, 500);
    bench_close(&bench);
}

static void members_share(void **state)
{
    struct block_throttle_limits limits = {.kind[BLOCK_THROTTLE_IOPS] = {.rate = 300}};
    struct bench bench;
    bench_open(&bench, &limits, 3);
    for (unsigned i = 0; i < 3; i++) {
        load_init(&bench.load[i], bench.block[i], i == 1 ? BLOCK_WRITE : BLOCK_READ, 4 * KIB);
    }
    bench_run(&bench, 20 * S);
    uint64_t sum = 0;
    for (unsigned i = 0; i < 3; i++) {
        sum += bench.load[i].done;
        assert_in_range(bench.load[i].done, 1000, 4000); /* nobody starves */
    }
    assert_in_range(sum, 5900, 6200);
    bench_close(&bench);
}

static void limits_change_at_once(void **state)
{
    struct block_throttle_limits limits = {.kind[BLOCK_THROTTLE_BPS] = {.rate = 1}};
    struct bench bench;
    bench_open(&bench, &limits, 1);
    load_init(&bench.load[0], bench.block[0], BLOCK_READ, 64 * KIB);
    bench_run(&bench, 10 * S);
    assert_in_range(bench.load[0].done, 0, 1); /* the second has eighteen hours to wait */
    limits.kind[BLOCK_THROTTLE_BPS].rate = MIB;
    block_throttle_set(bench.group, &limits);
    bench_run(&bench, 10 * S);
    assert_in_range(bench.load[0].done, 156, 170);
    limits.kind[BLOCK_THROTTLE_BPS].rate = 0;
    block_throttle_set(bench.group, &limits);
    assert_false(bench.load[0].is_in_flight);
    bench_close(&bench);
}

static void limits_that_cannot_be(void **state)
{
    static const struct {
        struct block_throttle_limits limits;
        const char *why;
    } cases[] = {
        {{.kind = {{.rate = 1}, {.rate = 1}}}, "bps is for reads and writes together"},
        {{.kind = {[BLOCK_THROTTLE_IOPS] = {.rate = 1}, [BLOCK_THROTTLE_IOPS_WRITE] = {.rate = 1}}},
         "iops is for reads and writes together"},
        {{.kind = {{.rate = 10, .burst = 9}}}, "bps-max is less than bps"},
        {{.kind = {{.burst = 9}}}, "bps-max needs bps"},
        {{.kind = {{.rate = 10, .burst_length_s = 2}}}, "bps-max-length needs bps-max"},
        {{.kind = {{.rate = UINT64_MAX}}}, "bps is too much"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct error err = {0};
        assert_true(block_throttle_check(&cases[i].limits, &err) < 0);
        assert_non_null(strstr(err.text, cases[i].why));
    }
}

static void flushes_and_drains_do_not_wait(void **state)
{
    struct block_throttle_limits limits = {.kind[BLOCK_THROTTLE_IOPS] = {.rate = 1}};
    struct bench bench;
    bench_open(&bench, &limits, 1);
    assert_int_equal(block_write(bench.block[0], 0, "x", 1), 0);
    load_init(&bench.load[0], bench.block[0], BLOCK_WRITE, 4 * KIB);
    load_submit(&bench.load[0]);
    assert_true(bench.load[0].is_in_flight);
    assert_int_equal(block_flush(bench.block[0]), 0);
    bench.load[0].is_stopped = true;
    block_drain(bench.block[0]);
    assert_false(bench.load[0].is_in_flight);
    bench_close(&bench);
}

static enum block_extent_kind kind_at(struct block *block, uint64_t offset, size_t size)
{
    struct block_extent extent;
    assert_int_equal(block_map(block, offset, size, &extent), 0);
    return extent.kind;
}

static void zeros_are_found(void **state)
{
    struct event_loop *loop;
    struct block *memory, *block;
    assert_int_equal(event_loop_create(&loop, NULL), 0);
    assert_int_equal(block_open_memory(MIB, "disk", loop, &memory, NULL), 0);
    assert_int_equal(block_filter_zeroes(memory, BLOCK_DETECT_ZEROES_UNMAP, false, &block, NULL),
                     0);
    static uint8_t data[64 * KIB];
    memset(data, 7, sizeof(data));
    assert_int_equal(block_write(block, 0, data, sizeof(data)), 0);
    assert_int_equal(kind_at(block, 0, sizeof(data)), BLOCK_EXTENT_DATA);
    memset(data, 0, sizeof(data));
    assert_int_equal(block_write(block, 0, data, sizeof(data)), 0);
    assert_int_equal(kind_at(block, 0, sizeof(data)), BLOCK_EXTENT_HOLE);
    data[sizeof(data) - 1] = 1;
    assert_int_equal(block_write(block, 0, data, sizeof(data)), 0);
    data[sizeof(data) - 1] = 0;
    assert_int_equal(block_read(block, 0, data, sizeof(data)), 0);
    assert_int_equal(data[sizeof(data) - 1], 1);
    block_close(block);
    event_loop_destroy(loop);
}

static void discards_are_kept_away(void **state)
{
    struct event_loop *loop;
    struct block *memory, *block;
    assert_int_equal(event_loop_create(&loop, NULL), 0);
    assert_int_equal(block_open_memory(MIB, "disk", loop, &memory, NULL), 0);
    assert_int_equal(block_filter_zeroes(memory, BLOCK_DETECT_ZEROES_OFF, true, &block, NULL), 0);
    static uint8_t data[64 * KIB] = {1};
    assert_int_equal(block_write(block, 0, data, sizeof(data)), 0);
    assert_int_equal(block_discard(block, 0, sizeof(data)), 0);
    assert_int_equal(kind_at(block, 0, sizeof(data)), BLOCK_EXTENT_DATA);
    block_close(block);
    struct error err = {0};
    assert_int_equal(block_open_memory(MIB, "disk", loop, &memory, NULL), 0);
    assert_int_equal(block_filter_zeroes(memory, BLOCK_DETECT_ZEROES_UNMAP, true, &block, &err),
                     -EINVAL);
    event_loop_destroy(loop);
}

static void open_overlay(struct event_loop *loop, struct block **out_base, struct block **out_block)
{
    struct block *file;
    assert_int_equal(block_open_memory(MIB, "base", loop, out_base, NULL), 0);
    assert_int_equal(block_open_memory(0, "top", loop, &file, NULL), 0);
    struct block_create_options create = {
        .format = "qcow2", .size_bytes = MIB, .backing_name = "base", .backing_format = "raw"};
    assert_int_equal(block_create(file, &create, NULL), 0);
    struct block_options options = {.format = "qcow2", .backing = *out_base};
    assert_int_equal(block_open_format(file, &options, out_block, NULL), 0);
}

static void reads_leave_copies(void **state)
{
    struct event_loop *loop;
    struct block *base, *block;
    static uint8_t data[256 * KIB], seen[256 * KIB];
    for (size_t i = 0; i < sizeof(data); i++) {
        data[i] = (uint8_t)(i * 7 + (i >> 8) + 1);
    }
    assert_int_equal(event_loop_create(&loop, NULL), 0);
    open_overlay(loop, &base, &block);
    assert_int_equal(block_write(base, 0, data, sizeof(data)), 0);
    assert_int_equal(block_filter_copy_on_read(block, &block, NULL), 0);
    assert_int_equal(kind_at(block, 0, 64 * KIB), BLOCK_EXTENT_ABSENT);
    assert_int_equal(block_write(block, 65 * KIB, seen, KIB), 0);
    memset(data + 65 * KIB, 0, KIB);
    assert_int_equal(block_read(block, 3 * KIB, seen, 100 * KIB), 0);
    assert_memory_equal(seen, data + 3 * KIB, 100 * KIB);
    assert_int_equal(kind_at(block, 0, 64 * KIB), BLOCK_EXTENT_DATA);
    assert_int_equal(kind_at(block, 64 * KIB, 64 * KIB), BLOCK_EXTENT_DATA);
    assert_int_equal(kind_at(block, 128 * KIB, 64 * KIB), BLOCK_EXTENT_ABSENT);
    /* From now on the lower one does not matter there. */
    static const uint8_t zeros[128 * KIB];
    assert_int_equal(block_write(base, 0, zeros, sizeof(zeros)), 0);
    assert_int_equal(block_read(block, 0, seen, 128 * KIB), 0);
    assert_memory_equal(seen, data, 128 * KIB);
    /* Zeros take no space. */
    assert_int_equal(block_read(block, 512 * KIB, seen, 64 * KIB), 0);
    assert_int_equal(kind_at(block, 512 * KIB, 64 * KIB), BLOCK_EXTENT_ZERO);
    block_close(block);
    event_loop_destroy(loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(limits_of_operations),
        cmocka_unit_test(limits_of_bytes_by_direction),
        cmocka_unit_test(bursts_last_as_long_as_said),
        cmocka_unit_test(large_requests_count_more),
        cmocka_unit_test(members_share),
        cmocka_unit_test(limits_change_at_once),
        cmocka_unit_test(limits_that_cannot_be),
        cmocka_unit_test(flushes_and_drains_do_not_wait),
        cmocka_unit_test(zeros_are_found),
        cmocka_unit_test(discards_are_kept_away),
        cmocka_unit_test(reads_leave_copies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
