#!/usr/bin/env python3
"""Measures this machine, Hull's soft engine and QEMU's TCG in turn within one run; prints medians, ratios and which aims hold.

Both guests boot the same files: Debian's kernel, the same initrd, copies of the same disk. QEMU runs as `qemu-system-x86_64
-accel tcg,thread=multi -machine q35 -cpu max`. Machines are noisy: believe ratios, and only large ones. Exit status 1: a
checksum differs, or a side failed at something.
"""
import argparse
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import time

from boots import Boots
import containers
import disks
import fio
import managers
from monitors import Hull, Qemu
import nbd
from programs import PROGRAMS
import report
import system_containers
from suite import Suite, list_cases

# Rows about disks and containers, by the name of their group.
DISKS = {"disks", "fio", "nbd", "containers", "system-containers", "managers"}

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


def progress(text):
    """One line that is written over, if somebody looks."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def print_interpreter(build):
    """How fast the soft engine's interpreter is: the reference, and what runs the code that is not translated."""
    speeds = []
    for _ in range(3):
        output = subprocess.run([build / "tests/unit/engine/bench_soft"], capture_output=True, text=True, check=False).stdout
        speeds += [int(speed) for speed in re.findall(r"(\d+) million a second", output)]
    if speeds:
        print(f"\ninterpreter: {sorted(speeds)[len(speeds) // 2]} million guest instructions a second of CPU time")


def log_line(text):
    """As progress, for --verbose: all lines stay, with the time."""
    if text:
        print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def parse_arguments():
    parser = argparse.ArgumentParser(prog="bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", metavar="NAME,...", default="", help="only these: cases of hull-bench, programs "
                        f"({', '.join(PROGRAMS)}), rows about guests ({', '.join(Boots.ROWS)}), {', '.join(sorted(DISKS))}; default: all")
    parser.add_argument("--rounds", type=int, default=0, help="measurements of each, of which the median counts (3)")
    parser.add_argument("--vcpus", metavar="N,...", default="", help="1, 2 or 1,2 (default)")
    parser.add_argument("--quick", action="store_true", help="one short round, without the systemd guest")
    parser.add_argument("--verbose", action="store_true", help="log each measurement on standard error")
    parser.add_argument("--json", metavar="FILE", type=pathlib.Path, help="write all numbers there too")
    parser.add_argument("build", type=pathlib.Path)
    arguments = parser.parse_args()
    arguments.rounds = arguments.rounds or (1 if arguments.quick else 3)
    arguments.cases = [name for name in arguments.cases.split(",") if name]
    try:
        arguments.vcpus = [int(count) for count in arguments.vcpus.split(",") if count] or [1, 2]
    except ValueError:
        parser.error("--vcpus takes numbers")
    return parser, arguments


def choose(arguments, cases):
    """(names of rows about guests, {vCPUs: names of cases and programs})"""
    if arguments.cases:
        guests = set(arguments.cases) & {*Boots.ROWS, *DISKS}
        names = [name for name in arguments.cases if name not in guests]
        return guests, {cpus: [n for n in names if cases.get(n, {"threads": 1})["threads"] <= cpus]
                        for cpus in arguments.vcpus if names}
    guests = {*Boots.ROWS, *DISKS} - ({"login"} if arguments.quick else set())
    suites = {}
    for cpus in arguments.vcpus:
        names = [n for n, case in cases.items() if case["threads"] <= cpus and (cpus == 1 or case["smp"])]
        suites[cpus] = names + (list(PROGRAMS) if cpus == 1 else [])
    return guests, suites


def make_guests(guests, wanted, suites):
    maker = [sys.executable, ROOT / "tools/guest/make_guest.py", guests]
    parts = [["initrd", "cloud"]]
    if "login" in wanted:
        parts += [["initrd", "generic"], ["disk"]]
    if any(name in PROGRAMS for names in suites.values() for name in names):
        parts.append(["bench"])
    if "fio" in wanted:
        parts.append(["storage"])
    for part in parts:
        subprocess.run([*maker, *part], check=True)


def main():
    parser, arguments = parse_arguments()
    build = arguments.build.resolve()
    hull_bench = build / "tests/bench/hull-bench"
    cases = list_cases(hull_bench)
    known = set(cases) | set(PROGRAMS) | {*Boots.ROWS, *DISKS}
    for name in arguments.cases:
        if name not in known:
            every = ", ".join([*cases, *PROGRAMS, *Boots.ROWS, *sorted(DISKS)])
            parser.error(f"no case '{name}': {every}")
    guest_rows, suites = choose(arguments, cases)
    guests = build / "guest"
    if guest_rows - (DISKS - {"fio"}) or suites:
        make_guests(guests, guest_rows, suites)
    disk_groups, guest_rows = guest_rows & DISKS, guest_rows - DISKS

    show = log_line if arguments.verbose else progress
    monitors = [Hull(build), Qemu()]
    units = {name: case["unit"] for name, case in cases.items()}
    results, clocks, memory, boots = {}, [], {}, {}
    disk_rows, disk_cache, nbd_rows = {}, None, {}
    fio_rows, fio_place = {}, None
    with tempfile.TemporaryDirectory(dir=build) as scratch:
        for cpus, names in suites.items():
            suite = Suite(monitors, guests, scratch, hull_bench, cpus, names, show)
            results[cpus], reports, busy = suite.measure(arguments.rounds, 50 if arguments.quick else 500)
            clocks += [(right, f"{text} ({cpus} vCPU)") for right, text in reports]
            if cpus == 1:
                memory = busy
            show("")
            report.print_suite(results[cpus], cpus, units)
        if guest_rows:
            boots = Boots(monitors, guests, scratch, arguments.rounds, show).measure(guest_rows)
            show("")
            report.print_boots(boots)
            print_interpreter(build)
    if "disks" in disk_groups:
        disk_rows, disk_cache = disks.measure(build, arguments.rounds, 1024 if arguments.quick else 4096, "", show)
        disks.print_rows(disk_rows, disk_cache)
    if "nbd" in disk_groups:
        nbd_rows = nbd.measure(build, arguments.rounds, show)
        disks.print_rows(nbd_rows, None, "NBD")
    if "fio" in disk_groups:
        fio_rows, fio_place = fio.measure(*monitors, guests, build, arguments.rounds, arguments.vcpus, show)
        fio.print_rows(fio_rows, fio_place)
    container_rows = {}
    if "containers" in disk_groups:
        container_rows = containers.measure(build, arguments.rounds, show)
        containers.print_rows(container_rows)
    system_rows = {}
    if "system-containers" in disk_groups:
        system_rows = system_containers.measure(build, arguments.rounds, show)
        system_containers.print_rows(system_rows)
    manager_rows = {}
    if "managers" in disk_groups:
        manager_rows = managers.measure(build, arguments.rounds, show)
        managers.print_rows(manager_rows)
    print("\nclocks")
    for right, text in clocks:
        print(f"  {'?     ' if right is None else 'right ' if right else 'LIES  '} {text}")
    reached = report.aims(results, boots, memory) + disks.aims(disk_rows, disk_cache) + nbd.aims(nbd_rows) + fio.aims(fio_rows) \
        + containers.aims(container_rows) + system_containers.aims(system_rows) + managers.aims(manager_rows)
    report.print_aims(reached)
    if arguments.json:
        arguments.json.write_text(json.dumps({
            "suites": results, "guests": boots, "disks": disk_rows, "disk_cache_mib": disk_cache, "nbd": nbd_rows, "fio": fio_rows,
            "containers": container_rows, "system_containers": system_rows, "managers": manager_rows, "busy_memory_mib": memory,
            "means": {cpus: report.means(rows) for cpus, rows in results.items()},
            "clocks": [{"right": right, "text": text} for right, text in clocks],
            "aims": [{"aim": text, "holds": holds, "detail": detail} for text, holds, detail in reached]},
            indent=2) + "\n")
    bad = [f"{name} ({cpus} vCPU)" for cpus, rows in results.items() for name, row in rows.items()
           if any("lacks" not in note for note in row["notes"])]
    bad += [name for name, row in boots.items() if row["notes"]]
    bad += [f"fio: {name} ({cpus} vCPU)" for cpus, rows in fio_rows.items() for name, row in rows.items() if row["notes"]]
    bad += [text for right, text in clocks if right is False]
    if bad:
        print(f"\n{len(bad)} failed: {', '.join(bad)}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
