"""hull-agent in real Debian guests on the soft engine, on vsock."""
import contextlib
import io
import os
import pathlib
import select
import struct
import subprocess
import tarfile
import time

import pytest

from agent_client import CONTROL, Agent
from conftest import BOOT_TIMEOUT, BUILD, GUESTS, ROOT, Console, kernel_arguments, make_guest

AGENT = BUILD / "bin/hull-agent"
TOOL = BUILD / "tests/guest/vsock_tool"
GROWN = 1280 << 20


def debugfs(disk, *commands):
    result = subprocess.run(["/sbin/debugfs", "-w", "-f", "-", disk], input="\n".join(commands) + "\n", text=True, capture_output=True,
                            check=True)
    assert "denied" not in result.stderr and "not found" not in result.stderr, result.stderr


def install_agent(disk):
    """Into a guest's file system, as an image's builder would."""
    debugfs(disk, "mkdir /usr/libexec/hull", f"write {AGENT} /usr/libexec/hull/hull-agent",
            "set_inode_field /usr/libexec/hull/hull-agent mode 0100755",
            f"write {ROOT}/share/hull-agent.service /usr/lib/systemd/system/hull-agent.service",
            "mkdir /etc/systemd/system/sysinit.target.wants",
            "symlink /etc/systemd/system/sysinit.target.wants/hull-agent.service /usr/lib/systemd/system/hull-agent.service")


class Guest:
    """A VM with an agent."""

    def __init__(self, folder, arguments):
        self.vsock = folder / "vsock"
        self.vsock.mkdir(mode=0o777)
        self.vsock.chmod(0o777)
        self.control = folder / "control"
        self.console = Console(["--engine", "soft", "--memory", "512M", *arguments, "--control", self.control, "--vsock",
                                f"cid=42,dir={self.vsock}"])

    def connect(self, **request):
        return Agent(self.vsock / "connect", request, is_vsock=True, timeout=BOOT_TIMEOUT)

    def ask(self, **request):
        with self.connect(**request) as agent:
            answer = agent.answer()
        assert "ok" in answer, answer
        return answer["ok"]

    def run(self, command, **request):
        with self.connect(do="exec", command=["sh", "-c", command], **request) as agent:
            agent.started().eof()
            output, errors, end = agent.finish()
        assert end == {"exit": 0}, (output, errors, end)
        return output.decode()

    def await_agent(self):
        end = time.monotonic() + BOOT_TIMEOUT
        while True:
            try:
                return self.ask(do="info")
            except (OSError, EOFError, AssertionError):
                assert time.monotonic() < end, self.console.transcript()[-3000:]
                time.sleep(0.1)


@pytest.fixture(name="guest", scope="module")
def fixture_guest(tmp_path_factory):
    """One guest for all; the last test ends it."""
    folder = tmp_path_factory.mktemp("guest")
    make_guest("disk")
    disk = folder / "debian.raw"
    subprocess.run(["cp", "--sparse=always", GUESTS / "debian.raw", disk], check=True)
    install_agent(disk)
    os.truncate(disk, GROWN)
    second = folder / "second.raw"
    second.touch()
    os.truncate(second, 64 << 20)
    subprocess.run(["/sbin/mke2fs", "-q", "-t", "ext4", second], check=True)
    guest = Guest(folder, [*kernel_arguments("generic"), "--disk", disk, "--disk", second, "--append", "console=ttyS0 root=/dev/vda"])
    guest.await_agent()
    yield guest
    guest.console.close()
    disk.unlink()


def test_it_is_there_early(guest):
    """systemd starts it before the system is up, and it takes little."""
    info = guest.ask(do="info")
    assert info["hostname"] == "hull-guest" and info["os"].startswith("Debian")
    guest.run("until systemctl is-active -q basic.target; do sleep 0.1; done")
    started = [int(n) for n in guest.run("systemctl show --value -P ActiveEnterTimestampMonotonic hull-agent.service basic.target").split()]
    assert 0 < started[0] < started[1]
    pages = guest.run("cat /proc/$(systemctl show -P MainPID hull-agent.service)/smaps_rollup")
    pss = next(int(line.split()[1]) for line in pages.splitlines() if line.startswith("Pss:"))
    assert pss < 1024


def test_programs_in_the_guest(guest):
    assert guest.run("cat /etc/hostname; pwd").split() == ["hull-guest", "/root"]
    assert guest.run("id -nu", user="nobody").strip() == "nobody"
    with guest.connect(do="exec", command=[], terminal=True, columns=90, rows=20) as agent:
        agent.started().write(b"stty size; exit 4\n")
        output, _, end = agent.finish()
    assert b"20 90" in output and end == {"exit": 4}


def test_programs_end_with_their_connection(guest):
    with guest.connect(do="exec", command=["sh", "-c", "echo $$; exec sleep 10000"]) as agent:
        pid = int(agent.started().receive()[1])
        assert guest.run(f"cat /proc/{pid}/comm").strip() in ("sh", "sleep")
    guest.run(f"while [ -e /proc/{pid} ]; do sleep 0.1; done")


def push_files(guest, folder, *files):
    """Files: (name, contents, mode)."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content, mode in files:
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.uid, info.mtime = len(content), mode, 33, 1234567890
            archive.addfile(info, io.BytesIO(content))
    with guest.connect(do="push", path=folder) as agent:
        agent.started().write(stream.getvalue())
        agent.eof()
        assert agent.finish()[2] == {"exit": 0}


def test_files_to_the_guest_and_back(guest):
    content = os.urandom(3 << 20)
    push_files(guest, "/srv/new", ("file", content, 0o640))
    assert guest.run("stat -c '%a %u %Y %s' /srv/new/file").split() == ["640", "33", "1234567890", str(len(content))]
    with guest.connect(do="pull", path="/srv/new/file") as agent:
        data, _, end = agent.started().finish()
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.extractfile("file").read() == content
    assert end == {"exit": 0}


def test_nobody_but_the_host_may_ask(guest):
    """Not even root of the guest, over the loopback of vsock, though the loopback works."""
    module = next((GUESTS / "modules-generic").rglob("vsock_loopback.ko"))
    push_files(guest, "/srv/vsock", ("vsock_loopback.ko", module.read_bytes(), 0o644), ("tool", TOOL.read_bytes(), 0o755))
    guest.run("busybox insmod /srv/vsock/vsock_loopback.ko")
    script = "/srv/vsock/tool serve 2000 >/dev/null & until echo words | /srv/vsock/tool connect 2000 1; do sleep 0.1; done"
    assert guest.run(script) == "WORDS\n"
    request = b'{"do":"info"}'
    with guest.connect(do="exec", command=["/srv/vsock/tool", "connect", "1023", "1"]) as agent:
        agent.started().write(struct.pack("<IB", len(request) + 1, CONTROL) + request)
        agent.eof()
        assert agent.finish()[0] == b""


def test_root_is_written_through_its_links(guest):
    """/lib of Debian is a link to usr/lib."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name in ["lib", "var/run"]:
            info = tarfile.TarInfo(name)
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(info)
        for name in ["lib/pushed", "var/run/pushed"]:
            archive.addfile(tarfile.TarInfo(name))
    with guest.connect(do="push", path="/") as agent:
        agent.started().write(stream.getvalue())
        agent.eof()
        assert agent.finish()[2] == {"exit": 0}
    guest.run("test -L /lib && test -e /usr/lib/pushed && test -L /var/run && test -e /run/pushed")


def holds_back(agent):
    """No output comes for a while."""
    return not select.select([agent.socket], [], [], 2)[0]


@pytest.mark.parametrize("how", ["thaw", "close", "kill"])
def test_frozen_file_systems_wait(guest, how):
    guest.run("mountpoint -q /mnt || mount /dev/vdb /mnt; mountpoint -q /media || mount --bind /var /media")
    freezer = guest.connect(do="freeze")
    assert freezer.answer()["ok"]["file_systems"] == ["/mnt", "/"]  # the last mounted first, each once
    with guest.connect(do="freeze") as second:
        assert second.answer()["error"]["code"] == "busy"
    with guest.connect(do="exec", command=["sh", "-c", "echo new >/mnt/frozen; echo new >/var/tmp/frozen; sync; echo done"]) as writer:
        writer.started()
        assert holds_back(writer)
        if how == "thaw":
            assert guest.ask(do="thaw")["file_systems"] == ["/mnt", "/"]
        elif how == "close":
            freezer.socket.close()
        else:
            guest.run("pid=$(systemctl show -P MainPID hull-agent.service); for child in $(cat /proc/$pid/task/$pid/children); do "
                      "grep -q '^VmLck:.* [1-9]' /proc/$child/status && kill -9 $child; done; true")
        assert writer.finish() == (b"done\n", b"", {"exit": 0})
    freezer.socket.close()
    assert guest.ask(do="thaw")["file_systems"] == []


def test_time(guest):
    guest.run("timedatectl set-ntp false 2>/dev/null; true")
    now = time.time_ns()
    assert abs(guest.ask(do="time", ns=now + 3600 * 10**9)["was_off_ns"] + 3600 * 10**9) < 600 * 10**9
    assert abs(int(guest.run("date +%s")) - time.time() - 3600) < 600
    assert abs(guest.ask(do="time", ns=time.time_ns())["was_off_ns"] - 3600 * 10**9) < 600 * 10**9


def test_root_grows(guest):
    before = guest.ask(do="info")["root"]["size_bytes"]
    assert before < 1 << 30
    after = guest.ask(do="grow")["size_bytes"]
    assert after > before + (200 << 20)
    assert guest.ask(do="info")["root"]["size_bytes"] == after
    assert guest.ask(do="grow")["size_bytes"] == after


def test_somebody_else(guest):
    guest.run("mkdir -p /etc/ssh; echo old >/etc/ssh/ssh_host_x_key; "
              "printf '#!/bin/sh\\necho new >/etc/ssh/ssh_host_x_key\\n' >/usr/bin/ssh-keygen; chmod +x /usr/bin/ssh-keygen")
    assert guest.ask(do="identity", hostname="clone", machine_id="0123456789abcdef" * 2, host_keys=True) == {"cards": 0}
    assert guest.ask(do="info")["hostname"] == "clone"
    assert guest.run("cat /etc/hostname /etc/machine-id /etc/ssh/ssh_host_x_key").split() == ["clone", "0123456789abcdef" * 2, "new"]
    hosts = guest.run("cat /etc/hosts")
    assert "clone" in hosts.split() and "hull-guest" not in hosts


def test_reboot_and_power_off(guest):
    """The last: it ends the guest."""
    boot_id = guest.run("cat /proc/sys/kernel/random/boot_id")
    guest.ask(do="shutdown", how="reboot")
    end = time.monotonic() + BOOT_TIMEOUT
    while True:
        guest.await_agent()
        with contextlib.suppress(OSError, EOFError, AssertionError):  # the old one has gone meanwhile
            if guest.run("cat /proc/sys/kernel/random/boot_id") != boot_id:
                break
        assert time.monotonic() < end
        time.sleep(0.5)
    guest.ask(do="shutdown", how="poweroff")
    guest.console.expect("Power down")
    assert guest.console.wait() == 0


def test_power_off_without_an_init(busybox, tmp_path):
    """The first process is a shell, which does not listen to signals."""
    archive = subprocess.run(["cpio", "--quiet", "-o", "-H", "newc"], input=b"hull-agent\n", cwd=AGENT.parent, stdout=subprocess.PIPE,
                             check=True).stdout
    data = pathlib.Path(busybox[3]).read_bytes()
    both = tmp_path / "initrd"
    both.write_bytes(data + bytes(-len(data) % 4) + archive)
    guest = Guest(tmp_path, ["--kernel", busybox[1], "--initrd", both, "--append", "console=ttyS0 quiet"])
    try:
        guest.console.expect("# ")
        guest.console.send_line("/hull-agent & sleep 10000")
        assert guest.await_agent()["os"] == "Linux"
        assert guest.run("id -u").strip() == "0"  # without an /etc/passwd
        with guest.connect(do="grow") as agent:
            assert agent.answer()["error"]["code"] == "unsupported"
        guest.ask(do="shutdown", how="poweroff")
        assert guest.console.wait() == 0
    finally:
        guest.console.close()
