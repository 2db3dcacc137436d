/* Runs a function in a child, so that what it does to itself ends with it. */
#ifndef TESTS_UNIT_CONTAINER_PROCESS_CHILD_H
#define TESTS_UNIT_CONTAINER_PROCESS_CHILD_H

#include <stdbool.h>

#include "container/process/process.h"

/* In the child: ends it as failed if the condition does not hold. */
#define child_check(condition) child_check_at((condition), #condition, __FILE__, __LINE__)
void child_check_at(bool condition, const char *text, const char *file, int line);

/* Fails the test if the child fails. 'namespaces': CLONE_NEW* that it begins in. */
void child_run(unsigned long namespaces, void (*check)(void));

/* The child's degrade report and error. */
extern struct degrade child_degrade;
extern struct error child_error;

#endif
