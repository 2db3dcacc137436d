/* A program for a Linux guest: the same pages of code at several addresses of one process, and in another order, called in
 * turn. What a page's code computes from its own address must be right at each of them, also after one of the
 * mappings has changed, and in a child. Prints "mapped_twice: right". */
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE   4096
#define ROUNDS 20000

/* Of the first page: leaves it by a jump, a call and a conditional jump to the second. The results say where each part ran. */
static const uint8_t first_page[] = {
    0x48, 0x8d, 0x05, 0xf9, 0xff, 0xff, 0xff, /* lea rax, [rip - 7]: its own address */
    0x48, 0x89, 0x07,                         /* mov [rdi], rax */
    0xe8, 0xf1, 0x0f, 0x00, 0x00,             /* call page + 0x1000 */
    0x48, 0x85, 0xff,                         /* test rdi, rdi */
    0x0f, 0x85, 0xe8, 0x10, 0x00, 0x00,       /* jnz page + 0x1100 */
    0x0f, 0x0b,                               /* ud2 */
};
/* Of the second: at 0 called, at 0x100 jumped to. */
static const uint8_t called[] = {
    0x48, 0x8b, 0x04, 0x24, /* mov rax, [rsp]: where the call came from */
    0x48, 0x89, 0x47, 0x08, /* mov [rdi + 8], rax */
    0xc3,                   /* ret */
};
static const uint8_t jumped_to[] = {
    0x48, 0x8d, 0x05, 0xf9, 0xff, 0xff, 0xff, /* lea rax, [rip - 7] */
    0x48, 0x89, 0x47, 0x10,                   /* mov [rdi + 16], rax */
    0x8b, 0x05, 0xef, 0x00, 0x00, 0x00,       /* mov eax, [page + 0x200] */
    0xc3,                                     /* ret */
};

typedef uint32_t function(uint64_t out[3]);

static uint8_t *map(int fd, void *at, size_t size, off_t offset)
{
    int flags = MAP_SHARED | (at ? MAP_FIXED : 0);
    uint8_t *memory = mmap(at, size, PROT_READ | PROT_EXEC, flags, fd, offset);
    if (memory == MAP_FAILED) {
        perror("mmap");
        _exit(1);
    }
    return memory;
}

static int check(const uint8_t *code, uint32_t number)
{
    function *call;
    uint64_t out[3] = {0};
    memcpy(&call, &code, sizeof(call));
    uint32_t result = call(out);
    uint64_t base = (uint64_t)(uintptr_t)code;
    if (out[0] == base && out[1] == base + 15 && out[2] == base + PAGE + 0x100 &&
        result == number) {
        return 0;
    }
    printf("mapped_twice: wrong at %p: %#lx %#lx %#lx, %u instead of %u\n", (const void *)code,
           (unsigned long)out[0], (unsigned long)out[1], (unsigned long)out[2], result, number);
    return 1;
}

static int check_all(uint8_t *const code[3], const uint32_t number[3])
{
    for (int i = 0; i < ROUNDS; i++) {
        if (check(code[i % 3], number[i % 3])) {
            return 1;
        }
    }
    return 0;
}

static void make_page(uint8_t *page, uint32_t number)
{
    memcpy(page, called, sizeof(called));
    memcpy(page + 0x100, jumped_to, sizeof(jumped_to));
    memcpy(page + 0x200, &number, sizeof(number));
}

int main(void)
{
    int fd = memfd_create("code", 0);
    if (fd < 0 || ftruncate(fd, 3 * PAGE) < 0) {
        perror("memfd");
        return 1;
    }
    uint8_t *writable = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (writable == MAP_FAILED) {
        perror("mmap");
        return 1;
    }
    memcpy(writable, first_page, sizeof(first_page));
    make_page(writable + PAGE, 1);
    make_page(writable + 2 * PAGE, 2);
    uint8_t *code[3];
    uint32_t number[3] = {1, 1, 2};
    code[0] = map(fd, NULL, 2 * PAGE, 0);
    /* 4 GiB away, and in yet another region of the address space. */
    code[1] = map(fd, code[0] - (1ll << 32), 2 * PAGE, 0);
    code[2] = map(fd, (void *)0x20000000000, 2 * PAGE, 0);
    (void)map(fd, code[2] + PAGE, PAGE, 2 * PAGE);
    int failed = check_all(code, number);
    /* The first one's second page becomes the other one. */
    (void)map(fd, code[0] + PAGE, PAGE, 2 * PAGE);
    number[0] = 2;
    failed |= check_all(code, number);
    pid_t pid = fork();
    if (pid == 0) {
        (void)map(fd, code[1] + PAGE, PAGE, 2 * PAGE);
        number[1] = 2;
        _exit(check_all(code, number));
    }
    int status = 1;
    failed |= check_all(code, number);
    failed |= pid < 0 || waitpid(pid, &status, 0) != pid || status != 0;
    if (!failed) {
        printf("mapped_twice: right\n");
    }
    return failed;
}
