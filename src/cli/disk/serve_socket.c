#include <arpa/inet.h>
#include <ctype.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/host/file.h"
#include "base/host/unix_socket.h"
#include "cli/disk/serve.h"

#define FIRST_PASSED_FD 3 /* sd_listen_fds(3) */
#define DEFAULT_PORT    "10809"
#define BACKLOG         128

void serve_uri_append(char *uri, size_t size, const char *text)
{
    size_t used = strlen(uri);
    for (; *text != '\0' && used + 4 <= size; text++) {
        unsigned char c = (unsigned char)*text;
        bool is_plain = isalnum(c) || strchr("-._~/", c) != NULL;
        used += (size_t)snprintf(uri + used, size - used, is_plain ? "%c" : "%%%02X", c);
    }
}

static void describe_unix(struct serve_sockets *sockets, const char *path)
{
    strcpy(sockets->uri_start, "+unix:///");
    strcpy(sockets->uri_end, "?socket=");
    serve_uri_append(sockets->uri_end, sizeof(sockets->uri_end), path);
}

/* Of a socket that is listened on already. */
static void describe(struct serve_sockets *sockets, int fd)
{
    struct sockaddr_storage address;
    socklen_t size = sizeof(address);
    char host[128], port[16];
    if (getsockname(fd, (struct sockaddr *)&address, &size) < 0) {
        return;
    }
    if (address.ss_family == AF_UNIX) {
        const struct sockaddr_un *local = (const struct sockaddr_un *)&address;
        if (size > offsetof(struct sockaddr_un, sun_path) && local->sun_path[0] != '\0') {
            describe_unix(sockets, local->sun_path);
        }
    } else if (getnameinfo((struct sockaddr *)&address, size, host, sizeof(host), port,
                           sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV) == 0) {
        bool is_v6 = strchr(host, ':') != NULL;
        (void)snprintf(sockets->uri_start, sizeof(sockets->uri_start), "://%s%s%s:%s/",
                       is_v6 ? "[" : "", host, is_v6 ? "]" : "", port);
    }
}

static int listen_address(const struct addrinfo *at, int *out_fd)
{
    AUTO_CLOSE int fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC, at->ai_protocol);
    int on = 1;
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0) {
        return -errno;
    }
    if (at->ai_family == AF_INET6) {
        (void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on)); /* IPv4 has its own */
    }
    if (bind(fd, at->ai_addr, at->ai_addrlen) < 0 || listen(fd, BACKLOG) < 0) {
        return -errno;
    }
    *out_fd = TAKE_FD(fd);
    return 0;
}

static int listen_tcp(const struct serve_place *place, struct serve_sockets *out_sockets,
                      struct error *err)
{
    const char *host = place->address != NULL ? place->address : "127.0.0.1";
    const char *port = place->port != NULL ? place->port : DEFAULT_PORT;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    struct addrinfo *list = NULL;
    int failed = getaddrinfo(host, port, &hints, &list);
    if (failed != 0) {
        return error_set(err, EADDRNOTAVAIL, "listening on %s port %s: %s", host, port,
                         gai_strerror(failed));
    }
    int rc = -EADDRNOTAVAIL;
    for (const struct addrinfo *at = list; at != NULL && out_sockets->count < SERVE_MAX_SOCKETS;
         at = at->ai_next) {
        int one = listen_address(at, &out_sockets->fd[out_sockets->count]);
        if (one == 0) {
            out_sockets->count++;
        } else {
            rc = one;
        }
    }
    freeaddrinfo(list);
    if (out_sockets->count == 0) {
        return error_set_errno(err, -rc, "listening on %s port %s", host, port);
    }
    describe(out_sockets, out_sockets->fd[0]);
    return 0;
}

/* How many sockets systemd passes; they begin at FIRST_PASSED_FD. */
static unsigned passed_sockets(void)
{
    const char *pid = getenv("LISTEN_PID");
    const char *count = getenv("LISTEN_FDS");
    if (pid == NULL || count == NULL || strtol(pid, NULL, 10) != (long)getpid()) {
        return 0;
    }
    long number = strtol(count, NULL, 10);
    return number > 0 && number <= SERVE_MAX_SOCKETS ? (unsigned)number : 0;
}

static int take_passed(unsigned count, struct serve_sockets *out_sockets, struct error *err)
{
    for (unsigned i = 0; i < count; i++) {
        int fd = FIRST_PASSED_FD + (int)i;
        int is_listening = 0;
        socklen_t size = sizeof(is_listening);
        if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &is_listening, &size) < 0 ||
            is_listening == 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) {
            return error_set(err, EINVAL, "descriptor %d, passed by LISTEN_FDS, does not listen",
                             fd);
        }
        out_sockets->fd[out_sockets->count++] = fd;
    }
    describe(out_sockets, out_sockets->fd[0]);
    return 0;
}

int serve_listen(const struct serve_place *place, struct serve_sockets *out_sockets,
                 struct error *err)
{
    *out_sockets = (struct serve_sockets){0};
    bool is_tcp = place->address != NULL || place->port != NULL;
    if (place->socket_path != NULL && is_tcp) {
        return error_set(err, EINVAL, "either --socket, or --address and --port");
    }
    unsigned passed = passed_sockets();
    if (passed > 0) {
        return place->socket_path == NULL && !is_tcp
                   ? take_passed(passed, out_sockets, err)
                   : error_set(err, EINVAL,
                               "the sockets of LISTEN_FDS exclude --socket and --port");
    }
    if (place->socket_path == NULL) {
        return listen_tcp(place, out_sockets, err);
    }
    int rc = unix_socket_listen(place->socket_path, "socket", &out_sockets->fd[0], err);
    if (rc == 0) {
        (void)listen(out_sockets->fd[0], BACKLOG); /* it listens already */
        out_sockets->count = 1;
        out_sockets->made_path = place->socket_path;
        describe_unix(out_sockets, place->socket_path);
    }
    return rc;
}

int serve_fork(int *out_ready_fd, struct error *err)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0) {
        return error_set_errno(err, errno, "going to the background");
    }
    pid_t child = fork();
    if (child < 0) {
        return error_set_errno(err, errno, "going to the background");
    }
    if (child == 0) {
        close(ends[0]);
        (void)setsid(); /* a new child is no leader yet */
        *out_ready_fd = ends[1];
        return 0;
    }
    close(ends[1]);
    char byte;
    int status = 0;
    ssize_t got;
    do {
        got = read(ends[0], &byte, 1);
    } while (got < 0 && errno == EINTR);
    if (got == 1) {
        _exit(0);
    }
    (void)waitpid(child, &status, 0); /* it has said why */
    _exit(WIFEXITED(status) && WEXITSTATUS(status) != 0 ? WEXITSTATUS(status) : 1);
}

void serve_ready(int ready_fd)
{
    (void)fflush(NULL);
    AUTO_CLOSE int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd = 0; fd <= 2 && null_fd >= 0; fd++) {
        (void)dup2(null_fd, fd); /* a plain descriptor: cannot fail but for EINTR */
    }
    (void)!write(ready_fd, "", 1); /* nobody waits any more: fine too */
    close(ready_fd);
}
