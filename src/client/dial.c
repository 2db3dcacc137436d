/* hull-dial: a connection to a hulld on another host over TLS, for a client on standard input and output, which are one socket.
 * A program of its own, so that `hull` starts without a TLS library, and treats all connections alike. */
#include "client/dial.h"

#include <errno.h>
#include <gnutls/gnutls.h>
#include <limits.h>
#include <netdb.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/core/error.h"
#include "base/host/file.h"
#include "client/client.h"

#define CONNECT_MS 15000 /* of each address */
#define BUFFER     16384 /* a record of TLS holds no more */

struct dial {
    const char *host, *port;
    gnutls_certificate_credentials_t credentials;
    gnutls_session_t session;
    int fd;
};

static int fail(struct error *err, const char *what, int code)
{
    return error_set(err, EPROTO, "%s: %s", what, gnutls_strerror(code));
}

static int load_certificates(struct dial *dial, const char *folder, struct error *err)
{
    char authority[PATH_MAX], certificate[PATH_MAX], key[PATH_MAX];
    char *const paths[] = {authority, certificate, key};
    static const char *const names[] = {"ca.pem", "client.pem", "client.key"};
    for (size_t i = 0; i < ARRAY_COUNT(paths); i++) {
        if (snprintf(paths[i], PATH_MAX, "%s/%s", folder, names[i]) >= PATH_MAX) {
            return error_set(err, ENAMETOOLONG, "folder of certificates");
        }
        if (access(paths[i], R_OK) < 0) {
            return error_set(err, errno,
                             "%s: %s: expected there are ca.pem, which has signed hulld's "
                             "certificate, and client.pem with client.key, for yourself",
                             paths[i], strerror(errno));
        }
    }
    int code = gnutls_certificate_allocate_credentials(&dial->credentials);
    if (code < 0) {
        return fail(err, "certificates", code);
    }
    code =
        gnutls_certificate_set_x509_trust_file(dial->credentials, authority, GNUTLS_X509_FMT_PEM);
    if (code <= 0) {
        return code == 0 ? error_set(err, EINVAL, "%s: no certificate is in it", authority)
                         : fail(err, authority, code);
    }
    code = gnutls_certificate_set_x509_key_file(dial->credentials, certificate, key,
                                                GNUTLS_X509_FMT_PEM);
    return code < 0 ? fail(err, certificate, code) : 0;
}

/* One address; -1 with errno. */
static int connect_to(const struct addrinfo *address)
{
    AUTO_CLOSE int fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return -1;
    }
    if (connect(fd, address->ai_addr, address->ai_addrlen) < 0) {
        struct pollfd polled = {.fd = fd, .events = POLLOUT};
        int code = 0;
        socklen_t size = sizeof(code);
        if (errno != EINPROGRESS) {
            return -1;
        }
        if (poll(&polled, 1, CONNECT_MS) <= 0) {
            errno = ETIMEDOUT;
            return -1;
        }
        if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &code, &size) < 0 || code != 0) {
            errno = code != 0 ? code : errno;
            return -1;
        }
    }
    return TAKE_FD(fd);
}

static int connect_any(struct dial *dial, struct error *err)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
    int failed = getaddrinfo(dial->host, dial->port, &hints, &found);
    if (failed != 0) {
        return error_set(err, EHOSTUNREACH, "%s", gai_strerror(failed));
    }
    dial->fd = -1;
    for (const struct addrinfo *one = found; one != NULL && dial->fd < 0; one = one->ai_next) {
        dial->fd = connect_to(one);
    }
    int code = errno;
    freeaddrinfo(found);
    return dial->fd < 0 ? error_set(err, code, "port %s: %s", dial->port, strerror(code)) : 0;
}

/* Until the network is ready for what the library wants next. */
static int await(const struct dial *dial, struct error *err)
{
    struct pollfd polled = {
        .fd = dial->fd, .events = gnutls_record_get_direction(dial->session) ? POLLOUT : POLLIN};
    int ready = poll(&polled, 1, CONNECT_MS);
    return ready > 0 || (ready < 0 && errno == EINTR)
               ? 0
               : error_set_errno(err, ready == 0 ? ETIMEDOUT : errno, "TLS");
}

static int verify_failed(const struct dial *dial, struct error *err)
{
    gnutls_datum_t text = {0};
    unsigned status = gnutls_session_get_verify_cert_status(dial->session);
    if (gnutls_certificate_verification_status_print(status, GNUTLS_CRT_X509, &text, 0) < 0) {
        return error_set(err, EACCES, "its certificate is not good");
    }
    int rc = error_set(err, EACCES, "hulld's certificate: %s", (const char *)text.data);
    gnutls_free(text.data);
    return rc;
}

static int greet(struct dial *dial, struct error *err)
{
    int code = gnutls_init(&dial->session, GNUTLS_CLIENT | GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL);
    code = code < 0 ? code
                    : gnutls_priority_set_direct(
                          dial->session, "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2", NULL);
    code = code < 0
               ? code
               : gnutls_credentials_set(dial->session, GNUTLS_CRD_CERTIFICATE, dial->credentials);
    if (code < 0) {
        return fail(err, "TLS", code);
    }
    bool is_number =
        strchr(dial->host, ':') != NULL || strspn(dial->host, "0123456789.") == strlen(dial->host);
    if (!is_number) { /* RFC 6066, section 3: addresses are no names */
        code =
            gnutls_server_name_set(dial->session, GNUTLS_NAME_DNS, dial->host, strlen(dial->host));
    }
    gnutls_session_set_verify_cert(dial->session, dial->host, 0);
    gnutls_transport_set_int(dial->session, dial->fd);
    while ((code = gnutls_handshake(dial->session)) < 0) {
        if (gnutls_error_is_fatal(code)) {
            return code == GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR ? verify_failed(dial, err)
                                                                   : fail(err, "TLS", code);
        }
        int rc = code == GNUTLS_E_AGAIN ? await(dial, err) : 0;
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

/* One direction: bytes from 'taken' to 'used' wait. */
struct flow {
    size_t taken, used;
    char data[BUFFER];
};

/* The client's bytes to hulld. -ENODATA: it has gone. */
static int send_more(struct dial *dial, struct flow *flow, bool can_read, struct error *err)
{
    if (flow->taken == flow->used && can_read) {
        ssize_t got = recv(STDIN_FILENO, flow->data, sizeof(flow->data), MSG_DONTWAIT);
        if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) {
            return -ENODATA;
        }
        flow->taken = 0;
        flow->used = got > 0 ? (size_t)got : 0;
    }
    while (flow->taken < flow->used) {
        ssize_t sent =
            gnutls_record_send(dial->session, flow->data + flow->taken, flow->used - flow->taken);
        if (sent == GNUTLS_E_AGAIN) {
            return 0;
        }
        if (sent < 0 && sent != GNUTLS_E_INTERRUPTED) {
            return fail(err, "TLS", (int)sent);
        }
        flow->taken += sent > 0 ? (size_t)sent : 0;
    }
    return 0;
}

/* hulld's to the client. -ENODATA: one of both has gone. */
static int receive_more(struct dial *dial, struct flow *flow, struct error *err)
{
    if (flow->taken == flow->used) {
        ssize_t got = gnutls_record_recv(dial->session, flow->data, sizeof(flow->data));
        if (got == 0 || got == GNUTLS_E_PREMATURE_TERMINATION) {
            return -ENODATA;
        }
        if (got < 0 && gnutls_error_is_fatal((int)got)) {
            return got == GNUTLS_E_FATAL_ALERT_RECEIVED
                       ? error_set(err, EACCES, "hulld refuses this client: %s",
                                   gnutls_alert_get_name(gnutls_alert_get(dial->session)))
                       : fail(err, "TLS", (int)got);
        }
        flow->taken = 0;
        flow->used = got > 0 ? (size_t)got : 0;
    }
    while (flow->taken < flow->used) {
        ssize_t sent = send(STDOUT_FILENO, flow->data + flow->taken, flow->used - flow->taken,
                            MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) {
            return 0;
        }
        if (sent < 0 && errno != EINTR) {
            return -ENODATA;
        }
        flow->taken += sent > 0 ? (size_t)sent : 0;
    }
    return 0;
}

/* Until one of both has gone. 'out_has_answer': hulld has said something. */
static int pass(struct dial *dial, bool *out_has_answer, struct error *err)
{
    struct flow *to = calloc(1, sizeof(*to)), *from = calloc(1, sizeof(*from));
    int rc = to != NULL && from != NULL ? 0 : error_set_errno(err, ENOMEM, "buffers");
    *out_has_answer = false;
    while (rc == 0) {
        bool is_sending = to->taken < to->used, is_full = from->taken < from->used;
        bool is_pending = !is_full && gnutls_record_check_pending(dial->session) > 0;
        struct pollfd polled[] = {
            {.fd = STDIN_FILENO,
             .events = (short)((is_sending ? 0 : POLLIN) | (is_full ? POLLOUT : 0))},
            {.fd = dial->fd,
             .events = (short)((is_full ? 0 : POLLIN) | (is_sending ? POLLOUT : 0))},
        };
        if (poll(polled, ARRAY_COUNT(polled), is_pending ? 0 : -1) < 0 && errno != EINTR) {
            rc = error_set_errno(err, errno, "waiting");
            break;
        }
        if (is_pending || polled[1].revents & ~POLLOUT || polled[0].revents & POLLOUT) {
            rc = receive_more(dial, from, err);
            *out_has_answer = *out_has_answer || from->used > 0;
        }
        if (rc == 0 && (polled[0].revents & ~POLLOUT || polled[1].revents & POLLOUT)) {
            rc = send_more(dial, to, (polled[0].revents & ~POLLOUT) != 0, err);
        }
    }
    free(to);
    free(from);
    return rc == -ENODATA ? 0 : rc;
}

/* In TLS 1.3 a server refuses a client when that believes itself connected: the first answer says so. */
static void tell_refusal(const struct error *err)
{
    char text[ERROR_TEXT_SIZE + 160], body[ERROR_TEXT_SIZE + 80];
    char plain[ERROR_TEXT_SIZE];
    (void)snprintf(plain, sizeof(plain), "%s", err->text);
    for (char *c = plain; *c != '\0'; c++) {
        *c = *c == '"' || *c == '\\' || (unsigned char)*c < ' ' ? '\'' : *c;
    }
    int size = snprintf(body, sizeof(body), "{\"error\":{\"code\":\"refused\",\"message\":\"%s\"}}",
                        plain);
    size = snprintf(text, sizeof(text),
                    "HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\n"
                    "Content-Length: %d\r\nConnection: close\r\n\r\n%s",
                    size, body);
    (void)!write(STDOUT_FILENO, text, (size_t)size); /* nobody may listen */
}

static int serve(struct dial *dial, const char *folder, struct error *err)
{
    bool has_answer;
    int rc = load_certificates(dial, folder, err);
    rc = rc < 0 ? rc : connect_any(dial, err);
    rc = rc < 0 ? rc : greet(dial, err);
    if (rc < 0) {
        return rc;
    }
    if (write(STDOUT_FILENO, CLIENT_READY, sizeof(CLIENT_READY) - 1) < 0) {
        return 0; /* the client has gone */
    }
    if (pass(dial, &has_answer, err) < 0 && !has_answer) {
        tell_refusal(err);
    }
    return 0;
}

int dial_main(int argc, char **argv)
{
    struct dial dial = {.fd = -1};
    struct error err;
    if (argc != 5 || strcmp(argv[1], "--certificates") != 0) {
        (void)fputs("hull-dial: started by hull: --certificates FOLDER HOST PORT\n", stderr);
        return 1;
    }
    dial.host = argv[3];
    dial.port = argv[4];
    if (serve(&dial, argv[2], &err) < 0) {
        (void)dprintf(STDOUT_FILENO, "hull: %s\n", err.text);
        return 1;
    }
    return 0; /* no farewell: HTTP has said how long its answer is */
}
