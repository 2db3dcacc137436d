/* What hulld and its instances count, as Prometheus reads it (text format 0.0.4). */
#ifndef MANAGER_API_METRICS_H
#define MANAGER_API_METRICS_H

#include <stdio.h>

#include "manager/manager.h"

/* New memory. */
int must_check metrics_write(struct manager *manager, char **out_text, struct error *err);
/* Its part about instances. */
void metrics_write_instances(struct manager *manager, FILE *out);

#endif
