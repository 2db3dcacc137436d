/* The API: routes as rows of tables, from which hulld serves and describes itself (OpenAPI 3.1).
 *
 *   - Answers are the object or array itself. Errors: {"error":{"code":"not-found","message":"..."}} with the HTTP status of
 *     the code.
 *   - What takes time answers 202 with the operation's document, and "Location: /v1/operations/ID"; with ?wait=SECONDS it
 *     answers when it has ended, or then.
 *   - A WebSocket of a session carries the frames of session/frames.h as binary messages; that of events one JSON object a
 *     text message.
 *
 * Handlers run on the loop's thread and do not block. */
#ifndef MANAGER_API_API_H
#define MANAGER_API_API_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/core/error.h"
#include "manager/manager.h"

struct api_call {
    struct manager *manager;
    const char *const *words; /* of the path, what stood for {..}, decoded; NULL at the end */
    const json_t *query;      /* object of strings */
    const json_t *body;       /* NULL: none. Checked against the route's schema */
    bool is_local;            /* by the unix socket */
    /* The answer. */
    int status;                        /* 0: 200 */
    json_t *answer;                    /* a new reference; NULL: {} */
    char *text;                        /* in place of 'answer': text/plain; malloc'ed */
    char operation[OPERATION_ID_SIZE]; /* not "": the answer is that operation */
    int session_fd; /* is_socket: a SOCK_SEQPACKET socket that speaks session/frames.h; taken over */
};
/* -errno becomes a status: EINVAL 400, EACCES and EPERM 403, ENOENT 404, EEXIST, EBUSY, ESRCH, EALREADY 409, EPROTONOSUPPORT
 * 501, ENOSPC 507, else 500. */
typedef int (*api_fn)(struct api_call *call, struct error *err);

struct api_query {
    const char *name, *help;
};

enum api_kind {
    API_PLAIN,
    API_OPERATION, /* answers with call->operation */
    API_SESSION,   /* WebSocket, call->session_fd */
    API_EVENTS,    /* WebSocket of events */
    API_TEXT,
};

struct api_route {
    const char *method, *path; /* "GET", "/v1/instances/{name}" */
    const char *id;            /* "getInstance": OpenAPI's operationId */
    const char *summary;       /* one sentence */
    enum api_kind kind;
    const char *body, *answer; /* names of schemas; NULL: none. "[Instance]" is an array of them */
    const struct api_query *query; /* ends with a row without a name; may be NULL */
    api_fn fn;
};
/* JSON Schemas (2020-12), as JSON text. */
struct api_schema {
    const char *name, *text;
};
/* Each object room gives both; tables end with rows of zeros. */
extern const struct api_route instance_routes[], image_routes[], network_routes[], pool_routes[],
    system_routes[], check_routes[], transfer_routes[];
extern const struct api_schema instance_schemas[], image_schemas[], network_schemas[],
    pool_schemas[], system_schemas[], check_schemas[], transfer_schemas[];

/* Begins an operation and makes it the call's answer. */
int must_check api_begin(struct api_call *call, const char *kind, const char *description,
                         const char *const *resources, json_t *request, struct error *err);

struct api_server;
struct api_server_options {
    struct manager *manager;
    /* Listened on with mode 0660 (root: group "hull" if there is one), or 0600 for users. */
    const char *socket_path;
    int socket_fd;           /* of systemd's socket activation; -1: none */
    const char *tls_address; /* "[::]:8443"; NULL: none */
    const char *certificate, *key,
        *client_ca; /* PEM files: clients without a certificate of that CA are refused */
};
int must_check api_server_create(const struct api_server_options *options,
                                 struct api_server **out_server, struct error *err);
void api_server_destroy(struct api_server *server);
/* Serves, and runs the manager's loop, until event_loop_stop. */
int must_check api_server_run(struct api_server *server, struct error *err);
/* To all who listen. Borrowed. */
void api_server_event(struct api_server *server, const json_t *event);
/* What it has done and has now, for metrics and for whoever ends when nobody is left. */
struct api_counters {
    uint64_t requests, failures,
        refused; /* failures: answers of 500 and above; refused: connections too many */
    unsigned connections, listeners, sessions;
};
void api_server_counters(const struct api_server *server, struct api_counters *out_counters);
/* The description of all routes: a new reference. */
json_t *api_openapi(void);

#endif
