#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "client/websocket.h"

static void the_accept_of_the_standards_example(void **state)
{
    char accept[WEBSOCKET_ACCEPT_SIZE], key[WEBSOCKET_KEY_SIZE];
    websocket_make_accept("dGhlIHNhbXBsZSBub25jZQ==", accept);
    assert_string_equal(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    websocket_make_key((const uint8_t *)"the sample nonce", key);
    assert_string_equal(key, "dGhlIHNhbXBsZSBub25jZQ==");
}

static void check_head(const uint8_t *data, size_t size, size_t payload)
{
    struct websocket_head head;
    struct error err;
    for (size_t i = 0; i < size; i++) {
        assert_int_equal(websocket_parse_head(data, i, &head, &err), -EAGAIN);
    }
    assert_int_equal(websocket_parse_head(data, size, &head, &err), 0);
    assert_int_equal(head.opcode, WEBSOCKET_BINARY);
    assert_true(head.is_final);
    assert_int_equal(head.head_size, size);
    assert_int_equal(head.payload_size, payload);
}

static void heads_of_all_lengths(void **state)
{
    check_head((const uint8_t[]){0x82, 0}, 2, 0);
    check_head((const uint8_t[]){0x82, 125}, 2, 125);
    check_head((const uint8_t[]){0x82, 126, 0, 126}, 4, 126);
    check_head((const uint8_t[]){0x82, 126, 0xff, 0xff}, 4, 65535);
    check_head((const uint8_t[]){0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0}, 10, 65536);
    check_head((const uint8_t[]){0x82, 127, 0, 0, 0, 0, 0, 16, 0, 0}, 10, 1 << 20);
}

static void bad_heads_are_refused(void **state)
{
    static const uint8_t heads[][10] = {
        {0xc2, 0},    /* a reserved bit */
        {0x82, 0x80}, /* masked */
        {0x83, 0},    /* kinds that there are not */
        {0x8b, 0},
        {0x09, 0}, /* a ping in pieces, and one that is too long */
        {0x89, 126, 0, 126},
        {0x82, 126, 0, 125}, /* not the shortest form */
        {0x82, 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff},
        {0x82, 127, 0, 0, 0, 0, 0, 16, 0, 1}, /* too long */
        {0x82, 127, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
    };
    struct websocket_head head;
    struct error err;
    for (size_t i = 0; i < ARRAY_COUNT(heads); i++) {
        assert_int_equal(websocket_parse_head(heads[i], sizeof(heads[i]), &head, &err), -EPROTO);
    }
}

static void clients_mask(void **state)
{
    static const uint8_t mask[4] = {0x37, 0xfa, 0x21, 0x3d}; /* the standard's example */
    static const uint8_t masked[] = {0x7f, 0x9f, 0x4d, 0x51, 0x58};
    uint8_t head[WEBSOCKET_MAX_HEAD], text[] = "Hello";
    assert_int_equal(websocket_make_head(WEBSOCKET_TEXT, 5, mask, head), 6);
    assert_memory_equal(head, ((const uint8_t[]){0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d}), 6);
    websocket_mask(text, 5, mask);
    assert_memory_equal(text, masked, 5);
    assert_int_equal(websocket_make_head(WEBSOCKET_BINARY, 65535, mask, head), 8);
    assert_memory_equal(head, ((const uint8_t[]){0x82, 0xfe, 0xff, 0xff}), 4);
    assert_int_equal(websocket_make_head(WEBSOCKET_BINARY, 65536, mask, head), 14);
    assert_memory_equal(head, ((const uint8_t[]){0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0}), 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_accept_of_the_standards_example),
        cmocka_unit_test(heads_of_all_lengths),
        cmocka_unit_test(bad_heads_are_refused),
        cmocka_unit_test(clients_mask),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
