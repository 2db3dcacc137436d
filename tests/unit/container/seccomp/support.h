/* Filters from a few words of JSON, run in forked children. */
#ifndef TEST_CONTAINER_SECCOMP_SUPPORT_H
#define TEST_CONTAINER_SECCOMP_SUPPORT_H

#include "container/seccomp/seccomp.h"

/* The document that has 'members' as its linux.seccomp; the caller destroys it. Ends the test if it is not accepted. */
struct spec *spec_with(const char *members);
/* Of spec_with; the caller frees it. */
struct seccomp_program *program_with(const char *members, const char *cache);
/* Installs the program in a child that then calls 'run', whose answer is its exit status; a status as of waitpid. */
int status_of(const struct seccomp_program *program, int (*run)(void *argument), void *argument);
/* In a child: the errno of mkdir(2) on a folder that is there, EEXIST where nothing stops it. */
int try_mkdir(void *unused);

#endif
