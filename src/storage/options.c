#include "storage/options.h"

#include <errno.h>
#include <getopt.h>
#include <stdlib.h>

#include "base/host/helper.h"
#include "block/remote.h"

#define MAX_SECONDS 86400

const char storage_usage[] =
    "usage: hull-storage --fd N --uri URI [OPTION]...\n"
    "\n"
    "Serves a remote disk as NBD on the connected socket N. `hull boot --disk URI` starts it.\n"
    "\n"
    "  --fd N               a connected stream socket: the client\n"
    "  --ready-fd N         where to say \"ready\", or the error, in one line\n"
    "  --uri URI            the disk, as in nbd://server/export\n"
    "  --readonly           nothing is written\n"
    "  --reconnect SECONDS  how long requests wait for a connection that is lost (default: 60)\n"
    "  --timeout SECONDS    a server without an answer for that long is lost (default: 30; 0: never)\n"
    "  --verbose            say on stderr what happens\n"
    "  --help, --version\n";

static int parse_number(const char *name, const char *text, long min, long max, long *out_number,
                        struct error *err)
{
    char *end;
    errno = 0;
    long number = strtol(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || number < min || number > max) {
        return error_set(err, EINVAL, "--%s %.60s: expected a number from %ld to %ld", name, text,
                         min, max);
    }
    *out_number = number;
    return 0;
}

static int parse_option(int option, const char *value, struct storage_options *options,
                        struct error *err)
{
    long number = 0;
    int rc = 0;
    switch (option) {
    case 'f':
        return helper_parse_fd("fd", value, &options->fd, err);
    case 'r':
        return helper_parse_fd("ready-fd", value, &options->ready_fd, err);
    case 'u':
        options->uri = value;
        return 0;
    case 'R':
        options->is_readonly = true;
        return 0;
    case 'c':
        rc = parse_number("reconnect", value, 0, MAX_SECONDS, &number, err);
        options->reconnect_ns = (uint64_t)number * 1000000000;
        return rc;
    case 't':
        rc = parse_number("timeout", value, 0, MAX_SECONDS, &number, err);
        options->timeout_ns = (uint64_t)number * 1000000000;
        return rc;
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
        return error_set(err, EINVAL, "bad option: see hull-storage --help");
    }
}

int storage_parse_options(int argc, char **argv, struct storage_options *out_options,
                          struct error *err)
{
    static const struct option known[] = {
        {"fd", required_argument, NULL, 'f'},        {"ready-fd", required_argument, NULL, 'r'},
        {"uri", required_argument, NULL, 'u'},       {"readonly", no_argument, NULL, 'R'},
        {"reconnect", required_argument, NULL, 'c'}, {"timeout", required_argument, NULL, 't'},
        {"verbose", no_argument, NULL, 'v'},         {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, 'V'},         {0},
    };
    *out_options = (struct storage_options){.fd = -1,
                                            .ready_fd = -1,
                                            .reconnect_ns = BLOCK_REMOTE_RECONNECT_NS,
                                            .timeout_ns = BLOCK_REMOTE_TIMEOUT_NS};
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
        rc = error_set(err, EINVAL, "argument %.60s is unknown: see hull-storage --help",
                       argv[optind]);
    }
    if (rc == 0 && !out_options->wants_help && !out_options->wants_version &&
        (out_options->fd < 0 || out_options->uri == NULL)) {
        rc = error_set(err, EINVAL, "--fd and --uri are needed: see hull-storage --help");
    }
    return rc;
}
