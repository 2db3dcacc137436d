/* Text that is put together piece by piece, of limited size: what a file shows. */
#ifndef SYSTEM_VIEWS_TEXT_H
#define SYSTEM_VIEWS_TEXT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/core/compiler.h"

#define TEXT_MAX_SIZE ((size_t)1 << 20) /* cpuinfo of 512 CPUs */

/* All zero: empty. */
struct text {
    char *data;
    size_t size, capacity;
    bool is_failed; /* memory was out, or the text would be too long: what follows is left out */
};

void text_append(struct text *text, const char *data, size_t size);
void text_printf(struct text *text, const char *format, ...) printf_like(2, 3);
void text_fini(struct text *text);

#endif
