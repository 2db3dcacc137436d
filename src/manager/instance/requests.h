/* hulld's side of instances: what answers and jobs' requests are made of. */
#ifndef MANAGER_INSTANCE_REQUESTS_H
#define MANAGER_INSTANCE_REQUESTS_H

#include "manager/api/api.h"
#include "manager/instance/instance.h"

/* All documents of a kind by their names: a new object. */
int must_check request_related(struct documents *documents, const char *kind, json_t **out_all,
                               struct error *err);
/* For lists: name, kind, status, image, ipv4, ipv6, cpus, memory_bytes, node, created_at. */
json_t *request_summary(struct manager *manager, const json_t *document, const json_t *profiles);
/* The document with "expanded", "status", "info". */
json_t *request_full(struct manager *manager, const json_t *document, const json_t *profiles);

/* Adds what jobs need ("profiles", "networks", "pools") to a request, and begins it with the instance and all it uses as resources.
 * 'other': a second instance, or NULL. 'document' is expanded where it can be. 'request' is consumed. */
int must_check request_start(struct manager *manager, const char *kind, const char *verb,
                             const char *name, const char *other, const json_t *document,
                             json_t *request, char out_id[OPERATION_ID_SIZE], struct error *err);
/* The same as the answer of a call. */
int must_check request_begin(struct api_call *call, const char *kind, const char *verb,
                             const char *name, const char *other, const json_t *document,
                             json_t *request, struct error *err);

#endif
