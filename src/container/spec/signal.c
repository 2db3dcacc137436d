/* Signals by name. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/core/compiler.h"
#include "container/spec/spec.h"

static const struct {
    const char *name;
    int signal;
} signals[] = {
    {"HUP", SIGHUP},       {"INT", SIGINT},     {"QUIT", SIGQUIT}, {"ILL", SIGILL},
    {"TRAP", SIGTRAP},     {"ABRT", SIGABRT},   {"IOT", SIGIOT},   {"BUS", SIGBUS},
    {"FPE", SIGFPE},       {"KILL", SIGKILL},   {"USR1", SIGUSR1}, {"SEGV", SIGSEGV},
    {"USR2", SIGUSR2},     {"PIPE", SIGPIPE},   {"ALRM", SIGALRM}, {"TERM", SIGTERM},
    {"STKFLT", SIGSTKFLT}, {"CHLD", SIGCHLD},   {"CLD", SIGCHLD},  {"CONT", SIGCONT},
    {"STOP", SIGSTOP},     {"TSTP", SIGTSTP},   {"TTIN", SIGTTIN}, {"TTOU", SIGTTOU},
    {"URG", SIGURG},       {"XCPU", SIGXCPU},   {"XFSZ", SIGXFSZ}, {"VTALRM", SIGVTALRM},
    {"PROF", SIGPROF},     {"WINCH", SIGWINCH}, {"IO", SIGIO},     {"POLL", SIGPOLL},
    {"PWR", SIGPWR},       {"SYS", SIGSYS},     {"RTMIN", 34},     {"RTMAX", 64},
};
#define FIRST_REALTIME                                                                             \
    34 /* glibc's SIGRTMIN, which musl shares with 35: a container's programs mean this one */
#define LAST_REALTIME 64

/* Digits alone, at most two. */
static bool take_number(const char *text, int *out)
{
    size_t digits = strspn(text, "0123456789");
    if (digits == 0 || digits > 2 || text[digits] != '\0') {
        return false;
    }
    *out = atoi(text);
    return true;
}

/* -1: there is none of that name. */
static int find(const char *name)
{
    int number;
    if (take_number(name, &number)) {
        return number <= LAST_REALTIME ? number : -1;
    }
    name += strncasecmp(name, "SIG", 3) == 0 ? 3 : 0;
    if (strncasecmp(name, "RTMIN+", 6) == 0 && take_number(name + 6, &number)) {
        return FIRST_REALTIME + number <= LAST_REALTIME ? FIRST_REALTIME + number : -1;
    }
    if (strncasecmp(name, "RTMAX-", 6) == 0 && take_number(name + 6, &number)) {
        return LAST_REALTIME - number >= FIRST_REALTIME ? LAST_REALTIME - number : -1;
    }
    for (size_t i = 0; i < ARRAY_COUNT(signals); i++) {
        if (strcasecmp(name, signals[i].name) == 0) {
            return signals[i].signal;
        }
    }
    return -1;
}

int spec_parse_signal(const char *name, int *out_signal, struct error *err)
{
    int signal = find(name);
    if (signal < 0) {
        return error_set(err, EINVAL,
                         "'%.40s' is no signal; TERM, SIGTERM, 15 and RTMIN+3 would do", name);
    }
    *out_signal = signal;
    return 0;
}
