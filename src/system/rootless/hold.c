/* The holder of a user's namespace, and how it is asked. Nothing is said but a byte with the descriptor; what counts is who is
 * connected. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/host/file.h"
#include "system/rootless/rootless.h"
#include "system/rootless/space.h"

/* Operations often come in rows, and a namespace takes some milliseconds to make. */
#define LINGER_MS 4000
#define MAX_USERS 4096

struct holder {
    struct pollfd *polled; /* the listener, then those who need it */
    size_t count, room;
};

union rights {
    struct cmsghdr head;
    char room[CMSG_SPACE(sizeof(int))];
};

int space_address(const char *run, struct sockaddr_un *out_address, struct error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int length = snprintf(address.sun_path, sizeof(address.sun_path), "%s/" SPACE_SOCKET, run);
    if (length < 0 || (size_t)length >= sizeof(address.sun_path)) {
        return error_set(err, ENAMETOOLONG,
                         "%.100s/" SPACE_SOCKET ": a socket's path has at most %zu bytes", run,
                         sizeof(address.sun_path) - 1);
    }
    *out_address = address;
    return 0;
}

static bool is_own(int connection)
{
    struct ucred peer;
    socklen_t size = sizeof(peer);
    return getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 &&
           peer.uid == geteuid();
}

static int receive(int connection, int *out_namespace)
{
    char byte;
    union rights rights;
    struct iovec vector = {.iov_base = &byte, .iov_len = 1};
    struct msghdr message = {.msg_iov = &vector,
                             .msg_iovlen = 1,
                             .msg_control = &rights,
                             .msg_controllen = sizeof(rights)};
    ssize_t size;
    do {
        size = recvmsg(connection, &message, MSG_CMSG_CLOEXEC);
    } while (size < 0 && errno == EINTR);
    const struct cmsghdr *head = size == 1 ? CMSG_FIRSTHDR(&message) : NULL;
    if (head == NULL || head->cmsg_type != SCM_RIGHTS || head->cmsg_len != CMSG_LEN(sizeof(int))) {
        return -ENOENT;
    }
    memcpy(out_namespace, CMSG_DATA(head), sizeof(int));
    return 0;
}

int space_connect(const struct sockaddr_un *address, int *out_connection, int *out_namespace)
{
    AUTO_CLOSE int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return -errno;
    }
    if (connect(fd, (const struct sockaddr *)address, sizeof(*address)) < 0 || !is_own(fd) ||
        receive(fd, out_namespace) < 0) {
        return -ENOENT;
    }
    *out_connection = TAKE_FD(fd);
    return 0;
}

int rootless_need(const char *run)
{
    struct sockaddr_un address;
    struct error ignored;
    int connection, namespace_fd;
    if (rootless_is_host_root() || space_address(run, &address, &ignored) < 0 ||
        space_connect(&address, &connection, &namespace_fd) < 0) {
        return -1;
    }
    close(namespace_fd);
    return connection;
}

static void give(int connection)
{
    union rights rights = {.head = {.cmsg_len = CMSG_LEN(sizeof(int)),
                                    .cmsg_level = SOL_SOCKET,
                                    .cmsg_type = SCM_RIGHTS}};
    const int fd = SPACE_FD_NAMESPACE;
    memcpy(CMSG_DATA(&rights.head), &fd, sizeof(fd));
    struct iovec vector = {.iov_base = "n", .iov_len = 1};
    const struct msghdr message = {.msg_iov = &vector,
                                   .msg_iovlen = 1,
                                   .msg_control = &rights,
                                   .msg_controllen = sizeof(rights)};
    /* Who does not take it has gone, and is seen to. */
    error_ignore((int)sendmsg(connection, &message, MSG_NOSIGNAL | MSG_DONTWAIT));
}

static bool add(struct holder *h, int fd)
{
    if (h->count == h->room) {
        size_t room = h->room == 0 ? 16 : h->room * 2;
        struct pollfd *larger = reallocarray(h->polled, room, sizeof(*larger));
        if (larger == NULL) {
            return false;
        }
        h->polled = larger;
        h->room = room;
    }
    h->polled[h->count++] = (struct pollfd){.fd = fd, .events = POLLIN};
    return true;
}

static void take_user(struct holder *h)
{
    int fd = accept4(SPACE_FD_LISTENER, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
        return;
    }
    if (!is_own(fd) || h->count > MAX_USERS || !add(h, fd)) {
        close(fd);
        return;
    }
    give(fd);
}

/* Whoever is connected says nothing. */
static void drop_ended(struct holder *h)
{
    for (size_t i = h->count; i-- > 1;) {
        if (h->polled[i].revents != 0) {
            close(h->polled[i].fd);
            h->polled[i] = h->polled[--h->count];
        }
    }
}

/* Not while somebody is starting a holder: he may have seen this one. Who connects from now on finds nobody. */
static bool may_end(void)
{
    if (flock(SPACE_FD_LOCK, LOCK_EX | LOCK_NB) < 0) {
        return false;
    }
    struct pollfd waiting = {.fd = SPACE_FD_LISTENER, .events = POLLIN};
    if (poll(&waiting, 1, 0) != 0) {
        (void)flock(SPACE_FD_LOCK, LOCK_UN); /* a lock that is held */
        return false;
    }
    struct sockaddr_un address;
    socklen_t size = sizeof(address);
    if (getsockname(SPACE_FD_LISTENER, (struct sockaddr *)&address, &size) == 0) {
        (void)unlink(address.sun_path);
    }
    return true;
}

int rootless_hold_main(void)
{
    struct holder h = {0};
    if (!add(&h, SPACE_FD_LISTENER)) {
        return 1;
    }
    for (;;) {
        int ready = poll(h.polled, h.count, h.count == 1 ? LINGER_MS : -1);
        if (ready == 0 && may_end()) {
            return 0;
        }
        if (ready > 0) {
            drop_ended(&h);
        }
        if (ready > 0 && h.polled[0].revents != 0) {
            take_user(&h);
        }
    }
}
