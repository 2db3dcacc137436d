#include "manager/image/suite.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/core/compiler.h"
#include "base/host/file.h"
#include "manager/image/tool.h"
#include "system/template/host_apt.h"

#define FRESH_S    86400
#define MAX_SOURCE 65536

static int write_config(const char *folder, struct error *err)
{
    char path[PATH_MAX];
    AUTO_FREE char *text = NULL;
    (void)snprintf(path, sizeof(path), "%.3900s/apt.conf", folder);
    /* apt reads this before the host's settings: proxies and the like stay. */
    int length = asprintf(&text,
                          "Dir::Etc::sourcelist \"%s/sources.list\";\n"
                          "Dir::Etc::sourceparts \"%s/none\";\n"
                          "Dir::Etc::preferences \"/dev/null\";\n"
                          "Dir::Etc::preferencesparts \"%s/none\";\n"
                          "Dir::State \"%s/state\";\n"
                          "Dir::State::status \"/dev/null\";\n"
                          "Dir::Cache \"%s/cache\";\n"
                          "APT::Sandbox::User \"root\";\n"
                          "APT::Get::List-Cleanup \"true\";\n"
                          "Acquire::Languages \"none\";\n",
                          folder, folder, folder, folder, folder);
    return length < 0 ? error_set_errno(err, ENOMEM, "%s", path)
                      : file_replace(path, text, 0600, false, err);
}

/* "deb [options] URI bookworm main": the same of another suite. What is not of the host's main archive is left out. */
static void put_line(FILE *out, const char *line, const char *host, const char *suite)
{
    const char *found = strstr(line, host);
    size_t length = strlen(host);
    if (strncmp(line, "deb ", 4) == 0 && found != NULL && found > line && found[-1] == ' ' &&
        found[length] == ' ') {
        (void)fprintf(out, "%.*s%s%s\n", (int)(found - line), line, suite, found + length);
    }
}

/* The host's sources of the suite; else those of its own, with the suite's name in place of its own. */
static int write_sources(const char *folder, const char *suite, const char *host, struct error *err)
{
    char path[PATH_MAX];
    void *text;
    size_t size;
    unsigned count = 0;
    (void)snprintf(path, sizeof(path), "%.3900s/sources.list", folder);
    int rc = host_apt_sources(suite, path, false, &count, err);
    if (rc < 0 || count > 0) {
        return rc;
    }
    rc = host_apt_sources(host, path, false, &count, err);
    AUTO_CLOSE int fd = rc < 0 ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    rc = rc == 0 && fd < 0 ? error_set_errno(err, errno, "%s", path) : rc;
    rc = rc < 0 ? rc : file_read_whole(fd, MAX_SOURCE, path, &text, &size, err);
    if (rc < 0) {
        return rc;
    }
    AUTO_FREE char *lines = NULL;
    size_t length;
    char *save = NULL;
    FILE *out = open_memstream(&lines, &length);
    for (char *line = out != NULL ? strtok_r(text, "\n", &save) : NULL; line != NULL;
         line = strtok_r(NULL, "\n", &save)) {
        put_line(out, line, host, suite);
    }
    free(text);
    if (out == NULL || fclose(out) != 0) {
        return error_set_errno(err, ENOMEM, "%s", path);
    }
    return length == 0
               ? error_set(err, ENOENT, "the host has no package sources that lead to %s", suite)
               : file_replace(path, lines, 0600, false, err);
}

static int update(struct job *job, const char *folder, const char *config, struct error *err)
{
    char stamp[PATH_MAX], path[PATH_MAX];
    struct stat info;
    (void)snprintf(stamp, sizeof(stamp), "%.3900s/updated", folder);
    if (stat(stamp, &info) == 0 && info.st_mtime <= time(NULL) &&
        time(NULL) - info.st_mtime < FRESH_S) {
        return 0;
    }
    static const char *const folders[] = {"none", "state/lists/partial", "cache/archives/partial"};
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < ARRAY_COUNT(folders); i++) {
        (void)snprintf(path, sizeof(path), "%.3900s/%s", folder, folders[i]);
        rc = file_make_folders(path, 0700, 0700, err);
    }
    const char *const argv[] = {"env", config, "apt-get", "-q", "update", "--error-on=any", NULL};
    const struct tool tool = {.package = "apt", .argv = argv};
    job_progress(job, "reading the list of packages", 0, 0);
    rc = rc < 0 ? rc : tool_run(job, &tool, err);
    return rc < 0 ? rc : file_replace(stamp, "", 0600, false, err);
}

int suite_open(struct job *job, const char *suite, char out_config[PATH_MAX], struct error *err)
{
    char host[64], folder[PATH_MAX];
    out_config[0] = '\0';
    int rc = suite != NULL ? host_apt_suite(host, sizeof(host), err) : 0;
    if (rc < 0 || suite == NULL || strcmp(suite, host) == 0) {
        return rc;
    }
    (void)snprintf(folder, sizeof(folder), "%s/apt/%.60s", job->place.cache, suite);
    (void)snprintf(out_config, PATH_MAX, "APT_CONFIG=%.3900s/apt.conf", folder);
    rc = file_make_folders(folder, 0700, 0755, err);
    rc = rc < 0 ? rc : write_config(folder, err);
    rc = rc < 0 ? rc : write_sources(folder, suite, host, err);
    rc = rc < 0 ? rc : update(job, folder, out_config, err);
    return rc < 0 ? error_prefix(err, rc, "packages of %s", suite) : 0;
}
