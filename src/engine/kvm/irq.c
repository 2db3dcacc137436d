/* Interrupts into KVM's controllers, and the short cuts in both directions: irqfd and ioeventfd. */
#include <errno.h>
#include <stdlib.h>
#include <sys/ioctl.h>

#include "base/core/invariant.h"
#include "base/host/file.h"
#include "engine/kvm/kvm_internal.h"

/* Message layout: Intel SDM 3A 10.11. */
#define MSI_ADDRESS         0xfee00000u
#define MSI_DESTINATION(id) ((uint32_t)(id) << 12)
#define MSI_MODE_NMI        (4u << 8)
#define MSI_MODE_INIT       (5u << 8)
#define MSI_MODE_SIPI       (6u << 8)

/* Gives the kernel the whole table: pin n of the IOAPIC is GSI n, then the messages. */
int kvm_set_routing(struct kvm_guest *guest)
{
    size_t size = sizeof(struct kvm_irq_routing) +
                  (KVM_ENGINE_PINS + KVM_ENGINE_MAX_IRQFDS) * sizeof(struct kvm_irq_routing_entry);
    AUTO_FREE struct kvm_irq_routing *routing = calloc(1, size);
    if (routing == NULL) {
        return -ENOMEM;
    }
    for (uint32_t pin = 0; pin < KVM_ENGINE_PINS; pin++) {
        routing->entries[routing->nr++] = (struct kvm_irq_routing_entry){
            .gsi = pin,
            .type = KVM_IRQ_ROUTING_IRQCHIP,
            .u.irqchip = {.irqchip = KVM_IRQCHIP_IOAPIC, .pin = pin},
        };
    }
    for (uint32_t i = 0; i < KVM_ENGINE_MAX_IRQFDS; i++) {
        const struct kvm_message *message = &guest->message[i];
        if (message->is_used) {
            routing->entries[routing->nr++] = (struct kvm_irq_routing_entry){
                .gsi = KVM_ENGINE_PINS + i,
                .type = KVM_IRQ_ROUTING_MSI,
                .u.msi = {.address_lo = (uint32_t)message->address,
                          .address_hi = (uint32_t)(message->address >> 32),
                          .data = message->data},
            };
        }
    }
    return kvm_ioctl(guest->vm_fd, KVM_SET_GSI_ROUTING, routing);
}

int kvm_vm_irq_line(struct vm *vm, uint32_t gsi, bool level)
{
    if (gsi >= KVM_ENGINE_PINS) {
        return -EINVAL;
    }
    struct kvm_irq_level line = {.irq = gsi, .level = level};
    return kvm_ioctl(kvm_guest_from_vm(vm)->vm_fd, KVM_IRQ_LINE, &line);
}

int kvm_vm_msi(struct vm *vm, uint64_t address, uint32_t data)
{
    struct kvm_msi message = {
        .address_lo = (uint32_t)address,
        .address_hi = (uint32_t)(address >> 32),
        .data = data,
    };
    int rc = kvm_ioctl(kvm_guest_from_vm(vm)->vm_fd, KVM_SIGNAL_MSI, &message);
    return rc < 0 ? rc : 0; /* positive: delivered; 0: the guest blocks it */
}

int kvm_vm_ioeventfd(struct vm *vm, bool is_pio, uint64_t address, unsigned size, int fd,
                     bool attach, struct error *err)
{
    struct kvm_ioeventfd request = {
        .addr = address,
        .len = size,
        .fd = fd,
        .flags =
            (is_pio ? KVM_IOEVENTFD_FLAG_PIO : 0u) | (attach ? 0u : KVM_IOEVENTFD_FLAG_DEASSIGN),
    };
    int rc = kvm_ioctl(kvm_guest_from_vm(vm)->vm_fd, KVM_IOEVENTFD, &request);
    return rc < 0 ? error_set_errno(err, -rc, "%s the doorbell at 0x%llx",
                                    attach ? "attaching" : "detaching", (unsigned long long)address)
                  : 0;
}

/* The descriptor's message, else a free place, else NULL. */
static struct kvm_message *find_message(struct kvm_guest *guest, int fd, bool or_free)
{
    struct kvm_message *free_place = NULL;
    for (size_t i = 0; i < KVM_ENGINE_MAX_IRQFDS; i++) {
        struct kvm_message *message = &guest->message[i];
        if (message->is_used && message->fd == fd) {
            return message;
        }
        if (!message->is_used && free_place == NULL) {
            free_place = message;
        }
    }
    return or_free ? free_place : NULL;
}

static int bind_irqfd(struct kvm_guest *guest, const struct kvm_message *message, bool attach)
{
    struct kvm_irqfd request = {
        .fd = (uint32_t)message->fd,
        .gsi = KVM_ENGINE_PINS + (uint32_t)(message - guest->message),
        .flags = attach ? 0 : KVM_IRQFD_FLAG_DEASSIGN,
    };
    return kvm_ioctl(guest->vm_fd, KVM_IRQFD, &request);
}

static int attach_irqfd(struct kvm_guest *guest, int fd, uint64_t address, uint32_t data,
                        struct error *err)
{
    struct kvm_message *message = find_message(guest, fd, true);
    if (message == NULL) {
        return error_set(err, ENOSPC, "attaching an interrupt: all %d are in use",
                         KVM_ENGINE_MAX_IRQFDS);
    }
    struct kvm_message old = *message;
    *message = (struct kvm_message){.is_used = true, .fd = fd, .address = address, .data = data};
    /* The route first: a signal that is pending already shall find it. */
    int rc = kvm_set_routing(guest);
    if (rc == 0 && !old.is_used) {
        rc = bind_irqfd(guest, message, true);
    }
    if (rc < 0) {
        *message = old;
        (void)kvm_set_routing(guest); /* back to what it took before */
        return error_set_errno(err, -rc, "attaching an interrupt");
    }
    return 0;
}

static int detach_irqfd(struct kvm_guest *guest, int fd, struct error *err)
{
    struct kvm_message *message = find_message(guest, fd, false);
    if (message == NULL) {
        return error_set(err, ENOENT, "detaching an interrupt: it is not attached");
    }
    int rc = bind_irqfd(guest, message, false);
    message->is_used = false;
    if (rc == 0) {
        rc = kvm_set_routing(guest);
    }
    return rc < 0 ? error_set_errno(err, -rc, "detaching an interrupt") : 0;
}

int kvm_vm_irqfd(struct vm *vm, int fd, uint64_t address, uint32_t data, bool attach,
                 struct error *err)
{
    struct kvm_guest *guest = kvm_guest_from_vm(vm);
    invariant(pthread_mutex_lock(&guest->lock) == 0);
    int rc = attach ? attach_irqfd(guest, fd, address, data, err) : detach_irqfd(guest, fd, err);
    invariant(pthread_mutex_unlock(&guest->lock) == 0);
    return rc;
}

/* As messages to the vCPU's APIC: the ioctls for these wait until the vCPU has left KVM_RUN. */
void kvm_vcpu_signal(struct vcpu *vcpu, enum vcpu_signal signal, uint8_t value)
{
    uint32_t data;
    switch (signal) {
    case VCPU_SIGNAL_NMI:
        data = MSI_MODE_NMI;
        break;
    case VCPU_SIGNAL_INIT:
        data = MSI_MODE_INIT;
        break;
    case VCPU_SIGNAL_SIPI:
        data = MSI_MODE_SIPI | value;
        break;
    default:
        return; /* interrupts come from the kernel's own APIC, and there is no SMM */
    }
    (void)kvm_vm_msi(vcpu->vm, MSI_ADDRESS | MSI_DESTINATION(vcpu->index),
                     data); /* as on hardware, nobody learns whether it arrived */
}
