/* The host side of a network card: a tap interface, or a socket to a helper process. */
#include <fcntl.h>
#include <jansson.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "base/host/file.h"
#include "base/host/program.h"
#include "base/host/unix_socket.h"
#include "cli/boot_files.h"

#define SWITCH_TIMEOUT_MS 10000

static int open_tap(const char *name, int *out_fd, struct error *err)
{
    static const char accepted[] =
        "root, or a tap made for this user with `ip tuntap add dev NAME mode tap user USER`";
    AUTO_CLOSE int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        return error_set(err, errno, "network tap=%s: /dev/net/tun: %s: %s", name, strerror(errno),
                         accepted);
    }
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    memcpy(request.ifr_name, name, MIN(strlen(name), sizeof(request.ifr_name) - 1));
    if (ioctl(fd, TUNSETIFF, &request) < 0) {
        return error_set(err, errno, "network tap=%s: %s: %s", name, strerror(errno),
                         errno == EBUSY ? "a tap that no other program uses" : accepted);
    }
    *out_fd = TAKE_FD(fd);
    return 0;
}

/* A macvtap interface has a device of its own, which udev or the kernel has put into /dev by its number: where nobody did, in
 * a network namespace of one's own, a node is made for the moment. */
static int open_macvtap(const char *name, int *out_fd, struct error *err)
{
    char path[128], node[64], number[32] = "";
    unsigned index = if_nametoindex(name), major, minor;
    if (index == 0) {
        return error_set(err, errno, "network macvtap=%s: %s: an interface of type macvtap", name,
                         strerror(errno));
    }
    (void)snprintf(path, sizeof(path), "/sys/class/net/%s/macvtap/tap%u/dev", name, index);
    AUTO_CLOSE int description = open(path, O_RDONLY | O_CLOEXEC);
    if (description < 0 || read(description, number, sizeof(number) - 1) <= 0 ||
        sscanf(number, "%u:%u", &major, &minor) != 2) {
        return error_set(err, ENODEV, "network macvtap=%s: it is no macvtap interface (%s)", name,
                         path);
    }
    (void)snprintf(node, sizeof(node), "/dev/tap%u", index);
    dev_t device = makedev(major, minor);
    struct stat status;
    bool is_there = stat(node, &status) == 0 && S_ISCHR(status.st_mode) && status.st_rdev == device;
    if (!is_there) {
        (void)snprintf(node, sizeof(node), "/dev/hull-tap%u.%d", index, (int)getpid());
        if (mknod(node, S_IFCHR | 0600, device) < 0) {
            return error_set(err, errno, "network macvtap=%s: /dev/tap%u is missing, and %s: %s",
                             name, index, node, strerror(errno));
        }
    }
    AUTO_CLOSE int fd = open(node, O_RDWR | O_CLOEXEC | O_NONBLOCK);
    int code = errno;
    if (!is_there) {
        (void)unlink(node);
    }
    if (fd < 0) {
        return error_set(err, code, "network macvtap=%s: %s: %s", name, node, strerror(code));
    }
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    if (ioctl(fd, TUNSETIFF, &request) < 0) {
        return error_set_errno(err, errno, "network macvtap=%s", name);
    }
    *out_fd = TAKE_FD(fd);
    return 0;
}

/* "tcp:127.0.0.1:2222-:22" as the switch takes it; NULL: it leads to another address. */
static json_t *switch_forward(const char *rule)
{
    const char *to = strchr(rule, '-'), *listen = rule + 4;
    if (to == NULL || to[1] != ':') {
        return NULL;
    }
    listen += *listen == ':'; /* without an address it is a port alone */
    return json_pack("{s:o,s:o}", "listen",
                     json_sprintf("%.4s%.*s", rule, (int)(to - listen), listen), "connect",
                     json_sprintf("%.4s%s", rule, to + 2));
}

static char *attach_request(const struct boot_net *net, const char *name, struct error *err)
{
    char mac[BOOT_MAC_SIZE];
    boot_mac_text(net->mac, mac);
    json_auto_t *forwards = json_array();
    for (unsigned i = 0; i < net->hostfwd_count; i++) {
        json_t *forward = switch_forward(net->hostfwd[i]);
        if (forward == NULL) {
            (void)error_set(err, EINVAL,
                            "network switch=%s: hostfwd '%s': behind the '-' stands a port alone",
                            net->path, net->hostfwd[i]);
            return NULL;
        }
        json_array_append_new(forwards, forward);
    }
    json_auto_t *request =
        json_pack("{s:s,s:s,s:s,s:s*,s:s*,s:b,s:O}", "do", "attach", "name",
                  net->port_name != NULL ? net->port_name : name, "mac", mac, "ipv4", net->ipv4,
                  "ipv6", net->ipv6, "spoofing", (int)net->may_spoof, "forwards", forwards);
    char *text = json_dumps(request, JSON_COMPACT);
    if (text == NULL) {
        (void)error_set_errno(err, ENOMEM, "network switch=%s", net->path);
    }
    return text;
}

/* One end of a socket pair becomes a port of the switch. */
static int attach_to_switch(const struct boot_net *net, const char *name, int *out_fd,
                            struct error *err)
{
    int pair[2];
    AUTO_FREE char *request = attach_request(net, name, err);
    if (request == NULL) {
        return -err->code;
    }
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
        return error_set_errno(err, errno, "network switch=%s", net->path);
    }
    AUTO_CLOSE int own = pair[0];
    AUTO_CLOSE int its = pair[1];
    AUTO_FREE char *answer = NULL;
    int rc =
        unix_socket_ask(net->path, "network switch", request, its, SWITCH_TIMEOUT_MS, &answer, err);
    if (rc < 0) {
        return rc;
    }
    json_error_t fault;
    json_auto_t *said = json_loads(answer, 0, &fault);
    if (!json_is_true(json_object_get(said, "ok"))) {
        const char *why = json_string_value(json_object_get(said, "error"));
        return error_set(err, EINVAL, "network switch=%s: %.200s", net->path,
                         why != NULL ? why : "an answer that makes no sense");
    }
    *out_fd = TAKE_FD(own);
    return 0;
}

struct helper {
    int vm_fd, helper_fd;      /* the socket pair of frames */
    int ready_fd, ready_vm_fd; /* our end and the helper's of the pipe that says "ready" */
};

static int helper_sockets(struct helper *helper, struct error *err)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
        return error_set_errno(err, errno, "network: making a socket pair");
    }
    helper->vm_fd = pair[0];
    helper->helper_fd = pair[1];
    if (pipe2(pair, O_CLOEXEC) < 0) {
        int code = errno;
        close(helper->vm_fd);
        close(helper->helper_fd);
        return error_set_errno(err, code, "network: making a pipe");
    }
    helper->ready_fd = pair[0];
    helper->ready_vm_fd = pair[1];
    return 0;
}

/* A helper that outlives us keeps nobody waiting who reads what we say. -1: it has ours. */
static int open_silent(const struct boot_net *net)
{
    return net->outlives_us ? open("/dev/null", O_WRONLY | O_CLOEXEC) : -1;
}

/* hull-net-user --fd N --ready-fd M [--restrict] [--hostfwd RULE]... */
static int start_user(const struct boot_net *net, const struct helper *helper, pid_t *out_pid,
                      struct error *err)
{
    AUTO_CLOSE int silent = open_silent(net);
    char fd_text[16];
    char ready_text[16];
    const char *argv[8 + 2 * BOOT_MAX_HOSTFWDS] = {"hull-net-user", "--fd", fd_text, "--ready-fd",
                                                   ready_text};
    (void)snprintf(fd_text, sizeof(fd_text), "%d", helper->helper_fd);
    (void)snprintf(ready_text, sizeof(ready_text), "%d", helper->ready_vm_fd);
    size_t count = 5;
    if (net->outlives_us) {
        argv[count++] = "--outlive";
    }
    if (net->is_restricted) {
        argv[count++] = "--restrict";
    }
    for (unsigned i = 0; i < net->hostfwd_count; i++) {
        argv[count++] = "--hostfwd";
        argv[count++] = net->hostfwd[i];
    }
    struct process_spec spec = {
        .program = "hull-net-user",
        .argv = argv,
        .stdout_fd = -1,
        .stderr_fd = MAX(silent, 0),
        .outlives_us = net->outlives_us,
        .keep = {helper->helper_fd, helper->ready_vm_fd},
        .keep_count = 2,
    };
    return process_spawn(&spec, false, out_pid, err);
}

/* passt serves the one connection that it is given, without going to the background. */
static int start_passt(const struct boot_net *net, const struct helper *helper, pid_t *out_pid,
                       struct error *err)
{
    AUTO_CLOSE int silent = open_silent(net);
    char fd_text[16];
    (void)snprintf(fd_text, sizeof(fd_text), "%d", helper->helper_fd);
    const char *argv[] = {"passt", "--foreground", "--quiet", "--fd", fd_text, NULL};
    struct process_spec spec = {
        .program = "passt",
        .argv = argv,
        .stdout_fd = -1,
        .stderr_fd = MAX(silent, 0),
        .outlives_us = net->outlives_us,
        .keep = {helper->helper_fd},
        .keep_count = 1,
    };
    return process_spawn(&spec, true, out_pid, err);
}

int boot_open_net(const struct boot_net *net, const char *name, int *out_fd, pid_t *out_helper,
                  int *out_ready_fd, struct error *err)
{
    if (net->kind == BOOT_NET_MACVTAP) {
        return open_macvtap(net->tap, out_fd, err);
    }
    if (net->kind == BOOT_NET_SWITCH) {
        return attach_to_switch(net, name, out_fd, err);
    }
    if (net->kind == BOOT_NET_TAP) {
        return open_tap(net->tap, out_fd, err);
    }
    struct helper helper = {-1, -1, -1, -1};
    int rc = helper_sockets(&helper, err);
    if (rc < 0) {
        return rc;
    }
    if (net->kind == BOOT_NET_USER) {
        rc = start_user(net, &helper, out_helper, err);
    } else {
        rc = start_passt(net, &helper, out_helper, err);
    }
    close(helper.helper_fd);
    close(helper.ready_vm_fd);
    if (rc < 0 || net->kind == BOOT_NET_PASST) {
        close(helper.ready_fd);
        helper.ready_fd = -1;
    }
    if (rc < 0) {
        close(helper.vm_fd);
        return rc;
    }
    *out_fd = helper.vm_fd;
    *out_ready_fd = helper.ready_fd;
    return 0;
}
