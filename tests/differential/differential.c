/* Random instructions on the host's CPU and in an engine: the results must be the same.
 *
 *   differential [--cases N] [--time SECONDS] [--seed N] [--case K] [--only MNEMONIC] [--engine NAME[,OPTIONS]] [--show N] [--list]
 *
 * The environment's DIFFERENTIAL_SEED is the seed where no option says another one.
 * Exit status: 0 no difference, 1 some, 2 the test could not run, 77 it cannot run on this host. */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "compare.h"
#include "engine/engine.h"
#include "generate.h"
#include "guest.h"
#include "known.h"
#include "native.h"

/* Random states for each of the known cases. */
#define KNOWN_STATES 32

struct options {
    uint64_t cases, seed, only_case;
    bool has_only_case, lists_rows;
    uint64_t seconds;
    uint64_t show;
    const char *only;
    const char *engine, *engine_options;
};

struct run {
    struct options options;
    struct generator *generator;
    struct native *native;
    struct guest *guest;
    struct case_output *guest_output;
    uint8_t *row_seen;
    uint64_t done, different, skipped;
};

static bool parse_number(const char *text, uint64_t *out_value)
{
    char *end;
    errno = 0;
    *out_value = strtoull(text, &end, 0);
    return errno == 0 && end != text && *end == '\0';
}

static bool parse_options(int argc, char **argv, struct options *out)
{
    static const struct option names[] = {
        {"cases", required_argument, NULL, 'n'},
        {"seed", required_argument, NULL, 's'},
        {"case", required_argument, NULL, 'k'},
        {"time", required_argument, NULL, 't'},
        {"only", required_argument, NULL, 'o'},
        {"engine", required_argument, NULL, 'e'},
        {"show", required_argument, NULL, 'w'},
        {"list", no_argument, NULL, 'l'},
        {NULL, 0, NULL, 0},
    };
    *out = (struct options){
        .cases = 100000, .seed = 1, .show = 10, .engine = "soft", .engine_options = "flags=exact"};
    const char *seed = getenv("DIFFERENTIAL_SEED");
    if (seed != NULL && !parse_number(seed, &out->seed)) {
        return false;
    }
    for (int c; (c = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        bool good = true;
        switch (c) {
        case 'n':
            good = parse_number(optarg, &out->cases);
            break;
        case 's':
            good = parse_number(optarg, &out->seed);
            break;
        case 'k':
            good = out->has_only_case = parse_number(optarg, &out->only_case);
            break;
        case 't':
            good = parse_number(optarg, &out->seconds);
            break;
        case 'w':
            good = parse_number(optarg, &out->show);
            break;
        case 'o':
            out->only = optarg;
            break;
        case 'e':
            out->engine_options = strchr(optarg, ',');
            if (out->engine_options) {
                *strchr(optarg, ',') = 0;
                out->engine_options++;
            }
            out->engine = optarg;
            break;
        case 'l':
            out->lists_rows = true;
            break;
        default:
            good = false;
        }
        if (!good) {
            return false;
        }
    }
    return optind == argc;
}

static double seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void mark_rows(struct run *run, const struct case_input *in)
{
    struct x86_insn insn;
    if (in->insn_count != 0 &&
        case_decode(in->code, X86_INSN_MAX_LENGTH, in->code_size, &insn) == X86_DECODE_OK) {
        run->row_seen[insn.row] = 1;
    }
}

static void judge(struct run *run, uint64_t index, const struct case_input *in,
                  const struct case_output *native, const struct case_output *guest)
{
    enum compare_result result = compare_outputs(in, native, guest, NULL);
    run->done++;
    mark_rows(run, in);
    if (result == COMPARE_NOTHING) {
        run->skipped++;
        return;
    }
    if (result == COMPARE_SAME && !run->options.has_only_case) {
        return;
    }
    run->different += result == COMPARE_DIFFERENT;
    if (run->different > run->options.show) {
        return;
    }
    printf("%s: --seed %" PRIu64 " --case %" PRIu64 "\n",
           result == COMPARE_SAME ? "same" : "DIFFERENT", run->options.seed, index);
    (void)compare_outputs(in, native, guest, stdout);
    compare_print_case(in, stdout);
    fflush(stdout);
}

/* Runs the batch's first 'count' cases on both sides. 'first' and what 'seed' names go into an error. */
static int run_both(struct run *run, uint64_t first, uint32_t count, struct error *err)
{
    struct case_batch *batch = native_batch(run->native);
    batch->count = count;
    native_start(run->native);
    for (uint32_t i = 0; i < count; i++) {
        int rc = guest_run(run->guest, &batch->input[i], batch->data, &run->guest_output[i], err);
        if (rc < 0) {
            compare_print_case(&batch->input[i], stdout);
            return error_prefix(err, rc, "seed %" PRIu64 " case %" PRIu64, run->options.seed,
                                first + i);
        }
    }
    return native_wait(run->native, err);
}

/* Cases first..first+count, all of one batch of data. */
static int run_batch(struct run *run, uint64_t first, uint32_t count, struct error *err)
{
    struct case_batch *batch = native_batch(run->native);
    generator_fill(run->options.seed, first / CASE_BATCH, batch->data, CASE_DATA_SIZE);
    for (uint32_t i = 0; i < count; i++) {
        generator_make(run->generator, run->options.seed, first + i, &batch->input[i]);
    }
    int rc = run_both(run, first, count, err);
    if (rc < 0) {
        return rc;
    }
    for (uint32_t i = 0; i < count; i++) {
        judge(run, first + i, &batch->input[i], &batch->output[i], &run->guest_output[i]);
    }
    return 0;
}

/* The cases that once differed, with a few random states each. */
static int run_known(struct run *run, struct error *err)
{
    struct case_batch *batch = native_batch(run->native);
    for (uint32_t seed = 0; seed < KNOWN_STATES; seed++) {
        generator_fill(seed, 0, batch->data, CASE_DATA_SIZE);
        for (uint32_t i = 0; i < known_count; i++) {
            (void)known_make(i, seed, &batch->input[i]);
        }
        int rc = run_both(run, 0, (uint32_t)known_count, err);
        if (rc < 0) {
            return rc;
        }
        for (uint32_t i = 0; i < known_count; i++) {
            const struct case_output *native = &batch->output[i], *guest = &run->guest_output[i];
            if (compare_outputs(&batch->input[i], native, guest, NULL) != COMPARE_DIFFERENT) {
                continue;
            }
            run->different++;
            printf("DIFFERENT: %s\n", known_make(i, seed, &batch->input[i]));
            (void)compare_outputs(&batch->input[i], native, guest, stdout);
            compare_print_case(&batch->input[i], stdout);
        }
    }
    return 0;
}

static int run_all(struct run *run, struct error *err)
{
    if (run->options.has_only_case) {
        return run_batch(run, run->options.only_case, 1, err);
    }
    if (run->options.only == NULL) {
        int rc = run_known(run, err);
        if (rc < 0) {
            return rc;
        }
    }
    double start = seconds_now();
    for (uint64_t first = 0; first < run->options.cases; first += CASE_BATCH) {
        uint64_t left = run->options.cases - first;
        int rc = run_batch(run, first, left < CASE_BATCH ? (uint32_t)left : CASE_BATCH, err);
        if (rc < 0) {
            return rc;
        }
        if (run->options.seconds != 0 && seconds_now() - start > (double)run->options.seconds) {
            break;
        }
    }
    return 0;
}

static void list_rows(const struct generator *generator)
{
    for (size_t row = 0; row < x86_row_count; row++) {
        const char *reason = generator_why_not(generator, row);
        if (reason != NULL) {
            printf("row %zu %s: %s\n", row, x86_rows[row].mnemonic, reason);
        }
    }
}

static int run_create(struct run *run, struct error *err)
{
    const struct engine_ops *engine = engine_find(run->options.engine);
    if (engine == NULL) {
        return error_set(err, ENODEV, "there is no engine %s", run->options.engine);
    }
    int rc = generator_create(run->options.only, &run->generator, err);
    if (rc == 0) {
        rc = native_create(&run->native, err);
    }
    if (rc < 0) {
        return rc;
    }
    generator_fill(0, 0, native_constants(run->native), CASE_CONST_SIZE);
    run->guest_output = calloc(CASE_BATCH, sizeof(*run->guest_output));
    run->row_seen = calloc(x86_row_count, 1);
    if (run->guest_output == NULL || run->row_seen == NULL) {
        return error_set(err, ENOMEM, "no memory for results");
    }
    return guest_create(engine, run->options.engine_options, native_constants(run->native),
                        &run->guest, err);
}

static void report(const struct run *run, double seconds)
{
    size_t seen = 0;
    for (size_t row = 0; row < x86_row_count; row++) {
        seen += run->row_seen[row];
    }
    printf("%" PRIu64 " cases, seed %" PRIu64 ": %" PRIu64 " differences, %" PRIu64
           " without a verdict; %zu rows of the table as first instruction; %.1f s\n",
           run->done, run->options.seed, run->different, run->skipped, seen, seconds);
}

int main(int argc, char **argv)
{
    struct run run = {0};
    if (!parse_options(argc, argv, &run.options)) {
        fputs("usage: differential [--cases N] [--time SECONDS] [--seed N] [--case K] "
              "[--only MNEMONIC] [--engine NAME[,OPTIONS]] [--show N] [--list]\n",
              stderr);
        return 2;
    }
#ifdef __SANITIZE_ADDRESS__
    /* Cases that run natively must fault where the guest does; the sanitizer's shadow memory is mapped there. */
    fputs("differential: the address sanitizer maps addresses that cases use: skipped\n", stderr);
    return 77;
#endif
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
        fputs("differential: the host's CPU lacks AVX2 or FMA to compare with: skipped\n", stderr);
        return 77;
    }
    if (engine_find(run.options.engine) == NULL) {
        fprintf(stderr, "differential: this build has no engine %s: skipped\n", run.options.engine);
        return 77;
    }
    struct error err = {0};
    double start = seconds_now();
    int rc = run_create(&run, &err);
    if (rc == 0 && run.options.lists_rows) {
        list_rows(run.generator);
    } else if (rc == 0) {
        rc = run_all(&run, &err);
        report(&run, seconds_now() - start);
    }
    bool cannot_run = rc == -EOPNOTSUPP;
    if (rc < 0) {
        fprintf(stderr, "differential: %s%s\n", err.text, cannot_run ? ": skipped" : "");
    }
    guest_destroy(run.guest);
    native_destroy(run.native);
    generator_destroy(run.generator);
    free(run.guest_output);
    free(run.row_seen);
    return cannot_run ? 77 : rc < 0 ? 2 : run.different != 0;
}
