/* Covers device/virtio/mem.c: a driver that behaves, and one that does not. */
#include "virtio_driver.h"

#include <linux/virtio_mem.h>

#include "base/core/endian.h"
#include "device/virtio/mem.h"

#define BASE         0x100000000ull
#define SIZE         (512ull << 20)
#define BLOCK        ((uint64_t)VIRTIO_MEM_BLOCK)
#define INACCESSIBLE (1ull << 1)

struct setup {
    struct driver d;
    struct device *device;
    uint64_t request, response;
    uint16_t count;
};

static void begin(struct setup *s)
{
    driver_create(&s->d);
    assert_int_equal(guest_memory_reserve(s->d.memory, BASE, SIZE, NULL), 0);
    struct virtio_mem_options options = {
        .common = driver_options(&s->d), .gpa = BASE, .size_bytes = SIZE};
    assert_int_equal(virtio_mem_create(&options, &s->device, NULL), 0);
    driver_attach(&s->d, s->device);
    driver_start(&s->d, driver_offered(&s->d), 1, 16);
    s->request = driver_alloc(&s->d, sizeof(struct virtio_mem_req));
    s->response = driver_alloc(&s->d, sizeof(struct virtio_mem_resp));
    s->count = 0;
}

static uint16_t ask(struct setup *s, uint16_t type, uint64_t gpa, uint16_t blocks)
{
    uint8_t *request = driver_at(&s->d, s->request, sizeof(struct virtio_mem_req));
    memset(request, 0, sizeof(struct virtio_mem_req));
    le16_put(request, type);
    le64_put(request + 8, gpa);
    le16_put(request + 16, blocks);
    struct driver_buffer parts[2] = {{s->request, sizeof(struct virtio_mem_req), false},
                                     {s->response, sizeof(struct virtio_mem_resp), true}};
    driver_add(&s->d, 0, parts, 2);
    driver_kick(&s->d, 0);
    driver_wait_used(&s->d, 0, ++s->count);
    return le16_get(driver_at(&s->d, s->response, 2));
}

static uint16_t state(struct setup *s, uint64_t gpa, uint16_t blocks)
{
    assert_int_equal(ask(s, VIRTIO_MEM_REQ_STATE, gpa, blocks), VIRTIO_MEM_RESP_ACK);
    return le16_get((uint8_t *)driver_at(&s->d, s->response, 16) + 8);
}

static uint64_t config(struct setup *s, size_t offset)
{
    return driver_read(&s->d, s->d.config + offset, 4) |
           (uint64_t)driver_read(&s->d, s->d.config + offset + 4, 4) << 32;
}

#define CONFIG(s, member) config(s, offsetof(struct virtio_mem_config, member))

static void blocks_come_and_go(void **unused)
{
    struct setup s;
    uint8_t byte = 0x5a;
    begin(&s);
    assert_int_equal(CONFIG(&s, block_size), BLOCK);
    assert_int_equal(CONFIG(&s, addr), BASE);
    assert_int_equal(CONFIG(&s, region_size), SIZE);
    assert_int_equal(CONFIG(&s, usable_region_size), 0);
    unsigned changes = s.d.msi[DRIVER_CONFIG_MSI];
    assert_int_equal(virtio_mem_set_requested(s.device, 3 * BLOCK - 1, NULL), 0);
    assert_int_equal(s.d.msi[DRIVER_CONFIG_MSI], changes + 1);
    assert_int_equal(CONFIG(&s, requested_size), 3 * BLOCK);
    assert_int_equal(CONFIG(&s, usable_region_size), 3 * BLOCK + (256 << 20));

    assert_int_equal(ask(&s, VIRTIO_MEM_REQ_PLUG, BASE + BLOCK, 2), VIRTIO_MEM_RESP_ACK);
    assert_int_equal(CONFIG(&s, plugged_size), 2 * BLOCK);
    assert_int_equal(virtio_mem_plugged(s.device), 2 * BLOCK);
    assert_int_equal(state(&s, BASE + BLOCK, 2), VIRTIO_MEM_STATE_PLUGGED);
    assert_int_equal(state(&s, BASE, 2), VIRTIO_MEM_STATE_MIXED);
    assert_int_equal(state(&s, BASE + 3 * BLOCK, 4), VIRTIO_MEM_STATE_UNPLUGGED);
    assert_true(guest_memory_write(s.d.memory, BASE + BLOCK, &byte, 1));
    assert_true(guest_memory_write(s.d.memory, BASE + 2 * BLOCK, &byte, 1));
    driver_save_and_restore(&s.d);
    assert_int_equal(virtio_mem_plugged(s.device), 2 * BLOCK);
    assert_int_equal(virtio_mem_requested(s.device), 3 * BLOCK);

    assert_int_equal(ask(&s, VIRTIO_MEM_REQ_UNPLUG, BASE + BLOCK, 1), VIRTIO_MEM_RESP_ACK);
    assert_true(guest_memory_read(s.d.memory, BASE + BLOCK, &byte, 1));
    assert_int_equal(byte, 0);
    assert_true(guest_memory_read(s.d.memory, BASE + 2 * BLOCK, &byte, 1));
    assert_int_equal(byte, 0x5a);
    /* The driver's reset leaves the memory alone, the machine's does not. */
    driver_reset(&s.d);
    assert_int_equal(virtio_mem_plugged(s.device), BLOCK);
    assert_int_equal(virtio_mem_power_cycle(s.device, NULL), 0);
    assert_int_equal(virtio_mem_plugged(s.device), 0);
    assert_true(guest_memory_read(s.d.memory, BASE + 2 * BLOCK, &byte, 1));
    assert_int_equal(byte, 0);
    driver_destroy(&s.d);
}

static void what_was_not_granted_is_not_there(void **unused)
{
    struct setup s;
    uint8_t byte = 1;
    begin(&s);
    assert_false(guest_memory_read(s.d.memory, BASE, &byte, 1));
    assert_null(guest_memory_slot(s.d.memory, BASE));
    assert_int_equal(virtio_mem_set_requested(s.device, 4 * BLOCK, NULL), 0);
    uint64_t usable = CONFIG(&s, usable_region_size);
    assert_true(guest_memory_write(s.d.memory, BASE + usable - 1, &byte, 1));
    assert_false(guest_memory_write(s.d.memory, BASE + usable, &byte, 1));
    assert_null(guest_memory_map(s.d.memory, BASE + usable - 1, 2, false));
    /* Less is asked for: what was there may still be, until all starts anew. */
    assert_int_equal(virtio_mem_set_requested(s.device, 0, NULL), 0);
    assert_int_equal(CONFIG(&s, usable_region_size), usable);
    assert_int_equal(virtio_mem_power_cycle(s.device, NULL), 0);
    assert_int_equal(CONFIG(&s, usable_region_size), 0);
    assert_false(guest_memory_read(s.d.memory, BASE, &byte, 1));
    driver_destroy(&s.d);
}

static void bad_requests_are_denied(void **unused)
{
    struct setup s;
    begin(&s);
    assert_int_equal(ask(&s, VIRTIO_MEM_REQ_PLUG, BASE, 1), VIRTIO_MEM_RESP_ERROR);
    assert_int_equal(virtio_mem_set_requested(s.device, 4 * BLOCK, NULL), 0);
    uint64_t usable = CONFIG(&s, usable_region_size);
    const struct {
        uint64_t gpa;
        uint16_t count;
    } bad[] = {
        {BASE - BLOCK, 1},
        {BASE + 4096, 1},
        {BASE, 0},
        {BASE + usable, 1},
        {BASE + usable - BLOCK, 2},
        {UINT64_MAX - BLOCK + 1, 1},
        {0, 1},
        {BASE, UINT16_MAX},
    };
    const uint16_t types[] = {VIRTIO_MEM_REQ_PLUG, VIRTIO_MEM_REQ_UNPLUG, VIRTIO_MEM_REQ_STATE};
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        for (size_t k = 0; k < ARRAY_COUNT(types); k++) {
            assert_int_equal(ask(&s, types[k], bad[i].gpa, bad[i].count), VIRTIO_MEM_RESP_ERROR);
        }
    }
    assert_int_equal(ask(&s, 77, BASE, 1), VIRTIO_MEM_RESP_ERROR);
    /* More than was asked for; twice the same; what is not plugged. */
    assert_int_equal(ask(&s, VIRTIO_MEM_REQ_PLUG, BASE, 5), VIRTIO_MEM_RESP_NACK);
    assert_int_equal(ask(&s, VIRTIO_MEM_REQ_PLUG, BASE, 2), VIRTIO_MEM_RESP_ACK);
    assert_int_equal(ask(&s, VIRTIO_MEM_REQ_PLUG, BASE + BLOCK, 2), VIRTIO_MEM_RESP_ERROR);
    assert_int_equal(ask(&s, VIRTIO_MEM_REQ_PLUG, BASE + 2 * BLOCK, 3), VIRTIO_MEM_RESP_NACK);
    assert_int_equal(ask(&s, VIRTIO_MEM_REQ_UNPLUG, BASE + BLOCK, 2), VIRTIO_MEM_RESP_ERROR);
    assert_int_equal(virtio_mem_plugged(s.device), 2 * BLOCK);
    assert_int_equal(virtio_mem_set_requested(s.device, BLOCK, NULL), 0);
    assert_int_equal(ask(&s, VIRTIO_MEM_REQ_PLUG, BASE + 3 * BLOCK, 1), VIRTIO_MEM_RESP_NACK);
    assert_int_equal(ask(&s, VIRTIO_MEM_REQ_UNPLUG_ALL, 0, 0), VIRTIO_MEM_RESP_ACK);
    assert_int_equal(virtio_mem_plugged(s.device), 0);
    driver_restore_rubbish(&s.d);
    driver_destroy(&s.d);
}

static void short_requests_break_the_device(void **unused)
{
    struct setup s;
    begin(&s);
    struct driver_buffer parts[2] = {{s.request, 23, false}, {s.response, 16, true}};
    driver_add(&s.d, 0, parts, 2);
    driver_kick(&s.d, 0);
    driver_run(&s.d);
    assert_int_equal(driver_status(&s.d) & 64, 64);
    driver_destroy(&s.d);
}

static void drivers_must_not_touch_what_is_unplugged(void **unused)
{
    struct setup s;
    begin(&s);
    driver_reset(&s.d);
    assert_false(driver_negotiate(&s.d, driver_offered(&s.d) & ~INACCESSIBLE));
    driver_destroy(&s.d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_come_and_go),
        cmocka_unit_test(what_was_not_granted_is_not_there),
        cmocka_unit_test(bad_requests_are_denied),
        cmocka_unit_test(short_requests_break_the_device),
        cmocka_unit_test(drivers_must_not_touch_what_is_unplugged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
