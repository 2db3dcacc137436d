/* hull network. */
#include "cli/managed/objects.h"

static const struct output_column columns[] = {{"name", "NAME"},
                                               {"type", "TYPE"},
                                               {"description", "DESCRIPTION"},
                                               {"created_text", "CREATED"},
                                               {NULL, NULL}};
/* What an instance receives and sends. */
static const struct output_column port_columns[] = {{"instance", "INSTANCE"},
                                                    {"device", "DEVICE"},
                                                    {"mac", "MAC"},
                                                    {"received_text", "RECEIVED"},
                                                    {"received_packets", "PACKETS"},
                                                    {"sent_text", "SENT"},
                                                    {"sent_packets", "PACKETS"},
                                                    {"dropped_packets", "DROPPED"},
                                                    {NULL, NULL}};
static const struct object_kind network_kind = {
    .noun = "network",
    .collection = "/v1/networks",
    .columns = columns,
    .type_key = "type",
    .default_type = "nat",
    .part = "ports",
    .part_columns = port_columns,
};

OBJECT_RUN(network, list)
OBJECT_RUN(network, create)
OBJECT_RUN(network, info)
OBJECT_RUN(network, edit)
OBJECT_RUN(network, set)
OBJECT_RUN(network, delete)

static const struct option_spec create_table[] = {
    {"type", 't', "TYPE", "what it is (default: nat)", "nat|bridge|macvlan|user",
     object_parse_type},
    {"description", 0, "TEXT", "what it is for", NULL, object_parse_description},
    MANAGED_OPTION_QUIET,
    {0},
};

const struct verb network_list_verb = {
    .name = "network list",
    .arguments = "",
    .summary = "List networks",
    .examples = "  hull network list\n",
    .options = object_show_table,
    .run = network_list_run,
};

const struct verb network_create_verb = {
    .name = "network create",
    .arguments = "NAME [KEY=VALUE]...",
    .summary = "Make a network",
    .description =
        "nat: a bridge of its own with DHCP, DNS and a way out; bridge: one that the host has (bridge=br0); macvlan: interfaces\n"
        "on one of the host's (parent=eth0); user: a private switch without privileges. Keys are in docs/networks.md.\n",
    .examples = "  hull network create lab ipv4=10.90.0.1/24\n"
                "  hull network create lan --type bridge bridge=br0\n",
    .options = create_table,
    .run = network_create_run,
};

const struct verb network_info_verb = {
    .name = "network info",
    .arguments = "NAME",
    .summary = "Show a network, its leases, and what goes through its ports",
    .examples = "  hull network info default\n",
    .options = object_show_table,
    .complete = "NETWORK",
    .run = network_info_run,
};

const struct verb network_edit_verb = {
    .name = "network edit",
    .arguments = "NAME",
    .summary = "Change a network in $EDITOR",
    .examples = "  hull network edit lab\n",
    .options = object_quiet_table,
    .complete = "NETWORK",
    .run = network_edit_run,
};

const struct verb network_set_verb = {
    .name = "network set",
    .arguments = "NAME KEY=VALUE...",
    .summary = "Change keys of a network",
    .examples = "  hull network set lab ipv6=none\n",
    .options = object_quiet_table,
    .complete = "NETWORK",
    .run = network_set_run,
};

const struct verb network_delete_verb = {
    .name = "network delete",
    .arguments = "NAME...",
    .summary = "Delete networks that nobody uses",
    .examples = "  hull network delete lab\n",
    .options = object_quiet_table,
    .complete = "NETWORK",
    .run = network_delete_run,
};

static const struct verb *const network_verbs[] = {
    &network_list_verb,
    &network_create_verb,
    &network_info_verb,
    &network_edit_verb,
    &network_set_verb,
    &network_delete_verb,
    NULL,
};

const struct verb network_verb = {
    .name = "network",
    .arguments = "VERB [NAME]",
    .summary = "What instances' network cards are connected to",
    .examples = "  hull network list\n  hull network create lab ipv4=10.90.0.1/24\n",
    .verbs = network_verbs,
};
