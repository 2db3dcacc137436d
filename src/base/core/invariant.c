#include "base/core/invariant.h"

#include <stdio.h>
#include <stdlib.h>

void invariant_failed(const char *expression, const char *file, int line)
{
    (void)fprintf(stderr, "hull: internal error: %s is false at %s:%d; please report this\n",
                  expression, file, line);
    abort();
}
