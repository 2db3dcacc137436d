/* Images of the OCI: fetched by skopeo, their layers put on each other in a folder. */
#ifndef MANAGER_IMAGE_OCI_H
#define MANAGER_IMAGE_OCI_H

#include <limits.h>

#include "base/core/error.h"
#include "manager/operation/job.h"

/* 'from' is a name as skopeo has them: docker://..., oci:FOLDER[:TAG], oci-archive:FILE, docker-archive:FILE. 'folder' is the
 * job's own. 'out_root' is a folder below it. */
int must_check oci_unpack(struct job *job, const char *from, const char *folder,
                          char out_root[PATH_MAX], struct error *err);

#endif
