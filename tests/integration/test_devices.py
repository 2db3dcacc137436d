"""Devices and controls of a running VM, seen from a real Debian guest on the soft engine."""
import json
import os
import pathlib
import socket
import subprocess
import threading
import time

import pexpect
import pytest

from conftest import BUILD, hull

TOOL = BUILD / "tests/guest/vsock_tool"


def ctl(control, *words):
    result = hull("ctl", control, *words)
    assert result.returncode == 0, result.stderr
    return result.stdout


def with_tool(busybox, folder):
    """The arguments of 'busybox' with vsock_tool in the guest's root: a second archive behind the initrd."""
    kernel, initrd = busybox[1], busybox[3]
    both = folder / "initrd"
    archive = subprocess.run(["cpio", "--quiet", "-o", "-H", "newc"], input=b"vsock_tool\n", cwd=TOOL.parent,
                             stdout=subprocess.PIPE, check=True).stdout
    data = pathlib.Path(initrd).read_bytes()
    both.write_bytes(data + bytes(-len(data) % 4) + archive)
    return ["--kernel", kernel, "--initrd", both]


def memory_of(pid):
    """Resident shared memory: the guest's, which lies in a memfd."""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssShmem:"):
            return int(line.split()[1]) << 10
    raise AssertionError("no RssShmem")


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.1)


def drain(vm):
    """What the console shows now."""
    try:
        return vm.child.read_nonblocking(1 << 16, 0)
    except pexpect.TIMEOUT:
        return ""


def free_kib(vm):
    return int(vm.shell("free -k | awk '/^Mem/ { print $4 }'"))


@pytest.fixture
def shell(boot, busybox, tmp_path):
    """A guest at its shell: (console, control socket)."""
    def start(*arguments, base=busybox):
        control = tmp_path / "control"
        vm = boot("--engine", "soft", "--memory", "512M", *base, "--control", control, "--append", "console=ttyS0 quiet",
                  *arguments)
        vm.expect("# ")
        return vm, control
    return start


def test_pause_holds_the_guest(shell):
    vm, control = shell()
    vm.send_line("i=0; while :; do echo tick$((i=i+1)); usleep 50000; done")
    vm.expect("tick3")
    ctl(control, "pause")
    assert json.loads(ctl(control, "status", "--json"))["state"] == "paused"
    time.sleep(0.5)  # what was under way reaches the console
    drain(vm)
    time.sleep(0.5)
    assert drain(vm) == ""
    ctl(control, "resume")
    vm.expect("tick")


def test_power_button_and_reset(shell):
    vm, control = shell()
    ctl(control, "reset")
    vm.expect("# ")  # it boots again
    vm.send_line("reboot -f")
    vm.expect("# ")
    ctl(control, "quit")
    assert vm.wait() == 0


def test_balloon_and_free_page_reporting(shell):
    vm, control = shell()
    pid = json.loads(ctl(control, "status", "--json"))["pid"]
    vm.shell("mount -t tmpfs tmpfs /tmp; head -c 200m /dev/zero >/tmp/file")
    full = memory_of(pid)
    assert full > 200 << 20
    vm.shell("rm /tmp/file")
    until(lambda: memory_of(pid) < full - (150 << 20))  # reported as free, given back
    ctl(control, "balloon", f"bytes={256 << 20}")
    until(lambda: free_kib(vm) < 240 << 10)
    ctl(control, "balloon", f"bytes={512 << 20}")
    until(lambda: free_kib(vm) > 400 << 10)


def test_disk_gives_space_back_and_can_be_readonly(shell, tmp_path):
    disk, fixed = tmp_path / "disk", tmp_path / "fixed"
    disk.write_bytes(os.urandom(8 << 20))
    fixed.write_bytes(os.urandom(1 << 20))
    before = fixed.read_bytes()
    vm, _ = shell("--disk", disk, "--disk", f"{fixed},readonly")
    vm.shell("blkdiscard /dev/vda")
    until(lambda: disk.stat().st_blocks * 512 < 1 << 20)
    vm.shell("! dd if=/dev/zero of=/dev/vdb bs=4k count=1 2>/dev/null")
    assert vm.shell("cat /sys/block/vdb/ro").strip() == "1"
    assert fixed.read_bytes() == before


def test_forwarded_port(shell):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    vm, _ = shell("--net", f"user,hostfwd=tcp:127.0.0.1:{port}-:80")
    vm.shell("mkdir /www; echo from the guest >/www/index.html; httpd -h /www")
    result = subprocess.run(["curl", "-s", "--max-time", "30", f"http://127.0.0.1:{port}/"], capture_output=True, text=True)
    assert result.stdout == "from the guest\n"


def test_forwarded_port_after_a_restore(boot, busybox, tmp_path):
    """More than a few frames: the card has the offloads again that its driver uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    control, saved = tmp_path / "control", tmp_path / "saved"
    options = ["--engine", "soft", "--memory", "256M", *busybox, "--append", "console=ttyS0 quiet",
               "--net", f"user,hostfwd=tcp:127.0.0.1:{port}-:80"]
    vm = boot(*options, "--control", control)
    vm.expect("# ")
    vm.shell("mkdir /www; seq 500000 >/www/index.html; httpd -h /www")
    ctl(control, "save", f"file={saved}", "then=quit")
    vm.child.expect(pexpect.EOF)
    boot(*options, "--restore", saved)
    command = ["curl", "-s", "--max-time", "60", "--retry", "20", "--retry-connrefused", f"http://127.0.0.1:{port}/"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.stdout.split() == [str(number) for number in range(1, 500001)]


def test_vsock_both_ways(shell, busybox, tmp_path):
    folder = tmp_path / "vsock"
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "1234"))
    (folder / "1234").chmod(0o777)
    listener.listen()

    def answer():
        client, _ = listener.accept()
        data = b""
        while part := client.recv(4096):
            data += part
        client.sendall(data[::-1])
        client.close()

    threading.Thread(target=answer, daemon=True).start()
    vm, _ = shell("--vsock", f"cid=42,dir={folder}", base=with_tool(busybox, tmp_path))
    assert vm.shell("echo hello | /vsock_tool connect 1234").strip() == "olleh"
    vm.send_line("/vsock_tool serve 99")
    vm.expect("serving")
    with socket.socket(socket.AF_UNIX) as host:
        host.settimeout(60)
        host.connect(str(folder / "connect"))
        host.sendall(b"CONNECT 99\n")
        stream = host.makefile("rb")
        assert stream.readline().startswith(b"OK ")
        host.sendall(b"quiet words")
        host.shutdown(socket.SHUT_WR)
        assert stream.read() == b"QUIET WORDS"


def test_connections_end_with_a_restore(boot, busybox, tmp_path):
    """What the host had of them has ended with the old VM; the guest learns it, and new ones can be made."""
    folder, control, saved = tmp_path / "vsock", tmp_path / "control", tmp_path / "saved"
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "1234"))
    (folder / "1234").chmod(0o777)
    listener.listen()
    listener.settimeout(60)
    options = ["--engine", "soft", "--memory", "256M", *with_tool(busybox, tmp_path), "--append", "console=ttyS0 quiet",
               "--vsock", f"cid=42,dir={folder}"]
    vm = boot(*options, "--control", control)
    vm.expect("# ")
    vm.send_line("echo hello | /vsock_tool connect 1234; echo it has ''ended")
    client, _ = listener.accept()
    with client:
        assert client.makefile("rb").read() == b"hello\n"  # and the tool waits for an answer
        ctl(control, "save", f"file={saved}", "then=quit")
        vm.child.expect(pexpect.EOF)
        restored = boot(*options, "--restore", saved)
        restored.expect("it has ended")
    restored.send_line("/vsock_tool serve 99")
    restored.expect("serving")
    with socket.socket(socket.AF_UNIX) as host:
        host.settimeout(60)
        host.connect(str(folder / "connect"))
        host.sendall(b"CONNECT 99\n")
        assert host.makefile("rb").readline().startswith(b"OK ")


def test_virtio_console(boot, busybox):
    vm = boot("--engine", "soft", *busybox, "--console-device", "virtio", "--append", "console=hvc0 quiet")
    vm.expect("# ")
    until(lambda: "50 200" in vm.shell("stty size 2>/dev/null; true"))
    assert vm.shell("readlink /proc/self/fd/0").strip() in ("/dev/console", "/dev/hvc0")
    vm.send_line("poweroff -f")
    assert vm.wait() == 0
