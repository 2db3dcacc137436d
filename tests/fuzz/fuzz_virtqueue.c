/* Walks a virtqueue over guest memory that the fuzzer wrote: whatever it holds, only that memory is touched, and it ends.
 *
 * Input: flags, log2 of the queue's size, how often to go on, then the memory from address 0 (rings first). */
#include <stdlib.h>
#include <string.h>

#include "base/core/invariant.h"
#include "device/virtio/queue.h"

#define MEMORY_BYTES 0x4000u
#define HEADER       3u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct guest_memory *memory;

static void create_memory(void)
{
    struct error err;
    /* Two slots that touch, so that buffers cross. */
    if (guest_memory_create(&memory, &err) < 0 ||
        guest_memory_add(memory, 0, MEMORY_BYTES / 2, false, false, &err) < 0 ||
        guest_memory_add(memory, MEMORY_BYTES / 2, MEMORY_BYTES / 2, false, false, &err) < 0) {
        abort();
    }
}

static void fill_memory(const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < memory->slot_count; i++) {
        struct guest_slot *slot = &memory->slot[i];
        size_t part = MIN(size, slot->size_bytes);
        memset(slot->hva, 0, slot->size_bytes);
        memcpy(slot->hva, data, part);
        data += part;
        size -= part;
    }
}

static void use_chain(struct virtqueue *queue, struct virtqueue_chain *chain, unsigned how)
{
    uint64_t bytes = 0;
    for (unsigned i = 0; i < (unsigned)chain->readable_count + chain->writable_count; i++) {
        const uint8_t *hva = chain->iov[i].iov_base;
        uint64_t length = chain->iov[i].iov_len;
        invariant(length > 0 && chain->gpa[i] < MEMORY_BYTES &&
                  length <= MEMORY_BYTES - chain->gpa[i]);
        invariant(hva == guest_memory_map(memory, chain->gpa[i], length, true));
        bytes += length;
    }
    invariant(bytes == chain->readable_bytes + chain->writable_bytes);
    uint8_t buffer[300];
    memset(buffer, 0x5a, sizeof(buffer));
    (void)virtqueue_read(chain, how * 7, buffer, sizeof(buffer));
    (void)virtqueue_write(chain, how * 3, buffer, sizeof(buffer));
    if (how % 5 == 4) {
        virtqueue_unpop(queue);
    } else {
        virtqueue_push(queue, chain, (uint32_t)chain->writable_bytes);
        (void)virtqueue_should_interrupt(queue);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct virtqueue_chain chain;
    if (memory == NULL) {
        create_memory();
    }
    if (size < HEADER) {
        return 0;
    }
    struct virtqueue queue;
    virtqueue_init(&queue, memory, VIRTQUEUE_MAX_SIZE);
    queue.has_event_idx = (data[0] & 1) != 0;
    queue.has_indirect = (data[0] & 2) != 0;
    queue.size = (uint16_t)(1u << (data[1] % 9));
    queue.desc_gpa = 0;
    queue.avail_gpa = queue.size * 16u;
    queue.used_gpa = (queue.avail_gpa + queue.size * 2u + 6 + 3) & ~3ull;
    fill_memory(data + HEADER, size - HEADER);
    if (!virtqueue_enable(&queue)) {
        return 0;
    }
    for (unsigned i = 0; i <= data[2]; i++) {
        enum virtqueue_result result = virtqueue_pop(&queue, &chain);
        if (result == VIRTQUEUE_BROKEN) {
            invariant(queue.broken != NULL);
            break;
        }
        if (result == VIRTQUEUE_EMPTY) {
            virtqueue_set_notify(&queue, true);
            if (!virtqueue_has_chain(&queue)) {
                break;
            }
            continue;
        }
        use_chain(&queue, &chain, i);
    }
    return 0;
}
