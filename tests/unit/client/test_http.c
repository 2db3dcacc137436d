#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "client/client.h"
#include "client/http.h"

static int parse(const char *text, struct http_head *out_head, size_t *out_used)
{
    struct error err;
    return http_parse_head(text, strlen(text), out_head, out_used, &err);
}

static void heads_say_what_follows(void **state)
{
    static const char text[] =
        "HTTP/1.1 202 Accepted\r\nContent-Type: application/json; charset=utf-8\r\n"
        "CONTENT-LENGTH:  12  \r\nLocation: /v1\r\n\r\n{}";
    struct http_head head;
    size_t used;
    assert_int_equal(parse(text, &head, &used), 0);
    assert_int_equal(head.status, 202);
    assert_true(head.is_json);
    assert_int_equal(head.length, 12);
    assert_false(head.is_chunked || head.is_websocket);
    assert_int_equal(used, sizeof(text) - 3);
    assert_int_equal(
        parse("HTTP/1.1 101 X\r\nUpgrade: WebSocket\r\nSec-WebSocket-Accept: abc=\r\n\r\n", &head,
              &used),
        0);
    assert_true(head.is_websocket);
    assert_string_equal(head.accept, "abc=");
    assert_int_equal(head.length, -1);
}

static void heads_come_in_pieces(void **state)
{
    static const char text[] = "HTTP/1.0 200\r\nA: b\r\n\r\n";
    struct http_head head;
    struct error err;
    size_t used;
    for (size_t i = 0; i < sizeof(text) - 1; i++) {
        assert_int_equal(http_parse_head(text, i, &head, &used, &err), -EAGAIN);
    }
    assert_int_equal(parse(text, &head, &used), 0);
    assert_int_equal(used, sizeof(text) - 1);
}

static void bad_heads_are_refused(void **state)
{
    static const char *const texts[] = {
        "\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 099 OK\r\n\r\n",
        "HTTP/1.1 200 OK\n\n",
        "HTTP/1.1 200 OK\r\n folded\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        "HTTP/1.1 200 OK\r\n: no name\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1234567890123456\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999999999999999999999999\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
    };
    struct http_head head;
    size_t used;
    for (size_t i = 0; i < ARRAY_COUNT(texts); i++) {
        assert_int_equal(parse(texts[i], &head, &used), -EPROTO);
    }
}

/* Feeds the body in pieces of 'step' bytes as a connection does; what came out stands in 'out'. */
static int run_body(const struct http_head *head, const char *text, size_t step, char *out)
{
    struct http_body body;
    struct error err;
    size_t used_all = 0, there = 0, size = strlen(text);
    http_body_begin(&body, head);
    out[0] = '\0';
    while (body.state != HTTP_BODY_DONE) {
        size_t used, offset, part;
        int rc =
            http_body_take(&body, text + used_all, there - used_all, &used, &offset, &part, &err);
        if (rc == -EAGAIN && there == size) {
            return http_body_end(&body, &err);
        }
        if (rc == -EAGAIN) {
            there = MIN(there + step, size);
            continue;
        }
        if (rc < 0) {
            return rc;
        }
        strncat(out, text + used_all + offset, part);
        used_all += used;
    }
    return 0;
}

static void bodies_end_where_they_say(void **state)
{
    const struct http_head chunked = {.status = 200, .length = -1, .is_chunked = true};
    const struct http_head plain = {.status = 200, .length = 5};
    const struct http_head endless = {.status = 200, .length = -1};
    const struct http_head none = {.status = 204, .length = -1};
    char out[100];
    for (size_t step = 1; step < 40; step++) {
        assert_int_equal(run_body(&chunked,
                                  "3\r\nabc\r\n0A;x=y\r\n0123456789\r\n0\r\nT: t\r\n\r\nmore", step,
                                  out),
                         0);
        assert_string_equal(out, "abc0123456789");
        assert_int_equal(run_body(&plain, "12345678", step, out), 0);
        assert_string_equal(out, "12345");
        assert_int_equal(run_body(&endless, "12345678", step, out), 0);
        assert_string_equal(out, "12345678");
        assert_int_equal(run_body(&none, "12345678", step, out), 0);
        assert_string_equal(out, "");
        assert_int_equal(run_body(&plain, "1234", step, out), -EPROTO);
        assert_int_equal(run_body(&chunked, "3\r\nabc\r\n", step, out), -EPROTO);
        assert_int_equal(run_body(&chunked, "3\r\nabcd\r\n0\r\n\r\n", step, out), -EPROTO);
        assert_int_equal(run_body(&chunked, "\r\n", step, out), -EPROTO);
        assert_int_equal(run_body(&chunked, "-1\r\n", step, out), -EPROTO);
        assert_int_equal(run_body(&chunked, "1234567890abcdef0\r\n", step, out), -EPROTO);
    }
}

static void check_path(char *path, const char *expected)
{
    assert_string_equal(path, expected);
    free(path);
}

static void words_of_paths_are_encoded(void **state)
{
    check_path(client_path("/v1/images", "debian/12", NULL), "/v1/images/debian%2F12");
    check_path(client_path("/v1/a", "web.1", "..", ".", "x y\xff", NULL),
               "/v1/a/web.1/%20../%20./x%20y%FF");
    check_path(client_path("/v1/a", "../b/...", "c/../d", NULL),
               "/v1/a/%20..%2Fb%2F.../c%2F%20..%2Fd");
    char *path = client_add_query(client_path("/v1/a", NULL), "wait", "1");
    check_path(client_add_query(path, "request", "{\"a\":1}"),
               "/v1/a?wait=1&request=%7B%22a%22%3A1%7D");
    assert_null(client_add_query(NULL, "a", "b"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(heads_say_what_follows),     cmocka_unit_test(heads_come_in_pieces),
        cmocka_unit_test(bad_heads_are_refused),      cmocka_unit_test(bodies_end_where_they_say),
        cmocka_unit_test(words_of_paths_are_encoded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
