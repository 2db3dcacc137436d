/* The server: its exports, listeners, and the coming and going of clients. */
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "block/nbd/client.h"
#include "block/provider.h"

#define DEFAULT_MAX_CLIENTS       64
#define DEFAULT_HANDSHAKE_TIME_NS UINT64_C(10000000000)
#define DEFAULT_STOP_TIME_NS      UINT64_C(5000000000)
#define DEFAULT_CLIENT_BYTES      (64u << 20)
/* A client whose machine has gone without a word is noticed within some minutes. */
#define KEEPALIVE_IDLE_S     60
#define KEEPALIVE_INTERVAL_S 15

struct nbd_listener {
    struct nbd_listener *next;
    struct nbd_server *server;
    struct event_source *source;
    int fd;
};

static void tell(const struct nbd_client *client, enum nbd_client_event event)
{
    const struct nbd_server_options *options = &client->server->options;
    if (options->event != NULL) {
        options->event(options->ctx, event, client->is_started,
                       event == NBD_CLIENT_GONE && client->why[0] != '\0' ? client->why : NULL);
    }
}

static void listen_if_room(struct nbd_server *server)
{
    bool has_room = server->client_count < server->options.max_clients;
    for (struct nbd_listener *at = server->listeners; at != NULL; at = at->next) {
        event_source_set_events(at->source, has_room ? EPOLLIN : 0);
    }
}

static void all_gone(struct nbd_server *server)
{
    void (*stopped)(void *ctx) = server->stopped;
    server->stopped = NULL;
    if (stopped != NULL) {
        stopped(server->stopped_ctx);
    }
}

void nbd_client_release(struct nbd_client *client)
{
    if (--client->holds > 0) {
        return;
    }
    struct nbd_server *server = client->server;
    *(client->prev != NULL ? &client->prev->next : &server->clients) = client->next;
    if (client->next != NULL) {
        client->next->prev = client->prev;
    }
    server->client_count--;
    listen_if_room(server);
    nbd_stream_fini(&client->stream);
    event_timer_destroy(client->timer);
    tell(client, NBD_CLIENT_GONE);
    free(client);
    if (server->is_stopping && server->client_count == 0) {
        all_gone(server);
    }
}

void nbd_client_wake(struct nbd_client *client, enum nbd_wait wait)
{
    client->woken |= 1u << wait;
    if (client->reader != NULL && client->wait == wait) {
        struct coroutine *reader = client->reader;
        client->reader = NULL;
        coroutine_resume(reader);
    }
}

/* It is dead: whatever the reader waits for will not come. */
static void wake_at_last(struct nbd_client *client)
{
    if (client->reader != NULL) {
        nbd_client_wake(client, client->wait);
    }
}

void nbd_client_push(struct nbd_client *client)
{
    nbd_client_hold(client);
    nbd_stream_push(&client->stream);
    if (client->stream.is_dead) {
        wake_at_last(client);
    } else if (nbd_stream_is_sent(&client->stream)) {
        nbd_client_wake(client, NBD_WAIT_SENT);
    }
    nbd_client_release(client);
}

void nbd_client_unplug(struct nbd_client *client)
{
    if (client->is_plugged) {
        client->is_plugged = false;
        block_unplug(client->export->config.block);
    }
}

void nbd_client_wait(struct nbd_client *client, enum nbd_wait wait)
{
    client->woken = 0;
    nbd_client_unplug(client);
    nbd_client_push(client);
    if (client->stream.is_dead || (client->woken & (1u << wait)) != 0) {
        return;
    }
    client->wait = wait;
    client->reader = coroutine_self();
    coroutine_yield();
}

static void run_round(struct nbd_server *server)
{
    struct nbd_client *list = server->turns;
    server->turns = NULL;
    while (list != NULL) {
        struct nbd_client *client = list;
        list = client->next_turn;
        client->is_in_turns = false;
        nbd_client_push(client);
        nbd_client_wake(client, NBD_WAIT_TURN);
        nbd_client_release(client);
    }
}

static void next_round(void *ctx)
{
    run_round(ctx);
}

void nbd_client_schedule(struct nbd_client *client)
{
    struct nbd_server *server = client->server;
    if (client->is_in_turns) {
        return;
    }
    if (server->turns == NULL) {
        event_notifier_signal(server->rounds);
    }
    nbd_client_hold(client);
    client->is_in_turns = true;
    client->next_turn = server->turns;
    server->turns = client;
}

void nbd_client_kill(struct nbd_client *client, const char *format, ...)
{
    if (client->stream.is_dead) {
        return;
    }
    if (format != NULL) {
        va_list args;
        va_start(args, format);
        (void)vsnprintf(client->why, sizeof(client->why), format, args);
        va_end(args);
    }
    nbd_client_hold(client);
    nbd_stream_kill(&client->stream);
    wake_at_last(client);
    nbd_client_release(client);
}

int nbd_client_read(struct nbd_client *client, void *out_data, size_t size)
{
    uint8_t *to = out_data;
    while (size > 0) {
        ssize_t got = nbd_stream_receive(&client->stream, to, size);
        if (got == -EAGAIN) {
            nbd_client_wait(client, NBD_WAIT_INPUT);
            continue;
        }
        if (got <= 0) {
            return -EPIPE;
        }
        to += got;
        size -= (size_t)got;
    }
    return 0;
}

static void stream_woken(void *ctx)
{
    struct nbd_client *client = ctx;
    nbd_client_hold(client);
    nbd_client_push(client);
    nbd_client_wake(client, NBD_WAIT_INPUT);
    nbd_client_release(client);
}

static void time_is_up(void *ctx)
{
    struct nbd_client *client = ctx;
    nbd_client_kill(client, client->is_started ? "does not take its answers"
                                               : "has not chosen an export in time");
}

static void set_deadline(struct nbd_client *client, uint64_t after_ns)
{
    event_timer_arm(client->timer, clock_monotonic_ns() + after_ns);
}

static void read_client(void *ctx)
{
    struct nbd_client *client = ctx;
    int rc = nbd_negotiate(client);
    if (rc == 0) {
        event_timer_disarm(client->timer);
        client->is_started = true;
        tell(client, NBD_CLIENT_STARTED);
        nbd_transmit(client);
        set_deadline(client, client->server->options.stop_timeout_ns);
    }
    while (!client->stream.is_dead && client->in_flight > 0) {
        nbd_client_wait(client, NBD_WAIT_ROOM);
    }
    while (!client->stream.is_dead && !nbd_stream_is_sent(&client->stream)) {
        nbd_client_wait(client, NBD_WAIT_SENT);
    }
    nbd_client_kill(client, NULL);
}

static void reader_ended(void *ctx)
{
    nbd_client_release(ctx);
}

int nbd_server_serve(struct nbd_server *server, int fd, struct error *err)
{
    struct nbd_client *client = server->is_stopping ? NULL : calloc(1, sizeof(*client));
    if (client == NULL) {
        close(fd);
        return error_set_errno(err, server->is_stopping ? ESHUTDOWN : ENOMEM, "serving a client");
    }
    client->server = server;
    client->holds = 1;
    int rc = nbd_stream_init(&client->stream, server->loop, fd, stream_woken, client, err);
    if (rc < 0) {
        free(client);
        return rc;
    }
    /* These fail on sockets that are not TCP's. */
    int on = 1, idle_s = KEEPALIVE_IDLE_S, interval_s = KEEPALIVE_INTERVAL_S;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof(interval_s));
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    rc = event_timer_create(server->loop, time_is_up, client, &client->timer, err);
    if (rc < 0) {
        nbd_stream_fini(&client->stream);
        free(client);
        return rc;
    }
    client->next = server->clients;
    if (client->next != NULL) {
        client->next->prev = client;
    }
    server->clients = client;
    if (++server->client_count == server->options.max_clients) {
        listen_if_room(server);
    }
    set_deadline(client, server->options.handshake_timeout_ns);
    tell(client, NBD_CLIENT_CONNECTED);
    rc = coroutine_start(read_client, reader_ended, client);
    if (rc < 0) {
        nbd_client_kill(client, "no memory");
        nbd_client_release(client);
        return error_set_errno(err, -rc, "serving a client");
    }
    return 0;
}

static void accept_client(void *ctx, int fd, uint32_t events)
{
    struct nbd_listener *listener = ctx;
    int client_fd = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
    if (client_fd >= 0) {
        /* A client that cannot be served is closed: it knows. */
        (void)!nbd_server_serve(listener->server, client_fd, NULL);
    } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
        /* Until somebody leaves: trying again at once would never end. */
        event_source_set_events(listener->source, listener->server->client_count > 0 ? 0 : EPOLLIN);
    }
}

int nbd_server_listen(struct nbd_server *server, int fd, struct error *err)
{
    struct nbd_listener *listener = server->is_stopping ? NULL : calloc(1, sizeof(*listener));
    if (listener == NULL) {
        close(fd);
        return error_set_errno(err, server->is_stopping ? ESHUTDOWN : ENOMEM, "listening");
    }
    *listener = (struct nbd_listener){.server = server, .fd = fd};
    int rc = event_loop_add_fd(server->loop, fd, EPOLLIN, accept_client, listener,
                               &listener->source, err);
    if (rc < 0) {
        close(fd);
        free(listener);
        return rc;
    }
    listener->next = server->listeners;
    server->listeners = listener;
    listen_if_room(server);
    return 0;
}

static void close_listeners(struct nbd_server *server)
{
    while (server->listeners != NULL) {
        struct nbd_listener *listener = server->listeners;
        server->listeners = listener->next;
        event_source_remove(listener->source);
        close(listener->fd);
        free(listener);
    }
}

static void free_export(struct nbd_shared_export *export)
{
    if (export == NULL) {
        return;
    }
    free((char *)export->config.name); /* our own copies */
    free((char *)export->config.description);
    for (unsigned i = 0; i < export->config.context_count; i++) {
        free((char *)export->context[i].name);
    }
    free(export);
}

struct nbd_shared_export *nbd_find_export(const struct nbd_server *server, const char *name,
                                          size_t size)
{
    for (struct nbd_shared_export *at = server->exports; at != NULL; at = at->next) {
        if (strlen(at->config.name) == size && memcmp(at->config.name, name, size) == 0) {
            return at;
        }
    }
    return NULL;
}

/* Is it UTF-8 enough to be sent: no longer than the protocol allows? */
static bool is_sendable(const char *text)
{
    return text == NULL || strlen(text) <= NBD_MAX_STRING;
}

int nbd_server_add_export(struct nbd_server *server, const struct nbd_export *config,
                          struct error *err)
{
    if (nbd_find_export(server, config->name, strlen(config->name)) != NULL) {
        return error_set(err, EEXIST, "export \"%s\": there is one of that name already",
                         config->name);
    }
    if (!is_sendable(config->name) || !is_sendable(config->description) ||
        config->context_count > NBD_SERVER_MAX_CONTEXTS) {
        return error_set(err, EINVAL,
                         "export: name and description may have %u bytes each, and %d contexts",
                         NBD_MAX_STRING, NBD_SERVER_MAX_CONTEXTS);
    }
    struct nbd_shared_export *export = calloc(1, sizeof(*export));
    bool is_complete = export != NULL;
    if (is_complete) {
        export->config = *config;
        export->config.name = strdup(config->name);
        export->config.description =
            config->description != NULL ? strdup(config->description) : NULL;
        is_complete = export->config.name != NULL &&
                      (config->description == NULL || export->config.description != NULL);
        for (unsigned i = 0; i < config->context_count; i++) {
            export->context[i] = config->context[i];
            export->context[i].name = strdup(config->context[i].name);
            is_complete = is_complete && export->context[i].name != NULL;
        }
    }
    if (!is_complete) {
        free_export(export);
        return error_set_errno(err, ENOMEM, "export \"%s\"", config->name);
    }
    struct block_info info;
    block_get_info(config->block, &info);
    export->config.is_readonly |= info.is_readonly;
    /* In the order in which they were added. */
    struct nbd_shared_export **at = &server->exports;
    while (*at != NULL) {
        at = &(*at)->next;
    }
    *at = export;
    return 0;
}

static bool uses(const struct nbd_client *client, const struct nbd_shared_export *export)
{
    return export == NULL || client->export == export || client->context_export == export;
}

/* Cuts off the clients of an export (NULL: all), and waits until they are gone. */
static void drop_clients(struct nbd_server *server, const struct nbd_shared_export *export)
{
    for (struct nbd_client *at = server->clients, *next; at != NULL; at = next) {
        nbd_client_hold(at);
        if (uses(at, export)) {
            nbd_client_kill(at, "the export is closed");
        }
        next = at->next;
        nbd_client_release(at);
    }
    for (;;) {
        run_round(server);
        bool is_done = true;
        for (struct nbd_client *at = server->clients; at != NULL; at = at->next) {
            is_done = is_done && !uses(at, export);
        }
        if (is_done) {
            return;
        }
        if (!coroutine_run_ready()) {
            block_wait_any();
        }
    }
}

int nbd_server_remove_export(struct nbd_server *server, const char *name, struct error *err)
{
    struct nbd_shared_export *export = nbd_find_export(server, name, strlen(name));
    if (export == NULL) {
        return error_set(err, ENOENT, "export \"%s\": there is none of that name", name);
    }
    struct nbd_shared_export **at = &server->exports;
    while (*at != export) {
        at = &(*at)->next;
    }
    *at = export->next;
    drop_clients(server, export);
    free_export(export);
    return 0;
}

unsigned nbd_server_client_count(const struct nbd_server *server)
{
    return server->client_count;
}

int nbd_server_create(struct event_loop *loop, const struct nbd_server_options *options,
                      struct nbd_server **out_server, struct error *err)
{
    struct nbd_server *server = calloc(1, sizeof(*server));
    if (server == NULL) {
        return error_set_errno(err, ENOMEM, "serving disks");
    }
    server->loop = loop;
    server->options = *options;
    struct nbd_server_options *own = &server->options;
    own->max_clients = own->max_clients != 0 ? own->max_clients : DEFAULT_MAX_CLIENTS;
    own->handshake_timeout_ns =
        own->handshake_timeout_ns != 0 ? own->handshake_timeout_ns : DEFAULT_HANDSHAKE_TIME_NS;
    own->stop_timeout_ns = own->stop_timeout_ns != 0 ? own->stop_timeout_ns : DEFAULT_STOP_TIME_NS;
    own->max_client_bytes =
        own->max_client_bytes != 0 ? own->max_client_bytes : DEFAULT_CLIENT_BYTES;
    own->max_client_bytes = MAX(own->max_client_bytes, NBD_USUAL_MAX_PAYLOAD);
    int rc = event_notifier_create(loop, next_round, server, &server->rounds, err);
    if (rc < 0) {
        free(server);
        return rc;
    }
    *out_server = server;
    return 0;
}

void nbd_server_destroy(struct nbd_server *server)
{
    if (server == NULL) {
        return;
    }
    server->is_stopping = true;
    close_listeners(server);
    drop_clients(server, NULL);
    while (server->exports != NULL) {
        struct nbd_shared_export *export = server->exports;
        server->exports = export->next;
        free_export(export);
    }
    event_notifier_destroy(server->rounds);
    nbd_buffer_drop_spare(server);
    free(server);
}

void nbd_server_stop(struct nbd_server *server, void (*stopped)(void *ctx), void *ctx)
{
    server->is_stopping = true;
    server->stopped = stopped;
    server->stopped_ctx = ctx;
    close_listeners(server);
    for (struct nbd_client *at = server->clients, *next; at != NULL; at = next) {
        nbd_client_hold(at);
        if (!at->is_started) {
            nbd_client_kill(at, "the server stops");
        } else if (!at->is_leaving) {
            at->is_leaving = true;
            set_deadline(at, server->options.stop_timeout_ns);
            nbd_client_wake(at, NBD_WAIT_INPUT);
            nbd_client_wake(at, NBD_WAIT_TURN);
        }
        next = at->next;
        nbd_client_release(at);
    }
    if (server->client_count == 0) {
        all_gone(server);
    }
}
