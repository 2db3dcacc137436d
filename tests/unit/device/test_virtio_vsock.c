/* Covers device/virtio/vsock.c and vsock_socket.c: connections both ways, credit, shutdown, resets, rubbish. */
#include "virtio_driver.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/core/endian.h"
#include "device/virtio/vsock.h"

#define RECEIVE     0u
#define TRANSMIT    1u
#define EVENT       2u
#define CID         7u
#define HEADER      44u
#define BUFFER_SIZE 4096u
#define GUEST_PORT  1234u

enum {
    REQUEST = 1,
    RESPONSE,
    RST,
    SHUTDOWN,
    RW,
    CREDIT_UPDATE,
    CREDIT_REQUEST
};

struct packet {
    uint64_t src_cid, dst_cid;
    uint32_t src_port, dst_port, len;
    uint16_t type, op;
    uint32_t flags, buf_alloc, fwd_cnt;
    const uint8_t *data;
};

struct fixture {
    struct driver driver;
    char dir[32];
    int listener; /* the host program on port 80 */
    uint64_t receive_buffer[64];
    uint16_t received, sent;
};

static struct sockaddr_un address_of(struct fixture *f, const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    (void)snprintf(address.sun_path, sizeof(address.sun_path), "%s/%s", f->dir, name);
    return address;
}

static void post_receive_buffers(struct fixture *f, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        unsigned slot = f->driver.queue[RECEIVE].avail_index % 64;
        if (f->receive_buffer[slot] == 0) {
            f->receive_buffer[slot] = driver_alloc(&f->driver, HEADER + BUFFER_SIZE);
        }
        driver_add(&f->driver, RECEIVE,
                   &(struct driver_buffer){f->receive_buffer[slot], HEADER + BUFFER_SIZE, true}, 1);
    }
    driver_kick(&f->driver, RECEIVE);
    driver_run(&f->driver);
}

static void setup(struct fixture *f)
{
    *f = (struct fixture){0};
    driver_create(&f->driver);
    strcpy(f->dir, "/tmp/hull-vsock-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    f->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct sockaddr_un address = address_of(f, "80");
    assert_int_equal(bind(f->listener, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(f->listener, 4), 0);
    struct virtio_vsock_options options = {
        .common = driver_options(&f->driver),
        .guest_cid = CID,
        .dir_fd = open(f->dir, O_PATH | O_DIRECTORY | O_CLOEXEC),
    };
    struct device *device;
    assert_int_equal(virtio_vsock_create(&options, &device, NULL), 0);
    driver_attach(&f->driver, device);
    driver_start(&f->driver, driver_offered(&f->driver), 3, 16);
    assert_int_equal(driver_read(&f->driver, f->driver.config, 4), CID);
    post_receive_buffers(f, 16);
}

static void teardown(struct fixture *f)
{
    driver_destroy(&f->driver);
    close(f->listener);
    struct sockaddr_un address = address_of(f, "80");
    unlink(address.sun_path);
    address = address_of(f, "connect");
    assert_int_equal(access(address.sun_path, F_OK), -1); /* the device cleans up */
    assert_int_equal(rmdir(f->dir), 0);
}

static void guest_sends(struct fixture *f, const struct packet *packet)
{
    struct driver *d = &f->driver;
    uint64_t gpa = driver_alloc(d, HEADER + packet->len);
    uint8_t *raw = driver_at(d, gpa, HEADER + packet->len);
    le64_put(raw, packet->src_cid != 0 ? packet->src_cid : CID);
    le64_put(raw + 8, packet->dst_cid != 0 ? packet->dst_cid : 2);
    le32_put(raw + 16, packet->src_port != 0 ? packet->src_port : GUEST_PORT);
    le32_put(raw + 20, packet->dst_port);
    le32_put(raw + 24, packet->len);
    le16_put(raw + 28, packet->type != 0 ? packet->type : 1);
    le16_put(raw + 30, packet->op);
    le32_put(raw + 32, packet->flags);
    le32_put(raw + 36, packet->buf_alloc != 0 ? packet->buf_alloc : 65536);
    le32_put(raw + 40, packet->fwd_cnt);
    if (packet->len > 0) {
        memcpy(raw + HEADER, packet->data, packet->len);
    }
    driver_add(d, TRANSMIT, &(struct driver_buffer){gpa, HEADER + packet->len, false}, 1);
    driver_kick(d, TRANSMIT);
    driver_wait_used(d, TRANSMIT, ++f->sent);
    driver_run(d);
}

/* The next packet for the guest. */
static struct packet guest_receives(struct fixture *f)
{
    struct driver *d = &f->driver;
    driver_run(d);
    assert_true((uint16_t)(driver_used_index(d, RECEIVE) - f->received) > 0);
    uint32_t length = driver_used_length(d, RECEIVE, f->received);
    const uint8_t *raw = driver_at(d, f->receive_buffer[f->received % 64], HEADER + BUFFER_SIZE);
    f->received++;
    struct packet packet = {
        .src_cid = le64_get(raw),
        .dst_cid = le64_get(raw + 8),
        .src_port = le32_get(raw + 16),
        .dst_port = le32_get(raw + 20),
        .len = le32_get(raw + 24),
        .type = le16_get(raw + 28),
        .op = le16_get(raw + 30),
        .flags = le32_get(raw + 32),
        .buf_alloc = le32_get(raw + 36),
        .fwd_cnt = le32_get(raw + 40),
        .data = raw + HEADER,
    };
    assert_int_equal(length, HEADER + packet.len);
    assert_int_equal(packet.src_cid, 2);
    assert_int_equal(packet.dst_cid, CID);
    return packet;
}

static void expect_nothing(struct fixture *f)
{
    driver_run(&f->driver);
    assert_int_equal(driver_used_index(&f->driver, RECEIVE), f->received);
}

/* The guest connects to port 80; returns the host program's socket. */
static int connect_from_guest(struct fixture *f, uint32_t buf_alloc)
{
    guest_sends(f, &(struct packet){.op = REQUEST, .dst_port = 80, .buf_alloc = buf_alloc});
    struct packet answer = guest_receives(f);
    assert_int_equal(answer.op, RESPONSE);
    assert_int_equal(answer.src_port, 80);
    assert_int_equal(answer.dst_port, GUEST_PORT);
    assert_true(answer.buf_alloc > 0);
    int fd = accept4(f->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    assert_true(fd >= 0);
    return fd;
}

static void guest_reaches_a_host_program(void **state)
{
    struct fixture f;
    setup(&f);
    int fd = connect_from_guest(&f, 0);
    char text[16];
    guest_sends(&f, &(struct packet){.op = RW, .dst_port = 80, .len = 4, .data = (void *)"ping"});
    assert_int_equal(read(fd, text, sizeof(text)), 4);
    assert_int_equal(write(fd, "pong!", 5), 5);
    struct packet packet = guest_receives(&f);
    assert_int_equal(packet.op, RW);
    assert_int_equal(packet.len, 5);
    assert_int_equal(packet.fwd_cnt, 4);
    assert_memory_equal(packet.data, "pong!", 5);
    guest_sends(&f, &(struct packet){.op = CREDIT_REQUEST, .dst_port = 80});
    assert_int_equal(guest_receives(&f).op, CREDIT_UPDATE);
    /* Half a close by the guest, the rest by the host program. */
    guest_sends(&f, &(struct packet){.op = SHUTDOWN, .dst_port = 80, .flags = 2});
    assert_int_equal(read(fd, text, sizeof(text)), 0);
    assert_int_equal(write(fd, "bye", 3), 3);
    assert_int_equal(guest_receives(&f).len, 3);
    close(fd);
    packet = guest_receives(&f);
    assert_int_equal(packet.op, SHUTDOWN);
    assert_int_equal(packet.flags, 3);
    guest_sends(&f, &(struct packet){.op = RST, .dst_port = 80});
    expect_nothing(&f);
    /* The same ports again, and a full close by the guest. */
    fd = connect_from_guest(&f, 0);
    guest_sends(&f, &(struct packet){.op = SHUTDOWN, .dst_port = 80, .flags = 3});
    assert_int_equal(guest_receives(&f).op, RST);
    assert_int_equal(read(fd, text, sizeof(text)), 0);
    close(fd);
    teardown(&f);
}

static void nobody_there_is_a_reset(void **state)
{
    struct fixture f;
    setup(&f);
    guest_sends(&f, &(struct packet){.op = REQUEST, .dst_port = 81});
    struct packet packet = guest_receives(&f);
    assert_int_equal(packet.op, RST);
    assert_int_equal(packet.src_port, 81);
    guest_sends(&f, &(struct packet){.op = RW, .dst_port = 80, .len = 1, .data = (void *)"x"});
    assert_int_equal(guest_receives(&f).op, RST);
    guest_sends(&f, &(struct packet){.op = REQUEST, .dst_port = 80, .type = 2}); /* seqpacket */
    assert_int_equal(guest_receives(&f).op, RST);
    guest_sends(&f, &(struct packet){.op = RST, .dst_port = 80});
    guest_sends(&f, &(struct packet){.op = REQUEST, .dst_port = 80, .dst_cid = 9});
    guest_sends(&f, &(struct packet){.op = REQUEST, .dst_port = 80, .src_cid = 9});
    expect_nothing(&f);
    int fd = connect_from_guest(&f, 0);
    guest_sends(&f, &(struct packet){.op = 99, .dst_port = 80});
    assert_int_equal(guest_receives(&f).op, RST);
    char byte;
    assert_int_equal(read(fd, &byte, 1), 0);
    close(fd);
    teardown(&f);
}

static int host_connects(struct fixture *f, const char *line)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct sockaddr_un address = address_of(f, "connect");
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    driver_run(&f->driver);
    assert_int_equal(write(fd, line, strlen(line)), strlen(line));
    driver_run(&f->driver);
    return fd;
}

static void host_program_reaches_the_guest(void **state)
{
    struct fixture f;
    setup(&f);
    int fd = host_connects(&f, "CONNECT 52");
    expect_nothing(&f);
    assert_int_equal(write(fd, "2\nearly", 7), 7);
    struct packet request = guest_receives(&f);
    assert_int_equal(request.op, REQUEST);
    assert_int_equal(request.dst_port, 522);
    expect_nothing(&f); /* no data before the guest has agreed */
    guest_sends(&f,
                &(struct packet){.op = RESPONSE, .src_port = 522, .dst_port = request.src_port});
    char text[64], expected[64];
    int size = snprintf(expected, sizeof(expected), "OK %u\n", request.src_port);
    assert_int_equal(read(fd, text, sizeof(text)), size);
    assert_memory_equal(text, expected, size);
    struct packet data = guest_receives(&f);
    assert_int_equal(data.len, 5);
    assert_memory_equal(data.data, "early", 5);
    close(fd);
    assert_int_equal(guest_receives(&f).op, SHUTDOWN);
    /* Refused by the guest. */
    fd = host_connects(&f, "CONNECT 5\n");
    request = guest_receives(&f);
    guest_sends(&f, &(struct packet){.op = RST, .src_port = 5, .dst_port = request.src_port});
    assert_int_equal(read(fd, text, sizeof(text)), 0);
    close(fd);
    static const char *const bad[] = {"GET / HTTP/1.0\n", "CONNECT \n", "CONNECT 4294967296\n",
                                      "CONNECT 12x\n",
                                      "CONNECT 00000000000000000000000000000000000000001\n"};
    for (size_t i = 0; i < 5; i++) {
        fd = host_connects(&f, bad[i]);
        ssize_t n = read(fd, text, sizeof(text));
        assert_true(n == 0 || (n < 0 && errno == ECONNRESET));
        close(fd);
    }
    expect_nothing(&f);
    teardown(&f);
}

static void credit_bounds_both_ways(void **state)
{
    struct fixture f;
    setup(&f);
    int fd = connect_from_guest(&f, 6000);
    /* To the guest: not more than it said. */
    static uint8_t bytes[65536];
    memset(bytes, 5, sizeof(bytes));
    assert_int_equal(write(fd, bytes, 20000), 20000);
    uint32_t got = 0, requests = 0;
    driver_run(&f.driver);
    while (driver_used_index(&f.driver, RECEIVE) != f.received) {
        struct packet packet = guest_receives(&f);
        got += packet.op == RW ? packet.len : 0;
        requests += packet.op == CREDIT_REQUEST;
    }
    assert_int_equal(got, 6000);
    assert_int_equal(requests, 1);
    guest_sends(&f, &(struct packet){
                        .op = CREDIT_UPDATE, .dst_port = 80, .buf_alloc = 6000, .fwd_cnt = 1000});
    assert_int_equal(guest_receives(&f).len, 1000);
    assert_int_equal(guest_receives(&f).op, CREDIT_REQUEST);
    /* From the guest: the host program does not read, so 64 KiB and what the socket holds is all there is room for. */
    uint32_t sent = 0;
    struct packet last = {0};
    while (sent < 4 << 20) {
        guest_sends(&f, &(struct packet){.op = RW,
                                         .dst_port = 80,
                                         .len = 32768,
                                         .data = bytes,
                                         .buf_alloc = 6000,
                                         .fwd_cnt = 7000 - 6000});
        sent += 32768;
        f.driver.free_gpa -= HEADER + 32768 + 4; /* the buffer is free again */
        if (driver_used_index(&f.driver, RECEIVE) != f.received) {
            last = guest_receives(&f);
            post_receive_buffers(&f, 1);
            if (last.op == RST) {
                break;
            }
        }
    }
    assert_int_equal(last.op, RST); /* this guest ignored its credit */
    close(fd);
    teardown(&f);
}

static void restore_tells_the_guest(void **state)
{
    struct fixture f;
    setup(&f);
    struct driver *d = &f.driver;
    int fd = connect_from_guest(&f, 0);
    uint64_t event = driver_alloc(d, 4);
    memset(driver_at(d, event, 4), 0xff, 4);
    driver_add(d, EVENT, &(struct driver_buffer){event, 4, true}, 1);
    driver_kick(d, EVENT);
    driver_run(d);
    assert_int_equal(driver_used_index(d, EVENT), 0);
    driver_save_and_restore(d);
    driver_wait_used(d, EVENT, 1);
    assert_int_equal(le32_get(driver_at(d, event, 4)), 0);
    char byte;
    assert_int_equal(read(fd, &byte, 1), 0);
    close(fd);
    /* Who wants to reach the guest waits until that is done with the old ones. */
    fd = host_connects(&f, "CONNECT 5\n");
    expect_nothing(&f);
    driver_add(d, EVENT, &(struct driver_buffer){event, 4, true}, 1);
    driver_kick(d, EVENT);
    assert_int_equal(guest_receives(&f).op, REQUEST);
    close(fd);
    driver_restore_rubbish(d);
    driver_reset(d);
    /* Packets that cannot be break the device, not more. */
    driver_start(d, driver_offered(d), 3, 16);
    uint64_t gpa = driver_alloc(d, HEADER);
    driver_add(d, TRANSMIT, &(struct driver_buffer){gpa, 20, false}, 1);
    driver_kick(d, TRANSMIT);
    driver_run(d);
    assert_true((driver_status(d) & 64) != 0);
    driver_reset(d);
    driver_start(d, driver_offered(d), 3, 16);
    le32_put(driver_at(d, gpa + 24, 4), 0xffffffff);
    driver_add(d, TRANSMIT, &(struct driver_buffer){gpa, HEADER, false}, 1);
    driver_kick(d, TRANSMIT);
    driver_run(d);
    assert_true((driver_status(d) & 64) != 0);
    teardown(&f);
}

static void one_vm_a_directory(void **state)
{
    struct fixture f;
    setup(&f);
    struct virtio_vsock_options options = {
        .common = driver_options(&f.driver),
        .guest_cid = CID,
        .dir_fd = open(f.dir, O_PATH | O_DIRECTORY | O_CLOEXEC),
    };
    struct device *device;
    struct error err = {0};
    assert_int_equal(virtio_vsock_create(&options, &device, &err), -EADDRINUSE);
    teardown(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(guest_reaches_a_host_program),   cmocka_unit_test(nobody_there_is_a_reset),
        cmocka_unit_test(host_program_reaches_the_guest), cmocka_unit_test(credit_bounds_both_ways),
        cmocka_unit_test(restore_tells_the_guest),        cmocka_unit_test(one_vm_a_directory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
