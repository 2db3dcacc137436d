"""The state folder's file system is full, before an operation or in the middle of it: what fails says why, nothing is lost and nothing is left behind."""
import contextlib
import json
import os
import pathlib
import random
import shutil
import signal
import sqlite3
import subprocess
import tarfile
import time

import pytest
from conftest import HULL
from hulld import NEEDS_ROOT, TIMEOUT, Failure, Manager, busybox_root, tiny_image, until

pytestmark = NEEDS_ROOT
NO_CARD = {"eth0": {"type": "none"}}
SIZE = 64 << 20
NAMES, SNAPSHOTS, VOLUMES, PROFILES = ("c0", "c1", "c2", "c3"), ("s1", "s2"), ("v1", "v2"), ("p1", "p2")
LEFT = (0, 0, 4096, 16384, 65536, 200000, 600000, 2 << 20)  # bytes that are free
RESERVE = 8 << 20  # what hulld keeps for deletions
IMPOSSIBLE = ("not-found", "exists", "busy", "invalid")  # for a reason of its own


class Small(Manager):
    """With a state folder on a small file system of its own."""
    size = SIZE

    def prepare(self):
        self.socket = self.folder / "hulld.sock"
        self.options = ("--socket", self.socket)
        self.environment["HULL_SOCKET"] = str(self.socket)
        self.state.mkdir()
        subprocess.run(self.within("mount", "-t", "tmpfs", "-o", f"size={self.size},mode=755", "tmpfs", self.state), check=True)
        self.seen = pathlib.Path(f"/proc/{self.holder.pid}/root{self.state}")  # the folder as this process sees it
        self.ballast = self.seen / "ballast"

    def fill(self, left):
        """All but so many bytes."""
        self.ballast.touch()
        with open(self.ballast, "r+b") as file:
            for _ in range(50):
                space = os.statvfs(self.seen)
                with contextlib.suppress(OSError):  # somebody else was quicker
                    os.posix_fallocate(file.fileno(), 0, max(space.f_bavail * space.f_frsize - left, 4096))
                    break
                time.sleep(0.01)

    def empty(self):
        self.ballast.unlink(missing_ok=True)


class Larger(Small):
    """Where VMs and their memory have room."""
    size = 256 << 20


@pytest.fixture(name="small", scope="module")
def fixture_small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("full")
    folder.chmod(0o755)
    manager = Small(folder)
    try:
        manager.hull("image", "import", busybox_root(folder / "root.tar"), "--alias", "bb")
        yield manager
    finally:
        manager.empty()
        manager.end()


@pytest.fixture(name="larger", scope="module")
def fixture_larger(tmp_path_factory):
    folder = tmp_path_factory.mktemp("larger")
    folder.chmod(0o755)
    manager = Larger(folder)
    try:
        tiny_image(manager, tmp_path_factory.mktemp("image"))
        yield manager
    finally:
        manager.empty()
        manager.end()


def others(folder, count):
    """Tars of other images, of about 3 MB each."""
    for number in range(count):
        path = busybox_root(folder / f"other{number}.tar")
        (folder / "more").write_bytes(random.Random(number).randbytes(1 << 20))
        with tarfile.open(path, "a") as tar:
            tar.add(folder / "more", "./etc/more")
        yield path


def request(rng, images, existing):
    """(method, path, body) of something that may be possible."""
    other, snapshot, volume, profile = (rng.choice(words) for words in (NAMES, SNAPSHOTS, VOLUMES, PROFILES))
    name = rng.choice(sorted(existing) if existing and rng.random() < 0.9 else NAMES)
    path = f"/v1/instances/{name}"
    create = ("POST", "/v1/instances", {"name": other, "kind": "container", "image": "bb", "devices": NO_CARD, "start": rng.random() < 0.7})
    return rng.choice([
        create, create, create,
        ("POST", f"{path}/actions", {"action": rng.choice(("start", "stop", "restart")), "timeout_s": 5}),
        ("DELETE", f"{path}?force=true", None),
        ("POST", f"{path}/snapshots", {"name": snapshot}),
        ("POST", f"{path}/snapshots", {"name": snapshot}),
        ("POST", f"{path}/snapshots/{snapshot}/restore", None),
        ("DELETE", f"{path}/snapshots/{snapshot}", None),
        ("POST", f"{path}/clone", {"name": other}),
        ("PATCH", path, {"config": {"memory": f"{rng.randrange(32, 64)}M"}}),
        ("POST", "/v1/images", {"source": "import", "path": str(rng.choice(images)), "alias": "more"}),
        ("POST", "/v1/images", {"source": "import", "path": str(rng.choice(images)), "alias": "more"}),
        ("DELETE", "/v1/images/more", None),
        ("POST", "/v1/volumes", {"name": volume, "size_bytes": 1 << 20}),
        ("PATCH", f"/v1/volumes/default/{volume}", {"size_bytes": rng.randrange(1, 9) << 20}),
        ("DELETE", f"/v1/volumes/default/{volume}", None),
        ("POST", "/v1/profiles", {"name": profile, "description": "x" * rng.randrange(4000)}),
        ("PUT", f"/v1/profiles/{profile}", {"description": "x" * rng.randrange(4000)}),
        ("EXEC", name, "yes | head -c 700000 > /root/more && echo written; rm -f /root/more"),
    ])


def reserve(manager):
    """How much hulld keeps."""
    return (manager.seen / "reserve").stat().st_size


def error_of(manager, method, path, body=None):
    """Of the request or of its operation; None: it worked."""
    try:
        answer = manager.ok(method, path, body)
    except Failure as failure:
        return failure.error
    ended = manager.wait(answer)
    return ended["error"] if ended["status"] == "failed" else None


def names_space(error):
    return error["code"] == "no-space" or "space" in error["message"]


def executed(manager, name, command):
    """A program that writes. A VM whose disk gets no space stands still, and goes on when there is some."""
    def status():
        return next((row["status"] for row in manager.get("/v1/instances") if row["name"] == name), "gone")

    if status() == "paused":
        return {"code": "busy", "message": f"{name} is paused"}
    with subprocess.Popen([HULL, "exec", name, "--", "sh", "-c", command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                          env=manager.environment) as program:
        until(lambda: program.poll() is not None or status() == "paused", f"the program in {name}")
        if program.poll() is None:
            manager.empty()
            manager.do("POST", f"/v1/instances/{name}/actions", {"action": "resume"})
        _, problem = program.communicate(timeout=TIMEOUT)
    return None if program.returncode == 0 else {"code": "busy", "message": problem}


def done_while_full(manager, rng, what):
    """Fills before or meanwhile. The result's error; None: it worked."""
    method, path, body = what
    left, late = rng.choice(LEFT), rng.random() < 0.5
    if not late:
        manager.fill(left)
    if method == "EXEC":
        return executed(manager, path, body)
    try:
        answer = manager.ok(method, path, body)
    except Failure as failure:
        return failure.error
    if late:
        time.sleep(rng.choice((0, 0.01, 0.05, 0.1)))
        manager.fill(left)
    if "kind" not in answer or len(answer.get("name", "")) != 32:
        return None
    ended = manager.wait(answer)
    return ended["error"] if ended["status"] == "failed" else None


def vm_request(rng, existing):
    """As `request`, about VMs."""
    name, other, snapshot = rng.choice(sorted(existing) or ["vm0"]), rng.choice(("vm0", "vm1", "vm2")), rng.choice(SNAPSHOTS)
    path = f"/v1/instances/{name}"
    return rng.choice([
        ("POST", "/v1/instances", {"name": other, "kind": "vm", "image": "tiny", "start": True, "config": {"engine": "soft", "memory": "96M"}, "devices": NO_CARD}),
        ("POST", f"{path}/actions", {"action": rng.choice(("start", "stop")), "force": True}),
        ("DELETE", f"{path}?force=true", None),
        ("POST", f"{path}/snapshots", {"name": snapshot, "memory": rng.random() < 0.4}),
        ("POST", f"{path}/snapshots", {"name": snapshot}),
        ("POST", f"{path}/snapshots/{snapshot}/restore", None),
        ("DELETE", f"{path}/snapshots/{snapshot}", None),
        ("POST", f"{path}/clone", {"name": other, "live": rng.random() < 0.5}),
        ("POST", f"{path}/clone", {"name": other}),
        ("POST", "/v1/volumes", {"name": "v1", "size_bytes": 8 << 20}),
        ("DELETE", "/v1/volumes/default/v1", None),
        ("EXEC", name, "yes | head -c 9000000 > /mnt/more && sync && echo written; rm -f /mnt/more"),
    ])


def is_whole(manager, told):
    found = manager.hull("system", "check", check=False)
    assert found.returncode == 0, (told, found.stdout + found.stderr, manager.log())
    for row in manager.get("/v1/instances"):
        assert row["status"] in ("running", "stopped", "paused"), (told, row)


def lives(manager, name, told):
    """An instance that existed starts, and has what was written to it."""
    manager.wait(manager.ok("POST", f"/v1/instances/{name}/actions", {"action": "stop", "force": True}))
    ended = manager.wait(manager.ok("POST", f"/v1/instances/{name}/actions", {"action": "start"}))
    assert ended["status"] == "done", (told, name, ended, manager.log())
    assert manager.hull("exec", name, "--", "test", "-x", "/bin/busybox", check=False).returncode == 0, (told, name)


def marked(manager, name, told, mark=None):
    """Starts a VM anew, if a mark is given writes it; what its disk says."""
    manager.wait(manager.ok("POST", f"/v1/instances/{name}/actions", {"action": "stop", "force": True}))
    ended = manager.wait(manager.ok("POST", f"/v1/instances/{name}/actions", {"action": "start"}))
    assert ended["status"] == "done", (told, name, ended, manager.log())
    until(lambda: manager.hull("exec", name, "--", "true", check=False).returncode == 0, f"the agent of {name}: {told}")
    if mark is not None:
        manager.hull("exec", name, "--", "sh", "-c", f"echo {mark} >/mnt/mark; sync")
    return manager.hull("exec", name, "--", "cat", "/mnt/mark").stdout.strip()


@pytest.mark.parametrize("seed, count", [(int(os.environ.get("HULL_TEST_SEED", "1")), 16),
                                         *(pytest.param(seed, 80, marks=pytest.mark.long) for seed in range(2, 4))])
def test_full_at_random_moments_of_vms(larger, seed, count):
    manager, rng, marks = larger, random.Random(seed), {}
    for turn in range(count):
        before = manager.names()
        what = vm_request(rng, before) if before else ("POST", "/v1/instances", {"name": "vm0", "kind": "vm", "image": "tiny", "start": True, "devices": NO_CARD,
                                                                                "config": {"engine": "soft", "memory": "96M"}})
        error = done_while_full(manager, rng, what)
        told = f"seed {seed}, turn {turn}: {what}: {error}"
        assert manager.process.poll() is None, (told, manager.log())
        assert error is None or error["code"] in IMPOSSIBLE or names_space(error), (told, manager.log())
        assert what[0] != "DELETE" or error is None or not names_space(error), (told, manager.log())
        manager.empty()
        is_whole(manager, told)
        method, path, body = what
        after = manager.names()
        for name in after - before:
            source = path.split("/")[3] if path.endswith("/clone") else None
            assert name == body["name"] and error is None or error["code"] != "no-space", told
            marks[name] = marks[source] if source else f"mark-{turn}"
            assert marked(manager, name, told, None if source else marks[name]) == marks[name], told
        assert not before - after or method == "DELETE" and path == f"/v1/instances/{(before - after).pop()}?force=true", told
        assert error is not None or method != "DELETE" or "force" not in path or path.split("/")[3].split("?")[0] not in after, told
    for name in manager.names():
        assert marked(manager, name, "at the end") == marks[name]
    manager.fill(0)
    manager.hull("delete", "--force", "--all")
    assert manager.names() == set()
    manager.empty()
    is_whole(manager, "after all were deleted")


def test_deletions_on_a_full_disk(small, tmp_path):
    """Each kind of them, with no byte free: they are what one does about it."""
    manager = small
    manager.do("POST", "/v1/images", {"source": "import", "path": str(next(others(tmp_path, 1))), "alias": "more"})
    manager.do("POST", "/v1/instances", {"name": "c0", "kind": "container", "image": "bb", "devices": NO_CARD, "start": True})
    manager.do("POST", "/v1/instances", {"name": "c1", "kind": "container", "image": "bb", "devices": NO_CARD})
    manager.do("POST", "/v1/instances/c1/snapshots", {"name": "s1"})
    manager.do("POST", "/v1/volumes", {"name": "v1", "size_bytes": 1 << 20})
    manager.ok("POST", "/v1/profiles", {"name": "p1"})
    manager.ok("PUT", "/v1/aliases/else", {"image": "bb"})
    until(lambda: reserve(manager) == RESERVE, "the reserve")
    result = manager.do("POST", "/v1/system/df")["result"]
    assert result["bytes"]["reserve"] == RESERVE and result["total_bytes"] >= RESERVE
    gives = 0
    for words in (("snapshot", "delete", "c1", "s1"), ("delete", "c1"), ("delete", "--force", "c0"), ("volume", "delete", "default/v1"), ("image", "delete", "more"),
                  ("profile", "delete", "p1"), ("image", "alias", "delete", "else")):
        manager.fill(0)
        refused = error_of(manager, "POST", "/v1/instances", {"name": "c3", "kind": "container", "image": "bb", "devices": NO_CARD})
        assert refused["code"] == "no-space" and reserve(manager) == RESERVE
        manager.hull(*words)
        gives += reserve(manager) < RESERVE
        assert reserve(manager) > 0
        manager.empty()
        until(lambda: reserve(manager) == RESERVE, "the reserve is whole again")
        is_whole(manager, words)
    assert gives > 0 and manager.names() == set()
    assert [image["name"] for image in manager.get("/v1/images")] == [manager.get("/v1/images/bb")["name"]]
    assert not manager.get("/v1/volumes") and [profile["name"] for profile in manager.get("/v1/profiles")] == ["default"]


def test_a_deletion_is_killed_on_a_full_disk(small):
    """hulld and the worker die anywhere in it; the next hulld completes it, though it finds no space either."""
    manager, rng = small, random.Random(4)
    for turn in range(6):
        manager.do("POST", "/v1/instances", {"name": "c0", "kind": "container", "image": "bb", "devices": NO_CARD, "start": turn % 2 == 0})
        until(lambda: reserve(manager) == RESERVE, "the reserve")
        manager.fill(0)
        operation = manager.ok("DELETE", "/v1/instances/c0?force=true")
        time.sleep(rng.random() * 0.05)
        manager.kill()
        for journal in manager.seen.glob(f"operations/{operation['name']}.jsonl"):
            for line in journal.read_text(errors="replace").splitlines():
                if line.startswith('{"worker"'):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(json.loads(line)["worker"], signal.SIGKILL)
        manager.fill(0)
        manager.start()
        ended = manager.wait(operation)
        assert ended["status"] == "done", (turn, ended, manager.log())
        assert manager.names() == set()
        manager.empty()
        is_whole(manager, turn)


def test_hulld_starts_on_a_full_disk(small):
    """After an end in order, which removes what the database had beside it."""
    manager = small
    until(lambda: reserve(manager) == RESERVE, "the reserve")
    manager.fill(0)
    manager.restart()
    assert manager.get("/v1/images")
    manager.empty()
    until(lambda: reserve(manager) == RESERVE, "the reserve is whole again")


@pytest.mark.parametrize("seed, count", [(int(os.environ.get("HULL_TEST_SEED", "1")), 60),
                                         *(pytest.param(seed, 200, marks=pytest.mark.long) for seed in range(2, 7))])
def test_full_at_random_moments(small, tmp_path, seed, count):
    manager, rng = small, random.Random(seed)
    images = list(others(tmp_path, 2))
    fulls = 0
    for turn in range(count):
        before = manager.names()
        what = request(rng, images, before)
        error = done_while_full(manager, rng, what)
        told = f"seed {seed}, turn {turn}: {what}: {error}"
        assert manager.process.poll() is None, (told, manager.log())
        assert manager.get("/v1/system")["pid"] == manager.process.pid
        assert error is None or error["code"] in IMPOSSIBLE or names_space(error), (told, manager.log())
        assert what[0] != "DELETE" or error is None or not names_space(error), (told, manager.log())
        fulls += error is not None and names_space(error)
        manager.empty()
        is_whole(manager, told)
        after = manager.names()
        method, path, body = what
        changed = set()
        if method == "DELETE" and "force" in path:
            changed = {path.split("/")[3].split("?")[0]}
        elif body and "kind" in body or path.endswith("/clone"):
            changed = {body["name"]}
        assert before ^ after <= changed, told
        if error is None and method == "DELETE":
            assert not changed & after, told
        if error is not None and method == "POST":
            assert not changed & after - before, told
        if after and turn % 3 == 0:
            lives(manager, rng.choice(sorted(after)), told)
    assert fulls > count // 20
    for name in manager.names():
        lives(manager, name, "at the end")
    for file in manager.seen.glob("hull.db*"):
        shutil.copy(file, tmp_path)
    with contextlib.closing(sqlite3.connect(tmp_path / "hull.db")) as database:
        assert database.execute("pragma integrity_check").fetchall() == [("ok",)]
    assert not list(manager.seen.glob("hull.db.corrupt-*"))
    manager.fill(0)
    manager.kill()
    manager.start()
    assert manager.get("/v1/instances") is not None
    manager.empty()
    manager.hull("delete", "--force", "--all")
    assert manager.names() == set()
    is_whole(manager, "after all were deleted")
