"""Export, import and templates of ordinary users' containers."""
import shutil
import subprocess

import pytest
from hulld import NEEDS_ROOT, manager, until  # noqa: F401 (a fixture)
from test_hulld_rootless import ONE, made_manager, place, sh  # noqa: F401 (a fixture)
from test_hulld_transfer import kill_worker, operation_of

# One worker has all of them: a user that ends takes all processes of his number along.
pytestmark = [NEEDS_ROOT, pytest.mark.xdist_group("users")]

FILES = r"""
set -e
mkdir -p /data/sub && cd /data
echo one >plain; busybox chown 1000:1001 plain; busybox chmod 4751 plain
busybox ln plain linked; busybox ln -s ../etc/passwd symbolic; busybox mkfifo pipe
rm /etc/inittab
rm -rf /usr; mkdir /usr; echo new >/usr/new
"""


@pytest.fixture(scope="module")
def one(place):
    yield from made_manager(place, ONE)


def act(manager, name, action, **options):
    manager.do("POST", f"/v1/instances/{name}/actions", {"action": action, **options})


def nothing_left(manager):
    found = manager.do("POST", "/v1/system/check", {})["result"]
    folders = (manager.state / "transfers", manager.socket.parent / "transfers")
    assert not found["problems"] and not any(folder.exists() and any(folder.iterdir()) for folder in folders), found


def test_round_trip(one):
    one.hull("launch", "bb", "box")
    sh(one, "box", FILES)
    act(one, "box", "stop", force=True)
    one.hull("snapshot", "create", "box", "first")
    act(one, "box", "start")
    sh(one, "box", "echo two >/data/plain; rm /data/pipe")
    file = one.folder / "box.hull"
    one.hull("export", "box", file, "--snapshots")
    one.hull("import", file, "copy")
    seen = one.get("/v1/instances/copy")
    assert [row["name"] for row in seen["snapshots"]] == ["first"] and seen["uuid"] != one.get("/v1/instances/box")["uuid"]
    act(one, "copy", "start")
    look = "cat /data/plain; ls /usr; ls /etc/inittab /data/pipe 2>&1; busybox stat -c '%u:%g %a %h' /data/plain; busybox readlink /data/symbolic"
    seen = [sh(one, name, look).stdout for name in ("box", "copy")]
    assert seen[0] == seen[1] and seen[0].startswith("two\nnew\n") and "\n1000:1001 " in seen[0]
    act(one, "copy", "stop", force=True)
    one.hull("snapshot", "restore", "copy", "first")
    act(one, "copy", "start")
    assert sh(one, "copy", "cat /data/plain; test -p /data/pipe && echo pipe; ls /usr").stdout == "one\npipe\nnew\n"
    nothing_left(one)
    one.hull("delete", "--all", "--force")


def test_template(one):
    one.hull("launch", "bb", "origin")
    sh(one, "origin", "mkdir -p /etc/ssh; echo secret >/etc/ssh/ssh_host_rsa_key; echo kept >/etc/kept; busybox chown 5:6 /etc/kept; rm -rf /usr; mkdir /usr")
    one.hull("template", "create", "origin", "golden", "--live")
    one.hull("launch", "golden", "gold1")
    assert sh(one, "gold1", "cat /etc/kept; busybox stat -c %u:%g /etc/kept; ls /etc/ssh; ls /usr; hostname").stdout == "kept\n5:6\ngold1\n"
    one.hull("delete", "gold1", "--force")
    one.hull("template", "delete", "golden")
    nothing_left(one)
    one.hull("delete", "--all", "--force")


def test_between_root_and_users(manager, one):
    """A folder that covers the image's is one there, too, though overlayfs calls it otherwise in a user's namespace."""
    files = one.folder / "given"
    files.mkdir(mode=0o777)
    files.chmod(0o777)
    for number, (giver, taker) in enumerate(((manager, one), (one, manager))):
        name, file = f"moved{number}", files / f"{number}.hull"
        giver.hull("launch", "bb", name)
        sh(giver, name, FILES)
        act(giver, name, "stop", force=True)
        giver.hull("export", name, file)
        file.chmod(0o644)
        # By the host's names, whoever wrote it.
        names = subprocess.run(["sh", "-c", f"zstd -dc {file} | grep -ao 'xattr.[a-z]*.overlay.[a-z]*' | sort -u"], stdout=subprocess.PIPE, text=True, check=True).stdout
        assert names.split() == ["xattr.trusted.overlay.opaque"]
        taker.hull("import", file, name)
        act(taker, name, "start")
        assert sh(taker, name, "ls /usr; cat /data/plain; test -e /etc/inittab || echo gone; busybox stat -c %u:%g /data/plain").stdout == "new\none\ngone\n1000:1001\n"
        # And there it goes on being one.
        act(taker, name, "stop", force=True)
        taker.hull("clone", name, f"{name}-copy")
        taker.hull("export", f"{name}-copy", files / "again.hull")
        (files / "again.hull").chmod(0o644)
        giver.hull("import", files / "again.hull", "again")
        act(giver, "again", "start")
        assert sh(giver, "again", "ls /usr").stdout == "new\n"
        (files / "again.hull").unlink()
        for who in (giver, taker):
            who.hull("delete", "--all", "--force")
            nothing_left(who)


def test_what_users_cannot_have(manager, one):
    manager.hull("launch", "bb", "renamed")
    sh(manager, "renamed", "busybox mv /usr /usr2")
    act(manager, "renamed", "stop", force=True)
    manager.hull("export", "renamed", one.folder / "renamed.hull")
    (one.folder / "renamed.hull").chmod(0o644)
    done = one.hull("import", one.folder / "renamed.hull", "no", check=False)
    assert done.returncode == 1 and "were renamed in it" in done.stderr and "no" not in one.names()
    nothing_left(one)
    manager.hull("delete", "--all", "--force")


def test_a_killed_worker(place, one):
    """While files of other owners are being unpacked: the next worker takes them away."""
    one.hull("launch", "bb", "box")
    sh(one, "box", FILES)
    act(one, "box", "stop", force=True)
    one.hull("export", "box", one.folder / "killed.hull")
    programs = one.folder / "programs"
    programs.mkdir()
    tar = programs / "tar"
    tar.write_text(f'#!/bin/sh\n{shutil.which("tar")} "$@" || exit 1\ncase "$*" in *--extract*states/0.tar*) exec sleep 1000;; esac\n')
    tar.chmod(0o755)
    one.environment["PATH"] = f"{programs}:{one.environment['PATH']}"
    one.restart()
    with subprocess.Popen(one.within("hull", "import", one.folder / "killed.hull", "broken"), env=one.environment, stderr=subprocess.PIPE, cwd="/") as process:
        running = operation_of(one, "instance-import")
        unpacked = one.state / "transfers" / running["name"] / "upper/data/plain"
        until(unpacked.exists, "the files")
        assert unpacked.stat().st_uid == ONE * 100000 + 999
        kill_worker(running)
        assert process.wait(240) == 1
    assert one.wait(running)["status"] in ("failed", "cancelled") and one.names() == {"box"}
    nothing_left(one)
    one.hull("delete", "--all", "--force")
