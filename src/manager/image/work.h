/* The jobs of images, and what they share. */
#ifndef MANAGER_IMAGE_WORK_H
#define MANAGER_IMAGE_WORK_H

#include <jansson.h>

#include "base/core/error.h"
#include "manager/image/image.h"
#include "manager/image/names.h"
#include "manager/operation/job.h"
#include "system/store.h"
#include "system/template/template.h"

int must_check image_build(struct job *job, json_t **out_result, struct error *err);
int must_check image_import(struct job *job, json_t **out_result, struct error *err);
int must_check image_export(struct job *job, json_t **out_result, struct error *err);
int must_check image_delete(struct job *job, json_t **out_result, struct error *err);
int must_check image_prune(struct job *job, json_t **out_result, struct error *err);
int must_check image_check(struct job *job, json_t **out_result, struct error *err);

/* -EBUSY: an instance uses it. */
int must_check work_remove_image(struct job *job, const char *digest, struct error *err);

/* A template is built for the job; see template_build. Its name afterwards is image_template_name's. A worker that takes up the
 * work of a dead one finds what that one had built. */
int must_check work_template(struct job *job, struct template_build *request,
                             char out_digest[TEMPLATE_DIGEST_SIZE], struct error *err);
/* The document of an image: what is common to all. 'has_template': what the tree says of itself is in it. A new reference. */
int must_check work_document(const struct place *place, const char *digest, const char *source,
                             bool has_template, json_t **out_document, struct error *err);
/* The document, perhaps the form for VMs, and the alias (NULL or "": none) are put. Takes the document over; the result is
 * {digest, alias}. */
int must_check work_finish(struct job *job, json_t *document, bool needs_vm_form, const char *alias,
                           json_t **out_result, struct error *err);
/* Copies a disk into another format: all of it, zeros left out. 'to' is replaced. */
int must_check work_convert(struct job *job, const char *from, const char *from_format,
                            const char *to, const char *to_format, struct error *err);
/* Its size as a guest sees it, and its format where 'format' is NULL (then out_format is told). */
int must_check work_disk_info(struct job *job, const char *path, const char *format,
                              char out_format[16], uint64_t *out_size, struct error *err);

#endif
