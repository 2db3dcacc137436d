/* Covers net/user/options.c: what goes together. */
#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "net/user/options.h"

#define MAX_WORDS 8

static int parse(const char *const *words, struct net_user_options *out, struct error *err)
{
    char *argv[MAX_WORDS + 2] = {(char *)"hull-net-user"};
    int argc = 1;
    while (argc <= MAX_WORDS && words[argc - 1] != NULL) {
        argv[argc] = (char *)words[argc - 1];
        argc++;
    }
    return net_user_parse_options(argc, argv, out, err);
}

static void a_switch(void **state)
{
    struct net_user_options options;
    struct error err;
    const char *const plain[MAX_WORDS] = {"--switch", "/run/s"};
    assert_int_equal(parse(plain, &options, &err), 0);
    assert_string_equal(options.switch_path, "/run/s");
    assert_int_equal(options.gateway.s_addr, inet_addr("10.0.2.2"));
    assert_int_equal(options.prefix, 24);
    assert_int_equal(options.idle_s, 60);
    const char *const all[MAX_WORDS] = {"--switch",      "/run/s", "--ipv4", "172.16.0.1/12",
                                        "--pid-file=/p", "--idle", "0"};
    assert_int_equal(parse(all, &options, &err), 0);
    assert_int_equal(options.gateway.s_addr, inet_addr("172.16.0.1"));
    assert_int_equal(options.prefix, 12);
    assert_int_equal(options.idle_s, 0);
    assert_string_equal(options.pid_file, "/p");
}

static void what_does_not_go_together(void **state)
{
    static const char *const bad[][MAX_WORDS] = {
        {NULL},
        {"--switch", "/s", "--fd", "3"},
        {"--fd", "3", "--pid-file", "/p"},
        {"--switch", "/s", "--hostfwd", "tcp::80-:80"},
        {"--switch", "/s", "--hostname", "web1"},
        {"--switch", "/s", "--ipv4", "10.0.2.2"},
        {"--switch", "/s", "--ipv4", "10.0.2.0/24"},
        {"--switch", "/s", "--ipv4", "10.0.2.14/24"},
        {"--switch", "/s", "--ipv4", "10.0.2.2/25"},
        {"--switch", "/s", "--ipv4", "10.0.2.2/7"},
        {"--switch", "/s", "--ipv4", "10.0.2.2/24x"},
        {"--switch", "/s", "--ipv4", "010.000.002.002.000.000/24"},
        {"--switch", "/s", "--idle", "-1"},
        {"--switch", "/s", "--idle", "1s"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        struct net_user_options options;
        struct error err = {0};
        if (parse(bad[i], &options, &err) != -EINVAL) {
            fail_msg("%zu was taken", i);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_switch),
        cmocka_unit_test(what_does_not_go_together),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
