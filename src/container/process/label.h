/* Security labels of the next exec (apparmor(7), selinux(8)), through a proc file system that is known to be one. */
#ifndef CONTAINER_PROCESS_LABEL_H
#define CONTAINER_PROCESS_LABEL_H

#include <stddef.h>

#include "container/degrade.h"
#include "container/spec/spec.h"

int must_check label_set_exec(const struct spec_process *process, struct degrade *degrade,
                              struct error *err);

/* What is written for an AppArmor profile: "exec NAME". -EINVAL for a name that could say more than a name. */
int must_check label_format_apparmor(const char *profile, char *out_text, size_t size);

#endif
