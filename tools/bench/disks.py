#!/usr/bin/env python3
"""Measures `hull disk` beside `qemu-img` on this machine: conversions of a sparse disk, and requests to a raw and a qcow2 image.

Both sides are measured in turn, what counts is the median; the host's cache is part of it. `hull disk convert` ends when the new
image is on the disk, `qemu-img convert` when it is in the host's cache (its best options: -m 16 -W).
"""
import argparse
import json
import os
import pathlib
import random
import re
import statistics
import subprocess
import tempfile
import time

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


def timed(words, target):
    start = time.monotonic()
    subprocess.run([str(w) for w in words], check=True, stdout=subprocess.DEVNULL)
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


def requests(hull, images):
    for name in ("raw", "qcow2"):
        for what, flags in (("read", []), ("write", ["-w"])):
            for size, depth, count in ((4096, 1, 20000), (4096, 32, 100000), (MIB, 8, 1000)):
                common = ["-f", name, "-c", count, "-d", depth, "-s", size, *flags]
                yield (f"{what} {name} {size // 1024}K depth {depth}", [hull, "disk", "bench", "--json", *common, images[name + "-full"]],
                       ["qemu-img", "bench", "-i", "io_uring", *common, images[name + "-full"]])


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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=4096, metavar="MIB", help="of the sparse disk (4096)")
    parser.add_argument("--only", default="", metavar="WORD", help="rows whose name has it")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write all numbers there too")
    parser.add_argument("build", type=pathlib.Path)
    arguments = parser.parse_args()
    hull = arguments.build / "bin/hull"
    numbers = {}
    with tempfile.TemporaryDirectory(prefix="hull-bench-") as text:
        folder = pathlib.Path(text)
        images = make_images(folder, arguments.size * MIB, arguments.size * MIB // 4)
        rows = [(name, lambda w=a, t=t: timed(w, t), lambda w=b, t=t: timed(w, t))
                for name, a, b, t in conversions(hull, folder, images)]
        rows += [(name, lambda w=a: bench_seconds(w), lambda w=b: bench_seconds(w)) for name, a, b in requests(hull, images)]
        print(f"{'':36}{'hull s':>9}{'qemu s':>9}{'qemu/hull':>11}")
        for name, ours, theirs in rows:
            if arguments.only not in name:
                continue
            pairs = [(ours(), theirs()) for _ in range(arguments.rounds)]
            a, b = (statistics.median(side) for side in zip(*pairs))
            numbers[name] = {"hull": [p[0] for p in pairs], "qemu": [p[1] for p in pairs]}
            print(f"{name:36}{a:9.3f}{b:9.3f}{b / a:11.2f}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(numbers, indent=1), encoding="ascii")


if __name__ == "__main__":
    main()
