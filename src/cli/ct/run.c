/* hull ct start, stop, restart, pause, resume, delete. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/host/file.h"
#include "cli/ct/ct.h"
#include "cli/progress.h"

/* How many stops are waited for at once: each waits for a container, not for a CPU. */
#define STOP_WIDTH 32

static volatile sig_atomic_t is_interrupted;

static void interrupt(int number)
{
    is_interrupted = 1;
}

struct starting {
    struct progress progress;
    size_t done, total, failed;
};

static int start_done(void *ctx, const char *name, const struct error *err)
{
    struct starting *s = ctx;
    s->done++;
    if (err != NULL) {
        s->failed++;
        progress_end(&s->progress);
        (void)fprintf(stderr, "hull: %s\n", err->text);
    }
    progress_update(&s->progress, s->done, s->total);
    return is_interrupted;
}

int ct_start(const struct life *life, const char *const *names, size_t count, bool is_quiet)
{
    struct starting s = {.total = count};
    /* What is under way for a container goes on: only the waiting is interrupted. */
    const struct sigaction once = {.sa_handler = interrupt,
                                   .sa_flags = (int)(SA_RESETHAND | SA_RESTART)};
    struct sigaction before;
    (void)sigaction(SIGINT, &once, &before);
    progress_begin(&s.progress, "starting containers", is_quiet);
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    unsigned width = cpus > 0 && cpus < 16 ? (unsigned)cpus * 2 : 32;
    unsigned failed = life_start_all(life, names, count, width, start_done, &s);
    progress_end(&s.progress);
    (void)sigaction(SIGINT, &before, NULL);
    if (is_interrupted && s.done < count) {
        (void)fprintf(stderr, "hull: interrupted: %zu of %zu containers were not started\n",
                      count - s.done, count);
        return CLI_FAILURE;
    }
    return failed != 0 ? CLI_FAILURE : CLI_OK;
}

struct chosen {
    char **name; /* the caller's where they come from the command line */
    size_t count;
    bool is_own;
};

static void chosen_free(struct chosen *chosen)
{
    for (size_t i = 0; chosen->is_own && i < chosen->count; i++) {
        free(chosen->name[i]);
    }
    if (chosen->is_own) {
        free(chosen->name);
    }
}

struct ordered {
    char *name;
    int64_t order;
};

static int compare_order(const void *a, const void *b)
{
    const struct ordered *x = a, *y = b;
    return x->order != y->order ? (x->order < y->order ? -1 : 1) : strverscmp(x->name, y->name);
}

/* Those that start with the host, in their order. */
static void keep_autostart(const struct life *life, struct chosen *chosen)
{
    struct ordered *list = calloc(chosen->count + 1, sizeof(*list));
    size_t kept = 0;
    for (size_t i = 0; i < chosen->count; i++) {
        struct config *config;
        struct error damaged;
        if (list != NULL && config_load(&life->store, chosen->name[i], &config, &damaged) == 0) {
            if (config->starts_with_host) {
                list[kept++] =
                    (struct ordered){.name = chosen->name[i], .order = config->start_order};
                chosen->name[i] = NULL;
            }
            config_destroy(config);
        }
        free(chosen->name[i]);
    }
    if (kept != 0) {
        qsort(list, kept, sizeof(*list), compare_order);
    }
    for (size_t i = 0; i < kept; i++) {
        chosen->name[i] = list[i].name;
    }
    chosen->count = kept;
    free(list);
}

/* The words, or all containers whose status is one of 'statuses' (bits). */
static int choose(const struct life *life, const struct ct_options *options, int count,
                  char **words, unsigned statuses, struct chosen *out, struct error *err)
{
    if (!options->is_all && !options->only_autostart) {
        *out = (struct chosen){.name = words, .count = (size_t)count};
        return count != 0 ? 0 : error_set(err, EINVAL, "no container is named (--all: all)");
    }
    if (count != 0) {
        return error_set(err, EINVAL, "names and --all or --autostart exclude each other");
    }
    out->is_own = true;
    int rc = config_list(&life->store, &out->name, &out->count, err);
    bool is_any = options->is_forced; /* delete --all --force, stop --all --force */
    size_t kept = 0;
    for (size_t i = 0; rc == 0 && i < out->count; i++) {
        if (is_any || (statuses & (1u << life_status(life, out->name[i]))) != 0) {
            out->name[kept++] = out->name[i];
        } else {
            free(out->name[i]);
        }
    }
    out->count = rc == 0 ? kept : 0;
    if (rc == 0 && options->only_autostart) {
        keep_autostart(life, out);
    }
    return rc;
}

/* What a verb does with one container. */
typedef int (*one_fn)(const struct life *life, const struct ct_options *options, const char *name,
                      struct error *err);

struct shared_work {
    const struct life *life;
    const struct ct_options *options;
    const struct chosen *chosen;
    one_fn fn;
    struct progress progress;
    pthread_mutex_t lock;
    size_t next, done;
    unsigned failed;
};

static void *work(void *ctx)
{
    struct shared_work *w = ctx;
    for (;;) {
        (void)pthread_mutex_lock(&w->lock);
        size_t i = w->next < w->chosen->count ? w->next++ : SIZE_MAX;
        (void)pthread_mutex_unlock(&w->lock);
        if (i == SIZE_MAX) {
            return NULL;
        }
        struct error err;
        int rc = w->fn(w->life, w->options, w->chosen->name[i], &err);
        (void)pthread_mutex_lock(&w->lock);
        w->done++;
        if (rc < 0) {
            w->failed++;
            progress_end(&w->progress);
            (void)fprintf(stderr, "hull: %s\n", err.text);
        }
        progress_update(&w->progress, w->done, w->chosen->count);
        (void)pthread_mutex_unlock(&w->lock);
    }
}

/* Many at once: each waits for its container. */
static int each(const struct life *life, const struct ct_options *options,
                const struct chosen *chosen, const char *label, one_fn fn)
{
    struct shared_work w = {
        .life = life,
        .options = options,
        .chosen = chosen,
        .fn = fn,
        .lock = PTHREAD_MUTEX_INITIALIZER,
    };
    progress_begin(&w.progress, label, options->is_quiet);
    pthread_t thread[STOP_WIDTH];
    size_t count = 0;
    while (count + 1 < chosen->count && count < STOP_WIDTH &&
           pthread_create(&thread[count], NULL, work, &w) == 0) {
        count++;
    }
    (void)work(&w);
    for (size_t i = 0; i < count; i++) {
        (void)pthread_join(thread[i], NULL);
    }
    progress_end(&w.progress);
    return w.failed != 0 ? CLI_FAILURE : CLI_OK;
}

/* Common to all: words, choice, and each of them. */
static int run(const struct verb *verb, unsigned statuses, const char *label, one_fn fn, int argc,
               char **argv)
{
    struct ct_options options = {.timeout_s = -1};
    struct life life;
    struct chosen chosen = {0};
    struct error err = {0};
    int count;
    int status = cli_words(verb, 0, -1, argc, argv, &options, &count);
    if (status >= 0) {
        return status;
    }
    int rc = ct_open(&options, &life, &err);
    rc = rc < 0 ? rc : choose(&life, &options, count, argv, statuses, &chosen, &err);
    if (rc < 0) {
        status = cli_fail(&err);
    } else {
        status = fn != NULL ? each(&life, &options, &chosen, label, fn)
                            : ct_start(&life, (const char *const *)chosen.name, chosen.count,
                                       options.is_quiet);
    }
    chosen_free(&chosen);
    return status;
}

static const struct option_spec start_table[] = {
    CT_OPTION_ALL("all that are stopped"),
    {"autostart", 0, NULL, "those that start with the host, in their order", NULL,
     ct_parse_autostart},
    CT_OPTION_QUIET,
    CT_OPTION_STATE,
    {0},
};

static int start_run(int argc, char **argv)
{
    return run(&ct_start_verb, 1u << LIFE_STOPPED, NULL, NULL, argc, argv);
}

const struct verb ct_start_verb = {
    .name = "ct start",
    .arguments = "NAME...",
    .summary = "Start containers, several at once",
    .description =
        "Returns when each container's init runs. `hull ct start --autostart` starts those with\n"
        "autostart=true in the order of their 'order'; the unit hull-ct.service does that at boot.\n",
    .examples = "  hull ct start web db\n  hull ct start --all\n",
    .options = start_table,
    .complete = "CONTAINER",
    .run = start_run,
};

static int stop_one(const struct life *life, const struct ct_options *options, const char *name,
                    struct error *err)
{
    int rc = life_stop(life, name, options->is_forced, options->timeout_s, err);
    return rc == -ESRCH && options->is_all ? 0 : rc; /* it has ended by itself */
}

static const struct option_spec stop_table[] = {
    CT_OPTION_ALL("all that run"),
    CT_OPTION_FORCE("kill at once"),
    {"timeout", 't', "SECONDS", "how long a clean stop may take before it is killed", NULL,
     ct_parse_timeout},
    CT_OPTION_QUIET,
    CT_OPTION_STATE,
    {0},
};

#define ALIVE (1u << LIFE_STARTING | 1u << LIFE_RUNNING | 1u << LIFE_PAUSED | 1u << LIFE_LOST)

static int stop_run(int argc, char **argv)
{
    return run(&ct_stop_verb, ALIVE, "stopping containers", stop_one, argc, argv);
}

const struct verb ct_stop_verb = {
    .name = "ct stop",
    .arguments = "NAME...",
    .summary = "Stop containers cleanly, and kill what does not stop",
    .description =
        "The container's init gets the signal that has it stop (systemd: RTMIN+3, busybox: USR2,\n"
        "sysvinit: PWR, others: TERM; or its 'stop_signal').\n",
    .examples = "  hull ct stop web\n  hull ct stop --all --timeout 60\n",
    .exit_status = "  1 when a container had to be killed, too.\n",
    .options = stop_table,
    .complete = "CONTAINER",
    .run = stop_run,
};

static int restart_one(const struct life *life, const struct ct_options *options, const char *name,
                       struct error *err)
{
    int rc = life_stop(life, name, options->is_forced, options->timeout_s, err);
    if (rc < 0 && rc != -ESRCH && rc != -ETIME) {
        return rc;
    }
    struct life_start start;
    rc = life_start_begin(life, name, &start, err);
    return rc < 0 ? rc : life_start_end(&start, err);
}

static int restart_run(int argc, char **argv)
{
    return run(&ct_restart_verb, ALIVE, "restarting containers", restart_one, argc, argv);
}

const struct verb ct_restart_verb = {
    .name = "ct restart",
    .arguments = "NAME...",
    .summary = "Stop containers and start them again",
    .examples = "  hull ct restart web\n",
    .options = stop_table,
    .complete = "CONTAINER",
    .run = restart_run,
};

static int pause_one(const struct life *life, const struct ct_options *options, const char *name,
                     struct error *err)
{
    return life_pause(life, name, true, err);
}

static int resume_one(const struct life *life, const struct ct_options *options, const char *name,
                      struct error *err)
{
    return life_pause(life, name, false, err);
}

static const struct option_spec pause_table[] = {
    CT_OPTION_ALL("all to which it applies"),
    CT_OPTION_STATE,
    {0},
};

static int pause_run(int argc, char **argv)
{
    return run(&ct_pause_verb, 1u << LIFE_RUNNING, "pausing containers", pause_one, argc, argv);
}

const struct verb ct_pause_verb = {
    .name = "ct pause",
    .arguments = "NAME...",
    .summary = "Freeze all processes of containers",
    .examples = "  hull ct pause web\n",
    .options = pause_table,
    .complete = "CONTAINER",
    .run = pause_run,
};

static int resume_run(int argc, char **argv)
{
    return run(&ct_resume_verb, 1u << LIFE_PAUSED, "resuming containers", resume_one, argc, argv);
}

const struct verb ct_resume_verb = {
    .name = "ct resume",
    .arguments = "NAME...",
    .summary = "Let paused containers go on",
    .examples = "  hull ct resume web\n",
    .options = pause_table,
    .complete = "CONTAINER",
    .run = resume_run,
};

static int delete_one(const struct life *life, const struct ct_options *options, const char *name,
                      struct error *err)
{
    return life_delete(life, name, options->is_forced, err);
}

static const struct option_spec delete_table[] = {
    CT_OPTION_ALL("all that are stopped; with --force all"),
    CT_OPTION_FORCE("those that run too: they are killed"),
    CT_OPTION_QUIET,
    CT_OPTION_STATE,
    {0},
};

static int delete_run(int argc, char **argv)
{
    return run(&ct_delete_verb, 1u << LIFE_STOPPED, "deleting containers", delete_one, argc, argv);
}

const struct verb ct_delete_verb = {
    .name = "ct delete",
    .arguments = "NAME...",
    .summary = "Remove containers with their files and snapshots",
    .examples = "  hull ct delete web\n"
                "  hull ct delete web --force\n",
    .options = delete_table,
    .complete = "CONTAINER",
    .run = delete_run,
};
