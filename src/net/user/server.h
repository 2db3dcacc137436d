/* The parts of a server; for serve.c, control.c and attach.c. */
#ifndef NET_USER_SERVER_H
#define NET_USER_SERVER_H

#include <jansson.h>

#include "net/user/line.h"
#include "net/user/serve.h"
#include "net/user/stack.h"

#define SERVER_MAX_CLIENTS 16

struct server {
    struct ether_switch sw;
    struct stack_settings settings;
    struct stack *stack;
    uint32_t network, mask; /* of IPv4, as numbers */
    struct line *line[SWITCH_MAX_PORTS];
    unsigned line_count;
    int listen_fd;
    int client[SERVER_MAX_CLIENTS]; /* -1: none */
    unsigned next_client;           /* to be replaced when all are taken */
    int64_t idle_ms;                /* how long it stays without ports */
    int64_t idle_since_ms;          /* the last port went, or the last request came */
    struct polls polls;
};

/* attach.c: a new port as the request says; 'fd' is the port's then, and closed after an error. */
int must_check server_attach(struct server *server, const json_t *request, int fd,
                             const struct line **out_line, struct error *err);
/* The port of that "mac" goes, if there is one. */
int must_check server_detach(struct server *server, const json_t *request, struct error *err);
/* Takes away the ports whose owners are gone. */
void server_sweep(struct server *server);
void server_remove_line(struct server *server, unsigned index);

/* control.c */
void server_accept(struct server *server);
void server_serve(struct server *server, unsigned client);

#endif
