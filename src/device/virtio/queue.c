#include "device/virtio/queue.h"

#include <stddef.h>
#include <string.h>

#include "base/core/bits.h"
#include "base/core/checked.h"
#include "base/core/endian.h"
#include "base/core/invariant.h"

/* Layout of the rings, section 2.7. All values little-endian.
 *
 *   descriptor (16 bytes)  addr:8  len:4  flags:2  next:2
 *   available ring         flags:2  idx:2  ring[size]:2 each  used_event:2
 *   used ring              flags:2  idx:2  ring[size]:8 each (id:4 len:4)  avail_event:2
 */
#define DESC_SIZE      16u
#define DESC_NEXT      1u
#define DESC_WRITE     2u
#define DESC_INDIRECT  4u
#define AVAIL_IDX      2u
#define AVAIL_RING     4u
#define USED_FLAGS     0u
#define USED_IDX       2u
#define USED_RING      4u
#define NO_INTERRUPT   1u /* available ring's flags */
#define NO_NOTIFY      1u /* used ring's flags */
#define DESC_TABLE_MAX 32768u

struct descriptor {
    uint64_t addr;
    uint32_t len;
    uint16_t flags;
    uint16_t next;
};

/* Ring fields are naturally aligned, which virtqueue_enable has checked. */
static uint16_t load_acquire(const uint8_t *field)
{
    return __atomic_load_n((const uint16_t *)(const void *)field, __ATOMIC_ACQUIRE);
}

static void store_release(uint8_t *field, uint16_t value)
{
    __atomic_store_n((uint16_t *)(void *)field, value, __ATOMIC_RELEASE);
}

/* One read of each byte: the guest may change them meanwhile. */
static struct descriptor load_descriptor(const uint8_t *from)
{
    uint8_t copy[DESC_SIZE];
    memcpy(copy, from, sizeof(copy));
    __asm__ volatile("" : "+m"(copy)); /* keeps the compiler from reading the original again */
    return (struct descriptor){.addr = le64_get(copy),
                               .len = le32_get(copy + 8),
                               .flags = le16_get(copy + 12),
                               .next = le16_get(copy + 14)};
}

static size_t desc_bytes(uint16_t size)
{
    return (size_t)size * DESC_SIZE;
}

static size_t avail_bytes(uint16_t size)
{
    return AVAIL_RING + (size_t)size * 2 + 2;
}

static size_t used_bytes(uint16_t size)
{
    return USED_RING + (size_t)size * 8 + 2;
}

void virtqueue_init(struct virtqueue *queue, struct guest_memory *memory, uint16_t max_size)
{
    invariant(is_power_of_two(max_size) && max_size <= VIRTQUEUE_MAX_SIZE);
    *queue = (struct virtqueue){.memory = memory, .max_size = max_size};
    virtqueue_reset(queue);
}

void virtqueue_reset(struct virtqueue *queue)
{
    *queue = (struct virtqueue){
        .memory = queue->memory,
        .max_size = queue->max_size,
        .size = queue->max_size,
        .chains = queue->chains,
        .wants_notify = true,
    };
}

bool virtqueue_enable(struct virtqueue *queue)
{
    uint16_t size = queue->size;
    if (!is_power_of_two(size) || size > queue->max_size) {
        queue->broken = "queue size is not a power of two up to the maximum";
        return false;
    }
    if (queue->desc_gpa % 16 != 0 || queue->avail_gpa % 2 != 0 || queue->used_gpa % 4 != 0) {
        queue->broken = "ring is not aligned";
        return false;
    }
    queue->desc = guest_memory_map(queue->memory, queue->desc_gpa, desc_bytes(size), false);
    queue->avail = guest_memory_map(queue->memory, queue->avail_gpa, avail_bytes(size), false);
    queue->used = guest_memory_map(queue->memory, queue->used_gpa, used_bytes(size), true);
    if (queue->desc == NULL || queue->avail == NULL || queue->used == NULL) {
        queue->broken = "ring is not in the guest's memory";
        return false;
    }
    queue->is_enabled = true;
    virtqueue_set_notify(queue, queue->wants_notify);
    return true;
}

static enum virtqueue_result break_queue(struct virtqueue *queue, const char *why)
{
    queue->broken = why;
    return VIRTQUEUE_BROKEN;
}

/* Adds one buffer to the chain, in as many segments as memory slots make of it. NULL, or what is wrong. */
static const char *add_buffer(const struct virtqueue *queue, struct virtqueue_chain *chain,
                              const struct descriptor *desc)
{
    bool is_writable = (desc->flags & DESC_WRITE) != 0;
    if (!is_writable && chain->writable_count != 0) {
        return "readable buffer after a writable one";
    }
    uint64_t gpa = desc->addr;
    uint64_t left = desc->len;
    while (left > 0) {
        const struct guest_slot *slot = guest_memory_slot(queue->memory, gpa);
        if (slot == NULL) {
            return "buffer is not in the guest's memory";
        }
        uint64_t size = MIN(left, slot->gpa + slot->size_bytes - gpa);
        void *hva = guest_memory_map(queue->memory, gpa, size, is_writable);
        if (hva == NULL) {
            return "buffer is not in the guest's memory";
        }
        unsigned index = chain->readable_count + chain->writable_count;
        if (index == VIRTQUEUE_MAX_SEGMENTS) {
            return "too many buffers in a chain";
        }
        chain->iov[index] = (struct iovec){hva, (size_t)size};
        chain->gpa[index] = gpa;
        if (is_writable) {
            chain->writable_count++;
            chain->writable_bytes += size;
        } else {
            chain->readable_count++;
            chain->readable_bytes += size;
        }
        gpa += size;
        left -= size;
    }
    return NULL;
}

/* Follows a chain through the queue's own table, and at its end perhaps into an indirect one. */
static const char *walk(const struct virtqueue *queue, struct virtqueue_chain *chain)
{
    const uint8_t *table = queue->desc;
    uint32_t table_size = queue->size;
    uint32_t index = chain->head;
    bool is_indirect = false;
    /* A chain is at most as long as the queue (2.7.5.3.1), which also ends loops. */
    for (unsigned steps = 0; steps <= VIRTQUEUE_MAX_SIZE; steps++) {
        if (index >= table_size) {
            return "descriptor index beyond the table";
        }
        struct descriptor desc = load_descriptor(table + (size_t)index * DESC_SIZE);
        if ((desc.flags & DESC_INDIRECT) != 0) {
            if (!queue->has_indirect || is_indirect || (desc.flags & DESC_NEXT) != 0) {
                return "indirect descriptor where none may be";
            }
            if (desc.len == 0 || desc.len % DESC_SIZE != 0 ||
                desc.len / DESC_SIZE > DESC_TABLE_MAX) {
                return "indirect table of a wrong size";
            }
            table = guest_memory_map(queue->memory, desc.addr, desc.len, false);
            if (table == NULL) {
                return "indirect table is not in the guest's memory";
            }
            table_size = desc.len / DESC_SIZE;
            index = 0;
            is_indirect = true;
            continue;
        }
        const char *why = add_buffer(queue, chain, &desc);
        if (why != NULL || (desc.flags & DESC_NEXT) == 0) {
            return why;
        }
        index = desc.next;
    }
    return "chain is longer than the queue";
}

/* How many chains wait, or -1 if that cannot be. */
static int count_available(struct virtqueue *queue)
{
    uint16_t count = (uint16_t)(load_acquire(queue->avail + AVAIL_IDX) - queue->next_avail);
    if (count > queue->size) {
        queue->broken = "available index runs ahead of the queue";
        return -1;
    }
    return count;
}

bool virtqueue_has_chain(struct virtqueue *queue)
{
    return queue->is_enabled && queue->broken == NULL && count_available(queue) > 0;
}

bool virtqueue_has_more_than(struct virtqueue *queue, unsigned count)
{
    return queue->is_enabled && queue->broken == NULL && count_available(queue) > (int)count;
}

enum virtqueue_result virtqueue_take(struct virtqueue *queue, uint16_t head,
                                     struct virtqueue_chain *out_chain)
{
    if (queue->broken != NULL || !queue->is_enabled) {
        return VIRTQUEUE_BROKEN;
    }
    if (queue->in_flight >= queue->size) {
        return break_queue(queue, "more requests than the queue has descriptors");
    }
    out_chain->head = head;
    out_chain->readable_count = 0;
    out_chain->writable_count = 0;
    out_chain->readable_bytes = 0;
    out_chain->writable_bytes = 0;
    const char *why = walk(queue, out_chain);
    if (why != NULL) {
        return break_queue(queue, why);
    }
    queue->in_flight++;
    return VIRTQUEUE_CHAIN;
}

enum virtqueue_result virtqueue_pop(struct virtqueue *queue, struct virtqueue_chain *out_chain)
{
    if (queue->broken != NULL) {
        return VIRTQUEUE_BROKEN;
    }
    if (!queue->is_enabled) {
        return VIRTQUEUE_EMPTY;
    }
    int count = count_available(queue);
    if (count <= 0) {
        return count == 0 ? VIRTQUEUE_EMPTY : VIRTQUEUE_BROKEN;
    }
    size_t slot = queue->next_avail & (queue->size - 1u);
    enum virtqueue_result result =
        virtqueue_take(queue, load_acquire(queue->avail + AVAIL_RING + slot * 2), out_chain);
    if (result == VIRTQUEUE_CHAIN) {
        queue->next_avail++;
        queue->chains++;
    }
    return result;
}

void virtqueue_unpop(struct virtqueue *queue)
{
    invariant(queue->in_flight > 0);
    queue->next_avail--;
    queue->in_flight--;
    queue->chains--;
}
static void mark_written(struct virtqueue *queue, const struct virtqueue_chain *chain,
                         uint64_t written_bytes)
{
    unsigned end = chain->readable_count + chain->writable_count;
    for (unsigned i = chain->readable_count; i < end && written_bytes > 0; i++) {
        uint64_t size = MIN(written_bytes, chain->iov[i].iov_len);
        guest_memory_written(queue->memory, chain->gpa[i], size);
        written_bytes -= size;
    }
}

void virtqueue_fill(struct virtqueue *queue, const struct virtqueue_chain *chain,
                    uint32_t written_bytes, uint16_t ahead)
{
    invariant(queue->is_enabled && ahead < queue->in_flight);
    mark_written(queue, chain, written_bytes);
    size_t slot = (uint16_t)(queue->next_used + ahead) & (queue->size - 1u);
    uint8_t *element = queue->used + USED_RING + slot * 8;
    le32_put(element, chain->head);
    le32_put(element + 4, written_bytes);
    guest_memory_written(queue->memory, queue->used_gpa + USED_RING + slot * 8, 8);
}

void virtqueue_flush(struct virtqueue *queue, uint16_t count)
{
    invariant(count <= queue->in_flight);
    queue->in_flight -= count;
    queue->next_used += count;
    store_release(queue->used + USED_IDX, queue->next_used);
    guest_memory_written(queue->memory, queue->used_gpa + USED_IDX, 2);
}

void virtqueue_push(struct virtqueue *queue, const struct virtqueue_chain *chain,
                    uint32_t written_bytes)
{
    virtqueue_fill(queue, chain, written_bytes, 0);
    virtqueue_flush(queue, 1);
}

bool virtqueue_should_interrupt(struct virtqueue *queue)
{
    if (!queue->is_enabled) {
        return false;
    }
    uint16_t old = queue->signalled_used;
    uint16_t now = queue->next_used;
    if (old == now) {
        return false;
    }
    /* The used index must be visible before we look whether the guest sleeps (2.7.10). */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    queue->signalled_used = now;
    if (!queue->has_event_idx) {
        return (load_acquire(queue->avail) & NO_INTERRUPT) == 0;
    }
    uint16_t event = load_acquire(queue->avail + AVAIL_RING + (size_t)queue->size * 2);
    /* Did the used index step over the event since last time? Modulo 2^16. */
    return (uint16_t)(now - event - 1) < (uint16_t)(now - old);
}

void virtqueue_set_notify(struct virtqueue *queue, bool is_wanted)
{
    queue->wants_notify = is_wanted;
    if (!queue->is_enabled) {
        return;
    }
    if (queue->has_event_idx) {
        if (!is_wanted) {
            return; /* the old event is passed already, and each event counts once */
        }
        size_t offset = USED_RING + (size_t)queue->size * 8;
        store_release(queue->used + offset, queue->next_avail);
        guest_memory_written(queue->memory, queue->used_gpa + offset, 2);
    } else {
        store_release(queue->used + USED_FLAGS, is_wanted ? 0 : NO_NOTIFY);
        guest_memory_written(queue->memory, queue->used_gpa + USED_FLAGS, 2);
    }
    /* Our wish must be visible before the caller looks at the available index again. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

bool virtqueue_await_more(struct virtqueue *queue, unsigned count)
{
    queue->wants_notify = true;
    if (!queue->is_enabled || queue->broken != NULL) {
        return true;
    }
    if (queue->has_event_idx) {
        size_t offset = USED_RING + (size_t)queue->size * 8;
        store_release(queue->used + offset, (uint16_t)(queue->next_avail + count));
        guest_memory_written(queue->memory, queue->used_gpa + offset, 2);
    } else {
        store_release(queue->used + USED_FLAGS, 0);
        guest_memory_written(queue->memory, queue->used_gpa + USED_FLAGS, 2);
    }
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* as in virtqueue_set_notify */
    return count_available(queue) <= (int)count;
}

/* Walks [offset, offset + size) of iov[0 .. count) and copies in the given direction. */
static size_t copy(const struct iovec *iov, unsigned count, uint64_t offset, void *host,
                   size_t size, bool is_to_guest)
{
    size_t done = 0;
    for (unsigned i = 0; i < count && done < size; i++) {
        if (offset >= iov[i].iov_len) {
            offset -= iov[i].iov_len;
            continue;
        }
        size_t part = MIN(size - done, iov[i].iov_len - (size_t)offset);
        uint8_t *guest = (uint8_t *)iov[i].iov_base + offset;
        if (is_to_guest) {
            memcpy(guest, (uint8_t *)host + done, part);
        } else {
            memcpy((uint8_t *)host + done, guest, part);
        }
        done += part;
        offset = 0;
    }
    return done;
}

size_t virtqueue_read(const struct virtqueue_chain *chain, uint64_t offset, void *out_data,
                      size_t size)
{
    return copy(chain->iov, chain->readable_count, offset, out_data, size, false);
}

size_t virtqueue_write(const struct virtqueue_chain *chain, uint64_t offset, const void *data,
                       size_t size)
{
    return copy(chain->iov + chain->readable_count, chain->writable_count, offset, (void *)data,
                size, true);
}

void virtqueue_save(const struct virtqueue *queue, struct archive_writer *writer)
{
    archive_put_u16(writer, queue->size);
    archive_put_u64(writer, queue->desc_gpa);
    archive_put_u64(writer, queue->avail_gpa);
    archive_put_u64(writer, queue->used_gpa);
    archive_put_bool(writer, queue->is_enabled);
    archive_put_u16(writer, queue->next_avail);
    archive_put_u16(writer, queue->next_used);
    archive_put_u16(writer, queue->signalled_used);
    archive_put_bool(writer, queue->wants_notify);
}

bool virtqueue_restore(struct virtqueue *queue, struct archive_reader *reader)
{
    bool has_event_idx = queue->has_event_idx;
    bool has_indirect = queue->has_indirect;
    virtqueue_reset(queue);
    queue->has_event_idx = has_event_idx;
    queue->has_indirect = has_indirect;
    queue->size = archive_get_u16(reader);
    queue->desc_gpa = archive_get_u64(reader);
    queue->avail_gpa = archive_get_u64(reader);
    queue->used_gpa = archive_get_u64(reader);
    bool is_enabled = archive_get_bool(reader);
    queue->next_avail = archive_get_u16(reader);
    queue->next_used = archive_get_u16(reader);
    queue->signalled_used = archive_get_u16(reader);
    queue->wants_notify = archive_get_bool(reader);
    return reader->status == 0 && (!is_enabled || virtqueue_enable(queue));
}
