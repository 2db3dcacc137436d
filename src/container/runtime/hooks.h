/* Hooks: programs that the configuration has run at points of a container's life (config.md, POSIX-platform Hooks). */
#ifndef CONTAINER_RUNTIME_HOOKS_H
#define CONTAINER_RUNTIME_HOOKS_H

#include "container/runtime/state.h"
#include "container/spec/spec.h"

/* Runs them one after the other in the caller's namespaces, each with the container's state, which is 'status', on standard input.
 * Errors: that of the first that fails, ends by a signal or takes longer than its timeout (it is killed then); 'field' is its name
 * in texts ("hooks.poststop"). */
int must_check hooks_run(const struct spec_hooks_at *hooks, const char *field,
                         const struct state *state, enum container_status status,
                         struct error *err);

#endif
