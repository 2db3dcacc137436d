/* What `exec` runs: the container's configuration with another process in it. */
#ifndef CONTAINER_RUNTIME_EXEC_SPEC_H
#define CONTAINER_RUNTIME_EXEC_SPEC_H

#include "container/runtime/runtime.h"
#include "container/spec/spec.h"

struct exec_spec {
    struct spec value;     /* shares what 'config' and 'document' have */
    struct spec *document; /* of --process; NULL: none */
    const char **args, **env;
    uint32_t *gids;
};

/* 'config' has to live as long. */
int must_check exec_spec_make(const struct spec *config, const struct exec_options *options,
                              struct exec_spec *out_spec, struct error *err);
void exec_spec_fini(struct exec_spec *spec);

#endif
