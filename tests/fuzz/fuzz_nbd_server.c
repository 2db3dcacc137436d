/* Everything that an NBD client can send: the bytes go to a server with a small disk in memory. The first byte says how far a
 * proper client has come before them. */
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/core/endian.h"
#include "base/core/invariant.h"
#include "block/nbd/protocol.h"
#include "block/nbd_server.h"

#define DISK_SIZE (4u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct run {
    struct event_loop *loop;
    bool is_gone;
};

static void on_event(void *ctx, enum nbd_client_event event, bool has_started, const char *text)
{
    struct run *run = ctx;
    if (event == NBD_CLIENT_GONE) {
        run->is_gone = true;
        event_loop_stop(run->loop);
    }
}

/* The client takes every answer. */
static void on_answer(void *ctx, int fd, uint32_t events)
{
    static uint8_t bytes[65536];
    (void)!recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT);
}

static int odd_status(void *ctx, uint64_t offset, uint64_t size, uint32_t *out_flags,
                      uint64_t *out_size)
{
    *out_flags = (uint32_t)(offset >> 12) & 1;
    *out_size = MIN(size, 4096 - offset % 4096);
    return 0;
}

static size_t put_option(uint8_t *to, uint32_t option, const void *data, size_t size)
{
    be64_put(to, NBD_OPTION_MAGIC);
    be32_put(to + 8, option);
    be32_put(to + 12, (uint32_t)size);
    memcpy(to + 16, data, size);
    return 16 + size;
}

/* What a proper client says first, as far as 'stage' goes. */
static size_t put_start(uint8_t *to, unsigned stage)
{
    static const uint8_t query[] = {0,   0,   0,   0,   0,   0,   0,   2,   0,   0,   0,   15,
                                    'b', 'a', 's', 'e', ':', 'a', 'l', 'l', 'o', 'c', 'a', 't',
                                    'i', 'o', 'n', 0,   0,   0,   3,   'x', ':', 'o'};
    static const uint8_t go[6] = {0};
    size_t used = 0;
    if (stage == 0) {
        return 0;
    }
    be32_put(to, NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES);
    used += 4;
    if (stage == 2 || stage == 4) {
        used += put_option(to + used, NBD_OPT_STRUCTURED_REPLY, "", 0);
    }
    if (stage == 4) {
        used += put_option(to + used, NBD_OPT_SET_META_CONTEXT, query, sizeof(query));
    }
    if (stage >= 3) {
        used += put_option(to + used, NBD_OPT_GO, go, sizeof(go));
    }
    return used;
}

static void serve(struct nbd_server *server, struct run *run, const uint8_t *bytes, size_t size)
{
    int fd[2];
    struct event_source *source;
    invariant(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd) == 0);
    (void)!send(fd[0], bytes, size, MSG_DONTWAIT); /* what does not fit is not tried */
    (void)shutdown(fd[0], SHUT_WR);
    invariant(event_loop_add_fd(run->loop, fd[0], EPOLLIN, on_answer, NULL, &source, NULL) == 0);
    invariant(nbd_server_serve(server, fd[1], NULL) == 0);
    if (!run->is_gone) {
        invariant(event_loop_run(run->loop, NULL) == 0);
    }
    event_source_remove(source);
    close(fd[0]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct nbd_context context = {.name = "x:o", .status = odd_status};
    if (size < 1 || size > 65536) {
        return 0;
    }
    struct run run = {0};
    struct block *block;
    struct nbd_server *server;
    invariant(event_loop_create(&run.loop, NULL) == 0);
    invariant(block_open_memory(DISK_SIZE, "memory", run.loop, &block, NULL) == 0);
    struct nbd_server_options options = {.event = on_event, .ctx = &run};
    invariant(nbd_server_create(run.loop, &options, &server, NULL) == 0);
    struct nbd_export export = {
        .name = "", .block = block, .context = &context, .context_count = 1};
    invariant(nbd_server_add_export(server, &export, NULL) == 0);
    uint8_t *bytes = malloc(size + 256);
    size_t used = put_start(bytes, data[0] % 5);
    memcpy(bytes + used, data + 1, size - 1);
    serve(server, &run, bytes, used + size - 1);
    free(bytes);
    nbd_server_destroy(server);
    block_close(block);
    event_loop_destroy(run.loop);
    return 0;
}
