#include "net/user/user.h"

#include <poll.h>
#include <stdlib.h>

#include "net/user/frames.h"
#include "net/user/stack.h"

struct net_user {
    struct stack_settings settings;
    struct stack *stack;
    struct polls polls; /* the frame socket first */
    struct frames frames;
};

static void send_frame(void *ctx, const void *frame, size_t size)
{
    struct net_user *user = ctx;
    (void)frames_send(&user->frames, frame, size); /* as on any wire */
}

int net_user_create(const struct net_user_options *options, struct net_user **out_user,
                    struct error *err)
{
    struct net_user *user = calloc(1, sizeof(*user));
    if (user == NULL) {
        return error_set_errno(err, ENOMEM, "starting the network");
    }
    frames_init(&user->frames, options->fd);
    stack_settings_init(&user->settings);
    user->settings.is_restricted = options->is_restricted;
    user->settings.has_ipv6 = options->has_ipv6;
    user->settings.hostname = options->hostname;
    user->settings.search = options->search;
    int rc = stack_create(&user->settings, send_frame, user, &user->stack, err);
    for (unsigned i = 0; rc == 0 && i < options->forward_count; i++) {
        rc = stack_open_forward(user->stack, &options->forwards[i], options->forward_text[i], err);
    }
    if (rc < 0) {
        net_user_destroy(user);
        return rc;
    }
    *out_user = user;
    return 0;
}

void net_user_destroy(struct net_user *user)
{
    if (user != NULL) {
        stack_destroy(user->stack);
        free(user);
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
        stack_input(user->stack, frame, size);
    }
    return rc < 0 ? rc : 1;
}

int net_user_run(struct net_user *user, struct error *err)
{
    struct pollfd *own = &user->polls.poll[0];
    for (;;) {
        bool has_queued = frames_has_queued(&user->frames);
        *own = (struct pollfd){.fd = user->frames.fd,
                               .events = (short)(POLLIN | (has_queued ? POLLOUT : 0))};
        user->polls.count = 1;
        int timeout_ms = stack_fill(user->stack, &user->polls, frames_is_congested(&user->frames));
        int count = poll(user->polls.poll, user->polls.count, timeout_ms);
        if (count < 0 && errno != EINTR) {
            return error_set_errno(err, errno, "waiting for packets");
        }
        if (count >= 0 && (own->revents & POLLOUT)) {
            int rc = frames_flush(&user->frames, err);
            if (rc < 0) {
                /* The VM has ended in the middle of a frame. */
                return rc == -EPIPE || rc == -ECONNRESET ? 0 : rc;
            }
        }
        stack_work(user->stack, &user->polls, count < 0);
        if (count > 0 && (own->revents & (POLLIN | POLLHUP | POLLERR))) {
            int rc = take_frames(user, err);
            if (rc <= 0) {
                return rc;
            }
        }
    }
}
