/* Files on NFS version 3 by libnfs: a mount for each thread. Writes are stable (RFC 1813, 3.3.7), so that nothing hangs on the server
 * to remember, between write and commit, that it was started anew. */
#include <nfsc/libnfs.h>
#include <stdint.h> /* the next one's own headers need it */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/host/library.h"
#include "block/protocol/remote/blocking.h"
#include "block/protocol/remote/protocols.h"

#define THREADS  4
#define MAX_DATA (256u << 10)

#define CALLS(X)                                                                                   \
    X(nfs_init_context)                                                                            \
    X(nfs_destroy_context)                                                                         \
    X(nfs_parse_url_full)                                                                          \
    X(nfs_destroy_url)                                                                             \
    X(nfs_get_error)                                                                               \
    X(nfs_set_timeout)                                                                             \
    X(nfs_set_autoreconnect)                                                                       \
    X(nfs_get_fd)                                                                                  \
    X(nfs_which_events)                                                                            \
    X(nfs_service)                                                                                 \
    X(nfs_mount_async)                                                                             \
    X(nfs_open_async)                                                                              \
    X(nfs_close_async)                                                                             \
    X(nfs_fstat64_async)                                                                           \
    X(nfs_pread_async)                                                                             \
    X(nfs_pwrite_async)                                                                            \
    X(nfs_fsync_async)

static struct {
#define DECLARE(name) __typeof__(name) *name;
    CALLS(DECLARE)
} lib;

static const struct library_symbol symbols[] = {
#define ROW(name) {#name, &lib.name},
    CALLS(ROW)};

static const struct library library = {"libnfs.so.13", "libnfs13", symbols, ARRAY_COUNT(symbols)};

struct nfs {
    struct blocking blocking;
    char *uri;
    int lock_fd; /* -1: none is held */
};

/* libnfs looks at its time limits when it is called, with an event or without. */
#define SERVICE_MS 100

/* A call of libnfs, of which a session has one at a time. libnfs's own calls that wait keep what its answers write to on their stack,
 * where destroying the context of a lost connection has them write when the call is long over; this lives as long as the context. */
struct call {
    bool is_done;
    int status;    /* 0 or bytes; -errno */
    char why[160]; /* of a failure, may be empty */
    void *into;    /* what the answer brings is copied to here; NULL: its address is kept */
    size_t into_bytes;
    void *answer;
};

struct session {
    struct nfs_context *context;
    struct nfsfh *file;
    struct call call;
    bool is_broken;
};

static struct nfs *nfs_from_blocking(struct blocking *blocking)
{
    return container_of(blocking, struct nfs, blocking);
}

/* libnfs says EIO for much; an answer of the server, and no other failure, has the name that RFC 1813 gives it. */
static int failed(struct session *session, int rc, const char *what, struct error *err)
{
    const char *text = session->call.why;
    if (text[0] == '\0') {
        text = lib.nfs_get_error(session->context);
    }
    char plain[160];
    (void)snprintf(plain, sizeof(plain), "%.*s", text != NULL ? (int)strcspn(text, "\r\n") : 0,
                   text != NULL ? text : "");
    (void)error_set(err, rc < 0 && rc > -4096 ? -rc : EIO, "%s: %s", what,
                    plain[0] != '\0' ? plain : strerror(-rc));
    if (text != NULL && strstr(text, "NFS3ERR_") != NULL && rc < 0 && rc > -4096) {
        return rc;
    }
    session->is_broken = true;
    return -ENOTCONN;
}

static void answered(int status, struct nfs_context *context, void *data, void *ctx)
{
    struct call *call = ctx;
    call->is_done = true;
    call->status = status;
    if (status < 0) {
        (void)snprintf(call->why, sizeof(call->why), "%s", data != NULL ? (const char *)data : "");
    } else if (call->into == NULL) {
        call->answer = data;
    } else if (data != NULL) {
        /* Of a read as many as came, of other answers all. */
        memcpy(call->into, data,
               status > 0 ? MIN((size_t)status, call->into_bytes) : call->into_bytes);
    }
}

static struct call *new_call(struct session *session, void *into, size_t into_bytes)
{
    session->call = (struct call){.into = into, .into_bytes = into_bytes};
    return &session->call;
}

/* 'rc': of what has begun the call. */
static int finish_call(struct session *session, int rc)
{
    struct call *call = &session->call;
    while (rc >= 0 && !call->is_done) {
        struct pollfd poll_fd = {.fd = lib.nfs_get_fd(session->context),
                                 .events = (short)lib.nfs_which_events(session->context)};
        if (poll(&poll_fd, 1, SERVICE_MS) < 0) {
            poll_fd.revents = 0; /* a signal */
        }
        if (lib.nfs_service(session->context, poll_fd.revents) < 0 && !call->is_done) {
            rc = -EIO;
        }
    }
    call->into = NULL; /* it may still be answered, when the context is destroyed */
    return rc < 0 ? rc : call->status;
}

static int transfer(struct session *session, const struct blocking_job *job, struct error *err)
{
    bool is_read = job->op == BLOCK_READ;
    for (uint64_t done = 0; done < job->size_bytes;) {
        uint64_t at = job->offset_bytes + done;
        uint64_t size = job->size_bytes - done;
        uint8_t *data = job->data + done;
        struct call *call = new_call(session, is_read ? data : NULL, (size_t)size);
        int rc =
            is_read ? lib.nfs_pread_async(session->context, session->file, at, size, answered, call)
                    : lib.nfs_pwrite_async(session->context, session->file, at, size, data,
                                           answered, call);
        rc = finish_call(session, rc);
        if (rc < 0) {
            return failed(session, rc, is_read ? "reading" : "writing", err);
        }
        if (rc == 0 || (uint64_t)rc > size) {
            return -EIO; /* somebody has cut the file */
        }
        done += (uint64_t)rc;
    }
    return 0;
}

static int perform(struct blocking *blocking, void *ctx, struct blocking_job *job,
                   struct error *err)
{
    struct session *session = ctx;
    if (job->op != BLOCK_FLUSH) {
        return transfer(session, job, err);
    }
    struct call *call = new_call(session, NULL, 0);
    int rc = lib.nfs_fsync_async(session->context, session->file, answered, call);
    rc = finish_call(session, rc);
    return rc < 0 ? failed(session, rc, "flushing", err) : 0;
}

static void close_session(struct blocking *blocking, void *ctx)
{
    struct session *session = ctx;
    if (session->file != NULL && !session->is_broken) {
        struct call *call = new_call(session, NULL, 0);
        int rc = lib.nfs_close_async(session->context, session->file, answered, call);
        (void)finish_call(session, rc); /* all is stable */
    }
    lib.nfs_destroy_context(session->context);
    free(session);
}

static int mount_and_open(struct blocking *blocking, struct session *session, struct error *err)
{
    const struct nfs *nfs = nfs_from_blocking(blocking);
    struct nfs_url *url = lib.nfs_parse_url_full(session->context, nfs->uri);
    if (url == NULL) {
        return error_set(err, EINVAL, "not a file on NFS: nfs://HOST/FOLDER/FILE");
    }
    lib.nfs_set_timeout(session->context, blocking_timeout_s(blocking) * 1000);
    lib.nfs_set_autoreconnect(session->context, 0); /* that is ours to do: remote.c */
    struct call *call = new_call(session, NULL, 0);
    int rc = lib.nfs_mount_async(session->context, url->server, url->path, answered, call);
    rc = finish_call(session, rc);
    if (rc < 0) {
        rc = failed(session, rc, "mounting", err);
    } else {
        int flags = blocking->remote.options.is_readonly ? O_RDONLY : O_RDWR | O_SYNC;
        call = new_call(session, NULL, 0);
        rc = lib.nfs_open_async(session->context, url->file, flags, answered, call);
        rc = finish_call(session, rc);
        session->file = rc < 0 ? NULL : call->answer;
        rc = rc < 0 ? failed(session, rc, "opening the file", err) : 0;
    }
    lib.nfs_destroy_url(url);
    return rc;
}

/* The servers' own locks (NLM) outlive a client that crashes, and need daemons on both sides: so there are none. But two that write to
 * the same file from this host are kept apart, by a name that only one can have and that ends with its process. */
static int lock(struct blocking *blocking, const struct nfs_stat_64 *st, struct error *err)
{
    struct nfs *nfs = nfs_from_blocking(blocking);
    const char *host = strstr(nfs->uri, "://") + 3;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (blocking->remote.options.is_readonly || nfs->lock_fd >= 0) {
        return 0;
    }
    int length = snprintf(address.sun_path + 1, sizeof(address.sun_path) - 1,
                          "hull-nfs/%llx/%llx/%.*s", (unsigned long long)st->nfs_dev,
                          (unsigned long long)st->nfs_ino, (int)strcspn(host, "/?"), host);
    length = MIN(length, (int)sizeof(address.sun_path) - 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (const struct sockaddr *)&address,
                       (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1) + length) < 0) {
        int code = errno;
        if (fd >= 0) {
            close(fd);
        }
        return code == EADDRINUSE
                   ? error_set(err, EBUSY, "another process of this host writes to it")
                   : error_set_errno(err, code, "locking");
    }
    nfs->lock_fd = fd;
    return 0;
}

static int open_session(struct blocking *blocking, void **out_session, struct remote_info *out_info,
                        struct error *err)
{
    struct session *session = calloc(1, sizeof(*session));
    if (session == NULL || (session->context = lib.nfs_init_context()) == NULL) {
        free(session);
        return error_set_errno(err, ENOMEM, "connecting");
    }
    struct nfs_stat_64 st = {0};
    int rc = mount_and_open(blocking, session, err);
    if (rc == 0) {
        struct call *call = new_call(session, &st, sizeof(st));
        rc = lib.nfs_fstat64_async(session->context, session->file, answered, call);
        rc = finish_call(session, rc);
        rc = rc < 0 ? failed(session, rc, "asking for its size", err) : 0;
    }
    if (rc == 0 && !S_ISREG(st.nfs_mode)) {
        rc = error_set(err, EINVAL, "not a regular file");
    }
    if (rc == 0) {
        rc = lock(blocking, &st, err);
    }
    if (rc < 0) {
        close_session(blocking, session);
        return rc;
    }
    *out_session = session;
    *out_info = (struct remote_info){
        .size_bytes = st.nfs_size,
        .block_size = 1,
        .physical_block_size = 4096,
        .max_size = MAX_DATA,
        .has_flush = true,
        .is_durable = true,
        .max_in_flight = 2 * THREADS,
    };
    (void)snprintf(out_info->identity, sizeof(out_info->identity), "%llu",
                   (unsigned long long)st.nfs_ino);
    return 0;
}

static void free_nfs(struct blocking *blocking)
{
    const struct nfs *nfs = nfs_from_blocking(blocking);
    if (nfs->lock_fd >= 0) {
        close(nfs->lock_fd);
    }
    free(nfs->uri);
}

static const struct remote_ops nfs_remote_ops = BLOCKING_REMOTE_OPS("nfs");

static const struct blocking_ops nfs_ops = {
    .thread_count = THREADS,
    .open = open_session,
    .perform = perform,
    .close = close_session,
    .free = free_nfs,
};

int nfs_open_uri(const char *uri, const struct block_remote_options *options,
                 struct event_loop *loop, struct block **out_block, struct error *err)
{
    int rc = library_load(&library, "NFS", err);
    if (rc < 0) {
        return rc;
    }
    struct nfs *nfs = remote_new(sizeof(*nfs), &nfs_remote_ops, uri, options, loop, err);
    if (nfs == NULL) {
        return -ENOMEM;
    }
    nfs->blocking.ops = &nfs_ops;
    nfs->lock_fd = -1;
    nfs->uri = strdup(uri);
    if (nfs->uri == NULL) {
        remote_close(&nfs->blocking.remote.block);
        return error_set_errno(err, ENOMEM, "disk %s", uri);
    }
    return blocking_open(&nfs->blocking, &nfs_ops, out_block, err);
}
