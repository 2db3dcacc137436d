/* What is behind a port of the switch: a stream socket of frames to a VM, or a tap interface of a container's network namespace.
 *
 * Threads: one. */
#ifndef NET_USER_LINE_H
#define NET_USER_LINE_H

#include "net/user/frames.h"
#include "net/user/hostfwd.h"
#include "net/user/switch.h"

#define LINE_MAX_FORWARDS 64

struct line_forward {
    struct hostfwd rule;
    char text[128]; /* as hostfwd_parse reads it */
};

struct line {
    struct switch_port port;
    int fd; /* its own */
    bool is_tap, has_header;
    bool has_ended;        /* its owner is gone */
    int64_t congested_ms;  /* since when too much waits; 0: it does not */
    struct frames *frames; /* NULL: a tap */
    struct line_forward forwards[LINE_MAX_FORWARDS];
    unsigned forward_count;
};

/* Finds out what 'fd' is, which becomes the line's, also after an error. Errors: -EINVAL: neither of the two. */
int must_check line_open(int fd, struct line **out_line, struct error *err);
void line_close(struct line *line);

/* False: the frame is lost. A switch_send_fn with a line. */
bool line_send(void *line, const uint8_t *frame, size_t size);
/* Sends what waits. */
void line_flush(struct line *line);
bool line_has_queued(const struct line *line);
/* So much waits that no more should come, since a moment ago. Who takes longer only loses frames. */
bool line_is_congested(struct line *line);

/* Takes what there is, as much as is fair, and calls for each frame. */
typedef void (*line_frame_fn)(void *ctx, struct line *line, const uint8_t *frame, size_t size);
void line_receive(struct line *line, line_frame_fn fn, void *ctx);
/* Has its owner gone by now? */
void line_look(struct line *line);

#endif
