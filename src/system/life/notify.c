/* Notified system calls. */
#include "system/life/notify.h"

#include <linux/seccomp.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/host/file.h"
#include "system/views/views.h"

#define MAX_MESSAGE 4096

void notify_init(struct notify *notify, int socket)
{
    notify->socket = socket;
    for (size_t i = 0; i < NOTIFY_MAX; i++) {
        notify->item[i].fd = -1;
    }
}

void notify_poll(const struct notify *notify, struct pollfd out[NOTIFY_POLL])
{
    out[0] = (struct pollfd){.fd = notify->socket, .events = POLLIN};
    for (size_t i = 0; i < NOTIFY_MAX; i++) {
        out[1 + i] = (struct pollfd){.fd = notify->item[i].fd, .events = POLLIN};
    }
}

int notify_take_fd(int connection)
{
    char text[MAX_MESSAGE];
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec vector = {.iov_base = text, .iov_len = sizeof(text)};
    struct msghdr message = {.msg_iov = &vector,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof(control)};
    if (recvmsg(connection, &message, MSG_CMSG_CLOEXEC) < 0) {
        return -1;
    }
    const struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    if (head == NULL || head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS ||
        head->cmsg_len != CMSG_LEN(sizeof(int))) {
        return -1;
    }
    int fd;
    memcpy(&fd, CMSG_DATA(head), sizeof(fd));
    return fd;
}

/* Lets a call go on as if nobody had asked. */
static void let_go(int listener)
{
    struct seccomp_notif call = {0};
    if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &call) == 0) {
        struct seccomp_notif_resp answer = {.id = call.id,
                                            .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE};
        (void)ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
    }
}

static void drop(struct notify *notify, size_t i)
{
    close(notify->item[i].fd);
    notify->item[i].fd = -1;
    notify->item[i].is_listener = false;
}

static void serve_item(struct notify *notify, size_t i, short revents, struct views *views)
{
    int fd = notify->item[i].fd;
    if (!notify->item[i].is_listener) {
        int listener = notify_take_fd(fd);
        drop(notify, i);
        notify->item[i].fd = listener;
        notify->item[i].is_listener = listener >= 0;
    } else if ((revents & POLLIN) != 0) {
        struct error gone;
        if (views != NULL) {
            error_ignore(views_sysinfo(views, fd, &gone));
        } else {
            let_go(fd);
        }
    } else {
        drop(notify, i); /* nobody is left who has that filter */
    }
}

static void accept_one(struct notify *notify)
{
    AUTO_CLOSE int connection = accept4(notify->socket, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    for (size_t i = 0; connection >= 0 && i < NOTIFY_MAX; i++) {
        if (notify->item[i].fd < 0) {
            notify->item[i].fd = TAKE_FD(connection);
        }
    }
}

void notify_serve(struct notify *notify, const struct pollfd polled[NOTIFY_POLL],
                  struct views *views)
{
    for (size_t i = 0; i < NOTIFY_MAX; i++) {
        if (polled[1 + i].revents != 0 && notify->item[i].fd == polled[1 + i].fd) {
            serve_item(notify, i, polled[1 + i].revents, views);
        }
    }
    if (polled[0].revents != 0) {
        accept_one(notify);
    }
}

void notify_reset(struct notify *notify)
{
    for (size_t i = 0; i < NOTIFY_MAX; i++) {
        if (notify->item[i].fd >= 0) {
            drop(notify, i);
        }
    }
}
