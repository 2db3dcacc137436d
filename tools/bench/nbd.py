"""Rows about NBD: `hull disk bench` and `qemu-img bench` as clients of nbdkit, which belongs to neither; `hull disk serve` and qemu-nbd as
servers of `qemu-img bench` and nbdcopy. On a socket in the file system; images are in the host's cache."""
import contextlib
import pathlib
import random
import subprocess
import tempfile
import time

from disks import BENCH, NOISE, bench_seconds, median_ratio, surely_ratio
import place

MIB = 1 << 20
IMAGE_MIB = 512
STRIDE = 251 * 4096  # as disks.py
# What, size of a request, depth, how many.
REQUESTS = (("read", 4096, 1, 40000), ("read", 4096, 32, 150000), ("write", 4096, 1, 30000), ("write", 4096, 32, 80000),
            ("read", MIB, 8, 3000), ("write", MIB, 8, 1500))
SERVER_START_SECONDS = 20


@contextlib.contextmanager
def server(words, socket):
    """A server until the end of the block."""
    with subprocess.Popen([str(w) for w in words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            end = time.monotonic() + SERVER_START_SECONDS
            while not socket.exists():
                if process.poll() is not None or time.monotonic() > end:
                    raise OSError(f"{words[0]} does not serve")
                time.sleep(0.01)
            yield f"nbd+unix:///?socket={socket}"
        finally:
            process.terminate()
    socket.unlink(missing_ok=True)


def nbdkit(socket):
    """Of memory, so that flushes, of which the two clients do not send the same, cost nothing."""
    return server(["nbdkit", "-f", "-U", socket, "memory", f"{IMAGE_MIB}M"], socket)


def served_by(side, hull, image, kind, socket):
    if side == "hull":
        return server([hull, "disk", "serve", "-q", "-t", "-x", "", "-f", kind, "-k", socket, image], socket)
    return server(["qemu-nbd", "-t", "-e", "16", "-f", kind, "--aio=io_uring", "--cache=writeback", "-k", socket, image], socket)


def words_of(client, hull, what, size, depth, count, uri):
    step = ["-S", STRIDE] if size < MIB else []
    common = ["-f", "raw", "-c", count, "-d", depth, "-s", size, *step, *(["-w"] if what == "write" else []), uri]
    return [hull, *BENCH, *common] if client == "hull" else ["qemu-img", "bench", *common]


def copy_seconds(uri):
    start = time.monotonic()
    subprocess.run(["nbdcopy", uri, "null:"], check=True)
    return time.monotonic() - start


def make_images(folder):
    raw, qcow2 = folder / "image.raw", folder / "image.qcow2"
    raw.write_bytes(random.Random(4).randbytes(16 * MIB) * (IMAGE_MIB // 16))
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, qcow2], check=True)
    return {"raw": raw, "qcow2": qcow2}


def measure_clients(hull, socket, rounds, show):
    rows = {}
    with nbdkit(socket) as uri:
        bench_seconds(["qemu-img", "bench", "-f", "raw", "-c", IMAGE_MIB, "-s", MIB, "-w", "--pattern=7", uri])  # no holes
        for what, size, depth, count in REQUESTS:
            name = f"client: {what} {size // 1024}K depth {depth}"
            show(name)
            rows[name] = {"hull": [], "qemu": []}
            for _ in range(rounds):
                for side in rows[name]:
                    rows[name][side].append(bench_seconds(words_of(side, hull, what, size, depth, count, uri)))
    return rows


def measure_servers(hull, images, socket, rounds, show):
    rows = {}
    for kind in images:
        wanted = REQUESTS if kind == "raw" else REQUESTS[:2]
        names = [f"server: {what} {kind} {size // 1024}K depth {depth}" for what, size, depth, _ in wanted]
        copy_name = f"server: nbdcopy {kind}"
        for name in [*names, copy_name]:
            rows[name] = {"hull": [], "qemu": []}
        for turn in range(rounds):
            for side in ("hull", "qemu"):
                with served_by(side, hull, images[kind], kind, socket) as uri:
                    for name, (what, size, depth, count) in zip(names, wanted):
                        show(f"round {turn + 1}/{rounds} {name}")
                        rows[name][side].append(bench_seconds(words_of("qemu", hull, what, size, depth, count, uri)))
                    rows[copy_name][side].append(copy_seconds(uri))
    return rows


def measure(build, rounds, show):
    """{row: {"hull": [seconds], "qemu": [seconds]}}"""
    hull = build / "bin/hull"
    parent, _ = place.for_images(build)
    with tempfile.TemporaryDirectory(prefix="hull-bench-", dir=parent) as text:
        folder = pathlib.Path(text)
        images, socket = make_images(folder), folder / "socket"
        rows = {**measure_clients(hull, socket, rounds, show), **measure_servers(hull, images, socket, rounds, show)}
    show("")
    return rows


def aims(rows):
    """[(text, True, False or None: not measured, detail)]"""
    slower = [f"{name} {median_ratio(row['qemu'], row['hull']):.2f}" for name, row in rows.items()
              if surely_ratio(row["qemu"], row["hull"]) * NOISE < 1]
    return [("NBD: client and server at least as fast as QEMU's", not slower if rows else None, ", ".join(slower))]
