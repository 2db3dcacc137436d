/* hulld's eyes on running VMs: a control connection to each, found as their sockets appear below RUN/instances, whoever started
 * them. It knows their states without asking, tells all who listen what happens to them ("paused", "resumed", "reset",
 * "ended"), and starts those that ended by themselves again where their "restart" says so.
 *
 * Threads: the loop's. */
#ifndef MANAGER_INSTANCE_VM_WATCH_H
#define MANAGER_INSTANCE_VM_WATCH_H

#include "manager/instance/instance.h"
#include "manager/manager.h"

struct vm_watch;

int must_check vm_watch_create(struct manager *manager, struct vm_watch **out_watch,
                               struct error *err);
void vm_watch_destroy(struct vm_watch *watch); /* NULL is fine. VMs go on */
/* Without a system call. False: no such VM runs, as far as it is known; then the driver's status says why. */
bool vm_watch_state(const struct vm_watch *watch, const char *name,
                    enum instance_status *out_status, char *why, size_t why_size);

#endif
