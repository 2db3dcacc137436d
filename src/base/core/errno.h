/* The errno values that Hull's own code returns, as Linux numbers them (asm-generic/errno*.h), for
 * files that are built without a C library. Hosted files may include <errno.h> instead: the numbers
 * are the same. */
#ifndef BASE_CORE_ERRNO_H
#define BASE_CORE_ERRNO_H

#if __STDC_HOSTED__
#include <errno.h>
#else
#define EPERM      1
#define ENOENT     2
#define EIO        5
#define E2BIG      7
#define EAGAIN     11
#define ENOMEM     12
#define EACCES     13
#define EFAULT     14
#define EBUSY      16
#define EEXIST     17
#define ENODEV     19
#define EINVAL     22
#define ENOSPC     28
#define ERANGE     34
#define ENOSYS     38
#define EPROTO     71
#define EBADMSG    74
#define EOVERFLOW  75
#define EOPNOTSUPP 95
#define ETIMEDOUT  110
#endif

#endif
