"""Shared folders and further serial ports of `hull boot`: Debian's kernel on the soft engine against a folder of the host."""
import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading

import pexpect
import pytest
from conftest import BUILD, GUESTS, hull, kernel_arguments

TOOL = BUILD / "tests/guest/share_tool"
MODULES = ["fuse", "virtiofs"]
AS_ROOT = os.geteuid() == 0


@pytest.fixture(name="kernel", scope="module")
def fixture_kernel(tmp_path_factory):
    """Debian's kernel with its modules for virtiofs, and the tool, in the busybox initrd."""
    return ["--kernel", GUESTS / "vmlinuz-cloud", "--initrd", make_initrd(tmp_path_factory.mktemp("initrd"), TOOL)]


def make_initrd(folder, *programs):
    kernel_arguments("cloud")
    base = GUESTS / "initrd-cloud"
    names = ["lib/order"]
    (folder / "lib").mkdir()
    (folder / "bin").mkdir()
    order = subprocess.run(["cpio", "-i", "--quiet", "--to-stdout", "lib/order"], stdin=base.open("rb"), stdout=subprocess.PIPE, check=True).stdout
    (folder / "lib/order").write_bytes(order + b"".join(f"{m}.ko\n".encode() for m in MODULES))
    for module in MODULES:
        (folder / f"lib/{module}.ko").write_bytes((GUESTS / f"modules-cloud/kernel/fs/fuse/{module}.ko").read_bytes())
        names.append(f"lib/{module}.ko")
    for program in programs:
        copy = folder / "bin" / program.name
        copy.write_bytes(program.read_bytes())
        copy.chmod(0o755)
        names.append(f"bin/{program.name}")
    archive = subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"], input="\n".join(names).encode(), cwd=folder, stdout=subprocess.PIPE, check=True)
    data = base.read_bytes()
    initrd = folder / "initrd"
    initrd.write_bytes(data + bytes(-len(data) % 4) + archive.stdout)
    return initrd


class Vm:
    """A guest with one or more folders mounted on /mnt/TAG."""

    def __init__(self, boot, kernel, folder, shares, *options, is_new=True):
        self.control = folder / "control"
        words = [word for share in shares for word in ("--share", share)]
        self.console = boot("--engine", "soft", "--memory", "256M", "--net", "none", *kernel, "--append", "console=ttyS0 quiet",
                            "--control", self.control, *words, *options)
        if is_new:
            self.console.expect("# ")
            for share in shares:
                tag = share.rsplit(":", 1)[1].split(",")[0]
                self.shell(f"mkdir -p /mnt/{tag} && mount -t virtiofs {tag} /mnt/{tag}")

    def shell(self, command):
        return self.console.shell(command)

    def ctl(self, *words):
        result = hull("ctl", self.control, *words, timeout=120)
        assert result.returncode == 0, result.stderr
        return result.stdout

    def helper(self):
        """The hull-share whose parent is this hull boot."""
        children = pathlib.Path(f"/proc/{self.console.child.pid}/task/{self.console.child.pid}/children").read_text(encoding="ascii").split()
        return next(int(pid) for pid in children if pathlib.Path(f"/proc/{pid}/comm").read_text(encoding="ascii") == "hull-share\n")


@pytest.fixture(name="shared")
def fixture_shared(tmp_path):
    folder = tmp_path / "shared, with a comma: and a colon"
    folder.mkdir()
    return folder


def test_files_on_the_host_behave(tmp_path):
    """The checks themselves, where nothing of ours is between."""
    tmp_path.chmod(0o755)
    words = [TOOL, tmp_path] + (["1234"] if AS_ROOT else [])
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_files_in_the_guest_behave(boot, kernel, shared, tmp_path):
    vm = Vm(boot, kernel, tmp_path, [f"{shared}:data"])
    report = vm.shell(f"share_tool /mnt/data {'1234' if AS_ROOT else ''} || true")
    assert " 0 failed" in report, report
    assert not list(shared.iterdir())


def test_both_sides_see_one_folder_and_the_guest_stays_in_it(boot, kernel, shared, tmp_path):
    (tmp_path / "outside").write_text("outside\n", encoding="ascii")
    (shared / "from-host").write_bytes(os.urandom(5 << 20))
    (shared / "up").symlink_to("../outside")
    (shared / "absolute").symlink_to(tmp_path / "outside")
    os.mkfifo(shared / "pipe")
    readonly = tmp_path / "readonly"
    readonly.mkdir()
    (readonly / "file").write_text("kept\n", encoding="ascii")
    vm = Vm(boot, kernel, tmp_path, [f"{shared}:data", f"{readonly}:ro,readonly"])

    # contents both ways
    digest = subprocess.run(["md5sum", shared / "from-host"], capture_output=True, text=True, check=True).stdout.split()[0]
    assert digest in vm.shell("md5sum /mnt/data/from-host")
    made = vm.shell("dd if=/dev/urandom of=/mnt/data/made bs=64k count=200 2>/dev/null; md5sum /mnt/data/made").split()[0]
    assert made in subprocess.run(["md5sum", shared / "made"], capture_output=True, text=True, check=True).stdout
    (shared / "new").write_text("new\n", encoding="ascii")
    assert vm.shell("cat /mnt/data/new") == "new\n"
    (shared / "new").write_text("changed by the host\n", encoding="ascii")
    assert vm.shell("sleep 1.2; cat /mnt/data/new") == "changed by the host\n"

    # links lead where the guest's own root has something, never to the host's
    assert vm.shell("readlink /mnt/data/up") == "../outside\n"
    assert "no such file" in vm.shell("cat /mnt/data/up /mnt/data/absolute 2>&1 || true").lower()
    vm.shell("echo mine >/mnt/outside && cat /mnt/data/up | grep -q mine")
    assert (tmp_path / "outside").read_text(encoding="ascii") == "outside\n"
    vm.shell(f"ln -s {tmp_path}/escape /mnt/data/escape; ! (echo x >/mnt/data/escape) 2>/dev/null")
    assert not (tmp_path / "escape").exists()

    # nothing that would mean something on the host
    assert "not permitted" in vm.shell("mknod /mnt/data/device c 1 3 2>&1 || true")
    vm.shell("echo x >/mnt/data/program && chmod 6755 /mnt/data/program")
    assert (shared / "program").stat().st_mode & 0o7777 == 0o755

    # read-only
    assert vm.shell("cat /mnt/ro/file") == "kept\n"
    assert vm.shell("for c in 'touch /mnt/ro/x' 'rm /mnt/ro/file' 'chmod 0 /mnt/ro/file' 'mv /mnt/ro/file /mnt/ro/y' 'mkdir /mnt/ro/d'; do"
                    " $c 2>&1 | grep -c 'Read-only'; done").split() == ["1"] * 5
    assert [p.name for p in readonly.iterdir()] == ["file"]


def test_save_and_restore_keep_open_files(boot, kernel, shared, tmp_path):
    saved = tmp_path / "saved"
    vm = Vm(boot, kernel, tmp_path, [f"{shared}:data"])
    vm.shell("cd /mnt/data && mkdir d && echo before >d/open && exec 5>>d/open && echo read-me >d/read && exec 6<d/read && mv d e"
             " && echo gone >gone && exec 7<gone && rm gone")
    vm.ctl("pause")
    vm.ctl("save", f"file={saved}")
    vm.ctl("quit")
    vm.console.child.expect(pexpect.EOF)
    restored = Vm(boot, kernel, tmp_path, [f"{shared}:data"], "--restore", saved, is_new=False)
    assert restored.shell("echo after >&5; cat <&6; cat e/open; ls") == "read-me\nbefore\nafter\ne\n"
    assert (shared / "e/open").read_text(encoding="ascii") == "before\nafter\n"
    assert "tale" in restored.shell("cat <&7 2>&1 || true"), "a file without a name does not survive"


def test_guest_goes_on_when_the_helper_is_killed(boot, kernel, shared, tmp_path):
    (shared / "file").write_text("x\n", encoding="ascii")
    vm = Vm(boot, kernel, tmp_path, [f"{shared}:data"])
    events = subprocess.Popen([BUILD / "bin/hull", "ctl", vm.control, "events"], stdout=subprocess.PIPE, text=True)
    try:
        vm.shell("cat /mnt/data/file")
        os.kill(vm.helper(), signal.SIGKILL)
        found = next(line for line in events.stdout if "share-lost" in line)
        assert "data" in found and "hull-share has ended" in found
    finally:
        events.kill()
        events.communicate()
    assert "I/O error" in vm.shell("ls /mnt/data/nothing 2>&1 || true").replace("Input/output", "I/O")
    assert vm.shell("echo alive") == "alive\n"
    vm.ctl("pause")
    vm.ctl("resume")
    assert vm.shell("echo alive") == "alive\n"


class Helper:
    """hull-share without a VM: requests of FUSE from here."""

    def __init__(self, program, folder, *options, **process):
        own, other = socket.socketpair()
        self.socket = own
        own.settimeout(60)
        reader, writer = os.pipe()
        with other, open(reader, encoding="ascii") as ready:
            self.process = subprocess.Popen([program, "--fd", str(other.fileno()), "--ready-fd", str(writer), "--folder", folder, *options],
                                            pass_fds=[other.fileno(), writer], **process)
            os.close(writer)
            self.ready = ready.read().strip()

    def ask(self, opcode, node, *parts):
        body = b"".join(parts)
        request = struct.pack("=IIQQIIIHH", 40 + len(body), opcode, 1, node, os.geteuid(), os.getegid(), 0, 0, 0) + body
        self.socket.sendall(struct.pack("=IIII", len(request), 1, 0, 4096) + request)
        size = struct.unpack("=IIII", self.take(16))[0]
        reply = self.take(size)
        return struct.unpack("=i", reply[4:8])[0], reply[16:]

    def take(self, size):
        data = b""
        while len(data) < size:
            part = self.socket.recv(size - len(data))
            assert part, "hull-share has ended"
            data += part
        return data

    def end(self):
        self.socket.close()
        return self.process.wait(60)


@pytest.mark.skipif(not AS_ROOT, reason="becomes another user")
def test_helper_of_an_ordinary_user(request):
    """All is his, and the process sees one folder and nothing else."""
    base = pathlib.Path(tempfile.mkdtemp())
    request.addfinalizer(lambda: shutil.rmtree(base))
    base.chmod(0o755)
    shutil.copy(BUILD / "bin/hull-share", base / "hull-share")
    folder = base / "folder"
    folder.mkdir()
    os.chown(folder, 1234, 1234)
    (folder / "of-root").write_text("kept", encoding="ascii")
    helper = Helper(base / "hull-share", folder, user=1234, group=1234, extra_groups=[])
    try:
        assert helper.ready == "ready"
        status = dict(line.split(":\t", 1) for line in pathlib.Path(f"/proc/{helper.process.pid}/status").read_text(encoding="ascii").splitlines() if ":\t" in line)
        assert [int(status[name], 16) for name in ("CapPrm", "CapEff", "CapBnd")] == [0, 0, 0]
        assert (status["NoNewPrivs"], status["Seccomp"], status["Uid"].split()[0]) == ("1", "2", "1234")
        assert sorted(os.listdir(f"/proc/{helper.process.pid}/root")) == ["of-root"]
        assert helper.ask(35, 1, struct.pack("=IIII", os.O_CREAT | os.O_WRONLY, 0o644, 0, 0), b"made\0")[0] == 0
        assert (folder / "made").stat().st_uid == 1234
        error, entry = helper.ask(1, 1, b"made\0")
        assert error == 0
        node = struct.unpack("=Q", entry[:8])[0]
        owner = struct.pack("=IIQQQQQQIIIIIIII", 6, 0, *[0] * 11, 55, 66, 0)  # FATTR_UID, FATTR_GID
        assert helper.ask(4, node, owner)[0] == 0
        assert (folder / "made").stat().st_uid == 1234
        node = struct.unpack("=Q", helper.ask(1, 1, b"of-root\0")[1][:8])[0]
        assert helper.ask(14, node, struct.pack("=II", os.O_RDWR, 0))[0] == -13  # EACCES
    finally:
        assert helper.end() == 0


def test_helper_of_root_keeps_what_owners_need(shared):
    helper = Helper(BUILD / "bin/hull-share", shared, "--readonly")
    try:
        assert helper.ready == "ready"
        status = pathlib.Path(f"/proc/{helper.process.pid}/status").read_text(encoding="ascii")
        capabilities = int(status.split("CapEff:\t")[1].split()[0], 16)
        assert capabilities & ~(1 << 0 | 1 << 1 | 1 << 3 | 1 << 6 | 1 << 7) == 0  # chown, dac_override, fowner, setgid, setuid
        assert os.listdir(f"/proc/{helper.process.pid}/root") == []
        assert os.statvfs(f"/proc/{helper.process.pid}/root").f_flag & os.ST_RDONLY
        assert helper.ask(9, 1, struct.pack("=II", 0o755, 0), b"d\0")[0] == -30  # EROFS
    finally:
        assert helper.end() == 0


@pytest.mark.parametrize("words, why", [
    (["--share", "/nowhere/at/all:data"], "an existing folder"),
    (["--share", "/tmp"], "is no share: DIR:TAG"),
    (["--share", "/tmp:a b"], "is no tag"),
    (["--share", "/tmp:x,writable"], "unknown"),
    (["--share", "/tmp:x", "--share", "/:x"], "two shares have the tag x"),
    (["--serial", "tcp:1"], "is no serial port"),
])
def test_wrong_words_are_explained(kernel, words, why):
    result = hull("boot", *kernel, "--engine", "soft", *words)
    assert result.returncode == 1
    assert why in result.stderr and len(result.stderr.strip().splitlines()) == 1


def test_serial_ports(boot, kernel, tmp_path):
    link, path, file = tmp_path / "pty", tmp_path / "socket", tmp_path / "file"
    vm = Vm(boot, kernel, tmp_path, [], "--serial", f"pty:{link}", "--serial", f"unix:{path}", "--serial", f"file:{file}")
    peer = socket.socket(socket.AF_UNIX)
    peer.settimeout(60)
    peer.connect(str(path))
    pty = os.open(link, os.O_RDWR | os.O_NOCTTY)
    try:
        vm.shell("for i in 1 2 3; do stty -F /dev/ttyS$i raw -echo; done; echo by pty >/dev/ttyS1; echo by socket >/dev/ttyS2; echo by file >/dev/ttyS3")
        assert os.read(pty, 100) == b"by pty\n"
        assert peer.recv(100, socket.MSG_WAITALL & 0) == b"by socket\n"
        assert file.read_bytes() == b"by file\n"
        sender = threading.Timer(0.2, lambda: (os.write(pty, b"to the pty\n"), peer.sendall(b"to the socket\n")))
        sender.start()
        assert vm.shell("(read x </dev/ttyS2; echo $x >/tmp/2) & read x </dev/ttyS1; echo $x; wait; cat /tmp/2") == "to the pty\nto the socket\n"
        sender.join()
    finally:
        os.close(pty)
        peer.close()
    vm.ctl("quit")
    vm.console.child.wait()
    assert not link.is_symlink() and not path.exists() and file.exists()
