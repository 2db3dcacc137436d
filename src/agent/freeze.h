/* File systems that stand still for a snapshot of their disks. */
#ifndef AGENT_FREEZE_H
#define AGENT_FREEZE_H

#include <sys/types.h>

#include "base/core/error.h"

/* Which ones are frozen and by whom, in memory that all processes of the agent share: whoever froze may be killed. */
struct freeze_record;

int must_check freeze_record_create(struct freeze_record **out_record, struct error *err);
/* Freezes, answers, and thaws when the host closes the connection, or after a minute. -EBUSY: they are frozen. */
int must_check freeze_serve(int fd, struct freeze_record *record, struct error *err);
/* Thaws what another connection froze, and answers. */
int must_check freeze_thaw(int fd, struct freeze_record *record, struct error *err);
/* The process 'pid' has ended (0: any): thaws what it left frozen. */
void freeze_forget(struct freeze_record *record, pid_t pid);

#endif
