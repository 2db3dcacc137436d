/* WebSockets: events to all who listen, and sessions between a client and its worker. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/host/log.h"
#include "manager/api/server.h"

int events_create(struct connection *connection, const char *types, struct error *err)
{
    struct event_queue *queue = calloc(1, sizeof(*queue));
    if (queue == NULL) {
        return error_set_errno(err, ENOMEM, "events");
    }
    if (types != NULL && types[0] != '\0') {
        int length = snprintf(queue->types, sizeof(queue->types), ",%s,", types);
        if (length >= (int)sizeof(queue->types)) {
            free(queue);
            return error_set(err, EINVAL, "query: type: at most %zu bytes",
                             sizeof(queue->types) - 3);
        }
    }
    connection->events = queue;
    return 0;
}

static void text_release(struct event_text *text)
{
    if (--text->references == 0) {
        free(text);
    }
}

static bool wants(const struct event_queue *queue, const char *type)
{
    if (queue->types[0] == '\0') {
        return true;
    }
    const char *found = queue->types;
    size_t length = strlen(type);
    while ((found = strstr(found, type)) != NULL) {
        if (found[-1] == ',' && found[length] == ',') {
            return true;
        }
        found++;
    }
    return false;
}

static void queue_add(struct connection *connection, struct event_text *text)
{
    struct event_queue *queue = connection->events;
    if (queue->count == SERVER_MAX_EVENTS || queue->bytes + text->size > SERVER_MAX_EVENT_BYTES) {
        static struct log_limit limit = LOG_LIMIT(3);
        log_limited(&limit, LOG_LEVEL_WARNING,
                    "api: a listener does not take its events, closed its connection");
        lws_set_timeout(connection->lws, PENDING_TIMEOUT_CLOSE_SEND, LWS_TO_KILL_ASYNC);
        return;
    }
    queue->texts[(queue->first + queue->count) % SERVER_MAX_EVENTS] = text;
    queue->count++;
    queue->bytes += text->size;
    text->references++;
    lws_callback_on_writable(connection->lws);
}

void api_server_event(struct api_server *server, const json_t *event)
{
    if (server == NULL || server->counters.listeners == 0) {
        return;
    }
    const char *type = json_string_value(json_object_get(event, "type"));
    size_t size = json_dumpb(event, NULL, 0, JSON_COMPACT);
    struct event_text *text = size == 0 ? NULL : malloc(sizeof(*text) + LWS_PRE + size);
    if (text == NULL) {
        return; /* an event that cannot be told is lost, as it is for those who come later */
    }
    *text = (struct event_text){.references = 1, .size = size};
    if (json_dumpb(event, (char *)text->data + LWS_PRE, size, JSON_COMPACT) == size) {
        for (struct connection *one = server->connections; one != NULL; one = one->next) {
            if (one->state == CONNECTION_EVENTS && wants(one->events, type != NULL ? type : "")) {
                queue_add(one, text);
            }
        }
    }
    text_release(text);
}

static int events_write(struct connection *connection)
{
    struct event_queue *queue = connection->events;
    if (queue->count == 0) {
        return 0;
    }
    struct event_text *text = queue->texts[queue->first];
    queue->first = (queue->first + 1) % SERVER_MAX_EVENTS;
    queue->count--;
    queue->bytes -= text->size;
    int rc = lws_write(connection->lws, text->data + LWS_PRE, text->size, LWS_WRITE_TEXT);
    text_release(text);
    if (queue->count > 0) {
        lws_callback_on_writable(connection->lws);
    }
    return rc < 0 ? -1 : 0;
}

static void end_session(struct session_bridge *session)
{
    event_source_remove(session->source);
    session->source = NULL;
    if (session->fd >= 0) {
        close(session->fd);
        session->fd = -1;
    }
    session->is_ended = true;
}

/* The worker's descriptor is waited for as far as there is room for what it sends and something for it. */
static void watch_worker(struct session_bridge *session)
{
    if (session->source != NULL) {
        event_source_set_events(session->source, (session->out_size == 0 ? EPOLLIN : 0) |
                                                     (session->in_is_whole ? EPOLLOUT : 0));
    }
}

static void receive_of_worker(struct connection *connection)
{
    struct session_bridge *session = connection->session;
    ssize_t got =
        recv(session->fd, session->out + LWS_PRE, SERVER_FRAME_SIZE, MSG_DONTWAIT | MSG_TRUNC);
    /* ECONNRESET is told once, before what the worker has sent, if it did not read all that was sent to it. */
    if (got < 0 && (errno == EAGAIN || errno == EINTR || errno == ECONNRESET)) {
        return;
    }
    if (got > (ssize_t)SERVER_FRAME_SIZE) {
        log_error("api: a session's worker sent a frame of %zd bytes, ending it", got);
    }
    if (got <= 0 || got > (ssize_t)SERVER_FRAME_SIZE) {
        end_session(session);
    } else {
        session->out_size = (size_t)got;
    }
    lws_callback_on_writable(connection->lws);
}

static void send_to_worker(struct connection *connection)
{
    struct session_bridge *session = connection->session;
    ssize_t sent = send(session->fd, session->in, session->in_size, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0 && (errno == EAGAIN || errno == EINTR || errno == ENOBUFS)) {
        return;
    }
    /* A worker that is gone has ended the session; what it sent before is still read. */
    session->in_size = 0;
    session->in_is_whole = false;
    (void)lws_rx_flow_control(connection->lws, 1); /* fails for a socket that is gone */
}

static void worker_ready(void *ctx, int fd, uint32_t events)
{
    struct connection *connection = ctx;
    struct session_bridge *session = connection->session;
    if (session->in_is_whole && (events & (EPOLLOUT | EPOLLERR | EPOLLHUP))) {
        send_to_worker(connection);
    }
    if (session->out_size == 0 && (events & (EPOLLIN | EPOLLERR | EPOLLHUP))) {
        receive_of_worker(connection);
    } else if ((events & EPOLLHUP) && session->out_size > 0) {
        /* Told again and again, whatever is waited for: until there is room it is not asked. */
        event_source_remove(session->source);
        session->source = NULL;
        return;
    }
    watch_worker(session);
}

static int watch_begin(struct connection *connection)
{
    struct session_bridge *session = connection->session;
    return event_loop_add_fd(connection->server->manager->loop, session->fd, EPOLLIN, worker_ready,
                             connection, &session->source, NULL);
}

int session_create(struct connection *connection, int fd, struct error *err)
{
    struct session_bridge *session = malloc(sizeof(*session));
    if (session == NULL) {
        close(fd);
        return error_set_errno(err, ENOMEM, "session");
    }
    session->fd = fd;
    session->source = NULL;
    session->is_ended = session->in_is_whole = false;
    session->out_size = session->in_size = 0;
    connection->session = session;
    return 0;
}

static int refuse_message(struct connection *connection, enum lws_close_status status,
                          const char *why)
{
    lws_close_reason(connection->lws, status, (unsigned char *)why, strlen(why));
    return -1;
}

static int session_receive_part(struct connection *connection, const void *data, size_t size)
{
    struct session_bridge *session = connection->session;
    if (session->is_ended) {
        return 0;
    }
    if (!lws_frame_is_binary(connection->lws)) {
        return refuse_message(connection, LWS_CLOSE_STATUS_UNACCEPTABLE_OPCODE,
                              "frames are binary messages");
    }
    if (size > SERVER_FRAME_SIZE - session->in_size) {
        return refuse_message(connection, LWS_CLOSE_STATUS_MESSAGE_TOO_LARGE, "a frame is too big");
    }
    memcpy(session->in + session->in_size, data, size);
    session->in_size += size;
    if (lws_remaining_packet_payload(connection->lws) > 0 ||
        !lws_is_final_fragment(connection->lws)) {
        return 0;
    }
    if (session->in_size == 0 || session->in[0] > SESSION_CONTROL) {
        return refuse_message(connection, LWS_CLOSE_STATUS_PROTOCOL_ERR, "no frame of a session");
    }
    session->in_is_whole = true;
    send_to_worker(connection);
    if (session->in_is_whole) {
        (void)lws_rx_flow_control(connection->lws, 0); /* fails for a socket that is gone */
    }
    watch_worker(session);
    return 0;
}

static int session_write(struct connection *connection)
{
    struct session_bridge *session = connection->session;
    if (session->out_size > 0) {
        int rc =
            lws_write(connection->lws, session->out + LWS_PRE, session->out_size, LWS_WRITE_BINARY);
        session->out_size = 0;
        if (rc < 0) {
            return -1;
        }
        if (session->source == NULL && !session->is_ended && watch_begin(connection) < 0) {
            return -1;
        }
        watch_worker(session);
    }
    if (session->is_ended) {
        return refuse_message(connection, LWS_CLOSE_STATUS_NORMAL, "");
    }
    return 0;
}

int socket_begin(struct connection *connection)
{
    http_forget(connection);
    if (connection->events != NULL) {
        connection->state = CONNECTION_EVENTS;
        connection->server->counters.listeners++;
        return 0;
    }
    connection->state = CONNECTION_SESSION;
    connection->server->counters.sessions++;
    return watch_begin(connection) < 0 ? -1 : 0;
}

int socket_receive(struct connection *connection, const void *data, size_t size)
{
    return connection->state == CONNECTION_SESSION ? session_receive_part(connection, data, size)
                                                   : 0; /* who listens has nothing to say */
}

int socket_write(struct connection *connection)
{
    return connection->state == CONNECTION_SESSION ? session_write(connection)
                                                   : events_write(connection);
}

void socket_forget(struct connection *connection)
{
    struct api_counters *counters = &connection->server->counters;
    counters->listeners -= connection->state == CONNECTION_EVENTS;
    counters->sessions -= connection->state == CONNECTION_SESSION;
    struct event_queue *queue = connection->events;
    for (; queue != NULL && queue->count > 0; queue->count--) {
        text_release(queue->texts[queue->first]);
        queue->first = (queue->first + 1) % SERVER_MAX_EVENTS;
    }
    free(queue);
    if (connection->session != NULL) {
        end_session(connection->session);
        free(connection->session);
    }
    connection->events = NULL;
    connection->session = NULL;
}
