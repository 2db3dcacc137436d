#!/usr/bin/env python3
"""Writes the C file of the "big code" cases: make_bigcode.py OUTPUT.

3000 functions of about 30 instructions each, all different, in a section of their own that refers to nothing outside of
itself, so that a copy of it runs at any address. Always the same output.
"""
import random
import sys

FUNCTIONS = 3000
GROUP = 50
SECTION = '__attribute__((noinline, section("bigcode")))'


def statement(draw):
    left, right = draw.randrange(64), draw.randrange(64)
    number = draw.randrange(3, 1 << 20)
    return draw.choice([
        f"x += d[{left}] ^ {number};",
        f"d[{left}] = x + {number};",
        f"x = (x << {draw.randrange(1, 63)}) ^ d[{right}];",
        f"if (x & {1 << draw.randrange(8)}) {{ x -= {number}; }}",
        f"d[{left}] += d[{right}] & x;",
        f"x = x * {number | 1} + d[{left}];",
        f"x ^= x >> {draw.randrange(1, 63)};",
    ])


def main():
    draw = random.Random(1)
    lines = ['#include "bench.h"', ""]
    for number in range(FUNCTIONS):
        lines += [f"static {SECTION} uint64_t function_{number}(uint64_t x, uint64_t *d)", "{"]
        lines += [f"    {statement(draw)}" for _ in range(10)]
        lines += ["    return x;", "}"]
    for group in range(FUNCTIONS // GROUP):
        lines += [f"static {SECTION} uint64_t group_{group}(uint64_t x, uint64_t *d)", "{"]
        lines += [f"    x = function_{group * GROUP + i}(x, d);" for i in range(GROUP)]
        lines += ["    return x;", "}"]
    lines += [f"{SECTION} uint64_t bigcode_run(uint64_t x, uint64_t *d)", "{"]
    lines += [f"    x = group_{group}(x, d);" for group in range(FUNCTIONS // GROUP)]
    lines += ["    return x;", "}"]
    with open(sys.argv[1], "w", encoding="ascii") as file:
        file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
