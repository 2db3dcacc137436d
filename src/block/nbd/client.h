/* One client of the server: server.c takes it in and lets it go, negotiate.c agrees with it on an export, transmit.c reads its
 * requests, request.c carries them out.
 *
 * A client has one coroutine that reads what it sends. Requests run beside it, each until its answer is sent; all of them hold
 * the client. */
#ifndef BLOCK_NBD_CLIENT_H
#define BLOCK_NBD_CLIENT_H

#include "base/host/coroutine.h"
#include "block/nbd/protocol.h"
#include "block/nbd/stream.h"

#define NBD_MAX_REQUESTS 256u          /* of one client at a time */
#define NBD_SPARSE_SIZE  (128u * 1024) /* reads of that size and more may leave zeros out */

#define NBD_PIECE_SIZE                                                                             \
    (1u << 20)                /* what is worked on at a time where the data is not the client's */
#define NBD_MAX_EXTENTS 8192u /* of an answer and context: the protocol takes short answers */

/* Metadata contexts by number, as in requests and in nbd_client.contexts. */
#define NBD_CONTEXT_ALLOCATION 0u
#define NBD_CONTEXT_DEPTH      1u
#define NBD_CONTEXT_FIRST      2u /* the export's own from here on */

struct nbd_request;

/* An export as the server keeps it. */
struct nbd_shared_export {
    struct nbd_shared_export *next;
    struct nbd_export config; /* strings are copies */
    struct nbd_context context[NBD_SERVER_MAX_CONTEXTS];
    /* Writes in flight of all clients, so that those which have to read what is around them do not undo others. */
    struct nbd_request *writing;
    unsigned exclusive_count;
    struct coroutine_queue range_waiting;
};

#define NBD_MAX_SPARE 32u

/* A piece of memory that is kept for the next request. */
struct nbd_spare {
    void *data;
    size_t room;
};

struct nbd_server {
    struct event_loop *loop;
    struct nbd_spare spare[NBD_MAX_SPARE];
    unsigned spare_count;
    size_t spare_bytes;
    struct nbd_server_options options;
    struct nbd_shared_export *exports;
    struct nbd_listener *listeners;
    struct nbd_client *clients;
    unsigned client_count;
    struct nbd_client *turns;      /* clients whose turn comes with the next round of the loop */
    struct event_notifier *rounds; /* the next round */
    bool is_stopping;
    void (*stopped)(void *ctx);
    void *stopped_ctx;
};

enum nbd_wait {
    NBD_WAIT_NOTHING,
    NBD_WAIT_INPUT,
    NBD_WAIT_SENT, /* all that was queued */
    NBD_WAIT_ROOM, /* requests have to end first */
    NBD_WAIT_TURN, /* others have theirs */
};

struct nbd_client {
    struct nbd_server *server;
    struct nbd_client *next, *prev;
    struct nbd_client *next_turn;
    struct nbd_stream stream;
    struct event_timer *timer;
    unsigned holds;           /* freed with the last one */
    struct coroutine *reader; /* that waits for 'wait' */
    enum nbd_wait wait;
    bool is_in_turns;
    bool is_started; /* in transmission: 'export' is chosen */
    bool is_leaving; /* no further requests are read */
    bool is_fixed, has_no_zeroes;
    bool has_structured;
    bool is_plugged;
    unsigned woken; /* bits by enum nbd_wait: what happened since the reader began to wait */
    struct nbd_shared_export *export;
    struct nbd_shared_export *context_export; /* what 'contexts' was selected for */
    uint32_t contexts;                        /* bits by number */
    unsigned in_flight;                       /* requests whose answer is not sent yet */
    unsigned working;                         /* of these: not answered yet */
    size_t used_bytes;                        /* by requests */
    size_t unsent_bytes;                      /* of these: by answers */
    char why[160];                            /* it is cut off */
};

static inline void nbd_client_hold(struct nbd_client *client)
{
    client->holds++;
}
void nbd_client_release(struct nbd_client *client);

/* For the reader: gives way until woken, perhaps for nothing. What was held back goes out before. */
void nbd_client_wait(struct nbd_client *client, enum nbd_wait wait);
/* Wakes the reader if it waits for that. */
void nbd_client_wake(struct nbd_client *client, enum nbd_wait wait);
/* nbd_client_push in the next round of the loop, so that answers which come together go out together; and the reader's turn. */
void nbd_client_schedule(struct nbd_client *client);
void nbd_client_push(struct nbd_client *client);
/* Lets the disk begin with the requests that were held back to go to it together. */
void nbd_client_unplug(struct nbd_client *client);
/* Cuts it off, with the reason for the log (NULL: none needed). */
void nbd_client_kill(struct nbd_client *client, const char *format, ...) printf_like(2, 3);

/* All of 'size' bytes, for the reader. -EPIPE: the client is gone. */
int must_check nbd_client_read(struct nbd_client *client, void *out_data, size_t size);

/* Agrees on an export: 0 with client->export, or -errno. */
int must_check nbd_negotiate(struct nbd_client *client);
struct nbd_shared_export *nbd_find_export(const struct nbd_server *server, const char *name,
                                          size_t size);
/* "base:allocation" and so on; NULL: the export has no such number. */
const char *nbd_context_name(const struct nbd_shared_export *export, unsigned number);

/* Reads requests until the client leaves. */
void nbd_transmit(struct nbd_client *client);

struct nbd_request {
    struct nbd_message message;
    struct nbd_client *client;
    uint16_t flags, type;
    uint32_t size_bytes;
    uint64_t cookie, offset;
    uint8_t *data; /* the payload, or room for it; the request's */
    size_t room;   /* of it, if it came from nbd_buffer_take */
    size_t charged_bytes;
    /* Parts of an answer that has several. */
    struct iovec *parts;
    uint8_t *part_heads;
    struct block_request block;
    struct iovec iov;
    bool is_answered;
    bool is_flushing; /* the second half of one that asked for durability */
    /* Among export->writing: */
    struct nbd_request *next, *prev;
    bool is_writing, is_exclusive;
    uint64_t range_start, range_end;
};

/* NULL: no memory. */
void *nbd_buffer_take(struct nbd_server *server, size_t size, size_t *out_room);
/* 'room' as nbd_buffer_take said; 0: memory of another kind. */
void nbd_buffer_give(struct nbd_server *server, void *data, size_t room);
void nbd_buffer_drop_spare(struct nbd_server *server);

/* Carries out a request that was read and checked; it answers itself. */
void nbd_request_start(struct nbd_request *request);
/* The answer: 0 or -errno, with request->data for a successful read. */
void nbd_request_finish(struct nbd_request *request, int status);
/* The answer, which is set in request->message. */
void nbd_request_answer(struct nbd_request *request);
/* The answer to a read in pieces, those that are zeros without data. In a coroutine. -EAGAIN: not worth it, or not possible. */
int must_check nbd_read_sparse(struct nbd_request *request);
/* The answer to a question for metadata. In a coroutine. */
int must_check nbd_block_status(struct nbd_request *request);
/* Of a piece of an answer. */
void nbd_put_chunk(void *head, const struct nbd_request *request, unsigned flags, unsigned type,
                   uint32_t size_bytes);

#endif
