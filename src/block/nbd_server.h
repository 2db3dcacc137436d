/* A server of the Network Block Device protocol: disks for clients on sockets. The protocol: doc/proto.md of the nbd project.
 *
 * Clients are not trusted: what one can take of memory and time is limited, and each is on its own.
 *
 * Threads: everything on the loop's thread. */
#ifndef BLOCK_NBD_SERVER_H
#define BLOCK_NBD_SERVER_H

#include "block/block.h"

#define NBD_SERVER_MAX_CONTEXTS 16 /* of one export */

struct nbd_server;
struct nbd_tls;

/* Something that clients may ask of each range of an export, beside "base:allocation" and "qemu:allocation-depth". */
struct nbd_context {
    const char *name; /* "qemu:dirty-bitmap:NAME" */
    /* What holds for the first bytes from 'offset' on: how many (1 to size_bytes) and the flags that the context defines.
     * 0 or -errno. Called in a coroutine. */
    int (*status)(void *ctx, uint64_t offset, uint64_t size_bytes, uint32_t *out_flags,
                  uint64_t *out_size_bytes);
    void *ctx;
};

struct nbd_export {
    const char *name;                  /* "": what clients get that ask for none */
    const char *description;           /* for people; NULL: none */
    struct block *block;               /* borrowed: outlives the server, or the export in it */
    bool is_readonly;                  /* also if the block could be written to */
    const struct nbd_context *context; /* borrowed like the block */
    unsigned context_count;
};

enum nbd_client_event {
    NBD_CLIENT_CONNECTED, /* and has not said anything yet */
    NBD_CLIENT_STARTED,   /* has chosen an export */
    NBD_CLIENT_GONE,      /* in good order, or see the text */
};

/* Zero or NULL: the default. */
struct nbd_server_options {
    unsigned max_clients;          /* 64; further ones wait until one has gone */
    uint64_t handshake_timeout_ns; /* 10 s: to choose an export */
    uint64_t
        stop_timeout_ns; /* 5 s: how long clients may take for what is under way when the server stops */
    size_t
        max_client_bytes; /* 64 MiB: payloads of one client at a time; at least NBD_USUAL_MAX_PAYLOAD */
    struct nbd_tls *tls; /* borrowed; then nobody gets anything without TLS */
    /* For logs and for those who end with the last client. 'has_started': an export was chosen before. 'text': why it has gone
     * if not in good order, else NULL; may hold what the client sent, with control characters replaced. */
    void (*event)(void *ctx, enum nbd_client_event event, bool has_started, const char *text);
    void *ctx;
};

int must_check nbd_server_create(struct event_loop *loop, const struct nbd_server_options *options,
                                 struct nbd_server **out_server, struct error *err);
/* Clients that have not gone are cut off, and what they have in flight is waited for. Not inside of a coroutine, nor of a
 * callback of the server. NULL is fine. */
void nbd_server_destroy(struct nbd_server *server);

/* Names and the description are copied. -EEXIST: the name is taken. */
int must_check nbd_server_add_export(struct nbd_server *server, const struct nbd_export *export,
                                     struct error *err);
/* Cuts off its clients and waits for what they have in flight. As nbd_server_destroy. -ENOENT: there is none of the name. */
int must_check nbd_server_remove_export(struct nbd_server *server, const char *name,
                                        struct error *err);
unsigned nbd_server_client_count(const struct nbd_server *server);

/* Takes clients from a listening socket, which is the server's from then on, also on failure. */
int must_check nbd_server_listen(struct nbd_server *server, int fd, struct error *err);
/* Serves one client on a connected socket (any stream, also of a socket pair), which is the server's from then on, also on
 * failure. */
int must_check nbd_server_serve(struct nbd_server *server, int fd, struct error *err);

/* No new clients; those who are there get answers to what they have asked and are then cut off. stopped(ctx) is called when
 * none is left, perhaps before this returns. */
void nbd_server_stop(struct nbd_server *server, void (*stopped)(void *ctx), void *ctx);

#endif
