/* Covers system/network/address.c. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "base/core/compiler.h"
#include "system/network/network.h"

static void expect_parsed(const char *text, unsigned default_prefix, bool is_host, const char *want)
{
    struct network_address address;
    struct error err = {0};
    char got[NETWORK_TEXT_SIZE];
    assert_int_equal(network_parse(text, default_prefix, is_host, &address, &err), 0);
    network_format(&address, true, got);
    assert_string_equal(got, want);
}

static void expect_refused(const char *text, unsigned default_prefix, bool is_host,
                           const char *reason)
{
    struct network_address address = {.family = -7};
    struct error err = {0};
    assert_int_equal(network_parse(text, default_prefix, is_host, &address, &err), -EINVAL);
    if (strstr(err.text, reason) == NULL) {
        fail_msg("'%s': '%s' has no '%s'", text, err.text, reason);
    }
    assert_int_equal(address.family, -7);
}

static void addresses_are_read(void **state)
{
    (void)state;
    expect_parsed("10.90.0.10/24", 0, true, "10.90.0.10/24");
    expect_parsed("10.90.0.10", 24, true, "10.90.0.10/24");
    expect_parsed("10.90.0.10", 0, true, "10.90.0.10/32");
    expect_parsed("10.90.0.10/16", 24, true, "10.90.0.10/16");
    expect_parsed("0.0.0.0/0", 24, false, "0.0.0.0/0");
    expect_parsed("10.0.0.1/0", 0, true, "10.0.0.1/0");
    expect_parsed("fd00::10/64", 0, true, "fd00::10/64");
    expect_parsed("FD00:0:0::0010", 64, true, "fd00::10/64");
    expect_parsed("fd00::10", 0, true, "fd00::10/128");
    expect_parsed("::/0", 0, false, "::/0");
    expect_parsed("fe80::1/10", 0, true, "fe80::1/10");
}

static void text_without_prefix(void **state)
{
    (void)state;
    struct network_address address;
    char text[NETWORK_TEXT_SIZE];
    assert_int_equal(network_parse("10.90.0.10/24", 0, true, &address, NULL), 0);
    network_format(&address, false, text);
    assert_string_equal(text, "10.90.0.10");
    assert_int_equal(address.family, AF_INET);
    assert_int_equal(address.prefix, 24);
    address.family = 0;
    network_format(&address, true, text);
    assert_string_equal(text, "none");
    expect_parsed("ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255/128", 0, false,
                  "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128");
    expect_refused("ffff:ffff:ffff:ffff:ffff:0ffff:255.255.255.255/128", 0, false, "no address");
    assert_int_equal(
        network_parse("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128", 0, false, &address, NULL), 0);
    network_format(&address, true, text);
    assert_string_equal(text, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128");
}

static void garbage_is_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",         "/",           "/24",        "x",           "10.90.0/24",    "10.90.0.256",
        "10.90.0.", "10.90.0.010", "10.90.00.1", " 10.90.0.1",  "10.90.0.1 ",    "10.90.0.1.2",
        "1",        "0x0a.1.1.1",  "fd00",       "fd00:::1/64", "fd00::1%eth0",  "fd00::12345",
        "fd00::g",  "+10.0.0.1",   "10.0.0.-1",  "[fd00::1]",   "10.0.0.1:80/8", "fd00::1::2",
    };
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        expect_refused(bad[i], 24, true, "no address");
    }
    char longer[300];
    memset(longer, '1', sizeof(longer));
    longer[sizeof(longer) - 1] = '\0';
    expect_refused(longer, 0, false, "no address");
    static const char *const bad_prefix[] = {
        "10.0.0.1/",           "10.0.0.1/024",   "10.0.0.1/+24", "10.0.0.1/-1",
        "10.0.0.1/24 ",        "10.0.0.1/ 24",   "10.0.0.1/2x",  "10.0.0.1/00",
        "10.0.0.1/4294967320", "10.0.0.1/24/24", "fd00::1/0x40", "10.0.0.1/255.255.255.0",
    };
    for (size_t i = 0; i < ARRAY_COUNT(bad_prefix); i++) {
        expect_refused(bad_prefix[i], 24, true, "prefix is no number");
    }
    expect_refused("10.0.0.1/33", 0, true, "too long; at most 32");
    expect_refused("fd00::1/129", 0, true, "too long; at most 128");
    expect_refused("10.0.0.1", 64, true, "too long; at most 32");
}

static void hosts_have_hosts_addresses(void **state)
{
    (void)state;
    expect_refused("10.90.0.0/24", 0, true, "network's own");
    expect_refused("10.90.0.255/24", 0, true, "broadcast");
    expect_refused("10.90.0.255", 24, true, "broadcast");
    expect_refused("10.90.127.255/17", 0, true, "broadcast");
    expect_refused("10.90.0.4/30", 0, true, "network's own");
    expect_refused("10.90.0.7/30", 0, true, "broadcast");
    expect_refused("fd00::/64", 0, true, "network's own");
    expect_parsed("10.90.0.255/16", 0, true, "10.90.0.255/16");
    expect_parsed("10.90.0.0/16", 0, false, "10.90.0.0/16");
    expect_parsed("10.90.0.255/24", 0, false, "10.90.0.255/24");
    expect_parsed("10.90.0.4/31", 0, true, "10.90.0.4/31");
    expect_parsed("10.90.0.5/31", 0, true, "10.90.0.5/31");
    expect_parsed("10.90.0.0/32", 0, true, "10.90.0.0/32");
    expect_parsed("10.90.0.255/32", 0, true, "10.90.0.255/32");
    expect_parsed("fd00::/127", 0, true, "fd00::/127");
    expect_parsed("fd00::/128", 0, true, "fd00::/128");
    expect_parsed("fd00::ffff:ffff:ffff:ffff/64", 0, true, "fd00::ffff:ffff:ffff:ffff/64");
    static const char *const nobody[] = {
        "0.0.0.0", "0.1.2.3/8", "127.0.0.1/8", "224.0.0.1/24",       "255.255.255.255",
        "::",      "::1/64",    "ff02::1/64",  "::ffff:10.0.0.1/120"};
    for (size_t i = 0; i < ARRAY_COUNT(nobody); i++) {
        expect_refused(nobody[i], 0, true, "no container can have");
    }
}

/* The text is the address, or that of the error. */
static int advance(const char *from, uint32_t count, char out_text[ERROR_TEXT_SIZE])
{
    struct network_address address, next;
    struct error err = {0};
    assert_int_equal(network_parse(from, 0, false, &address, &err), 0);
    int rc = network_advance(&address, count, &next, &err);
    if (rc == 0) {
        network_format(&next, true, out_text);
    } else {
        (void)snprintf(out_text, ERROR_TEXT_SIZE, "%s", err.text);
    }
    return rc;
}

static void expect_advance(const char *from, uint32_t count, const char *want)
{
    char text[ERROR_TEXT_SIZE];
    assert_int_equal(advance(from, count, text), 0);
    assert_string_equal(text, want);
}

static void expect_end(const char *from, uint32_t count)
{
    char text[ERROR_TEXT_SIZE];
    assert_int_equal(advance(from, count, text), -ERANGE);
    assert_non_null(strstr(text, "ends before"));
}

static void addresses_advance_within_their_network(void **state)
{
    (void)state;
    expect_advance("10.90.0.10/24", 0, "10.90.0.10/24");
    expect_advance("10.90.0.10/24", 1, "10.90.0.11/24");
    expect_advance("10.90.0.10/24", 244, "10.90.0.254/24");
    expect_end("10.90.0.10/24", 245); /* broadcast */
    expect_end("10.90.0.10/24", 246);
    expect_advance("10.90.0.250/16", 10, "10.90.1.4/16");
    expect_advance("10.90.255.250/8", 10, "10.91.0.4/8");
    expect_end("10.90.0.10/24", UINT32_MAX);
    expect_end("10.90.0.10/24", 0x1000000 * 16u); /* once around the first byte */
    expect_advance("10.0.0.0/31", 1, "10.0.0.1/31");
    expect_end("10.0.0.1/31", 1);
    expect_end("10.0.0.1/32", 1);
    expect_advance("10.0.0.1/32", 0, "10.0.0.1/32");
    expect_advance("0.0.0.0/0", 0xfffffffe, "255.255.255.254/0");
    expect_end("0.0.0.0/0", 0xffffffff);
    expect_end("255.255.255.254/0", 3); /* wraps to one that is in the network */
    expect_advance("fd00::10/64", 0xffffffff, "fd00::1:0:f/64");
    expect_advance("fd00::ff:ffff:ffff/64", 1, "fd00::100:0:0/64");
    expect_advance("fd00::ffff:ffff:ffff:fffd/64", 1, "fd00::ffff:ffff:ffff:fffe/64");
    expect_end("fd00::ffff:ffff:ffff:fffe/64", 1);
    expect_end("fd00::ffff:ffff:ffff:fffe/64", 2);
    expect_end("ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe/0", 5);
    expect_advance("fd00::/127", 1, "fd00::1/127");
    expect_end("fd00::1/127", 1);
}

static void check_contains(const char *network, const char *other, bool want)
{
    struct network_address a, b;
    assert_int_equal(network_parse(network, 0, false, &a, NULL), 0);
    assert_int_equal(network_parse(other, 0, false, &b, NULL), 0);
    assert_int_equal(network_contains(&a, &b), want);
}

static void networks_contain_their_addresses(void **state)
{
    (void)state;
    check_contains("10.90.0.10/24", "10.90.0.1", true);
    check_contains("10.90.0.10/24", "10.90.1.1", false);
    check_contains("10.90.0.0/23", "10.90.1.1", true);
    check_contains("10.90.0.10/32", "10.90.0.10", true);
    check_contains("10.90.0.10/32", "10.90.0.11", false);
    check_contains("10.90.0.10/31", "10.90.0.11", true);
    check_contains("0.0.0.0/0", "255.0.0.1", true);
    check_contains("128.0.0.0/1", "127.255.255.255", false);
    check_contains("0.0.0.0/0", "fd00::1", false);
    check_contains("::/0", "10.0.0.1", false);
    check_contains("fd00::10/64", "fd00::ffff:0:0:1", true);
    check_contains("fd00::10/64", "fd00:0:0:1::1", false);
    check_contains("fd00::10/127", "fd00::11", true);
    check_contains("fd00::10/128", "fd00::11", false);
    const struct network_address none = {0};
    assert_false(network_contains(&none, &none));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(addresses_are_read),
        cmocka_unit_test(text_without_prefix),
        cmocka_unit_test(garbage_is_refused),
        cmocka_unit_test(hosts_have_hosts_addresses),
        cmocka_unit_test(addresses_advance_within_their_network),
        cmocka_unit_test(networks_contain_their_addresses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
