/* Guest memory on memfds. Everything that grows with the guest's size (the memory, dirty bitmaps, the soft engine's
 * notes on pages) is mapped without reservation and costs only what is touched. */
#include "engine/memory.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/core/bits.h"
#include "base/core/checked.h"
#include "base/core/invariant.h"
#include "base/host/file.h"
#include "base/host/huge.h"

#define SIZE_LIMIT      (1ull << 40)
#define ADDRESS_LIMIT   (1ull << 52)
#define PAGES_PER_WORD  64
#define MAX_NAME_LENGTH 32

/* What the users of guest_memory need not see. */
struct memory {
    struct guest_memory public;
    /* The slots' dirty bitmaps from the first log on: a late writer may still hold the pointer after the log has
     * stopped, so they go with the memory. */
    _Atomic uint64_t *dirty[GUEST_MEMORY_MAX_SLOTS];
};

static struct memory *memory_from_public(struct guest_memory *memory)
{
    return container_of(memory, struct memory, public);
}

static uint64_t slot_page_count(const struct guest_slot *slot)
{
    return slot->size_bytes >> GUEST_PAGE_SHIFT;
}

static uint64_t slot_dirty_size(const struct guest_slot *slot)
{
    return (slot_page_count(slot) + PAGES_PER_WORD - 1) / PAGES_PER_WORD * sizeof(uint64_t);
}

/* Zeroed memory that is backed as it is touched, or NULL. */
static void *map_lazily(uint64_t size)
{
    void *map = mmap(NULL, size, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) {
        return NULL;
    }
    (void)madvise(map, size, MADV_DONTDUMP); /* only makes core files smaller */
    return map;
}

static void unmap(void *map, uint64_t size)
{
    if (map != NULL) {
        invariant(munmap(map, size) == 0);
    }
}

int guest_memory_create(struct guest_memory **out_memory, struct error *err)
{
    struct memory *memory = calloc(1, sizeof(*memory));
    if (memory == NULL) {
        return error_set(err, ENOMEM, "allocating guest memory's table of slots");
    }
    *out_memory = &memory->public;
    return 0;
}

void guest_memory_destroy(struct guest_memory *public)
{
    if (public == NULL) {
        return;
    }
    struct memory *memory = memory_from_public(public);
    for (size_t i = 0; i < public->slot_count; i++) {
        struct guest_slot *slot = &public->slot[i];
        unmap(slot->hva, slot->size_bytes);
        (void)close(slot->fd); /* a memfd has nothing to flush */
        unmap(memory->dirty[i], slot_dirty_size(slot));
        unmap(slot->page_flags, slot_page_count(slot));
        unmap(slot->code_generation, slot_page_count(slot) * sizeof(uint32_t));
        unmap(slot->code_granules, slot_page_count(slot) * sizeof(uint64_t));
        unmap(slot->code_writes, slot_page_count(slot) * sizeof(uint32_t));
    }
    free(memory);
}

static int check_new_slot(const struct guest_memory *memory, uint64_t gpa, uint64_t size, bool huge,
                          struct error *err)
{
    uint64_t granule = huge ? HUGE_PAGE_SIZE : GUEST_PAGE_SIZE;
    if (memory->slot_count == GUEST_MEMORY_MAX_SLOTS) {
        return error_set(err, EINVAL, "adding guest memory at 0x%llx: all %d slots are in use",
                         (unsigned long long)gpa, GUEST_MEMORY_MAX_SLOTS);
    }
    if (size == 0 || gpa % granule != 0 || size % granule != 0) {
        return error_set(err, EINVAL,
                         "adding 0x%llx bytes of guest memory at 0x%llx: both must be multiples of "
                         "0x%llx, and the size not 0",
                         (unsigned long long)size, (unsigned long long)gpa,
                         (unsigned long long)granule);
    }
    if (!range_fits(gpa, size, ADDRESS_LIMIT) || size > SIZE_LIMIT - memory->size_bytes) {
        return error_set(err, EINVAL,
                         "adding 0x%llx bytes of guest memory at 0x%llx: the limits are 1 TiB in "
                         "all and 52 bits of address",
                         (unsigned long long)size, (unsigned long long)gpa);
    }
    for (size_t i = 0; i < memory->slot_count; i++) {
        const struct guest_slot *other = &memory->slot[i];
        if (ranges_overlap(gpa, size, other->gpa, other->size_bytes)) {
            return error_set(err, EINVAL,
                             "adding 0x%llx bytes of guest memory at 0x%llx: overlaps the slot at "
                             "0x%llx",
                             (unsigned long long)size, (unsigned long long)gpa,
                             (unsigned long long)other->gpa);
        }
    }
    return 0;
}

/* Maps the file so that host and guest addresses agree in the bits below a huge page: both the host's page cache and
 * the second level page tables can then use huge pages. */
static uint8_t *map_file(int fd, uint64_t fd_offset, uint64_t gpa, uint64_t size, bool huge,
                         int protection)
{
    uint64_t reserved = size + HUGE_PAGE_SIZE;
    uint8_t *base =
        mmap(NULL, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) {
        return NULL;
    }
    uint64_t skip = (gpa - (uintptr_t)base) % HUGE_PAGE_SIZE;
    /* Huge pages are reserved now: to run out of them later would be a SIGBUS in the middle of the guest. */
    uint8_t *hva = mmap(base + skip, size, protection,
                        MAP_SHARED | MAP_FIXED | (huge ? 0 : MAP_NORESERVE), fd, (off_t)fd_offset);
    if (hva == MAP_FAILED) {
        int saved = errno;
        unmap(base, reserved);
        errno = saved;
        return NULL;
    }
    unmap(skip != 0 ? base : NULL, skip);
    unmap(hva + size, HUGE_PAGE_SIZE - skip);
    return hva;
}

/* Whoever gets a memfd's descriptor must not be able to take the memory away under us; nobody gets the other kind's, which
 * has no seals. */
static int create_file(const char *name, uint64_t size, bool huge)
{
    AUTO_CLOSE int fd = huge ? -1 : huge_create_file(name);
    if (fd >= 0) {
        return ftruncate(fd, (off_t)size) < 0 ? -errno : TAKE_FD(fd);
    }
    fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | (huge ? MFD_HUGETLB : 0));
    return fd < 0 || ftruncate(fd, (off_t)size) < 0 ||
                   fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0
               ? -errno
               : TAKE_FD(fd);
}

static int add_slot(struct guest_memory *memory, uint64_t gpa, uint64_t size_bytes, bool huge,
                    int protection, struct error *err)
{
    int rc = check_new_slot(memory, gpa, size_bytes, huge, err);
    if (rc < 0) {
        return rc;
    }
    char name[MAX_NAME_LENGTH];
    (void)snprintf(name, sizeof(name), "guest-%llx", (unsigned long long)gpa); /* always fits */
    uint64_t fd_offset = gpa % HUGE_PAGE_SIZE;
    AUTO_CLOSE int fd = create_file(name, fd_offset + size_bytes, huge);
    if (fd < 0) {
        return error_set_errno(err, -fd, "creating 0x%llx bytes of guest memory",
                               (unsigned long long)size_bytes);
    }
    uint8_t *hva = map_file(fd, fd_offset, gpa, size_bytes, huge, protection);
    if (hva == NULL) {
        return huge && errno == ENOMEM
                   ? error_set(err, ENOMEM,
                               "mapping 0x%llx bytes of huge pages: the host has not enough free "
                               "(see vm.nr_hugepages)",
                               (unsigned long long)size_bytes)
                   : error_set_errno(err, errno, "mapping 0x%llx bytes of guest memory",
                                     (unsigned long long)size_bytes);
    }
    if (!huge) {
        (void)madvise(hva, size_bytes, MADV_HUGEPAGE); /* a wish: the kernel may have none */
    }
    (void)madvise(hva, size_bytes, MADV_DONTDUMP); /* only makes core files smaller */
    memory->slot[memory->slot_count] = (struct guest_slot){
        .gpa = gpa,
        .size_bytes = size_bytes,
        .usable_bytes = protection == PROT_NONE ? 0 : size_bytes,
        .hva = hva,
        .fd = TAKE_FD(fd),
        .fd_offset = fd_offset,
    };
    memory->slot_count++;
    memory->size_bytes += size_bytes;
    return 0;
}

int guest_memory_add(struct guest_memory *memory, uint64_t gpa, uint64_t size_bytes, bool huge,
                     bool is_readonly, struct error *err)
{
    int rc = add_slot(memory, gpa, size_bytes, huge, PROT_READ | PROT_WRITE, err);
    if (rc == 0) {
        memory->slot[memory->slot_count - 1].is_readonly = is_readonly;
    }
    return rc;
}

int guest_memory_reserve(struct guest_memory *memory, uint64_t gpa, uint64_t size_bytes,
                         struct error *err)
{
    return add_slot(memory, gpa, size_bytes, false, PROT_NONE, err);
}

int guest_memory_replace(struct guest_memory *memory, size_t number, int fd, uint64_t fd_offset,
                         struct error *err)
{
    struct guest_slot *slot = &memory->slot[number];
    AUTO_CLOSE int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (own < 0 ||
        mmap(slot->hva, slot->size_bytes, PROT_READ | PROT_WRITE,
             MAP_SHARED | MAP_FIXED | MAP_NORESERVE, own, (off_t)fd_offset) == MAP_FAILED) {
        return error_set_errno(err, errno, "mapping 0x%llx bytes of guest memory",
                               (unsigned long long)slot->size_bytes);
    }
    (void)madvise(slot->hva, slot->size_bytes, MADV_HUGEPAGE); /* as of guest_memory_add */
    (void)madvise(slot->hva, slot->size_bytes, MADV_DONTDUMP);
    (void)close(slot->fd);
    slot->fd = TAKE_FD(own);
    slot->fd_offset = fd_offset;
    atomic_store(&slot->usable_bytes, slot->size_bytes);
    guest_memory_written(memory, slot->gpa, slot->size_bytes);
    return 0;
}

/* The host's protection holds those who know addresses and not slots: the kernel's virtualization, and vectors of requests. */
int guest_memory_set_usable(struct guest_memory *memory, uint64_t gpa, uint64_t usable_bytes,
                            struct error *err)
{
    struct guest_slot *slot = NULL;
    for (size_t i = 0; i < memory->slot_count; i++) {
        slot = memory->slot[i].gpa == gpa ? &memory->slot[i] : slot;
    }
    invariant(slot != NULL && usable_bytes <= slot->size_bytes &&
              usable_bytes % GUEST_PAGE_SIZE == 0);
    uint64_t before = atomic_load(&slot->usable_bytes);
    if (usable_bytes < before) {
        guest_memory_discard(memory, gpa + usable_bytes, before - usable_bytes);
        atomic_store(&slot->usable_bytes, usable_bytes);
    }
    uint64_t start = MIN(before, usable_bytes), end = MAX(before, usable_bytes);
    if (mprotect(slot->hva + start, end - start,
                 usable_bytes > before ? PROT_READ | PROT_WRITE : PROT_NONE) < 0) {
        return error_set_errno(err, errno, "making 0x%llx bytes of guest memory at 0x%llx usable",
                               (unsigned long long)usable_bytes, (unsigned long long)gpa);
    }
    atomic_store(&slot->usable_bytes, usable_bytes);
    return 0;
}

int guest_memory_track_code(struct guest_memory *memory, struct error *err)
{
    for (size_t i = 0; i < memory->slot_count; i++) {
        struct guest_slot *slot = &memory->slot[i];
        if (slot->page_flags == NULL) {
            slot->page_flags = map_lazily(slot_page_count(slot));
        }
        if (slot->code_generation == NULL) {
            slot->code_generation = map_lazily(slot_page_count(slot) * sizeof(uint32_t));
        }
        if (slot->code_granules == NULL) {
            slot->code_granules = map_lazily(slot_page_count(slot) * sizeof(uint64_t));
        }
        if (slot->code_writes == NULL) {
            slot->code_writes = map_lazily(slot_page_count(slot) * sizeof(uint32_t));
        }
        if (slot->page_flags == NULL || slot->code_generation == NULL ||
            slot->code_granules == NULL || slot->code_writes == NULL) {
            return error_set_errno(err, ENOMEM, "mapping the notes on pages that hold code");
        }
    }
    return 0;
}

/* Marks [offset, offset + size) of a slot as written. */
static void mark_written(const struct guest_memory *memory, const struct guest_slot *slot,
                         uint64_t offset, uint64_t size)
{
    uint64_t first = offset >> GUEST_PAGE_SHIFT;
    uint64_t last = (offset + size - 1) >> GUEST_PAGE_SHIFT;
    _Atomic uint64_t *dirty = __atomic_load_n(&slot->dirty, __ATOMIC_ACQUIRE);
    if (dirty != NULL) {
        for (uint64_t page = first; page <= last; page++) {
            uint64_t bit = 1ull << (page % PAGES_PER_WORD);
            /* The test spares the line of a bitmap that all writers share. */
            if (!(atomic_load_explicit(&dirty[page / PAGES_PER_WORD], memory_order_relaxed) &
                  bit)) {
                atomic_fetch_or(&dirty[page / PAGES_PER_WORD], bit);
            }
        }
    }
    if (slot->page_flags == NULL) {
        return;
    }
    /* A decoder marks the page, then reads the bytes; a writer writes the bytes, then reads the mark. With a full
     * barrier on both sides at least one of them sees the other. */
    atomic_thread_fence(memory_order_seq_cst);
    bool has_code = false;
    for (uint64_t page = first; page <= last; page++) {
        if (atomic_load_explicit(&slot->page_flags[page], memory_order_relaxed) & GUEST_PAGE_CODE) {
            atomic_fetch_add(&slot->code_generation[page], 1);
            has_code = true;
        }
    }
    if (has_code && memory->code_written) {
        memory->code_written(memory->code_written_ctx);
    }
}

void guest_memory_on_code_written(struct guest_memory *memory, void (*code_written)(void *ctx),
                                  void *ctx)
{
    memory->code_written_ctx = ctx;
    memory->code_written = code_written;
}

/* The part of [gpa, gpa + size) that lies in gpa's slot; NULL: none. */
static const struct guest_slot *slot_part(const struct guest_memory *memory, uint64_t gpa,
                                          uint64_t size, uint64_t *out_offset, uint64_t *out_size)
{
    const struct guest_slot *slot = guest_memory_slot(memory, gpa);
    if (slot != NULL) {
        *out_offset = gpa - slot->gpa;
        *out_size = MIN(size, slot->usable_bytes - *out_offset);
    }
    return slot;
}

bool guest_memory_read(const struct guest_memory *memory, uint64_t gpa, void *out_data, size_t size)
{
    uint8_t *to = out_data;
    while (size != 0) {
        uint64_t offset, part;
        const struct guest_slot *slot = slot_part(memory, gpa, size, &offset, &part);
        if (slot == NULL) {
            return false;
        }
        memcpy(to, slot->hva + offset, part);
        to += part;
        gpa += part;
        size -= part;
    }
    return true;
}

bool guest_memory_write(struct guest_memory *memory, uint64_t gpa, const void *data, size_t size)
{
    const uint8_t *from = data;
    while (size != 0) {
        uint64_t offset, part;
        const struct guest_slot *slot = slot_part(memory, gpa, size, &offset, &part);
        if (slot == NULL || slot->is_readonly) {
            return false;
        }
        memcpy(slot->hva + offset, from, part);
        mark_written(memory, slot, offset, part);
        from += part;
        gpa += part;
        size -= part;
    }
    return true;
}

void *guest_memory_map(const struct guest_memory *memory, uint64_t gpa, uint64_t size,
                       bool for_write)
{
    const struct guest_slot *slot = guest_memory_slot(memory, gpa);
    if (slot == NULL || !range_fits(gpa - slot->gpa, size, slot->usable_bytes) ||
        (for_write && slot->is_readonly)) {
        return NULL;
    }
    return slot->hva + (gpa - slot->gpa);
}

void guest_memory_written(struct guest_memory *memory, uint64_t gpa, uint64_t size)
{
    for (size_t i = 0; i < memory->slot_count; i++) {
        const struct guest_slot *slot = &memory->slot[i];
        if (ranges_overlap(gpa, size, slot->gpa, slot->size_bytes)) {
            uint64_t offset = gpa > slot->gpa ? gpa - slot->gpa : 0;
            uint64_t skipped = gpa < slot->gpa ? slot->gpa - gpa : 0;
            mark_written(memory, slot, offset, MIN(size - skipped, slot->size_bytes - offset));
        }
    }
}

int guest_memory_log_start(struct guest_memory *public, struct error *err)
{
    struct memory *memory = memory_from_public(public);
    for (size_t i = 0; i < public->slot_count; i++) {
        uint64_t size = slot_dirty_size(&public->slot[i]);
        if (memory->dirty[i] == NULL) {
            memory->dirty[i] = map_lazily(size);
            if (memory->dirty[i] == NULL) {
                return error_set_errno(err, ENOMEM, "mapping the dirty log");
            }
        } else if (madvise(memory->dirty[i], size, MADV_DONTNEED) < 0) {
            memset(memory->dirty[i], 0, size);
        }
    }
    for (size_t i = 0; i < public->slot_count; i++) {
        __atomic_store_n(&public->slot[i].dirty, memory->dirty[i], __ATOMIC_RELEASE);
    }
    atomic_store(&public->is_logging, true);
    return 0;
}

void guest_memory_log_stop(struct guest_memory *memory)
{
    atomic_store(&memory->is_logging, false);
    for (size_t i = 0; i < memory->slot_count; i++) {
        __atomic_store_n(&memory->slot[i].dirty, NULL, __ATOMIC_RELEASE);
    }
}

void guest_memory_log_fetch(struct guest_memory *memory, size_t slot, uint64_t *out_bitmap)
{
    _Atomic uint64_t *dirty = __atomic_load_n(&memory->slot[slot].dirty, __ATOMIC_ACQUIRE);
    if (dirty == NULL) {
        return;
    }
    uint64_t words = slot_dirty_size(&memory->slot[slot]) / sizeof(uint64_t);
    for (uint64_t i = 0; i < words; i++) {
        if (atomic_load_explicit(&dirty[i], memory_order_relaxed) != 0) {
            out_bitmap[i] |= atomic_exchange(&dirty[i], 0);
        }
    }
}

void guest_memory_discard(struct guest_memory *memory, uint64_t gpa, uint64_t size)
{
    for (size_t i = 0; i < memory->slot_count; i++) {
        const struct guest_slot *slot = &memory->slot[i];
        uint64_t usable = slot->usable_bytes;
        if (slot->is_readonly || !ranges_overlap(gpa, size, slot->gpa, usable)) {
            continue;
        }
        uint64_t start = gpa > slot->gpa ? gpa - slot->gpa : 0;
        uint64_t skipped = gpa < slot->gpa ? slot->gpa - gpa : 0;
        uint64_t end = start + MIN(size - skipped, usable - start);
        start = align_up(start, GUEST_PAGE_SIZE);
        end = align_down(end, GUEST_PAGE_SIZE);
        if (start >= end) {
            continue;
        }
        if (fallocate(slot->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                      (off_t)(slot->fd_offset + start), (off_t)(end - start)) < 0) {
            memset(slot->hva + start, 0, end - start);
        }
        mark_written(memory, slot, start, end - start);
    }
}
