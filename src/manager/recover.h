/* Instances from their folders, where the database does not know them: it was damaged, or is not the one that they were made with. */
#ifndef MANAGER_RECOVER_H
#define MANAGER_RECOVER_H

#include "manager/manager.h"

/* Puts those that STATE/instances/NAME/instance.yaml describes and the database has not. What cannot be read is logged and left as it is.
 * 'out_count': how many. */
int must_check recover_instances(struct manager *manager, unsigned *out_count, struct error *err);

#endif
