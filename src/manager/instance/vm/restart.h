/* VMs that ended by themselves are started again where "restart" of their configuration says so: after 1 s, 2 s, 4 s ... up to
 * a minute; from the beginning for one that ran for five minutes.
 *
 * Threads: the loop's. */
#ifndef MANAGER_INSTANCE_VM_RESTART_H
#define MANAGER_INSTANCE_VM_RESTART_H

#include "manager/manager.h"

struct vm_restarts;

int must_check vm_restarts_create(struct manager *manager, struct vm_restarts **out_restarts,
                                  struct error *err);
void vm_restarts_destroy(struct vm_restarts *restarts); /* NULL is fine */
void vm_restarts_started(struct vm_restarts *restarts, const char *name);
/* It may be that an operation wanted it so: then nothing is done. */
void vm_restarts_ended(struct vm_restarts *restarts, const char *name, bool has_failed);
void vm_restarts_forget(struct vm_restarts *restarts, const char *name);

/* Of the policy "no", "on-failure" or "always" (NULL: no). */
bool vm_restart_is_wanted(const char *policy, bool has_failed);
/* How long after the end of the 'tries'-th life in a row (from 0). */
uint64_t vm_restart_delay_ns(unsigned tries);

#endif
