/* Linux's bzImage by the 64-bit boot protocol, or by the 32-bit one if the kernel has no other entry (Linux
 * Documentation/x86/boot.rst). */
#include <asm/bootparam.h>
#include <inttypes.h>
#include <string.h>
#include <sys/random.h>

#include "base/core/bits.h"
#include "base/core/checked.h"
#include "base/core/endian.h"
#include "machine/boot/loader.h"

#define HEADER_OFFSET    0x1f1u
#define HEADER_MAGIC     0x53726448u /* "HdrS" */
#define HEADER_MAGIC_AT  0x202u
#define VERSION_AT       0x206u
#define HEADER_LENGTH_AT 0x201u /* the jump's displacement: the header ends at 0x202 plus this */
#define MIN_VERSION      0x020c /* xloadflags */
#define SECTOR           512u
#define DEFAULT_SETUP    4u /* setup_sects 0 means 4 */
#define ENTRY_64_OFFSET  0x200u
#define LOADER_UNKNOWN   0xff /* type_of_loader: none that has a number */
#define RNG_SEED_SIZE    32u

static bool bzimage_matches(const struct loader *loader)
{
    return loader->head_size >= HEADER_OFFSET + sizeof(struct setup_header) &&
           le32_get(loader->head + HEADER_MAGIC_AT) == HEADER_MAGIC;
}

/* Random bytes for the guest's generator: a list of one struct setup_data. */
static int put_rng_seed(const struct loader *loader, struct error *err)
{
    uint8_t data[sizeof(struct setup_data) + RNG_SEED_SIZE];
    const struct setup_data head = {.next = 0, .type = SETUP_RNG_SEED, .len = RNG_SEED_SIZE};
    memcpy(data, &head, sizeof(head));
    if (loader->config->is_repeatable) {
        memset(data + sizeof(head), 0, RNG_SEED_SIZE);
    } else if (getrandom(data + sizeof(head), RNG_SEED_SIZE, 0) != (ssize_t)RNG_SEED_SIZE) {
        return error_set_errno(err, errno, "getting random bytes for the guest");
    }
    loader_write(loader, BOOT_RNG_SEED_GPA, data, sizeof(data));
    return 0;
}

static void put_zero_page(const struct loader *loader, const struct setup_header *header,
                          size_t header_size)
{
    struct boot_params params = {0};
    memcpy(&params.hdr, header, header_size);
    params.hdr.type_of_loader = LOADER_UNKNOWN;
    params.hdr.cmd_line_ptr = BOOT_COMMAND_GPA;
    params.hdr.ramdisk_image = (uint32_t)loader->initrd_gpa;
    params.hdr.ramdisk_size = loader->initrd_gpa != 0 ? (uint32_t)loader->initrd_size : 0;
    params.hdr.setup_data = BOOT_RNG_SEED_GPA;
    params.acpi_rsdp_addr = loader->config->rsdp_gpa;
    struct loader_range ranges[LOADER_MAX_RANGES];
    size_t count = loader_memory_map(loader, ranges);
    for (size_t i = 0; i < count; i++) {
        params.e820_table[i] =
            (struct boot_e820_entry){ranges[i].gpa, ranges[i].size_bytes, ranges[i].type};
    }
    params.e820_entries = (uint8_t)count;
    loader_write(loader, BOOT_ZERO_PAGE_GPA, &params, sizeof(params));
}

static int bzimage_load(struct loader *loader, struct error *err)
{
    struct setup_header header = {0};
    size_t header_end = HEADER_MAGIC_AT + loader->head[HEADER_LENGTH_AT];
    size_t header_size = MIN(header_end - HEADER_OFFSET, sizeof(header));
    memcpy(&header, loader->head + HEADER_OFFSET, header_size);
    if (header.version < MIN_VERSION || (header.loadflags & LOADED_HIGH) == 0) {
        return error_set(err, EINVAL,
                         "%s: no bzImage of today (boot protocol %u.%u): a kernel of Linux 3.8 or "
                         "newer is accepted",
                         loader->kernel_what, header.version >> 8, header.version & 0xff);
    }
    uint64_t setup_sectors = header.setup_sects != 0 ? header.setup_sects : DEFAULT_SETUP;
    uint64_t setup_size = (setup_sectors + 1) * SECTOR;
    if (setup_size >= loader->kernel_size) {
        return error_set(err, EINVAL,
                         "%s: broken: %" PRIu64 " bytes, but %" PRIu64 " of set-up code alone",
                         loader->kernel_what, loader->kernel_size, setup_size);
    }
    uint64_t size = loader->kernel_size - setup_size;
    uint64_t gpa = header.pref_address;
    uint64_t alignment = header.kernel_alignment;
    uint64_t room = MAX(size, header.init_size); /* it unpacks itself within init_size bytes */
    /* Not at the preferred place: the lowest aligned one, if the kernel may be moved. */
    if (!range_fits(gpa, room, loader->config->ram_below_4g) && header.relocatable_kernel &&
        is_power_of_two(alignment) && alignment <= loader->config->ram_below_4g) {
        gpa = align_up(BOOT_HIGH_GPA, alignment);
    }
    int rc = loader_reserve(loader, gpa, room, err);
    if (rc == 0) {
        rc = loader_read_kernel(loader, setup_size, size, gpa, 0, err);
    }
    if (rc < 0) {
        return rc;
    }
    rc = loader_place_initrd(loader, header.initrd_addr_max, err);
    if (rc < 0) {
        return rc;
    }
    rc = loader_put_command_line(loader, NULL, (size_t)header.cmdline_size + 1, err);
    if (rc < 0) {
        return rc;
    }
    rc = put_rng_seed(loader, err);
    if (rc < 0) {
        return rc;
    }
    put_zero_page(loader, &header, header_size);
    if (header.xloadflags & XLF_KERNEL_64) {
        loader_enter_long(loader, gpa + ENTRY_64_OFFSET);
    } else {
        loader_enter_protected(loader, gpa);
    }
    loader->state->gpr[X86_RSI] = BOOT_ZERO_PAGE_GPA;
    return 0;
}

const struct loader_format loader_bzimage = {
    .name = "bzImage",
    .matches = bzimage_matches,
    .load = bzimage_load,
};
