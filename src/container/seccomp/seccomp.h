/* Seccomp profiles: compiled by libseccomp, kept compiled under their text, installed. */
#ifndef CONTAINER_SECCOMP_SECCOMP_H
#define CONTAINER_SECCOMP_SECCOMP_H

#include "container/degrade.h"
#include "container/spec/spec.h"

/* A compiled filter; plain memory, so that a forked child may install it. */
struct seccomp_program;

/* 'cache': a folder that only the caller can write to, in which compiled filters are kept beside their text (compared whole, so that
 * no two texts meet), NULL: none. It is made where its parent is there; it holds 64 filters at most. Unusable or damaged entries
 * are made anew. Names of system calls that libseccomp does not know are passed over; what the kernel lacks goes to 'degrade'.
 * Errors: -EINVAL and the field. */
int must_check seccomp_program_create(const struct spec_seccomp *seccomp, const char *cache,
                                      struct seccomp_program **out_program, struct degrade *degrade,
                                      struct error *err);
void seccomp_program_free(struct seccomp_program *program);
bool seccomp_program_notifies(const struct seccomp_program *program);

/* For the calling thread. 'out_listener' is the caller's descriptor where the program notifies, else -1. */
int must_check seccomp_program_install(const struct seccomp_program *program, int *out_listener,
                                       struct error *err);

/* A connection to the agent at listenerPath, a path of the runtime's: made before the process is where that leads elsewhere. */
int must_check seccomp_connect_agent(const struct spec_seccomp *seccomp, struct error *err);
/* Hands the listener to the agent: the container process state (runtime.md) as JSON, with the descriptor. 'state' is the container's
 * state as JSON. */
int must_check seccomp_send_listener(const struct spec_seccomp *seccomp, int agent, int listener,
                                     pid_t pid, const char *state, struct error *err);

#endif
