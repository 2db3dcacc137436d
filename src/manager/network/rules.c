/* nftables: what a network's ports may send, what is forwarded and translated. The program nft takes a file; all of a network
 * is replaced in one transaction. */
#include <errno.h>
#include <fcntl.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/host/file.h"
#include "base/host/program.h"
#include "container/network/netlink.h"
#include "manager/network/state.h"
#include "manager/text.h"

#define RULES_MAX_SIZE (64u << 20)

/* "table FAMILY hull_NAME" is made, so that it can be removed, so that it is new. */
static void put_table(FILE *out, const char *family, const struct plan *plan)
{
    fprintf(out, "table %s hull_%s\ndelete table %s hull_%s\n", family, plan->name, family,
            plan->name);
}

static bool is_guarded(const json_t *port)
{
    const char *spoofing = text_of(port, "spoofing");
    return text_of(port, "interface") != NULL &&
           (spoofing == NULL || strcmp(spoofing, "allow") != 0);
}

/* Elements of a set: 'second' NULL: the interfaces alone. */
static void put_set(FILE *out, const struct net_state *state, const char *name, const char *type,
                    const char *second)
{
    const char *id;
    json_t *port;
    const char *divider = "elements = { ";
    fprintf(out, "\tset %s {\n\t\ttype %s\n\t\t", name, type);
    json_object_foreach(state->ports, id, port)
    {
        const char *value = second != NULL ? text_of(port, second) : "";
        if (!is_guarded(port) || value == NULL) {
            continue;
        }
        fprintf(out, "%s\"%s\"%s%s", divider, text_of(port, "interface"),
                second != NULL ? " . " : "", value);
        divider = ", ";
    }
    fprintf(out, "%s\n\t}\n", divider[0] == ',' ? " }" : "");
}

/* What an interface may send: from its own addresses alone, and no offers of addresses or routes to others. Of a bridge that
 * is not ours the instances' IPv4 addresses are not known, unless they say them. */
static void put_guards(FILE *out, const struct net_state *state)
{
    const struct plan *plan = &state->plan;
    bool is_nat = plan->type == PLAN_NAT;
    put_table(out, "bridge", plan);
    fprintf(out, "table bridge hull_%s {\n", plan->name);
    put_set(out, state, "guarded", "ifname", NULL);
    put_set(out, state, "macs", "ifname . ether_addr", "mac");
    put_set(out, state, "ipv4s", "ifname . ipv4_addr", "ipv4");
    put_set(out, state, "ipv6s", "ifname . ipv6_addr", "ipv6");
    fputs("\tchain prerouting {\n"
          "\t\ttype filter hook prerouting priority -300; policy accept;\n"
          "\t\tiifname != @guarded accept\n"
          "\t\tiifname . ether saddr != @macs drop\n"
          "\t\tether type arp iifname . arp saddr ether != @macs drop\n",
          out);
    if (is_nat) {
        fputs("\t\tether type arp arp saddr ip 0.0.0.0 accept\n"
              "\t\tether type arp iifname . arp saddr ip @ipv4s accept\n"
              "\t\tether type ip udp sport 67 drop\n"
              "\t\tether type ip ip saddr 0.0.0.0 udp sport 68 udp dport 67 accept\n"
              "\t\tether type ip iifname . ip saddr @ipv4s accept\n",
              out);
    } else {
        fputs("\t\tether type arp accept\n"
              "\t\tether type ip udp sport 67 drop\n"
              "\t\tether type ip accept\n",
              out);
    }
    fputs("\t\tether type ip6 udp sport 547 drop\n"
          "\t\tether type ip6 icmpv6 type { nd-router-advert, nd-redirect } drop\n",
          out);
    if (plan->ipv6.family != 0) {
        struct network_address network = plan->ipv6;
        char own[NETWORK_TEXT_SIZE], all[NETWORK_TEXT_SIZE];
        network_format(&plan->ipv6, false, own);
        memset(network.bytes + 8, 0, 8);
        network_format(&network, true, all);
        fprintf(out,
                "\t\tether type ip6 ip6 saddr %s drop\n"
                "\t\tether type ip6 ip6 saddr { ::, fe80::/10, %s } accept\n",
                own, all);
    }
    fputs(is_nat ? "\t\tether type ip6 ip6 saddr { ::, fe80::/10 } accept\n"
                 : "\t\tether type ip6 accept\n",
          out);
    fputs("\t\tether type ip6 iifname . ip6 saddr @ipv6s accept\n\t\tdrop\n\t}\n}\n", out);
}

/* Where an IPv6 forward leads to: the NIC's own address, or what a kernel makes of prefix and mac. */
static void ipv6_of(const struct plan *plan, const json_t *port, char out_text[NETWORK_TEXT_SIZE])
{
    const char *own = text_of(port, "ipv6");
    struct network_address made;
    if (own != NULL) {
        snprintf(out_text, NETWORK_TEXT_SIZE, "%s", own);
        return;
    }
    plan_ipv6_of_mac(&plan->ipv6, text_of(port, "mac"), &made);
    network_format(&made, false, out_text);
}

static void put_forward(FILE *out, const struct plan *plan, const json_t *port,
                        const struct plan_forward *forward)
{
    char listen[NETWORK_TEXT_SIZE + 64], address[NETWORK_TEXT_SIZE], ipv6[NETWORK_TEXT_SIZE];
    static const uint8_t nothing[16];
    const char *protocol = forward->is_udp ? "udp" : "tcp";
    bool is_v6 = forward->listen.family == AF_INET6;
    bool is_any = forward->listen.family == 0 || memcmp(forward->listen.bytes, nothing, 16) == 0;
    network_format(&forward->listen, false, address);
    snprintf(listen, sizeof(listen), "%s%s", is_v6 ? "ip6 daddr " : "ip daddr ", address);
    if (is_any) {
        snprintf(listen, sizeof(listen), "meta nfproto %s fib daddr type local",
                 is_v6 ? "ipv6" : "ipv4");
    }
    if (is_v6 && plan->ipv6.family != 0) {
        ipv6_of(plan, port, ipv6);
        fprintf(out, "\t\t%s %s dport %u dnat ip6 to [%s]:%u\n", listen, protocol,
                forward->listen_port, ipv6, forward->connect_port);
    } else if (!is_v6 && text_of(port, "ipv4") != NULL) {
        fprintf(out, "\t\t%s %s dport %u dnat ip to %s:%u\n", listen, protocol,
                forward->listen_port, text_of(port, "ipv4"), forward->connect_port);
    }
}

static void put_forwards(FILE *out, const struct net_state *state)
{
    const char *id;
    json_t *port;
    json_object_foreach(state->ports, id, port)
    {
        size_t i;
        json_t *device;
        json_array_foreach(json_object_get(port, "forwards"), i, device)
        {
            struct plan_forward forward;
            /* They were checked when they came. */
            if (text_of(port, "mac") != NULL && plan_read_forward(device, &forward, NULL) == 0) {
                put_forward(out, &state->plan, port, &forward);
            }
        }
    }
}

/* Nothing comes into the network that was not asked for or forwarded; what goes out has the host's address. */
static void put_translation(FILE *out, const struct net_state *state)
{
    const struct plan *plan = &state->plan;
    const char *bridge = plan->bridge;
    struct network_address network = plan->ipv4;
    char ipv4[NETWORK_TEXT_SIZE], ipv6[NETWORK_TEXT_SIZE];
    for (unsigned i = 0; i < 4; i++) {
        unsigned bits = MIN(8, plan->ipv4.prefix - MIN(plan->ipv4.prefix, i * 8));
        network.bytes[i] &= (uint8_t)(0xff00 >> bits);
    }
    network_format(&network, true, ipv4);
    put_table(out, "inet", plan);
    fprintf(out, "table inet hull_%s {\n", plan->name);
    /* The host's loopback addresses are not the network's, though its bridge routes them, as forwards from the host need. */
    fprintf(out,
            "\tchain first {\n"
            "\t\ttype filter hook prerouting priority raw; policy accept;\n"
            "\t\tiifname \"%s\" ip daddr 127.0.0.0/8 drop\n"
            "\t\tiifname \"%s\" ip saddr 127.0.0.0/8 drop\n"
            "\t}\n"
            "\tchain prerouting {\n"
            "\t\ttype nat hook prerouting priority dstnat; policy accept;\n",
            bridge, bridge);
    put_forwards(out, state);
    fputs("\t}\n\tchain output {\n"
          "\t\ttype nat hook output priority -100; policy accept;\n",
          out);
    put_forwards(out, state);
    fprintf(out,
            "\t}\n\tchain postrouting {\n"
            "\t\ttype nat hook postrouting priority srcnat; policy accept;\n"
            "\t\tip saddr %s ip daddr 224.0.0.0/4 return\n"
            "\t\tip saddr %s ip daddr != %s masquerade\n"
            "\t\tip saddr %s oifname \"%s\" ct status dnat masquerade\n"
            "\t\tip saddr 127.0.0.0/8 oifname \"%s\" masquerade\n",
            ipv4, ipv4, ipv4, ipv4, bridge, bridge);
    if (plan->ipv6.family != 0) {
        network = plan->ipv6;
        memset(network.bytes + 8, 0, 8);
        network_format(&network, true, ipv6);
        fprintf(out,
                "\t\tip6 saddr %s ip6 daddr != { %s, ff00::/8 } masquerade\n"
                "\t\tip6 saddr %s oifname \"%s\" ct status dnat masquerade\n",
                ipv6, ipv6, ipv6, bridge);
    }
    fprintf(out,
            "\t}\n\tchain forward {\n"
            "\t\ttype filter hook forward priority filter; policy accept;\n"
            "\t\tiifname \"%s\" oifname \"%s\" accept\n"
            "\t\toifname \"%s\" ct state established,related accept\n"
            "\t\toifname \"%s\" ct status dnat accept\n"
            "\t\toifname \"%s\" drop\n"
            "\t}\n}\n",
            bridge, bridge, bridge, bridge, bridge);
}

char *net_rules_text(const struct net_state *state)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    if (out == NULL) {
        return NULL;
    }
    put_guards(out, state);
    if (state->plan.type == PLAN_NAT) {
        put_translation(out, state);
    }
    if (fclose(out) != 0) {
        free(text);
        return NULL;
    }
    return text;
}

char *net_rules_text_of_removal(const struct plan *plan)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    if (out == NULL) {
        return NULL;
    }
    put_table(out, "bridge", plan);
    if (plan->type == PLAN_NAT) {
        put_table(out, "inet", plan);
    }
    if (fclose(out) != 0) {
        free(text);
        return NULL;
    }
    return text;
}

/* Waits for the program; what it said last goes into the error. */
static int wait_for(pid_t pid, int output, const char *what, struct error *err)
{
    char text[ERROR_TEXT_SIZE - 40] = "";
    int status = 0;
    ssize_t size = read(output, text, sizeof(text) - 1);
    text[size > 0 ? size : 0] = '\0';
    text[strcspn(text, "\n")] = '\0';
    char rest[512];
    while (size > 0 && (size = read(output, rest, sizeof(rest))) > 0) {
    }
    while (waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR) {
            return error_set_errno(err, errno, "%s", what);
        }
    }
    return WIFEXITED(status) && WEXITSTATUS(status) == 0
               ? 0
               : error_set(err, EIO, "%s: %s", what, text[0] != '\0' ? text : "it failed");
}

/* By a message of nfnetlink, which takes microseconds; the program takes milliseconds. */
static int has_table(int fd, uint8_t family, const char *name)
{
    struct netlink_batch batch;
    const struct nfgenmsg body = {.nfgen_family = family, .version = NFNETLINK_V0};
    netlink_clear(&batch);
    netlink_begin(&batch, (NFNL_SUBSYS_NFTABLES << 8) | NFT_MSG_GETTABLE, 0, &body, sizeof(body));
    netlink_add_text(&batch, NFTA_TABLE_NAME, name);
    int rc = netlink_call(fd, &batch, NULL, NULL);
    return rc == 0 ? 1 : rc == -ENOENT ? 0 : rc;
}

int net_rules_are_there(const struct plan *plan, bool *out_are, struct error *err)
{
    char name[PLAN_NAME_SIZE + 8];
    AUTO_CLOSE int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER);
    if (fd < 0) {
        return error_set_errno(err, errno, "network %s: asking for its rules", plan->name);
    }
    snprintf(name, sizeof(name), "hull_%s", plan->name);
    int rc = has_table(fd, NFPROTO_BRIDGE, name);
    if (rc == 1 && plan->type == PLAN_NAT) {
        rc = has_table(fd, NFPROTO_INET, name);
    }
    if (rc < 0) {
        return error_set_errno(err, -rc, "network %s: asking for its rules", plan->name);
    }
    *out_are = rc == 1;
    return 0;
}

static int run_nft(const struct net_state *state, const char *text, struct error *err)
{
    char path[PATH_MAX];
    int output[2];
    net_state_run_path(state, "rules.nft", path);
    int rc = text != NULL ? file_replace(path, text, 0600, false, err)
                          : error_set_errno(err, ENOMEM, "network %s", state->plan.name);
    if (rc < 0) {
        return rc;
    }
    if (pipe2(output, O_CLOEXEC) < 0) {
        return error_set_errno(err, errno, "network %s", state->plan.name);
    }
    const char *const argv[] = {"nft", "-f", path, NULL};
    const struct process_spec spec = {
        .program = "nft", .argv = argv, .stdout_fd = output[1], .stderr_fd = output[1]};
    pid_t pid;
    rc = process_spawn(&spec, true, &pid, err);
    close(output[1]);
    if (rc == 0) {
        rc = wait_for(pid, output[0], "nft", err);
    } else if (rc == -ENOENT) {
        rc = error_set(err, ENOENT, "program nft: not found: networks need it (nftables)");
    }
    close(output[0]);
    if (rc < 0) {
        (void)unlink(path); /* so that it is tried again */
    }
    return rc == 0 ? 0 : error_prefix(err, rc, "network %s: its rules", state->plan.name);
}

/* What was put there last. */
static bool is_last(const struct net_state *state, const char *text)
{
    char path[PATH_MAX];
    AUTO_FREE void *data = NULL;
    size_t size;
    net_state_run_path(state, "rules.nft", path);
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    return fd >= 0 && file_read_whole(fd, RULES_MAX_SIZE, path, &data, &size, NULL) == 0 &&
           size == strlen(text) && memcmp(data, text, size) == 0;
}

int net_rules_apply(const struct net_state *state, const char *text, struct error *err)
{
    bool are_there = false;
    int rc = net_rules_are_there(&state->plan, &are_there, err);
    if (rc < 0 || (are_there && text != NULL && is_last(state, text))) {
        return rc;
    }
    return run_nft(state, text, err);
}
