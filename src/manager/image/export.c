/* image-export: the container's form as a tar archive, the VM's as a disk. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/core/compiler.h"
#include "base/host/file.h"
#include "manager/containers.h"
#include "manager/image/files.h"
#include "manager/image/work.h"
#include "manager/text.h"
#include "system/layers/layers.h"
#include "system/template/boxed.h"

struct export
{
    struct job *job;
    const char *digest, *format;
    struct template_layers layers;
    char target[PATH_MAX];
    char part[PATH_MAX]; /* the file until it is whole */
};

static const char *const archives[] = {"tar.zst", "tar.gz", "tar.xz", "tar"};
static const char *const disks[] = {"qcow2", "raw", "vmdk", "vhdx"};

static bool is_one_of(const char *word, const char *const *words, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(word, words[i]) == 0) {
            return true;
        }
    }
    return false;
}

static int mount_layers(void *ctx, struct error *err)
{
    struct export *export = ctx;
    const struct layers_mount request = {.lower = (const char *const *)export->layers.path,
                                         .lower_count = export->layers.count,
                                         .target = export->target};
    return layers_mount(&request, err);
}

static int poll_job(void *ctx)
{
    return job_is_cancelled(((struct export *)ctx)->job);
}

static int run_tar(struct export *export, struct error *err)
{
    static const char *const packers[][2] = {{"tar.zst", "--zstd"},
                                             {"tar.gz", "--gzip"},
                                             {"tar.xz", "--xz"},
                                             {"tar", "--no-auto-compress"}};
    const char *packer = packers[0][1];
    for (size_t i = 0; i < ARRAY_COUNT(packers); i++) {
        packer = strcmp(export->format, packers[i][0]) == 0 ? packers[i][1] : packer;
    }
    const char *const argv[] = {"tar",
                                "--create",
                                packer,
                                "--file",
                                export->part,
                                "--directory",
                                export->target,
                                "--numeric-owner",
                                "--xattrs",
                                "--xattrs-include=*",
                                "--acls",
                                "--sort=name",
                                ".",
                                NULL};
    const struct boxed program = {.what = "tar",
                                  .prepare = mount_layers,
                                  .prepare_ctx = export,
                                  .argv = argv,
                                  .missing_package = "tar",
                                  .poll = poll_job,
                                  .ctx = export};
    return boxed_run(&program, err);
}

static int export_tree(struct export *export, struct error *err)
{
    struct store store;
    char name[65], folder[PATH_MAX];
    image_template_name(export->digest, name);
    job_progress(export->job, "packing the files", 0, 0);
    int rc = containers_store(&export->job->place, &store, err);
    rc = rc < 0 ? rc : template_open(&store, name, true, &export->layers, err);
    rc = rc < 0 ? rc : files_begin(export->job, folder, err);
    if (rc == 0) {
        (void)snprintf(export->target, sizeof(export->target), "%.3900s/target", folder);
        rc = file_make_folders(export->target, 0755, 0755, err);
        rc = rc < 0 ? rc : run_tar(export, err);
        files_abandon(folder);
    }
    template_close(&export->layers);
    return rc;
}

static int export_disk(struct export *export, struct error *err)
{
    struct image_vm_files files;
    json_t *image = json_pack("{s:s}", "name", export->digest);
    job_progress(export->job, "copying the disk", 0, 0);
    int rc = image_vm_files(&export->job->place, image, &files, err);
    json_decref(image);
    return rc < 0 ? rc
                  : work_convert(export->job, files.disk, files.format, export->part,
                                 export->format, err);
}

/* Durable, and in nobody's place. */
static int commit(const char *part, const char *path, struct error *err)
{
    AUTO_CLOSE int fd = open(part, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) < 0) {
        return error_set_errno(err, errno, "writing %s", part);
    }
    return renameat2(AT_FDCWD, part, AT_FDCWD, path, RENAME_NOREPLACE) < 0
               ? error_set_errno(err, errno, "writing %s", path)
               : 0;
}

int image_export(struct job *job, json_t **out_result, struct error *err)
{
    const char *path = text_or_empty(job->request, "path"),
               *form = text_or_empty(job->request, "form");
    struct export export = {.job = job,
                            .digest = text_or_empty(job->request, "digest"),
                            .format = text_or_empty(job->request, "format"),
                            .layers.lock_fd = -1};
    struct stat st;
    bool is_disk = strcmp(form, "vm") == 0;
    if (export.format[0] == '\0') {
        export.format = is_disk ? "qcow2" : "tar.zst";
    }
    if (!image_is_digest(export.digest) || path[0] != '/' || strlen(path) > PATH_MAX - 64) {
        return error_set(err, EINVAL,
                         "exporting an image: needs a digest, and a whole path of a file");
    }
    if (!is_disk && strcmp(form, "container") != 0) {
        return error_set(err, EINVAL, "form '%.64s': container or vm", form);
    }
    if (is_disk ? !is_one_of(export.format, disks, ARRAY_COUNT(disks))
                : !is_one_of(export.format, archives, ARRAY_COUNT(archives))) {
        return error_set(err, EINVAL, "format '%.64s': %s", export.format,
                         is_disk ? "qcow2, raw, vmdk or vhdx" : "tar.zst, tar.gz, tar.xz or tar");
    }
    if (lstat(path, &st) == 0) {
        return error_set(err, EEXIST, "%s: is there already", path);
    }
    (void)snprintf(export.part, sizeof(export.part), "%.3900s.%.40s.part", path, job->id);
    (void)unlink(export.part); /* of a worker that died */
    int rc = is_disk ? export_disk(&export, err) : export_tree(&export, err);
    rc = rc < 0 ? rc : commit(export.part, path, err);
    if (rc < 0) {
        (void)unlink(export.part); /* perhaps it was not made */
        return rc;
    }
    *out_result = json_pack("{s:s, s:s}", "path", path, "format", export.format);
    return 0;
}
