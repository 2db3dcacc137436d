/* The kernel that VMs of images boot: Debian's for clouds, of the image's own suite, from the mirror that the host uses. Kept unpacked under the cache folder,
 * CACHE/kernels/VERSION/{vmlinuz, layer/usr/lib/modules/VERSION}, and made into a boot medium with the host's busybox. */
#ifndef MANAGER_IMAGE_KERNEL_H
#define MANAGER_IMAGE_KERNEL_H

#include <limits.h>

#include "base/core/error.h"
#include "manager/operation/job.h"

/* The suite whose kernel belongs to a distribution: NULL where that is no Debian. Borrowed from 'codename'. */
const char *kernel_suite(const char *id, const char *codename);

struct kernel {
    char version[80];
    char image[PATH_MAX]; /* vmlinuz */
    char layer[PATH_MAX]; /* a folder with usr/lib/modules/VERSION */
};

/* The newest that apt knows of the suite ("trixie"; NULL: the host's); when it cannot be had, the host's, or the newest that is kept.
 * Errors: -ENOENT naming what is missing. */
int must_check kernel_get(struct job *job, const char *suite, struct kernel *out_kernel,
                          struct error *err);
/* Writes an initrd to 'path' that loads the virtio modules and goes on in root=. 'scratch' is an empty folder. */
int must_check kernel_make_initrd(struct job *job, const struct kernel *kernel, const char *scratch,
                                  const char *path, struct error *err);

#endif
