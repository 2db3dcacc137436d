/* Text that is put together piece by piece. */
#include "system/views/text.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_FIRST_CAPACITY 2048

static bool reserve(struct text *text, size_t size)
{
    if (text->is_failed || size > TEXT_MAX_SIZE - text->size) {
        text->is_failed = true;
        return false;
    }
    size_t capacity = text->capacity == 0 ? TEXT_FIRST_CAPACITY : text->capacity;
    while (capacity < text->size + size) {
        capacity *= 2;
    }
    if (capacity != text->capacity) {
        char *data = realloc(text->data, capacity);
        if (data == NULL) {
            text->is_failed = true;
            return false;
        }
        text->data = data;
        text->capacity = capacity;
    }
    return true;
}

void text_append(struct text *text, const char *data, size_t size)
{
    if (reserve(text, size)) {
        memcpy(text->data + text->size, data, size);
        text->size += size;
    }
}

void text_printf(struct text *text, const char *format, ...)
{
    char line[512];
    va_list args;
    va_start(args, format);
    int length = vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    if (length < 0 || (size_t)length >= sizeof(line)) {
        text->is_failed = true;
        return;
    }
    text_append(text, line, (size_t)length);
}

void text_fini(struct text *text)
{
    free(text->data);
    *text = (struct text){0};
}
