/* Covers system/network/card.c: containers are network namespaces without anybody in them. */
#include "support.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

struct fixture {
    int first, second; /* containers */
};

static int setup(void **state)
{
    static struct fixture f;
    const struct network_address v4 = support_address("10.90.0.1/24");
    const struct network_address v6 = support_address("fd00:90::1/64");
    f.first = support_namespace();
    f.second = support_namespace();
    *state = &f;
    return network_bridge_make("hull0", &v4, NULL, NULL) < 0 ||
           network_bridge_make("hull0", &v6, NULL, NULL) < 0;
}

static int teardown(void **state)
{
    const struct fixture *f = *state;
    close(f->first);
    close(f->second);
    return support_clean(state);
}

static void expect_refused(const struct network_card *card, int container, int code,
                           const char *reason)
{
    struct error err = {0};
    assert_int_equal(network_attach_card(card, container, &err), -code);
    if (strstr(err.text, reason) == NULL) {
        fail_msg("'%s' has no '%s'", err.text, reason);
    }
}

static void mac_of(int container, const char *name, uint8_t out[6])
{
    struct ifreq answer;
    assert_true(support_ask(container, name, SIOCGIFHWADDR, &answer));
    memcpy(out, answer.ifr_hwaddr.sa_data, 6);
}

static int mtu_of(int container, const char *name)
{
    struct ifreq answer;
    assert_true(support_ask(container, name, SIOCGIFMTU, &answer));
    return answer.ifr_mtu;
}

static bool is_up(int container, const char *name)
{
    struct ifreq answer;
    assert_true(support_ask(container, name, SIOCGIFFLAGS, &answer));
    return (answer.ifr_flags & IFF_UP) != 0;
}

static ino_t current_namespace(void)
{
    struct stat here;
    assert_int_equal(stat("/proc/thread-self/ns/net", &here), 0);
    return here.st_ino;
}

static void containers_reach_each_other_and_the_host(void **state)
{
    const struct fixture *f = *state;
    const struct network_card first =
        support_card("hc-1", "hull0", "10.90.0.10/24", "fd00:90::10/64");
    const struct network_card second =
        support_card("hc-2", "hull0", "10.90.0.11/24", "fd00:90::11/64");
    ino_t before = current_namespace();
    support_attach(&first, f->first);
    support_attach(&second, f->second);
    assert_int_equal(current_namespace(), before);
    assert_true(is_up(f->first, "lo") && is_up(f->first, "eth0"));
    assert_true(support_connects(f->first, f->second, "10.90.0.11"));
    assert_true(support_connects(f->second, f->first, "10.90.0.10"));
    assert_true(support_connects(f->first, f->second, "fd00:90::11"));
    assert_true(support_connects(f->second, f->first, "fd00:90::10"));
    assert_true(support_connects(f->first, support_own(), "10.90.0.1"));
    assert_true(support_connects(support_own(), f->first, "fd00:90::10"));
    assert_true(support_connects(f->first, f->first, "127.0.0.1"));
}

static void gateways_lead_outside(void **state)
{
    const struct fixture *f = *state;
    const struct network_address other4 = support_address("192.0.2.1/24");
    const struct network_address other6 = support_address("fd00:2::1/64");
    assert_int_equal(network_bridge_make("hull1", &other4, NULL, NULL), 0);
    assert_int_equal(network_bridge_make("hull1", &other6, NULL, NULL), 0);
    struct network_card card = support_card("hc-1", "hull0", "10.90.0.10/24", "fd00:90::10/64");
    support_attach(&card, f->first);
    assert_false(support_connects(f->first, support_own(), "192.0.2.1"));
    assert_int_equal(network_detach_card("hc-1", NULL), 0);
    card.gateway4 = support_address("10.90.0.1");
    card.gateway6 = support_address("fd00:90::1");
    support_attach(&card, f->first);
    assert_true(support_connects(f->first, support_own(), "192.0.2.1"));
    assert_true(support_connects(f->first, support_own(), "fd00:2::1"));
}

static void gateways_may_lie_outside_of_the_network(void **state)
{
    const struct fixture *f = *state;
    const struct network_address other4 = support_address("192.0.2.1/24");
    const struct network_address other6 = support_address("fd00:2::1/64");
    assert_int_equal(network_bridge_make("hull1", &other4, NULL, NULL), 0);
    assert_int_equal(network_bridge_make("hull1", &other6, NULL, NULL), 0);
    struct network_card card = support_card("hc-1", "hull0", "10.77.0.5/32", "fd00:77::5/128");
    card.gateway4 = support_address("10.90.0.1");
    card.gateway6 = support_address("fd00:90::1");
    support_attach(&card, f->first);
    support_route("10.77.0.5/32", "hull0");
    support_route("fd00:77::5/128", "hull0");
    assert_true(support_connects(f->first, support_own(), "192.0.2.1"));
    assert_true(support_connects(f->first, support_own(), "fd00:2::1"));
}

static void card_without_a_bridge_stands_alone(void **state)
{
    const struct fixture *f = *state;
    const struct network_card card = support_card("hc-1", NULL, "10.77.0.5/32", NULL);
    support_attach(&card, f->first);
    assert_true(is_up(support_own(), "hc-1") && is_up(f->first, "eth0"));
    assert_int_equal(mtu_of(f->first, "eth0"), 1500);
    assert_int_equal(network_bridge_remove("hull0", NULL), 0); /* it is not in there */
}

static void hardware_addresses_are_lasting(void **state)
{
    const struct fixture *f = *state;
    static const uint8_t given[6] = {0x02, 0x11, 0x22, 0x33, 0x44, 0x55};
    uint8_t made[6], again[6], other[6], bridge[6], outside[6];
    struct network_card card = support_card("hc-1", "hull0", NULL, NULL);
    mac_of(support_own(), "hull0", bridge);
    support_attach(&card, f->first);
    mac_of(f->first, "eth0", made);
    assert_int_equal(made[0] & 3, 2); /* local, of one device */
    mac_of(support_own(), "hc-1", outside);
    assert_memory_not_equal(outside, made, 6);
    assert_int_equal(network_detach_card("hc-1", NULL), 0);
    support_attach(&card, f->first);
    mac_of(f->first, "eth0", again);
    assert_memory_equal(made, again, 6);
    card.host_name = "hc-2";
    support_attach(&card, f->second);
    mac_of(f->second, "eth0", other);
    assert_memory_not_equal(made, other, 6);
    assert_int_equal(network_detach_card("hc-1", NULL), 0);
    memcpy(card.mac, given, sizeof(given));
    card.host_name = "hc-1";
    support_attach(&card, f->first);
    mac_of(f->first, "eth0", again);
    assert_memory_equal(again, given, 6);
    mac_of(support_own(), "hull0", again);
    assert_memory_equal(again, bridge, 6);
    card.mac[0] = 0x03;
    card.host_name = "hc-3";
    expect_refused(&card, f->first, EINVAL, "of a group");
}

static void size_of_frames_is_the_bridges(void **state)
{
    const struct fixture *f = *state;
    struct network_card card = support_card("hc-1", "hull0", NULL, NULL);
    card.mtu = 1400;
    support_attach(&card, f->first);
    assert_int_equal(mtu_of(f->first, "eth0"), 1400);
    assert_int_equal(mtu_of(support_own(), "hc-1"), 1400);
    card.mtu = 0;
    card.host_name = "hc-2";
    support_attach(&card, f->second);
    assert_int_equal(mtu_of(f->second, "eth0"), mtu_of(support_own(), "hull0"));
    card.mtu = 5;
    card.host_name = "hc-3";
    card.name = "eth1";
    expect_refused(&card, f->first, EINVAL, "hc-3");
    assert_false(support_exists(support_own(), "hc-3"));
}

static void names_in_the_way_are_told(void **state)
{
    const struct fixture *f = *state;
    struct network_card card = support_card("hc-1", "hull0", "10.90.0.10/24", NULL);
    support_attach(&card, f->first);
    expect_refused(&card, f->second, EEXIST, "the host has a device 'hc-1'");
    assert_false(support_exists(f->second, "eth0"));
    card.host_name = "hc-2";
    expect_refused(&card, f->first, EEXIST, "the container has a device 'eth0'");
    assert_false(support_exists(support_own(), "hc-2"));
    assert_true(support_exists(f->first, "eth0"));
    card.name = "lo";
    expect_refused(&card, f->first, EEXIST, "the container has a device 'lo'");
}

static void bridges_are_looked_for(void **state)
{
    const struct fixture *f = *state;
    struct network_card card = support_card("hc-1", "gone0", NULL, NULL);
    expect_refused(&card, f->first, ENODEV, "gone0");
    card.bridge = "lo";
    expect_refused(&card, f->first, ENODEV, "'lo': the device of that name is no bridge");
    card.bridge = "a name that is longer than any device's";
    expect_refused(&card, f->first, ENODEV, "no such device");
    assert_false(support_exists(support_own(), "hc-1"));
    assert_false(support_exists(f->first, "eth0"));
}

static void nothing_is_left_of_a_failure(void **state)
{
    const struct fixture *f = *state;
    struct network_card card = support_card("hc-1", "hull0", "10.90.0.10/24", "10.90.0.10/24");
    expect_refused(&card, f->first, EEXIST, "address 10.90.0.10/24");
    assert_false(support_exists(support_own(), "hc-1"));
    assert_false(support_exists(f->first, "eth0"));
    card.address_count = 1;
    card.gateway6 = support_address("ff02::1");
    expect_refused(&card, f->first, EINVAL, "gateway ff02::1");
    card.gateway4 = support_address("224.0.0.1");
    expect_refused(&card, f->first, EINVAL, "gateway 224.0.0.1");
    assert_false(support_exists(support_own(), "hc-1"));
    assert_false(support_exists(f->first, "eth0"));
}

static void cards_are_checked(void **state)
{
    const struct fixture *f = *state;
    struct network_card card = support_card("hc-1", "hull0", "10.90.0.10/24", NULL);
    card.name = "eth%d";
    expect_refused(&card, f->first, EINVAL, "eth%d");
    card.name = "";
    expect_refused(&card, f->first, EINVAL, "a device's name");
    card.name = "eth0";
    card.host_name = "0123456789abcdef";
    expect_refused(&card, f->first, EINVAL, "0123456789abcdef");
    card.host_name = "hc-1";
    card.address_count = NETWORK_MAX_ADDRESSES + 1;
    expect_refused(&card, f->first, EINVAL, "more than 8");
    card.address_count = 2; /* the second is of no family */
    expect_refused(&card, f->first, EINVAL, "wrong family");
    card.address_count = 1;
    card.gateway4 = support_address("fd00::1");
    expect_refused(&card, f->first, EINVAL, "wrong family");
    card.gateway4.family = 0;
    int file = dup(STDERR_FILENO); /* of no namespace */
    expect_refused(&card, file, EINVAL, "network namespace");
    close(file);
    assert_false(support_exists(support_own(), "hc-1"));
}

static void all_addresses_are_set(void **state)
{
    const struct fixture *f = *state;
    struct network_card card = support_card("hc-1", "hull0", "10.90.0.10/24", NULL);
    for (size_t i = 1; i < NETWORK_MAX_ADDRESSES; i++) {
        card.addresses[i] = support_address(i % 2 != 0 ? "fd00:90::10/64" : "10.90.0.10/24");
        assert_int_equal(network_advance(&card.addresses[i], (uint32_t)i, &card.addresses[i], NULL),
                         0);
    }
    card.address_count = NETWORK_MAX_ADDRESSES;
    card.gateway4 = support_address("10.90.0.1");
    card.gateway6 = support_address("fd00:90::1");
    support_attach(&card, f->first);
    for (size_t i = 0; i < NETWORK_MAX_ADDRESSES; i++) {
        char text[NETWORK_TEXT_SIZE];
        network_format(&card.addresses[i], false, text);
        assert_true(support_connects(support_own(), f->first, text));
    }
}

static void detached_pairs_are_gone(void **state)
{
    const struct fixture *f = *state;
    struct error err = {0};
    const struct network_card card = support_card("hc-1", "hull0", "10.90.0.10/24", NULL);
    assert_int_equal(network_detach_card("hc-1", &err), 0);
    assert_int_equal(network_detach_card("a name that is too long", &err), 0);
    support_attach(&card, f->first);
    assert_int_equal(network_detach_card("hc-1", &err), 0);
    assert_false(support_exists(support_own(), "hc-1"));
    assert_false(support_exists(f->first, "eth0"));
    assert_int_equal(network_detach_card("hull0", &err), -EINVAL);
    assert_non_null(strstr(err.text, "hull0"));
    assert_true(support_exists(support_own(), "hull0"));
}

int main(void)
{
    if (!support_enter()) {
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(containers_reach_each_other_and_the_host, setup, teardown),
        cmocka_unit_test_setup_teardown(gateways_lead_outside, setup, teardown),
        cmocka_unit_test_setup_teardown(gateways_may_lie_outside_of_the_network, setup, teardown),
        cmocka_unit_test_setup_teardown(card_without_a_bridge_stands_alone, setup, teardown),
        cmocka_unit_test_setup_teardown(hardware_addresses_are_lasting, setup, teardown),
        cmocka_unit_test_setup_teardown(size_of_frames_is_the_bridges, setup, teardown),
        cmocka_unit_test_setup_teardown(names_in_the_way_are_told, setup, teardown),
        cmocka_unit_test_setup_teardown(bridges_are_looked_for, setup, teardown),
        cmocka_unit_test_setup_teardown(nothing_is_left_of_a_failure, setup, teardown),
        cmocka_unit_test_setup_teardown(cards_are_checked, setup, teardown),
        cmocka_unit_test_setup_teardown(all_addresses_are_set, setup, teardown),
        cmocka_unit_test_setup_teardown(detached_pairs_are_gone, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
