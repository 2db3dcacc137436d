#include "device/virtio/mem.h"

#include <linux/virtio_mem.h>
#include <stdlib.h>
#include <string.h>

#include "base/core/bits.h"
#include "base/core/checked.h"
#include "base/core/endian.h"
#include "device/virtio/virtio.h"

#define QUEUE           0u
#define QUEUE_SIZE      128u
#define CHAINS_PER_TURN 64u
/* Drivers look for place in units that are larger than blocks: Linux's are 128 MiB. */
#define ROOM          (256ull << 20)
#define PER_WORD      64u
#define REQUEST_SIZE  sizeof(struct virtio_mem_req)
#define RESPONSE_SIZE sizeof(struct virtio_mem_resp)

struct virtio_mem {
    struct virtio_device virtio;
    uint64_t gpa, size_bytes;
    uint64_t usable_bytes; /* requests may be about this part of the slot */
    uint64_t requested_bytes, plugged_bytes;
    uint64_t *plugged; /* a bit for each block of the slot */
    uint64_t plug_requests, unplug_requests, denied_requests;
    struct virtqueue_chain chain;
};

static struct virtio_mem *mem_from_virtio(struct virtio_device *virtio)
{
    return container_of(virtio, struct virtio_mem, virtio);
}

static size_t word_count(const struct virtio_mem *mem)
{
    return (size_t)((mem->size_bytes / VIRTIO_MEM_BLOCK + PER_WORD - 1) / PER_WORD);
}

static bool is_plugged(const struct virtio_mem *mem, uint64_t block)
{
    return (mem->plugged[block / PER_WORD] & BIT(block % PER_WORD)) != 0;
}

static uint64_t count_plugged(const struct virtio_mem *mem, uint64_t first, uint64_t count)
{
    uint64_t found = 0;
    for (uint64_t block = first; block < first + count; block++) {
        found += is_plugged(mem, block);
    }
    return found;
}

static void set_plugged(struct virtio_mem *mem, uint64_t first, uint64_t count, bool value)
{
    for (uint64_t block = first; block < first + count; block++) {
        uint64_t bit = BIT(block % PER_WORD);
        uint64_t *word = &mem->plugged[block / PER_WORD];
        *word = value ? *word | bit : *word & ~bit;
    }
}

/* Gives back what the blocks hold, all that are plugged or all that are not. Neighbours go together. */
static void discard(struct virtio_mem *mem, bool what_is_plugged)
{
    uint64_t blocks = mem->usable_bytes / VIRTIO_MEM_BLOCK;
    for (uint64_t first = 0, end; first < blocks; first = end) {
        bool goes = is_plugged(mem, first) == what_is_plugged;
        end = first + 1;
        while (end < blocks && (is_plugged(mem, end) == what_is_plugged) == goes) {
            end++;
        }
        if (goes) {
            guest_memory_discard(mem->virtio.host->memory, mem->gpa + first * VIRTIO_MEM_BLOCK,
                                 (end - first) * VIRTIO_MEM_BLOCK);
        }
    }
}

static void unplug_all(struct virtio_mem *mem)
{
    discard(mem, true);
    memset(mem->plugged, 0, word_count(mem) * sizeof(*mem->plugged));
    mem->plugged_bytes = 0;
}

static uint64_t usable_for(const struct virtio_mem *mem, uint64_t requested)
{
    return MIN(mem->size_bytes, requested + (requested == 0 ? 0 : ROOM));
}

static int set_usable(struct virtio_mem *mem, uint64_t bytes, struct error *err)
{
    int rc = guest_memory_set_usable(mem->virtio.host->memory, mem->gpa, bytes, err);
    if (rc == 0) {
        mem->usable_bytes = bytes;
    }
    return rc;
}

/* The blocks of a request. False: there are none such. */
static bool find_blocks(const struct virtio_mem *mem, uint64_t gpa, uint64_t count,
                        uint64_t *out_first)
{
    if (gpa < mem->gpa || gpa % VIRTIO_MEM_BLOCK != 0 || count == 0 ||
        !range_fits(gpa - mem->gpa, count * VIRTIO_MEM_BLOCK, mem->usable_bytes)) {
        return false;
    }
    *out_first = (gpa - mem->gpa) / VIRTIO_MEM_BLOCK;
    return true;
}

static uint16_t plug(struct virtio_mem *mem, uint64_t first, uint64_t count)
{
    uint64_t bytes = count * VIRTIO_MEM_BLOCK;
    mem->plug_requests++;
    if (count_plugged(mem, first, count) != 0) {
        return VIRTIO_MEM_RESP_ERROR;
    }
    /* Less may be asked for than what is plugged, until the guest has given it back. */
    if (mem->plugged_bytes + bytes > mem->requested_bytes) {
        return VIRTIO_MEM_RESP_NACK;
    }
    set_plugged(mem, first, count, true);
    mem->plugged_bytes += bytes;
    return VIRTIO_MEM_RESP_ACK;
}

static uint16_t unplug(struct virtio_mem *mem, uint64_t first, uint64_t count)
{
    mem->unplug_requests++;
    if (count_plugged(mem, first, count) != count) {
        return VIRTIO_MEM_RESP_ERROR;
    }
    guest_memory_discard(mem->virtio.host->memory, mem->gpa + first * VIRTIO_MEM_BLOCK,
                         count * VIRTIO_MEM_BLOCK);
    set_plugged(mem, first, count, false);
    mem->plugged_bytes -= count * VIRTIO_MEM_BLOCK;
    return VIRTIO_MEM_RESP_ACK;
}

static uint16_t state_of(const struct virtio_mem *mem, uint64_t first, uint64_t count)
{
    uint64_t found = count_plugged(mem, first, count);
    return found == count ? VIRTIO_MEM_STATE_PLUGGED
           : found == 0   ? VIRTIO_MEM_STATE_UNPLUGGED
                          : VIRTIO_MEM_STATE_MIXED;
}

/* All requests about blocks have their members at the same places (5.15.6). */
static uint16_t carry_out(struct virtio_mem *mem, const uint8_t *request, uint16_t *out_state)
{
    uint16_t type = le16_get(request);
    uint64_t first = 0;
    uint16_t count = le16_get(request + 16);
    if (type == VIRTIO_MEM_REQ_UNPLUG_ALL) {
        mem->unplug_requests++;
        unplug_all(mem);
        return VIRTIO_MEM_RESP_ACK;
    }
    if (!find_blocks(mem, le64_get(request + 8), count, &first)) {
        return VIRTIO_MEM_RESP_ERROR;
    }
    switch (type) {
    case VIRTIO_MEM_REQ_PLUG:
        return plug(mem, first, count);
    case VIRTIO_MEM_REQ_UNPLUG:
        return unplug(mem, first, count);
    case VIRTIO_MEM_REQ_STATE:
        *out_state = state_of(mem, first, count);
        return VIRTIO_MEM_RESP_ACK;
    default:
        return VIRTIO_MEM_RESP_ERROR;
    }
}

static void mem_process(struct virtio_device *virtio, unsigned index)
{
    struct virtio_mem *mem = mem_from_virtio(virtio);
    struct virtqueue *queue = virtio_queue(virtio, index);
    unsigned done = 0;
    while (done < CHAINS_PER_TURN && virtio_pop(virtio, index, &mem->chain)) {
        uint8_t request[REQUEST_SIZE], response[RESPONSE_SIZE] = {0};
        uint16_t state = 0;
        if (virtqueue_read(&mem->chain, 0, request, sizeof(request)) != sizeof(request) ||
            mem->chain.writable_bytes < sizeof(response)) {
            virtqueue_unpop(queue);
            queue->broken = "a memory request that is too short";
            break;
        }
        uint16_t type = carry_out(mem, request, &state);
        mem->denied_requests += type != VIRTIO_MEM_RESP_ACK;
        le16_put(response, type);
        le16_put(response + 8, state);
        size_t written = virtqueue_write(&mem->chain, 0, response, sizeof(response));
        virtqueue_push(queue, &mem->chain, (uint32_t)written);
        done++;
    }
    virtqueue_set_notify(queue, true);
    virtio_interrupt(virtio, index);
    if (virtqueue_has_chain(queue)) {
        virtio_notify(virtio, index);
    }
}

static void mem_read_config(struct virtio_device *virtio, uint32_t offset, void *out_data,
                            uint32_t size)
{
    const struct virtio_mem *mem = mem_from_virtio(virtio);
    const struct virtio_mem_config config = {
        .block_size = VIRTIO_MEM_BLOCK,
        .addr = mem->gpa,
        .region_size = mem->size_bytes,
        .usable_region_size = mem->usable_bytes,
        .plugged_size = mem->plugged_bytes,
        .requested_size = mem->requested_bytes,
    };
    memcpy(out_data, (const uint8_t *)&config + offset, size);
}

int virtio_mem_set_requested(struct device *device, uint64_t bytes, struct error *err)
{
    struct virtio_mem *mem = mem_from_virtio(virtio_from_device(device));
    uint64_t requested = align_up(MIN(bytes, mem->size_bytes), VIRTIO_MEM_BLOCK);
    int rc = 0;
    virtio_lock(&mem->virtio);
    /* It never shrinks here: a vCPU may remember what it has found there. */
    if (usable_for(mem, requested) > mem->usable_bytes) {
        rc = set_usable(mem, usable_for(mem, requested), err);
    }
    if (rc == 0 && requested != mem->requested_bytes) {
        mem->requested_bytes = requested;
        virtio_config_changed(&mem->virtio);
    }
    virtio_unlock(&mem->virtio);
    return rc;
}

uint64_t virtio_mem_requested(struct device *device)
{
    struct virtio_mem *mem = mem_from_virtio(virtio_from_device(device));
    virtio_lock(&mem->virtio);
    uint64_t bytes = mem->requested_bytes;
    virtio_unlock(&mem->virtio);
    return bytes;
}

uint64_t virtio_mem_plugged(struct device *device)
{
    struct virtio_mem *mem = mem_from_virtio(virtio_from_device(device));
    virtio_lock(&mem->virtio);
    uint64_t bytes = mem->plugged_bytes;
    virtio_unlock(&mem->virtio);
    return bytes;
}

int virtio_mem_power_cycle(struct device *device, struct error *err)
{
    struct virtio_mem *mem = mem_from_virtio(virtio_from_device(device));
    virtio_lock(&mem->virtio);
    unplug_all(mem);
    int rc = set_usable(mem, usable_for(mem, mem->requested_bytes), err);
    virtio_unlock(&mem->virtio);
    return rc;
}

static void mem_save(struct virtio_device *virtio, struct archive_writer *writer)
{
    const struct virtio_mem *mem = mem_from_virtio(virtio);
    archive_put_u64(writer, mem->requested_bytes);
    archive_put_u64(writer, mem->usable_bytes);
    for (size_t i = 0; i < word_count(mem); i++) {
        archive_put_u64(writer, mem->plugged[i]);
    }
}

/* The slot's memory has been restored before, as far as the file has any. */
static int mem_restore(struct virtio_device *virtio, struct archive_reader *reader,
                       uint32_t version, struct error *err)
{
    struct virtio_mem *mem = mem_from_virtio(virtio);
    uint64_t requested = archive_get_u64(reader);
    uint64_t usable = archive_get_u64(reader);
    uint64_t blocks = usable / VIRTIO_MEM_BLOCK;
    for (size_t i = 0; i < word_count(mem); i++) {
        mem->plugged[i] = archive_get_u64(reader);
    }
    bool is_sound = reader->status == 0 && requested % VIRTIO_MEM_BLOCK == 0 &&
                    usable % VIRTIO_MEM_BLOCK == 0 && usable <= mem->size_bytes &&
                    requested <= usable;
    for (uint64_t block = blocks; is_sound && block < word_count(mem) * PER_WORD; block++) {
        is_sound = !is_plugged(mem, block);
    }
    if (!is_sound) {
        memset(mem->plugged, 0, word_count(mem) * sizeof(*mem->plugged));
        mem->plugged_bytes = 0;
        return error_set(err, EBADMSG, "%s: its saved state cannot be", virtio->device.name);
    }
    mem->requested_bytes = requested;
    mem->plugged_bytes = count_plugged(mem, 0, blocks) * VIRTIO_MEM_BLOCK;
    int rc = set_usable(mem, usable, err);
    if (rc == 0) {
        discard(mem, false);
    }
    return rc;
}

static void mem_stats(struct virtio_device *virtio,
                      void (*emit)(void *ctx, const char *name, uint64_t value), void *ctx)
{
    const struct virtio_mem *mem = mem_from_virtio(virtio);
    emit(ctx, "requested_bytes", mem->requested_bytes);
    emit(ctx, "plugged_bytes", mem->plugged_bytes);
    emit(ctx, "plug_requests", mem->plug_requests);
    emit(ctx, "unplug_requests", mem->unplug_requests);
    emit(ctx, "denied_requests", mem->denied_requests);
}

static void mem_destroy(struct virtio_device *virtio)
{
    struct virtio_mem *mem = mem_from_virtio(virtio);
    virtio_fini(virtio);
    free(mem->plugged);
    free(mem);
}

static const struct virtio_ops mem_ops = {
    .type = "virtio-mem",
    .version = 1,
    .device_id = VIRTIO_ID_MEM,
    .pci_class = 0x00ff00,
    .queue_count = 1,
    .queue_size = {QUEUE_SIZE},
    .config_size = sizeof(struct virtio_mem_config),
    .required_features = BIT(VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE),
    .process = mem_process,
    .read_config = mem_read_config,
    .save = mem_save,
    .restore = mem_restore,
    .stats = mem_stats,
    .destroy = mem_destroy,
};

int virtio_mem_create(const struct virtio_mem_options *options, struct device **out_device,
                      struct error *err)
{
    struct virtio_mem *mem = calloc(1, sizeof(*mem));
    if (mem == NULL) {
        return error_set_errno(err, ENOMEM, "creating a virtio memory device");
    }
    mem->gpa = options->gpa;
    mem->size_bytes = options->size_bytes;
    mem->plugged = calloc(word_count(mem), sizeof(*mem->plugged));
    int rc = mem->plugged == NULL
                 ? error_set_errno(err, ENOMEM, "creating a virtio memory device")
                 : virtio_init(&mem->virtio, &mem_ops, BIT(VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE),
                               &options->common, err);
    if (rc < 0) {
        free(mem->plugged);
        free(mem);
        return rc;
    }
    *out_device = &mem->virtio.device;
    return 0;
}
