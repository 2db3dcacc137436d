/* A folder and a mount namespace of a test's own, and a container's root in a user namespace. */
#ifndef TESTS_UNIT_SYSTEM_LAYERS_SUPPORT_H
#define TESTS_UNIT_SYSTEM_LAYERS_SUPPORT_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "base/core/compiler.h"
#include "system/layers/layers.h"

#define FIRST_ID 100000
#define ID_COUNT 65536

/* In main, first: false after saying why the tests cannot run here. The current folder is the test's own afterwards,
 * "/tmp/hull-layers-...". */
bool box_open(void);
void box_close(void);

/* The absolute path of 'name' in the folder; sixteen at a time. */
const char *box_path(const char *format, ...) printf_like(1, 2);

void box_mkdir(const char *path, unsigned owner, unsigned mode);
void box_write(const char *path, const char *text, unsigned owner, unsigned mode);
/* At most 4095 bytes; "" if there is none. The next call overwrites it. */
const char *box_read(const char *path);
struct stat box_stat(const char *path);
bool box_exists(const char *path);
/* Mount points below the folder. */
unsigned box_count_mounts(void);

/* Runs 'function' in 'folder' as root of a user namespace with FIRST_ID on; fails the test if it does not end with
 * box_inside_ok. */
void box_run_inside(const char *folder, void (*function)(void));
/* There: ends with the line and the errno if it does not hold. */
#define inside(condition)                                                                          \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            box_fail_inside(#condition, __LINE__);                                                 \
        }                                                                                          \
    } while (0)
void box_fail_inside(const char *text, int line);

/* Fails the test with the error's text. */
#define box_ok(call)                                                                               \
    do {                                                                                           \
        struct error box_error = {0};                                                              \
        struct error *err = &box_error;                                                            \
        if ((call) != 0) {                                                                         \
            fail_msg("%s", box_error.text);                                                        \
        }                                                                                          \
    } while (0)

#endif
