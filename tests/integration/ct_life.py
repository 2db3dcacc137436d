"""System containers in a network namespace of the tests' own: the machine's devices are never touched."""
import contextlib
import json
import os
import pathlib
import select
import subprocess
import uuid

import pexpect
import pytest
from conftest import HULL
from ct import hull_ct
from oci import temporary_folder, until

TIMEOUT = 300  # seconds; an upper bound for a loaded machine
FIRST_ID = 0x40000000


class Place:
    """A state with containers, and the network that they are in. Those made by a test go with it."""

    def __init__(self, state, network):
        self.state, self.network, self.made = state, network, []

    def words(self, verb, *words):
        return ["nsenter", f"--net=/proc/{self.network}/ns/net", "--", str(HULL), "ct", *verb.split(), "--state", str(self.state), *map(str, words)]

    def run(self, verb, *words, **options):
        options = {"stdin": subprocess.DEVNULL, **options} if "input" not in options else options
        return subprocess.run(self.words(verb, *words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=TIMEOUT, check=False,
                              **options)

    def ok(self, verb, *words, **options):
        done = self.run(verb, *words, **options)
        assert done.returncode == 0, f"{verb} {words}: status {done.returncode}: {done.stdout[-2000:]}{done.stderr}"
        return done.stdout

    def refused(self, verb, *words):
        """What it says, which is one line."""
        done = self.run(verb, *words)
        assert done.returncode == 1, f"{verb} {words}: status {done.returncode}: {done.stderr}"
        assert done.stderr.startswith("hull: ") and done.stderr.count("\n") == 1, done.stderr
        return done.stderr

    def create(self, *words, name=None, template="bb", start=True, ip="none"):
        """A new container's name."""
        name = name or f"t{uuid.uuid4().hex[:7]}"
        self.made.append(name)
        words = [*words, *(["--ip", ip] if ip else []), *(["--start"] if start else [])]
        self.ok("create", name, "--from", template, "-q", *words)
        return name

    def shell(self, name, script, check=True):
        done = self.run("exec", name, "sh", "-c", script)
        assert not check or done.returncode == 0, f"{script}: status {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout

    def spawn(self, verb, *words):
        words = self.words(verb, *words)
        child = pexpect.spawn(words[0], words[1:], timeout=60, encoding="utf-8", codec_errors="replace", dimensions=(24, 80))
        child.delaybeforesend = None
        return child

    def list(self):
        return {row["name"]: row for row in json.loads(self.ok("list", "--json"))}

    def info(self, name):
        return json.loads(self.ok("info", name, "--json"))

    def status(self, name):
        return self.info(name)["status"]

    def folder(self, name):
        return self.state / "containers" / name

    def on_host(self, *words):
        """A program in the network that the containers are in."""
        return subprocess.run(["nsenter", f"--net=/proc/{self.network}/ns/net", "--", *map(str, words)], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=TIMEOUT, check=True).stdout

    def keeper(self, name):
        """Its process id."""
        for folder in pathlib.Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (folder / "cmdline").read_bytes().split(b"\0")
                if words[0].endswith(b"hull-ct-keeper") and words[1:3] == [str(self.state / "run").encode(), name.encode()]:
                    return int(folder.name)
        return None

    def processes(self, names=()):
        """What runs of containers of this place: of those named or made by the test what is in their groups, and keepers of others too."""
        found = []
        own = [f"/hull/{name}-" for name in names or self.made]
        keepers = [f"{self.state}/run\0{name}".encode() for name in names] or [str(self.state).encode()]
        for folder in pathlib.Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if "\nState:\tZ" in (folder / "status").read_text():
                    continue  # ended; the machine's init will see to it
                groups = (folder / "cgroup").read_text()
                words = (folder / "cmdline").read_bytes()
                if any(group in groups for group in own) or any(keeper in words for keeper in keepers):
                    found.append((folder.name, words))
        return found

    def groups(self, names=()):
        found = []
        for hierarchy in pathlib.Path("/sys/fs/cgroup").iterdir():
            for parent in (hierarchy, hierarchy / "hull"):
                with contextlib.suppress(OSError):
                    found += [path for name in names or self.made for path in parent.glob(f"**/{name}-hc*" if parent.name == "hull" else f"{name}-hc*")]
        return found

    def devices(self):
        return [line for line in self.on_host("ip", "-o", "link", "show", "type", "veth").splitlines() if line]

    def left(self, running=0):
        """What of the test's containers is on the host though only so many of them run."""
        with contextlib.suppress(AssertionError):  # they go with their network namespace, in the kernel's time
            until(lambda: len(self.devices()) <= running)
        mounts = [line for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines() if str(self.state) in line]
        loops = [path for path in pathlib.Path("/sys/block").glob("loop*/loop/backing_file") if read(path).startswith(str(self.state))]
        run = self.state / "run"
        files = [*(run / "keeper").iterdir(), *(run / "root").iterdir(), *(p for p in (run / "oci").iterdir() if p.name != ".seccomp"),
                 *(self.state / "containers").iterdir()]
        return [*mounts, *loops, *(self.devices() if running == 0 else []), *files, *self.groups(), *self.processes()]

    def close(self):
        """Ends what the test has made."""
        self.run("delete", "--force", "--quiet", *[name for name in self.made if self.folder(name).exists()])
        self.made.clear()


def read(path):
    try:
        return path.read_text()
    except OSError:
        return ""


@contextlib.contextmanager
def network_namespace():
    """The id of a process that is alone in one; it ends with the tests, whatever happens to them."""
    try:
        holder = subprocess.Popen(["unshare", "--net", "sh", "-c", "ip link set lo up && echo ready && exec cat > /dev/null"],
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except OSError as error:
        pytest.skip(f"no network namespace: {error}")
    if not select.select([holder.stdout], [], [], 60)[0] or holder.stdout.readline() != b"ready\n":
        holder.kill()
        pytest.skip(f"no network namespace: {holder.communicate()[1].decode().strip()}")
    try:
        yield holder.pid
    finally:
        holder.stdin.close()
        holder.wait(60)


@pytest.fixture(scope="session")
def network():
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with network_namespace() as pid:
        yield pid


@pytest.fixture(scope="session")
def busybox_state():
    """A state with the template 'bb', which starts in no time."""
    with temporary_folder() as folder:
        done = hull_ct("template", "build", "bb", "--variant", "busybox", "-q", state=folder / "s", check=False)
        if done.returncode != 0:
            pytest.skip(f"no busybox template: {done.stderr.strip()}")
        yield folder / "s"


@pytest.fixture
def ct(busybox_state, network):  # pylint: disable=redefined-outer-name
    """A place for quick containers, which this worker's tests share one after the other."""
    place = Place(busybox_state, network)
    yield place
    place.close()


@pytest.fixture
def alone(network):  # pylint: disable=redefined-outer-name
    """The same with a state of the test's own."""
    with temporary_folder() as folder, network_namespace() as pid:
        place = Place(folder / "s", pid)
        place.ok("template build", "bb", "--variant", "busybox", "-q")
        yield place
        place.made += list(place.list())
        place.close()


__all__ = ["FIRST_ID", "Place", "TIMEOUT", "alone", "busybox_state", "ct", "network", "read", "until"]
