/* Power cuts and failing disks: random requests to a qcow2 image over a recorder, then, for random places of its log, what a power cut there may
 * have left. Each such image has to open, has no errors (leaks are fine; an image that is marked dirty is put right by opening
 * it), and holds what was flushed. Some of them are shown to qemu-img as well.
 * Usage: qcow2_crash [FIRST_SEED [RUNS [STATES_PER_RUN]]] */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "block/crypt.h"
#include "tests/block/recorder.h"

#define MAX_EVENTS 4096
#define SECTOR     512u
#define BACKING    (1ull << 43)
#define LUKS_SIZE  8192u

/* What the guest did to some sectors. */
struct event {
    enum block_op op;
    uint64_t first, count; /* sectors */
    uint64_t value;
    uint64_t submitted, completed; /* places in the log; completed UINT64_MAX: never */
    uint64_t begun, ended;         /* in the order of all events */
    int status;
};

/* Another name of the backing file. */
struct renaming {
    char name[1000];
    uint64_t submitted, completed; /* places in the log; completed UINT64_MAX: it failed */
};

#define MAX_RENAMINGS 64

static uint64_t now;

struct job {
    struct block_request request;
    struct iovec iov;
    struct event *event;
    struct recorder *recorder;
};

struct run {
    struct event_loop *loop;
    uint64_t seed, random;
    struct block_create_options create;
    uint64_t sectors;
    bool has_backing, is_encrypted;
    struct recorder *recorder;
    uint8_t *initial;
    uint64_t initial_size;
    struct event *event;
    unsigned event_count;
    struct renaming *renaming; /* the first one is that of the creation */
    unsigned renaming_count;
    uint64_t next_value;
    struct block *block;
    unsigned dirty_states, leak_states, qemu_states;
};

static void quit(const struct run *run, const char *what, uint64_t place, uint64_t state)
{
    printf(
        "seed %llu, place %llu of %llu, state %llu: %s (clusters %u, version %u, counts %u, extended %d, backing %d, encrypted %d)\n",
        (unsigned long long)run->seed, (unsigned long long)place,
        (unsigned long long)run->recorder->log_count, (unsigned long long)state, what,
        run->create.cluster_size, run->create.version, run->create.refcount_bits,
        run->create.has_extended_l2, run->has_backing, run->is_encrypted);
    exit(1);
}

static uint64_t random_below(struct run *run, uint64_t limit)
{
    return recorder_random(&run->random, limit);
}

static uint64_t word_of(uint64_t value, uint64_t sector)
{
    return value == 0 ? 0 : value << 20 | sector;
}

static void fill_sectors(uint8_t *data, uint64_t first, uint64_t count, uint64_t value)
{
    for (uint64_t i = 0; i < count; i++) {
        uint64_t word = word_of(value, first + i);
        for (unsigned j = 0; j < SECTOR / 8; j++) {
            memcpy(data + i * SECTOR + j * 8, &word, 8);
        }
    }
}

static struct block *make_backing(const struct run *run)
{
    struct block *backing;
    if (block_open_memory(run->sectors * SECTOR, "backing", run->loop, &backing, NULL) < 0) {
        exit(1);
    }
    uint8_t *data = malloc(run->sectors * SECTOR);
    fill_sectors(data, 0, run->sectors, BACKING);
    if (block_write(backing, 0, data, run->sectors * SECTOR) < 0) {
        exit(1);
    }
    free(data);
    backing->info.is_growable = false;
    backing->info.is_readonly = true;
    backing->info.logical_block_size = 512;
    return backing;
}

/* What is in the LUKS header does not matter here. */
static int unlock(void *ctx, const struct block_crypt_header *header, struct block_crypt *out_crypt,
                  struct error *err)
{
    *out_crypt = (struct block_crypt){.sector_size = SECTOR, .key_size = 32, .key = "any key"};
    return 0;
}

static struct block *open_on(const struct run *run, struct block *file, bool is_for_repair,
                             struct error *err)
{
    struct block_options options = {
        .format = "qcow2", .is_for_repair = is_for_repair, .unlock = unlock};
    struct block *block;
    if (run->has_backing) {
        options.backing = make_backing(run);
    }
    return block_open_format(file, &options, &block, err) < 0 ? NULL : block;
}

static void job_done(struct block_request *request, int status)
{
    struct job *job = container_of(request, struct job, request);
    job->event->completed = job->recorder->log_count;
    job->event->ended = ++now;
    job->event->status = status;
}

static bool is_taken(const struct job *jobs, unsigned count, uint64_t first, uint64_t sectors)
{
    for (unsigned i = 0; i < count; i++) {
        const struct event *event = jobs[i].event;
        if (first < event->first + event->count && event->first < first + sectors) {
            return true;
        }
    }
    return false;
}

static void do_batch(struct run *run)
{
    struct job jobs[8] = {0};
    unsigned wanted = 1 + (unsigned)random_below(run, 8), count = 0;
    for (unsigned i = 0; i < wanted && run->event_count < MAX_EVENTS; i++) {
        uint64_t unit = random_below(run, 3) == 0 ? run->create.cluster_size / SECTOR : 1;
        uint64_t first = random_below(run, run->sectors / unit + 1) * unit;
        uint64_t sectors = (1 + random_below(run, 1 + random_below(run, 48))) * unit;
        uint64_t kind = random_below(run, 20);
        enum block_op op = kind < 11   ? BLOCK_WRITE
                           : kind < 14 ? BLOCK_DISCARD
                           : kind < 16 ? BLOCK_WRITE_ZEROES
                           : kind < 18 ? BLOCK_FLUSH
                                       : BLOCK_READ;
        first = MIN(first, run->sectors - 1);
        sectors = op == BLOCK_FLUSH ? 0 : MIN(sectors, run->sectors - first);
        if (is_taken(jobs, count, first, sectors)) {
            continue;
        }
        struct job *job = &jobs[count++];
        struct event *event = &run->event[run->event_count++];
        *event = (struct event){.op = op,
                                .first = first,
                                .count = sectors,
                                .value = op == BLOCK_WRITE ? ++run->next_value : 0,
                                .submitted = run->recorder->log_count,
                                .completed = UINT64_MAX,
                                .begun = ++now};
        job->event = event;
        job->recorder = run->recorder;
        job->request = (struct block_request){.op = op,
                                              .may_unmap = random_below(run, 2) == 0,
                                              .offset_bytes = first * SECTOR,
                                              .size_bytes = sectors * SECTOR,
                                              .done = job_done};
        if (op == BLOCK_WRITE || op == BLOCK_READ) {
            job->iov = (struct iovec){malloc(sectors * SECTOR), sectors * SECTOR};
            fill_sectors(job->iov.iov_base, first, sectors, event->value);
            job->request.iov = &job->iov;
            job->request.iov_count = 1;
        }
        block_submit(run->block, &job->request);
    }
    block_drain(run->block);
    for (unsigned i = 0; i < count; i++) {
        free(jobs[i].iov.iov_base);
        if (jobs[i].event->completed == UINT64_MAX) {
            quit(run, "a request did not end", 0, 0);
        }
        if (jobs[i].event->status != 0 && run->recorder->fail_one_in == 0) {
            quit(run, strerror(-jobs[i].event->status), 0, 0);
        }
    }
}

/* Names that fit into the first sector beside all else, and such that do not. */
static void rename_backing(struct run *run)
{
    struct renaming *renaming = &run->renaming[run->renaming_count];
    if (!run->has_backing || run->renaming_count == MAX_RENAMINGS) {
        return;
    }
    uint64_t limit = run->create.cluster_size >= 4096 ? sizeof(renaming->name) - 1 : 100;
    uint64_t length = 1 + random_below(run, limit);
    for (uint64_t i = 0; i < length; i++) {
        renaming->name[i] = (char)('a' + random_below(run, 26));
    }
    *renaming->name = (char)('0' + run->renaming_count); /* no two are the same */
    renaming->name[length] = '\0';
    renaming->submitted = run->recorder->log_count;
    run->renaming_count++;
    int rc = block_set_backing_name(run->block, renaming->name, "raw", NULL);
    if (rc < 0 && run->recorder->fail_one_in == 0) {
        quit(run, "no other name of the backing file", 0, 0);
    }
    renaming->completed = rc == 0 ? run->recorder->log_count : UINT64_MAX;
}

static void note_name(void *ctx, const struct block_detail *detail)
{
    if (strcmp(detail->key, "backing-file") == 0) {
        (void)snprintf(ctx, sizeof(((struct renaming *)NULL)->name), "%s", detail->text);
    }
}

/* One name or the other, never a part of one. */
static void check_name(const struct run *run, const struct block *block, uint64_t place,
                       uint64_t state)
{
    char name[sizeof(run->renaming->name)] = "";
    block_describe(block, note_name, name);
    unsigned last = 0;
    for (unsigned i = 0; i < run->renaming_count; i++) {
        last = run->renaming[i].completed <= place ? i : last;
    }
    for (unsigned i = last; i < run->renaming_count && run->renaming[i].submitted <= place; i++) {
        if (strcmp(name, run->renaming[i].name) == 0) {
            return;
        }
    }
    printf("\"%s\", the last sure one \"%s\"\n", name, run->renaming[last].name);
    quit(run, "the name of the backing file is none that it was given", place, state);
}

/* May this be in the sector after a power cut at 'place'? */
static bool is_allowed(const struct run *run, uint64_t sector, uint64_t value, uint64_t place,
                       uint64_t flushed)
{
    uint64_t durable = run->has_backing ? BACKING : 0;
    bool is_found = value == durable;
    for (unsigned i = 0; i < run->event_count; i++) {
        const struct event *event = &run->event[i];
        if (event->op == BLOCK_FLUSH || event->op == BLOCK_READ || sector < event->first ||
            sector >= event->first + event->count || event->submitted > place) {
            continue;
        }
        /* A request that failed may have been done in part, or not at all. */
        bool is_durable =
            event->ended < flushed && event->op != BLOCK_DISCARD && event->status == 0;
        if (is_durable) {
            is_found = false; /* what was there before is gone */
        }
        is_found = is_found || value == event->value;
    }
    return is_found;
}

static void explain(const struct run *run, uint64_t sector, uint64_t value, uint64_t flushed)
{
    static const char *const names[] = {"read", "write", "flush", "discard", "zeroes"};
    printf("sector %llu has %llu; flushed: what ended before %llu\n", (unsigned long long)sector,
           (unsigned long long)value, (unsigned long long)flushed);
    for (unsigned i = 0; i < run->event_count; i++) {
        const struct event *event = &run->event[i];
        if (event->op == BLOCK_FLUSH ||
            (sector >= event->first && sector < event->first + event->count)) {
            printf("  %s %llu of %llu+%llu, from %llu to %llu, ended %llu\n", names[event->op],
                   (unsigned long long)event->value, (unsigned long long)event->first,
                   (unsigned long long)event->count, (unsigned long long)event->submitted,
                   (unsigned long long)event->completed, (unsigned long long)event->ended);
        }
    }
}

static void verify(const struct run *run, struct block *block, uint64_t place, uint64_t flushed,
                   uint64_t state)
{
    uint64_t size = run->sectors * SECTOR;
    uint8_t *data = malloc(size);
    if (block_read(block, 0, data, size) < 0) {
        quit(run, "the disk cannot be read", place, state);
    }
    for (uint64_t i = 0; i < run->sectors; i++) {
        uint64_t word;
        memcpy(&word, data + i * SECTOR, 8);
        for (unsigned j = 1; j < SECTOR / 8; j++) {
            if (memcmp(data + i * SECTOR + j * 8, &word, 8) != 0) {
                quit(run, "a sector is torn", place, state);
            }
        }
        if ((word != 0 && (word & 0xfffff) != i) ||
            !is_allowed(run, i, word >> 20, place, flushed)) {
            explain(run, i, word >> 20, flushed);
            quit(run, "a sector has what it cannot have", place, state);
        }
    }
    free(data);
}

static void ask_qemu(struct run *run, const uint8_t *bytes, uint64_t size, uint64_t place,
                     uint64_t state)
{
    char path[] = "/tmp/hull-crash-XXXXXX";
    char text[256];
    int fd = mkstemp(path);
    if (fd < 0 || write(fd, bytes, size) != (ssize_t)size) {
        quit(run, "no temporary file", place, state);
    }
    close(fd);
    (void)snprintf(text, sizeof(text),
                   "qemu-img check -q 'json:{\"driver\":\"qcow2\",\"backing\":null,"
                   "\"file\":{\"driver\":\"file\",\"filename\":\"%s\"}}' >/dev/null 2>&1",
                   path);
    int status = system(text);
    int rc = WIFEXITED(status) ? WEXITSTATUS(status) : 255;
    if (rc == 127) {
        unlink(path);
        return; /* there is none */
    }
    if (rc != 0 && rc != 3) {
        printf("kept %s\n", path);
        quit(run, "qemu-img check finds errors", place, state);
    }
    unlink(path);
    run->qemu_states++;
}

static void report(void *ctx, const char *text)
{
    printf("  %s\n", text);
}

static void try_state(struct run *run, uint64_t place, uint64_t state)
{
    struct recorder *log = run->recorder;
    uint64_t covered = 0, flushed = 0;
    for (uint64_t i = 0; i < place; i++) {
        if (log->log[i].op == BLOCK_FLUSH) {
            covered = MAX(covered, log->log[i].covers);
        }
    }
    for (unsigned i = 0; i < run->event_count; i++) {
        /* Events that had completed before the guest's flush was submitted are durable once it has completed. */
        if (run->event[i].op == BLOCK_FLUSH && run->event[i].status == 0 &&
            run->event[i].completed <= place) {
            flushed = MAX(flushed, run->event[i].begun);
        }
    }
    struct recorder *after =
        recorder_create(run->initial, run->initial_size, run->loop, run->random);
    uint64_t *size = &after->block.info.size_bytes;
    uint64_t mode =
        random_below(run, 4); /* 0: nothing else, 1: everything, 2: a selection, 3: torn */
    for (uint64_t i = 0; i < place; i++) {
        bool is_durable = i < covered;
        if (is_durable || mode == 1 || (mode >= 2 && random_below(run, 2) == 0)) {
            recorder_apply(&log->log[i], after->bytes, after->capacity, size,
                           !is_durable && mode == 3, &run->random);
        }
    }
    struct error err = {0};
    bool is_dirty = run->create.version != 2 && after->bytes[79] & 1;
    struct block *block = open_on(run, &after->block, true, &err);
    if (block == NULL) {
        printf("%s\n", err.text);
        quit(run, "the image does not open", place, state);
    }
    if (run->has_backing) {
        check_name(run, block, place, state);
    }
    struct block_check_result result;
    if (block_check(block, 0, NULL, NULL, &result, &err) < 0) {
        quit(run, err.text, place, state);
    }
    run->leak_states += result.leaks > 0;
    run->dirty_states += is_dirty;
    if (result.errors > 0 && !is_dirty) {
        (void)!block_check(block, 0, report, NULL, &result, &err);
        quit(run, "the image has errors", place, state);
    }
    block_close(block);
    if (!is_dirty && !run->is_encrypted && random_below(run, 400) == 0) {
        ask_qemu(run, after->bytes, *size, place, state);
    }
    after->is_closed = false;
    /* As a disk again: a dirty one is put right by that. Then it goes on living. */
    struct recorder *alive = recorder_create(after->bytes, *size, run->loop, run->random);
    block = open_on(run, &alive->block, false, &err);
    if (block == NULL) {
        printf("%s\n", err.text);
        quit(run, "the image does not open for writing", place, state);
    }
    verify(run, block, place, flushed, state);
    if (random_below(run, 8) == 0) {
        uint8_t data[SECTOR * 16];
        fill_sectors(data, 0, 16, 0);
        for (unsigned i = 0; i < 24; i++) {
            uint64_t at = random_below(run, run->sectors - 16) * SECTOR;
            if (block_write(block, at, data, sizeof(data)) < 0 ||
                (random_below(run, 4) == 0 && block_discard(block, at, sizeof(data)) < 0)) {
                quit(run, "a write fails afterwards", place, state);
            }
        }
        if (block_flush(block) < 0 || block_check(block, 0, NULL, NULL, &result, &err) < 0 ||
            result.errors > 0) {
            quit(run, "errors after more writes", place, state);
        }
    }
    block_close(block);
    /* One repair leaves nothing. */
    struct recorder *repaired =
        recorder_create(alive->bytes, alive->block.info.size_bytes, run->loop, 1);
    block = open_on(run, &repaired->block, true, &err);
    if (block == NULL ||
        block_check(block, BLOCK_REPAIR_LEAKS | BLOCK_REPAIR_ERRORS, NULL, NULL, &result, &err) <
            0 ||
        result.errors > 0 || result.leaks > 0) {
        quit(run, "a repair leaves something", place, state);
    }
    block_close(block);
    recorder_destroy(repaired);
    recorder_destroy(alive);
    recorder_destroy(after);
}

static void pick_kind(struct run *run)
{
    struct block_create_options *create = &run->create;
    *create = (struct block_create_options){
        .format = "qcow2",
        .cluster_size = 512u << random_below(run, 6),
        .version = random_below(run, 5) == 0 ? 2 : 3,
        .refcount_bits = 1u << random_below(run, 7),
        .has_extended_l2 = random_below(run, 4) == 0,
        .has_lazy_refcounts = random_below(run, 3) == 0,
    };
    run->has_backing = random_below(run, 2) == 0;
    run->is_encrypted = random_below(run, 4) == 0;
    if (create->has_extended_l2) {
        create->cluster_size = 16384;
    }
    if (create->version == 2) {
        create->refcount_bits = 16;
        create->has_extended_l2 = create->has_lazy_refcounts = false;
    }
    run->sectors = 256 + random_below(run, 2048);
    create->size_bytes = run->sectors * SECTOR;
    if (run->has_backing) {
        create->backing_name = "base";
        create->backing_format = "raw";
    }
    create->crypt_header_bytes = run->is_encrypted ? LUKS_SIZE : 0;
}

static void make_image(struct run *run)
{
    struct block *file;
    struct error err = {0};
    if (run->is_encrypted && block_open_memory(LUKS_SIZE, "LUKS header", run->loop,
                                               &run->create.crypt_header, NULL) < 0) {
        exit(1);
    }
    if (block_open_memory(0, "new", run->loop, &file, NULL) < 0 ||
        block_create(file, &run->create, &err) < 0) {
        quit(run, err.text, 0, 0);
    }
    run->initial_size = file->info.size_bytes;
    run->initial = malloc(run->initial_size);
    if (block_read(file, 0, run->initial, run->initial_size) < 0) {
        exit(1);
    }
    block_close(file);
    block_close(run->create.crypt_header);
}

static void do_run(struct run *run, unsigned states)
{
    struct error err = {0};
    bool has_snapshot = false;
    pick_kind(run);
    run->event = calloc(MAX_EVENTS, sizeof(struct event));
    run->renaming = calloc(MAX_RENAMINGS, sizeof(struct renaming));
    memcpy(run->renaming[run->renaming_count++].name, "base", sizeof("base"));
    run->recorder = recorder_create(NULL, 0, run->loop, run->seed);
    make_image(run);
    recorder_destroy(run->recorder);
    run->recorder = recorder_create(run->initial, run->initial_size, run->loop, run->seed);
    run->block = open_on(run, &run->recorder->block, false, &err);
    if (run->block == NULL) {
        quit(run, err.text, 0, 0);
    }
    /* Every third image lies on a disk that fails now and then. */
    run->recorder->fail_one_in = run->seed % 3 == 0 ? 20 + (unsigned)random_below(run, 400) : 0;
    unsigned batches = 10 + (unsigned)random_below(run, 60);
    for (unsigned i = 0; i < batches; i++) {
        do_batch(run);
        if (random_below(run, 8) == 0) {
            rename_backing(run);
        }
        /* Version 2 has no dirty mark: a cut in the middle of a snapshot leaves what only a check puts right. */
        if (run->create.version == 3 && run->create.refcount_bits > 1 &&
            random_below(run, 25) == 0) {
            int rc = has_snapshot ? block_snapshot_delete(run->block, "s", &err)
                                  : block_snapshot_create(run->block, "s", &err);
            if (rc < 0 && run->recorder->fail_one_in == 0) {
                quit(run, err.text, 0, 0);
            }
            has_snapshot = has_snapshot != (rc == 0);
        }
    }
    if (block_finish(run->block, &err) < 0 && run->recorder->fail_one_in == 0) {
        quit(run, err.text, 0, 0);
    }
    for (unsigned i = 0; i < states; i++) {
        try_state(run, random_below(run, run->recorder->log_count + 1), i);
    }
    recorder_destroy(run->recorder);
    free(run->initial);
    free(run->event);
    free(run->renaming);
}

int main(int argc, char **argv)
{
    uint64_t first = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
    uint64_t count = argc > 2 ? strtoull(argv[2], NULL, 10) : 20;
    unsigned states = argc > 3 ? (unsigned)strtoul(argv[3], NULL, 10) : 50;
    unsigned dirty = 0, leaks = 0, qemu = 0;
    struct event_loop *loop;
    if (event_loop_create(&loop, NULL) < 0) {
        return 1;
    }
    for (uint64_t seed = first; seed < first + count; seed++) {
        struct run run = {.loop = loop, .seed = seed, .random = seed * 0x9e3779b97f4a7c15u + 1};
        for (int i = 0; i < 8; i++) {
            (void)random_below(&run, 2);
        }
        do_run(&run, states);
        dirty += run.dirty_states;
        leaks += run.leak_states;
        qemu += run.qemu_states;
    }
    event_loop_destroy(loop);
    printf("%llu states: all sound, %u with leaks, %u marked dirty, %u shown to qemu-img\n",
           (unsigned long long)count * states, leaks, dirty, qemu);
    return 0;
}
