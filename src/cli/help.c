/* Man pages, written from the tables of verbs and options. */
#include <string.h>

#include "cli/verbs.h"

/* Text for roff: dashes and backslashes escaped, no line may begin with a control character. */
static void roff_text(const char *text)
{
    bool is_line_start = true;
    for (; *text != '\0'; text++) {
        if (is_line_start && (*text == '.' || *text == '\'')) {
            (void)fputs("\\&", stdout);
        }
        if (*text == '-') {
            (void)fputs("\\-", stdout);
        } else if (*text == '\\') {
            (void)fputs("\\e", stdout);
        } else {
            (void)putchar(*text);
        }
        is_line_start = *text == '\n';
    }
}

static void roff_option(const struct option_spec *option)
{
    (void)fputs(".TP\n.B ", stdout);
    if (option->letter != '\0') {
        (void)printf("\\-%c\\fR, \\fB", option->letter);
    }
    (void)fputs("\\-\\-", stdout);
    roff_text(option->name);
    if (option->value != NULL) {
        (void)fputs(" \\fI", stdout);
        roff_text(option->value);
        (void)fputs("\\fR", stdout);
    }
    (void)putchar('\n');
    roff_text(option->help);
    (void)fputs(".\n", stdout);
}

static void roff_block(const char *title, const char *lines)
{
    if (lines != NULL) {
        (void)printf(".SH %s\n.nf\n", title);
        roff_text(lines);
        (void)fputs(".fi\n", stdout);
    }
}

/* "disk info" is the page hull-disk-info. */
static void roff_page_name(const struct verb *verb, bool is_upper)
{
    (void)fputs(is_upper ? "HULL\\-" : "hull\\-", stdout);
    for (const char *c = verb->name; *c != '\0'; c++) {
        if (*c == ' ') {
            (void)fputs("\\-", stdout);
        } else {
            (void)putchar(*c);
        }
    }
}

static void roff_reference(const struct verb *verb)
{
    (void)fputs(".BR ", stdout);
    roff_page_name(verb, false);
    (void)fputs(" (1)", stdout);
}

static void roff_verbs(const struct verb *const *among)
{
    for (size_t i = 0; among[i] != NULL; i++) {
        if (!among[i]->is_hidden) {
            (void)fputs(".TP\n", stdout);
            roff_reference(among[i]);
            (void)putchar('\n');
            roff_text(among[i]->summary);
            (void)fputs(".\n", stdout);
        }
    }
}

static void roff_see_also(const struct verb *const *among, const struct verb *but)
{
    for (size_t i = 0; among[i] != NULL; i++) {
        if (!among[i]->is_hidden && among[i] != but) {
            (void)fputs(",\n", stdout);
            roff_reference(among[i]);
        }
    }
}

static void man_verb_page(const struct verb *verb, const struct verb *const *among)
{
    (void)fputs(".TH ", stdout);
    roff_page_name(verb, true);
    (void)printf(" 1 \"\" \"hull %s\" \"Hull\"\n.SH NAME\n", HULL_VERSION);
    roff_page_name(verb, false);
    (void)fputs(" \\- ", stdout);
    roff_text(verb->summary);
    (void)printf("\n.SH SYNOPSIS\n.B hull %s\n%s", verb->name,
                 verb->verbs == NULL ? "[\\fIOPTION\\fR]... " : "");
    roff_text(verb->arguments);
    (void)putchar('\n');
    if (verb->description != NULL) {
        (void)fputs(".SH DESCRIPTION\n", stdout);
        roff_text(verb->description);
    }
    if (verb->verbs != NULL) {
        (void)fputs(".SH VERBS\n", stdout);
        roff_verbs(verb->verbs);
    }
    (void)fputs(".SH OPTIONS\n", stdout);
    for (const struct option_spec *o = verb->options; o != NULL && o->name != NULL; o++) {
        roff_option(o);
    }
    (void)fputs(".TP\n.B \\-h\\fR, \\fB\\-\\-help\nShow a short text and exit.\n", stdout);
    for (const struct verb_section *s = verb->sections; s != NULL && s->title != NULL; s++) {
        roff_block(s->title, s->text);
    }
    roff_block("EXIT STATUS", verb->exit_status);
    roff_block("EXAMPLES", verb->examples);
    (void)fputs(".SH SEE ALSO\n.BR hull (1)", stdout);
    roff_see_also(among, verb);
    (void)putchar('\n');
}

static void man_overview(void)
{
    (void)printf(
        ".TH HULL 1 \"\" \"hull %s\" \"Hull\"\n.SH NAME\nhull \\- virtual machines and containers\n"
        ".SH SYNOPSIS\n.B hull\n\\fIVERB\\fR [\\fIOPTION\\fR]... [\\fIARGUMENT\\fR]...\n"
        ".SH DESCRIPTION\nHull runs virtual machines in the foreground or under its daemon, on the "
        "hardware's\nvirtualization or on its own software CPU, and containers beside them.\n"
        "Each verb has a page of its own and answers to \\fB\\-\\-help\\fR.\n.SH VERBS\n",
        HULL_VERSION);
    roff_verbs(verbs);
    (void)fputs(
        ".SH OPTIONS\n.TP\n.B \\-h\\fR, \\fB\\-\\-help\nHelp of hull, or after a verb of that verb.\n"
        ".TP\n.B \\-\\-version\nPrint the version.\n"
        ".SH ENVIRONMENT\n.TP\n.B NO_COLOR\nSet to anything: no colours.\n"
        ".TP\n.B HULL_SOCKET\nThe socket of the hulld that the verbs of instances talk to, in place of the user's own or the "
        "host's.\n"
        ".TP\n.B HULL_REMOTE\nA hulld on another host that these verbs talk to: \\fBhttps://\\fIHOST\\fR[\\fB:\\fIPORT\\fR] (over TLS, "
        "port 8443), or \\fBssh://\\fR[\\fIUSER\\fB@\\fR]\\fIHOST\\fR[\\fB:\\fIPORT\\fR] (which needs a key that ssh may use without "
        "asking). Files that verbs name, as images to import, are then those of that host.\n"
        ".TP\n.B HULL_REMOTE_CERTIFICATES\nWhere the certificates for https are, in place of ~/.config/hull/certificates: ca.pem, "
        "client.pem and client.key, there or in a folder of the host's name.\n"
        ".TP\n.B HULL_STATE\nThe folder of the hulld that these verbs start, in place of the usual one.\n"
        ".TP\n.B HULL_LIBEXEC\nA folder to look for \\fBhull\\-vmm\\fR and the other helper "
        "programs in, before the folder of hull itself.\n"
        ".SH SEE ALSO\n",
        stdout);
    bool is_first = true;
    for (size_t i = 0; verbs[i] != NULL; i++) {
        if (!verbs[i]->is_hidden) {
            (void)printf("%s.BR hull\\-%s (1)", is_first ? "" : ",\n", verbs[i]->name);
            is_first = false;
        }
    }
    (void)putchar('\n');
}

/* hull man [VERB]: prints a man page's source; the build installs what it prints. */
static int man_run(int argc, char **argv)
{
    int count;
    int status = cli_options(&man_verb, false, argc, argv, NULL, &count);
    if (status >= 0) {
        return status;
    }
    if (count == 0) {
        man_overview();
        return CLI_OK;
    }
    const struct verb *const *among = verbs;
    for (int i = 0; among != NULL && i < count; i++) {
        const struct verb *verb = NULL;
        for (size_t j = 0; verb == NULL && among[j] != NULL; j++) {
            verb = strcmp(verb_last_word(among[j]), argv[i]) == 0 ? among[j] : NULL;
        }
        if (verb != NULL && i == count - 1) {
            man_verb_page(verb, among);
            return CLI_OK;
        }
        among = verb != NULL ? verb->verbs : NULL;
    }
    (void)fprintf(stderr, "hull: man page %s: no such verb: see `hull --help`\n", argv[0]);
    return CLI_FAILURE;
}

const struct verb man_verb = {
    .name = "man",
    .arguments = "[VERB]...",
    .summary = "Print the source of a man page",
    .is_hidden = true,
    .run = man_run,
};
