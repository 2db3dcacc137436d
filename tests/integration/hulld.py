"""A manager of a test's own: hulld with folders and a network of its own, a client of its API, and `hull` pointed at it."""
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import time
import urllib.parse

import pytest
from conftest import BUILD, GUESTS, HULL, kernel_arguments

HULLD = BUILD / "bin/hulld"
TIMEOUT = 480  # seconds; an upper bound for a loaded machine
NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="containers and bridges need root")
APPLETS = ("sh", "sleep", "true", "false", "echo", "cat", "mount", "init", "poweroff", "halt", "tar", "ls", "hostname", "id", "kill", "ip", "ping", "env", "pwd",
           "wc", "nslookup", "udhcpc", "head", "seq", "yes", "touch", "rm", "mkdir", "test", "stty", "sha256sum")


def until(check, what, timeout=TIMEOUT):
    end = time.monotonic() + timeout
    while not (found := check()):
        assert time.monotonic() < end, f"{what}: not within {timeout} s"
        time.sleep(0.02)
    return found


class Connection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path):
        super().__init__("hull", timeout=TIMEOUT)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(self.path)


class Failure(AssertionError):
    """An answer that is an error."""

    def __init__(self, status, error):
        super().__init__(f"{status}: {error}")
        self.status, self.error = status, error


class Manager:
    def __init__(self, folder, *options):
        self.folder, self.options, self.process = folder, options, None
        self.state, self.socket = folder / "state", folder / "state/run/hulld.sock"
        # What the manager makes of networks and mounts ends with this process.
        self.holder = subprocess.Popen(["unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", "ip link set lo up; echo; exec sleep 100000"],
                                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        self.holder.stdout.readline()
        self.environment = {**os.environ, "HULL_STATE": str(self.state), "HULL_SOCKET": str(self.socket)}
        try:
            self.prepare()
            self.start()
        except BaseException:
            if self.process is not None:
                self.process.kill()
                self.process.wait()
            self.holder.kill()
            self.holder.wait()
            raise

    def prepare(self):
        """What has to be there before hulld is."""

    def within(self, *words):
        """The words of a command in the manager's namespaces."""
        return ["nsenter", "--net", "--mount", "-t", str(self.holder.pid), *map(str, words)]

    def start(self):
        with open(self.folder / "hulld.log", "ab") as log:
            self.process = subprocess.Popen(self.within(HULLD, "--state", self.state, *self.options), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            env=self.environment)
        until(self.answers, "hulld")

    def answers(self):
        assert self.process.poll() is None, self.log()
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.get("/v1/system") is not None
        return False

    def log(self):
        return (self.folder / "hulld.log").read_text(errors="replace")[-4000:]

    def kill(self):
        self.process.kill()
        self.process.wait()

    def restart(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(TIMEOUT) == 0, self.log()
        self.start()

    def connection(self):
        return Connection(self.socket)

    def call(self, method, path, body=None):
        """(status, headers, what the body holds)"""
        connection = self.connection()
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None, {"Content-Type": "application/json"} if body is not None else {})
            answer = connection.getresponse()
            data = answer.read()
            is_json = answer.getheader("Content-Type", "").startswith("application/json")
            return answer.status, answer.headers, json.loads(data) if is_json and data else data.decode()
        finally:
            connection.close()

    def ok(self, method, path, body=None):
        status, _, answer = self.call(method, path, body)
        if status >= 400:
            raise Failure(status, answer["error"] if isinstance(answer, dict) else answer)
        return answer

    def get(self, path):
        return self.ok("GET", path)

    def wait(self, operation):
        """Until it has ended, also over restarts of hulld; its document."""
        return until(lambda: (seen := self.get(f"/v1/operations/{operation['name']}?wait=2"))["status"] in ("done", "failed", "cancelled") and seen,
                     f"operation {operation}")

    def do(self, method, path, body=None):
        """An operation, which has to succeed."""
        ended = self.wait(self.ok(method, path, body))
        assert ended["status"] == "done", ended
        return ended

    def hull(self, *words, check=True, stdin=subprocess.DEVNULL, timeout=TIMEOUT, **options):
        done = subprocess.run([HULL, *map(str, words)], stdin=stdin if "input" not in options else None, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              text=options.pop("text", True), timeout=timeout, check=False, env=self.environment, **options)
        assert not check or done.returncode == 0, f"hull {' '.join(map(str, words))}: status {done.returncode}: {done.stderr}"
        return done

    def json(self, *words):
        return json.loads(self.hull(*words, "--json").stdout)

    def names(self):
        return {row["name"] for row in self.get("/v1/instances")}

    def end(self):
        if self.process.poll() is not None:
            self.start()
        self.hull("delete", "--force", "--all", check=False)
        self.process.terminate()
        self.process.wait(TIMEOUT)
        for file in self.state.glob("run/networks/*/dns/dnsmasq.pid"):  # they outlive hulld
            with contextlib.suppress(ProcessLookupError, ValueError):
                os.kill(int(file.read_text()), signal.SIGTERM)
        self.holder.kill()
        self.holder.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def quoted(text):
    return urllib.parse.quote(text, safe="")


def busybox_root(path):
    """A tar of a root file system of busybox alone, which starts in no time."""
    root = path.with_suffix("")
    for name in ("bin", "sbin", "dev", "proc", "sys", "tmp", "etc", "run", "root", "var", "usr/sbin"):
        (root / name).mkdir(parents=True)
    shutil.copy(shutil.which("busybox"), root / "bin/busybox")
    for applet in APPLETS:
        (root / "bin" / applet).symlink_to("busybox")
    (root / "sbin/init").symlink_to("../bin/busybox")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")
    (root / "etc/inittab").write_text("::sysinit:/bin/hostname -F /etc/hostname\n::shutdown:/bin/true\n")
    with tarfile.open(path, "w") as tar:
        tar.add(root, ".", filter=lambda info: owned_by_root(info))
    shutil.rmtree(root)
    return path


def tiny_image(manager, folder):
    """Makes the image "tiny", for VMs: Debian's kernel with busybox, whose guest mounts its root disk at /mnt and serves the agent."""
    kernel_arguments("cloud")
    (folder / "root/bin").mkdir(parents=True)
    shutil.copy(BUILD / "bin/hull-agent", folder / "root/bin/hull-agent")
    shutil.copy(GUESTS / "modules-cloud/kernel/drivers/virtio/virtio_mem.ko", folder / "root")
    archive = subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"], input=b"bin/hull-agent\nvirtio_mem.ko\n", cwd=folder / "root", stdout=subprocess.PIPE, check=True)
    initrd = folder / "initrd"
    initrd.write_bytes((GUESTS / "initrd-cloud").read_bytes() + archive.stdout)
    disk = folder / "disk.raw"
    with open(disk, "wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["/sbin/mkfs.ext4", "-q", disk], check=True)
    manager.do("POST", "/v1/images", {"source": "import", "path": str(disk), "format": "raw", "alias": "tiny", "kernel": str(GUESTS / "vmlinuz-cloud"),
                                      "initrd": str(initrd), "append": "console=ttyS0 quiet hull.run=mount,/dev/vda,/mnt;hull-agent"})
    return "tiny"


def owned_by_root(info):
    info.uid = info.gid = 0
    return info


@pytest.fixture(scope="module")
def manager(tmp_path_factory):
    """One for the tests of a file, with the image "bb"."""
    if shutil.which("busybox") is None:
        pytest.skip("busybox is not installed")
    folder = tmp_path_factory.mktemp("hulld")
    folder.chmod(0o755)
    made = Manager(folder)
    try:
        made.hull("image", "import", busybox_root(folder / "root.tar"), "--alias", "bb")
        yield made
    finally:
        made.end()
