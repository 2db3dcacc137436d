/* Covers what device/virtio/block.c makes of requests that the disk cannot carry out. */
#include "virtio_driver.h"

#include <errno.h>
#include <stdlib.h>

#include "base/core/endian.h"
#include "block/provider.h"
#include "device/virtio/block.h"

#define DISK_BYTES (1u << 20)
#define T_IN       0u
#define T_OUT      1u

/* A disk in memory that fails as it is told to. */
struct faulty {
    struct block block;
    int error; /* an errno; 0: none */
    unsigned requests;
};

static struct faulty *faulty;

static void faulty_submit(struct block *block, struct block_request *request)
{
    struct faulty *disk = container_of(block, struct faulty, block);
    disk->requests++;
    for (int i = 0; request->op == BLOCK_READ && i < request->iov_count; i++) {
        memset(request->iov[i].iov_base, 0x77, request->iov[i].iov_len);
    }
    block_complete(block, request, -disk->error);
}

static void faulty_wait(struct block *block)
{
}

static void faulty_close(struct block *block)
{
    block_fini(block);
    free(block);
}

static const struct block_ops faulty_ops = {
    .name = "faulty", .submit = faulty_submit, .wait = faulty_wait, .close = faulty_close};

struct fixture {
    struct driver driver;
    uint16_t done;
    struct {
        unsigned count;
        bool is_write, stops;
        int error;
    } failed;
};

static void disk_failed(void *ctx, const char *device_name, bool is_write, int error, bool stops)
{
    struct fixture *f = container_of(ctx, struct fixture, driver);
    assert_string_equal(device_name, "virtio-blk.0");
    f->failed.count++;
    f->failed.is_write = is_write;
    f->failed.error = error;
    f->failed.stops = stops;
}

static void setup(struct fixture *f, enum virtio_blk_on_error on_read,
                  enum virtio_blk_on_error on_write)
{
    *f = (struct fixture){0};
    driver_create(&f->driver);
    f->driver.host.disk_failed = disk_failed;
    faulty = block_new(sizeof(*faulty), &faulty_ops, "faulty", f->driver.loop, NULL);
    faulty->block.info = (struct block_info){
        .size_bytes = DISK_BYTES, .logical_block_size = 512, .physical_block_size = 512};
    struct virtio_blk_options blk = {.common = driver_options(&f->driver),
                                     .block = &faulty->block,
                                     .on_read_error = on_read,
                                     .on_write_error = on_write};
    struct device *device;
    assert_int_equal(virtio_blk_create(&blk, &device, NULL), 0);
    driver_attach(&f->driver, device);
    driver_start(&f->driver, driver_offered(&f->driver), 1, 64);
}

/* Returns where its status byte is. */
static uint64_t add(struct fixture *f, uint32_t type, uint64_t data_gpa)
{
    struct driver *d = &f->driver;
    uint64_t header = driver_alloc(d, 16), status = driver_alloc(d, 1);
    uint8_t *h = driver_at(d, header, 16);
    le32_put(h, type);
    le32_put(h + 4, 0);
    le64_put(h + 8, 0);
    *(uint8_t *)driver_at(d, status, 1) = 0xee;
    struct driver_buffer buffers[3] = {
        {header, 16, false}, {data_gpa, 512, type == T_IN}, {status, 1, true}};
    driver_add(d, 0, buffers, 3);
    driver_kick(d, 0);
    return status;
}

static uint8_t status_at(struct fixture *f, uint64_t status)
{
    return *(uint8_t *)driver_at(&f->driver, status, 1);
}

static uint8_t run(struct fixture *f, uint32_t type)
{
    uint64_t status = add(f, type, driver_alloc(&f->driver, 512));
    driver_wait_used(&f->driver, 0, ++f->done);
    return status_at(f, status);
}

static void set_paused(struct fixture *f, bool is_paused)
{
    f->driver.device->ops->pause(f->driver.device, is_paused);
}

static void reports_and_ignores(void **state)
{
    struct fixture f;
    setup(&f, VIRTIO_BLK_REPORT, VIRTIO_BLK_IGNORE);
    faulty->error = EIO;
    assert_int_equal(run(&f, T_IN), 1);
    assert_true(f.failed.count == 1 && !f.failed.is_write && !f.failed.stops);
    assert_int_equal(f.failed.error, EIO);
    assert_int_equal(run(&f, T_OUT), 0);
    assert_true(f.failed.count == 2 && f.failed.is_write && !f.failed.stops);
    driver_destroy(&f.driver);
}

static void stops_when_there_is_no_space(void **state)
{
    struct fixture f;
    setup(&f, VIRTIO_BLK_REPORT, VIRTIO_BLK_ENOSPC);
    faulty->error = EIO;
    assert_int_equal(run(&f, T_OUT), 1);
    faulty->error = ENOSPC;
    uint64_t status = add(&f, T_OUT, driver_alloc(&f.driver, 512));
    driver_run(&f.driver);
    assert_true(f.failed.count == 2 && f.failed.stops);
    assert_int_equal(status_at(&f, status), 0xee);
    /* Still no space when the VM goes on. */
    set_paused(&f, true);
    set_paused(&f, false);
    assert_int_equal(f.failed.count, 3);
    assert_int_equal(status_at(&f, status), 0xee);
    set_paused(&f, true);
    faulty->error = 0;
    set_paused(&f, false);
    driver_wait_used(&f.driver, 0, ++f.done);
    assert_int_equal(status_at(&f, status), 0);
    assert_int_equal(f.failed.count, 3);
    driver_destroy(&f.driver);
}

static void keeps_what_failed_across_a_save(void **state)
{
    struct fixture f;
    setup(&f, VIRTIO_BLK_STOP, VIRTIO_BLK_STOP);
    faulty->error = EIO;
    uint64_t data = driver_alloc(&f.driver, 512);
    uint64_t read = add(&f, T_IN, data);
    uint64_t write = add(&f, T_OUT, driver_alloc(&f.driver, 512));
    driver_run(&f.driver);
    assert_int_equal(f.failed.count, 2);
    faulty->error = 0;
    driver_save_and_restore(&f.driver);
    f.done += 2;
    driver_wait_used(&f.driver, 0, f.done);
    assert_int_equal(status_at(&f, read), 0);
    assert_int_equal(status_at(&f, write), 0);
    assert_int_equal(*(uint8_t *)driver_at(&f.driver, data, 1), 0x77);
    driver_restore_rubbish(&f.driver);
    driver_destroy(&f.driver);
}

static void a_reset_forgets_what_failed(void **state)
{
    struct fixture f;
    setup(&f, VIRTIO_BLK_STOP, VIRTIO_BLK_STOP);
    faulty->error = EIO;
    uint64_t status = add(&f, T_OUT, driver_alloc(&f.driver, 512));
    driver_run(&f.driver);
    unsigned requests = faulty->requests;
    driver_reset(&f.driver);
    driver_start(&f.driver, driver_offered(&f.driver), 1, 64);
    set_paused(&f, true);
    set_paused(&f, false);
    assert_int_equal(faulty->requests, requests);
    assert_int_equal(status_at(&f, status), 0xee);
    driver_destroy(&f.driver);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reports_and_ignores),
        cmocka_unit_test(stops_when_there_is_no_space),
        cmocka_unit_test(keeps_what_failed_across_a_save),
        cmocka_unit_test(a_reset_forgets_what_failed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
