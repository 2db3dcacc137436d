/* Network cards at a user's switch: tap devices. */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <net/if_arp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/host/file.h"
#include "system/network/link.h"

#define ANSWER_S   10
#define MAX_ANSWER 4096
#define MAX_TRIES  60
#define PAUSE_NS   50000000

static int make_device(const struct network_card *card, struct error *err)
{
    static const uint8_t none[6];
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI};
    int rc = link_check_name(card->name, "network card", err);
    if (rc < 0) {
        return rc;
    }
    AUTO_CLOSE int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) {
        return error_set_errno(err, errno, "network card %s: opening /dev/net/tun%s", card->name,
                               errno == EACCES ? " (everybody may, where its mode is 0666)" : "");
    }
    memcpy(request.ifr_name, card->name, strlen(card->name));
    if (ioctl(fd, TUNSETIFF, &request) < 0) {
        return error_set_errno(err, errno, "network card %s: making the device", card->name);
    }
    if (memcmp(card->mac, none, sizeof(none)) != 0) {
        request.ifr_hwaddr.sa_family = ARPHRD_ETHER;
        memcpy(request.ifr_hwaddr.sa_data, card->mac, sizeof(card->mac));
        if (ioctl(fd, SIOCSIFHWADDR, &request) < 0) {
            return error_set_errno(err, errno, "network card %s: its hardware address", card->name);
        }
    }
    return TAKE_FD(fd);
}

static int set_mtu(const struct network_card *card, int inside, struct error *err)
{
    struct ifreq request = {.ifr_mtu = (int)card->mtu};
    memcpy(request.ifr_name, card->name, strlen(card->name));
    return card->mtu != 0 && ioctl(inside, SIOCSIFMTU, &request) < 0
               ? error_set_errno(err, errno, "network card %s: mtu %u", card->name, card->mtu)
               : 0;
}

static json_t *describe(const struct network_card *card, const char *container, int device)
{
    char mac[18] = "", address[NETWORK_TEXT_SIZE];
    struct ifreq request = {0};
    if (ioctl(device, SIOCGIFHWADDR, &request) == 0) {
        const uint8_t *bytes = (const uint8_t *)request.ifr_hwaddr.sa_data;
        (void)snprintf(mac, sizeof(mac), "%02x:%02x:%02x:%02x:%02x:%02x", bytes[0], bytes[1],
                       bytes[2], bytes[3], bytes[4], bytes[5]);
    }
    json_t *forwards = json_array();
    for (size_t i = 0; i < card->forward_count; i++) {
        const char *arrow = strchr(card->forwards[i], '>');
        (void)json_array_append_new(forwards, json_pack("{s:s#, s:s}", "listen", card->forwards[i],
                                                        (int)(arrow - card->forwards[i]), "connect",
                                                        arrow + 1));
    }
    json_t *message = json_pack("{s:s, s:s, s:s, s:o}", "do", "attach", "name", container, "mac",
                                mac, "forwards", forwards);
    if (card->may_spoof) {
        (void)json_object_set_new(message, "spoofing", json_true());
    }
    for (size_t i = 0; i < card->address_count; i++) {
        bool is_v6 = card->addresses[i].family == AF_INET6;
        network_format(&card->addresses[i], false, address);
        (void)json_object_set_new(message, is_v6 ? "ipv6" : "ipv4", json_string(address));
    }
    return message;
}

static int send_device(int connection, const char *text, int device)
{
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(sizeof(int))];
    } rights = {.head = {.cmsg_len = CMSG_LEN(sizeof(int)),
                         .cmsg_level = SOL_SOCKET,
                         .cmsg_type = SCM_RIGHTS}};
    memcpy(CMSG_DATA(&rights.head), &device, sizeof(device));
    struct iovec vector = {.iov_base = (char *)(uintptr_t)text, .iov_len = strlen(text)};
    const struct msghdr message = {.msg_iov = &vector,
                                   .msg_iovlen = 1,
                                   .msg_control = &rights,
                                   .msg_controllen = sizeof(rights)};
    return sendmsg(connection, &message, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

static int take_answer(const struct network_card *card, int connection, struct error *err)
{
    char text[MAX_ANSWER];
    ssize_t size;
    do {
        size = recv(connection, text, sizeof(text), 0);
    } while (size < 0 && errno == EINTR);
    if (size <= 0) {
        return size < 0
                   ? error_set_errno(err, errno, "network card %s: the switch's answer", card->name)
                   : error_set(err, EPIPE, "network card %s: the switch gave no answer",
                               card->name);
    }
    json_t *answer = json_loadb(text, (size_t)size, 0, NULL);
    const char *problem = json_string_value(json_object_get(answer, "error"));
    int rc = 0;
    if (problem != NULL) {
        rc = error_set(err, EADDRINUSE, "network card %s: %.150s", card->name, problem);
    } else if (!json_is_true(json_object_get(answer, "ok"))) {
        rc = error_set(err, EPROTO, "network card %s: the switch's answer is none", card->name);
    }
    json_decref(answer);
    return rc;
}

static int tell_switch(const struct network_card *card, const char *container, int device,
                       struct error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const struct timeval patience = {.tv_sec = ANSWER_S};
    if (strlen(card->switch_path) >= sizeof(address.sun_path)) {
        return error_set(err, ENAMETOOLONG, "network card %s: the path of its switch is too long",
                         card->name);
    }
    memcpy(address.sun_path, card->switch_path, strlen(card->switch_path));
    AUTO_CLOSE int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) < 0 ||
        connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0) {
        return error_set_errno(err, errno, "network card %s: its switch %s", card->name,
                               card->switch_path);
    }
    json_t *message = describe(card, container, device);
    AUTO_FREE char *text = json_dumps(message, JSON_COMPACT);
    json_decref(message);
    int rc = text == NULL ? -ENOMEM : send_device(fd, text, device);
    return rc < 0 ? error_set_errno(err, -rc, "network card %s: telling its switch", card->name)
                  : take_answer(card, fd, err);
}

static int set_lo_up(int inside, struct error *err)
{
    struct netlink_batch batch;
    int lo = netlink_index(inside, "lo");
    netlink_clear(&batch);
    link_put_up(&batch, lo > 0 ? (unsigned)lo : 0);
    int rc = lo < 0 ? lo : netlink_call(inside, &batch, NULL, NULL);
    return rc < 0 ? error_set_errno(err, -rc, "setting lo up") : 0;
}

/* In the new process. */
static int attach(const struct network_card *card, const char *container, int namespace_fd,
                  struct error *err)
{
    AUTO_CLOSE int inside = -1;
    if (setns(namespace_fd, CLONE_NEWNET) < 0) {
        return error_set_errno(err, errno, "entering the container's network namespace");
    }
    int rc = netlink_open(&inside, err);
    if (rc < 0 || card == NULL) {
        return rc < 0 ? rc : set_lo_up(inside, err);
    }
    AUTO_CLOSE int device = make_device(card, err);
    if (device < 0) {
        return device;
    }
    rc = set_mtu(card, inside, err);
    rc = rc < 0 ? rc : link_configure(card, inside, err);
    rc = rc < 0 ? rc : tell_switch(card, container, device, err);
    /* The kernel takes its time with the namespace, and the port, that it had before a restart. */
    for (unsigned i = 0; rc == -EADDRINUSE && i < MAX_TRIES; i++) {
        (void)nanosleep(&(struct timespec){.tv_nsec = PAUSE_NS}, NULL); /* shorter is fine */
        rc = tell_switch(card, container, device, err);
    }
    return rc;
}

int network_plug_card(const struct network_card *card, const char *container, int namespace_fd,
                      struct error *err)
{
    int fds[2], status;
    if (pipe2(fds, O_CLOEXEC) < 0) {
        return error_set_errno(err, errno, "connecting container %s", container);
    }
    AUTO_CLOSE int from = fds[0], to = fds[1];
    pid_t pid = fork();
    if (pid == 0) {
        struct error why = {0};
        int rc = attach(card, container, namespace_fd, &why);
        _exit(rc < 0 && write(to, &why, sizeof(why)) > 0 ? 1 : 0);
    }
    if (pid < 0) {
        return error_set_errno(err, errno, "connecting container %s", container);
    }
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
        return 0;
    }
    struct error why = {0};
    (void)fcntl(from, F_SETFL, O_NONBLOCK);
    return read(from, &why, sizeof(why)) == sizeof(why)
               ? error_set(err, why.code, "%s", why.text)
               : error_set(err, ECHILD, "connecting container %s: the process for it has ended",
                           container);
}

void network_unplug_cards(const struct network_card *cards, size_t count, int namespace_fd)
{
    pid_t pid = fork();
    if (pid == 0) {
        struct error ignored;
        int inside = -1;
        bool is_in = setns(namespace_fd, CLONE_NEWNET) == 0 && netlink_open(&inside, &ignored) == 0;
        for (size_t i = 0; is_in && i < count; i++) {
            int index = cards[i].switch_path != NULL ? netlink_index(inside, cards[i].name) : -1;
            error_ignore(index < 0 ? index : link_delete(inside, (unsigned)index));
        }
        _exit(0);
    }
    while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR) {
    }
}
