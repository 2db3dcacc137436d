/* What VMs of images have that containers do not. */
#ifndef MANAGER_IMAGE_VM_FORM_H
#define MANAGER_IMAGE_VM_FORM_H

#include "base/core/error.h"

#define VM_FORM_APPEND "root=/dev/vda rw console=hvc0 net.ifnames=0 quiet"

struct vm_file {
    const char *path, *text;
};
extern const struct vm_file vm_files[]; /* a row without a path ends it */

int must_check vm_form_copy(const char *from, const char *to, struct error *err);

#endif
