/* Images: root file systems from which instances start, in two forms of one content: a template of `system` (for containers) and a
 * disk with kernel and initrd (for VMs).
 *
 * An image's document (kind "image" of the store; its name is its digest: the template's, "sha256-..."; of one that has no
 * container's form that of its files):
 *   name, description, os {"id":"debian","version":"12","codename":"bookworm"}, architecture, packages [..], size_bytes,
 *   created_at, source ("build debian/12"), forms ["container","vm"],
 *   vm {"disk":"disk.qcow2","format":"qcow2","virtual_size_bytes","kernel","initrd","append"}, aliases (only in answers)
 * An alias (kind "alias": "debian/12") is {name, digest}.
 *
 * Jobs (image_jobs) and their requests:
 *   image-build  {distribution: "debian/12", variant, alias, packages, forms}
 *   image-import {path or url, alias, format, kernel, initrd, append}: format tar, qcow2, raw, vmdk, vhdx, oci; else found out
 *   image-export {digest, path, form, format, vm: the document's}
 *   image-delete {digest, aliases: those of it}
 *   image-prune  {images: [digests that nobody calls or uses], known: [digests of all images]}
 *   image-check  {digest}
 *
 * Threads: none. */
#ifndef MANAGER_IMAGE_IMAGE_H
#define MANAGER_IMAGE_IMAGE_H

#include <jansson.h>
#include <stdbool.h>

#include "base/core/error.h"
#include "manager/operation/job.h"
#include "manager/place.h"
#include "manager/store/store.h"

/* In hulld: by alias, digest, or the beginning of a digest that fits one alone. A new reference. -ENOENT with the aliases that
 * there are and how to build one. */
int must_check image_find(struct documents *documents, const char *name, json_t **out_image,
                          struct error *err);

/* In a worker: makes the VM's form of an image that has only the container's, if that is so; the document with it is put. Progress
 * is told. Several at once for one image are fine. */
int must_check image_need_vm_form(struct job *job, const json_t *image, json_t **out_image,
                                  struct error *err);
/* Its files: new disks stand on 'disk', which is never written. 'kernel' "": it boots by itself (firmware). -EBADMSG: they are not
 * as they were made (sizes and times are compared). */
struct image_vm_files {
    char disk[PATH_MAX], format[16], kernel[PATH_MAX], initrd[PATH_MAX], append[512];
};
int must_check image_vm_files(const struct place *place, const json_t *image,
                              struct image_vm_files *out_files, struct error *err);

#endif
