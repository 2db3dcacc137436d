#include "device/virtio/block.h"

#include <linux/virtio_blk.h>
#include <stdlib.h>
#include <string.h>

#include "base/core/checked.h"
#include "base/core/endian.h"
#include "device/virtio/virtio.h"

#define QUEUE_SIZE        256u
#define SECTOR_SIZE       512u
#define HEADER_SIZE       16u
#define RANGE_SIZE        16u
#define MAX_RANGES        16u
#define MAX_RANGE_SECTORS (1u << 22) /* 2 GiB in one discard */
#define CHAINS_PER_TURN   256u
/* More than that takes longer than an interrupt: the driver works on it meanwhile. */
#define UNTOLD_BYTES (128u * 1024)

/* One range of a discard or write zeroes request. */
struct range {
    uint64_t sector;
    uint32_t sector_count;
    uint32_t flags;
};

struct blk_request {
    struct block_request request;
    struct virtio_blk *blk;
    struct virtqueue_chain chain;
    uint32_t type;
    uint32_t range_count, range_index;
    struct range range[MAX_RANGES];
    struct blk_request *next;                  /* of those that are free, or held */
    struct iovec data[VIRTQUEUE_MAX_SEGMENTS]; /* of the chain, without header and status */
};

struct virtio_blk {
    struct virtio_device virtio;
    struct block *block;
    struct block_info info;
    char serial[VIRTIO_BLK_ID_BYTES];
    enum virtio_blk_on_error on_read_error, on_write_error;
    bool is_write_through; /* unless the driver wants it otherwise */
    bool is_writeback;     /* as the driver set it */
    /* The loop's thread holds the lock already when a completion comes from within its own call of the disk. */
    bool is_calling_block;
    /* While a batch of requests is started, those that end at once are told of together. */
    bool is_processing;
    uint64_t untold_bytes;
    struct blk_request *free;
    /* Requests that failed and wait for the VM to go on. */
    struct blk_request *held, **held_tail;
    /* The same after a restore, until the driver's queue can be looked at: where their chains begin. */
    uint16_t restored[QUEUE_SIZE];
    unsigned restored_count;

    uint64_t reads, writes, flushes, discards, errors;
    uint64_t read_bytes, written_bytes;
};

static struct virtio_blk *blk_from_virtio(struct virtio_device *virtio)
{
    return container_of(virtio, struct virtio_blk, virtio);
}

static struct blk_request *take_request(struct virtio_blk *blk)
{
    struct blk_request *request = blk->free;
    if (request != NULL) {
        blk->free = request->next;
    } else {
        request = malloc(sizeof(*request));
    }
    return request;
}

static void give_request(struct virtio_blk *blk, struct blk_request *request)
{
    request->next = blk->free;
    blk->free = request;
}

static void tell_driver(struct virtio_blk *blk)
{
    blk->untold_bytes = 0;
    virtio_interrupt(&blk->virtio, 0);
}

/* Writes the status byte, the last one that the device may write, and gives the chain back. */
static void finish(struct blk_request *request, uint8_t status)
{
    struct virtio_blk *blk = request->blk;
    const struct virtqueue_chain *chain = &request->chain;
    struct virtqueue *queue = virtio_queue(&blk->virtio, 0);
    blk->errors += status != VIRTIO_BLK_S_OK;
    if (queue->broken == NULL) {
        (void)virtqueue_write(chain, chain->writable_bytes - 1, &status, 1); /* there is one */
        virtqueue_push(queue, chain, (uint32_t)MIN(chain->writable_bytes, UINT32_MAX));
        blk->untold_bytes += chain->writable_bytes + chain->readable_bytes;
        if (!blk->is_processing || blk->untold_bytes >= UNTOLD_BYTES) {
            tell_driver(blk);
        }
    }
    give_request(blk, request);
}

/* A write must reach the disk before it completes unless the driver flushes (5.2.6.2). */
static bool is_write_through(const struct virtio_blk *blk)
{
    return !blk->is_writeback || !virtio_has_feature(&blk->virtio, VIRTIO_BLK_F_FLUSH);
}

static void submit_range(struct blk_request *request)
{
    const struct range *range = &request->range[request->range_index++];
    request->request.offset_bytes = range->sector * SECTOR_SIZE;
    request->request.size_bytes = (uint64_t)range->sector_count * SECTOR_SIZE;
    request->request.may_unmap = (range->flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP) != 0;
    block_submit(request->blk->block, &request->request);
}

/* Starts the next step of a request that has one. */
static bool continue_request(struct blk_request *request)
{
    if (request->range_index < request->range_count) {
        submit_range(request);
        return true;
    }
    if (request->request.op != BLOCK_READ && request->request.op != BLOCK_FLUSH &&
        is_write_through(request->blk)) {
        request->request.op = BLOCK_FLUSH;
        block_submit(request->blk->block, &request->request);
        return true;
    }
    return false;
}

static bool is_write(const struct blk_request *request)
{
    return request->type != VIRTIO_BLK_T_IN;
}

/* A request failed: true if that is for the guest to know. */
static bool must_report(struct blk_request *request, int status)
{
    struct virtio_blk *blk = request->blk;
    const struct device_host *host = blk->virtio.host;
    enum virtio_blk_on_error on_error =
        is_write(request) ? blk->on_write_error : blk->on_read_error;
    bool stops =
        on_error == VIRTIO_BLK_STOP || (on_error == VIRTIO_BLK_ENOSPC && status == -ENOSPC);
    if (host->disk_failed != NULL) {
        host->disk_failed(host->ctx, blk->virtio.device.name, is_write(request), -status, stops);
    }
    if (stops) {
        blk->errors++;
        request->next = NULL;
        *blk->held_tail = request;
        blk->held_tail = &request->next;
        return false;
    }
    if (on_error == VIRTIO_BLK_IGNORE) {
        finish(request, VIRTIO_BLK_S_OK);
        return false;
    }
    return true;
}

/* What the guest itself is to blame for, the disk did not fail at. */
static bool is_disk_failure(int status)
{
    return status < 0 && status != -EOPNOTSUPP && status != -EINVAL && status != -EROFS;
}

static void request_done(struct block_request *done, int status)
{
    struct blk_request *request = container_of(done, struct blk_request, request);
    struct virtio_blk *blk = request->blk;
    bool must_lock = !blk->is_calling_block;
    if (must_lock) {
        virtio_lock(&blk->virtio);
        blk->is_calling_block = true;
    }
    bool is_over = status < 0 || !continue_request(request);
    if (is_over && (!is_disk_failure(status) || must_report(request, status))) {
        finish(request, status == 0             ? VIRTIO_BLK_S_OK
                        : status == -EOPNOTSUPP ? VIRTIO_BLK_S_UNSUPP
                                                : VIRTIO_BLK_S_IOERR);
    }
    if (must_lock) {
        blk->is_calling_block = false;
        virtio_unlock(&blk->virtio);
    }
}

/* iov[0 .. count) without the first 'skip' bytes, at most 'size' bytes, into request->data; returns the number of parts. */
static int cut_vector(struct blk_request *request, const struct iovec *iov, unsigned count,
                      uint64_t skip, uint64_t size)
{
    int parts = 0;
    for (unsigned i = 0; i < count && size > 0; i++) {
        size_t cut = (size_t)MIN(skip, iov[i].iov_len);
        size_t length = (size_t)MIN(size, iov[i].iov_len - cut);
        skip -= cut;
        if (length > 0) {
            request->data[parts++] = (struct iovec){(uint8_t *)iov[i].iov_base + cut, length};
            size -= length;
        }
    }
    return parts;
}

static void start_transfer(struct blk_request *request, uint64_t sector)
{
    struct virtio_blk *blk = request->blk;
    const struct virtqueue_chain *chain = &request->chain;
    struct block_request *to = &request->request;
    bool is_read = request->type == VIRTIO_BLK_T_IN;
    if (!checked_mul(sector, (uint64_t)SECTOR_SIZE, &to->offset_bytes)) {
        finish(request, VIRTIO_BLK_S_IOERR);
        return;
    }
    if (is_read) {
        to->op = BLOCK_READ;
        to->size_bytes = chain->writable_bytes - 1;
        to->iov_count = cut_vector(request, chain->iov + chain->readable_count,
                                   chain->writable_count, 0, to->size_bytes);
        blk->reads++;
        blk->read_bytes += to->size_bytes;
    } else {
        to->op = BLOCK_WRITE;
        to->size_bytes = chain->readable_bytes - HEADER_SIZE;
        to->iov_count =
            cut_vector(request, chain->iov, chain->readable_count, HEADER_SIZE, to->size_bytes);
        blk->writes++;
        blk->written_bytes += to->size_bytes;
    }
    to->iov = request->data;
    block_submit(blk->block, to);
}

/* Discard and write zeroes (5.2.6): all ranges are checked before the first is carried out. */
static void start_ranges(struct blk_request *request)
{
    struct virtio_blk *blk = request->blk;
    bool is_discard = request->type == VIRTIO_BLK_T_DISCARD;
    uint64_t bytes = request->chain.readable_bytes - HEADER_SIZE;
    uint32_t known_flags = is_discard ? 0 : VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
    if (bytes == 0 || bytes % RANGE_SIZE != 0 || bytes / RANGE_SIZE > MAX_RANGES) {
        finish(request, VIRTIO_BLK_S_IOERR);
        return;
    }
    request->range_count = (uint32_t)(bytes / RANGE_SIZE);
    request->range_index = 0;
    for (uint32_t i = 0; i < request->range_count; i++) {
        uint8_t raw[RANGE_SIZE] = {0};
        (void)virtqueue_read(&request->chain, HEADER_SIZE + i * RANGE_SIZE, raw,
                             sizeof(raw)); /* 'bytes' says that it is there */
        struct range *range = &request->range[i];
        *range = (struct range){le64_get(raw), le32_get(raw + 8), le32_get(raw + 12)};
        uint8_t status = VIRTIO_BLK_S_OK;
        if ((range->flags & ~known_flags) != 0) {
            status = VIRTIO_BLK_S_UNSUPP;
        } else if (range->sector_count > MAX_RANGE_SECTORS ||
                   !range_fits(range->sector, range->sector_count,
                               blk->info.size_bytes / SECTOR_SIZE)) {
            status = VIRTIO_BLK_S_IOERR;
        }
        if (status != VIRTIO_BLK_S_OK) {
            request->range_count = 0;
            finish(request, status);
            return;
        }
    }
    blk->discards++;
    request->request.op = is_discard ? BLOCK_DISCARD : BLOCK_WRITE_ZEROES;
    submit_range(request);
}

static void start_request(struct blk_request *request)
{
    struct virtio_blk *blk = request->blk;
    uint8_t header[HEADER_SIZE] = {0};
    (void)virtqueue_read(&request->chain, 0, header, sizeof(header)); /* it is there: see below */
    request->type = le32_get(header);
    request->range_count = 0;
    request->range_index = 0;
    request->request = (struct block_request){.done = request_done};
    switch (request->type) {
    case VIRTIO_BLK_T_IN:
    case VIRTIO_BLK_T_OUT:
        start_transfer(request, le64_get(header + 8));
        break;
    case VIRTIO_BLK_T_FLUSH:
        blk->flushes++;
        request->request.op = BLOCK_FLUSH;
        block_submit(blk->block, &request->request);
        break;
    case VIRTIO_BLK_T_GET_ID:
        (void)virtqueue_write(&request->chain, 0, blk->serial,
                              MIN(sizeof(blk->serial), (size_t)request->chain.writable_bytes -
                                                           1)); /* as much as there is room */
        finish(request, VIRTIO_BLK_S_OK);
        break;
    case VIRTIO_BLK_T_DISCARD:
    case VIRTIO_BLK_T_WRITE_ZEROES:
        start_ranges(request);
        break;
    default:
        finish(request, VIRTIO_BLK_S_UNSUPP);
        break;
    }
}

static bool has_header_and_status(const struct blk_request *request)
{
    return request->chain.readable_bytes >= HEADER_SIZE && request->chain.writable_bytes >= 1;
}

/* Takes and starts requests; false: the queue is empty or broken, or there is no memory for more. */
static bool start_next(struct virtio_blk *blk)
{
    struct blk_request *request = take_request(blk);
    if (request == NULL) {
        return false;
    }
    request->blk = blk;
    if (!virtio_pop(&blk->virtio, 0, &request->chain)) {
        give_request(blk, request);
        return false;
    }
    if (!has_header_and_status(request)) {
        give_request(blk, request);
        virtio_queue(&blk->virtio, 0)->broken = "disk request without header or status";
        return false;
    }
    start_request(request);
    return true;
}

/* Takes and starts what is in the queue, at most 'limit' requests. Returns how many. */
static unsigned start_batch(struct virtio_blk *blk, unsigned limit)
{
    unsigned count = 0;
    block_plug(blk->block);
    blk->is_processing = true;
    while (count < limit && start_next(blk)) {
        count++;
    }
    block_unplug(blk->block);
    blk->is_processing = false;
    if (blk->untold_bytes > 0) {
        tell_driver(blk);
    }
    return count;
}

/* A repeatable machine has one request after the other, as several end in any order; and all, as the guest waits. */
static unsigned start_one_by_one(struct virtio_blk *blk)
{
    unsigned count = 0;
    while (start_next(blk)) {
        count++;
        block_drain(blk->block);
    }
    return count;
}

static void blk_process(struct virtio_device *virtio, unsigned index)
{
    struct virtio_blk *blk = blk_from_virtio(virtio);
    struct virtqueue *queue = virtio_queue(virtio, index);
    bool is_repeatable = virtio->host->is_repeatable;
    unsigned count = 0;
    blk->is_calling_block = true;
    do {
        virtqueue_set_notify(queue, false);
        count += is_repeatable ? start_one_by_one(blk) : start_batch(blk, CHAINS_PER_TURN - count);
        /* What came while requests were carried out needed no notification. */
        virtqueue_set_notify(queue, true);
    } while ((is_repeatable || count < CHAINS_PER_TURN) && virtio_is_running(virtio) &&
             virtqueue_has_chain(queue) && queue->in_flight < queue->size);
    blk->is_calling_block = false;
    if (!is_repeatable && count >= CHAINS_PER_TURN) {
        virtio_notify(virtio, index); /* others' turn first */
    }
}

static void blk_drain(struct virtio_device *virtio)
{
    struct virtio_blk *blk = blk_from_virtio(virtio);
    blk->is_calling_block = true;
    block_drain(blk->block);
    blk->is_calling_block = false;
}

static struct blk_request *take_held(struct virtio_blk *blk)
{
    struct blk_request *list = blk->held;
    blk->held = NULL;
    blk->held_tail = &blk->held;
    return list;
}

static void blk_reset(struct virtio_device *virtio)
{
    struct virtio_blk *blk = blk_from_virtio(virtio);
    blk_drain(virtio);
    for (struct blk_request *list = take_held(blk), *next; list != NULL; list = next) {
        next = list->next;
        give_request(blk, list);
    }
    blk->restored_count = 0;
    blk->is_writeback = !blk->is_write_through;
}

/* Those that failed: each once more. */
static void blk_resume(struct virtio_device *virtio)
{
    struct virtio_blk *blk = blk_from_virtio(virtio);
    blk->is_calling_block = true;
    for (struct blk_request *list = take_held(blk), *next; list != NULL; list = next) {
        next = list->next;
        block_submit(blk->block, &list->request);
    }
    blk->is_calling_block = false;
}

/* Of a state that was saved with requests held: they begin anew. */
static void blk_start(struct virtio_device *virtio)
{
    struct virtio_blk *blk = blk_from_virtio(virtio);
    blk->is_calling_block = true;
    for (unsigned i = 0; i < blk->restored_count; i++) {
        struct blk_request *request = take_request(blk);
        if (request == NULL) {
            virtio_break(virtio, "no memory for a request that was saved");
            break;
        }
        request->blk = blk;
        if (virtqueue_take(virtio_queue(virtio, 0), blk->restored[i], &request->chain) !=
                VIRTQUEUE_CHAIN ||
            !has_header_and_status(request)) {
            give_request(blk, request);
            virtio_break(virtio, "a disk request that was saved cannot be");
            break;
        }
        start_request(request);
    }
    blk->restored_count = 0;
    blk->is_calling_block = false;
}

static void blk_read_config(struct virtio_device *virtio, uint32_t offset, void *out_data,
                            uint32_t size)
{
    const struct virtio_blk *blk = blk_from_virtio(virtio);
    const struct block_info *info = &blk->info;
    uint32_t sectors_per_physical = info->physical_block_size / SECTOR_SIZE;
    uint32_t blocks_per_physical = info->physical_block_size / info->logical_block_size;
    struct virtio_blk_config config = {
        .capacity = info->size_bytes / SECTOR_SIZE,
        .seg_max = QUEUE_SIZE - 2, /* header and status take two descriptors */
        .blk_size = info->logical_block_size,
        .physical_block_exp = (uint8_t)__builtin_ctz(blocks_per_physical),
        .min_io_size = (uint16_t)blocks_per_physical,
        .wce = blk->is_writeback,
        .num_queues = 1,
        .max_discard_sectors = MAX_RANGE_SECTORS,
        .max_discard_seg = MAX_RANGES,
        .discard_sector_alignment = sectors_per_physical,
        .max_write_zeroes_sectors = MAX_RANGE_SECTORS,
        .max_write_zeroes_seg = MAX_RANGES,
        .write_zeroes_may_unmap = 1,
    };
    memcpy(out_data, (const uint8_t *)&config + offset, size);
}

static void blk_write_config(struct virtio_device *virtio, uint32_t offset, const void *data,
                             uint32_t size)
{
    uint8_t value = *(const uint8_t *)data;
    if (offset == offsetof(struct virtio_blk_config, wce) && size == 1 && value <= 1 &&
        virtio_has_feature(virtio, VIRTIO_BLK_F_CONFIG_WCE)) {
        blk_from_virtio(virtio)->is_writeback = value == 1;
    }
}

static void blk_save(struct virtio_device *virtio, struct archive_writer *writer)
{
    const struct virtio_blk *blk = blk_from_virtio(virtio);
    archive_put_u64(writer, blk->info.size_bytes);
    archive_put_bool(writer, blk->is_writeback);
    uint16_t count = (uint16_t)blk->restored_count;
    for (const struct blk_request *held = blk->held; held != NULL; held = held->next) {
        count++;
    }
    archive_put_u16(writer, count);
    for (unsigned i = 0; i < blk->restored_count; i++) {
        archive_put_u16(writer, blk->restored[i]);
    }
    for (const struct blk_request *held = blk->held; held != NULL; held = held->next) {
        archive_put_u16(writer, held->chain.head);
    }
}

static int blk_restore(struct virtio_device *virtio, struct archive_reader *reader,
                       uint32_t version, struct error *err)
{
    struct virtio_blk *blk = blk_from_virtio(virtio);
    uint64_t size_bytes = archive_get_u64(reader);
    blk->is_writeback = archive_get_bool(reader);
    uint16_t count = version >= 2 ? archive_get_u16(reader) : 0;
    if (count > QUEUE_SIZE) {
        return error_set(err, EBADMSG, "%s: saved with more requests than it can have",
                         virtio->device.name);
    }
    for (unsigned i = 0; i < count; i++) {
        blk->restored[i] = archive_get_u16(reader);
    }
    blk->restored_count = reader->status == 0 ? count : 0;
    if (reader->status == 0 && size_bytes != blk->info.size_bytes) {
        return error_set(err, EINVAL, "%s: saved with a disk of %llu bytes, this one has %llu",
                         virtio->device.name, (unsigned long long)size_bytes,
                         (unsigned long long)blk->info.size_bytes);
    }
    return 0;
}

static void blk_stats(struct virtio_device *virtio,
                      void (*emit)(void *ctx, const char *name, uint64_t value), void *ctx)
{
    const struct virtio_blk *blk = blk_from_virtio(virtio);
    emit(ctx, "reads", blk->reads);
    emit(ctx, "read_bytes", blk->read_bytes);
    emit(ctx, "writes", blk->writes);
    emit(ctx, "written_bytes", blk->written_bytes);
    emit(ctx, "flushes", blk->flushes);
    emit(ctx, "discards", blk->discards);
    emit(ctx, "errors", blk->errors);
}

static void blk_destroy(struct virtio_device *virtio)
{
    struct virtio_blk *blk = blk_from_virtio(virtio);
    block_close(blk->block);
    virtio_fini(virtio);
    while (blk->free != NULL) {
        struct blk_request *request = blk->free;
        blk->free = request->next;
        free(request);
    }
    free(blk);
}

static const struct virtio_ops blk_ops = {
    .type = "virtio-blk",
    .version = 2,
    .device_id = VIRTIO_ID_BLOCK,
    .pci_class = 0x018000,
    .queue_count = 1,
    .queue_size = {QUEUE_SIZE},
    .config_size = offsetof(struct virtio_blk_config, max_secure_erase_sectors),
    .process = blk_process,
    .start = blk_start,
    .resume = blk_resume,
    .reset = blk_reset,
    .drain = blk_drain,
    .read_config = blk_read_config,
    .write_config = blk_write_config,
    .save = blk_save,
    .restore = blk_restore,
    .stats = blk_stats,
    .destroy = blk_destroy,
};

int virtio_blk_create(const struct virtio_blk_options *options, struct device **out_device,
                      struct error *err)
{
    struct virtio_blk *blk = calloc(1, sizeof(*blk));
    if (blk == NULL) {
        block_close(options->block);
        return error_set_errno(err, ENOMEM, "creating a virtio disk");
    }
    blk->block = options->block;
    blk->held_tail = &blk->held;
    blk->on_read_error = options->on_read_error;
    blk->on_write_error = options->on_write_error;
    blk->is_write_through = options->is_write_through;
    blk->is_writeback = !blk->is_write_through;
    block_get_info(blk->block, &blk->info);
    if (options->serial != NULL) {
        memcpy(blk->serial, options->serial, strnlen(options->serial, sizeof(blk->serial)));
    }
    uint64_t features = BIT(VIRTIO_BLK_F_SEG_MAX) | BIT(VIRTIO_BLK_F_BLK_SIZE) |
                        BIT(VIRTIO_BLK_F_FLUSH) | BIT(VIRTIO_BLK_F_TOPOLOGY) |
                        BIT(VIRTIO_BLK_F_CONFIG_WCE);
    features |= blk->info.is_readonly ? BIT(VIRTIO_BLK_F_RO) : 0;
    features |= blk->info.can_discard ? BIT(VIRTIO_BLK_F_DISCARD) : 0;
    features |= blk->info.can_write_zeroes ? BIT(VIRTIO_BLK_F_WRITE_ZEROES) : 0;
    int rc = virtio_init(&blk->virtio, &blk_ops, features, &options->common, err);
    if (rc < 0) {
        block_close(blk->block);
        free(blk);
        return rc;
    }
    *out_device = &blk->virtio.device;
    return 0;
}

void virtio_blk_resized(struct device *device)
{
    struct virtio_blk *blk = blk_from_virtio(virtio_from_device(device));
    struct block_info info;
    virtio_lock(&blk->virtio);
    block_get_info(blk->block, &info);
    blk->info.size_bytes = info.size_bytes; /* all else stays as the driver was told */
    virtio_config_changed(&blk->virtio);
    virtio_unlock(&blk->virtio);
}
