/* A VM of the kernel: its memory slots, clock, IOAPIC and dirty log. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/core/invariant.h"
#include "base/host/file.h"
#include "engine/kvm/kvm_internal.h"

/* Four pages that Intel CPUs without unrestricted guest mode need, in the hole below the firmware. */
#define IDENTITY_MAP_GPA 0xfffbc000ull
#define TSS_GPA          0xfffbd000ul

static int set_slot(struct kvm_guest *guest, size_t index, bool is_logging)
{
    const struct guest_slot *slot = &guest->vm.config.memory->slot[index];
    struct kvm_userspace_memory_region region = {
        .slot = (uint32_t)index,
        .flags = (slot->is_readonly ? KVM_MEM_READONLY : 0u) |
                 (is_logging ? KVM_MEM_LOG_DIRTY_PAGES : 0u),
        .guest_phys_addr = slot->gpa,
        .memory_size = slot->size_bytes,
        .userspace_addr = (uintptr_t)slot->hva,
    };
    return kvm_ioctl(guest->vm_fd, KVM_SET_USER_MEMORY_REGION, &region);
}

static int prepare_irqchip(struct kvm_guest *guest, struct error *err)
{
    uint64_t identity_map = IDENTITY_MAP_GPA;
    int rc = kvm_ioctl(guest->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity_map);
    if (rc < 0) {
        return error_set_errno(err, -rc, "setting KVM's identity map address");
    }
    rc = kvm_ioctl(guest->vm_fd, KVM_SET_TSS_ADDR, (void *)TSS_GPA);
    if (rc < 0) {
        return error_set_errno(err, -rc, "setting KVM's TSS address");
    }
    /* APIC IDs in x2APIC mode stand in all 32 bits, and 0xff is one of them: the canonical form. */
    struct kvm_enable_cap x2apic = {
        .cap = KVM_CAP_X2APIC_API,
        .args = {KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK},
    };
    rc = kvm_ioctl(guest->vm_fd, KVM_ENABLE_CAP, &x2apic);
    if (rc < 0) {
        return error_set_errno(err, -rc, "enabling KVM's x2APIC identifiers");
    }
    rc = kvm_ioctl(guest->vm_fd, KVM_CREATE_IRQCHIP, NULL);
    if (rc < 0) {
        return error_set_errno(err, -rc, "creating KVM's interrupt controllers");
    }
    rc = kvm_set_routing(guest);
    return rc < 0 ? error_set_errno(err, -rc, "routing KVM's interrupts") : 0;
}

static int build(struct kvm_guest *guest, struct error *err)
{
    guest->kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (guest->kvm_fd < 0) {
        return error_set_errno(err, errno, "opening /dev/kvm");
    }
    int rc = kvm_ioctl(guest->kvm_fd, KVM_CREATE_VM, NULL);
    if (rc < 0) {
        return error_set_errno(err, -rc, "creating a VM of KVM");
    }
    guest->vm_fd = rc;
    guest->has_sregs2 =
        kvm_ioctl(guest->kvm_fd, KVM_CHECK_EXTENSION, (void *)(long)KVM_CAP_SREGS2) > 0;
    rc = kvm_ioctl(guest->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, NULL);
    if (rc < (int)sizeof(struct kvm_run)) {
        return error_set(err, EPROTO, "KVM's run structure has %d bytes, expected %zu", rc,
                         sizeof(struct kvm_run));
    }
    guest->run_size = (size_t)rc;
    rc = prepare_irqchip(guest, err);
    if (rc < 0) {
        return rc;
    }
    for (size_t i = 0; i < guest->vm.config.memory->slot_count; i++) {
        rc = set_slot(guest, i, false);
        if (rc < 0) {
            const struct guest_slot *slot = &guest->vm.config.memory->slot[i];
            return error_set_errno(err, -rc, "giving KVM 0x%llx bytes of memory at 0x%llx",
                                   (unsigned long long)slot->size_bytes,
                                   (unsigned long long)slot->gpa);
        }
    }
    return kvm_kick_prepare(err);
}

int kvm_vm_create(const struct vm_config *config, struct vm **out_vm, struct error *err)
{
    struct kvm_guest *guest = calloc(1, sizeof(*guest));
    if (guest == NULL) {
        return error_set(err, ENOMEM, "creating a VM of KVM");
    }
    guest->vm = (struct vm){
        .ops = &kvm_engine_ops,
        .config = *config,
        .features = VM_HAS_IRQCHIP | VM_HAS_IOEVENTFD | VM_HAS_IRQFD,
    };
    guest->kvm_fd = guest->vm_fd = -1;
    invariant(pthread_mutex_init(&guest->lock, NULL) == 0);
    int rc = build(guest, err);
    if (rc < 0) {
        kvm_vm_destroy(&guest->vm);
        return rc;
    }
    *out_vm = &guest->vm;
    return 0;
}

void kvm_vm_destroy(struct vm *vm)
{
    if (vm == NULL) {
        return;
    }
    struct kvm_guest *guest = kvm_guest_from_vm(vm);
    if (guest->vm_fd >= 0) {
        (void)close(guest->vm_fd); /* the kernel tears the VM down; there is nothing to report */
    }
    if (guest->kvm_fd >= 0) {
        (void)close(guest->kvm_fd); /* same */
    }
    invariant(pthread_mutex_destroy(&guest->lock) == 0);
    free(guest);
}

int kvm_vm_get_ioapic(struct vm *vm, struct x86_ioapic_state *out_state, struct error *err)
{
    struct kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_IOAPIC};
    int rc = kvm_ioctl(kvm_guest_from_vm(vm)->vm_fd, KVM_GET_IRQCHIP, &chip);
    if (rc < 0) {
        return error_set_errno(err, -rc, "reading KVM's IOAPIC");
    }
    const struct kvm_ioapic_state *from = &chip.chip.ioapic;
    *out_state = (struct x86_ioapic_state){
        .base_gpa = from->base_address,
        .select = from->ioregsel,
        .id = from->id,
        .irr = from->irr,
    };
    for (size_t pin = 0; pin < ARRAY_COUNT(out_state->redirection); pin++) {
        out_state->redirection[pin] = from->redirtbl[pin].bits;
    }
    return 0;
}

int kvm_vm_set_ioapic(struct vm *vm, const struct x86_ioapic_state *state, struct error *err)
{
    struct kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_IOAPIC};
    struct kvm_ioapic_state *to = &chip.chip.ioapic;
    to->base_address = state->base_gpa;
    to->ioregsel = state->select;
    to->id = state->id;
    to->irr = state->irr;
    for (size_t pin = 0; pin < ARRAY_COUNT(state->redirection); pin++) {
        to->redirtbl[pin].bits = state->redirection[pin];
    }
    int rc = kvm_ioctl(kvm_guest_from_vm(vm)->vm_fd, KVM_SET_IRQCHIP, &chip);
    return rc < 0 ? error_set_errno(err, -rc, "writing KVM's IOAPIC") : 0;
}

uint64_t kvm_vm_get_clock(struct vm *vm)
{
    struct kvm_clock_data clock = {0};
    return kvm_ioctl(kvm_guest_from_vm(vm)->vm_fd, KVM_GET_CLOCK, &clock) < 0 ? 0 : clock.clock;
}

void kvm_vm_set_clock(struct vm *vm, uint64_t ns)
{
    struct kvm_clock_data clock = {.clock = ns};
    /* Only a bad flag could fail, and there is none. */
    invariant(kvm_ioctl(kvm_guest_from_vm(vm)->vm_fd, KVM_SET_CLOCK, &clock) == 0);
}

int kvm_vm_log_start(struct vm *vm, struct error *err)
{
    struct kvm_guest *guest = kvm_guest_from_vm(vm);
    for (size_t i = 0; i < vm->config.memory->slot_count; i++) {
        /* ROM is never written by the guest. */
        int rc = vm->config.memory->slot[i].is_readonly ? 0 : set_slot(guest, i, true);
        if (rc < 0) {
            kvm_vm_log_stop(vm);
            return error_set_errno(err, -rc, "starting KVM's dirty log");
        }
    }
    return 0;
}

void kvm_vm_log_stop(struct vm *vm)
{
    for (size_t i = 0; i < vm->config.memory->slot_count; i++) {
        (void)set_slot(kvm_guest_from_vm(vm), i,
                       false); /* a log that goes on costs time, nothing else */
    }
}

int kvm_vm_log_fetch(struct vm *vm, size_t slot, uint64_t *out_bitmap, struct error *err)
{
    const struct guest_slot *about = &vm->config.memory->slot[slot];
    if (about->is_readonly) {
        return 0;
    }
    size_t words = ((about->size_bytes >> GUEST_PAGE_SHIFT) + 63) / 64;
    AUTO_FREE uint64_t *bitmap = calloc(words, sizeof(*bitmap));
    if (bitmap == NULL) {
        return error_set(err, ENOMEM, "fetching KVM's dirty log");
    }
    struct kvm_dirty_log log = {.slot = (uint32_t)slot, .dirty_bitmap = bitmap};
    int rc = kvm_ioctl(kvm_guest_from_vm(vm)->vm_fd, KVM_GET_DIRTY_LOG, &log);
    if (rc < 0) {
        return error_set_errno(err, -rc, "fetching KVM's dirty log");
    }
    for (size_t i = 0; i < words; i++) {
        out_bitmap[i] |= bitmap[i];
    }
    return 0;
}
