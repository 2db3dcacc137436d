/* Names for the compiler's extensions that Hull uses. */
#ifndef BASE_CORE_COMPILER_H
#define BASE_CORE_COMPILER_H

#define must_check        __attribute__((warn_unused_result))
#define printf_like(f, a) __attribute__((format(printf, f, a)))
#define likely(x)         __builtin_expect(!!(x), 1)
#define unlikely(x)       __builtin_expect(!!(x), 0)
#define noreturn_fn       __attribute__((noreturn))
#define always_inline     inline __attribute__((always_inline))
#define never_inline      __attribute__((noinline))
#define cold_fn           __attribute__((noinline, cold))
#define ARRAY_COUNT(a)    (sizeof(a) / sizeof((a)[0]))

/* The struct of which 'member' is a part. */
#define container_of(ptr, type, member) ((type *)((char *)(ptr) - __builtin_offsetof(type, member)))

#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

#endif
