/* What a VM is and uses at the moment, for lists. Answered by its control connection within 50 ms, or not at all. */
#ifndef MANAGER_INSTANCE_VM_STATUS_H
#define MANAGER_INSTANCE_VM_STATUS_H

#include "manager/instance/vm/vm.h"

enum instance_status vm_status(const struct place *place, const char *name, char *why,
                               size_t why_size);
int must_check vm_info(const struct place *place, const json_t *document, json_t **out_info,
                       struct error *err);

/* Why a VM that does not run is INSTANCE_ERROR; false: it ended as it should, or never ran. */
bool vm_has_failed(const struct place *place, const char *name, char *why, size_t why_size);

#endif
