/* Tar streams over a session: to an instance, and from it into a folder of this host. */
#ifndef CLI_MANAGED_TRANSFER_STREAM_H
#define CLI_MANAGED_TRANSFER_STREAM_H

#include "agent/tar.h"
#include "cli/progress.h"
#include "client/client.h"

/* A session seen as a stream. */
struct transfer_stream {
    struct client_socket *socket;
    struct progress *progress;
    uint64_t moved, total; /* bytes; 'total' 0: unknown */
    const uint8_t *data;   /* of the message that came last, what is not yet taken */
    size_t size;
    uint8_t *out; /* what goes next */
    size_t out_size;
    int status;  /* the other side's; -1: it goes on */
    int wake_fd; /* readable: -EINTR; -1: nothing */
};

int must_check transfer_begin(struct transfer_stream *stream, struct client_socket *socket,
                              struct progress *progress, struct error *err);
/* tar_read_fn and tar_write_fn: 'ctx' is the stream. */
int transfer_take(void *ctx, void *data, size_t size, struct error *err);
int transfer_give(void *ctx, const void *data, size_t size, struct error *err);
/* What there is, at most 'size' bytes; 0 of them: the other side has ended well. */
int must_check transfer_take_some(struct transfer_stream *stream, void *data, size_t size,
                                  size_t *out_size, struct error *err);
/* After what was given: the other side's exit status. */
int must_check transfer_finish(struct transfer_stream *stream, struct error *err);
/* What is left of what comes, and the exit status. */
int must_check transfer_drain(struct transfer_stream *stream, struct error *err);
void transfer_end(struct transfer_stream *stream);

/* All of the stream below the open folder, where its one file or folder is called 'name'. Nothing outside of that is touched, whatever the
 * stream says: links are made but never followed, owners are ours, devices are left out (which is told, and counted in 'out_left_out'). */
int must_check transfer_unpack(int folder, const char *name, struct tar_reader *reader,
                               unsigned *out_left_out, struct error *err);
/* The file or folder as a stream in which it is called 'name', and belongs to root. */
int must_check transfer_pack(const char *path, const char *name, struct transfer_stream *stream,
                             unsigned *out_left_out, struct error *err);
/* How many bytes that will be, about. */
uint64_t transfer_measure(const char *path);

#endif
