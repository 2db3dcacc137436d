#include "net/user/user.h"

#include <arpa/inet.h>
#include <poll.h>
#include <slirp/libslirp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/host/event_loop.h"
#include "base/host/log.h"
#include "net/user/frames.h"

#define MAX_POLLS 8192 /* more than the descriptors that the jail allows */
#define NS_PER_MS 1000000
/* libslirp wants to be called once a second even if it has nothing to time: 2 and 500 ms are its timeouts in earnest. It looks
 * at its clock only in calls that something else has caused, so it may just as well sleep. */
#define IDLE_MS    1000
#define MIN_FRAME  14
#define MAX_TIMERS 4 /* libslirp has one */

/* A timer of libslirp. */
struct timer {
    bool is_used;
    SlirpTimerId id;
    void *ctx;
    int64_t deadline_ms; /* INT64_MAX: not armed */
};

struct net_user {
    const struct net_user_options *options;
    Slirp *slirp;
    struct timer timers[MAX_TIMERS];
    nfds_t poll_count;
    struct pollfd polls[MAX_POLLS]; /* the frame socket first */
    struct frames frames;
};

static int64_t now_ms(void)
{
    return (int64_t)(clock_monotonic_ns() / NS_PER_MS);
}

static ssize_t send_packet(const void *frame, size_t size, void *ctx)
{
    struct net_user *user = ctx;
    frames_send(&user->frames, frame, size);
    return (ssize_t)size;
}

static void guest_error(const char *message, void *ctx)
{
    static struct log_limit limit = LOG_LIMIT(5);
    log_limited(&limit, LOG_LEVEL_INFO, "guest: %s", message);
}

static int64_t clock_get_ns(void *ctx)
{
    return (int64_t)clock_monotonic_ns();
}

static void *timer_new_opaque(SlirpTimerId id, void *timer_ctx, void *ctx)
{
    struct net_user *user = ctx;
    for (size_t i = 0; i < MAX_TIMERS; i++) {
        if (!user->timers[i].is_used) {
            user->timers[i] = (struct timer){
                .is_used = true, .id = id, .ctx = timer_ctx, .deadline_ms = INT64_MAX};
            return &user->timers[i];
        }
    }
    log_error("libslirp wants more than %d timers", MAX_TIMERS);
    abort();
}

static void timer_free(void *opaque, void *ctx)
{
    struct timer *timer = opaque;
    timer->is_used = false;
}

static void timer_mod(void *opaque, int64_t deadline_ms, void *ctx)
{
    struct timer *timer = opaque;
    timer->deadline_ms = deadline_ms;
}

static void ignore_fd(int fd, void *ctx)
{
    /* Descriptors are gathered anew before each wait. */
}

static void notify(void *ctx)
{
    /* There is one thread, and it gathers descriptors before it waits. */
}

static const SlirpCb slirp_callbacks = {
    .send_packet = send_packet,
    .guest_error = guest_error,
    .clock_get_ns = clock_get_ns,
    .timer_free = timer_free,
    .timer_mod = timer_mod,
    .register_poll_fd = ignore_fd,
    .unregister_poll_fd = ignore_fd,
    .notify = notify,
    .timer_new_opaque = timer_new_opaque,
};

static void configure(const struct net_user_options *options, SlirpConfig *out_config)
{
    SlirpConfig config = {
        .version = 4,
        .restricted = options->is_restricted,
        .in_enabled = true,
        .in6_enabled = options->has_ipv6,
        .vprefix_len = 64,
        .vhostname = options->hostname,
        .vdnssearch = options->search[0] != NULL ? (const char **)options->search : NULL,
    };
    config.vnetwork.s_addr = htonl(0x0a000200);
    config.vnetmask.s_addr = htonl(0xffffff00);
    config.vhost.s_addr = htonl(0x0a000202);
    config.vnameserver.s_addr = htonl(0x0a000203);
    config.vdhcp_start.s_addr = htonl(0x0a00020f);
    (void)inet_pton(AF_INET6, "fec0::", &config.vprefix_addr6); /* constants */
    (void)inet_pton(AF_INET6, "fec0::2", &config.vhost6);
    (void)inet_pton(AF_INET6, "fec0::3", &config.vnameserver6);
    *out_config = config;
}

static socklen_t address_size(const union hostfwd_address *address)
{
    return address->any.sa_family == AF_INET6 ? sizeof(address->v6) : sizeof(address->v4);
}

/* libslirp lets its UDP ports be shared, so a port in use would silently lose every datagram: see whether it is free. */
static int probe_udp(const struct hostfwd *forward)
{
    int fd = socket(forward->host.any.sa_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return -errno;
    }
    int v6only = 1;
    if (forward->host.any.sa_family == AF_INET6) {
        (void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &v6only, sizeof(v6only)); /* bind tells */
    }
    int rc = bind(fd, &forward->host.any, address_size(&forward->host)) < 0 ? -errno : 0;
    close(fd);
    return rc;
}

static int open_forward(struct net_user *user, const struct hostfwd *forward, const char *text,
                        struct error *err)
{
    if (forward->host.any.sa_family == AF_INET6 && !user->options->has_ipv6) {
        return error_set(err, EINVAL, "forwarding %s: --no-ipv6 leaves only IPv4", text);
    }
    int rc = forward->is_udp ? probe_udp(forward) : 0;
    if (rc == 0) {
        int flags = (forward->is_udp ? SLIRP_HOSTFWD_UDP : 0) |
                    (forward->host.any.sa_family == AF_INET6 ? SLIRP_HOSTFWD_V6ONLY : 0);
        errno = 0;
        if (slirp_add_hostxfwd(user->slirp, &forward->host.any, address_size(&forward->host),
                               &forward->guest.any, address_size(&forward->guest), flags) < 0) {
            rc = errno != 0 ? -errno : -EINVAL;
        }
    }
    if (rc == 0) {
        return 0;
    }
    const char *advice = rc == -EADDRINUSE      ? ": choose another host port"
                         : rc == -EACCES        ? ": choose a host port above 1023"
                         : rc == -EADDRNOTAVAIL ? ": expected an address of this host"
                                                : "";
    char reason[80];
    (void)snprintf(reason, sizeof(reason), "%s", strerror(-rc));
    if (reason[0] >= 'A' && reason[0] <= 'Z') {
        reason[0] = (char)(reason[0] - 'A' + 'a');
    }
    /* As the user wrote it, up to the guest's side. */
    const char *guest_part = strrchr(text, '-');
    return error_set(err, -rc, "forwarding %.3s %.*s: %s%s", text, (int)(guest_part - text - 4),
                     text + 4, reason, advice);
}

int net_user_create(const struct net_user_options *options, struct net_user **out_user,
                    struct error *err)
{
    struct net_user *user = calloc(1, sizeof(*user));
    if (user == NULL) {
        return error_set_errno(err, ENOMEM, "starting the network");
    }
    user->options = options;
    frames_init(&user->frames, options->fd);
    SlirpConfig config;
    configure(options, &config);
    user->slirp = slirp_new(&config, &slirp_callbacks, user);
    if (user->slirp == NULL) {
        free(user);
        return error_set(err, EINVAL, "starting the network: libslirp %s refused",
                         slirp_version_string());
    }
    for (unsigned i = 0; i < options->forward_count; i++) {
        int rc = open_forward(user, &options->forwards[i], options->forward_text[i], err);
        if (rc < 0) {
            net_user_destroy(user);
            return rc;
        }
    }
    *out_user = user;
    return 0;
}

void net_user_destroy(struct net_user *user)
{
    if (user != NULL) {
        slirp_cleanup(user->slirp);
        free(user);
    }
}

static const struct {
    int slirp_event;
    short poll_event;
} event_names[] = {
    {SLIRP_POLL_IN, POLLIN},   {SLIRP_POLL_OUT, POLLOUT}, {SLIRP_POLL_PRI, POLLPRI},
    {SLIRP_POLL_ERR, POLLERR}, {SLIRP_POLL_HUP, POLLHUP},
};

static int add_poll(int fd, int events, void *ctx)
{
    struct net_user *user = ctx;
    if (user->poll_count == MAX_POLLS || frames_is_congested(&user->frames)) {
        return -1;
    }
    short wanted = 0;
    for (size_t i = 0; i < ARRAY_COUNT(event_names); i++) {
        wanted |= (short)((events & event_names[i].slirp_event) ? event_names[i].poll_event : 0);
    }
    user->polls[user->poll_count] = (struct pollfd){.fd = fd, .events = wanted};
    return (int)user->poll_count++;
}

static int get_revents(int index, void *ctx)
{
    const struct net_user *user = ctx;
    if (index < 0 || (nfds_t)index >= user->poll_count) {
        return 0;
    }
    int events = 0;
    for (size_t i = 0; i < ARRAY_COUNT(event_names); i++) {
        events |= (user->polls[index].revents & event_names[i].poll_event)
                      ? event_names[i].slirp_event
                      : 0;
    }
    return events;
}

static int wait_timeout_ms(const struct net_user *user, uint32_t slirp_timeout_ms)
{
    int64_t timeout_ms = slirp_timeout_ms >= IDLE_MS ? INT64_MAX : (int64_t)slirp_timeout_ms;
    for (size_t i = 0; i < MAX_TIMERS; i++) {
        const struct timer *timer = &user->timers[i];
        if (timer->is_used && timer->deadline_ms != INT64_MAX) {
            timeout_ms = MIN(timeout_ms, MAX(timer->deadline_ms - now_ms(), 0));
        }
    }
    return timeout_ms == INT64_MAX ? -1 : (int)MIN(timeout_ms, INT32_MAX);
}

static void fire_timers(struct net_user *user)
{
    for (size_t i = 0; i < MAX_TIMERS; i++) {
        struct timer *timer = &user->timers[i];
        if (timer->is_used && timer->deadline_ms <= now_ms()) {
            timer->deadline_ms = INT64_MAX;
            slirp_handle_timer(user->slirp, timer->id, timer->ctx);
        }
    }
}

/* Takes what the VM has sent. 1: goes on; 0: it closed the socket. */
static int take_frames(struct net_user *user, struct error *err)
{
    int got = frames_receive(&user->frames, err);
    if (got == -EAGAIN) {
        return 1;
    }
    if (got <= 0) {
        return got;
    }
    const uint8_t *frame;
    size_t size;
    int rc;
    while ((rc = frames_next(&user->frames, &frame, &size, err)) > 0) {
        if (size >= MIN_FRAME) {
            slirp_input(user->slirp, frame, (int)size);
        }
    }
    return rc < 0 ? rc : 1;
}

int net_user_run(struct net_user *user, struct error *err)
{
    for (;;) {
        bool has_queued = frames_has_queued(&user->frames);
        user->polls[0] = (struct pollfd){.fd = user->frames.fd,
                                         .events = (short)(POLLIN | (has_queued ? POLLOUT : 0))};
        user->poll_count = 1;
        uint32_t slirp_timeout_ms = UINT32_MAX;
        slirp_pollfds_fill(user->slirp, &slirp_timeout_ms, add_poll, user);
        int count = poll(user->polls, user->poll_count, wait_timeout_ms(user, slirp_timeout_ms));
        if (count < 0 && errno != EINTR) {
            return error_set_errno(err, errno, "waiting for packets");
        }
        if (count >= 0 && (user->polls[0].revents & POLLOUT)) {
            int rc = frames_flush(&user->frames, err);
            if (rc < 0) {
                /* The VM has ended in the middle of a frame. */
                return rc == -EPIPE || rc == -ECONNRESET ? 0 : rc;
            }
        }
        fire_timers(user);
        slirp_pollfds_poll(user->slirp, count < 0, get_revents, user);
        if (count > 0 && (user->polls[0].revents & (POLLIN | POLLHUP | POLLERR))) {
            int rc = take_frames(user, err);
            if (rc <= 0) {
                return rc;
            }
        }
    }
}
