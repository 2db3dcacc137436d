/* Transmission: reads requests, checks them, and forms the answers. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/core/checked.h"
#include "base/core/endian.h"
#include "block/nbd/client.h"

#define REQUESTS_PER_TURN 64u
#define MAX_UNSENT        (1u << 20)
#define LONG_TRANSFER     (64u * 1024) /* takes longer than a system call */

static uint32_t to_wire(const struct nbd_request *request, int status)
{
    switch (-status) {
    case EPERM:
    case EROFS:
        return NBD_EPERM;
    case ENOMEM:
        return NBD_ENOMEM;
    case EINVAL:
        return NBD_EINVAL;
    case ENOSPC:
    case EFBIG:
    case EDQUOT:
        return NBD_ENOSPC;
    case EOVERFLOW:
        return NBD_EOVERFLOW;
    case EOPNOTSUPP:
        return (request->flags & NBD_CMD_FLAG_FAST_ZERO) != 0 ? NBD_ENOTSUP : NBD_EINVAL;
    case ESHUTDOWN:
        return NBD_ESHUTDOWN;
    default:
        return NBD_EIO;
    }
}

void nbd_put_chunk(void *head, const struct nbd_request *request, unsigned flags, unsigned type,
                   uint32_t size_bytes)
{
    uint8_t *at = head;
    be32_put(at, NBD_STRUCTURED_MAGIC);
    be16_put(at + 4, (uint16_t)flags);
    be16_put(at + 6, (uint16_t)type);
    be64_put(at + 8, request->cookie);
    be32_put(at + 16, size_bytes);
}

static void set_simple(struct nbd_request *request, uint32_t error, const void *data, size_t size)
{
    uint8_t *head = request->message.head;
    be32_put(head, NBD_SIMPLE_MAGIC);
    be32_put(head + 4, error);
    be64_put(head + 8, request->cookie);
    nbd_message_set(&request->message, NBD_SIMPLE_SIZE, data, size);
}

static void set_error_chunk(struct nbd_request *request, uint32_t error, int status)
{
    uint8_t *head = request->message.head;
    char *text = (char *)head + NBD_CHUNK_SIZE + 6;
    (void)snprintf(text, NBD_MESSAGE_HEAD - NBD_CHUNK_SIZE - 6, "%s", strerror(-status));
    size_t text_size = strlen(text);
    nbd_put_chunk(head, request, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_ERROR,
                  (uint32_t)(6 + text_size));
    be32_put(head + NBD_CHUNK_SIZE, error);
    be16_put(head + NBD_CHUNK_SIZE + 4, (uint16_t)text_size);
    nbd_message_set(&request->message, NBD_CHUNK_SIZE + 6 + text_size, NULL, 0);
}

static void set_data_chunk(struct nbd_request *request)
{
    uint8_t *head = request->message.head;
    nbd_put_chunk(head, request, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_OFFSET_DATA,
                  8 + request->size_bytes);
    be64_put(head + NBD_CHUNK_SIZE, request->offset);
    nbd_message_set(&request->message, NBD_CHUNK_SIZE + 8, request->iov.iov_base,
                    request->size_bytes);
}

static void request_sent(struct nbd_message *message)
{
    struct nbd_request *request = container_of(message, struct nbd_request, message);
    struct nbd_client *client = request->client;
    client->used_bytes -= request->charged_bytes;
    client->unsent_bytes -= request->is_answered ? request->charged_bytes : 0;
    client->in_flight--;
    free(request->parts);
    free(request->part_heads);
    nbd_buffer_give(client->server, request->data, request->room);
    free(request);
    nbd_client_wake(client, NBD_WAIT_ROOM);
    nbd_client_release(client);
}

void nbd_request_answer(struct nbd_request *request)
{
    struct nbd_client *client = request->client;
    bool is_long = request->type == NBD_CMD_READ && request->size_bytes >= LONG_TRANSFER;
    nbd_client_hold(client);
    client->working--;
    request->is_answered = true;
    client->unsent_bytes += request->charged_bytes;
    nbd_stream_queue(&client->stream, &request->message);
    /* A reader at work sends what has gathered before it waits for more, but long answers at once: the client works on
     * them meanwhile. Else answers of requests that end at the same time go out together. */
    if (is_long) {
        nbd_client_push(client);
    } else if (client->reader != NULL) {
        if (client->working == 0) {
            nbd_client_push(client);
        } else {
            nbd_client_schedule(client);
        }
    }
    nbd_client_release(client);
}

void nbd_request_finish(struct nbd_request *request, int status)
{
    bool is_structured = request->client->has_structured;
    bool has_data = request->type == NBD_CMD_READ && status == 0;
    uint32_t error = status < 0 ? to_wire(request, status) : 0;
    if (is_structured && has_data && request->size_bytes > 0) {
        set_data_chunk(request);
    } else if (is_structured && status < 0) {
        set_error_chunk(request, error, status);
    } else if (is_structured) {
        nbd_put_chunk(request->message.head, request, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_NONE, 0);
        nbd_message_set(&request->message, NBD_CHUNK_SIZE, NULL, 0);
    } else {
        set_simple(request, error, request->iov.iov_base, has_data ? request->size_bytes : 0);
    }
    nbd_request_answer(request);
}

static int check_range(const struct nbd_request *request, int beyond)
{
    struct block_info info;
    block_get_info(request->client->export->config.block, &info);
    return range_fits(request->offset, request->size_bytes, info.size_bytes) ? 0 : beyond;
}

/* 0, or why it cannot be done. What is fatal was seen to before. */
static int check(const struct nbd_request *request)
{
    static const struct {
        uint16_t flags;
        bool is_write;
    } commands[] = {
        [NBD_CMD_READ] = {NBD_CMD_FLAG_DF, false},
        [NBD_CMD_WRITE] = {0, true},
        [NBD_CMD_DISC] = {0, false},
        [NBD_CMD_FLUSH] = {0, false},
        [NBD_CMD_TRIM] = {0, true},
        [NBD_CMD_CACHE] = {0, false},
        [NBD_CMD_WRITE_ZEROES] = {NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO, true},
        [NBD_CMD_BLOCK_STATUS] = {NBD_CMD_FLAG_REQ_ONE, false},
    };
    const struct nbd_client *client = request->client;
    if (request->type >= ARRAY_COUNT(commands) ||
        (request->flags & ~(commands[request->type].flags | NBD_CMD_FLAG_FUA)) != 0) {
        return -EINVAL;
    }
    if ((request->flags & NBD_CMD_FLAG_DF) != 0 && !client->has_structured) {
        return -EINVAL;
    }
    if (commands[request->type].is_write) {
        return client->export->config.is_readonly ? -EPERM : check_range(request, -ENOSPC);
    }
    if (request->type == NBD_CMD_FLUSH) {
        return request->offset == 0 && request->size_bytes == 0 ? 0 : -EINVAL;
    }
    if (request->type == NBD_CMD_BLOCK_STATUS &&
        (client->contexts == 0 || client->context_export != client->export ||
         request->size_bytes == 0)) {
        return -EINVAL;
    }
    int rc = check_range(request, -EINVAL);
    return rc < 0 ? rc
           : request->type == NBD_CMD_READ && request->size_bytes > NBD_USUAL_MAX_PAYLOAD
               ? -EOVERFLOW
               : 0;
}

/* Waits until the request, with 'bytes' of memory, is within what one client may have. Answers that it has not taken yet are
 * few: to have many ready is of no use to it, and memory that is used again at once is still in the CPU's cache. */
static int reserve(struct nbd_client *client, size_t bytes)
{
    while (client->in_flight >= NBD_MAX_REQUESTS || client->unsent_bytes > MAX_UNSENT ||
           (client->used_bytes > 0 &&
            client->used_bytes + bytes > client->server->options.max_client_bytes)) {
        if (client->stream.is_dead) {
            return -EPIPE;
        }
        nbd_client_wait(client, NBD_WAIT_ROOM);
    }
    return 0;
}

/* What a request takes. */
static size_t memory_of(const struct nbd_client *client, uint16_t type, uint32_t size_bytes)
{
    switch (type) {
    case NBD_CMD_READ:
    case NBD_CMD_WRITE:
        return size_bytes <= NBD_USUAL_MAX_PAYLOAD ? size_bytes : 0; /* more is refused */
    case NBD_CMD_CACHE:
    case NBD_CMD_WRITE_ZEROES:
        return NBD_PIECE_SIZE;
    case NBD_CMD_BLOCK_STATUS:
        return (size_t)__builtin_popcount(client->contexts) * 8 *
               MIN(size_bytes / 512 + 1, NBD_MAX_EXTENTS);
    default:
        return 0;
    }
}

static int add_data(struct nbd_request *request)
{
    size_t size = request->size_bytes;
    request->data = nbd_buffer_take(request->client->server, size, &request->room);
    if (request->data == NULL) {
        request->room = 0;
        return -ENOMEM;
    }
    request->iov = (struct iovec){request->data, size};
    return 0;
}

static int new_request(struct nbd_client *client, const uint8_t *head,
                       struct nbd_request **out_request)
{
    uint16_t type = be16_get(head + 6);
    uint32_t size_bytes = be32_get(head + 24);
    size_t charged = memory_of(client, type, size_bytes);
    int rc = reserve(client, charged);
    struct nbd_request *request = rc == 0 ? calloc(1, sizeof(*request)) : NULL;
    if (request == NULL) {
        return rc < 0 ? rc : -ENOMEM;
    }
    request->message.done = request_sent;
    request->client = client;
    request->flags = be16_get(head + 4);
    request->type = type;
    request->cookie = be64_get(head + 8);
    request->offset = be64_get(head + 16);
    request->size_bytes = size_bytes;
    request->charged_bytes = charged;
    client->used_bytes += charged;
    client->in_flight++;
    client->working++;
    nbd_client_hold(client);
    *out_request = request;
    return 0;
}

/* Never to be answered. */
static void drop(struct nbd_request *request)
{
    request->client->working--;
    request_sent(&request->message);
}

/* One request; 0: go on. */
static int read_request(struct nbd_client *client, const uint8_t *head)
{
    uint16_t type = be16_get(head + 6);
    if (be32_get(head) != NBD_REQUEST_MAGIC) {
        nbd_client_kill(client, "sent what is no request");
        return -EPROTO;
    }
    if (type == NBD_CMD_DISC) {
        return -ECANCELED;
    }
    if (type == NBD_CMD_WRITE && be32_get(head + 24) > NBD_USUAL_MAX_PAYLOAD) {
        nbd_client_kill(client, "wants to write %u bytes at once", be32_get(head + 24));
        return -EPROTO;
    }
    struct nbd_request *request;
    int rc = new_request(client, head, &request);
    if (rc < 0) {
        return rc;
    }
    if (type == NBD_CMD_WRITE) {
        rc = add_data(request);
        /* The payload of a write that is refused has to be read too. */
        rc = rc == 0 ? nbd_client_read(client, request->data, request->size_bytes) : rc;
        if (rc < 0) {
            drop(request);
            return rc;
        }
    }
    rc = check(request);
    if (rc == 0 && type == NBD_CMD_READ) {
        rc = add_data(request);
    }
    if (rc < 0) {
        nbd_request_finish(request, rc);
        return 0;
    }
    if (!client->is_plugged) {
        client->is_plugged = true;
        block_plug(client->export->config.block);
    }
    nbd_request_start(request);
    return 0;
}

/* The head of the next request; at its beginning the client may leave. */
static int read_head(struct nbd_client *client, uint8_t *head)
{
    ssize_t got;
    while ((got = nbd_stream_receive(&client->stream, head, NBD_REQUEST_SIZE)) == -EAGAIN) {
        if (client->is_leaving) {
            return -ECANCELED;
        }
        nbd_client_wait(client, NBD_WAIT_INPUT);
    }
    return got <= 0 ? -EPIPE : nbd_client_read(client, head + got, NBD_REQUEST_SIZE - (size_t)got);
}

void nbd_transmit(struct nbd_client *client)
{
    uint8_t head[NBD_REQUEST_SIZE];
    unsigned count = 0;
    while (!client->is_leaving && read_head(client, head) == 0 && read_request(client, head) == 0) {
        if (++count % REQUESTS_PER_TURN == 0) {
            nbd_client_schedule(client);
            nbd_client_wait(client, NBD_WAIT_TURN);
        }
    }
    client->is_leaving = true;
    nbd_client_unplug(client);
}
