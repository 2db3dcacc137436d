/* Covers container/network/netlink.c in a network namespace of its own. */
#include <errno.h>
#include <fcntl.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "container/network/netlink.h"

static void put_lo(struct netlink_batch *batch, int index, unsigned flags)
{
    const struct ifinfomsg link = {
        .ifi_family = AF_UNSPEC, .ifi_index = index, .ifi_flags = flags, .ifi_change = IFF_UP};
    netlink_begin(batch, RTM_NEWLINK, 0, &link, sizeof(link));
}

static bool lo_is_up(int fd)
{
    struct ifreq request = {.ifr_name = "lo"};
    assert_int_equal(ioctl(fd, SIOCGIFFLAGS, &request), 0);
    return (request.ifr_flags & IFF_UP) != 0;
}

static int setup(void **state)
{
    static int fd;
    struct netlink_batch batch;
    *state = &fd;
    if (netlink_open(&fd, NULL) < 0) {
        return -1;
    }
    netlink_clear(&batch);
    put_lo(&batch, 1, 0);
    return netlink_call(fd, &batch, NULL, NULL);
}

static int teardown(void **state)
{
    return close(*(int *)*state);
}

static void messages_go_together(void **state)
{
    int fd = *(int *)*state;
    struct netlink_batch batch;
    netlink_clear(&batch);
    put_lo(&batch, 1, IFF_UP);
    put_lo(&batch, 1, 0);
    put_lo(&batch, 1, IFF_UP);
    assert_int_equal(batch.count, 3);
    assert_int_equal(netlink_call(fd, &batch, NULL, NULL), 0);
    assert_true(lo_is_up(fd));
}

static void first_failure_is_told(void **state)
{
    int fd = *(int *)*state;
    struct netlink_batch batch;
    const uint32_t mtu = 3;
    netlink_clear(&batch);
    put_lo(&batch, 1, 0);
    put_lo(&batch, 4242, IFF_UP);
    put_lo(&batch, 1, IFF_UP);
    put_lo(&batch, 4243, IFF_UP);
    netlink_add(&batch, IFLA_MTU, &mtu, sizeof(mtu));
    assert_int_equal(netlink_call(fd, &batch, NULL, NULL), -ENODEV);
    assert_int_equal(batch.failed, 1);
    assert_true(lo_is_up(fd)); /* what comes behind is done */
    netlink_clear(&batch);
    put_lo(&batch, 1, 0);
    assert_int_equal(netlink_call(fd, &batch, NULL, NULL), 0); /* no answer is left from before */
    assert_false(lo_is_up(fd));
}

static void full_batch_is_not_sent(void **state)
{
    static const uint8_t much[NETLINK_BATCH_SIZE];
    int fd = *(int *)*state;
    struct netlink_batch batch;
    netlink_clear(&batch);
    put_lo(&batch, 1, IFF_UP);
    netlink_add(&batch, IFLA_IFALIAS, much, sizeof(much));
    put_lo(&batch, 1, IFF_UP);
    netlink_unnest(&batch, netlink_nest(&batch, IFLA_LINKINFO, NULL, 0));
    assert_int_equal(batch.count, 1);
    assert_int_equal(netlink_call(fd, &batch, NULL, NULL), -EMSGSIZE);
    assert_false(lo_is_up(fd));
    netlink_clear(&batch);
    netlink_add(&batch, IFLA_IFALIAS, much, (size_t)1 << 40);
    assert_int_equal(netlink_call(fd, &batch, NULL, NULL), -EMSGSIZE);
    netlink_clear(&batch);
    for (unsigned i = 0; i < NETLINK_BATCH_SIZE; i++) {
        put_lo(&batch, 1, IFF_UP);
    }
    assert_true(batch.size <= sizeof(batch.data));
    assert_int_equal(batch.count, NETLINK_BATCH_SIZE / NLMSG_SPACE(sizeof(struct ifinfomsg)));
    assert_int_equal(netlink_call(fd, &batch, NULL, NULL), -EMSGSIZE);
}

static int count_links(const struct nlmsghdr *head, void *ctx)
{
    *(unsigned *)ctx += head->nlmsg_type == RTM_NEWLINK;
    return 0;
}

static int stop(const struct nlmsghdr *head, void *ctx)
{
    (void)head;
    (void)ctx;
    return 7;
}

static void answers_are_seen(void **state)
{
    int fd = *(int *)*state;
    struct netlink_batch batch;
    unsigned count = 0;
    const struct ifinfomsg any = {.ifi_family = AF_UNSPEC}, one = {.ifi_index = 1};
    netlink_clear(&batch);
    netlink_begin(&batch, RTM_GETLINK, NLM_F_DUMP, &any, sizeof(any));
    assert_int_equal(netlink_call(fd, &batch, count_links, &count), 0);
    assert_true(count >= 1);
    count = 0;
    netlink_clear(&batch);
    netlink_begin(&batch, RTM_GETLINK, 0, &one, sizeof(one));
    netlink_begin(&batch, RTM_GETLINK, 0, &one, sizeof(one));
    assert_int_equal(netlink_call(fd, &batch, count_links, &count), 0);
    assert_int_equal(count, 2);
    assert_int_equal(netlink_call(fd, &batch, stop, NULL), 7);
}

static void devices_have_numbers(void **state)
{
    int fd = *(int *)*state;
    assert_int_equal(netlink_index(fd, "lo"), 1);
    assert_int_equal(netlink_index(fd, "gone0"), -ENODEV);
    assert_int_equal(netlink_index(fd, ""), -ENODEV);
    assert_int_equal(netlink_index(fd, "a name that is too long"), -ENODEV);
}

static ino_t current_namespace(void)
{
    struct stat here;
    assert_int_equal(stat("/proc/thread-self/ns/net", &here), 0);
    return here.st_ino;
}

static void socket_stays_in_its_namespace(void **state)
{
    int fd = *(int *)*state, inside = -1;
    struct netlink_batch batch;
    struct error err = {0};
    int own = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    assert_int_equal(unshare(CLONE_NEWNET), 0);
    int other = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    assert_int_equal(setns(own, CLONE_NEWNET), 0);
    ino_t before = current_namespace();
    assert_int_equal(netlink_open_in(other, &inside, &err), 0);
    assert_int_equal(current_namespace(), before);
    netlink_clear(&batch);
    put_lo(&batch, 1, IFF_UP);
    assert_int_equal(netlink_call(inside, &batch, NULL, NULL), 0);
    assert_true(lo_is_up(inside));
    assert_false(lo_is_up(fd));
    close(inside);
    inside = -7;
    assert_int_equal(netlink_open_in(STDERR_FILENO, &inside, &err), -EINVAL);
    assert_int_equal(inside, -7);
    assert_int_equal(current_namespace(), before);
    close(other);
    close(own);
}

int main(void)
{
    if (unshare(CLONE_NEWNET) < 0 && unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0) {
        printf("skipped: no network namespace of its own: %s\n", strerror(errno));
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(messages_go_together, setup, teardown),
        cmocka_unit_test_setup_teardown(first_failure_is_told, setup, teardown),
        cmocka_unit_test_setup_teardown(full_batch_is_not_sent, setup, teardown),
        cmocka_unit_test_setup_teardown(answers_are_seen, setup, teardown),
        cmocka_unit_test_setup_teardown(devices_have_numbers, setup, teardown),
        cmocka_unit_test_setup_teardown(socket_stays_in_its_namespace, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
