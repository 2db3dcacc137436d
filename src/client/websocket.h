/* WebSocket (RFC 6455), the client's side, as bytes: no input or output here.
 *
 * Threads: none. */
#ifndef CLIENT_WEBSOCKET_H
#define CLIENT_WEBSOCKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/core/error.h"

#define WEBSOCKET_MAX_HEAD    14
#define WEBSOCKET_MAX_MESSAGE (1u << 20)

enum websocket_opcode {
    WEBSOCKET_MORE = 0, /* of the message before */
    WEBSOCKET_TEXT = 1,
    WEBSOCKET_BINARY = 2,
    WEBSOCKET_CLOSE = 8,
    WEBSOCKET_PING = 9,
    WEBSOCKET_PONG = 10,
};

struct websocket_head {
    enum websocket_opcode opcode;
    bool is_final;
    size_t head_size, payload_size;
};

/* The head of a server's frame at the front of 'data'. -EAGAIN: it is not whole; -EPROTO: also of one that is masked or longer than
 * WEBSOCKET_MAX_MESSAGE. */
int must_check websocket_parse_head(const uint8_t *data, size_t size,
                                    struct websocket_head *out_head, struct error *err);
/* The head of a whole message of a client; returns its size. */
size_t websocket_make_head(enum websocket_opcode opcode, size_t payload_size, const uint8_t mask[4],
                           uint8_t out_head[WEBSOCKET_MAX_HEAD]);
void websocket_mask(uint8_t *payload, size_t size, const uint8_t mask[4]);

#define WEBSOCKET_KEY_SIZE    25 /* 16 bytes in base64 */
#define WEBSOCKET_ACCEPT_SIZE 29
void websocket_make_key(const uint8_t random[16], char out_key[WEBSOCKET_KEY_SIZE]);
/* What a server answers to the key. */
void websocket_make_accept(const char *key, char out_accept[WEBSOCKET_ACCEPT_SIZE]);

#endif
