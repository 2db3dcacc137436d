/* A bed for tests of operations: a manager's end of them with real workers (worker.c), in a folder of its own. */
#ifndef TESTS_MANAGER_OPERATION_BED_H
#define TESTS_MANAGER_OPERATION_BED_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/host/event_loop.h"
#include "manager/operation/operation.h"

struct bed {
    char folder[64], database[96];
    struct event_loop *loop;
    struct event_timer *guard, *tick;
    struct documents *documents;
    struct operations *operations;
    json_t *events;
    bool (*is_reached)(struct bed *bed);
    bool is_late;
    char id[OPERATION_ID_SIZE];
    json_t *ended;
    size_t awaited_size; /* of the log, or whatever a test waits for */
};

void bed_run_until(struct bed *bed, bool (*is_reached)(struct bed *bed));
/* As a hulld does that starts. */
void bed_begin_manager(struct bed *bed);
void bed_end_manager(struct bed *bed);
void bed_make_loop(struct bed *bed);
int bed_setup(void **state);
int bed_teardown(void **state);
void bed_path_in(const struct bed *bed, const char *name, char out_path[96]);
void bed_touch(const struct bed *bed, const char *name);
/* 'request' is taken over. */
void bed_begin(struct bed *bed, const char *kind, const char *const *resources, json_t *request,
               char out_id[OPERATION_ID_SIZE]);
/* {file, log, name}: goes on when "go-NAME" is there. */
void bed_begin_hold(struct bed *bed, const char *name, const char *const *resources,
                    char out_id[OPERATION_ID_SIZE]);
void assert_status(struct bed *bed, const char *id, const char *status);
void bed_on_ended(void *ctx, const json_t *operation);
bool bed_has_ended(struct bed *bed);
/* Waits for its end: borrowed. */
const json_t *bed_finish(struct bed *bed, const char *id);
const char *bed_code_of(const json_t *operation);
const char *bed_message_of(const json_t *operation);
void assert_ended(const json_t *operation, const char *status);
void assert_log(const struct bed *bed, const char *expected);
bool bed_has_log(struct bed *bed);
void bed_await_log(struct bed *bed, const char *expected);
/* The space that was reserved for it is given back. */
bool bed_has_small_journal(struct bed *bed);
bool bed_has_progress(struct bed *bed);
extern const char *const no_resources[];

#define TEST(name) cmocka_unit_test_setup_teardown(name, bed_setup, bed_teardown)

#endif
