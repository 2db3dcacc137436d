/* hull-net-user: libslirp between a frame socket and the host's sockets.
 *
 * The network is that of QEMU's `-netdev user`, so what users know carries over: 10.0.2.0/24 with the host at 10.0.2.2, the name
 * server at 10.0.2.3 and guests from 10.0.2.15 on by DHCP; fec0::/64 with the host at fec0::2 and the name server at fec0::3. */
#ifndef NET_USER_USER_H
#define NET_USER_USER_H

#include "net/user/options.h"

struct net_user;

/* Opens the forwarded ports. 'options' are borrowed while it lives. */
int must_check net_user_create(const struct net_user_options *options, struct net_user **out_user,
                               struct error *err);
void net_user_destroy(struct net_user *user);
/* Works until the VM closes the frame socket (0) or breaks its framing. */
int must_check net_user_run(struct net_user *user, struct error *err);

/* The program: everything that main() does. Returns the exit status. */
int net_user_main(int argc, char **argv);

#endif
