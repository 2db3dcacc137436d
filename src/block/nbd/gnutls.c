/* TLS by GnuTLS. */
#include <fcntl.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/host/file.h"
#include "base/host/iov.h"
#include "base/host/library.h"
#include "block/nbd/session.h"
#include "block/nbd_tls.h"

#define MAX_FILE_BYTES (1u << 20)
#define MAX_KEY_BYTES  512u
#define RECORD_BYTES   16384u /* the most that one record of TLS holds */

#define CALLS(X)                                                                                   \
    X(gnutls_init)                                                                                 \
    X(gnutls_deinit)                                                                               \
    X(gnutls_priority_init)                                                                        \
    X(gnutls_priority_deinit)                                                                      \
    X(gnutls_priority_set)                                                                         \
    X(gnutls_credentials_set)                                                                      \
    X(gnutls_certificate_allocate_credentials)                                                     \
    X(gnutls_certificate_free_credentials)                                                         \
    X(gnutls_certificate_set_x509_trust_mem)                                                       \
    X(gnutls_certificate_set_x509_crl_mem)                                                         \
    X(gnutls_certificate_set_x509_key_mem)                                                         \
    X(gnutls_certificate_server_set_request)                                                       \
    X(gnutls_certificate_type_get)                                                                 \
    X(gnutls_certificate_verification_status_print)                                                \
    X(gnutls_session_set_verify_cert)                                                              \
    X(gnutls_session_get_verify_cert_status)                                                       \
    X(gnutls_session_set_ptr)                                                                      \
    X(gnutls_session_get_ptr)                                                                      \
    X(gnutls_psk_allocate_server_credentials)                                                      \
    X(gnutls_psk_free_server_credentials)                                                          \
    X(gnutls_psk_set_server_credentials_function)                                                  \
    X(gnutls_transport_set_int2)                                                                   \
    X(gnutls_handshake)                                                                            \
    X(gnutls_record_recv)                                                                          \
    X(gnutls_record_send)                                                                          \
    X(gnutls_bye)                                                                                  \
    X(gnutls_rnd)                                                                                  \
    X(gnutls_error_is_fatal)                                                                       \
    X(gnutls_strerror)

static struct {
#define DECLARE(name) __typeof__(name) *name;
    CALLS(DECLARE)
    /* Variables of the library. */
    gnutls_alloc_function *gnutls_malloc;
    gnutls_free_function *gnutls_free;
} lib;

static const struct library_symbol symbols[] = {
#define ROW(name) {#name, &lib.name},
    CALLS(ROW){"gnutls_malloc", &lib.gnutls_malloc},
    {"gnutls_free", &lib.gnutls_free},
};

static const struct library library = {"libgnutls.so.30", "libgnutls30", symbols,
                                       ARRAY_COUNT(symbols)};

struct psk {
    char *name; /* in the text of the file */
    uint8_t key[MAX_KEY_BYTES];
    size_t key_size;
    struct psk *next;
};

struct credentials {
    struct nbd_tls tls;
    gnutls_priority_t priority;
    gnutls_certificate_credentials_t certificate;
    gnutls_psk_server_credentials_t psk;
    char *psk_text;
    struct psk *keys;
    bool takes_any_client;
};

struct session {
    struct nbd_tls_session session;
    struct credentials *credentials;
    gnutls_session_t gnutls;
    /* What was given to the library and it could not send yet. */
    uint8_t record[RECORD_BYTES];
    size_t pending;
};

static int fail(struct error *err, int code, const char *what)
{
    return error_set(err, EPROTO, "%s: %s", what, lib.gnutls_strerror(code));
}

/* --- Sessions --- */

static struct session *session_from(struct nbd_tls_session *session)
{
    return container_of(session, struct session, session);
}

static ssize_t to_errno(ssize_t code)
{
    return code == GNUTLS_E_AGAIN ? -EAGAIN : code == GNUTLS_E_PREMATURE_TERMINATION ? 0 : -EPROTO;
}

static int session_start(struct nbd_tls *tls, int fd, struct nbd_tls_session **out_session,
                         struct error *err)
{
    struct credentials *c = container_of(tls, struct credentials, tls);
    struct session *session = calloc(1, sizeof(*session));
    if (session == NULL) {
        return error_set_errno(err, ENOMEM, "a session");
    }
    int code =
        lib.gnutls_init(&session->gnutls, GNUTLS_SERVER | GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL);
    if (code < 0) {
        free(session);
        return fail(err, code, "a session");
    }
    session->session.ops = tls->ops;
    session->credentials = c;
    code = lib.gnutls_priority_set(session->gnutls, c->priority);
    if (code == 0) {
        code = c->psk != NULL ? lib.gnutls_credentials_set(session->gnutls, GNUTLS_CRD_PSK, c->psk)
                              : lib.gnutls_credentials_set(session->gnutls, GNUTLS_CRD_CERTIFICATE,
                                                           c->certificate);
    }
    if (code < 0) {
        lib.gnutls_deinit(session->gnutls);
        free(session);
        return fail(err, code, "a session");
    }
    if (c->psk == NULL && !c->takes_any_client) {
        lib.gnutls_certificate_server_set_request(session->gnutls, GNUTLS_CERT_REQUIRE);
        lib.gnutls_session_set_verify_cert(session->gnutls, NULL, 0);
    }
    lib.gnutls_session_set_ptr(session->gnutls, c);
    lib.gnutls_transport_set_int2(session->gnutls, fd, fd);
    *out_session = &session->session;
    return 0;
}

static int session_handshake(struct nbd_tls_session *base, struct error *err)
{
    struct session *session = session_from(base);
    int code;
    do {
        code = lib.gnutls_handshake(session->gnutls);
    } while (code < 0 && code != GNUTLS_E_AGAIN && lib.gnutls_error_is_fatal(code) == 0);
    if (code == GNUTLS_E_AGAIN) {
        return -EAGAIN;
    }
    if (code == GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR) {
        gnutls_datum_t text = {0};
        unsigned status = lib.gnutls_session_get_verify_cert_status(session->gnutls);
        int type = (int)lib.gnutls_certificate_type_get(session->gnutls);
        if (lib.gnutls_certificate_verification_status_print(
                status, (gnutls_certificate_type_t)type, &text, 0) == 0) {
            (void)error_set(err, EACCES, "the client's certificate: %s", (const char *)text.data);
            (*lib.gnutls_free)(text.data);
            return -EACCES;
        }
    }
    return code < 0 ? fail(err, code, "handshake") : 0;
}

static ssize_t session_receive(struct nbd_tls_session *base, void *out_data, size_t size)
{
    ssize_t got;
    do {
        got = lib.gnutls_record_recv(session_from(base)->gnutls, out_data, size);
    } while (got == GNUTLS_E_INTERRUPTED);
    return got >= 0 ? got : to_errno(got);
}

static ssize_t session_send(struct nbd_tls_session *base, const struct iovec *iov, int count)
{
    struct session *session = session_from(base);
    if (session->pending == 0) {
        size_t size = 0;
        for (int i = 0; i < count; i++) {
            size += iov[i].iov_len;
        }
        session->pending = MIN(size, RECORD_BYTES);
        iov_get(iov, count, 0, session->record, session->pending);
    }
    /* Records leave whole or not at all. */
    ssize_t sent;
    do {
        sent = lib.gnutls_record_send(session->gnutls, session->record, session->pending);
    } while (sent == GNUTLS_E_INTERRUPTED);
    if (sent < 0) {
        sent = to_errno(sent);
        return sent == 0 ? -EPIPE : sent;
    }
    session->pending = 0;
    return sent;
}

static void session_end(struct nbd_tls_session *base)
{
    struct session *session = session_from(base);
    (void)lib.gnutls_bye(session->gnutls, GNUTLS_SHUT_WR); /* nobody may be there to hear it */
    lib.gnutls_deinit(session->gnutls);
    free(session);
}

static const struct nbd_tls_ops gnutls_ops = {
    .start = session_start,
    .handshake = session_handshake,
    .receive = session_receive,
    .send = session_send,
    .end = session_end,
};

/* --- Credentials --- */

static int read_file(const char *path, size_t *out_size, char **out_text, struct error *err)
{
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    void *data = NULL;
    int rc = fd < 0 ? error_set_errno(err, errno, "%s", path)
                    : file_read_whole(fd, MAX_FILE_BYTES, path, &data, out_size, err);
    *out_text = data;
    return rc;
}

/* A file of the folder; 0 with NULL where it is not there and need not be. */
static int read_part(const char *folder, const char *name, bool is_needed, gnutls_datum_t *out_data,
                     struct error *err)
{
    char path[4096];
    char *text = NULL;
    size_t size = 0;
    (void)snprintf(path, sizeof(path), "%s/%s", folder, name);
    int rc = is_needed || access(path, F_OK) == 0 ? read_file(path, &size, &text, err) : 0;
    *out_data = (gnutls_datum_t){(unsigned char *)text, (unsigned)size};
    return rc;
}

static void forget(gnutls_datum_t *data)
{
    if (data->data != NULL) {
        explicit_bzero(data->data, data->size);
        free(data->data);
    }
}

static int load_certificates(struct credentials *c, const char *folder, struct error *err)
{
    gnutls_datum_t ca = {0}, crl = {0}, cert = {0}, key = {0};
    int rc = read_part(folder, "ca-cert.pem", !c->takes_any_client, &ca, err);
    rc = rc == 0 ? read_part(folder, "ca-crl.pem", false, &crl, err) : rc;
    rc = rc == 0 ? read_part(folder, "server-cert.pem", true, &cert, err) : rc;
    rc = rc == 0 ? read_part(folder, "server-key.pem", true, &key, err) : rc;
    int code = rc == 0 ? lib.gnutls_certificate_allocate_credentials(&c->certificate) : 0;
    if (rc == 0 && code == 0 && ca.data != NULL) {
        code = lib.gnutls_certificate_set_x509_trust_mem(c->certificate, &ca, GNUTLS_X509_FMT_PEM);
    }
    if (rc == 0 && code >= 0 && crl.data != NULL) {
        code = lib.gnutls_certificate_set_x509_crl_mem(c->certificate, &crl, GNUTLS_X509_FMT_PEM);
    }
    if (rc == 0 && code >= 0) {
        code = lib.gnutls_certificate_set_x509_key_mem(c->certificate, &cert, &key,
                                                       GNUTLS_X509_FMT_PEM);
    }
    if (rc == 0 && code < 0) {
        rc = error_set(err, EINVAL, "certificates in %s: %s", folder, lib.gnutls_strerror(code));
    }
    forget(&ca);
    forget(&crl);
    forget(&cert);
    forget(&key);
    return rc;
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* One line, which is taken apart in place; false: it is wrong. */
static bool parse_key(char *line, struct psk *out_psk)
{
    char *colon = strrchr(line, ':');
    size_t digits = colon != NULL ? strlen(colon + 1) : 0;
    if (colon == NULL || colon == line || digits == 0 || digits % 2 != 0 ||
        digits / 2 > MAX_KEY_BYTES) {
        return false;
    }
    for (size_t i = 0; i < digits; i += 2) {
        int high = hex_digit(colon[1 + i]), low = hex_digit(colon[2 + i]);
        if (high < 0 || low < 0) {
            return false;
        }
        out_psk->key[i / 2] = (uint8_t)(high << 4 | low);
    }
    *colon = '\0';
    out_psk->name = line;
    out_psk->key_size = digits / 2;
    return true;
}

static int load_keys(struct credentials *c, const char *path, struct error *err)
{
    size_t size;
    int rc = read_file(path, &size, &c->psk_text, err);
    char *rest = c->psk_text, *line;
    unsigned number = 0;
    while (rc == 0 && (line = strsep(&rest, "\n")) != NULL) {
        number++;
        line[strcspn(line, "\r")] = '\0';
        if (line[0] == '\0' || line[0] == '#') {
            continue;
        }
        struct psk *psk = calloc(1, sizeof(*psk));
        if (psk == NULL) {
            return error_set_errno(err, ENOMEM, "keys in %s", path);
        }
        psk->next = c->keys;
        c->keys = psk;
        if (!parse_key(line, psk)) {
            rc = error_set(err, EINVAL, "%s line %u: NAME:HEX is accepted", path, number);
        }
    }
    return rc == 0 && c->keys == NULL ? error_set(err, EINVAL, "%s: holds no keys", path) : rc;
}

/* For the library: the key of a name. A name that is not known gets a key that nobody has, so that who asks does not learn which
 * names there are. */
static int find_key(gnutls_session_t session, const char *name, gnutls_datum_t *out_key)
{
    const struct credentials *c = lib.gnutls_session_get_ptr(session);
    const struct psk *at = c->keys;
    while (at != NULL && strcmp(at->name, name) != 0) {
        at = at->next;
    }
    size_t size = at != NULL ? at->key_size : 32;
    out_key->data = (*lib.gnutls_malloc)(size);
    if (out_key->data == NULL) {
        return -1;
    }
    out_key->size = (unsigned)size;
    if (at != NULL) {
        memcpy(out_key->data, at->key, size);
        return 0;
    }
    return lib.gnutls_rnd(GNUTLS_RND_KEY, out_key->data, size);
}

void nbd_tls_destroy(struct nbd_tls *tls)
{
    if (tls == NULL) {
        return;
    }
    struct credentials *c = container_of(tls, struct credentials, tls);
    if (c->priority != NULL) {
        lib.gnutls_priority_deinit(c->priority);
    }
    if (c->certificate != NULL) {
        lib.gnutls_certificate_free_credentials(c->certificate);
    }
    if (c->psk != NULL) {
        lib.gnutls_psk_free_server_credentials(c->psk);
    }
    while (c->keys != NULL) {
        struct psk *psk = c->keys;
        c->keys = psk->next;
        explicit_bzero(psk, sizeof(*psk));
        free(psk);
    }
    free(c->psk_text);
    free(c);
}

int nbd_tls_create(const struct nbd_tls_options *options, struct nbd_tls **out_tls,
                   struct error *err)
{
    if ((options->folder != NULL) == (options->psk_file != NULL)) {
        return error_set(err, EINVAL, "TLS: either a folder with certificates or a file with keys");
    }
    int rc = library_load(&library, "TLS", err);
    struct credentials *c = rc == 0 ? calloc(1, sizeof(*c)) : NULL;
    if (c == NULL) {
        return rc < 0 ? rc : error_set_errno(err, ENOMEM, "TLS");
    }
    c->tls.ops = &gnutls_ops;
    c->takes_any_client = options->takes_any_client;
    rc = options->folder != NULL ? load_certificates(c, options->folder, err)
                                 : load_keys(c, options->psk_file, err);
    int code = 0;
    if (rc == 0 && options->psk_file != NULL) {
        code = lib.gnutls_psk_allocate_server_credentials(&c->psk);
        if (code == 0) {
            lib.gnutls_psk_set_server_credentials_function(c->psk, find_key);
        }
    }
    if (rc == 0 && code == 0) {
        code = lib.gnutls_priority_init(
            &c->priority,
            options->psk_file != NULL
                ? "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2:-KX-ALL:+ECDHE-PSK:+DHE-PSK"
                : "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2",
            NULL);
    }
    if (rc == 0 && code < 0) {
        rc = fail(err, code, "TLS");
    }
    if (rc < 0) {
        nbd_tls_destroy(&c->tls);
        return rc;
    }
    *out_tls = &c->tls;
    return 0;
}
