/* Runs a program of a Debian root file system and measures it. */
#pragma once

/* Runs 'command' by the root's shell (root "/": this one) with a file system of its own in memory on
 * /tmp, then 'verify' (may be NULL), which is not timed, and prints
 * "result case=NAME ns=... count=1 checksum=... elapsed_ns=...", ns being the command's time and the
 * checksum that of all that both wrote to standard output. Returns an exit status. */
int command_measure(const char *name, const char *root, const char *command, const char *verify);
