/* The control connection of a VM: JSON lines over unix sockets, as cli.md and docs/control.md spell them. This file knows
 * clients and lines; what the verbs do is in control_verbs.c.
 *
 * Threads: the loop's. */
#ifndef VMM_CONTROL_H
#define VMM_CONTROL_H

#include <jansson.h>

#include "base/host/event_loop.h"

#define CONTROL_MAX_LINE    (64u << 10)
#define CONTROL_MAX_OUTPUT  (1u << 20) /* a client that lets more pile up is dropped */
#define CONTROL_MAX_CLIENTS 32u

/* Descriptors of one request: an image and all that it may stand on. */
#define CONTROL_MAX_FILES 20u

struct control;
struct control_client;

struct control_request {
    const char *verb;
    const json_t *arguments; /* the whole request object */
    int fd;                  /* a descriptor that came with it, or -1; the handler may take it */
    int other_fd;            /* likewise a second one */
    int *more_fd;            /* likewise the rest: CONTROL_MAX_FILES - 2 */
};

/* Carries out one request. 0: 'out_answer' is the "ok" object (owned by the caller; NULL: empty). -errno: 'err' is the
 * message, and the code is its word (control_code). */
typedef int (*control_handle_fn)(void *ctx, struct control_client *client,
                                 struct control_request *request, json_t **out_answer,
                                 struct error *err);

/* Serves 'listen_fd' (or -1) and the connected 'owner_fd' (or -1), which it owns from then on. */
int must_check control_create(struct event_loop *loop, int listen_fd, int owner_fd,
                              control_handle_fn handle, void *ctx, struct control **out_control,
                              struct error *err);
void control_destroy(struct control *control);

/* Events go to all clients that asked for them. Takes over 'event'. */
void control_send_event(struct control *control, json_t *event);
void control_client_wants_events(struct control_client *client, bool wants);
/* To one client only. Takes over 'event'. */
void control_client_send(struct control_client *client, json_t *event);

/* The word for an errno: "invalid", "unknown-verb", "busy", "no-device", "failed". */
const char *control_code(int code);

#endif
