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

static void verb_names(void)
{
    for (size_t i = 0; verbs[i] != NULL; i++) {
        if (!verbs[i]->is_hidden) {
            (void)printf("%s ", verbs[i]->name);
        }
    }
}

static void bash_values(const struct verb *verb)
{
    for (const struct option_spec *o = verb->options; o != NULL && o->name != NULL; o++) {
        if (o->value == NULL) {
            continue;
        }
        (void)printf("    %s:--%s", verb->name, o->name);
        if (o->letter != '\0') {
            (void)printf("|%s:-%c", verb->name, o->letter);
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

static void bash_print(void)
{
    (void)fputs(
        "# bash completion for hull: source <(hull completion bash)\n"
        "_hull() {\n"
        "  local word=${COMP_WORDS[COMP_CWORD]} last=${COMP_WORDS[COMP_CWORD-1]} verb=${COMP_WORDS[1]}\n"
        "  COMPREPLY=()\n"
        "  if ((COMP_CWORD == 1)); then\n    COMPREPLY=($(compgen -W '",
        stdout);
    verb_names();
    (void)fputs("--help --version' -- \"$word\"))\n    return\n  fi\n  case $verb:$last in\n",
                stdout);
    for (size_t i = 0; verbs[i] != NULL; i++) {
        if (!verbs[i]->is_hidden) {
            bash_values(verbs[i]);
        }
    }
    (void)fputs("  esac\n  case $verb in\n", stdout);
    for (size_t i = 0; verbs[i] != NULL; i++) {
        if (verbs[i]->is_hidden) {
            continue;
        }
        (void)printf("    %s)\n      if [[ $word == -* ]]; then COMPREPLY=($(compgen -W '",
                     verbs[i]->name);
        for (const struct option_spec *o = verbs[i]->options; o != NULL && o->name != NULL; o++) {
            (void)printf("--%s ", o->name);
        }
        (void)fputs("--help' -- \"$word\")); ", stdout);
        if (strcmp(verbs[i]->name, "ctl") == 0) {
            (void)fputs("elif ((COMP_CWORD == 3)); then COMPREPLY=($(compgen -W '", stdout);
            words_print(ctl_verb_words);
            (void)fputs("' -- \"$word\")); ", stdout);
        }
        if (is_path(verbs[i]->complete)) {
            (void)fputs("else COMPREPLY=($(compgen -f -- \"$word\")); compopt -o filenames; ",
                        stdout);
        } else if (verbs[i]->complete != NULL) {
            (void)fputs("else COMPREPLY=($(compgen -W '", stdout);
            words_print(verbs[i]->complete);
            (void)fputs("' -- \"$word\")); ", stdout);
        }
        (void)fputs("fi ;;\n", stdout);
    }
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
    (void)printf("    %s)\n      _arguments -s '--help[show help]'", verb->name);
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
        (void)fputs(")'", stdout);
    } else if (verb->complete != NULL) {
        (void)fputs(" \\\n        '1:argument", stdout);
        zsh_action(verb->complete);
        (void)fputs("'", stdout);
    }
    (void)fputs(" ;;\n", stdout);
}

static void zsh_print(void)
{
    (void)fputs(
        "#compdef hull\n# zsh completion for hull: hull completion zsh > a folder of $fpath/_hull\n"
        "_hull() {\n  if ((CURRENT == 2)); then\n    local -a names=(\n",
        stdout);
    for (size_t i = 0; verbs[i] != NULL; i++) {
        if (!verbs[i]->is_hidden) {
            (void)printf("      '%s:", verbs[i]->name);
            quoted_print(verbs[i]->summary, "zsh");
            (void)fputs("'\n", stdout);
        }
    }
    (void)fputs("    )\n    _describe verb names\n    return\n  fi\n  local verb=$words[2]\n"
                "  shift words\n  ((CURRENT--))\n  case $verb in\n",
                stdout);
    for (size_t i = 0; verbs[i] != NULL; i++) {
        if (!verbs[i]->is_hidden) {
            zsh_verb(verbs[i]);
        }
    }
    (void)fputs("  esac\n}\ncompdef _hull hull\n", stdout);
}

static void fish_option(const struct verb *verb, const struct option_spec *option)
{
    (void)printf("complete -c hull -n '__fish_seen_subcommand_from %s' -l %s", verb->name,
                 option->name);
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

static void fish_print(void)
{
    (void)fputs("# fish completion for hull: hull completion fish | source\ncomplete -c hull -f\n",
                stdout);
    for (size_t i = 0; verbs[i] != NULL; i++) {
        if (verbs[i]->is_hidden) {
            continue;
        }
        (void)printf("complete -c hull -n __fish_use_subcommand -a %s -d '", verbs[i]->name);
        quoted_print(verbs[i]->summary, "fish");
        (void)fputs("'\n", stdout);
        for (const struct option_spec *o = verbs[i]->options; o != NULL && o->name != NULL; o++) {
            fish_option(verbs[i], o);
        }
        if (verbs[i]->complete != NULL) {
            (void)printf("complete -c hull -n '__fish_seen_subcommand_from %s' %s '",
                         verbs[i]->name, is_path(verbs[i]->complete) ? "-F -a" : "-a");
            words_print(is_path(verbs[i]->complete) ? ctl_verb_words : verbs[i]->complete);
            (void)fputs("'\n", stdout);
        }
    }
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
