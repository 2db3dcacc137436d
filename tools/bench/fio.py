"""Rows about disks in guests: fio on virtio-blk, in Hull's guest (soft engine) and in QEMU's (TCG) in turn.

Both boot the same kernel and initrd and have images of the same content, raw and qcow2, all of it allocated, with and without the host's
page cache. QEMU's disks have what makes them fastest: io_uring, an iothread each, a queue for each vCPU. fio works past the
guest's cache; what counts is the median over rounds, and of ratios the median of those within a round, which are measured one right after
the other.
"""
import itertools
import pathlib
import random
import statistics
import subprocess
import tempfile

from monitors import BOOT_TIMEOUT, Guest, GuestLost
import place

MIB = 1 << 20
MEMORY_MIB = 512
IMAGE_MIB = 512
CACHES = ("none", "writeback")
FORMATS = ("raw", "qcow2")
# What, fio's word, size of a request, depth.
PATTERNS = (("read", "randread", "4k", 1), ("read", "randread", "4k", 32), ("write", "randwrite", "4k", 1),
            ("write", "randwrite", "4k", 32), ("read", "read", "1m", 8), ("write", "write", "1m", 8))
MILLISECONDS = 500  # of each measurement
MAX_LOSSES = 3  # of guests
NOISE = 1.1
# Where fio's terse output, version 3, has the requests a second of reads and of writes.
IOPS_FIELD = {"read": 7, "write": 48}


def make_images(folder):
    """{(side, format): path}; QEMU and Hull may not share one."""
    source = folder / "source.raw"
    source.write_bytes(random.Random(3).randbytes(16 * MIB) * (IMAGE_MIB // 16))
    images = {}
    for side in ("hull", "qemu"):
        for name in FORMATS:
            image = folder / f"{side}.{name}"
            subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", name, source, image], check=True)
            images[side, name] = image
    source.unlink()
    return images


class Side:
    """A guest with its disks."""

    def __init__(self, monitor, name, machine, root, disks):
        self.name, self.monitor, self.machine = name, monitor, machine
        self.disks = [(root, "raw", "writeback", True), *[(image, kind, cache, False) for image, kind, cache in disks]]
        self.device = {disk[1:]: f"/dev/vd{chr(ord('b') + n)}" for n, disk in enumerate(disks)}
        self.guest = None

    def boot(self):
        self.guest = Guest(self.monitor.command(**self.machine, disks=self.disks))
        self.guest.until("# ", BOOT_TIMEOUT)
        text, _ = self.guest.shell("dmesg -n 1; mount -t ext4 -o ro,noload /dev/vda /mnt && mount -o bind /dev /mnt/dev && "
                                   "mount -t proc p /mnt/proc && mount -t sysfs s /mnt/sys && mount -t tmpfs t /mnt/tmp && echo moun''ted",
                                   60)
        if "mounted" not in text:
            raise GuestLost(f"disk with fio does not mount: {text[-80:]}")

    def sample(self, pattern, disk, milliseconds):
        """Requests a second; 'disk' is (format, cache mode)."""
        if self.guest is None:
            self.boot()
        what, mode, size, depth = pattern
        text, took = self.guest.shell(
            f"chroot /mnt /usr/bin/fio --name=x --thread --filename={self.device[disk]} --direct=1 --ioengine=libaio --rw={mode} "
            f"--bs={size} --iodepth={depth} --time_based --runtime={milliseconds}ms --norandommap --gtod_reduce=1 "
            "--output-format=terse --terse-version=3", 120)
        fields = text.strip().split(";")
        if len(fields) < 50 or fields[4] != "0":
            raise GuestLost(f"fio: {text.strip()[-100:]}")
        if milliseconds / 1000 > took * 1.02 + 0.02:
            raise GuestLost("more time in the guest than outside")
        return float(fields[IOPS_FIELD[what]])

    def close(self):
        if self.guest is not None:
            self.guest.close()
            self.guest = None


def row_name(pattern, kind, cache):
    what, mode, size, depth = pattern
    return f"{what} {kind} {size.upper()} depth {depth} {cache}"


def measure_guests(sides, rounds, milliseconds, cache, show):
    rows = {row_name(pattern, kind, cache): {**{side.name: [] for side in sides}, "notes": []}
            for pattern in PATTERNS for kind in FORMATS}
    losses = 0
    try:
        for turn in range(rounds):
            for pattern, kind in itertools.product(PATTERNS, FORMATS):
                name = row_name(pattern, kind, cache)
                show(f"round {turn + 1}/{rounds} {name}")
                try:
                    values = [side.sample(pattern, (kind, cache), milliseconds) for side in sides]
                except GuestLost as error:
                    rows[name]["notes"].append(str(error))
                    losses += 1
                    for side in sides:
                        side.close()
                    if losses > MAX_LOSSES:
                        return rows
                    continue
                for side, value in zip(sides, values):
                    rows[name][side.name].append(value)
    finally:
        for side in sides:
            side.close()
    return rows


def measure(hull, qemu, guests, build, rounds, vcpus, show, caches=CACHES, milliseconds=MILLISECONDS):
    """{vCPUs: {row: {"hull": [requests a second of each round], "qemu": [...], "notes"}}}, and where the images were."""
    parent, kind = place.for_images(build)
    results = {}
    with tempfile.TemporaryDirectory(prefix="hull-bench-", dir=parent) as text:
        folder = pathlib.Path(text)
        show("fio: images")
        images = make_images(folder)
        for cpus in vcpus:
            machine = {"kernel": guests / "vmlinuz-cloud", "initrd": guests / "initrd-cloud", "cpus": cpus, "memory": MEMORY_MIB,
                       "append": "console=ttyS0 quiet"}
            rows = {}
            # One after the other: an image is opened once at a time. One will do for the second number of vCPUs.
            for cache in caches if cpus == vcpus[0] else caches[:1]:
                sides = [Side(monitor, name, machine, guests / "storage.raw", [(images[name, k], k, cache) for k in FORMATS])
                         for monitor, name in ((hull, "hull"), (qemu, "qemu"))]
                rows.update(measure_guests(sides, rounds, milliseconds, cache, lambda text, n=cpus: show(f"fio {n} vCPU: {text}")))
            results[cpus] = rows
    show("")
    return results, f"{parent} ({kind})"


def ratio(over, under):
    """Median of the ratios within a round."""
    return statistics.median(a / b for a, b in zip(over, under)) if over and len(over) == len(under) else None


def surely(over, under):
    """For verdicts: the better of that and of the ratio of each side's best round. Neighbours only ever make slower."""
    return max(ratio(over, under), max(over) / max(under)) if ratio(over, under) is not None else None


def raw_row(name):
    return name.replace(" qcow2 ", " raw ")


def print_rows(results, where):
    for cpus, rows in results.items():
        print(f"\n{f'fio in guests, {cpus} vCPU' + ('s' if cpus > 1 else ''):36}{'hull IOPS':>10}{'qemu IOPS':>10}{'hull/qemu':>10}{'qcow2/raw':>10}")
        for name, row in rows.items():
            if row["hull"]:
                beside = ratio(row["hull"], rows[raw_row(name)]["hull"]) if "qcow2" in name else None
                print(f"{name:36}{statistics.median(row['hull']):10.0f}{statistics.median(row['qemu']):10.0f}"
                      f"{ratio(row['hull'], row['qemu']):10.2f}{f'{beside:10.2f}' if beside else ''}")
            for note in sorted(set(row["notes"])):
                print(f"{'':8} ! {note}")
    if results:
        print(f"images in {where}")


def aims(results):
    """[(text, True, False or None: not measured, detail)]"""
    slower, behind_raw, seen = [], [], False
    for cpus, rows in results.items():
        for name, row in rows.items():
            beside_qemu = surely(row["hull"], row["qemu"])
            if beside_qemu is None:
                continue
            seen = True
            if beside_qemu * NOISE < 1:
                slower.append(f"{name} ({cpus} vCPU) {beside_qemu:.2f}")
            beside = surely(row["hull"], rows[raw_row(name)]["hull"])
            if beside is not None and beside * NOISE < 0.9:
                behind_raw.append(f"{name} ({cpus} vCPU) {beside:.2f}")
    return [("fio in guests: at least QEMU's requests a second on every row", not slower if seen else None, ", ".join(slower)),
            ("fio in guests: qcow2 within 10 % of raw once allocated", not behind_raw if seen else None, ", ".join(behind_raw))]
