#include "device/virtio/rng.h"

#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <sys/random.h>

#include "device/virtio/virtio.h"

#define QUEUE_SIZE        64u
#define MAX_REQUEST_BYTES 65536u /* the guest asks again for more */
#define CHAINS_PER_TURN   64u

struct virtio_rng {
    struct virtio_device virtio;
    uint64_t bytes;
    uint64_t sequence; /* of a repeatable machine */
    struct virtqueue_chain chain;
};

static struct virtio_rng *rng_from_virtio(struct virtio_device *virtio)
{
    return container_of(virtio, struct virtio_rng, virtio);
}

/* The same bytes in each run, by SplitMix64. Not for keys. */
static ssize_t get_repeatable(struct virtio_rng *rng, uint8_t *out_data, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        uint64_t z = rng->sequence += 0x9e3779b97f4a7c15ull;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
        z = (z ^ z >> 27) * 0x94d049bb133111ebull;
        out_data[i] = (uint8_t)(z ^ z >> 31);
    }
    return (ssize_t)size;
}

static uint32_t fill(struct virtio_rng *rng, const struct virtqueue_chain *chain)
{
    uint32_t done = 0;
    const struct iovec *iov = chain->iov + chain->readable_count;
    for (unsigned i = 0; i < chain->writable_count; i++) {
        size_t at = 0;
        while (at < iov[i].iov_len && done < MAX_REQUEST_BYTES) {
            size_t size = MIN(iov[i].iov_len - at, MAX_REQUEST_BYTES - done);
            uint8_t *to = (uint8_t *)iov[i].iov_base + at;
            ssize_t n = rng->virtio.host->is_repeatable ? get_repeatable(rng, to, size)
                                                        : getrandom(to, size, 0);
            if (n < 0 && errno == EINTR) {
                continue;
            }
            if (n < 0) {
                return done; /* not on any kernel that we know; the guest sees fewer bytes */
            }
            at += (size_t)n;
            done += (uint32_t)n;
        }
    }
    return done;
}

static void rng_process(struct virtio_device *virtio, unsigned index)
{
    struct virtio_rng *rng = rng_from_virtio(virtio);
    unsigned count = 0;
    while (count < CHAINS_PER_TURN && virtio_pop(virtio, index, &rng->chain)) {
        uint32_t size = fill(rng, &rng->chain);
        rng->bytes += size;
        virtqueue_push(virtio_queue(virtio, index), &rng->chain, size);
        count++;
    }
    virtqueue_set_notify(virtio_queue(virtio, index), true);
    virtio_interrupt(virtio, index);
    if (virtqueue_has_chain(virtio_queue(virtio, index))) {
        virtio_notify(virtio, index);
    }
}

static void rng_stats(struct virtio_device *virtio,
                      void (*emit)(void *ctx, const char *name, uint64_t value), void *ctx)
{
    emit(ctx, "bytes", rng_from_virtio(virtio)->bytes);
}

static void rng_destroy(struct virtio_device *virtio)
{
    virtio_fini(virtio);
    free(rng_from_virtio(virtio));
}

static const struct virtio_ops rng_ops = {
    .type = "virtio-rng",
    .version = 1,
    .device_id = VIRTIO_ID_RNG,
    .pci_class = 0x00ff00,
    .queue_count = 1,
    .queue_size = {QUEUE_SIZE},
    .process = rng_process,
    .stats = rng_stats,
    .destroy = rng_destroy,
};

int virtio_rng_create(const struct virtio_rng_options *options, struct device **out_device,
                      struct error *err)
{
    struct virtio_rng *rng = calloc(1, sizeof(*rng));
    if (rng == NULL) {
        return error_set_errno(err, ENOMEM, "creating a virtio random number generator");
    }
    int rc = virtio_init(&rng->virtio, &rng_ops, 0, &options->common, err);
    if (rc < 0) {
        free(rng);
        return rc;
    }
    *out_device = &rng->virtio.device;
    return 0;
}
