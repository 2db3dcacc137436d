/* What this host offers besides engines. Each check appends rows {"area", "name", "status", "reason", "remedy"}. */
#ifndef CLI_HOST_CHECKS_H
#define CLI_HOST_CHECKS_H

#include <jansson.h>

/* Appends one row. 'status' is usable, limited or unusable. */
void host_row(json_t *rows, const char *area, const char *name, const char *status,
              const char *reason, const char *remedy);

void host_check_containers(json_t *rows);
void host_check_networking(json_t *rows);
void host_check_storage(json_t *rows);
void host_check_firmware(json_t *rows);

#endif
