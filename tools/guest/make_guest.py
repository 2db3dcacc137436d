#!/usr/bin/env python3
"""Makes the guests that `make run`, the tests and the benchmarks boot, from Debian's packages.

  make_guest.py OUT kernel cloud|generic   OUT/vmlinuz-FLAVOUR   and its modules in OUT/modules-FLAVOUR/
  make_guest.py OUT initrd cloud|generic   OUT/initrd-FLAVOUR    busybox and the virtio modules
                                           (686 is a flavour, too: a 32-bit kernel, and an initrd with a 32-bit busybox)
  make_guest.py OUT disk                   OUT/debian.raw        a Debian root file system with systemd
  make_guest.py OUT podman                 OUT/podman.raw        the same with podman, and sessions of users
  make_guest.py OUT bench                  OUT/bench-root/       the programs that `make bench` measures, and their data
                                           OUT/bench.raw         the same as a disk
  make_guest.py OUT storage                OUT/storage-root/, OUT/storage.raw: the same with fio
  make_guest.py OUT stress                 OUT/stress-root/, OUT/stress.raw: the same for tests/stress

Nothing is installed on this machine: packages are downloaded and unpacked into OUT. What is there already is kept, and
each result appears under its final name only when it is whole.
"""
import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent

METAPACKAGES = {"cloud": "linux-image-cloud-amd64", "generic": "linux-image-amd64", "686": "linux-image-686-pae"}
FLAVOUR_32 = "686"

# Loaded in this order by the initrd; what they depend on comes before them.
MODULES = [
    "virtio_pci", "virtio_blk", "virtio_net", "virtio_console", "virtio-rng", "virtio_balloon",
    "vmw_vsock_virtio_transport", "ext4", "crc32c_generic", "crc32c-intel",
]

DEBIAN_SUITE = "bookworm"
DEBIAN_INCLUDE = ["systemd-sysv", "udev", "iproute2", "busybox", "procps"]
DISK_SIZE_MIB = 1024
PODMAN_INCLUDE = [*DEBIAN_INCLUDE, "podman", "crun", "uidmap", "dbus-user-session", "libpam-systemd"]
PODMAN_SIZE_MIB = 2048

# Root file systems of programs, without an init: for the benchmarks, and for tests/stress.
PROGRAMS = {
    "bench": {
        "contents": "compilers",
        "size_mib": 1024,
        "include": ["python3", "gcc", "libc6-dev", "xz-utils"],
        "without": ["doc", "man", "locale"],
        "folders": [],
    },
    "stress": {
        "contents": "Python, node, Java and their like",
        "size_mib": 1536,
        "include": ["python3", "libpython3.11-testsuite", "nodejs", "default-jre-headless", "ecj", "gcc", "libc6-dev", "xz-utils",
                    "zstd", "bzip2", "sqlite3", "perl", "openssl", "stress-ng", "e2fsprogs", "procps"],
        "without": ["doc", "locale"],  # Java's packages want folders for manual pages
        "folders": ["stress", "scratch"],
    },
    "storage": {
        "contents": "what tests disks",
        "size_mib": 1024,
        "include": ["fio", "e2fsprogs", "procps"],
        "without": ["doc", "man", "locale"],
        "folders": ["disks"],
    },
}


def run(*command, **options):
    return subprocess.run([str(c) for c in command], check=True, **options)


def output_of(*command):
    """Nothing if it fails."""
    return subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, text=True, check=False).stdout


def fail(message):
    sys.exit(f"make_guest.py: {message}")


def apt_options(out, flavour):
    """For the 32-bit architecture: lists and a cache of its own, so that this machine's apt stays what it is."""
    if flavour != FLAVOUR_32:
        return []
    folder = out / "apt-i386"
    options = ["-o", "APT::Architecture=i386", "-o", "APT::Architectures::=i386", "-o", f"Dir::State::Lists={folder}/lists",
               "-o", f"Dir::Cache={folder}/cache"]
    if not folder.exists():
        for name in ["lists/partial", "cache/archives/partial"]:
            (folder / name).mkdir(parents=True)
        # One source of several that fails is no matter as long as the packages are found.
        subprocess.run(["apt-get", *options, "update", "-q"], check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return options


def download(out, flavour, package, folder):
    """The package's files, unpacked in folder/root."""
    run("apt-get", *apt_options(out, flavour), "download", "-q", package, cwd=folder, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL)
    run("dpkg-deb", "-x", next(folder.glob("*.deb")), folder / "root")


def newest_kernel_package(out, flavour):
    depends = output_of("apt-cache", *apt_options(out, flavour), "depends", METAPACKAGES[flavour])
    names = [line.split()[-1] for line in depends.splitlines() if "linux-image-" in line and "Depends" in line]
    if not names:
        fail(f"apt knows no {METAPACKAGES[flavour]}: run `apt-get update` first")
    return names[0]


def make_kernel(out, flavour):
    kernel, modules = out / f"vmlinuz-{flavour}", out / f"modules-{flavour}"
    if kernel.exists() and modules.exists():
        return
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        scratch = pathlib.Path(scratch)
        scratch.chmod(0o755)
        download(out, flavour, newest_kernel_package(out, flavour), scratch)
        image = next((scratch / "root/boot").glob("vmlinuz-*"))
        version = image.name.removeprefix("vmlinuz-")
        run("/sbin/depmod", "-b", scratch / "root", version)
        shutil.rmtree(modules, ignore_errors=True)
        os.rename(scratch / "root/lib/modules" / version, modules)
        os.rename(image, kernel)


def module_files(modules):
    """The files of MODULES and of all that they need, in loading order."""
    depends = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        path, needs = line.split(":")
        depends[path] = needs.split()
    by_name = {pathlib.Path(p).name.removesuffix(".ko").replace("-", "_"): p for p in depends}
    ordered = []
    for name in MODULES:
        path = by_name.get(name.replace("-", "_"))
        if path is None:
            continue  # built into this kernel
        for needed in [*reversed(depends[path]), path]:
            if needed not in ordered:
                ordered.append(needed)
    return ordered


def make_initrd(out, flavour):
    initrd = out / f"initrd-{flavour}"
    script = HERE / "initrd-init"
    if initrd.exists() and initrd.stat().st_mtime > script.stat().st_mtime:
        return
    make_kernel(out, flavour)
    busybox = shutil.which("busybox")
    if busybox is None:
        fail("busybox is not installed (Debian: busybox-static)")
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        root = pathlib.Path(scratch) / "root"
        for folder in ["bin", "dev", "proc", "sys", "run", "tmp", "lib", "mnt", "etc"]:
            (root / folder).mkdir(parents=True)
        if flavour == FLAVOUR_32:
            package = pathlib.Path(scratch) / "busybox"
            package.mkdir()
            download(out, flavour, "busybox-static", package)
            busybox = package / "root/bin/busybox"
        shutil.copy2(busybox, root / "bin/busybox")
        shutil.copy2(script, root / "init")
        (root / "init").chmod(0o755)
        order = module_files(out / f"modules-{flavour}")
        for path in order:
            shutil.copy2(out / f"modules-{flavour}" / path, root / "lib" / pathlib.Path(path).name)
        (root / "lib/order").write_text("".join(pathlib.Path(p).name + "\n" for p in order))
        names = "\n".join(sorted(str(p.relative_to(root)) for p in root.rglob("*"))) + "\n"
        unfinished = pathlib.Path(scratch) / "initrd"
        with open(unfinished, "wb") as archive:
            run("cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0", cwd=root, input=names.encode(), stdout=archive)
        os.rename(unfinished, initrd)


def make_disk(out, name, include, size_mib):
    disk = out / f"{name}.raw"
    sources = [HERE / "debian-customize", pathlib.Path(__file__)]
    if disk.exists() and all(disk.stat().st_mtime > s.stat().st_mtime for s in sources):
        return
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        scratch = pathlib.Path(scratch)
        scratch.chmod(0o755)
        tarball = scratch / "root.tar"
        print("making a Debian root file system (half a minute or so)", flush=True)
        run("mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(include)}",
            "--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*",
            "--dpkgopt=path-exclude=/usr/share/locale/*",
            f"--customize-hook={HERE / 'debian-customize'} \"$1\"", DEBIAN_SUITE, tarball)
        unfinished = scratch / disk.name
        with open(unfinished, "wb") as file:
            file.truncate(size_mib << 20)
        # fakeroot: the tree's owners and device nodes reach the image without being root here.
        run("fakeroot", "sh", "-ec",
            'mkdir "$1/root"; tar -C "$1/root" -xf "$2"; /sbin/mke2fs -q -t ext4 -L debian -d "$1/root" "$3"',
            "sh", scratch, tarball, unfinished)
        os.rename(unfinished, disk)


def make_programs(out, name):
    """A root file system of programs, as a folder and as a disk."""
    what = PROGRAMS[name]
    root, disk, stamp = out / f"{name}-root", out / f"{name}.raw", out / f"{name}.made-of"
    # By content: it takes minutes, and a checkout gives unchanged files a new time.
    made_of = (f"{DEBIAN_SUITE} {what['size_mib']} {' '.join(what['include'])} {' '.join(what['folders'])}\n"
               f"{(HERE / 'bench_data.py').read_text()}")
    if root.exists() and disk.exists() and stamp.exists() and stamp.read_text() == made_of:
        return
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        scratch = pathlib.Path(scratch)
        scratch.chmod(0o755)
        print(f"making a Debian root file system with {what['contents']} (a minute or so)", flush=True)
        run("mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(what['include'])}",
            *(f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in what["without"]), DEBIAN_SUITE, scratch / "root.tar")
        # Unpacked for the host, which runs it with chroot; its /dev is the host's own, so no device nodes are made.
        (scratch / "root").mkdir()
        run("tar", "-C", scratch / "root", "--exclude=./dev/*", "--no-same-owner", "-xf", scratch / "root.tar")
        run(sys.executable, HERE / "bench_data.py", scratch / "root/data")
        for folder in what["folders"]:
            (scratch / "root" / folder).mkdir()
        unfinished = scratch / "disk.raw"
        with open(unfinished, "wb") as file:
            file.truncate(what["size_mib"] << 20)
        run("fakeroot", "/sbin/mke2fs", "-q", "-t", "ext4", "-L", name, "-d", scratch / "root", unfinished)
        stamp.unlink(missing_ok=True)
        shutil.rmtree(root, ignore_errors=True)
        os.rename(scratch / "root", root)
        os.rename(unfinished, disk)
        stamp.write_text(made_of)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("what", choices=["kernel", "initrd", "disk", "podman", *PROGRAMS])
    parser.add_argument("flavour", nargs="?", choices=list(METAPACKAGES), default="cloud")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    try:
        if arguments.what == "kernel":
            make_kernel(out, arguments.flavour)
        elif arguments.what == "initrd":
            make_initrd(out, arguments.flavour)
        elif arguments.what == "disk":
            make_disk(out, "debian", DEBIAN_INCLUDE, DISK_SIZE_MIB)
        elif arguments.what == "podman":
            make_disk(out, "podman", PODMAN_INCLUDE, PODMAN_SIZE_MIB)
        else:
            make_programs(out, arguments.what)
    except subprocess.CalledProcessError as error:
        fail(f"{error.cmd[0]} failed with status {error.returncode}")
    except FileNotFoundError as error:
        fail(f"{error.filename}: not found: run `make deps`")


if __name__ == "__main__":
    main()
