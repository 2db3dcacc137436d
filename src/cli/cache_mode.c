#include "cli/cache_mode.h"

#include <stddef.h>
#include <string.h>

#include "base/core/compiler.h"

static const struct {
    const char *name;
    struct cache_mode mode;
} modes[] = {
    {"writeback", {0}},
    {"none", {.is_direct = true}},
    {"writethrough", {.is_write_through = true}},
    {"directsync", {.is_direct = true, .is_write_through = true}},
    {"unsafe", {.is_unsafe = true}},
};

const struct cache_mode *cache_mode_find(const char *name)
{
    for (size_t i = 0; i < ARRAY_COUNT(modes); i++) {
        if (strcmp(name, modes[i].name) == 0) {
            return &modes[i].mode;
        }
    }
    return NULL;
}
