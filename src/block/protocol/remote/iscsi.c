/* iSCSI by libiscsi: a session for each thread. */
#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/host/file.h"
#include "base/host/library.h"
#include "block/protocol/remote/blocking.h"
#include "block/protocol/remote/protocols.h"

#define THREADS        4
#define MAX_DATA       (256u << 10)
#define MAX_RETRIES    5 /* of what a target asks to be repeated */
#define SLOW_FACTOR    10
#define BUSY_RETRIES   50
#define BUSY_PAUSE_NS  100000000
#define PAGE_LIMITS    0xb0 /* SPC-4, 7.8.1: vital product data */
#define PAGE_PROVISION 0xb2
#define WRITE_PROTECT  0x80   /* SBC-3, 6.4.1: device-specific parameter */
#define ASC_NO_SPACE   0x2707 /* space allocation failed write protect */

#define CALLS(X)                                                                                   \
    X(iscsi_create_context)                                                                        \
    X(iscsi_destroy_context)                                                                       \
    X(iscsi_disconnect)                                                                            \
    X(iscsi_parse_full_url)                                                                        \
    X(iscsi_destroy_url)                                                                           \
    X(iscsi_get_error)                                                                             \
    X(iscsi_set_targetname)                                                                        \
    X(iscsi_set_session_type)                                                                      \
    X(iscsi_set_timeout)                                                                           \
    X(iscsi_set_noautoreconnect)                                                                   \
    X(iscsi_set_initiator_username_pwd)                                                            \
    X(iscsi_full_connect_sync)                                                                     \
    X(iscsi_logout_sync)                                                                           \
    X(iscsi_readcapacity16_sync)                                                                   \
    X(iscsi_inquiry_sync)                                                                          \
    X(iscsi_modesense6_sync)                                                                       \
    X(iscsi_read16_sync)                                                                           \
    X(iscsi_write16_sync)                                                                          \
    X(iscsi_synchronizecache16_sync)                                                               \
    X(iscsi_unmap_sync)                                                                            \
    X(iscsi_writesame16_sync)                                                                      \
    X(scsi_datain_unmarshall)                                                                      \
    X(scsi_modesense_get_page)                                                                     \
    X(scsi_free_scsi_task)

static struct {
#define DECLARE(name) __typeof__(name) *name;
    CALLS(DECLARE)
} lib;

static const struct library_symbol symbols[] = {
#define ROW(name) {#name, &lib.name},
    CALLS(ROW)};

static const struct library library = {"libiscsi.so.7", "libiscsi7", symbols, ARRAY_COUNT(symbols)};

struct iscsi {
    struct blocking blocking;
    char *url;                     /* for libiscsi: without what is ours */
    char name[224];                /* of the initiator */
    char user[128], password[256]; /* CHAP; empty: as the environment says */
};

struct session {
    struct iscsi_context *context;
    int lun;
    uint32_t block_size;
    uint32_t max_unmap; /* blocks in one command */
    uint64_t max_same;
    bool is_broken;
};

static struct iscsi *iscsi_from_blocking(struct blocking *blocking)
{
    return container_of(blocking, struct iscsi, blocking);
}

static int lost(struct session *session, struct error *err, const char *what)
{
    const char *text = lib.iscsi_get_error(session->context);
    char plain[160];
    (void)snprintf(plain, sizeof(plain), "%.*s", text != NULL ? (int)strcspn(text, "\r\n") : 0,
                   text != NULL ? text : "");
    (void)error_set(err, EIO, "%s%s%s", what, plain[0] != '\0' ? ": " : "", plain);
    session->is_broken = true;
    return -ENOTCONN;
}

/* What a command that has an answer comes to; 1: it is to be repeated. */
static int status_of(const struct scsi_task *task)
{
    switch (task->status) {
    case SCSI_STATUS_GOOD:
        return 0;
    case SCSI_STATUS_RESERVATION_CONFLICT:
        return -EBUSY;
    case SCSI_STATUS_CHECK_CONDITION:
        switch (task->sense.key) {
        case SCSI_SENSE_UNIT_ATTENTION:
        case SCSI_SENSE_COMMAND_ABORTED:
        case SCSI_SENSE_NOT_READY:
            return 1;
        case SCSI_SENSE_DATA_PROTECTION:
            return task->sense.ascq == ASC_NO_SPACE ? -ENOSPC : -EROFS;
        case SCSI_SENSE_ILLEGAL_REQUEST:
            return -EINVAL;
        default:
            return -EIO;
        }
    case SCSI_STATUS_BUSY:
    case SCSI_STATUS_TASK_SET_FULL:
    case SCSI_STATUS_TASK_ABORTED:
        return 1;
    default: /* libiscsi's own: no answer */
        return -ENOTCONN;
    }
}

static struct scsi_task *send_once(const struct session *session, const struct blocking_job *job,
                                   uint64_t done_blocks, uint32_t blocks)
{
    struct iscsi_context *context = session->context;
    uint64_t lba = job->offset_bytes / session->block_size + done_blocks;
    uint32_t size = (uint32_t)job->size_bytes;
    int block_size = (int)session->block_size;
    switch (job->op) {
    case BLOCK_READ:
        return lib.iscsi_read16_sync(context, session->lun, lba, size, block_size, 0, 0, 0, 0, 0);
    case BLOCK_WRITE:
        return lib.iscsi_write16_sync(context, session->lun, lba, job->data, size, block_size, 0, 0,
                                      0, 0, 0);
    case BLOCK_FLUSH:
        return lib.iscsi_synchronizecache16_sync(context, session->lun, 0, 0, 0, 0);
    case BLOCK_DISCARD: {
        struct unmap_list list = {.lba = lba, .num = blocks};
        return lib.iscsi_unmap_sync(context, session->lun, 0, 0, &list, 1);
    }
    default: {
        static uint8_t zeroes[4096];
        return lib.iscsi_writesame16_sync(context, session->lun, lba, zeroes, session->block_size,
                                          blocks, 0, job->may_unmap, 0, 0);
    }
    }
}

static int send_command(struct session *session, struct blocking_job *job, uint64_t done_blocks,
                        uint32_t blocks, struct error *err)
{
    for (unsigned tries = 0;; tries++) {
        struct scsi_task *task = send_once(session, job, done_blocks, blocks);
        int rc = task == NULL ? -ENOTCONN : status_of(task);
        bool is_busy = task != NULL && task->status == SCSI_STATUS_BUSY;
        if (rc == 0 && job->op == BLOCK_READ) {
            if (task->datain.size != (int)job->size_bytes) {
                rc = -EIO; /* a part of it is none */
            } else {
                memcpy(job->data, task->datain.data, (size_t)job->size_bytes);
            }
        }
        if (task != NULL) {
            lib.scsi_free_scsi_task(task);
        }
        if (rc == -ENOTCONN) {
            return lost(session, err, "connection lost");
        }
        if (rc <= 0) {
            return rc;
        }
        if (tries >= (is_busy ? BUSY_RETRIES : MAX_RETRIES)) {
            return -EIO;
        }
        const struct timespec pause = {.tv_nsec = BUSY_PAUSE_NS};
        (void)nanosleep(&pause, NULL); /* a shorter one does no harm */
    }
}

static int perform(struct blocking *blocking, void *ctx, struct blocking_job *job,
                   struct error *err)
{
    struct session *session = ctx;
    bool has_range = job->op == BLOCK_DISCARD || job->op == BLOCK_WRITE_ZEROES;
    int seconds = blocking_timeout_s(blocking);
    /* A flush may have to write all that a cache holds. */
    (void)lib.iscsi_set_timeout(session->context,
                                job->op == BLOCK_FLUSH ? SLOW_FACTOR * seconds : seconds);
    if (!has_range) {
        return send_command(session, job, 0, 0, err);
    }
    uint64_t blocks = job->size_bytes / session->block_size;
    uint64_t most = job->op == BLOCK_DISCARD ? session->max_unmap : session->max_same;
    for (uint64_t done = 0; done < blocks;) {
        uint32_t now = (uint32_t)MIN(blocks - done, most);
        int rc = send_command(session, job, done, now, err);
        if (rc < 0) {
            return rc;
        }
        done += now;
    }
    return 0;
}

/* Commands may be under way. Destroying the context would end them through what stood on the stack of a call that has returned,
 * and look at one that was half sent after having freed it (libiscsi 1.19): a few KiB stay instead. */
static void abandon(struct iscsi_context *context)
{
    (void)lib.iscsi_disconnect(context);
}

static void close_session(struct blocking *blocking, void *ctx)
{
    struct session *session = ctx;
    if (session->is_broken) {
        abandon(session->context);
    } else {
        (void)lib.iscsi_logout_sync(session->context); /* the target may be gone */
        (void)lib.iscsi_destroy_context(session->context);
    }
    free(session);
}

static int read_capacity(struct session *session, struct remote_info *info, struct error *err)
{
    for (unsigned tries = 0; tries < MAX_RETRIES; tries++) {
        struct scsi_task *task = lib.iscsi_readcapacity16_sync(session->context, session->lun);
        if (task == NULL) {
            break;
        }
        struct scsi_readcapacity16 *capacity =
            task->status == SCSI_STATUS_GOOD ? lib.scsi_datain_unmarshall(task) : NULL;
        bool is_known = capacity != NULL && capacity->block_length >= 512 &&
                        capacity->block_length <= 4096 && capacity->returned_lba < UINT64_MAX >> 13;
        if (is_known) {
            session->block_size = capacity->block_length;
            info->block_size = capacity->block_length;
            info->physical_block_size =
                MIN(capacity->block_length << (capacity->lbppbe & 7), 65536u);
            info->size_bytes = (capacity->returned_lba + 1) * capacity->block_length;
            info->has_discard = capacity->lbpme != 0;
            info->has_write_zeroes = capacity->lbpme != 0 && capacity->lbprz != 0;
        }
        int status = task->status;
        lib.scsi_free_scsi_task(task);
        if (is_known) {
            return 0;
        }
        if (status == SCSI_STATUS_GOOD) {
            return error_set(err, EPROTO, "the target says an impossible size");
        }
    }
    return lost(session, err, "asking for its size");
}

/* What the unit can do, of what it may leave unsaid. */
static void read_features(struct session *session, struct remote_info *info)
{
    struct scsi_task *task =
        lib.iscsi_inquiry_sync(session->context, session->lun, 1, PAGE_PROVISION, 64);
    struct scsi_inquiry_logical_block_provisioning *provisioning =
        task != NULL && task->status == SCSI_STATUS_GOOD ? lib.scsi_datain_unmarshall(task) : NULL;
    info->has_discard = info->has_discard && provisioning != NULL && provisioning->lbpu != 0;
    info->has_write_zeroes =
        info->has_write_zeroes && provisioning != NULL && provisioning->lbpws != 0;
    if (task != NULL) {
        lib.scsi_free_scsi_task(task);
    }
    task = lib.iscsi_inquiry_sync(session->context, session->lun, 1, PAGE_LIMITS, 64);
    struct scsi_inquiry_block_limits *limits =
        task != NULL && task->status == SCSI_STATUS_GOOD ? lib.scsi_datain_unmarshall(task) : NULL;
    session->max_unmap = limits != NULL && limits->max_unmap != 0 ? limits->max_unmap : 0xffff;
    session->max_same = limits != NULL && limits->max_ws_len != 0
                            ? MIN(limits->max_ws_len, (uint64_t)UINT32_MAX)
                            : 0xffff;
    if (task != NULL) {
        lib.scsi_free_scsi_task(task);
    }
    /* Without a write cache each write is durable; a unit that does not tell has one. */
    task = lib.iscsi_modesense6_sync(session->context, session->lun, 1, SCSI_MODESENSE_PC_CURRENT,
                                     SCSI_MODEPAGE_CACHING, 0, 255);
    struct scsi_mode_sense *mode =
        task != NULL && task->status == SCSI_STATUS_GOOD ? lib.scsi_datain_unmarshall(task) : NULL;
    if (mode != NULL) {
        const struct scsi_mode_page *page =
            lib.scsi_modesense_get_page(mode, SCSI_MODEPAGE_CACHING, 0);
        info->is_readonly = (mode->device_specific_parameter & WRITE_PROTECT) != 0;
        info->is_durable = page != NULL && page->caching.wce == 0;
    }
    if (task != NULL) {
        lib.scsi_free_scsi_task(task);
    }
}

static int connect_session(struct iscsi *iscsi, struct session *session, struct error *err)
{
    struct iscsi_context *context = session->context;
    struct iscsi_url *url = lib.iscsi_parse_full_url(context, iscsi->url);
    if (url == NULL) {
        return error_set(err, EINVAL, "not an iSCSI disk: iscsi://HOST[:PORT]/TARGET/LUN");
    }
    session->lun = url->lun;
    const char *user = iscsi->user[0] != '\0' ? iscsi->user : url->user;
    const char *password = iscsi->user[0] != '\0' ? iscsi->password : url->passwd;
    int rc = lib.iscsi_set_targetname(context, url->target);
    rc |= lib.iscsi_set_session_type(context, ISCSI_SESSION_NORMAL);
    if (user[0] != '\0') {
        rc |= lib.iscsi_set_initiator_username_pwd(context, user, password);
    }
    lib.iscsi_set_noautoreconnect(context, 1); /* that is ours to do: remote.c */
    rc |= lib.iscsi_set_timeout(context, blocking_timeout_s(&iscsi->blocking));
    rc = rc != 0 ? -1 : lib.iscsi_full_connect_sync(context, url->portal, url->lun);
    lib.iscsi_destroy_url(url);
    return rc == 0 ? 0 : lost(session, err, "connecting");
}

static int open_session(struct blocking *blocking, void **out_session, struct remote_info *out_info,
                        struct error *err)
{
    struct iscsi *iscsi = iscsi_from_blocking(blocking);
    struct session *session = calloc(1, sizeof(*session));
    struct remote_info info = {
        .max_size = MAX_DATA, .has_flush = true, .max_in_flight = 2 * THREADS};
    if (session == NULL || (session->context = lib.iscsi_create_context(iscsi->name)) == NULL) {
        free(session);
        return error_set_errno(err, ENOMEM, "connecting");
    }
    int rc = connect_session(iscsi, session, err);
    if (rc == 0) {
        rc = read_capacity(session, &info, err);
    }
    if (rc < 0) {
        abandon(session->context);
        free(session);
        return rc;
    }
    read_features(session, &info);
    *out_session = session;
    *out_info = info;
    return 0;
}

static void free_iscsi(struct blocking *blocking)
{
    struct iscsi *iscsi = iscsi_from_blocking(blocking);
    explicit_bzero(iscsi->password, sizeof(iscsi->password));
    free(iscsi->url);
}

static const struct remote_ops iscsi_remote_ops = BLOCKING_REMOTE_OPS("iscsi");

static const struct blocking_ops iscsi_ops = {
    .thread_count = THREADS,
    .open = open_session,
    .perform = perform,
    .close = close_session,
    .free = free_iscsi,
};

/* A file with one line, USER:PASSWORD. */
static int read_secret(struct iscsi *iscsi, const char *path, struct error *err)
{
    char line[sizeof(iscsi->user) + sizeof(iscsi->password)] = "";
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size = fd < 0 ? -1 : read(fd, line, sizeof(line) - 1);
    if (size < 0) {
        return error_set_errno(err, errno, "the secret of CHAP in %s", path);
    }
    line[size] = '\0';
    line[strcspn(line, "\r\n")] = '\0';
    char *colon = strchr(line, ':');
    bool fits = colon != NULL && colon > line && (size_t)(colon - line) < sizeof(iscsi->user) &&
                strlen(colon + 1) < sizeof(iscsi->password);
    if (fits) {
        *colon = '\0';
        (void)snprintf(iscsi->user, sizeof(iscsi->user), "%s", line);
        (void)snprintf(iscsi->password, sizeof(iscsi->password), "%s", colon + 1);
    }
    explicit_bzero(line, sizeof(line));
    return fits ? 0
                : error_set(err, EINVAL,
                            "the secret of CHAP in %s: one line USER:PASSWORD is expected", path);
}

static int take_words(struct iscsi *iscsi, struct error *err)
{
    char host[64] = "hull";
    (void)gethostname(host, sizeof(host) - 1); /* without: a name that all share */
    (void)snprintf(iscsi->name, sizeof(iscsi->name), "iqn.2026-01.org.hull:%.60s", host);
    char *authority = strstr(iscsi->url, "://") + 3;
    if (memchr(authority, '@', strcspn(authority, "/?")) != NULL) {
        return error_set(err, EINVAL,
                         "a password has no place on a command line: ?chap=FILE, or "
                         "LIBISCSI_CHAP_USERNAME and LIBISCSI_CHAP_PASSWORD in the environment");
    }
    char *rest = strchr(iscsi->url, '?');
    if (rest != NULL) {
        *rest++ = '\0';
    }
    char *word;
    int rc = 0;
    while (rc == 0 && (word = strsep(&rest, "&")) != NULL) {
        if (strncmp(word, "chap=", 5) == 0) {
            rc = read_secret(iscsi, word + 5, err);
        } else if (strncmp(word, "initiator=", 10) == 0) {
            (void)snprintf(iscsi->name, sizeof(iscsi->name), "%s", word + 10);
        } else {
            rc = error_set(err, EINVAL, "'%s' is unknown: chap=FILE and initiator=NAME are known",
                           word);
        }
    }
    return rc;
}

int iscsi_open_uri(const char *uri, const struct block_remote_options *options,
                   struct event_loop *loop, struct block **out_block, struct error *err)
{
    int rc = library_load(&library, "iSCSI", err);
    if (rc < 0) {
        return rc;
    }
    struct iscsi *iscsi = remote_new(sizeof(*iscsi), &iscsi_remote_ops, uri, options, loop, err);
    if (iscsi == NULL) {
        return -ENOMEM;
    }
    iscsi->blocking.ops = &iscsi_ops;
    iscsi->url = strdup(uri);
    rc = iscsi->url == NULL ? error_set_errno(err, ENOMEM, "opening it") : take_words(iscsi, err);
    if (rc < 0) {
        rc = error_prefix(err, rc, "disk %s", iscsi->blocking.remote.block.name);
        remote_close(&iscsi->blocking.remote.block);
        return rc;
    }
    return blocking_open(&iscsi->blocking, &iscsi_ops, out_block, err);
}
