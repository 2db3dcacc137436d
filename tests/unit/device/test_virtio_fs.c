/* Covers device/virtio/fs.c, between a driver that may be hostile and a server that may be gone. */
#include "virtio_driver.h"

#include <errno.h>
#include <linux/fuse.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "device/virtio/fs.h"
#include "device/virtio/fs_wire.h"

#define REQUESTS 1u
#define BIG      (600u << 10)

struct bed {
    struct driver d;
    int server;
    unsigned lost_calls;
    uint16_t used; /* chains that came back so far */
};

static struct bed bed;

static void share_lost(void *ctx, const char *device_name, const char *why)
{
    assert_string_equal(device_name, "virtio-fs.0");
    bed.lost_calls++;
}

/* What the server has to say, or is told, between the driver's steps. */
static struct fs_frame take_frame(void *out_data, size_t room)
{
    struct fs_frame frame;
    assert_int_equal(recv(bed.server, &frame, sizeof(frame), MSG_WAITALL), sizeof(frame));
    assert_true(frame.size <= room);
    if (frame.size > 0) {
        assert_int_equal(recv(bed.server, out_data, frame.size, MSG_WAITALL), frame.size);
    }
    return frame;
}

static int set_up(void **state)
{
    int pair[2];
    struct device *device;
    bed = (struct bed){0};
    driver_create(&bed.d);
    bed.d.host.share_lost = share_lost;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    bed.server = pair[1];
    const struct timeval limit = {.tv_sec = 20};
    assert_int_equal(setsockopt(bed.server, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)), 0);
    const struct virtio_fs_options options = {
        .common = driver_options(&bed.d), .fd = pair[0], .tag = "data"};
    assert_int_equal(virtio_fs_create(&options, &device, NULL), 0);
    driver_attach(&bed.d, device);
    driver_start(&bed.d, driver_offered(&bed.d), 2, 64);
    return 0;
}

static int tear_down(void **state)
{
    if (bed.server >= 0) {
        close(bed.server);
    }
    driver_destroy(&bed.d);
    return 0;
}

/* A request with 'size' bytes behind its header, and room for as many. Returns where the reply goes. */
static uint64_t ask(unsigned queue, uint64_t unique, uint32_t size, uint32_t room)
{
    uint32_t total = (uint32_t)sizeof(struct fuse_in_header) + size;
    const struct fuse_in_header head = {.len = total, .opcode = FUSE_WRITE, .unique = unique};
    uint64_t request = driver_alloc(&bed.d, total), reply = driver_alloc(&bed.d, room + 1);
    uint8_t *data = driver_at(&bed.d, request, total);
    memcpy(data, &head, sizeof(head));
    for (uint32_t i = 0; i < size; i++) {
        data[sizeof(head) + i] = (uint8_t)(i * 31 >> 3);
    }
    const struct driver_buffer buffers[] = {
        {request, 40, false}, {request + 40, size, false}, {reply, room, true}};
    struct driver_buffer used[3];
    unsigned count = 0;
    for (unsigned i = 0; i < 3; i++) {
        if (buffers[i].size > 0) {
            used[count++] = buffers[i];
        }
    }
    driver_add(&bed.d, queue, used, count);
    driver_kick(&bed.d, queue);
    return reply;
}

static void answer(uint32_t tag, const struct fuse_out_header *head, const void *data,
                   uint32_t size)
{
    const struct fs_frame frame = {
        .size = (uint32_t)sizeof(*head) + size, .kind = FS_REQUEST, .tag = tag};
    assert_int_equal(send(bed.server, &frame, sizeof(frame), 0), sizeof(frame));
    assert_int_equal(send(bed.server, head, sizeof(*head), 0), sizeof(*head));
    if (size > 0) {
        assert_int_equal(send(bed.server, data, size, 0), size);
    }
}

static struct fuse_out_header out_at(uint64_t gpa)
{
    struct fuse_out_header out;
    memcpy(&out, driver_at(&bed.d, gpa, sizeof(out)), sizeof(out));
    return out;
}

static void configuration(void **state)
{
    char tag[36] = "data", seen[36];
    for (unsigned i = 0; i < 36; i++) {
        seen[i] = (char)driver_read(&bed.d, bed.d.config + i, 1);
    }
    assert_memory_equal(tag, seen, 36);
    assert_int_equal(driver_read(&bed.d, bed.d.config + 36, 4), 1);
}

static void requests_and_replies_in_any_order(void **state)
{
    uint8_t data[256];
    uint64_t first = ask(REQUESTS, 11, 8, 64), second = ask(0, 22, 0, 32);
    ask(0, 33, 16, 0); /* as FORGET: no reply */
    driver_wait_used(&bed.d, 0, 1);
    assert_int_equal(driver_used_length(&bed.d, 0, 0), 0);
    uint32_t tag[3];
    uint64_t unique[3];
    for (unsigned i = 0; i < 3; i++) {
        struct fs_frame frame = take_frame(data, sizeof(data));
        struct fuse_in_header head;
        memcpy(&head, data, sizeof(head));
        assert_int_equal(frame.kind, FS_REQUEST);
        assert_int_equal(frame.size, head.len);
        assert_int_equal(frame.room, head.unique == 11 ? 64 : head.unique == 22 ? 32 : 0);
        tag[i] = frame.tag;
        unique[i] = head.unique;
    }
    for (unsigned i = 3; i-- > 0;) {
        const struct fuse_out_header out = {.len = 20, .unique = unique[i]};
        if (unique[i] != 33) {
            answer(tag[i], &out, "text", 4);
        }
    }
    driver_wait_used(&bed.d, 0, 2);
    driver_wait_used(&bed.d, REQUESTS, 1);
    assert_int_equal(driver_used_length(&bed.d, REQUESTS, 0), 20);
    assert_int_equal(out_at(first).unique, 11);
    assert_memory_equal(driver_at(&bed.d, first + 16, 4), "text", 4);
    assert_int_equal(out_at(second).unique, 22);
    assert_int_equal(bed.lost_calls, 0);
}

/* Larger than the socket's buffer, both ways. */
static void large_ones_come_in_parts(void **state)
{
    uint8_t *data = malloc(BIG + 64), *text = malloc(BIG);
    for (unsigned i = 0; i < BIG; i++) {
        text[i] = (uint8_t)(i * 17 >> 2);
    }
    uint64_t reply = ask(REQUESTS, 5, BIG, BIG + 16);
    size_t got = 0, total = sizeof(struct fs_frame) + 40 + BIG;
    struct fs_frame frame;
    uint8_t *all = malloc(total);
    while (got < total) {
        driver_run(&bed.d);
        ssize_t part = recv(bed.server, all + got, total - got, 0);
        assert_true(part > 0);
        got += (size_t)part;
    }
    memcpy(&frame, all, sizeof(frame));
    assert_int_equal(frame.size, 40 + BIG);
    for (unsigned i = 0; i < BIG; i++) {
        assert_int_equal(all[sizeof(frame) + 40 + i], (uint8_t)(i * 31 >> 3));
    }
    const struct fuse_out_header out = {.len = 16 + BIG, .unique = 5};
    const struct fs_frame back = {.size = 16 + BIG, .kind = FS_REQUEST, .tag = frame.tag};
    memcpy(all, &back, sizeof(back));
    memcpy(all + sizeof(back), &out, sizeof(out));
    memcpy(all + sizeof(back) + sizeof(out), text, BIG);
    for (size_t sent = 0, end = sizeof(back) + sizeof(out) + BIG; sent < end;) {
        ssize_t part = send(bed.server, all + sent, MIN(end - sent, 100000), MSG_DONTWAIT);
        sent += part > 0 ? (size_t)part : 0;
        driver_run(&bed.d);
    }
    driver_wait_used(&bed.d, REQUESTS, 1);
    assert_int_equal(driver_used_length(&bed.d, REQUESTS, 0), 16 + BIG);
    assert_memory_equal(driver_at(&bed.d, reply + 16, BIG), text, BIG);
    /* The queue is looked at again: the guest was told not to notify meanwhile. */
    ask(REQUESTS, 6, 0, 16);
    driver_run(&bed.d);
    struct fs_frame next = take_frame(data, BIG);
    assert_int_equal(next.size, 40);
    const struct fuse_out_header short_out = {.len = 16, .unique = 6};
    answer(next.tag, &short_out, NULL, 0);
    driver_wait_used(&bed.d, REQUESTS, 2);
    free(all);
    free(data);
    free(text);
}

static void hostile_chains_stop_the_device(void **state)
{
    static const struct {
        uint32_t request, room;
    } wrong[] = {
        {39, 64}, {0, 64}, {40, 15}, {40, 1}, {FS_MAX_MESSAGE + 1, 16}, {40, FS_MAX_MESSAGE + 1}};
    uint64_t memory = driver_alloc(&bed.d, FS_MAX_MESSAGE + 64);
    for (size_t i = 0; i < ARRAY_COUNT(wrong); i++) {
        struct driver_buffer buffers[2];
        unsigned count = 0;
        if (wrong[i].request > 0) {
            buffers[count++] = (struct driver_buffer){memory, wrong[i].request, false};
        }
        buffers[count++] = (struct driver_buffer){memory, wrong[i].room, true};
        driver_add(&bed.d, REQUESTS, buffers, count);
        driver_kick(&bed.d, REQUESTS);
        driver_run(&bed.d);
        assert_int_equal(driver_status(&bed.d) & 64, 64); /* DEVICE_NEEDS_RESET */
        driver_reset(&bed.d);
        uint8_t data[64];
        assert_int_equal(take_frame(data, sizeof(data)).kind, FS_FORGET_ALL);
        driver_start(&bed.d, driver_offered(&bed.d), 2, 64);
    }
    assert_int_equal(bed.lost_calls, 0);
    assert_int_equal(bed.d.stop_vm_calls, 0);
    ask(REQUESTS, 1, 0, 16);
    driver_run(&bed.d);
    uint8_t data[64];
    assert_int_equal(take_frame(data, sizeof(data)).kind, FS_REQUEST);
}

static void all_fails_without_a_server(void **state)
{
    uint64_t before = ask(REQUESTS, 77, 8, 64);
    driver_run(&bed.d);
    close(bed.server);
    bed.server = -1;
    driver_wait_used(&bed.d, REQUESTS, 1);
    assert_int_equal(out_at(before).error, -EIO);
    assert_int_equal(out_at(before).unique, 77);
    assert_int_equal(bed.lost_calls, 1);
    uint64_t after = ask(REQUESTS, 78, 8, 64);
    driver_wait_used(&bed.d, REQUESTS, 2);
    assert_int_equal(out_at(after).error, -EIO);
    assert_int_equal(out_at(after).unique, 78);
    assert_int_equal(driver_used_length(&bed.d, REQUESTS, 1), 16);
    ask(0, 79, 8, 0);
    driver_wait_used(&bed.d, 0, 1);
    bed.d.device->ops->pause(bed.d.device, true);
    bed.d.device->ops->pause(bed.d.device, false);
    driver_reset(&bed.d);
    driver_start(&bed.d, driver_offered(&bed.d), 2, 64);
    ask(REQUESTS, 80, 8, 64);
    driver_wait_used(&bed.d, REQUESTS, 1);
    driver_save_and_restore(&bed.d);
    assert_int_equal(bed.lost_calls, 1);
}

/* Replies that are none: wrong tags, sizes and kinds. */
static void lying_servers_are_left(void **state)
{
    static const struct fs_frame lies[] = {
        {.size = 16, .kind = FS_REQUEST, .tag = 1000},
        {.size = 16, .kind = FS_REQUEST, .tag = UINT32_MAX},
        {.size = 16, .kind = FS_REQUEST, .tag = 5}, /* free */
        {.size = 15, .kind = FS_REQUEST},
        {.size = 0, .kind = FS_REQUEST},
        {.size = 65, .kind = FS_REQUEST},
        {.size = UINT32_MAX, .kind = FS_REQUEST},
        {.size = 16, .kind = FS_SAVE},
        {.size = 16, .kind = 77},
    };
    for (size_t i = 0; i < ARRAY_COUNT(lies); i++) {
        uint8_t data[128];
        uint64_t reply = ask(REQUESTS, 3, 8, 64);
        driver_run(&bed.d);
        uint32_t tag = take_frame(data, sizeof(data)).tag;
        struct fs_frame lie = lies[i];
        lie.tag = lie.tag == 0 ? tag : lie.tag;
        assert_int_equal(send(bed.server, &lie, sizeof(lie), 0), sizeof(lie));
        assert_int_equal(send(bed.server, data, 64, 0), 64);
        driver_wait_used(&bed.d, REQUESTS, 1);
        assert_int_equal(out_at(reply).error, -EIO);
        assert_int_equal(bed.lost_calls, 1);
        tear_down(NULL);
        set_up(NULL);
    }
}

static void *serve_late(void *ctx)
{
    uint8_t data[128];
    struct fs_frame frame = take_frame(data, sizeof(data));
    struct fuse_in_header head;
    memcpy(&head, data, sizeof(head));
    const struct fuse_out_header out = {.len = 20, .unique = head.unique};
    answer(frame.tag, &out, "late", 4);
    return NULL;
}

static void pauses_wait_and_resets_drop(void **state)
{
    pthread_t thread;
    uint64_t reply = ask(REQUESTS, 9, 8, 64);
    driver_run(&bed.d);
    assert_int_equal(pthread_create(&thread, NULL, serve_late, NULL), 0);
    bed.d.device->ops->pause(bed.d.device, true);
    assert_int_equal(driver_used_index(&bed.d, REQUESTS), 1);
    assert_memory_equal(driver_at(&bed.d, reply + 16, 4), "late", 4);
    bed.d.device->ops->pause(bed.d.device, false);
    assert_int_equal(pthread_join(thread, NULL), 0);

    reply = ask(REQUESTS, 10, 8, 64);
    memset(driver_at(&bed.d, reply, 64), 0xaa, 64);
    driver_run(&bed.d);
    assert_int_equal(pthread_create(&thread, NULL, serve_late, NULL), 0);
    bed.d.device->ops->reset(bed.d.device);
    assert_int_equal(pthread_join(thread, NULL), 0);
    for (unsigned i = 0; i < 64; i++) { /* nothing of the guest's memory is touched any more */
        assert_int_equal(*(uint8_t *)driver_at(&bed.d, reply + i, 1), 0xaa);
    }
    uint8_t data[64];
    assert_int_equal(take_frame(data, sizeof(data)).kind, FS_FORGET_ALL);
    assert_int_equal(bed.lost_calls, 0);
}

/* Gives its state to a save, and takes it back. */
static void *serve_state(void *ctx)
{
    bool *is_same = ctx;
    for (;;) {
        struct fs_frame frame;
        char data[64];
        if (recv(bed.server, &frame, sizeof(frame), MSG_WAITALL) != sizeof(frame)) {
            return NULL;
        }
        assert_true(frame.size <= sizeof(data));
        if (frame.size > 0 &&
            recv(bed.server, data, frame.size, MSG_WAITALL) != (ssize_t)frame.size) {
            return NULL;
        }
        if (frame.kind == FS_SAVE) {
            const struct fs_frame out = {.size = 9, .kind = FS_SAVE};
            (void)!send(bed.server, &out, sizeof(out), MSG_NOSIGNAL);
            (void)!send(bed.server, "the state", 9, MSG_NOSIGNAL);
        } else if (frame.kind == FS_RESTORE) {
            *is_same = frame.size == 9 && memcmp(data, "the state", 9) == 0;
            const struct fs_frame out = {.kind = FS_RESTORE, .tag = *is_same ? 0 : EINVAL};
            (void)!send(bed.server, &out, sizeof(out), MSG_NOSIGNAL);
        }
    }
}

static void states_go_with_a_save(void **state)
{
    pthread_t thread;
    bool is_same = false;
    const struct timeval none = {0};
    assert_int_equal(setsockopt(bed.server, SOL_SOCKET, SO_RCVTIMEO, &none, sizeof(none)), 0);
    assert_int_equal(pthread_create(&thread, NULL, serve_state, &is_same), 0);
    driver_save_and_restore(&bed.d);
    assert_true(__atomic_load_n(&is_same, __ATOMIC_ACQUIRE));
    driver_restore_rubbish(&bed.d);
    assert_int_equal(shutdown(bed.server, SHUT_RDWR), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(configuration, set_up, tear_down),
        cmocka_unit_test_setup_teardown(requests_and_replies_in_any_order, set_up, tear_down),
        cmocka_unit_test_setup_teardown(large_ones_come_in_parts, set_up, tear_down),
        cmocka_unit_test_setup_teardown(hostile_chains_stop_the_device, set_up, tear_down),
        cmocka_unit_test_setup_teardown(all_fails_without_a_server, set_up, tear_down),
        cmocka_unit_test_setup_teardown(lying_servers_are_left, set_up, tear_down),
        cmocka_unit_test_setup_teardown(pauses_wait_and_resets_drop, set_up, tear_down),
        cmocka_unit_test_setup_teardown(states_go_with_a_save, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
