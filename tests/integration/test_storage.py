"""Disks of every format and protocol that can be written to, worked on by fio and by file systems inside of guests; and VMs that are
killed in the middle of it."""
import contextlib
import hashlib
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from conftest import GUESTS, ROOT, hull, kernel_arguments, make_guest
from test_disk_serve import MIB, Server, run

sys.path.insert(0, str(ROOT / "tools/guest"))
from overlay import add_files  # noqa: E402

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")
SIZE = 96 * MIB


class Disk:
    """A disk for a guest, and what the host knows of it."""

    def __init__(self, image, image_format, argument, files=None):
        self.image, self.format, self.argument = image, image_format, argument
        self.files = files or [image]  # that take space
        self.slack = 2 * MIB  # that need not come back: clusters of which a part is in use

    def used(self):
        return sum(file.stat().st_blocks * 512 for file in self.files)

    def finish(self):
        """When the VM has gone."""

    def check(self, may_leak=False):
        self.finish()
        if self.format == "qcow2":
            checked = subprocess.run(["qemu-img", "check", "-q", self.image], capture_output=True, text=True, check=False)
            # 3: clusters are counted as used that nobody has.
            assert checked.returncode in ([0, 3] if may_leak else [0]), checked.stdout + checked.stderr

    def raw(self, path):
        """What it holds now."""
        run("qemu-img", "convert", "-f", self.format, "-O", "raw", self.image, path)
        return path


class ServedDisk(Disk):
    """Behind `hull disk serve`."""

    def __init__(self, image, image_format, socket):
        self.words = [image, "--image-format", image_format, "--socket", socket, "-t"]
        self.start_server()
        super().__init__(image, image_format, f"{self.server.uri},format=raw")

    def start_server(self):
        self.server = Server(self.words)

    def finish(self):
        if self.server.process.poll() is None:
            self.server.stop()


def create(path, image_format, *words, options=""):
    run("qemu-img", "create", "-q", "-f", image_format, *(["-o", options] if options else []), *words, path, SIZE)
    return path


def seeded(path, seed):
    """A raw image of mixed content."""
    rng = random.Random(seed)
    with open(path, "wb") as file:
        file.truncate(SIZE)
        for at in range(0, SIZE, 8 * MIB):
            file.seek(at + rng.randrange(MIB))
            file.write(rng.randbytes(rng.randrange(2 * MIB)))
    return path


def plain(options, slack=2 * MIB):
    def make(folder, name):
        image = create(folder / f"{name}.qcow2", "qcow2", options=options)
        disk = Disk(image, "qcow2", f"{image},format=qcow2")
        disk.slack = slack
        return disk
    return make


def raw(keys=""):
    def make(folder, name):
        image = create(folder / f"{name}.raw", "raw")
        return Disk(image, "raw", f"{image},format=raw{keys}")
    return make


def chain(folder, name):
    """Three images on each other, of different sizes of clusters."""
    base = seeded(folder / f"{name}-base.raw", 1)
    middle = create(folder / f"{name}-middle.qcow2", "qcow2", "-b", base, "-F", "raw", options="cluster_size=4k")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 7 5M 3M", "-c", "write -z 20M 3M", middle)
    top = create(folder / f"{name}.qcow2", "qcow2", "-b", middle, "-F", "qcow2")
    return Disk(top, "qcow2", f"{top},format=qcow2,backing={middle},backing-format=qcow2,backing={base},backing-format=raw")


def compressed(folder, name):
    base, packed = seeded(folder / f"{name}-base.raw", 2), folder / f"{name}-packed.qcow2"
    run("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", "-o", "compression_type=zstd", base, packed)
    base.unlink()
    top = create(folder / f"{name}.qcow2", "qcow2", "-b", packed, "-F", "qcow2")
    return Disk(top, "qcow2", f"{top},format=qcow2,backing={packed},backing-format=qcow2")


def in_place(folder, name):
    """Compressed clusters that are overwritten."""
    base, packed = seeded(folder / f"{name}-base.raw", 3), folder / f"{name}.qcow2"
    run("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", base, packed)
    base.unlink()
    return Disk(packed, "qcow2", f"{packed},format=qcow2")


def data_file(folder, name):
    data = folder / f"{name}-data.raw"
    image = create(folder / f"{name}.qcow2", "qcow2", options=f"data_file={data},data_file_raw=on")
    return Disk(image, "qcow2", f"{image},format=qcow2,data-file={data}", [image, data])


def served(image_format):
    def make(folder, name):
        image = create(folder / f"{name}.{image_format}", image_format)
        return ServedDisk(image, image_format, folder / f"{name}.sock")
    return make


def above_nbd(folder, name):
    """The server has bytes, in which the VM has a qcow2 image."""
    image = create(folder / f"{name}.qcow2", "qcow2")
    with open(image, "r+b") as file:
        file.truncate(SIZE + SIZE // 8)  # it cannot grow
    disk = ServedDisk(image, "raw", folder / f"{name}.sock")
    disk.format, disk.argument = "qcow2", f"{disk.server.uri},format=qcow2"
    return disk


KINDS = {
    "raw": raw(),
    "raw-direct": raw(",cache=none,aio=threads"),
    "qcow2": plain("cluster_size=64k"),
    "chain": chain,
    "compressed": compressed,
    "extended": plain("extended_l2=on,cluster_size=128k"),
    "data-file": data_file,
    "nbd": served("raw"),
}
MORE_KINDS = {
    "raw-threads": raw(",aio=threads"),
    "small": plain("cluster_size=512,refcount_bits=1"),
    "old": plain("compat=0.10,cluster_size=4k"),
    "large": plain("cluster_size=2M,lazy_refcounts=on", 12 * MIB),
    "direct": plain("cluster_size=4k,preallocation=metadata"),
    "in-place": in_place,
    "extended-small": plain("extended_l2=on,cluster_size=16k"),
    "nbd-qcow2": served("qcow2"),
    "above-nbd": above_nbd,
}


@contextlib.contextmanager
def made(kinds, folder):
    """The disks by name; names are letters of the guest's devices too, in this order from vdb."""
    disks = {}
    try:
        for name, make in kinds.items():
            disks[name] = make(folder, name)
        yield disks
    finally:
        for disk in disks.values():
            disk.finish()
        for path in folder.iterdir():
            if path.is_file():
                path.unlink()


def start(boot, folder, disks, *command, control=None, **options):
    """A guest with these disks at work."""
    make_guest("storage")
    kernel_option, kernel, _, initrd = kernel_arguments("cloud")
    scripts = ROOT / "tests/storage"
    add_files(initrd, folder / "initrd", {f"storage/{p.name}": p.read_bytes() for p in scripts.iterdir() if p.suffix == ""})
    words = [word for disk in disks.values() for word in ("--disk", disk.argument)]
    words += ["--control", control] if control else []
    return boot("--engine", "soft", "--cpus", "2", "--memory", "768M", "--net", "none", kernel_option, kernel, "--initrd",
                folder / "initrd", "--disk", f"{GUESTS / 'storage.raw'},readonly", *words, "--append",
                f"console=ttyS0 quiet hull.run={','.join(['sh', '/storage/start', *map(str, command)])}", **options)


def expect(vm, words):
    """The next line of the guest's scripts, which must begin so; the rest of it."""
    found = vm.expect(r"storage: ([^\r\n]*)\r*\n")[1]
    assert found.startswith(words), vm.transcript()[-8000:]
    return found.removeprefix(words).strip()


def verify(boot, folder, kinds, mib, seconds, timeout):
    with made(kinds, folder) as disks:
        vm = start(boot, folder, disks, "check", mib, seconds, timeout=timeout)
        expect(vm, "filled")
        filled = {name: disk.used() for name, disk in disks.items()}
        vm.send_line("")
        expect(vm, "trimmed")
        for name, disk in disks.items():
            given_back = filled[name] - disk.used()
            assert given_back > mib // 2 * MIB - disk.slack, f"{name}: {given_back} of {filled[name]} bytes came back"
        vm.send_line("")
        sums = [expect(vm, "sum").split()[:2] for _ in disks]
        expect(vm, "done")
        assert vm.wait() == 0
        for (_, told), (name, disk) in zip(sums, disks.items()):
            disk.check()
            path = disk.raw(folder / "content")
            assert hashlib.sha256(path.read_bytes()).hexdigest() == told, name


@pytest.mark.long
def test_fio_on_every_format(boot, tmp_path):
    verify(boot, tmp_path, KINDS, 8, 0, 240)


@pytest.mark.long
@pytest.mark.parametrize("half", ["usual", "odd"])
def test_fio_for_long(boot, tmp_path, half):
    verify(boot, tmp_path, KINDS if half == "usual" else MORE_KINDS, 64, int(os.environ.get("HULL_STORAGE_SECONDS", "300")), 1800)


KILLED_KINDS = {
    "raw": raw(),
    "qcow2": plain("cluster_size=64k"),
    "chain": chain,
    "extended": plain("extended_l2=on,cluster_size=16k"),
    "small": plain("cluster_size=1k,lazy_refcounts=on"),
    "direct": lambda folder, name: keyed(plain("cluster_size=4k")(folder, name), ",cache=none"),
    "data-file": data_file,
    "nbd-qcow2": served("qcow2"),
}


def keyed(disk, keys):
    disk.argument += keys
    return disk


def format_disk(disk, folder):
    """An ext4 on it, made by the host."""
    raw_image = folder / "ext4"
    with open(raw_image, "wb") as file:
        file.truncate(SIZE)
    run("/sbin/mke2fs", "-q", "-F", "-t", "ext4", raw_image)
    to = ("raw", disk.server.uri) if isinstance(disk, ServedDisk) else (disk.format, disk.image)
    run("qemu-img", "convert", "-n", "-f", "raw", "-O", to[0], raw_image, to[1])
    raw_image.unlink()


def kill_vmm(vm):
    """The VM's own process, like a host that runs out of memory would."""
    children = []
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
            if int(fields[1]) == vm.child.pid:
                children.append(int(stat.parent.name))
    assert children, vm.transcript()[-5000:]
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def kept_files(text, letter, last):
    """The numbers of the files that were told to be durable, without those that were removed again."""
    told = [int(n) for n in re.findall(rf"storage: kept {letter} (\d+)\r", text)]
    return [n for n in told if n > max(told, default=0) - last]


def check_file_system(content):
    repaired = subprocess.run(["/sbin/e2fsck", "-fp", content], capture_output=True, text=True, check=False)
    # 1: the journal was replayed, and what the kernel leaves to be done later was done (orphans).
    assert repaired.returncode <= 1, repaired.stdout + repaired.stderr
    run("/sbin/e2fsck", "-fn", content)


def check_killed(disk, letter, text, folder):
    """The image, the file system in it, and the files that were durable."""
    disk.check(may_leak=True)
    content = disk.raw(folder / "content")
    check_file_system(content)
    numbers = kept_files(text, letter, 50)
    commands = "".join(f"dump /{n % 7}/{n} {folder}/file-{n}\n" for n in numbers)
    subprocess.run(["/sbin/debugfs", "-f", "-", content], input=commands, capture_output=True, text=True, check=True)
    for n in numbers:
        size = (n * 7919 % 150 + 1) * 1000
        line = f"{letter} {n}\n".encode()
        found = (folder / f"file-{n}").read_bytes()
        assert found == (line * (size // len(line) + 1))[:size], f"{letter}: file {n}, {len(found)} of {size} bytes"
        (folder / f"file-{n}").unlink()
    return len(numbers)


def kill_in_the_middle(boot, folder, kinds, times, rng, most_seconds):
    with made(kinds, folder) as disks:
        for disk in disks.values():
            format_disk(disk, folder)
        for _ in range(times):
            for disk in disks.values():
                if isinstance(disk, ServedDisk) and disk.server.process.poll() is not None:
                    disk.start_server()
            vm = start(boot, folder, disks, "write")
            vm.expect("storage: kept")
            end = time.monotonic() + rng.random() * most_seconds
            while time.monotonic() < end:
                with contextlib.suppress(AssertionError):
                    vm.expect("storage: FAIL", timeout=0.1)
                    raise RuntimeError(vm.transcript()[-3000:])
            kill_vmm(vm)
            vm.close()
            text = vm.transcript()
            count = 0
            for number, disk in enumerate(disks.values()):
                count += check_killed(disk, f"vd{chr(ord('b') + number)}", text, folder)
            print(f"{count} files were durable and are there", flush=True)


def test_killed_in_the_middle_of_writes(boot, tmp_path):
    kill_in_the_middle(boot, tmp_path, KILLED_KINDS, 1, random.Random(), 6)


@pytest.mark.long
def test_killed_many_times(boot, tmp_path):
    kill_in_the_middle(boot, tmp_path, KILLED_KINDS, int(os.environ.get("HULL_STORAGE_KILLS", "40")), random.Random(), 12)


class Worked:
    """A disk of a running VM with one job after the other, and which file the disk is in the end."""

    def __init__(self, number, disk, socket, folder, rng):
        self.name, self.disk, self.socket, self.folder, self.rng = f"disk{number}", disk, socket, folder, rng
        self.below = []  # what the top stands on, the nearest first
        self.made = 0
        self.job = None
        self.log = []

    def ctl(self, *words):
        result = hull("ctl", self.socket, *words, "--json")
        assert result.returncode == 0, (self.name, words, result.stderr, self.log)
        return json.loads(result.stdout) if result.stdout.strip() else {}

    def new_file(self, ending="qcow2"):
        self.made += 1
        return self.folder / f"{self.name}-{self.made}.{ending}"

    def start(self, kind):
        """A job, or something that is done at once."""
        self.log.append(kind)
        speed = [] if self.rng.randrange(2) else [f"speed={self.rng.choice([2, 8, 30])}M"]
        if kind == "snapshot":
            new = self.new_file()
            self.ctl("disk-snapshot", f"disk={self.name}", f"file={new}")
            self.below.insert(0, self.disk.image)
            self.disk.image = new
            return
        words, self.target = [f"disk={self.name}", *speed], None
        if kind == "commit":
            self.target = self.rng.choice(self.below)
        elif kind in ("mirror", "backup"):
            self.target = self.new_file()
        if self.target is not None:
            words.append(f"file={self.target}")
        self.job, self.kind, self.is_completing = self.ctl(f"disk-{kind}", *words)["job"], kind, False

    def is_looking_finished(self):
        with open(self.target, "rb") as file:
            return file.read(4) == b"QFI\xfb"

    def ended(self):
        """The job is done: what follows from it."""
        self.log.append(f"{self.kind} ended")
        self.job = None
        if self.kind == "stream":
            self.below = []
        elif self.kind == "commit":
            self.below = self.below[self.below.index(self.target) + 1:]
            self.disk.image = self.target
        elif self.kind == "mirror":
            self.below, self.disk.image = [], self.target
        elif self.kind == "backup":  # the disk as it was at one moment: as if it had lost power then
            backup = Disk(self.target, "qcow2", "")
            backup.check()
            check_file_system(backup.raw(self.folder / "content"))
            self.target.unlink()

    def step(self):
        if self.job is None:
            if self.rng.randrange(3) == 0:
                kinds = ["snapshot", "snapshot", "mirror", "backup"] + (["stream", "commit", "commit"] if self.below else [])
                self.start(self.rng.choice(kinds))
            return
        job = next(j for j in self.ctl("jobs")["jobs"] if j["job"] == self.job)
        if job["state"] == "ready" and not self.is_completing and self.rng.randrange(2):
            self.log.append("complete")
            self.is_completing = True
            self.ctl("disk-mirror-complete", f"disk={self.name}")
        elif job["state"] == "done":
            self.ended()
        elif job["state"] == "running" and self.rng.randrange(12) == 0:
            self.log.append("speed")
            hull("ctl", self.socket, "job-speed", f"job={self.job}", f"speed={self.rng.choice(['0', '20M'])}")  # may be at its end
        else:
            assert job["state"] in ("running", "ready"), (job, self.log)

    def crashed(self):
        """The VM was killed: the file to begin with."""
        if self.job is not None and self.kind == "mirror" and self.is_completing and self.is_looking_finished():
            self.below, self.disk.image = [], self.target
        self.job = None


@pytest.mark.long
def test_killed_during_jobs(boot, tmp_path):
    """All kinds of jobs, on disks that are written to by file systems and fio, until the VM is killed."""
    rng = random.Random()
    socket = tmp_path / "control"
    kinds = {"a": plain("cluster_size=64k"), "b": plain("cluster_size=4k"), "c": plain("extended_l2=on,cluster_size=32k"), "d": plain("")}
    for _ in range(int(os.environ.get("HULL_STORAGE_KILLS", "20"))):
        with made(kinds, tmp_path) as disks:
            for disk in disks.values():
                format_disk(disk, tmp_path)
            vm = start(boot, tmp_path, disks, "write", control=socket)
            vm.expect("storage: kept")
            worked = [Worked(n, disk, socket, tmp_path, rng) for n, disk in enumerate(disks.values(), 1)]
            end = time.monotonic() + 2 + rng.random() * 20
            while time.monotonic() < end:
                for one in worked:
                    one.step()
                with contextlib.suppress(AssertionError):
                    vm.expect("storage: FAIL|end trace|I/O error", timeout=0.02)
                    raise RuntimeError(vm.transcript()[-3000:])
            kill_vmm(vm)
            vm.close()
            for number, one in enumerate(worked):
                one.crashed()
                try:
                    count = check_killed(one.disk, f"vd{chr(ord('b') + number)}", vm.transcript(), tmp_path)
                except BaseException:
                    print(one.name, one.log, one.disk.image, one.below)
                    raise
                print(f"{one.name}: {count} files; {' '.join(one.log)}", flush=True)
