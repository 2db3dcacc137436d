/* Attributes that free at the end of a scope, and TAKE_* to hand over. */
#ifndef BASE_CORE_CLEANUP_H
#define BASE_CORE_CLEANUP_H

/* Defines a cleanup function for variables of 'type' that calls free_fn when they are not 'empty'. */
#define CLEANUP_DEFINE(name, type, free_fn, empty)                                                 \
    static inline void name(type *variable)                                                        \
    {                                                                                              \
        if (*variable != (empty)) {                                                                \
            free_fn(*variable);                                                                    \
        }                                                                                          \
    }

#define TAKE_PTR(p)                                                                                \
    __extension__({                                                                                \
        __typeof__(p) taken_ptr = (p);                                                             \
        (p) = NULL;                                                                                \
        taken_ptr;                                                                                 \
    })
#define TAKE_FD(fd)                                                                                \
    __extension__({                                                                                \
        int taken_fd = (fd);                                                                       \
        (fd) = -1;                                                                                 \
        taken_fd;                                                                                  \
    })

#endif
