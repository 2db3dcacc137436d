#include "client/client.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "base/host/file.h"
#include "client/connection.h"
#include "client/remote.h"

int client_init(struct client *client, const char *where, struct error *err)
{
    struct remote remote;
    struct sockaddr_un address;
    *client = (struct client){
        .timeout_ms = CLIENT_TIMEOUT_MS, .wake_fd = -1, .is_remote = strstr(where, "://") != NULL};
    if (client->is_remote) {
        int rc = remote_parse(where, &remote, err);
        if (rc < 0) {
            return rc;
        }
    } else if (strlen(where) >= sizeof(address.sun_path)) {
        return error_set(err, ENAMETOOLONG,
                         "hulld at %.120s: a socket's path has at most %zu bytes", where,
                         sizeof(address.sun_path) - 1);
    }
    (void)snprintf(client->where, sizeof(client->where), "%s", where);
    return 0;
}

/* A segment "." or ".." is resolved by servers, also when it is encoded, and something else would be meant then. No name is like that:
 * with a blank it stays a word, and is refused as one. */
static bool is_dots(const char *word)
{
    size_t dots = strspn(word, ".");
    return (dots == 1 || dots == 2) && (word[dots] == '\0' || word[dots] == '/');
}

static void encode(FILE *out, const char *text)
{
    static const char plain[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_~.";
    for (bool is_start = true; *text != '\0'; is_start = *text++ == '/') {
        if (is_start && is_dots(text)) {
            (void)fputs("%20", out);
        }
        if (strchr(plain, *text) != NULL) {
            (void)fputc(*text, out);
        } else {
            (void)fprintf(out, "%%%02X", (unsigned char)*text);
        }
    }
}

char *client_path(const char *first, ...)
{
    char *path = NULL;
    size_t size;
    FILE *out = open_memstream(&path, &size);
    if (out == NULL) {
        return NULL;
    }
    (void)fputs(first, out);
    va_list words;
    va_start(words, first);
    for (const char *word = va_arg(words, const char *); word != NULL;
         word = va_arg(words, const char *)) {
        (void)fputc('/', out);
        encode(out, word);
    }
    va_end(words);
    return fclose(out) == 0 ? path : NULL;
}

char *client_add_query(char *path, const char *name, const char *value)
{
    char *longer = NULL;
    size_t size;
    FILE *out = path != NULL ? open_memstream(&longer, &size) : NULL;
    if (out == NULL) {
        free(path);
        return NULL;
    }
    (void)fprintf(out, "%s%c%s=", path, strchr(path, '?') != NULL ? '&' : '?', name);
    encode(out, value);
    free(path);
    return fclose(out) == 0 ? longer : NULL;
}

int client_error(struct error *err, int code, const char *message)
{
    char text[ERROR_TEXT_SIZE];
    size_t size = 0;
    for (; message[size] != '\0' && size < sizeof(text) - 1; size++) {
        unsigned char c = (unsigned char)message[size];
        text[size] = (char)(c < ' ' || c == 0x7f ? ' ' : c);
    }
    text[size] = '\0';
    return error_set(err, code, "%s", text);
}

static int parse_answer(const struct http_head *head, const char *text, size_t size,
                        json_t **out_answer, struct error *err)
{
    if (size == 0) {
        *out_answer = json_object();
        return *out_answer != NULL ? 0 : error_set(err, ENOMEM, "hulld's answer");
    }
    json_error_t where;
    *out_answer = head->is_json
                      ? json_loadb(text, size, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &where)
                      : NULL;
    return *out_answer != NULL ? 0 : error_set(err, EPROTO, "hulld's answer: it is no JSON");
}

/* 'body' NULL: none. */
static int call(const struct client *client, const char *method, const char *path, const char *body,
                int *out_status, json_t **out_answer, struct error *err)
{
    struct connection connection;
    struct http_head head;
    int rc = connection_open(client, &connection, err);
    if (rc < 0) {
        return rc;
    }
    AUTO_FREE char *text = NULL;
    size_t size;
    rc = connection_ask(&connection, method, path,
                        "Accept: application/json\r\nConnection: close\r\n", body, &head, err);
    if (rc == 0 && (head.status < 200 || head.status >= 300)) {
        rc = connection_read_error(&connection, &head, err);
    } else if (rc == 0) {
        rc = connection_read_text(&connection, &head, &text, &size, err);
        rc = rc < 0 ? rc : parse_answer(&head, text, size, out_answer, err);
    }
    if (rc == 0 && out_status != NULL) {
        *out_status = head.status;
    }
    connection_close(&connection);
    return rc;
}

int client_call(const struct client *client, const char *method, const char *path,
                const json_t *body, int *out_status, json_t **out_answer, struct error *err)
{
    AUTO_FREE char *text = body != NULL ? json_dumps(body, JSON_COMPACT) : NULL;
    if (path == NULL || (body != NULL && text == NULL)) {
        return error_set(err, ENOMEM, "a request to hulld");
    }
    return call(client, method, path, text, out_status, out_answer, err);
}

int client_read(const struct client *client, const char *path,
                int (*fn)(void *ctx, const char *data, size_t size, struct error *err), void *ctx,
                struct error *err)
{
    struct connection connection;
    struct http_head head;
    if (path == NULL) {
        return error_set(err, ENOMEM, "a request to hulld");
    }
    int rc = connection_open(client, &connection, err);
    if (rc < 0) {
        return rc;
    }
    rc = connection_ask(&connection, "GET", path, "Connection: close\r\n", NULL, &head, err);
    if (rc == 0 && head.status != 200) {
        rc = connection_read_error(&connection, &head, err);
    } else if (rc == 0) {
        rc = connection_read_body(&connection, &head, fn, ctx, err);
    }
    connection_close(&connection);
    return rc;
}
