"""Export, import and templates of ordinary users' containers."""
import pytest
from hulld import NEEDS_ROOT
from test_hulld_rootless import ONE, TWO, made_manager, place, sh  # noqa: F401 (a fixture)

pytestmark = NEEDS_ROOT

FILES = r"""
set -e
mkdir -p /data/sub && cd /data
echo one >plain; busybox chown 1000:1001 plain; busybox chmod 4751 plain
busybox ln plain linked; busybox ln -s ../etc/passwd symbolic; busybox mkfifo pipe
rm /etc/inittab
rm -rf /var; mkdir /var; echo new >/var/new
"""


@pytest.fixture(scope="module")
def one(place):
    yield from made_manager(place, ONE)


def act(manager, name, action, **options):
    manager.do("POST", f"/v1/instances/{name}/actions", {"action": action, **options})


def nothing_left(manager):
    found = manager.do("POST", "/v1/system/check", {})["result"]
    folder = manager.state / "transfers"
    assert not found["problems"] and not (folder.exists() and any(folder.iterdir())) and not list((manager.runtime / "hull/transfers").glob("*")), found


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
    look = "cat /data/plain; ls /var; ls /etc/inittab /data/pipe 2>&1; busybox stat -c '%u:%g %a %h' /data/plain; busybox readlink /data/symbolic"
    seen = [sh(one, name, look).stdout for name in ("box", "copy")]
    assert seen[0] == seen[1] and seen[0].startswith("two\nnew\n") and "\n1000:1001 " in seen[0]
    act(one, "copy", "stop", force=True)
    one.hull("snapshot", "restore", "copy", "first")
    act(one, "copy", "start")
    assert sh(one, "copy", "cat /data/plain; test -p /data/pipe && echo pipe; ls /var").stdout == "one\npipe\nnew\n"
    nothing_left(one)
    one.hull("delete", "--all", "--force")


def test_template(one):
    one.hull("launch", "bb", "origin")
    sh(one, "origin", "mkdir -p /etc/ssh; echo secret >/etc/ssh/ssh_host_rsa_key; echo kept >/etc/kept; busybox chown 5:6 /etc/kept; rm -rf /var; mkdir /var")
    one.hull("template", "create", "origin", "golden", "--live")
    one.hull("launch", "golden", "gold1")
    assert sh(one, "gold1", "cat /etc/kept; busybox stat -c %u:%g /etc/kept; ls /etc/ssh; ls /var; hostname").stdout == "kept\n5:6\ngold1\n"
    one.hull("delete", "gold1", "--force")
    one.hull("template", "delete", "golden")
    nothing_left(one)
    one.hull("delete", "--all", "--force")
