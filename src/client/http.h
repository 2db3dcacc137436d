/* HTTP/1.1 answers, as bytes: no input or output here. Strict: whatever hulld does not say is an error, not a guess.
 *
 * Threads: none. */
#ifndef CLIENT_HTTP_H
#define CLIENT_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/core/error.h"

#define HTTP_MAX_HEAD 16384

struct http_head {
    int status;
    int64_t length; /* Content-Length; -1: it is not said */
    bool is_chunked;
    bool is_json;
    bool is_websocket; /* 101 to a WebSocket */
    char accept[32];   /* Sec-WebSocket-Accept; "": none */
};

/* The head at the beginning of 'data', which has 'out_used' bytes. -EAGAIN: it is not whole yet; -EPROTO. */
int must_check http_parse_head(const char *data, size_t size, struct http_head *out_head,
                               size_t *out_used, struct error *err);

enum http_body_state {
    HTTP_BODY_PLAIN,      /* 'left' bytes */
    HTTP_BODY_ENDLESS,    /* until the connection ends */
    HTTP_BODY_CHUNK_SIZE, /* a line */
    HTTP_BODY_CHUNK,      /* 'left' bytes */
    HTTP_BODY_CHUNK_END,  /* an empty line */
    HTTP_BODY_TRAILER,    /* lines until an empty one */
    HTTP_BODY_DONE,
};
struct http_body {
    enum http_body_state state;
    uint64_t left;
};

/* Of an answer with that head. */
void http_body_begin(struct http_body *body, const struct http_head *head);
/* Takes 'out_used' bytes from the front of 'data': 'out_part' of them (may be 0) from 'out_offset' on are content. -EAGAIN: more has
 * to come first. To be called until the state is HTTP_BODY_DONE. */
int must_check http_body_take(struct http_body *body, const char *data, size_t size,
                              size_t *out_used, size_t *out_offset, size_t *out_part,
                              struct error *err);
/* The connection has ended. -EPROTO: in the middle. */
int must_check http_body_end(const struct http_body *body, struct error *err);

#endif
