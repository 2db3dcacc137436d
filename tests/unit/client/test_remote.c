/* Addresses of a hulld on another host. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "client/remote.h"

static void addresses_are_taken_apart(void **state)
{
    static const struct {
        const char *text, *host, *port;
        bool is_ssh;
    } good[] = {
        {"https://web", "web", "8443", false},
        {"https://web/", "web", "8443", false},
        {"https://web.example:99", "web.example", "99", false},
        {"https://10.0.0.1:65535", "10.0.0.1", "65535", false},
        {"https://[fd00::1]", "fd00::1", "8443", false},
        {"https://[fe80::1%eth0]:9", "fe80::1%eth0", "9", false},
        {"ssh://web", "web", "", true},
        {"ssh://root@web:22", "root@web", "22", true},
        {"ssh://a-b.c@[::1]:2222/", "a-b.c@::1", "2222", true},
    };
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        struct remote remote;
        struct error err;
        assert_int_equal(remote_parse(good[i].text, &remote, &err), 0);
        assert_string_equal(remote.host, good[i].host);
        assert_string_equal(remote.port, good[i].port);
        assert_int_equal(remote.is_ssh, good[i].is_ssh);
    }
}

static void bad_addresses_are_refused(void **state)
{
    static const char *const bad[] = {
        "",
        "web",
        "http://web",
        "https:/web",
        "https://",
        "https://:1",
        "https://-web",
        "https://a b",
        "https://a:",
        "https://a:0",
        "https://a:65536",
        "https://a:1x",
        "https://a/b",
        "https://u@a",
        "https://[::1",
        "https://[]",
        "https://[::1]x",
        "https://::1",
        "ssh://",
        "ssh://@web",
        "ssh://-l@web",
        "ssh://-oProxyCommand=x",
        "ssh://a@-b",
        "ssh://a@b@c",
        "ssh://a;b",
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct remote remote;
        struct error err;
        assert_int_equal(remote_parse(bad[i], &remote, &err), -EINVAL);
    }
    char text[600] = "https://";
    memset(text + 8, 'a', sizeof(text) - 9);
    text[sizeof(text) - 1] = '\0';
    struct remote remote;
    struct error err;
    assert_int_equal(remote_parse(text, &remote, &err), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(addresses_are_taken_apart),
        cmocka_unit_test(bad_addresses_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
