/* What hull-vmm and hull-share say to each other over a stream socket: FUSE requests and replies (linux/fuse.h), each behind a frame.
 * Both run on one machine and belong to one build, so numbers are the machine's own. Neither trusts the other. */
#ifndef DEVICE_VIRTIO_FS_WIRE_H
#define DEVICE_VIRTIO_FS_WIRE_H

#include <stdint.h>

#define FS_MAX_PAGES 252u /* of data in a request: with its headers they fit into the queue */
#define FS_MAX_DATA  (FS_MAX_PAGES * 4096u)
/* A request or reply: its data and the largest head that there is, which has two names in it. */
#define FS_MAX_MESSAGE (FS_MAX_DATA + 16384u)
#define FS_MAX_STATE   (256u << 20)
#define FS_TAG_SIZE    36 /* without a 0 at the end, if it is that long */

enum fs_frame_kind {
    FS_REQUEST = 1, /* both ways; a reply has the request's tag */
    FS_FORGET_ALL,  /* to hull-share, which does not answer: the guest starts anew */
    FS_SAVE,        /* answered with the state: what the guest knows and has open */
    FS_RESTORE,     /* with a state, answered without data; 'tag' is 0 or an errno */
};

struct fs_frame {
    uint32_t size; /* of what follows */
    uint32_t kind;
    uint32_t tag;
    uint32_t room; /* of a request: how many bytes its reply may have; 0: it gets none */
};

#endif
