/* Parts of scattered memory. */
#ifndef BASE_HOST_IOV_H
#define BASE_HOST_IOV_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/* Bytes [skip, skip + size) of a vector as a vector of its own, which has room for 'count' parts. Returns how many it has. */
int iov_cut(struct iovec *out_iov, const struct iovec *iov, int count, uint64_t skip,
            uint64_t size);
void iov_zero(const struct iovec *iov, int count, uint64_t skip, uint64_t size);
void iov_put(const struct iovec *iov, int count, uint64_t skip, const void *data, size_t size);
void iov_get(const struct iovec *iov, int count, uint64_t skip, void *out_data, size_t size);

#endif
