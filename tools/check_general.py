#!/usr/bin/env python3
"""Checks that a library for code with general registers only calls nothing outside of it: compilers make calls of memmove() and
the like out of loops, and those use vector registers.

Usage: check_general.py LIBRARY
"""
import shutil
import subprocess
import sys


def symbols(library, option):
    """Names that the library's objects define, or need."""
    lines = subprocess.run(["nm", option, "--format=posix", library], check=True,
                           capture_output=True, text=True).stdout.splitlines()
    return {line.split()[0] for line in lines if len(line.split()) > 1}


def main():
    if not shutil.which("nm"):
        return 77
    library = sys.argv[1]
    outside = symbols(library, "--undefined-only") - symbols(library, "--defined-only")
    outside.discard("_GLOBAL_OFFSET_TABLE_")
    for name in sorted(outside):
        print(f"{library}: needs {name}, which may use vector registers")
    return 1 if outside else 0


if __name__ == "__main__":
    sys.exit(main())
