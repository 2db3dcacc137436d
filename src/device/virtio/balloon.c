#include "device/virtio/balloon.h"

#include <linux/virtio_balloon.h>
#include <stdlib.h>
#include <string.h>

#include "base/core/endian.h"
#include "device/virtio/virtio.h"

/* Queues. Without free page hints, which this device does not offer, reporting takes their place: drivers number only the
 * queues that exist. */
#define INFLATE         0u
#define DEFLATE         1u
#define STATS           2u
#define REPORTING       3u
#define QUEUE_SIZE      128u
#define CHAINS_PER_TURN 64u
#define PFN_BATCH       256u
#define MAX_PFNS        (1u << 20) /* of one request: 4 GiB */
#define STAT_SIZE       10u        /* tag:2 value:8 */
#define MAX_STATS       32u

struct virtio_balloon {
    struct virtio_device virtio;
    uint32_t target_pages;
    uint32_t actual_pages; /* as the driver says */
    uint64_t stat[VIRTIO_BALLOON_S_NR];
    uint32_t stat_set; /* bit: the guest has told this one */
    uint64_t inflated_pages, deflated_pages, reported_bytes;
    struct virtqueue_chain chain;
};

static struct virtio_balloon *balloon_from_virtio(struct virtio_device *virtio)
{
    return container_of(virtio, struct virtio_balloon, virtio);
}

static void discard_pages(struct virtio_balloon *balloon, uint64_t pfn, uint64_t count)
{
    if (count > 0) {
        guest_memory_discard(balloon->virtio.host->memory, pfn << VIRTIO_BALLOON_PFN_SHIFT,
                             count << VIRTIO_BALLOON_PFN_SHIFT);
    }
}

/* Page numbers of one request; neighbours are given back together. */
static void inflate_chain(struct virtio_balloon *balloon, uint64_t pfn_count)
{
    uint64_t start = 0, length = 0;
    for (uint64_t at = 0; at < pfn_count; at += PFN_BATCH) {
        uint8_t raw[PFN_BATCH * 4];
        size_t size = virtqueue_read(&balloon->chain, at * 4, raw, sizeof(raw));
        for (size_t i = 0; i + 4 <= size; i += 4) {
            uint32_t pfn = le32_get(raw + i);
            if (length > 0 && pfn == start + length) {
                length++;
            } else if (length > 0 && (uint64_t)pfn + 1 == start) {
                start--; /* Linux hands pages out from high to low as well */
                length++;
            } else {
                discard_pages(balloon, start, length);
                start = pfn;
                length = 1;
            }
        }
    }
    discard_pages(balloon, start, length);
}

static void report_chain(struct virtio_balloon *balloon)
{
    const struct virtqueue_chain *chain = &balloon->chain;
    for (unsigned i = 0; i < chain->writable_count; i++) {
        unsigned index = chain->readable_count + i;
        guest_memory_discard(balloon->virtio.host->memory, chain->gpa[index],
                             chain->iov[index].iov_len);
    }
    balloon->reported_bytes += chain->writable_bytes;
}

static void process_pages(struct virtio_balloon *balloon, unsigned index)
{
    struct virtio_device *virtio = &balloon->virtio;
    struct virtqueue *queue = virtio_queue(virtio, index);
    unsigned count = 0;
    while (count < CHAINS_PER_TURN && virtio_pop(virtio, index, &balloon->chain)) {
        uint64_t pfn_count = balloon->chain.readable_bytes / 4;
        if (pfn_count > MAX_PFNS) {
            virtqueue_unpop(queue);
            queue->broken = "too many pages in one balloon request";
            break;
        }
        if (index == INFLATE) {
            inflate_chain(balloon, pfn_count);
            balloon->inflated_pages += pfn_count;
        } else if (index == DEFLATE) {
            balloon->deflated_pages += pfn_count; /* the pages come back when they are touched */
        } else {
            report_chain(balloon);
        }
        virtqueue_push(queue, &balloon->chain, 0);
        count++;
    }
    virtqueue_set_notify(queue, true);
    virtio_interrupt(virtio, index);
    if (virtqueue_has_chain(queue)) {
        virtio_notify(virtio, index);
    }
}

/* The driver leaves one buffer with its statistics in the queue; giving it back asks for new ones (5.5.6.3). */
static void read_stats(struct virtio_balloon *balloon)
{
    struct virtio_device *virtio = &balloon->virtio;
    struct virtqueue *queue = virtio_queue(virtio, STATS);
    if (!virtio_pop(virtio, STATS, &balloon->chain)) {
        return;
    }
    for (uint64_t i = 0; i < MAX_STATS; i++) {
        uint8_t raw[STAT_SIZE];
        if (virtqueue_read(&balloon->chain, i * STAT_SIZE, raw, STAT_SIZE) != STAT_SIZE) {
            break;
        }
        uint16_t tag = le16_get(raw);
        if (tag < VIRTIO_BALLOON_S_NR) {
            balloon->stat[tag] = le64_get(raw + 2);
            balloon->stat_set |= 1u << tag;
        }
    }
    virtqueue_unpop(queue);
    virtqueue_set_notify(queue, true);
}

static void ask_for_stats(struct virtio_balloon *balloon)
{
    struct virtio_device *virtio = &balloon->virtio;
    if (virtio_pop(virtio, STATS, &balloon->chain)) {
        virtqueue_push(virtio_queue(virtio, STATS), &balloon->chain, 0);
        virtqueue_set_notify(virtio_queue(virtio, STATS), true);
        virtio_interrupt(virtio, STATS);
    }
}

static void balloon_process(struct virtio_device *virtio, unsigned index)
{
    struct virtio_balloon *balloon = balloon_from_virtio(virtio);
    if (index == STATS) {
        read_stats(balloon);
    } else {
        process_pages(balloon, index);
    }
}

static void balloon_reset(struct virtio_device *virtio)
{
    struct virtio_balloon *balloon = balloon_from_virtio(virtio);
    balloon->actual_pages = 0;
    balloon->stat_set = 0;
}

static void balloon_read_config(struct virtio_device *virtio, uint32_t offset, void *out_data,
                                uint32_t size)
{
    const struct virtio_balloon *balloon = balloon_from_virtio(virtio);
    struct virtio_balloon_config config = {.num_pages = balloon->target_pages,
                                           .actual = balloon->actual_pages};
    memcpy(out_data, (const uint8_t *)&config + offset, size);
}

static void balloon_write_config(struct virtio_device *virtio, uint32_t offset, const void *data,
                                 uint32_t size)
{
    if (offset == offsetof(struct virtio_balloon_config, actual) && size == 4) {
        balloon_from_virtio(virtio)->actual_pages = le32_get(data);
    }
}

void virtio_balloon_set_target(struct device *device, uint64_t bytes)
{
    struct virtio_balloon *balloon = balloon_from_virtio(virtio_from_device(device));
    uint64_t pages = bytes >> VIRTIO_BALLOON_PFN_SHIFT;
    virtio_lock(&balloon->virtio);
    balloon->target_pages = (uint32_t)MIN(pages, UINT32_MAX);
    virtio_config_changed(&balloon->virtio);
    virtio_unlock(&balloon->virtio);
}

uint64_t virtio_balloon_target(struct device *device)
{
    struct virtio_balloon *balloon = balloon_from_virtio(virtio_from_device(device));
    virtio_lock(&balloon->virtio);
    uint64_t bytes = (uint64_t)balloon->target_pages << VIRTIO_BALLOON_PFN_SHIFT;
    virtio_unlock(&balloon->virtio);
    return bytes;
}

uint64_t virtio_balloon_held(struct device *device)
{
    struct virtio_balloon *balloon = balloon_from_virtio(virtio_from_device(device));
    virtio_lock(&balloon->virtio);
    uint64_t bytes = (uint64_t)balloon->actual_pages << VIRTIO_BALLOON_PFN_SHIFT;
    virtio_unlock(&balloon->virtio);
    return bytes;
}

static void balloon_save(struct virtio_device *virtio, struct archive_writer *writer)
{
    const struct virtio_balloon *balloon = balloon_from_virtio(virtio);
    archive_put_u32(writer, balloon->target_pages);
    archive_put_u32(writer, balloon->actual_pages);
}

static int balloon_restore(struct virtio_device *virtio, struct archive_reader *reader,
                           uint32_t version, struct error *err)
{
    struct virtio_balloon *balloon = balloon_from_virtio(virtio);
    balloon->target_pages = archive_get_u32(reader);
    balloon->actual_pages = archive_get_u32(reader);
    return 0;
}

/* What the guest told last; asking also makes it tell anew for the next time. */
static void balloon_stats(struct virtio_device *virtio,
                          void (*emit)(void *ctx, const char *name, uint64_t value), void *ctx)
{
    static const char *const names[VIRTIO_BALLOON_S_NR] = {
        [VIRTIO_BALLOON_S_SWAP_IN] = "guest_swap_in_bytes",
        [VIRTIO_BALLOON_S_SWAP_OUT] = "guest_swap_out_bytes",
        [VIRTIO_BALLOON_S_MAJFLT] = "guest_major_faults",
        [VIRTIO_BALLOON_S_MINFLT] = "guest_minor_faults",
        [VIRTIO_BALLOON_S_MEMFREE] = "guest_free_bytes",
        [VIRTIO_BALLOON_S_MEMTOT] = "guest_total_bytes",
        [VIRTIO_BALLOON_S_AVAIL] = "guest_available_bytes",
        [VIRTIO_BALLOON_S_CACHES] = "guest_cache_bytes",
        [VIRTIO_BALLOON_S_HTLB_PGALLOC] = "guest_huge_page_allocations",
        [VIRTIO_BALLOON_S_HTLB_PGFAIL] = "guest_huge_page_failures",
    };
    struct virtio_balloon *balloon = balloon_from_virtio(virtio);
    emit(ctx, "target_pages", balloon->target_pages);
    emit(ctx, "actual_pages", balloon->actual_pages);
    emit(ctx, "inflated_pages", balloon->inflated_pages);
    emit(ctx, "deflated_pages", balloon->deflated_pages);
    emit(ctx, "reported_bytes", balloon->reported_bytes);
    for (unsigned i = 0; i < VIRTIO_BALLOON_S_NR; i++) {
        if ((balloon->stat_set & 1u << i) != 0) {
            emit(ctx, names[i], balloon->stat[i]);
        }
    }
    ask_for_stats(balloon);
}

static void balloon_destroy(struct virtio_device *virtio)
{
    virtio_fini(virtio);
    free(balloon_from_virtio(virtio));
}

static const struct virtio_ops balloon_ops = {
    .type = "virtio-balloon",
    .version = 1,
    .device_id = VIRTIO_ID_BALLOON,
    .pci_class = 0x00ff00,
    .queue_count = 4,
    .queue_size = {QUEUE_SIZE, QUEUE_SIZE, QUEUE_SIZE, QUEUE_SIZE},
    .config_size = offsetof(struct virtio_balloon_config, free_page_hint_cmd_id),
    .process = balloon_process,
    .reset = balloon_reset,
    .read_config = balloon_read_config,
    .write_config = balloon_write_config,
    .save = balloon_save,
    .restore = balloon_restore,
    .stats = balloon_stats,
    .destroy = balloon_destroy,
};

int virtio_balloon_create(const struct virtio_balloon_options *options, struct device **out_device,
                          struct error *err)
{
    struct virtio_balloon *balloon = calloc(1, sizeof(*balloon));
    if (balloon == NULL) {
        return error_set_errno(err, ENOMEM, "creating a virtio balloon");
    }
    uint64_t features = BIT(VIRTIO_BALLOON_F_STATS_VQ) | BIT(VIRTIO_BALLOON_F_DEFLATE_ON_OOM) |
                        BIT(VIRTIO_BALLOON_F_REPORTING);
    int rc = virtio_init(&balloon->virtio, &balloon_ops, features, &options->common, err);
    if (rc < 0) {
        free(balloon);
        return rc;
    }
    *out_device = &balloon->virtio.device;
    return 0;
}
