/* The handshake: fixed newstyle, options until the client has chosen an export. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/core/endian.h"
#include "base/host/file.h"
#include "block/nbd/client.h"

#define MAX_OPTION_BYTES (64u * 1024) /* names and queries of 4096 bytes, a few of them */
#define MAX_OPTIONS      256u         /* of one client */
#define MAX_QUERIES      64u
#define PREFERRED_SIZE   4096u

/* What is to be done after an option. */
enum next_step {
    NEXT_OPTION,
    NEXT_TRANSMISSION,
    NEXT_END,
};

struct reply {
    struct nbd_message message;
};

static void reply_done(struct nbd_message *message)
{
    free(container_of(message, struct reply, message));
}

/* Queues plain bytes: 'head', then 'data'; both are copied. */
static int send_bytes(struct nbd_client *client, const void *head, size_t head_size,
                      const void *data, size_t size)
{
    struct reply *reply = calloc(1, sizeof(*reply) + size);
    if (reply == NULL) {
        return -ENOMEM;
    }
    reply->message.done = reply_done;
    memcpy(reply->message.head, head, head_size);
    if (size > 0) {
        memcpy(reply + 1, data, size);
    }
    nbd_message_set(&reply->message, head_size, reply + 1, size);
    nbd_stream_queue(&client->stream, &reply->message);
    return 0;
}

static int reply(struct nbd_client *client, uint32_t option, uint32_t type, const void *data,
                 size_t size)
{
    uint8_t head[NBD_OPTION_REPLY_SIZE];
    be64_put(head, NBD_OPTION_REPLY_MAGIC);
    be32_put(head + 8, option);
    be32_put(head + 12, type);
    be32_put(head + 16, (uint32_t)size);
    return send_bytes(client, head, sizeof(head), data, size);
}

static int refuse(struct nbd_client *client, uint32_t option, uint32_t type, const char *text)
{
    return reply(client, option, type, text, strlen(text));
}

const char *nbd_context_name(const struct nbd_shared_export *export, unsigned number)
{
    return number == NBD_CONTEXT_ALLOCATION ? "base:allocation"
           : number == NBD_CONTEXT_DEPTH    ? "qemu:allocation-depth"
           : number - NBD_CONTEXT_FIRST < export->config.context_count
               ? export->context[number - NBD_CONTEXT_FIRST].name
               : NULL;
}

static uint16_t transmission_flags(const struct nbd_client *client,
                                   const struct nbd_shared_export *export)
{
    struct block_info info;
    block_get_info(export->config.block, &info);
    unsigned flags =
        NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_CACHE;
    if (export->config.is_readonly) {
        flags |= NBD_FLAG_READ_ONLY;
    } else {
        flags |= NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_SEND_FAST_ZERO;
        flags |= info.can_discard ? NBD_FLAG_SEND_TRIM : 0;
    }
    if (client->has_structured) {
        flags |= NBD_FLAG_SEND_DF;
    }
    /* All clients have the same block: a flush of one is a flush of all that was answered. */
    if (client->server->options.max_clients > 1) {
        flags |= NBD_FLAG_CAN_MULTI_CONN;
    }
    return (uint16_t)flags;
}

static int reply_info(struct nbd_client *client, uint32_t option, uint16_t info, const void *data,
                      size_t size)
{
    uint8_t bytes[2 + NBD_MAX_STRING];
    be16_put(bytes, info);
    memcpy(bytes + 2, data, size);
    return reply(client, option, NBD_REP_INFO, bytes, 2 + size);
}

static int reply_export(struct nbd_client *client, uint32_t option,
                        const struct nbd_shared_export *export)
{
    struct block_info info;
    block_get_info(export->config.block, &info);
    uint8_t data[10];
    be64_put(data, info.size_bytes);
    be16_put(data + 8, transmission_flags(client, export));
    return reply_info(client, option, NBD_INFO_EXPORT, data, sizeof(data));
}

static int reply_block_size(struct nbd_client *client, uint32_t option,
                            const struct nbd_shared_export *export, bool is_asked)
{
    struct block_info info;
    block_get_info(export->config.block, &info);
    uint32_t preferred = MAX(PREFERRED_SIZE, info.physical_block_size);
    uint8_t data[12];
    /* Those who have not asked do not know that they must keep to it: smaller pieces work too, if slower. */
    be32_put(data, is_asked ? info.logical_block_size : 1);
    be32_put(data + 4, preferred);
    be32_put(data + 8, NBD_USUAL_MAX_PAYLOAD);
    return reply_info(client, option, NBD_INFO_BLOCK_SIZE, data, sizeof(data));
}

static int reply_string(struct nbd_client *client, uint32_t option, uint16_t info, const char *text)
{
    return text != NULL ? reply_info(client, option, info, text, strlen(text)) : 0;
}

/* NBD_OPT_INFO and NBD_OPT_GO. */
static int info_or_go(struct nbd_client *client, uint32_t option, const uint8_t *data, size_t size,
                      enum next_step *out_next)
{
    uint32_t name_size = size >= 6 ? be32_get(data) : 0;
    if (size < 6 || name_size > size - 6) {
        return refuse(client, option, NBD_REP_ERR_INVALID, "the option's length does not fit");
    }
    const uint8_t *wanted = data + 4 + name_size;
    uint16_t count = be16_get(wanted);
    if (size != 6 + (size_t)name_size + (size_t)count * 2 || name_size > NBD_MAX_STRING) {
        return refuse(client, option, NBD_REP_ERR_INVALID, "the option's length does not fit");
    }
    struct nbd_shared_export *export =
        nbd_find_export(client->server, (const char *)data + 4, name_size);
    if (export == NULL) {
        return refuse(client, option, NBD_REP_ERR_UNKNOWN, "no export has this name");
    }
    bool wants_block_size = false, wants_name = false, wants_description = false;
    for (uint16_t i = 0; i < count; i++) {
        uint16_t info = be16_get(wanted + 2 + (size_t)i * 2);
        wants_block_size |= info == NBD_INFO_BLOCK_SIZE;
        wants_name |= info == NBD_INFO_NAME;
        wants_description |= info == NBD_INFO_DESCRIPTION;
    }
    int rc = reply_export(client, option, export);
    if (rc == 0 && wants_name) {
        rc = reply_string(client, option, NBD_INFO_NAME, export->config.name);
    }
    if (rc == 0 && wants_description) {
        rc = reply_string(client, option, NBD_INFO_DESCRIPTION, export->config.description);
    }
    if (rc == 0) {
        rc = reply_block_size(client, option, export, wants_block_size);
    }
    if (rc == 0) {
        rc = reply(client, option, NBD_REP_ACK, NULL, 0);
    }
    if (rc == 0 && option == NBD_OPT_GO) {
        client->export = export;
        *out_next = NEXT_TRANSMISSION;
    }
    return rc;
}

static int export_name(struct nbd_client *client, const uint8_t *data, size_t size,
                       enum next_step *out_next)
{
    struct nbd_shared_export *export = nbd_find_export(client->server, (const char *)data, size);
    if (export == NULL) {
        nbd_client_kill(client, "asked for an export that there is not");
        return -ENOENT; /* the one option that has no answer for this */
    }
    struct block_info info;
    block_get_info(export->config.block, &info);
    uint8_t head[10];
    static const uint8_t zeroes[NBD_EXPORT_NAME_ZEROES];
    be64_put(head, info.size_bytes);
    be16_put(head + 8, transmission_flags(client, export));
    client->export = export;
    *out_next = NEXT_TRANSMISSION;
    return send_bytes(client, head, sizeof(head), zeroes,
                      client->has_no_zeroes ? 0 : sizeof(zeroes));
}

static int list(struct nbd_client *client, size_t size)
{
    if (size != 0) {
        return refuse(client, NBD_OPT_LIST, NBD_REP_ERR_INVALID, "a list takes no data");
    }
    int rc = 0;
    for (const struct nbd_shared_export *at = client->server->exports; at != NULL && rc == 0;
         at = at->next) {
        uint8_t data[4 + 2 * NBD_MAX_STRING];
        size_t name_size = strlen(at->config.name);
        size_t text_size = at->config.description != NULL ? strlen(at->config.description) : 0;
        be32_put(data, (uint32_t)name_size);
        memcpy(data + 4, at->config.name, name_size);
        if (text_size > 0) {
            memcpy(data + 4 + name_size, at->config.description, text_size);
        }
        rc = reply(client, NBD_OPT_LIST, NBD_REP_SERVER, data, 4 + name_size + text_size);
    }
    return rc < 0 ? rc : reply(client, NBD_OPT_LIST, NBD_REP_ACK, NULL, 0);
}

static bool starts_with(const char *text, const uint8_t *start, size_t size)
{
    return strlen(text) >= size && memcmp(text, start, size) == 0;
}

/* Does the query name the context? A query that ends in ':' stands for all of that kind, when they are listed. */
static bool fits(const char *name, const uint8_t *query, size_t size, bool is_list)
{
    bool is_kind = is_list && size > 0 && query[size - 1] == ':';
    return starts_with(name, query, size) && (is_kind || strlen(name) == size);
}

/* Reads the queries of a metadata option and marks what they select; false: it does not hold together. */
static bool read_queries(const struct nbd_shared_export *export, const uint8_t *data, size_t size,
                         bool is_list, uint32_t *out_contexts)
{
    if (size < 4) {
        return false;
    }
    uint32_t count = be32_get(data);
    data += 4;
    size -= 4;
    *out_contexts = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t query_size = size >= 4 ? be32_get(data) : 0;
        if (size < 4 || query_size > size - 4 || query_size > NBD_MAX_STRING || i == MAX_QUERIES) {
            return false;
        }
        const char *name;
        for (unsigned n = 0; export != NULL && (name = nbd_context_name(export, n)) != NULL; n++) {
            if (fits(name, data + 4, query_size, is_list)) {
                *out_contexts |= 1u << n;
            }
        }
        data += 4 + query_size;
        size -= 4 + query_size;
    }
    if (is_list && count == 0) {
        *out_contexts = UINT32_MAX;
    }
    return size == 0;
}

/* NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT. */
static int meta_context(struct nbd_client *client, uint32_t option, const uint8_t *data,
                        size_t size)
{
    bool is_list = option == NBD_OPT_LIST_META_CONTEXT;
    if (!is_list) {
        client->contexts = 0; /* also if this fails */
        client->context_export = NULL;
    }
    if (!client->has_structured) {
        return refuse(client, option, NBD_REP_ERR_INVALID, "needs structured replies");
    }
    uint32_t name_size = size >= 4 ? be32_get(data) : 0;
    if (size < 4 || name_size > size - 4 || name_size > NBD_MAX_STRING) {
        return refuse(client, option, NBD_REP_ERR_INVALID, "the option's length does not fit");
    }
    struct nbd_shared_export *export =
        nbd_find_export(client->server, (const char *)data + 4, name_size);
    uint32_t contexts;
    if (!read_queries(export, data + 4 + name_size, size - 4 - name_size, is_list, &contexts)) {
        return refuse(client, option, NBD_REP_ERR_INVALID, "the queries do not fit");
    }
    if (export == NULL) {
        return refuse(client, option, NBD_REP_ERR_UNKNOWN, "no export has this name");
    }
    int rc = 0;
    const char *name;
    for (unsigned n = 0; rc == 0 && (name = nbd_context_name(export, n)) != NULL; n++) {
        uint8_t answer[4 + NBD_MAX_STRING];
        size_t length = MIN(strlen(name), NBD_MAX_STRING);
        be32_put(answer, is_list ? 0 : n);
        memcpy(answer + 4, name, length);
        if ((contexts & 1u << n) != 0) {
            rc = reply(client, option, NBD_REP_META_CONTEXT, answer, 4 + length);
        }
    }
    if (rc == 0 && !is_list) {
        client->contexts = contexts;
        client->context_export = export;
    }
    return rc < 0 ? rc : reply(client, option, NBD_REP_ACK, NULL, 0);
}

static int wait_until_sent(struct nbd_client *client)
{
    nbd_client_push(client);
    while (!nbd_stream_is_sent(&client->stream)) {
        nbd_client_wait(client, NBD_WAIT_SENT);
    }
    return client->stream.is_dead ? -EPIPE : 0;
}

static int start_tls(struct nbd_client *client, size_t size)
{
    struct nbd_tls *tls = client->server->options.tls;
    if (tls == NULL) {
        return refuse(client, NBD_OPT_STARTTLS, NBD_REP_ERR_POLICY, "this server has no TLS");
    }
    if (size != 0 || client->stream.tls != NULL) {
        return refuse(client, NBD_OPT_STARTTLS, NBD_REP_ERR_INVALID,
                      size != 0 ? "takes no data" : "TLS is in use already");
    }
    int rc = reply(client, NBD_OPT_STARTTLS, NBD_REP_ACK, NULL, 0);
    rc = rc == 0 ? wait_until_sent(client) : rc;
    struct nbd_tls_session *session = NULL;
    struct error err = {0};
    if (rc == 0 && nbd_stream_buffered(&client->stream) > 0) {
        /* Somebody on the way could have put it there, to be taken for the client's own. */
        rc = error_set(&err, EPROTO, "bytes in plain after the wish for TLS");
    }
    rc = rc == 0 ? tls->ops->start(tls, client->stream.fd, &session, &err) : rc;
    client->stream.tls = session;
    while (rc == 0 && (rc = session->ops->handshake(session, &err)) == -EAGAIN) {
        nbd_client_wait(client, NBD_WAIT_INPUT);
        rc = client->stream.is_dead ? -EPIPE : 0;
    }
    if (rc < 0) {
        nbd_client_kill(client, "TLS: %s", err.text);
        return rc;
    }
    /* What was agreed in plain counts no more: somebody on the way could have said it. */
    client->has_structured = false;
    client->contexts = 0;
    client->context_export = NULL;
    return 0;
}

static int option_do(struct nbd_client *client, uint32_t option, const uint8_t *data, size_t size,
                     enum next_step *out_next)
{
    bool is_exposed = client->server->options.tls == NULL || client->stream.tls != NULL;
    if (!is_exposed && option == NBD_OPT_EXPORT_NAME) {
        nbd_client_kill(client, "wants an export without TLS");
        return -EPERM;
    }
    if (!is_exposed && option != NBD_OPT_STARTTLS && option != NBD_OPT_ABORT) {
        return refuse(client, option, NBD_REP_ERR_TLS_REQD, "TLS is needed first");
    }
    switch (option) {
    case NBD_OPT_EXPORT_NAME:
        return export_name(client, data, size, out_next);
    case NBD_OPT_ABORT:
        *out_next = NEXT_END;
        return reply(client, option, NBD_REP_ACK, NULL, 0);
    case NBD_OPT_LIST:
        return list(client, size);
    case NBD_OPT_STARTTLS:
        return start_tls(client, size);
    case NBD_OPT_INFO:
    case NBD_OPT_GO:
        return info_or_go(client, option, data, size, out_next);
    case NBD_OPT_STRUCTURED_REPLY:
        if (size != 0) {
            return refuse(client, option, NBD_REP_ERR_INVALID, "takes no data");
        }
        client->has_structured = true;
        return reply(client, option, NBD_REP_ACK, NULL, 0);
    case NBD_OPT_LIST_META_CONTEXT:
    case NBD_OPT_SET_META_CONTEXT:
        return meta_context(client, option, data, size);
    default:
        return refuse(client, option, NBD_REP_ERR_UNSUP, "not known here");
    }
}

static int read_option(struct nbd_client *client, enum next_step *out_next)
{
    uint8_t head[NBD_OPTION_HEADER_SIZE];
    int rc = nbd_client_read(client, head, sizeof(head));
    if (rc < 0) {
        return rc;
    }
    uint32_t option = be32_get(head + 8);
    uint32_t size = be32_get(head + 12);
    if (be64_get(head) != NBD_OPTION_MAGIC || size > MAX_OPTION_BYTES) {
        nbd_client_kill(client, "sent what is no option");
        return -EPROTO;
    }
    if (!client->is_fixed && option != NBD_OPT_EXPORT_NAME) {
        nbd_client_kill(client, "speaks a version of the protocol that is too old");
        return -EPROTO;
    }
    AUTO_FREE uint8_t *data = malloc(size + 1u);
    rc = data == NULL ? -ENOMEM : nbd_client_read(client, data, size);
    if (rc == 0) {
        rc = option_do(client, option, data, size, out_next);
    }
    /* One option at a time: who does not read answers gets no more of them. */
    return rc == 0 ? wait_until_sent(client) : rc;
}

int nbd_negotiate(struct nbd_client *client)
{
    uint8_t greeting[NBD_GREETING_SIZE];
    be64_put(greeting, NBD_INIT_MAGIC);
    be64_put(greeting + 8, NBD_OPTION_MAGIC);
    be16_put(greeting + 16, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
    int rc = send_bytes(client, greeting, sizeof(greeting), NULL, 0);
    uint8_t answer[4];
    rc = rc == 0 ? nbd_client_read(client, answer, sizeof(answer)) : rc;
    if (rc < 0) {
        return rc;
    }
    uint32_t flags = be32_get(answer);
    if ((flags & ~(NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES)) != 0) {
        nbd_client_kill(client, "has flags that are not known");
        return -EPROTO;
    }
    client->is_fixed = (flags & NBD_FLAG_C_FIXED_NEWSTYLE) != 0;
    client->has_no_zeroes = (flags & NBD_FLAG_C_NO_ZEROES) != 0;
    enum next_step next = NEXT_OPTION;
    for (unsigned i = 0; next == NEXT_OPTION && rc == 0; i++) {
        if (i == MAX_OPTIONS) {
            nbd_client_kill(client, "does not choose an export");
            return -EPROTO;
        }
        rc = read_option(client, &next);
    }
    return rc < 0 ? rc : next == NEXT_END ? -ECANCELED : 0;
}
