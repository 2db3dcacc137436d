/* A VM's start and end. */
#ifndef MANAGER_INSTANCE_VM_LIFE_H
#define MANAGER_INSTANCE_VM_LIFE_H

#include "manager/instance/vm/vm.h"

/* 'restore': a saved state to go on from; NULL: it boots. 'is_paused': the guest waits for resume. */
int must_check vm_life_start(const struct vm *vm, const char *restore, bool is_paused,
                             struct error *err);
/* One that ended badly is stopped afterwards. -ETIME: it was ended, as the guest did not end in time. -EALREADY: it does not
 * run. Asks the guest (by its agent, else the power button), and ends it after 'timeout_s' (-1: stop_timeout), or at once. */
int must_check vm_life_stop(const struct vm *vm, struct job *job, bool is_forced, int timeout_s,
                            struct error *err);
/* Its NICs' ends on the host go; with 'is_forgotten' also their leases. */
void vm_life_detach(const struct vm *vm, bool is_forgotten);

/* instance_driver.change. */
int must_check vm_change(struct job *job, const json_t *document, const json_t *old,
                         bool *out_waits, struct error *err);

#endif
