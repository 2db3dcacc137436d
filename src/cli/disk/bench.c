/* hull disk bench: how fast an image is. */
#include <stdlib.h>
#include <string.h>

#include "base/core/size.h"
#include "cli/disk/disk.h"
#include "cli/progress.h"

#define MAX_DEPTH     256
#define MAX_SIZE      (64u << 20)
#define DEFAULT_COUNT 75000
#define DEFAULT_DEPTH 64
#define SECOND        1e9

struct bench_options {
    struct disk_options disk;
    uint64_t count, depth, size_bytes, step_bytes, offset;
    uint64_t pattern;
    uint64_t flush_interval;
    bool writes;
    bool is_random;
    bool has_one_buffer;
};

static struct bench_options *from(void *into)
{
    return into;
}

static int parse_count(void *into, const char *value, struct error *err)
{
    return number_parse(value, 1, UINT32_MAX, &from(into)->count, err);
}

static int parse_depth(void *into, const char *value, struct error *err)
{
    return number_parse(value, 1, MAX_DEPTH, &from(into)->depth, err);
}

static int parse_size(void *into, const char *value, struct error *err)
{
    int rc = size_parse(value, 1, &from(into)->size_bytes, err);
    if (rc == 0 && (from(into)->size_bytes == 0 || from(into)->size_bytes > MAX_SIZE)) {
        rc = error_set(err, ERANGE, "'%s' cannot be: up to 64M", value);
    }
    return rc;
}

static int parse_step(void *into, const char *value, struct error *err)
{
    return size_parse(value, 1, &from(into)->step_bytes, err);
}

static int parse_offset(void *into, const char *value, struct error *err)
{
    return size_parse(value, 1, &from(into)->offset, err);
}

static int parse_pattern(void *into, const char *value, struct error *err)
{
    return number_parse(value, 0, 255, &from(into)->pattern, err);
}

static int parse_flush(void *into, const char *value, struct error *err)
{
    return number_parse(value, 1, UINT32_MAX, &from(into)->flush_interval, err);
}

static int parse_write(void *into, const char *value, struct error *err)
{
    from(into)->writes = true;
    return 0;
}

static int parse_random(void *into, const char *value, struct error *err)
{
    from(into)->is_random = true;
    return 0;
}

static int parse_one_buffer(void *into, const char *value, struct error *err)
{
    from(into)->has_one_buffer = true;
    return 0;
}

static const struct option_spec bench_table[] = {
    DISK_OPTION_IMAGE_FORMAT("format of FILE"),
    {"count", 'c', "N", "requests (default: 75000)", NULL, parse_count},
    {"depth", 'd', "N", "requests at a time: 1 to 256 (default: 64)", NULL, parse_depth},
    {"size", 's', "SIZE", "of one request (default: 4K)", NULL, parse_size},
    {"step", 'S', "SIZE", "from one request to the next (default: the size)", NULL, parse_step},
    {"offset", 'o', "SIZE", "of the first request (default: 0)", NULL, parse_offset},
    {"random", 'r', NULL, "at random places, the same ones each time", NULL, parse_random},
    {"write", 'w', NULL, "write: what FILE holds is lost", NULL, parse_write},
    {"pattern", 0, "BYTE", "what is written: 0 to 255 (default: 0)", NULL, parse_pattern},
    {"flush-interval", 0, "N", "a flush after each N writes (default: none)", NULL, parse_flush},
    {"one-buffer", 0, NULL,
     "one buffer for all requests, as qemu-img bench has (default: one for each)", NULL,
     parse_one_buffer},
    DISK_OPTIONS_BACKING,
    DISK_OPTIONS_OUTPUT,
    DISK_OPTION_QUIET,
    {0},
};

struct bench;

struct slot {
    struct block_request request;
    struct iovec iov;
    struct bench *bench;
};

struct bench {
    const struct bench_options *options;
    struct event_loop *loop;
    struct block *block;
    struct slot slot[MAX_DEPTH];
    struct slot flush;
    uint8_t *memory;
    uint64_t places; /* where a request may be */
    uint64_t started, ended, in_flight, since_flush;
    uint64_t random;
    bool is_flushing;
    int status;
};

static void start_more(struct bench *bench, struct slot *slot);

static uint64_t next_offset(struct bench *bench)
{
    const struct bench_options *o = bench->options;
    uint64_t number = bench->started;
    if (o->is_random) {
        bench->random = bench->random * 6364136223846793005ull + 1442695040888963407ull;
        number = bench->random >> 20;
    }
    return o->offset + number % bench->places * o->step_bytes;
}

static void end_if_idle(struct bench *bench)
{
    if (bench->in_flight == 0 && (bench->status < 0 || bench->ended == bench->options->count)) {
        event_loop_stop(bench->loop);
    }
}

static void request_done(struct block_request *request, int status)
{
    struct slot *slot = container_of(request, struct slot, request);
    struct bench *bench = slot->bench;
    bench->in_flight--;
    bench->status = bench->status < 0 ? bench->status : status;
    if (slot == &bench->flush) {
        bench->is_flushing = false;
    } else {
        bench->ended++;
        bench->since_flush++;
        start_more(bench, slot);
    }
    end_if_idle(bench);
}

static void start_more(struct bench *bench, struct slot *slot)
{
    const struct bench_options *o = bench->options;
    if (bench->status < 0) {
        return;
    }
    if (o->writes && o->flush_interval != 0 && bench->since_flush >= o->flush_interval &&
        !bench->is_flushing) {
        bench->since_flush = 0;
        bench->is_flushing = true;
        bench->flush =
            (struct slot){.bench = bench, .request = {.op = BLOCK_FLUSH, .done = request_done}};
        bench->in_flight++;
        block_submit(bench->block, &bench->flush.request);
    }
    if (bench->started == o->count) {
        return;
    }
    slot->request = (struct block_request){.op = o->writes ? BLOCK_WRITE : BLOCK_READ,
                                           .offset_bytes = next_offset(bench),
                                           .size_bytes = o->size_bytes,
                                           .iov = &slot->iov,
                                           .iov_count = 1,
                                           .done = request_done};
    bench->started++;
    bench->in_flight++;
    block_submit(bench->block, &slot->request);
}

static int prepare(struct bench *bench, struct error *err)
{
    const struct bench_options *o = bench->options;
    struct block_info info;
    block_get_info(bench->block, &info);
    if ((o->size_bytes | o->step_bytes | o->offset) % info.logical_block_size != 0 ||
        o->step_bytes == 0) {
        return error_set(err, EINVAL, "sizes, steps and offsets are multiples of %u",
                         info.logical_block_size);
    }
    if (o->offset > info.size_bytes || o->size_bytes > info.size_bytes - o->offset) {
        return error_set(err, EINVAL, "the disk has only %llu bytes",
                         (unsigned long long)info.size_bytes);
    }
    bench->places = (info.size_bytes - o->offset - o->size_bytes) / o->step_bytes + 1;
    uint64_t buffers = o->has_one_buffer ? 1 : o->depth;
    bench->memory = aligned_alloc(4096, (buffers * o->size_bytes + 4095) / 4096 * 4096);
    if (bench->memory == NULL) {
        return error_set_errno(err, ENOMEM, "%llu requests of %llu bytes",
                               (unsigned long long)buffers, (unsigned long long)o->size_bytes);
    }
    memset(bench->memory, (int)o->pattern, buffers * o->size_bytes);
    return 0;
}

static int run(struct bench *bench, double *out_seconds, struct error *err)
{
    const struct bench_options *o = bench->options;
    uint64_t start = clock_monotonic_ns();
    block_plug(bench->block);
    for (uint64_t i = 0; i < MIN(o->depth, o->count); i++) {
        uint8_t *buffer = bench->memory + (o->has_one_buffer ? 0 : i * o->size_bytes);
        bench->slot[i] = (struct slot){.bench = bench, .iov = {buffer, o->size_bytes}};
        start_more(bench, &bench->slot[i]);
    }
    block_unplug(bench->block);
    if (bench->in_flight > 0) {
        int rc = event_loop_run(bench->loop, err);
        if (rc < 0) {
            return rc;
        }
    }
    int rc = bench->status;
    *out_seconds = (double)(clock_monotonic_ns() - start) / SECOND;
    return rc < 0 ? error_set_errno(err, -rc, "request") : 0;
}

static void report(const struct bench_options *o, double seconds)
{
    json_t *object = json_object();
    double rate = (double)o->count / seconds;
    json_object_set_new(object, "requests", json_integer((json_int_t)o->count));
    json_object_set_new(object, "depth", json_integer((json_int_t)o->depth));
    json_object_set_new(object, "size_bytes", json_integer((json_int_t)o->size_bytes));
    json_object_set_new(object, "seconds", json_real(seconds));
    json_object_set_new(object, "requests_per_second", json_real(rate));
    json_object_set_new(object, "bytes_per_second", json_real(rate * (double)o->size_bytes));
    output_object(o->disk.output, object);
    json_decref(object);
}

static int bench_run(int argc, char **argv)
{
    struct bench_options options = {
        .count = DEFAULT_COUNT, .depth = DEFAULT_DEPTH, .size_bytes = 4096};
    int status = disk_words(&disk_bench_verb, 1, argc, argv, &options);
    if (status >= 0) {
        return status;
    }
    options.step_bytes = options.step_bytes != 0 ? options.step_bytes : options.size_bytes;
    struct error err = {0};
    struct bench *bench = calloc(1, sizeof(*bench));
    double seconds = 0;
    int rc = bench == NULL ? error_set_errno(&err, ENOMEM, "measuring") : 0;
    if (rc == 0) {
        bench->options = &options;
        rc = event_loop_create(&bench->loop, &err);
    }
    if (rc == 0) {
        rc = disk_open(bench->loop, argv[0], &options.disk.image,
                       options.writes ? DISK_WRITE : DISK_READ, &bench->block, &err);
    }
    if (rc == 0 && ((rc = prepare(bench, &err)) < 0 || (rc = run(bench, &seconds, &err)) < 0)) {
        (void)error_prefix(&err, rc, "measuring %s", argv[0]);
    }
    if (rc == 0 && !options.disk.is_quiet) {
        report(&options, seconds);
    }
    if (bench != NULL) {
        block_close(bench->block);
        event_loop_destroy(bench->loop);
        free(bench->memory);
        free(bench);
    }
    return rc < 0 ? cli_fail(&err) : CLI_OK;
}

const struct verb disk_bench_verb = {
    .name = "disk bench",
    .arguments = "FILE",
    .summary = "Measure how fast an image is read or written",
    .description = "The host's cache is part of what is measured.\n",
    .examples = "  hull disk bench vm.raw --random --depth 32\n"
                "  hull disk bench scratch.raw --write --size 1M --count 1000\n",
    .options = bench_table,
    .complete = "FILE",
    .run = bench_run,
};
