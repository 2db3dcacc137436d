/* "network_tool STATE VERB": what src/manager/network does with the JSON object on standard input, for
 * tests/integration/test_hulld_networks.py. The answer is a JSON object on standard output; an error one line on standard
 * error. */
#include <stdio.h>
#include <string.h>

#include "base/host/event_loop.h"
#include "manager/network/network.h"

static int fail(const char *text)
{
    fprintf(stderr, "%s\n", text);
    return 1;
}

int main(int argc, char **argv)
{
    struct place place;
    struct error err = {0};
    char interface[IFNAMSIZ] = "";
    json_auto_t *answer = NULL;
    json_auto_t *request = json_loadf(stdin, 0, NULL);
    if (argc != 3 || request == NULL) {
        return fail("usage: network_tool STATE VERB < REQUEST");
    }
    if (place_open(argv[1], &place, &err) < 0) {
        return fail(err.text);
    }
    const struct network_port port = {
        .place = &place,
        .network = json_object_get(request, "network"),
        .instance = json_string_value(json_object_get(request, "instance")),
        .device = "eth0",
        .nic = json_object_get(request, "nic"),
        .forwards = json_object_get(request, "forwards"),
    };
    const char *verb = argv[2];
    const char *mac = json_string_value(json_object_get(port.nic, "mac"));
    int rc = -1;
    if (strcmp(verb, "up") == 0) {
        rc = network_up(&place, port.network, &err);
    } else if (strcmp(verb, "down") == 0) {
        rc = network_down(&place, port.network, &err);
    } else if (strcmp(verb, "tap") == 0) {
        rc = network_attach_tap(&port, interface, &err);
        answer = rc == 0 ? json_pack("{s:s}", "interface", interface) : NULL;
    } else if (strcmp(verb, "container") == 0) {
        rc = network_attach_container(&port, &answer, &err);
    } else if (strcmp(verb, "protect") == 0) {
        rc = network_protect(&port, json_string_value(json_object_get(request, "interface")), &err);
    } else if (strcmp(verb, "release") == 0) {
        rc = network_release(&port, json_is_true(json_object_get(request, "forget")), &err);
    } else if (strcmp(verb, "addresses") == 0) {
        rc = network_addresses(&place, json_string_value(json_object_get(port.network, "name")),
                               mac, &answer, &err);
    } else if (strcmp(verb, "time") == 0) {
        /* How long it takes when all is there: the best of many, in nanoseconds. */
        uint64_t best = UINT64_MAX;
        rc = 0;
        for (unsigned i = 0; i < 20 && rc == 0; i++) {
            uint64_t start = clock_monotonic_ns();
            rc = network_up(&place, port.network, &err);
            uint64_t taken = clock_monotonic_ns() - start;
            best = taken < best ? taken : best;
        }
        answer = json_pack("{s:I}", "ns", (json_int_t)best);
    }
    if (rc < 0) {
        return fail(err.text);
    }
    if (answer != NULL) {
        json_dumpf(answer, stdout, 0);
    }
    return 0;
}
