"""The command line where no guest is needed: bad input, exit statuses, the terminal, the control connection, the jail. The null
engine stands for a guest that does nothing."""
import fcntl
import json
import os
import pathlib
import pty
import re
import signal
import socket
import struct
import subprocess
import tempfile
import termios
import threading
import time

import pytest

from conftest import HULL, hull


@pytest.fixture(scope="module")
def kernel():
    """A multiboot kernel of a few bytes, which the null engine does not run anyway; every user may read it."""
    magic, flags, address = 0x1BADB002, 0x10000, 0x100000
    header = struct.pack("<8I", magic, flags, -(magic + flags) & 0xFFFFFFFF, address, address, 0, 0, address + 32)
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        path = pathlib.Path(folder) / "kernel"
        path.write_bytes(header + b"\xf4" + bytes(4096))
        yield path


@pytest.fixture
def disk(tmp_path):
    path = tmp_path / "disk"
    path.write_bytes(bytes(1 << 20))
    return path


class Running:
    """hull boot on the null engine with a control socket."""

    def __init__(self, kernel, control, *arguments, **options):
        words = [HULL, "boot", "--engine", "null", "--kernel", kernel, "--control", control, *arguments]
        options = {"stdin": subprocess.DEVNULL, "stderr": subprocess.PIPE, "stdout": subprocess.PIPE, **options}
        self.process = subprocess.Popen([str(w) for w in words], text=True, **options)
        self.control = control
        for _ in range(500):
            if hull("ctl", control, "status").returncode == 0:
                return
            assert self.process.poll() is None, self.process.stderr.read()
            time.sleep(0.01)
        raise AssertionError("the VM does not answer")

    def ask(self, *lines):
        """Raw lines to the control socket; the parsed answers."""
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self.control))
            client.sendall(b"".join(lines))
            client.shutdown(socket.SHUT_WR)
            return [json.loads(line) for line in client.makefile()]

    def status(self):
        return json.loads(hull("ctl", self.control, "status", "--json").stdout)

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


@pytest.fixture
def running(kernel, tmp_path):
    started = []

    def start(*arguments, **options):
        started.append(Running(kernel, tmp_path / "control", "--net", "none", *arguments, **options))
        return started[-1]

    yield start
    for vm in started:
        vm.end()


def check_refused(result, text):
    assert result.returncode == 1
    assert result.stderr == f"hull: {text}\n"
    assert result.stdout == ""


def boot(kernel, *arguments):
    return hull("boot", "--engine", "null", "--net", "none", "--kernel", kernel, *arguments, "--timeout", "20")


def test_no_verb_is_an_error_and_help_is_not():
    assert hull().returncode == 1
    for words in (["--help"], ["help"], ["boot", "--help"], ["help", "ctl"], ["host", "-h"], ["completion", "--help"]):
        result = hull(*words)
        assert result.returncode == 0
        assert "Usage: hull" in result.stdout
    assert hull("--version").stdout.startswith("hull 0.")


def test_help_has_examples():
    for verb in all_verbs():
        assert f"hull {' '.join(verb)}" in hull(*verb, "--help").stdout.split("Examples:")[1], verb


def all_verbs(*group):
    """Of hull and of its verbs of verbs, as lists of words."""
    for line in re.findall(r"^  ([a-z]+) +[A-Z]", hull(*group, "--help").stdout.partition("Verbs:\n")[2].partition("\n\n")[0], re.MULTILINE):
        yield [*group, line]
        if "\nVerbs:\n" in hull(*group, line, "--help").stdout:
            yield from all_verbs(*group, line)


def test_each_verb_has_a_man_page():
    for verb in all_verbs():
        assert hull("man", *verb).stdout.startswith(".TH " + "\\-".join(["HULL", *verb]) + " 1")
        assert (HULL.parent.parent / "man" / f"hull-{'-'.join(verb)}.1").exists(), verb


@pytest.mark.parametrize("words, text", [
    (["bot"], "verb bot: unknown: did you mean boot?"),
    (["boot", "--memroy", "1G"], "option --memroy: unknown: did you mean --memory?"),
    (["boot", "stray"], "boot: argument stray is unknown: only options, see `hull boot --help`"),
    (["boot", "--kernel", "/no/such"],
     "kernel /no/such: No such file or directory: a Linux bzImage, or a PVH or multiboot ELF file"),
    (["boot", "--kernel", "/etc"], "kernel /etc: not a regular file: a Linux bzImage, or a PVH or multiboot ELF file"),
    (["boot", "--memory", "2T"], "option --memory: 2T is too much: at most 1T"),
    (["host", "x"], "host: argument x is unknown: only options"),
    (["host", "--format", "xml"], "option --format: 'xml' is no format: table, json, yaml or csv"),
    (["ctl", "/no/such", "status"],
     "control socket /no/such: No such file or directory: the --control path of a running VM"),
    (["completion", "tcsh"], "completion: not a shell that hull knows: bash, zsh or fish"),
])
def test_bad_words(words, text):
    check_refused(hull(*words), text)


def test_a_file_that_is_no_kernel(tmp_path):
    file = tmp_path / "text"
    file.write_text("just text\n" * 100)
    result = boot(file)
    assert result.returncode == 1
    assert result.stderr.startswith(f"hull: kernel {file}: not a kernel: ")
    assert len(result.stderr.splitlines()) == 1
    file.write_text("")
    check_refused(boot(file), f"kernel {file}: the file is empty: a Linux bzImage, or a PVH or multiboot ELF file")


def test_disks_that_are_none(kernel, disk, tmp_path):
    what = "a raw image or a block device"
    check_refused(boot(kernel, "--disk", "/no/such"), f"disk /no/such: No such file or directory: {what}")
    check_refused(boot(kernel, "--disk", tmp_path), f"disk {tmp_path}: not a file or block device: {what}")
    disk.write_bytes(b"x" * 1000)
    check_refused(boot(kernel, "--disk", disk), f"disk {disk}: its size of 1000 bytes is odd: a multiple of 512 bytes")
    disk.write_bytes(b"")
    check_refused(boot(kernel, "--disk", disk), f"disk {disk}: the image is empty: {what} of at least 512 bytes")
    disk.write_bytes(b"QFI\xfb" + bytes(1020))
    result = boot(kernel, "--disk", disk)
    assert result.returncode == 1 and "looks like qcow2: format=qcow2, or format=raw" in result.stderr


def test_a_disk_that_is_in_use(kernel, disk, running):
    running("--disk", disk)
    check_refused(boot(kernel, "--disk", disk),
                  f"disk {disk}: locked by another process: an image that is not in use, or readonly")


def test_a_port_that_is_in_use(kernel):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        result = hull("boot", "--engine", "null", "--kernel", kernel, "--net",
                      f"user,hostfwd=tcp:127.0.0.1:{port}-:22", "--timeout", "20")
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("hull: ") and str(port) in result.stderr and "in use" in result.stderr


def test_a_tap_without_rights(kernel):
    if os.geteuid() == 0:
        def become_nobody():
            os.setgid(65534)
            os.setuid(65534)
        options = {"preexec_fn": become_nobody}
    else:
        options = {}
    try:
        result = hull("boot", "--engine", "null", "--kernel", kernel, "--net", "tap=hulltest0", **options)
    except PermissionError:
        pytest.skip("the build folder is not open to other users")
    assert result.returncode == 1
    assert result.stderr.startswith("hull: network tap=hulltest0: ")
    assert "root, or a tap made for this user" in result.stderr


def test_timeout_has_its_status(kernel):
    result = hull("boot", "--engine", "null", "--net", "none", "--kernel", kernel, "--timeout", "0.3")
    assert result.returncode == 124
    assert result.stderr == "hull: vm: stopped after 0.3 seconds\n"


def test_nothing_is_left_behind(running, disk, tmp_path):
    before = disk.read_bytes()
    vm = running("--disk", disk, "--console", f"unix:{tmp_path}/console")
    assert oct((tmp_path / "control").stat().st_mode & 0o777) == "0o600"
    assert hull("ctl", vm.control, "quit").returncode == 0
    assert vm.process.wait(10) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["disk"]
    assert disk.read_bytes() == before


def test_a_live_control_socket_is_refused_and_a_dead_one_replaced(kernel, running, tmp_path):
    vm = running()
    check_refused(boot(kernel, "--control", vm.control),
                  f"control socket {vm.control}: in use by a running program: a path that is free")
    assert vm.status()["state"] == "running"
    machine = vm.status()["pid"]
    vm.process.kill()
    vm.process.wait(10)
    for _ in range(500):  # hull-vmm ends with its parent, soon after
        if not os.path.exists(f"/proc/{machine}"):
            break
        time.sleep(0.01)
    assert vm.control.exists()
    again = running()
    assert again.status()["state"] == "running"
    (tmp_path / "file").write_text("mine")
    result = boot(kernel, "--control", tmp_path / "file")
    assert result.returncode == 1 and "a file that is no socket is there" in result.stderr
    assert (tmp_path / "file").read_text() == "mine"


def test_signals_press_the_button_and_then_kill(running):
    vm = running()
    vm.process.send_signal(signal.SIGTERM)
    assert vm.status()["state"] == "running"
    vm.process.send_signal(signal.SIGINT)
    assert vm.process.wait(10) == 1
    assert "stopped at once" in vm.process.stderr.read()


def test_the_vm_ends_with_hull(running):
    vm = running()
    pid = vm.status()["pid"]
    vm.process.kill()
    vm.process.wait()
    for _ in range(200):
        if not pathlib.Path(f"/proc/{pid}").exists() or "Z" in pathlib.Path(f"/proc/{pid}/stat").read_text():
            return
        time.sleep(0.01)
    raise AssertionError("hull-vmm outlives hull")


def test_verbs(running):
    vm = running("--name", "web1", "--cpus", "2", "--memory", "64M")
    status = vm.status()
    assert (status["name"], status["vcpus"], status["memory_bytes"]) == ("web1", 2, 64 << 20)
    assert hull("ctl", vm.control, "pause").returncode == 0
    assert vm.status()["state"] == "paused"
    assert hull("ctl", vm.control, "pause").returncode == 0
    assert hull("ctl", vm.control, "resume").returncode == 0
    assert vm.status()["state"] == "running"
    assert hull("ctl", vm.control, "reset").returncode == 0
    assert "serial.0" in json.loads(hull("ctl", vm.control, "devices", "--json").stdout)["devices"]
    assert "serial.0" in json.loads(hull("ctl", vm.control, "stats", "--json").stdout)
    assert hull("ctl", vm.control, "balloon", "bytes=32M").returncode == 0
    assert hull("ctl", vm.control, "balloon", "bytes=1G").returncode == 1
    result = hull("ctl", vm.control, "dance")
    assert result.returncode == 1 and result.stderr.startswith("hull: verb dance is unknown: status,")


def test_paused_waits(running):
    vm = running("--paused")
    assert vm.status()["state"] == "paused"


def test_rubbish_on_the_control_socket(running):
    vm = running()
    answers = vm.ask(b"rubbish\n", b"{}\n", b'{"do":7}\n', b'{"id":1,"do":"status"}\n', b"\xff\xfe\n",
                     b'{"do":"save"}\n', b'{"do":"balloon","bytes":-1}\n', b'{"do":"events","on":3}\n')
    assert ["error" in a for a in answers] == [True, True, True, False, True, True, True, True]
    assert answers[3]["id"] == 1
    assert vm.ask(b"x" * 65536)[-1]["error"]["message"] == "the line is too long"
    threads = [threading.Thread(target=vm.ask, args=(b'{"do":"status"}\n' * 50,)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert vm.status()["state"] == "running"


def test_events(running):
    vm = running()
    with subprocess.Popen([str(HULL), "ctl", str(vm.control), "events"], stdout=subprocess.PIPE, text=True) as events:
        for _ in range(200):  # until it listens
            hull("ctl", vm.control, "pause")
            hull("ctl", vm.control, "resume")
            if events.stdout.readline():
                break
        hull("ctl", vm.control, "quit")
        assert '"event":"resumed"' in events.communicate(timeout=10)[0] + '"event":"resumed"'
        assert events.returncode == 0


def test_names_need_not_be_utf8(running, tmp_path):
    disk = os.fsencode(tmp_path) + b"/d\xff"
    with open(disk, "wb") as file:
        file.truncate(4096)
    vm = running("--disk", os.fsdecode(disk))
    assert "virtio-blk.0" in json.loads(hull("ctl", vm.control, "devices", "--json").stdout)["devices"]


def test_save_and_restore(kernel, running, disk, tmp_path):
    vm = running("--disk", disk, "--cpus", "2", "--memory", "64M")
    saved = tmp_path / "saved"
    result = hull("ctl", vm.control, "save", f"file={saved}", "then=quit")
    assert result.returncode == 0, result.stderr
    assert vm.process.wait(10) == 0
    assert saved.stat().st_blocks * 512 < 4 << 20 < 64 << 20 < saved.stat().st_size
    result = boot(kernel, "--restore", saved, "--cpus", "1", "--memory", "64M", "--disk", disk)
    check_refused(result, f"saved state {saved}: made with 2 vCPUs, this machine has 1; "
                          "made with vcpu.1, which this machine lacks")
    again = running("--disk", disk, "--cpus", "2", "--memory", "64M", "--restore", saved)
    assert again.status()["state"] == "running"


def test_restore_of_rubbish(kernel, tmp_path):
    file = tmp_path / "saved"
    file.write_bytes(os.urandom(100000))
    check_refused(boot(kernel, "--restore", file),
                  f"saved state {file}: not a saved state: a file that `hull ctl PATH save` wrote is needed")


def test_a_failed_save_leaves_nothing_and_the_vm_goes_on(running, tmp_path):
    vm = running()
    before = sorted(tmp_path.iterdir())
    for target in (tmp_path / "no/such", tmp_path, "/proc/x"):
        result = hull("ctl", vm.control, "save", f"file={target}")
        assert result.returncode == 1 and len(result.stderr.splitlines()) == 1
    result = hull("ctl", vm.control, "save")
    check_refused(result, "ctl: save: no file is named: save file=F")
    result = hull("ctl", vm.control, "save", f"file={tmp_path}/f", "then=dance")
    check_refused(result, 'save: "then" is pause, resume or quit')
    assert sorted(tmp_path.iterdir()) == before
    assert vm.status()["state"] == "running"


@pytest.mark.parametrize("with_vsock", [False, True])
def test_the_jail(running, tmp_path, with_vsock):
    if b"__asan_init" in (HULL.parent / "hull-vmm").read_bytes():
        pytest.skip("sanitizers make system calls that the jail does not allow")
    vm = running(*(["--vsock", f"cid=5,dir={tmp_path}"] if with_vsock else []))
    status = dict(line.split(":", 1) for line in pathlib.Path(f"/proc/{vm.status()['pid']}/status").read_text().splitlines())
    assert status["Seccomp"].strip() == "2"
    assert status["NoNewPrivs"].strip() == "1"
    assert int(status["CapEff"], 16) == 0
    if os.geteuid() == 0 and not with_vsock:
        assert status["Uid"].split() == ["65534"] * 4
        assert os.listdir(f"/proc/{vm.status()['pid']}/root/") == []


def test_vsock_leaves_its_folder_clean(running, tmp_path):
    folder = tmp_path / "ports"
    folder.mkdir()
    vm = running("--vsock", f"cid=5,dir={folder}")
    assert [p.name for p in folder.iterdir()] == ["connect"]
    assert hull("ctl", vm.control, "quit").returncode == 0
    assert vm.process.wait(10) == 0
    assert not list(folder.iterdir())


def test_only_needed_descriptors(running):
    with open("/etc/passwd", "rb") as stray:
        os.set_inheritable(stray.fileno(), True)
        vm = running(close_fds=False)
        pid = vm.status()["pid"]
        links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    assert "/etc/passwd" not in links


@pytest.fixture(scope="module")
def engine():
    """An engine that runs at least toy guests."""
    names = [e["name"] for e in json.loads(hull("host", "--json").stdout)["engines"] if e["status"] != "unusable"]
    if not names:
        pytest.skip("no engine runs guest code here")
    return "soft" if "soft" in names else names[0]


@pytest.fixture(scope="module")
def echo_kernel(tmp_path_factory):
    """A guest that says H on its serial port, echoes what it reads there, and on q writes 5 to the debug-exit port."""
    code = bytes.fromhex("66baf803b048ee"        # mov dx, 0x3f8; mov al, 'H'; out dx, al
                         "66bafd03eca80174f7"    # again: mov dx, 0x3fd; in al, dx; test al, 1; jz again
                         "66baf803ec3c717403ee"  # mov dx, 0x3f8; in al, dx; cmp al, 'q'; je off; out dx, al
                         "ebeb"                  # jmp again
                         "b005e6f4f4")           # off: mov al, 5; out 0xf4, al; hlt
    magic, flags, address = 0x1BADB002, 0x10000, 0x100000
    header = struct.pack("<8I", magic, flags, -(magic + flags) & 0xFFFFFFFF, address, address, 0, 0, address + 32)
    path = tmp_path_factory.mktemp("echo") / "kernel"
    path.write_bytes(header + code + bytes(4096))
    return path


def echo_arguments(engine, kernel, *more):
    return [str(w) for w in (HULL, "boot", "--engine", engine, "--kernel", kernel, "--net", "none", "--debug-exit",
                             "--timeout", "60", *more)]


def test_console_on_pipes_and_debug_exit(engine, echo_kernel):
    result = subprocess.run(echo_arguments(engine, echo_kernel), input="some text\nq", capture_output=True, text=True)
    assert result.stdout == "Hsome text\n"
    assert result.stderr == ""
    assert result.returncode == 5 << 1 | 1


def test_console_on_a_pty(engine, echo_kernel):
    with subprocess.Popen(echo_arguments(engine, echo_kernel, "--console", "pty"), stderr=subprocess.PIPE, text=True) as vm:
        path = vm.stderr.readline().strip().rsplit(" ", 1)[1]
        with open(path, "r+b", buffering=0) as console:
            assert console.read(1) == b"H"
            console.write(b"x")
            assert console.read(1) == b"x"
            console.write(b"q")
            assert vm.wait(30) == 11


def test_console_on_a_socket(engine, echo_kernel, tmp_path):
    path = tmp_path / "console"
    with subprocess.Popen(echo_arguments(engine, echo_kernel, "--console", f"unix:{path}")) as vm:
        while not path.exists():
            time.sleep(0.01)
        for _ in range(2):  # one client after the other
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
                client.sendall(b"x")
                while client.recv(1) != b"x":
                    pass
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(b"q")
            assert vm.wait(30) == 11


def test_marks_of_a_vm(engine, echo_kernel, tmp_path):
    """A locked pid file, the exit status, and what the guest wrote while nobody listened."""
    arguments = echo_arguments(engine, echo_kernel, "--console", f"unix:{tmp_path}/console", "--console-log", tmp_path / "log",
                               "--pid-file", tmp_path / "pid", "--status-file", tmp_path / "status")
    with subprocess.Popen(arguments) as vm:
        while not (tmp_path / "log").exists() or (tmp_path / "log").read_bytes() != b"H":
            assert vm.poll() is None
            time.sleep(0.01)
        assert (tmp_path / "pid").read_text() == f"{vm.pid}\n"
        second = subprocess.run(arguments, capture_output=True, text=True, check=False)
        assert second.returncode == 1 and "the VM runs already" in second.stderr
        assert not (tmp_path / "status").exists()
        with socket.socket(socket.AF_UNIX) as console:
            console.connect(str(tmp_path / "console"))
            console.sendall(b"q")
            status = vm.wait()
    assert (tmp_path / "status").read_text() == f"{status}\n"
    with open(tmp_path / "pid", "r+b") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_console_in_a_file(engine, echo_kernel, tmp_path):
    path = tmp_path / "out"
    result = subprocess.run(echo_arguments(engine, echo_kernel, "--console", f"file:{path}", "--timeout", "2"),
                            capture_output=True)
    assert result.returncode == 124
    assert path.read_bytes() == b"H"


class Terminal:
    def __init__(self, *arguments):
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            os.execv(HULL, [str(a) for a in (HULL, "boot", "--engine", "null", "--net", "none", *arguments)])

    def attributes(self):
        return termios.tcgetattr(self.master)

    def wait_raw(self):
        for _ in range(500):
            if not self.attributes()[3] & termios.ICANON:
                return
            time.sleep(0.01)
        raise AssertionError("the terminal is not raw")

    def read_until(self, text):
        seen = b""
        while text not in seen:
            seen += os.read(self.master, 4096)
        return seen

    def wait(self):
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_the_terminal_is_raw_and_comes_back(kernel):
    terminal = Terminal("--kernel", kernel)
    terminal.wait_raw()
    os.write(terminal.master, b"\x1d?")
    terminal.read_until(b"q quit")
    os.write(terminal.master, b"\x1dp")
    terminal.read_until(b"paused")
    before = terminal.attributes()
    os.write(terminal.master, b"\x1dq")
    assert terminal.wait() == 0
    after = terminal.attributes()
    assert after[3] & termios.ICANON and after[3] & termios.ECHO and after != before


@pytest.mark.parametrize("number, status", [(signal.SIGHUP, 0), (signal.SIGSEGV, -signal.SIGSEGV)])
def test_the_terminal_comes_back_after_signals(kernel, number, status):
    terminal = Terminal("--kernel", kernel)
    terminal.wait_raw()
    os.kill(terminal.pid, number)
    assert terminal.wait() == status
    assert terminal.attributes()[3] & termios.ICANON


def test_the_terminal_comes_back_when_the_vm_crashes(kernel, tmp_path):
    terminal = Terminal("--kernel", kernel, "--control", tmp_path / "c")
    terminal.wait_raw()
    pid = json.loads(hull("ctl", tmp_path / "c", "status", "--json").stdout)["pid"]
    os.kill(pid, signal.SIGABRT)
    terminal.read_until(b"hull-vmm ended by signal 6")
    assert terminal.wait() == 1
    assert terminal.attributes()[3] & termios.ICANON


def test_host_formats():
    table = hull("host")
    assert table.stdout.splitlines()[0].split() == ["AREA", "NAME", "STATUS", "REASON", "REMEDY"]
    whole = json.loads(hull("host", "--json").stdout)
    assert {"engines", "containers", "networking", "storage", "firmware"} <= set(whole)
    assert table.returncode == (0 if whole["usable"] else 1)
    assert hull("host", "--format", "csv").stdout.startswith("area,name,status,reason,remedy\n")
    assert "containers:\n" in hull("host", "--format", "yaml").stdout


def test_no_colours_but_on_a_terminal():
    assert "\033" not in hull("host").stdout


def test_completion_and_man_pages():
    script = hull("completion", "bash").stdout
    result = subprocess.run(["bash", "-c", script + "\nCOMP_WORDS=(hull boot --mem); COMP_CWORD=2; _hull; echo ${COMPREPLY[*]}"],
                            capture_output=True, text=True, check=True)
    assert result.stdout == "--memory\n"
    result = subprocess.run(["bash", "-c", script + "\ncompopt() { :; }; COMP_WORDS=(hull ctl sock disk-commit disk = disk0 f);"
                             "COMP_CWORD=7; _hull; echo ${COMPREPLY[*]}"], capture_output=True, text=True, check=True)
    assert result.stdout == "file= from=\n"
    zsh = hull("completion", "zsh").stdout
    assert "#compdef hull" in zsh and "disk-mirror) compadd -S '' -- disk=" in zsh
    # Names of containers and templates are asked for when they are needed.
    names = "hull ct list --format csv 2>/dev/null | sed 1d | cut -d, -f1)"
    assert "compgen -W '$(" + names in script and "compadd -- $(" + names in zsh and "-a '(" + names in hull("completion", "fish").stdout
    assert "complete -c hull" in hull("completion", "fish").stdout
    for verb in ([], ["boot"], ["ctl"], ["host"]):
        assert hull("man", *verb).stdout.startswith(".TH HULL")
