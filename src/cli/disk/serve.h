/* What `hull disk serve` is made of: where it listens, and how it stays in the background. */
#ifndef CLI_DISK_SERVE_H
#define CLI_DISK_SERVE_H

#include <stddef.h>

#include "block/nbd_server.h"
#include "cli/disk/disk.h"

#define SERVE_MAX_SOCKETS 16

/* Where clients connect. */
struct serve_place {
    const char *socket_path; /* or: */
    const char *address;     /* NULL: this machine alone */
    const char *port;        /* NULL: the protocol's own; "0": any */
};

struct serve_sockets {
    int fd[SERVE_MAX_SOCKETS];
    unsigned count;
    char uri_start
        [256]; /* "nbd://HOST:PORT/" or "nbd+unix:///" of the first one; "" if it cannot be told */
    char uri_end[512];     /* "?socket=PATH" or "" */
    const char *made_path; /* to be removed at the end; NULL: none */
};

/* Listens there, or takes the sockets that systemd passes (LISTEN_FDS in the environment). */
int must_check serve_listen(const struct serve_place *place, struct serve_sockets *out_sockets,
                            struct error *err);
/* Appends 'text' with what a URI cannot hold as %XX. */
void serve_uri_append(char *uri, size_t size, const char *text);

/* What is to be served of an image. */
struct serve_wishes {
    const struct disk_image *image;
    const char *description;
    const char *const *bitmap; /* names */
    unsigned bitmap_count;
    bool is_readonly;
    bool is_temporary; /* what clients write is lost */
};

/* Opens an image, and adds it to the server as an export. The block is the caller's, to be closed after the server. */
int must_check serve_export_open(const struct serve_wishes *wishes, const char *path,
                                 const char *name, struct event_loop *loop,
                                 struct nbd_server *server, struct block **out_block,
                                 struct error *err);

/* All is open: from now on nothing else is, and no program is started. For images of this machine alone, as the libraries of
 * remote ones need more. */
int must_check serve_jail_enter(struct error *err);

/* The process that goes on in the background returns 0; the one of the terminal waits until serve_ready or until that ended, and
 * does not return. */
int must_check serve_fork(int *out_ready_fd, struct error *err);
/* Lets the one of the terminal go; standard streams lead nowhere from then on. */
void serve_ready(int ready_fd);

#endif
