/* Inside of the runtime: a container that is there, as its folder tells. */
#ifndef CONTAINER_RUNTIME_LOADED_H
#define CONTAINER_RUNTIME_LOADED_H

#include "container/runtime/runtime.h"
#include "container/runtime/state.h"

struct loaded {
    struct state state;
    struct cgroup *cgroup; /* NULL: it has come to none yet */
    enum container_status status;
};

int must_check loaded_open(const struct runtime *runtime, const char *id, bool is_locked,
                           struct loaded *out_loaded, struct error *err);
void loaded_close(struct loaded *loaded);
/* Its configuration as it was at create; the caller's. */
int must_check loaded_spec(const struct loaded *loaded, struct spec **out_spec, struct error *err);

#endif
