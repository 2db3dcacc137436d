"""Two ordinary users side by side, each with containers and a VM: neither sees, reaches or harms what is the other's."""
import os
import shutil
import stat
import subprocess

import pytest
from conftest import GUESTS, kernel_arguments
from hulld import NEEDS_ROOT, TIMEOUT, until
from test_hulld_rootless import ONE, TWO, made_manager, place, sh, status  # noqa: F401 (a fixture)
from test_hulld_user_network import AGENT, connect
from test_hulld_vms import Existing

# One worker has all of them: a user that ends takes all processes of his number along.
pytestmark = [NEEDS_ROOT, pytest.mark.xdist_group("users")]
PORT = 8090


@pytest.fixture(scope="module")
def users(place):
    kernel_arguments("cloud")
    makers = [made_manager(place, uid) for uid in (ONE, TWO)]
    made = []
    try:
        made = [next(maker) for maker in makers]
        if made[0].run("test", "-r", GUESTS / "initrd-cloud", check=False).returncode != 0:
            pytest.skip("an ordinary user cannot read this build")
        for manager in made:
            add_vm_image(manager)
            start_all(manager)
        yield made
    finally:
        for maker in makers[:len(made)]:
            maker.close()


def add_vm_image(manager):
    """A guest that serves the agent."""
    folder = manager.folder / "image"
    (folder / "bin").mkdir(parents=True)
    shutil.copy(AGENT, folder / "bin/hull-agent")
    agent = subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"], input=b"bin/hull-agent\n", cwd=folder, stdout=subprocess.PIPE, check=True).stdout
    (folder / "initrd").write_bytes((GUESTS / "initrd-cloud").read_bytes() + agent)
    (folder / "disk.raw").write_bytes(bytes(8 << 20))
    manager.do("POST", "/v1/images", {"source": "import", "path": str(folder / "disk.raw"), "format": "raw", "alias": "tiny",
                                      "kernel": str(GUESTS / "vmlinuz-cloud"), "initrd": str(folder / "initrd"),
                                      "append": "console=ttyS0 quiet hull.run=hull-agent"})


def start_all(manager):
    """Of the same names with both, but for one of his own; each knows whose it is."""
    own = f"own{manager.uid}"
    for name in ("same", own):
        manager.do("POST", "/v1/instances", {"name": name, "image": "bb", "start": True, "devices": {"eth0": {"type": "nic"}}})
        sh(manager, name, f"echo {manager.uid} >/root/whose")
    devices = {"eth0": {"type": "nic"}, "root": {"type": "disk", "size": "16M"}}
    if manager.uid == TWO:
        devices["web"] = {"type": "forward", "listen": f"tcp:127.0.0.1:{PORT}", "connect": "tcp:80"}
    manager.do("POST", "/v1/instances", {"name": "vm", "kind": "vm", "image": "tiny", "start": True, "config": {"engine": "soft", "memory": "192M"},
                                         "devices": devices})
    guest = Existing(manager, "vm").up()
    guest.run(f"echo {manager.uid} >/whose")
    connect(guest, manager.get("/v1/instances/vm")["info"]["ipv4"][0])


def test_what_each_sees(users):
    for manager in users:
        assert manager.names() == {"same", "vm", f"own{manager.uid}"}
        assert sh(manager, "same", "cat /root/whose").stdout == f"{manager.uid}\n"
        assert Existing(manager, "vm").run("cat /whose") == str(manager.uid)
        assert {row["name"] for row in manager.json("top")} == manager.names()
    one, two = users
    assert not set(one.processes()) & set(two.processes())
    for words in (("exec", f"own{TWO}", "--", "true"), ("info", f"own{TWO}"), ("stop", f"own{TWO}", "--force"), ("delete", f"own{TWO}", "--force"),
                  ("logs", f"own{TWO}"), ("export", f"own{TWO}", one.folder / "stolen.hull"), ("clone", f"own{TWO}", "mine")):
        refused = one.hull(*words, check=False)
        assert refused.returncode != 0 and ("there is none" in refused.stderr or "does not exist" in refused.stderr), (words, refused)


def test_names_and_addresses(users):
    one, two = users
    for manager, other in ((one, two), (two, one)):
        own, others = f"own{manager.uid}", f"own{other.uid}"
        assert sh(manager, "same", f"ping -c 1 -w 20 {own}").returncode == 0
        assert sh(manager, "same", f"nslookup {others}.hull 10.0.2.3 2>&1", check=False).returncode != 0
        guest = Existing(manager, "vm")
        guest.run(f"ping -c 1 -w 20 {own}")
        guest.run(f"! nslookup {others}.hull 10.0.2.3")
        # Whoever has the other's address has none on this switch, but where it has one of its own of that number.
        address = other.get(f"/v1/instances/{others}")["info"]["ipv4"][0]
        if address not in {ip for row in manager.get("/v1/instances") for ip in row["ipv4"]}:
            assert sh(manager, "same", f"ping -c 1 -w 2 {address}", check=False).returncode != 0
    assert two.run("test", "-S", two.runtime / "hull/networks/default/switch.sock", check=False).returncode == 0


def open_to_others(folder):
    """Below a folder that others may not enter nothing is open to them."""
    mode = folder.lstat().st_mode
    return stat.S_IMODE(mode) & 0o077 != 0


def test_folders_and_sockets(users):
    one, two = users
    assert not open_to_others(two.runtime / "hull") and not open_to_others(two.socket)
    sockets = [path for path in (two.runtime / "hull").rglob("*") if stat.S_ISSOCK(path.lstat().st_mode)]
    assert {"hulld.sock", "space.sock", "switch.sock", "control.sock", "keeper.sock"} <= {path.name for path in sockets}
    for path in sockets:
        done = one.run("python3", "-c", "import socket, sys\nfor kind in (1, 5):\n    try: socket.socket(1, kind).connect(sys.argv[1])\n"
                       "    except PermissionError: continue\n    except OSError as error: sys.exit(repr(error))\n    sys.exit('open')", path, check=False)
        assert done.returncode == 0, (path, done.stderr)
    files = [two.state / "hull.db", two.state / "instances/vm/instance.yaml", two.state / "instances/vm/root.qcow2", two.state / "containers/same/upper/root/whose",
             two.state / "containers/same/config.yaml"]
    for path in files:
        if path.exists():
            assert one.run("cat", path, check=False).returncode != 0, path
            assert one.run("sh", "-c", f"echo harm >>{path}", check=False).returncode != 0, path
    assert files[0].exists() and files[1].exists() and files[3].exists() and files[4].exists()
    for area in ("instances", "containers", "images", "pools", "networks"):
        folder = two.state / area
        assert not folder.exists() or one.run("ls", folder, check=False).returncode != 0, folder
    # With his words pointed at the other's.
    for variables in ({"HULL_SOCKET": str(two.socket)}, {"XDG_RUNTIME_DIR": str(two.runtime)}, {"HULL_STATE": str(two.state)}):
        words = ["env", *(f"{key}={value}" for key, value in variables.items()), "hull", "list"]
        assert one.run(*words, check=False).returncode != 0, variables


def test_processes(users):
    one, two = users
    kept = [pid for pid, line in two.processes().items() if "hulld" not in line]
    one.run("sh", "-c", f"kill -9 {' '.join(map(str, kept))}", check=False)
    sh(one, "same", f"kill -9 {' '.join(map(str, kept))}", check=False)
    assert set(kept) <= set(two.processes())
    for name in ("same", "vm"):
        pid = two.get(f"/v1/instances/{name}")["info"]["pid"]
        for file in ("environ", "mem", "root/", "cwd/", "fd/"):
            assert one.run("ls" if file.endswith("/") else "cat", f"/proc/{pid}/{file}", check=False).returncode != 0, (name, file)
        assert status(two, name) == "running"


def ask(manager, port):
    return subprocess.run(manager.within("busybox", "nc", "-w", "10", "127.0.0.1", port), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=TIMEOUT,
                          check=False).stdout


def test_ports(users):
    """A port of the host is his who had it first."""
    one, two = users
    Existing(two, "vm").run("(while true; do echo here is two | nc -l -p 80; done) >/dev/null 2>&1 &")
    until(lambda: ask(two, PORT) == b"here is two\n", "the forward")
    taken = one.wait(one.ok("POST", "/v1/instances", {"name": "thief", "image": "bb", "start": True, "devices": {
        "eth0": {"type": "nic"}, "web": {"type": "forward", "listen": f"tcp:127.0.0.1:{PORT}", "connect": "tcp:80"}}}))
    assert taken["status"] == "failed" and str(PORT) in taken["error"]["message"] and "thief" not in one.names(), taken
    assert ask(one, PORT) == b"here is two\n"
    # Below 1024 only root listens.
    refused = one.wait(one.ok("POST", "/v1/instances", {"name": "thief", "image": "bb", "start": True, "devices": {
        "eth0": {"type": "nic"}, "web": {"type": "forward", "listen": "tcp:127.0.0.1:80", "connect": "tcp:80"}}}))
    assert refused["status"] == "failed" and "80" in refused["error"]["message"], refused


def test_one_who_leaves(users):
    """All of one's goes, by himself and by force, and the other's stays as it was."""
    one, two = users
    pids = {name: two.get(f"/v1/instances/{name}")["info"]["pid"] for name in two.names()}
    one.hull("delete", "--all", "--force")
    one.kill()
    assert {name: two.get(f"/v1/instances/{name}")["info"]["pid"] for name in two.names()} == pids
    assert sh(two, "same", f"ping -c 1 -w 20 own{TWO}; cat /root/whose").stdout.endswith(f"{TWO}\n") and Existing(two, "vm").run("cat /whose") == str(TWO)
    assert two.hull("system", "check").returncode == 0
    one.start()
    assert one.names() == set() and os.stat(one.state).st_uid == ONE
