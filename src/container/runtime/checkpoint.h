/* Inside of the runtime: what a checkpoint needs of outside when it is restored. It lies in the image's folder as hull.json. */
#ifndef CONTAINER_RUNTIME_CHECKPOINT_H
#define CONTAINER_RUNTIME_CHECKPOINT_H

#include <jansson.h>

#include "container/runtime/criu.h"
#include "container/runtime/runtime.h"

#define CHECKPOINT_FILE "hull.json"
/* Under this name criu is given the network namespace that the container has joined. */
#define CHECKPOINT_NETWORK "hull-network"
#define CHECKPOINT_STREAMS 3 /* standard input, output and error of the first process */

/* In it with is_system: the console's terminal, as criu names it. */
#define CHECKPOINT_TERMINAL "terminal"
#define CHECKPOINT_CONSOLE  "/dev/console"

/* Arguments that checkpoint and restore have in common. */
void checkpoint_add_common(struct criu_words *words, const struct checkpoint_options *options,
                           const char *root, const char *log);
/* The folder for logs, made where it is missing: --work-path, or that of the image. */
const char *checkpoint_work_path(const struct checkpoint_options *options);
int must_check checkpoint_make_folder(const char *path, const char *option, struct error *err);

#endif
