/* hull-share: opens the folder, locks itself in, serves its one VM until that has gone. */
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include "base/host/confine.h"
#include "base/host/helper.h"
#include "base/host/log.h"
#include "share/connection.h"
#include "share/jail.h"
#include "share/options.h"
#include "share/share.h"

static int start(struct share *share, const struct share_options *options, struct error *err)
{
    bool keeps_owners = geteuid() == 0;
    char outer_path[PATH_MAX];
    int folder_fd = -1;
    int rc = helper_check_socket(options->fd, err);
    if (rc == 0) {
        rc = confine_close_others(options->fd, options->ready_fd, err);
    }
    if (rc == 0) {
        rc = share_jail_enter_folder(options->folder, options->is_readonly, &folder_fd, outer_path,
                                     err);
    }
    if (rc == 0) {
        rc = share_init(share, folder_fd, outer_path, options->is_readonly, keeps_owners, err);
    }
    return rc < 0 ? rc : share_jail_close(keeps_owners, err);
}

int share_main(int argc, char **argv)
{
    struct share_options options;
    struct error err = {0};
    (void)signal(SIGPIPE, SIG_IGN); /* a valid signal */
    if (share_parse_options(argc, argv, &options, &err) < 0) {
        return helper_fail(options.ready_fd, &err);
    }
    if (options.wants_help || options.wants_version) {
        (void)fputs(options.wants_help ? share_usage : "hull-share " HULL_VERSION "\n", stdout);
        return fflush(stdout) == 0 ? 0 : 1;
    }
    log_init(STDERR_FILENO, options.is_verbose ? LOG_LEVEL_INFO : LOG_LEVEL_WARNING, "hull");
    struct share share = {0};
    if (start(&share, &options, &err) < 0) {
        return helper_fail(options.ready_fd, &err);
    }
    helper_say_ready(options.ready_fd);
    int rc = connection_serve(&share, options.fd, &err);
    if (rc < 0) {
        log_error("share %s: %s", options.folder, err.text);
    }
    share_fini(&share);
    return rc < 0 ? 1 : 0;
}
