/* Covers device/virtio/queue.c: chains, wrap-around, notification rules, rings that cannot be. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/core/endian.h"
#include "device/virtio/queue.h"

#define MEMORY_BYTES 0x20000u
#define ROM_GPA      0x100000u
#define DESC         0x1000u
#define AVAIL        0x2000u
#define USED         0x3000u
#define DATA         0x10000u

struct fixture {
    struct guest_memory *memory;
    struct virtqueue queue;
    struct virtqueue_chain chain;
    uint16_t avail_index;
};

static void setup(struct fixture *f, uint16_t size, bool has_event_idx)
{
    memset(f, 0, sizeof(*f));
    assert_int_equal(guest_memory_create(&f->memory, NULL), 0);
    assert_int_equal(guest_memory_add(f->memory, 0, MEMORY_BYTES, false, false, NULL), 0);
    assert_int_equal(guest_memory_add(f->memory, ROM_GPA, 4096, false, true, NULL), 0);
    virtqueue_init(&f->queue, f->memory, 256);
    f->queue.size = size;
    f->queue.desc_gpa = DESC;
    f->queue.avail_gpa = AVAIL;
    f->queue.used_gpa = USED;
    f->queue.has_event_idx = has_event_idx;
    f->queue.has_indirect = true;
    assert_true(virtqueue_enable(&f->queue));
}

static void teardown(struct fixture *f)
{
    guest_memory_destroy(f->memory);
}

static uint8_t *at(struct fixture *f, uint64_t gpa)
{
    return guest_memory_map(f->memory, gpa, 16, false);
}

static void set_desc(struct fixture *f, unsigned slot, uint64_t gpa, uint32_t size, uint16_t flags,
                     uint16_t next)
{
    uint8_t *desc = at(f, DESC + slot * 16);
    le64_put(desc, gpa);
    le32_put(desc + 8, size);
    le16_put(desc + 12, flags);
    le16_put(desc + 14, next);
}

static void publish(struct fixture *f, uint16_t head)
{
    le16_put(at(f, AVAIL + 4 + (f->avail_index % f->queue.size) * 2u), head);
    f->avail_index++;
    le16_put(at(f, AVAIL + 2), f->avail_index);
}

static void chain_has_its_parts(void **state)
{
    struct fixture f;
    setup(&f, 8, false);
    set_desc(&f, 2, DATA, 10, 1, 5);
    set_desc(&f, 5, DATA + 100, 20, 1, 1);
    set_desc(&f, 1, DATA + 200, 0, 1, 0); /* empty buffers do not count */
    set_desc(&f, 0, DATA + 300, 30, 2, 0);
    assert_int_equal(virtqueue_pop(&f.queue, &f.chain), VIRTQUEUE_EMPTY);
    publish(&f, 2);
    assert_true(virtqueue_has_chain(&f.queue));
    assert_int_equal(virtqueue_pop(&f.queue, &f.chain), VIRTQUEUE_CHAIN);
    assert_int_equal(f.chain.head, 2);
    assert_int_equal(f.chain.readable_count, 2);
    assert_int_equal(f.chain.readable_bytes, 30);
    assert_int_equal(f.chain.writable_count, 1);
    assert_int_equal(f.chain.writable_bytes, 30);
    for (unsigned i = 0; i < 20; i++) {
        at(&f, DATA + 100)[i] = (uint8_t)(i + 1);
    }
    uint8_t out[32];
    assert_int_equal(virtqueue_read(&f.chain, 8, out, 32), 22);
    assert_int_equal(out[2], 1);
    assert_int_equal(out[21], 20);
    assert_int_equal(virtqueue_write(&f.chain, 28, "abcd", 4), 2);
    assert_memory_equal(at(&f, DATA + 328), "ab\0", 3);
    virtqueue_push(&f.queue, &f.chain, 30);
    assert_int_equal(le16_get(at(&f, USED + 2)), 1);
    assert_int_equal(le32_get(at(&f, USED + 4)), 2);
    assert_int_equal(le32_get(at(&f, USED + 8)), 30);
    assert_int_equal(f.queue.in_flight, 0);
    teardown(&f);
}

static void indirect_after_direct(void **state)
{
    struct fixture f;
    setup(&f, 4, false);
    set_desc(&f, 0, DATA, 16, 1, 1);
    /* An odd address, and a write flag that does not count (2.7.5.3.2). */
    set_desc(&f, 1, DATA + 1003, 32, 4 | 2, 0);
    uint8_t *table = at(&f, DATA + 1003);
    le64_put(table, DATA + 16);
    le32_put(table + 8, 16);
    le16_put(table + 12, 1);
    le16_put(table + 14, 1);
    le64_put(table + 16, DATA + 32);
    le32_put(table + 24, 16);
    le16_put(table + 28, 2);
    publish(&f, 0);
    assert_int_equal(virtqueue_pop(&f.queue, &f.chain), VIRTQUEUE_CHAIN);
    assert_int_equal(f.chain.readable_count, 2);
    assert_int_equal(f.chain.writable_count, 1);
    virtqueue_push(&f.queue, &f.chain, 0);
    f.queue.has_indirect = false;
    publish(&f, 0);
    assert_int_equal(virtqueue_pop(&f.queue, &f.chain), VIRTQUEUE_BROKEN);
    assert_non_null(f.queue.broken);
    assert_int_equal(virtqueue_pop(&f.queue, &f.chain), VIRTQUEUE_BROKEN);
    assert_false(virtqueue_has_chain(&f.queue));
    teardown(&f);
}

static void indices_wrap(void **state)
{
    struct fixture f;
    setup(&f, 4, true);
    set_desc(&f, 3, DATA, 16, 0, 0);
    unsigned interrupts = 0;
    for (unsigned i = 0; i < 70000; i++) {
        publish(&f, 3);
        le16_put(at(&f, AVAIL + 4 + 8), (uint16_t)(i / 10 * 10)); /* used_event */
        assert_int_equal(virtqueue_pop(&f.queue, &f.chain), VIRTQUEUE_CHAIN);
        virtqueue_push(&f.queue, &f.chain, 0);
        interrupts += virtqueue_should_interrupt(&f.queue);
        assert_false(virtqueue_should_interrupt(&f.queue)); /* once */
        virtqueue_set_notify(&f.queue, true);
        assert_int_equal(le16_get(at(&f, USED + 4 + 32)), (uint16_t)(i + 1)); /* avail_event */
    }
    assert_int_equal(interrupts, 7000);
    teardown(&f);
}

static void flags_suppress_without_event_index(void **state)
{
    struct fixture f;
    setup(&f, 4, false);
    set_desc(&f, 0, DATA, 16, 0, 0);
    virtqueue_set_notify(&f.queue, false);
    assert_int_equal(le16_get(at(&f, USED)), 1);
    virtqueue_set_notify(&f.queue, true);
    assert_int_equal(le16_get(at(&f, USED)), 0);
    for (unsigned wants = 0; wants < 2; wants++) {
        publish(&f, 0);
        assert_int_equal(virtqueue_pop(&f.queue, &f.chain), VIRTQUEUE_CHAIN);
        le16_put(at(&f, AVAIL), wants == 0 ? 1 : 0);
        virtqueue_push(&f.queue, &f.chain, 0);
        assert_int_equal(virtqueue_should_interrupt(&f.queue), wants);
    }
    teardown(&f);
}

static void several_at_once_and_back(void **state)
{
    struct fixture f;
    setup(&f, 4, false);
    for (uint16_t i = 0; i < 4; i++) {
        set_desc(&f, i, DATA, 16, 2, 0);
        publish(&f, i);
    }
    for (uint16_t i = 0; i < 3; i++) {
        assert_int_equal(virtqueue_pop(&f.queue, &f.chain), VIRTQUEUE_CHAIN);
        virtqueue_fill(&f.queue, &f.chain, i, i);
    }
    assert_int_equal(le16_get(at(&f, USED + 2)), 0);
    for (unsigned i = 0; i < 3; i++) {
        virtqueue_unpop(&f.queue);
    }
    for (uint16_t i = 0; i < 3; i++) {
        assert_int_equal(virtqueue_pop(&f.queue, &f.chain), VIRTQUEUE_CHAIN);
        assert_int_equal(f.chain.head, i);
        virtqueue_fill(&f.queue, &f.chain, 7u + i, i);
    }
    virtqueue_flush(&f.queue, 3);
    assert_int_equal(le16_get(at(&f, USED + 2)), 3);
    assert_int_equal(le32_get(at(&f, USED + 4 + 16 + 4)), 9);
    /* The same head over and over: more in flight than there are descriptors. */
    publish(&f, 3);
    publish(&f, 3);
    publish(&f, 3);
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(virtqueue_pop(&f.queue, &f.chain), VIRTQUEUE_CHAIN);
    }
    publish(&f, 3);
    assert_int_equal(virtqueue_pop(&f.queue, &f.chain), VIRTQUEUE_BROKEN);
    teardown(&f);
}

static void read_only_memory_is_not_written(void **state)
{
    struct fixture f;
    setup(&f, 4, false);
    set_desc(&f, 0, ROM_GPA, 16, 0, 0);
    publish(&f, 0);
    assert_int_equal(virtqueue_pop(&f.queue, &f.chain), VIRTQUEUE_CHAIN);
    virtqueue_push(&f.queue, &f.chain, 0);
    set_desc(&f, 0, ROM_GPA, 16, 2, 0);
    publish(&f, 0);
    assert_int_equal(virtqueue_pop(&f.queue, &f.chain), VIRTQUEUE_BROKEN);
    teardown(&f);
}

static void rings_are_checked(void **state)
{
    static const struct {
        uint16_t size;
        uint64_t desc, avail, used;
    } bad[] = {
        {0, DESC, AVAIL, USED},
        {3, DESC, AVAIL, USED},
        {512, DESC, AVAIL, USED},
        {8, DESC + 8, AVAIL, USED},
        {8, DESC, AVAIL + 1, USED},
        {8, DESC, AVAIL, USED + 2},
        {8, MEMORY_BYTES, AVAIL, USED},
        {8, MEMORY_BYTES - 16, AVAIL, USED},
        {8, UINT64_MAX - 15, AVAIL, USED},
        {8, DESC, AVAIL, ROM_GPA},
        {8, DESC, UINT64_MAX - 1, USED},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct fixture f;
        setup(&f, 8, true);
        virtqueue_reset(&f.queue);
        f.queue.size = bad[i].size;
        f.queue.desc_gpa = bad[i].desc;
        f.queue.avail_gpa = bad[i].avail;
        f.queue.used_gpa = bad[i].used;
        assert_false(virtqueue_enable(&f.queue));
        assert_non_null(f.queue.broken);
        assert_int_equal(virtqueue_pop(&f.queue, &f.chain), VIRTQUEUE_BROKEN);
        teardown(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chain_has_its_parts),
        cmocka_unit_test(indirect_after_direct),
        cmocka_unit_test(indices_wrap),
        cmocka_unit_test(flags_suppress_without_event_index),
        cmocka_unit_test(several_at_once_and_back),
        cmocka_unit_test(read_only_memory_is_not_written),
        cmocka_unit_test(rings_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
