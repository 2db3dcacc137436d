"""The state folder's file system is full, before an operation or in the middle of it: what fails says why, nothing is lost and nothing is left behind."""
import contextlib
import os
import pathlib
import random
import shutil
import sqlite3
import subprocess
import tarfile
import time

import pytest
from hulld import NEEDS_ROOT, Failure, Manager, busybox_root

pytestmark = NEEDS_ROOT
NO_CARD = {"eth0": {"type": "none"}}
SIZE = 64 << 20
NAMES, SNAPSHOTS, VOLUMES, PROFILES = ("c0", "c1", "c2", "c3"), ("s1", "s2"), ("v1", "v2"), ("p1", "p2")
LEFT = (0, 0, 4096, 16384, 65536, 200000, 600000, 2 << 20)  # bytes that are free
IMPOSSIBLE = ("not-found", "exists", "busy", "invalid")  # for a reason of its own


class Small(Manager):
    """With a state folder on a small file system of its own."""

    def prepare(self):
        self.socket = self.folder / "hulld.sock"
        self.options = ("--socket", self.socket)
        self.environment["HULL_SOCKET"] = str(self.socket)
        self.state.mkdir()
        subprocess.run(self.within("mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=755", "tmpfs", self.state), check=True)
        self.seen = pathlib.Path(f"/proc/{self.holder.pid}/root{self.state}")  # the folder as this process sees it
        self.ballast = self.seen / "ballast"

    def fill(self, left):
        """All but so many bytes."""
        self.ballast.touch()
        with open(self.ballast, "r+b") as file:
            space = os.statvfs(self.seen)
            with contextlib.suppress(OSError):  # somebody else was quicker
                os.posix_fallocate(file.fileno(), 0, max(space.f_bavail * space.f_frsize - left, 4096))

    def empty(self):
        self.ballast.unlink(missing_ok=True)


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
        ("EXEC", name, None),
    ])


def names_space(error):
    return error["code"] == "no-space" or "space" in error["message"]


def done_while_full(manager, rng, what):
    """Fills before or meanwhile. The result's error; None: it worked."""
    method, path, body = what
    left, late = rng.choice(LEFT), rng.random() < 0.5
    if not late:
        manager.fill(left)
    if method == "EXEC":
        done = manager.hull("exec", path, "--", "sh", "-c", "yes | head -c 700000 > /root/more && echo written; rm -f /root/more", check=False)
        return None if done.returncode == 0 else {"code": "busy", "message": done.stderr}
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
