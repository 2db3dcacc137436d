/* Our end of a VM's control connection. */
#ifndef CONTROL_CLIENT_H
#define CONTROL_CLIENT_H

#include <jansson.h>

#include "base/core/error.h"

struct control_client {
    int fd;
    char *buffer;
    size_t used, capacity;
};

int must_check control_client_open(const char *path, struct control_client *out_client,
                                   struct error *err);
void control_client_close(struct control_client *client);

/* Sends one request object, with descriptor 'fd' if it is not -1. */
int must_check control_client_send(struct control_client *client, const json_t *request, int fd,
                                   struct error *err);
/* The same with up to two; -1 after the last one. */
int must_check control_client_send_files(struct control_client *client, const json_t *request,
                                         const int fd[2], struct error *err);
/* The same with 'count' of them. */
int must_check control_client_send_many(struct control_client *client, const json_t *request,
                                        const int *fd, size_t count, struct error *err);
/* The next line, owned by the caller. -ENODATA: the VM closed the connection. */
int must_check control_client_receive(struct control_client *client, json_t **out_line,
                                      struct error *err);
/* Waits for the answer with this id and returns its "ok" part, owned by the caller; an answer with an error becomes
 * 'err'. 'event' (may be NULL) is called for the lines before it. */
int must_check control_client_await(struct control_client *client, json_int_t id,
                                    void (*event)(void *ctx, const json_t *line), void *ctx,
                                    json_t **out_answer, struct error *err);

#endif
