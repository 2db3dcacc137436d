/* Covers block/protocol/remote/local.c: against Hull's own server, and against peers that say what they should not. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/core/endian.h"
#include "base/host/log.h"
#include "block/nbd/protocol.h"
#include "block/nbd_server.h"
#include "block/provider.h"
#include "block/remote.h"

#define SIZE (8u << 20)

static struct event_loop *server_loop;

static void client_event(void *ctx, enum nbd_client_event event, bool has_started, const char *text)
{
    if (event == NBD_CLIENT_GONE) {
        event_loop_stop(server_loop);
    }
}

/* The server in a process of its own: the handshake of the client waits. */
static pid_t start_server(int fd)
{
    pid_t pid = fork();
    if (pid != 0) {
        close(fd);
        return pid;
    }
    struct nbd_server *server;
    struct block *block;
    struct nbd_server_options options = {.event = client_event};
    struct nbd_export export = {.name = ""};
    if (event_loop_create(&server_loop, NULL) < 0 ||
        block_open_memory(SIZE, "memory", server_loop, &block, NULL) < 0) {
        _exit(1);
    }
    export.block = block;
    if (nbd_server_create(server_loop, &options, &server, NULL) < 0 ||
        nbd_server_add_export(server, &export, NULL) < 0 ||
        nbd_server_serve(server, fd, NULL) < 0 || event_loop_run(server_loop, NULL) < 0) {
        _exit(1);
    }
    nbd_server_destroy(server);
    block_close(block);
    event_loop_destroy(server_loop);
    _exit(0);
}

struct bed {
    struct event_loop *loop;
    struct block *block;
    pid_t pid;
};

static void make(struct bed *bed, bool is_for_format)
{
    int pair[2];
    struct error err = {0};
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    bed->pid = start_server(pair[1]);
    assert_int_equal(event_loop_create(&bed->loop, NULL), 0);
    struct block_remote_options options = {.is_for_format = is_for_format};
    assert_int_equal(block_open_nbd_fd(pair[0], "test", &options, bed->loop, &bed->block, &err), 0);
}

static void end(struct bed *bed)
{
    int status = -1;
    block_close(bed->block);
    event_loop_destroy(bed->loop);
    assert_int_equal(waitpid(bed->pid, &status, 0), bed->pid);
    assert_int_equal(status, 0);
}

struct job {
    struct block_request request;
    struct iovec iov[2];
    uint8_t data[300000];
    bool is_busy;
};

static void job_done(struct block_request *request, int status)
{
    struct job *job = container_of(request, struct job, request);
    assert_int_equal(status, 0);
    job->is_busy = false;
}

/* Requests of odd places and sizes, many at a time, each in a part of the disk that is its own. */
static void reads_what_it_wrote(void **state)
{
    static struct job jobs[16];
    static uint8_t model[SIZE], in[SIZE];
    struct bed bed;
    make(&bed, true);
    assert_int_equal(block_remote_for_format(&bed.block, NULL), 0);
    unsigned seed = 5;
    memset(model, 0, sizeof(model));
    for (unsigned step = 0; step < 3000; step++) {
        unsigned i = step % ARRAY_COUNT(jobs);
        struct job *job = &jobs[i];
        unsigned random = (unsigned)rand_r(&seed);
        while (job->is_busy) {
            block_wait(bed.block);
        }
        size_t part = SIZE / ARRAY_COUNT(jobs);
        size_t size = 1 + random % (random % 9 == 0 ? sizeof(job->data) : 5000);
        size_t offset = i * part + (random >> 4) % (part - size);
        job->iov[0] = (struct iovec){job->data, size / 3};
        job->iov[1] = (struct iovec){job->data + size / 3, size - size / 3};
        enum block_op op = random % 7 == 0 ? BLOCK_WRITE_ZEROES : BLOCK_WRITE;
        job->request = (struct block_request){.op = op,
                                              .offset_bytes = offset,
                                              .size_bytes = size,
                                              .iov = job->iov,
                                              .iov_count = 2,
                                              .done = job_done};
        job->is_busy = true;
        memset(job->data, (int)(random >> 8), size);
        memset(model + offset, op == BLOCK_WRITE ? (int)(random >> 8) & 0xff : 0, size);
        block_submit(bed.block, &job->request);
    }
    block_drain(bed.block);
    assert_int_equal(block_read(bed.block, 0, in, sizeof(in)), 0);
    assert_memory_equal(in, model, sizeof(in));
    end(&bed);
}

static void knows_holes(void **state)
{
    static uint8_t data[4096] = {1};
    struct bed bed;
    struct block_extent extent;
    struct block_info info;
    make(&bed, false);
    block_get_info(bed.block, &info);
    assert_int_equal(info.size_bytes, SIZE);
    assert_int_equal(info.logical_block_size, 512);
    assert_true(info.can_discard);
    assert_int_equal(block_map(bed.block, 0, SIZE, &extent), 0);
    assert_int_equal(extent.kind, BLOCK_EXTENT_HOLE);
    assert_int_equal(block_write(bed.block, 0, data, sizeof(data)), 0);
    assert_int_equal(block_map(bed.block, 0, SIZE, &extent), 0);
    assert_int_equal(extent.kind, BLOCK_EXTENT_DATA);
    assert_int_equal(block_discard(bed.block, 0, 65536), 0);
    assert_int_equal(block_flush(bed.block), 0);
    end(&bed);
}

static void send_connection(int channel, int fd)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } ancillary = {0};
    struct iovec iov = {(void *)"", 1};
    struct msghdr message = {.msg_iov = &iov,
                             .msg_iovlen = 1,
                             .msg_control = &ancillary,
                             .msg_controllen = sizeof(ancillary)};
    struct cmsghdr *part = CMSG_FIRSTHDR(&message);
    *part = (struct cmsghdr){
        .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))};
    memcpy(CMSG_DATA(part), &fd, sizeof(fd));
    assert_int_equal(sendmsg(channel, &message, 0), 1);
    close(fd);
}

/* A server that the channel leads to. */
static pid_t start_next(int channel)
{
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    pid_t pid = start_server(pair[1]);
    send_connection(channel, pair[0]);
    return pid;
}

/* Servers that are killed and forget all: what is not flushed is written again to the next one. */
static void goes_on_with_the_next_one(void **state)
{
    static uint8_t data[65536], in[65536];
    int channel[2];
    struct event_loop *loop;
    struct block *block;
    struct block_remote_options options = {.reconnect_ns = 60000000000ull};
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, channel), 0);
    assert_int_equal(event_loop_create(&loop, NULL), 0);
    pid_t pid = start_next(channel[1]);
    assert_int_equal(block_open_nbd_channel(channel[0], "test", &options, loop, &block, NULL), 0);
    for (unsigned i = 0; i < 8; i++) {
        memset(data, (int)(i + 1), sizeof(data));
        assert_int_equal(block_write(block, i * sizeof(data), data, sizeof(data)), 0);
        (void)kill(pid, SIGKILL);
        (void)waitpid(pid, NULL, 0);
        if (i % 3 == 1) { /* one whose server is no more when it is looked at */
            int pair[2];
            assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
            close(pair[1]);
            send_connection(channel[1], pair[0]);
        }
        pid = start_next(channel[1]);
        for (unsigned j = 0; j <= i; j++) {
            assert_int_equal(block_read(block, j * sizeof(data), in, sizeof(in)), 0);
            assert_true(in[0] == j + 1 && memcmp(in, in + 1, sizeof(in) - 1) == 0);
        }
    }
    /* Nobody starts one any more. */
    close(channel[1]);
    (void)kill(pid, SIGKILL);
    (void)waitpid(pid, NULL, 0);
    block_remote_give_up(block);
    assert_int_equal(block_read(block, 0, in, sizeof(in)), -ETIMEDOUT);
    block_close(block);
    event_loop_destroy(loop);
    /* A channel without a connection, and one that is closed. */
    struct error err;
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, channel), 0);
    close(channel[1]);
    assert_int_equal(block_open_nbd_channel(channel[0], "test", &options, NULL, &block, &err),
                     -ECONNRESET);
}

/* --- Peers that are no good --- */

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

/* All that a good server says up to the first request. */
static size_t put_handshake(uint8_t *out)
{
    uint8_t context[19] = "....base:allocation";
    uint8_t export[12] = {0};
    be64_put(out, NBD_INIT_MAGIC);
    be64_put(out + 8, NBD_OPTION_MAGIC);
    be16_put(out + 16, 3);
    size_t at = 18;
    at += put_reply(out + at, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK, "", 0);
    be32_put(context, 7);
    at += put_reply(out + at, NBD_OPT_SET_META_CONTEXT, NBD_REP_META_CONTEXT, context, 19);
    at += put_reply(out + at, NBD_OPT_SET_META_CONTEXT, NBD_REP_ACK, "", 0);
    be64_put(export + 2, SIZE);
    be16_put(export + 10, NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH);
    at += put_reply(out + at, NBD_OPT_GO, NBD_REP_INFO, export, 12);
    return at + put_reply(out + at, NBD_OPT_GO, NBD_REP_ACK, "", 0);
}

static size_t put_chunk(uint8_t *out, uint16_t flags, uint16_t type, uint64_t cookie, uint32_t size)
{
    be32_put(out, NBD_STRUCTURED_MAGIC);
    be16_put(out + 4, flags);
    be16_put(out + 6, type);
    be64_put(out + 8, cookie);
    be32_put(out + 16, size);
    return NBD_CHUNK_SIZE;
}

/* What block_read of 4096 bytes from 0 comes to if the server says just this after the handshake; the first cookie is 1 << 8. */
static int read_from(const uint8_t *said, size_t size, uint8_t *in)
{
    uint8_t all[512];
    int pair[2];
    struct event_loop *loop;
    struct block *block;
    struct block_remote_options options = {0};
    size_t at = put_handshake(all);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    assert_int_equal(write(pair[1], all, at), at);
    assert_int_equal(event_loop_create(&loop, NULL), 0);
    assert_int_equal(block_open_nbd_fd(pair[0], "test", &options, loop, &block, NULL), 0);
    assert_int_equal(write(pair[1], said, size), size);
    (void)shutdown(pair[1], SHUT_WR);
    int rc = block_read(block, 0, in, 4096);
    int again = block_read(block, 0, in, 512);
    assert_int_equal(again, -ETIMEDOUT); /* it has nothing more to say */
    block_close(block);
    close(pair[1]);
    event_loop_destroy(loop);
    return rc;
}

#define COOKIE ((uint64_t)1 << 8)

/* A reply of so many parts that the client takes 'count' looks at the socket for it, and nothing behind it that would wake the client
 * once more: however many it takes before others get their turn, it must not forget a part that it has. */
static void forgets_no_part(void **state)
{
    static uint8_t said[200 * 32], in[4096];
    for (uint32_t count = 3; count < 200; count++) {
        uint8_t all[512];
        int pair[2];
        struct event_loop *loop;
        struct block *block;
        struct block_remote_options options = {0};
        size_t handshake = put_handshake(all), at = 0;
        /* Chunks without content are two looks, holes three. */
        uint32_t nones = count * 2 % 3, holes = (count - 2 * nones) / 3;
        if (count < 2 * nones + 3) {
            continue;
        }
        for (uint32_t i = 0; i < nones; i++) {
            at += put_chunk(said + at, 0, NBD_REPLY_TYPE_NONE, COOKIE, 0);
        }
        for (uint32_t i = 0; i < holes; i++) {
            bool is_last = i == holes - 1;
            at += put_chunk(said + at, is_last ? NBD_REPLY_FLAG_DONE : 0,
                            NBD_REPLY_TYPE_OFFSET_HOLE, COOKIE, 12);
            be64_put(said + at, i * 8);
            be32_put(said + at + 8, is_last ? (uint32_t)sizeof(in) - i * 8 : 8);
            at += 12;
        }
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        assert_int_equal(write(pair[1], all, handshake), handshake);
        assert_int_equal(event_loop_create(&loop, NULL), 0);
        assert_int_equal(block_open_nbd_fd(pair[0], "test", &options, loop, &block, NULL), 0);
        assert_int_equal(write(pair[1], said, at), at);
        assert_int_equal(block_read(block, 0, in, sizeof(in)), 0);
        block_close(block);
        close(pair[1]);
        event_loop_destroy(loop);
    }
}

static void believes_nothing(void **state)
{
    static uint8_t said[6000], in[4096];
    /* First, that what is right is taken: half of it as data, half as a hole. */
    size_t at = put_chunk(said, 0, NBD_REPLY_TYPE_OFFSET_DATA, COOKIE, 8 + 2048);
    be64_put(said + at, 0);
    memset(said + at + 8, 9, 2048);
    at += 8 + 2048;
    at += put_chunk(said + at, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_OFFSET_HOLE, COOKIE, 12);
    be64_put(said + at, 2048);
    be32_put(said + at + 8, 2048);
    at += 12;
    memset(in, 1, sizeof(in));
    assert_int_equal(read_from(said, at, in), 0);
    assert_true(in[2047] == 9 && in[2048] == 0 && in[4095] == 0);
    /* An error of the server. */
    at = put_chunk(said, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_ERROR, COOKIE, 6 + 4);
    be32_put(said + at, NBD_ENOSPC);
    be16_put(said + at + 4, 4);
    assert_int_equal(read_from(said, at + 10, in), -ENOSPC);

    static const struct {
        uint32_t type;
        uint64_t cookie, offset;
        uint32_t size, length;
    } wrong[] = {
        {NBD_REPLY_TYPE_OFFSET_DATA, COOKIE, 0, 8 + 5000, 0},  /* more than was asked for */
        {NBD_REPLY_TYPE_OFFSET_DATA, COOKIE, 512, 8 + 512, 0}, /* not the beginning */
        {NBD_REPLY_TYPE_OFFSET_DATA, COOKIE, 1ull << 63, 8 + 9, 0},
        {NBD_REPLY_TYPE_OFFSET_DATA, COOKIE, 0, 8, 0}, /* nothing */
        {NBD_REPLY_TYPE_OFFSET_DATA, COOKIE, 0, 3, 0}, /* too short for an offset */
        {NBD_REPLY_TYPE_OFFSET_DATA, COOKIE, 0, 0xffffffff, 0},
        {NBD_REPLY_TYPE_OFFSET_DATA, COOKIE, 0, 8 + 512, 0},      /* a part, and done */
        {NBD_REPLY_TYPE_OFFSET_DATA, COOKIE + 1, 0, 8 + 4096, 0}, /* another slot */
        {NBD_REPLY_TYPE_OFFSET_DATA, 1 << 16, 0, 8 + 4096, 0},    /* another serial number */
        {NBD_REPLY_TYPE_OFFSET_DATA, ~0ull, 0, 8 + 4096, 0},
        {NBD_REPLY_TYPE_OFFSET_HOLE, COOKIE, 0, 12, 0xffffffff},
        {NBD_REPLY_TYPE_OFFSET_HOLE, COOKIE, 0, 12, 0},
        {NBD_REPLY_TYPE_OFFSET_HOLE, COOKIE, 0, 13, 4096},
        {NBD_REPLY_TYPE_BLOCK_STATUS, COOKIE, 0, 12, 0}, /* nobody asked for a map */
        {NBD_REPLY_TYPE_NONE, COOKIE, 0, 0, 0},          /* done without data */
        {NBD_REPLY_TYPE_NONE, COOKIE, 0, 5, 0},
        {NBD_REPLY_TYPE_ERROR, COOKIE, 0, 2, 0},
        {77, COOKIE, 0, 12, 0},
    };
    for (size_t i = 0; i < ARRAY_COUNT(wrong); i++) {
        memset(said, 0, sizeof(said));
        at = put_chunk(said, NBD_REPLY_FLAG_DONE, (uint16_t)wrong[i].type, wrong[i].cookie,
                       wrong[i].size);
        be64_put(said + at, wrong[i].offset);
        be32_put(said + at + 8, wrong[i].length);
        assert_int_equal(read_from(said, sizeof(said), in), -ETIMEDOUT);
    }
    /* A simple reply to a read, where structured ones are agreed on; then rubbish. */
    memset(said, 0, sizeof(said));
    be32_put(said, NBD_SIMPLE_MAGIC);
    be64_put(said + 8, COOKIE);
    assert_int_equal(read_from(said, sizeof(said), in), -ETIMEDOUT);
    memset(said, 0x55, sizeof(said));
    assert_int_equal(read_from(said, sizeof(said), in), -ETIMEDOUT);
    assert_int_equal(read_from(said, 0, in), -ETIMEDOUT);
}

/* Each handshake that is cut short or changed in a byte ends in an error, or in a disk. */
static void shakes_no_wrong_hands(void **state)
{
    uint8_t good[512];
    size_t size = put_handshake(good);
    for (size_t i = 0; i < 2 * size; i++) {
        uint8_t said[512];
        int pair[2];
        struct event_loop *loop;
        struct block *block = NULL;
        struct error err = {0};
        struct block_remote_options options = {0};
        memcpy(said, good, size);
        if (i >= size) {
            said[i - size] ^= 0x80;
        }
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        assert_true(write(pair[1], said, i < size ? i : size) >= 0);
        (void)shutdown(pair[1], SHUT_WR);
        assert_int_equal(event_loop_create(&loop, NULL), 0);
        int rc = block_open_nbd_fd(pair[0], "test", &options, loop, &block, &err);
        assert_true(i >= size || rc < 0);
        assert_true(rc == 0 || strstr(err.text, "disk test: ") == err.text);
        block_close(block);
        close(pair[1]);
        event_loop_destroy(loop);
    }
}

int main(void)
{
    log_init(2, LOG_LEVEL_ERROR, "test");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_what_it_wrote),       cmocka_unit_test(knows_holes),
        cmocka_unit_test(goes_on_with_the_next_one), cmocka_unit_test(forgets_no_part),
        cmocka_unit_test(believes_nothing),          cmocka_unit_test(shakes_no_wrong_hands),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
