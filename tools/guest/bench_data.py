#!/usr/bin/env python3
"""Writes what the measured programs work on: bench_data.py FOLDER. Always the same bytes."""
import gzip
import pathlib
import random
import sys

MIB = 1 << 20
WORDS, FUNCTIONS = 3000, 90


def text(draw, size):
    """Words in lines, as often as in prose: some very often, most of them rarely."""
    words = ["".join(draw.choices("etaoinshrdlucmfwypvbgkjqxz", weights=range(26, 0, -1), k=draw.randrange(2, 11)))
             for _ in range(WORDS)]
    weights = [1 / rank for rank in range(1, WORDS + 1)]
    lines, length = [], 0
    while length < size:
        line = " ".join(draw.choices(words, weights=weights, k=12)) + "\n"
        lines.append(line)
        length += len(line)
    return "".join(lines)[:size].encode()


def program(draw):
    """A C file with loops, calls and arrays."""
    lines = ["#include <stdint.h>", "#include <stdio.h>", "static uint32_t data[256];"]
    for number in range(FUNCTIONS):
        lines += [f"uint32_t f{number}(uint32_t x, const uint32_t *a, int n)", "{", "    uint32_t s = x;",
                  f"    for (int i = 0; i < n; i++) {{ s += a[i] * {draw.randrange(3, 999)}u; "
                  f"if (s & {1 << draw.randrange(20)}u) s ^= s >> {draw.randrange(1, 31)}; }}"]
        for _ in range(6):
            lines.append(f"    switch (s % 7) {{ case 1: s += {draw.randrange(9999)}; break; case 3: s = data[s & 255]; break; "
                         f"case 4: data[x & 255] = s; break; default: s = s * {draw.randrange(3, 99)}u + {draw.randrange(99)}u; }}")
        if number:
            lines.append(f"    if (n > {draw.randrange(9)}) s += f{draw.randrange(number)}(s, a + 1, n - 1);")
        lines += ["    return s;", "}"]
    lines += ["int main(void)", "{", f'    printf("%u\\n", f{FUNCTIONS - 1}(1, data, 8));', "    return 0;", "}"]
    return "\n".join(lines).encode() + b"\n"


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True)
    draw = random.Random(2)
    prose = text(draw, 8 * MIB)
    (folder / "text").write_bytes(prose)
    (folder / "text.gz").write_bytes(gzip.compress(prose, 6, mtime=0))
    (folder / "text3").write_bytes(prose[:3 * MIB])
    (folder / "large").write_bytes(prose + draw.randbytes(16 * MIB))
    (folder / "program.c").write_bytes(program(draw))


if __name__ == "__main__":
    main()
