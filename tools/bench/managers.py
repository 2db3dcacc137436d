"""Rows about managers: hulld beside lxd (containers) and libvirtd (VMs), one right after the other.

All of it happens in network, mount and process namespaces of its own, with folders of its own in the place of the machine's. So this file is also
the program in there: `managers.py FOLDER BUILD ROUNDS`, which prints lines of JSON."""
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time

from disks import median_ratio, surely_ratio
import place
from system_sides import memory_kib, run

TURNS = 10  # of each row and side, in each round
DEFINED = 50  # instances that are there while lists are asked for
MANY = 200  # that hulld knows when its memory is measured
TIMEOUT = 60
APPLETS = ("sh", "sleep", "true", "mount", "init", "poweroff", "echo")


def say(**line):
    print(json.dumps(line), flush=True)


def timed(*words, **options):
    began = time.perf_counter()
    subprocess.run([str(word) for word in words], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, **options)
    return time.perf_counter() - began


def until(check, what):
    end = time.monotonic() + TIMEOUT
    while not check():
        if time.monotonic() > end:
            raise RuntimeError(f"{what}: not within {TIMEOUT} s")
        time.sleep(0.01)


def make_root(folder):
    """A root file system of busybox alone, with the image's description for lxd beside it."""
    root = folder / "image/rootfs"
    for name in ("bin", "sbin", "dev", "proc", "sys", "tmp", "etc", "run", "root", "var"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for applet in APPLETS:
        (root / "bin" / applet).symlink_to("busybox")
    (root / "sbin/init").symlink_to("../bin/busybox")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")
    (root / "etc/inittab").write_text("::sysinit:/bin/true\n")
    (folder / "image/metadata.yaml").write_text("architecture: x86_64\ncreation_date: 1700000000\nproperties: {os: busybox}\n")
    with tarfile.open(folder / "root.tar", "w") as tar:
        tar.add(root, ".")
    with tarfile.open(folder / "lxd.tar", "w") as tar:
        tar.add(folder / "image/metadata.yaml", "metadata.yaml")
        tar.add(root, "rootfs")


class Hull:
    name = "hull"

    def __init__(self, folder, build):
        self.folder, self.program = folder, build / "bin/hull"
        os.environ |= {"HULL_STATE": str(folder / "hull"), "HULL_SOCKET": str(folder / "hull/run/hulld.sock")}
        with open(folder / "hulld.log", "w", encoding="utf-8") as log:
            self.daemon = subprocess.Popen([build / "bin/hulld"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)  # pylint: disable=consider-using-with
        until(lambda: (folder / "hull/run/hulld.sock").exists(), "hulld")
        run(self.program, "image", "import", folder / "root.tar", "--alias", "bb")
        run(self.program, "image", "import", build / "guest/debian.raw", "--alias", "vm", "--kernel", build / "guest/vmlinuz-cloud",
            "--initrd", build / "guest/initrd-cloud", "--append", "console=hvc0 quiet")

    def hull(self, *words):
        return timed(self.program, *words)

    def create(self, name):
        return self.hull("create", "bb", name, "--container")

    def launch(self, name):
        return self.hull("launch", "bb", name, "--container")

    def enter(self, name):
        return self.hull("exec", name, "--", "true")

    def list(self):
        return self.hull("list", "--json")

    def info(self, name):
        return self.hull("info", name)

    def delete(self, name):
        return self.hull("delete", "--force", name)

    def create_vm(self, name):
        return self.hull("create", "vm", name, "--vm", "--memory", "256M")

    def start_vm(self, name):
        return self.hull("start", name)

    def delete_vm(self, name):
        return self.delete(name)

    list_vms, info_vm = list, info

    def memory(self):
        return memory_kib(self.daemon.pid)

    def end(self):
        subprocess.run([self.program, "delete", "--force", "--all"], check=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)
        self.daemon.terminate()
        self.daemon.wait(TIMEOUT)


PRESEED = """storage_pools: [{name: default, driver: dir}]
networks: [{name: benchlxd, type: bridge, config: {ipv4.address: 10.98.0.1/24, ipv6.address: none, ipv4.nat: "true"}}]
profiles: [{name: default, devices: {root: {path: /, pool: default, type: disk}, eth0: {name: eth0, network: benchlxd, type: nic}}}]
"""


class Lxd:
    name = "lxd"

    def __init__(self, folder):
        os.environ["LXD_DIR"] = str(folder / "lxd")
        os.environ["HOME"] = str(folder)
        (folder / "lxd").mkdir()
        with open(folder / "lxd.log", "w", encoding="utf-8") as log:
            self.daemon = subprocess.Popen(["lxd"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)  # pylint: disable=consider-using-with
        run("lxd", "waitready", "--timeout", TIMEOUT)
        subprocess.run(["lxd", "init", "--preseed"], input=PRESEED, text=True, check=True)
        run("lxc", "-q", "image", "import", folder / "lxd.tar", "--alias", "bb")

    def create(self, name):
        return timed("lxc", "-q", "init", "bb", name)

    def launch(self, name):
        return timed("lxc", "-q", "launch", "bb", name)

    def enter(self, name):
        return timed("lxc", "-q", "exec", name, "--", "true")

    def list(self):
        return timed("lxc", "-q", "list", "-f", "json")

    def info(self, name):
        return timed("lxc", "-q", "info", name)

    def delete(self, name):
        return timed("lxc", "-q", "delete", "-f", name)

    def memory(self):
        return memory_kib(self.daemon.pid)

    def end(self):
        names = run("lxc", "-q", "list", "-f", "csv", "-c", "n", check=False).split()
        if names:
            subprocess.run(["lxc", "-q", "delete", "-f", *names], check=False)
        subprocess.run(["lxd", "shutdown", "--timeout", "30"], check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.daemon.terminate()
        self.daemon.wait(TIMEOUT)


DOMAIN = """<domain type='qemu'><name>{name}</name><memory unit='MiB'>256</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type><kernel>{guest}/vmlinuz-cloud</kernel><initrd>{guest}/initrd-cloud</initrd><cmdline>console=hvc0 quiet</cmdline></os>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{disk}'/><target dev='vda' bus='virtio'/></disk></devices></domain>
"""
LIBVIRT_CONFIG = {
    "libvirtd.conf": 'unix_sock_group = "root"\nauth_unix_rw = "none"\nauth_unix_ro = "none"\n',
    "qemu.conf": 'user = "root"\ngroup = "root"\nsecurity_driver = "none"\ncgroup_controllers = [ ]\nnamespaces = [ ]\nstdio_handler = "file"\n',
}


class Libvirt:
    """As an administrator has it: the system's daemon, a copy-on-write disk for each VM."""
    name = "libvirt"

    def __init__(self, folder, build):
        self.folder, self.guest = folder, build / "guest"
        for path in ("/run/libvirt", "/var/log/libvirt", "/var/lib/libvirt"):
            os.makedirs(path, exist_ok=True)
        for name, text in LIBVIRT_CONFIG.items():
            pathlib.Path("/etc/libvirt", name).write_text(text, encoding="ascii")
        with open(folder / "libvirt.log", "w", encoding="utf-8") as log:
            self.daemon = subprocess.Popen(["libvirtd"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)  # pylint: disable=consider-using-with
        until(lambda: subprocess.run(["virsh", "-q", "-c", "qemu:///system", "list"], check=False, stdout=subprocess.DEVNULL,
                                     stderr=subprocess.DEVNULL).returncode == 0, "libvirtd")

    def virsh(self, *words):
        return timed("virsh", "-q", "-c", "qemu:///system", *words)

    def create_vm(self, name):
        disk, text = self.folder / f"{name}.qcow2", self.folder / f"{name}.xml"
        text.write_text(DOMAIN.format(name=name, guest=self.guest, disk=disk), encoding="utf-8")
        return timed("qemu-img", "create", "-q", "-f", "qcow2", "-b", self.guest / "debian.raw", "-F", "raw", disk) + self.virsh("define", text)

    def start_vm(self, name):
        return self.virsh("start", name)

    def list_vms(self):
        return self.virsh("list", "--all")

    def info_vm(self, name):
        return self.virsh("dominfo", name)

    def delete_vm(self, name):
        began = time.perf_counter()
        run("virsh", "-q", "-c", "qemu:///system", "destroy", name, check=False)  # its guest may have ended by itself
        seconds = time.perf_counter() - began + self.virsh("undefine", name)
        (self.folder / f"{name}.qcow2").unlink()
        return seconds

    def memory(self):
        return memory_kib(self.daemon.pid)

    def end(self):
        self.daemon.terminate()
        self.daemon.wait(TIMEOUT)


CONTAINERS = {"launch": "launch of a container", "enter": "exec of true in it", "info": "info of it", "delete": "delete of it, running",
              "list": f"list, {DEFINED} more"}
VMS = {"create_vm": "create a VM", "start_vm": "start of it", "info_vm": "info of it", "delete_vm": "delete of it, running", "list_vms": f"list, {DEFINED} more"}


def measure_rows(sides, rows, create, rounds):
    """{row: {side: [s]}}; each turn lets all sides do all of the rows with one new instance."""
    for side in sides:
        for index in range(DEFINED):
            getattr(side, create)(f"there-{index}")
    numbers = {row: {side.name: [] for side in sides} for row in rows}
    for turn in range(rounds * TURNS):
        say(show=f"managers: {', '.join(side.name for side in sides)} {turn + 1}/{rounds * TURNS}")
        for row in rows:
            for side in sides:
                words = () if row.startswith("list") else (f"bench-{turn}",)
                numbers[row][side.name].append(getattr(side, row)(*words))
    return numbers


def measure_inside(folder, build, rounds):
    make_root(folder)
    numbers, sides = {"memory": {}}, []
    try:
        say(show="managers: starting")
        sides.append(hull := Hull(folder, build))
        sides.append(lxd := Lxd(folder))
        numbers["containers"] = measure_rows([hull, lxd], CONTAINERS, "create", rounds)
        numbers["memory"]["lxd"] = lxd.memory()
        lxd.end()
        sides.remove(lxd)
        hull.hull("delete", "--all", "--force")
        sides.append(libvirt := Libvirt(folder, build))
        numbers["vms"] = measure_rows([hull, libvirt], VMS, "create_vm", rounds)
        numbers["memory"]["libvirt"] = libvirt.memory()
        numbers["memory"]["hull"] = hull.memory()
        for index in range(MANY - DEFINED):
            hull.create(f"many-{index}")
        numbers["many"] = [hull.list() for _ in range(TURNS)]
        numbers["memory"]["hull, many"] = hull.memory()
    finally:
        for side in sides:
            side.end()
    return numbers


ENTER = """set -e
mount --rbind /sys/fs/cgroup "$1"
mount -t sysfs sysfs /sys
mount --rbind "$1" /sys/fs/cgroup
umount -l "$1"
for folder in /run /var/log /var/cache /var/lib/libvirt; do mount -t tmpfs tmpfs $folder; done
mkdir "$2/libvirt-etc"
mount --bind "$2/libvirt-etc" /etc/libvirt
(cat /etc/passwd; echo libvirt-qemu:x:64055:64055::/var/lib/libvirt:/usr/sbin/nologin) >"$2/passwd"
(cat /etc/group; echo libvirt-qemu:x:64055:; echo libvirt:x:64056:) >"$2/group"
echo root:1000000:1000000000 >"$2/subid"
mount --bind "$2/passwd" /etc/passwd
mount --bind "$2/group" /etc/group
mount --bind "$2/subid" /etc/subuid
mount --bind "$2/subid" /etc/subgid
ip link set lo up
shift 2
# Not executed: the first process of the namespace takes in those whose parents have ended.
"$@"
exit $?
"""


def measure(build, rounds, show):
    """{"containers": {row: {side: [s]}}, "vms": likewise, "memory": {side: {kind: KiB}}, "many": [s]}"""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="hull-bench-", dir=place.for_images(build)[0]))
    numbers = None
    try:
        os.chmod(folder, 0o755)  # ids of containers reach their files through it
        (folder / "groups").mkdir()
        words = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private",
                 "sh", "-c", ENTER, "sh", folder / "groups", folder, sys.executable, __file__, folder, build, str(rounds)]
        with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as inside:
            for line in inside.stdout:
                said = json.loads(line)
                numbers = said.get("numbers", numbers)
                if "show" in said:
                    show(said["show"])
        if numbers is None:
            raise RuntimeError("the rows about managers could not be measured")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        show("")
    return numbers


def print_rows(numbers):
    if not numbers:
        return
    for group, rows, peer in (("containers", CONTAINERS, "lxd"), ("vms", VMS, "libvirt")):
        print(f"\n{f'managers, {group}':40}{'hull ms':>10}{f'{peer} ms':>12}{f'hull/{peer}':>14}")
        for row, text in rows.items():
            hull, other = numbers[group][row]["hull"], numbers[group][row][peer]
            print(f"{text:40}{statistics.median(hull) * 1e3:10.1f}{statistics.median(other) * 1e3:12.1f}{median_ratio(hull, other):14.2f}")
    print(f"{f'list of {MANY} instances, ms':40}{statistics.median(numbers['many']) * 1e3:10.1f}")
    for side, memory in numbers["memory"].items():
        print(f"memory of the daemon, {side}: {memory['rss']} KiB resident, {memory['private']} KiB its own")


def aims(numbers):
    """[(text, True, False or None: not measured, detail)]"""
    result = []
    for group, rows, peer in (("containers", CONTAINERS, "lxd"), ("vms", VMS, "libvirt")):
        for row, text in rows.items():
            ratio = 1 / surely_ratio(numbers[group][row][peer], numbers[group][row]["hull"]) if numbers else 0
            result.append((f"managers: {text} in at most half of {peer}'s time", ratio <= 0.5 if numbers else None, f"{ratio:.2f}" if numbers else ""))
    for peer in ("lxd", "libvirt"):
        ratio = numbers["memory"]["hull"]["rss"] / numbers["memory"][peer]["rss"] if numbers else 0
        result.append((f"managers: at most half of {peer}'s memory", ratio <= 0.5 if numbers else None, f"{ratio:.2f}" if numbers else ""))
    rss = numbers["memory"]["hull, many"]["rss"] if numbers else 0
    result.append((f"managers: hulld with {MANY} instances in 15 MiB", rss <= 15 * 1024 if numbers else None, f"{rss} KiB" if numbers else ""))
    listed = statistics.median(numbers["many"]) if numbers else 0
    result.append((f"managers: list of {MANY} under 50 ms", listed < 0.05 if numbers else None, f"{listed * 1e3:.1f} ms" if numbers else ""))
    return result


def main():
    folder, build, rounds = sys.argv[1:]
    say(numbers=measure_inside(pathlib.Path(folder), pathlib.Path(build), int(rounds)))


if __name__ == "__main__":
    main()
