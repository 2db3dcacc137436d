/* The text of hosts(5). */
#ifndef AGENT_HOSTS_H
#define AGENT_HOSTS_H

/* The same with 'new' in the place of the name 'old', and with a line for 'new' if there is none; the caller
 * frees it. NULL: no memory. */
char *hosts_rename(const char *text, const char *old, const char *new);

#endif
