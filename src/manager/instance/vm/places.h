/* Which number and PCI slot each disk and card of a VM has: kept in STATE/instances/NAME/places.json, so that a VM whose devices
 * came and went while it ran is made again with the same. Devices without an entry get the lowest number that is free, in the
 * order of the document, the root disk first and the seed last. */
#ifndef MANAGER_INSTANCE_VM_PLACES_H
#define MANAGER_INSTANCE_VM_PLACES_H

#include "manager/instance/vm/disks.h"

#define VM_SEED "seed/" /* the disk that cloud-init reads: no device of a document is called so */

struct vm_places {
    json_t *disks, *nets; /* name: {"index", "slot"} */
};

/* What is kept, for the devices of 'vm' as it is. */
int must_check vm_places_load(const struct vm *vm, struct vm_places *out_places, struct error *err);
int must_check vm_places_save(const struct vm *vm, const struct vm_places *places,
                              struct error *err);
void vm_places_fini(struct vm_places *places);
/* A place for one that comes: -ENOSPC. */
int must_check vm_places_add(struct vm_places *places, bool is_disk, const char *name,
                             struct error *err);
void vm_places_remove(struct vm_places *places, bool is_disk, const char *name);
/* ",id=eth0,index=0,slot=3", for --disk and --net. Owned by the caller; NULL: no memory. */
char *vm_places_words(const struct vm_places *places, bool is_disk, const char *name);
unsigned vm_places_index(const struct vm_places *places, bool is_disk, const char *name);
/* "disk0" or "net1": what the VM calls it. */
void vm_places_name(const struct vm_places *places, bool is_disk, const char *name,
                    char out_name[16]);
/* Takes down the slots that the running VM has given. */
void vm_places_learn(const struct vm *vm, struct vm_places *places);

#endif
