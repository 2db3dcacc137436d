/* Disks and cards of a VM that runs: they come and go at once, as far as its guest plays along. */
#ifndef MANAGER_INSTANCE_VM_DEVICES_H
#define MANAGER_INSTANCE_VM_DEVICES_H

#include "manager/instance/vm/places.h"

/* The disk's file is there, and found. What fails leaves no place. 'out_waits' is set if the guest does not listen to what comes: it
 * finds it at its next start. */
int must_check vm_plug_disk(const struct vm *vm, struct vm_places *places,
                            const struct vm_disk *disk, bool *out_waits, struct error *err);
/* Its network is attached, and let go of again if it fails. */
int must_check vm_plug_nic(const struct vm *vm, struct vm_places *places, const char *name,
                           bool *out_waits, struct error *err);
/* Asks the guest to let go of it and waits for that. -EBUSY: it does not; what it was asked for stays asked for. */
int must_check vm_unplug(const struct vm *vm, struct vm_places *places, bool is_disk,
                         const char *name, struct error *err);

/* Has what a worker that died halfway has plugged taken out again, as far as the guest plays along. */
void vm_unplug_strangers(const struct vm *vm, const struct vm_places *places);

#endif
