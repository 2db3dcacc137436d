/* hull config. */
#include <stdlib.h>
#include <string.h>

#include "cli/managed/managed.h"

static const struct option_spec config_table[] = {
    OUTPUT_OPTION_JSON(managed_parse_json),
    OUTPUT_OPTION_FORMAT(managed_parse_output),
    MANAGED_OPTION_QUIET,
    {0},
};

/* What of an instance is its user's to say. */
static json_t *settings(const json_t *info)
{
    static const char *const keys[] = {"description", "profiles", "config", "devices"};
    json_t *chosen = json_object();
    for (size_t i = 0; i < ARRAY_COUNT(keys); i++) {
        json_t *value = json_object_get(info, keys[i]);
        if (value != NULL) {
            (void)json_object_set(chosen, keys[i], value);
        }
    }
    return chosen;
}

/* "memory", "eth0.ipv4"; NULL: it is not said. Borrowed. */
static const json_t *value_of(const json_t *info, const char *key)
{
    const char *dot = strrchr(key, '.');
    if (dot == NULL) {
        const json_t *value = json_object_get(json_object_get(info, "config"), key);
        bool is_own = strcmp(key, "description") == 0 || strcmp(key, "profiles") == 0;
        return is_own ? json_object_get(info, key) : value;
    }
    char *device = strndup(key, (size_t)(dot - key));
    const json_t *value = json_object_get(
        json_object_get(json_object_get(info, "devices"), device != NULL ? device : ""), dot + 1);
    free(device);
    return value;
}

static int show_keys(const json_t *info, char **keys, int count, struct error *err)
{
    for (int i = 0; i < count; i++) {
        const json_t *value = value_of(info, keys[i]);
        if (value == NULL) {
            return error_set(err, ENOENT, "key %s: it is not set", keys[i]);
        }
        if (json_is_string(value)) {
            (void)puts(json_string_value(value));
        } else {
            (void)json_dumpf(value, stdout, JSON_ENCODE_ANY | JSON_COMPACT);
            (void)putchar('\n');
        }
    }
    return 0;
}

/* "a,b" */
static json_t *list_of(const char *text)
{
    json_t *list = json_array();
    while (*text != '\0') {
        size_t size = strcspn(text, ",");
        if (size > 0) {
            (void)json_array_append_new(list, json_stringn(text, size));
        }
        text += size + (text[size] == ',');
    }
    return list;
}

/* "KEY=VALUE"; the description and the profiles are no keys of "config". */
static int set_word(json_t *patch, const char *word, struct error *err)
{
    if (strncmp(word, "description=", 12) == 0) {
        return json_object_set_new(patch, "description", json_string(word + 12)) == 0
                   ? 0
                   : error_set(err, EINVAL, "description: not UTF-8");
    }
    if (strncmp(word, "profiles=", 9) == 0) {
        return json_object_set_new(patch, "profiles", list_of(word + 9)) == 0
                   ? 0
                   : error_set(err, EINVAL, "profiles: not UTF-8");
    }
    return managed_set(patch, word, err);
}

/* 'info' is what the instance has: a word without a dot may be one of its devices, as a whole. */
static int unset_word(json_t *patch, const json_t *info, const char *word, struct error *err)
{
    const char *dot = strrchr(word, '.');
    json_t *unset;
    if (strcmp(word, "description") == 0 || strcmp(word, "profiles") == 0) {
        unset = json_pack("{s:n}", word);
    } else if (dot != NULL) {
        char *device = strndup(word, (size_t)(dot - word));
        unset = json_pack("{s:{s:{s:n}}}", "devices", device != NULL ? device : "", dot + 1);
        free(device);
    } else {
        bool is_device = json_object_get(json_object_get(info, "devices"), word) != NULL;
        unset = json_pack("{s:{s:n}}", is_device ? "devices" : "config", word);
    }
    int rc = unset != NULL ? json_object_update_recursive(patch, unset) : -1;
    json_decref(unset);
    return rc == 0 ? 0 : error_set(err, EINVAL, "key %.100s: not UTF-8", word);
}

static int patch_of(const char *what, const char *name, const json_t *info, char **words, int count,
                    json_t **out_patch, struct error *err)
{
    if (strcmp(what, "edit") == 0) {
        json_t *before = settings(info);
        int rc = managed_edit(name, before, out_patch, err);
        json_decref(before);
        return rc;
    }
    json_t *patch = json_object();
    int rc = 0;
    for (int i = 0; rc == 0 && i < count; i++) {
        rc = strcmp(what, "set") == 0 ? set_word(patch, words[i], err)
                                      : unset_word(patch, info, words[i], err);
    }
    if (rc < 0) {
        json_decref(patch);
        return rc;
    }
    *out_patch = patch;
    return 0;
}

static int change(struct client *client, const char *path, const json_t *info, char **argv,
                  int count, bool is_quiet)
{
    struct error err;
    json_t *patch;
    if (patch_of(argv[1], argv[0], info, argv + 2, count - 2, &patch, &err) < 0) {
        return cli_fail(&err);
    }
    if (patch == NULL) {
        (void)fputs("hull: nothing was changed\n", stderr);
        return CLI_OK;
    }
    json_t *result = NULL;
    int status = managed_do(client, "PATCH", path, patch, is_quiet, &result);
    if (status == CLI_OK && json_is_true(json_object_get(result, "waits_for_restart"))) {
        (void)fprintf(stderr, "hull: %s: some of it holds from the next start on\n", argv[0]);
    }
    json_decref(result);
    json_decref(patch);
    return status;
}

static int check_words(int count, char **argv, struct error *err)
{
    static const char words[] = "get|set|unset|edit";
    char hint[8];
    if (count == 1) {
        return 0;
    }
    bool is_edit = strcmp(argv[1], "edit") == 0;
    if (!is_edit && strcmp(argv[1], "get") != 0 && strcmp(argv[1], "set") != 0 &&
        strcmp(argv[1], "unset") != 0) {
        return nearest_word(argv[1], words, hint, sizeof(hint)) != NULL
                   ? error_set(err, EINVAL, "config %s: unknown: did you mean %s?", argv[1], hint)
                   : error_set(err, EINVAL, "config %s: unknown: get, set, unset or edit", argv[1]);
    }
    bool is_get = strcmp(argv[1], "get") == 0; /* without a key: all */
    if (is_edit ? count != 2 : count < 3 && !is_get) {
        return error_set(err, EINVAL, "usage: hull config %s", config_verb.arguments);
    }
    return 0;
}

static int config_run(int argc, char **argv)
{
    struct managed_options options = {.output = OUTPUT_YAML};
    struct client client;
    struct error err = {0};
    json_t *info;
    int count;
    int status = cli_words(&config_verb, 1, -1, argc, argv, &options, &count);
    if (status >= 0) {
        return status;
    }
    int rc = check_words(count, argv, &err);
    rc = rc < 0 ? rc : managed_open(&client, &err);
    if (rc < 0) {
        return cli_fail(&err);
    }
    char *path = client_path("/v1/instances", argv[0], NULL);
    rc = client_call(&client, "GET", path, NULL, NULL, &info, &err);
    if (rc < 0) {
        status = cli_fail(&err);
    } else if (count == 1 || (count == 2 && strcmp(argv[1], "get") == 0)) {
        json_t *shown = settings(info);
        output_object(options.output, shown);
        json_decref(shown);
        status = CLI_OK;
    } else if (strcmp(argv[1], "get") == 0) {
        status = show_keys(info, argv + 2, count - 2, &err) < 0 ? cli_fail(&err) : CLI_OK;
    } else {
        status = change(&client, path, info, argv, count, options.is_quiet);
    }
    if (rc == 0) {
        json_decref(info);
    }
    free(path);
    return status;
}

const struct verb config_verb = {
    .name = "config",
    .arguments = "NAME [get [KEY]...|set KEY=VALUE...|unset KEY...|edit]",
    .summary = "Show and change how an instance is set up",
    .description =
        "A key belongs to the instance itself (memory) or to one of its devices (eth0.ipv4, root.size). What profiles\n"
        "say holds where the instance says nothing. description, and profiles (a list: default,small) are set alike.\n"
        "`edit` opens all of it as YAML in $EDITOR. What a running instance cannot take at once holds from its next\n"
        "start on.\n",
    .examples = "  hull config web1\n"
                "  hull config web1 set memory=2G cpus=4\n"
                "  hull config web1 set eth0.ipv4=10.1.2.3\n"
                "  hull config web1 unset memory\n"
                "  hull config web1 unset eth1             # the device\n"
                "  EDITOR=nano hull config web1 edit\n",
    .options = config_table,
    .complete = "INSTANCE",
    .run = config_run,
};
