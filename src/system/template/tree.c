/* A template from files that are there: a folder, or an archive that tar knows. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "system/template/build.h"

static int copy_progress(void *ctx, uint64_t done_bytes, uint64_t done_files)
{
    return build_poll(ctx);
}

static int unpack(struct build *build, const char *archive, const char *root, struct error *err)
{
    const char *const argv[] = {"tar",
                                "--extract",
                                "--file",
                                archive,
                                "--directory",
                                root,
                                "--numeric-owner",
                                "--preserve-permissions",
                                "--same-owner",
                                "--xattrs",
                                "--xattrs-include=*",
                                "--acls",
                                NULL};
    const struct boxed program = {
        .what = "tar", .argv = argv, .missing_package = "tar", .poll = build_poll, .ctx = build};
    return boxed_run(&program, err);
}

int build_root_tree(struct build *build, struct error *err)
{
    const char *from = build->request->root_tree;
    char root[PATH_MAX], real[PATH_MAX];
    struct stat st;
    build_path(build, "root", root);
    if (realpath(from, real) == NULL || stat(real, &st) < 0) {
        return error_set_errno(err, errno, "reading %s", from);
    }
    if (S_ISREG(st.st_mode)) {
        build_phase(build, "unpacking", 1, 70, 0);
        return unpack(build, real, root, err);
    }
    if (!S_ISDIR(st.st_mode)) {
        return error_set(err, EINVAL, "%s: a folder or a tar file", from);
    }
    build_phase(build, "copying", 1, 70, 0);
    if (rmdir(root) < 0) {
        return error_set_errno(err, errno, "removing %s", root);
    }
    const struct layers_copy copy = {
        .from = real, .to = root, .progress = copy_progress, .ctx = build};
    return layers_copy(&copy, err);
}
