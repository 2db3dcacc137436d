/* What the files of the VM driver share. A managed VM is a process of its own, `hull boot`, which outlives whoever started it:
 *
 *   RUN/instances/NAME/   pid (locked as long as it runs), status (its exit status), control.sock, console.sock, vsock/, boot.err
 *   STATE/instances/NAME/ boot.json (kernel, initrd, append), places.json (places.h), seed.iso, logs/ (vm.log, console.log),
 *                         snapshots/SNAPSHOT/memory, and cards.json of one that was imported
 *
 * Its disks lie in pools. Threads: none. */
#ifndef MANAGER_INSTANCE_VM_VM_H
#define MANAGER_INSTANCE_VM_VM_H

#include <jansson.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/core/error.h"
#include "manager/instance/instance.h"

/* An instance that something is done to. */
struct vm {
    const struct place *place;
    const json_t *document; /* expanded; borrowed */
    const char *name;
    const json_t *pools,
        *networks; /* their documents by name, of the job's request; NULL: none came with it */
};

/* 'job' NULL: a session. Of 'document' only the loan is taken. */
void vm_init(struct vm *vm, const struct place *place, const struct job *job,
             const json_t *document);
void vm_run_path(const struct vm *vm, const char *file, char out_path[PATH_MAX]);
void vm_state_path(const struct vm *vm, const char *file, char out_path[PATH_MAX]);
/* A value of its configuration; NULL: it is not said. */
const char *vm_config(const struct vm *vm, const char *key);
bool vm_is_on(const char *value); /* "true" */
/* What the guest calls itself. */
const char *vm_hostname(const struct vm *vm);
/* A property of a device, or NULL. */
const char *vm_property(const json_t *device, const char *key);
/* The pool of a device, and the network of a NIC: new references. Where no document came with the job, "default" is what
 * every host has. */
int must_check vm_find_pool(const struct vm *vm, const json_t *device, json_t **out_pool,
                            struct error *err);
int must_check vm_find_network(const struct vm *vm, const json_t *nic, json_t **out_network,
                               struct error *err);

/* A text with an end, as printf makes it; owned by the caller. NULL: no memory. */
char *vm_text(const char *format, ...) printf_like(1, 2);

#endif
