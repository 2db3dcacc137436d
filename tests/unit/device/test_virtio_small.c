/* Covers device/virtio/console.c, rng.c and balloon.c. */
#include "virtio_driver.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/core/endian.h"
#include "device/virtio/balloon.h"
#include "device/virtio/console.h"
#include "device/virtio/rng.h"

struct terminal {
    uint8_t out[256];
    size_t size;
    unsigned ready_calls;
};

static void terminal_write(void *ctx, const uint8_t *data, size_t size)
{
    struct terminal *terminal = ctx;
    assert_true(terminal->size + size <= sizeof(terminal->out));
    memcpy(terminal->out + terminal->size, data, size);
    terminal->size += size;
}

static void terminal_ready(void *ctx)
{
    ((struct terminal *)ctx)->ready_calls++;
}

static void console_both_ways(void **state)
{
    struct driver d;
    struct terminal terminal = {0};
    driver_create(&d);
    struct virtio_console_options options = {.common = driver_options(&d),
                                             .ctx = &terminal,
                                             .write = terminal_write,
                                             .input_ready = terminal_ready};
    struct device *device;
    assert_int_equal(virtio_console_create(&options, &device, NULL), 0);
    driver_attach(&d, device);
    assert_int_equal(virtio_console_input(device, (const uint8_t *)"early", 5), 0);
    driver_start(&d, driver_offered(&d), 2, 16);
    uint64_t text = driver_alloc(&d, 64);
    memcpy(driver_at(&d, text, 64), "hello, host", 11);
    struct driver_buffer parts[2] = {{text, 5, false}, {text + 5, 6, false}};
    driver_add(&d, 1, parts, 2);
    driver_kick(&d, 1);
    driver_wait_used(&d, 1, 1);
    assert_int_equal(terminal.size, 11);
    assert_memory_equal(terminal.out, "hello, host", 11);
    /* No buffer: nothing taken; with one, the terminal is asked again. */
    assert_int_equal(virtio_console_input(device, (const uint8_t *)"abcdef", 6), 0);
    uint64_t in = driver_alloc(&d, 4);
    driver_add(&d, 0, &(struct driver_buffer){in, 4, true}, 1);
    driver_kick(&d, 0);
    driver_run(&d);
    assert_int_equal(terminal.ready_calls, 1);
    assert_int_equal(virtio_console_input(device, (const uint8_t *)"abcdef", 6), 4);
    assert_memory_equal(driver_at(&d, in, 4), "abcd", 4);
    assert_int_equal(driver_used_length(&d, 0, 0), 4);
    unsigned changes = d.msi[DRIVER_CONFIG_MSI];
    virtio_console_resize(device, 132, 50);
    assert_int_equal(d.msi[DRIVER_CONFIG_MSI], changes + 1);
    assert_int_equal(driver_read(&d, d.config, 4), 132 | 50 << 16);
    driver_save_and_restore(&d);
    driver_add(&d, 1, parts, 2);
    driver_kick(&d, 1);
    driver_wait_used(&d, 1, 2);
    driver_restore_rubbish(&d);
    driver_destroy(&d);
}

static void rng_fills_buffers(void **state)
{
    struct driver d;
    driver_create(&d);
    struct virtio_rng_options options = {.common = driver_options(&d)};
    struct device *device;
    assert_int_equal(virtio_rng_create(&options, &device, NULL), 0);
    driver_attach(&d, device);
    driver_start(&d, driver_offered(&d), 1, 16);
    uint64_t gpa = driver_alloc(&d, 200000);
    driver_add(&d, 0, &(struct driver_buffer){gpa, 64, true}, 1);
    driver_add(&d, 0, &(struct driver_buffer){gpa, 200000, true}, 1);
    driver_add(&d, 0, &(struct driver_buffer){gpa, 64, false}, 1);
    driver_kick(&d, 0);
    driver_wait_used(&d, 0, 3);
    assert_int_equal(driver_used_length(&d, 0, 0), 64);
    assert_int_equal(driver_used_length(&d, 0, 1), 65536); /* bounded */
    assert_int_equal(driver_used_length(&d, 0, 2), 0);
    const uint8_t *bytes = driver_at(&d, gpa, 64);
    unsigned zeros = 0;
    for (unsigned i = 0; i < 64; i++) {
        zeros += bytes[i] == 0;
    }
    assert_true(zeros < 16);
    driver_save_and_restore(&d);
    driver_add(&d, 0, &(struct driver_buffer){gpa, 64, true}, 1);
    driver_kick(&d, 0);
    driver_wait_used(&d, 0, 4);
    driver_restore_rubbish(&d);
    driver_destroy(&d);
}

struct served {
    struct event_loop *loop;
    atomic_bool is_over, is_done;
};

static void *serve(void *ctx)
{
    struct served *served = ctx;
    while (!atomic_load(&served->is_over)) {
        assert_int_equal(event_loop_run(served->loop, NULL), 0); /* each message stops it */
    }
    atomic_store(&served->is_done, true);
    return NULL;
}

/* A repeatable machine: when the doorbell's write is over, the buffer is filled, with the same bytes each time. */
static void run_repeatable(uint8_t out_bytes[64])
{
    struct driver d;
    driver_create(&d);
    struct served served = {.loop = d.loop};
    struct virtio_rng_options options = {.common = driver_options(&d)};
    struct device *device;
    assert_int_equal(virtio_rng_create(&options, &device, NULL), 0);
    pthread_t thread;
    driver_attach(&d, device);
    driver_start(&d, driver_offered(&d), 1, 16);
    d.host.is_repeatable = true;
    assert_int_equal(pthread_create(&thread, NULL, serve, &served), 0);
    uint64_t gpa = driver_alloc(&d, 64);
    for (uint16_t i = 1; i <= 100; i++) {
        driver_add(&d, 0, &(struct driver_buffer){gpa, 64, true}, 1);
        driver_kick(&d, 0);
        assert_int_equal(driver_used_index(&d, 0), i);
    }
    memcpy(out_bytes, driver_at(&d, gpa, 64), 64);
    atomic_store(&served.is_over, true);
    while (!atomic_load(&served.is_done)) {
        event_loop_stop(d.loop);
        sched_yield();
    }
    assert_int_equal(pthread_join(thread, NULL), 0);
    driver_destroy(&d);
}

static void rng_repeats(void **state)
{
    uint8_t first[64], second[64];
    run_repeatable(first);
    run_repeatable(second);
    assert_memory_equal(first, second, sizeof(first));
}

struct seen {
    uint64_t free_bytes;
    uint64_t inflated;
};

static void see(void *ctx, const char *name, uint64_t value)
{
    struct seen *seen = ctx;
    if (strcmp(name, "guest_free_bytes") == 0) {
        seen->free_bytes = value;
    } else if (strcmp(name, "inflated_pages") == 0) {
        seen->inflated = value;
    }
}

static void fill_pages(struct driver *d, uint64_t gpa, size_t count)
{
    memset(driver_at(d, gpa, count * 4096), 0x77, count * 4096);
}

static void balloon_takes_pages(void **state)
{
    struct driver d;
    driver_create(&d);
    struct virtio_balloon_options options = {.common = driver_options(&d)};
    struct device *device;
    assert_int_equal(virtio_balloon_create(&options, &device, NULL), 0);
    driver_attach(&d, device);
    driver_start(&d, driver_offered(&d), 4, 16);
    unsigned changes = d.msi[DRIVER_CONFIG_MSI];
    virtio_balloon_set_target(device, 5 * 4096);
    assert_int_equal(d.msi[DRIVER_CONFIG_MSI], changes + 1);
    assert_int_equal(driver_read(&d, d.config, 4), 5);
    uint64_t pages = 0x200000;
    fill_pages(&d, pages, 8);
    uint64_t list = driver_alloc(&d, 64);
    uint8_t *pfn = driver_at(&d, list, 64);
    const uint32_t numbers[5] = {0x203, 0x202, 0x201, 0x205, 0xfffffff0}; /* the last: no memory */
    for (unsigned i = 0; i < 5; i++) {
        le32_put(pfn + i * 4, numbers[i]);
    }
    driver_add(&d, 0, &(struct driver_buffer){list, 20, false}, 1);
    driver_kick(&d, 0);
    driver_wait_used(&d, 0, 1);
    for (unsigned i = 0; i < 8; i++) {
        bool is_gone = i == 1 || i == 2 || i == 3 || i == 5;
        assert_int_equal(*(uint8_t *)driver_at(&d, pages + i * 4096 + 17, 1), is_gone ? 0 : 0x77);
    }
    driver_write(&d, d.config + 4, 4, 5);
    assert_int_equal(driver_read(&d, d.config + 4, 4), 5);
    driver_add(&d, 1, &(struct driver_buffer){list, 20, false}, 1);
    driver_kick(&d, 1);
    driver_wait_used(&d, 1, 1);
    /* Free pages that the guest reports. */
    driver_add(&d, 3, &(struct driver_buffer){pages + 6 * 4096, 8192, true}, 1);
    driver_kick(&d, 3);
    driver_wait_used(&d, 3, 1);
    assert_int_equal(*(uint8_t *)driver_at(&d, pages + 6 * 4096, 1), 0);
    /* Statistics: the buffer stays until somebody asks. */
    uint64_t stats = driver_alloc(&d, 20);
    uint8_t *stat = driver_at(&d, stats, 20);
    le16_put(stat, 4);
    le64_put(stat + 2, 123456);
    le16_put(stat + 10, 999);
    le64_put(stat + 12, 1);
    driver_add(&d, 2, &(struct driver_buffer){stats, 20, false}, 1);
    driver_kick(&d, 2);
    driver_run(&d);
    assert_int_equal(driver_used_index(&d, 2), 0);
    struct seen seen = {0};
    device->ops->stats(device, see, &seen);
    assert_int_equal(seen.free_bytes, 123456);
    assert_int_equal(seen.inflated, 5);
    assert_int_equal(driver_used_index(&d, 2), 1);
    driver_save_and_restore(&d);
    assert_int_equal(driver_read(&d, d.config, 4), 5);
    assert_int_equal(driver_read(&d, d.config + 4, 4), 5);
    driver_restore_rubbish(&d);
    driver_destroy(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(console_both_ways),
        cmocka_unit_test(rng_fills_buffers),
        cmocka_unit_test(rng_repeats),
        cmocka_unit_test(balloon_takes_pages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
