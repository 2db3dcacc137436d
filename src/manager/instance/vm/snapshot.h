/* Snapshots and clones of VMs. */
#ifndef MANAGER_INSTANCE_VM_SNAPSHOT_H
#define MANAGER_INSTANCE_VM_SNAPSHOT_H

#include "manager/instance/vm/vm.h"

/* In a snapshot's folder: which addresses its memory knows its cards by, as "devices" of a document, if it came from elsewhere. */
#define VM_CARDS "cards.json"

/* See instance_driver. */
int must_check vm_snapshot(struct job *job, const json_t *document, const char *snapshot,
                           bool has_memory, struct error *err);
int must_check vm_restore(struct job *job, const json_t *document, const char *snapshot,
                          struct error *err);
int must_check vm_forget(struct job *job, const json_t *document, const char *snapshot,
                         struct error *err);
int must_check vm_clone(struct job *job, const json_t *document, const json_t *from,
                        const char *snapshot, bool is_live, struct error *err);

/* In a recovery, before what was made under the name 'not_name' is taken away: a VM that was to be cloned, and that the dead
 * worker left standing still, goes on. */
void vm_release_left(struct job *job, const char *not_name);

#endif
