/* Protocols whose libraries block: threads call them, each with a session of its own or all with one.
 *
 * A thread that is still in a call of a lost connection works on memory of its own, and no new connection is made before it has
 * returned: so nothing of before is done by the server after what comes later. */
#ifndef BLOCK_PROTOCOL_REMOTE_BLOCKING_H
#define BLOCK_PROTOCOL_REMOTE_BLOCKING_H

#include <pthread.h>

#include "block/protocol/remote/remote.h"

#define BLOCKING_MAX_THREADS 8u

struct blocking;

/* A command on its way through a thread. */
struct blocking_job {
    enum block_op op;
    bool may_unmap;
    uint64_t offset_bytes, size_bytes;
    uint8_t *data; /* READ, WRITE: owned */
    struct block_extent extent;
    /* What follows is blocking.c's. */
    struct remote_command *command; /* NULL: makes a connection */
    unsigned generation;
    int status;
    struct remote_info info;
    struct error err;
    struct blocking_job *next;
};

struct blocking_ops {
    unsigned thread_count;
    bool is_shared; /* one session serves all threads */
    /* These run on the threads. */
    int (*open)(struct blocking *blocking, void **out_session, struct remote_info *out_info,
                struct error *err);
    /* 0 or -errno as the server's answer; -ENOTCONN with 'err': there was none, and the connection is lost. */
    int (*perform)(struct blocking *blocking, void *session, struct blocking_job *job,
                   struct error *err);
    void (*close)(struct blocking *blocking, void *session);
    /* Frees what the protocol's struct holds. On the loop's thread; no session is there any more. */
    void (*free)(struct blocking *blocking);
};

struct blocking_session {
    void *session;
    unsigned generation, users;
};

struct blocking_list {
    struct blocking_job *first, **tail;
};

/* The second part of a protocol's own struct, of which struct remote is the first. */
struct blocking {
    struct remote remote;
    const struct blocking_ops *ops;
    struct event_notifier *notifier;
    pthread_t thread[BLOCKING_MAX_THREADS];
    unsigned thread_count;
    unsigned in_progress; /* jobs that were given and not taken back: the loop's thread alone */
    bool wants_connection;
    bool has_started;      /* the lock and the conditions are made */
    pthread_mutex_t mutex; /* guards what follows */
    pthread_cond_t todo_cond, done_cond;
    struct blocking_list todo, done;
    unsigned generation; /* of connections; changed by the loop's thread */
    struct blocking_session *shared;
    bool is_ending;
};

/* For the remote_ops of such protocols. */
void blocking_connect(struct remote *remote);
void blocking_start(struct remote *remote, struct remote_command *command);
void blocking_disconnect(struct remote *remote);
void blocking_wait(struct remote *remote, int timeout_ms);
void blocking_close(struct remote *remote);

#define BLOCKING_REMOTE_OPS(protocol)                                                              \
    {                                                                                              \
        .block = REMOTE_BLOCK_OPS(protocol), .connect = blocking_connect, .start = blocking_start, \
        .disconnect = blocking_disconnect, .wait = blocking_wait, .close = blocking_close          \
    }

/* After remote_new: starts the threads and connects. Closed on failure. */
int must_check blocking_open(struct blocking *blocking, const struct blocking_ops *ops,
                             struct block **out_block, struct error *err);
/* Seconds that a call may take, for libraries that count so. */
int blocking_timeout_s(const struct blocking *blocking);

#endif
