/* Requests to the switch: serve.h. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/host/event_loop.h"
#include "base/host/file.h"
#include "base/host/log.h"
#include "net/user/server.h"

#define REQUEST_MAX 65536

static void close_client(struct server *server, unsigned client)
{
    close(server->client[client]);
    server->client[client] = -1;
}

void server_accept(struct server *server)
{
    int fd = accept4(server->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
        return; /* it went away again */
    }
    unsigned client = 0;
    while (client < SERVER_MAX_CLIENTS && server->client[client] >= 0) {
        client++;
    }
    if (client == SERVER_MAX_CLIENTS) {
        client = server->next_client++ % SERVER_MAX_CLIENTS;
        close_client(server, client);
    }
    server->client[client] = fd;
}

/* One message with at most one descriptor; 'out_fd' -1: none. */
static ssize_t receive(int socket, char *text, size_t size, int *out_fd)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } ancillary = {0};
    struct iovec iov = {.iov_base = text, .iov_len = size};
    struct msghdr message = {.msg_iov = &iov,
                             .msg_iovlen = 1,
                             .msg_control = &ancillary,
                             .msg_controllen = sizeof(ancillary)};
    ssize_t got = recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    *out_fd = -1;
    for (struct cmsghdr *part = got >= 0 ? CMSG_FIRSTHDR(&message) : NULL; part != NULL;
         part = CMSG_NXTHDR(&message, part)) {
        if (part->cmsg_level == SOL_SOCKET && part->cmsg_type == SCM_RIGHTS &&
            part->cmsg_len == CMSG_LEN(sizeof(int))) {
            memcpy(out_fd, CMSG_DATA(part), sizeof(int));
        }
    }
    if (got > 0 && (message.msg_flags & MSG_TRUNC) != 0) {
        errno = EMSGSIZE;
        return -1;
    }
    return got;
}

static json_t *address(int family, const void *bytes)
{
    char text[INET6_ADDRSTRLEN];
    (void)inet_ntop(family, bytes, text, sizeof(text)); /* there is room */
    return json_string(text);
}

static json_t *describe(const struct line *line)
{
    const struct switch_port *port = &line->port;
    const struct switch_counters *counters = &port->counters;
    char mac[18];
    (void)snprintf(mac, sizeof(mac), "%02x:%02x:%02x:%02x:%02x:%02x", port->mac[0], port->mac[1],
                   port->mac[2], port->mac[3], port->mac[4], port->mac[5]);
    json_t *forwards = json_array();
    for (unsigned i = 0; i < line->forward_count; i++) {
        (void)json_array_append_new(forwards, json_string(line->forwards[i].text));
    }
    return json_pack("{s:s,s:s,s:o,s:o*,s:b,s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:o}", "name", port->name,
                     "mac", mac, "ipv4", address(AF_INET, port->ipv4), "ipv6",
                     port->is_ipv6_used ? address(AF_INET6, port->ipv6) : NULL, "spoofing",
                     port->may_spoof, "kind", line->is_tap ? "tap" : "stream", "received_frames",
                     (json_int_t)counters->received_frames, "received_bytes",
                     (json_int_t)counters->received_bytes, "sent_frames",
                     (json_int_t)counters->sent_frames, "sent_bytes",
                     (json_int_t)counters->sent_bytes, "refused_frames",
                     (json_int_t)counters->refused_frames, "lost_frames",
                     (json_int_t)counters->lost_frames, "forwards", forwards);
}

static json_t *status(const struct server *server)
{
    json_t *ports = json_array();
    for (unsigned i = 0; i < server->line_count; i++) {
        (void)json_array_append_new(ports, describe(server->line[i]));
    }
    return json_pack("{s:b,s:o,s:o,s:o}", "ok", 1, "gateway",
                     address(AF_INET, server->sw.network.gateway), "dns",
                     address(AF_INET, server->sw.network.name_server), "ports", ports);
}

/* Takes 'fd' over. NULL: an error. */
static json_t *answer(struct server *server, const char *text, size_t size, int fd,
                      struct error *err)
{
    AUTO_CLOSE int owned = fd;
    json_error_t fault;
    const struct line *line;
    json_auto_t *request = json_loadb(text, size, JSON_REJECT_DUPLICATES, &fault);
    const char *verb = json_string_value(json_object_get(request, "do"));
    if (verb != NULL && strcmp(verb, "status") == 0) {
        return status(server);
    }
    if (verb != NULL && strcmp(verb, "detach") == 0) {
        return server_detach(server, request, err) < 0 ? NULL : json_pack("{s:b}", "ok", 1);
    }
    if (verb == NULL || strcmp(verb, "attach") != 0) {
        (void)error_set(err, EINVAL, "request: do attach, detach or status");
        return NULL;
    }
    if (owned < 0) {
        (void)error_set(err, EINVAL, "attach: one descriptor has to come with it");
        return NULL;
    }
    int rc = server_attach(server, request, TAKE_FD(owned), &line, err);
    return rc < 0 ? NULL
                  : json_pack("{s:b,s:o}", "ok", 1, "ipv4", address(AF_INET, line->port.ipv4));
}

void server_serve(struct server *server, unsigned client)
{
    static char text[REQUEST_MAX];
    struct error err = {.text = "there is no memory for an answer"};
    int passed;
    ssize_t size = receive(server->client[client], text, sizeof(text), &passed);
    if (size < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    server->idle_since_ms = clock_monotonic_ms();
    if (size <= 0) {
        close_client(server, client);
        return;
    }
    json_auto_t *reply = answer(server, text, (size_t)size, passed, &err);
    if (reply == NULL) {
        reply = json_pack("{s:s}", "error", err.text);
    }
    AUTO_FREE char *line = json_dumps(reply, JSON_COMPACT);
    if (line == NULL ||
        send(server->client[client], line, strlen(line), MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
        close_client(server, client);
    }
}
