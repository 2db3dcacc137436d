/* hull-net-user as the switch of several VMs and containers, which come and go while it runs.
 *
 * Its socket (SOCK_SEQPACKET) takes messages of JSON:
 *   {"do":"attach","name":"web1","mac":"52:54:00:12:34:56","ipv4":"10.0.2.16","ipv6":"fec0::5","spoofing":false,
 *    "forwards":[{"listen":"tcp:127.0.0.1:8080","connect":"tcp:80"}]}
 * with one descriptor, a stream socket of frames or a tap interface. "mac" alone has to be there. The port lives until its
 * descriptor ends, and all goes with it. Answer: {"ok":true,"ipv4":"10.0.2.16"} or {"error":"text"}.
 *   {"do":"status"}: {"ok":true,"gateway":"10.0.2.2","dns":"10.0.2.3","ports":[...]}, with counters.
 *   {"do":"detach","mac":"52:54:00:12:34:56"}: the port goes now. For taps, whose descriptor keeps the namespace alive that they are
 * in: their end is not heard of unless the interface is removed. Another tap of that mac takes the place of the first, too.
 * Whoever may open the socket is trusted to attach, as he might to run this program; his bytes are checked. */
#ifndef NET_USER_SERVE_H
#define NET_USER_SERVE_H

#include "net/user/options.h"

struct server;

/* 'listen_fd' is the server's from then on. 'options' are borrowed while it lives. */
int must_check server_create(const struct net_user_options *options, int listen_fd,
                             struct server **out_server, struct error *err);
void server_destroy(struct server *server);
/* Works until it has had no port for a while. */
int must_check server_run(struct server *server, struct error *err);

#endif
