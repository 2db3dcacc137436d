/* Stacks come from mmap with a page below them that nothing may touch, and are kept for the next coroutine. Switching saves
 * what the System V ABI makes the callee's (section 3.2.1), by hand: swapcontext(3) would make two system calls each time. */
#include "base/host/coroutine.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/core/invariant.h"

#if defined(__SANITIZE_ADDRESS__)
#define HAS_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HAS_ASAN 1
#endif
#endif
#ifdef HAS_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define STACK_SIZE (1024u * 1024) /* its frames are large */
#else
#define STACK_SIZE (128u * 1024)
#endif

#if defined(__SANITIZE_THREAD__)
#define HAS_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define HAS_TSAN 1
#endif
#endif
#ifdef HAS_TSAN
#include <sanitizer/tsan_interface.h>
#endif

#define GUARD_SIZE 4096u
#define HEAD_SIZE  256u /* a multiple of 64, for the stack's alignment */
#define MAX_KEPT   64u

/* Lies at the upper end of its own stack. */
struct coroutine {
    void *sp;
    uint8_t *mapping;
    coroutine_fn fn, after;
    void *ctx;
    struct coroutine *caller; /* the coroutine to go back to; NULL: the thread's own stack */
    struct coroutine *next;   /* in a queue, the list of the ready or that of the kept */
    bool has_ended;
    bool is_ready;
#ifdef HAS_ASAN
    void *fake_stack;
#endif
#ifdef HAS_TSAN
    void *fiber;
#endif
};
_Static_assert(sizeof(struct coroutine) <= HEAD_SIZE, "must fit above its stack");

/* What a thread knows of its coroutines: the one kind of state here that belongs to a thread and not to an object. */
static __thread struct {
    struct coroutine *current;
    void *own_sp;
    struct coroutine_queue ready;
    bool is_running_ready;
    struct coroutine *kept;
    unsigned kept_count;
#ifdef HAS_ASAN
    const void *own_bottom;
    size_t own_size;
    void *own_fake_stack;
#endif
#ifdef HAS_TSAN
    void *own_fiber;
#endif
} thread;

/* Saves the registers, leaves the stack pointer in *from, and goes on where 'to' was left. */
void coroutine_switch(void **from, void *to);

__asm__(".text\n"
        ".p2align 4\n"
        ".globl coroutine_switch\n"
        ".hidden coroutine_switch\n"
        ".type coroutine_switch, @function\n"
        "coroutine_switch:\n"
        "    pushq %rbp\n"
        "    pushq %rbx\n"
        "    pushq %r12\n"
        "    pushq %r13\n"
        "    pushq %r14\n"
        "    pushq %r15\n"
        "    movq %rsp, (%rdi)\n"
        "    movq %rsi, %rsp\n"
        "    popq %r15\n"
        "    popq %r14\n"
        "    popq %r13\n"
        "    popq %r12\n"
        "    popq %rbx\n"
        "    popq %rbp\n"
        "    ret\n"
        ".size coroutine_switch, . - coroutine_switch\n");

/* The thread's own stack is NULL on either side. */
static void switch_to(struct coroutine *from, struct coroutine *to)
{
    void **save = from != NULL ? &from->sp : &thread.own_sp;
    void *sp = to != NULL ? to->sp : thread.own_sp;
    thread.current = to;
#ifdef HAS_ASAN
    void **fake = from != NULL ? &from->fake_stack : &thread.own_fake_stack;
    bool is_last = from != NULL && from->has_ended;
    __sanitizer_start_switch_fiber(is_last ? NULL : fake,
                                   to != NULL ? to->mapping + GUARD_SIZE : thread.own_bottom,
                                   to != NULL ? STACK_SIZE : thread.own_size);
#endif
#ifdef HAS_TSAN
    if (from == NULL) {
        thread.own_fiber = __tsan_get_current_fiber();
    }
    __tsan_switch_to_fiber(to != NULL ? to->fiber : thread.own_fiber, 0);
#endif
    coroutine_switch(save, sp);
#ifdef HAS_ASAN
    __sanitizer_finish_switch_fiber(*fake, NULL, NULL);
#endif
}

static void noreturn_fn run_body(void)
{
#ifdef HAS_ASAN
    const void *bottom;
    size_t size;
    __sanitizer_finish_switch_fiber(NULL, &bottom, &size);
    if (thread.current->caller == NULL) {
        thread.own_bottom = bottom;
        thread.own_size = size;
    }
#endif
    struct coroutine *self = thread.current;
    self->fn(self->ctx);
    self->has_ended = true;
    switch_to(self, self->caller);
    invariant(false); /* nobody goes back to one that has ended */
    __builtin_unreachable();
}

static struct coroutine *take(void)
{
    struct coroutine *coroutine = thread.kept;
    if (coroutine != NULL) {
        thread.kept = coroutine->next;
        thread.kept_count--;
        return coroutine;
    }
    uint8_t *mapping = mmap(NULL, GUARD_SIZE + STACK_SIZE, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (mapping == MAP_FAILED) {
        return NULL;
    }
    if (mprotect(mapping, GUARD_SIZE, PROT_NONE) < 0) {
        (void)munmap(mapping, GUARD_SIZE + STACK_SIZE); /* our own mapping */
        return NULL;
    }
    coroutine = (struct coroutine *)(mapping + GUARD_SIZE + STACK_SIZE - HEAD_SIZE);
    coroutine->mapping = mapping;
    return coroutine;
}

static void drop(struct coroutine *coroutine)
{
    uint8_t *mapping = coroutine->mapping;
    (void)munmap(mapping, GUARD_SIZE + STACK_SIZE); /* our own mapping */
}

static void give(struct coroutine *coroutine)
{
#ifdef HAS_ASAN
    /* What runs last on the stack does not return: its frames are marked still. */
    __asan_unpoison_memory_region((uint8_t *)coroutine->mapping + GUARD_SIZE, STACK_SIZE);
#endif
#ifdef HAS_TSAN
    __tsan_destroy_fiber(coroutine->fiber);
#endif
    if (thread.kept_count >= MAX_KEPT) {
        drop(coroutine);
        return;
    }
    coroutine->next = thread.kept;
    thread.kept = coroutine;
    thread.kept_count++;
}

void coroutine_trim(void)
{
    while (thread.kept != NULL) {
        struct coroutine *coroutine = thread.kept;
        thread.kept = coroutine->next;
        drop(coroutine);
    }
    thread.kept_count = 0;
}

static void run(struct coroutine *coroutine)
{
    coroutine->caller = thread.current;
    switch_to(thread.current, coroutine);
    if (coroutine->has_ended) {
        coroutine_fn after = coroutine->after;
        void *ctx = coroutine->ctx;
        give(coroutine);
        if (after != NULL) {
            after(ctx);
        }
    }
}

static void push(struct coroutine_queue *queue, struct coroutine *coroutine)
{
    coroutine->next = NULL;
    if (queue->last != NULL) {
        queue->last->next = coroutine;
    } else {
        queue->first = coroutine;
    }
    queue->last = coroutine;
}

static struct coroutine *pop(struct coroutine_queue *queue)
{
    struct coroutine *coroutine = queue->first;
    if (coroutine != NULL) {
        queue->first = coroutine->next;
        if (queue->first == NULL) {
            queue->last = NULL;
        }
    }
    return coroutine;
}

bool coroutine_run_ready(void)
{
    bool has_run = false;
    struct coroutine *coroutine;
    if (thread.current != NULL) {
        return false;
    }
    while ((coroutine = pop(&thread.ready)) != NULL) {
        coroutine->is_ready = false;
        has_run = true;
        run(coroutine);
    }
    return has_run;
}

/* On the thread's own stack. What is called from here may make others ready: they have their turn here too, so that the stack
 * does not grow. */
static void run_ready(void)
{
    if (!thread.is_running_ready) {
        thread.is_running_ready = true;
        (void)coroutine_run_ready();
        thread.is_running_ready = false;
    }
}

int coroutine_start(coroutine_fn fn, coroutine_fn after, void *ctx)
{
    struct coroutine *coroutine = take();
    if (coroutine == NULL) {
        return -ENOMEM;
    }
    uint8_t *mapping = coroutine->mapping;
    *coroutine = (struct coroutine){.mapping = mapping, .fn = fn, .after = after, .ctx = ctx};
    /* As coroutine_switch leaves a stack: six registers, the address to go on at, and then nobody's return address, so that
     * whoever walks the stack stops there. A function starts with rsp at 8 modulo 16. */
    void **top = (void **)coroutine;
    top[-1] = NULL;
    top[-2] = (void *)run_body;
    memset(top - 8, 0, 6 * sizeof(void *));
    coroutine->sp = top - 8;
#ifdef HAS_TSAN
    coroutine->fiber = __tsan_create_fiber(0);
#endif
    run(coroutine);
    if (thread.current == NULL) {
        run_ready();
    }
    return 0;
}

struct coroutine *coroutine_self(void)
{
    return thread.current;
}

void coroutine_yield(void)
{
    struct coroutine *self = thread.current;
    invariant(self != NULL);
    switch_to(self, self->caller);
}

void coroutine_resume(struct coroutine *coroutine)
{
    invariant(!coroutine->is_ready && !coroutine->has_ended);
    coroutine->is_ready = true;
    push(&thread.ready, coroutine);
    if (thread.current == NULL) {
        run_ready();
    }
}

void coroutine_queue_wait(struct coroutine_queue *queue)
{
    push(queue, thread.current);
    coroutine_yield();
}

bool coroutine_queue_wake_one(struct coroutine_queue *queue)
{
    struct coroutine *coroutine = pop(queue);
    if (coroutine != NULL) {
        coroutine_resume(coroutine);
    }
    return coroutine != NULL;
}

void coroutine_queue_wake_all(struct coroutine_queue *queue)
{
    struct coroutine_queue all = *queue; /* those who wait again at once are not woken again */
    *queue = (struct coroutine_queue){0};
    struct coroutine *coroutine;
    while ((coroutine = pop(&all)) != NULL) {
        coroutine_resume(coroutine);
    }
}

void coroutine_mutex_lock(struct coroutine_mutex *mutex)
{
    if (!mutex->is_locked) {
        mutex->is_locked = true;
        return;
    }
    coroutine_queue_wait(&mutex->waiting); /* comes back as the owner */
}

void coroutine_mutex_unlock(struct coroutine_mutex *mutex)
{
    invariant(mutex->is_locked);
    if (!coroutine_queue_wake_one(&mutex->waiting)) {
        mutex->is_locked = false;
    }
}
