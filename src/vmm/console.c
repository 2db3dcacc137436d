#include "vmm/console.h"

#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/host/file.h"
#include "vmm/console_log.h"

#define RING_SIZE      (64u << 10)
#define INPUT_SIZE     4096u
#define WAIT_MS        1000 /* how long a vCPU waits for a reader that takes nothing */
#define FINISH_WAIT_MS 2000

struct console {
    struct event_loop *loop;
    enum config_console_kind kind;
    bool is_virtio;
    unsigned port; /* of the serial ports */
    int listen_fd; /* CONFIG_CONSOLE_LISTEN */
    struct event_source *listen_source;
    struct event_source *source; /* of 'fd' */
    struct event_notifier *flush_wanted;
    struct event_notifier *input_wanted;

    /* What was typed and the guest has not taken yet. */
    struct machine *machine;
    uint8_t input[INPUT_SIZE];
    size_t input_start, input_end;

    pthread_mutex_t lock; /* guards what follows; the last lock taken */
    int fd;               /* -1: nobody is connected */
    bool is_stalled;      /* the reader took nothing for WAIT_MS: output is dropped until it does */
    size_t ring_start, ring_used;
    uint8_t ring[RING_SIZE];
    struct console_log log;
};

static ssize_t write_now(struct console *console, const uint8_t *data, size_t size)
{
    ssize_t count;
    do {
        count = console->kind == CONFIG_CONSOLE_STREAM || console->kind == CONFIG_CONSOLE_LISTEN
                    ? send(console->fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT)
                    : write(console->fd, data, size);
    } while (count < 0 && errno == EINTR);
    return count;
}

/* Writes from the ring what the reader takes now. False on a failure that lasts. */
static bool ring_flush(struct console *console)
{
    while (console->ring_used != 0) {
        size_t chunk = MIN(console->ring_used, RING_SIZE - console->ring_start);
        ssize_t count = write_now(console, console->ring + console->ring_start, chunk);
        if (count < 0) {
            return errno == EAGAIN;
        }
        console->ring_start = (console->ring_start + (size_t)count) % RING_SIZE;
        console->ring_used -= (size_t)count;
        console->is_stalled = false;
    }
    return true;
}

static size_t ring_put(struct console *console, const uint8_t *data, size_t size)
{
    size_t taken = 0;
    while (taken < size && console->ring_used < RING_SIZE) {
        size_t at = (console->ring_start + console->ring_used) % RING_SIZE;
        size_t chunk = MIN(size - taken, RING_SIZE - MAX(at, console->ring_used));
        memcpy(console->ring + at, data + taken, chunk);
        console->ring_used += chunk;
        taken += chunk;
    }
    return taken;
}

/* A terminal deserves every byte: a vCPU waits for it, as for a real serial line. Others, and the loop, never wait. */
static bool wait_for_reader(struct console *console)
{
    if (console->kind != CONFIG_CONSOLE_STREAM || console->is_stalled ||
        event_loop_is_own_thread(console->loop)) {
        return false;
    }
    struct pollfd out = {.fd = console->fd, .events = POLLOUT};
    if (poll(&out, 1, WAIT_MS) <= 0) {
        console->is_stalled = true;
        return false;
    }
    return true;
}

static void console_write(void *ctx, const uint8_t *data, size_t size)
{
    struct console *console = ctx;
    pthread_mutex_lock(&console->lock);
    bool was_empty = console->ring_used == 0;
    bool is_log_due = console_log_put(&console->log, data, size);
    while (size != 0 && console->fd >= 0) {
        if (console->ring_used == 0) {
            ssize_t count = write_now(console, data, size);
            if (count > 0) {
                data += count;
                size -= (size_t)count;
                continue;
            }
            if (count < 0 && errno != EAGAIN) {
                break; /* the reader is gone: its source will say so */
            }
        }
        size_t taken = ring_put(console, data, size);
        data += taken;
        size -= taken;
        if (size != 0 && (!wait_for_reader(console) || !ring_flush(console))) {
            break;
        }
    }
    bool is_flush_wanted = was_empty && console->ring_used != 0;
    pthread_mutex_unlock(&console->lock);
    if (is_flush_wanted || is_log_due) {
        event_notifier_signal(console->flush_wanted);
    }
}

/* Watches for what there is a use for: input if there is room for it, output if some waits. */
static void watch(struct console *console)
{
    if (console->source == NULL) {
        return;
    }
    pthread_mutex_lock(&console->lock);
    uint32_t events = console->ring_used != 0 ? EPOLLOUT : 0;
    pthread_mutex_unlock(&console->lock);
    if (console->input_start == console->input_end && console->kind != CONFIG_CONSOLE_FILE) {
        events |= EPOLLIN;
    }
    event_source_set_events(console->source, events);
}

static void input_push(struct console *console)
{
    size_t waiting = console->input_end - console->input_start;
    if (waiting != 0 && console->machine != NULL) {
        const uint8_t *data = console->input + console->input_start;
        size_t taken = console->is_virtio
                           ? machine_virtio_console_input(console->machine, data, waiting)
                           : machine_serial_input(console->machine, console->port, data, waiting);
        console->input_start += MIN(taken, waiting);
    }
    if (console->input_start == console->input_end) {
        console->input_start = 0;
        console->input_end = 0;
    }
}

static void input_wanted(void *ctx)
{
    struct console *console = ctx;
    input_push(console);
    watch(console);
}

static void flush_wanted(void *ctx)
{
    struct console *console = ctx;
    pthread_mutex_lock(&console->lock);
    console_log_flush(&console->log);
    pthread_mutex_unlock(&console->lock);
    watch(console);
}

static void input_ready(void *ctx)
{
    event_notifier_signal(((struct console *)ctx)->input_wanted);
}

static void disconnect(struct console *console)
{
    event_source_remove(console->source);
    console->source = NULL;
    pthread_mutex_lock(&console->lock);
    close(console->fd);
    console->fd = -1;
    console->ring_used = 0;
    console->is_stalled = false;
    pthread_mutex_unlock(&console->lock);
    if (console->listen_source != NULL) {
        event_source_set_events(console->listen_source, EPOLLIN);
    }
}

static void fd_ready(void *ctx, int fd, uint32_t events)
{
    struct console *console = ctx;
    bool is_alive = true;
    if ((events & EPOLLOUT) != 0) {
        pthread_mutex_lock(&console->lock);
        is_alive = ring_flush(console);
        pthread_mutex_unlock(&console->lock);
    }
    if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0 &&
        console->input_start == console->input_end) {
        ssize_t count = read(fd, console->input, sizeof(console->input));
        if (count > 0) {
            console->input_end = (size_t)count;
            input_push(console);
        } else if (count == 0 || (errno != EAGAIN && errno != EINTR)) {
            is_alive = false;
        }
    } else if ((events & (EPOLLHUP | EPOLLERR)) != 0) {
        is_alive =
            false; /* with input that the guest does not take: it would be reported for ever */
    }
    if (is_alive) {
        watch(console);
    } else {
        disconnect(console);
    }
}

static int connect_fd(struct console *console, int fd, struct error *err)
{
    int rc = console->kind == CONFIG_CONSOLE_FILE ? 0 : file_set_nonblocking(fd, err);
    if (rc == 0 && console->kind != CONFIG_CONSOLE_FILE) {
        rc =
            event_loop_add_fd(console->loop, fd, EPOLLIN, fd_ready, console, &console->source, err);
    }
    if (rc < 0) {
        close(fd);
        return rc;
    }
    pthread_mutex_lock(&console->lock);
    console->fd = fd;
    pthread_mutex_unlock(&console->lock);
    return 0;
}

static void client_waits(void *ctx, int fd, uint32_t events)
{
    struct console *console = ctx;
    int client = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (client >= 0 && connect_fd(console, client, NULL) == 0) {
        event_source_set_events(console->listen_source, 0); /* the next one waits its turn */
    }
}

int console_create(enum config_console_kind kind, int fd, bool is_virtio, struct event_loop *loop,
                   struct console **out_console, struct error *err)
{
    struct console *console = calloc(1, sizeof(*console));
    if (console == NULL) {
        if (fd >= 0) {
            close(fd);
        }
        return error_set_errno(err, ENOMEM, "creating the console");
    }
    console->loop = loop;
    console->kind = kind;
    console->is_virtio = is_virtio;
    console->fd = -1;
    console->listen_fd = -1;
    console_log_init(&console->log, -1, -1);
    pthread_mutex_init(&console->lock, NULL);
    int rc = event_notifier_create(loop, flush_wanted, console, &console->flush_wanted, err);
    if (rc == 0) {
        rc = event_notifier_create(loop, input_wanted, console, &console->input_wanted, err);
    }
    if (rc == 0 && kind == CONFIG_CONSOLE_LISTEN) {
        console->listen_fd = fd;
        rc = event_loop_add_fd(loop, fd, EPOLLIN, client_waits, console, &console->listen_source,
                               err);
    } else if (rc == 0 && kind != CONFIG_CONSOLE_NONE) {
        rc = connect_fd(console, fd, err);
    } else if (rc < 0 && fd >= 0) {
        close(fd);
    }
    if (rc < 0) {
        console_destroy(console);
        return rc;
    }
    *out_console = console;
    return 0;
}

struct console_backend console_serial_backend(struct console *console)
{
    return (struct console_backend){
        .ctx = console, .write = console_write, .input_ready = input_ready};
}

struct console_backend console_virtio_backend(struct console *console)
{
    return console_serial_backend(console);
}

void console_set_log(struct console *console, int fd, int old_fd)
{
    console_log_init(&console->log, fd, old_fd);
}

void console_set_port(struct console *console, unsigned port)
{
    console->port = port;
}

void console_attach(struct console *console, struct machine *machine)
{
    console->machine = machine;
    input_push(console);
    watch(console);
}

void console_finish(struct console *console)
{
    console->machine = NULL;
    pthread_mutex_lock(&console->lock);
    console_log_flush(&console->log);
    uint64_t deadline_ns = clock_monotonic_ns() + FINISH_WAIT_MS * 1000000ull;
    while (console->fd >= 0 && console->ring_used != 0 && ring_flush(console) &&
           console->ring_used != 0) {
        uint64_t now_ns = clock_monotonic_ns();
        struct pollfd out = {.fd = console->fd, .events = POLLOUT};
        if (now_ns >= deadline_ns ||
            poll(&out, 1, (int)((deadline_ns - now_ns) / 1000000) + 1) <= 0) {
            break;
        }
    }
    pthread_mutex_unlock(&console->lock);
}

void console_destroy(struct console *console)
{
    if (console == NULL) {
        return;
    }
    event_source_remove(console->source);
    event_source_remove(console->listen_source);
    event_notifier_destroy(console->flush_wanted);
    event_notifier_destroy(console->input_wanted);
    if (console->fd >= 0) {
        close(console->fd);
    }
    if (console->listen_fd >= 0) {
        close(console->listen_fd);
    }
    console_log_fini(&console->log);
    pthread_mutex_destroy(&console->lock);
    free(console);
}
