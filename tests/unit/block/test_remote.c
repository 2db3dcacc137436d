/* Covers block/protocol/remote: requests over a connection that is lost again and again, to a server that forgets what was not
 * flushed. The server is one of the test's own, in memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/host/log.h"
#include "block/protocol/remote/remote.h"

#define SIZE     (1u << 20)
#define UNIT     512u
#define MAX_DATA 65536u
#define QUEUE    16u

/* What the server has, and what is left of it after a crash. */
static uint8_t volatile_data[SIZE], durable_data[SIZE];

struct fake {
    struct remote remote;
    bool is_connecting, is_refusing, is_lost, is_silent;
    unsigned seed;
    unsigned crash_after; /* commands; 0: never */
    unsigned done_count, connect_count, flush_count;
    uint32_t size_bytes, block_size;
    int next_status; /* of the next command */
    struct error why;
    struct remote_command *command[QUEUE];
    unsigned command_count;
};

static struct fake *fake_from_remote(struct remote *remote)
{
    return container_of(remote, struct fake, remote);
}

static void fake_connect(struct remote *remote)
{
    struct fake *fake = fake_from_remote(remote);
    fake->is_connecting = true;
    fake->connect_count++;
}

static void fake_start(struct remote *remote, struct remote_command *command)
{
    struct fake *fake = fake_from_remote(remote);
    assert_true(fake->command_count < QUEUE);
    assert_true(command->op == BLOCK_FLUSH || command->size_bytes > 0);
    assert_true(command->offset_bytes + command->size_bytes <= SIZE);
    assert_true((command->offset_bytes | command->size_bytes) % fake->block_size == 0);
    assert_true((command->op != BLOCK_READ && command->op != BLOCK_WRITE) ||
                command->size_bytes <= MAX_DATA);
    fake->command[fake->command_count++] = command;
}

static void fake_disconnect(struct remote *remote)
{
    struct fake *fake = fake_from_remote(remote);
    fake->command_count = 0;
    fake->is_connecting = false;
    fake->is_lost = false;
}

static void crash(struct fake *fake)
{
    memcpy(volatile_data, durable_data, SIZE);
    fake->is_lost = true;
}

static void carry_out(struct fake *fake, const struct remote_command *command)
{
    uint8_t *at = volatile_data + command->offset_bytes;
    size_t size = (size_t)command->size_bytes;
    switch (command->op) {
    case BLOCK_READ:
        memcpy(command->data, at, size);
        break;
    case BLOCK_WRITE:
        memcpy(at, command->data, size);
        break;
    case BLOCK_WRITE_ZEROES:
        memset(at, 0, size);
        break;
    case BLOCK_FLUSH:
        memcpy(durable_data, volatile_data, SIZE);
        fake->flush_count++;
        break;
    default:
        fail();
    }
}

static void fake_wait(struct remote *remote, int timeout_ms)
{
    struct fake *fake = fake_from_remote(remote);
    if (fake->is_connecting) {
        struct remote_info info = {.size_bytes = fake->size_bytes,
                                   .block_size = fake->block_size,
                                   .physical_block_size = 512,
                                   .max_size = MAX_DATA,
                                   .has_flush = true,
                                   .has_write_zeroes = true,
                                   .max_in_flight = QUEUE};
        fake->is_connecting = false;
        if (fake->is_refusing) {
            (void)error_set(&fake->why, ECONNREFUSED, "refused");
            remote_lost(remote, &fake->why);
        } else {
            remote_connected(remote, &info);
        }
    } else if (fake->is_lost) {
        (void)error_set(&fake->why, ECONNRESET, "gone");
        remote_lost(remote, &fake->why);
    } else if (fake->command_count > 0 && !fake->is_silent) {
        /* In any order; some are carried out and get no answer. */
        unsigned i = (unsigned)rand_r(&fake->seed) % fake->command_count;
        struct remote_command *command = fake->command[i];
        carry_out(fake, command);
        if (fake->crash_after != 0 && ++fake->done_count % fake->crash_after == 0) {
            crash(fake);
            return;
        }
        fake->command[i] = fake->command[--fake->command_count];
        int status = fake->next_status;
        fake->next_status = 0;
        remote_done(remote, command, status);
    }
}

static void fake_close(struct remote *remote)
{
}

static const struct remote_ops fake_ops = {
    .block = REMOTE_BLOCK_OPS("fake"),
    .connect = fake_connect,
    .start = fake_start,
    .disconnect = fake_disconnect,
    .wait = fake_wait,
    .close = fake_close,
};

struct bed {
    struct event_loop *loop;
    struct fake *fake;
    struct block *block;
};

static uint32_t block_size = 1;

static int try_open(struct bed *bed, uint64_t reconnect_ns, bool is_refusing, struct error *err)
{
    struct block_remote_options options = {.reconnect_ns = reconnect_ns,
                                           .timeout_ns = 200 * 1000000ull};
    assert_int_equal(event_loop_create(&bed->loop, NULL), 0);
    bed->fake =
        remote_new(sizeof(*bed->fake), &fake_ops, "fake://server/disk", &options, bed->loop, NULL);
    bed->fake->size_bytes = SIZE;
    bed->fake->block_size = block_size;
    bed->fake->is_refusing = is_refusing;
    memset(volatile_data, 0, SIZE);
    memset(durable_data, 0, SIZE);
    return remote_open(&bed->fake->remote, &bed->block, err);
}

static void make(struct bed *bed, uint64_t reconnect_ns)
{
    assert_int_equal(try_open(bed, reconnect_ns, false, NULL), 0);
}

static void end(struct bed *bed)
{
    block_close(bed->block);
    event_loop_destroy(bed->loop);
}

struct job {
    struct block_request request;
    struct iovec iov[3];
    uint8_t data[3 * MAX_DATA];
    uint32_t first, count; /* units */
    bool is_busy;
};

static void job_done(struct block_request *request, int status)
{
    struct job *job = container_of(request, struct job, request);
    assert_int_equal(status, 0);
    job->is_busy = false;
}

static void job_failed(struct block_request *request, int status)
{
    struct job *job = container_of(request, struct job, request);
    assert_int_equal(status, -ETIMEDOUT);
    job->is_busy = false;
}

static bool overlaps(const struct job *jobs, size_t count, uint32_t first, uint32_t units)
{
    for (size_t i = 0; i < count; i++) {
        if (jobs[i].is_busy && first < jobs[i].first + jobs[i].count &&
            jobs[i].first < first + units) {
            return true;
        }
    }
    return false;
}

/* What was written is read, whatever happens to the server, and what was flushed is durable. */
static void forgets_nothing(void **state)
{
    static struct job jobs[8];
    static uint8_t model[SIZE];
    for (unsigned seed = 1; seed <= 8; seed++) {
        struct bed bed;
        make(&bed, 60000000000ull);
        bed.fake->seed = seed;
        bed.fake->crash_after = 101 + 37 * seed; /* more than is ever kept */
        memset(model, 0, SIZE);
        for (unsigned step = 0; step < 3000; step++) {
            struct job *job = &jobs[step % ARRAY_COUNT(jobs)];
            unsigned random = (unsigned)rand_r(&bed.fake->seed);
            while (job->is_busy) {
                block_wait(bed.block);
            }
            if (random % 16 == 0) {
                assert_int_equal(block_flush(bed.block), 0);
            }
            uint32_t first = (random >> 4) % (SIZE / UNIT - 3 * MAX_DATA / UNIT);
            uint32_t count = 1 + (random >> 16) % 64;
            if (random % 7 == 0) {
                count = 3 * MAX_DATA / UNIT; /* several commands */
            }
            if (overlaps(jobs, ARRAY_COUNT(jobs), first, count)) {
                continue;
            }
            size_t size = (size_t)count * UNIT;
            job->first = first;
            job->count = count;
            job->is_busy = true;
            job->iov[0] = (struct iovec){job->data, 100};
            job->iov[1] = (struct iovec){job->data + 100, size - 300};
            job->iov[2] = (struct iovec){job->data + size - 200, 200};
            enum block_op op = random % 5 == 0   ? BLOCK_READ
                               : random % 5 == 1 ? BLOCK_WRITE_ZEROES
                                                 : BLOCK_WRITE;
            job->request = (struct block_request){.op = op,
                                                  .offset_bytes = (uint64_t)first * UNIT,
                                                  .size_bytes = size,
                                                  .iov = job->iov,
                                                  .iov_count = 3,
                                                  .done = job_done};
            if (op == BLOCK_WRITE) {
                memset(job->data, (int)(random >> 8), size);
                memcpy(model + (size_t)first * UNIT, job->data, size);
            } else if (op == BLOCK_WRITE_ZEROES) {
                memset(model + (size_t)first * UNIT, 0, size);
            }
            block_submit(bed.block, &job->request);
            if (op == BLOCK_READ) {
                while (job->is_busy) {
                    block_wait(bed.block);
                }
                assert_memory_equal(job->data, model + (size_t)first * UNIT, size);
            }
        }
        block_drain(bed.block);
        assert_true(bed.fake->connect_count >= 3);
        assert_int_equal(block_flush(bed.block), 0);
        assert_memory_equal(durable_data, model, SIZE);
        end(&bed);
    }
}

/* A format's requests to a server that takes whole blocks alone: many at a time, of any alignment, none of the same bytes. */
static void takes_any_alignment(void **state)
{
    static struct job jobs[8];
    static uint8_t model[SIZE], all[SIZE];
    struct bed bed;
    block_size = 4096;
    make(&bed, 60000000000ull);
    block_size = 1;
    bed.fake->crash_after = 211;
    memset(model, 0, SIZE);
    assert_int_equal(block_remote_for_format(&bed.block, NULL), 0);
    for (unsigned step = 0; step < 4000; step++) {
        struct job *job = &jobs[step % ARRAY_COUNT(jobs)];
        unsigned random = (unsigned)rand_r(&bed.fake->seed);
        while (job->is_busy) {
            block_wait(bed.block);
        }
        if (random % 16 == 0) {
            assert_int_equal(block_flush(bed.block), 0);
        }
        uint32_t first = (random >> 3) % 65536; /* close together */
        uint32_t count = 1 + (random >> 16) % (random % 3 == 0 ? 12000 : 700);
        if (overlaps(jobs, ARRAY_COUNT(jobs), first, count)) {
            continue;
        }
        enum block_op op = random % 5 == 0   ? BLOCK_READ
                           : random % 5 == 1 ? BLOCK_WRITE_ZEROES
                                             : BLOCK_WRITE;
        *job = (struct job){.first = first, .count = count, .is_busy = true};
        job->iov[0] = (struct iovec){job->data, count};
        job->request = (struct block_request){.op = op,
                                              .offset_bytes = first,
                                              .size_bytes = count,
                                              .iov = job->iov,
                                              .iov_count = 1,
                                              .done = job_done};
        if (op == BLOCK_WRITE) {
            memset(job->data, (int)(random >> 8), count);
            memcpy(model + first, job->data, count);
        } else if (op == BLOCK_WRITE_ZEROES) {
            memset(model + first, 0, count);
        }
        block_submit(bed.block, &job->request);
        while (op == BLOCK_READ && job->is_busy) {
            block_wait(bed.block);
        }
        assert_true(op != BLOCK_READ || memcmp(job->data, model + first, count) == 0);
    }
    block_drain(bed.block);
    assert_int_equal(block_read(bed.block, 0, all, SIZE), 0);
    assert_memory_equal(all, model, SIZE);
    assert_int_equal(block_flush(bed.block), 0);
    assert_memory_equal(durable_data, model, SIZE);
    end(&bed);
}

/* More than the journal may hold: flushes of its own keep it short. */
static void keeps_little(void **state)
{
    struct bed bed;
    make(&bed, 60000000000ull);
    static uint8_t data[MAX_DATA];
    for (unsigned i = 0; i < 1600; i++) {
        assert_int_equal(block_write(bed.block, (i % 16) * MAX_DATA, data, sizeof(data)), 0);
        assert_true(bed.fake->remote.journal.size_bytes < 65u << 20);
    }
    assert_true(bed.fake->flush_count > 1);
    bed.fake->next_status = -EIO;
    assert_int_equal(block_flush(bed.block), -EIO);
    assert_int_equal(block_flush(bed.block), 0);
    end(&bed);
}

static void first_connection_fails(void **state)
{
    struct bed bed;
    struct error err;
    assert_int_equal(try_open(&bed, 60000000000ull, true, &err), -ECONNREFUSED);
    assert_string_equal(err.text, "disk fake://server/disk: refused");
    event_loop_destroy(bed.loop);
}

/* Requests wait, then they fail; when the server is back they do not, and nothing is lost. */
static void gives_up_and_comes_back(void **state)
{
    struct bed bed;
    make(&bed, 300000000);
    static uint8_t data[4096], in[4096];
    memset(data, 7, sizeof(data));
    assert_int_equal(block_write(bed.block, 8192, data, sizeof(data)), 0);
    bed.fake->is_refusing = true;
    crash(bed.fake);
    uint64_t start = clock_monotonic_ns();
    assert_int_equal(block_read(bed.block, 8192, in, sizeof(in)), -ETIMEDOUT);
    assert_true(clock_monotonic_ns() - start >= 250000000);
    assert_int_equal(block_read(bed.block, 8192, in, sizeof(in)), -ETIMEDOUT);
    bed.fake->is_refusing = false;
    while (block_read(bed.block, 8192, in, sizeof(in)) < 0) {
        remote_wait(bed.block); /* as the loop's timer would */
    }
    assert_memory_equal(in, data, sizeof(data));
    end(&bed);
}

/* How long requests wait is counted anew for each loss, also where nothing was asked for in between. */
static void each_loss_has_its_time(void **state)
{
    struct bed bed;
    make(&bed, 300000000);
    static uint8_t in[4096];
    for (unsigned i = 0; i < 3; i++) {
        crash(bed.fake);
        while (bed.fake->is_lost || bed.fake->remote.state != REMOTE_CONNECTED) {
            remote_wait(bed.block);
        }
        uint64_t end = clock_monotonic_ns() + 350000000;
        while (clock_monotonic_ns() < end) {
            (void)usleep(10000);
        }
    }
    bed.fake->crash_after = ++bed.fake->done_count + 1; /* the next command */
    assert_int_equal(block_read(bed.block, 8192, in, sizeof(in)), 0);
    assert_int_equal(bed.fake->connect_count, 5);
    end(&bed);
}

/* A server that does not answer is one that is gone. */
static void does_not_wait_for_ever(void **state)
{
    struct bed bed;
    make(&bed, 0);
    static uint8_t in[4096];
    bed.fake->is_silent = true;
    assert_int_equal(block_read(bed.block, 0, in, sizeof(in)), -ETIMEDOUT);
    assert_int_equal(bed.fake->connect_count, 1);
    end(&bed);
}

/* In a hurry to end: nothing waits any more. */
static void gives_up_when_told(void **state)
{
    struct bed bed;
    make(&bed, 60000000000ull);
    struct job *job = calloc(1, sizeof(*job));
    static uint8_t in[512];
    bed.fake->is_refusing = true;
    crash(bed.fake);
    job->iov[0] = (struct iovec){in, sizeof(in)};
    job->request = (struct block_request){.op = BLOCK_READ,
                                          .size_bytes = sizeof(in),
                                          .iov = job->iov,
                                          .iov_count = 1,
                                          .done = job_failed};
    job->is_busy = true;
    block_submit(bed.block, &job->request);
    block_wait(bed.block);
    assert_true(job->is_busy);
    block_remote_give_up(bed.block);
    assert_false(job->is_busy);
    assert_int_equal(block_read(bed.block, 0, in, sizeof(in)), -ETIMEDOUT);
    end(&bed);
    free(job);
}

static void another_disk_is_not_used(void **state)
{
    struct bed bed;
    make(&bed, 60000000000ull);
    static uint8_t in[4096];
    bed.fake->size_bytes = SIZE / 2;
    crash(bed.fake);
    assert_int_equal(block_read(bed.block, 0, in, sizeof(in)), -ETIMEDOUT);
    assert_int_equal(block_read(bed.block, 0, in, sizeof(in)), -ETIMEDOUT);
    assert_int_equal(bed.fake->connect_count, 2);
    end(&bed);
}

static void names(void **state)
{
    char text[128];
    assert_true(block_is_uri("nbd://server/export"));
    assert_true(block_is_uri("nbd+unix:///?socket=/run/s"));
    assert_false(block_is_uri("nbd:server"));
    assert_false(block_is_uri("./nbd://server"));
    assert_false(block_is_uri("://x"));
    assert_false(block_is_uri("/images/a://b"));
    assert_string_equal(block_uri_for_people("iscsi://user%secret@host/iqn/0", text, sizeof(text)),
                        "iscsi://user:...@host/iqn/0");
    assert_string_equal(block_uri_for_people("http://u:p@h/x", text, sizeof(text)),
                        "http://u:...@h/x");
    assert_string_equal(block_uri_for_people("http://h/x@y:z", text, sizeof(text)),
                        "http://h/x@y:z");
    struct error err;
    struct block *block;
    struct block_remote_options options = {0};
    assert_int_equal(block_open_uri("gopher://x/y", &options, NULL, &block, &err), -EOPNOTSUPP);
    assert_non_null(strstr(err.text, "protocol gopher is unknown"));
}

int main(void)
{
    log_init(2, LOG_LEVEL_ERROR, "test");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forgets_nothing),
        cmocka_unit_test(takes_any_alignment),
        cmocka_unit_test(keeps_little),
        cmocka_unit_test(first_connection_fails),
        cmocka_unit_test(gives_up_and_comes_back),
        cmocka_unit_test(each_loss_has_its_time),
        cmocka_unit_test(does_not_wait_for_ever),
        cmocka_unit_test(another_disk_is_not_used),
        cmocka_unit_test(gives_up_when_told),
        cmocka_unit_test(names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
