/* The command line of hull-net-user. */
#ifndef NET_USER_OPTIONS_H
#define NET_USER_OPTIONS_H

#include <stdbool.h>

#include "net/user/hostfwd.h"

#define NET_USER_MAX_FORWARDS 64
#define NET_USER_MAX_SEARCH   6

struct net_user_options {
    int fd;                  /* the frame socket; -1: not given */
    const char *switch_path; /* the switch's socket; NULL: --fd */
    const char *pid_file;    /* of the switch; NULL: none */
    struct in_addr gateway;  /* of the switch */
    unsigned prefix;         /* length of its network's */
    unsigned idle_s;         /* how long it stays without ports */
    int ready_fd;            /* -1: none */
    bool outlives_parent;
    bool is_restricted;
    bool has_ipv6;
    bool is_verbose;
    bool wants_help, wants_version;
    const char *dns;      /* NULL: what /etc/resolv.conf says */
    const char *hostname; /* NULL: DHCP gives none */
    unsigned forward_count;
    struct hostfwd forwards[NET_USER_MAX_FORWARDS];
    const char *forward_text[NET_USER_MAX_FORWARDS];
    const char *search[NET_USER_MAX_SEARCH + 1]; /* ends with NULL */
};

/* Pointers are borrowed from argv. On failure fd and ready_fd hold what was read until then, so that the failure can be told
 * there. */
int must_check net_user_parse_options(int argc, char **argv, struct net_user_options *out_options,
                                      struct error *err);

extern const char net_user_usage[];

#endif
