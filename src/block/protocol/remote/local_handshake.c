/* What hull-vmm and hull-storage say to each other first: see local.c. It waits, but not for long, as the other side is there. */
#include "block/protocol/remote/local.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "base/core/endian.h"
#include "block/nbd/protocol.h"

#define CONTEXT         "base:allocation"
#define MAX_DATA        (1u << 20)
#define MAX_OPTION_SIZE 4096u

struct handshake {
    int fd;
    uint64_t end_ns;
    bool is_for_format;
};

static int transfer(const struct handshake *hand, bool is_send, void *data, size_t size,
                    struct error *err)
{
    for (size_t done = 0; done < size;) {
        ssize_t n = is_send ? send(hand->fd, (uint8_t *)data + done, size - done,
                                   MSG_NOSIGNAL | MSG_DONTWAIT)
                            : recv(hand->fd, (uint8_t *)data + done, size - done, MSG_DONTWAIT);
        if (n > 0) {
            done += (size_t)n;
            continue;
        }
        if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
            return error_set(err, ECONNRESET, "hull-storage has ended");
        }
        uint64_t now = clock_monotonic_ns();
        struct pollfd ready = {.fd = hand->fd, .events = is_send ? POLLOUT : POLLIN};
        if (now >= hand->end_ns ||
            poll(&ready, 1, (int)((hand->end_ns - now) / 1000000) + 1) == 0) {
            return error_set(err, ETIMEDOUT, "hull-storage does not answer");
        }
    }
    return 0;
}

static int broken(struct error *err)
{
    return error_set(err, EPROTO, "hull-storage does not speak the protocol");
}

static int send_option(const struct handshake *hand, uint32_t option, const void *data,
                       uint32_t size, struct error *err)
{
    uint8_t message[NBD_OPTION_HEADER_SIZE + 128];
    be64_put(message, NBD_OPTION_MAGIC);
    be32_put(message + 8, option);
    be32_put(message + 12, size);
    memcpy(message + NBD_OPTION_HEADER_SIZE, data, size);
    return transfer(hand, true, message, NBD_OPTION_HEADER_SIZE + size, err);
}

/* One reply to an option; its data, of which there is at most MAX_OPTION_SIZE. */
static int read_reply(const struct handshake *hand, uint32_t option, uint32_t *out_type,
                      uint8_t *out_data, uint32_t *out_size, struct error *err)
{
    uint8_t header[NBD_OPTION_REPLY_SIZE];
    int rc = transfer(hand, false, header, sizeof(header), err);
    if (rc < 0) {
        return rc;
    }
    *out_type = be32_get(header + 12);
    *out_size = be32_get(header + 16);
    if (be64_get(header) != NBD_OPTION_REPLY_MAGIC || be32_get(header + 8) != option ||
        *out_size > MAX_OPTION_SIZE) {
        return broken(err);
    }
    return transfer(hand, false, out_data, *out_size, err);
}

static void take_export(struct remote_info *info, const uint8_t *data)
{
    uint32_t flags = be16_get(data + 10);
    info->size_bytes = be64_get(data + 2);
    info->is_readonly = (flags & NBD_FLAG_READ_ONLY) != 0;
    info->has_flush = (flags & NBD_FLAG_SEND_FLUSH) != 0;
    info->has_discard = (flags & NBD_FLAG_SEND_TRIM) != 0;
    info->has_write_zeroes = (flags & NBD_FLAG_SEND_WRITE_ZEROES) != 0;
}

/* Structured replies, the map of data and holes, and the one export. */
static int negotiate(const struct handshake *hand, uint32_t *out_context_id,
                     struct remote_info *info, struct error *err)
{
    uint8_t data[MAX_OPTION_SIZE];
    uint32_t type;
    uint32_t size;
    bool has_export = false;
    int rc = send_option(hand, NBD_OPT_STRUCTURED_REPLY, "", 0, err);
    if (rc == 0) {
        rc = read_reply(hand, NBD_OPT_STRUCTURED_REPLY, &type, data, &size, err);
    }
    if (rc == 0 && type != NBD_REP_ACK) {
        rc = broken(err);
    }
    /* An empty export name, one query. */
    uint8_t query[12 + sizeof(CONTEXT) - 1] = {0};
    be32_put(query + 4, 1);
    be32_put(query + 8, sizeof(CONTEXT) - 1);
    memcpy(query + 12, CONTEXT, sizeof(CONTEXT) - 1);
    if (rc == 0) {
        rc = send_option(hand, NBD_OPT_SET_META_CONTEXT, query, sizeof(query), err);
    }
    for (type = NBD_REP_META_CONTEXT; rc == 0 && type == NBD_REP_META_CONTEXT;) {
        rc = read_reply(hand, NBD_OPT_SET_META_CONTEXT, &type, data, &size, err);
        if (rc == 0 && type == NBD_REP_META_CONTEXT && size >= 4) {
            *out_context_id = be32_get(data);
            info->has_map = true;
        }
    }
    /* Who does not ask for the sizes of blocks gets requests of any alignment carried out. */
    uint8_t go[8] = {0};
    uint32_t go_size = hand->is_for_format ? 6 : 8;
    be16_put(go + 4, hand->is_for_format ? 0 : 1);
    be16_put(go + 6, NBD_INFO_BLOCK_SIZE);
    if (rc == 0) {
        rc = send_option(hand, NBD_OPT_GO, go, go_size, err);
    }
    for (type = NBD_REP_INFO; rc == 0 && type == NBD_REP_INFO;) {
        rc = read_reply(hand, NBD_OPT_GO, &type, data, &size, err);
        if (rc == 0 && type == NBD_REP_INFO && size >= 12 && be16_get(data) == NBD_INFO_EXPORT) {
            take_export(info, data);
            has_export = true;
        } else if (rc == 0 && type == NBD_REP_INFO && size >= 14 &&
                   be16_get(data) == NBD_INFO_BLOCK_SIZE) {
            info->block_size = be32_get(data + 2);
            info->physical_block_size = be32_get(data + 6);
            info->max_size = MIN(be32_get(data + 10), MAX_DATA);
        }
    }
    return rc < 0 ? rc : type == NBD_REP_ACK && has_export ? 0 : broken(err);
}

int local_shake_hands(int fd, bool is_for_format, int timeout_ms, uint32_t *out_context_id,
                      struct remote_info *out_info, struct error *err)
{
    const struct handshake shake = {fd, clock_monotonic_ns() + (uint64_t)timeout_ms * 1000000,
                                    is_for_format};
    const struct handshake *hand = &shake;
    uint8_t greeting[NBD_GREETING_SIZE];
    uint8_t flags[4];
    *out_info = (struct remote_info){.block_size = 1,
                                     .physical_block_size = 4096,
                                     .max_size = MAX_DATA,
                                     .max_in_flight = LOCAL_MAX_IN_FLIGHT};
    int rc = transfer(hand, false, greeting, sizeof(greeting), err);
    if (rc == 0 &&
        (be64_get(greeting) != NBD_INIT_MAGIC || be64_get(greeting + 8) != NBD_OPTION_MAGIC ||
         (be16_get(greeting + 16) & NBD_FLAG_FIXED_NEWSTYLE) == 0)) {
        rc = broken(err);
    }
    be32_put(flags, NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES);
    if (rc == 0) {
        rc = transfer(hand, true, flags, sizeof(flags), err);
    }
    if (rc == 0) {
        rc = negotiate(hand, out_context_id, out_info, err);
    }
    uint32_t physical = out_info->physical_block_size;
    if (rc == 0 && (physical == 0 || (physical & (physical - 1)) != 0 || physical > 65536 ||
                    out_info->max_size < 4096)) {
        rc = broken(err);
    }
    return rc;
}
