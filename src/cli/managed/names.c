/* hull names: what there is, for completion. Never starts hulld, waits for it a second at most, and says nothing when it fails. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/managed/managed.h"

#define PATIENCE_MS 1000

static const struct {
    const char *what, *path;
} lists[] = {
    {"instances", "/v1/instances"}, {"images", "/v1/aliases"},  {"networks", "/v1/networks"},
    {"pools", "/v1/pools"},         {"volumes", "/v1/volumes"}, {"profiles", "/v1/profiles"},
    {"templates", "/v1/templates"},
};

static json_t *fetch(const struct client *client, const char *path)
{
    json_t *list;
    struct error ignored;
    return client_call(client, "GET", path, NULL, NULL, &list, &ignored) == 0 ? list : NULL;
}

/* Names that a shell takes as one word. */
static void print_names(const json_t *list)
{
    size_t i;
    json_t *row;
    json_array_foreach(list, i, row)
    {
        const char *name = json_string_value(json_object_get(row, "name"));
        if (name != NULL && strpbrk(name, " \t\n'\"\\$`;&|<>()*?[]{}!#~") == NULL) {
            (void)puts(name);
        }
    }
}

/* Of the first of the words that is an instance its snapshots; else the instances. */
static void print_snapshots(const struct client *client, int count, char **words)
{
    json_t *list = fetch(client, "/v1/instances");
    json_t *row;
    size_t j;
    const char *found = NULL;
    for (int i = 0; found == NULL && i < count; i++) {
        json_array_foreach(list, j, row)
        {
            const char *name = json_string_value(json_object_get(row, "name"));
            if (name != NULL && strcmp(name, words[i]) == 0) {
                found = words[i];
            }
        }
    }
    if (found == NULL) {
        print_names(list);
    } else {
        char *path = client_path("/v1/instances", found, "snapshots", NULL);
        json_t *snapshots = fetch(client, path);
        print_names(snapshots);
        json_decref(snapshots);
        free(path);
    }
    json_decref(list);
}

static int names_run(int argc, char **argv)
{
    struct client client;
    struct error ignored;
    int count;
    /* What follows the first word may be options of the command that is completed. */
    int status = cli_options(&names_verb, true, argc, argv, NULL, &count);
    if (status >= 0) {
        return status;
    }
    if (count == 0 || managed_find(&client, &ignored) < 0) {
        return CLI_FAILURE;
    }
    client.timeout_ms = PATIENCE_MS;
    if (strcmp(argv[0], "snapshots") == 0) {
        print_snapshots(&client, count - 1, argv + 1);
        return CLI_OK;
    }
    for (size_t i = 0; i < ARRAY_COUNT(lists); i++) {
        if (strcmp(argv[0], lists[i].what) == 0) {
            json_t *list = fetch(&client, lists[i].path);
            print_names(list);
            json_decref(list);
            return CLI_OK;
        }
    }
    return CLI_FAILURE;
}

const struct verb names_verb = {
    .name = "names",
    .arguments = "instances|images|networks|pools|volumes|profiles|snapshots [WORD]...",
    .summary = "Print the names that there are",
    .is_hidden = true,
    .run = names_run,
};
