/* The words of `hull boot` for a VM. */
#ifndef MANAGER_INSTANCE_VM_COMMAND_H
#define MANAGER_INSTANCE_VM_COMMAND_H

#include "manager/instance/vm/places.h"

#define VM_GUEST_CID 3 /* each VM has its own vsock: no other one is there to be confused with */

/* What came with the image when the VM was made: STATE/instances/NAME/boot.json. */
struct vm_boot {
    const char *kernel, *initrd, *append; /* NULL: none */
};

struct vm_command {
    char **word; /* NULL at the end */
    size_t count, capacity;
    bool is_short_of_memory;
};

/* Networks are attached, what disks stand on is read. 'restore': a saved state, from which it goes on; NULL: it boots. */
int must_check vm_command_make(const struct vm *vm, const struct vm_disks *disks,
                               const struct vm_places *places, const struct vm_boot *boot,
                               const char *restore, bool is_paused, struct vm_command *out_command,
                               struct error *err);
void vm_command_fini(struct vm_command *command);

/* A card of the document as --net says it, without its place; its network is attached. Owned by the caller. */
int must_check vm_nic_option(const struct vm *vm, const char *name, char **out_text,
                             struct error *err);
/* Detaches it again; 'is_forgotten': it comes no more. */
void vm_nic_release(const struct vm *vm, const char *name, bool is_forgotten);

#endif
