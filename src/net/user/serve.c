#include "net/user/serve.h"

#include <arpa/inet.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/host/event_loop.h"
#include "net/user/server.h"

#define BLOCKED_MS 100 /* how long to wait for one who takes nothing: line.c */

static void to_uplink(void *ctx, const uint8_t *frame, size_t size)
{
    struct server *server = ctx;
    stack_input(server->stack, frame, size);
}

static void from_uplink(void *ctx, const void *frame, size_t size)
{
    struct server *server = ctx;
    switch_from_uplink(&server->sw, frame, size);
}

static void configure(struct server *server, const struct net_user_options *options)
{
    struct stack_settings *settings = &server->settings;
    struct switch_network *network = &server->sw.network;
    uint32_t gateway = ntohl(options->gateway.s_addr);
    server->mask = UINT32_MAX << (32 - options->prefix);
    server->network = gateway & server->mask;
    stack_settings_init(settings);
    settings->has_ipv6 = options->has_ipv6;
    settings->is_restricted = options->is_restricted;
    settings->network.s_addr = htonl(server->network);
    settings->mask.s_addr = htonl(server->mask);
    settings->host = options->gateway;
    settings->name_server.s_addr = htonl(gateway + 1);
    settings->first.s_addr = htonl(server->network + 15);
    memcpy(network->gateway, &settings->host, 4);
    memcpy(network->name_server, &settings->name_server, 4);
    memcpy(network->mask, &settings->mask, 4);
    uint8_t prefix[16];
    (void)inet_pton(AF_INET6, STACK_PREFIX6, prefix); /* constants */
    (void)inet_pton(AF_INET6, STACK_HOST6, network->gateway6);
    (void)inet_pton(AF_INET6, STACK_NAME_SERVER6, network->name_server6);
    memcpy(network->prefix6, prefix, sizeof(network->prefix6));
    server->sw.to_uplink = to_uplink;
    server->sw.uplink_ctx = server;
}

int server_create(const struct net_user_options *options, int listen_fd, struct server **out_server,
                  struct error *err)
{
    struct server *server = calloc(1, sizeof(*server));
    if (server == NULL) {
        close(listen_fd);
        return error_set_errno(err, ENOMEM, "starting the network");
    }
    server->listen_fd = listen_fd;
    for (unsigned i = 0; i < SERVER_MAX_CLIENTS; i++) {
        server->client[i] = -1;
    }
    server->idle_ms = options->idle_s * 1000;
    configure(server, options);
    int rc = stack_create(&server->settings, from_uplink, server, &server->stack, err);
    if (rc < 0) {
        server_destroy(server);
        return rc;
    }
    *out_server = server;
    return 0;
}

void server_destroy(struct server *server)
{
    if (server == NULL) {
        return;
    }
    while (server->line_count > 0) {
        server_remove_line(server, server->line_count - 1);
    }
    for (unsigned i = 0; i < SERVER_MAX_CLIENTS; i++) {
        if (server->client[i] >= 0) {
            close(server->client[i]);
        }
    }
    stack_destroy(server->stack);
    close(server->listen_fd);
    free(server);
}

static void add_poll(struct server *server, int fd, bool wants_out)
{
    server->polls.poll[server->polls.count++] =
        (struct pollfd){.fd = fd, .events = (short)(POLLIN | (wants_out ? POLLOUT : 0))};
}

/* The listening socket, clients (those that are not there have -1, which poll passes over), lines, the stack's. */
static int fill(struct server *server)
{
    bool is_congested = false;
    server->polls.count = 0;
    add_poll(server, server->listen_fd, false);
    for (unsigned i = 0; i < SERVER_MAX_CLIENTS; i++) {
        add_poll(server, server->client[i], false);
    }
    for (unsigned i = 0; i < server->line_count; i++) {
        add_poll(server, server->line[i]->fd, line_has_queued(server->line[i]));
        is_congested = is_congested || line_is_congested(server->line[i]);
    }
    int64_t timeout_ms = stack_fill(server->stack, &server->polls, is_congested);
    timeout_ms = timeout_ms < 0 ? INT32_MAX : timeout_ms;
    if (is_congested) {
        timeout_ms = MIN(timeout_ms, BLOCKED_MS);
    }
    if (server->line_count == 0) {
        int64_t end_ms = server->idle_since_ms + server->idle_ms;
        timeout_ms = MIN(timeout_ms, MAX(end_ms - clock_monotonic_ms(), 0));
    }
    return timeout_ms == INT32_MAX ? -1 : (int)timeout_ms;
}

static void take_frame(void *ctx, struct line *line, const uint8_t *frame, size_t size)
{
    struct server *server = ctx;
    switch_input(&server->sw, &line->port, frame, size);
}

static void serve_lines(struct server *server)
{
    const struct pollfd *poll = server->polls.poll + 1 + SERVER_MAX_CLIENTS;
    for (unsigned i = 0; i < server->line_count; i++) {
        if (poll[i].revents & POLLOUT) {
            line_flush(server->line[i]);
        }
        if (poll[i].revents & (POLLIN | POLLHUP | POLLERR)) {
            line_receive(server->line[i], take_frame, server);
        }
    }
    if (server->line_count > 0) {
        server->idle_since_ms = clock_monotonic_ms();
    }
    server_sweep(server);
}

int server_run(struct server *server, struct error *err)
{
    server->idle_since_ms = clock_monotonic_ms();
    for (;;) {
        int timeout_ms = fill(server);
        int count = poll(server->polls.poll, server->polls.count, timeout_ms);
        if (count < 0 && errno != EINTR) {
            return error_set_errno(err, errno, "waiting for packets");
        }
        int64_t now_ms = clock_monotonic_ms();
        server->sw.now_s = (uint64_t)now_ms / 1000;
        stack_work(server->stack, &server->polls, count < 0);
        if (count > 0) {
            serve_lines(server);
            for (unsigned i = 0; i < SERVER_MAX_CLIENTS; i++) {
                if (server->polls.poll[1 + i].revents != 0) {
                    server_serve(server, i);
                }
            }
            if (server->polls.poll[0].revents != 0) {
                server_accept(server);
            }
        }
        if (server->line_count == 0 && now_ms - server->idle_since_ms >= server->idle_ms) {
            return 0;
        }
    }
}
