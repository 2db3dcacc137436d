/* Covers src/manager/network: what documents may say, addresses that are free, and the texts for nft and dnsmasq. What they do
 * is tested by tests/integration/test_hulld_networks.py. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/host/file.h"
#include "manager/network/state.h"
#include "system/layers/layers.h"

static struct place place;

static int set_up(void **state)
{
    char folder[] = "/tmp/hull-network-XXXXXX";
    assert_non_null(mkdtemp(folder));
    return place_open(folder, &place, NULL);
}

static int tear_down(void **state)
{
    return layers_remove(place.state, NULL);
}

static int read_plan(const char *text, struct plan *out, struct error *err)
{
    json_auto_t *document = json_loads(text, 0, NULL);
    assert_non_null(document);
    return plan_read(document, out, err);
}

static void documents(void **state)
{
    static const char *const bad[][2] = {
        {"{\"name\":\"\",\"type\":\"nat\"}", "name"},
        {"{\"name\":\"../x\",\"type\":\"nat\"}", "../x"},
        {"{\"name\":\"a\",\"type\":\"tube\"}", "type"},
        {"{\"name\":\"a\"}", "type"},
        {"{\"name\":\"a\",\"type\":\"bridge\"}", "config.bridge"},
        {"{\"name\":\"a\",\"type\":\"bridge\",\"config\":{\"parent\":\"eth0\"}}", "config.parent"},
        {"{\"name\":\"a\",\"type\":\"bridge\",\"config\":{\"bridge\":\"br0\\\" accept\"}}",
         "config.bridge"},
        {"{\"name\":\"a\",\"type\":\"bridge\",\"config\":{\"bridge\":\"0123456789abcdef\"}}",
         "config.bridge"},
        {"{\"name\":\"a\",\"type\":\"nat\",\"config\":{\"ipv4\":\"10.1.2.0/24\"}}", "config.ipv4"},
        {"{\"name\":\"a\",\"type\":\"nat\",\"config\":{\"ipv4\":\"10.1.2.1/30\"}}", "config.ipv4"},
        {"{\"name\":\"a\",\"type\":\"nat\",\"config\":{\"ipv4\":\"fd00::1/64\"}}", "config.ipv4"},
        {"{\"name\":\"a\",\"type\":\"nat\",\"config\":{\"ipv4\":7}}", "config.ipv4"},
        {"{\"name\":\"a\",\"type\":\"nat\",\"config\":{\"ipv4\":\"10.1.2.1/24\",\"ipv6\":\"fd00::1/"
         "48\"}}",
         "config.ipv6"},
        {"{\"name\":\"a\",\"type\":\"nat\",\"config\":{\"colour\":\"red\"}}", "config.colour"},
        {"{\"name\":\"a\",\"type\":\"user\",\"config\":{\"bridge\":\"br0\"}}", "config.bridge"},
        {"{\"name\":\"a\",\"type\":\"user\",\"config\":{\"ipv4\":\"10.0.2.14/24\"}}",
         "config.ipv4"},
        {"{\"name\":\"a\",\"type\":\"user\",\"config\":{\"ipv4\":\"10.0.2.1/25\"}}", "config.ipv4"},
        {"{\"name\":\"a\",\"type\":\"user\",\"config\":{\"ipv4\":\"fec0::2/24\"}}", "config.ipv4"},
        {"{\"name\":\"a\",\"type\":\"macvlan\"}", "config.parent"},
        {"{\"name\":\"a\",\"type\":\"macvlan\",\"config\":{\"parent\":\"a b\"}}", "config.parent"},
    };
    struct plan plan;
    struct error err;
    for (unsigned i = 0; i < ARRAY_COUNT(bad); i++) {
        if (read_plan(bad[i][0], &plan, &err) != -EINVAL || strstr(err.text, bad[i][1]) == NULL) {
            fail_msg("%s: %s", bad[i][0], err.text);
        }
    }
    assert_int_equal(read_plan("{\"name\":\"a-long.name_of\",\"type\":\"nat\"}", &plan, &err), 0);
    assert_string_equal(plan.bridge, "hull-a-long.nam");
    assert_int_equal(plan.ipv4.family, 0);
    assert_int_equal(
        read_plan("{\"name\":\"a\",\"type\":\"bridge\",\"config\":{\"bridge\":\"br0\"}}", &plan,
                  &err),
        0);
    assert_string_equal(plan.bridge, "br0");
    assert_int_equal(
        read_plan("{\"name\":\"a\",\"type\":\"macvlan\",\"config\":{\"parent\":\"eth0\"}}", &plan,
                  &err),
        0);
    assert_string_equal(plan.parent, "eth0");
    char text[NETWORK_TEXT_SIZE];
    assert_int_equal(read_plan("{\"name\":\"a\",\"type\":\"user\"}", &plan, &err), 0);
    network_format(&plan.ipv4, true, text);
    assert_string_equal(text, "10.0.2.2/24");
    network_format(&plan.first, false, text);
    assert_string_equal(text, "10.0.2.15");
    network_format(&plan.last, false, text);
    assert_string_equal(text, "10.0.2.254");
}

static void ranges(void **state)
{
    static const struct {
        const char *own, *first, *last;
    } cases[] = {{"10.1.2.1/24", "10.1.2.2", "10.1.2.254"},
                 {"10.1.2.254/24", "10.1.2.1", "10.1.2.253"},
                 {"10.1.2.9/24", "10.1.2.1", "10.1.2.254"},
                 {"10.1.2.1/29", "10.1.2.2", "10.1.2.6"},
                 {"10.0.0.1/8", "10.0.0.2", "10.255.255.254"},
                 {"172.16.33.1/20", "172.16.32.1", "172.16.47.254"}};
    for (unsigned i = 0; i < ARRAY_COUNT(cases); i++) {
        struct plan plan = {0};
        char text[NETWORK_TEXT_SIZE];
        assert_int_equal(plan_set_ipv4(&plan, cases[i].own, NULL), 0);
        network_format(&plan.first, false, text);
        assert_string_equal(text, cases[i].first);
        network_format(&plan.last, false, text);
        assert_string_equal(text, cases[i].last);
    }
}

static void macs(void **state)
{
    static const char *const bad[] = {"",
                                      "52:54:00:12:34",
                                      "52:54:00:12:34:5",
                                      "52:54:00:12:34:56:78",
                                      "52-54-00-12-34-56",
                                      "01:00:5e:00:00:01",
                                      "00:00:00:00:00:00",
                                      "ff:ff:ff:ff:ff:ff",
                                      "52:54:00:12:34:g6",
                                      "5:54:00:12:34:567",
                                      "52:54:00:12:34:56\n"};
    char text[PLAN_MAC_SIZE];
    for (unsigned i = 0; i < ARRAY_COUNT(bad); i++) {
        assert_int_equal(plan_read_mac(bad[i], text, NULL), -EINVAL);
    }
    assert_int_equal(plan_read_mac("52:54:00:AB:cD:0e", text, NULL), 0);
    assert_string_equal(text, "52:54:00:ab:cd:0e");
}

static int read_forward(const char *listen, const char *connect, struct plan_forward *out)
{
    json_auto_t *device = json_pack("{s:s,s:s}", "listen", listen, "connect", connect);
    return plan_read_forward(device, out, NULL);
}

static void forwards(void **state)
{
    struct plan_forward forward;
    static const char *const bad[][2] = {{"tcp:0", "tcp:80"},
                                         {"tcp:65536", "tcp:80"},
                                         {"tcp:80", "udp:80"},
                                         {"sctp:80", "tcp:80"},
                                         {"tcp:80", "tcp:10.0.0.1:80"},
                                         {"tcp:80 accept", "tcp:80"},
                                         {"tcp:x:80", "tcp:80"},
                                         {"tcp:10.0.0.1/8:80", "tcp:80"},
                                         {"80", "tcp:80"},
                                         {"tcp:80", ""},
                                         {"", "tcp:80"},
                                         {"tcp:-1", "tcp:80"},
                                         {"tcp::80", "tcp:80"},
                                         {"tcp:[10.0.0.1]:80", "tcp:80"},
                                         {"tcp:::1:80", "tcp:80"}};
    for (unsigned i = 0; i < ARRAY_COUNT(bad); i++) {
        if (read_forward(bad[i][0], bad[i][1], &forward) != -EINVAL) {
            fail_msg("%s to %s", bad[i][0], bad[i][1]);
        }
    }
    assert_int_equal(read_forward("tcp:[fd00::1]:80", "tcp:80", &forward), 0);
    assert_int_equal(forward.listen.family, AF_INET6);
    assert_int_equal(read_forward("tcp:8080", "tcp:80", &forward), 0);
    assert_int_equal(forward.listen.family, 0);
    assert_int_equal(forward.listen_port, 8080);
    assert_int_equal(forward.connect_port, 80);
    assert_int_equal(read_forward("tcp:0.0.0.0:8080", "tcp:80", &forward), 0);
    assert_int_equal(forward.listen.family, 0);
    assert_int_equal(read_forward("udp:192.0.2.1:53", "udp:5353", &forward), 0);
    assert_true(forward.is_udp);
    assert_int_equal(forward.listen.bytes[0], 192);
}

static void forwards_at_one_place(void **state)
{
    static const struct {
        const char *a, *b;
        bool clash;
    } cases[] = {{"tcp:80", "tcp:80", true},
                 {"tcp:80", "udp:80", false},
                 {"tcp:80", "tcp:81", false},
                 {"tcp:80", "tcp:192.0.2.1:80", true},
                 {"tcp:192.0.2.2:80", "tcp:192.0.2.1:80", false},
                 {"tcp:80", "tcp:[::]:80", false},
                 {"tcp:[fd00::1]:80", "tcp:[::]:80", true},
                 {"tcp:[fd00::1]:80", "tcp:[fd00::2]:80", false}};
    for (unsigned i = 0; i < ARRAY_COUNT(cases); i++) {
        struct plan_forward a, b;
        char to[] = "tcp:1";
        memcpy(to, cases[i].a, 3);
        assert_int_equal(read_forward(cases[i].a, to, &a), 0);
        memcpy(to, cases[i].b, 3);
        assert_int_equal(read_forward(cases[i].b, to, &b), 0);
        assert_int_equal(plan_forwards_clash(&a, &b), cases[i].clash);
        assert_int_equal(plan_forwards_clash(&b, &a), cases[i].clash);
    }
}

static void free_addresses(void **state)
{
    struct network_address address;
    struct error err = {0};
    char text[NETWORK_TEXT_SIZE];
    json_auto_t *taken = json_array();
    for (unsigned i = 0; i < 30; i++) {
        assert_int_equal(plan_choose_ipv4(taken, i * 7, &address, &err), 0);
        assert_string_equal(err.text, "");
        assert_int_equal(plan_check_free(&address, taken, NULL, &err), 0);
        network_format(&address, true, text);
        assert_int_equal(address.bytes[0], 10);
        assert_int_equal(address.bytes[3], 1);
        assert_false(address.bytes[1] == 90 && address.bytes[2] == 0);
        json_array_append_new(taken, json_string(text));
        assert_int_equal(plan_check_free(&address, taken, NULL, &err), -EEXIST);
        assert_non_null(strstr(err.text, text));
    }
    json_array_append_new(taken, json_string("10.0.0.1/8"));
    assert_int_equal(plan_choose_ipv4(taken, 1, &address, &err), -ENOSPC);
    /* The host's own. */
    assert_int_equal(network_parse("127.0.0.0/16", 0, false, &address, &err), 0);
    json_auto_t *none = json_array();
    assert_int_equal(plan_check_free(&address, none, NULL, &err), -EEXIST);
}

/* Chosen once, then the same for ever; two networks never overlap. */
static void chosen(void **state)
{
    struct net_state first, second;
    struct error err = {0};
    char text[NETWORK_TEXT_SIZE], again[NETWORK_TEXT_SIZE];
    json_auto_t *one = json_pack("{s:s,s:s,s:{}}", "name", "one", "type", "nat", "config");
    json_auto_t *two = json_pack("{s:s,s:s,s:{}}", "name", "two", "type", "nat", "config");
    if (net_state_open(&place, one, &first, &err) != 0) {
        fail_msg("%s", err.text);
    }
    network_format(&first.plan.ipv4, true, text);
    net_state_close(&first);
    net_state_chosen(&place, "one", again);
    assert_string_equal(again, text);
    assert_int_equal(net_state_open(&place, one, &first, &err), 0);
    network_format(&first.plan.ipv4, true, again);
    assert_string_equal(again, text);
    net_state_close(&first);
    json_object_set_new(json_object_get(two, "config"), "ipv4", json_string(text));
    assert_int_equal(net_state_open(&place, two, &second, &err), -EEXIST);
    net_state_chosen(&place, "two", again);
    assert_string_equal(again, "");
    json_object_del(json_object_get(two, "config"), "ipv4");
    assert_int_equal(net_state_open(&place, two, &second, &err), 0);
    assert_memory_not_equal(&second.plan.ipv4, &first.plan.ipv4, sizeof(first.plan.ipv4));
    net_state_close(&second);
}

static void assert_has(const char *text, const char *part)
{
    if (strstr(text, part) == NULL) {
        fail_msg("'%s' is not in:\n%s", part, text);
    }
}

static void texts(void **state)
{
    struct net_state net = {.place = &place};
    assert_int_equal(
        read_plan("{\"name\":\"n1\",\"type\":\"nat\",\"config\":{\"ipv4\":\"10.1.2.1/20\",\"ipv6\":"
                  "\"fd00:1::1/64\"}}",
                  &net.plan, NULL),
        0);
    net.addresses =
        json_pack("{s:{s:s,s:s}}", "web1/eth0", "mac", "52:54:00:00:00:01", "ipv4", "10.1.2.7");
    net.ports =
        json_pack("{s:{s:s,s:s,s:s,s:s,s:[{s:s,s:s},{s:s,s:s}]},s:{s:s,s:s,s:s,s:s,s:[{s:s,s:s}]}}",
                  "web1/eth0", "mac", "52:54:00:00:00:01", "ipv4", "10.1.2.7", "ipv6", "fd00:1::7",
                  "interface", "ht1", "forwards", "listen", "udp:53", "connect", "udp:5353",
                  "listen", "tcp:[::]:80", "connect", "tcp:81", "free/eth0", "mac",
                  "52:54:00:00:00:02", "ipv4", "10.1.2.8", "interface", "ht2", "spoofing", "allow",
                  "forwards", "listen", "tcp:[2001:db8::1]:443", "connect", "tcp:444");
    AUTO_FREE char *rules = net_rules_text(&net);
    AUTO_FREE char *config = net_dns_config(&net);
    AUTO_FREE char *leases = net_dns_leases(&net);
    AUTO_FREE char *hosts = net_dns_names(&net);
    assert_has(rules, "delete table bridge hull_n1");
    assert_has(rules, "delete table inet hull_n1");
    assert_has(rules, "elements = { \"ht1\" . 52:54:00:00:00:01 }");
    assert_has(rules, "elements = { \"ht1\" . 10.1.2.7 }");
    assert_has(rules, "elements = { \"ht1\" . fd00:1::7 }");
    assert_null(strstr(rules, "ht2"));
    assert_has(rules,
               "meta nfproto ipv4 fib daddr type local udp dport 53 dnat ip to 10.1.2.7:5353");
    assert_has(rules,
               "meta nfproto ipv6 fib daddr type local tcp dport 80 dnat ip6 to [fd00:1::7]:81");
    assert_has(rules,
               "ip6 daddr 2001:db8::1 tcp dport 443 dnat ip6 to [fd00:1::5054:ff:fe00:2]:444");
    assert_has(rules, "ip saddr 10.1.0.0/20 ip daddr != 10.1.0.0/20 masquerade");
    assert_has(rules, "fd00:1::/64");
    assert_has(config, "dhcp-range=10.1.0.1,10.1.15.254,255.255.240.0,1h\n");
    assert_has(config, "dhcp-option=option:router,10.1.2.1\n");
    assert_has(config, "interface=hull-n1\n");
    assert_string_equal(leases, "52:54:00:00:00:01,10.1.2.7,web1\n");
    assert_has(hosts, "10.1.2.7 web1\n");
    assert_has(hosts, "fd00:1::7 web1\n");
    assert_has(hosts, "10.1.2.8 free\n");
    json_decref(net.addresses);
    json_decref(net.ports);
}

/* What dnsmasq writes, damage included, and what the network itself knows. */
static void leases(void **state)
{
    char path[PATH_MAX];
    json_t *found;
    place_run_path(&place, "networks", "n1", "dns", path);
    assert_int_equal(file_make_folders(path, 0700, 0700, NULL), 0);
    place_run_path(&place, "networks", "n1", "dns/leases", path);
    assert_int_equal(file_replace(path,
                                  "9999999999 52:54:00:00:00:01 10.1.2.7 web1 01:52\n"
                                  "0 52:54:00:00:00:02 10.1.2.8 * *\n"
                                  "1000 52:54:00:00:00:03 10.1.2.9 old *\n"
                                  "9999999999 52:54:00:00:00:04 999.1.2.9 bad *\n"
                                  "9999999999 x 10.1.2.10 bad *\n"
                                  "duid 00:01:00:01\n\n"
                                  "9999999999 52:54:00",
                                  0600, false, NULL),
                     0);
    assert_int_equal(net_dns_list_leases(&place, "n1", &found, NULL), 0);
    assert_int_equal(json_array_size(found), 2);
    assert_string_equal(json_string_value(json_object_get(json_array_get(found, 1), "name")), "");
    json_decref(found);
    assert_int_equal(network_addresses(&place, "n1", "52:54:00:00:00:01", &found, NULL), 0);
    assert_int_equal(json_array_size(found), 1);
    assert_string_equal(json_string_value(json_array_get(found, 0)), "10.1.2.7");
    json_decref(found);
    assert_int_equal(network_addresses(&place, "n9", "52:54:00:00:00:01", &found, NULL), 0);
    assert_int_equal(json_array_size(found), 0);
    json_decref(found);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(documents),
        cmocka_unit_test(ranges),
        cmocka_unit_test(macs),
        cmocka_unit_test(forwards),
        cmocka_unit_test(forwards_at_one_place),
        cmocka_unit_test(free_addresses),
        cmocka_unit_test_setup_teardown(chosen, set_up, tear_down),
        cmocka_unit_test_setup_teardown(texts, set_up, tear_down),
        cmocka_unit_test_setup_teardown(leases, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
