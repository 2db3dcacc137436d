/* Listening sockets, and which connections are accepted. */
#include <errno.h>
#include <grp.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/host/file.h"
#include "base/host/log.h"
#include "base/host/unix_socket.h"
#include "manager/api/server.h"

#define BACKLOG          128
#define ACCEPTED_AT_ONCE 16

static const char full_text[] =
    "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
    "Content-Length: 73\r\nConnection: close\r\n\r\n"
    "{\"error\":{\"code\":\"busy\",\"message\":\"hulld has too many "
    "connections open\"}}";

static unsigned count_of_user(const struct api_server *server, uid_t uid)
{
    unsigned count = 0;
    for (const struct connection *one = server->connections; one != NULL; one = one->next) {
        count += one->is_local && one->uid == uid;
    }
    return count;
}

static void refuse(struct api_server *server, int fd)
{
    server->counters.refused++;
    static struct log_limit limit = LOG_LIMIT(3);
    log_limited(&limit, LOG_LEVEL_WARNING, "api: too many connections, refused one");
    (void)!send(fd, full_text, strlen(full_text), MSG_DONTWAIT | MSG_NOSIGNAL);
    close(fd);
}

/* A peer that is gone without a word is found out after three minutes. */
static void watch_peer(int fd)
{
    static const struct {
        int level, name, value;
    } options[] = {
        {SOL_SOCKET, SO_KEEPALIVE, 1},           {IPPROTO_TCP, TCP_KEEPIDLE, 60},
        {IPPROTO_TCP, TCP_KEEPINTVL, 20},        {IPPROTO_TCP, TCP_KEEPCNT, 6},
        {IPPROTO_TCP, TCP_USER_TIMEOUT, 180000}, {IPPROTO_TCP, TCP_NODELAY, 1},
    };
    for (size_t i = 0; i < ARRAY_COUNT(options); i++) {
        /* What a kernel does not know it does without. */
        (void)setsockopt(fd, options[i].level, options[i].name, &options[i].value, sizeof(int));
    }
}

static void serve_one(struct listener *listener, int fd)
{
    struct api_server *server = listener->server;
    struct ucred peer = {.uid = (uid_t)-1};
    socklen_t size = sizeof(peer);
    if (listener->is_local && getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0) {
        close(fd);
        return;
    }
    if (server->counters.connections >= SERVER_MAX_CONNECTIONS ||
        (listener->is_local && peer.uid != geteuid() &&
         count_of_user(server, peer.uid) >= SERVER_MAX_OF_USER)) {
        refuse(server, fd);
        return;
    }
    if (!listener->is_local) {
        watch_peer(fd);
    }
    struct connection *connection = calloc(1, sizeof(*connection));
    if (connection == NULL) {
        refuse(server, fd);
        return;
    }
    *connection = (struct connection){.server = server,
                                      .is_local = listener->is_local,
                                      .uid = peer.uid,
                                      .pid = peer.pid,
                                      .next = server->connections};
    if (server->connections != NULL) {
        server->connections->previous = connection;
    }
    server->connections = connection;
    server->counters.connections++;
    lws_adopt_desc_t adoption = {.vh = listener->vhost,
                                 .type = LWS_ADOPT_SOCKET | LWS_ADOPT_HTTP | LWS_ADOPT_ALLOW_SSL,
                                 .fd.sockfd = fd,
                                 .opaque = connection};
    /* Closes the descriptor, and ends the connection, where it fails. */
    if (lws_adopt_descriptor_vhost_via_info(&adoption) != NULL && listener->is_local) {
        log_debug("api: connection of user %u, process %d", (unsigned)peer.uid, (int)peer.pid);
    }
}

static void accept_some(void *ctx, int listening, uint32_t events)
{
    struct listener *listener = ctx;
    for (unsigned i = 0; i < ACCEPTED_AT_ONCE; i++) {
        int fd = accept4(listening, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0) {
            static struct log_limit limit = LOG_LIMIT(3);
            if (errno != EAGAIN && errno != ECONNABORTED && errno != EINTR) {
                log_limited(&limit, LOG_LEVEL_ERROR, "api: accepting a connection: %s",
                            strerror(errno));
            }
            return;
        }
        serve_one(listener, fd);
    }
}

static int add_listener(struct api_server *server, int fd, struct lws_vhost *vhost, bool is_local,
                        struct error *err)
{
    if (server->listener_count == SERVER_MAX_LISTENERS) {
        close(fd);
        return error_set(err, E2BIG, "api: at most %d addresses", SERVER_MAX_LISTENERS);
    }
    struct listener *listener = &server->listeners[server->listener_count];
    *listener = (struct listener){.server = server, .fd = fd, .vhost = vhost, .is_local = is_local};
    int rc = file_set_nonblocking(fd, err);
    if (rc == 0) {
        rc = event_loop_add_fd(server->manager->loop, fd, EPOLLIN, accept_some, listener,
                               &listener->source, err);
    }
    if (rc < 0) {
        close(fd);
        return rc;
    }
    server->listener_count++;
    return 0;
}

/* Root's socket is also for those of group "hull", if there is one. It is made for the owner alone first. */
static int open_for_group(const char *path, struct error *err)
{
    const struct group *group = getgrnam("hull");
    if (group == NULL) {
        return 0;
    }
    if (chown(path, (uid_t)-1, group->gr_gid) < 0 || chmod(path, 0660) < 0) {
        return error_set_errno(err, errno, "socket %s: giving it to group hull", path);
    }
    return 0;
}

static int open_activated(int fd, struct error *err)
{
    struct sockaddr_un address = {0};
    socklen_t size = sizeof(address) - 1; /* a NUL stays behind it */
    if (getsockname(fd, (struct sockaddr *)&address, &size) < 0) {
        return error_set_errno(err, errno, "the socket that systemd gave");
    }
    return geteuid() == 0 && address.sun_path[0] == '/' ? open_for_group(address.sun_path, err) : 0;
}

static int listen_local(struct api_server *server, const struct api_server_options *options,
                        struct error *err)
{
    int rc = options->socket_fd >= 0 ? open_activated(options->socket_fd, err) : 0;
    if (rc < 0 || options->socket_fd >= 0) {
        return rc < 0 ? rc : add_listener(server, options->socket_fd, server->local, true, err);
    }
    int fd = -1;
    /* A worker that a hulld was about to execute when it was killed has its socket for a moment yet. */
    for (int i = 0;
         (rc = unix_socket_listen(options->socket_path, "socket", &fd, err)) == -EADDRINUSE &&
         i < 20;
         i++) {
        (void)usleep(50000);
    }
    if (rc < 0) {
        return rc;
    }
    snprintf(server->socket_path, sizeof(server->socket_path), "%s", options->socket_path);
    (void)listen(fd, BACKLOG); /* only longer: it listens already */
    rc = geteuid() == 0 ? open_for_group(options->socket_path, err) : 0;
    if (rc < 0) {
        close(fd);
        return rc;
    }
    return add_listener(server, fd, server->local, true, err);
}

/* "[::]:8443", "10.0.0.1:8443" */
static int split_address(const char *text, char host[128], char port[16], struct error *err)
{
    const char *colon = strrchr(text, ':');
    size_t length = colon == NULL ? 0 : (size_t)(colon - text);
    if (colon == NULL || length == 0 || length >= 128 || strlen(colon + 1) == 0 ||
        strlen(colon + 1) >= 16) {
        return error_set(err, EINVAL, "address %s: ADDRESS:PORT, [ADDRESS]:PORT for IPv6", text);
    }
    bool has_brackets = text[0] == '[' && text[length - 1] == ']' && length > 2;
    snprintf(host, 128, "%.*s", (int)(length - 2 * has_brackets), text + has_brackets);
    snprintf(port, 16, "%s", colon + 1);
    return 0;
}

static int listen_remote(struct api_server *server, const char *text, struct error *err)
{
    char host[128], port[16];
    int rc = split_address(text, host, port, err);
    if (rc < 0) {
        return rc;
    }
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_PASSIVE | AI_NUMERICHOST | AI_NUMERICSERV};
    struct addrinfo *found = NULL;
    int failed = getaddrinfo(host, port, &hints, &found);
    if (failed != 0) {
        return error_set(err, EINVAL, "address %s: %s", text, gai_strerror(failed));
    }
    AUTO_CLOSE int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int yes = 1;
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes)) < 0 ||
        bind(fd, found->ai_addr, found->ai_addrlen) < 0 || listen(fd, BACKLOG) < 0) {
        rc = error_set_errno(err, errno, "address %s", text);
    }
    freeaddrinfo(found);
    return rc < 0 ? rc : add_listener(server, TAKE_FD(fd), server->remote, false, err);
}

int listeners_create(struct api_server *server, const struct api_server_options *options,
                     struct error *err)
{
    int rc = listen_local(server, options, err);
    return rc < 0 || options->tls_address == NULL
               ? rc
               : listen_remote(server, options->tls_address, err);
}

void listeners_destroy(struct api_server *server)
{
    for (unsigned i = 0; i < server->listener_count; i++) {
        event_source_remove(server->listeners[i].source);
        close(server->listeners[i].fd);
    }
    server->listener_count = 0;
    if (server->socket_path[0] != '\0') {
        (void)unlink(server->socket_path); /* somebody may have done it already */
    }
}
