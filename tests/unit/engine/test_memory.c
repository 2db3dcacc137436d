/* Covers engine/memory.c: slots, bounds, the dirty log, discarding, and the soft engine's notes on code. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "engine/memory.h"

#define MIB (1ull << 20)
#define GIB (1ull << 30)

static struct guest_memory *memory_new(void)
{
    struct guest_memory *memory = NULL;
    assert_int_equal(guest_memory_create(&memory, NULL), 0);
    return memory;
}

/* Memory from 0 to 2 MiB, a hole of 1 MiB, ROM of 64 KiB, and RAM right behind it. */
static struct guest_memory *memory_with_slots(void)
{
    struct guest_memory *memory = memory_new();
    assert_int_equal(guest_memory_add(memory, 0, 2 * MIB, false, false, NULL), 0);
    assert_int_equal(guest_memory_add(memory, 3 * MIB, 0x10000, false, true, NULL), 0);
    assert_int_equal(guest_memory_add(memory, 3 * MIB + 0x10000, MIB, false, false, NULL), 0);
    assert_int_equal(memory->size_bytes, 3 * MIB + 0x10000);
    return memory;
}

static void slots_are_checked(void **state)
{
    struct guest_memory *memory = memory_with_slots();
    struct error err;
    static const struct {
        uint64_t gpa, size;
        const char *reason;
    } bad[] = {
        {0, 0x1000, "overlaps"},
        {MIB, 0x1000, "overlaps"},
        {2 * MIB - 0x1000, 0x2000, "overlaps"},
        {3 * MIB - 0x1000, 0x2000, "overlaps"},
        {2 * MIB, 8 * MIB, "overlaps"},
        {8 * MIB + 1, 0x1000, "multiples"},
        {8 * MIB, 0x1001, "multiples"},
        {8 * MIB, 0, "multiples"},
        {8 * MIB, 1ull << 40, "1 TiB"},
        {0xfffffffffffff000, 0x1000, "52 bits"},
        {0xfffffffffffff000, 0x2000, "52 bits"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        assert_int_equal(guest_memory_add(memory, bad[i].gpa, bad[i].size, false, false, &err),
                         -EINVAL);
        assert_non_null(strstr(err.text, bad[i].reason));
    }
    assert_int_equal(memory->slot_count, 3);
    for (uint64_t i = 3; i < GUEST_MEMORY_MAX_SLOTS; i++) {
        assert_int_equal(guest_memory_add(memory, i * GIB, 0x1000, false, false, NULL), 0);
    }
    assert_int_equal(guest_memory_add(memory, 100 * GIB, 0x1000, false, false, &err), -EINVAL);
    assert_non_null(strstr(err.text, "slots are in use"));
    guest_memory_destroy(memory);
    guest_memory_destroy(NULL);
}

static void copies_stay_in_bounds(void **state)
{
    struct guest_memory *memory = memory_with_slots();
    uint8_t bytes[64];
    memset(bytes, 0x5a, sizeof(bytes));
    assert_true(guest_memory_write(memory, 2 * MIB - 64, bytes, 64));
    assert_false(guest_memory_write(memory, 2 * MIB - 63, bytes, 64));
    assert_false(guest_memory_write(memory, 3 * MIB, bytes, 1));
    assert_false(guest_memory_write(memory, ~0ull, bytes, 1));
    assert_true(guest_memory_write(memory, 2 * MIB, bytes, 0));
    uint8_t back[64] = {0};
    assert_true(guest_memory_read(memory, 2 * MIB - 64, back, 64));
    assert_memory_equal(back, bytes, 64);
    assert_false(guest_memory_read(memory, 2 * MIB - 1, back, 2));
    assert_false(guest_memory_read(memory, ~0ull - 1, back, 4));
    /* From the ROM into the slot behind it. */
    assert_true(guest_memory_read(memory, 3 * MIB + 0xfff0, back, 32));
    assert_int_equal(back[31], 0);

    assert_ptr_equal(guest_memory_map(memory, 0x1000, 2 * MIB - 0x1000, true),
                     memory->slot[0].hva + 0x1000);
    assert_null(guest_memory_map(memory, 0x1000, 2 * MIB, true));
    assert_null(guest_memory_map(memory, 0x1000, ~0ull, true));
    assert_null(guest_memory_map(memory, 2 * MIB, 1, false));
    assert_non_null(guest_memory_map(memory, 3 * MIB, 16, false));
    assert_null(guest_memory_map(memory, 3 * MIB, 16, true));
    assert_null(guest_memory_map(memory, 3 * MIB + 0xffff, 2, false));
    guest_memory_destroy(memory);
}

static void log_holds_host_writes(void **state)
{
    struct guest_memory *memory = memory_with_slots();
    uint64_t bitmap[8] = {0};
    uint8_t byte = 1;
    assert_true(guest_memory_write(memory, 0, &byte, 1));
    guest_memory_log_fetch(memory, 0, bitmap);
    assert_int_equal(bitmap[0], 0);
    assert_null(memory->slot[0].dirty);

    assert_int_equal(guest_memory_log_start(memory, NULL), 0);
    assert_true(memory->is_logging);
    assert_true(guest_memory_write(memory, 0x3000, &byte, 1));
    guest_memory_written(memory, 0x40fff, 2);                /* two pages */
    guest_memory_written(memory, 2 * MIB - 0x1000, 2 * MIB); /* from slot 0 over the hole to 2 */
    guest_memory_written(memory, ~0ull - 4, 3);
    guest_memory_written(memory, 0x5000, 0);
    bitmap[0] = 1;
    guest_memory_log_fetch(memory, 0, bitmap);
    assert_int_equal(bitmap[0], 1 | 1 << 3);
    assert_int_equal(bitmap[1], 3);
    assert_int_equal(bitmap[7], 1ull << 63);
    uint64_t behind[4] = {0};
    guest_memory_log_fetch(memory, 2, behind);
    assert_int_equal(behind[0], ~0ull);
    assert_int_equal(behind[3], (1ull << (256 - 17 - 192)) - 1);
    /* Fetched once means gone. */
    uint64_t again[8] = {0};
    guest_memory_log_fetch(memory, 0, again);
    assert_int_equal(again[0] | again[1] | again[7], 0);

    guest_memory_written(memory, 0, 1);
    guest_memory_log_stop(memory);
    assert_false(memory->is_logging);
    assert_null(memory->slot[0].dirty);
    assert_int_equal(guest_memory_log_start(memory, NULL), 0);
    guest_memory_log_fetch(memory, 0, again);
    assert_int_equal(again[0], 0);
    guest_memory_destroy(memory);
}

static void discard_gives_back(void **state)
{
    struct guest_memory *memory = memory_with_slots();
    memset(memory->slot[0].hva, 0xff, 2 * MIB);
    memset(memory->slot[1].hva, 0xee, 0x10000);
    struct stat before, after;
    assert_int_equal(fstat(memory->slot[0].fd, &before), 0);
    assert_int_equal(guest_memory_log_start(memory, NULL), 0);
    guest_memory_discard(memory, 0x1800, 0x2000); /* only 0x2000..0x2fff is whole */
    assert_int_equal(memory->slot[0].hva[0x1fff], 0xff);
    assert_int_equal(memory->slot[0].hva[0x2000], 0);
    assert_int_equal(memory->slot[0].hva[0x2fff], 0);
    assert_int_equal(memory->slot[0].hva[0x3000], 0xff);
    uint64_t bitmap[8] = {0};
    guest_memory_log_fetch(memory, 0, bitmap);
    assert_int_equal(bitmap[0], 1 << 2);
    guest_memory_discard(memory, MIB, 100 * GIB);
    assert_int_equal(memory->slot[0].hva[MIB - 1], 0xff);
    assert_int_equal(memory->slot[0].hva[MIB], 0);
    assert_int_equal(memory->slot[0].hva[2 * MIB - 1], 0);
    assert_int_equal(memory->slot[1].hva[0], 0xee); /* ROM stays */
    guest_memory_discard(memory, ~0ull - 0xfff, 0x1000);
    guest_memory_discard(memory, 0x100, 0x10);
    assert_int_equal(memory->slot[0].hva[0x100], 0xff);
    assert_int_equal(fstat(memory->slot[0].fd, &after), 0);
    assert_true(after.st_blocks < before.st_blocks);
    guest_memory_destroy(memory);
}

static void written_code_is_forgotten(void **state)
{
    struct guest_memory *memory = memory_with_slots();
    assert_int_equal(guest_memory_track_code(memory, NULL), 0);
    struct guest_slot *slot = &memory->slot[0];
    uint8_t byte = 0x90;
    assert_true(guest_memory_write(memory, 0x4000, &byte, 1));
    assert_int_equal(slot->code_generation[4], 0);
    slot->page_flags[4] |= GUEST_PAGE_CODE;
    assert_true(guest_memory_write(memory, 0x4000, &byte, 1));
    assert_int_equal(slot->code_generation[4], 1);
    guest_memory_written(memory, 0x3fff, 2);
    assert_int_equal(slot->code_generation[3], 0);
    assert_int_equal(slot->code_generation[4], 2);
    guest_memory_discard(memory, 0x4000, 0x1000);
    assert_int_equal(slot->code_generation[4], 3);
    assert_false(guest_memory_write(memory, 3 * MIB, &byte, 1));
    guest_memory_destroy(memory);
}

/* Size costs nothing until it is touched; addresses above 4 GiB agree with the host's in their low bits. */
static void a_tebibyte_is_cheap(void **state)
{
    struct guest_memory *memory = memory_new();
    assert_int_equal(guest_memory_add(memory, 0, 3 * GIB, false, false, NULL), 0);
    assert_int_equal(guest_memory_add(memory, 4 * GIB, 1021 * GIB, false, false, NULL), 0);
    assert_int_equal(guest_memory_track_code(memory, NULL), 0);
    assert_int_equal(guest_memory_log_start(memory, NULL), 0);
    uint64_t value = 0x1122334455667788, back = 0;
    assert_true(guest_memory_write(memory, 1025 * GIB - 8, &value, 8));
    assert_true(guest_memory_read(memory, 1025 * GIB - 8, &back, 8));
    assert_int_equal(back, value);
    assert_int_equal((uintptr_t)memory->slot[1].hva % (2 * MIB), 0);
    struct stat about;
    assert_int_equal(fstat(memory->slot[1].fd, &about), 0);
    assert_true(about.st_blocks * 512 <= (blkcnt_t)(2 * MIB));
    guest_memory_destroy(memory);
}

static void slots_keep_the_phase_of_huge_pages(void **state)
{
    struct guest_memory *memory = memory_new();
    assert_int_equal(guest_memory_add(memory, 0x130000, 0x30000, false, false, NULL), 0);
    assert_int_equal((uintptr_t)memory->slot[0].hva % (2 * MIB), 0x130000);
    assert_int_equal(memory->slot[0].fd_offset, 0x130000);
    memory->slot[0].hva[0x2ffff] = 1;
    guest_memory_discard(memory, 0x15f000, 0x1000);
    assert_int_equal(memory->slot[0].hva[0x2ffff], 0);
    guest_memory_destroy(memory);
}

static void huge_pages_work_or_are_refused(void **state)
{
    struct guest_memory *memory = memory_new();
    struct error err;
    assert_int_equal(guest_memory_add(memory, 0, 0x1000, true, false, &err), -EINVAL);
    int rc = guest_memory_add(memory, 0, 4 * MIB, true, false, &err);
    if (rc == 0) {
        memory->slot[0].hva[4 * MIB - 1] = 1;
    } else {
        assert_int_equal(rc, -ENOMEM);
        assert_non_null(strstr(err.text, "huge pages"));
        assert_int_equal(memory->slot_count, 0);
    }
    guest_memory_destroy(memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(slots_are_checked),
        cmocka_unit_test(copies_stay_in_bounds),
        cmocka_unit_test(log_holds_host_writes),
        cmocka_unit_test(discard_gives_back),
        cmocka_unit_test(written_code_is_forgotten),
        cmocka_unit_test(a_tebibyte_is_cheap),
        cmocka_unit_test(slots_keep_the_phase_of_huge_pages),
        cmocka_unit_test(huge_pages_work_or_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
