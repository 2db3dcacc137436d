/* The disks of a VM: its devices of type disk, as files of pools or of the host. */
#ifndef MANAGER_INSTANCE_VM_DISKS_H
#define MANAGER_INSTANCE_VM_DISKS_H

#include "manager/instance/vm/process.h"
#include "manager/pool/pool.h"

#define VM_MAX_DISKS 15 /* of hull boot's 16: one is the seed */

struct vm_disk {
    const char *device;     /* the device's name: "root" */
    const json_t *settings; /* borrowed from the document */
    char name[160];         /* in its pool; "": a file of the host, 'source' */
    bool is_volume;         /* it lives without the instance, too */
    bool is_readonly;
    uint64_t size_bytes; /* 0: not said */
    json_t *pool;
    const struct pool_driver *driver;
    struct pool_disk file; /* after vm_disks_find */
};

struct vm_disks {
    struct vm_disk disk[VM_MAX_DISKS];
    unsigned count;
};

/* The root disk is the first. -EINVAL naming the device. vm_disks_fini also after a failure. */
int must_check vm_disks_init(const struct vm *vm, struct vm_disks *out_disks, struct error *err);
void vm_disks_fini(struct vm_disks *disks);
/* Before a start: where many files stand on each other, those that nobody needs apart any more, as of snapshots and clones that
 * are gone, become one. What cannot be done now waits for the next start. */
void vm_disks_settle(struct vm_disks *disks);
/* Where they are now: their pools say it anew after each snapshot. */
int must_check vm_disks_find(struct vm_disks *disks, struct error *err);

/* Those of the instance are made; what fails takes them away again. */
int must_check vm_disks_create(struct vm_disks *disks, const struct pool_disk *base,
                               struct error *err);
int must_check vm_disks_remove(struct vm_disks *disks, struct error *err);

/* "PATH,format=qcow2,serial=root,backing=...": for --disk. Owned by the caller. */
int must_check vm_disk_option(const struct vm_disk *disk, char **out_text, struct error *err);

/* Does something to all disks of the instance (not volumes, not files of the host) while its guest stands still, or is
 * stopped: what the guest was told of is in the files before, and the VM goes on with what the pools say that the disks are
 * afterwards. 'client' NULL: it is stopped. */
typedef int (*vm_disk_fn)(void *ctx, struct vm_disk *disk, struct error *err);
int must_check vm_disks_change(struct vm_disks *disks, struct control_client *client, vm_disk_fn fn,
                               void *ctx, struct error *err);

/* What a worker that died between the pool's change and the VM's has left: the VM goes on with what its pools say. Its guest
 * stands still. */
int must_check vm_disks_reconcile(struct vm_disks *disks, struct control_client *client,
                                  struct error *err);

#endif
