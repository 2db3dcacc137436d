/* Covers block/block.c, block/format/raw.c and block/protocol: every operation with io_uring and with threads. */
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <setjmp.h>
#include <spawn.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "block/block.h"

struct disk {
    char path[32];
    struct event_loop *loop;
    struct block *block;
    enum block_aio aio;
};

/* A request with its result. */
struct job {
    struct block_request request;
    struct iovec iov;
    int status;
    bool is_done;
    struct event_loop *stops;
};

static void job_done(struct block_request *request, int status)
{
    struct job *job = container_of(request, struct job, request);
    assert_false(job->is_done);
    job->status = status;
    job->is_done = true;
    if (job->stops != NULL) {
        event_loop_stop(job->stops);
    }
}

static struct job make_job(enum block_op op, uint64_t offset, void *data, size_t size)
{
    return (struct job){
        .request = {.op = op, .offset_bytes = offset, .size_bytes = size, .done = job_done},
        .iov = {data, size},
        .status = 1,
    };
}

static void submit(struct disk *disk, struct job *job)
{
    if (job->request.iov == NULL && job->iov.iov_base != NULL) {
        job->request.iov = &job->iov;
        job->request.iov_count = 1;
    }
    block_submit(disk->block, &job->request);
}

static int run(struct disk *disk, enum block_op op, uint64_t offset, void *data, size_t size)
{
    struct job job = make_job(op, offset, data, size);
    submit(disk, &job);
    block_drain(disk->block);
    assert_true(job.is_done);
    return job.status;
}

static void make_file(struct disk *disk, enum block_aio aio, off_t size)
{
    *disk = (struct disk){.aio = aio};
    strcpy(disk->path, "/tmp/hull-block-XXXXXX");
    int fd = mkostemp(disk->path, O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, size), 0);
    close(fd);
    assert_int_equal(event_loop_create(&disk->loop, NULL), 0);
}

static int reopen(struct disk *disk, bool is_readonly, struct error *err)
{
    struct block_options options = {.format = "raw", .is_readonly = is_readonly, .aio = disk->aio};
    int fd = open(disk->path, (is_readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC);
    assert_true(fd >= 0);
    return block_open(fd, "test", &options, disk->loop, &disk->block, err);
}

static void open_disk(struct disk *disk, enum block_aio aio, off_t size)
{
    make_file(disk, aio, size);
    struct error err = {0};
    int rc = reopen(disk, false, &err);
    if (rc < 0 && aio == BLOCK_AIO_URING) {
        print_message("skipped: this host has no io_uring: %s\n", err.text);
        event_loop_destroy(disk->loop);
        unlink(disk->path);
        exit(77);
    }
    assert_int_equal(rc, 0);
}

static void close_disk(struct disk *disk)
{
    block_close(disk->block);
    event_loop_destroy(disk->loop);
    unlink(disk->path);
}

static void fill(uint8_t *data, size_t size, unsigned seed)
{
    for (size_t i = 0; i < size; i++) {
        data[i] = (uint8_t)(seed + i * 7 + (i >> 8));
    }
}

static void assert_zero(const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        assert_int_equal(data[i], 0);
    }
}

static enum block_aio mode_of(void **state)
{
    return *(const enum block_aio *)*state;
}

static void reads_what_it_wrote(void **state)
{
    struct disk disk;
    open_disk(&disk, mode_of(state), 1 << 20);
    assert_string_equal(block_aio_name(disk.block),
                        disk.aio == BLOCK_AIO_URING ? "io_uring" : "threads");
    static uint8_t out[65536], in[65536];
    fill(out, sizeof(out), 3);
    assert_int_equal(run(&disk, BLOCK_WRITE, 4096, out, sizeof(out)), 0);
    assert_int_equal(run(&disk, BLOCK_FLUSH, 0, NULL, 0), 0);
    assert_int_equal(run(&disk, BLOCK_READ, 4096, in, sizeof(in)), 0);
    assert_memory_equal(in, out, sizeof(in));
    /* Scattered: odd parts that sum up. */
    memset(in, 0, sizeof(in));
    struct iovec iov[3] = {{in, 1}, {in + 1, 1000}, {in + 1001, 23}};
    struct job job = make_job(BLOCK_READ, 4096, NULL, 1024);
    job.request.iov = iov;
    job.request.iov_count = 3;
    submit(&disk, &job);
    block_drain(disk.block);
    assert_int_equal(job.status, 0);
    assert_memory_equal(in, out, 1024);
    close_disk(&disk);
}

static void completes_on_the_loop(void **state)
{
    struct disk disk;
    open_disk(&disk, mode_of(state), 1 << 20);
    uint8_t data[512] = {1};
    struct job job = make_job(BLOCK_WRITE, 0, data, sizeof(data));
    job.stops = disk.loop;
    submit(&disk, &job);
    if (!job.is_done) {
        assert_int_equal(event_loop_run(disk.loop, NULL), 0);
    }
    assert_int_equal(job.status, 0);
    close_disk(&disk);
}

static void many_in_flight_and_closed(void **state)
{
    enum {
        COUNT = 1000
    };
    struct disk disk;
    open_disk(&disk, mode_of(state), COUNT * 512);
    struct job *jobs = calloc(COUNT, sizeof(*jobs));
    uint8_t *data = malloc(COUNT * 512);
    fill(data, COUNT * 512, 9);
    block_plug(disk.block);
    for (size_t i = 0; i < COUNT; i++) {
        jobs[i] = make_job(BLOCK_WRITE, i * 512, data + i * 512, 512);
        submit(&disk, &jobs[i]);
    }
    block_unplug(disk.block);
    block_close(disk.block); /* waits for all of them */
    for (size_t i = 0; i < COUNT; i++) {
        assert_true(jobs[i].is_done);
        assert_int_equal(jobs[i].status, 0);
    }
    assert_int_equal(reopen(&disk, true, NULL), 0);
    uint8_t *in = malloc(COUNT * 512);
    assert_int_equal(run(&disk, BLOCK_READ, 0, in, COUNT * 512), 0);
    assert_memory_equal(in, data, COUNT * 512);
    free(in);
    free(data);
    free(jobs);
    close_disk(&disk);
}

static void zeroes_and_discards(void **state)
{
    struct disk disk;
    open_disk(&disk, mode_of(state), 4 << 20);
    size_t size = 4 << 20;
    uint8_t *data = malloc(size);
    fill(data, size, 1);
    assert_int_equal(run(&disk, BLOCK_WRITE, 0, data, size), 0);
    assert_int_equal(run(&disk, BLOCK_WRITE_ZEROES, 512, NULL, (2 << 20) + 1024), 0);
    assert_int_equal(run(&disk, BLOCK_READ, 0, data, size), 0);
    assert_int_equal(data[1], 8);
    assert_zero(data + 512, (2 << 20) + 1024);
    assert_int_not_equal(data[512 + (2 << 20) + 1024 + 1], 0);
    struct job job = make_job(BLOCK_WRITE_ZEROES, 3 << 20, NULL, 65536);
    job.request.may_unmap = true;
    submit(&disk, &job);
    block_drain(disk.block);
    assert_int_equal(job.status, 0);
    assert_int_equal(run(&disk, BLOCK_READ, 3 << 20, data, 65536), 0);
    assert_zero(data, 65536);
    struct block_info info;
    block_get_info(disk.block, &info);
    struct stat before, after;
    assert_int_equal(run(&disk, BLOCK_FLUSH, 0, NULL, 0), 0);
    assert_int_equal(stat(disk.path, &before), 0);
    assert_int_equal(run(&disk, BLOCK_DISCARD, 0, NULL, size), 0);
    assert_int_equal(run(&disk, BLOCK_FLUSH, 0, NULL, 0), 0);
    assert_int_equal(stat(disk.path, &after), 0);
    if (info.can_discard) {
        assert_true(after.st_blocks < before.st_blocks);
    }
    assert_int_equal(after.st_size, size);
    free(data);
    close_disk(&disk);
}

static void refuses_what_cannot_be(void **state)
{
    struct disk disk;
    open_disk(&disk, mode_of(state), 8192);
    uint8_t data[1024];
    assert_int_equal(run(&disk, BLOCK_READ, 8192, data, 512), -EINVAL);
    assert_int_equal(run(&disk, BLOCK_READ, 7680, data, 1024), -EINVAL);
    assert_int_equal(run(&disk, BLOCK_READ, UINT64_MAX - 511, data, 512), -EINVAL);
    assert_int_equal(run(&disk, BLOCK_READ, 100, data, 512), -EINVAL);
    assert_int_equal(run(&disk, BLOCK_READ, 0, data, 100), -EINVAL);
    assert_int_equal(run(&disk, BLOCK_DISCARD, 512, NULL, 8192), -EINVAL);
    struct job job = make_job(BLOCK_READ, 0, data, 512);
    job.iov.iov_len = 1024; /* vector and size differ */
    submit(&disk, &job);
    assert_int_equal(job.status, -EINVAL);
    block_close(disk.block);

    assert_int_equal(reopen(&disk, true, NULL), 0);
    struct block_info info;
    block_get_info(disk.block, &info);
    assert_true(info.is_readonly);
    assert_false(info.can_discard);
    assert_int_equal(run(&disk, BLOCK_WRITE, 0, data, 512), -EROFS);
    assert_int_equal(run(&disk, BLOCK_WRITE_ZEROES, 0, NULL, 512), -EROFS);
    assert_int_equal(run(&disk, BLOCK_DISCARD, 0, NULL, 512), -EROFS);
    assert_int_equal(run(&disk, BLOCK_FLUSH, 0, NULL, 0), 0);
    assert_int_equal(run(&disk, BLOCK_READ, 0, data, 512), 0);
    close_disk(&disk);
}

static void odd_size_is_padded_with_zeroes(void **state)
{
    struct disk disk;
    open_disk(&disk, mode_of(state), 1000);
    struct block_info info;
    block_get_info(disk.block, &info);
    assert_int_equal(info.size_bytes, 1024);
    uint8_t out[1024], in[1024];
    fill(out, sizeof(out), 5);
    int fd = open(disk.path, O_WRONLY | O_CLOEXEC);
    assert_int_equal(write(fd, out, 1000), 1000);
    memset(in, 0xff, sizeof(in));
    struct iovec iov[3] = {{in, 999}, {in + 999, 10}, {in + 1009, 15}};
    struct job job = make_job(BLOCK_READ, 0, NULL, 1024);
    job.request.iov = iov;
    job.request.iov_count = 3;
    submit(&disk, &job);
    block_drain(disk.block);
    assert_int_equal(job.status, 0);
    assert_memory_equal(in, out, 1000);
    assert_zero(in + 1000, 24);
    assert_int_equal(run(&disk, BLOCK_WRITE, 512, out + 512, 512), 0);
    assert_int_equal(run(&disk, BLOCK_READ, 0, in, 1024), 0);
    assert_memory_equal(in, out, 1024);
    /* A file that somebody cuts is an error, not zeros. */
    assert_int_equal(ftruncate(fd, 300), 0);
    assert_int_equal(run(&disk, BLOCK_READ, 0, in, 1024), -EIO);
    close(fd);
    close_disk(&disk);
}

/* The other process: test_block open PATH r|w. Its status is what opening says. */
static int open_as_other_process(char **argv)
{
    struct error err = {0};
    struct event_loop *loop;
    bool is_readonly = argv[3][0] == 'r';
    struct block_options options = {
        .format = "raw", .is_readonly = is_readonly, .aio = BLOCK_AIO_THREADS};
    int fd = open(argv[2], (is_readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC);
    struct block *block;
    if (event_loop_create(&loop, &err) < 0) {
        return 99;
    }
    int rc = block_open(fd, "d.img", &options, loop, &block, &err);
    bool is_other = rc == -EBUSY && strcmp(err.text, "disk d.img: in use by another process") != 0;
    if (rc == 0) {
        block_close(block);
    }
    event_loop_destroy(loop);
    return is_other ? 99 : -rc;
}

/* A program of its own: a child of this one, which has threads, may not use what they have locked at the fork. */
static int open_in_other_process(struct disk *disk, bool is_readonly)
{
    char *argv[] = {"test_block", "open", disk->path, is_readonly ? "r" : "w", NULL};
    pid_t child;
    assert_int_equal(posix_spawn(&child, "/proc/self/exe", NULL, NULL, argv, environ), 0);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return -WEXITSTATUS(status);
}

static void one_writer_or_many_readers(void **state)
{
    struct disk disk;
    open_disk(&disk, mode_of(state), 8192);
    assert_int_equal(open_in_other_process(&disk, true), -EBUSY);
    assert_int_equal(open_in_other_process(&disk, false), -EBUSY);
    block_close(disk.block);
    assert_int_equal(reopen(&disk, true, NULL), 0);
    assert_int_equal(open_in_other_process(&disk, true), 0);
    assert_int_equal(open_in_other_process(&disk, false), -EBUSY);
    close_disk(&disk);
}

/* What somebody gives free within a moment is waited for: the kernel may need one for a process that was killed. */
static void a_lock_that_goes_is_waited_for(void **state)
{
    struct disk disk;
    int ready[2];
    make_file(&disk, mode_of(state), 8192);
    assert_int_equal(pipe(ready), 0);
    pid_t child = fork();
    if (child == 0) {
        struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
        int fd = open(disk.path, O_RDWR | O_CLOEXEC);
        (void)!fcntl(fd, F_OFD_SETLK, &lock);
        (void)!write(ready[1], "", 1);
        usleep(60000);
        _exit(0);
    }
    char byte;
    assert_int_equal(read(ready[0], &byte, 1), 1);
    assert_int_equal(reopen(&disk, false, NULL), 0);
    assert_int_equal(waitpid(child, NULL, 0), child);
    close(ready[0]);
    close(ready[1]);
    close_disk(&disk);
}

static void opening_names_the_fault(void **state)
{
    struct disk disk;
    make_file(&disk, mode_of(state), 0);
    struct error err = {0};
    assert_int_equal(reopen(&disk, false, &err), -EINVAL);
    assert_string_equal(err.text, "disk test: is empty: at least one sector is needed");
    assert_int_equal(truncate(disk.path, 512), 0);
    struct block_options options = {.format = "floppy", .aio = disk.aio};
    int fd = open(disk.path, O_RDWR | O_CLOEXEC);
    assert_int_equal(block_open(fd, "x", &options, disk.loop, &disk.block, &err), -EINVAL);
    assert_non_null(strstr(err.text, "disk x: unknown format \"floppy\": raw, "));
    options.format = "raw";
    fd = open(disk.path, O_RDONLY | O_CLOEXEC);
    assert_int_equal(block_open(fd, "x", &options, disk.loop, &disk.block, &err), -EINVAL);
    fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    assert_int_equal(block_open(fd, "x", &options, disk.loop, &disk.block, &err), -EINVAL);
    assert_int_equal(fcntl(fd, F_GETFD), -1); /* closed on failure */
    block_close(NULL);
    event_loop_destroy(disk.loop);
    unlink(disk.path);
}

/* Kills whoever starts a thread, makes a ring or opens a file. */
static void forbid_setup_calls(void)
{
    static const uint32_t forbidden[] = {
        SYS_io_uring_setup, SYS_io_uring_register, SYS_clone, SYS_clone3, SYS_openat, SYS_eventfd2};
    struct sock_filter filter[2 + 2 * ARRAY_COUNT(forbidden)];
    size_t n = 0;
    filter[n++] =
        (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (size_t i = 0; i < ARRAY_COUNT(forbidden); i++) {
        filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, forbidden[i], 0, 1);
        filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    }
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {.len = (unsigned short)n, .filter = filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
        syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program) != 0) {
        _exit(77);
    }
}

static void works_under_a_later_filter(void **state)
{
    struct disk disk;
    make_file(&disk, mode_of(state), 1 << 20);
    pid_t child = fork();
    if (child == 0) {
        static uint8_t data[65536];
        if (reopen(&disk, false, NULL) < 0) {
            _exit(77);
        }
        forbid_setup_calls();
        int rc = run(&disk, BLOCK_WRITE, 0, data, sizeof(data)) |
                 run(&disk, BLOCK_READ, 0, data, sizeof(data)) |
                 run(&disk, BLOCK_WRITE_ZEROES, 0, NULL, 4096) |
                 run(&disk, BLOCK_DISCARD, 0, NULL, 4096) | run(&disk, BLOCK_FLUSH, 0, NULL, 0);
        block_close(disk.block);
        _exit(rc != 0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77) {
        print_message("not tried: this host has no filters or no io_uring\n");
    } else {
        assert_int_equal(WEXITSTATUS(status), 0);
    }
    event_loop_destroy(disk.loop);
    unlink(disk.path);
}

int main(int argc, char **argv)
{
    static enum block_aio mode;
    if (argc == 4 && strcmp(argv[1], "open") == 0) {
        return open_as_other_process(argv);
    }
    mode = argc > 1 && strcmp(argv[1], "threads") == 0 ? BLOCK_AIO_THREADS : BLOCK_AIO_URING;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(reads_what_it_wrote, &mode),
        cmocka_unit_test_prestate(completes_on_the_loop, &mode),
        cmocka_unit_test_prestate(many_in_flight_and_closed, &mode),
        cmocka_unit_test_prestate(zeroes_and_discards, &mode),
        cmocka_unit_test_prestate(refuses_what_cannot_be, &mode),
        cmocka_unit_test_prestate(odd_size_is_padded_with_zeroes, &mode),
        cmocka_unit_test_prestate(one_writer_or_many_readers, &mode),
        cmocka_unit_test_prestate(a_lock_that_goes_is_waited_for, &mode),
        cmocka_unit_test_prestate(works_under_a_later_filter, &mode),
        cmocka_unit_test_prestate(opening_names_the_fault, &mode),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
