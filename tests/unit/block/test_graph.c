/* Covers block/block.c, block/sync.c, block/open.c, block/protocol/memory.c and what protocol/file.c does under a format:
 * files that grow, maps, resizing. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/host/coroutine.h"
#include "block/front.h"
#include "block/provider.h"

struct fixture {
    struct event_loop *loop;
    struct block *block;
    int fd; /* a second descriptor of the file; -1: memory */
};

static enum block_aio mode_of(void **state)
{
    return *(const enum block_aio *)*state;
}

static void open_growable_as(struct fixture *f, enum block_aio aio, bool is_direct)
{
    char path[] = "/tmp/hull-graph-XXXXXX";
    assert_int_equal(event_loop_create(&f->loop, NULL), 0);
    f->fd = mkostemp(path, O_CLOEXEC);
    assert_true(f->fd >= 0);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    unlink(path);
    struct block_file_options options = {.is_growable = true, .is_direct = is_direct, .aio = aio};
    struct error err;
    int rc = block_open_file(fd, "grows", &options, f->loop, &f->block, &err);
    if (rc < 0 && is_direct) {
        print_message("not tried: %s\n", err.text);
        options.is_direct = false;
        rc = block_open_file(dup(f->fd), "grows", &options, f->loop, &f->block, &err);
    }
    if (rc < 0) {
        print_message("skipped: %s\n", err.text);
        exit(77);
    }
}

static void open_growable(struct fixture *f, enum block_aio aio)
{
    open_growable_as(f, aio, false);
}

static void open_memory(struct fixture *f)
{
    f->fd = -1;
    assert_int_equal(event_loop_create(&f->loop, NULL), 0);
    assert_int_equal(block_open_memory(0, "memory", f->loop, &f->block, NULL), 0);
}

static void close_all(struct fixture *f)
{
    assert_int_equal(block_finish(f->block, NULL), 0);
    event_loop_destroy(f->loop);
    if (f->fd >= 0) {
        close(f->fd);
    }
}

static void assert_zero(const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        assert_int_equal(data[i], 0);
    }
}

static uint64_t size_of(const struct fixture *f)
{
    struct block_info info;
    block_get_info(f->block, &info);
    return info.size_bytes;
}

static void grows(struct fixture *f)
{
    uint8_t data[1000], in[3000];
    memset(data, 7, sizeof(data));
    assert_int_equal(size_of(f), 0);
    assert_int_equal(block_read(f->block, 100, in, 50), 0); /* behind the end: zeros */
    assert_zero(in, 50);
    assert_int_equal(block_write(f->block, 333, data, sizeof(data)), 0);
    assert_int_equal(size_of(f), 1333);
    memset(in, 1, sizeof(in));
    assert_int_equal(block_read(f->block, 0, in, sizeof(in)), 0);
    assert_zero(in, 333);
    assert_memory_equal(in + 333, data, 1000);
    assert_zero(in + 1333, sizeof(in) - 1333);
    assert_int_equal(block_write_zeroes(f->block, 1000, 4000, false), 0);
    assert_int_equal(size_of(f), 5000);
    assert_int_equal(block_read(f->block, 0, in, 1333), 0);
    assert_memory_equal(in + 333, data, 667);
    assert_zero(in + 1000, 333);
    assert_int_equal(block_resize(f->block, 1 << 20), 0);
    assert_int_equal(size_of(f), 1 << 20);
    assert_int_equal(block_flush(f->block), 0);
    assert_int_equal(block_resize(f->block, 500), 0);
    assert_int_equal(block_resize(f->block, 2000), 0);
    assert_int_equal(block_read(f->block, 0, in, 2000), 0);
    assert_memory_equal(in + 333, data, 167);
    assert_zero(in + 500, 1500);
    assert_int_equal(block_resize(f->block, BLOCK_MAX_SIZE + 1), -EFBIG);
    assert_int_equal(block_write(f->block, BLOCK_MAX_SIZE - 1, data, 2), -EINVAL);
}

static void a_file_grows(void **state)
{
    struct fixture f;
    open_growable(&f, mode_of(state));
    grows(&f);
    struct stat st;
    assert_int_equal(fstat(f.fd, &st), 0);
    assert_int_equal(st.st_size, 2000);
    uint8_t byte;
    assert_int_equal(ftruncate(f.fd, 1000), 0); /* somebody cuts it: an error, no zeros */
    assert_int_equal(block_read(f.block, 1500, &byte, 1), -EIO);
    close_all(&f);
}

static void memory_grows(void **state)
{
    struct fixture f;
    open_memory(&f);
    grows(&f);
    /* Far apart, and a range with fewer pages than it could have. */
    uint8_t data[3] = {1, 2, 3};
    assert_int_equal(block_write(f.block, 1ull << 50, data, 3), 0);
    assert_int_equal(block_write(f.block, 65535, data, 3), 0);
    assert_int_equal(block_discard(f.block, 65536, 1ull << 51), 0);
    assert_int_equal(block_read(f.block, 65535, data, 3), 0);
    assert_int_equal(data[0], 1);
    assert_zero(data + 1, 2);
    assert_int_equal(block_read(f.block, 1ull << 50, data, 3), 0);
    assert_zero(data, 3);
    close_all(&f);
}

static void write_ended(struct block_request *request, int status)
{
    assert_int_equal(status, 0);
}

static void maps_holes(void **state)
{
    struct fixture f;
    open_growable(&f, mode_of(state));
    static uint8_t data[65536];
    memset(data, 1, sizeof(data));
    assert_int_equal(block_write(f.block, 1 << 20, data, sizeof(data)), 0);
    assert_int_equal(block_resize(f.block, 2 << 20), 0);
    struct block_extent extent;
    uint64_t at = 0, data_bytes = 0;
    while (at < 2 << 20) {
        assert_int_equal(block_map(f.block, at, (2 << 20) - at, &extent), 0);
        assert_true(extent.size_bytes > 0 && extent.size_bytes <= (2 << 20) - at);
        if (at >= 1 << 20 && at < (1 << 20) + sizeof(data)) {
            assert_int_equal(extent.kind, BLOCK_EXTENT_DATA);
        }
        data_bytes += extent.kind == BLOCK_EXTENT_DATA ? extent.size_bytes : 0;
        at += extent.size_bytes;
    }
    unsigned depth;
    assert_int_equal(block_map_chain(f.block, 1 << 20, 100, &extent, &depth), 0);
    assert_true(extent.has_offset && extent.file_offset == 1 << 20 && extent.size_bytes == 100);
    assert_int_equal(depth, 0);
    assert_true(data_bytes >= sizeof(data));
    close_all(&f);
}

struct steps {
    struct block *block;
    int rc;
    unsigned finished;
};

static int write_and_read(void *ctx)
{
    struct steps *steps = ctx;
    uint8_t out[512], in[512];
    for (unsigned i = 0; i < 20; i++) {
        memset(out, (int)i + 1, sizeof(out));
        int rc = block_write(steps->block, i * 1000, out, sizeof(out));
        if (rc == 0) {
            rc = block_read(steps->block, i * 1000, in, sizeof(in));
        }
        if (rc < 0 || memcmp(in, out, sizeof(in)) != 0) {
            return -EIO;
        }
    }
    steps->finished++;
    return block_flush(steps->block);
}

static void start_write_and_read(void *ctx)
{
    struct steps *steps = ctx;
    steps->rc |= write_and_read(steps);
}

static void share_a_block(enum block_aio aio, bool is_direct)
{
    struct fixture f;
    open_growable_as(&f, aio, is_direct);
    struct steps steps = {.block = f.block};
    block_plug(f.block);
    for (int i = 0; i < 8; i++) {
        assert_int_equal(coroutine_start(start_write_and_read, NULL, &steps), 0);
    }
    block_unplug(f.block);
    assert_int_equal(block_run(write_and_read, &steps), 0);
    while (steps.finished < 9) {
        block_wait(f.block);
    }
    block_drain(f.block);
    assert_int_equal(steps.rc, 0);
    close_all(&f);
    coroutine_trim();
}

static void coroutines_share_a_block(void **state)
{
    share_a_block(mode_of(state), false);
}

static void without_the_cache_any_alignment_does(void **state)
{
    struct fixture f;
    open_growable_as(&f, mode_of(state), true);
    grows(&f);
    /* Neighbours in one block, at the same time, from odd places in memory. */
    static uint8_t data[8192], in[8192];
    struct block_request request[16];
    struct iovec iov[16];
    memset(data, 0, sizeof(data));
    for (unsigned i = 0; i < 16; i++) {
        uint8_t *part = data + 100 + i * 37;
        memset(part, (int)i + 1, 37);
        iov[i] = (struct iovec){part, 37};
        request[i] = (struct block_request){.op = BLOCK_WRITE,
                                            .offset_bytes = 100 + i * 37,
                                            .size_bytes = 37,
                                            .iov = &iov[i],
                                            .iov_count = 1,
                                            .done = write_ended};
        block_submit(f.block, &request[i]);
    }
    block_drain(f.block);
    assert_int_equal(block_read(f.block, 100, in + 1, 16 * 37), 0);
    assert_memory_equal(in + 1, data + 100, 16 * 37);
    close_all(&f);
    share_a_block(mode_of(state), true);
}

static void raw_takes_what_it_is_given(void **state)
{
    struct fixture f;
    struct error err;
    struct block *block, *other;
    open_memory(&f);
    assert_int_equal(block_write(f.block, 0, "x", 1), 0);
    struct block_options options = {.format = "raw"};
    assert_int_equal(block_open_format(f.block, &options, &block, &err), -EINVAL);
    assert_int_equal(block_open_memory(512, "file", f.loop, &f.block, NULL), 0);
    assert_int_equal(block_open_memory(512, "backing", f.loop, &other, NULL), 0);
    f.block->info.is_growable = false;
    options.backing = other; /* raw has none; both are closed */
    assert_int_equal(block_open_format(f.block, &options, &block, &err), -EINVAL);
    assert_string_equal(err.text, "disk file: has no backing file, but one is given");
    event_loop_destroy(f.loop);
}

/* A front has what its root has, and where that stands on something, too. */
static void maps_through_a_front(void **state)
{
    struct fixture f;
    struct block *base, *top;
    struct block_front *front;
    struct block_extent extent;
    unsigned depth;
    uint8_t data[65536];
    open_memory(&f);
    assert_int_equal(block_open_memory(1 << 20, "base", f.loop, &base, NULL), 0);
    memset(data, 7, sizeof(data));
    assert_int_equal(block_write(base, 65536, data, sizeof(data)), 0);
    struct block_create_options create = {
        .format = "qcow2", .size_bytes = 1 << 20, .backing_name = "base", .backing_format = "raw"};
    assert_int_equal(block_create(f.block, &create, NULL), 0);
    struct block_options options = {.format = "qcow2", .backing = base};
    assert_int_equal(block_open_format(f.block, &options, &top, NULL), 0);
    assert_int_equal(block_front_create(top, &front, NULL), 0);
    f.block = block_front_block(front);
    assert_int_equal(block_map_chain(f.block, 65536, 65536, &extent, &depth), 0);
    assert_int_equal(extent.kind, BLOCK_EXTENT_DATA);
    assert_int_equal(depth, 1);
    assert_int_equal(block_map_chain(f.block, 0, 65536, &extent, &depth), 0);
    assert_int_equal(extent.kind, BLOCK_EXTENT_HOLE);
    close_all(&f);
}

int main(int argc, char **argv)
{
    static enum block_aio mode;
    mode = argc > 1 && strcmp(argv[1], "threads") == 0 ? BLOCK_AIO_THREADS : BLOCK_AIO_URING;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(a_file_grows, &mode),
        cmocka_unit_test_prestate(memory_grows, &mode),
        cmocka_unit_test_prestate(maps_holes, &mode),
        cmocka_unit_test_prestate(coroutines_share_a_block, &mode),
        cmocka_unit_test_prestate(without_the_cache_any_alignment_does, &mode),
        cmocka_unit_test_prestate(raw_takes_what_it_is_given, &mode),
        cmocka_unit_test(maps_through_a_front),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
