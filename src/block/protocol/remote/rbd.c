/* Ceph block devices by librbd: one image that all threads share. */
#include <rados/librados.h>
#include <rbd/librbd.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/host/library.h"
#include "block/protocol/remote/blocking.h"
#include "block/protocol/remote/protocols.h"

#define THREADS  8
#define MAX_DATA (1u << 20)
#define MAX_MAP  (64u << 20) /* an answer about more takes its time */

#define RADOS_CALLS(X)                                                                             \
    X(rados_create)                                                                                \
    X(rados_conf_read_file)                                                                        \
    X(rados_conf_parse_env)                                                                        \
    X(rados_conf_set)                                                                              \
    X(rados_connect)                                                                               \
    X(rados_shutdown)                                                                              \
    X(rados_ioctx_create)                                                                          \
    X(rados_ioctx_destroy)                                                                         \
    X(rados_ioctx_set_namespace)
#define RBD_CALLS(X)                                                                               \
    X(rbd_open)                                                                                    \
    X(rbd_open_read_only)                                                                          \
    X(rbd_close)                                                                                   \
    X(rbd_get_size)                                                                                \
    X(rbd_read)                                                                                    \
    X(rbd_write)                                                                                   \
    X(rbd_flush)                                                                                   \
    X(rbd_discard)                                                                                 \
    X(rbd_write_zeroes)                                                                            \
    X(rbd_diff_iterate2)

static struct {
#define DECLARE(name) __typeof__(name) *name;
    RADOS_CALLS(DECLARE)
    RBD_CALLS(DECLARE)
} lib;

#define ROW(name) {#name, &lib.name},
static const struct library_symbol rados_symbols[] = {RADOS_CALLS(ROW)};
static const struct library_symbol rbd_symbols[] = {RBD_CALLS(ROW)};

static const struct library rados_library = {"librados.so.2", "librados2", rados_symbols,
                                             ARRAY_COUNT(rados_symbols)};
static const struct library rbd_library = {"librbd.so.1", "librbd1", rbd_symbols,
                                           ARRAY_COUNT(rbd_symbols)};

struct rbd {
    struct blocking blocking;
    char *words; /* the URI in pieces, to which the others point */
    const char *pool, *name_space, *image, *snapshot, *user, *config;
};

struct session {
    rados_t cluster;
    rados_ioctx_t pool;
    rbd_image_t image;
};

static struct rbd *rbd_from_blocking(struct blocking *blocking)
{
    return container_of(blocking, struct rbd, blocking);
}

/* Where the requested part begins, and how far that goes. */
struct first_extent {
    uint64_t offset_bytes, size_bytes;
    bool is_found;
};

static int take_extent(uint64_t offset, size_t size, int exists, void *ctx)
{
    struct first_extent *extent = ctx;
    if (exists == 0 || size == 0) {
        return 0;
    }
    *extent = (struct first_extent){offset, size, true};
    return -ECANCELED; /* the first is all that is asked for */
}

static int map(const struct session *session, struct blocking_job *job)
{
    struct first_extent first = {0};
    uint64_t size = MIN(job->size_bytes, (uint64_t)MAX_MAP);
    int rc = lib.rbd_diff_iterate2(session->image, NULL, job->offset_bytes, size, 1, 1, take_extent,
                                   &first);
    if (rc < 0 && !first.is_found) {
        return rc;
    }
    bool is_data = first.is_found && first.offset_bytes <= job->offset_bytes;
    uint64_t end = is_data          ? first.offset_bytes + first.size_bytes
                   : first.is_found ? first.offset_bytes
                                    : job->offset_bytes + size;
    if (end <= job->offset_bytes) {
        return -EIO;
    }
    job->extent = (struct block_extent){
        .kind = is_data ? BLOCK_EXTENT_DATA : BLOCK_EXTENT_HOLE,
        .size_bytes = MIN(end - job->offset_bytes, size),
    };
    return 0;
}

static int perform(struct blocking *blocking, void *ctx, struct blocking_job *job,
                   struct error *err)
{
    const struct session *session = ctx;
    rbd_image_t image = session->image;
    size_t size = (size_t)job->size_bytes;
    ssize_t rc = 0;
    switch (job->op) {
    case BLOCK_READ:
        rc = lib.rbd_read(image, job->offset_bytes, size, (char *)job->data);
        break;
    case BLOCK_WRITE:
        rc = lib.rbd_write(image, job->offset_bytes, size, (const char *)job->data);
        break;
    case BLOCK_FLUSH:
        return lib.rbd_flush(image);
    case BLOCK_DISCARD:
        rc = lib.rbd_discard(image, job->offset_bytes, size);
        break;
    case BLOCK_WRITE_ZEROES:
        rc = lib.rbd_write_zeroes(image, job->offset_bytes, size,
                                  job->may_unmap ? 0 : RBD_WRITE_ZEROES_FLAG_THICK_PROVISION, 0);
        break;
    case BLOCK_MAP:
        return map(session, job);
    case BLOCK_RESIZE:
        return -EINVAL;
    }
    if (rc == -ETIMEDOUT || rc == -ENOTCONN || rc == -ESHUTDOWN) {
        (void)error_set_errno(err, (int)-rc, "the cluster does not answer");
        return -ENOTCONN;
    }
    if (rc < 0) {
        return (int)rc;
    }
    return job->op != BLOCK_READ || (size_t)rc == size ? 0 : -EIO; /* cut by somebody */
}

static void close_session(struct blocking *blocking, void *ctx)
{
    struct session *session = ctx;
    if (session->image != NULL) {
        (void)lib.rbd_close(session->image); /* what it still held is in the journal */
    }
    if (session->pool != NULL) {
        lib.rados_ioctx_destroy(session->pool);
    }
    if (session->cluster != NULL) {
        lib.rados_shutdown(session->cluster);
    }
    free(session);
}

static int connect_cluster(const struct rbd *rbd, struct session *session, struct error *err)
{
    char seconds[16];
    (void)snprintf(seconds, sizeof(seconds), "%d", blocking_timeout_s(&rbd->blocking));
    int rc = lib.rados_create(&session->cluster, rbd->user);
    if (rc < 0) {
        session->cluster = NULL;
        return error_set_errno(err, -rc, "starting librados");
    }
    rc = lib.rados_conf_read_file(session->cluster, rbd->config);
    if (rc < 0) {
        return error_set_errno(err, -rc, "the cluster's configuration %s",
                               rbd->config != NULL ? rbd->config : "(/etc/ceph/ceph.conf)");
    }
    static const char *const limits[] = {"client_mount_timeout", "rados_mon_op_timeout",
                                         "rados_osd_op_timeout"};
    for (size_t i = 0; i < ARRAY_COUNT(limits); i++) {
        (void)lib.rados_conf_set(session->cluster, limits[i], seconds); /* known to all versions */
    }
    (void)lib.rados_conf_parse_env(session->cluster, NULL); /* CEPH_ARGS; may be empty */
    /* It would listen there for commands, which the jail does not let it answer: whoever asks waits for ever, and it turns in circles. */
    (void)lib.rados_conf_set(session->cluster, "admin_socket", "");
    rc = lib.rados_connect(session->cluster);
    if (rc < 0) {
        return error_set_errno(err, -rc, "connecting to the cluster");
    }
    rc = lib.rados_ioctx_create(session->cluster, rbd->pool, &session->pool);
    if (rc < 0) {
        session->pool = NULL;
        return error_set_errno(err, -rc, "pool %s", rbd->pool);
    }
    if (rbd->name_space != NULL) {
        lib.rados_ioctx_set_namespace(session->pool, rbd->name_space);
    }
    return 0;
}

static int open_session(struct blocking *blocking, void **out_session, struct remote_info *out_info,
                        struct error *err)
{
    const struct rbd *rbd = rbd_from_blocking(blocking);
    struct session *session = calloc(1, sizeof(*session));
    if (session == NULL) {
        return error_set_errno(err, ENOMEM, "connecting");
    }
    uint64_t size = 0;
    int rc = connect_cluster(rbd, session, err);
    if (rc == 0) {
        rc = blocking->remote.options.is_readonly
                 ? lib.rbd_open_read_only(session->pool, rbd->image, &session->image, rbd->snapshot)
                 : lib.rbd_open(session->pool, rbd->image, &session->image, rbd->snapshot);
        if (rc < 0) {
            session->image = NULL;
            (void)error_set_errno(err, -rc, "image %s", rbd->image);
        } else if ((rc = lib.rbd_get_size(session->image, &size)) < 0) {
            (void)error_set_errno(err, -rc, "asking for its size");
        }
    }
    if (rc < 0) {
        close_session(blocking, session);
        return rc;
    }
    *out_session = session;
    *out_info = (struct remote_info){
        .size_bytes = size,
        .block_size = 1,
        .physical_block_size = 4096,
        .max_size = MAX_DATA,
        .is_readonly = rbd->snapshot != NULL,
        .has_flush = true,
        .has_discard = true,
        .has_write_zeroes = true,
        .has_map = true,
        .max_in_flight = 2 * THREADS,
    };
    return 0;
}

static void free_rbd(struct blocking *blocking)
{
    free(rbd_from_blocking(blocking)->words);
}

static const struct remote_ops rbd_remote_ops = BLOCKING_REMOTE_OPS("rbd");

static const struct blocking_ops rbd_ops = {
    .thread_count = THREADS,
    .is_shared = true,
    .open = open_session,
    .perform = perform,
    .close = close_session,
    .free = free_rbd,
};

/* rbd://POOL[/NAMESPACE]/IMAGE[@SNAPSHOT][?id=USER&conf=FILE] */
static int take_words(struct rbd *rbd, struct error *err)
{
    char *rest = strstr(rbd->words, "://") + 3;
    char *path = strsep(&rest, "?");
    char *word;
    while ((word = strsep(&rest, "&")) != NULL) {
        if (strncmp(word, "id=", 3) == 0) {
            rbd->user = word + 3;
        } else if (strncmp(word, "conf=", 5) == 0) {
            rbd->config = word + 5;
        } else {
            return error_set(err, EINVAL, "'%s' is unknown: id=USER and conf=FILE are known", word);
        }
    }
    char *last = strrchr(path, '/');
    if (last == NULL || last == path || last[1] == '\0') {
        return error_set(err, EINVAL, "not a Ceph image: rbd://POOL[/NAMESPACE]/IMAGE[@SNAPSHOT]");
    }
    *last = '\0';
    rbd->image = last + 1;
    rbd->pool = strsep(&path, "/");
    rbd->name_space = path;
    char *at = strchr(last + 1, '@');
    if (at != NULL) {
        *at = '\0';
        rbd->snapshot = at + 1;
    }
    return 0;
}

int rbd_open_uri(const char *uri, const struct block_remote_options *options,
                 struct event_loop *loop, struct block **out_block, struct error *err)
{
    int rc = library_load(&rados_library, "RBD", err);
    if (rc == 0) {
        rc = library_load(&rbd_library, "RBD", err);
    }
    if (rc < 0) {
        return rc;
    }
    struct rbd *rbd = remote_new(sizeof(*rbd), &rbd_remote_ops, uri, options, loop, err);
    if (rbd == NULL) {
        return -ENOMEM;
    }
    rbd->blocking.ops = &rbd_ops;
    rbd->words = strdup(uri);
    rc = rbd->words == NULL ? error_set_errno(err, ENOMEM, "opening it") : take_words(rbd, err);
    if (rc < 0) {
        rc = error_prefix(err, rc, "disk %s", rbd->blocking.remote.block.name);
        remote_close(&rbd->blocking.remote.block);
        return rc;
    }
    return blocking_open(&rbd->blocking, &rbd_ops, out_block, err);
}
