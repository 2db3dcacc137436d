/* One thread that waits for descriptors, timers and wake-ups and calls back: the I/O thread of a VM.
 *
 * Threads: 'any' where a function says so; everything else is called on the loop's thread or while the
 * loop does not run. Callbacks run on the loop's thread, hold no lock of the loop, and must not block. */
#ifndef BASE_HOST_EVENT_LOOP_H
#define BASE_HOST_EVENT_LOOP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>

#include "base/core/error.h"

struct event_loop;
struct event_source;
struct event_timer;
struct event_notifier;

/* 'events' is a set of EPOLLIN, EPOLLOUT, EPOLLHUP, EPOLLERR. */
typedef void (*event_fd_fn)(void *ctx, int fd, uint32_t events);
typedef void (*event_fn)(void *ctx);

int must_check event_loop_create(struct event_loop **out_loop, struct error *err);
/* Frees the loop and what is still attached to it. NULL is fine. */
void event_loop_destroy(struct event_loop *loop);
/* Runs until event_loop_stop; may be run again. */
int must_check event_loop_run(struct event_loop *loop, struct error *err);
/* For a thread that waits elsewhere: this descriptor can be read when there is something to do, and event_loop_turn does it without
 * waiting. 'out_stopped': event_loop_stop was called. The descriptor stays the loop's. */
int event_loop_fd(const struct event_loop *loop);
int must_check event_loop_turn(struct event_loop *loop, bool *out_stopped, struct error *err);
/* Threads: any. */
void event_loop_stop(struct event_loop *loop);
/* Is this the thread that runs the loop? Threads: any. */
bool event_loop_is_own_thread(struct event_loop *loop);

/* Watches 'fd' (borrowed: the caller closes it, after removing the source). Level-triggered. */
int must_check event_loop_add_fd(struct event_loop *loop, int fd, uint32_t events, event_fd_fn fn,
                                 void *ctx, struct event_source **out_source, struct error *err);
void event_source_set_events(struct event_source *source, uint32_t events);
/* Safe inside any callback, also the source's own: it is not called again. NULL is fine. */
void event_source_remove(struct event_source *source);

/* A one-shot timer on CLOCK_MONOTONIC. */
int must_check event_timer_create(struct event_loop *loop, event_fn fn, void *ctx,
                                  struct event_timer **out_timer, struct error *err);
/* Fires once at 'deadline_ns' (of clock_monotonic_ns; in the past: at once). Replaces what was armed.
 * Threads: any; a callback that is under way at that moment is not called off. */
void event_timer_arm(struct event_timer *timer, uint64_t deadline_ns);
/* Threads: any. */
void event_timer_disarm(struct event_timer *timer);
void event_timer_destroy(struct event_timer *timer);

/* A wake-up from any thread, or from the kernel through its eventfd (KVM's ioeventfd). */
int must_check event_notifier_create(struct event_loop *loop, event_fn fn, void *ctx,
                                     struct event_notifier **out_notifier, struct error *err);
/* Signals that come before the callback runs are merged. Threads: any; safe in a signal handler. */
void event_notifier_signal(struct event_notifier *notifier);
/* The eventfd, borrowed. */
int event_notifier_fd(const struct event_notifier *notifier);
void event_notifier_destroy(struct event_notifier *notifier);

/* Calls fn(ctx) once, soon, on the loop's thread. Threads: any. */
int must_check event_loop_defer(struct event_loop *loop, event_fn fn, void *ctx, struct error *err);

/* Nanoseconds of CLOCK_MONOTONIC. Threads: any. */
uint64_t clock_monotonic_ns(void);
int64_t clock_monotonic_ms(void); /* the same, for timeouts */
/* Nanoseconds since 1970 of CLOCK_REALTIME. Threads: any. */
uint64_t clock_realtime_ns(void);

#endif
