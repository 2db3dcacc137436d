/* hull top: what instances use, on the whole terminal. */
#include <ctype.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/core/size.h"
#include "base/host/event_loop.h"
#include "base/host/file.h"
#include "cli/managed/managed.h"
#include "cli/terminal.h"

#define MAX_ROWS    1000
#define INTERVAL_MS 2000
#define NAME_SIZE   64

enum sort_key {
    SORT_CPU,
    SORT_MEMORY,
    SORT_NETWORK,
    SORT_DISK,
    SORT_NAME
};

struct usage {
    char name[NAME_SIZE], kind[12], status[12], address[48];
    uint64_t cpu_ns, memory_bytes, memory_limit_bytes, network_bytes, disk_bytes;
    double cpu_percent, network_rate, disk_rate; /* since the last look; rates are bytes a second */
};

struct top {
    struct client *client;
    struct usage *rows, *before;
    size_t count, before_count;
    uint64_t at_ns, before_ns;
    enum sort_key sort;
};

static void copy_text(const json_t *object, const char *key, char *out, size_t size)
{
    const char *text = json_string_value(json_object_get(object, key));
    struct error clean;
    (void)client_error(&clean, EINVAL, text != NULL ? text : "-");
    (void)snprintf(out, size, "%.*s", (int)size - 1, clean.text);
}

static uint64_t number_of(const json_t *object, const char *key)
{
    json_int_t number = json_integer_value(json_object_get(object, key));
    return number > 0 ? (uint64_t)number : 0;
}

static uint64_t sum_of(const json_t *list, const char *a, const char *b)
{
    uint64_t sum = 0;
    size_t i;
    json_t *row;
    json_array_foreach(list, i, row)
    {
        sum += number_of(row, a) + number_of(row, b);
    }
    return sum;
}

static const struct usage *find_before(const struct top *top, const char *name)
{
    for (size_t i = 0; i < top->before_count; i++) {
        if (strcmp(top->before[i].name, name) == 0) {
            return &top->before[i];
        }
    }
    return NULL;
}

static double rate(uint64_t now, uint64_t before, double seconds)
{
    return now > before && seconds > 0 ? (double)(now - before) / seconds : 0;
}

static void fill(struct top *top, struct usage *row, const json_t *instance)
{
    const json_t *info = json_object_get(instance, "info");
    json_t *first = json_pack("{s:O?}", "text", json_array_get(json_object_get(info, "ipv4"), 0));
    const char *limit = json_string_value(json_object_get(
        json_object_get(json_object_get(instance, "expanded"), "config"), "memory"));
    struct error ignored;
    copy_text(instance, "name", row->name, sizeof(row->name));
    copy_text(instance, "kind", row->kind, sizeof(row->kind));
    copy_text(instance, "status", row->status, sizeof(row->status));
    copy_text(first, "text", row->address, sizeof(row->address));
    json_decref(first);
    if (limit == NULL || size_parse(limit, 1u << 20, &row->memory_limit_bytes, &ignored) < 0) {
        row->memory_limit_bytes = 0;
    }
    row->cpu_ns = number_of(info, "cpu_time_ns");
    row->memory_bytes = number_of(info, "memory_used_bytes");
    row->network_bytes = sum_of(json_object_get(info, "network"), "received_bytes", "sent_bytes");
    row->disk_bytes = sum_of(json_object_get(info, "disk"), "read_bytes", "written_bytes");
    const struct usage *before = find_before(top, row->name);
    double seconds = (double)(top->at_ns - top->before_ns) / 1e9;
    if (before != NULL) {
        row->cpu_percent = rate(row->cpu_ns, before->cpu_ns, seconds) / 1e7;
        row->network_rate = rate(row->network_bytes, before->network_bytes, seconds);
        row->disk_rate = rate(row->disk_bytes, before->disk_bytes, seconds);
    }
}

static int look(struct top *top, struct error *err)
{
    json_t *list, *row;
    size_t i;
    int rc = client_call(top->client, "GET", "/v1/instances?full=1", NULL, NULL, &list, err);
    if (rc < 0) {
        return rc;
    }
    struct usage *free_rows = top->before;
    top->before = top->rows;
    top->before_count = top->count;
    top->before_ns = top->at_ns;
    top->rows = free_rows;
    top->count = 0;
    top->at_ns = clock_monotonic_ns();
    json_array_foreach(list, i, row)
    {
        if (top->count < MAX_ROWS) {
            top->rows[top->count] = (struct usage){0};
            fill(top, &top->rows[top->count++], row);
        }
    }
    json_decref(list);
    return 0;
}

static double weight(const struct usage *row, enum sort_key sort)
{
    switch (sort) {
    case SORT_CPU:
        return row->cpu_percent;
    case SORT_MEMORY:
        return (double)row->memory_bytes;
    case SORT_NETWORK:
        return row->network_rate;
    case SORT_DISK:
        return row->disk_rate;
    case SORT_NAME:
        break;
    }
    return 0;
}

static int compare(const void *a, const void *b, void *sort)
{
    const struct usage *one = a, *other = b;
    double mine = weight(one, *(enum sort_key *)sort),
           theirs = weight(other, *(enum sort_key *)sort);
    return mine > theirs ? -1 : mine < theirs ? 1 : strcmp(one->name, other->name);
}

static void print_row(const struct usage *row, int columns, const char *end)
{
    char line[320], used[24], limit[24], net[24], disk[24];
    (void)size_format(row->memory_bytes, used, sizeof(used));
    (void)size_format(row->memory_limit_bytes, limit, sizeof(limit));
    (void)size_format((uint64_t)row->network_rate, net, sizeof(net));
    (void)size_format((uint64_t)row->disk_rate, disk, sizeof(disk));
    (void)snprintf(line, sizeof(line), "%-20.63s %-9.11s %-8.11s %6.1f %9s %9s %9s %9s  %.47s",
                   row->name, row->kind, row->status, row->cpu_percent, used,
                   row->memory_limit_bytes != 0 ? limit : "-", net, disk, row->address);
    (void)printf("%.*s%s", columns, line, end);
}

static void print_head(const struct top *top, int columns, const char *end)
{
    char line[320];
    size_t running = 0;
    double cpu = 0;
    for (size_t i = 0; i < top->count; i++) {
        running += strcmp(top->rows[i].status, "running") == 0;
        cpu += top->rows[i].cpu_percent;
    }
    (void)snprintf(line, sizeof(line), "hull top: %zu instances, %zu running, %.0f%% of a CPU",
                   top->count, running, cpu);
    (void)printf("%.*s%s%s", columns, line, end, end);
    (void)snprintf(line, sizeof(line), "%-20s %-9s %-8s %6s %9s %9s %9s %9s  %s", "NAME", "KIND",
                   "STATUS", "CPU%", "MEMORY", "LIMIT", "NET/S", "DISK/S", "ADDRESS");
    (void)printf("%.*s%s", columns, line, end);
}

static void draw(struct top *top)
{
    struct winsize window;
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &window) < 0 || window.ws_row == 0 || window.ws_col == 0) {
        window = (struct winsize){.ws_row = 24, .ws_col = 80};
    }
    int rows = MAX((int)window.ws_row - 5, 1);
    qsort_r(top->rows, top->count, sizeof(*top->rows), compare, &top->sort);
    (void)fputs("\033[H", stdout);
    print_head(top, window.ws_col, "\033[K\n");
    for (size_t i = 0; i < top->count && (int)i < rows; i++) {
        print_row(&top->rows[i], window.ws_col, "\033[K\n");
    }
    (void)printf("\033[J\033[%uH%.*s\033[K", window.ws_row, (int)window.ws_col - 1,
                 "q quits; sort by c: CPU, m: memory, n: network, d: disk, a: name");
    (void)fflush(stdout);
}

/* False: the user quits. */
static bool take_keys(struct top *top)
{
    char keys[64];
    ssize_t got = read(STDIN_FILENO, keys, sizeof(keys));
    if (got <= 0) {
        return got < 0 && errno == EINTR;
    }
    for (ssize_t i = 0; i < got; i++) {
        switch (tolower((unsigned char)keys[i])) {
        case 'q':
        case 3: /* Ctrl-C */
            return false;
        case 'c':
            top->sort = SORT_CPU;
            break;
        case 'm':
            top->sort = SORT_MEMORY;
            break;
        case 'n':
            top->sort = SORT_NETWORK;
            break;
        case 'd':
            top->sort = SORT_DISK;
            break;
        case 'a':
            top->sort = SORT_NAME;
            break;
        default:
            break;
        }
    }
    return true;
}

static int loop(struct top *top, int signals, struct error *err)
{
    int64_t due = 0;
    for (;;) {
        int64_t now = clock_monotonic_ms();
        if (now >= due) {
            int rc = look(top, err);
            if (rc < 0) {
                return rc;
            }
            due = now +
                  (top->before_count == 0 && top->before_ns == 0 ? INTERVAL_MS / 4 : INTERVAL_MS);
        }
        draw(top);
        struct pollfd polled[] = {{.fd = STDIN_FILENO, .events = POLLIN},
                                  {.fd = signals, .events = POLLIN}};
        if (poll(polled, 2, (int)MAX(due - clock_monotonic_ms(), 0)) < 0 && errno != EINTR) {
            return error_set_errno(err, errno, "waiting");
        }
        struct signalfd_siginfo info;
        if (polled[1].revents != 0 && read(signals, &info, sizeof(info)) == (ssize_t)sizeof(info) &&
            info.ssi_signo != SIGWINCH) {
            return 0;
        }
        if (polled[0].revents != 0 && !take_keys(top)) {
            return 0;
        }
    }
}

/* On the terminal's other screen, which is taken away again. */
static int show_screen(struct top *top, struct error *err)
{
    sigset_t taken, before;
    sigemptyset(&taken);
    sigaddset(&taken, SIGWINCH);
    sigaddset(&taken, SIGINT);
    sigaddset(&taken, SIGTERM);
    sigaddset(&taken, SIGHUP);
    (void)sigprocmask(SIG_BLOCK, &taken, &before);
    AUTO_CLOSE int signals = signalfd(-1, &taken, SFD_CLOEXEC | SFD_NONBLOCK);
    bool is_raw = terminal_set_raw(STDIN_FILENO);
    (void)fputs("\033[?1049h\033[?25l", stdout);
    int rc = loop(top, signals, err);
    (void)fputs("\033[?25h\033[?1049l", stdout);
    (void)fflush(stdout);
    if (is_raw) {
        terminal_restore();
    }
    (void)sigprocmask(SIG_SETMASK, &before, NULL);
    return rc;
}

static void print_list(const struct top *top, enum output_format format)
{
    static const struct output_column columns[] = {
        {"name", "NAME"},
        {"kind", "KIND"},
        {"status", "STATUS"},
        {"cpu_percent", "CPU%"},
        {"memory_bytes", "MEMORY"},
        {"memory_limit_bytes", "LIMIT"},
        {"network_bytes_per_second", "NET/S"},
        {"disk_bytes_per_second", "DISK/S"},
        {"address", "ADDRESS"},
        {NULL, NULL},
    };
    json_t *rows = json_array();
    for (size_t i = 0; i < top->count; i++) {
        const struct usage *row = &top->rows[i];
        (void)json_array_append_new(
            rows,
            json_pack("{s:s,s:s,s:s,s:f,s:I,s:o,s:I,s:I,s:o}", "name", row->name, "kind", row->kind,
                      "status", row->status, "cpu_percent", row->cpu_percent, "memory_bytes",
                      (json_int_t)row->memory_bytes, "memory_limit_bytes",
                      row->memory_limit_bytes != 0
                          ? json_integer((json_int_t)row->memory_limit_bytes)
                          : json_null(),
                      "network_bytes_per_second", (json_int_t)row->network_rate,
                      "disk_bytes_per_second", (json_int_t)row->disk_rate, "address",
                      strcmp(row->address, "-") != 0 ? json_string(row->address) : json_null()));
    }
    output_list(format, columns, rows, NULL);
    json_decref(rows);
}

/* Where there is no terminal: once, over half a second. */
static int show_once(struct top *top, enum output_format format, struct error *err)
{
    int rc = look(top, err);
    if (rc == 0) {
        (void)poll(NULL, 0, INTERVAL_MS / 4);
        rc = look(top, err);
    }
    if (rc == 0) {
        qsort_r(top->rows, top->count, sizeof(*top->rows), compare, &top->sort);
    }
    if (rc == 0 && format != OUTPUT_TABLE) {
        print_list(top, format);
    } else if (rc == 0) {
        print_head(top, 300, "\n");
        for (size_t i = 0; i < top->count; i++) {
            print_row(&top->rows[i], 300, "\n");
        }
    }
    return rc;
}

static const struct option_spec top_table[] = {
    OUTPUT_OPTION_JSON(managed_parse_json),
    OUTPUT_OPTION_FORMAT(managed_parse_output),
    {0},
};

static int top_run(int argc, char **argv)
{
    struct managed_options options = {0};
    struct client client;
    struct top top = {.client = &client};
    struct error err = {0};
    int count;
    int status = cli_words(&top_verb, 0, 0, argc, argv, &options, &count);
    if (status >= 0) {
        return status;
    }
    int rc = managed_open(&client, &err);
    top.rows = calloc(MAX_ROWS, sizeof(*top.rows));
    top.before = calloc(MAX_ROWS, sizeof(*top.before));
    if (rc == 0 && (top.rows == NULL || top.before == NULL)) {
        rc = error_set(&err, ENOMEM, "top");
    }
    bool is_screen =
        options.output == OUTPUT_TABLE && isatty(STDIN_FILENO) == 1 && isatty(STDOUT_FILENO) == 1;
    rc = rc < 0 ? rc : is_screen ? show_screen(&top, &err) : show_once(&top, options.output, &err);
    free(top.rows);
    free(top.before);
    return rc < 0 ? cli_fail(&err) : CLI_OK;
}

const struct verb top_verb = {
    .name = "top",
    .arguments = "",
    .summary = "Show what instances use, until q",
    .description =
        "Sorted by what is used most: c CPU, m memory, n network, d disk, a by name. Where output is no terminal, or with a format, it is shown once.\n",
    .examples = "  hull top\n  hull top --json\n",
    .options = top_table,
    .run = top_run,
};
