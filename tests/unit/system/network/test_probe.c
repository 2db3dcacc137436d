/* Covers system/network/probe.c: those who answer are the kernel in other network namespaces, and one who sends rubbish. */
#include "support.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* Far longer than a test may take: what waits for it fails. */
#define FOR_EVER_MS 3600000
#define SHORT_MS    400

static int expect_probe(const char *const *texts, size_t count, unsigned timeout_ms,
                        const char *want)
{
    struct network_address addresses[8];
    struct error err = {0};
    bool used[8];
    char got[9] = "";
    assert_true(count <= 8);
    for (size_t i = 0; i < count; i++) {
        addresses[i] = support_address(texts[i]);
        used[i] = true;
    }
    int rc = network_probe("hull0", addresses, count, timeout_ms, used, &err);
    assert_string_equal(err.text, "");
    for (size_t i = 0; i < count; i++) {
        got[i] = used[i] ? '1' : '0';
    }
    assert_string_equal(got, want);
    return rc;
}

/* A worker of the kernel has ports forward, a moment after they are up. */
static bool wait_until_running(const char *name)
{
    for (unsigned i = 0; i < 10000; i++) {
        struct ifreq answer;
        if (support_ask(support_own(), name, SIOCGIFFLAGS, &answer) &&
            (answer.ifr_flags & IFF_RUNNING) != 0) {
            return true;
        }
        usleep(1000);
    }
    return false;
}

static int setup(void **state)
{
    static int container;
    const struct network_card card =
        support_card("hc-1", "hull0", "10.90.0.10/24", "fd00:90::10/64");
    container = support_namespace();
    *state = &container;
    if (network_bridge_make("hull0", NULL, NULL, NULL) < 0) {
        return -1;
    }
    support_attach(&card, container);
    /* The second look at the bridge waits for the worker to be done. */
    return wait_until_running("hc-1") && network_bridge_make("hull0", NULL, NULL, NULL) == 0 ? 0
                                                                                             : -1;
}

static int teardown(void **state)
{
    close(*(int *)*state);
    return support_clean(state);
}

static void used_addresses_are_found(void **state)
{
    (void)state;
    static const char *const mixed[] = {"10.90.0.9", "10.90.0.10", "10.90.0.11"};
    static const char *const mixed6[] = {"fd00:90::9", "fd00:90::10", "fd00:91::10"};
    static const char *const both[] = {"10.90.0.10", "fd00:90::10", "10.90.0.10"};
    assert_int_equal(expect_probe(mixed, 3, SHORT_MS, "010"), 1);
    assert_int_equal(expect_probe(mixed6, 3, SHORT_MS, "010"), 1);
    assert_int_equal(expect_probe(both, 3, FOR_EVER_MS, "111"), 1); /* ends with the last answer */
}

static void unused_addresses_are_free(void **state)
{
    (void)state;
    static const char *const unused[] = {"10.90.0.9", "fd00:90::9"};
    assert_int_equal(expect_probe(unused, 2, SHORT_MS, "00"), 0);
    assert_int_equal(expect_probe(unused, 1, 0, "0"), 0);
    assert_int_equal(expect_probe(unused, 0, FOR_EVER_MS, ""), 0);
}

static void own_addresses_are_used(void **state)
{
    (void)state;
    static const char *const own[] = {"10.90.0.1", "fd00:90::1"};
    const struct network_address v4 = support_address("10.90.0.1/24");
    const struct network_address v6 = support_address("fd00:90::1/64");
    assert_int_equal(network_bridge_make("hull0", &v4, NULL, NULL), 0);
    assert_int_equal(network_bridge_make("hull0", &v6, NULL, NULL), 0);
    assert_int_equal(expect_probe(own, 2, FOR_EVER_MS, "11"), 1);
}

static void nobody_is_asked_on_an_empty_bridge(void **state)
{
    (void)state;
    static const char *const some[] = {"10.90.0.10", "fd00:90::10"};
    assert_int_equal(network_detach_card("hc-1", NULL), 0);
    assert_int_equal(expect_probe(some, 2, FOR_EVER_MS, "00"), 0);
    /* One that never had a port says that it is running. */
    assert_int_equal(network_bridge_remove("hull0", NULL), 0);
    assert_int_equal(network_bridge_make("hull0", NULL, NULL, NULL), 0);
    assert_int_equal(expect_probe(some, 2, FOR_EVER_MS, "00"), 0);
}

static void bridge_has_to_be_one(void **state)
{
    (void)state;
    struct error err = {0};
    struct network_address address = support_address("10.90.0.10");
    bool used;
    assert_int_equal(network_probe("gone0", &address, 1, SHORT_MS, &used, &err), -ENODEV);
    assert_non_null(strstr(err.text, "gone0"));
    assert_int_equal(network_probe("hc-1", &address, 1, SHORT_MS, &used, &err), -ENODEV);
    address.family = 0;
    assert_int_equal(network_probe("hull0", &address, 1, SHORT_MS, &used, &err), -EINVAL);
}

static void many_are_asked_at_once(void **state)
{
    enum {
        COUNT = 1000
    };
    static struct network_address addresses[COUNT];
    static bool used[COUNT];
    (void)state;
    const struct network_address first = support_address("10.90.0.1/16");
    for (uint32_t i = 0; i < COUNT; i++) {
        assert_int_equal(network_advance(&first, i, &addresses[i], NULL), 0);
    }
    assert_int_equal(network_probe("hull0", addresses, COUNT, SHORT_MS, used, NULL), 1);
    for (unsigned i = 0; i < COUNT; i++) {
        assert_int_equal(used[i], i == 9);
    }
}

/* Frames that look like answers for 10.90.0.20 and fd00:90::20, each wrong in some way. */
static void send_rubbish(int fd, int index)
{
    uint8_t arp[28] = {0, 1, 8, 0, 6, 4, 0, 2, 2, 1, 1, 1, 1, 1, 10, 90, 0, 20};
    uint8_t neighbor[64] = {0x60, 0, 0, 0, 0, 24, IPPROTO_ICMPV6, 255};
    static const uint8_t target[16] = {0xfd, 0, 0, 0x90, [15] = 0x20};
    struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_ifindex = index, .sll_halen = 6};
    memset(to.sll_addr, 0xff, 6);
    neighbor[40] = 136;
    memcpy(neighbor + 48, target, sizeof(target));
    for (unsigned kind = 0; kind < 8; kind++) {
        uint8_t packet[64];
        bool is_arp = kind < 4;
        size_t size = is_arp ? sizeof(arp) : sizeof(neighbor);
        memcpy(packet, is_arp ? arp : neighbor, size);
        switch (kind) {
        case 0:
            size = 20;
            break;
        case 1:
            packet[4] = 8;
            break;
        case 2:
            packet[0] = 1;
            break;
        case 3:
            packet[2] = 0x86;
            break;
        case 4:
            size = 50;
            break;
        case 5:
            packet[7] = 64;
            break;
        case 6:
            packet[40] = 134;
            break;
        default:
            packet[6] = 17;
            break;
        }
        to.sll_protocol = htons(is_arp ? ETH_P_ARP : ETH_P_IPV6);
        (void)!sendto(fd, packet, size, 0, (const struct sockaddr *)&to, sizeof(to));
    }
}

static void rubbish_is_no_answer(void **state)
{
    static const char *const asked[] = {"10.90.0.20", "fd00:90::20"};
    static const char *const also[] = {"10.90.0.20", "fd00:90::20", "10.90.0.10", "fd00:90::10"};
    int container = *(int *)*state;
    struct ifreq device;
    assert_true(support_ask(container, "eth0", SIOCGIFINDEX, &device));
    int fd = support_socket(container, AF_PACKET, SOCK_DGRAM, 0);
    pid_t flood = fork();
    assert_true(flood >= 0);
    if (flood == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* with a test that fails */
        alarm(60);
        for (;;) {
            send_rubbish(fd, device.ifr_ifindex);
        }
    }
    int rc = expect_probe(asked, 2, SHORT_MS, "00");
    int rc_also = expect_probe(also, 4, 5 * SHORT_MS, "0011");
    assert_int_equal(kill(flood, SIGKILL), 0);
    assert_int_equal(waitpid(flood, NULL, 0), flood);
    assert_int_equal(rc, 0);
    assert_int_equal(rc_also, 1);
    close(fd);
}

int main(void)
{
    if (!support_enter()) {
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(used_addresses_are_found, setup, teardown),
        cmocka_unit_test_setup_teardown(unused_addresses_are_free, setup, teardown),
        cmocka_unit_test_setup_teardown(own_addresses_are_used, setup, teardown),
        cmocka_unit_test_setup_teardown(nobody_is_asked_on_an_empty_bridge, setup, teardown),
        cmocka_unit_test_setup_teardown(bridge_has_to_be_one, setup, teardown),
        cmocka_unit_test_setup_teardown(many_are_asked_at_once, setup, teardown),
        cmocka_unit_test_setup_teardown(rubbish_is_no_answer, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
