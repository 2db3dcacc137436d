/* hull completion SHELL: prints a completion script, made from the tables of verbs and options. */
#include <string.h>

#include "cli/verbs.h"

static bool is_path(const char *complete)
{
    return complete != NULL && (strcmp(complete, "FILE") == 0 || strcmp(complete, "DIR") == 0);
}

/* Names that there are, of which hull is asked when they are completed. */
static const struct {
    const char *complete, *command;
} names[] = {
    {"CONTAINER", "hull ct list --format csv 2>/dev/null | sed 1d | cut -d, -f1"},
    {"TEMPLATE", "hull ct template list --format csv 2>/dev/null | sed 1d | cut -d, -f1"},
    {"INSTANCE", "hull names instances 2>/dev/null"},
    {"IMAGE", "hull names images 2>/dev/null"},
    {"TEMPLATE", "hull names templates 2>/dev/null"},
    {"NETWORK", "hull names networks 2>/dev/null"},
    {"POOL", "hull names pools 2>/dev/null"},
    {"VOLUME", "hull names volumes 2>/dev/null"},
    {"PROFILE", "hull names profiles 2>/dev/null"},
};
/* Snapshots are those of the instance among the words before, which each shell calls something else. */
#define SNAPSHOT_BASH "hull names snapshots \"${COMP_WORDS[@]:0:COMP_CWORD}\" 2>/dev/null"
#define SNAPSHOT_ZSH  "hull names snapshots \"${(@)words[1,CURRENT-1]}\" 2>/dev/null"
#define SNAPSHOT_FISH "hull names snapshots (commandline -opc) 2>/dev/null"

static const char *snapshot_command = SNAPSHOT_BASH; /* of the shell whose script is printed */

/* NULL: they are words, or paths. */
static const char *command_of(const char *complete)
{
    for (size_t i = 0; complete != NULL && i < ARRAY_COUNT(names); i++) {
        if (strcmp(complete, names[i].complete) == 0) {
            return names[i].command;
        }
    }
    return complete != NULL && strcmp(complete, "SNAPSHOT") == 0 ? snapshot_command : NULL;
}

/* "a|b" as "a b", or a command that 'opening' has the shell expand: "$(" or "(". */
static void words_print(const char *words, const char *opening)
{
    const char *command = command_of(words);
    if (command != NULL) {
        (void)printf("%s%s)", opening, command);
        return;
    }
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
            words_print(o->complete, "$(");
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
        words_print(keys->words, "$(");
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
        words_print(ctl_verb_words, "$(");
        (void)fputs("' -- \"$word\")); ", stdout);
        bash_ctl_keys();
    }
    if (is_path(verb->complete)) {
        (void)fputs("else COMPREPLY=($(compgen -f -- \"$word\")); compopt -o filenames; ", stdout);
    } else if (verb->complete != NULL) {
        (void)fputs("else COMPREPLY=($(compgen -W '", stdout);
        words_print(verb->complete, "$(");
        (void)fputs("' -- \"$word\")); ", stdout);
    }
    (void)fputs("fi ;;\n", stdout);
}

/* Verbs of verbs: the next word is completed here, what follows it by the name of all. 'at' is where that word stands. */
static void bash_groups(const struct verb *const *among, unsigned at)
{
    bool has_inner = false;
    (void)fputs("  case $verb in\n", stdout);
    for (size_t i = 0; among[i] != NULL; i++) {
        if (among[i]->verbs != NULL) {
            (void)printf("    '%s') if ((COMP_CWORD == %u)); then COMPREPLY=($(compgen -W '",
                         among[i]->name, at);
            verb_names(among[i]->verbs);
            (void)printf("--help' -- \"$word\")); return; fi; verb+=\" ${COMP_WORDS[%u]}\" ;;\n",
                         at);
        }
    }
    (void)fputs("  esac\n", stdout);
    for (size_t i = 0; among[i] != NULL; i++) {
        for (size_t j = 0; among[i]->verbs != NULL && among[i]->verbs[j] != NULL; j++) {
            has_inner = has_inner || among[i]->verbs[j]->verbs != NULL;
        }
        if (has_inner) {
            bash_groups(among[i]->verbs, at + 1);
            has_inner = false;
        }
    }
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
    bash_groups(verbs, 2);
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
    } else if (command_of(complete) != NULL) {
        (void)fputs(":{compadd -- ", stdout);
        words_print(complete, "$(");
        (void)fputs("}", stdout);
    } else {
        (void)fputs(":(", stdout);
        words_print(complete, "");
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
        words_print(ctl_verb_words, "");
        (void)fputs(")' '*:key:_hull_ctl_keys'", stdout);
    } else if (verb->complete != NULL) {
        (void)printf(" \\\n        '%s:argument",
                     is_path(verb->complete) || command_of(verb->complete) != NULL ? "*" : "1");
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
            (void)printf("    %s)\n", verb_last_word(among[i]));
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
        words_print(keys->words, "");
        (void)fputs(" ;;\n", stdout);
    }
    (void)fputs("  esac\n}\n", stdout);
}

static void zsh_print(void)
{
    snapshot_command = SNAPSHOT_ZSH;
    (void)fputs(
        "#compdef hull\n# zsh completion for hull: hull completion zsh > a folder of $fpath/_hull\n",
        stdout);
    zsh_ctl_keys();
    (void)fputs("_hull() {\n  local verb\n", stdout);
    zsh_level(verbs);
    (void)fputs(
        "}\nif [[ $funcstack[1] = _hull ]]; then _hull \"$@\"; else compdef _hull hull; fi\n",
        stdout);
}

/* When the words before are those of the verb. */
static void fish_words(const char *name)
{
    for (const char *word = name; *word != '\0';) {
        size_t length = strcspn(word, " ");
        (void)printf("%s__fish_seen_subcommand_from %.*s", word != name ? "; and " : "",
                     (int)length, word);
        word += length + (word[length] == ' ');
    }
}

static void fish_condition(const struct verb *verb)
{
    (void)putchar('\'');
    fish_words(verb->name);
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
            words_print(option->complete, "(");
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
        words_print(verb->complete, "(");
        (void)fputs("'\n", stdout);
    } else if (strcmp(verb->name, "ctl") == 0) {
        (void)fputs(" -F -a '", stdout);
        words_print(ctl_verb_words, "(");
        (void)fputs("'\n", stdout);
        for (const struct ctl_keys *keys = ctl_keys; keys->verb != NULL; keys++) {
            (void)printf("complete -c hull -n '__fish_seen_subcommand_from %s' -a '", keys->verb);
            words_print(keys->words, "(");
            (void)fputs("'\n", stdout);
        }
    } else {
        (void)fputs(" -F\n", stdout);
    }
}

/* Names of verbs, where 'count' words stand before them, those of the group. */
static void fish_names(const struct verb *const *among, const struct verb *group, unsigned count)
{
    for (size_t i = 0; among[i] != NULL; i++) {
        if (among[i]->is_hidden) {
            continue;
        }
        (void)fputs("complete -c hull -n '", stdout);
        if (group == NULL) {
            (void)fputs("__fish_use_subcommand", stdout);
        } else {
            fish_words(group->name);
            (void)printf("; and test (count (commandline -opc)) = %u", count);
        }
        (void)printf("' -a %s -d '", verb_last_word(among[i]));
        quoted_print(among[i]->summary, "fish");
        (void)fputs("'\n", stdout);
        if (among[i]->verbs != NULL) {
            fish_names(among[i]->verbs, among[i], count + 1);
        }
    }
}

static void fish_print(void)
{
    snapshot_command = SNAPSHOT_FISH;
    (void)fputs("# fish completion for hull: hull completion fish | source\ncomplete -c hull -f\n",
                stdout);
    fish_names(verbs, NULL, 1);
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
