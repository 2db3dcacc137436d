"""The engine kvm on a genuine KVM, in the bed of tests/nested; and VMs that move between the engines."""
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

import pexpect
import pytest

from conftest import BUILD, GUESTS, ROOT, hull, make_guest
from counting import COUNTER, REPORT, check_reports

PROGRAMS = ["hull", "hull-vmm", "hull-net-user"]
MODEL = ["--cpu", "x86-64-v2", "--memory", "128M"]
MODEL_WORDS = " ".join(MODEL)


class Bed:
    """Boots the bed for one script; 'share' is a folder of both sides, /share over there."""

    def __init__(self, share):
        self.share = share

    def run(self, script, *arguments, timeout=400):
        (self.share / "script.sh").write_text(f". /test/guests.sh\ncd /tmp\n{script}")
        adds = [f"{BUILD / 'bin' / name}:/hull/bin/{name}" for name in PROGRAMS]
        adds += [ROOT / "tests/nested/guests.sh", *arguments]
        command = [sys.executable, ROOT / "tests/nested/run.py", "--kernel", GUESTS / "vmlinuz-generic",
                   "--modules", GUESTS / "modules-generic", "--cache", BUILD / "nested", "--share", self.share,
                   "--timeout", timeout]
        for add in adds:
            command += ["--add", add]
        done = subprocess.run([*map(str, command), "--", "sh /share/script.sh"], capture_output=True, text=True,
                              errors="replace", check=False)
        assert done.returncode == 0, f"status {done.returncode}\n{done.stdout[-6000:]}{done.stderr[-2000:]}"
        return done.stdout


@pytest.fixture
def bed(tmp_path):
    for program in ("qemu-system-x86_64", "modinfo"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    make_guest("kernel", "generic")
    make_guest("initrd", "cloud")
    share = tmp_path / "share"
    share.mkdir()
    for name in ("vmlinuz-cloud", "initrd-cloud"):
        os.link(GUESTS / name, share / name) if os.stat(GUESTS).st_dev == os.stat(share).st_dev \
            else shutil.copy(GUESTS / name, share)
    yield Bed(share)
    shutil.rmtree(share)


BUSYBOX = "--kernel /share/vmlinuz-cloud --initrd /share/initrd-cloud"


def test_guests_on_kvm(bed):
    """The engine's unit test; Debian's kernel with disk, network and power off; the jail; what hull says."""
    content = os.urandom(1 << 20)
    (bed.share / "file").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    output = bed.run(f"""
/test/test_engine_kvm || fail "the unit test of engine/kvm failed"
"$HULL" host
cp /share/file /tmp/disk.raw
httpd -p 127.0.0.1:8000 -h /share
for cpus in 1 2; do
    start vm$cpus --engine auto {MODEL_WORDS} --cpus $cpus {BUSYBOX} --disk /tmp/disk.raw --append "console=ttyS0 quiet"
    wait_for '/ #'
    say 'echo cpus=$(nproc)='
    say 'echo disk=$(sha256sum </dev/vda)'
    say 'echo net=$(wget -q -O - http://10.0.2.2:8000/file | sha256sum)'
    say 'echo back | dd of=/dev/vda bs=512 conv=sync,fsync 2>/dev/null; echo written'
    wait_for ^written
    grep -E '^(Seccomp|NoNewPrivs):' "/proc/$(pidof hull-vmm)/status"
    "$HULL" ctl /tmp/vm$cpus.control status
    say 'poweroff -f'
    finish
    [ "$(head -c 4 /tmp/disk.raw)" = back ] || fail "what the guest wrote is not in the disk"
    cp /share/file /tmp/disk.raw
done
""", BUILD / "tests/unit/engine/test_engine_kvm")
    assert re.search(r"engines +kvm +\S*usable.* hardware virtualization", output)
    assert "--engine auto takes: kvm" in output
    assert len(re.findall(r"^Seccomp:\s+2$", output, re.M)) == 2
    assert len(re.findall(r"^NoNewPrivs:\s+1$", output, re.M)) == 2
    for cpus in (1, 2):
        log = (bed.share / f"vm{cpus}.log").read_text(errors="replace")
        assert f"cpus={cpus}=" in log
        assert f"disk={digest}" in log
        assert f"net={digest}" in log


def start_counting(vm):
    vm.expect("# ")
    vm.send_line(COUNTER)
    for _ in range(2):
        vm.expect(REPORT)


def save_and_quit(vm, control, path):
    while hull("ctl", control, "status").returncode != 0:
        assert vm.child.isalive()
        time.sleep(0.05)
    for order in (["pause"], ["save", f"file={path}"], ["quit"]):
        result = hull("ctl", control, *order, timeout=120)
        assert result.returncode == 0, result.stderr
    vm.child.expect(pexpect.EOF)


@pytest.mark.long
def test_limits_on_kvm(bed):
    """CPUs and memory of a running guest: more, and fewer."""
    archive = subprocess.run(["cpio", "--quiet", "-o", "-H", "newc"], input=b"virtio_mem.ko\n", stdout=subprocess.PIPE, check=True,
                             cwd=GUESTS / "modules-cloud/kernel/drivers/virtio").stdout
    data = (bed.share / "initrd-cloud").read_bytes()
    (bed.share / "initrd").write_bytes(data + bytes(-len(data) % 4) + archive)
    bed.run("""
start vm --engine kvm --cpu x86-64-v2 --memory 128M,max=384M --cpus 1,max=2 --kernel /share/vmlinuz-cloud --initrd /share/initrd \\
    --net none --append "console=ttyS0 quiet memhp_default_state=online_movable"
has() {
    tries=0
    until "$HULL" ctl /tmp/vm.control status --json | grep -q "$1"; do
        tries=$((tries + 1))
        [ $tries -lt 300 ] || fail "it never came to $1"
        sleep 0.2
    done
}
wait_for '/ #'
say 'insmod /virtio_mem.ko && echo loaded=$?='
wait_for '^loaded=0='
"$HULL" ctl /tmp/vm.control cpus count=2
say 'until echo 1 >/sys/devices/system/cpu/cpu1/online; do sleep 0.2; done; echo cpus=$(nproc)='
wait_for '^cpus=2='
say 'taskset 2 md5sum /bin/busybox && echo second=$?='
wait_for '^second=0='
"$HULL" ctl /tmp/vm.control memory size=256M
has '"memory_present_bytes": *268435456'
say 'echo total=$(($(sed -n "s/MemTotal: *\\([0-9]*\\).*/\\1/p" /proc/meminfo) >> 16))='
wait_for '^total=3='
"$HULL" ctl /tmp/vm.control cpus count=1
has '"vcpus": *1,'
"$HULL" ctl /tmp/vm.control memory size=128M
has '"memory_present_bytes": *134217728'
say 'echo cpus=$(nproc)='
wait_for '^cpus=1='
say 'poweroff -f'
finish
""", timeout=900)


@pytest.mark.parametrize("cpus", [pytest.param(1, marks=pytest.mark.long), 2])
def test_save_between_engines(boot, bed, cpus):
    """From soft to kvm and back, and from kvm to soft: the process in the guest counts on without a gap."""
    share = bed.share
    soft = ["--engine", "soft", *MODEL, "--cpus", cpus]
    vm = boot(*soft, "--kernel", share / "vmlinuz-cloud", "--initrd", share / "initrd-cloud", "--append",
              "console=ttyS0 quiet", "--control", share / "control")
    start_counting(vm)
    save_and_quit(vm, share / "control", share / "from-soft")
    before = vm.transcript()
    (share / "counter").write_text(COUNTER + "\n")
    host_vm = ["--cpu", "host", "--memory", "128M", "--paused", "--kernel", share / "vmlinuz-cloud"]
    vm = boot("--engine", "soft", *host_vm, "--control", share / "control")
    save_and_quit(vm, share / "control", share / "host-soft")
    # The bed's CPUs are of AMD: what began on another here cannot go on there, what comes from there can here.
    is_amd = "AuthenticAMD" in pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8")
    move = f"""
start moved --engine kvm {MODEL_WORDS} --cpus {cpus} --restore /share/from-soft
wait_for '^count=.*=' 3
save /share/from-kvm
"""
    output = bed.run(f"""
"$HULL" boot --engine kvm --cpu host --memory 128M --restore /share/host-soft </dev/null && fail "features were missing"
start host --engine kvm --cpu host --memory 128M --paused --kernel /share/vmlinuz-cloud
save /share/host-kvm
{move if is_amd else ""}
start born --engine kvm {MODEL_WORDS} --cpus {cpus} {BUSYBOX} --append "console=ttyS0 quiet"
wait_for '/ #'
cat /share/counter >&3
wait_for '^count=.*=' 2
save /share/born-on-kvm
""")
    # What a CPU model of the host promised on one engine and the other has not is named.
    assert re.search(r"saved state .*: vcpu.0: its guest uses CPU features that are not here: (.*, )?rdseed", output)
    refused = hull("boot", "--engine", "soft", "--cpu", "host", "--memory", "128M", "--restore", "host-kvm",
                   cwd=share)
    assert refused.returncode == 1
    assert re.search("CPU features that are not here: .*kvm async page faults|, [0-9]+ more", refused.stderr)
    born = (share / "born.log").read_text(errors="replace")
    ways = [("born-on-kvm", [born])]
    if is_amd:
        moved = (share / "moved.log").read_text(errors="replace")
        check_reports([before, moved], at_least=5)
        ways.append(("from-kvm", [before, moved]))
    for saved, consoles in ways:
        back = boot(*soft, "--restore", share / saved)
        for _ in range(2):
            back.expect(REPORT)
        back.send_line("\x03")
        back.expect("# ")
        assert int(back.shell("nproc")) == cpus
        # The clocks go on: an interval is as long in the guest as it is here, wherever it falls in ours.
        began = time.monotonic()
        seconds = float(back.shell("a=$(cut -d' ' -f1 /proc/uptime); sleep 1; b=$(cut -d' ' -f1 /proc/uptime); "
                                   "echo $a $b | awk '{print $2 - $1}'"))
        assert 0.98 < seconds < time.monotonic() - began + 0.02
        check_reports([*consoles, back.transcript()], at_least=4)
        back.close()


@pytest.mark.long
def test_systemd_guest_on_kvm(bed):
    make_guest("disk")
    subprocess.run(["cp", "--sparse=always", GUESTS / "debian.raw", bed.share / "debian.raw"], check=True)
    for name in ("vmlinuz-generic", "initrd-generic"):
        make_guest("initrd", "generic")
        shutil.copy(GUESTS / name, bed.share)
    bed.run(f"""
start debian --engine kvm --cpu x86-64-v2 --memory 512M --cpus 2 --kernel /share/vmlinuz-generic \\
    --initrd /share/initrd-generic --disk /share/debian.raw --append "console=ttyS0 root=/dev/vda"
wait_for 'login: '
say root
wait_for '# '
say 'echo cpus=$(nproc)= state=$(systemctl is-system-running --wait)='
wait_for 'cpus=2= state=[a-z]*='
say poweroff
wait_for 'Power down'
finish
""", timeout=1200)
