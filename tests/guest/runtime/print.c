/* Serial output, checks, and the end of a program. */
#include "guest.h"

#define SERIAL_PORT     0x3f8
#define DEBUG_EXIT_PORT 0xf4

static unsigned failure_count;

static void print_char(char c)
{
    while (!(inb(SERIAL_PORT + 5) & 0x20)) { /* LSR: transmitter empty */
    }
    outb(SERIAL_PORT, (uint8_t)c);
}

void print_text(const char *text)
{
    while (*text != '\0') {
        print_char(*text++);
    }
}

void print_hex(uint64_t value)
{
    print_text("0x");
    bool has_begun = false;
    for (int shift = 60; shift >= 0; shift -= 4) {
        unsigned digit = (unsigned)(value >> shift) & 15;
        has_begun |= digit != 0 || shift == 0;
        if (has_begun) {
            print_char("0123456789abcdef"[digit]);
        }
    }
}

void print_decimal(uint64_t value)
{
    if (value >= 10) {
        print_decimal(value / 10);
    }
    print_char((char)('0' + value % 10));
}

static bool report(bool is_right, const char *name)
{
    print_text(is_right ? "ok " : "FAIL ");
    print_text(name);
    failure_count += !is_right;
    return is_right;
}

bool check_either(const char *name, uint64_t expected, uint64_t also_right, uint64_t got)
{
    bool is_right = report(got == expected || got == also_right, name);
    if (!is_right) {
        print_text(": expected ");
        print_hex(expected);
        if (also_right != expected) {
            print_text(" or ");
            print_hex(also_right);
        }
        print_text(", got ");
        print_hex(got);
    }
    print_text("\n");
    return is_right;
}

bool check_equal(const char *name, uint64_t expected, uint64_t got)
{
    return check_either(name, expected, expected, got);
}

bool check(const char *name, bool is_true)
{
    return check_equal(name, true, is_true);
}

bool check_range(const char *name, uint64_t least, uint64_t most, uint64_t got)
{
    bool is_right = report(got >= least && got <= most, name);
    if (!is_right) {
        print_text(": expected ");
        print_decimal(least);
        print_text(" to ");
        print_decimal(most);
        print_text(", got ");
        print_decimal(got);
    }
    print_text("\n");
    return is_right;
}

void check_skipped(const char *name, const char *why)
{
    print_text("skipped ");
    print_text(name);
    print_text(": ");
    print_text(why);
    print_text("\n");
}

void guest_exit(bool is_success)
{
    outb(DEBUG_EXIT_PORT, is_success ? 0 : 1);
    for (;;) {
        asm volatile("cli; hlt");
    }
}

void guest_fail(const char *why)
{
    print_text("FAIL ");
    print_text(why);
    print_text("\n");
    guest_exit(false);
}

void trap_init(void);
void runtime_main(void);

void runtime_main(void)
{
    trap_init();
    platform_init();
    guest_main();
    print_text(failure_count == 0 ? "all right\n" : "there were failures\n");
    guest_exit(failure_count == 0);
}

/* What the compiler calls by itself. */
void *memcpy(void *to, const void *from, size_t size)
{
    uint8_t *t = to;
    const uint8_t *f = from;
    for (size_t i = 0; i < size; i++) {
        t[i] = f[i];
    }
    return to;
}

void *memset(void *to, int value, size_t size)
{
    uint8_t *t = to;
    for (size_t i = 0; i < size; i++) {
        t[i] = (uint8_t)value;
    }
    return to;
}

int memcmp(const void *a, const void *b, size_t size)
{
    const uint8_t *x = a, *y = b;
    for (size_t i = 0; i < size; i++) {
        if (x[i] != y[i]) {
            return x[i] < y[i] ? -1 : 1;
        }
    }
    return 0;
}
