/* What cloud-init reads at a guest's first start (data source NoCloud): a small ISO 9660 image labelled "cidata", with names
 * of Joliet. */
#ifndef MANAGER_INSTANCE_VM_SEED_H
#define MANAGER_INSTANCE_VM_SEED_H

#include <stddef.h>
#include <stdint.h>

#include "manager/instance/vm/vm.h"

struct seed_file {
    const char *name; /* "meta-data": lower-case letters, digits, '-', '.', '_'; at most 30 */
    const void *data;
    size_t size;
};

#define SEED_MAX_FILES 8

/* The image, owned by the caller. Files in the order of their names. */
int must_check seed_image_make(const char *label, const struct seed_file *files, size_t count,
                               uint8_t **out_image, size_t *out_size, struct error *err);

/* Writes STATE/instances/NAME/seed.iso if the configuration has user_data or ssh_keys, or 'is_wanted' (the image has
 * cloud-init); else takes it away. */
int must_check vm_seed_write(const struct vm *vm, bool is_wanted, struct error *err);

#endif
