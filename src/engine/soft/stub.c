/* The memory of stubs, the cache by canonical instruction, and the signals that end one. */
#include "engine/soft/stub.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include "base/core/bits.h"
#include "engine/soft/stub_emit.h"
#include "engine/soft/translate/native.h"

/* Every instruction with every immediate that a guest can think of, with room to spare; untouched pages cost nothing. */
#define STUBS_CODE_SIZE  (64u << 20)
#define STUBS_SLOT_COUNT (1u << 19)
#define STUBS_ALIGN      16

struct stub_slot {
    uint8_t
        key[X86_INSN_MAX_LENGTH + 1]; /* canonical bytes; the last byte is their count, 0: empty */
    uint32_t offset;
    uint32_t op_offset;
};

struct soft_stubs {
    uint8_t *writable;
    uint8_t *executable;
    uint32_t used;
    uint32_t count, max_count;
    uint32_t recovery[SOFT_STUB_UD + 1];
    bool has_avx;
    struct stub_slot *slots;
    uint32_t users;
    struct sigaction old_fpe, old_ill, old_segv, old_bus;
};

/* A signal handler has no argument to find its state by, so the stubs are the process's. The lock guards all of it; the
 * handler only reads 'active', which changes while no vCPU runs. */
static pthread_mutex_t stubs_lock = PTHREAD_MUTEX_INITIALIZER;
static _Atomic(struct soft_stubs *) active;

static void chain(const struct sigaction *old, int number, siginfo_t *info, void *context)
{
    if ((old->sa_flags & SA_SIGINFO) != 0 && old->sa_sigaction != NULL) {
        old->sa_sigaction(number, info, context);
    } else if (old->sa_handler == SIG_DFL || old->sa_handler == SIG_IGN) {
        /* The fault comes again when this handler returns, and then ends the program as it would have. */
        signal(number, SIG_DFL);
    } else {
        old->sa_handler(number);
    }
}

static void on_fault(int number, siginfo_t *info, void *opaque)
{
    ucontext_t *context = opaque;
    greg_t *gregs = context->uc_mcontext.gregs;
    const struct soft_stubs *stubs = atomic_load_explicit(&active, memory_order_acquire);
    if (stubs == NULL) {
        signal(number, SIG_DFL);
        return;
    }
    uint64_t offset = (uint64_t)gregs[REG_RIP] - (uint64_t)(uintptr_t)stubs->executable;
    if (offset >= STUBS_CODE_SIZE) {
        uintptr_t native = soft_native_fault((uintptr_t)gregs[REG_RIP]);
        if (native) {
            gregs[REG_RIP] = (greg_t)native;
            return;
        }
        chain(number == SIGFPE ? &stubs->old_fpe : &stubs->old_ill, number, info, opaque);
        return;
    }
    enum soft_stub_result result = gregs[REG_TRAPNO] == X86_XM   ? SOFT_STUB_XM
                                   : gregs[REG_TRAPNO] == X86_MF ? SOFT_STUB_MF
                                                                 : SOFT_STUB_UD;
    gregs[REG_RIP] = (greg_t)(uintptr_t)(stubs->executable + stubs->recovery[result]);
}

#define PF_WRITE 2 /* of the error code; SDM 3A 4.7 */

/* Translated code has met a page that is not in its window, or an address that is none. */
static void on_access_fault(int number, siginfo_t *info, void *opaque)
{
    ucontext_t *context = opaque;
    greg_t *gregs = context->uc_mcontext.gregs;
    const struct soft_stubs *stubs = atomic_load_explicit(&active, memory_order_acquire);
    uintptr_t next = soft_native_access_fault((uintptr_t)gregs[REG_RIP], (uintptr_t)info->si_addr,
                                              number == SIGSEGV && gregs[REG_TRAPNO] == X86_PF,
                                              gregs[REG_ERR] & PF_WRITE);
    if (next) {
        gregs[REG_RIP] = (greg_t)next;
    } else if (stubs) {
        chain(number == SIGSEGV ? &stubs->old_segv : &stubs->old_bus, number, info, opaque);
    } else {
        signal(number, SIG_DFL);
    }
}

static uint32_t stubs_append(struct soft_stubs *stubs, const uint8_t *code, size_t size)
{
    uint32_t offset = stubs->used;
    memcpy(stubs->writable + offset, code, size);
    stubs->used = (uint32_t)align_up(offset + size, STUBS_ALIGN);
    return offset;
}

static void stubs_destroy(struct soft_stubs *stubs)
{
    if (stubs == NULL) {
        return;
    }
    if (stubs->writable != NULL) {
        munmap(stubs->writable, STUBS_CODE_SIZE);
    }
    if (stubs->executable != NULL) {
        munmap(stubs->executable, STUBS_CODE_SIZE);
    }
    if (stubs->slots != NULL) {
        munmap(stubs->slots, STUBS_SLOT_COUNT * sizeof(*stubs->slots));
    }
    free(stubs);
}

static void *map_or_null(size_t size, int prot, int flags, int fd)
{
    void *memory = mmap(NULL, size, prot, flags, fd, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

static int stubs_create(struct soft_stubs **out_stubs, struct error *err)
{
    struct soft_stubs *stubs = calloc(1, sizeof(*stubs));
    if (stubs == NULL) {
        return error_set(err, ENOMEM, "no memory for the stubs of SIMD instructions");
    }
    int fd = memfd_create("hull-stubs", MFD_CLOEXEC);
    if (fd >= 0 && ftruncate(fd, STUBS_CODE_SIZE) == 0) {
        stubs->writable = map_or_null(STUBS_CODE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
        stubs->executable = map_or_null(STUBS_CODE_SIZE, PROT_READ | PROT_EXEC, MAP_SHARED, fd);
        stubs->slots = map_or_null(STUBS_SLOT_COUNT * sizeof(*stubs->slots), PROT_READ | PROT_WRITE,
                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
    }
    int saved_errno = errno;
    if (fd >= 0) {
        close(fd);
    }
    if (stubs->writable == NULL || stubs->executable == NULL || stubs->slots == NULL) {
        stubs_destroy(stubs);
        return error_set_errno(err, saved_errno,
                               "mapping memory for the stubs of SIMD instructions");
    }
    stubs->max_count = STUBS_SLOT_COUNT / 2;
    stubs->has_avx = __builtin_cpu_supports("avx");
    for (uint32_t result = SOFT_STUB_XM; result <= SOFT_STUB_UD; result++) {
        uint8_t code[STUB_MAX_SIZE];
        size_t size = stub_emit_recovery(result, stubs->has_avx, code);
        stubs->recovery[result] = stubs_append(stubs, code, size);
    }
    *out_stubs = stubs;
    return 0;
}

int soft_stubs_get(struct soft_stubs **out_stubs, struct error *err)
{
    int rc = 0;
    pthread_mutex_lock(&stubs_lock);
    struct soft_stubs *stubs = atomic_load(&active);
    if (stubs == NULL) {
        rc = stubs_create(&stubs, err);
        if (rc == 0) {
            atomic_store(&active, stubs);
            struct sigaction action = {
                .sa_sigaction = on_fault,
                .sa_flags = SA_SIGINFO | SA_ONSTACK,
            };
            sigemptyset(&action.sa_mask);
            sigaction(SIGFPE, &action, &stubs->old_fpe);
            sigaction(SIGILL, &action, &stubs->old_ill);
            action.sa_sigaction = on_access_fault;
            sigaction(SIGSEGV, &action, &stubs->old_segv);
            sigaction(SIGBUS, &action, &stubs->old_bus);
        }
    }
    if (rc == 0) {
        stubs->users++;
        *out_stubs = stubs;
    }
    pthread_mutex_unlock(&stubs_lock);
    return rc;
}

void soft_stubs_put(struct soft_stubs *stubs)
{
    if (stubs == NULL) {
        return;
    }
    pthread_mutex_lock(&stubs_lock);
    if (--stubs->users == 0) {
        sigaction(SIGFPE, &stubs->old_fpe, NULL);
        sigaction(SIGILL, &stubs->old_ill, NULL);
        sigaction(SIGSEGV, &stubs->old_segv, NULL);
        sigaction(SIGBUS, &stubs->old_bus, NULL);
        atomic_store(&active, NULL);
        stubs_destroy(stubs);
    }
    pthread_mutex_unlock(&stubs_lock);
}

void soft_stubs_limit(struct soft_stubs *stubs, uint32_t count)
{
    pthread_mutex_lock(&stubs_lock);
    stubs->max_count = MIN(count, STUBS_SLOT_COUNT / 2);
    pthread_mutex_unlock(&stubs_lock);
}

static uint32_t key_hash(const uint8_t key[16])
{
    uint64_t low, high;
    memcpy(&low, key, sizeof(low));
    memcpy(&high, key + 8, sizeof(high));
    uint64_t mixed = (low ^ (high * 0x9e3779b97f4a7c15ull)) * 0xff51afd7ed558ccdull;
    return (uint32_t)(mixed >> 40) & (STUBS_SLOT_COUNT - 1);
}

bool soft_stub_find(struct soft_stubs *stubs, const struct x86_insn *insn,
                    struct soft_stub *out_stub)
{
    struct soft_stub_shape shape;
    struct stub_op op;
    if (!soft_stub_shape(insn, &shape) || (shape.is_vex && !stubs->has_avx)) {
        return false;
    }
    stub_encode_op(insn, &shape, &op);
    if (op.size >= sizeof(op.bytes)) {
        return false;
    }
    op.bytes[sizeof(op.bytes) - 1] = op.size;

    bool found = false;
    pthread_mutex_lock(&stubs_lock);
    uint32_t index = key_hash(op.bytes);
    struct stub_slot *slot = &stubs->slots[index];
    while (slot->key[sizeof(op.bytes) - 1] != 0 &&
           memcmp(slot->key, op.bytes, sizeof(op.bytes)) != 0) {
        index = (index + 1) & (STUBS_SLOT_COUNT - 1);
        slot = &stubs->slots[index];
    }
    if (slot->key[sizeof(op.bytes) - 1] != 0) {
        found = true;
    } else if (stubs->count < stubs->max_count && stubs->used + STUB_MAX_SIZE <= STUBS_CODE_SIZE) {
        uint8_t code[STUB_MAX_SIZE];
        size_t op_offset;
        size_t size = stub_emit(&shape, &op, code, &op_offset);
        slot->offset = stubs_append(stubs, code, size);
        slot->op_offset = (uint32_t)op_offset;
        memcpy(slot->key, op.bytes, sizeof(op.bytes));
        stubs->count++;
        found = true;
    }
    if (found) {
        uint8_t *code = stubs->executable + slot->offset;
        memcpy(&out_stub->run, &code, sizeof(code));
        out_stub->op_address = (uint64_t)(uintptr_t)code + slot->op_offset;
    }
    pthread_mutex_unlock(&stubs_lock);
    return found;
}
