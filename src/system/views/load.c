/* Load averages of a container. */
#include "system/views/load.h"

#include <ctype.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/host/file.h"
#include "container/cgroup/tree.h"

#define NS_PER_MS    UINT64_C(1000000)
#define SAMPLE_NS    (UINT64_C(5000) * NS_PER_MS)
#define COUNT_AGE_NS (UINT64_C(500) * NS_PER_MS) /* a count this young is not made again */
#define INTEREST_NS  (UINT64_C(20 * 60 * 1000) * NS_PER_MS) /* how long a question keeps it going */
#define SAMPLES_MAX  1080 /* 90 minutes: more change nothing any more */

/* A container makes as many threads and groups as its limits allow; one count costs at most this many files. */
#define THREADS_MAX_SEEN 256
#define GROUPS_MAX       1024
#define LISTS_MAX        4096 /* pieces of lists of threads, 4 KiB each */

void load_advance(uint64_t average[3], unsigned active, uint64_t times)
{
    static const uint64_t decay[] = {1884, 2014, 2037}; /* exp(-5 s / 1, 5, 15 minutes) */
    const uint64_t one = UINT64_C(1) << LOAD_FIXED_SHIFT;
    uint64_t now = active * one;
    for (uint64_t i = 0; i < MIN(times, SAMPLES_MAX); i++) {
        for (size_t j = 0; j < ARRAY_COUNT(decay); j++) {
            uint64_t sum = average[j] * decay[j] + now * (one - decay[j]);
            average[j] = (sum + (now >= average[j] ? one - 1 : 0)) / one;
        }
    }
}

struct count {
    int proc_fd;
    bool is_unified;
    unsigned stride, next; /* each stride-th thread is looked at */
    unsigned seen, running, blocked, groups, lists;
    struct load_counts *counts;
};

/* The state's letter, or 0: it is gone. */
static char read_state(int proc_fd, unsigned long thread)
{
    char file[40], text[512];
    (void)snprintf(file, sizeof(file), "%lu/stat", thread);
    if (control_read(proc_fd, file, text, sizeof(text)) <= 0) {
        return 0;
    }
    const char *end = strrchr(text, ')'); /* of the name, which may hold anything */
    return end != NULL && end[1] == ' ' ? end[2] : 0;
}

static void count_thread(struct count *count, unsigned long thread)
{
    count->counts->total++;
    count->counts->newest = MAX(count->counts->newest, (pid_t)thread);
    if (count->next++ % count->stride != 0 || count->seen == THREADS_MAX_SEEN) {
        return;
    }
    char state = read_state(count->proc_fd, thread);
    count->seen += state != 0;
    count->running += state == 'R';
    count->blocked += state == 'D';
}

static int count_group(int group_fd, void *ctx)
{
    struct count *count = ctx;
    const char *file = count->is_unified ? "cgroup.threads" : "tasks";
    AUTO_CLOSE int fd = openat(group_fd, file, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    char text[4096];
    unsigned long thread = 0;
    bool is_in_number = false;
    ssize_t size;
    while (fd >= 0 && count->lists < LISTS_MAX && (size = read(fd, text, sizeof(text))) > 0) {
        count->lists++;
        for (ssize_t i = 0; i < size; i++) {
            if (isdigit((unsigned char)text[i])) {
                thread = thread * 10 + (unsigned long)(text[i] - '0');
                is_in_number = true;
            } else if (is_in_number) {
                count_thread(count, thread);
                thread = 0;
                is_in_number = false;
            }
        }
    }
    return ++count->groups >= GROUPS_MAX || count->lists >= LISTS_MAX;
}

void load_count(int group_fd, bool is_unified, int proc_fd, const struct load_counts *before,
                struct load_counts *out_counts)
{
    struct load_counts counts = {0};
    struct count count = {
        .proc_fd = proc_fd,
        .is_unified = is_unified,
        .stride = 1 + before->total / THREADS_MAX_SEEN,
        .counts = &counts,
    };
    if (group_fd >= 0) { /* a group that has just gone has no threads */
        error_ignore(group_walk(group_fd, count_group, &count));
    }
    if (count.seen > 0) {
        uint64_t half = count.seen / 2;
        counts.running = (unsigned)(((uint64_t)count.running * counts.total + half) / count.seen);
        counts.blocked = (unsigned)(((uint64_t)count.blocked * counts.total + half) / count.seen);
    }
    *out_counts = counts;
}

static void count_again(struct load *load, uint64_t now_ns, int group_fd, bool is_unified,
                        int proc_fd)
{
    struct load_counts before = load->counts;
    load_count(group_fd, is_unified, proc_fd, &before, &load->counts);
    load->counted_ns = now_ns;
}

void load_ask(struct load *load, uint64_t now_ns, int group_fd, bool is_unified, int proc_fd)
{
    if (load->counted_ns == 0 || now_ns - load->counted_ns >= COUNT_AGE_NS) {
        count_again(load, now_ns, group_fd, is_unified, proc_fd);
    }
    bool is_new = load->asked_ns == 0 || now_ns - load->asked_ns >= INTEREST_NS;
    load->asked_ns = now_ns;
    if (is_new) { /* of what was before nothing is known: as if it had always been like now */
        uint64_t active = load->counts.running + load->counts.blocked;
        for (size_t i = 0; i < ARRAY_COUNT(load->average); i++) {
            load->average[i] = active << LOAD_FIXED_SHIFT;
        }
        load->sampled_ns = now_ns;
    } else {
        load_tick(load, now_ns, group_fd, is_unified, proc_fd);
    }
}

int load_timeout_ms(const struct load *load, uint64_t now_ns)
{
    if (load->asked_ns == 0 || now_ns - load->asked_ns >= INTEREST_NS) {
        return -1;
    }
    uint64_t passed = now_ns - load->sampled_ns;
    return passed >= SAMPLE_NS ? 0 : (int)((SAMPLE_NS - passed + NS_PER_MS - 1) / NS_PER_MS);
}

void load_tick(struct load *load, uint64_t now_ns, int group_fd, bool is_unified, int proc_fd)
{
    if (load_timeout_ms(load, now_ns) != 0) {
        return;
    }
    if (load->counted_ns != now_ns) {
        count_again(load, now_ns, group_fd, is_unified, proc_fd);
    }
    uint64_t times = (now_ns - load->sampled_ns) / SAMPLE_NS;
    load_advance(load->average, load->counts.running + load->counts.blocked, times);
    load->sampled_ns += times * SAMPLE_NS;
}

/* The numbers of the line NSpid; their count, and the one at 'level' (0: there is none). */
static unsigned parse_levels(const char *status, unsigned level, pid_t *out_pid)
{
    const char *line = strstr(status, "\nNSpid:");
    unsigned count = 0;
    *out_pid = 0;
    if (line == NULL) {
        return 0;
    }
    for (line += strlen("\nNSpid:"); *line == '\t' || *line == ' ';) {
        char *end;
        long pid = strtol(line, &end, 10);
        if (end == line) {
            break;
        }
        if (++count == level) {
            *out_pid = (pid_t)pid;
        }
        line = end;
    }
    return count;
}

pid_t load_namespace_pid(const char *status, unsigned level)
{
    pid_t pid;
    (void)parse_levels(status, level, &pid);
    return pid;
}

unsigned load_namespace_level(const char *status)
{
    pid_t pid;
    return parse_levels(status, 0, &pid);
}

void render_loadavg(struct text *text, const struct load *load, pid_t last_pid)
{
    const uint64_t one = UINT64_C(1) << LOAD_FIXED_SHIFT;
    for (size_t i = 0; i < ARRAY_COUNT(load->average); i++) {
        uint64_t rounded = load->average[i] + one / 200;
        text_printf(text, "%" PRIu64 ".%02u ", rounded / one,
                    (unsigned)(rounded % one * 100 / one));
    }
    text_printf(text, "%u/%u %d\n", load->counts.running, load->counts.total, last_pid);
}
