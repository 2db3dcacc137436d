/* The choice of an engine, for any list of them: what engine_choose does with the build's own. */
#ifndef ENGINE_CHOOSE_H
#define ENGINE_CHOOSE_H

#include "engine/engine.h"

const struct engine_ops *engine_find_among(const struct engine_ops *const *list, const char *name);
int must_check engine_choose_among(const struct engine_ops *const *list, const char *name,
                                   const struct engine_ops **out_engine, char *out_reason,
                                   struct error *err);

#endif
