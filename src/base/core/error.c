#include "base/core/error.h"

#include <stdio.h>
#include <string.h>

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

int error_prefix(struct error *err, int rc, const char *format, ...)
{
    if (err != NULL) {
        char old[ERROR_TEXT_SIZE];
        memcpy(old, err->text, sizeof(old));
        va_list args;
        va_start(args, format);
        int length = vsnprintf(err->text, sizeof(err->text), format, args);
        va_end(args);
        if (length >= 0 && (size_t)length < sizeof(err->text)) {
            (void)snprintf(err->text + length, sizeof(err->text) - (size_t)length, ": %s", old);
        }
    }
    return rc;
}
