/* Covers vmm/console.c, with a guest of the test's own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm/console.h"
#include "vmm/console_log.h"

/* The guest: takes 'room' bytes. */
static uint8_t typed[65536];
static size_t typed_count;
static size_t room;

size_t machine_serial_input(struct machine *machine, unsigned port, const uint8_t *data,
                            size_t size)
{
    size_t taken = MIN(size, room);
    memcpy(typed + typed_count, data, taken);
    typed_count += taken;
    room -= taken;
    return taken;
}

size_t machine_virtio_console_input(struct machine *machine, const uint8_t *data, size_t size)
{
    return machine_serial_input(machine, 0, data, size);
}

struct fixture {
    struct event_loop *loop;
    struct console *console;
    struct console_backend backend;
    int user;
};

static struct fixture fixture;

static void stop(void *ctx)
{
    event_loop_stop(ctx);
}

static void serve(void)
{
    for (int i = 0; i < 5; i++) {
        assert_int_equal(event_loop_defer(fixture.loop, stop, fixture.loop, NULL), 0);
        assert_int_equal(event_loop_run(fixture.loop, NULL), 0);
    }
}

static void start(enum config_console_kind kind, int fd)
{
    typed_count = 0;
    room = 0;
    assert_int_equal(event_loop_create(&fixture.loop, NULL), 0);
    assert_int_equal(console_create(kind, fd, false, fixture.loop, &fixture.console, NULL), 0);
    fixture.backend = console_serial_backend(fixture.console);
    console_attach(fixture.console, (struct machine *)&fixture); /* never looked into here */
}

static int set_up(void **state)
{
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    start(CONFIG_CONSOLE_STREAM, pair[0]);
    fixture.user = pair[1];
    return 0;
}

static int tear_down(void **state)
{
    console_destroy(fixture.console);
    event_loop_destroy(fixture.loop);
    close(fixture.user);
    return 0;
}

static void output_goes_straight_out(void **state)
{
    char text[16];
    fixture.backend.write(fixture.backend.ctx, (const uint8_t *)"login: ", 7);
    assert_int_equal(recv(fixture.user, text, sizeof(text), MSG_DONTWAIT), 7);
    assert_memory_equal(text, "login: ", 7);
}

static void input_waits_for_the_guest(void **state)
{
    room = 3;
    assert_int_equal(send(fixture.user, "abcdef", 6, 0), 6);
    serve();
    assert_int_equal(typed_count, 3);
    /* More may be typed meanwhile; it keeps its order. */
    assert_int_equal(send(fixture.user, "ghi", 3, 0), 3);
    serve();
    assert_int_equal(typed_count, 3);
    room = 100;
    fixture.backend.input_ready(fixture.backend.ctx);
    serve();
    assert_int_equal(typed_count, 9);
    assert_memory_equal(typed, "abcdefghi", 9);
}

#define STREAM_SIZE (4u << 20)

static void *write_much(void *ctx)
{
    uint8_t chunk[1000];
    for (size_t sent = 0; sent < STREAM_SIZE; sent += sizeof(chunk)) {
        for (size_t i = 0; i < sizeof(chunk); i++) {
            chunk[i] = (uint8_t)((sent + i) % 251);
        }
        fixture.backend.write(fixture.backend.ctx, chunk, sizeof(chunk));
    }
    return NULL;
}

static void *run_loop(void *ctx)
{
    assert_int_equal(event_loop_run(fixture.loop, NULL), 0);
    return NULL;
}

/* A vCPU that is faster than the terminal loses nothing. */
static void a_slow_terminal_gets_every_byte(void **state)
{
    pthread_t vcpu;
    pthread_t loop;
    assert_int_equal(pthread_create(&loop, NULL, run_loop, NULL), 0);
    assert_int_equal(pthread_create(&vcpu, NULL, write_much, NULL), 0);
    size_t total = (STREAM_SIZE + 999) / 1000 * 1000;
    static uint8_t got[65536];
    for (size_t seen = 0; seen < total;) {
        ssize_t count = recv(fixture.user, got, sizeof(got), 0);
        assert_true(count > 0);
        for (ssize_t i = 0; i < count; i++) {
            assert_int_equal(got[i], (seen + (size_t)i) % 251);
        }
        seen += (size_t)count;
    }
    pthread_join(vcpu, NULL);
    event_loop_stop(fixture.loop);
    pthread_join(loop, NULL);
}

static void a_user_who_leaves_is_no_trouble(void **state)
{
    close(fixture.user);
    fixture.user = -1;
    serve();
    fixture.backend.write(fixture.backend.ctx, (const uint8_t *)"x", 1);
    serve();
    console_finish(fixture.console);
}

static void a_file_takes_output_only(void **state)
{
    int fds[2];
    char text[8];
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    start(CONFIG_CONSOLE_FILE, fds[1]);
    fixture.user = fds[0];
    fixture.backend.write(fixture.backend.ctx, (const uint8_t *)"hello", 5);
    serve();
    assert_int_equal(read(fds[0], text, sizeof(text)), 5);
    console_finish(fixture.console);
}

static void no_console_swallows_output(void **state)
{
    start(CONFIG_CONSOLE_NONE, -1);
    fixture.user = -1;
    fixture.backend.write(fixture.backend.ctx, (const uint8_t *)"hello", 5);
    serve();
    console_finish(fixture.console);
}

/* The newest output is in the first file, what was before in the second, and neither grows without end. */
static void log_keeps_the_last_output(void **state)
{
    static uint8_t block[CONSOLE_LOG_SIZE / 4];
    uint8_t text[16];
    int fd = memfd_create("log", MFD_CLOEXEC);
    int old_fd = memfd_create("old log", MFD_CLOEXEC);
    assert_int_equal(fcntl(fd, F_SETFL, O_APPEND), 0);
    assert_int_equal(fcntl(old_fd, F_SETFL, O_APPEND), 0);
    console_set_log(fixture.console, dup(fd), dup(old_fd));
    close(fixture.user); /* nobody listens */
    fixture.user = dup(fd);
    fixture.backend.write(fixture.backend.ctx, (const uint8_t *)"hello", 5);
    serve();
    assert_int_equal(pread(fd, text, sizeof(text), 0), 5);
    assert_memory_equal(text, "hello", 5);
    for (int i = 0; i < 9; i++) {
        memset(block, 'a' + i, sizeof(block));
        fixture.backend.write(fixture.backend.ctx, block, sizeof(block));
        serve();
    }
    off_t size = lseek(fd, 0, SEEK_END);
    assert_in_range(size, 1, CONSOLE_LOG_SIZE);
    assert_in_range(lseek(old_fd, 0, SEEK_END), CONSOLE_LOG_SIZE / 2, CONSOLE_LOG_SIZE);
    assert_int_equal(pread(fd, text, 1, size - 1), 1);
    assert_int_equal(text[0], 'i');
    uint8_t last_old, first_new;
    assert_int_equal(pread(old_fd, &last_old, 1, lseek(old_fd, 0, SEEK_END) - 1), 1);
    assert_int_equal(pread(fd, &first_new, 1, 0), 1);
    assert_in_range(first_new - last_old, 0, 1); /* nothing is lost between the two */
    close(fd);
    close(old_fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(output_goes_straight_out, set_up, tear_down),
        cmocka_unit_test_setup_teardown(input_waits_for_the_guest, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_slow_terminal_gets_every_byte, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_user_who_leaves_is_no_trouble, set_up, tear_down),
        cmocka_unit_test_setup_teardown(log_keeps_the_last_output, set_up, tear_down),
        cmocka_unit_test_teardown(a_file_takes_output_only, tear_down),
        cmocka_unit_test_teardown(no_console_swallows_output, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
