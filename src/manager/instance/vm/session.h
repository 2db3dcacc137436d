/* Sessions in VMs: programs and files by hull-agent, the console, its log. */
#ifndef MANAGER_INSTANCE_VM_SESSION_H
#define MANAGER_INSTANCE_VM_SESSION_H

#include "manager/instance/vm/vm.h"

/* See instance_driver. */
int must_check vm_session(const struct place *place, const json_t *document, const json_t *request,
                          int fd, struct error *err);

#endif
