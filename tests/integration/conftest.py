"""Fixtures: the programs under test, real Debian guests, and a guest's console to talk to."""
import contextlib
import fcntl
import functools
import http.server
import io
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

import pexpect
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BUILD = pathlib.Path(os.environ.get("HULL_BUILD", ROOT / "build"))
GUESTS = pathlib.Path(os.environ.get("HULL_GUESTS", BUILD / "guest"))
HULL = BUILD / "bin/hull"
BOOT_TIMEOUT = 240  # seconds; an upper bound for a loaded machine, not an expectation
CLOSE_TIMEOUT = 30


@contextlib.contextmanager
def guests_locked(part):
    """One test process at a time makes this part of the guests."""
    GUESTS.mkdir(parents=True, exist_ok=True)
    with open(GUESTS / f"lock-{part}", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def make_guest(*what):
    """Makes a part of the guests if it is not there."""
    with guests_locked("kernel" if what[0] == "initrd" else what[0]):
        subprocess.run([sys.executable, ROOT / "tools/guest/make_guest.py", GUESTS, *what], check=True)


def group_of(item):
    """Tests that share what is dear to make run in one worker: each worker would make its own, or wait for the other's."""
    fixtures = item._fixtureinfo.name2fixturedefs  # pylint: disable=protected-access
    if "debian_template" in fixtures:
        return "debian_template"
    if any(found[-1].scope == "module" for found in fixtures.values()):
        return item.module.__name__
    return None


@pytest.hookimpl(tryfirst=True)  # before xdist takes the groups
def pytest_collection_modifyitems(items):
    """The longest first: else one worker is left with them at the end."""
    long = ("test_stress", "test_fio_on_every_format", "test_killed_in_the_middle", "test_build")
    items.sort(key=lambda item: not any(name in item.nodeid for name in long))
    for item in items:
        if item.get_closest_marker("xdist_group") is None and (group := group_of(item)) is not None:
            item.add_marker(pytest.mark.xdist_group(group))


def let_others_pass(folder):
    """Other users may look into it, and into what pytest has made above it; the folder for temporary files is everybody's, and stays as it is."""
    above = pathlib.Path(tempfile.gettempdir()).resolve()
    for one in (folder.resolve(), *folder.resolve().parents):
        if one == above or above not in one.parents:
            break
        one.chmod(0o755)


@pytest.fixture(autouse=True)
def temporary_folder_is_as_it_was():
    """Nothing here changes the mode of /tmp: whatever else runs on the host would suffer."""
    before = os.stat(tempfile.gettempdir()).st_mode
    yield
    assert os.stat(tempfile.gettempdir()).st_mode == before


class Console:
    """A VM in the foreground with its console."""

    def __init__(self, arguments, timeout=BOOT_TIMEOUT):
        self.child = pexpect.spawn(str(HULL), ["boot", *map(str, arguments)], timeout=timeout, encoding="utf-8",
                                   codec_errors="replace", dimensions=(50, 200))
        self.child.delaybeforesend = None
        self.child.logfile_read = io.StringIO()

    def transcript(self):
        """All that it wrote so far."""
        return self.child.logfile_read.getvalue()

    def expect(self, pattern, timeout=-1):
        try:
            self.child.expect(pattern, timeout=timeout)
        except (pexpect.EOF, pexpect.TIMEOUT) as error:
            what = "at its end" if isinstance(error, pexpect.EOF) else f"within {self.child.timeout if timeout == -1 else timeout} s"
            # Not "from error": pexpect's own frames would push the transcript out of what a log shows.
            raise AssertionError(f"console never showed {pattern!r} {what}; its end:\n{self.child.before[-3000:]}") from None
        return self.child.match

    def send_line(self, text):
        self.child.sendline(text)

    def shell(self, command, timeout=-1):
        """Runs a command in the guest's shell; returns its output. Fails unless its status is 0."""
        # The quotes keep the words that are waited for out of the terminal's echo.
        self.send_line(f"echo begin''=; {command}; echo status''=$?=")
        match = self.expect(r"(?s)begin=\r*\n(.*?)status=(\d+)=", timeout)
        assert match[2] == "0", f"{command!r} ended with status {match[2]}: {match[1]}"
        return match[1].replace("\r", "")

    def wait(self, timeout=60):
        """Exit status, once the VM has ended by itself."""
        self.expect(pexpect.EOF, timeout)
        self.child.close()
        return self.child.exitstatus

    def close(self):
        """Hangs up; a machine under load may take a while to end the VM."""
        end = time.monotonic() + CLOSE_TIMEOUT
        self.child.kill(signal.SIGHUP)
        while self.child.isalive() and time.monotonic() < end:
            time.sleep(0.02)
        self.child.close(force=True)


@pytest.fixture
def boot():
    """Starts VMs that end with the test."""
    consoles = []

    def start(*arguments, **options):
        console = Console(arguments, **options)
        consoles.append(console)
        return console

    yield start
    for console in consoles:
        console.close()


def hull(*arguments, timeout=60, **options):
    """A hull command to its end: .returncode, .stdout, .stderr as text."""
    return subprocess.run([str(HULL), *map(str, arguments)], capture_output=True, text=True, timeout=timeout,
                          stdin=subprocess.DEVNULL, **options)


@functools.cache
def kernel_arguments(flavour):
    make_guest("initrd", flavour)
    return ["--kernel", GUESTS / f"vmlinuz-{flavour}", "--initrd", GUESTS / f"initrd-{flavour}"]


@pytest.fixture(scope="session")
def busybox():
    """Arguments that boot Debian's cloud kernel with a busybox initrd."""
    return kernel_arguments("cloud")


@pytest.fixture
def debian(tmp_path):
    """Arguments that boot Debian with systemd from a disk of the test's own."""
    make_guest("disk")
    disk = tmp_path / "debian.raw"
    subprocess.run(["cp", "--sparse=always", GUESTS / "debian.raw", disk], check=True)
    yield [*kernel_arguments("generic"), "--disk", disk, "--append", "console=ttyS0 root=/dev/vda"]
    disk.unlink()


@pytest.fixture
def web_server(tmp_path):
    """A server on the host's loopback: (port, folder that it serves)."""
    folder = tmp_path / "www"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    handler.log_message = lambda *_: None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1], folder
    server.shutdown()
    server.server_close()


def strip_ansi(text):
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)


def with_tool(busybox, tool, folder):
    """The arguments of 'busybox' with a program of tests/guest/linux in the guest's root: a second archive behind the initrd."""
    kernel, initrd = busybox[1], busybox[3]
    both = folder / "initrd"
    archive = subprocess.run(["cpio", "--quiet", "-o", "-H", "newc"], input=tool.encode() + b"\n",
                             cwd=BUILD / "tests/guest", stdout=subprocess.PIPE, check=True).stdout
    data = pathlib.Path(initrd).read_bytes()
    both.write_bytes(data + bytes(-len(data) % 4) + archive)
    return ["--kernel", kernel, "--initrd", both]
