/* The user's terminal in raw mode, and always back. */
#ifndef CLI_TERMINAL_H
#define CLI_TERMINAL_H

#include <stdbool.h>

/* Raw mode on 'fd' if it is a terminal of which this process is in the foreground; lines that hull or its helpers print
 * still look right. Installs handlers that restore it when this program crashes. True if it is raw now. */
bool terminal_set_raw(int fd);

/* The same, but also what is printed goes through as it is: for a program behind a terminal of its own. */
bool terminal_set_transparent(int fd);

/* Back to what it was; may be called at any time, also in a signal handler. */
void terminal_restore(void);

/* Raw again, after the shell had the terminal (SIGCONT). */
void terminal_resume(void);

#endif
