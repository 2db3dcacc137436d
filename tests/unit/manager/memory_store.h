/* The store of the manager in memory, for tests: it fails when told to, remembers the changes it kept, and may lie in a file that is replaced whole. */
#ifndef TEST_MEMORY_STORE_H
#define TEST_MEMORY_STORE_H

#include "manager/store/store.h"

/* The next 'count' writes fail with this errno. */
void memory_store_fail(struct documents *documents, int code, unsigned count);
/* "put instance a", "drop instance a": what was kept, in its order, of all kinds but operations. Borrowed. */
const json_t *memory_store_log(const struct documents *documents);

#endif
