/* hull-bench: the same static program measures on a host and in its guests. See README.md. */
#include <getopt.h>
#include <inttypes.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"
#include "command.h"
#include "timing.h"

static const struct bench_case *const tables[] = {
    bench_compute_cases, bench_control_cases, bench_memory_cases, bench_vector_cases,
    bench_system_cases,  bench_process_cases, bench_thread_cases,
};

enum {
    TABLES = sizeof(tables) / sizeof(tables[0])
};

struct options {
    bool is_check, is_behind_filter;
    unsigned milliseconds;
    unsigned timeout_s;
    uint64_t count;
};

static void list_cases(void)
{
    for (unsigned t = 0; t < TABLES; t++) {
        for (const struct bench_case *bench = tables[t]; bench->name != NULL; bench++) {
            printf("case name=%s threads=%u smp=%d unit=%s\n", bench->name,
                   bench->threads ? bench->threads : 1, bench->is_smp, bench->unit);
        }
    }
}

static const struct bench_case *find_case(const char *name)
{
    for (unsigned t = 0; t < TABLES; t++) {
        for (const struct bench_case *bench = tables[t]; bench->name != NULL; bench++) {
            if (strcmp(bench->name, name) == 0) {
                return bench;
            }
        }
    }
    return NULL;
}

/* The least filter there is: it allows everything, so what it costs is what the kernel takes for having one. */
static void install_filter(void)
{
    struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    const struct sock_fprog program = {.len = 1, .filter = &allow};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0) {
        bench_fail("seccomp");
    }
}

/* In a process of its own, so that a crash of one case leaves the others; false if it failed. */
static bool run_case(const struct bench_case *bench, const struct options *options)
{
    const char *lack = bench->lacks != NULL ? bench->lacks() : NULL;
    if (lack != NULL) {
        printf("lacks case=%s %s\n", bench->name, lack);
        return true;
    }
    (void)fflush(stdout);
    pid_t child = fork();
    if (child < 0) {
        bench_fail("fork");
    }
    if (child == 0) {
        (void)alarm(options->timeout_s);
        if (options->is_behind_filter) {
            install_filter();
        }
        if (options->is_check) {
            timing_check(bench);
        } else {
            timing_measure(bench, options->milliseconds, options->count);
        }
        _exit(0);
    }
    int status = 0;
    (void)waitpid(child, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
        return true;
    }
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM) {
        printf("failed case=%s not done after %u s\n", bench->name, options->timeout_s);
    } else if (WIFSIGNALED(status)) {
        printf("failed case=%s signal %d (%s)\n", bench->name, WTERMSIG(status),
               strsignal(WTERMSIG(status)));
    } else {
        printf("failed case=%s status %d\n", bench->name, WEXITSTATUS(status));
    }
    (void)fflush(stdout);
    return false;
}

static int run_all(const struct options *options)
{
    int bad = 0;
    for (unsigned t = 0; t < TABLES; t++) {
        for (const struct bench_case *bench = tables[t]; bench->name != NULL; bench++) {
            bad += !run_case(bench, options);
        }
    }
    return bad ? 1 : 0;
}

static int run_named(char **names, const struct options *options)
{
    int bad = 0;
    for (; *names != NULL; names++) {
        const struct bench_case *bench = find_case(*names);
        if (bench == NULL) {
            (void)fprintf(stderr, "hull-bench: no case '%s'; --list shows all\n", *names);
            return 2;
        }
        bad += !run_case(bench, options);
    }
    return bad ? 1 : 0;
}

static int usage(FILE *file)
{
    (void)fputs(
        "hull-bench --list                    the cases\n"
        "hull-bench [OPTION]... CASE...       measure (\"all\": every case)\n"
        "  --check             only the checksum of a small fixed count, no time\n"
        "  --milliseconds N    how long to measure (default 100)\n"
        "  --count N           units for each measurement, in place of calibrating\n"
        "  --timeout SECONDS   of each case (default 120)\n"
        "  --behind-filter     with a seccomp filter that allows everything\n"
        "hull-bench --command TEXT [--name NAME] [--root DIR] [--verify TEXT]\n"
        "                                     measure a shell command in the root file system DIR\n"
        "hull-bench --now                     this machine's monotonic clock\n",
        file);
    return 2;
}

int main(int argc, char **argv)
{
    enum {
        LIST = 1,
        CHECK,
        MILLISECONDS,
        COUNT,
        TIMEOUT,
        BEHIND_FILTER,
        COMMAND,
        NAME,
        ROOT,
        VERIFY,
        NOW,
        NOTHING,
        HELP
    };
    static const struct option long_options[] = {
        {"list", no_argument, NULL, LIST},
        {"check", no_argument, NULL, CHECK},
        {"milliseconds", required_argument, NULL, MILLISECONDS},
        {"count", required_argument, NULL, COUNT},
        {"timeout", required_argument, NULL, TIMEOUT},
        {"behind-filter", no_argument, NULL, BEHIND_FILTER},
        {"command", required_argument, NULL, COMMAND},
        {"name", required_argument, NULL, NAME},
        {"root", required_argument, NULL, ROOT},
        {"verify", required_argument, NULL, VERIFY},
        {"now", no_argument, NULL, NOW},
        {"nothing", no_argument, NULL, NOTHING},
        {"help", no_argument, NULL, HELP},
        {0},
    };
    struct options options = {.milliseconds = 100, .timeout_s = 120};
    const char *command = NULL, *name = "command", *root = "/", *verify = NULL;
    int option;
    while ((option = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
        switch (option) {
        case LIST:
            list_cases();
            return 0;
        case CHECK:
            options.is_check = true;
            break;
        case MILLISECONDS:
            options.milliseconds = (unsigned)strtoul(optarg, NULL, 10);
            break;
        case COUNT:
            options.count = strtoull(optarg, NULL, 10);
            break;
        case TIMEOUT:
            options.timeout_s = (unsigned)strtoul(optarg, NULL, 10);
            break;
        case BEHIND_FILTER:
            options.is_behind_filter = true;
            break;
        case COMMAND:
            command = optarg;
            break;
        case NAME:
            name = optarg;
            break;
        case ROOT:
            root = optarg;
            break;
        case VERIFY:
            verify = optarg;
            break;
        case NOW:
            printf("now ns=%" PRIu64 "\n", bench_now_ns());
            return 0;
        case NOTHING:
            return 0;
        case HELP:
            (void)usage(stdout);
            return 0;
        default:
            return usage(stderr);
        }
    }
    if (command != NULL) {
        if (options.is_behind_filter) {
            install_filter();
        }
        return command_measure(name, root, command, verify);
    }
    if (optind == argc) {
        return usage(stderr);
    }
    if (strcmp(argv[optind], "all") == 0) {
        return run_all(&options);
    }
    return run_named(argv + optind, &options);
}
