/* Network namespaces for the tests: the process is in one of its own, containers are others. */
#ifndef TESTS_UNIT_SYSTEM_NETWORK_SUPPORT_H
#define TESTS_UNIT_SYSTEM_NETWORK_SUPPORT_H

/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <net/if.h>

#include "system/network/network.h"

/* Enters one of its own with lo up; false, with the reason printed: cannot. */
bool support_enter(void);
/* A new one. */
int support_namespace(void);
/* A socket there. */
int support_socket(int namespace_fd, int domain, int type, int protocol);
/* Answer of an ioctl about a device there; false: there is no such device. */
bool support_ask(int namespace_fd, const char *name, unsigned long command, struct ifreq *out);
bool support_exists(int namespace_fd, const char *name);
/* The own one, as a descriptor that stays open. */
int support_own(void);

struct network_address support_address(const char *text);
/* A card "eth0" of that bridge with up to two addresses. */
struct network_card support_card(const char *host_name, const char *bridge, const char *first,
                                 const char *second);
void support_attach(const struct network_card *card, int namespace_fd);
/* Connects by TCP from one namespace to an address (without prefix) in another. */
bool support_connects(int from, int to, const char *address);
/* The host's route to a network by a device of its. */
void support_route(const char *network, const char *device);
/* Removes all that the tests make in the own namespace. */
int support_clean(void **state);

#endif
