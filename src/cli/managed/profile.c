/* hull profile. */
#include "cli/managed/objects.h"

static const struct output_column columns[] = {
    {"name", "NAME"}, {"description", "DESCRIPTION"}, {"created_text", "CREATED"}, {NULL, NULL}};
static const struct object_kind profile_kind = {
    .noun = "profile",
    .collection = "/v1/profiles",
    .columns = columns,
    .has_devices = true,
    .is_replaced = true,
};

OBJECT_RUN(profile, list)
OBJECT_RUN(profile, create)
OBJECT_RUN(profile, info)
OBJECT_RUN(profile, edit)
OBJECT_RUN(profile, set)
OBJECT_RUN(profile, delete)

static const struct option_spec create_table[] = {
    {"description", 0, "TEXT", "what it is for", NULL, object_parse_description},
    MANAGED_OPTION_QUIET,
    {0},
};

const struct verb profile_list_verb = {
    .name = "profile list",
    .arguments = "",
    .summary = "List profiles",
    .examples = "  hull profile list\n",
    .options = object_show_table,
    .run = profile_list_run,
};

const struct verb profile_create_verb = {
    .name = "profile create",
    .arguments = "NAME [KEY=VALUE|DEVICE.PROPERTY=VALUE]...",
    .summary = "Make a profile",
    .examples = "  hull profile create small memory=256M cpus=1\n"
                "  hull profile create lab eth0.type=nic eth0.network=lab\n",
    .options = create_table,
    .run = profile_create_run,
};

const struct verb profile_info_verb = {
    .name = "profile info",
    .arguments = "NAME",
    .summary = "Show a profile",
    .examples = "  hull profile info default\n",
    .options = object_show_table,
    .complete = "PROFILE",
    .run = profile_info_run,
};

const struct verb profile_edit_verb = {
    .name = "profile edit",
    .arguments = "NAME",
    .summary = "Change a profile in $EDITOR",
    .examples = "  hull profile edit small\n",
    .options = object_quiet_table,
    .complete = "PROFILE",
    .run = profile_edit_run,
};

const struct verb profile_set_verb = {
    .name = "profile set",
    .arguments = "NAME KEY=VALUE...",
    .summary = "Change keys of a profile, or properties of its devices",
    .examples = "  hull profile set small memory=512M root.size=4G\n",
    .options = object_quiet_table,
    .complete = "PROFILE",
    .run = profile_set_run,
};

const struct verb profile_delete_verb = {
    .name = "profile delete",
    .arguments = "NAME...",
    .summary = "Delete profiles that no instance has",
    .examples = "  hull profile delete small\n",
    .options = object_quiet_table,
    .complete = "PROFILE",
    .run = profile_delete_run,
};

static const struct verb *const profile_verbs[] = {
    &profile_list_verb,
    &profile_create_verb,
    &profile_info_verb,
    &profile_edit_verb,
    &profile_set_verb,
    &profile_delete_verb,
    NULL,
};

const struct verb profile_verb = {
    .name = "profile",
    .arguments = "VERB [NAME]",
    .summary = "Configuration that instances share",
    .description =
        "An instance has what its profiles say, in their order, and above that what it says itself.\n",
    .examples = "  hull profile create small memory=256M cpus=1\n"
                "  hull launch debian/12 web1 --profile default --profile small\n",
    .verbs = profile_verbs,
};
