/* A 16550A serial port (PC16550D data sheet). Output leaves at once; input waits in the receiver's FIFO of 16 bytes. */
#include "device/serial/serial.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIFO_SIZE 16

enum {
    REG_DATA = 0, /* RBR, THR; DLL with DLAB */
    REG_IER = 1,  /* DLM with DLAB */
    REG_IIR = 2,  /* read */
    REG_FCR = 2,  /* write */
    REG_LCR = 3,
    REG_MCR = 4,
    REG_LSR = 5,
    REG_MSR = 6,
    REG_SCR = 7,
};

#define IER_RDA   0x01u
#define IER_THRE  0x02u
#define IER_LINE  0x04u
#define IER_MODEM 0x08u

#define IIR_NONE    0x01u
#define IIR_MODEM   0x00u
#define IIR_THRE    0x02u
#define IIR_RDA     0x04u
#define IIR_LINE    0x06u
#define IIR_TIMEOUT 0x0cu
#define IIR_FIFOS   0xc0u

#define FCR_ENABLE   0x01u
#define FCR_CLEAR_RX 0x02u
#define LCR_DLAB     0x80u
#define MCR_DTR      0x01u
#define MCR_RTS      0x02u
#define MCR_OUT1     0x04u
#define MCR_OUT2     0x08u /* on a PC: lets the interrupt out */
#define MCR_LOOP     0x10u
#define LSR_DATA     0x01u
#define LSR_OVERRUN  0x02u
#define LSR_THRE     0x20u
#define LSR_TEMT     0x40u
#define MSR_CTS      0x10u
#define MSR_DSR      0x20u
#define MSR_RI       0x40u
#define MSR_DCD      0x80u

struct serial {
    struct device device;
    struct serial_options options;
    pthread_mutex_t lock;

    uint8_t ier, lcr, mcr, fcr, scr;
    uint8_t lsr_errors;
    uint8_t msr; /* lines 7:4, what changed since the last read 3:0 */
    uint16_t divisor;
    bool thre_pending; /* "transmitter empty" not yet seen by reading IIR or writing */
    uint8_t fifo[FIFO_SIZE];
    unsigned fifo_head, fifo_count;
    bool input_waits; /* somebody was told "full" */
    uint64_t bytes_in, bytes_out;
};

static struct serial *serial_from_device(struct device *device)
{
    return container_of(device, struct serial, device);
}

static unsigned fifo_limit(const struct serial *serial)
{
    return (serial->fcr & FCR_ENABLE) != 0 ? FIFO_SIZE : 1;
}

static unsigned fifo_trigger(const struct serial *serial)
{
    static const uint8_t level[4] = {1, 4, 8, 14};
    return (serial->fcr & FCR_ENABLE) != 0 ? level[serial->fcr >> 6] : 1;
}

/* The interrupt of the highest priority that is pending (table 4 of the data sheet). The timeout of a FIFO that is not yet
 * at its trigger level counts as over at once: nothing more is known to come. */
static uint8_t pending(const struct serial *serial)
{
    if ((serial->ier & IER_LINE) != 0 && serial->lsr_errors != 0) {
        return IIR_LINE;
    }
    if ((serial->ier & IER_RDA) != 0 && serial->fifo_count != 0) {
        return serial->fifo_count >= fifo_trigger(serial) ? IIR_RDA : IIR_TIMEOUT;
    }
    if ((serial->ier & IER_THRE) != 0 && serial->thre_pending) {
        return IIR_THRE;
    }
    if ((serial->ier & IER_MODEM) != 0 && (serial->msr & 0x0f) != 0) {
        return IIR_MODEM;
    }
    return IIR_NONE;
}

static void update_irq(struct serial *serial)
{
    bool is_let_out = (serial->mcr & (MCR_OUT2 | MCR_LOOP)) == MCR_OUT2;
    irq_line_set(&serial->options.irq, is_let_out && pending(serial) != IIR_NONE);
}

static void fifo_push(struct serial *serial, uint8_t byte)
{
    if (serial->fifo_count >= fifo_limit(serial)) {
        serial->lsr_errors |= LSR_OVERRUN;
        return;
    }
    serial->fifo[(serial->fifo_head + serial->fifo_count++) % FIFO_SIZE] = byte;
}

static void set_modem_lines(struct serial *serial)
{
    uint8_t lines = MSR_CTS | MSR_DSR | MSR_DCD;

    if ((serial->mcr & MCR_LOOP) != 0) {
        lines = (uint8_t)(((serial->mcr & MCR_RTS) != 0 ? MSR_CTS : 0) |
                          ((serial->mcr & MCR_DTR) != 0 ? MSR_DSR : 0) |
                          ((serial->mcr & MCR_OUT1) != 0 ? MSR_RI : 0) |
                          ((serial->mcr & MCR_OUT2) != 0 ? MSR_DCD : 0));
    }
    uint8_t changed = (uint8_t)((serial->msr ^ lines) >> 4);
    /* The ring indicator counts when it goes away. */
    if ((lines & MSR_RI) != 0) {
        changed &= (uint8_t) ~(MSR_RI >> 4);
    }
    serial->msr = (uint8_t)(lines | (serial->msr & 0x0f) | changed);
}

static uint8_t read_data(struct serial *serial)
{
    if (serial->fifo_count == 0) {
        return 0;
    }
    uint8_t byte = serial->fifo[serial->fifo_head];
    serial->fifo_head = (serial->fifo_head + 1) % FIFO_SIZE;
    serial->fifo_count--;
    return byte;
}

static uint8_t register_read(struct serial *serial, unsigned reg)
{
    const bool is_dlab = (serial->lcr & LCR_DLAB) != 0;
    uint8_t value;

    switch (reg) {
    case REG_DATA:
        return is_dlab ? (uint8_t)serial->divisor : read_data(serial);
    case REG_IER:
        return is_dlab ? (uint8_t)(serial->divisor >> 8) : serial->ier;
    case REG_IIR:
        value = pending(serial);
        if (value == IIR_THRE) {
            serial->thre_pending = false;
        }
        return (uint8_t)(value | ((serial->fcr & FCR_ENABLE) != 0 ? IIR_FIFOS : 0));
    case REG_LCR:
        return serial->lcr;
    case REG_MCR:
        return serial->mcr;
    case REG_LSR:
        value = (uint8_t)(LSR_THRE | LSR_TEMT | serial->lsr_errors |
                          (serial->fifo_count != 0 ? LSR_DATA : 0));
        serial->lsr_errors = 0;
        return value;
    case REG_MSR:
        value = serial->msr;
        serial->msr &= 0xf0;
        return value;
    default:
        return serial->scr;
    }
}

static void write_data(struct serial *serial, uint8_t byte)
{
    if ((serial->mcr & MCR_LOOP) != 0) {
        fifo_push(serial, byte);
    } else {
        serial->bytes_out++;
        if (serial->options.write != NULL) {
            serial->options.write(serial->options.ctx, &byte, 1);
        }
    }
    serial->thre_pending = true;
}

static void register_write(struct serial *serial, unsigned reg, uint8_t value)
{
    const bool is_dlab = (serial->lcr & LCR_DLAB) != 0;

    switch (reg) {
    case REG_DATA:
        if (is_dlab) {
            serial->divisor = (uint16_t)((serial->divisor & 0xff00) | value);
        } else {
            write_data(serial, value);
        }
        break;
    case REG_IER:
        if (is_dlab) {
            serial->divisor = (uint16_t)((serial->divisor & 0x00ff) | value << 8);
            break;
        }
        if ((value & IER_THRE) != 0 && (serial->ier & IER_THRE) == 0) {
            serial->thre_pending = true; /* enabling it while empty interrupts at once */
        }
        serial->ier = value & 0x0f;
        break;
    case REG_FCR:
        if (((value ^ serial->fcr) & FCR_ENABLE) != 0 || (value & FCR_CLEAR_RX) != 0) {
            serial->fifo_count = 0;
        }
        serial->fcr = value & 0xc9;
        break;
    case REG_LCR:
        serial->lcr = value;
        break;
    case REG_MCR:
        serial->mcr = value & 0x1f;
        set_modem_lines(serial);
        break;
    case REG_SCR:
        serial->scr = value;
        break;
    default: /* LSR and MSR are for the factory's tests */
        break;
    }
}

/* Takes the order to call input_ready. Lock held. */
static bool take_room(struct serial *serial)
{
    bool has_room = serial->input_waits && serial->fifo_count < fifo_limit(serial);
    if (has_room) {
        serial->input_waits = false;
    }
    return has_room && serial->options.input_ready != NULL;
}

static uint64_t port_read(void *ctx, uint32_t vcpu, uint64_t offset, unsigned size)
{
    struct serial *serial = ctx;

    if (size != 1) {
        return ~0ull;
    }
    pthread_mutex_lock(&serial->lock);
    uint8_t value = register_read(serial, (unsigned)offset);
    bool has_room = take_room(serial);
    update_irq(serial);
    pthread_mutex_unlock(&serial->lock);
    if (has_room) {
        serial->options.input_ready(serial->options.ctx);
    }
    return value;
}

static void port_write(void *ctx, uint32_t vcpu, uint64_t offset, unsigned size, uint64_t value)
{
    struct serial *serial = ctx;

    if (size != 1) {
        return;
    }
    pthread_mutex_lock(&serial->lock);
    register_write(serial, (unsigned)offset, (uint8_t)value);
    bool has_room = take_room(serial);
    update_irq(serial);
    pthread_mutex_unlock(&serial->lock);
    if (has_room) {
        serial->options.input_ready(serial->options.ctx);
    }
}

size_t serial_input(struct device *device, const uint8_t *data, size_t size)
{
    struct serial *serial = serial_from_device(device);
    size_t taken = 0;

    pthread_mutex_lock(&serial->lock);
    /* In loopback the line is cut off: the bytes wait outside. */
    while ((serial->mcr & MCR_LOOP) == 0 && taken < size &&
           serial->fifo_count < fifo_limit(serial)) {
        fifo_push(serial, data[taken++]);
    }
    serial->bytes_in += taken;
    serial->input_waits = taken < size;
    update_irq(serial);
    pthread_mutex_unlock(&serial->lock);
    return taken;
}

static void serial_reset(struct device *device)
{
    struct serial *serial = serial_from_device(device);

    pthread_mutex_lock(&serial->lock);
    serial->ier = serial->lcr = serial->mcr = serial->fcr = serial->scr = 0;
    serial->lsr_errors = 0;
    serial->msr = MSR_CTS | MSR_DSR | MSR_DCD;
    serial->divisor = 12; /* 9600 baud */
    serial->thre_pending = false;
    serial->fifo_head = serial->fifo_count = 0;
    bool has_room = take_room(serial);
    update_irq(serial);
    pthread_mutex_unlock(&serial->lock);
    if (has_room) {
        serial->options.input_ready(serial->options.ctx);
    }
}

static void serial_save(struct device *device, struct archive_writer *writer)
{
    struct serial *serial = serial_from_device(device);

    archive_put_u8(writer, serial->ier);
    archive_put_u8(writer, serial->lcr);
    archive_put_u8(writer, serial->mcr);
    archive_put_u8(writer, serial->fcr);
    archive_put_u8(writer, serial->scr);
    archive_put_u8(writer, serial->lsr_errors);
    archive_put_u8(writer, serial->msr);
    archive_put_u16(writer, serial->divisor);
    archive_put_bool(writer, serial->thre_pending);
    archive_put_u8(writer, (uint8_t)serial->fifo_count);
    for (unsigned i = 0; i < serial->fifo_count; i++) {
        archive_put_u8(writer, serial->fifo[(serial->fifo_head + i) % FIFO_SIZE]);
    }
}

static int serial_restore(struct device *device, struct archive_reader *reader, uint32_t version,
                          struct error *err)
{
    struct serial *serial = serial_from_device(device);

    serial->ier = archive_get_u8(reader) & 0x0f;
    serial->lcr = archive_get_u8(reader);
    serial->mcr = archive_get_u8(reader) & 0x1f;
    serial->fcr = archive_get_u8(reader) & 0xc9;
    serial->scr = archive_get_u8(reader);
    serial->lsr_errors = archive_get_u8(reader) & 0x1e;
    serial->msr = archive_get_u8(reader);
    serial->divisor = archive_get_u16(reader);
    serial->thre_pending = archive_get_bool(reader);
    unsigned count = archive_get_u8(reader);
    if (count > FIFO_SIZE) {
        return error_set(err, EINVAL, "%s: a FIFO of %u bytes; there are %u", device->name, count,
                         FIFO_SIZE);
    }
    serial->fifo_head = 0;
    serial->fifo_count = count;
    archive_get(reader, serial->fifo, count);
    if (reader->status < 0) {
        return error_set(err, EBADMSG, "%s: the state is cut short", device->name);
    }
    update_irq(serial);
    return 0;
}

static void serial_destroy(struct device *device)
{
    struct serial *serial = serial_from_device(device);
    pthread_mutex_destroy(&serial->lock);
    free(serial);
}

static void serial_stats(struct device *device,
                         void (*emit)(void *ctx, const char *name, uint64_t value), void *ctx)
{
    struct serial *serial = serial_from_device(device);

    pthread_mutex_lock(&serial->lock);
    uint64_t in = serial->bytes_in;
    uint64_t out = serial->bytes_out;
    pthread_mutex_unlock(&serial->lock);
    emit(ctx, "bytes_in", in);
    emit(ctx, "bytes_out", out);
}

static const struct bus_region_ops port_ops = {.read = port_read, .write = port_write};

static const struct device_ops serial_ops = {
    .type = "serial",
    .version = 1,
    .reset = serial_reset,
    .save = serial_save,
    .restore = serial_restore,
    .destroy = serial_destroy,
    .stats = serial_stats,
};

int serial_create(const struct serial_options *options, struct device **out_device,
                  struct error *err)
{
    struct serial *serial = calloc(1, sizeof(*serial));
    if (serial == NULL) {
        return error_set(err, ENOMEM, "allocating serial port %u", options->instance);
    }
    serial->device.ops = &serial_ops;
    snprintf(serial->device.name, sizeof(serial->device.name), "serial.%u", options->instance);
    serial->options = *options;
    pthread_mutex_init(&serial->lock, NULL);
    int rc = bus_add(options->pio, "serial", options->port, 8, &port_ops, serial, NULL, err);
    if (rc < 0) {
        serial_destroy(&serial->device);
        return rc;
    }
    serial_reset(&serial->device);
    *out_device = &serial->device;
    return 0;
}
