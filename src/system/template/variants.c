/* What the variants hold: lists of Debian's packages. */
#include <stddef.h>

#include "system/template/build.h"

/* systemd, its network from outside, apt: what a container needs to run and to be looked at. */
#define MINIMAL "systemd,systemd-sysv,dbus,libpam-systemd,iproute2,iputils-ping,netbase,procps,less"
/* What an administrator expects. */
#define STANDARD                                                                                   \
    MINIMAL ",openssh-server,openssh-client,ca-certificates,cron,rsyslog,logrotate,sudo,"          \
            "vim-tiny,nano,bash-completion,curl,wget,rsync,htop,lsof,psmisc,file,bzip2,xz-utils,"  \
            "man-db,tzdata,bind9-dnsutils,netcat-openbsd,traceroute,tcpdump,unattended-upgrades,"  \
            "apt-utils"

const struct variant build_variants[] = {
    {"minimal", MINIMAL, true},
    {"standard", STANDARD, false},
    {"web", STANDARD ",nginx-light", false},
    {"busybox", NULL, true},
    {NULL, NULL, false},
};
