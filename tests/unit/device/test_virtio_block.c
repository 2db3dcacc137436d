/* Covers device/virtio: the core, the PCI transport and the disk, played by a driver in memory. */
#include "virtio_driver.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/core/endian.h"
#include "device/virtio/block.h"

#define DISK_BYTES (1u << 20)
#define T_IN       0u
#define T_OUT      1u
#define T_FLUSH    4u
#define T_GET_ID   8u
#define T_DISCARD  11u
#define T_ZEROES   13u

static enum block_aio aio_mode = BLOCK_AIO_THREADS;

struct fixture {
    struct driver driver;
    char path[40];
    uint16_t done; /* chains used so far */
};

static void setup(struct fixture *f, bool is_readonly)
{
    *f = (struct fixture){0};
    driver_create(&f->driver);
    strcpy(f->path, "/tmp/hull-virtio-blk-XXXXXX");
    int fd = mkostemp(f->path, O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, DISK_BYTES), 0);
    struct block_options options = {.format = "raw", .is_readonly = is_readonly, .aio = aio_mode};
    struct virtio_blk_options blk = {.common = driver_options(&f->driver), .serial = "disk-7"};
    assert_int_equal(block_open(fd, "test", &options, f->driver.loop, &blk.block, NULL), 0);
    struct device *device;
    assert_int_equal(virtio_blk_create(&blk, &device, NULL), 0);
    assert_string_equal(device->name, "virtio-blk.0");
    driver_attach(&f->driver, device);
}

static void teardown(struct fixture *f)
{
    driver_destroy(&f->driver);
    unlink(f->path);
}

/* Adds a request; returns where its status byte will be. */
static uint64_t add_request(struct fixture *f, uint32_t type, uint64_t sector, uint64_t data_gpa,
                            uint32_t size, bool is_indirect)
{
    struct driver *d = &f->driver;
    uint64_t header = driver_alloc(d, 16);
    uint64_t status = driver_alloc(d, 1);
    uint8_t *h = driver_at(d, header, 16);
    le32_put(h, type);
    le32_put(h + 4, 0);
    le64_put(h + 8, sector);
    *(uint8_t *)driver_at(d, status, 1) = 0xee;
    struct driver_buffer buffers[3] = {
        {header, 16, false}, {data_gpa, size, type == T_IN || type == T_GET_ID}, {status, 1, true}};
    unsigned count = 3;
    if (size == 0) {
        buffers[1] = buffers[2];
        count = 2;
    }
    (is_indirect ? driver_add_indirect : driver_add)(d, 0, buffers, count);
    return status;
}

static uint8_t request(struct fixture *f, uint32_t type, uint64_t sector, uint64_t data_gpa,
                       uint32_t size)
{
    uint64_t status = add_request(f, type, sector, data_gpa, size, false);
    driver_kick(&f->driver, 0);
    driver_wait_used(&f->driver, 0, ++f->done);
    return *(uint8_t *)driver_at(&f->driver, status, 1);
}

static void negotiates_by_the_rules(void **state)
{
    struct fixture f;
    setup(&f, false);
    struct driver *d = &f.driver;
    uint64_t offered = driver_offered(d);
    assert_true((offered & FEATURE_VERSION_1) != 0);
    assert_true((offered & (1u << 9)) != 0);  /* flush */
    assert_false((offered & (1u << 5)) != 0); /* read-only */
    assert_false(driver_negotiate(d, offered & ~FEATURE_VERSION_1));
    driver_reset(d);
    assert_false(driver_negotiate(d, offered | 1ull << 40));
    driver_reset(d);
    driver_start(d, offered, 1, 64);
    assert_int_equal(driver_read(d, d->config, 4), DISK_BYTES / 512);
    assert_int_equal(driver_read(d, d->config + 20, 4), 512);
    assert_int_equal(driver_read(d, d->config + 0x1f00, 4), 0);
    /* Status bits cannot be taken back one by one. */
    driver_write(d, d->common + 20, 1, 1);
    assert_int_equal(driver_status(d), 15);
    teardown(&f);
}

static void reads_and_writes(void **state)
{
    struct fixture f;
    setup(&f, false);
    struct driver *d = &f.driver;
    driver_start(d, driver_offered(d), 1, 64);
    uint64_t out = driver_alloc(d, 65536), in = driver_alloc(d, 65536);
    uint8_t *data = driver_at(d, out, 65536);
    for (unsigned i = 0; i < 65536; i++) {
        data[i] = (uint8_t)(i * 13 + (i >> 8));
    }
    assert_int_equal(request(&f, T_OUT, 100, out, 65536), 0);
    assert_int_equal(request(&f, T_FLUSH, 0, 0, 0), 0);
    assert_int_equal(request(&f, T_IN, 100, in, 65536), 0);
    assert_memory_equal(driver_at(d, in, 65536), data, 65536);
    assert_int_equal(driver_used_length(d, 0, 2), 65537);
    assert_true(d->msi[1] >= 3);
    /* The buffer may lie across two slots of memory. */
    uint64_t across = DRIVER_MEMORY_BYTES / 2 - 700;
    assert_int_equal(request(&f, T_IN, 100, across, 2048), 0);
    assert_memory_equal(driver_at(d, across, 700), data, 700);
    assert_memory_equal(driver_at(d, across + 700, 1348), data + 700, 1348);
    assert_int_equal(request(&f, T_GET_ID, 0, in, 20), 0);
    assert_memory_equal(driver_at(d, in, 20), "disk-7\0\0\0\0\0\0\0\0\0\0\0\0\0", 20);
    /* Past the end, half a sector, an offset that wraps, an unknown type. */
    assert_int_equal(request(&f, T_IN, DISK_BYTES / 512, in, 512), 1);
    assert_int_equal(request(&f, T_IN, 0, in, 100), 1);
    assert_int_equal(request(&f, T_IN, UINT64_MAX / 256, in, 512), 1);
    assert_int_equal(request(&f, 77, 0, in, 512), 2);
    assert_int_equal(driver_status(d), 15);
    teardown(&f);
}

static void many_in_flight(void **state)
{
    struct fixture f;
    setup(&f, false);
    struct driver *d = &f.driver;
    driver_start(d, driver_offered(d), 1, 256);
    uint64_t data = driver_alloc(d, 512 * 256), status[256];
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < 256; i++) {
            memset(driver_at(d, data + i * 512, 512), (int)(i + round), 512);
            status[i] = add_request(&f, T_OUT, i, data + i * 512, 512, true);
        }
        driver_kick(d, 0);
        f.done = (uint16_t)(f.done + 256);
        driver_wait_used(d, 0, f.done);
        for (unsigned i = 0; i < 256; i++) {
            assert_int_equal(*(uint8_t *)driver_at(d, status[i], 1), 0);
        }
    }
    uint64_t in = driver_alloc(d, 512);
    assert_int_equal(request(&f, T_IN, 200, in, 512), 0);
    assert_int_equal(*(uint8_t *)driver_at(d, in, 1), 202);
    teardown(&f);
}

/* Without event indices each interrupt is one that the driver gets. */
static void one_interrupt_for_what_ends_at_once(void **state)
{
    struct fixture f;
    setup(&f, false);
    struct driver *d = &f.driver;
    driver_start(d, FEATURE_VERSION_1, 1, 64);
    uint64_t id = driver_alloc(d, 20);
    for (unsigned i = 0; i < 8; i++) {
        (void)add_request(&f, T_GET_ID, 0, id, 20, false);
    }
    driver_kick(d, 0);
    driver_wait_used(d, 0, 8);
    driver_run(d);
    assert_int_equal(d->msi[1], 1);
    f.done = 8;
    assert_int_equal(request(&f, T_GET_ID, 0, id, 20), 0);
    driver_run(d);
    assert_int_equal(d->msi[1], 2);
    teardown(&f);
}

static void discards_and_zeroes(void **state)
{
    struct fixture f;
    setup(&f, false);
    struct driver *d = &f.driver;
    driver_start(d, driver_offered(d), 1, 64);
    uint64_t data = driver_alloc(d, 8192), ranges = driver_alloc(d, 17 * 16);
    memset(driver_at(d, data, 8192), 0x5a, 8192);
    assert_int_equal(request(&f, T_OUT, 0, data, 8192), 0);
    uint8_t *r = driver_at(d, ranges, 17 * 16);
    memset(r, 0, 17 * 16);
    le64_put(r, 1);
    le32_put(r + 8, 2);
    le64_put(r + 16, 5);
    le32_put(r + 24, 1);
    assert_int_equal(request(&f, T_ZEROES, 0, ranges, 32), 0);
    assert_int_equal(request(&f, T_IN, 0, data, 8192), 0);
    for (unsigned i = 0; i < 16; i++) {
        uint8_t want = i == 1 || i == 2 || i == 5 ? 0 : 0x5a;
        assert_int_equal(*(uint8_t *)driver_at(d, data + i * 512 + 9, 1), want);
    }
    if ((driver_offered(d) & (1u << 13)) != 0) {
        assert_int_equal(request(&f, T_DISCARD, 0, ranges, 32), 0);
    }
    le32_put(r + 12, 1); /* unmap is no flag of a discard */
    assert_int_equal(request(&f, T_DISCARD, 0, ranges, 32), 2);
    assert_int_equal(request(&f, T_ZEROES, 0, ranges, 32), 0);
    le32_put(r + 12, 8);
    assert_int_equal(request(&f, T_ZEROES, 0, ranges, 32), 2);
    le32_put(r + 12, 0);
    le64_put(r + 16, DISK_BYTES / 512);
    assert_int_equal(request(&f, T_ZEROES, 0, ranges, 32), 1);
    assert_int_equal(request(&f, T_ZEROES, 0, ranges, 15), 1);
    assert_int_equal(request(&f, T_ZEROES, 0, ranges, 17 * 16), 1);
    assert_int_equal(driver_status(d), 15);
    teardown(&f);
}

static void readonly_disk_refuses_writes(void **state)
{
    struct fixture f;
    setup(&f, true);
    struct driver *d = &f.driver;
    assert_true((driver_offered(d) & (1u << 5)) != 0);
    driver_start(d, driver_offered(d), 1, 64);
    uint64_t data = driver_alloc(d, 512);
    assert_int_equal(request(&f, T_OUT, 0, data, 512), 1);
    assert_int_equal(request(&f, T_IN, 0, data, 512), 0);
    teardown(&f);
}

static void write_through(void **state)
{
    struct fixture f;
    setup(&f, false);
    struct driver *d = &f.driver;
    driver_start(d, driver_offered(d), 1, 64);
    assert_int_equal(driver_read(d, d->config + 32, 1), 1);
    driver_write(d, d->config + 32, 1, 0);
    assert_int_equal(driver_read(d, d->config + 32, 1), 0);
    uint64_t data = driver_alloc(d, 512);
    assert_int_equal(request(&f, T_OUT, 0, data, 512), 0);
    driver_save_and_restore(d);
    assert_int_equal(driver_read(d, d->config + 32, 1), 0);
    teardown(&f);
}

static void reset_waits_for_requests(void **state)
{
    struct fixture f;
    setup(&f, false);
    struct driver *d = &f.driver;
    uint64_t data = driver_alloc(d, 65536);
    for (unsigned i = 0; i < 3; i++) {
        driver_start(d, driver_offered(d), 1, 64);
        for (unsigned k = 0; k < 8; k++) {
            add_request(&f, T_OUT, k * 128, data, 65536, true);
        }
        driver_kick(d, 0);
        driver_reset(d);
        f.done = 0;
    }
    driver_start(d, driver_offered(d), 1, 64);
    assert_int_equal(request(&f, T_IN, 0, data, 512), 0);
    teardown(&f);
}

/* As when it is unplugged: what is in flight ends first, and what ends later calls nobody. */
static void leaves_with_requests_in_flight(void **state)
{
    struct fixture f;
    setup(&f, false);
    struct driver *d = &f.driver;
    driver_start(d, driver_offered(d), 1, 64);
    uint64_t data = driver_alloc(d, 65536);
    uint64_t status[8];
    for (unsigned k = 0; k < ARRAY_COUNT(status); k++) {
        status[k] = add_request(&f, T_OUT, k * 128, data, 65536, true);
    }
    driver_kick(d, 0);
    bool has_stopped;
    assert_int_equal(event_loop_turn(d->loop, &has_stopped, NULL), 0); /* it takes them */
    driver_kick(d, 0);                                                 /* and is told again */
    d->device->ops->pause(d->device, true);
    for (unsigned k = 0; k < ARRAY_COUNT(status); k++) {
        assert_int_equal(*(uint8_t *)driver_at(d, status[k], 1), 0);
    }
    d->device->ops->destroy(d->device);
    d->device = NULL;
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(event_loop_turn(d->loop, &has_stopped, NULL), 0);
    }
    assert_int_equal(pci_bus_config_read(d->pci, 0, 1 << 3, 0, 4), 0xffffffff);
    teardown(&f);
}

static void goes_on_after_restore(void **state)
{
    struct fixture f;
    setup(&f, false);
    struct driver *d = &f.driver;
    driver_start(d, driver_offered(d), 1, 64);
    uint64_t data = driver_alloc(d, 512);
    memset(driver_at(d, data, 512), 0x11, 512);
    assert_int_equal(request(&f, T_OUT, 3, data, 512), 0);
    /* A request that was announced, but not yet seen when the machine pauses. */
    uint64_t status = add_request(&f, T_IN, 3, data, 512, true);
    memset(driver_at(d, data, 512), 0, 512);
    driver_save_and_restore(d);
    driver_wait_used(d, 0, ++f.done);
    assert_int_equal(*(uint8_t *)driver_at(d, status, 1), 0);
    assert_int_equal(*(uint8_t *)driver_at(d, data, 1), 0x11);
    assert_int_equal(driver_status(d), 15);
    assert_int_equal(request(&f, T_FLUSH, 0, 0, 0), 0);
    driver_restore_rubbish(d);
    driver_reset(d);
    driver_start(d, driver_offered(d), 1, 64);
    f.done = 0;
    assert_int_equal(request(&f, T_FLUSH, 0, 0, 0), 0);
    teardown(&f);
}

/* Whatever the rings hold, the device only asks for a reset, and works after it. */
static void rubbish_breaks_the_device_only(void **state)
{
    enum {
        KINDS = 11
    };
    struct fixture f;
    setup(&f, false);
    struct driver *d = &f.driver;
    for (unsigned kind = 0; kind < KINDS; kind++) {
        driver_start(d, driver_offered(d), 1, 8);
        unsigned config_msi = d->msi[DRIVER_CONFIG_MSI];
        uint64_t good = driver_alloc(d, 64);
        switch (kind) {
        case 0: /* a loop */
            driver_set_desc(d, 0, 0, good, 16, DRIVER_NEXT, 1);
            driver_set_desc(d, 0, 1, good, 16, DRIVER_NEXT, 0);
            break;
        case 1: /* an index beyond the table */
            driver_set_desc(d, 0, 0, good, 16, DRIVER_NEXT, 8);
            break;
        case 2: /* not memory */
            driver_set_desc(d, 0, 0, 0xfee00000, 16, 0, 0);
            break;
        case 3: /* out of memory at its end, wrapping around */
            driver_set_desc(d, 0, 0, UINT64_MAX - 7, 0xffffffff, 0, 0);
            break;
        case 4: /* an indirect table in an indirect table */
            driver_set_desc(d, 0, 0, d->queue[0].desc + 16, 16, DRIVER_INDIRECT, 0);
            driver_set_desc(d, 0, 1, good, 16, DRIVER_INDIRECT, 0);
            break;
        case 5: /* an indirect table of a wrong size */
            driver_set_desc(d, 0, 0, good, 17, DRIVER_INDIRECT, 0);
            break;
        case 6: /* indirect and next */
            driver_set_desc(d, 0, 0, good, 16, DRIVER_INDIRECT | DRIVER_NEXT, 1);
            break;
        case 7: /* readable after writable */
            driver_set_desc(d, 0, 0, good, 16, DRIVER_NEXT | DRIVER_WRITE, 1);
            driver_set_desc(d, 0, 1, good, 16, 0, 0);
            break;
        case 8: /* no status byte */
            driver_set_desc(d, 0, 0, good, 16, 0, 0);
            break;
        case 9: /* no header */
            driver_set_desc(d, 0, 0, good, 16, DRIVER_WRITE, 0);
            break;
        default: /* an available index far ahead */
            d->queue[0].avail_index = 100;
            break;
        }
        driver_publish(d, 0, 0);
        driver_kick(d, 0);
        driver_run(d);
        assert_int_equal(driver_status(d), 15 | 64);
        assert_int_equal(d->msi[DRIVER_CONFIG_MSI], config_msi + 1);
        driver_kick(d, 0);
        driver_run(d);
        driver_reset(d);
    }
    assert_int_equal(d->stop_vm_calls, 0);
    driver_start(d, driver_offered(d), 1, 8);
    f.done = 0;
    assert_int_equal(request(&f, T_FLUSH, 0, 0, 0), 0);
    driver_reset(d);
    for (unsigned i = 0; i < 10; i++) { /* rings that are nowhere; often enough, the VM goes */
        assert_true(driver_negotiate(d, driver_offered(d)));
        driver_write(d, d->common + 22, 2, 0);
        driver_write(d, d->common + 36, 4, 0xffffffff);
        driver_write(d, d->common + 28, 2, 1);
        assert_true((driver_status(d) & 64) != 0);
        driver_reset(d);
    }
    assert_int_equal(d->stop_vm_calls, 1);
    teardown(&f);
}

/* Random writes to all registers: nothing to see but that we are still here. */
static void random_register_writes(void **state)
{
    struct fixture f;
    setup(&f, false);
    struct driver *d = &f.driver;
    uint64_t seed = 88172645463325252ull;
    for (unsigned i = 0; i < 20000; i++) {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        static const unsigned sizes[] = {1, 2, 4, 8};
        uint64_t base = (seed & 15) == 0 ? d->notify : (seed & 3) == 0 ? d->config : d->common;
        uint64_t value = seed >> 32;
        uint64_t offset = (seed >> 8) % 64;
        if (base == d->common && offset == 20 && value % 256 == 0) {
            continue; /* each reset waits for the loop, which stands */
        }
        driver_write(d, base + offset, sizes[(seed >> 16) & 3], value);
        (void)driver_read(d, base + offset, 4);
        if (i % 1000 == 0) {
            driver_run(d);
        }
    }
    driver_reset(d);
    driver_start(d, driver_offered(d), 1, 8);
    assert_int_equal(request(&f, T_FLUSH, 0, 0, 0), 0);
    teardown(&f);
}

static void window_in_configuration_space(void **state)
{
    struct fixture f;
    setup(&f, false);
    struct driver *d = &f.driver;
    struct pci_bus *pci = d->pci;
    pci_bus_config_write(pci, 0, d->bdf, d->window + 4, 1, 0);
    pci_bus_config_write(pci, 0, d->bdf, d->window + 8, 4, 20); /* status */
    pci_bus_config_write(pci, 0, d->bdf, d->window + 12, 4, 1);
    pci_bus_config_write(pci, 0, d->bdf, d->window + 16, 1, 1);
    assert_int_equal(driver_status(d), 1);
    assert_int_equal(pci_bus_config_read(pci, 0, d->bdf, d->window + 16, 1), 1);
    pci_bus_config_write(pci, 0, d->bdf, d->window + 12, 4, 3); /* no size */
    pci_bus_config_write(pci, 0, d->bdf, d->window + 16, 1, 3);
    assert_int_equal(driver_status(d), 1);
    teardown(&f);
}

struct vcpu {
    struct fixture *f;
    pthread_t thread;
    atomic_bool is_done;
    unsigned failures; /* asserts belong to the main thread */
};

static bool wait_for_used(struct driver *d, uint16_t target)
{
    uint64_t deadline = clock_monotonic_ns() + 5000000000u;
    const uint16_t *used = driver_at(d, d->queue[0].used + 2, 2);
    while (__atomic_load_n(used, __ATOMIC_ACQUIRE) != target) {
        if (clock_monotonic_ns() > deadline) {
            return false;
        }
        sched_yield();
    }
    return true;
}

/* A driver that starts, uses and resets the device, sometimes with requests in flight. */
static void *vcpu_main(void *ctx)
{
    struct vcpu *vcpu = ctx;
    struct fixture *f = vcpu->f;
    struct driver *d = &f->driver;
    uint64_t data = driver_alloc(d, 65536);
    uint64_t mark = d->free_gpa;
    uint64_t features = driver_offered(d);
    for (unsigned round = 0; round < 100; round++) {
        d->free_gpa = mark;
        vcpu->failures += !driver_negotiate(d, features & ~FEATURE_EVENT_IDX);
        driver_setup_queue(d, 0, 64);
        driver_write(d, d->common + 20, 1, 15);
        uint64_t status[8];
        for (unsigned i = 0; i < 8; i++) {
            status[i] = add_request(f, i % 2 == 0 ? T_OUT : T_IN, i * 128, data, 65536, true);
            driver_kick(d, 0);
        }
        if (round % 2 == 0) {
            vcpu->failures += !wait_for_used(d, 8);
            for (unsigned i = 0; i < 8; i++) {
                vcpu->failures += *(uint8_t *)driver_at(d, status[i], 1) != 0;
            }
        }
        driver_write(d, d->common + 20, 1, 0);
        uint64_t deadline = clock_monotonic_ns() + 5000000000u;
        while (driver_status(d) != 0 && clock_monotonic_ns() < deadline) {
            sched_yield();
        }
        vcpu->failures += driver_status(d) != 0;
    }
    atomic_store(&vcpu->is_done, true);
    event_loop_stop(d->loop);
    return NULL;
}

static void driver_on_another_thread(void **state)
{
    struct fixture f;
    setup(&f, false);
    struct vcpu vcpu = {.f = &f};
    assert_int_equal(pthread_create(&vcpu.thread, NULL, vcpu_main, &vcpu), 0);
    while (!atomic_load(&vcpu.is_done)) {
        assert_int_equal(event_loop_run(f.driver.loop, NULL), 0);
    }
    pthread_join(vcpu.thread, NULL);
    assert_int_equal(vcpu.failures, 0);
    assert_int_equal(f.driver.stop_vm_calls, 0);
    teardown(&f);
}

struct bells {
    unsigned attached, detached;
};

static int attach_bell(void *ctx, uint64_t gpa, unsigned size, int fd, bool attach)
{
    struct bells *bells = ctx;
    assert_int_equal(size, 2);
    bells->attached += attach;
    bells->detached += !attach;
    return 0;
}

static void doorbells_follow_the_driver(void **state)
{
    struct bells bells = {0};
    struct fixture f = {0};
    driver_create(&f.driver);
    strcpy(f.path, "/tmp/hull-virtio-blk-XXXXXX");
    int fd = mkostemp(f.path, O_CLOEXEC);
    assert_int_equal(ftruncate(fd, DISK_BYTES), 0);
    struct block_options options = {.format = "raw", .aio = BLOCK_AIO_THREADS};
    struct virtio_blk_options blk = {.common = driver_options(&f.driver)};
    blk.common.doorbell = (struct doorbell){attach_bell, &bells};
    assert_int_equal(block_open(fd, "test", &options, f.driver.loop, &blk.block, NULL), 0);
    struct device *device;
    assert_int_equal(virtio_blk_create(&blk, &device, NULL), 0);
    driver_attach(&f.driver, device);
    assert_int_equal(bells.attached, 0);
    driver_start(&f.driver, 0, 1, 8);
    assert_int_equal(bells.attached, 1);
    driver_save_and_restore(&f.driver);
    assert_int_equal(bells.attached, bells.detached + 1);
    driver_reset(&f.driver);
    assert_int_equal(bells.attached, bells.detached);
    teardown(&f);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(negotiates_by_the_rules),
        cmocka_unit_test(reads_and_writes),
        cmocka_unit_test(many_in_flight),
        cmocka_unit_test(one_interrupt_for_what_ends_at_once),
        cmocka_unit_test(discards_and_zeroes),
        cmocka_unit_test(readonly_disk_refuses_writes),
        cmocka_unit_test(write_through),
        cmocka_unit_test(reset_waits_for_requests),
        cmocka_unit_test(leaves_with_requests_in_flight),
        cmocka_unit_test(goes_on_after_restore),
        cmocka_unit_test(rubbish_breaks_the_device_only),
        cmocka_unit_test(random_register_writes),
        cmocka_unit_test(driver_on_another_thread),
        cmocka_unit_test(window_in_configuration_space),
        cmocka_unit_test(doorbells_follow_the_driver),
    };
    aio_mode = argc > 1 && strcmp(argv[1], "auto") == 0 ? BLOCK_AIO_AUTO : BLOCK_AIO_THREADS;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
