/* Whether KVM would run a guest here, and what CPUID it can offer. */
#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/core/bits.h"
#include "base/host/file.h"
#include "engine/kvm/kvm_internal.h"

#define API_VERSION          12
#define LEAF_KVM             0x40000000u
#define LEAF_KVM_FEATURES    0x40000001u
#define MAX_KERNEL_ENTRIES   256
#define CPUID_VMX            (1u << 5)
#define CPUID_SVM            (1u << 2)
#define FEATURE_X2APIC       (1u << 21)
#define FEATURE_TSC_DEADLINE (1u << 24)

/* Paravirtual features whose MSRs are in x86_state, or that have none: clocks, asynchronous page faults, steal time,
 * PV EOI and unhalt, TLB flush, IPIs, poll control, yield (kvm/cpuid.rst). */
#define KVM_FEATURES                                                                               \
    (BIT(0) | BIT(1) | BIT(3) | BIT(4) | BIT(5) | BIT(6) | BIT(7) | BIT(9) | BIT(11) | BIT(12) |   \
     BIT(13) | BIT(14) | BIT(24))

int kvm_ioctl(int fd, unsigned long request, void *argument)
{
    int rc;
    do {
        rc = ioctl(fd, request, argument);
    } while (rc < 0 && errno == EINTR);
    return rc < 0 ? -errno : rc;
}

static const struct {
    int capability;
    const char *name;
} required[] = {
    {KVM_CAP_IRQCHIP, "interrupt controllers"},
    {KVM_CAP_USER_MEMORY, "memory slots"},
    {KVM_CAP_READONLY_MEM, "read-only memory"},
    {KVM_CAP_IMMEDIATE_EXIT, "immediate exits"},
    {KVM_CAP_IOEVENTFD, "ioeventfd"},
    {KVM_CAP_IRQFD, "irqfd"},
    {KVM_CAP_IRQ_ROUTING, "interrupt routing"},
    {KVM_CAP_SIGNAL_MSI, "message-signalled interrupts"},
    {KVM_CAP_X2APIC_API, "x2APIC identifiers"},
    {KVM_CAP_ADJUST_CLOCK, "the clock"},
    {KVM_CAP_XSAVE, "extended state"},
    {KVM_CAP_XCRS, "extended control registers"},
    {KVM_CAP_VCPU_EVENTS, "events"},
    {KVM_CAP_DEBUGREGS, "debug registers"},
    {KVM_CAP_MP_STATE, "vCPU activity"},
    {KVM_CAP_SET_TSS_ADDR, "the TSS address"},
    {KVM_CAP_SET_IDENTITY_MAP_ADDR, "the identity map"},
};

static void verdict(struct engine_probe *out_probe, enum engine_quality quality, const char *reason,
                    const char *remedy)
{
    out_probe->quality = quality;
    (void)snprintf(out_probe->reason, sizeof(out_probe->reason), "%s", reason); /* fits */
    (void)snprintf(out_probe->remedy, sizeof(out_probe->remedy), "%s", remedy); /* fits */
}

static bool cpu_has_virtualization(void)
{
    unsigned eax, ebx, ecx, edx;
    if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & CPUID_VMX)) {
        return true;
    }
    return __get_cpuid(0x80000001, &eax, &ebx, &ecx, &edx) && (ecx & CPUID_SVM);
}

static void probe_device(int fd, struct engine_probe *out_probe)
{
    if (kvm_ioctl(fd, KVM_GET_API_VERSION, NULL) != API_VERSION) {
        verdict(out_probe, ENGINE_UNUSABLE, "/dev/kvm speaks another version of its interface",
                "use a kernel of this decade");
        return;
    }
    for (size_t i = 0; i < ARRAY_COUNT(required); i++) {
        if (kvm_ioctl(fd, KVM_CHECK_EXTENSION, (void *)(long)required[i].capability) <= 0) {
            char reason[sizeof(out_probe->reason)];
            (void)snprintf(reason, sizeof(reason), "the kernel's KVM lacks %s", required[i].name);
            verdict(out_probe, ENGINE_UNUSABLE, reason, "use a newer kernel");
            return;
        }
    }
    if (!cpu_has_virtualization()) {
        verdict(out_probe, ENGINE_TOY,
                "/dev/kvm opens, but the CPU shows neither vmx nor svm: only toy guests run on it",
                "enable virtualization in the firmware, or nested virtualization where this "
                "machine is itself a VM");
        return;
    }
    verdict(out_probe, ENGINE_USABLE, "hardware virtualization through /dev/kvm", "");
}

void kvm_probe(struct engine_probe *out_probe)
{
    AUTO_CLOSE int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (fd >= 0) {
        probe_device(fd, out_probe);
    } else if (errno == EACCES || errno == EPERM) {
        verdict(out_probe, ENGINE_UNUSABLE, "no permission to open /dev/kvm",
                "join the group kvm (usermod -aG kvm USER) and log in again");
    } else if (errno == ENOENT || errno == ENODEV || errno == ENXIO) {
        verdict(out_probe, ENGINE_UNUSABLE, "there is no /dev/kvm",
                "load kvm_intel or kvm_amd (modprobe), and enable virtualization in the firmware");
    } else {
        char reason[sizeof(out_probe->reason)];
        (void)snprintf(reason, sizeof(reason), "opening /dev/kvm: %s", strerror(errno));
        verdict(out_probe, ENGINE_UNUSABLE, reason, "");
    }
}

/* KVM_GET_SUPPORTED_CPUID; the caller frees. */
static int kernel_cpuid(struct kvm_cpuid2 **out_list, bool *out_has_deadline, struct error *err)
{
    AUTO_CLOSE int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        return error_set_errno(err, errno, "opening /dev/kvm");
    }
    struct kvm_cpuid2 *list =
        calloc(1, sizeof(*list) + MAX_KERNEL_ENTRIES * sizeof(list->entries[0]));
    if (list == NULL) {
        return error_set(err, ENOMEM, "allocating KVM's CPUID table");
    }
    list->nent = MAX_KERNEL_ENTRIES;
    int rc = kvm_ioctl(fd, KVM_GET_SUPPORTED_CPUID, list);
    if (rc < 0) {
        free(list);
        return error_set_errno(err, -rc, "asking KVM for the CPUID that it supports");
    }
    *out_has_deadline =
        kvm_ioctl(fd, KVM_CHECK_EXTENSION, (void *)(long)KVM_CAP_TSC_DEADLINE_TIMER) > 0;
    *out_list = list;
    return 0;
}

int kvm_supported_cpuid(struct x86_cpuid *out_cpuid, struct error *err)
{
    AUTO_FREE struct kvm_cpuid2 *list = NULL;
    bool has_deadline;
    int rc = kernel_cpuid(&list, &has_deadline, err);
    if (rc < 0) {
        return rc;
    }
    out_cpuid->count = 0;
    for (uint32_t i = 0; i < list->nent && out_cpuid->count < X86_CPUID_MAX_ENTRIES; i++) {
        const struct kvm_cpuid_entry2 *from = &list->entries[i];
        if (from->function >= LEAF_KVM && from->function < LEAF_KVM + 0x10000) {
            continue;
        }
        struct x86_cpuid_entry *to = &out_cpuid->entry[out_cpuid->count++];
        *to = (struct x86_cpuid_entry){
            .leaf = from->function,
            .subleaf = from->index,
            .has_subleaf = from->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            .eax = from->eax,
            .ebx = from->ebx,
            .ecx = from->ecx,
            .edx = from->edx,
        };
        if (to->leaf == 1) {
            /* Both come with the kernel's own APIC, which the kernel's list cannot know to be used. */
            to->ecx |= FEATURE_X2APIC | (has_deadline ? FEATURE_TSC_DEADLINE : 0);
        }
    }
    return 0;
}

void kvm_hypervisor_cpuid(struct x86_cpuid *out_cpuid)
{
    AUTO_FREE struct kvm_cpuid2 *list = NULL;
    bool has_deadline;
    uint32_t features = 0;
    if (kernel_cpuid(&list, &has_deadline, NULL) == 0) {
        for (uint32_t i = 0; i < list->nent; i++) {
            if (list->entries[i].function == LEAF_KVM_FEATURES) {
                features = list->entries[i].eax & (uint32_t)KVM_FEATURES;
            }
        }
    }
    *out_cpuid = (struct x86_cpuid){
        /* "KVMKVMKVM" */
        .entry = {{.leaf = LEAF_KVM,
                   .eax = LEAF_KVM_FEATURES,
                   .ebx = 0x4b4d564b,
                   .ecx = 0x564b4d56,
                   .edx = 0x4d},
                  {.leaf = LEAF_KVM_FEATURES, .eax = features}},
        .count = 2,
    };
}

bool kvm_has_hyperv(void)
{
    static const int capabilities[] = {KVM_CAP_HYPERV, KVM_CAP_HYPERV_TIME, KVM_CAP_HYPERV_VP_INDEX,
                                       KVM_CAP_HYPERV_TLBFLUSH, KVM_CAP_HYPERV_SEND_IPI};
    AUTO_CLOSE int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    bool has_all = fd >= 0;
    for (size_t i = 0; has_all && i < ARRAY_COUNT(capabilities); i++) {
        has_all = kvm_ioctl(fd, KVM_CHECK_EXTENSION, (void *)(long)capabilities[i]) > 0;
    }
    return has_all;
}
