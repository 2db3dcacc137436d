/* The protocols that a URI may name, each in a file of its own: rows of the table in uri.c. */
#ifndef BLOCK_PROTOCOL_REMOTE_PROTOCOLS_H
#define BLOCK_PROTOCOL_REMOTE_PROTOCOLS_H

#include "block/remote.h"

/* Of SCHEME://...; 0: it is none. */
size_t remote_scheme_length(const char *name);

int must_check nbd_open_uri(const char *uri, const struct block_remote_options *options,
                            struct event_loop *loop, struct block **out_block, struct error *err);
int must_check http_open_uri(const char *uri, const struct block_remote_options *options,
                             struct event_loop *loop, struct block **out_block, struct error *err);
int must_check iscsi_open_uri(const char *uri, const struct block_remote_options *options,
                              struct event_loop *loop, struct block **out_block, struct error *err);
int must_check nfs_open_uri(const char *uri, const struct block_remote_options *options,
                            struct event_loop *loop, struct block **out_block, struct error *err);
int must_check rbd_open_uri(const char *uri, const struct block_remote_options *options,
                            struct event_loop *loop, struct block **out_block, struct error *err);

#endif
