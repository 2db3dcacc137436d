#include "base/core/error.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/core/compiler.h"

int error_set(struct error *err, int code, const char *format, ...)
{
    if (err != NULL) {
        va_list args;
        va_start(args, format);
        err->code = code;
        (void)vsnprintf(err->text, sizeof(err->text), format,
                        args); /* a cut text is still a text */
        va_end(args);
    }
    return -code;
}

int error_set_errno(struct error *err, int code, const char *format, ...)
{
    if (err != NULL) {
        va_list args;
        va_start(args, format);
        err->code = code;
        int length = vsnprintf(err->text, sizeof(err->text), format, args);
        va_end(args);
        if (length >= 0 && (size_t)length < sizeof(err->text)) {
            (void)snprintf(err->text + length, sizeof(err->text) - (size_t)length, ": %s",
                           strerror(code));
        }
    }
    return -code;
}

static bool is_within_character(char byte)
{
    return ((uint8_t)byte & 0xc0) == 0x80; /* of UTF-8, behind the first byte */
}

/* Takes 'text' if it fits; else its beginning and its end, which has the reason. */
static void take_text(struct error *err, const char *text)
{
    static const char gap[] = "...";
    size_t length = strlen(text), head = sizeof(err->text) / 3;
    if (length < sizeof(err->text)) {
        memcpy(err->text, text, length + 1);
        return;
    }
    while (head > 0 && is_within_character(text[head])) {
        head--;
    }
    size_t tail = length + head + sizeof(gap) - sizeof(err->text);
    while (is_within_character(text[tail])) {
        tail++;
    }
    memcpy(err->text, text, head);
    memcpy(err->text + head, gap, sizeof(gap) - 1);
    memcpy(err->text + head + sizeof(gap) - 1, text + tail, length - tail + 1);
}

int error_prefix(struct error *err, int rc, const char *format, ...)
{
    if (err != NULL) {
        char text[2 * ERROR_TEXT_SIZE + 2];
        va_list args;
        va_start(args, format);
        int length = vsnprintf(text, ERROR_TEXT_SIZE, format, args);
        va_end(args);
        size_t at = length < 0 ? 0 : (size_t)MIN(length, ERROR_TEXT_SIZE - 1);
        (void)snprintf(text + at, sizeof(text) - at, ": %s", err->text);
        take_text(err, text);
    }
    return rc;
}
