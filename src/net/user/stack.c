#include "net/user/stack.h"

#include <arpa/inet.h>
#include <slirp/libslirp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/host/event_loop.h"
#include "base/host/log.h"

#define NS_PER_MS 1000000
/* libslirp wants to be called once a second even if it has nothing to time: 2 and 500 ms are its timeouts in earnest. It looks
 * at its clock only in calls that something else has caused, so it may just as well sleep. */
#define IDLE_MS    1000
#define MAX_TIMERS 4 /* libslirp has one */

/* A timer of libslirp. */
struct timer {
    bool is_used;
    SlirpTimerId id;
    void *ctx;
    int64_t deadline_ms; /* INT64_MAX: not armed */
};

struct stack {
    const struct stack_settings *settings;
    Slirp *slirp;
    stack_send_fn send;
    void *send_ctx;
    struct timer timers[MAX_TIMERS];
    /* Of the wait that is prepared. */
    struct polls *polls;
    bool is_congested;
};

static int64_t now_ms(void)
{
    return (int64_t)(clock_monotonic_ns() / NS_PER_MS);
}

static ssize_t send_packet(const void *frame, size_t size, void *ctx)
{
    struct stack *stack = ctx;
    stack->send(stack->send_ctx, frame, size);
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
    struct stack *stack = ctx;
    for (size_t i = 0; i < MAX_TIMERS; i++) {
        if (!stack->timers[i].is_used) {
            stack->timers[i] = (struct timer){
                .is_used = true, .id = id, .ctx = timer_ctx, .deadline_ms = INT64_MAX};
            return &stack->timers[i];
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

void stack_settings_init(struct stack_settings *out_settings)
{
    *out_settings = (struct stack_settings){
        .has_ipv6 = true,
        .network.s_addr = htonl(0x0a000200),
        .mask.s_addr = htonl(0xffffff00),
        .host.s_addr = htonl(0x0a000202),
        .name_server.s_addr = htonl(0x0a000203),
        .first.s_addr = htonl(0x0a00020f),
    };
}

static void configure(const struct stack_settings *settings, SlirpConfig *out_config)
{
    SlirpConfig config = {
        .version = 4,
        .restricted = settings->is_restricted,
        .in_enabled = true,
        .in6_enabled = settings->has_ipv6,
        .vprefix_len = 64,
        .vhostname = settings->hostname,
        .vdnssearch = settings->search != NULL && settings->search[0] != NULL
                          ? (const char **)settings->search
                          : NULL,
        .vnetwork = settings->network,
        .vnetmask = settings->mask,
        .vhost = settings->host,
        .vnameserver = settings->name_server,
        .vdhcp_start = settings->first,
    };
    (void)inet_pton(AF_INET6, STACK_PREFIX6, &config.vprefix_addr6); /* constants */
    (void)inet_pton(AF_INET6, STACK_HOST6, &config.vhost6);
    (void)inet_pton(AF_INET6, STACK_NAME_SERVER6, &config.vnameserver6);
    *out_config = config;
}

int stack_create(const struct stack_settings *settings, stack_send_fn send, void *ctx,
                 struct stack **out_stack, struct error *err)
{
    struct stack *stack = calloc(1, sizeof(*stack));
    if (stack == NULL) {
        return error_set_errno(err, ENOMEM, "starting the network");
    }
    stack->settings = settings;
    stack->send = send;
    stack->send_ctx = ctx;
    SlirpConfig config;
    configure(settings, &config);
    stack->slirp = slirp_new(&config, &slirp_callbacks, stack);
    if (stack->slirp == NULL) {
        free(stack);
        return error_set(err, EINVAL, "starting the network: libslirp %s refused",
                         slirp_version_string());
    }
    *out_stack = stack;
    return 0;
}

void stack_destroy(struct stack *stack)
{
    if (stack != NULL) {
        slirp_cleanup(stack->slirp);
        free(stack);
    }
}

void stack_input(struct stack *stack, const void *frame, size_t size)
{
    if (size >= STACK_MIN_FRAME && size <= INT32_MAX) {
        slirp_input(stack->slirp, frame, (int)size);
    }
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

static int flags_of(const struct hostfwd *forward)
{
    return (forward->is_udp ? SLIRP_HOSTFWD_UDP : 0) |
           (forward->host.any.sa_family == AF_INET6 ? SLIRP_HOSTFWD_V6ONLY : 0);
}

int stack_open_forward(struct stack *stack, const struct hostfwd *forward, const char *text,
                       struct error *err)
{
    if (forward->host.any.sa_family == AF_INET6 && !stack->settings->has_ipv6) {
        return error_set(err, EINVAL, "forwarding %s: --no-ipv6 leaves only IPv4", text);
    }
    int rc = forward->is_udp ? probe_udp(forward) : 0;
    if (rc == 0) {
        errno = 0;
        if (slirp_add_hostxfwd(stack->slirp, &forward->host.any, address_size(&forward->host),
                               &forward->guest.any, address_size(&forward->guest),
                               flags_of(forward)) < 0) {
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

void stack_close_forward(struct stack *stack, const struct hostfwd *forward)
{
    /* It fails only where the port is not there. */
    (void)slirp_remove_hostxfwd(stack->slirp, &forward->host.any, address_size(&forward->host),
                                flags_of(forward));
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
    struct stack *stack = ctx;
    struct polls *polls = stack->polls;
    if (polls->count == STACK_MAX_POLLS || stack->is_congested) {
        return -1;
    }
    short wanted = 0;
    for (size_t i = 0; i < ARRAY_COUNT(event_names); i++) {
        wanted |= (short)((events & event_names[i].slirp_event) ? event_names[i].poll_event : 0);
    }
    polls->poll[polls->count] = (struct pollfd){.fd = fd, .events = wanted};
    return (int)polls->count++;
}

static int get_revents(int index, void *ctx)
{
    const struct polls *polls = ctx;
    if (index < 0 || (nfds_t)index >= polls->count) {
        return 0;
    }
    int events = 0;
    for (size_t i = 0; i < ARRAY_COUNT(event_names); i++) {
        events |= (polls->poll[index].revents & event_names[i].poll_event)
                      ? event_names[i].slirp_event
                      : 0;
    }
    return events;
}

static int wait_timeout_ms(const struct stack *stack, uint32_t slirp_timeout_ms)
{
    int64_t timeout_ms = slirp_timeout_ms >= IDLE_MS ? INT64_MAX : (int64_t)slirp_timeout_ms;
    for (size_t i = 0; i < MAX_TIMERS; i++) {
        const struct timer *timer = &stack->timers[i];
        if (timer->is_used && timer->deadline_ms != INT64_MAX) {
            timeout_ms = MIN(timeout_ms, MAX(timer->deadline_ms - now_ms(), 0));
        }
    }
    return timeout_ms == INT64_MAX ? -1 : (int)MIN(timeout_ms, INT32_MAX);
}

int stack_fill(struct stack *stack, struct polls *polls, bool is_congested)
{
    uint32_t slirp_timeout_ms = UINT32_MAX;
    stack->polls = polls;
    stack->is_congested = is_congested;
    slirp_pollfds_fill(stack->slirp, &slirp_timeout_ms, add_poll, stack);
    stack->polls = NULL;
    return wait_timeout_ms(stack, slirp_timeout_ms);
}

static void fire_timers(struct stack *stack)
{
    for (size_t i = 0; i < MAX_TIMERS; i++) {
        struct timer *timer = &stack->timers[i];
        if (timer->is_used && timer->deadline_ms <= now_ms()) {
            timer->deadline_ms = INT64_MAX;
            slirp_handle_timer(stack->slirp, timer->id, timer->ctx);
        }
    }
}

void stack_work(struct stack *stack, const struct polls *polls, bool has_failed)
{
    fire_timers(stack);
    slirp_pollfds_poll(stack->slirp, has_failed, get_revents, (void *)polls);
}
