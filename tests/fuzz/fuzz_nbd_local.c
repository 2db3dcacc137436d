/* Feeds block/protocol/remote/local.c with what a server might say: the handshake, or what follows a good one. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/core/endian.h"
#include "base/host/log.h"
#include "block/nbd/protocol.h"
#include "block/remote.h"

#define SIZE (1u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static size_t put_reply(uint8_t *out, uint32_t option, uint32_t type, const void *data,
                        uint32_t size)
{
    be64_put(out, NBD_OPTION_REPLY_MAGIC);
    be32_put(out + 8, option);
    be32_put(out + 12, type);
    be32_put(out + 16, size);
    memcpy(out + 20, data, size);
    return 20 + size;
}

static size_t put_handshake(uint8_t *out)
{
    uint8_t context[19] = {0, 0, 0, 7, 'b', 'a', 's', 'e', ':', 'a'};
    uint8_t export[12] = {0};
    be64_put(out, NBD_INIT_MAGIC);
    be64_put(out + 8, NBD_OPTION_MAGIC);
    be16_put(out + 16, 3);
    size_t at = 18;
    at += put_reply(out + at, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK, "", 0);
    at += put_reply(out + at, NBD_OPT_SET_META_CONTEXT, NBD_REP_META_CONTEXT, context, 19);
    at += put_reply(out + at, NBD_OPT_SET_META_CONTEXT, NBD_REP_ACK, "", 0);
    be64_put(export + 2, SIZE);
    be16_put(export + 10, 0x6d);
    at += put_reply(out + at, NBD_OPT_GO, NBD_REP_INFO, export, 12);
    return at + put_reply(out + at, NBD_OPT_GO, NBD_REP_ACK, "", 0);
}

struct job {
    struct block_request request;
    struct iovec iov;
    struct block_extent extent;
    uint8_t data[8192];
};

static void job_done(struct block_request *request, int status)
{
    const struct job *job = container_of(request, struct job, request);
    if (request->op == BLOCK_MAP && status == 0 &&
        (job->extent.size_bytes == 0 || job->extent.size_bytes > request->size_bytes)) {
        abort();
    }
}

static void use(struct block *block, int peer, const uint8_t *data, size_t size)
{
    static struct job jobs[8];
    static const enum block_op ops[] = {BLOCK_READ,  BLOCK_READ,    BLOCK_MAP,  BLOCK_WRITE,
                                        BLOCK_FLUSH, BLOCK_DISCARD, BLOCK_READ, BLOCK_MAP};
    for (size_t i = 0; i < ARRAY_COUNT(jobs); i++) {
        struct job *job = &jobs[i];
        job->iov = (struct iovec){job->data, sizeof(job->data)};
        job->request = (struct block_request){.op = ops[i],
                                              .offset_bytes = i * sizeof(job->data),
                                              .size_bytes = sizeof(job->data),
                                              .iov = &job->iov,
                                              .iov_count = 1,
                                              .extent = &job->extent,
                                              .done = job_done};
        block_submit(block, &job->request);
    }
    (void)!write(peer, data, size); /* the buffer of the socket holds more than the fuzzer makes */
    (void)shutdown(peer, SHUT_WR);
    block_drain(block);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct event_loop *loop;
    uint8_t handshake[512];
    int pair[2];
    struct block *block;
    log_init(-1, LOG_LEVEL_ERROR, "fuzz");
    if (size < 1 || size > 60000 || (loop == NULL && event_loop_create(&loop, NULL) < 0) ||
        socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
        return 0;
    }
    bool has_hand = (data[0] & 1) != 0;
    struct block_remote_options options = {.is_for_format = (data[0] & 2) != 0};
    size_t first = has_hand ? put_handshake(handshake) : size - 1;
    (void)!write(pair[1], has_hand ? handshake : data + 1, first);
    if (!has_hand) {
        (void)shutdown(pair[1], SHUT_WR);
    }
    if (block_open_nbd_fd(pair[0], "fuzz", &options, loop, &block, NULL) == 0) {
        use(block, pair[1], data + 1, has_hand ? size - 1 : 0);
        block_close(block);
    }
    close(pair[1]);
    return 0;
}
