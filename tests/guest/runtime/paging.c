/* Page tables of 64-bit mode, and page frames. */
#include "guest.h"

uint64_t page_alloc(void)
{
    static uint64_t next = HEAP_GPA;
    if (next == HEAP_END_GPA) {
        guest_fail("out of page frames");
    }
    uint64_t page = next;
    next += PAGE;
    memset((void *)(uintptr_t)page, 0, PAGE);
    return page;
}

uint64_t *page_entry(uint64_t gva, unsigned level)
{
    uint64_t table = READ_CR(3) & ~0xfffull;
    for (unsigned at = 4;; at--) {
        uint64_t *entry = (uint64_t *)(uintptr_t)(table + ((gva >> (3 + at * 9)) & 0x1ff) * 8);
        if (at == level) {
            return entry;
        }
        if (!(*entry & PTE_P)) {
            *entry = page_alloc() | PTE_P | PTE_W | PTE_U;
        }
        table = *entry & 0xffffffffff000ull;
    }
}

void page_map(uint64_t gva, uint64_t gpa_and_flags, unsigned level)
{
    *(volatile uint64_t *)page_entry(gva, level) = gpa_and_flags;
    invlpg(gva);
}
