#include "share/options.h"

#include <errno.h>
#include <getopt.h>
#include <stddef.h>

#include "base/host/helper.h"

const char share_usage[] =
    "usage: hull-share --fd N --folder DIR [OPTION]...\n"
    "\n"
    "Serves a folder to a VM on the connected socket N. `hull boot --share` starts it.\n"
    "\n"
    "  --fd N        a connected stream socket: the VM\n"
    "  --ready-fd N  where to say \"ready\", or the error, in one line\n"
    "  --folder DIR  the folder\n"
    "  --readonly    nothing in it is changed\n"
    "  --verbose     say on stderr what happens\n"
    "  --help, --version\n";

static int parse_option(int option, const char *value, struct share_options *options,
                        struct error *err)
{
    switch (option) {
    case 'f':
        return helper_parse_fd("fd", value, &options->fd, err);
    case 'r':
        return helper_parse_fd("ready-fd", value, &options->ready_fd, err);
    case 'd':
        options->folder = value;
        return 0;
    case 'R':
        options->is_readonly = true;
        return 0;
    case 'v':
        options->is_verbose = true;
        return 0;
    case 'h':
        options->wants_help = true;
        return 0;
    case 'V':
        options->wants_version = true;
        return 0;
    default:
        return error_set(err, EINVAL, "bad option: see hull-share --help");
    }
}

int share_parse_options(int argc, char **argv, struct share_options *out_options, struct error *err)
{
    static const struct option known[] = {
        {"fd", required_argument, NULL, 'f'},     {"ready-fd", required_argument, NULL, 'r'},
        {"folder", required_argument, NULL, 'd'}, {"readonly", no_argument, NULL, 'R'},
        {"verbose", no_argument, NULL, 'v'},      {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, 'V'},      {0},
    };
    *out_options = (struct share_options){.fd = -1, .ready_fd = -1};
    int rc = 0;
    int option;
    optind = 1;
    opterr = 0;
    /* The rest is still read after a failure: --ready-fd may follow. */
    while ((option = getopt_long(argc, argv, "", known, NULL)) != -1) {
        struct error other;
        int this_rc = parse_option(option, optarg, out_options, rc == 0 ? err : &other);
        rc = rc == 0 ? this_rc : rc;
    }
    if (rc == 0 && optind < argc) {
        rc = error_set(err, EINVAL, "argument %.60s is unknown: see hull-share --help",
                       argv[optind]);
    }
    if (rc == 0 && !out_options->wants_help && !out_options->wants_version &&
        (out_options->fd < 0 || out_options->folder == NULL)) {
        rc = error_set(err, EINVAL, "--fd and --folder are needed: see hull-share --help");
    }
    return rc;
}
