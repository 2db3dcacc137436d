/* Covers block/nbd: the server seen from the other end of its sockets, byte by byte, with clients that keep to the protocol and
 * with such that do not. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/core/endian.h"
#include "block/nbd/protocol.h"
#include "block/nbd_server.h"

#define DISK_SIZE (4u << 20)
#define MAX_TEXT  256

/* The server, on a thread of its own. */
struct fixture {
    struct event_loop *loop;
    struct block *block;
    struct nbd_server *server;
    pthread_t thread;
    struct event_notifier *calls;
    void (*call)(struct fixture *fixture);
    int fd; /* for a call */
    int rc;
    unsigned gone, started;
    char why[MAX_TEXT];
    bool is_stopped;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool is_called;
};

static void on_event(void *ctx, enum nbd_client_event event, bool has_started, const char *text)
{
    struct fixture *f = ctx;
    pthread_mutex_lock(&f->mutex);
    f->started += event == NBD_CLIENT_STARTED;
    f->gone += event == NBD_CLIENT_GONE;
    if (text != NULL) {
        (void)snprintf(f->why, sizeof(f->why), "%s", text);
    }
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->mutex);
}

static void *run_loop(void *ctx)
{
    struct fixture *f = ctx;
    assert_int_equal(event_loop_run(f->loop, NULL), 0);
    return NULL;
}

static void on_call(void *ctx)
{
    struct fixture *f = ctx;
    f->call(f);
    pthread_mutex_lock(&f->mutex);
    f->is_called = false;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->mutex);
}

/* On the server's thread. */
static void call(struct fixture *f, void (*fn)(struct fixture *f))
{
    f->call = fn;
    f->is_called = true;
    event_notifier_signal(f->calls);
    pthread_mutex_lock(&f->mutex);
    while (f->is_called) {
        pthread_cond_wait(&f->changed, &f->mutex);
    }
    pthread_mutex_unlock(&f->mutex);
}

static void wait_gone(struct fixture *f, unsigned count)
{
    pthread_mutex_lock(&f->mutex);
    while (f->gone < count) {
        pthread_cond_wait(&f->changed, &f->mutex);
    }
    pthread_mutex_unlock(&f->mutex);
}

static int odd_status(void *ctx, uint64_t offset, uint64_t size, uint32_t *out_flags,
                      uint64_t *out_size)
{
    *out_flags = (uint32_t)(offset >> 16) & 1;
    *out_size = MIN(size, 65536 - offset % 65536);
    return 0;
}

static void start_with(struct fixture *f, struct nbd_server_options options)
{
    static const struct nbd_context context = {.name = "qemu:dirty-bitmap:odd",
                                               .status = odd_status};
    *f = (struct fixture){.fd = -1};
    pthread_mutex_init(&f->mutex, NULL);
    pthread_cond_init(&f->changed, NULL);
    options.event = on_event;
    options.ctx = f;
    assert_int_equal(event_loop_create(&f->loop, NULL), 0);
    assert_int_equal(event_notifier_create(f->loop, on_call, f, &f->calls, NULL), 0);
    struct block *memory;
    assert_int_equal(block_open_memory(DISK_SIZE, "memory", f->loop, &memory, NULL), 0);
    f->block = memory;
    assert_int_equal(nbd_server_create(f->loop, &options, &f->server, NULL), 0);
    struct nbd_export export = {
        .name = "", .block = f->block, .context = &context, .context_count = 1};
    assert_int_equal(nbd_server_add_export(f->server, &export, NULL), 0);
    export.name = "fixed";
    export.description = "cannot be changed";
    export.is_readonly = true;
    export.context_count = 0;
    assert_int_equal(nbd_server_add_export(f->server, &export, NULL), 0);
    assert_int_equal(nbd_server_add_export(f->server, &export, NULL), -EEXIST);
    assert_int_equal(pthread_create(&f->thread, NULL, run_loop, f), 0);
}

static void start(struct fixture *f)
{
    start_with(f, (struct nbd_server_options){0});
}

static void call_destroy(struct fixture *f)
{
    nbd_server_destroy(f->server);
}

static void finish(struct fixture *f)
{
    call(f, call_destroy);
    event_loop_stop(f->loop);
    pthread_join(f->thread, NULL);
    block_close(f->block);
    event_notifier_destroy(f->calls);
    event_loop_destroy(f->loop);
    pthread_mutex_destroy(&f->mutex);
    pthread_cond_destroy(&f->changed);
}

static void call_serve(struct fixture *f)
{
    f->rc = nbd_server_serve(f->server, f->fd, NULL);
}

static int connect_raw(struct fixture *f)
{
    int fd[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd), 0);
    f->fd = fd[1];
    call(f, call_serve);
    assert_int_equal(f->rc, 0);
    struct timeval limit = {.tv_sec = 20};
    assert_int_equal(setsockopt(fd[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)), 0);
    return fd[0];
}

static void put(int fd, const void *data, size_t size)
{
    assert_int_equal(send(fd, data, size, MSG_NOSIGNAL), (ssize_t)size);
}

static void get(int fd, void *data, size_t size)
{
    uint8_t *at = data;
    while (size > 0) {
        ssize_t got = recv(fd, at, size, 0);
        assert_true(got > 0);
        at += got;
        size -= (size_t)got;
    }
}

static void assert_closed(int fd)
{
    uint8_t bytes[256];
    ssize_t got;
    while ((got = recv(fd, bytes, sizeof(bytes), 0)) > 0) {
    }
    assert_true(got == 0 || errno == ECONNRESET);
}

static int greet(struct fixture *f, uint32_t flags)
{
    int fd = connect_raw(f);
    uint8_t greeting[NBD_GREETING_SIZE], answer[4];
    get(fd, greeting, sizeof(greeting));
    assert_true(be64_get(greeting) == NBD_INIT_MAGIC);
    assert_true(be64_get(greeting + 8) == NBD_OPTION_MAGIC);
    assert_int_equal(be16_get(greeting + 16), NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
    be32_put(answer, flags);
    put(fd, answer, sizeof(answer));
    return fd;
}

static void option(int fd, uint32_t option, const void *data, size_t size)
{
    uint8_t head[NBD_OPTION_HEADER_SIZE];
    be64_put(head, NBD_OPTION_MAGIC);
    be32_put(head + 8, option);
    be32_put(head + 12, (uint32_t)size);
    put(fd, head, sizeof(head));
    if (size > 0) {
        put(fd, data, size);
    }
}

/* The type of a reply, its data in 'out'. */
static uint32_t reply(int fd, uint32_t option, uint8_t *out, size_t room, size_t *out_size)
{
    uint8_t head[NBD_OPTION_REPLY_SIZE];
    get(fd, head, sizeof(head));
    assert_true(be64_get(head) == NBD_OPTION_REPLY_MAGIC);
    assert_int_equal(be32_get(head + 8), option);
    uint32_t size = be32_get(head + 16);
    assert_true(size <= room);
    get(fd, out, size);
    *out_size = size;
    return be32_get(head + 12);
}

/* Skips what comes before the last reply, and returns that one's type. */
static uint32_t last_reply(int fd, uint32_t option)
{
    uint8_t data[8192];
    size_t size;
    uint32_t type;
    do {
        type = reply(fd, option, data, sizeof(data), &size);
    } while (type != NBD_REP_ACK && (type & NBD_REP_ERROR) == 0);
    return type;
}

static uint32_t go(int fd, const char *name)
{
    uint8_t data[64] = {0};
    size_t size = strlen(name);
    be32_put(data, (uint32_t)size);
    memcpy(data + 4, name, size);
    option(fd, NBD_OPT_GO, data, size + 6);
    return last_reply(fd, NBD_OPT_GO);
}

static uint32_t set_context(int fd, const char *export, const char *query)
{
    uint8_t data[128] = {0};
    size_t name_size = strlen(export), size = strlen(query);
    be32_put(data, (uint32_t)name_size);
    memcpy(data + 4, export, name_size);
    be32_put(data + 4 + name_size, 1);
    be32_put(data + 8 + name_size, (uint32_t)size);
    memcpy(data + 12 + name_size, query, size);
    option(fd, NBD_OPT_SET_META_CONTEXT, data, 12 + name_size + size);
    return last_reply(fd, NBD_OPT_SET_META_CONTEXT);
}

static int connect_to(struct fixture *f, const char *name, const char *query)
{
    int fd = greet(f, NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES);
    if (query != NULL) {
        option(fd, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
        assert_int_equal(last_reply(fd, NBD_OPT_STRUCTURED_REPLY), NBD_REP_ACK);
        assert_int_equal(set_context(fd, name, query), NBD_REP_ACK);
    }
    assert_int_equal(go(fd, name), NBD_REP_ACK);
    return fd;
}

static void request(int fd, unsigned type, unsigned flags, uint64_t cookie, uint64_t offset,
                    uint32_t size)
{
    uint8_t head[NBD_REQUEST_SIZE];
    be32_put(head, NBD_REQUEST_MAGIC);
    be16_put(head + 4, (uint16_t)flags);
    be16_put(head + 6, (uint16_t)type);
    be64_put(head + 8, cookie);
    be64_put(head + 16, offset);
    be32_put(head + 24, size);
    put(fd, head, sizeof(head));
}

/* The error of a simple answer. */
static uint32_t answer(int fd, uint64_t cookie)
{
    uint8_t head[NBD_SIMPLE_SIZE];
    get(fd, head, sizeof(head));
    assert_int_equal(be32_get(head), NBD_SIMPLE_MAGIC);
    assert_true(be64_get(head + 8) == cookie);
    return be32_get(head + 4);
}

struct chunk {
    unsigned flags, type;
    uint32_t size;
    uint8_t data[8192];
};

static void get_chunk(int fd, uint64_t cookie, struct chunk *out)
{
    uint8_t head[NBD_CHUNK_SIZE];
    get(fd, head, sizeof(head));
    assert_int_equal(be32_get(head), NBD_STRUCTURED_MAGIC);
    assert_true(be64_get(head + 8) == cookie);
    out->flags = be16_get(head + 4);
    out->type = be16_get(head + 6);
    out->size = be32_get(head + 16);
    size_t kept = MIN(out->size, sizeof(out->data));
    get(fd, out->data, kept);
    for (uint32_t left = out->size - (uint32_t)kept; left > 0; left--) {
        uint8_t byte;
        get(fd, &byte, 1);
    }
}

static uint32_t do_write(int fd, uint64_t offset, uint8_t value, uint32_t size, unsigned flags)
{
    uint8_t *data = malloc(size + 1);
    memset(data, value, size);
    request(fd, NBD_CMD_WRITE, flags, 77, offset, size);
    put(fd, data, size);
    free(data);
    return answer(fd, 77);
}

static void assert_bytes(int fd, uint64_t offset, uint8_t value, uint32_t size)
{
    uint8_t *data = malloc(size + 1);
    request(fd, NBD_CMD_READ, 0, 78, offset, size);
    assert_int_equal(answer(fd, 78), 0);
    get(fd, data, size);
    for (uint32_t i = 0; i < size; i++) {
        assert_int_equal(data[i], value);
    }
    free(data);
}

static void simple_answers(void **state)
{
    struct fixture f;
    start(&f);
    int fd = connect_to(&f, "", NULL);
    assert_int_equal(do_write(fd, 4096, 1, 8192, 0), 0);
    assert_bytes(fd, 4096, 1, 8192);
    assert_bytes(fd, 0, 0, 4096);
    assert_int_equal(do_write(fd, 100, 2, 1000, NBD_CMD_FLAG_FUA), 0); /* not whole sectors */
    assert_bytes(fd, 100, 2, 1000);
    assert_bytes(fd, 1100, 0, 100);
    assert_bytes(fd, 99, 0, 1);
    request(fd, NBD_CMD_FLUSH, 0, 1, 0, 0);
    assert_int_equal(answer(fd, 1), 0);
    request(fd, NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_FAST_ZERO, 2, 200, 5000);
    assert_int_equal(answer(fd, 2), 0);
    assert_bytes(fd, 200, 0, 5000);
    assert_bytes(fd, 100, 2, 100);
    assert_bytes(fd, 5200, 1, 100);
    request(fd, NBD_CMD_TRIM, 0, 3, 0, 65536);
    assert_int_equal(answer(fd, 3), 0);
    request(fd, NBD_CMD_CACHE, 0, 4, 0, 1 << 20);
    assert_int_equal(answer(fd, 4), 0);
    request(fd, NBD_CMD_READ, 0, 5, 0, 0);
    assert_int_equal(answer(fd, 5), 0);
    request(fd, NBD_CMD_DISC, 0, 6, 0, 0);
    assert_closed(fd);
    close(fd);
    wait_gone(&f, 1);
    assert_string_equal(f.why, "");
    finish(&f);
}

static void wrong_requests(void **state)
{
    struct fixture f;
    start(&f);
    int fd = connect_to(&f, "", NULL);
    assert_int_equal(do_write(fd, DISK_SIZE - 10, 1, 11, 0), NBD_ENOSPC);
    assert_int_equal(do_write(fd, UINT64_MAX - 5, 1, 11, 0), NBD_ENOSPC);
    assert_int_equal(do_write(fd, 0, 1, 16, NBD_CMD_FLAG_NO_HOLE), NBD_EINVAL);
    request(fd, NBD_CMD_READ, 0, 1, DISK_SIZE, 1);
    assert_int_equal(answer(fd, 1), NBD_EINVAL);
    request(fd, NBD_CMD_READ, 0, 1, UINT64_MAX, UINT32_MAX);
    assert_int_equal(answer(fd, 1), NBD_EINVAL);
    request(fd, NBD_CMD_READ, NBD_CMD_FLAG_DF, 1, 0, 512);
    assert_int_equal(answer(fd, 1), NBD_EINVAL);
    request(fd, NBD_CMD_BLOCK_STATUS, 0, 1, 0, 512);
    assert_int_equal(answer(fd, 1), NBD_EINVAL);
    request(fd, NBD_CMD_FLUSH, 0, 1, 0, 512);
    assert_int_equal(answer(fd, 1), NBD_EINVAL);
    request(fd, NBD_CMD_WRITE_ZEROES, 0, 1, 0, UINT32_MAX);
    assert_int_equal(answer(fd, 1), NBD_ENOSPC);
    request(fd, 99, 0, 1, 0, 512);
    assert_int_equal(answer(fd, 1), NBD_EINVAL);
    assert_bytes(fd, 0, 0, 512); /* and goes on */
    close(fd);
    fd = connect_to(&f, "fixed", NULL);
    assert_int_equal(do_write(fd, 0, 1, 512, 0), NBD_EPERM);
    request(fd, NBD_CMD_TRIM, 0, 1, 0, 512);
    assert_int_equal(answer(fd, 1), NBD_EPERM);
    assert_bytes(fd, 0, 0, 512);
    close(fd);
    fd = connect_to(&f, "", NULL);
    request(fd, NBD_CMD_WRITE, 0, 1, 0, NBD_USUAL_MAX_PAYLOAD + 1);
    assert_closed(fd);
    close(fd);
    fd = connect_to(&f, "", NULL);
    uint8_t rubbish[NBD_REQUEST_SIZE] = {1, 2, 3};
    put(fd, rubbish, sizeof(rubbish));
    assert_closed(fd);
    close(fd);
    finish(&f);
}

static void structured_answers(void **state)
{
    struct fixture f;
    struct chunk chunk;
    start(&f);
    int writer = connect_to(&f, "", NULL);
    assert_int_equal(do_write(writer, 65536, 9, 65536, 0), 0);
    int fd = connect_to(&f, "", "base:allocation");
    request(fd, NBD_CMD_READ, 0, 1, 0, 262144);
    get_chunk(fd, 1, &chunk);
    assert_int_equal(chunk.type, NBD_REPLY_TYPE_OFFSET_HOLE);
    assert_int_equal(be32_get(chunk.data + 8), 65536);
    get_chunk(fd, 1, &chunk);
    assert_int_equal(chunk.type, NBD_REPLY_TYPE_OFFSET_DATA);
    assert_int_equal(chunk.size, 8 + 65536);
    assert_int_equal(chunk.data[8], 9);
    get_chunk(fd, 1, &chunk);
    assert_int_equal(chunk.type, NBD_REPLY_TYPE_OFFSET_HOLE);
    assert_int_equal(chunk.flags, NBD_REPLY_FLAG_DONE);
    request(fd, NBD_CMD_READ, NBD_CMD_FLAG_DF, 2, 0, 262144);
    get_chunk(fd, 2, &chunk);
    assert_int_equal(chunk.size, 8 + 262144);
    assert_int_equal(chunk.flags, NBD_REPLY_FLAG_DONE);
    request(fd, NBD_CMD_BLOCK_STATUS, 0, 3, 1000, 200000);
    get_chunk(fd, 3, &chunk);
    assert_int_equal(chunk.type, NBD_REPLY_TYPE_BLOCK_STATUS);
    assert_int_equal(chunk.size, 4 + 3 * 8);
    assert_int_equal(be32_get(chunk.data + 4), 64536);
    assert_int_equal(be32_get(chunk.data + 8), NBD_STATE_HOLE | NBD_STATE_ZERO);
    assert_int_equal(be32_get(chunk.data + 12), 65536);
    assert_int_equal(be32_get(chunk.data + 16), 0);
    request(fd, NBD_CMD_BLOCK_STATUS, NBD_CMD_FLAG_REQ_ONE, 4, 0, 200000);
    get_chunk(fd, 4, &chunk);
    assert_int_equal(chunk.size, 4 + 8);
    request(fd, NBD_CMD_READ, 0, 5, DISK_SIZE, 512);
    get_chunk(fd, 5, &chunk);
    assert_int_equal(chunk.type, NBD_REPLY_TYPE_ERROR);
    assert_int_equal(be32_get(chunk.data), NBD_EINVAL);
    close(fd);
    fd = connect_to(&f, "", "qemu:dirty-bitmap:odd");
    request(fd, NBD_CMD_BLOCK_STATUS, 0, 6, 0, 200000);
    get_chunk(fd, 6, &chunk);
    assert_int_equal(chunk.size, 4 + 4 * 8);
    assert_int_equal(be32_get(chunk.data + 16), 1);
    close(fd);
    close(writer);
    finish(&f);
}

static void negotiation(void **state)
{
    struct fixture f;
    uint8_t data[8192];
    size_t size;
    start(&f);
    int fd = greet(&f, NBD_FLAG_C_FIXED_NEWSTYLE);
    option(fd, NBD_OPT_LIST, NULL, 0);
    assert_int_equal(reply(fd, NBD_OPT_LIST, data, sizeof(data), &size), NBD_REP_SERVER);
    assert_int_equal(size, 4);
    assert_int_equal(reply(fd, NBD_OPT_LIST, data, sizeof(data), &size), NBD_REP_SERVER);
    assert_int_equal(size, 4 + strlen("fixed") + strlen("cannot be changed"));
    assert_int_equal(reply(fd, NBD_OPT_LIST, data, sizeof(data), &size), NBD_REP_ACK);
    option(fd, NBD_OPT_LIST, "x", 1);
    assert_int_equal(last_reply(fd, NBD_OPT_LIST), NBD_REP_ERR_INVALID);
    option(fd, NBD_OPT_STARTTLS, NULL, 0);
    assert_int_equal(last_reply(fd, NBD_OPT_STARTTLS), NBD_REP_ERR_POLICY);
    option(fd, 4242, "abc", 3);
    assert_int_equal(last_reply(fd, 4242), NBD_REP_ERR_UNSUP);
    assert_int_equal(set_context(fd, "", "base:allocation"), NBD_REP_ERR_INVALID);
    assert_int_equal(go(fd, "nothing"), NBD_REP_ERR_UNKNOWN);
    /* Lengths that do not fit each other. */
    static const uint8_t wrong[][12] = {
        {0}, {0xff, 0xff, 0xff, 0xff}, {0, 0, 0, 10, 'a'}, {0, 0, 0, 0, 0xff, 0xff}, {0, 0, 0, 7}};
    for (size_t i = 0; i < ARRAY_COUNT(wrong); i++) {
        for (size_t n = 0; n < 12; n++) {
            bool is_right = n == 6 && i == 0;
            option(fd, NBD_OPT_INFO, wrong[i], n);
            assert_int_equal(last_reply(fd, NBD_OPT_INFO),
                             is_right ? NBD_REP_ACK : NBD_REP_ERR_INVALID);
        }
    }
    option(fd, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
    assert_int_equal(last_reply(fd, NBD_OPT_STRUCTURED_REPLY), NBD_REP_ACK);
    static const uint8_t queries[][16] = {{0xff, 0xff, 0xff, 0xff},
                                          {0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff},
                                          {0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff},
                                          {0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 9, 'a'}};
    for (size_t i = 0; i < ARRAY_COUNT(queries); i++) {
        option(fd, NBD_OPT_SET_META_CONTEXT, queries[i], sizeof(queries[i]));
        assert_int_equal(last_reply(fd, NBD_OPT_SET_META_CONTEXT), NBD_REP_ERR_INVALID);
    }
    assert_int_equal(set_context(fd, "", "no:such"), NBD_REP_ACK);
    option(fd, NBD_OPT_ABORT, NULL, 0);
    assert_int_equal(last_reply(fd, NBD_OPT_ABORT), NBD_REP_ACK);
    assert_closed(fd);
    close(fd);
    /* The old way, with its zeros. */
    fd = greet(&f, NBD_FLAG_C_FIXED_NEWSTYLE);
    option(fd, NBD_OPT_EXPORT_NAME, "fixed", 5);
    get(fd, data, 10 + NBD_EXPORT_NAME_ZEROES);
    assert_int_equal(be64_get(data), DISK_SIZE);
    assert_true((be16_get(data + 8) & NBD_FLAG_READ_ONLY) != 0);
    assert_bytes(fd, 0, 0, 512);
    close(fd);
    fd = greet(&f, NBD_FLAG_C_FIXED_NEWSTYLE);
    option(fd, NBD_OPT_EXPORT_NAME, "nothing", 7);
    assert_closed(fd);
    close(fd);
    fd = greet(&f, 1u << 7);
    assert_closed(fd);
    close(fd);
    fd = greet(&f, 0);
    option(fd, NBD_OPT_LIST, NULL, 0);
    assert_closed(fd);
    close(fd);
    fd = greet(&f, NBD_FLAG_C_FIXED_NEWSTYLE);
    static const uint8_t huge[16] = {'I', 'H', 'A', 'V', 'E',  'O', 'P', 'T',
                                     0,   0,   0,   3,   0x7f, 0,   0,   0};
    put(fd, huge, sizeof(huge));
    assert_closed(fd);
    close(fd);
    finish(&f);
}

static void late_clients(void **state)
{
    struct fixture f;
    start_with(&f, (struct nbd_server_options){.handshake_timeout_ns = 50000000});
    int silent = connect_raw(&f);
    int slow = greet(&f, NBD_FLAG_C_FIXED_NEWSTYLE);
    int fine = connect_to(&f, "", NULL);
    assert_closed(silent);
    assert_closed(slow);
    assert_bytes(fine, 0, 0, 512);
    assert_string_equal(f.why, "has not chosen an export in time");
    close(silent);
    close(slow);
    close(fine);
    finish(&f);
}

/* Many requests at a time, of which many begin and end within the sectors of others, from several clients. */
static void neighbours(void **state)
{
    enum {
        CLIENTS = 4,
        ROUNDS = 200,
        STEP = 100
    };
    struct fixture f;
    start(&f);
    int fd[CLIENTS];
    for (int c = 0; c < CLIENTS; c++) {
        fd[c] = connect_to(&f, "", NULL);
    }
    for (int round = 0; round < ROUNDS; round++) {
        int c = round % CLIENTS;
        uint8_t data[STEP];
        memset(data, round + 1, sizeof(data));
        request(fd[c], NBD_CMD_WRITE, 0, (uint64_t)round, (uint64_t)round * STEP, STEP);
        put(fd[c], data, sizeof(data));
    }
    for (int round = 0; round < ROUNDS; round++) {
        uint8_t head[NBD_SIMPLE_SIZE];
        get(fd[round % CLIENTS], head, sizeof(head));
        assert_int_equal(be32_get(head + 4), 0);
    }
    for (int round = 0; round < ROUNDS; round++) {
        assert_bytes(fd[0], (uint64_t)round * STEP, (uint8_t)(round + 1), STEP);
    }
    for (int c = 0; c < CLIENTS; c++) {
        close(fd[c]);
    }
    finish(&f);
}

static void on_stopped(void *ctx)
{
    struct fixture *f = ctx;
    pthread_mutex_lock(&f->mutex);
    f->is_stopped = true;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->mutex);
}

static void call_stop(struct fixture *f)
{
    nbd_server_stop(f->server, on_stopped, f);
}

static void wait_stopped(struct fixture *f)
{
    pthread_mutex_lock(&f->mutex);
    while (!f->is_stopped) {
        pthread_cond_wait(&f->changed, &f->mutex);
    }
    pthread_mutex_unlock(&f->mutex);
}

/* Clients in every state when the server stops; one does not take its answers. */
static void stopping(void **state)
{
    struct fixture f;
    start_with(&f, (struct nbd_server_options){.stop_timeout_ns = 100000000});
    int silent = connect_raw(&f);
    int fine = connect_to(&f, "", NULL);
    int deaf = connect_to(&f, "", NULL);
    int halfway = connect_to(&f, "", NULL);
    request(halfway, NBD_CMD_WRITE, 0, 1, 0, 1 << 20);
    for (int i = 0; i < 8; i++) {
        request(deaf, NBD_CMD_READ, 0, 1, 0, 1 << 20);
    }
    assert_int_equal(do_write(fine, 0, 5, 4096, 0), 0);
    call(&f, call_stop);
    assert_closed(silent);
    assert_closed(fine);
    wait_stopped(&f);
    wait_gone(&f, 4);
    f.fd = dup(silent);
    call(&f, call_serve);
    assert_int_equal(f.rc, -ESHUTDOWN);
    close(silent);
    close(fine);
    close(deaf);
    close(halfway);
    finish(&f);
}

static void call_remove(struct fixture *f)
{
    f->rc = nbd_server_remove_export(f->server, "fixed", NULL);
}

static void removing(void **state)
{
    struct fixture f;
    start(&f);
    int fixed = connect_to(&f, "fixed", "base:allocation");
    int other = connect_to(&f, "", NULL);
    call(&f, call_remove);
    assert_int_equal(f.rc, 0);
    assert_closed(fixed);
    assert_bytes(other, 0, 0, 512);
    call(&f, call_remove);
    assert_int_equal(f.rc, -ENOENT);
    int fd = greet(&f, NBD_FLAG_C_FIXED_NEWSTYLE);
    assert_int_equal(go(fd, "fixed"), NBD_REP_ERR_UNKNOWN);
    close(fd);
    close(fixed);
    close(other);
    finish(&f);
}

/* The server goes while clients have requests in flight and while others come. */
static void going(void **state)
{
    for (int i = 0; i < 50; i++) {
        struct fixture f;
        start(&f);
        int deaf = connect_to(&f, "", "base:allocation");
        for (int n = 0; n < 20; n++) {
            request(deaf, NBD_CMD_READ, 0, 1, 0, 262144);
        }
        int fresh = connect_raw(&f);
        finish(&f);
        assert_closed(fresh);
        close(fresh);
        close(deaf);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(simple_answers),
        cmocka_unit_test(wrong_requests),
        cmocka_unit_test(structured_answers),
        cmocka_unit_test(negotiation),
        cmocka_unit_test(late_clients),
        cmocka_unit_test(neighbours),
        cmocka_unit_test(stopping),
        cmocka_unit_test(removing),
        cmocka_unit_test(going),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
