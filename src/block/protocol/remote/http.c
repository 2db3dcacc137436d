/* HTTP and HTTPS by libcurl, for reading: its multi interface on the event loop, a request of a range of bytes for each command. */
#define CURL_DISABLE_TYPECHECK /* its macros want functions, not pointers */
#include <curl/curl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/host/library.h"
#include "block/protocol/remote/protocols.h"
#include "block/protocol/remote/remote.h"

#define MAX_IN_FLIGHT 8
#define MAX_DATA      (1u << 20)
#define MAX_SOCKETS   64
#define MAX_REDIRECTS 5
#define CONNECT_SECS  15L
#define DEFAULT_SECS  30L

#define CALLS(X)                                                                                   \
    X(curl_global_init)                                                                            \
    X(curl_easy_init)                                                                              \
    X(curl_easy_cleanup)                                                                           \
    X(curl_easy_setopt)                                                                            \
    X(curl_easy_getinfo)                                                                           \
    X(curl_easy_strerror)                                                                          \
    X(curl_multi_init)                                                                             \
    X(curl_multi_cleanup)                                                                          \
    X(curl_multi_setopt)                                                                           \
    X(curl_multi_add_handle)                                                                       \
    X(curl_multi_remove_handle)                                                                    \
    X(curl_multi_socket_action)                                                                    \
    X(curl_multi_info_read)

static struct {
#define DECLARE(name) __typeof__(name) *name;
    CALLS(DECLARE)
} lib;

static const struct library_symbol symbols[] = {
#define ROW(name) {#name, &lib.name},
    CALLS(ROW)};

static const struct library library = {"libcurl.so.4", "libcurl4", symbols, ARRAY_COUNT(symbols)};

struct http;

/* One request: of a command, or the first one, which asks what there is. */
struct transfer {
    struct http *http;
    struct remote_command *command; /* NULL: the first */
    CURL *easy;
    uint64_t offset_bytes, size_bytes; /* what is asked for */
    uint8_t *data;
    uint64_t done_bytes;
    uint64_t total_bytes; /* of the disk, as the answer says; 0: it does not */
    bool has_range;       /* the answer is the part that was asked for */
    char etag[128], modified[64];
    char text[CURL_ERROR_SIZE];
    uint8_t first_byte;
    struct transfer *next;
};

struct http_socket {
    struct http *http;
    int fd;
    int what; /* CURL_POLL_IN ... */
    struct event_source *source;
};

struct http {
    struct remote remote;
    char *uri;
    CURLM *multi;
    struct event_timer *timer;
    uint64_t timer_ns; /* 0: not armed */
    struct http_socket socket[MAX_SOCKETS];
    unsigned socket_count;
    struct transfer *transfers;
    char identity[sizeof(((struct remote_info *)0)->identity)];
};

static struct http *http_from_remote(struct remote *remote)
{
    return container_of(remote, struct http, remote);
}

static void serve(struct http *http, int fd, int events);

/* --- What curl calls: nothing of the remote may be called from here --- */

static void socket_ready(void *ctx, int fd, uint32_t events)
{
    int mask = ((events & (EPOLLIN | EPOLLHUP)) != 0 ? CURL_CSELECT_IN : 0) |
               ((events & EPOLLOUT) != 0 ? CURL_CSELECT_OUT : 0) |
               ((events & EPOLLERR) != 0 ? CURL_CSELECT_ERR : 0);
    serve(ctx, fd, mask);
}

static int watch_socket(CURL *easy, curl_socket_t fd, int what, void *ctx, void *socket_ctx)
{
    struct http *http = ctx;
    unsigned i = 0;
    while (i < http->socket_count && http->socket[i].fd != fd) {
        i++;
    }
    struct http_socket *socket = &http->socket[i];
    if (i < http->socket_count) {
        event_source_remove(socket->source);
    }
    if (what == CURL_POLL_REMOVE) {
        if (i < http->socket_count) {
            *socket = http->socket[--http->socket_count];
        }
        return 0;
    }
    if (i == MAX_SOCKETS) {
        return -1;
    }
    uint32_t events =
        ((what & CURL_POLL_IN) != 0 ? EPOLLIN : 0u) | ((what & CURL_POLL_OUT) != 0 ? EPOLLOUT : 0u);
    *socket = (struct http_socket){.http = http, .fd = fd, .what = what};
    int rc = event_loop_add_fd(http->remote.block.loop, fd, events, socket_ready, http,
                               &socket->source, NULL);
    if (rc == 0 && i == http->socket_count) {
        http->socket_count++;
    } else if (rc < 0 && i < http->socket_count) {
        *socket = http->socket[--http->socket_count];
    }
    return rc < 0 ? -1 : 0;
}

static int set_timer(CURLM *multi, long timeout_ms, void *ctx)
{
    struct http *http = ctx;
    if (timeout_ms < 0) {
        http->timer_ns = 0;
        event_timer_disarm(http->timer);
    } else {
        http->timer_ns = clock_monotonic_ns() + (uint64_t)timeout_ms * 1000000;
        event_timer_arm(http->timer, http->timer_ns);
    }
    return 0;
}

static size_t take_body(char *data, size_t unit, size_t size, void *ctx)
{
    struct transfer *transfer = ctx;
    /* All of a file in place of the part, or more than the part: nobody wants to read it to its end. */
    if (!transfer->has_range || size > transfer->size_bytes - transfer->done_bytes) {
        return 0;
    }
    memcpy(transfer->data + transfer->done_bytes, data, size);
    transfer->done_bytes += size;
    return size;
}

/* The value of a header line that has the name. NULL: it has another. */
static const char *header_value(const char *line, const char *name)
{
    size_t length = strlen(name);
    if (strncasecmp(line, name, length) != 0 || line[length] != ':') {
        return NULL;
    }
    line += length + 1;
    return line + strspn(line, " \t");
}

static void copy_value(char *out_text, size_t size, const char *value)
{
    (void)snprintf(out_text, size, "%.*s", (int)strcspn(value, "\r\n"), value);
}

static size_t take_header(char *data, size_t unit, size_t size, void *ctx)
{
    struct transfer *transfer = ctx;
    char line[512];
    (void)snprintf(line, sizeof(line), "%.*s", (int)MIN(size, sizeof(line) - 1), data);
    const char *value;
    if (strncmp(line, "HTTP/", 5) == 0) { /* the next answer, after a redirect */
        transfer->has_range = false;
        transfer->total_bytes = 0;
        transfer->etag[0] = '\0';
        transfer->modified[0] = '\0';
    } else if ((value = header_value(line, "content-range")) != NULL) {
        uint64_t first;
        uint64_t last;
        uint64_t total;
        /* RFC 9110, 14.4; a server that does not say how long the whole is is of no use. */
        if (sscanf(value, "bytes %" SCNu64 "-%" SCNu64 "/%" SCNu64, &first, &last, &total) == 3 &&
            first == transfer->offset_bytes &&
            last == transfer->offset_bytes + transfer->size_bytes - 1 && last < total) {
            transfer->has_range = true;
            transfer->total_bytes = total;
        }
    } else if ((value = header_value(line, "etag")) != NULL) {
        copy_value(transfer->etag, sizeof(transfer->etag), value);
    } else if ((value = header_value(line, "last-modified")) != NULL) {
        copy_value(transfer->modified, sizeof(transfer->modified), value);
    }
    return size;
}

/* --- Requests --- */

static void transfer_free(struct http *http, struct transfer *transfer)
{
    struct transfer **at = &http->transfers;
    while (*at != transfer) {
        at = &(*at)->next;
    }
    *at = transfer->next;
    (void)lib.curl_multi_remove_handle(http->multi, transfer->easy); /* it is in it */
    lib.curl_easy_cleanup(transfer->easy);
    free(transfer);
}

static bool set_options(const struct http *http, struct transfer *transfer)
{
    CURL *easy = transfer->easy;
    char range[64];
    (void)snprintf(range, sizeof(range), "%" PRIu64 "-%" PRIu64, transfer->offset_bytes,
                   transfer->offset_bytes + transfer->size_bytes - 1);
    uint64_t timeout_ns = http->remote.options.timeout_ns;
    bool is_secure = strncasecmp(http->uri, "https:", 6) == 0;
    const char *authorities = getenv("SSL_CERT_FILE");
#define SET(option, value) (lib.curl_easy_setopt(easy, (option), (value)) == CURLE_OK)
    return SET(CURLOPT_URL, http->uri) && SET(CURLOPT_RANGE, range) &&
           SET(CURLOPT_PROTOCOLS_STR, "http,https") &&
           /* Who asked for encryption is not led away from it. */
           SET(CURLOPT_REDIR_PROTOCOLS_STR, is_secure ? "https" : "http,https") &&
           SET(CURLOPT_FOLLOWLOCATION, 1L) && SET(CURLOPT_MAXREDIRS, (long)MAX_REDIRECTS) &&
           SET(CURLOPT_NOSIGNAL, 1L) && SET(CURLOPT_CONNECTTIMEOUT, CONNECT_SECS) &&
           SET(CURLOPT_LOW_SPEED_LIMIT, 1L) &&
           SET(CURLOPT_LOW_SPEED_TIME,
               timeout_ns != 0 ? (long)MAX(timeout_ns / 1000000000, 1u) : DEFAULT_SECS) &&
           SET(CURLOPT_USERAGENT, "hull/" HULL_VERSION) && SET(CURLOPT_TCP_KEEPALIVE, 1L) &&
           SET(CURLOPT_ERRORBUFFER, transfer->text) && SET(CURLOPT_PRIVATE, transfer) &&
           SET(CURLOPT_WRITEFUNCTION, take_body) && SET(CURLOPT_WRITEDATA, transfer) &&
           SET(CURLOPT_HEADERFUNCTION, take_header) && SET(CURLOPT_HEADERDATA, transfer) &&
           (authorities == NULL || SET(CURLOPT_CAINFO, authorities));
#undef SET
}

/* It ends, with or without success, in serve. False: no memory. */
static bool transfer_start(struct http *http, struct remote_command *command)
{
    struct transfer *transfer = calloc(1, sizeof(*transfer));
    CURL *easy = transfer != NULL && http->multi != NULL ? lib.curl_easy_init() : NULL;
    if (easy == NULL) {
        free(transfer);
        return false;
    }
    transfer->http = http;
    transfer->command = command;
    transfer->easy = easy;
    transfer->offset_bytes = command != NULL ? command->offset_bytes : 0;
    transfer->size_bytes = command != NULL ? command->size_bytes : 1;
    transfer->data = command != NULL ? command->data : &transfer->first_byte;
    if (!set_options(http, transfer) || lib.curl_multi_add_handle(http->multi, easy) != CURLM_OK) {
        lib.curl_easy_cleanup(easy);
        free(transfer);
        return false;
    }
    transfer->next = http->transfers;
    http->transfers = transfer;
    return true;
}

/* What was wrong with an answer; 0: nothing. */
static int check_answer(const struct transfer *transfer, CURLcode code, struct error *err)
{
    long status = 0;
    (void)lib.curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &status);
    if (status == 200 && !transfer->has_range) {
        return error_set(err, EOPNOTSUPP,
                         "the server sends the whole file only: one that knows ranges is needed");
    }
    if (status == 416) {
        return error_set(err, EINVAL, "the file is empty or shorter than before");
    }
    if (status == 206 && !transfer->has_range && code == CURLE_WRITE_ERROR) {
        return error_set(err, EPROTO, "the server sends another part than was asked for");
    }
    if (status >= 300 && code != CURLE_UNSUPPORTED_PROTOCOL && code != CURLE_TOO_MANY_REDIRECTS) {
        return error_set(err,
                         status == 404 || status == 410 ? ENOENT
                         : status < 500                 ? EACCES
                                                        : EIO,
                         "the server answers with status %ld", status);
    }
    if (code == CURLE_WRITE_ERROR) {
        return error_set(err, EPROTO, "the server sends more than was asked for");
    }
    if (code != CURLE_OK) {
        return error_set(err, code == CURLE_OPERATION_TIMEDOUT ? ETIMEDOUT : EIO, "%s",
                         transfer->text[0] != '\0' ? transfer->text : lib.curl_easy_strerror(code));
    }
    if (status != 206 || !transfer->has_range || transfer->done_bytes != transfer->size_bytes) {
        return error_set(err, EPROTO, "the server sends less than was asked for");
    }
    return 0;
}

/* What says that the file is the same: a strong ETag (RFC 9110, 8.8), else when it was changed. */
static const char *identity_of(const struct transfer *transfer)
{
    return transfer->etag[0] == '"' ? transfer->etag : transfer->modified;
}

static void first_answer(struct http *http, struct transfer *transfer)
{
    struct remote_info info = {
        .size_bytes = transfer->total_bytes,
        .block_size = 1,
        .physical_block_size = 4096,
        .max_size = MAX_DATA,
        .is_readonly = true,
        .max_in_flight = MAX_IN_FLIGHT,
    };
    (void)snprintf(info.identity, sizeof(info.identity), "%s", identity_of(transfer));
    memcpy(http->identity, info.identity, sizeof(http->identity));
    transfer_free(http, transfer);
    remote_connected(&http->remote, &info);
}

/* Each answer, until one is bad: then there is a new start, which finds out what is wrong. */
static void take_answers(struct http *http)
{
    CURLMsg *message;
    int left;
    while (http->multi != NULL &&
           (message = lib.curl_multi_info_read(http->multi, &left)) != NULL) {
        if (message->msg != CURLMSG_DONE) {
            continue;
        }
        CURLcode code = message->data.result;
        char *private = NULL;
        (void)lib.curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &private);
        struct transfer *transfer = (struct transfer *)(void *)private; /* set when it was made */
        struct error err;
        int rc = check_answer(transfer, code, &err);
        if (rc == 0 && transfer->command != NULL &&
            (transfer->total_bytes != http->remote.info.size_bytes ||
             strncmp(identity_of(transfer), http->identity, sizeof(http->identity) - 1) != 0)) {
            rc = error_set(&err, ESTALE, "the file has changed");
        }
        if (rc < 0) {
            remote_lost(&http->remote, &err);
            return;
        }
        struct remote_command *command = transfer->command;
        if (command == NULL) {
            first_answer(http, transfer);
        } else {
            transfer_free(http, transfer);
            remote_done(&http->remote, command, 0);
        }
    }
}

static void serve(struct http *http, int fd, int events)
{
    int running;
    if (http->multi != NULL) {
        (void)lib.curl_multi_socket_action(http->multi, fd, events, &running);
        take_answers(http);
    }
}

static void timer_fired(void *ctx)
{
    struct http *http = ctx;
    http->timer_ns = 0;
    serve(http, CURL_SOCKET_TIMEOUT, 0);
}

static void http_connect(struct remote *remote)
{
    struct http *http = http_from_remote(remote);
    http->multi = lib.curl_multi_init();
    if (http->multi != NULL) {
#define SET(option, value) (void)lib.curl_multi_setopt(http->multi, (option), (value))
        SET(CURLMOPT_SOCKETFUNCTION, watch_socket);
        SET(CURLMOPT_SOCKETDATA, http);
        SET(CURLMOPT_TIMERFUNCTION, set_timer);
        SET(CURLMOPT_TIMERDATA, http);
        SET(CURLMOPT_MAX_TOTAL_CONNECTIONS, (long)MAX_IN_FLIGHT);
#undef SET
    }
    if (!transfer_start(http, NULL)) {
        /* The core's time limit for connections tells of it. */
        remote->has_own_timeouts = false;
    }
}

static void http_start(struct remote *remote, struct remote_command *command)
{
    struct http *http = http_from_remote(remote);
    if (!transfer_start(http, command)) {
        remote->has_own_timeouts = false; /* no memory: it is tried anew after a while */
    }
}

static void http_disconnect(struct remote *remote)
{
    struct http *http = http_from_remote(remote);
    while (http->transfers != NULL) {
        transfer_free(http, http->transfers);
    }
    if (http->multi != NULL) {
        (void)lib.curl_multi_cleanup(http->multi);
        http->multi = NULL;
    }
    while (http->socket_count > 0) {
        event_source_remove(http->socket[--http->socket_count].source);
    }
    if (http->timer != NULL) {
        event_timer_disarm(http->timer);
    }
    http->timer_ns = 0;
    remote->has_own_timeouts = true;
}

static void http_wait(struct remote *remote, int timeout_ms)
{
    struct http *http = http_from_remote(remote);
    struct pollfd ready[MAX_SOCKETS];
    unsigned count = http->socket_count;
    for (unsigned i = 0; i < count; i++) {
        ready[i] = (struct pollfd){
            .fd = http->socket[i].fd,
            .events = (short)(((http->socket[i].what & CURL_POLL_IN) != 0 ? POLLIN : 0) |
                              ((http->socket[i].what & CURL_POLL_OUT) != 0 ? POLLOUT : 0))};
    }
    uint64_t now = clock_monotonic_ns();
    if (http->timer_ns != 0) {
        uint64_t left = http->timer_ns > now ? (http->timer_ns - now + 999999) / 1000000 : 0;
        timeout_ms =
            timeout_ms < 0 || left < (uint64_t)timeout_ms ? (int)MIN(left, 60000u) : timeout_ms;
    }
    int rc = poll(ready, count, timeout_ms);
    for (unsigned i = 0; rc > 0 && i < count; i++) {
        if (ready[i].revents != 0) {
            socket_ready(http, ready[i].fd, (uint32_t)ready[i].revents); /* the bits are the same */
        }
    }
    if (http->timer_ns != 0 && clock_monotonic_ns() >= http->timer_ns) {
        timer_fired(http);
    }
}

static void http_close(struct remote *remote)
{
    struct http *http = http_from_remote(remote);
    event_timer_destroy(http->timer);
    if (http->uri != NULL) {
        explicit_bzero(http->uri, strlen(http->uri));
    }
    free(http->uri);
}

static const struct remote_ops http_ops = {
    .block = REMOTE_BLOCK_OPS("http"),
    .connect = http_connect,
    .start = http_start,
    .disconnect = http_disconnect,
    .wait = http_wait,
    .close = http_close,
};

int http_open_uri(const char *uri, const struct block_remote_options *options,
                  struct event_loop *loop, struct block **out_block, struct error *err)
{
    static bool is_ready;
    char people[256];
    if (!options->is_readonly) {
        return error_set(err, EROFS, "disk %s: HTTP is for reading only",
                         block_uri_for_people(uri, people, sizeof(people)));
    }
    int rc = library_load(&library, "HTTP", err);
    if (rc == 0 && !is_ready && lib.curl_global_init(CURL_GLOBAL_ALL) != CURLE_OK) {
        rc = error_set(err, ENOMEM, "starting libcurl");
    }
    if (rc < 0) {
        return rc;
    }
    is_ready = true;
    struct http *http = remote_new(sizeof(*http), &http_ops, uri, options, loop, err);
    if (http == NULL) {
        return -ENOMEM;
    }
    http->remote.has_own_timeouts = true;
    http->uri = strdup(uri);
    rc = http->uri == NULL ? error_set_errno(err, ENOMEM, "disk %s", http->remote.block.name)
                           : event_timer_create(loop, timer_fired, http, &http->timer, err);
    if (rc < 0) {
        remote_close(&http->remote.block);
        return rc;
    }
    return remote_open(&http->remote, out_block, err);
}
