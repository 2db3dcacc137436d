#!/usr/bin/env python3
"""Measures `hull disk` beside `qemu-img` on this machine: conversions of a sparse disk, and requests to a raw and a qcow2 image.

Both sides are measured in turn, what counts is the median; the host's cache is part of it. Conversions count until the new image
is on the disk: `hull disk convert` ends then, `qemu-img convert` (its best options: -m 16 -W) when it is in the host's cache, so that an
fsync follows; --cached leaves that out.
"""
import argparse
import json
import os
import pathlib
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time

import place
import report

MIB = 1 << 20
PIECE = MIB // 2


def make_source(path, size, data_bytes):
    """A disk of which a part is data, in pieces of 512 KiB all over it, half of which can be compressed."""
    rng = random.Random(1)
    plain, packed = rng.randbytes(PIECE), b"".join(rng.randbytes(64) + bytes([i % 256]) * 192 for i in range(PIECE // 256))
    with open(path, "wb") as file:
        file.truncate(size)
        for i, at in enumerate(rng.sample(range(size // PIECE), data_bytes // PIECE)):
            file.seek(at * PIECE)
            file.write((packed if i % 2 else plain)[i % 1000:] + bytes(i % 1000))


def timed(words, target, must_sync):
    start = time.monotonic()
    subprocess.run([str(w) for w in words], check=True, stdout=subprocess.DEVNULL)
    if must_sync:
        with open(target, "rb") as file:
            os.fsync(file)
    seconds = time.monotonic() - start
    if target is not None:
        os.unlink(target)
    return seconds


def conversions(hull, folder, images):
    """Name, Hull's command, QEMU's command, what they make."""
    target = folder / "target"
    rows = [("raw", "raw", []), ("raw", "qcow2", []), ("qcow2", "raw", []), ("qcow2", "qcow2", []), ("raw", "qcow2", ["-c"]),
            ("vmdk", "raw", []), ("vhdx", "raw", []), ("raw", "vhdx", [])]
    for source, format_name, more in rows:
        ours = [hull, "disk", "convert", "-q", "-f", source, "-O", format_name, *more, images[source], target]
        theirs = ["qemu-img", "convert", "-m", "16", "-W", "-f", source, "-O", format_name, *more, images[source], target]
        yield f"convert {source} to {format_name}{' compressed' if more else ''}", ours, theirs, target


def bench_seconds(words):
    """What `qemu-img bench` and `hull disk bench` say they took."""
    text = subprocess.run([str(w) for w in words], check=True, capture_output=True, text=True).stdout
    return json.loads(text)["seconds"] if text.startswith("{") else float(re.search(r"([0-9.]+) seconds", text)[1])


BENCH = ("disk", "bench", "--json", "--one-buffer")  # qemu-img bench has one too, and one of 1 MiB stays in a CPU's cache
STRIDE = 251 * 4096  # from one request to the next: nothing that reads ahead helps, and both sides have the same places


def requests(hull, images):
    for name in ("raw", "qcow2"):
        for what, flags in (("read", []), ("write", ["-w"])):
            for size, depth, count in ((4096, 1, 20000), (4096, 32, 100000), (MIB, 8, 1000)):
                place = ["-S", STRIDE] if size == 4096 else []
                common = ["-f", name, "-c", count, "-d", depth, "-s", size, *place, *flags]
                yield (f"{what} {name} {size // 1024}K depth {depth}", [hull, *BENCH, *common, images[name + "-full"]],
                       ["qemu-img", "bench", "-i", "io_uring", *common, images[name + "-full"]])


def allocations(hull, folder):
    """New clusters, one after the other."""
    image = folder / "new.qcow2"
    common = ["-f", "qcow2", "-c", 8192, "-d", 1, "-s", 65536, "-w", image]

    def make(words):
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "1G"], check=True)
        seconds = bench_seconds(words)
        image.unlink()
        return seconds
    return ("allocate qcow2 64K depth 1", lambda: make([hull, *BENCH, *common]),
            lambda: make(["qemu-img", "bench", "-i", "io_uring", *common]))


def cache_mib(hull, folder):
    """What the tables of a qcow2 image of 1 TiB take while requests go all over it, beyond those of a small one."""
    peaks = []
    for size in ("64M", "1T"):
        image = folder / "large.qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", image, size], check=True)
        words = [hull, "disk", "bench", "-q", "-r", "-f", "qcow2", "-c", "400000", "-d", "32", image]
        with subprocess.Popen(words, stdout=subprocess.DEVNULL) as bench:
            peak = 0
            while bench.poll() is None:  # rusage would have this program's peak in it
                status = pathlib.Path(f"/proc/{bench.pid}/status").read_text(encoding="ascii")
                peak = max([peak, *(int(kib) for kib in re.findall(r"VmHWM:\s+(\d+)", status))])
                time.sleep(0.005)
        image.unlink()
        if bench.returncode != 0:
            raise subprocess.CalledProcessError(bench.returncode, "hull disk bench")
        peaks.append(peak / 1024)
    return peaks[1] - peaks[0]


def make_images(folder, size, data_bytes):
    images = {"raw": folder / "source.raw"}
    make_source(images["raw"], size, data_bytes)
    for name in ("qcow2", "vmdk", "vhdx"):
        images[name] = folder / f"source.{name}"
        subprocess.run(["qemu-img", "convert", "-O", name, images["raw"], images[name]], check=True)
    images["raw-full"], images["qcow2-full"] = folder / "full.raw", folder / "full.qcow2"
    images["raw-full"].write_bytes(random.Random(2).randbytes(16 * MIB) * 64)
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", images["raw-full"], images["qcow2-full"]], check=True)
    return images


def median_ratio(over, under):
    """Of the ratios within a round: both sides are measured one right after the other."""
    return statistics.median(a / b for a, b in zip(over, under))


NOISE = 1.15  # less than that says nothing on a machine with neighbours


def surely_ratio(over, under):
    """For verdicts, of seconds: the better of that and of the ratio of each side's best round. Neighbours only ever make slower."""
    return max(median_ratio(over, under), min(over) / min(under))


def measure(build, rounds, size_mib, only, show, must_sync=True):
    """{row: {"hull": [seconds], "qemu": [seconds]}}, and MiB of the cache (None: not measured)."""
    hull = build / "bin/hull"
    numbers = {}
    parent, kind = place.for_images(build)
    show(f"images in {parent} ({kind})")
    with tempfile.TemporaryDirectory(prefix="hull-bench-", dir=parent) as text:
        folder = pathlib.Path(text)
        images = make_images(folder, size_mib * MIB, size_mib * MIB // 4)
        rows = [(name, lambda w=a, t=t: timed(w, t, False), lambda w=b, t=t: timed(w, t, must_sync))
                for name, a, b, t in conversions(hull, folder, images)]
        rows += [(name, lambda w=a: bench_seconds(w), lambda w=b: bench_seconds(w)) for name, a, b in requests(hull, images)]
        rows.append(allocations(hull, folder))
        for name, ours, theirs in rows:
            if only not in name:
                continue
            show(name)
            pairs = [(ours(), theirs()) for _ in range(rounds)]
            numbers[name] = {"hull": [p[0] for p in pairs], "qemu": [p[1] for p in pairs]}
        show("cache")
        cache = cache_mib(hull, folder) if only in "cache" else None
    show("")
    return numbers, cache


def print_rows(numbers, cache, title="disks"):
    print(f"\n{title:36}{'hull s':>9}{'qemu s':>9}{'qemu/hull':>11}")
    for name, row in numbers.items():
        ours, theirs = statistics.median(row["hull"]), statistics.median(row["qemu"])
        print(f"{name:36}{ours:9.3f}{theirs:9.3f}{median_ratio(row['qemu'], row['hull']):11.2f}", flush=True)
    if cache is not None:
        print(f"{'cache of a 1 TiB qcow2 image':36}{cache:9.1f} MiB")


def aims(numbers, cache):
    """[(text, True, False or None: not measured, detail)]"""
    def slower(names):
        ratios = {name: surely_ratio(row["qemu"], row["hull"]) for name, row in numbers.items() if name.startswith(names)}
        return [f"{name} {ratio:.2f}" for name, ratio in ratios.items() if ratio * NOISE < 1]

    def verdict(names):
        late = slower(names)
        return (not late if any(name.startswith(names) for name in numbers) else None), ", ".join(late)

    beside_raw = []
    for name, row in numbers.items():
        raw = numbers.get(name.replace("qcow2", "raw"))
        if name.startswith(("read qcow2", "write qcow2")) and raw and surely_ratio(raw["hull"], row["hull"]) * 1.10 * NOISE < 1:
            beside_raw.append(f"{name} {median_ratio(raw['hull'], row['hull']):.2f}")
    has_pairs = any(name.startswith("read qcow2") for name in numbers)
    return [("disks: requests at least as fast as QEMU's on every row", *verdict(("read", "write", "allocate"))),
            ("disks: qcow2 within 10 % of raw once allocated", not beside_raw if has_pairs else None, ", ".join(beside_raw)),
            ("disks: conversions at least as fast as qemu-img's, both onto the disk", *verdict(("convert",))),
            ("disks: cache of a 1 TiB image under 16 MiB", cache < 16 if cache is not None else None,
             f"{cache:.1f} MiB" if cache is not None else "")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=4096, metavar="MIB", help="of the sparse disk (4096)")
    parser.add_argument("--only", default="", metavar="WORD", help="rows whose name has it")
    parser.add_argument("--cached", action="store_true", help="what qemu-img converts need not be on the disk")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write all numbers there too")
    parser.add_argument("build", type=pathlib.Path)
    arguments = parser.parse_args()
    numbers, cache = measure(arguments.build.resolve(), arguments.rounds, arguments.size, arguments.only,
                             lambda name: print(name, file=sys.stderr) if name else None, not arguments.cached)
    print_rows(numbers, cache)
    report.print_aims(aims(numbers, cache))
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": numbers, "cache_mib": cache}, indent=1), encoding="ascii")


if __name__ == "__main__":
    main()
