#include "cli/terminal.h"

#include <signal.h>
#include <stddef.h>
#include <termios.h>
#include <unistd.h>

#include "base/core/compiler.h"

/* A process has one controlling terminal, and a crash handler reaches nothing but globals. */
static struct termios terminal_saved;
static struct termios terminal_raw;
static volatile sig_atomic_t terminal_fd = -1;

void terminal_restore(void)
{
    int fd = terminal_fd;
    if (fd >= 0) {
        (void)tcsetattr(fd, TCSANOW, &terminal_saved); /* a terminal that is gone needs nothing */
    }
}

static void crash_handler(int number)
{
    terminal_restore();
    (void)raise(number); /* SA_RESETHAND: the default action now */
}

static bool set(int fd, tcflag_t output)
{
    if (tcgetattr(fd, &terminal_saved) < 0 || tcgetpgrp(fd) != getpgrp()) {
        return false;
    }
    terminal_raw = terminal_saved;
    cfmakeraw(&terminal_raw);
    terminal_raw.c_oflag |= output;
    terminal_fd = fd;
    static const int crashes[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGSYS, SIGQUIT};
    struct sigaction action = {.sa_handler = crash_handler, .sa_flags = (int)SA_RESETHAND};
    for (size_t i = 0; i < ARRAY_COUNT(crashes); i++) {
        (void)sigaction(crashes[i], &action, NULL); /* valid signals */
    }
    if (tcsetattr(fd, TCSANOW, &terminal_raw) < 0) {
        terminal_fd = -1;
        return false;
    }
    return true;
}

bool terminal_set_raw(int fd)
{
    return set(fd, OPOST | ONLCR); /* for the lines of hull and its helpers */
}

bool terminal_set_transparent(int fd)
{
    return set(fd, 0);
}

void terminal_resume(void)
{
    int fd = terminal_fd;
    if (fd >= 0) {
        (void)tcsetattr(fd, TCSANOW, &terminal_raw);
    }
}
