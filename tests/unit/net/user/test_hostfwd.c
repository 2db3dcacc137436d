/* Covers net/user/hostfwd.c. */
#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "net/user/hostfwd.h"

static void check(const char *text, bool is_udp, const char *host, uint16_t host_port,
                  const char *guest, uint16_t guest_port)
{
    struct hostfwd forward;
    struct error err = {0};
    char name[INET6_ADDRSTRLEN];
    if (hostfwd_parse(text, &forward, &err) != 0) {
        fail_msg("%s", err.text);
    }
    assert_int_equal(forward.is_udp, is_udp);
    bool is_v6 = strchr(host, ':') != NULL;
    assert_int_equal(forward.host.any.sa_family, is_v6 ? AF_INET6 : AF_INET);
    const void *address =
        is_v6 ? (void *)&forward.host.v6.sin6_addr : (void *)&forward.host.v4.sin_addr;
    assert_string_equal(inet_ntop(is_v6 ? AF_INET6 : AF_INET, address, name, sizeof(name)), host);
    address = is_v6 ? (void *)&forward.guest.v6.sin6_addr : (void *)&forward.guest.v4.sin_addr;
    assert_string_equal(inet_ntop(is_v6 ? AF_INET6 : AF_INET, address, name, sizeof(name)), guest);
    assert_int_equal(ntohs(forward.host.v4.sin_port), host_port); /* at one place in both kinds */
    assert_int_equal(ntohs(forward.guest.v4.sin_port), guest_port);
}

static void rules_are_read(void **state)
{
    check("tcp:127.0.0.1:2222-:22", false, "127.0.0.1", 2222, "0.0.0.0", 22);
    check("tcp::2222-:22", false, "0.0.0.0", 2222, "0.0.0.0", 22);
    check("udp::1-10.0.2.20:65535", true, "0.0.0.0", 1, "10.0.2.20", 65535);
    check("tcp:[::1]:8080-[fec0::15]:80", false, "::1", 8080, "fec0::15", 80);
}

static void refused(const char *text, const char *reason)
{
    struct hostfwd forward;
    struct error err = {0};
    assert_int_equal(hostfwd_parse(text, &forward, &err), -EINVAL);
    if (strstr(err.text, reason) == NULL) {
        fail_msg("%s: %s, not for %s", text, err.text, reason);
    }
}

static void other_rules_are_refused_with_the_reason(void **state)
{
    refused("", "no protocol");
    refused("tcp", "no protocol");
    refused("sctp::1-:1", "no protocol");
    refused("tcp:", "no host port");
    refused("tcp::", "bad host port");
    refused("tcp::-:22", "bad host port");
    refused("tcp::+1-:22", "bad host port");
    refused("tcp::0-:22", "bad host port");
    refused("tcp::65536-:22", "bad host port");
    refused("tcp::4294967297-:22", "bad host port");
    refused("tcp::99999999999999999999-:22", "bad host port");
    refused("tcp::22", "no \"-\"");
    refused("tcp::22-", "no guest port");
    refused("tcp::22-:", "bad guest port");
    refused("tcp::22-:22,", "after the guest port");
    refused("tcp:1.2.3:1-:1", "bad host address");
    refused("tcp:256.0.0.1:1-:1", "bad host address");
    refused("tcp:[]:1-[::1]:1", "bad host address");
    refused("tcp:[::1:1-:1", "no host port");
    refused("tcp:[::1]1-:1", "no host port");
    refused("tcp:[::1]:1-:1", "same kind");
    refused("tcp::1-[::1]:1", "same kind");
    refused("tcp:[::1]:1-[::]:1", "is missing");
    refused("tcp:12345678901234567890123456789012345678901234567890:1-:1", "no host port");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rules_are_read),
        cmocka_unit_test(other_rules_are_refused_with_the_reason),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
