/* The host side of a network card: a tap interface, or a socket to a helper process. */
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "base/host/file.h"
#include "base/host/program.h"
#include "cli/boot_files.h"

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

int boot_open_net(const struct boot_net *net, int *out_fd, pid_t *out_helper, int *out_ready_fd,
                  struct error *err)
{
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
