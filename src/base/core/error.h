/* An error as a value: a code and one line of text, owned by the caller, without heap.
 *
 * A function that can fail for more than one reason returns 0 or -errno and takes a 'struct error *'
 * last (NULL allowed). On failure its results are untouched. Text is lower case: what was attempted,
 * on which object, what would be accepted. */
#ifndef BASE_CORE_ERROR_H
#define BASE_CORE_ERROR_H

#include <stdarg.h>

#include "base/core/compiler.h"
#include "base/core/errno.h"

#define ERROR_TEXT_SIZE 240

struct error {
    int code; /* positive errno, 0: no error */
    char text[ERROR_TEXT_SIZE];
};

/* Sets the text and, when 'code' is an errno worth naming, nothing else: the caller writes the reason.
 * Returns -code. */
int error_set(struct error *err, int code, const char *format, ...) printf_like(3, 4);

/* Like error_set and appends ": " and the system's words for 'code'. */
int error_set_errno(struct error *err, int code, const char *format, ...) printf_like(3, 4);

/* For a must_check result that there is nobody to tell of: what ends in any case, or has failed already. */
static inline void error_ignore(int rc)
{
    (void)rc;
}

/* Puts "<format>: " before the text that is there. Returns rc unchanged. */
int error_prefix(struct error *err, int rc, const char *format, ...) printf_like(3, 4);

#endif
