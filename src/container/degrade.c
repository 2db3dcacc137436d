/* The list of what the host could not give. */
#include "container/degrade.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void degrade_add(struct degrade *degrade, const char *field, const char *format, ...)
{
    char reason[512];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(reason, sizeof(reason), format, args);
    va_end(args);
    for (char *c = reason; *c != '\0'; c++) {
        *c = *c == '\n' || *c == '\t' ? ' ' : *c;
    }
    char line[768];
    int length = snprintf(line, sizeof(line), "%.200s\t%s\n", field, reason);
    if (length < 0 || (size_t)length > sizeof(degrade->text) - degrade->size) {
        degrade->is_cut = true;
        return;
    }
    memcpy(degrade->text + degrade->size, line, (size_t)length);
    degrade->size += (size_t)length;
}
