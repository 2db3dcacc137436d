#!/usr/bin/env python3
"""Runs a command in a VM of QEMU's TCG that has a nested AMD KVM. Exit status: the command's; 125 if the bed failed."""
import argparse
import collections
import ctypes
import gzip
import mmap
import os
import pathlib
import re
import shlex
import shutil
import stat
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
MODULES = ["kvm-amd"]
SHARE_MODULES = ["virtio_pci", "9p", "9pnet_virtio"]
BEGIN, END = "==== nested begin ====", "==== nested status "
BED_FAILED, SKIPPED = 125, 77
TIMED_OUT = 124  # of timeout(1)
LAST_LINES = 30
RDTSC = bytes.fromhex("0f31 48c1e220 4809d0 c3")  # rdtsc; shl $32, %rdx; or %rdx, %rax; ret


class BedError(Exception):
    """The bed could not be made; the text says why."""


def run(command, **options):
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if done.returncode != 0:
        raise BedError(f"{shlex.join(map(str, command))}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


class Archive:
    """An initramfs in cpio's newc format (kernel: driver-api/early-userspace/buffer-format)."""

    def __init__(self):
        self.data = bytearray()
        self.names = set()

    def entry(self, name, mode, body=b""):
        name = name.strip("/")
        if name in self.names:
            return
        parent = os.path.dirname(name)
        if parent:
            self.entry(parent, stat.S_IFDIR | 0o755)
        self.names.add(name)
        encoded = name.encode() + b"\0"
        fields = [len(self.names), mode, 0, 0, 1, 0, len(body), 0, 0, 0, 0, len(encoded), 0]
        self.data += b"070701" + b"".join(b"%08x" % field for field in fields) + encoded
        self.pad()
        self.data += body
        self.pad()

    def pad(self):
        self.data += b"\0" * (-len(self.data) % 4)

    def file(self, source, name):
        mode = os.stat(source).st_mode
        self.entry(name, stat.S_IFREG | (mode & 0o777), pathlib.Path(source).read_bytes())

    def program(self, source, name):
        """A file with the shared libraries that it names, if it is a program."""
        self.file(source, name)
        listed = subprocess.run(["ldd", str(source)], capture_output=True, text=True, check=False)
        for library in re.findall(r"(?:=> )?(/\S+) \(0x", listed.stdout):
            self.file(os.path.realpath(library), library)

    def tree(self, source, name):
        for path in sorted(pathlib.Path(source).rglob("*")):
            if path.is_file():
                self.program(path, f"{name}/{path.relative_to(source)}")

    def finish(self):
        self.entry("TRAILER!!!", 0)
        return gzip.compress(bytes(self.data), 1)


def find_kernel(cache):
    """Debian's kernel, unpacked into the cache: (vmlinuz, its folder of modules)."""
    tree = cache / "kernel"
    if not list(tree.glob("boot/vmlinuz-*")):
        depends = run(["apt-cache", "depends", "linux-image-amd64"])
        name = re.search(r"Depends: (linux-image-\S+)", depends)
        if not name:
            raise BedError("linux-image-amd64 names no kernel package: run apt-get update")
        if not list(cache.glob(name[1] + "_*.deb")):
            run(["apt-get", "download", name[1]], cwd=cache)
        package = sorted(cache.glob(name[1] + "_*.deb"))[-1]
        unpacked = cache / f"kernel.{os.getpid()}"
        run(["dpkg", "-x", str(package), str(unpacked)])
        shutil.rmtree(tree, ignore_errors=True)
        unpacked.rename(tree)
    kernel = sorted(tree.glob("boot/vmlinuz-*"))[-1]
    for modules in (tree / "lib/modules", tree / "usr/lib/modules"):
        if modules.is_dir():
            return kernel, next(modules.iterdir())
    raise BedError(f"{tree} holds no modules")


def module_order(folder, wanted):
    """The modules wanted and those they need, in the order of loading."""
    paths = {}
    for path in folder.rglob("*.ko*"):
        paths[path.name.split(".")[0].replace("-", "_")] = path
    order = []

    def visit(name):
        path = paths.get(name.replace("-", "_"))
        if path is None or path in order:
            return  # built into the kernel
        for needed in run(["modinfo", "-F", "depends", str(path)]).strip().split(","):
            if needed:
                visit(needed)
        order.append(path)

    for name in wanted:
        visit(name)
    return order


def make_initramfs(folder, options, command):
    archive = Archive()
    for name in ("proc", "sys", "dev", "tmp", "test", "share"):
        archive.entry(name, stat.S_IFDIR | 0o755)
    archive.file("/bin/busybox", "bin/busybox")
    loads = []
    for path in module_order(folder, MODULES + (SHARE_MODULES if options.share else [])):
        archive.file(path, f"modules/{path.name}")
        loads.append(f"insmod /modules/{path.name}")
    for item in options.add:
        source, _, name = item.partition(":")
        name = name or "/test/" + os.path.basename(source.rstrip("/"))
        if not os.path.exists(source):
            raise BedError(f"--add {source}: there is no such file")
        archive.tree(source, name) if os.path.isdir(source) else archive.program(source, name)
    if options.share:
        loads.append("mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000 share /share")
    script = "\n".join([
        "#!/bin/busybox sh",
        "/bin/busybox --install -s /bin",
        "export PATH=/bin HOME=/tmp",
        "mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev",
        "mkdir -p /dev/shm /dev/pts; mount -t tmpfs tmpfs /tmp; mount -t tmpfs tmpfs /dev/shm",
        "mount -t devpts devpts /dev/pts; ip link set lo up",
        *loads,
        "cd /test",
        f"echo '{BEGIN}'",
        f"( {command} )",
        "status=$?",
        f"echo; echo \"{END}$status ====\"",
        "poweroff -f",
        "",
    ])
    archive.entry("init", stat.S_IFREG | 0o755, script.encode())
    return archive.finish()


def tsc_khz():
    """The rate of this machine's TSC, which is that of QEMU's TCG."""
    with mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as code:
        code.write(RDTSC)
        start = ctypes.c_char.from_buffer(code)
        rdtsc = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(start))

        def read():  # of several tries the one that took least
            tries = []
            for _ in range(50):
                before, tsc, after = time.monotonic_ns(), rdtsc(), time.monotonic_ns()
                tries.append((after - before, before, tsc))
            return min(tries)[1:]

        begin_ns, begin = read()
        time.sleep(0.2)
        end_ns, end = read()
        del rdtsc, start  # they keep 'code' from being closed
    return round((end - begin) * 1000000 / (end_ns - begin_ns))


def kernel_options():
    """Checks of its clocks that the kernel would make: on a machine under load they fail, or end in wrong rates."""
    options = "console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off no_timer_check "
    return options + f"tsc=reliable tsc_early_khz={tsc_khz()} " if os.uname().machine == "x86_64" else options


def boot(kernel, initramfs, options):
    """Runs the bed, passes on what the command writes. The command's exit status, or None; QEMU's, its console's end."""
    qemu = [
        "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-machine", "q35", "-cpu", "max,+svm,+npt",
        "-smp", str(options.cpus), "-m", options.memory, "-nodefaults", "-display", "none",
        "-serial", "stdio", "-no-reboot", "-kernel", str(kernel), "-initrd", str(initramfs),
        "-append", kernel_options() + options.append,
    ]
    if options.share:
        qemu += ["-virtfs", f"local,path={options.share},mount_tag=share,security_model=none"]
    status, inside = None, options.verbose
    last = collections.deque(maxlen=LAST_LINES)
    with subprocess.Popen(["timeout", str(options.timeout), *qemu], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE) as process:
        for raw in process.stdout:
            line = raw.decode(errors="replace").rstrip("\r\n")
            last.append(line)
            found = re.search(re.escape(END) + r"(\d+)", line)
            if found:
                status = int(found[1])
                inside = options.verbose
            elif inside:
                print(line, flush=True)
            elif BEGIN in line:
                inside = True
    return status, process.returncode, last


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--add", action="append", default=[], metavar="FILE[:PATH]",
                        help="a file or folder for the bed, at /test/NAME or PATH, with its libraries")
    parser.add_argument("--share", metavar="FOLDER", help="a folder of the host that the bed sees as /share, writable")
    parser.add_argument("--kernel", type=pathlib.Path, help="of the bed; default: Debian's, downloaded into the cache")
    parser.add_argument("--modules", type=pathlib.Path, help="the kernel's folder of modules")
    parser.add_argument("--cache", type=pathlib.Path, default=ROOT / "build/nested")
    parser.add_argument("--cpus", type=int, default=1, help="of the bed; see README.md on more than one")
    parser.add_argument("--memory", default="2G")
    parser.add_argument("--append", default="", help="more words for the kernel's command line")
    parser.add_argument("--timeout", type=int, default=600, help="seconds for all of it")
    parser.add_argument("--skip", action="store_true", help="exit 77 where the bed cannot be made")
    parser.add_argument("--verbose", action="store_true", help="show the kernel's messages, too")
    parser.add_argument("command", nargs="+", help="after --; one word is taken as a shell script")
    options = parser.parse_args()
    command = options.command[0] if len(options.command) == 1 else shlex.join(options.command)
    try:
        options.cache.mkdir(parents=True, exist_ok=True)
        kernel, folder = (options.kernel, options.modules) if options.kernel else find_kernel(options.cache)
        initramfs = options.cache / f"initramfs.{os.getpid()}"
        initramfs.write_bytes(make_initramfs(folder, options, command))
        try:
            status, qemu_status, last = boot(kernel, initramfs, options)
        finally:
            initramfs.unlink()
    except (BedError, OSError) as problem:
        print(f"nested: {problem}", file=sys.stderr)
        return SKIPPED if options.skip else BED_FAILED
    if status is None:
        why = f"after {options.timeout} s" if qemu_status == TIMED_OUT else f"by itself, QEMU with status {qemu_status}"
        print(f"nested: the bed ended before the command, {why}; the end of its console:", *last, sep="\n", file=sys.stderr)
        return BED_FAILED
    return status


if __name__ == "__main__":
    sys.exit(main())
