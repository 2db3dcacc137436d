/* The server's own parts. HTTP and WebSocket are libwebsockets'; what it does not do well is done here:
 *
 *   - Its build has no callbacks for other event loops. So it waits (api_server_run), and our loop is one of its descriptors.
 *   - Connections are accepted here: how many, whose, and with which socket options.
 *   - It does not keep its hands off a request that comes before the last one is answered: reading is paused while an answer
 *     has to wait, and a client that
 *     sends one is closed behind its answer, as HTTP allows.
 *
 * A connection belongs to its lws; both end with LWS_CALLBACK_WSI_DESTROY. */
#ifndef MANAGER_API_SERVER_H
#define MANAGER_API_SERVER_H

#include <libwebsockets.h>
#include <sys/types.h>

#include "manager/api/api.h"
#include "manager/api/catalog.h"
#include "session/frames.h"

#define SERVER_MAX_CONNECTIONS 512
#define SERVER_MAX_OF_USER     128 /* of another user than hulld's */
#define SERVER_CHUNK           16384
/* A request has to be there, and an answer to go on, within these. */
#define SERVER_REQUEST_S 60
#define SERVER_ANSWER_S  30
/* Of events that a slow listener has not taken yet. */
#define SERVER_MAX_EVENTS      1024
#define SERVER_MAX_EVENT_BYTES (4u << 20)
#define SERVER_MAX_LISTENERS   4
/* A frame: its kind, and its payload. */
#define SERVER_FRAME_SIZE (1 + SESSION_MAX_PAYLOAD)

enum connection_state {
    CONNECTION_IDLE,
    CONNECTION_BODY,    /* a request is under way */
    CONNECTION_WAITING, /* for an operation's end */
    CONNECTION_ANSWERING,
    CONNECTION_EVENTS,
    CONNECTION_SESSION,
};

/* One text for all listeners. */
struct event_text {
    unsigned references;
    size_t size;
    unsigned char data[]; /* behind LWS_PRE bytes */
};

struct event_queue {
    char types[128]; /* ",instance,operation,"; "": all */
    struct event_text *texts[SERVER_MAX_EVENTS];
    unsigned first, count;
    size_t bytes;
};

struct session_bridge {
    int fd;
    struct event_source *source;
    bool is_ended;   /* by the worker */
    size_t out_size; /* to the client: 0: nothing */
    size_t in_size;  /* from the client, what is there of the message */
    bool in_is_whole;
    unsigned char out[LWS_PRE + SERVER_FRAME_SIZE];
    unsigned char in[SERVER_FRAME_SIZE];
};

struct connection {
    struct api_server *server;
    struct lws *lws;
    struct connection *next, *previous;
    bool is_local;
    uid_t uid;
    pid_t pid;
    enum connection_state state;
    struct event_source *writable; /* while reading is paused until more can be written */

    /* The request. */
    struct route_match *match; /* NULL: none */
    json_t *query;
    char *body;
    size_t body_size, body_length; /* what is there, what is announced */
    bool has_ended_body;
    int wait_s;
    struct operation_watch *watch;
    char operation[OPERATION_ID_SIZE];
    int status; /* what the route said */

    /* The answer. */
    bool closes; /* the connection is of no use after it */
    unsigned char *answer;
    size_t answer_size, answer_sent;

    struct event_queue *events;
    struct session_bridge *session;
};

struct listener {
    struct api_server *server;
    struct event_source *source;
    int fd;
    struct lws_vhost *vhost;
    bool is_local;
};

struct api_server {
    struct manager *manager;
    struct api_catalog *catalog;
    struct lws_context *context;
    struct lws_vhost *local, *remote;
    struct lws *loop_lws;
    struct listener listeners[SERVER_MAX_LISTENERS];
    unsigned listener_count;
    char socket_path[PLACE_MAX_PATH]; /* to be removed at the end; "": none */
    struct connection *connections;
    struct api_counters counters;
    bool is_stopped;
    struct error failure; /* of the loop */
    unsigned char chunk[LWS_PRE + SERVER_CHUNK];
};

/* listen.c */
int must_check listeners_create(struct api_server *server, const struct api_server_options *options,
                                struct error *err);
void listeners_destroy(struct api_server *server);

/* http.c. What these return is lws's: not 0 closes the connection. */
int http_begin(struct connection *connection);
int http_body(struct connection *connection, const void *data, size_t size);
int http_body_end(struct connection *connection);
int http_write(struct connection *connection);
int http_timer(struct connection *connection);
/* A request for a WebSocket: 0 goes on, 1: answered, -1: hang up. */
int http_upgrade(struct connection *connection);
void http_forget(struct connection *connection);

/* websocket.c */
int socket_begin(struct connection *connection);
int socket_receive(struct connection *connection, const void *data, size_t size);
int socket_write(struct connection *connection);
void socket_forget(struct connection *connection);
/* By the routes' kinds, before there is a WebSocket. */
int must_check events_create(struct connection *connection, const char *types, struct error *err);
int must_check session_create(struct connection *connection, int fd, struct error *err);

#endif
