/* Memory for keys: never swapped out, not in core files, and wiped before it is given back. */
#ifndef BASE_HOST_SECRET_H
#define BASE_HOST_SECRET_H

#include <stddef.h>

/* Zeroed. NULL: no memory. Where the limit of locked memory (RLIMIT_MEMLOCK) does not permit it, it is not locked. */
void *secret_alloc(size_t size);
/* 'size' as it was asked for. NULL is fine. */
void secret_free(void *memory, size_t size);

#endif
