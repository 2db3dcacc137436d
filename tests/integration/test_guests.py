"""Real Debian guests on the soft engine, from kernel to login prompt, with disk and network."""
import hashlib
import os

import pytest

from conftest import BOOT_TIMEOUT

CPUS = [1, 2, pytest.param(4, marks=pytest.mark.long)]


@pytest.mark.parametrize("cpus", CPUS)
def test_busybox_guest(boot, busybox, cpus):
    vm = boot("--engine", "soft", "--cpus", cpus, *busybox, "--append", "console=ttyS0 hull.run=nproc")
    vm.expect(r"init: up after [0-9.]+ s\s+(\d+)")
    assert int(vm.child.match[1]) == cpus
    assert vm.wait() == 0


@pytest.mark.sanitizer
def test_busybox_guest_with_devices(boot, busybox, tmp_path):
    """Every device: disk, network, rng, balloon, console; also what the sanitizer build boots."""
    disk = tmp_path / "disk.raw"
    disk.write_bytes(os.urandom(1 << 20))
    vm = boot("--engine", "soft", *busybox, "--disk", f"{disk},serial=HULL-TEST", "--append", "console=ttyS0 quiet",
              timeout=900)
    vm.expect("# ")
    assert "HULL-TEST" in vm.shell("cat /sys/block/vda/serial")
    digest = hashlib.sha256(disk.read_bytes()).hexdigest()
    assert digest in vm.shell("sha256sum /dev/vda")
    vm.shell("ping -c 1 -w 20 10.0.2.2")
    vm.shell("head -c 64 /dev/hwrng | wc -c")
    vm.send_line("poweroff -f")
    assert vm.wait(120) == 0


@pytest.mark.parametrize("cpus", CPUS)
def test_systemd_guest(boot, debian, web_server, cpus):
    """Login on the console, 256 MiB to the disk and back, a file over the network, clean power off."""
    port, folder = web_server
    content = os.urandom(3 << 20)
    (folder / "file").write_bytes(content)
    vm = boot("--engine", "soft", "--cpus", cpus, "--memory", "1G", *debian, timeout=2 * BOOT_TIMEOUT)
    vm.expect("login: ")
    vm.send_line("root")
    vm.expect("# ")
    assert int(vm.shell("nproc")) == cpus
    vm.shell("dd if=/dev/urandom of=/var/tmp/data bs=1M count=256 conv=fsync 2>/dev/null")
    before = vm.shell("cksum </var/tmp/data").split()[0]
    vm.shell("sync; echo 3 >/proc/sys/vm/drop_caches")
    assert vm.shell("cksum </var/tmp/data").split()[0] == before
    vm.shell("networkctl -q status >/dev/null; i=0; until ip -4 route | grep -q default || [ $i = 60 ]; "
             "do sleep 1; i=$((i+1)); done")
    fetched = vm.shell(f"busybox wget -q -O - http://10.0.2.2:{port}/file | sha256sum").split()[0]
    assert fetched == hashlib.sha256(content).hexdigest()
    vm.shell("rm /var/tmp/data")
    vm.send_line("poweroff")
    vm.expect("Power down")
    assert vm.wait() == 0
