/* libslirp, wrapped: an IP stack that makes the host's sockets of what guests send. The one file that speaks with it.
 *
 * Frames come in by stack_input and go out by the function that its owner gives. Descriptors are the owner's to wait for: before
 * each wait stack_fill adds them, after it stack_work looks at them.
 *
 * Threads: one. */
#ifndef NET_USER_STACK_H
#define NET_USER_STACK_H

#include <netinet/in.h>
#include <poll.h>
#include <stdbool.h>
#include <stddef.h>

#include "net/user/hostfwd.h"

#define STACK_MAX_POLLS 8192 /* more than the descriptors that the jail allows */
#define STACK_MIN_FRAME 14

struct stack_settings {
    bool is_restricted;
    bool has_ipv6;
    struct in_addr network, mask, host, name_server, first; /* 'first': what DHCP gives first */
    const char *hostname;                                   /* what DHCP says; NULL: none */
    const char *const *search;                              /* likewise; NULL at the end */
};

/* 10.0.2.0/24 with the host at 10.0.2.2, the name server at 10.0.2.3 and guests from 10.0.2.15 on. */
void stack_settings_init(struct stack_settings *out_settings);
/* The same of IPv6, always: fec0::/64, fec0::2, fec0::3. */
#define STACK_PREFIX6      "fec0::"
#define STACK_HOST6        "fec0::2"
#define STACK_NAME_SERVER6 "fec0::3"
/* Hardware addresses that begin so are the stack's own. */
#define STACK_MAC_FIRST   0x52
#define STACK_MAC_SECOND  0x55
#define STACK_MAC_SECOND6 0x56

struct polls {
    nfds_t count;
    struct pollfd poll[STACK_MAX_POLLS];
};

typedef void (*stack_send_fn)(void *ctx, const void *frame, size_t size);

struct stack;
/* 'settings' are borrowed while it lives. */
int must_check stack_create(const struct stack_settings *settings, stack_send_fn send, void *ctx,
                            struct stack **out_stack, struct error *err);
void stack_destroy(struct stack *stack);
void stack_input(struct stack *stack, const void *frame, size_t size);

/* Opens the port on the host. Errors name the rule 'text' as far as its guest's side. */
int must_check stack_open_forward(struct stack *stack, const struct hostfwd *forward,
                                  const char *text, struct error *err);
/* Connections that are there stay. */
void stack_close_forward(struct stack *stack, const struct hostfwd *forward);

/* Adds what the stack waits for, or nothing where its frames have nowhere to go. How long to wait at most; -1: for ever. */
int stack_fill(struct stack *stack, struct polls *polls, bool is_congested);
/* 'has_failed': poll(2) did. */
void stack_work(struct stack *stack, const struct polls *polls, bool has_failed);

#endif
