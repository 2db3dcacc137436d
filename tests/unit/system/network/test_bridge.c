/* Covers system/network/bridge.c and devices.c with real bridges in a network namespace of its own. */
#include "support.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

static void make(const char *name, const char *address, bool want_new)
{
    struct error err = {0};
    bool is_new = !want_new;
    struct network_address own = {0};
    if (address != NULL) {
        own = support_address(address);
    }
    assert_int_equal(network_bridge_make(name, address != NULL ? &own : NULL, &is_new, &err), 0);
    assert_int_equal(is_new, want_new);
}

static void expect_refused(const char *name, const char *address, int code, const char *reason)
{
    struct error err = {0};
    bool is_new = true;
    struct network_address own = support_address(address);
    assert_int_equal(network_bridge_make(name, &own, &is_new, &err), -code);
    if (strstr(err.text, reason) == NULL) {
        fail_msg("'%s' has no '%s'", err.text, reason);
    }
    assert_true(is_new); /* untouched */
}

static void expect_addresses(const char *name, const char *want)
{
    struct network_address found[NETWORK_MAX_ADDRESSES];
    size_t count = 0;
    char all[NETWORK_MAX_ADDRESSES * NETWORK_TEXT_SIZE] = "";
    assert_int_equal(network_device_addresses(name, found, &count, NULL), 0);
    for (size_t i = 0; i < count; i++) {
        char text[NETWORK_TEXT_SIZE];
        network_format(&found[i], true, text);
        strcat(strcat(all, text), " ");
    }
    assert_string_equal(all, want);
}

static bool is_up(const char *name)
{
    struct ifreq answer;
    assert_true(support_ask(support_own(), name, SIOCGIFFLAGS, &answer));
    return (answer.ifr_flags & IFF_UP) != 0;
}

static void set_down(const char *name)
{
    struct ifreq request;
    assert_true(support_ask(support_own(), name, SIOCGIFFLAGS, &request));
    int fd = support_socket(support_own(), AF_INET, SOCK_DGRAM, 0);
    request.ifr_flags = (short)(request.ifr_flags & ~IFF_UP);
    assert_int_equal(ioctl(fd, SIOCSIFFLAGS, &request), 0);
    close(fd);
}

static void bridge_is_made_once(void **state)
{
    (void)state;
    make("hull0", "10.90.0.1/24", true);
    assert_true(is_up("hull0"));
    expect_addresses("hull0", "10.90.0.1/24 ");
    make("hull0", "10.90.0.1/24", false);
    make("hull0", "10.91.0.1/24", false); /* it has one of that family */
    make("hull0", NULL, false);
    expect_addresses("hull0", "10.90.0.1/24 ");
    make("hull0", "fd00:90::1/64", false);
    expect_addresses("hull0", "10.90.0.1/24 fd00:90::1/64 ");
    assert_true(support_connects(support_own(), support_own(), "fd00:90::1"));
    set_down("hull0");
    make("hull0", NULL, false);
    assert_true(is_up("hull0"));
}

static void address_may_come_later(void **state)
{
    (void)state;
    make("hull0", NULL, true);
    assert_true(is_up("hull0"));
    expect_addresses("hull0", "");
    make("hull0", "10.90.0.1/24", false);
    expect_addresses("hull0", "10.90.0.1/24 ");
}

static void overlapping_networks_are_refused(void **state)
{
    (void)state;
    make("hull0", "10.90.0.1/16", true);
    expect_refused("hull1", "10.90.5.1/24", EEXIST, "overlaps that of hull0, 10.90.0.1/16");
    expect_refused("hull1", "10.0.0.1/8", EEXIST, "overlaps");
    expect_refused("hull1", "10.90.0.1/32", EEXIST, "overlaps");
    assert_false(support_exists(support_own(), "hull1"));
    make("hull1", NULL, true);
    expect_refused("hull1", "10.90.5.1/24", EEXIST, "overlaps");
    expect_addresses("hull1", "");
    make("hull1", "10.91.0.1/16", false);
    make("hull2", "fd00:90::1/64", true);
    expect_refused("hull3", "fd00:90::2/48", EEXIST, "hull2");
    make("hull3", "fd00:90:0:1::1/64", true);
    make("hull4", "fe80::1234/64", true); /* each device has its own of these */
    make("hull4", "fe80::1234/64", false);
}

static void other_devices_are_no_bridges(void **state)
{
    (void)state;
    int container = support_namespace();
    const struct network_card card = support_card("pair0", NULL, NULL, NULL);
    support_attach(&card, container);
    close(container);
    expect_refused("pair0", "10.90.0.1/24", EEXIST, "is no bridge");
    expect_refused("lo", "10.90.0.1/24", EEXIST, "is no bridge");
    assert_int_equal(network_bridge_remove("lo", NULL), -ENODEV);
    assert_int_equal(network_bridge_remove("pair0", NULL), -ENODEV);
    assert_true(support_exists(support_own(), "pair0"));
}

static void names_are_checked(void **state)
{
    (void)state;
    static const char *const bad[] = {"",
                                      ".",
                                      "..",
                                      "a/b",
                                      "hull%d",
                                      "a b",
                                      "a\tb\n",
                                      "a:b",
                                      "0123456789abcdef",
                                      "0123456789abcdef0123456789abcdef0123456789abcdef"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        expect_refused(bad[i], "10.90.0.1/24", EINVAL, "a device's name");
    }
    make("0123456789abcde", NULL, true);
    const struct network_address none = {0};
    assert_int_equal(network_bridge_make("hull0", &none, NULL, NULL), -EINVAL);
}

static void bridge_in_use_stays(void **state)
{
    (void)state;
    struct error err = {0};
    int container = support_namespace();
    assert_int_equal(network_bridge_remove("hull0", &err), -ENODEV);
    assert_non_null(strstr(err.text, "hull0"));
    make("hull0", NULL, true);
    make("hull1", NULL, true);
    const struct network_card card = support_card("pair0", "hull0", NULL, NULL);
    support_attach(&card, container);
    assert_int_equal(network_bridge_remove("hull0", &err), -EBUSY);
    assert_non_null(strstr(err.text, "pair0"));
    assert_int_equal(network_bridge_remove("hull1", &err), 0);
    assert_int_equal(network_detach_card("pair0", &err), 0);
    assert_int_equal(network_bridge_remove("hull0", &err), 0);
    assert_false(support_exists(support_own(), "hull0"));
    assert_false(support_exists(support_own(), "hull1"));
    close(container);
}

static void devices_have_addresses(void **state)
{
    (void)state;
    struct network_address found[NETWORK_MAX_ADDRESSES];
    struct error err = {0};
    size_t count = 77;
    assert_int_equal(network_device_addresses("gone0", found, &count, &err), -ENODEV);
    assert_non_null(strstr(err.text, "gone0"));
    assert_int_equal(network_device_addresses("a name that is too long", found, &count, &err),
                     -ENODEV);
    assert_int_equal(count, 77);
}

struct removed {
    unsigned count;
    bool has_other;
};

static void remove_each(const char *name, void *ctx)
{
    struct removed *removed = ctx;
    removed->count++;
    removed->has_other |= strncmp(name, "hc-", 3) != 0;
    assert_int_equal(network_detach_card(name, NULL), 0);
}

static void pairs_are_found_by_prefix(void **state)
{
    (void)state;
    enum {
        PAIRS = 80
    };
    int container = support_namespace();
    make("hc-bridge", NULL, true);
    for (unsigned i = 0; i < PAIRS; i++) {
        char name[IFNAMSIZ], inside[IFNAMSIZ];
        (void)snprintf(name, sizeof(name), i % 2 != 0 ? "hc-%u" : "other-%u", i);
        (void)snprintf(inside, sizeof(inside), "eth%u", i);
        struct network_card card = support_card(name, "hc-bridge", NULL, NULL);
        card.name = inside;
        support_attach(&card, container);
    }
    struct removed removed = {0};
    assert_int_equal(network_each_veth("hc-", remove_each, &removed, NULL), 0);
    assert_int_equal(removed.count, PAIRS / 2);
    assert_false(removed.has_other);
    assert_true(support_exists(support_own(), "hc-bridge"));
    assert_true(support_exists(support_own(), "other-0"));
    removed.count = 0;
    assert_int_equal(network_each_veth("hc-", remove_each, &removed, NULL), 0);
    assert_int_equal(removed.count, 0);
    close(container);
}

int main(void)
{
    if (!support_enter()) {
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(bridge_is_made_once, support_clean),
        cmocka_unit_test_teardown(address_may_come_later, support_clean),
        cmocka_unit_test_teardown(overlapping_networks_are_refused, support_clean),
        cmocka_unit_test_teardown(other_devices_are_no_bridges, support_clean),
        cmocka_unit_test_teardown(names_are_checked, support_clean),
        cmocka_unit_test_teardown(bridge_in_use_stays, support_clean),
        cmocka_unit_test_teardown(devices_have_addresses, support_clean),
        cmocka_unit_test_teardown(pairs_are_found_by_prefix, support_clean),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
