#include "base/host/event_loop.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define EVENTS_PER_WAIT 32

struct event_source {
    struct event_loop *loop;
    int fd;
    event_fd_fn fn;
    void *ctx;
    bool is_removed; /* freed when the batch of events that may still name it is done */
    struct event_source *next;
    struct event_source *prev;
};

struct event_timer {
    struct event_source *source;
    int fd;
    event_fn fn;
    void *ctx;
};

struct event_notifier {
    struct event_source *source;
    int fd;
    event_fn fn;
    void *ctx;
};

struct deferred {
    event_fn fn;
    void *ctx;
    struct deferred *next;
};

struct event_loop {
    int epoll_fd;
    struct event_source *sources;
    struct event_source *removed;
    atomic_bool stop_requested;
    atomic_bool is_running;
    pthread_t thread;
    struct event_notifier *wake;
    pthread_mutex_t defer_lock; /* guards 'deferred' and 'deferred_tail' */
    struct deferred *deferred;
    struct deferred **deferred_tail;
};

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t clock_monotonic_ns(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

int64_t clock_monotonic_ms(void)
{
    return (int64_t)(clock_monotonic_ns() / 1000000);
}

uint64_t clock_realtime_ns(void)
{
    return clock_ns(CLOCK_REALTIME);
}

static void run_deferred(void *ctx)
{
    struct event_loop *loop = ctx;
    pthread_mutex_lock(&loop->defer_lock);
    struct deferred *list = loop->deferred;
    loop->deferred = NULL;
    loop->deferred_tail = &loop->deferred;
    pthread_mutex_unlock(&loop->defer_lock);
    while (list != NULL) {
        struct deferred *call = list;
        list = call->next;
        call->fn(call->ctx);
        free(call);
    }
}

int event_loop_create(struct event_loop **out_loop, struct error *err)
{
    struct event_loop *loop = calloc(1, sizeof(*loop));
    if (loop == NULL) {
        return error_set_errno(err, ENOMEM, "creating an event loop");
    }
    pthread_mutex_init(&loop->defer_lock, NULL);
    loop->deferred_tail = &loop->deferred;
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (loop->epoll_fd < 0) {
        int code = errno;
        event_loop_destroy(loop);
        return error_set_errno(err, code, "creating an event loop");
    }
    int rc = event_notifier_create(loop, run_deferred, loop, &loop->wake, err);
    if (rc < 0) {
        event_loop_destroy(loop);
        return rc;
    }
    *out_loop = loop;
    return 0;
}

static void free_removed(struct event_loop *loop)
{
    while (loop->removed != NULL) {
        struct event_source *source = loop->removed;
        loop->removed = source->next;
        free(source);
    }
}

void event_loop_destroy(struct event_loop *loop)
{
    if (loop == NULL) {
        return;
    }
    event_notifier_destroy(loop->wake);
    while (loop->sources != NULL) {
        event_source_remove(loop->sources);
    }
    free_removed(loop);
    while (loop->deferred != NULL) {
        struct deferred *call = loop->deferred;
        loop->deferred = call->next;
        free(call);
    }
    if (loop->epoll_fd >= 0) {
        close(loop->epoll_fd);
    }
    pthread_mutex_destroy(&loop->defer_lock);
    free(loop);
}

/* Waits at most 'timeout_ms' (-1: for ever) and calls back for what has come. */
static int turn(struct event_loop *loop, int timeout_ms, struct error *err)
{
    struct epoll_event events[EVENTS_PER_WAIT];
    int count = epoll_wait(loop->epoll_fd, events, EVENTS_PER_WAIT, timeout_ms);
    if (count < 0) {
        return errno == EINTR ? 0 : error_set_errno(err, errno, "waiting for events");
    }
    for (int i = 0; i < count; i++) {
        struct event_source *source = events[i].data.ptr;
        if (!source->is_removed) {
            source->fn(source->ctx, source->fd, events[i].events);
        }
    }
    free_removed(loop);
    return 0;
}

int event_loop_run(struct event_loop *loop, struct error *err)
{
    loop->thread = pthread_self();
    atomic_store(&loop->is_running, true);
    int rc = 0;
    while (rc == 0 && !atomic_load(&loop->stop_requested)) {
        rc = turn(loop, -1, err);
    }
    atomic_store(&loop->is_running, false);
    atomic_store(&loop->stop_requested, false);
    return rc;
}

int event_loop_fd(const struct event_loop *loop)
{
    return loop->epoll_fd;
}

int event_loop_turn(struct event_loop *loop, bool *out_stopped, struct error *err)
{
    loop->thread = pthread_self();
    atomic_store(&loop->is_running, true);
    int rc = turn(loop, 0, err);
    atomic_store(&loop->is_running, false);
    if (rc == 0) {
        *out_stopped = atomic_exchange(&loop->stop_requested, false);
    }
    return rc;
}

void event_loop_stop(struct event_loop *loop)
{
    atomic_store(&loop->stop_requested, true);
    event_notifier_signal(loop->wake);
}

bool event_loop_is_own_thread(struct event_loop *loop)
{
    return atomic_load(&loop->is_running) && pthread_equal(loop->thread, pthread_self());
}

int event_loop_add_fd(struct event_loop *loop, int fd, uint32_t events, event_fd_fn fn, void *ctx,
                      struct event_source **out_source, struct error *err)
{
    struct event_source *source = calloc(1, sizeof(*source));
    if (source == NULL) {
        return error_set_errno(err, ENOMEM, "watching descriptor %d", fd);
    }
    *source = (struct event_source){.loop = loop, .fd = fd, .fn = fn, .ctx = ctx};
    struct epoll_event event = {.events = events, .data.ptr = source};
    if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0) {
        int code = errno;
        free(source);
        return error_set_errno(err, code, "watching descriptor %d", fd);
    }
    source->next = loop->sources;
    if (loop->sources != NULL) {
        loop->sources->prev = source;
    }
    loop->sources = source;
    *out_source = source;
    return 0;
}

void event_source_set_events(struct event_source *source, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = source};
    (void)epoll_ctl(source->loop->epoll_fd, EPOLL_CTL_MOD, source->fd, &event); /* fd is watched */
}

void event_source_remove(struct event_source *source)
{
    if (source == NULL) {
        return;
    }
    struct event_loop *loop = source->loop;
    (void)epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, source->fd, NULL); /* may be closed already */
    if (source->prev != NULL) {
        source->prev->next = source->next;
    } else {
        loop->sources = source->next;
    }
    if (source->next != NULL) {
        source->next->prev = source->prev;
    }
    source->is_removed = true;
    source->prev = NULL;
    source->next = loop->removed;
    loop->removed = source;
}

static void timer_fired(void *ctx, int fd, uint32_t events)
{
    struct event_timer *timer = ctx;
    uint64_t count;
    if (read(fd, &count, sizeof(count)) == (ssize_t)sizeof(count)) {
        timer->fn(timer->ctx);
    }
}

int event_timer_create(struct event_loop *loop, event_fn fn, void *ctx,
                       struct event_timer **out_timer, struct error *err)
{
    struct event_timer *timer = calloc(1, sizeof(*timer));
    if (timer == NULL) {
        return error_set_errno(err, ENOMEM, "creating a timer");
    }
    timer->fn = fn;
    timer->ctx = ctx;
    timer->fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (timer->fd < 0) {
        int code = errno;
        free(timer);
        return error_set_errno(err, code, "creating a timer");
    }
    int rc = event_loop_add_fd(loop, timer->fd, EPOLLIN, timer_fired, timer, &timer->source, err);
    if (rc < 0) {
        event_timer_destroy(timer);
        return rc;
    }
    *out_timer = timer;
    return 0;
}

void event_timer_arm(struct event_timer *timer, uint64_t deadline_ns)
{
    if (deadline_ns == 0) {
        deadline_ns = 1; /* zero would disarm: timerfd_settime(2) */
    }
    struct itimerspec at = {.it_value = {.tv_sec = (time_t)(deadline_ns / 1000000000u),
                                         .tv_nsec = (long)(deadline_ns % 1000000000u)}};
    (void)timerfd_settime(timer->fd, TFD_TIMER_ABSTIME, &at, NULL); /* a valid time on our own fd */
}

void event_timer_disarm(struct event_timer *timer)
{
    struct itimerspec never = {0};
    (void)timerfd_settime(timer->fd, 0, &never, NULL); /* our own fd */
}

void event_timer_destroy(struct event_timer *timer)
{
    if (timer == NULL) {
        return;
    }
    event_source_remove(timer->source);
    close(timer->fd);
    free(timer);
}

/* Each signal is an edge, so the counter need not be read, which would be one more system call for each wake-up. */
static void notifier_woken(void *ctx, int fd, uint32_t events)
{
    struct event_notifier *notifier = ctx;
    notifier->fn(notifier->ctx);
}

int event_notifier_create(struct event_loop *loop, event_fn fn, void *ctx,
                          struct event_notifier **out_notifier, struct error *err)
{
    struct event_notifier *notifier = calloc(1, sizeof(*notifier));
    if (notifier == NULL) {
        return error_set_errno(err, ENOMEM, "creating a notifier");
    }
    notifier->fn = fn;
    notifier->ctx = ctx;
    notifier->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (notifier->fd < 0) {
        int code = errno;
        free(notifier);
        return error_set_errno(err, code, "creating a notifier");
    }
    int rc = event_loop_add_fd(loop, notifier->fd, EPOLLIN | EPOLLET, notifier_woken, notifier,
                               &notifier->source, err);
    if (rc < 0) {
        event_notifier_destroy(notifier);
        return rc;
    }
    *out_notifier = notifier;
    return 0;
}

void event_notifier_signal(struct event_notifier *notifier)
{
    uint64_t one = 1;
    (void)!write(notifier->fd, &one, sizeof(one)); /* 2^64 signals make the counter full */
}

int event_notifier_fd(const struct event_notifier *notifier)
{
    return notifier->fd;
}

void event_notifier_destroy(struct event_notifier *notifier)
{
    if (notifier == NULL) {
        return;
    }
    event_source_remove(notifier->source);
    close(notifier->fd);
    free(notifier);
}

int event_loop_defer(struct event_loop *loop, event_fn fn, void *ctx, struct error *err)
{
    struct deferred *call = malloc(sizeof(*call));
    if (call == NULL) {
        return error_set_errno(err, ENOMEM, "deferring a call");
    }
    *call = (struct deferred){.fn = fn, .ctx = ctx};
    pthread_mutex_lock(&loop->defer_lock);
    *loop->deferred_tail = call;
    loop->deferred_tail = &call->next;
    pthread_mutex_unlock(&loop->defer_lock);
    event_notifier_signal(loop->wake);
    return 0;
}
