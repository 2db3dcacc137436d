/* Programs of the host that do a piece of work and end. */
#ifndef SYSTEM_LAYERS_PROGRAM_H
#define SYSTEM_LAYERS_PROGRAM_H

#include "base/core/error.h"

/* Runs args[0], looked for in the system's folders, with an environment of its own and without input, and waits for it.
 * 'package' is what has it. Returns its exit status if that is at most 'ok_max', else -EIO with the last line that it wrote;
 * -ENOENT: it is not installed. */
int must_check layers_run_program(const char *const *args, int ok_max, const char *package,
                                  struct error *err);

#endif
