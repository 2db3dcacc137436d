/* A distribution's image for VMs, made by an ordinary user. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/core/compiler.h"
#include "base/host/file.h"
#include "base/host/program.h"
#include "manager/image/build.h"
#include "manager/image/files.h"
#include "manager/image/kernel.h"
#include "manager/image/tool.h"
#include "manager/image/vm_form.h"
#include "manager/image/work.h"
#include "system/template/build.h"
#include "system/template/host_apt.h"

#define MAX_INCLUDE 8192
#define DISK_BYTES  (4ull << 30)

/* What `system` does in templates, as far as VMs want it. */
static const char finish[] =
    "passwd -q -l root\n"
    "printf 'LANG=C.UTF-8\\n' > /etc/default/locale\n"
    ": > /etc/machine-id\n"
    "rm -f /etc/ssh/ssh_host_*_key /etc/ssh/ssh_host_*_key.pub /var/lib/dbus/machine-id\n"
    "for unit in systemd-hwdb-update.service kmod-static-nodes.service modprobe@.service \\\n"
    "    systemd-pstore.service systemd-firstboot.service systemd-network-generator.service \\\n"
    "    sys-kernel-debug.mount sys-kernel-tracing.mount sys-kernel-config.mount \\\n"
    "    sys-fs-fuse-connections.mount systemd-journald-audit.socket e2scrub_reap.service; do\n"
    "    ln -sf /dev/null /etc/systemd/system/$unit\n"
    "done\n"
    "if [ ! -e /usr/bin/unattended-upgrade ]; then\n"
    "    ln -sf /dev/null /etc/systemd/system/apt-daily.timer\n"
    "    ln -sf /dev/null /etc/systemd/system/apt-daily-upgrade.timer\n"
    "fi\n"
    "cat > /etc/systemd/system/ssh-host-keys.service <<'END'\n"
    "[Unit]\n"
    "Description=Host keys of the SSH server\n"
    "ConditionPathExists=/usr/bin/ssh-keygen\n"
    "ConditionPathExists=/etc/ssh/sshd_config\n"
    "ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key\n"
    "Before=ssh.service ssh.socket\n"
    "\n"
    "[Service]\n"
    "Type=oneshot\n"
    "RemainAfterExit=yes\n"
    "ExecStart=/usr/bin/ssh-keygen -A\n"
    "\n"
    "[Install]\n"
    "WantedBy=multi-user.target\n"
    "END\n"
    "systemctl -q enable ssh-host-keys.service hull-devices.service\n"
    "ln -sf multi-user.target /etc/systemd/system/default.target\n";

/* Owners are those of the archive, as fakeroot remembers them. */
static const char pack[] = "cd \"$1\"\n"
                           "mkdir root\n"
                           "tar -C root -xf root.tar --exclude='./dev/*'\n"
                           "mkdir -p root/usr/lib/modules\n"
                           "cp -R \"$2\"/usr/lib/modules/. root/usr/lib/modules/\n"
                           "[ -L root/lib ] || ln -s ../usr/lib/modules root/lib/modules\n"
                           "truncate -s \"$3\" raw\n"
                           "/sbin/mke2fs -q -F -t ext4 -L root -m 1 "
                           "-E lazy_itable_init=0,lazy_journal_init=0 -d root raw\n"
                           "rm -rf root root.tar\n";

struct user_build {
    struct job *job;
    const struct distribution *distribution;
    const struct variant *variant;
    struct kernel kernel;
    char folder[PATH_MAX], work[PATH_MAX];
};

static void in_work(const struct user_build *b, const char *name, char out_path[PATH_MAX])
{
    (void)snprintf(out_path, PATH_MAX, "%.3900s/%s", b->work, name);
}

static int write_script(const struct user_build *b, struct error *err)
{
    char path[PATH_MAX];
    in_work(b, "finish", path);
    FILE *out = fopen(path, "we");
    if (out == NULL) {
        return error_set_errno(err, errno, "writing %s", path);
    }
    for (const struct vm_file *file = vm_files; file->path != NULL; file++) {
        (void)fprintf(out, "mkdir -p \"$(dirname %s)\"\ncat > %s <<'END'\n%sEND\n", file->path,
                      file->path, file->text); /* fclose tells */
    }
    (void)fputs(build_tree_script, out); /* the same */
    (void)fputs(finish, out);            /* the same */
    return fclose(out) != 0 ? error_set_errno(err, errno, "writing %s", path) : 0;
}

static int make_include(const struct user_build *b, char out[MAX_INCLUDE], struct error *err)
{
    struct build_packages packages = {0};
    int rc = build_collect_packages(b->job->request, b->distribution, &packages, err);
    size_t used = (size_t)snprintf(out, MAX_INCLUDE, "--include=%s", b->variant->packages);
    for (size_t i = 0; rc == 0 && i < packages.count; i++) {
        int length = snprintf(out + used, MAX_INCLUDE - used, ",%s", packages.names[i]);
        if (length < 0 || (size_t)length >= MAX_INCLUDE - used) {
            return error_set(err, E2BIG, "too many packages");
        }
        used += (size_t)length;
    }
    return rc;
}

static int bootstrap(const struct user_build *b, struct error *err)
{
    char include[MAX_INCLUDE], sources[PATH_MAX], to[PATH_MAX], agent[PATH_MAX],
        upload[2 * PATH_MAX];
    char script[PATH_MAX], upload_agent[2 * PATH_MAX];
    unsigned count = 0;
    in_work(b, "hull.list", sources);
    in_work(b, "root.tar", to);
    in_work(b, "finish", script);
    int rc = make_include(b, include, err);
    rc = rc < 0 ? rc : write_script(b, err);
    rc = rc < 0 ? rc : host_apt_sources(b->distribution->suite, sources, true, &count, err);
    if (rc < 0) {
        return rc;
    }
    const char *argv[24] = {"mmdebstrap",
                            "--mode=unshare",
                            "--quiet",
                            "--variant=minbase",
                            "--dpkgopt=path-exclude=/usr/share/locale/*",
                            include};
    size_t words = 6;
    if (b->variant->is_lean) {
        argv[words++] = "--dpkgopt=path-exclude=/usr/share/doc/*";
        argv[words++] = "--dpkgopt=path-exclude=/usr/share/man/*";
    }
    if (program_find("hull-agent", false, agent, sizeof(agent), NULL) == 0) {
        (void)snprintf(upload_agent, sizeof(upload_agent),
                       "--customize-hook=upload '%s' /usr/sbin/hull-agent", agent);
        argv[words++] = upload_agent;
    }
    (void)snprintf(upload, sizeof(upload), "--customize-hook=upload '%s' /hull-finish", script);
    argv[words++] = upload;
    argv[words++] = "--customize-hook=chroot \"$1\" sh -eu /hull-finish";
    argv[words++] = "--customize-hook=rm \"$1/hull-finish\"";
    argv[words++] = b->distribution->suite;
    argv[words++] = to;
    argv[words++] = count > 0 ? sources : NULL;
    const struct tool tool = {.package = "mmdebstrap", .argv = argv};
    job_progress(b->job, "installing packages", 5, 100);
    return tool_run(b->job, &tool, err);
}

static int make_disk(const struct user_build *b, struct error *err)
{
    char size[32], raw[PATH_MAX], path[PATH_MAX];
    in_work(b, "raw", raw);
    (void)snprintf(size, sizeof(size), "%llu", DISK_BYTES);
    const char *const argv[] = {"fakeroot",      "sh", "-euc", pack, "sh", b->work,
                                b->kernel.layer, size, NULL};
    const struct tool tool = {.package = "fakeroot", .argv = argv};
    job_progress(b->job, "making the disk", 70, 100);
    int rc = tool_run(b->job, &tool, err);
    (void)snprintf(path, sizeof(path), "%.3900s/disk.qcow2", b->folder);
    return rc < 0 ? rc : work_convert(b->job, raw, "raw", path, "qcow2", err);
}

static int make_files(struct user_build *b, struct error *err)
{
    char path[PATH_MAX], scratch[PATH_MAX];
    in_work(b, "scratch", scratch);
    int rc = file_make_folders(scratch, 0755, 0755, err);
    rc = rc < 0 ? rc
                : kernel_get(b->job, kernel_suite(b->distribution->id, b->distribution->suite),
                             &b->kernel, err);
    rc = rc < 0 ? rc : bootstrap(b, err);
    rc = rc < 0 ? rc : make_disk(b, err);
    (void)snprintf(path, sizeof(path), "%.3900s/initrd", b->folder);
    rc = rc < 0 ? rc : kernel_make_initrd(b->job, &b->kernel, scratch, path, err);
    (void)snprintf(path, sizeof(path), "%.3900s/vmlinuz", b->folder);
    rc = rc < 0 ? rc : vm_form_copy(b->kernel.image, path, err);
    return rc < 0 ? rc : layers_remove(b->work, err);
}

static int describe(const struct user_build *b, const char *source, json_t **out_document,
                    struct error *err)
{
    char digest[72], path[PATH_MAX];
    struct stat st;
    (void)snprintf(path, sizeof(path), "%.3900s/disk.qcow2", b->folder);
    int64_t used = stat(path, &st) == 0 ? (int64_t)st.st_blocks * 512 : 0;
    json_t *vm = json_pack("{s:s, s:s, s:I, s:s, s:s, s:s}", "disk", "disk.qcow2", "format",
                           "qcow2", "virtual_size_bytes", (json_int_t)DISK_BYTES, "kernel",
                           "vmlinuz", "initrd", "initrd", "append", VM_FORM_APPEND);
    int rc = files_describe(b->job, b->folder, NULL, vm, digest, err);
    rc = rc < 0 ? rc : files_commit(&b->job->place, b->folder, digest, err);
    rc = rc < 0 ? rc : work_document(&b->job->place, digest, source, false, out_document, err);
    if (rc < 0) {
        json_decref(vm);
        return rc;
    }
    json_object_set_new(*out_document, "vm", vm);
    json_object_set_new(*out_document, "forms", json_pack("[s]", "vm"));
    json_object_set_new(*out_document, "size_bytes", json_integer(used));
    json_object_set_new(*out_document, "os",
                        json_pack("{s:s, s:s, s:s}", "id", b->distribution->id, "version",
                                  b->distribution->version, "codename", b->distribution->suite));
    return 0;
}

int build_as_user(struct job *job, const struct distribution *distribution, const char *variant,
                  const char *source, json_t **out_document, struct error *err)
{
    struct user_build b = {.job = job, .distribution = distribution, .variant = build_variants};
    while (b.variant->name != NULL && strcmp(b.variant->name, variant) != 0) {
        b.variant++;
    }
    if (b.variant->name == NULL || b.variant->packages == NULL) {
        return error_set(err, EINVAL, "variant '%.64s': minimal, standard or web", variant);
    }
    int rc = files_begin(job, b.folder, err);
    if (rc < 0) {
        return rc;
    }
    (void)snprintf(b.work, sizeof(b.work), "%.3900s/work", b.folder);
    rc = make_files(&b, err);
    rc = rc < 0 ? rc : describe(&b, source, out_document, err);
    if (rc < 0) {
        files_abandon(b.folder);
    }
    return rc;
}
