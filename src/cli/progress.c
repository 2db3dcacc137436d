#include "cli/progress.h"

#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/core/compiler.h"
#include "base/core/size.h"
#include "base/host/event_loop.h"

#define SECOND_NS        1000000000ull
#define LINE_INTERVAL_NS (10 * SECOND_NS)
#define MIN_BAR          10
#define DEFAULT_COLUMNS  80

void progress_begin(struct progress *progress, const char *label, bool is_quiet)
{
    *progress = (struct progress){.label = label,
                                  .is_quiet = is_quiet,
                                  .is_terminal = isatty(STDERR_FILENO) == 1,
                                  .start_ns = clock_monotonic_ns()};
    progress->shown_ns = progress->start_ns;
}

static unsigned terminal_columns(void)
{
    struct winsize size;
    return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col
                                                                           : DEFAULT_COLUMNS;
}

/* "12m 5s" until the end, judged by what was done so far. */
static void remaining(const struct progress *progress, uint64_t now, double part, char *out_text,
                      size_t size)
{
    double seconds = (double)(now - progress->start_ns) / SECOND_NS;
    double left = part > 0.001 ? seconds / part - seconds : 0;
    if (left < 1 || left > 1e6) {
        out_text[0] = '\0';
    } else if (left < 100) {
        (void)snprintf(out_text, size, "%.0fs left", left);
    } else {
        (void)snprintf(out_text, size, "%um %us left", (unsigned)left / 60, (unsigned)left % 60);
    }
}

/* Nobody knows how much it is: how long it takes. */
static void show_time(const struct progress *progress, uint64_t now)
{
    unsigned seconds = (unsigned)((now - progress->start_ns) / SECOND_NS);
    (void)fprintf(stderr, "\r%.*s %us\033[K", MAX((int)terminal_columns() - 12, MIN_BAR),
                  progress->label, seconds);
}

static void show_bar(const struct progress *progress, uint64_t now, uint64_t done, uint64_t total)
{
    char text[160];
    char left[40];
    double part = MIN((double)done / (double)total, 1);
    remaining(progress, now, part, left, sizeof(left));
    int length = snprintf(text, sizeof(text), "%.80s %3u%% %s", progress->label,
                          (unsigned)(part * 100), left);
    int room = (int)terminal_columns() - length - 4;
    if (room < MIN_BAR) {
        (void)fprintf(stderr, "\r%.*s\033[K", (int)terminal_columns() - 1, text);
        return;
    }
    int width = MIN(room, 50);
    int full = (int)(part * width);
    (void)fprintf(stderr, "\r%.80s %3u%% [%.*s%*s] %s\033[K", progress->label,
                  (unsigned)(part * 100), full,
                  "##################################################", width - full, "", left);
}

void progress_update(struct progress *progress, uint64_t done, uint64_t total)
{
    uint64_t now = clock_monotonic_ns();
    uint64_t interval = progress->is_terminal ? PROGRESS_INTERVAL_NS : LINE_INTERVAL_NS;
    if (progress->is_quiet || now - progress->start_ns < SECOND_NS ||
        now - progress->shown_ns < interval) {
        return;
    }
    progress->shown_ns = now;
    progress->is_shown = true;
    if (progress->is_terminal && total == 0) {
        show_time(progress, now);
    } else if (progress->is_terminal) {
        show_bar(progress, now, done, total);
    } else if (total == 0) {
        (void)fprintf(stderr, "%s\n", progress->label);
    } else {
        (void)fprintf(stderr, "%s: %u%%\n", progress->label,
                      (unsigned)((double)done * 100 / (double)total));
    }
}

void progress_end(struct progress *progress)
{
    if (progress->is_shown && progress->is_terminal) {
        (void)fputs("\r\033[K", stderr);
    }
    progress->is_shown = false;
}
