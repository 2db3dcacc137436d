/* A block whose bytes lie behind a connection: what all protocols share. They cut nothing, queue nothing, and know nothing of
 * lost connections but how to tell of them.
 *
 * A write that the server has confirmed but not made durable may be lost with the server (a killed qemu-nbd forgets tables of
 * its qcow2). So each such write is kept (journal.c) until a later flush is confirmed. When a connection has been made again, what
 * is kept is written again, in the old order, before anything else goes to the server; then follow, once more, the requests that
 * had no answer. What a flush promises holds as if there had been one connection all the time, as long as this process lives.
 *
 * Threads: the loop's. */
#ifndef BLOCK_PROTOCOL_REMOTE_REMOTE_H
#define BLOCK_PROTOCOL_REMOTE_REMOTE_H

#include "base/host/log.h"
#include "block/provider.h"
#include "block/remote.h"

struct remote;
struct remote_request;

/* What the server said when the connection was made. */
struct remote_info {
    uint64_t size_bytes;
    uint32_t block_size; /* offsets and sizes of commands are multiples */
    uint32_t physical_block_size;
    uint32_t max_size; /* of reads and writes */
    bool is_readonly;
    bool
        has_flush; /* writes are durable after a flush; without: nothing is kept and nothing promised */
    bool is_durable; /* each write is when it is confirmed */
    bool has_discard;
    bool has_write_zeroes;
    bool has_map;
    unsigned max_in_flight; /* commands at a time */
    /* What must not change while the disk is open (an HTTP ETag); empty: nothing. */
    char identity[128];
};

/* A write that is kept until it is durable. */
struct remote_write {
    struct remote_write *next;
    uint64_t number; /* as they were confirmed */
    uint64_t offset_bytes, size_bytes;
    size_t capacity; /* of data; 0 without any */
    bool is_zeroes, may_unmap;
    uint8_t data[];
};

/* One message to the server: what a request, or a part of one, comes to. */
struct remote_command {
    enum block_op op; /* never BLOCK_RESIZE */
    bool may_unmap;
    uint64_t offset_bytes, size_bytes;
    uint8_t *data; /* READ, WRITE: all of it */
    struct block_extent *extent;
    void *driver; /* the protocol's own, while started */
    /* What follows is remote.c's. */
    struct remote_request *request; /* NULL: nobody waits */
    struct remote_write *write;     /* WRITE, WRITE_ZEROES: owned until confirmed */
    uint64_t vector_offset;         /* where its data lies in the request's vector */
    bool owns_data;
    bool is_replay;
    uint64_t covers; /* FLUSH: writes up to this number become durable */
    uint64_t started_ns;
    uint64_t
        lost_ns; /* since when it has no answer though it was sent; 0: it was not, or is with the server */
    struct remote_command *next, *prev;
};

/* A protocol. */
struct remote_ops {
    struct block_ops block; /* REMOTE_BLOCK_OPS(NAME) */
    /* Begins to connect: remote_connected or remote_lost follows, not before this has returned. */
    void (*connect)(struct remote *remote);
    /* Connected. remote_done or remote_lost follows, not before this has returned. */
    void (*start)(struct remote *remote, struct remote_command *command);
    /* Forgets the connection, or the try to make one, and all commands: nothing of them is touched from now on. */
    void (*disconnect)(struct remote *remote);
    /* Serves what comes from the server; waits for it at most 'timeout_ms' (-1: for ever). */
    void (*wait)(struct remote *remote, int timeout_ms);
    /* Disconnected. Frees what the protocol's struct holds, not itself. */
    void (*close)(struct remote *remote);
};

struct remote_list {
    struct remote_command *first, *last;
};

enum remote_state {
    REMOTE_CONNECTING,
    REMOTE_CONNECTED,
    REMOTE_WAITING, /* for the time of the next try */
    REMOTE_DEAD,    /* what came back is not the same disk, or there is no way to connect again */
};

/* The first member of every protocol's own struct. */
struct remote {
    struct block block;
    const struct remote_ops *ops;
    struct block_remote_options options;
    struct remote_info info;
    enum remote_state state;
    bool was_connected;
    bool has_own_timeouts; /* the protocol's library ends what takes too long */
    bool is_single;        /* a connection that is lost stays lost */
    bool is_given_up;      /* requests fail; tries go on */
    struct error why;      /* of the last loss */
    struct log_limit log_limit;
    struct event_timer *timer;
    uint64_t armed_ns; /* when it fires; UINT64_MAX: it does not */
    uint64_t lost_ns, next_try_ns, pause_ns, connect_started_ns, connected_ns;
    /* Commands that wait for their turn, and those that the server has, both in order. */
    struct remote_list queued, started;
    unsigned started_count, replay_count;
    unsigned slow_count; /* started ones that may take their time: flushes, ranges */
    uint64_t last_answer_ns;
    struct {
        struct remote_write *first, **tail;
        struct remote_write *spare;  /* memory of dropped ones */
        struct remote_write *replay; /* next one to be written again; NULL: all were */
        uint64_t last_number, size_bytes;
        bool is_flushing; /* a flush of our own is on its way */
        int flush_status; /* of one of our own that failed: told by the next that somebody asks for */
    } journal;
    bool is_pumping;
    bool has_progress; /* something was answered on this connection */
};

void remote_submit(struct block *block, struct block_request *request);
void remote_wait(struct block *block);
const char *remote_aio_name(const struct block *block);
int remote_finish(struct block *block, struct error *err);
void remote_close(struct block *block);

#define REMOTE_BLOCK_OPS(protocol)                                                                 \
    {                                                                                              \
        .name = (protocol), .submit = remote_submit, .wait = remote_wait,                          \
        .aio_name = remote_aio_name, .finish = remote_finish, .close = remote_close                \
    }

/* For open functions of protocols: a zeroed struct of 'size' bytes that begins with a struct remote. NULL: no memory. */
void *remote_new(size_t size, const struct remote_ops *ops, const char *name,
                 const struct block_remote_options *options, struct event_loop *loop,
                 struct error *err);
/* Makes the first connection and fills block.info. The remote is closed on failure. */
int must_check remote_open(struct remote *remote, struct block **out_block, struct error *err);

/* Called by protocols, never from within connect, start or disconnect. */
void remote_connected(struct remote *remote, const struct remote_info *info);
/* The connection is no more, or could not be made: 'why' says so. The protocol's disconnect is called. */
void remote_lost(struct remote *remote, const struct error *why);
/* The server has answered. */
void remote_done(struct remote *remote, struct remote_command *command, int status);

/* align.c: over 'below', which is closed on failure. */
int must_check remote_align(struct block *below, struct block **out_block, struct error *err);

/* journal.c */
struct remote_write *remote_write_new(struct remote *remote, const struct block_request *request,
                                      uint64_t vector_offset, uint64_t offset, uint64_t size);
bool remote_journal_is_needed(const struct remote *remote);
/* A confirmed write: the journal's from now on. */
void remote_journal_add(struct remote *remote, struct remote_write *write);
/* Writes up to that number are durable. 'is_stream': more of their kind are on their way, their memory is kept for these. */
void remote_journal_drop(struct remote *remote, uint64_t number, bool is_stream);
/* Should it be made smaller by a flush? */
bool remote_journal_is_long(const struct remote *remote);
/* Must new writes wait for that? */
bool remote_journal_is_full(const struct remote *remote);
void remote_journal_begin_replay(struct remote *remote);
/* The next write to be made again, if it does not touch one that is under way. */
struct remote_write *remote_journal_next(struct remote *remote);

void remote_list_add(struct remote_list *list, struct remote_command *command);
void remote_list_remove(struct remote_list *list, struct remote_command *command);

#endif
