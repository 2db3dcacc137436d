#include "device/virtio/console.h"

#include <linux/virtio_console.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <string.h>

#include "device/virtio/virtio.h"

#define QUEUE_SIZE      64u
#define RECEIVE         0u /* queues, as the guest names them */
#define TRANSMIT        1u
#define CHAINS_PER_TURN 64u

struct virtio_console {
    struct virtio_device virtio;
    struct virtio_console_options options;
    struct event_notifier *ready; /* to call input_ready without the lock */
    bool has_waiting_input;       /* the last input was not taken whole */
    uint16_t columns, rows;
    bool is_size_told; /* to this driver */
    uint64_t sent_bytes, received_bytes;
    struct virtqueue_chain chain;
};

static struct virtio_console *console_from_virtio(struct virtio_device *virtio)
{
    return container_of(virtio, struct virtio_console, virtio);
}

static void call_input_ready(void *ctx)
{
    struct virtio_console *console = ctx;
    if (console->options.input_ready != NULL) {
        console->options.input_ready(console->options.ctx);
    }
}

static void transmit(struct virtio_console *console)
{
    struct virtio_device *virtio = &console->virtio;
    struct virtqueue *queue = virtio_queue(virtio, TRANSMIT);
    const struct virtqueue_chain *chain = &console->chain;
    unsigned count = 0;
    while (count < CHAINS_PER_TURN && virtio_pop(virtio, TRANSMIT, &console->chain)) {
        for (unsigned i = 0; i < chain->readable_count; i++) {
            console->options.write(console->options.ctx, chain->iov[i].iov_base,
                                   chain->iov[i].iov_len);
        }
        console->sent_bytes += chain->readable_bytes;
        virtqueue_push(queue, chain, 0);
        count++;
    }
    /* Linux looks at the size only when it changes, and only once its console is there, which the first output shows. */
    if (count != 0 && !console->is_size_told && console->columns != 0) {
        console->is_size_told = true;
        virtio_config_changed(virtio);
    }
    virtqueue_set_notify(queue, true);
    virtio_interrupt(virtio, TRANSMIT);
    if (virtqueue_has_chain(queue)) {
        virtio_notify(virtio, TRANSMIT);
    }
}

static void console_process(struct virtio_device *virtio, unsigned index)
{
    struct virtio_console *console = console_from_virtio(virtio);
    if (index == TRANSMIT) {
        transmit(console);
    } else if (console->has_waiting_input && virtqueue_has_chain(virtio_queue(virtio, RECEIVE))) {
        console->has_waiting_input = false;
        event_notifier_signal(console->ready);
    }
}

size_t virtio_console_input(struct device *device, const uint8_t *data, size_t size)
{
    struct virtio_console *console = console_from_virtio(virtio_from_device(device));
    struct virtio_device *virtio = &console->virtio;
    struct virtqueue *queue = virtio_queue(virtio, RECEIVE);
    size_t done = 0;
    unsigned count = 0;
    virtio_lock(virtio);
    /* Bounded: a vCPU could add empty buffers for ever. */
    while (done < size && count < CHAINS_PER_TURN) {
        if (!virtio_pop(virtio, RECEIVE, &console->chain)) {
            if (!virtio_is_running(virtio) || !queue->is_enabled) {
                break;
            }
            virtqueue_set_notify(queue, true);
            if (!virtqueue_has_chain(queue)) {
                break;
            }
            continue;
        }
        size_t taken = virtqueue_write(&console->chain, 0, data + done, size - done);
        virtqueue_push(queue, &console->chain, (uint32_t)taken);
        done += taken;
        count++;
    }
    virtio_interrupt(virtio, RECEIVE);
    if (count == CHAINS_PER_TURN) {
        virtio_notify(virtio, RECEIVE); /* the rest after others' turn */
    }
    console->received_bytes += done;
    console->has_waiting_input = done < size;
    virtio_unlock(virtio);
    return done;
}

void virtio_console_resize(struct device *device, uint16_t columns, uint16_t rows)
{
    struct virtio_console *console = console_from_virtio(virtio_from_device(device));
    virtio_lock(&console->virtio);
    if (columns != console->columns || rows != console->rows) {
        console->columns = columns;
        console->rows = rows;
        virtio_config_changed(&console->virtio);
    }
    virtio_unlock(&console->virtio);
}

static void console_read_config(struct virtio_device *virtio, uint32_t offset, void *out_data,
                                uint32_t size)
{
    const struct virtio_console *console = console_from_virtio(virtio);
    struct virtio_console_config config = {
        .cols = console->columns, .rows = console->rows, .max_nr_ports = 1};
    memcpy(out_data, (const uint8_t *)&config + offset, size);
}

/* After a restore too: the terminal that the VM is restored on has its own size, so there is nothing to save. */
static void console_start(struct virtio_device *virtio)
{
    console_from_virtio(virtio)->is_size_told = false;
}

static void console_stats(struct virtio_device *virtio,
                          void (*emit)(void *ctx, const char *name, uint64_t value), void *ctx)
{
    const struct virtio_console *console = console_from_virtio(virtio);
    emit(ctx, "sent_bytes", console->sent_bytes);
    emit(ctx, "received_bytes", console->received_bytes);
}

static void console_destroy(struct virtio_device *virtio)
{
    struct virtio_console *console = console_from_virtio(virtio);
    virtio_fini(virtio);
    event_notifier_destroy(console->ready);
    free(console);
}

static const struct virtio_ops console_ops = {
    .type = "virtio-console",
    .version = 1,
    .device_id = VIRTIO_ID_CONSOLE,
    .pci_class = 0x078000,
    .queue_count = 2,
    .queue_size = {QUEUE_SIZE, QUEUE_SIZE},
    .config_size = sizeof(struct virtio_console_config),
    .process = console_process,
    .start = console_start,
    .read_config = console_read_config,
    .stats = console_stats,
    .destroy = console_destroy,
};

int virtio_console_create(const struct virtio_console_options *options, struct device **out_device,
                          struct error *err)
{
    struct virtio_console *console = calloc(1, sizeof(*console));
    if (console == NULL) {
        return error_set_errno(err, ENOMEM, "creating a virtio console");
    }
    console->options = *options;
    console->columns = 80;
    console->rows = 25;
    int rc = event_notifier_create(options->common.host->loop, call_input_ready, console,
                                   &console->ready, err);
    if (rc == 0) {
        rc = virtio_init(&console->virtio, &console_ops, BIT(VIRTIO_CONSOLE_F_SIZE),
                         &options->common, err);
    }
    if (rc < 0) {
        event_notifier_destroy(console->ready);
        free(console);
        return rc;
    }
    *out_device = &console->virtio.device;
    return 0;
}
