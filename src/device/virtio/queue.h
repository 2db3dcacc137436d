/* Split virtqueues, the device's side (virtio 1.2 section 2.7).
 *
 * The rings and descriptors are shared with an enemy: each value is read once, checked, and only the copy is used; buffers are
 * host addresses from guest_memory_map, so nothing outside the guest's memory can be reached. Loops are bounded by the queue's
 * size. A violation breaks the queue: every later call says so.
 *
 * Threads: the device's lock. */
#ifndef DEVICE_VIRTIO_QUEUE_H
#define DEVICE_VIRTIO_QUEUE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/core/archive.h"
#include "engine/memory.h"

#define VIRTQUEUE_MAX_SIZE 256
/* A buffer may cross from one memory slot to the next. */
#define VIRTQUEUE_MAX_SEGMENTS (VIRTQUEUE_MAX_SIZE + GUEST_MEMORY_MAX_SLOTS)

/* One request: buffers that the device reads, then buffers that it writes. */
struct virtqueue_chain {
    uint16_t head;
    uint16_t readable_count; /* segments: iov[0 .. readable_count) */
    uint16_t writable_count; /* iov[readable_count .. +writable_count) */
    uint64_t readable_bytes;
    uint64_t writable_bytes;
    struct iovec iov[VIRTQUEUE_MAX_SEGMENTS];
    uint64_t gpa[VIRTQUEUE_MAX_SEGMENTS]; /* where the segments are for the guest */
};

struct virtqueue {
    struct guest_memory *memory;
    uint16_t max_size; /* what the device offers */

    /* Set by the guest before it enables the queue. */
    uint16_t size;
    uint64_t desc_gpa, avail_gpa, used_gpa;
    bool is_enabled;

    bool has_event_idx; /* negotiated */
    bool has_indirect;

    /* Host addresses of the rings while enabled. */
    uint8_t *desc, *avail, *used;
    uint16_t next_avail; /* index of the next chain to take */
    uint16_t next_used;
    uint16_t signalled_used; /* next_used when the guest was last looked at for an interrupt */
    bool wants_notify;
    uint16_t in_flight;
    const char *broken; /* why, or NULL */

    uint64_t chains; /* counter for stats */
};

void virtqueue_init(struct virtqueue *queue, struct guest_memory *memory, uint16_t max_size);
/* To the state after a device reset. */
void virtqueue_reset(struct virtqueue *queue);
/* Maps the rings and enables. False: size or addresses cannot be (queue->broken says why). */
bool must_check virtqueue_enable(struct virtqueue *queue);

enum virtqueue_result {
    VIRTQUEUE_EMPTY,
    VIRTQUEUE_CHAIN,
    VIRTQUEUE_BROKEN, /* queue->broken says why */
};

/* Takes the next chain. It is the device's until virtqueue_push. */
enum virtqueue_result must_check virtqueue_pop(struct virtqueue *queue,
                                               struct virtqueue_chain *out_chain);
/* The chain that begins at 'head' once more: one that was taken before the state was saved. Like a pop, never empty. */
enum virtqueue_result must_check virtqueue_take(struct virtqueue *queue, uint16_t head,
                                                struct virtqueue_chain *out_chain);
/* Undoes the last pop: the chain will be the next one again. */
void virtqueue_unpop(struct virtqueue *queue);
/* Is there a chain to take? (False too if the queue is broken or disabled.) */
bool virtqueue_has_chain(struct virtqueue *queue);

/* Gives the chain back; the first 'written_bytes' of its writable part hold data. */
void virtqueue_push(struct virtqueue *queue, const struct virtqueue_chain *chain,
                    uint32_t written_bytes);
/* The same in two steps, for several chains that the guest shall see at once: fill each, 'ahead' counting from 0, then flush.
 * What was filled can still be unpopped instead. */
void virtqueue_fill(struct virtqueue *queue, const struct virtqueue_chain *chain,
                    uint32_t written_bytes, uint16_t ahead);
void virtqueue_flush(struct virtqueue *queue, uint16_t count);
/* Does the guest want an interrupt for what was pushed since the last call? */
bool virtqueue_should_interrupt(struct virtqueue *queue);

/* Whether the guest shall notify when it adds chains. After turning it on, look again (virtqueue_has_chain): one may have
 * come before. */
void virtqueue_set_notify(struct virtqueue *queue, bool is_wanted);
/* For a device to which the 'count' chains that wait are too few: the guest shall notify when it adds one. False: it has done so
 * already. */
bool must_check virtqueue_await_more(struct virtqueue *queue, unsigned count);
/* Are there more chains to take than 'count'? */
bool virtqueue_has_more_than(struct virtqueue *queue, unsigned count);

/* Copies between a chain's bytes and host memory from 'offset' on; returns how many bytes there were. */
size_t virtqueue_read(const struct virtqueue_chain *chain, uint64_t offset, void *out_data,
                      size_t size);
size_t virtqueue_write(const struct virtqueue_chain *chain, uint64_t offset, const void *data,
                       size_t size);

/* Nothing is in flight. Restore maps the rings again; false if the values cannot be. has_event_idx and has_indirect are not
 * part of it: the device sets them before. */
void virtqueue_save(const struct virtqueue *queue, struct archive_writer *writer);
bool must_check virtqueue_restore(struct virtqueue *queue, struct archive_reader *reader);

#endif
