"""Export and import of whole instances, and templates, of both kinds."""
import contextlib
import gzip
import hashlib
import io
import json
import os
import pathlib
import random
import signal
import subprocess
import tarfile
import tempfile

import pytest
from conftest import HULL
from hulld import NEEDS_ROOT, Failure, Manager, manager, until  # noqa: F401 (a fixture)
from test_hulld_vms import Existing, fixture_image, guest_of  # noqa: F401 (a fixture)

pytestmark = NEEDS_ROOT


def sh(manager, name, script):
    return manager.hull("exec", name, "--", "/bin/sh", "-c", script).stdout


def stop(manager, name):
    manager.do("POST", f"/v1/instances/{name}/actions", {"action": "stop", "force": True})


def is_clean(manager):
    """Nothing is left of what was interrupted or refused."""
    found = manager.do("POST", "/v1/system/check", {})["result"]
    folder = manager.state / "transfers"
    return found, sorted(folder.iterdir()) if folder.exists() else [], list((manager.state / "run/transfers").glob("*"))


def nothing_left(manager):
    found, kept, sockets = is_clean(manager)
    assert not found["problems"] and not kept and not sockets, (found, kept, sockets)


FILES = r"""
set -e
mkdir -p /data/sub && cd /data
echo one >plain; chown 1000:1001 plain; chmod 4751 plain
ln plain linked; ln -s ../etc/passwd symbolic; mkfifo pipe
echo gone >/etc/extra; rm /etc/inittab
dd if=/dev/zero of=sparse bs=1 count=1 seek=20000000 2>/dev/null
rm -rf /var; mkdir /var; echo new >/var/new
"""


@pytest.fixture(name="box", scope="module")
def fixture_box(manager):
    """A container with all kinds of files, stopped, and what its upper layer has."""
    manager.do("POST", "/v1/instances", {"name": "box", "kind": "container", "image": "bb", "start": True, "description": "a box",
                                         "config": {"memory": "256M"}})
    sh(manager, "box", FILES)
    stop(manager, "box")
    upper = manager.state / "containers/box/upper"
    os.setxattr(upper / "data/plain", "user.note", b"kept")
    manager.do("POST", "/v1/instances/box/snapshots", {"name": "first"})
    manager.do("POST", "/v1/instances/box/actions", {"action": "start"})
    sh(manager, "box", "echo two >/data/plain; rm /data/pipe")
    stop(manager, "box")
    return "box"


def tree(manager, name, snapshot=None):
    """All that is known of a container's own files, with owners as it sees them."""
    folder = manager.state / "containers" / name
    folder = folder / "snapshots" / snapshot if snapshot else folder
    upper = folder / "upper"
    first = upper.stat().st_uid
    seen, links = {}, {}
    for path in sorted(upper.rglob("*")):
        inner = path.relative_to(upper).as_posix()
        if inner.startswith(("run", "dev", "proc", "sys", "etc/host", "etc/resolv")):
            continue
        info = path.lstat()
        names = sorted(set(os.listxattr(path, follow_symlinks=False)) & {"user.note", "trusted.overlay.opaque"})
        row = [oct(info.st_mode), info.st_uid - first if info.st_uid else 0, info.st_gid - first if info.st_gid else 0, info.st_rdev, int(info.st_mtime),
               [os.getxattr(path, key, follow_symlinks=False) for key in names]]
        if path.is_symlink():
            row.append(os.readlink(path))
        elif path.is_file():
            row += [info.st_size, hashlib.sha256(path.read_bytes()).hexdigest(), info.st_blocks < 64 if info.st_size > 1000000 else None]
            links.setdefault(info.st_ino, []).append(inner)
        seen[inner] = row
    return seen, sorted(group for group in links.values() if len(group) > 1)


@pytest.fixture(name="file", scope="module")
def fixture_file(manager, box, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "box.hull"
    manager.hull("export", box, path, "--snapshots", "--compress", "none")
    assert [name.name for name in path.parent.iterdir()] == ["box.hull"]
    return path


def test_container_round_trip(manager, box, file):
    manager.hull("import", file, "copy")
    copy, original = manager.get("/v1/instances/copy"), manager.get("/v1/instances/box")
    assert copy["uuid"] != original["uuid"] and copy["config"] == original["config"] and copy["description"] == "a box"
    assert [row["name"] for row in copy["snapshots"]] == ["first"] and copy["image_digest"] == original["image_digest"]
    assert tree(manager, "copy") == tree(manager, "box")
    assert tree(manager, "copy", "first") == tree(manager, "box", "first")
    manager.do("POST", "/v1/instances/copy/actions", {"action": "start"})
    assert sh(manager, "copy", "cat /data/plain /var/new; ls /var /etc/inittab 2>&1; hostname").split("\n")[:3] == ["two", "new", "ls: /etc/inittab: No such file or directory"]
    stop(manager, "copy")
    manager.do("POST", "/v1/instances/copy/snapshots/first/restore")
    manager.do("POST", "/v1/instances/copy/actions", {"action": "start"})
    assert sh(manager, "copy", "cat /data/plain; test -p /data/pipe && echo pipe") == "one\npipe\n"
    manager.do("DELETE", "/v1/instances/copy?force=1")
    nothing_left(manager)


def test_archive_is_plain_tar(file):
    """Whoever has tar and sha256sum can check it and take it apart."""
    with tarfile.open(file) as archive:
        names = archive.getnames()
        assert names[0] == "hull-export.json" and names[-1] == "hull-manifest.json"
        manifest = json.load(archive.extractfile("hull-manifest.json"))
        assert [row["name"] for row in manifest["members"]] == names[:-1] == ["hull-export.json", "base.tar", "states/0.tar", "states/1.tar"]
        for row in manifest["members"]:
            data = archive.extractfile(row["name"]).read()
            assert (len(data), hashlib.sha256(data).hexdigest()) == (row["size"], row["sha256"])


def test_running_container(manager, box, tmp_path):
    """One that runs goes on, and nobody sees the snapshot that is made for it; by a pipe, compressed."""
    manager.do("POST", f"/v1/instances/{box}/actions", {"action": "start"})
    with open(tmp_path / "out", "wb") as out:
        subprocess.run([HULL, "export", box, "-"], stdout=out, check=True, env=manager.environment, timeout=240)
    seen = manager.get(f"/v1/instances/{box}")
    assert seen["status"] == "running" and [row["name"] for row in seen["snapshots"]] == ["first"]
    assert not list((manager.state / "containers/box/snapshots").glob("export*"))
    stop(manager, box)
    assert (tmp_path / "out").read_bytes()[:4] == b"\x28\xb5\x2f\xfd"
    with open(tmp_path / "out", "rb") as data:
        manager.hull("import", "-", "piped", stdin=data)
    assert tree(manager, "piped")[0]["data/plain"] == tree(manager, box)[0]["data/plain"]
    manager.do("DELETE", "/v1/instances/piped")
    nothing_left(manager)


def test_image_comes_with_it(manager, file, tmp_path_factory):
    """On a host that has nothing of it, the instance brings its image, which goes with the last one that needs it."""
    other = Manager(tmp_path_factory.mktemp("other"))
    try:
        other.hull("import", file)
        assert other.get("/v1/instances/box")["status"] == "stopped" and len(other.get("/v1/images")) == 1
        other.do("POST", "/v1/instances/box/actions", {"action": "start"})
        assert sh(other, "box", "cat /data/plain; busybox | head -1 | cut -c1-7 2>/dev/null || true").startswith("two")
        other.do("DELETE", "/v1/instances/box?force=1")
        other.hull("image", "prune")
        assert other.get("/v1/images") == []
    finally:
        other.end()


def rebuilt(file, path, change):
    """The archive with changed members, and a manifest that fits them."""
    with tarfile.open(file) as archive:
        members = [(info.name, archive.extractfile(info).read()) for info in archive.getmembers()[:-1]]
    members = change(members)
    rows = [{"name": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in members]
    members.append(("hull-manifest.json", json.dumps({"format": 1, "members": rows}).encode()))
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def with_header(**more):
    def change(members):
        header = json.loads(members[0][1])
        for key, value in more.items():
            where, _, last = key.rpartition("__")
            inner = header
            for part in filter(None, where.split("__")):
                inner = inner[part]
            inner[last] = value
        return [("hull-export.json", json.dumps(header).encode())] + members[1:]
    return change


def tar_of(*entries):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for info, data in entries:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def entry(name, kind=tarfile.REGTYPE, target="", data=b""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, data


CHANGES = {
    "newer format": (with_header(format=3), "newer"),
    "memory of a container": (with_header(format=2, states=[{"snapshot": "first", "memory": True}, {}]), "memory"),
    "other kind": (with_header(kind="vm"), ""),
    "unknown key": (with_header(document__config={"memroy": "1G"}), "memory"),
    "missing profile": (with_header(document__profiles=["nowhere"]), "--profile"),
    "missing network": (with_header(document__devices={"eth0": {"type": "nic", "network": "elsewhere"}}), "--network"),
    "missing pool": (with_header(document__devices={"root": {"type": "disk", "pool": "elsewhere"}}), "--pool"),
    "host's folder": (with_header(document__devices={"all": {"type": "share", "source": "/", "path": "/mnt"}}), "--trusted"),
    "privileges": (with_header(document__config={"privileged": "true"}), "--trusted"),
    "snapshot's name": (with_header(document__snapshots=[{"name": "../../x", "created_at": "", "memory": False}], states=[{"snapshot": "../../x"}, {}]), ""),
    "states": (with_header(states=[{}]), ""),
    "member's name": (lambda m: [m[0], ("../base.tar", m[1][1])] + m[2:], ""),
    "absolute name": (lambda m: [m[0], ("/base.tar", m[1][1])] + m[2:], ""),
    "lacks a member": (lambda m: m[:-1], "lacks"),
    "a member more": (lambda m: m + [("states/2.tar", b"")], "other members"),
    "twice": (lambda m: m + [m[-1]], ""),
    "upper leads out": (lambda m: m[:-1] + [(m[-1][0], tar_of(entry("out", tarfile.SYMTYPE, "/tmp/hull-escape"), entry("out/file", data=b"x")))], ""),
    "dots in upper": (lambda m: m[:-1] + [(m[-1][0], tar_of(entry("../../../escaped", data=b"x")))], ""),
    "upper is no tar": (lambda m: m[:-1] + [(m[-1][0], b"x" * 2048)], "no archive"),
    "base is no tar": (lambda m: [with_header(base="sha256-" + "0" * 64)([m[0]])[0], (m[1][0], gzip.compress(m[1][1]))] + m[2:], "no archive"),
    "owner out of range": (lambda m: m[:-1] + [(m[-1][0], tar_of(owned(entry("file", data=b"x"), 3000000000)))], ""),
}


def owned(pair, uid):
    pair[0].uid = uid
    return pair


@pytest.mark.parametrize("name", CHANGES)
def test_hostile(manager, file, tmp_path, name):
    change, words = CHANGES[name]
    images, done = len(manager.get("/v1/images")), None
    path = rebuilt(file, tmp_path / "bad.hull", change)
    done = manager.hull("import", path, "bad", check=False)
    assert done.returncode == 1 and words in done.stderr and done.stderr.startswith("hull: "), done.stderr
    assert "bad" not in manager.names() and len(manager.get("/v1/images")) == images
    assert not os.path.exists("/tmp/hull-escape") and not list(manager.folder.rglob("escaped"))
    nothing_left(manager)


def test_damaged(manager, file, tmp_path):
    """Cut anywhere, or with any byte another one: refused, and nothing is left."""
    data = file.read_bytes()
    dice = random.Random(7)
    path = tmp_path / "bad.hull"
    compressed = tmp_path / "bad.zst"
    subprocess.run(["zstd", "-q", "--no-check", file, "-o", compressed], check=True)
    for round_ in range(24):
        whole = data if round_ % 3 else compressed.read_bytes()
        at = dice.randrange(len(whole))
        if round_ % 2:
            changed = whole[:at]
        else:
            if whole is data:  # padding is not compared
                at = dice.choice([dice.randrange(512, 900), data.index(b"base.tar\0") + 512 + dice.randrange(100000), len(data) - 10240 - dice.randrange(300)])
            changed = whole[:at] + bytes([whole[at] ^ 1 << dice.randrange(8)]) + whole[at + 1:]
        path.write_bytes(changed)
        done = manager.hull("import", path, "bad", check=False)
        assert done.returncode == 1 and done.stderr, (round_, at)
        assert "bad" not in manager.names()
    nothing_left(manager)


def test_conflicts(manager, box, file, tmp_path):
    done = manager.hull("import", file, check=False)
    assert done.returncode == 1 and "exists already" in done.stderr
    done = manager.hull("import", file, "other", "--keep-identity", check=False)
    assert done.returncode == 1 and "uuid" in done.stderr
    done = manager.hull("export", box, file, check=False)
    assert done.returncode == 1 and "--force" in done.stderr
    done = manager.hull("export", "nobody", tmp_path / "x", check=False)
    assert done.returncode == 1 and "nobody" in done.stderr and not list(tmp_path.iterdir())
    done = manager.hull("import", "/etc/passwd", "other", check=False)
    assert done.returncode == 1 and "no whole file" in done.stderr
    with pytest.raises(Failure):
        manager.ok("GET", f"/v1/operations/{'0' * 32}/stream")
    nothing_left(manager)


def operation_of(manager, kind):
    return until(lambda: next((row for row in manager.get("/v1/operations") if row["kind"] == kind and row["status"] == "running"), None), kind)


@pytest.mark.parametrize("verb", ["export", "import"])
@pytest.mark.parametrize("how", ["interrupt", "worker"])
def test_interrupted(manager, box, file, tmp_path, verb, how):
    """Ctrl-C, or a worker that is killed: nothing is left on either side."""
    target = tmp_path / "out.hull"
    if verb == "export":
        words, options = ["export", box, "-"], {"stdout": subprocess.PIPE}  # which nobody reads: it goes on until the pipe is full
    else:
        words, options = ["import", "-", "broken"], {"stdin": subprocess.PIPE}
    with subprocess.Popen([HULL, *words], env=manager.environment, stderr=subprocess.PIPE, **options) as process:
        if verb == "import":
            process.stdin.write(file.read_bytes()[:200000])
            process.stdin.flush()
        running = operation_of(manager, f"instance-{verb}")
        if how == "interrupt":
            process.send_signal(signal.SIGINT)
        else:
            kill_worker(running)
        if verb == "export":
            process.stdout.read()
        else:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            process.stdin = None
        assert process.wait(240) in (1, 130)
    assert manager.wait(running)["status"] in ("failed", "cancelled")
    assert not target.exists() and "broken" not in manager.names()
    nothing_left(manager)
    assert manager.get(f"/v1/instances/{box}")["status"] == "stopped"


def kill_worker(operation):
    os.kill(next(int(pid) for pid in os.listdir("/proc") if pid.isdigit() and is_worker(pid, operation["name"])), signal.SIGKILL)


def is_worker(pid, name):
    with contextlib.suppress(OSError):
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().split(b"\0")
        return b"hull-worker" in words[0] and name.encode() in words
    return False


def test_template(manager, box):
    """Launched twice, it is two machines; what launch says wins over what the template has."""
    manager.do("POST", f"/v1/instances/{box}/actions", {"action": "start"})
    sh(manager, box, "mkdir -p /etc/ssh /var/lib/cloud/x; echo secret >/etc/ssh/ssh_host_rsa_key; echo 0123456789abcdef0123456789abcdef >/etc/machine-id; echo a >/etc/kept")
    done = manager.hull("template", "create", box, "golden", check=False)
    assert done.returncode == 1 and "--live" in done.stderr
    manager.hull("template", "create", box, "golden", "--live", "--description", "of a box")
    assert [row["name"] for row in manager.json("template", "list")] == ["golden"]
    info = manager.json("template", "info", "golden")
    assert info["from"] == box and info["config"] == {"memory": "256M"} and info["kind"] == "container" and info["description"] == "of a box"
    stop(manager, box)
    manager.hull("launch", "golden", "gold1")
    manager.hull("launch", "golden", "gold2", "--memory", "128M")
    for name, memory in (("gold1", "256M"), ("gold2", "128M")):
        seen = manager.get(f"/v1/instances/{name}")
        assert seen["config"]["memory"] == memory and seen["image"] == "golden"
        assert sh(manager, name, "cat /etc/kept /data/plain; cat /etc/machine-id; ls /etc/ssh /var/lib/cloud; hostname").split() == ["a", "two", "/etc/ssh:", "/var/lib/cloud:", name]
    manager.hull("template", "delete", "golden")
    assert manager.json("template", "list") == []
    manager.do("DELETE", "/v1/instances/gold1?force=1")
    manager.do("DELETE", "/v1/instances/gold2?force=1")
    manager.hull("image", "prune")
    assert [row["aliases"] for row in manager.get("/v1/images")] == [["bb"]]
    done = manager.hull("template", "info", "bb", check=False)
    assert done.returncode == 1 and "does not exist" in done.stderr
    nothing_left(manager)


def test_vm(manager, image, tmp_path):
    """A VM that runs, with snapshots, there and back; then a template of it."""
    file = tmp_path / "vm.hull"
    with guest_of(manager, "origin") as guest:
        guest.write("one")
        manager.do("POST", "/v1/instances/origin/snapshots", {"name": "first"})
        guest.write("two")
        guest.run("dd if=/dev/urandom of=/mnt/much bs=64k count=40 2>/dev/null; sync; sha256sum </mnt/much >/mnt/sum")
        manager.do("POST", "/v1/instances/origin/snapshots", {"name": "second"})
        guest.write("three")
        manager.hull("export", "origin", file, "--snapshots")
        assert guest.status() == "running" and guest.read() == "three"
        with subprocess.Popen([HULL, "export", "origin", "-"], env=manager.environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            running = operation_of(manager, "instance-export")
            assert process.stdout.read(1000)  # the snapshot is there, and the rest waits for who reads it
            kill_worker(running)
            process.stdout.read()
        assert manager.wait(running)["status"] == "cancelled" and guest.status() == "running" and guest.read() == "three"
        assert len(list((manager.state / "pools/default/disks").rglob("*.json"))) == 1 and not list((manager.state / "instances/origin/snapshots").glob("export*"))
        manager.hull("import", file, "there")
        there = Existing(manager, "there")
        assert [row["name"] for row in manager.get("/v1/instances/there")["snapshots"]] == ["first", "second"]
        there.act("start")
        assert there.up().read() == "three"
        assert there.run("sha256sum </mnt/much; cat /mnt/sum").split("\n")[0] == guest.run("cat /mnt/sum")
        there.act("stop", force=True)
        manager.do("POST", "/v1/instances/there/snapshots/first/restore")
        manager.do("POST", "/v1/instances/there/clone", {"name": "cloned"})
        there.act("start")
        assert there.up().read() == "one"
        manager.do("DELETE", "/v1/instances/there?force=1")
        cloned = Existing(manager, "cloned")
        cloned.act("start")
        assert cloned.up().read() == "one"
        cloned.act("stop", force=True)
        manager.hull("template", "create", "origin", "golden-vm", "--live")
        key = "ssh-ed25519 AAAAC3 it's a \"key\""
        manager.hull("launch", "golden-vm", "made", "--set", f"ssh_keys={key}")
        made = Existing(manager, "made").up()
        assert made.run("cat /root/.ssh/authorized_keys") == key  # without cloud-init the agent does it
        assert b"disable_root: false" in (manager.state / "instances/made/seed.iso").read_bytes()
        assert made.read() == "three" and manager.get("/v1/instances/made")["config"]["memory"] == "256M"
        identity = made.run("cat /etc/machine-id; hostname").split()
        assert identity == [manager.get("/v1/instances/made")["uuid"].replace("-", ""), "made"]
    manager.hull("template", "delete", "golden-vm")
    nothing_left(manager)


def test_memory(manager, image, tmp_path):
    """A snapshot with memory goes on where it is imported, with cards of its own there; as another machine it has none."""
    file, plain = tmp_path / "warm.hull", tmp_path / "plain.hull"
    manager.do("POST", "/v1/networks", {"name": "lab", "type": "nat", "config": {"ipv4": "10.79.0.1/24", "ipv6": "none"}})
    with guest_of(manager, "origin") as guest:
        manager.do("PATCH", "/v1/instances/origin", {"devices": {"lan": {"type": "nic", "network": "lab"}, "gap": {"type": "disk", "size": "8M"}}})
        manager.do("PATCH", "/v1/instances/origin", {"devices": {"more": {"type": "disk", "size": "8M"}}})
        manager.do("PATCH", "/v1/instances/origin", {"devices": {"gap": None}})  # what stays keeps its place
        until(lambda: guest.run("ls /sys/class/net").split() == ["eth0", "lo"], "the card")
        guest.write("cold")
        manager.do("POST", "/v1/instances/origin/snapshots", {"name": "cold"})
        guest.write("warm")
        guest.run("echo alive >/tmp/only-in-memory; echo more | dd of=/dev/vdc conv=fsync 2>/dev/null")
        manager.do("POST", "/v1/instances/origin/snapshots", {"name": "warm", "memory": True})
        guest.write("later")
        manager.hull("export", "origin", file, "--snapshots", "--compress", "none")
        manager.hull("export", "origin", plain, "--compress", "none")
        with tarfile.open(file) as archive:
            names = archive.getnames()
            text = archive.extractfile("hull-export.json").read()
        header = json.loads(text)
        assert header["format"] == 2 and header["states"] == [{"snapshot": "cold"}, {"snapshot": "warm", "memory": True}, {}]
        assert [name for name in names if name.startswith("memory")] == ["memory/1.save"]

        manager.hull("import", file, "there")
        assert [row["memory"] for row in manager.get("/v1/instances/there")["snapshots"]] == [False, True]
        manager.do("POST", "/v1/instances/there/snapshots/warm/restore")
        there = Existing(manager, "there").up()
        assert there.run("cat /tmp/only-in-memory /mnt/file; head -c 4 /dev/vdc").split() == ["alive", "warm", "more"]
        mac = manager.get("/v1/instances/there")["devices"]["lan"]["mac"]
        assert mac != manager.get("/v1/instances/origin")["devices"]["lan"]["mac"] and there.run("cat /sys/class/net/eth0/address") == mac
        assert guest.read() == "later"
        manager.do("DELETE", "/v1/instances/there/snapshots/warm")
        assert [path.name for path in (manager.state / "instances/there/snapshots").iterdir()] == ["cold"]
        manager.do("DELETE", "/v1/instances/there?force=1")

        manager.hull("import", file, "other", "--as-new")
        assert [row["memory"] for row in manager.get("/v1/instances/other")["snapshots"]] == [False, False]
        manager.do("DELETE", "/v1/instances/other?force=1")
        # more than its configuration says
        small = text.replace(b'"memory": "256M"', b'"memory": "004M"')
        data = file.read_bytes().replace(text, small, 1)
        file.write_bytes(data.replace(hashlib.sha256(text).hexdigest().encode(), hashlib.sha256(small).hexdigest().encode()))
        refused = manager.hull("import", file, "bad", check=False)
        assert refused.returncode == 1 and "--trusted" in refused.stderr and "bad" not in manager.names()
        # without snapshots it is as it was before there was memory in exports
        with tarfile.open(plain) as archive:
            assert json.load(archive.extractfile("hull-export.json"))["format"] == 1
    manager.do("DELETE", "/v1/networks/lab")
    nothing_left(manager)


def test_container_of_limited_size(manager, tmp_path):
    """Its files lie in a disk of its own; another range of ids has it there."""
    manager.do("POST", "/v1/instances", {"name": "small", "kind": "container", "image": "bb", "start": True, "devices": {"root": {"type": "disk", "size": "64M"}}})
    sh(manager, "small", "echo kept >/file; chown 1000 /file")
    stop(manager, "small")
    manager.do("POST", "/v1/instances/small/snapshots", {"name": "first"})
    manager.hull("export", "small", tmp_path / "small.hull", "-s")
    manager.hull("import", tmp_path / "small.hull", "small2", "--as-new")
    manager.do("POST", "/v1/instances/small2/actions", {"action": "start"})
    assert sh(manager, "small2", "cat /file; stat -c %u /file 2>/dev/null || ls -ln /file | cut -c14-20; hostname").split()[0] == "kept"
    assert int(sh(manager, "small2", "df -k / | tail -1").split()[1]) < 65536
    stop(manager, "small2")
    manager.do("POST", "/v1/instances/small2/snapshots/first/restore")
    for name in ("small", "small2"):
        manager.do("DELETE", f"/v1/instances/{name}?force=1")
    nothing_left(manager)


class UsersManager(Manager):
    """One of an ordinary user."""

    def within(self, *words):
        return super().within("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", *words)


def contents(file):
    with tarfile.open(file) as archive:
        return {info.name: hashlib.sha256(archive.extractfile(info).read()).hexdigest() for info in archive if info.name.startswith(("disks", "boot"))}


def test_from_the_host_to_a_user(manager, image, tmp_path_factory):
    """VMs go between managers of different users, a second disk too."""
    files = tmp_path_factory.mktemp("files")
    manager.do("POST", "/v1/instances", {"name": "moved", "kind": "vm", "image": image, "devices": {"root": {"type": "disk", "size": "128M"},
                                                                                                     "data": {"type": "disk", "size": "16M"}}})
    manager.do("POST", "/v1/instances/moved/snapshots", {"name": "first"})
    manager.hull("export", "moved", files / "there.hull", "--snapshots", "--compress", "none")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="hull-user-"))  # pytest's own are root's alone
    os.chown(folder, 65534, 65534)
    user = UsersManager(folder)
    try:
        user.hull("import", files / "there.hull", "--keep-identity")
        assert user.get("/v1/instances/moved")["uuid"] == manager.get("/v1/instances/moved")["uuid"]
        user.hull("export", "moved", files / "back.hull", "--snapshots", "--compress", "none")
        assert contents(files / "back.hull") == contents(files / "there.hull") and len(contents(files / "back.hull")) == 6
        user.do("DELETE", "/v1/instances/moved")
        nothing_left(user)
    finally:
        user.end()
    manager.hull("import", files / "back.hull", "again")
    manager.do("DELETE", "/v1/instances/moved")
    manager.do("DELETE", "/v1/instances/again")
    nothing_left(manager)
