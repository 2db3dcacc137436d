/* Debian's variants: mmdebstrap with the host's sources, then what makes the tree a container's. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/host/file.h"
#include "system/template/build.h"
#include "system/template/host_apt.h"

#define MAX_INCLUDE 8192

/* Each step of apt and dpkg is a line; what mmdebstrap itself says begins a phase. */
static const struct {
    const char *start, *what;
    int from, to;
    unsigned steps; /* lines about packages, roughly */
} phases[] = {
    {"I: running apt-get update", "reading lists of packages", 2, 10, 8},
    {"I: downloading packages", "downloading packages", 10, 25, 60},
    {"I: extracting archives", "unpacking", 25, 35, 60},
    {"I: installing essential", "installing the base", 35, 65, 130},
    {"I: installing remaining", "installing packages", 65, 90, 160},
    {"I: running --customize-hook", "finishing", 90, 91, 0},
    {"I: cleaning", "cleaning", 91, 92, 0},
};

void build_apt_line(void *ctx, const char *line)
{
    static const char *const steps[] = {"Get:", "Unpacking ", "Setting up ", "extracting "};
    struct build *build = ctx;
    for (size_t i = 0; i < ARRAY_COUNT(phases); i++) {
        if (strncmp(line, phases[i].start, strlen(phases[i].start)) == 0) {
            build_phase(build, phases[i].what, phases[i].from, phases[i].to, phases[i].steps);
            return;
        }
    }
    unsigned count;
    /* "0 upgraded, 12 newly installed, ...": each is downloaded, unpacked and set up. */
    const char *comma = strstr(line, " upgraded, ");
    if (comma != NULL && sscanf(comma, " upgraded, %u newly installed", &count) == 1 &&
        build->phase_to > build->phase_from && count < 100000) {
        build->phase_steps = (strncmp(build->phase, "downloading", 11) == 0 ? 1 : 3) * count;
        return;
    }
    for (size_t i = 0; i < ARRAY_COUNT(steps); i++) {
        if (strncmp(line, steps[i], strlen(steps[i])) == 0) {
            build_step(build);
            return;
        }
    }
}

/* What makes a Debian tree a container's. Units that are masked need hardware, kernel interfaces or an owner of the host, and
 * would fail: the system would call itself degraded. The console's shell is root's without a password: whoever is there is root
 * of the host. It waits for the Enter key, since a session that nobody uses takes memory in each container. */
static const char finish[] =
    "cd /etc/systemd/system\n"
    "for unit in systemd-udevd.service systemd-udev-trigger.service systemd-udev-settle.service \\\n"
    "    systemd-udevd-control.socket systemd-udevd-kernel.socket systemd-hwdb-update.service \\\n"
    "    systemd-modules-load.service modprobe@.service kmod-static-nodes.service \\\n"
    "    sys-kernel-debug.mount sys-kernel-tracing.mount sys-kernel-config.mount \\\n"
    "    sys-fs-fuse-connections.mount dev-hugepages.mount dev-mqueue.mount \\\n"
    "    proc-sys-fs-binfmt_misc.automount proc-sys-fs-binfmt_misc.mount systemd-binfmt.service \\\n"
    "    systemd-networkd-wait-online.service systemd-journald-audit.socket \\\n"
    "    systemd-pstore.service systemd-remount-fs.service systemd-firstboot.service \\\n"
    "    systemd-timesyncd.service systemd-rfkill.service systemd-rfkill.socket \\\n"
    "    systemd-oomd.service systemd-network-generator.service systemd-vconsole-setup.service \\\n"
    "    getty@tty1.service e2scrub_reap.service e2scrub_all.timer e2scrub_all.service \\\n"
    "    fstrim.timer; do\n"
    "    ln -sf /dev/null $unit\n"
    "done\n"
    "mkdir -p getty.target.wants console-getty.service.d multi-user.target.wants\n"
    "ln -sf /lib/systemd/system/console-getty.service getty.target.wants/console-getty.service\n"
    "rm -f getty.target.wants/getty@tty1.service\n"
    "cat > console-getty.service.d/autologin.conf <<'END'\n"
    "[Service]\n"
    "ExecStart=\n"
    "ExecStart=-/sbin/agetty -o '-p -f -- \\\\u' --autologin root --noclear --wait-cr --keep-baud - 115200,38400,9600 $TERM\n"
    "END\n"
    /* Without unattended-upgrades there is nothing that each of many containers should do every night. */
    "if [ ! -e /usr/bin/unattended-upgrade ]; then\n"
    "    ln -sf /dev/null apt-daily.timer\n"
    "    ln -sf /dev/null apt-daily-upgrade.timer\n"
    "fi\n"
    /* Keys are made by the container that is to have them. */
    "cat > ssh-host-keys.service <<'END'\n"
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
    "ln -sf /etc/systemd/system/ssh-host-keys.service multi-user.target.wants/ssh-host-keys.service\n"
    "mkdir -p /etc/systemd/journald.conf.d\n"
    "printf '[Journal]\\nReadKMsg=no\\nAudit=no\\n' > /etc/systemd/journald.conf.d/container.conf\n"
    "printf 'LANG=C.UTF-8\\n' > /etc/default/locale\n"
    "ln -sf multi-user.target /etc/systemd/system/default.target\n"
    "passwd -q -l root\n"
    "printf '# Nothing is mounted from here.\\n' > /etc/fstab\n"
    ": > /etc/machine-id\n"
    /* The host's ways to the packages were lent. */
    "rm -rf /etc/apt/apt.conf.d/99mmdebstrap /etc/apt/auth.conf /etc/apt/auth.conf.d/*\n"
    "rm -rf /etc/apt/sources.list.d/*\n";

struct debian {
    char include[MAX_INCLUDE];
    char settings[PATH_MAX], sources[PATH_MAX], public[PATH_MAX], root[PATH_MAX];
    unsigned source_count;
};

static int make_include(const struct build *build, const struct variant *variant, char *out,
                        struct error *err)
{
    size_t used = (size_t)snprintf(out, MAX_INCLUDE, "--include=%s", variant->packages);
    for (const char *const *p = build->request->packages; p != NULL && *p != NULL; p++) {
        int length = snprintf(out + used, MAX_INCLUDE - used, ",%s", *p);
        if (length < 0 || (size_t)length >= MAX_INCLUDE - used) {
            return error_set(err, E2BIG, "too many packages");
        }
        used += (size_t)length;
    }
    return 0;
}

static int write_settings(const char *path, struct error *err)
{
    FILE *out = fopen(path, "we");
    if (out == NULL) {
        return error_set_errno(err, errno, "writing %s", path);
    }
    int rc = host_apt_settings(out, err);
    if (fclose(out) != 0 && rc == 0) {
        rc = error_set_errno(err, errno, "writing %s", path);
    }
    return rc;
}

static int prepare(struct build *build, const struct variant *variant, struct debian *d,
                   struct error *err)
{
    unsigned count;
    build_path(build, "root", d->root);
    build_path(build, "scratch/settings", d->settings);
    build_path(build, "scratch/hull.list", d->sources);
    build_path(build, "scratch/public.list", d->public);
    int rc = make_include(build, variant, d->include, err);
    rc = rc < 0 ? rc : write_settings(d->settings, err);
    rc = rc < 0 ? rc : host_apt_sources(build->suite, d->sources, false, &d->source_count, err);
    rc = rc < 0 ? rc : host_apt_sources(build->suite, d->public, true, &count, err);
    return rc;
}

static int bootstrap(struct build *build, struct debian *d, bool is_lean, struct error *err)
{
    static const char *const lean[] = {"--dpkgopt=path-exclude=/usr/share/doc/*",
                                       "--dpkgopt=path-include=/usr/share/doc/*/copyright",
                                       "--dpkgopt=path-exclude=/usr/share/info/*",
                                       "--dpkgopt=path-exclude=/usr/share/man/*"};
    char aptopt[PATH_MAX + 16];
    (void)snprintf(aptopt, sizeof(aptopt), "--aptopt=%s", d->settings);
    const char *argv[20] = {"mmdebstrap", "--mode=root", "--verbose", "--format=directory",
                            "--variant=minbase", aptopt,
                            /* What users and passwords the host's apt has for its sources. */
                            "--setup-hook=for file in auth.conf auth.conf.d; do "
                            "[ ! -e /etc/apt/$file ] || cp -R /etc/apt/$file \"$1/etc/apt/\"; done",
                            "--dpkgopt=path-exclude=/usr/share/locale/*"};
    size_t count = 8;
    for (size_t i = 0; is_lean && i < ARRAY_COUNT(lean); i++) {
        argv[count++] = lean[i];
    }
    argv[count++] = d->include;
    argv[count++] = build->suite;
    argv[count++] = d->root;
    argv[count++] = d->source_count > 0 ? d->sources : NULL;
    const struct boxed program = {.what = "mmdebstrap",
                                  .argv = argv,
                                  .missing_package = "mmdebstrap",
                                  .line = build_apt_line,
                                  .poll = build_poll,
                                  .ctx = build};
    return boxed_run(&program, err);
}

/* The sources that containers are to use: as the host's, without passwords. What mmdebstrap took itself stays. */
static int keep_sources(const struct debian *d, char *out_script, size_t size, struct error *err)
{
    void *text;
    size_t length;
    AUTO_CLOSE int fd = open(d->public, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return error_set_errno(err, errno, "reading %s", d->public);
    }
    int rc = file_read_whole(fd, size / 2, d->public, &text, &length, err);
    if (rc < 0) {
        return rc;
    }
    (void)snprintf(out_script, size,
                   "cat > /etc/apt/sources.list <<'END-OF-SOURCES'\n%sEND-OF-SOURCES\n",
                   (const char *)text);
    free(text);
    return 0;
}

int build_debian(struct build *build, const struct variant *variant, struct error *err)
{
    const char *suite = build->request->suite;
    int rc = 0;
    if (suite != NULL) {
        (void)snprintf(build->suite, sizeof(build->suite), "%s", suite);
    } else {
        rc = host_apt_suite(build->suite, sizeof(build->suite), err);
    }
    struct debian *d = calloc(1, sizeof(*d));
    char *script = malloc(2 * PATH_MAX);
    if (d == NULL || script == NULL) {
        rc = error_set_errno(err, ENOMEM, "preparing the build");
    }
    rc = rc < 0 ? rc : prepare(build, variant, d, err);
    build_phase(build, "starting mmdebstrap", 1, 2, 0);
    rc = rc < 0 ? rc : bootstrap(build, d, variant->is_lean, err);
    build_phase(build, "finishing", 92, 94, 0);
    rc = rc < 0 ? rc : build_script(build, "finishing", finish, err);
    if (rc == 0 && d->source_count > 0) {
        rc = keep_sources(d, script, 2 * PATH_MAX, err);
        rc = rc < 0 ? rc : build_script(build, "writing the sources", script, err);
    }
    free(script);
    free(d);
    return rc;
}
