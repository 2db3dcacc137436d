/* The engine "soft" for the list of engines. */
#ifndef ENGINE_SOFT_SOFT_H
#define ENGINE_SOFT_SOFT_H

#include "engine/engine.h"

extern const struct engine_ops soft_engine_ops;

/* For engine_prepare. */
void soft_engine_prepare(void);

#endif
