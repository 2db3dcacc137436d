/* From a request to its answer. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/host/file.h"
#include "base/host/log.h"
#include "manager/api/server.h"
#include "manager/operation/code.h"

void http_forget(struct connection *connection)
{
    if (connection->watch != NULL) {
        operation_watch_cancel(connection->watch);
        connection->watch = NULL;
    }
    json_decref(connection->query);
    connection->query = NULL;
    free(connection->match);
    connection->match = NULL;
    free(connection->body);
    connection->body = NULL;
    free(connection->answer);
    connection->answer = NULL;
    connection->answer_size = connection->answer_sent = 0;
}

/* Nothing more is read of this client until the answer is on its way: what comes is its next request. */
static void pause_reading(struct connection *connection)
{
    (void)lws_rx_flow_control(connection->lws, 0); /* fails for a socket that is gone */
}

static void go_on_reading(struct connection *connection)
{
    (void)lws_rx_flow_control(connection->lws, 1);
}

/* Takes 'text' over: malloc'ed, NULL: no memory. 'extra': header lines. */
static int answer(struct connection *connection, int status, const char *type, const char *extra,
                  char *text)
{
    bool is_head = connection->match != NULL && connection->match->is_head;
    size_t size = text == NULL ? 0 : strlen(text);
    char head[512];
    int length = snprintf(head, sizeof(head),
                          "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n"
                          "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n%s%s\r\n",
                          status, api_status_words(status), type, size, extra,
                          connection->closes ? "Connection: close\r\n" : "");
    free(connection->answer);
    connection->answer_size = (size_t)length + (is_head ? 0 : size);
    connection->answer = length < (int)sizeof(head) ? malloc(connection->answer_size) : NULL;
    connection->answer_sent = 0;
    if (connection->answer == NULL || text == NULL) {
        free(text);
        return -1;
    }
    memcpy(connection->answer, head, (size_t)length);
    if (!is_head) {
        memcpy(connection->answer + length, text, size);
    }
    free(text);
    connection->state = CONNECTION_ANSWERING;
    connection->server->counters.failures += status >= 500;
    lws_set_timer_usecs(connection->lws, LWS_SET_TIMER_USEC_CANCEL);
    lws_set_timeout(connection->lws, PENDING_TIMEOUT_HTTP_CONTENT, SERVER_ANSWER_S);
    lws_callback_on_writable(connection->lws);
    return 0;
}

static int answer_json(struct connection *connection, int status, const char *extra,
                       const json_t *value)
{
    char *text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
    size_t size = text == NULL ? 0 : strlen(text);
    char *line = text == NULL ? NULL : realloc(text, size + 2);
    if (line == NULL) {
        free(text);
        return -1;
    }
    memcpy(line + size, "\n", 2);
    return answer(connection, status, "application/json", extra, line);
}

static int answer_error(struct connection *connection, int status, const char *extra,
                        const char *code, const struct error *err)
{
    json_t *error = operation_error(err);
    if (error != NULL && code != NULL) {
        (void)json_object_set_new(error, "code", json_string(code)); /* the other one stays */
    }
    json_t *body = error == NULL ? NULL : json_pack("{s:o}", "error", error);
    int rc = body == NULL ? -1 : answer_json(connection, status, extra, body);
    json_decref(body);
    return rc;
}

static int answer_failure(struct connection *connection, const struct error *err)
{
    int status = api_status(err->code);
    if (status == 500) {
        log_error("api: %s %s: %s", connection->match->route->method,
                  connection->match->route->path, err->text);
    }
    return answer_error(connection, status, "", NULL, err);
}

static bool has_ended(const json_t *operation)
{
    const char *status = json_string_value(json_object_get(operation, "status"));
    return status == NULL || (strcmp(status, "waiting") != 0 && strcmp(status, "running") != 0);
}

static int answer_operation(struct connection *connection, const json_t *operation)
{
    char extra[96];
    snprintf(extra, sizeof(extra), "Location: /v1/operations/%s\r\n", connection->operation);
    int status = connection->status != 0 ? connection->status : has_ended(operation) ? 200 : 202;
    return answer_json(connection, status, extra, operation);
}

/* As it is now. */
static int answer_its_operation(struct connection *connection)
{
    struct error err = {0};
    json_t *operation = NULL;
    if (operations_get(connection->server->manager->operations, connection->operation, &operation,
                       &err) < 0) {
        return answer_failure(connection, &err);
    }
    int rc = answer_operation(connection, operation);
    json_decref(operation);
    return rc;
}

static void operation_ended(void *ctx, const json_t *operation)
{
    struct connection *connection = ctx;
    connection->watch = NULL;
    go_on_reading(connection);
    if (answer_operation(connection, operation) < 0) {
        lws_set_timeout(connection->lws, PENDING_TIMEOUT_HTTP_CONTENT, LWS_TO_KILL_ASYNC);
    }
}

static int begin_waiting(struct connection *connection)
{
    struct error err = {0};
    if (operations_watch(connection->server->manager->operations, connection->operation,
                         operation_ended, connection, &connection->watch, &err) < 0) {
        return answer_failure(connection, &err);
    }
    connection->state = CONNECTION_WAITING;
    pause_reading(connection);
    lws_set_timeout(connection->lws, NO_PENDING_TIMEOUT, 0);
    lws_set_timer_usecs(connection->lws, (lws_usec_t)connection->wait_s * LWS_USEC_PER_SEC);
    return 0;
}

static int write_chunk(struct connection *connection)
{
    unsigned char *chunk = connection->server->chunk + LWS_PRE;
    size_t size = MIN(connection->answer_size - connection->answer_sent, SERVER_CHUNK);
    memcpy(chunk, connection->answer + connection->answer_sent, size);
    connection->answer_sent += size;
    return lws_write(connection->lws, chunk, size, LWS_WRITE_HTTP) < 0 ? -1 : 0;
}

/* Calls the route's function. */
static int run_route(struct connection *connection, const json_t *body, struct api_call *call,
                     struct error *err)
{
    *call = (struct api_call){.manager = connection->server->manager,
                              .words = connection->match->words,
                              .query = connection->query,
                              .body = body,
                              .is_local = connection->is_local,
                              .session_fd = -1};
    int rc = connection->match->route->fn(call, err);
    if (rc < 0) {
        json_decref(call->answer);
        free(call->text);
        if (call->session_fd >= 0) {
            close(call->session_fd);
        }
    }
    return rc;
}

static int serve(struct connection *connection, const json_t *body)
{
    struct error err = {0};
    struct api_call call;
    if (run_route(connection, body, &call, &err) < 0) {
        return answer_failure(connection, &err);
    }
    connection->status = call.status;
    if (call.operation[0] != '\0') {
        memcpy(connection->operation, call.operation, sizeof(connection->operation));
        return connection->wait_s > 0 ? begin_waiting(connection)
                                      : answer_its_operation(connection);
    }
    int status = call.status != 0 ? call.status : 200;
    if (call.text != NULL) {
        return answer(connection, status, "text/plain; version=0.0.4; charset=utf-8", "",
                      call.text);
    }
    json_t *value = call.answer != NULL ? call.answer : json_object();
    int rc = value == NULL ? -1 : answer_json(connection, status, "", value);
    json_decref(value);
    return rc;
}

/* The rest of the answer at once: lws keeps what the socket does not take, and closes the connection behind it. */
static int write_whole(struct connection *connection)
{
    while (connection->answer_sent < connection->answer_size && write_chunk(connection) == 0) {
    }
    return -1;
}

static int serve_body(struct connection *connection)
{
    struct error err = {0};
    json_t *body = NULL;
    if (body_parse(connection->server->catalog, connection->match->route, connection->body,
                   connection->body_size, &body, &err) < 0) {
        return answer_failure(connection, &err);
    }
    int rc = serve(connection, body);
    json_decref(body);
    return rc;
}

int http_body_end(struct connection *connection)
{
    bool is_again = connection->has_ended_body;
    connection->has_ended_body = true;
    if (is_again && connection->state == CONNECTION_ANSWERING) {
        /* The client's next request is there already, and lws would come back here and never write. */
        connection->closes = true;
        return write_whole(connection);
    }
    return connection->state == CONNECTION_BODY ? serve_body(connection) : 0;
}

int http_body(struct connection *connection, const void *data, size_t size)
{
    if (connection->state != CONNECTION_BODY) {
        return 0; /* answered already */
    }
    if (size > connection->body_length - connection->body_size) {
        return -1;
    }
    memcpy(connection->body + connection->body_size, data, size);
    connection->body_size += size;
    return 0;
}

/* The length that is announced; -1: none is, -2: what there is cannot be used. */
static long long find_length(struct lws *lws)
{
    char text[16];
    if (lws_hdr_total_length(lws, WSI_TOKEN_HTTP_TRANSFER_ENCODING) > 0) {
        return -2;
    }
    if (lws_hdr_total_length(lws, WSI_TOKEN_HTTP_CONTENT_LENGTH) == 0) {
        return -1;
    }
    int length = lws_hdr_copy(lws, text, sizeof(text), WSI_TOKEN_HTTP_CONTENT_LENGTH);
    if (length <= 0 || strspn(text, "0123456789") != (size_t)length) {
        return -2;
    }
    return atoll(text);
}

static const char *find_method(struct lws *lws)
{
    static const struct {
        enum lws_token_indexes token;
        const char *name;
    } rows[] = {
        {WSI_TOKEN_GET_URI, "GET"},         {WSI_TOKEN_POST_URI, "POST"},
        {WSI_TOKEN_PUT_URI, "PUT"},         {WSI_TOKEN_DELETE_URI, "DELETE"},
        {WSI_TOKEN_PATCH_URI, "PATCH"},     {WSI_TOKEN_HEAD_URI, "HEAD"},
        {WSI_TOKEN_OPTIONS_URI, "OPTIONS"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        if (lws_hdr_total_length(lws, rows[i].token) > 0) {
            return rows[i].name;
        }
    }
    return NULL;
}

static int copy_path(struct lws *lws, char path[API_MAX_PATH], struct error *err)
{
    char *text = NULL;
    int length = 0;
    /* lws takes %0a and %0d for the end of the line: what follows them is lost, the version of HTTP too. */
    if (lws_hdr_total_length(lws, WSI_TOKEN_HTTP) == 0) {
        return error_set(err, EINVAL, "path: it has a line break");
    }
    if (lws_http_get_uri_and_method(lws, &text, &length) < 0 || length <= 0 ||
        length >= API_MAX_PATH || memchr(text, '\0', (size_t)length) != NULL) {
        return error_set(err, EINVAL, "path: at most %d bytes", API_MAX_PATH - 1);
    }
    memcpy(path, text, (size_t)length);
    path[length] = '\0';
    return 0;
}

static int read_query(struct connection *connection, struct error *err)
{
    const struct api_route *route = connection->match->route;
    connection->query = json_object();
    if (connection->query == NULL) {
        return error_set_errno(err, ENOMEM, "reading a query");
    }
    char part[API_MAX_PATH];
    int length;
    for (int i = 0; (length = lws_hdr_copy_fragment(connection->lws, part, sizeof(part),
                                                    WSI_TOKEN_HTTP_URI_ARGS, i)) >= 0;
         i++) {
        int rc = length == 0 ? 0 : query_add(route, connection->query, part, err);
        if (rc < 0) {
            return rc;
        }
    }
    if (length == -2) {
        return error_set(err, EINVAL, "query: a parameter has more than %d bytes",
                         API_MAX_PATH - 1);
    }
    return query_wait(connection->query, &connection->wait_s, err);
}

/* Finds the route, and reads the query. 0: done; 1: answered; -1. */
static int find_route(struct connection *connection, const char *method)
{
    struct error err = {0};
    char path[API_MAX_PATH], extra[96] = "";
    const char *code = NULL;
    int status = 0;
    connection->match = calloc(1, sizeof(*connection->match));
    if (method == NULL || connection->match == NULL) {
        return -1;
    }
    if (copy_path(connection->lws, path, &err) < 0) {
        status = api_status(err.code);
    } else if (api_catalog_find(connection->server->catalog, method, path, connection->match,
                                &err) < 0) {
        status = api_status(err.code);
        if (err.code == EPERM) {
            snprintf(extra, sizeof(extra), "Allow: %s\r\n", connection->match->allow);
            status = 405;
            code = "method-not-allowed";
        }
    } else if (read_query(connection, &err) < 0) {
        status = api_status(err.code);
    }
    if (status == 0) {
        return 0;
    }
    return answer_error(connection, status, extra, code, &err) < 0 ? -1 : 1;
}

static bool is_socket(const struct api_route *route)
{
    return route->kind == API_EVENTS || route->kind == API_SESSION;
}

static int begin_body(struct connection *connection, size_t length)
{
    connection->state = CONNECTION_BODY;
    connection->body_size = 0;
    connection->body_length = length;
    if (length == 0) {
        return serve_body(connection);
    }
    connection->body = malloc(length);
    lws_set_timer_usecs(connection->lws, (lws_usec_t)SERVER_REQUEST_S * LWS_USEC_PER_SEC);
    return connection->body == NULL ? -1 : 0;
}

int http_begin(struct connection *connection)
{
    struct error err = {0};
    const char *method = find_method(connection->lws);
    long long length = find_length(connection->lws);
    http_forget(connection);
    connection->state = CONNECTION_IDLE;
    connection->has_ended_body = false;
    connection->server->counters.requests++;
    if (length == -2 || length > API_MAX_BODY) {
        bool is_big = length > 0;
        connection->closes = true;
        error_ignore(is_big
                         ? error_set(&err, EINVAL, "body: at most %d bytes", API_MAX_BODY)
                         : error_set(&err, EINVAL, "body: its length has to be said by a number"));
        return answer_error(connection, is_big ? 413 : 411, "",
                            is_big ? "too-large" : "length-required", &err);
    }
    /* Where these say no length lws waits for more without end. */
    connection->closes =
        length < 0 && method != NULL &&
        (strcmp(method, "POST") == 0 || strcmp(method, "PUT") == 0 || strcmp(method, "PATCH") == 0);
    int rc = find_route(connection, method);
    if (rc != 0) {
        return rc < 0 ? -1 : 0;
    }
    if (is_socket(connection->match->route)) {
        error_ignore(error_set(&err, EINVAL, "%s: a WebSocket: ask for an upgrade",
                               connection->match->route->path));
        return answer_error(connection, 426, "Upgrade: websocket\r\n", "upgrade-required", &err);
    }
    return begin_body(connection, length < 0 ? 0 : (size_t)length);
}

static int begin_socket(struct connection *connection, struct error *err)
{
    const struct api_route *route = connection->match->route;
    if (!is_socket(route)) {
        return error_set(err, EINVAL, "%s: no WebSocket", route->path);
    }
    if (route->kind == API_EVENTS) {
        return events_create(connection,
                             json_string_value(json_object_get(connection->query, "type")), err);
    }
    struct api_call call;
    int rc = run_route(connection, NULL, &call, err);
    if (rc < 0) {
        return rc;
    }
    json_decref(call.answer);
    free(call.text);
    return call.session_fd < 0 ? error_set(err, EIO, "%s: there is no session", route->path)
                               : session_create(connection, call.session_fd, err);
}

int http_upgrade(struct connection *connection)
{
    struct error err = {0};
    http_forget(connection);
    connection->state = CONNECTION_IDLE;
    connection->closes = true;
    connection->server->counters.requests++;
    const char *method = find_method(connection->lws);
    int rc = find_route(connection, method);
    if (rc == 0 && begin_socket(connection, &err) < 0) {
        rc = answer_failure(connection, &err) < 0 ? -1 : 1;
    }
    if (rc <= 0) {
        return rc;
    }
    /* What says no to an upgrade is small, and written at once. lws closes the connection then. */
    connection->state = CONNECTION_IDLE;
    return write_chunk(connection) < 0 ? -1 : 1;
}

/* The socket takes no more: to be called again when it does. Meanwhile lws must not see what the client sends, or it would not wait. */
static void can_write_again(void *ctx, int fd, uint32_t events)
{
    struct connection *connection = ctx;
    event_source_remove(connection->writable);
    connection->writable = NULL;
    go_on_reading(connection);
    lws_callback_on_writable(connection->lws);
}

static int wait_until_writable(struct connection *connection)
{
    pause_reading(connection);
    lws_set_timeout(connection->lws, PENDING_TIMEOUT_HTTP_CONTENT, SERVER_ANSWER_S);
    return event_loop_add_fd(connection->server->manager->loop, lws_get_socket_fd(connection->lws),
                             EPOLLOUT, can_write_again, connection, &connection->writable, NULL);
}

/* Has lws read more than the request that was answered? A second one is not served: where it has a body, lws takes its head for the body. lws does not say so
 * itself, but whether anybody is to be served without waiting, which it does not count while their reading is paused. */
static bool has_more(struct connection *connection)
{
    struct lws_context *context = connection->server->context;
    bool does_wait = lws_service_adjust_timeout(context, 1, 0) != 0;
    if (does_wait) {
        return false;
    }
    pause_reading(connection);
    bool do_others = lws_service_adjust_timeout(context, 1, 0) == 0;
    go_on_reading(connection);
    return !do_others;
}

int http_write(struct connection *connection)
{
    if (connection->state != CONNECTION_ANSWERING || connection->writable != NULL) {
        return 0;
    }
    while (connection->answer_sent < connection->answer_size) {
        if (write_chunk(connection) < 0) {
            return -1;
        }
        if (connection->answer_sent < connection->answer_size &&
            lws_send_pipe_choked(connection->lws)) {
            return wait_until_writable(connection);
        }
    }
    http_forget(connection);
    connection->state = CONNECTION_IDLE;
    if (has_more(connection)) {
        connection->closes = true;
    }
    return connection->closes || lws_http_transaction_completed(connection->lws) != 0 ? -1 : 0;
}

int http_timer(struct connection *connection)
{
    if (connection->state == CONNECTION_BODY) {
        return -1;
    }
    if (connection->state != CONNECTION_WAITING) {
        return 0;
    }
    operation_watch_cancel(connection->watch);
    connection->watch = NULL;
    go_on_reading(connection);
    return answer_its_operation(connection);
}

int api_begin(struct api_call *call, const char *kind, const char *description,
              const char *const *resources, json_t *request, struct error *err)
{
    const struct operation_spec spec = {
        .kind = kind, .description = description, .resources = resources, .request = request};
    return operations_begin(call->manager->operations, &spec, call->operation, err);
}
