/* Ports that come and go. */
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "net/user/server.h"

#define FIRST_ADDRESS 15 /* of those that are chosen */

static const char *text_of(const json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

/* A host's name, in small letters: RFC 1123 without dots. */
static int read_name(const char *text, char out_name[SWITCH_NAME_SIZE], struct error *err)
{
    size_t length = strlen(text);
    if (length >= SWITCH_NAME_SIZE || text[0] == '-') {
        return error_set(err, EINVAL, "name '%.70s': a host's name was expected", text);
    }
    for (size_t i = 0; i <= length; i++) {
        unsigned char letter = (unsigned char)text[i];
        if (letter > 127 || (!isalnum(letter) && letter != '-' && letter != '\0')) {
            return error_set(err, EINVAL, "name '%.70s': letters, digits and '-'", text);
        }
        out_name[i] = (char)tolower(letter);
    }
    return 0;
}

static int read_mac(const char *text, uint8_t out_mac[6], struct error *err)
{
    static const char digits[] = "0123456789abcdef";
    bool is_good = strlen(text) == 17;
    for (unsigned i = 0; is_good && i < 6; i++) {
        const char *high = strchr(digits, tolower((unsigned char)text[i * 3]));
        const char *low = strchr(digits, tolower((unsigned char)text[i * 3 + 1]));
        is_good = high != NULL && low != NULL && (i == 5 || text[i * 3 + 2] == ':');
        out_mac[i] = is_good ? (uint8_t)((high - digits) << 4 | (low - digits)) : 0;
    }
    static const uint8_t nothing[6];
    if (!is_good || packet_mac_is_group(out_mac) || memcmp(out_mac, nothing, 6) == 0) {
        return error_set(err, EINVAL, "mac '%.20s': 52:54:00:12:34:56 would do", text);
    }
    return switch_is_uplink_mac(out_mac)
               ? error_set(err, EINVAL, "mac %s: 52:55 and 52:56 are the network's own", text)
               : 0;
}

static bool is_free(const struct server *server, uint32_t address)
{
    uint8_t bytes[4];
    uint32_t number = htonl(address);
    memcpy(bytes, &number, 4);
    return address != ntohl(server->settings.host.s_addr) &&
           address != ntohl(server->settings.name_server.s_addr) &&
           switch_find_ipv4(&server->sw, bytes) == NULL;
}

/* What it asks for, with or without "/24", or the first one that is free. */
static int choose_ipv4(const struct server *server, const char *wanted, uint8_t out_ipv4[4],
                       struct error *err)
{
    uint32_t last = server->network | ~server->mask;
    if (wanted == NULL) {
        for (uint32_t address = server->network + FIRST_ADDRESS; address < last; address++) {
            if (is_free(server, address)) {
                address = htonl(address);
                memcpy(out_ipv4, &address, 4);
                return 0;
            }
        }
        return error_set(err, ENOSPC, "all addresses are taken");
    }
    char text[INET_ADDRSTRLEN];
    struct in_addr address;
    size_t length = strcspn(wanted, "/");
    (void)snprintf(text, sizeof(text), "%.*s", (int)length, wanted);
    if (length >= sizeof(text) || inet_pton(AF_INET, text, &address) != 1) {
        return error_set(err, EINVAL, "ipv4 '%.30s': is no IPv4 address", wanted);
    }
    uint32_t number = ntohl(address.s_addr);
    if ((number & server->mask) != server->network || number == server->network || number == last) {
        return error_set(err, EINVAL, "ipv4 %s: the network of %s has no such address", text,
                         inet_ntoa(server->settings.host));
    }
    if (!is_free(server, number)) {
        return error_set(err, EADDRINUSE, "ipv4 %s: it is taken", text);
    }
    memcpy(out_ipv4, &address, 4);
    return 0;
}

static int choose_ipv6(const struct server *server, const char *wanted, struct switch_port *port,
                       struct error *err)
{
    const struct switch_network *network = &server->sw.network;
    switch_ipv6_of_mac(network, port->mac, port->ipv6);
    if (wanted == NULL) {
        return 0;
    }
    char text[INET6_ADDRSTRLEN];
    size_t length = strcspn(wanted, "/");
    (void)snprintf(text, sizeof(text), "%.*s", (int)length, wanted);
    if (length >= sizeof(text) || inet_pton(AF_INET6, text, port->ipv6) != 1) {
        return error_set(err, EINVAL, "ipv6 '%.60s': is no IPv6 address", wanted);
    }
    if (memcmp(port->ipv6, network->prefix6, 8) != 0 ||
        memcmp(port->ipv6, network->gateway6, 16) == 0 ||
        memcmp(port->ipv6, network->name_server6, 16) == 0) {
        return error_set(err, EINVAL,
                         "ipv6 %s: one of " STACK_PREFIX6 "/64 but " STACK_HOST6
                         " and " STACK_NAME_SERVER6,
                         text);
    }
    port->is_ipv6_used = true;
    return 0;
}

/* "tcp:[::]:8080" and "tcp:80", as one rule that leads to the port's address. */
static int read_forward(const struct switch_port *port, const json_t *forward,
                        struct line_forward *out, struct error *err)
{
    char guest[INET6_ADDRSTRLEN];
    const char *listen = text_of(forward, "listen"), *connect = text_of(forward, "connect");
    if (listen == NULL || connect == NULL || strlen(listen) < 5 || strlen(connect) < 5 ||
        strncmp(listen, connect, 4) != 0) {
        return error_set(err, EINVAL, "forward: listen tcp:127.0.0.1:8080 and connect tcp:80");
    }
    bool is_v6 = listen[4] == '[';
    bool has_address = strchr(listen + 4, ':') != NULL;
    (void)inet_ntop(is_v6 ? AF_INET6 : AF_INET, is_v6 ? port->ipv6 : port->ipv4, guest,
                    sizeof(guest)); /* there is room */
    int length =
        snprintf(out->text, sizeof(out->text), "%.4s%s%s-%s%s%s:%s", listen, has_address ? "" : ":",
                 listen + 4, is_v6 ? "[" : "", guest, is_v6 ? "]" : "", connect + 4);
    if (length < 0 || (size_t)length >= sizeof(out->text)) {
        return error_set(err, EINVAL, "forward: listen '%.40s' is too long", listen);
    }
    return hostfwd_parse(out->text, &out->rule, err);
}

static void close_forwards(struct server *server, struct line *line)
{
    while (line->forward_count > 0) {
        stack_close_forward(server->stack, &line->forwards[--line->forward_count].rule);
    }
}

static int open_forwards(struct server *server, struct line *line, const json_t *forwards,
                         struct error *err)
{
    size_t i;
    const json_t *forward;
    if (json_array_size(forwards) > LINE_MAX_FORWARDS) {
        return error_set(err, E2BIG, "forwards: at most %d may be", LINE_MAX_FORWARDS);
    }
    json_array_foreach(forwards, i, forward)
    {
        struct line_forward *into = &line->forwards[line->forward_count];
        int rc = read_forward(&line->port, forward, into, err);
        if (rc == 0) {
            rc = stack_open_forward(server->stack, &into->rule, into->text, err);
        }
        if (rc < 0) {
            close_forwards(server, line);
            return rc;
        }
        line->forward_count++;
    }
    return 0;
}

/* Those of whom the new one takes name or address may have ended a moment ago. A tap never tells: it keeps the namespace alive
 * that it is in, so another one with its hardware address is its successor. */
static void clear_way(struct server *server, const uint8_t mac[6])
{
    for (unsigned i = 0; i < server->line_count; i++) {
        struct line *line = server->line[i];
        line_look(line);
        if (line->is_tap && memcmp(line->port.mac, mac, 6) == 0) {
            line->has_ended = true;
        }
    }
    server_sweep(server);
}

static int read_port(struct server *server, const json_t *request, struct switch_port *port,
                     struct error *err)
{
    const char *name = text_of(request, "name"), *mac = text_of(request, "mac");
    int rc = read_name(name != NULL ? name : "", port->name, err);
    rc = rc < 0 ? rc : read_mac(mac != NULL ? mac : "", port->mac, err);
    if (rc < 0) {
        return rc;
    }
    clear_way(server, port->mac);
    const struct switch_port *other = switch_find_mac(&server->sw, port->mac);
    if (other != NULL) {
        return error_set(err, EADDRINUSE, "mac %s: the port of %s has it", mac,
                         other->name[0] != '\0' ? other->name : "another one");
    }
    port->may_spoof = json_is_true(json_object_get(request, "spoofing"));
    rc = choose_ipv4(server, text_of(request, "ipv4"), port->ipv4, err);
    return rc < 0 ? rc : choose_ipv6(server, text_of(request, "ipv6"), port, err);
}

int server_attach(struct server *server, const json_t *request, int fd,
                  const struct line **out_line, struct error *err)
{
    struct line *line;
    int rc = line_open(fd, &line, err);
    if (rc < 0) {
        return rc;
    }
    rc = read_port(server, request, &line->port, err);
    if (rc == 0) {
        rc = open_forwards(server, line, json_object_get(request, "forwards"), err);
    }
    if (rc == 0 && !switch_add(&server->sw, &line->port)) {
        close_forwards(server, line);
        rc = error_set(err, ENOSPC, "the network has %d ports already", SWITCH_MAX_PORTS);
    }
    if (rc < 0) {
        line_close(line);
        return rc;
    }
    server->line[server->line_count++] = line;
    *out_line = line;
    return 0;
}

int server_detach(struct server *server, const json_t *request, struct error *err)
{
    uint8_t mac[6];
    const char *text = text_of(request, "mac");
    int rc = read_mac(text != NULL ? text : "", mac, err);
    for (unsigned i = 0; rc == 0 && i < server->line_count; i++) {
        if (memcmp(server->line[i]->port.mac, mac, 6) == 0) {
            server->line[i]->has_ended = true;
        }
    }
    server_sweep(server);
    return rc;
}

void server_remove_line(struct server *server, unsigned index)
{
    struct line *line = server->line[index];
    server->line[index] = server->line[--server->line_count];
    close_forwards(server, line);
    switch_remove(&server->sw, &line->port);
    line_close(line);
}

void server_sweep(struct server *server)
{
    for (unsigned i = server->line_count; i-- > 0;) {
        if (server->line[i]->has_ended) {
            server_remove_line(server, i);
        }
    }
}
