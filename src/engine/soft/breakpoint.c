/* Which of DR0..DR3 an instruction hits (SDM 3B 17.2). */
#include "engine/soft/breakpoint.h"

#include "base/core/bits.h"
#include "engine/memory.h"

enum breakpoint_kind {
    KIND_FETCH,
    KIND_WRITE,
    KIND_PORT, /* with CR4.DE */
    KIND_ACCESS,
};

static bool is_enabled(const struct soft_vcpu *v, unsigned n)
{
    return (v->dr7 >> (n * 2)) & 3;
}

static enum breakpoint_kind kind(const struct soft_vcpu *v, unsigned n)
{
    return (v->dr7 >> (16 + n * 4)) & 3;
}

static uint32_t length(const struct soft_vcpu *v, unsigned n)
{
    static const uint8_t lengths[] = {1, 2, 8, 4};
    return lengths[(v->dr7 >> (18 + n * 4)) & 3];
}

/* The low bits of an address that its length leaves out are ignored. */
static bool overlaps(const struct soft_vcpu *v, unsigned n, uint64_t address, uint32_t size)
{
    uint64_t first = align_down(v->dr[n], length(v, n));
    return first < address + size && address < first + length(v, n);
}

uint64_t soft_breakpoint_fetch(const struct soft_vcpu *v, uint64_t linear)
{
    uint64_t hit = 0;
    for (unsigned n = 0; n < 4; n++) {
        if (is_enabled(v, n) && kind(v, n) == KIND_FETCH && v->dr[n] == linear) {
            hit |= BIT(n);
        }
    }
    return hit;
}

static bool watches(const struct soft_vcpu *v, unsigned n, bool is_write)
{
    return is_enabled(v, n) &&
           (kind(v, n) == KIND_ACCESS || (kind(v, n) == KIND_WRITE && is_write));
}

bool soft_breakpoint_is_on_page(const struct soft_vcpu *v, uint64_t gva)
{
    uint64_t page = align_down(gva, GUEST_PAGE_SIZE);
    for (unsigned n = 0; n < 4; n++) {
        if (watches(v, n, true) && overlaps(v, n, page, GUEST_PAGE_SIZE)) {
            return true;
        }
    }
    return false;
}

void soft_breakpoint_find_access(struct soft_vcpu *v, uint64_t gva, uint32_t size, bool is_write)
{
    for (unsigned n = 0; n < 4; n++) {
        if (watches(v, n, is_write) && overlaps(v, n, gva, size)) {
            v->pending_dr6 |= BIT(n);
        }
    }
}

void soft_breakpoint_port(struct soft_vcpu *v, uint16_t port, uint32_t size)
{
    if (likely(!(v->dr7 & SOFT_DR7_ENABLED)) || !(v->cr4 & X86_CR4_DE)) {
        return;
    }
    for (unsigned n = 0; n < 4; n++) {
        if (is_enabled(v, n) && kind(v, n) == KIND_PORT && overlaps(v, n, port, size)) {
            v->pending_dr6 |= BIT(n);
        }
    }
}
