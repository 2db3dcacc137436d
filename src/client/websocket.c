#include "client/websocket.h"

#include <stdio.h>
#include <string.h>

#define SHA1_SIZE 20

int websocket_parse_head(const uint8_t *data, size_t size, struct websocket_head *out_head,
                         struct error *err)
{
    if (size < 2) {
        return -EAGAIN;
    }
    unsigned opcode = data[0] & 0x0f;
    uint64_t payload = data[1] & 0x7f;
    size_t head = payload == 126 ? 4 : payload == 127 ? 10 : 2;
    bool is_control = opcode >= WEBSOCKET_CLOSE;
    if ((data[0] & 0x70) != 0 || (data[1] & 0x80) != 0) {
        return error_set(err, EPROTO,
                         "hulld's connection: a frame with bits that are not agreed on");
    }
    if ((opcode > WEBSOCKET_BINARY && !is_control) || opcode > WEBSOCKET_PONG) {
        return error_set(err, EPROTO, "hulld's connection: a frame of kind %u", opcode);
    }
    if (is_control && (payload > 125 || (data[0] & 0x80) == 0)) {
        return error_set(err, EPROTO, "hulld's connection: a control frame that is too long");
    }
    if (size < head) {
        return -EAGAIN;
    }
    if (head > 2) {
        payload = 0;
        for (size_t i = 2; i < head; i++) {
            payload = payload << 8 | data[i];
        }
        if (payload < (head == 4 ? 126u : 65536u)) {
            return error_set(err, EPROTO, "hulld's connection: a length that is not the shortest");
        }
    }
    if (payload > WEBSOCKET_MAX_MESSAGE) {
        return error_set(err, EPROTO, "hulld's connection: a frame of %llu bytes: at most %u",
                         (unsigned long long)payload, WEBSOCKET_MAX_MESSAGE);
    }
    *out_head = (struct websocket_head){
        .opcode = (enum websocket_opcode)opcode,
        .is_final = (data[0] & 0x80) != 0,
        .head_size = head,
        .payload_size = (size_t)payload,
    };
    return 0;
}

size_t websocket_make_head(enum websocket_opcode opcode, size_t payload_size, const uint8_t mask[4],
                           uint8_t out_head[WEBSOCKET_MAX_HEAD])
{
    size_t extra = payload_size < 126 ? 0 : payload_size < 65536 ? 2 : 8;
    out_head[0] = (uint8_t)(0x80 | opcode);
    out_head[1] = (uint8_t)(0x80 | (extra == 0 ? payload_size : extra == 2 ? 126 : 127));
    for (size_t i = 0; i < extra; i++) {
        out_head[2 + i] = (uint8_t)((uint64_t)payload_size >> 8 * (extra - 1 - i));
    }
    memcpy(out_head + 2 + extra, mask, 4);
    return 2 + extra + 4;
}

void websocket_mask(uint8_t *payload, size_t size, const uint8_t mask[4])
{
    for (size_t i = 0; i < size; i++) {
        payload[i] ^= mask[i % 4];
    }
}

static void base64(const uint8_t *data, size_t size, char *out)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < size; i += 3) {
        size_t here = size - i < 3 ? size - i : 3;
        uint32_t bits = (uint32_t)data[i] << 16 | (here > 1 ? (uint32_t)data[i + 1] << 8 : 0) |
                        (here > 2 ? data[i + 2] : 0);
        for (size_t j = 0; j < 4; j++) {
            *out++ = j <= here ? digits[bits >> (18 - 6 * j) & 63] : '=';
        }
    }
    *out = '\0';
}

static uint32_t rotated(uint32_t value, unsigned bits)
{
    return value << bits | value >> (32 - bits);
}

static void sha1_block(uint32_t h[5], const uint8_t block[64])
{
    uint32_t w[80];
    for (size_t i = 0; i < 16; i++) {
        w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 |
               (uint32_t)block[4 * i + 2] << 8 | block[4 * i + 3];
    }
    for (size_t i = 16; i < 80; i++) {
        w[i] = rotated(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    }
    uint32_t a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
    for (size_t i = 0; i < 80; i++) {
        uint32_t f = i < 20   ? ((b & c) | (~b & d)) + 0x5a827999
                     : i < 40 ? (b ^ c ^ d) + 0x6ed9eba1
                     : i < 60 ? ((b & c) | (b & d) | (c & d)) + 0x8f1bbcdc
                              : (b ^ c ^ d) + 0xca62c1d6;
        uint32_t next = rotated(a, 5) + f + e + w[i];
        e = d;
        d = c;
        c = rotated(b, 30);
        b = a;
        a = next;
    }
    h[0] += a;
    h[1] += b;
    h[2] += c;
    h[3] += d;
    h[4] += e;
}

/* Of a text of less than 120 bytes: the handshake asks for this digest, which protects nothing here. */
static void sha1_short(const char *text, uint8_t out_digest[SHA1_SIZE])
{
    uint32_t h[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
    uint8_t padded[128] = {0};
    size_t size = strlen(text);
    size_t total = size < 56 ? 64 : 128;
    memcpy(padded, text, size);
    padded[size] = 0x80;
    padded[total - 2] = (uint8_t)(size * 8 >> 8);
    padded[total - 1] = (uint8_t)(size * 8);
    for (size_t i = 0; i < total; i += 64) {
        sha1_block(h, padded + i);
    }
    for (size_t i = 0; i < SHA1_SIZE; i++) {
        out_digest[i] = (uint8_t)(h[i / 4] >> (24 - 8 * (i % 4)));
    }
}

void websocket_make_key(const uint8_t random[16], char out_key[WEBSOCKET_KEY_SIZE])
{
    base64(random, 16, out_key);
}

void websocket_make_accept(const char *key, char out_accept[WEBSOCKET_ACCEPT_SIZE])
{
    char text[WEBSOCKET_KEY_SIZE + 36];
    uint8_t digest[SHA1_SIZE];
    (void)snprintf(text, sizeof(text), "%.24s258EAFA5-E914-47DA-95CA-C5AB0DC85B11", key);
    sha1_short(text, digest);
    base64(digest, SHA1_SIZE, out_accept);
}
