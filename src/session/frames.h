/* Sessions: a program's standard streams and its end, over one connection: hull <-> hulld (WebSocket messages), hulld <-> hull-worker (SOCK_SEQPACKET
 * packets), hull-worker <-> hull-agent (a stream over vsock, each frame behind its length, 32 bits, least significant byte first).
 *
 * A frame is a byte that says what it is, and at most SESSION_MAX_PAYLOAD bytes.
 *
 *   STDIN    to the program
 *   STDOUT, STDERR from it
 *   CONTROL  a JSON object:
 *     to the program    {"resize":[COLUMNS,ROWS]}  {"signal":15}  {"eof":true}: no more of STDIN
 *     from it           {"started":true}  {"exit":STATUS}  {"signalled":15}  {"error":{"code":..., "message":...}}; the last three end the session
 *
 * What a session is for is told before it, in the agent's case by the first frame: CONTROL with a request (agent/protocol.md). */
#ifndef SESSION_FRAMES_H
#define SESSION_FRAMES_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "base/core/error.h"

#define SESSION_MAX_PAYLOAD 65536

enum session_frame {
    SESSION_STDIN = 0,
    SESSION_STDOUT = 1,
    SESSION_STDERR = 2,
    SESSION_CONTROL = 3,
};

/* One frame to a blocking socket of packets. -EPIPE: the other side is gone. */
int must_check session_send(int fd, enum session_frame type, const void *data, size_t size,
                            struct error *err);
/* 'control' is taken over. */
int must_check session_send_control(int fd, json_t *control, struct error *err);
/* The next one into 'data' (SESSION_MAX_PAYLOAD bytes). -ENODATA: the other side is gone; -EPROTO. */
int must_check session_receive(int fd, enum session_frame *out_type, void *data, size_t *out_size,
                               struct error *err);

/* The same on a stream. */
int must_check session_stream_send(int fd, enum session_frame type, const void *data, size_t size,
                                   struct error *err);
int must_check session_stream_send_control(int fd, json_t *control, struct error *err);
int must_check session_stream_receive(int fd, enum session_frame *out_type, void *data,
                                      size_t *out_size, struct error *err);

#endif
