/* image-build: a distribution's root file system by mmdebstrap, with hull-agent and what a VM needs beside the container. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/core/compiler.h"
#include "base/host/file.h"
#include "base/host/program.h"
#include "manager/image/build.h"
#include "manager/image/work.h"
#include "manager/text.h"
#include "system/template/host_apt.h"

#define AGENT "hull-agent"

/* Run in the tree at the end of the build. The network asks for addresses by DHCP, and keeps those that were set from outside
 * (a container's). Networkd tells nobody its name servers: a small unit writes them down, in VMs alone. */
const char build_tree_script[] =
    "mkdir -p /etc/systemd/network /usr/lib/hull /etc/systemd/system\n"
    "cat > /etc/systemd/network/80-hull.network <<'END'\n"
    "[Match]\n"
    "Name=eth* en*\n"
    "\n"
    "[Network]\n"
    "DHCP=yes\n"
    "KeepConfiguration=static\n"
    "\n"
    "[DHCPv4]\n"
    "ClientIdentifier=mac\n"
    "UseDomains=yes\n"
    "\n"
    "[DHCPv6]\n"
    "UseDomains=yes\n"
    "END\n"
    "cat > /usr/lib/hull/name-servers <<'END'\n"
    "#!/bin/sh\n"
    "# Writes the name servers that systemd-networkd has learned to /etc/resolv.conf.\n"
    "new=/etc/resolv.conf.hull\n"
    "sed -n -e '/^DNS=/{s/^DNS=//;p}' /run/systemd/netif/state | tr ' ' '\\n' | \\\n"
    "    sed -n -e '/./s/^/nameserver /p' > $new\n"
    "sed -n -e '/^DOMAINS=./{s/^DOMAINS=/search /;p}' /run/systemd/netif/state >> $new\n"
    "if [ -s $new ] && ! cmp -s $new /etc/resolv.conf; then\n"
    "    mv $new /etc/resolv.conf\n"
    "fi\n"
    "rm -f $new\n"
    "END\n"
    "chmod 755 /usr/lib/hull/name-servers\n"
    "cat > /etc/systemd/system/hull-name-servers.path <<'END'\n"
    "[Unit]\n"
    "Description=Changes of the network's name servers\n"
    "ConditionVirtualization=!container\n"
    "ConditionPathExists=!/run/systemd/resolve\n"
    "\n"
    "[Path]\n"
    "PathChanged=/run/systemd/netif/state\n"
    "\n"
    "[Install]\n"
    "WantedBy=multi-user.target\n"
    "END\n"
    "cat > /etc/systemd/system/hull-name-servers.service <<'END'\n"
    "[Unit]\n"
    "Description=Name servers of the network\n"
    "\n"
    "[Service]\n"
    "Type=oneshot\n"
    "ExecStart=/usr/lib/hull/name-servers\n"
    "END\n"
    "if [ -e /usr/sbin/hull-agent ]; then\n"
    "    chmod 755 /usr/sbin/hull-agent\n"
    "    cat > /etc/systemd/system/hull-agent.service <<'END'\n"
    "[Unit]\n"
    "Description=Agent of the Hull host\n"
    "ConditionVirtualization=vm\n"
    "ConditionPathExists=/dev/vsock\n"
    "DefaultDependencies=no\n"
    "After=systemd-remount-fs.service\n"
    "Before=shutdown.target\n"
    "Conflicts=shutdown.target\n"
    "\n"
    "[Service]\n"
    "ExecStart=/usr/sbin/hull-agent\n"
    "Restart=always\n"
    "RestartSec=1\n"
    "KillMode=process\n"
    "\n"
    "[Install]\n"
    "WantedBy=sysinit.target\n"
    "END\n"
    "    systemctl -q enable hull-agent.service\n"
    "fi\n"
    "systemctl -q enable systemd-networkd.service hull-name-servers.path\n"
    /* Nothing that takes time at each start, or does the same in each of many instances. */
    "for unit in man-db.timer dpkg-db-backup.timer systemd-networkd-wait-online.service \\\n"
    "    systemd-udev-settle.service e2scrub_all.timer systemd-boot-update.service \\\n"
    "    systemd-update-utmp.service systemd-update-utmp-runlevel.service; do\n"
    "    ln -sf /dev/null /etc/systemd/system/$unit\n"
    "done\n"
    "printf '127.0.0.1 localhost\\n::1 localhost ip6-localhost ip6-loopback\\n' > /etc/hosts\n"
    "rm -f /etc/hostname\n";

int build_collect_packages(const json_t *request, const struct distribution *distribution,
                           struct build_packages *out, struct error *err)
{
    char *save;
    (void)snprintf(out->common, sizeof(out->common), "%s", distribution->packages);
    for (char *word = strtok_r(out->common, " ", &save); word != NULL;
         word = strtok_r(NULL, " ", &save)) {
        out->names[out->count++] = word;
    }
    const json_t *asked = json_object_get(request, "packages"), *name;
    size_t i;
    json_array_foreach(asked, i, name)
    {
        if (!json_is_string(name) || out->count == BUILD_MAX_PACKAGES) {
            return error_set(err, EINVAL, "packages: a list of names, at most %d",
                             BUILD_MAX_PACKAGES / 2);
        }
        out->names[out->count++] = json_string_value(name);
    }
    return 0;
}

/* mmdebstrap takes the archive's usual place where the host has no sources of the suite: then it needs that archive's keys. */
static int check_sources(const struct job *job, const struct distribution *distribution,
                         struct error *err)
{
    char path[PATH_MAX];
    unsigned count = 0;
    (void)snprintf(path, sizeof(path), "%s/.sources-%.40s", job->place.state, job->id);
    int rc = host_apt_sources(distribution->suite, path, true, &count, err);
    (void)unlink(path); /* it holds nothing that is needed */
    if (rc == 0 && count == 0 && access(distribution->keyring, R_OK) < 0) {
        rc = error_set(
            err, ENOENT,
            "the host has neither package sources of %s nor the keys of its archive (%s): install "
            "the package %s",
            distribution->suite, distribution->keyring, distribution->keyring_package);
    }
    return rc;
}

/* Both, where nothing is said. */
static bool wants_form(const json_t *request, const char *form)
{
    const json_t *name, *forms = json_object_get(request, "forms");
    size_t i;
    if (json_array_size(forms) == 0) {
        return true;
    }
    json_array_foreach(forms, i, name)
    {
        const char *text = json_string_value(name);
        if (text != NULL && strcmp(text, form) == 0) {
            return true;
        }
    }
    return false;
}

static void default_alias(const struct distribution *distribution, const char *variant,
                          char out_alias[IMAGE_ALIAS_SIZE])
{
    bool is_minimal = strcmp(variant, "minimal") == 0;
    (void)snprintf(out_alias, IMAGE_ALIAS_SIZE, "%s%s%s", distribution->name, is_minimal ? "" : "/",
                   is_minimal ? "" : variant);
}

static int build_tree(struct job *job, const struct distribution *distribution, const char *variant,
                      char out_digest[TEMPLATE_DIGEST_SIZE], struct error *err)
{
    char agent[PATH_MAX], file[PATH_MAX + 32];
    const char *files[] = {NULL, NULL};
    struct build_packages packages = {0};
    int rc = build_collect_packages(job->request, distribution, &packages, err);
    if (program_find(AGENT, false, agent, sizeof(agent), NULL) == 0) {
        (void)snprintf(file, sizeof(file), "%s:/usr/sbin/" AGENT, agent);
        files[0] = file;
    }
    struct template_build request = {.variant = variant,
                                     .suite = distribution->suite,
                                     .packages = packages.names,
                                     .files = files,
                                     .run = build_tree_script};
    return rc < 0 ? rc : work_template(job, &request, out_digest, err);
}

int image_build(struct job *job, json_t **out_result, struct error *err)
{
    const struct distribution *distribution;
    const char *variant = text_or_empty(job->request, "variant");
    char alias[IMAGE_ALIAS_SIZE], source[64], digest[TEMPLATE_DIGEST_SIZE];
    variant = variant[0] != '\0' ? variant : "minimal";
    int rc = distribution_find(text_or_empty(job->request, "distribution"), &distribution, err);
    if (rc < 0) {
        return rc;
    }
    if (strcmp(variant, "minimal") != 0 && strcmp(variant, "standard") != 0 &&
        strcmp(variant, "web") != 0) {
        return error_set(err, EINVAL, "variant '%.64s': minimal, standard or web", variant);
    }
    default_alias(distribution, variant, alias);
    if (text_or_empty(job->request, "alias")[0] != '\0') {
        rc = image_check_alias(text_or_empty(job->request, "alias"), err);
        (void)snprintf(alias, sizeof(alias), "%s", text_or_empty(job->request, "alias"));
    }
    rc = rc < 0 ? rc : check_sources(job, distribution, err);
    bool is_plain = strcmp(variant, "minimal") == 0;
    (void)snprintf(source, sizeof(source), "build %s%s%s", distribution->name, is_plain ? "" : " ",
                   is_plain ? "" : variant);
    json_t *document;
    if (rc == 0 && !job->place.has_owners) {
        rc = build_as_user(job, distribution, variant, source, &document, err);
    } else if (rc == 0) {
        rc = build_tree(job, distribution, variant, digest, err);
        rc = rc < 0 ? rc : work_document(&job->place, digest, source, true, &document, err);
    }
    if (rc < 0) {
        return error_prefix(err, rc, "building %s", distribution->name);
    }
    bool needs_vm_form = job->place.has_owners && wants_form(job->request, "vm");
    return work_finish(job, document, needs_vm_form, alias, out_result, err);
}
