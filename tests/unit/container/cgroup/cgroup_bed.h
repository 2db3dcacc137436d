/* A bed for tests with the real control groups of this host, v1, hybrid or v2: as root, below a group of its own at the root of each
 * hierarchy, which is gone afterwards. */
#ifndef TESTS_CONTAINER_CGROUP_BED_H
#define TESTS_CONTAINER_CGROUP_BED_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "container/cgroup/internal.h"

#define REMOVE_TIMEOUT_MS 20000

extern char bed_base[64]; /* "/hull-test-PID" */
extern const struct spec_resources no_limits;

/* 0, or the exit status of tests that cannot be done here. */
int bed_begin(void);
/* After each test. */
int bed_check_nothing_left(void **state);
struct cgroup *bed_create(const char *name, const struct spec_resources *resources,
                          struct degrade *degrade);
void bed_destroy(struct cgroup *cgroup);
/* In how many hierarchies a group is. */
unsigned bed_count_groups(const char *path);
pid_t bed_start_process(void);
int bed_wait_process(pid_t pid);
void bed_attach(struct cgroup *cgroup, pid_t pid);
int bed_place_fd(const struct cgroup *cgroup, enum cgroup_controller controller);
/* What a file says, of v1 where the host has that controller there, else of v2. */
void assert_file(const struct cgroup *cgroup, enum cgroup_controller controller,
                 const char *v1_file, const char *v1_text, const char *v2_file,
                 const char *v2_text);
bool bed_is_told(const struct degrade *degrade, const char *field);

#define TEST(name) cmocka_unit_test_teardown(name, bed_check_nothing_left)

#endif
