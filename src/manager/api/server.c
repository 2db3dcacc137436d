#include "manager/api/server.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/host/log.h"

#define PROTOCOL_NAME "hull"

static void forget(struct connection *connection)
{
    struct api_server *server = connection->server;
    event_source_remove(connection->writable);
    http_forget(connection);
    socket_forget(connection);
    if (connection->previous != NULL) {
        connection->previous->next = connection->next;
    } else {
        server->connections = connection->next;
    }
    if (connection->next != NULL) {
        connection->next->previous = connection->previous;
    }
    server->counters.connections--;
    free(connection);
}

static void run_loop(struct api_server *server)
{
    if (event_loop_turn(server->manager->loop, &server->is_stopped, &server->failure) < 0) {
        server->is_stopped = true;
    }
}

/* By the unix socket, or with a certificate that OpenSSL has verified. lws has seen to that already. */
static bool is_trusted(const struct connection *connection)
{
    union lws_tls_cert_info_results result = {0};
    return connection->is_local ||
           (lws_is_ssl(connection->lws) &&
            lws_tls_peer_cert_info(connection->lws, LWS_TLS_CERT_INFO_VERIFIED, &result, 0) == 0 &&
            result.verified == 1);
}

/* Only a WebSocket. lws knows another upgrade, and comes here with one that it has refused itself. */
static int upgrade(struct connection *connection)
{
    char what[16] = "";
    if (!is_trusted(connection) ||
        lws_hdr_copy(connection->lws, what, sizeof(what), WSI_TOKEN_UPGRADE) <= 0 ||
        strcasecmp(what, "websocket") != 0) {
        return -1;
    }
    return http_upgrade(connection);
}

static int serve(struct lws *lws, enum lws_callback_reasons reason, void *user, void *data,
                 size_t size)
{
    /* Without a connection: what lws says of itself, and our loop. */
    struct connection *connection = lws_get_opaque_user_data(lws);
    switch (reason) {
    case LWS_CALLBACK_RAW_RX_FILE:
        run_loop(lws_context_user(lws_get_context(lws)));
        return 0;
    case LWS_CALLBACK_OPENSSL_PERFORM_CLIENT_CERT_VERIFICATION:
        return size == 0; /* what OpenSSL itself says, of which 0 means no: to lws 0 means yes */
    default:
        break;
    }
    if (connection == NULL) {
        return 0;
    }
    connection->lws = lws;
    switch (reason) {
    case LWS_CALLBACK_HTTP:
        return is_trusted(connection) ? http_begin(connection) : -1;
    case LWS_CALLBACK_HTTP_BODY:
        return http_body(connection, data, size);
    case LWS_CALLBACK_HTTP_BODY_COMPLETION:
        return http_body_end(connection);
    case LWS_CALLBACK_HTTP_WRITEABLE:
        return http_write(connection);
    case LWS_CALLBACK_HTTP_CONFIRM_UPGRADE:
        return upgrade(connection);
    case LWS_CALLBACK_FILTER_PROTOCOL_CONNECTION:
        return connection->events == NULL && connection->session == NULL;
    case LWS_CALLBACK_ESTABLISHED:
        return socket_begin(connection);
    case LWS_CALLBACK_RECEIVE:
        return socket_receive(connection, data, size);
    case LWS_CALLBACK_SERVER_WRITEABLE:
        return socket_write(connection);
    case LWS_CALLBACK_TIMER:
        return http_timer(connection);
    case LWS_CALLBACK_WSI_DESTROY:
        forget(connection);
        return 0;
    default:
        return 0;
    }
}

static const struct lws_protocols protocols[] = {
    {PROTOCOL_NAME, serve, 0, SERVER_CHUNK, 0, NULL, 0},
    {0},
};

/* No pings: a client that is not read from, as its program does not read, could not answer. Peers that are gone are TCP's to find. */
static const lws_retry_bo_t no_pings = {0};

static void write_log(int level, const char *line)
{
    /* Whatever a client does wrong it calls an error. */
    log_debug("libwebsockets: %.*s", (int)strcspn(line, "\n"), line);
}

static int make_vhost(struct api_server *server, const struct api_server_options *options,
                      bool is_remote, struct lws_vhost **out_vhost, struct error *err)
{
    struct lws_context_creation_info info = {
        .port = CONTEXT_PORT_NO_LISTEN_SERVER, /* with CONTEXT_PORT_NO_LISTEN there is no TLS */
        .protocols = protocols,
        .vhost_name = is_remote ? "remote" : "local",
        .keepalive_timeout = SERVER_REQUEST_S,
        .retry_and_idle_policy = &no_pings,
        .uid = (uid_t)-1,
        .gid = (gid_t)-1,
    };
    if (is_remote) {
        info.options = LWS_SERVER_OPTION_DO_SSL_GLOBAL_INIT |
                       LWS_SERVER_OPTION_REQUIRE_VALID_OPENSSL_CLIENT_CERT |
                       LWS_SERVER_OPTION_DISABLE_OS_CA_CERTS;
        info.ssl_cert_filepath = options->certificate;
        info.ssl_private_key_filepath = options->key;
        info.ssl_ca_filepath = options->client_ca;
        info.alpn = "http/1.1";
    }
    *out_vhost = lws_create_vhost(server->context, &info);
    return *out_vhost != NULL
               ? 0
               : error_set(
                     err, EINVAL,
                     is_remote
                         ? "api: certificate %s, key %s, client CA %s: they cannot be used together"
                         : "api: libwebsockets cannot serve",
                     options->certificate, options->key, options->client_ca);
}

static int adopt_loop(struct api_server *server, struct error *err)
{
    int fd = dup(event_loop_fd(server->manager->loop)); /* lws closes its descriptors */
    if (fd < 0) {
        return error_set_errno(err, errno, "api: the loop's descriptor");
    }
    lws_sock_file_fd_type file = {.filefd = fd};
    server->loop_lws = lws_adopt_descriptor_vhost(server->local, LWS_ADOPT_RAW_FILE_DESC, file,
                                                  PROTOCOL_NAME, NULL);
    return server->loop_lws != NULL ? 0 : error_set(err, EIO, "api: libwebsockets takes no loop");
}

static int check_tls(const struct api_server_options *options, struct error *err)
{
    if (options->tls_address == NULL) {
        return 0;
    }
    const char *const files[] = {options->certificate, options->key, options->client_ca};
    static const char *const names[] = {"certificate", "key", "client-ca"};
    for (unsigned i = 0; i < 3; i++) {
        if (files[i] == NULL) {
            return error_set(err, EINVAL, "TLS at %s: --%s is missing", options->tls_address,
                             names[i]);
        }
        if (access(files[i], R_OK) < 0) {
            return error_set_errno(err, errno, "--%s %s", names[i], files[i]);
        }
    }
    return 0;
}

int api_server_create(const struct api_server_options *options, struct api_server **out_server,
                      struct error *err)
{
    int rc = check_tls(options, err);
    struct api_server *server = rc < 0 ? NULL : calloc(1, sizeof(*server));
    if (server == NULL) {
        return rc < 0 ? rc : error_set_errno(err, ENOMEM, "api");
    }
    server->manager = options->manager;
    lws_set_log_level(LLL_ERR | LLL_WARN, write_log);
    struct lws_context_creation_info info = {
        .options = LWS_SERVER_OPTION_EXPLICIT_VHOSTS,
        .user = server,
        .fd_limit_per_thread = SERVER_MAX_CONNECTIONS + 32,
        .max_http_header_data = 8192,
        .pt_serv_buf_size = LWS_PRE + SERVER_CHUNK,
        .timeout_secs = 20,
        .uid = (uid_t)-1,
        .gid = (gid_t)-1,
    };
    server->context = lws_create_context(&info);
    rc = server->context != NULL ? 0 : error_set(err, EIO, "api: libwebsockets does not start");
    if (rc == 0) {
        rc = api_catalog_create_all(&server->catalog, err);
    }
    if (rc == 0) {
        rc = make_vhost(server, options, false, &server->local, err);
    }
    if (rc == 0 && options->tls_address != NULL) {
        rc = make_vhost(server, options, true, &server->remote, err);
    }
    if (rc == 0) {
        rc = adopt_loop(server, err);
    }
    if (rc == 0) {
        rc = listeners_create(server, options, err);
    }
    if (rc < 0) {
        api_server_destroy(server);
        return rc;
    }
    *out_server = server;
    return 0;
}

void api_server_destroy(struct api_server *server)
{
    if (server == NULL) {
        return;
    }
    listeners_destroy(server);
    if (server->context != NULL) {
        lws_context_destroy(server->context); /* and all connections */
    }
    api_catalog_destroy(server->catalog);
    free(server);
}

int api_server_run(struct api_server *server, struct error *err)
{
    while (!server->is_stopped) {
        if (lws_service(server->context, 0) < 0) {
            return error_set(err, EIO, "api: libwebsockets stopped");
        }
    }
    server->is_stopped = false;
    if (server->failure.code != 0) {
        return error_set(err, server->failure.code, "%s", server->failure.text);
    }
    return 0;
}

void api_server_counters(const struct api_server *server, struct api_counters *out_counters)
{
    *out_counters = server->counters;
}
