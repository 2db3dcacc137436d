/* hull completion SHELL: prints a completion script, made from the tables of verbs and options. */
#include <string.h>

#include "cli/verbs.h"

static bool is_path(const char *complete)
{
    return complete != NULL && (strcmp(complete, "FILE") == 0 || strcmp(complete, "DIR") == 0);
}

/* "a|b" as "a b". */
static void words_print(const char *words)
{
    for (; words != NULL && *words != '\0'; words++) {
        (void)putchar(*words == '|' ? ' ' : *words);
    }
}

static void verb_names(const struct verb *const *among)
{
    for (size_t i = 0; among[i] != NULL; i++) {
        if (!among[i]->is_hidden) {
            (void)printf("%s ", verb_last_word(among[i]));
        }
    }
}

/* Calls for each verb that has options of its own: those of verbs of verbs in place of these. */
static void each_verb(const struct verb *const *among, void (*fn)(const struct verb *verb))
{
    for (size_t i = 0; among[i] != NULL; i++) {
        if (among[i]->is_hidden) {
            continue;
        }
        if (among[i]->verbs != NULL) {
            each_verb(among[i]->verbs, fn);
        } else {
            fn(among[i]);
        }
    }
}

static void bash_values(const struct verb *verb)
{
    for (const struct option_spec *o = verb->options; o != NULL && o->name != NULL; o++) {
        if (o->value == NULL) {
            continue;
        }
        (void)printf("    '%s':--%s", verb->name, o->name);
        if (o->letter != '\0') {
            (void)printf("|'%s':-%c", verb->name, o->letter);
        }
        (void)fputs(")\n      ", stdout);
        if (o->complete == NULL) {
            (void)fputs("return", stdout);
        } else if (is_path(o->complete)) {
            (void)printf("COMPREPLY=($(compgen -%c -- \"$word\")); compopt -o filenames; return",
                         o->complete[0] == 'D' ? 'd' : 'f');
        } else {
            (void)fputs("COMPREPLY=($(compgen -W '", stdout);
            words_print(o->complete);
            (void)fputs("' -- \"$word\")); return", stdout);
        }
        (void)fputs(" ;;\n", stdout);
    }
}

/* Behind a verb of hull ctl: its keys; behind the sign of a key, which is a word of its own, a file. */
static void bash_ctl_keys(void)
{
    (void)fputs("elif ((COMP_CWORD > 3)) && [[ $last != = && $word != = ]]; then\n"
                "        compopt -o nospace\n        case ${COMP_WORDS[3]} in\n",
                stdout);
    for (const struct ctl_keys *keys = ctl_keys; keys->verb != NULL; keys++) {
        (void)printf("          %s) COMPREPLY=($(compgen -W '", keys->verb);
        words_print(keys->words);
        (void)fputs("' -- \"$word\")) ;;\n", stdout);
    }
    (void)fputs("        esac\n      ", stdout);
}

static void bash_words(const struct verb *verb)
{
    (void)printf("    '%s')\n      if [[ $word == -* ]]; then COMPREPLY=($(compgen -W '",
                 verb->name);
    for (const struct option_spec *o = verb->options; o != NULL && o->name != NULL; o++) {
        (void)printf("--%s ", o->name);
    }
    (void)fputs("--help' -- \"$word\")); ", stdout);
    if (strcmp(verb->name, "ctl") == 0) {
        (void)fputs("elif ((COMP_CWORD == 3)); then COMPREPLY=($(compgen -W '", stdout);
        words_print(ctl_verb_words);
        (void)fputs("' -- \"$word\")); ", stdout);
        bash_ctl_keys();
    }
    if (is_path(verb->complete)) {
        (void)fputs("else COMPREPLY=($(compgen -f -- \"$word\")); compopt -o filenames; ", stdout);
    } else if (verb->complete != NULL) {
        (void)fputs("else COMPREPLY=($(compgen -W '", stdout);
        words_print(verb->complete);
        (void)fputs("' -- \"$word\")); ", stdout);
    }
    (void)fputs("fi ;;\n", stdout);
}

/* Verbs of verbs: the second word is completed here, what follows it by the name of both. */
static void bash_groups(void)
{
    (void)fputs("  case $verb in\n", stdout);
    for (size_t i = 0; verbs[i] != NULL; i++) {
        if (verbs[i]->verbs != NULL) {
            (void)printf("    %s) if ((COMP_CWORD == 2)); then COMPREPLY=($(compgen -W '",
                         verbs[i]->name);
            verb_names(verbs[i]->verbs);
            (void)fputs("--help' -- \"$word\")); return; fi; verb+=\" ${COMP_WORDS[2]}\" ;;\n",
                        stdout);
        }
    }
    (void)fputs("  esac\n", stdout);
}

static void bash_print(void)
{
    (void)fputs(
        "# bash completion for hull: source <(hull completion bash)\n"
        "_hull() {\n"
        "  local word=${COMP_WORDS[COMP_CWORD]} last=${COMP_WORDS[COMP_CWORD-1]} verb=${COMP_WORDS[1]}\n"
        "  COMPREPLY=()\n"
        "  if ((COMP_CWORD == 1)); then\n    COMPREPLY=($(compgen -W '",
        stdout);
    verb_names(verbs);
    (void)fputs("--help --version' -- \"$word\"))\n    return\n  fi\n", stdout);
    bash_groups();
    (void)fputs("  case $verb:$last in\n", stdout);
    each_verb(verbs, bash_values);
    (void)fputs("  esac\n  case $verb in\n", stdout);
    each_verb(verbs, bash_words);
    (void)fputs("  esac\n}\ncomplete -F _hull hull\n", stdout);
}

/* Help texts inside quotes of zsh's _arguments and of fish. */
static void quoted_print(const char *text, const char *escaped)
{
    for (; *text != '\0'; text++) {
        if (*text == '\'') {
            (void)fputs(escaped[0] == 'z' ? "'\\''" : "\\'", stdout);
        } else if (escaped[0] == 'z' && (*text == '[' || *text == ']' || *text == ':')) {
            (void)printf("\\%c", *text);
        } else {
            (void)putchar(*text);
        }
    }
}

static void zsh_action(const char *complete)
{
    if (complete == NULL) {
        (void)fputs(": ", stdout);
    } else if (is_path(complete)) {
        (void)fputs(complete[0] == 'D' ? ":_files -/" : ":_files", stdout);
    } else {
        (void)fputs(":(", stdout);
        words_print(complete);
        (void)fputs(")", stdout);
    }
}

static void zsh_verb(const struct verb *verb)
{
    (void)printf("    %s)\n      _arguments -s '--help[show help]'", verb_last_word(verb));
    for (const struct option_spec *o = verb->options; o != NULL && o->name != NULL; o++) {
        (void)printf(" \\\n        '*--%s%s[", o->name, o->value != NULL ? "=" : "");
        quoted_print(o->help, "zsh");
        (void)fputs("]", stdout);
        if (o->value != NULL) {
            (void)fputs(":", stdout);
            quoted_print(o->value, "zsh");
            zsh_action(o->complete);
        }
        (void)fputs("'", stdout);
    }
    if (strcmp(verb->name, "ctl") == 0) {
        (void)fputs(" \\\n        '1:path:_files' '2:verb:(", stdout);
        words_print(ctl_verb_words);
        (void)fputs(")' '*:key:_hull_ctl_keys'", stdout);
    } else if (verb->complete != NULL) {
        (void)printf(" \\\n        '%s:argument", is_path(verb->complete) ? "*" : "1");
        zsh_action(verb->complete);
        (void)fputs("'", stdout);
    }
    (void)fputs(" ;;\n", stdout);
}

static void zsh_names(const struct verb *const *among)
{
    (void)fputs("  if ((CURRENT == 2)); then\n    local -a names=(\n", stdout);
    for (size_t i = 0; among[i] != NULL; i++) {
        if (!among[i]->is_hidden) {
            (void)printf("      '%s:", verb_last_word(among[i]));
            quoted_print(among[i]->summary, "zsh");
            (void)fputs("'\n", stdout);
        }
    }
    (void)fputs("    )\n    _describe verb names\n    return\n  fi\n", stdout);
}

/* One level: the names, and what follows each of them. */
static void zsh_level(const struct verb *const *among)
{
    zsh_names(among);
    (void)fputs("  verb=$words[2]\n  shift words\n  ((CURRENT--))\n  case $verb in\n", stdout);
    for (size_t i = 0; among[i] != NULL; i++) {
        if (among[i]->is_hidden) {
            continue;
        }
        if (among[i]->verbs != NULL) {
            (void)printf("    %s)\n", among[i]->name);
            zsh_level(among[i]->verbs);
            (void)fputs("    ;;\n", stdout);
        } else {
            zsh_verb(among[i]);
        }
    }
    (void)fputs("  esac\n", stdout);
}

/* Behind 'ctl PATH VERB': its keys, and a file behind the sign of a key. */
static void zsh_ctl_keys(void)
{
    (void)fputs("_hull_ctl_keys() {\n  if compset -P '*='; then _files; return; fi\n"
                "  case $words[3] in\n",
                stdout);
    for (const struct ctl_keys *keys = ctl_keys; keys->verb != NULL; keys++) {
        (void)printf("    %s) compadd -S '' -- ", keys->verb);
        words_print(keys->words);
        (void)fputs(" ;;\n", stdout);
    }
    (void)fputs("  esac\n}\n", stdout);
}

static void zsh_print(void)
{
    (void)fputs(
        "#compdef hull\n# zsh completion for hull: hull completion zsh > a folder of $fpath/_hull\n",
        stdout);
    zsh_ctl_keys();
    (void)fputs("_hull() {\n  local verb\n", stdout);
    zsh_level(verbs);
    (void)fputs("}\ncompdef _hull hull\n", stdout);
}

/* When the words before are those of the verb: one or two. */
static void fish_condition(const struct verb *verb)
{
    const char *blank = strchr(verb->name, ' ');
    int first = blank != NULL ? (int)(blank - verb->name) : (int)strlen(verb->name);
    (void)printf("'__fish_seen_subcommand_from %.*s", first, verb->name);
    if (blank != NULL) {
        (void)printf("; and __fish_seen_subcommand_from %s", blank + 1);
    }
    (void)putchar('\'');
}

static void fish_option(const struct verb *verb, const struct option_spec *option)
{
    (void)fputs("complete -c hull -n ", stdout);
    fish_condition(verb);
    (void)printf(" -l %s", option->name);
    if (option->letter != '\0') {
        (void)printf(" -s %c", option->letter);
    }
    if (option->value != NULL) {
        (void)fputs(is_path(option->complete) ? " -r -F" : " -x", stdout);
        if (option->complete != NULL && !is_path(option->complete)) {
            (void)fputs(" -a '", stdout);
            words_print(option->complete);
            (void)fputs("'", stdout);
        }
    }
    (void)fputs(" -d '", stdout);
    quoted_print(option->help, "fish");
    (void)fputs("'\n", stdout);
}

static void fish_verb(const struct verb *verb)
{
    for (const struct option_spec *o = verb->options; o != NULL && o->name != NULL; o++) {
        fish_option(verb, o);
    }
    if (verb->complete == NULL) {
        return;
    }
    (void)fputs("complete -c hull -n ", stdout);
    fish_condition(verb);
    if (!is_path(verb->complete)) {
        (void)fputs(" -a '", stdout);
        words_print(verb->complete);
        (void)fputs("'\n", stdout);
    } else if (strcmp(verb->name, "ctl") == 0) {
        (void)fputs(" -F -a '", stdout);
        words_print(ctl_verb_words);
        (void)fputs("'\n", stdout);
        for (const struct ctl_keys *keys = ctl_keys; keys->verb != NULL; keys++) {
            (void)printf("complete -c hull -n '__fish_seen_subcommand_from %s' -a '", keys->verb);
            words_print(keys->words);
            (void)fputs("'\n", stdout);
        }
    } else {
        (void)fputs(" -F\n", stdout);
    }
}

static void fish_name(const struct verb *verb, const char *condition)
{
    (void)printf("complete -c hull -n '%s' -a %s -d '", condition, verb_last_word(verb));
    quoted_print(verb->summary, "fish");
    (void)fputs("'\n", stdout);
}

static void fish_print(void)
{
    (void)fputs("# fish completion for hull: hull completion fish | source\ncomplete -c hull -f\n",
                stdout);
    for (size_t i = 0; verbs[i] != NULL; i++) {
        if (verbs[i]->is_hidden) {
            continue;
        }
        fish_name(verbs[i], "__fish_use_subcommand");
        for (size_t j = 0; verbs[i]->verbs != NULL && verbs[i]->verbs[j] != NULL; j++) {
            char condition[128];
            (void)snprintf(
                condition, sizeof(condition),
                "__fish_seen_subcommand_from %s; and test (count (commandline -opc)) = 2",
                verbs[i]->name);
            fish_name(verbs[i]->verbs[j], condition);
        }
    }
    each_verb(verbs, fish_verb);
}

static const struct {
    const char *name;
    void (*print)(void);
} shells[] = {{"bash", bash_print}, {"zsh", zsh_print}, {"fish", fish_print}};

static int completion_run(int argc, char **argv)
{
    int count = 0;
    int status = cli_options(&completion_verb, false, argc, argv, NULL, &count);
    if (status >= 0) {
        return status;
    }
    for (size_t i = 0; count == 1 && i < ARRAY_COUNT(shells); i++) {
        if (strcmp(argv[0], shells[i].name) == 0) {
            shells[i].print();
            return CLI_OK;
        }
    }
    struct error err;
    (void)error_set(&err, EINVAL, "completion: %s: bash, zsh or fish",
                    count == 0 ? "no shell is named" : "not a shell that hull knows");
    return cli_fail(&err);
}

const struct verb completion_verb = {
    .name = "completion",
    .arguments = "SHELL",
    .summary = "Print a completion script for bash, zsh or fish",
    .examples = "  source <(hull completion bash)\n"
                "  hull completion zsh > ~/.zfunc/_hull\n"
                "  hull completion fish > ~/.config/fish/completions/hull.fish\n",
    .complete = "bash|zsh|fish",
    .run = completion_run,
};
