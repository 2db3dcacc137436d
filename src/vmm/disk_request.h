/* What the verbs for disks read out of their requests. */
#ifndef VMM_DISK_REQUEST_H
#define VMM_DISK_REQUEST_H

#include "vmm/vmm.h"

/* "disk0". Returns 'out_name'. */
const char *vmm_disk_name(size_t index, char *out_name, size_t size);
/* The disk that a request names: as above, its id, or its serial number. */
int must_check request_find_disk(const struct vmm *vmm, const struct control_request *request,
                                 size_t *out_disk, struct error *err);
/* NULL: not given; an error if it is given and no text that fits. */
int must_check request_get_text(const struct control_request *request, const char *key,
                                bool is_needed, const char **out_text, struct error *err);
int must_check request_get_number(const struct control_request *request, const char *key,
                                  uint64_t max, uint64_t fallback, uint64_t *out_number,
                                  struct error *err);
/* -EBUSY: the disk has a job. */
int must_check request_check_free(const struct vmm *vmm, const struct control_request *request,
                                  size_t disk, struct error *err);
/* -EBUSY: it has one that needs the disk's images as they are. */
int must_check request_check_chain(const struct vmm *vmm, const struct control_request *request,
                                   size_t disk, struct error *err);
/* -EOPNOTSUPP: the disk's changes end with the VM, so images must not stand on them. */
int must_check request_check_lasting(const struct vmm *vmm, const struct control_request *request,
                                     size_t disk, struct error *err);
/* -EPERM: what is encrypted would get into a file that is not, and the request does not say that it may. */
int must_check request_check_plain(const struct vmm *vmm, const struct control_request *request,
                                   size_t disk, struct error *err);
/* 'fd', which came with it, is a regular file or a block device. */
int must_check request_check_file(const struct control_request *request, int fd, struct error *err);
/* How files that come later run: as the disk's, as far as there are rings in reserve. */
enum block_aio request_aio(const struct vmm *vmm, size_t disk);
/* '*fd', a socket that came with the request, is taken: with "channel" true one that brings connections to hull-storage, which is
 * started again when it ends and waited for as "reconnect" says; else a connection to an NBD server. */
int must_check request_open_server(struct vmm *vmm, const struct control_request *request, int *fd,
                                   const char *name, bool is_for_format, struct block **out_file,
                                   struct error *err);
/* The descriptor that came with the request, as a block of plain bytes named by "name": a file, in which there is an image; a block
 * device; or the socket of a server, as above. In the last two an image of a format has still to be made
 * ('out_is_bare'). */
int must_check request_take_file(struct vmm *vmm, struct control_request *request, size_t disk,
                                 const char *format, bool *out_is_bare, struct block **out_file,
                                 struct error *err);

#endif
