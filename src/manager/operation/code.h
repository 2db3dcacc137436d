/* Errors, and times, as those who ask see them: {"code":"not-found","message":"..."}. */
#ifndef MANAGER_OPERATION_CODE_H
#define MANAGER_OPERATION_CODE_H

#include <jansson.h>

#include "base/core/error.h"

/* The word for a positive errno: "invalid", "forbidden", "not-found", "exists", "busy", "unsupported", "no-space", "cancelled",
 * else "failed". */
const char *operation_code_name(int code);
/* A new reference; NULL: no memory. What is no UTF-8 in the text is replaced. */
json_t *operation_error(const struct error *err);

/* Now, as RFC 3339 has it, in UTC, with milliseconds: texts sort as their times do. */
#define OPERATION_TIME_SIZE 40
void operation_time(char out_text[OPERATION_TIME_SIZE]);

#endif
