#include "client/http.h"

#include <string.h>
#include <strings.h>

#define MAX_LINE   4096 /* in chunked bodies */
#define MAX_DIGITS 15   /* of numbers: below 2^60 */

static int broken(struct error *err, const char *what)
{
    return error_set(err, EPROTO, "hulld's answer: %s", what);
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* "HTTP/1.1 200 OK" */
static int parse_status(const char *line, size_t size, struct http_head *head, struct error *err)
{
    if (size < 12 || memcmp(line, "HTTP/1.", 7) != 0 || (line[7] != '0' && line[7] != '1') ||
        line[8] != ' ' || !is_digit(line[9]) || !is_digit(line[10]) || !is_digit(line[11]) ||
        (size > 12 && line[12] != ' ')) {
        return broken(err, "it is no HTTP");
    }
    head->status = (line[9] - '0') * 100 + (line[10] - '0') * 10 + (line[11] - '0');
    return head->status >= 100 && head->status < 600 ? 0
                                                     : broken(err, "a status that there is not");
}

static bool is_word(const char *text, size_t size, const char *word)
{
    return size == strlen(word) && strncasecmp(text, word, size) == 0;
}

static int parse_length(const char *value, size_t size, struct http_head *head, struct error *err)
{
    int64_t length = 0;
    if (size == 0 || size > MAX_DIGITS || head->length >= 0) {
        return broken(err, "a length that is no number");
    }
    for (size_t i = 0; i < size; i++) {
        if (!is_digit(value[i])) {
            return broken(err, "a length that is no number");
        }
        length = length * 10 + (value[i] - '0');
    }
    head->length = length;
    return 0;
}

static int parse_field(const char *name, size_t name_size, const char *value, size_t size,
                       struct http_head *head, struct error *err)
{
    static const char json[] = "application/json";
    if (is_word(name, name_size, "content-length")) {
        return parse_length(value, size, head, err);
    }
    if (is_word(name, name_size, "transfer-encoding")) {
        head->is_chunked = is_word(value, size, "chunked");
        return head->is_chunked ? 0 : broken(err, "a transfer encoding that is not chunked");
    }
    if (is_word(name, name_size, "content-type")) {
        size_t type = strcspn(value, ";\r ");
        head->is_json = is_word(value, type < size ? type : size, json);
    } else if (is_word(name, name_size, "upgrade")) {
        head->is_websocket = is_word(value, size, "websocket");
    } else if (is_word(name, name_size, "sec-websocket-accept") && size < sizeof(head->accept)) {
        memcpy(head->accept, value, size);
        head->accept[size] = '\0';
    }
    return 0;
}

static int parse_line(const char *line, size_t size, struct http_head *head, struct error *err)
{
    const char *colon = memchr(line, ':', size);
    if (colon == NULL || colon == line || line[0] == ' ' || line[0] == '\t') {
        return broken(err, "a line that is no header");
    }
    const char *value = colon + 1, *end = line + size;
    while (value < end && (*value == ' ' || *value == '\t')) {
        value++;
    }
    while (end > value && (end[-1] == ' ' || end[-1] == '\t')) {
        end--;
    }
    return parse_field(line, (size_t)(colon - line), value, (size_t)(end - value), head, err);
}

/* The length of the line at the front without its CR LF; -EAGAIN: it is not whole. */
static int find_line(const char *data, size_t size, size_t max, size_t *out_size, struct error *err)
{
    const char *end = memchr(data, '\n', size < max ? size : max);
    if (end == NULL) {
        return size >= max ? broken(err, "a line that is too long") : -EAGAIN;
    }
    if (end == data || end[-1] != '\r') {
        return broken(err, "a line that does not end with CR LF");
    }
    *out_size = (size_t)(end - data) - 1;
    return memchr(data, '\0', *out_size) == NULL ? 0 : broken(err, "a NUL byte in a line");
}

int http_parse_head(const char *data, size_t size, struct http_head *out_head, size_t *out_used,
                    struct error *err)
{
    struct http_head head = {.length = -1};
    size_t used = 0;
    for (unsigned lines = 0;; lines++) {
        size_t length;
        int rc = find_line(data + used, size - used, HTTP_MAX_HEAD - used, &length, err);
        if (rc == 0 && length != 0) {
            rc = lines == 0 ? parse_status(data, length, &head, err)
                            : parse_line(data + used, length, &head, err);
        } else if (rc == 0 && lines == 0) {
            rc = broken(err, "it is no HTTP");
        }
        if (rc < 0) {
            return rc;
        }
        used += length + 2;
        if (length == 0) {
            break;
        }
        if (used >= HTTP_MAX_HEAD) {
            return broken(err, "a head that is too long");
        }
    }
    if (head.is_chunked && head.length >= 0) {
        return broken(err, "both a length and chunks");
    }
    *out_head = head;
    *out_used = used;
    return 0;
}

void http_body_begin(struct http_body *body, const struct http_head *head)
{
    bool is_empty = head->status < 200 || head->status == 204 || head->status == 304;
    *body = (struct http_body){
        .state = is_empty || head->length == 0 ? HTTP_BODY_DONE
                 : head->is_chunked            ? HTTP_BODY_CHUNK_SIZE
                 : head->length > 0            ? HTTP_BODY_PLAIN
                                               : HTTP_BODY_ENDLESS,
        .left = head->length > 0 ? (uint64_t)head->length : 0,
    };
}

/* "1f;extension" */
static int parse_chunk_size(const char *line, size_t size, uint64_t *out_size, struct error *err)
{
    uint64_t value = 0;
    size_t i = 0;
    for (; i < size && line[i] != ';' && line[i] != ' '; i++) {
        char c = line[i];
        unsigned digit = is_digit(c)            ? (unsigned)(c - '0')
                         : c >= 'a' && c <= 'f' ? (unsigned)(c - 'a') + 10
                         : c >= 'A' && c <= 'F' ? (unsigned)(c - 'A') + 10
                                                : 16;
        if (digit == 16 || i == MAX_DIGITS) {
            return broken(err, "a chunk whose size is no number");
        }
        value = value << 4 | digit;
    }
    if (i == 0) {
        return broken(err, "a chunk without a size");
    }
    *out_size = value;
    return 0;
}

/* The lines between chunks. */
static int take_line(struct http_body *body, const char *data, size_t size, size_t *out_used,
                     struct error *err)
{
    size_t length;
    int rc = find_line(data, size, MAX_LINE, &length, err);
    if (rc == 0 && body->state == HTTP_BODY_CHUNK_SIZE) {
        rc = parse_chunk_size(data, length, &body->left, err);
        body->state = body->left != 0 ? HTTP_BODY_CHUNK : HTTP_BODY_TRAILER;
    } else if (rc == 0 && body->state == HTTP_BODY_CHUNK_END) {
        rc = length == 0 ? 0 : broken(err, "a chunk that is longer than it says");
        body->state = HTTP_BODY_CHUNK_SIZE;
    } else if (rc == 0 && length == 0) {
        body->state = HTTP_BODY_DONE;
    }
    if (rc == 0) {
        *out_used = length + 2;
    }
    return rc;
}

int http_body_take(struct http_body *body, const char *data, size_t size, size_t *out_used,
                   size_t *out_offset, size_t *out_part, struct error *err)
{
    *out_used = *out_offset = *out_part = 0;
    if (body->state == HTTP_BODY_DONE) {
        return 0;
    }
    if (size == 0) {
        return -EAGAIN;
    }
    if (body->state == HTTP_BODY_ENDLESS) {
        *out_used = *out_part = size;
        return 0;
    }
    if (body->state != HTTP_BODY_PLAIN && body->state != HTTP_BODY_CHUNK) {
        return take_line(body, data, size, out_used, err);
    }
    *out_used = *out_part = size < body->left ? size : (size_t)body->left;
    body->left -= *out_used;
    if (body->left == 0) {
        body->state = body->state == HTTP_BODY_PLAIN ? HTTP_BODY_DONE : HTTP_BODY_CHUNK_END;
    }
    return 0;
}

int http_body_end(const struct http_body *body, struct error *err)
{
    return body->state == HTTP_BODY_DONE || body->state == HTTP_BODY_ENDLESS
               ? 0
               : broken(err, "it ends in its middle");
}
