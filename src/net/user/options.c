#include "net/user/options.h"

#include <arpa/inet.h>
#include <getopt.h>
#include <limits.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/host/helper.h"

const char net_user_usage[] =
    "usage: hull-net-user --fd N [OPTION]...\n"
    "       hull-net-user --switch PATH [OPTION]...\n"
    "\n"
    "The network of a VM without privileges, behind the frame socket N: `hull boot --net user` starts it. Or the switch of\n"
    "several VMs and containers, which attach to PATH: hulld starts it, and `hull boot --net switch=PATH` attaches.\n"
    "\n"
    "  --fd N               a connected stream socket of frames (32-bit big-endian length, Ethernet frame)\n"
    "  --switch PATH        listen there for ports\n"
    "  --pid-file PATH      of a switch: locked as long as it runs\n"
    "  --ipv4 ADDRESS/LEN   of a switch: its gateway, one of the first 13 of the network (default: 10.0.2.2/24)\n"
    "  --idle SECONDS       of a switch: it ends when it has had no port for so long (default: 60)\n"
    "  --ready-fd N         where to say \"ready\", or the error, in one line\n"
    "  --hostfwd RULE       with --fd: forward a port: (tcp|udp):[HOST-ADDRESS]:HOST-PORT-[GUEST-ADDRESS]:GUEST-PORT\n"
    "  --restrict           the guest reaches nothing but this network; forwarded ports still work\n"
    "  --no-ipv6            IPv4 only\n"
    "  --dns ADDRESS        the name server to ask, instead of those in /etc/resolv.conf\n"
    "  --hostname NAME      with --fd: the name that DHCP gives to the guest\n"
    "  --search DOMAIN      with --fd: a domain that DHCP tells the guest to search; up to 6 times\n"
    "  --outlive            with --fd: do not end with the parent, but when nobody has the other end of the socket\n"
    "  --verbose            say on stderr what is locked in and what the guest does wrong\n"
    "  --help, --version\n"
    "\n"
    "example: hull-net-user --fd 3 --ready-fd 4 --hostfwd tcp:127.0.0.1:2222-:22\n";

static int parse_forward(const char *text, struct net_user_options *options, struct error *err)
{
    if (options->forward_count == NET_USER_MAX_FORWARDS) {
        return error_set(err, E2BIG, "--hostfwd %.60s: at most %d may be", text,
                         NET_USER_MAX_FORWARDS);
    }
    int rc = hostfwd_parse(text, &options->forwards[options->forward_count], err);
    if (rc == 0) {
        options->forward_text[options->forward_count++] = text;
    }
    return rc;
}

static int parse_dns(const char *text, struct net_user_options *options, struct error *err)
{
    struct in6_addr address;
    if (inet_pton(AF_INET, text, &address) != 1 && inet_pton(AF_INET6, text, &address) != 1) {
        return error_set(err, EINVAL, "--dns %.60s: expected an IPv4 or IPv6 address", text);
    }
    options->dns = text;
    return 0;
}

/* DHCP and DNS names: letters, digits, hyphens, and dots between them (RFC 1123 section 2.1). */
static int check_name(const char *option, const char *text, struct error *err)
{
    size_t length = strlen(text);
    const char *allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.";
    if (length == 0 || length > 63 || strspn(text, allowed) != length || text[0] == '.') {
        return error_set(
            err, EINVAL,
            "--%s %.70s: expected a name of at most 63 letters, digits, \"-\" and \".\"", option,
            text);
    }
    return 0;
}

static int parse_search(const char *text, struct net_user_options *options, struct error *err)
{
    unsigned count = 0;
    while (options->search[count] != NULL) {
        count++;
    }
    if (count == NET_USER_MAX_SEARCH) {
        return error_set(err, E2BIG, "--search %.60s: at most %d may be", text,
                         NET_USER_MAX_SEARCH);
    }
    options->search[count] = text;
    return check_name("search", text, err);
}

/* Room for the name server behind the gateway, and for guests behind that. */
static int parse_ipv4(const char *text, struct net_user_options *options, struct error *err)
{
    char address[INET_ADDRSTRLEN] = "", *end = NULL;
    const char *slash = strchr(text, '/');
    size_t length = slash != NULL ? (size_t)(slash - text) : sizeof(address);
    unsigned long prefix = slash != NULL ? strtoul(slash + 1, &end, 10) : 0;
    if (length < sizeof(address)) {
        memcpy(address, text, length);
    }
    uint32_t host = 0;
    bool is_good = inet_pton(AF_INET, address, &options->gateway) == 1 && *end == '\0' &&
                   prefix >= 8 && prefix <= 24;
    if (is_good) {
        options->prefix = (unsigned)prefix;
        host = ntohl(options->gateway.s_addr) & ~(UINT32_MAX << (32 - prefix));
    }
    return host >= 1 && host <= 13
               ? 0
               : error_set(err, EINVAL,
                           "--ipv4 %.60s: expected one of the first 13 addresses of a network, as "
                           "10.0.2.2/24; /8 to /24",
                           text);
}

static int parse_idle(const char *text, struct net_user_options *options, struct error *err)
{
    char *end;
    errno = 0;
    unsigned long seconds = strtoul(text, &end, 10);
    if (errno != 0 || text[0] < '0' || text[0] > '9' || *end != '\0' || seconds > 1000000) {
        return error_set(err, EINVAL, "--idle %.60s: expected seconds", text);
    }
    options->idle_s = (unsigned)seconds;
    return 0;
}

static int parse_option(int option, const char *value, struct net_user_options *options,
                        struct error *err)
{
    switch (option) {
    case 'f':
        return helper_parse_fd("fd", value, &options->fd, err);
    case 'S':
        options->switch_path = value;
        return 0;
    case 'P':
        options->pid_file = value;
        return 0;
    case 'i':
        return parse_ipv4(value, options, err);
    case 'I':
        return parse_idle(value, options, err);
    case 'r':
        return helper_parse_fd("ready-fd", value, &options->ready_fd, err);
    case 'p':
        return parse_forward(value, options, err);
    case 'd':
        return parse_dns(value, options, err);
    case 's':
        return parse_search(value, options, err);
    case 'n':
        options->hostname = value;
        return check_name("hostname", value, err);
    case 'R':
        options->is_restricted = true;
        return 0;
    case '4':
        options->has_ipv6 = false;
        return 0;
    case 'o':
        options->outlives_parent = true;
        return 0;
    case 'v':
        options->is_verbose = true;
        return 0;
    case 'h':
        options->wants_help = true;
        return 0;
    case 'V':
        options->wants_version = true;
        return 0;
    default:
        return error_set(err, EINVAL, "bad option: see hull-net-user --help");
    }
}

/* One of the two, and what belongs to it. */
static int check_mode(const struct net_user_options *options, struct error *err)
{
    bool is_switch = options->switch_path != NULL;
    if (is_switch == (options->fd >= 0)) {
        return error_set(err, EINVAL, "%s: see hull-net-user --help",
                         is_switch ? "--fd and --switch: one of them" : "--fd is missing");
    }
    if (is_switch &&
        (options->forward_count > 0 || options->hostname != NULL || options->search[0] != NULL)) {
        return error_set(err, EINVAL, "--hostfwd, --hostname and --search go with --fd");
    }
    return is_switch || options->pid_file == NULL
               ? 0
               : error_set(err, EINVAL, "--pid-file goes with --switch");
}

int net_user_parse_options(int argc, char **argv, struct net_user_options *out_options,
                           struct error *err)
{
    static const struct option known[] = {
        {"fd", required_argument, NULL, 'f'},
        {"ready-fd", required_argument, NULL, 'r'},
        {"hostfwd", required_argument, NULL, 'p'},
        {"dns", required_argument, NULL, 'd'},
        {"search", required_argument, NULL, 's'},
        {"hostname", required_argument, NULL, 'n'},
        {"restrict", no_argument, NULL, 'R'},
        {"no-ipv6", no_argument, NULL, '4'},
        {"verbose", no_argument, NULL, 'v'},
        {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, 'V'},
        {"switch", required_argument, NULL, 'S'},
        {"pid-file", required_argument, NULL, 'P'},
        {"ipv4", required_argument, NULL, 'i'},
        {"idle", required_argument, NULL, 'I'},
        {"outlive", no_argument, NULL, 'o'},
        {0},
    };
    *out_options = (struct net_user_options){.fd = -1,
                                             .ready_fd = -1,
                                             .has_ipv6 = true,
                                             .gateway.s_addr = htonl(0x0a000202),
                                             .prefix = 24,
                                             .idle_s = 60};
    int rc = 0;
    int option;
    optind = 1;
    opterr = 0;
    /* The rest is still read after a failure: --ready-fd may follow. */
    while ((option = getopt_long(argc, argv, "", known, NULL)) != -1) {
        struct error other;
        int this_rc = parse_option(option, optarg, out_options, rc == 0 ? err : &other);
        if (rc == 0) {
            rc = this_rc < 0 && option == '?'
                     ? error_set(err, EINVAL, "bad option %.60s: see hull-net-user --help",
                                 argv[optind - 1])
                     : this_rc;
        }
    }
    if (rc == 0 && optind < argc) {
        rc = error_set(err, EINVAL, "unexpected argument %.60s: see hull-net-user --help",
                       argv[optind]);
    }
    if (rc == 0 && !out_options->wants_help && !out_options->wants_version) {
        rc = check_mode(out_options, err);
    }
    return rc;
}
