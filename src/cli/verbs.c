#include "cli/verbs.h"

#include <string.h>

#include "cli/managed/managed.h"

const struct verb *const verbs[] = {
    &launch_verb, &create_verb,   &start_verb, &stop_verb,   &restart_verb, &pause_verb,
    &resume_verb, &delete_verb,   &list_verb,  &info_verb,   &config_verb,  &logs_verb,
    &top_verb,    &events_verb,   &exec_verb,  &shell_verb,  &console_verb, &push_verb,
    &pull_verb,   &snapshot_verb, &clone_verb, &export_verb, &import_verb,  &template_verb,
    &image_verb,  &network_verb,  &pool_verb,  &volume_verb, &profile_verb, &system_verb,
    &boot_verb,   &ct_verb,       &ctl_verb,   &disk_verb,   &host_verb,    &completion_verb,
    &names_verb,  &dial_verb,     &man_verb,   NULL,
};

int cli_fail(const struct error *err)
{
    (void)fprintf(stderr, "hull: %s\n", err->text);
    return CLI_FAILURE;
}

int cli_options(const struct verb *verb, bool stops_at_word, int argc, char **argv, void *into,
                int *out_count)
{
    struct error err;
    bool wants_help;
    if (options_parse("hull", verb, stops_at_word, argc, argv, into, out_count, &wants_help, &err) <
        0) {
        return cli_fail(&err);
    }
    if (wants_help) {
        help_print("hull", verb, stdout);
        return CLI_OK;
    }
    return -1;
}

int cli_words(const struct verb *verb, int min, int max, int argc, char **argv, void *into,
              int *out_count)
{
    int status = cli_options(verb, false, argc, argv, into, out_count);
    if (status < 0 && (*out_count < min || (max >= 0 && *out_count > max))) {
        (void)fprintf(stderr, "hull: usage: hull %s %s (see `hull %s --help`)\n", verb->name,
                      verb->arguments, verb->name);
        status = CLI_FAILURE;
    }
    return status;
}

static void overview_print(FILE *to)
{
    (void)fputs(
        "Hull runs virtual machines and containers.\n\nUsage: hull VERB [OPTION]... [ARGUMENT]...\n\nVerbs:\n",
        to);
    for (size_t i = 0; verbs[i] != NULL; i++) {
        if (!verbs[i]->is_hidden) {
            (void)fprintf(to, "  %-12s %s\n", verbs[i]->name, verbs[i]->summary);
        }
    }
    (void)fputs("\nOptions:\n"
                "  -h, --help     help of hull, or after a verb of that verb\n"
                "      --version  print the version\n"
                "\nExamples:\n"
                "  hull launch debian/12 web1\n"
                "  hull shell web1\n"
                "  hull host\n"
                "  hull disk create vm.raw 20G\n"
                "  hull boot --kernel vmlinuz --initrd initrd.img --memory 1G\n",
                to);
}

static const struct verb *verb_find(const struct verb *const *among, const char *word)
{
    for (size_t i = 0; among[i] != NULL; i++) {
        if (strcmp(verb_last_word(among[i]), word) == 0) {
            return among[i];
        }
    }
    return NULL;
}

/* 'group' is the verb whose verbs these are; NULL: hull itself. */
static int unknown_verb(const struct verb *const *among, const struct verb *group, const char *word)
{
    char names[768] = "";
    for (size_t i = 0; among[i] != NULL; i++) {
        if (!among[i]->is_hidden) {
            size_t used = strlen(names);
            (void)snprintf(names + used, sizeof(names) - used, "%s%s", used ? "|" : "",
                           verb_last_word(among[i]));
        }
    }
    char hint[64];
    const char *first = group != NULL ? group->name : "";
    const char *between = group != NULL ? " " : "";
    if (nearest_word(word, names, hint, sizeof(hint)) != NULL) {
        (void)fprintf(stderr, "hull: verb %s%s%s: unknown: did you mean %s?\n", first, between,
                      word, hint);
    } else {
        (void)fprintf(stderr, "hull: verb %s%s%s: unknown: %s\n", first, between, word, names);
    }
    return CLI_FAILURE;
}

/* What follows the name of a verb of verbs: argv[0] is that name. */
static int group_run(const struct verb *group, int argc, char **argv)
{
    if (argc < 2) {
        help_print("hull", group, stderr);
        return CLI_FAILURE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        help_print("hull", group, stdout);
        return CLI_OK;
    }
    const struct verb *verb = verb_find(group->verbs, argv[1]);
    if (verb == NULL) {
        return unknown_verb(group->verbs, group, argv[1]);
    }
    return verb->verbs != NULL ? group_run(verb, argc - 1, argv + 1)
                               : verb->run(argc - 1, argv + 1);
}

int cli_main(int argc, char **argv)
{
    if (argc < 2) {
        overview_print(stderr);
        return CLI_FAILURE;
    }
    const char *word = argv[1];
    if (strcmp(word, "--version") == 0) {
        (void)printf("hull %s\n", HULL_VERSION);
        return CLI_OK;
    }
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 ||
        (strcmp(word, "help") == 0 && argc < 3)) {
        overview_print(stdout);
        return CLI_OK;
    }
    bool is_help = strcmp(word, "help") == 0;
    const struct verb *verb = verb_find(verbs, is_help ? argv[2] : word);
    if (verb == NULL) {
        return unknown_verb(verbs, NULL, is_help ? argv[2] : word);
    }
    for (int i = 3; is_help && verb->verbs != NULL && i < argc; i++) {
        const struct verb *inner = verb_find(verb->verbs, argv[i]);
        if (inner == NULL) {
            return unknown_verb(verb->verbs, verb, argv[i]);
        }
        verb = inner;
    }
    if (is_help) {
        help_print("hull", verb, stdout);
        return CLI_OK;
    }
    return verb->verbs != NULL ? group_run(verb, argc - 1, argv + 1)
                               : verb->run(argc - 1, argv + 1);
}
