/* Disks behind a network: opening them by URI. See docs/disks.md for what each protocol promises. */
#ifndef BLOCK_REMOTE_H
#define BLOCK_REMOTE_H

#include "block/block.h"

#define BLOCK_REMOTE_RECONNECT_NS (60ull * 1000000000)
#define BLOCK_REMOTE_TIMEOUT_NS   (30ull * 1000000000)

struct block_remote_options {
    bool is_readonly;
    /* block_open_nbd_fd: the server is one of Hull's, which takes requests of any alignment. */
    bool is_for_format;
    /* How long requests wait for a connection that is lost to come back before they fail. 0: they fail at once. */
    uint64_t reconnect_ns;
    /* A request without an answer for that long means that the connection is lost. 0: never. */
    uint64_t timeout_ns;
};

/* Is it the name of a remote disk: SCHEME://...? A file of such a name is "./SCHEME:/...". */
bool block_is_uri(const char *name);
/* The same without what might be a secret, for messages. Returns 'out_text'. */
const char *block_uri_for_people(const char *uri, char *out_text, size_t size);
/* The bytes behind the URI, which must be the caller's own: nothing that stood in an image. Waits until the disk is there
 * or cannot be had; the first connection is not tried twice. */
int must_check block_open_uri(const char *uri, const struct block_remote_options *options,
                              struct event_loop *loop, struct block **out_block, struct error *err);
/* An NBD server behind a connected descriptor, owned from then on, also on failure. A connection that is lost stays lost. */
int must_check block_open_nbd_fd(int fd, const char *name,
                                 const struct block_remote_options *options,
                                 struct event_loop *loop, struct block **out_block,
                                 struct error *err);
/* The same behind a channel, a socket of messages which is owned from then on: its first message brings the connection, and when that
 * is lost another one brings the next, for which requests wait as options->reconnect_ns says. What had no answer, and what a
 * server may have lost with its process, goes there once more. */
int must_check block_open_nbd_channel(int channel, const char *name,
                                      const struct block_remote_options *options,
                                      struct event_loop *loop, struct block **out_block,
                                      struct error *err);
/* Makes it fit for what lies under a format: offsets and sizes of requests are free. It may become another block; on failure
 * it is closed. */
int must_check block_remote_for_format(struct block **io_block, struct error *err);
/* For who is in a hurry to end: what waits for a connection that is lost fails, and nothing waits for one any more. Goes through all
 * blocks below; NULL is fine. */
void block_remote_give_up(struct block *block);
/* The same for who has no use for the disk any more: what is in progress fails as well, though a server may still carry it out, and
 * everything from then on does. */
void block_remote_abandon(struct block *block);
/* The protocols of this build: "nbd, http". */
const char *block_uri_schemes(void);

#endif
