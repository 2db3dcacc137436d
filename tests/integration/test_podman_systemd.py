"""podman with its systemd manager of control groups and hull-oci, in a guest with systemd and cgroup v2: root's, and a user's in his session."""
import shutil
import subprocess

import pytest

from conftest import BOOT_TIMEOUT, BUILD, GUESTS, kernel_arguments, make_guest

pytestmark = [pytest.mark.long, pytest.mark.skipif(not shutil.which("mmdebstrap"), reason="mmdebstrap is not installed")]

PODMAN = "podman --cgroup-manager systemd --runtime /mnt/hull-oci"
AS_USER = ("setpriv --reuid 1000 --regid 1000 --clear-groups env HOME=/home/somebody XDG_RUNTIME_DIR=/run/user/1000 "
           "DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/1000/bus")
# The kernel's modules are not in the guest: no overlay.
STORAGE = r'[storage]\ndriver = "vfs"\ngraphroot = "/var/lib/containers/storage"\nrunroot = "/run/containers/storage"\n'
LIMITS = "--network none --memory 64m --memory-swap 96m --cpus 0.5 --pids-limit 50 --cpu-shares 512"


@pytest.fixture
def vm(boot, tmp_path):
    """Logged in, with the runtime and an archive of a small root file system in /mnt."""
    make_guest("podman")
    folder, disk, tools = tmp_path / "tools", tmp_path / "podman.raw", tmp_path / "tools.raw"
    for name in ("bin", "proc", "dev", "sys", "tmp", "etc"):
        (folder / "rootfs" / name).mkdir(parents=True)
    shutil.copy(shutil.which("busybox"), folder / "rootfs/bin/busybox")
    for name in ("sh", "sleep", "cat", "echo", "true", "id"):
        (folder / "rootfs/bin" / name).symlink_to("busybox")
    subprocess.run(["tar", "-C", folder / "rootfs", "--owner=0", "--group=0", "-cf", folder / "box.tar", "."], check=True)
    for name in ("hull-oci", "hull-oci-systemd"):
        subprocess.run(["strip", "-o", folder / name, BUILD / "bin" / name], check=True)
    with open(tools, "wb") as file:
        file.truncate(32 << 20)
    subprocess.run(["/sbin/mke2fs", "-q", "-t", "ext4", "-d", folder, tools], check=True)
    subprocess.run(["cp", "--sparse=always", GUESTS / "podman.raw", disk], check=True)
    console = boot("--engine", "soft", "--cpus", "2", "--memory", "2G", "--net", "none", *kernel_arguments("generic"), "--disk", disk,
                   "--append", "console=ttyS0 root=/dev/vda", "--disk", tools, timeout=3 * BOOT_TIMEOUT)
    console.expect("login: ")
    console.send_line("root")
    console.expect("# ")
    console.shell("mount -o ro /dev/vdb /mnt; mkdir -p /etc/containers")
    console.shell(f"printf '{STORAGE}' >/etc/containers/storage.conf")
    return console


def check_life(vm, podman, slices):
    """From run to removal; its group is a scope of systemd's below 'slices'."""
    vm.shell(f"{podman} import /mnt/box.tar box")
    assert "hello" in vm.shell(f"{podman} run --rm --network none box echo hello")
    vm.shell(f"{podman} run -d --name life {LIMITS} --health-cmd true box sleep 1000")
    scope = vm.shell(f"find {slices} -name 'libpod-*.scope' -not -name '*conmon*'").strip()
    assert scope.startswith(slices) and "\n" not in scope
    values = "memory.max memory.swap.max pids.max cpu.max"
    assert vm.shell(f"(cd {scope} && cat {values})").split() == [str(64 << 20), str(32 << 20), "50", "50000", "100000"]
    assert "0::/" in vm.shell(f"{podman} exec life cat /proc/self/cgroup")
    assert "67.11MB 1" in vm.shell(f"{podman} stats --no-stream --format '{{{{.MemUsage}}}} {{{{.PIDs}}}}' life")
    vm.shell(f"{podman} healthcheck run life")
    vm.shell(f"{podman} kill -s KILL life")
    assert "137" in vm.shell(f"{podman} wait life")
    vm.shell(f"{podman} rm -f life")
    assert vm.shell(f"find {slices} -name 'libpod-*'").strip() == ""


def test_root(vm):
    check_life(vm, PODMAN, "/sys/fs/cgroup/machine.slice")
    vm.shell(f"{PODMAN} run -d --name life --network none box sleep 1000 && {PODMAN} pause life")
    assert "paused" in vm.shell(f"{PODMAN} inspect -f '{{{{.State.Status}}}}' life")
    vm.shell(f"{PODMAN} unpause life && {PODMAN} rm -f -t 0 life")
    vm.shell(f"{PODMAN} pod create --name pod --network none --infra-image box --infra-command 'sleep 1000'")
    vm.shell(f"{PODMAN} run -d --pod pod --name inpod --memory 32m box sleep 1000")
    assert "inside" in vm.shell(f"{PODMAN} exec inpod echo inside")
    assert vm.shell("cat /sys/fs/cgroup/machine.slice/machine-libpod_pod_*.slice/libpod-*.scope/memory.max").split().count(str(32 << 20)) == 1
    vm.shell(f"{PODMAN} pod rm -f -t 0 pod")
    assert vm.shell("find /sys/fs/cgroup/machine.slice -name '*libpod*'").strip() == ""


def test_user(vm):
    vm.shell("useradd -m -u 1000 somebody && echo somebody:100000:65536 | tee /etc/subuid >/etc/subgid && loginctl enable-linger somebody")
    vm.shell("until test -S /run/user/1000/bus; do sleep 0.2; done; cd /home/somebody")
    check_life(vm, f"{AS_USER} {PODMAN}", "/sys/fs/cgroup/user.slice")
