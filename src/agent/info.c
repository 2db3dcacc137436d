#include "agent/info.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netpacket/packet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/core/compiler.h"
#include "base/host/file.h"

/* PRETTY_NAME of os-release(5), without its quotes. */
static void read_os(char *out_name, size_t size)
{
    FILE *file = fopen("/etc/os-release", "re");
    char line[512];
    (void)snprintf(out_name, size, "Linux");
    while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
        if (strncmp(line, "PRETTY_NAME=", 12) == 0) {
            const char *value = line + 12 + strspn(line + 12, "\"'");
            (void)snprintf(out_name, size, "%.*s", (int)strcspn(value, "\"'\n"), value);
            break;
        }
    }
    if (file != NULL) {
        (void)fclose(file);
    }
}

/* MemAvailable is what programs can get; kernels before 3.14 say MemFree alone. */
static void read_memory(uint64_t *out_total, uint64_t *out_free)
{
    FILE *file = fopen("/proc/meminfo", "re");
    char line[256];
    unsigned long long kib;
    *out_total = *out_free = 0;
    while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
        if (sscanf(line, "MemTotal: %llu", &kib) == 1) {
            *out_total = kib << 10;
        } else if (sscanf(line, "MemFree: %llu", &kib) == 1 ||
                   sscanf(line, "MemAvailable: %llu", &kib) == 1) {
            *out_free = kib << 10;
        }
    }
    if (file != NULL) {
        (void)fclose(file);
    }
}

static double read_uptime(void)
{
    FILE *file = fopen("/proc/uptime", "re");
    double seconds = 0;
    if (file != NULL) {
        if (fscanf(file, "%lf", &seconds) != 1) {
            seconds = 0;
        }
        (void)fclose(file);
    }
    return seconds;
}

static void find_mac(const struct ifaddrs *all, const char *name, char out_mac[static 18])
{
    out_mac[0] = '\0';
    for (const struct ifaddrs *a = all; a != NULL; a = a->ifa_next) {
        if (a->ifa_addr != NULL && a->ifa_addr->sa_family == AF_PACKET &&
            strcmp(a->ifa_name, name) == 0) {
            const struct sockaddr_ll *link = (const void *)a->ifa_addr;
            const unsigned char *b = link->sll_addr;
            (void)snprintf(out_mac, 18, "%02x:%02x:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3],
                           b[4], b[5]);
            return;
        }
    }
}

static int count_bits(const uint8_t *mask, size_t size)
{
    int bits = 0;
    for (size_t i = 0; i < size; i++) {
        bits += __builtin_popcount(mask[i]);
    }
    return bits;
}

static json_t *describe_address(const struct ifaddrs *all, const struct ifaddrs *a)
{
    char text[INET6_ADDRSTRLEN], mac[18];
    bool is_4 = a->ifa_addr->sa_family == AF_INET;
    const struct sockaddr_in *in4 = (const void *)a->ifa_addr;
    const struct sockaddr_in6 *in6 = (const void *)a->ifa_addr;
    const void *address = is_4 ? (const void *)&in4->sin_addr : &in6->sin6_addr;
    const void *mask =
        is_4 ? (const void *)&((const struct sockaddr_in *)(const void *)a->ifa_netmask)->sin_addr
             : &((const struct sockaddr_in6 *)(const void *)a->ifa_netmask)->sin6_addr;
    find_mac(all, a->ifa_name, mac);
    return json_pack("{s:s,s:s,s:s,s:i}", "interface", a->ifa_name, "mac", mac, "address",
                     inet_ntop(a->ifa_addr->sa_family, address, text, sizeof(text)), "prefix",
                     count_bits(mask, is_4 ? 4 : 16));
}

static json_t *list_addresses(void)
{
    json_t *list = json_array();
    struct ifaddrs *all = NULL;
    if (getifaddrs(&all) < 0) {
        return list; /* a kernel without network */
    }
    for (const struct ifaddrs *a = all; a != NULL; a = a->ifa_next) {
        if (a->ifa_addr != NULL && a->ifa_netmask != NULL && !(a->ifa_flags & IFF_LOOPBACK) &&
            (a->ifa_addr->sa_family == AF_INET || a->ifa_addr->sa_family == AF_INET6)) {
            error_ignore(json_array_append_new(list, describe_address(all, a)));
        }
    }
    freeifaddrs(all);
    return list;
}

json_t *info_make(void)
{
    char os[256];
    struct utsname names = {0};
    struct statvfs root = {0};
    double load[3] = {0};
    uint64_t total, available;
    (void)uname(&names);
    (void)statvfs("/", &root);
    (void)getloadavg(load, 3);
    read_os(os, sizeof(os));
    read_memory(&total, &available);
    return json_pack("{s:s,s:s,s:s,s:s,s:f,s:[f,f,f],s:{s:I,s:I},s:{s:I,s:I},s:o}", "version",
                     HULL_VERSION, "hostname", names.nodename, "os", os, "kernel", names.release,
                     "uptime_s", read_uptime(), "load", load[0], load[1], load[2], "memory",
                     "total_bytes", (json_int_t)total, "free_bytes", (json_int_t)available, "root",
                     "size_bytes", (json_int_t)(root.f_blocks * root.f_frsize), "free_bytes",
                     (json_int_t)(root.f_bavail * root.f_frsize), "addresses", list_addresses());
}
