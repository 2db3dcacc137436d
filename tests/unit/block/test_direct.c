/* Covers block/protocol/direct.c: many requests at a time to sectors that share the file system's blocks, against a model. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "block/provider.h"

#define SECTOR   512u
#define SECTORS  1024u /* few, so that requests meet */
#define TAIL     3u    /* the file ends within a block */
#define PARALLEL 24u
#define STEPS    8000u

static enum block_aio aio;
static uint64_t seed = 88172645463325252ull;

static unsigned random_below(unsigned limit)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (unsigned)(seed >> 20) % limit;
}

struct disk;

struct job {
    struct block_request request;
    struct disk *disk;
    struct iovec iov;
    uint8_t *memory;
    bool is_busy;
    unsigned sector, count;
};

struct disk {
    struct event_loop *loop;
    struct block *block;
    char path[40];
    unsigned sectors;
    uint8_t model[(SECTORS + TAIL) * SECTOR];
    bool is_unknown[SECTORS + TAIL]; /* discarded: may be zeros or as before */
    bool is_busy[SECTORS + TAIL];
    struct job job[PARALLEL];
};

static void job_done(struct block_request *request, int status)
{
    struct job *job = container_of(request, struct job, request);
    struct disk *disk = job->disk;
    assert_int_equal(status, 0);
    job->is_busy = false;
    if (request->op == BLOCK_FLUSH) {
        return;
    }
    for (unsigned i = 0; i < job->count; i++) {
        unsigned sector = job->sector + i;
        uint8_t *model = disk->model + sector * SECTOR;
        const uint8_t *data = (const uint8_t *)job->iov.iov_base + i * SECTOR;
        disk->is_busy[sector] = false;
        if (request->op == BLOCK_WRITE) {
            memcpy(model, data, SECTOR);
            disk->is_unknown[sector] = false;
        } else if (request->op == BLOCK_WRITE_ZEROES) {
            memset(model, 0, SECTOR);
            disk->is_unknown[sector] = false;
        } else if (request->op == BLOCK_DISCARD) {
            disk->is_unknown[sector] = true;
        } else if (!disk->is_unknown[sector]) {
            assert_memory_equal(data, model, SECTOR);
        }
    }
}

static void start(struct disk *disk, struct job *job)
{
    static const enum block_op ops[] = {BLOCK_WRITE, BLOCK_WRITE,        BLOCK_WRITE,  BLOCK_READ,
                                        BLOCK_READ,  BLOCK_WRITE_ZEROES, BLOCK_DISCARD};
    enum block_op op = random_below(40) == 0 ? BLOCK_FLUSH : ops[random_below(ARRAY_COUNT(ops))];
    job->is_busy = true;
    job->disk = disk;
    if (op == BLOCK_FLUSH) {
        job->request = (struct block_request){.op = op, .done = job_done};
        block_submit(disk->block, &job->request);
        return;
    }
    job->sector = random_below(disk->sectors);
    unsigned most = random_below(4) == 0 ? 40 : 7;
    job->count = 1 + random_below(MIN(disk->sectors - job->sector, most));
    for (unsigned i = 0; i < job->count; i++) { /* what overlaps has no order */
        if (disk->is_busy[job->sector + i]) {
            job->count = i;
        }
    }
    if (job->count == 0) {
        job->is_busy = false;
        return;
    }
    size_t size = job->count * SECTOR;
    /* Aligned to a page, to a sector, and to nothing. */
    static const size_t shifts[] = {0, 512, 1024, 3};
    job->iov = (struct iovec){job->memory + shifts[random_below(4)], size};
    for (size_t i = 0; i < size; i++) {
        ((uint8_t *)job->iov.iov_base)[i] = (uint8_t)(seed >> (i % 48));
    }
    memset(disk->is_busy + job->sector, true, job->count);
    job->request = (struct block_request){.op = op,
                                          .may_unmap = random_below(2) == 0,
                                          .offset_bytes = (uint64_t)job->sector * SECTOR,
                                          .size_bytes = size,
                                          .iov = &job->iov,
                                          .iov_count = op == BLOCK_READ || op == BLOCK_WRITE,
                                          .done = job_done};
    block_submit(disk->block, &job->request);
}

static void disk_open(struct disk *disk, bool is_growable)
{
    memset(disk, 0, sizeof(*disk));
    (void)snprintf(disk->path, sizeof(disk->path), "%s",
                   "hull-direct-XXXXXX"); /* /tmp may be tmpfs */
    int fd = mkostemp(disk->path, O_CLOEXEC);
    assert_true(fd >= 0);
    disk->sectors = SECTORS + (is_growable ? 0 : TAIL);
    assert_int_equal(ftruncate(fd, is_growable ? SECTOR : (off_t)disk->sectors * SECTOR), 0);
    assert_int_equal(event_loop_create(&disk->loop, NULL), 0);
    struct block_file_options options = {.is_direct = true, .is_growable = is_growable, .aio = aio};
    struct error err = {0};
    if (block_open_file(fd, "test", &options, disk->loop, &disk->block, &err) < 0) {
        unlink(disk->path);
        print_message("skipped: %s\n", err.text);
        exit(77);
    }
    for (unsigned i = 0; i < PARALLEL; i++) {
        assert_int_equal(posix_memalign((void **)&disk->job[i].memory, 4096, 48 * SECTOR), 0);
    }
}

static void run(bool is_growable)
{
    static struct disk disk;
    disk_open(&disk, is_growable);
    for (unsigned step = 0; step < STEPS; step++) {
        struct job *job = &disk.job[random_below(PARALLEL)];
        if (!job->is_busy) {
            start(&disk, job);
        } else {
            block_wait(disk.block);
        }
    }
    block_drain(disk.block);
    assert_int_equal(block_flush(disk.block), 0);
    uint8_t *data = malloc((size_t)disk.sectors * SECTOR);
    assert_int_equal(block_read(disk.block, 0, data, (size_t)disk.sectors * SECTOR), 0);
    for (unsigned i = 0; i < disk.sectors; i++) {
        if (!disk.is_unknown[i]) {
            assert_memory_equal(data + i * SECTOR, disk.model + i * SECTOR, SECTOR);
        }
    }
    free(data);
    uint64_t size = disk.block->info.size_bytes;
    assert_true(is_growable || size == (uint64_t)disk.sectors * SECTOR); /* as long as it was */
    block_close(disk.block);
    int fd = open(disk.path, O_RDONLY | O_CLOEXEC);
    assert_int_equal(lseek(fd, 0, SEEK_END), size); /* no rest of a block behind the end */
    close(fd);
    event_loop_destroy(disk.loop);
    unlink(disk.path);
    for (unsigned i = 0; i < PARALLEL; i++) {
        free(disk.job[i].memory);
    }
}

static void sectors_of_a_disk(void **state)
{
    run(false);
}

static void sectors_of_a_file_that_grows(void **state)
{
    run(true);
}

int main(int argc, char **argv)
{
    aio = argc == 2 && strcmp(argv[1], "uring") == 0 ? BLOCK_AIO_URING : BLOCK_AIO_THREADS;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sectors_of_a_disk),
        cmocka_unit_test(sectors_of_a_file_that_grows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
