"""Containers of ordinary users by their own hulld: their life, what is refused, and that users are apart."""
import array
import json
import os
import pathlib
import shutil
import signal
import socket
import tarfile
import tempfile
import threading

import pytest
from hulld import NEEDS_ROOT, Failure, busybox_root, until
from users import Place, UserManager

# One worker has all of them: a user that ends takes all processes of his number along.
pytestmark = [NEEDS_ROOT, pytest.mark.xdist_group("users")]
ONE, TWO, POOR = 4101, 4102, 4103


@pytest.fixture(scope="module")
def place():
    for program in ("busybox", "newuidmap", "setpriv"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="hull-users-"))  # not pytest's, which are root's alone
    folder.chmod(0o755)
    busybox_root(folder / "root.tar").chmod(0o644)
    made = Place(folder, (ONE, TWO, POOR), without_ids=(POOR,))
    yield made
    made.end()


def made_manager(place, uid):
    made = UserManager(place, uid)
    try:
        made.hull("image", "import", place.folder / "root.tar", "--alias", "bb")
        yield made
    finally:
        made.end()


@pytest.fixture(scope="module")
def one(place):
    yield from made_manager(place, ONE)


@pytest.fixture(scope="module")
def two(place):
    yield from made_manager(place, TWO)


def sh(manager, name, script, **options):
    return manager.hull("exec", name, "--", "/bin/sh", "-c", script, **options)


def status(manager, name):
    return manager.get(f"/v1/instances/{name}")["status"]


def test_life(one):
    one.hull("launch", "bb", "life")
    seen = one.get("/v1/instances/life")
    assert (seen["status"], seen["kind"]) == ("running", "container") and seen["info"]["pid"] > 1
    # Its root is the user, its other users are ids of his range.
    assert sh(one, "life", "id -u; cat /proc/self/uid_map").stdout.split() == ["0", "0", "0", "1", "1", "1", "65535"]
    assert os.stat(f"/proc/{seen['info']['pid']}").st_uid == ONE
    sh(one, "life", "echo kept > /root/file; busybox chown 7:8 /root/file")
    inside = one.state / "containers/life/upper/root/file"
    assert (inside.stat().st_uid, inside.stat().st_gid) == (ONE * 100000 + 6, ONE * 100000 + 7)
    assert sh(one, "life", "exit 42", check=False).returncode == 42
    assert "lo" in sh(one, "life", "ip addr").stdout and sh(one, "life", "ping -c 1 127.0.0.1").returncode == 0
    assert sh(one, "life", "ls /dev/null && echo x > /dev/null && ls /proc/uptime /proc/meminfo").returncode == 0
    one.hull("stop", "life", "--force")
    assert status(one, "life") == "stopped"
    one.hull("start", "life")
    assert sh(one, "life", "cat /root/file").stdout == "kept\n"
    one.hull("pause", "life")
    assert status(one, "life") == "paused"
    one.hull("resume", "life")
    assert sh(one, "life", "cat /root/file").stdout == "kept\n" and status(one, "life") == "running"
    one.hull("restart", "life", "--force")
    one.hull("config", "life", "set", "hostname=other")
    one.hull("delete", "life", "--force")
    assert "life" not in one.names() and not (one.state / "containers/life").exists()


def test_files(one, tmp_path):
    one.hull("launch", "bb", "files")
    source = one.folder / "given"
    source.write_text("given")
    one.hull("push", source, "files:/root/given")
    assert sh(one, "files", "cat /root/given").stdout == "given"
    one.hull("pull", "files:/root/given", one.folder / "taken")
    assert (one.folder / "taken").read_text() == "given" and (one.folder / "taken").stat().st_uid == ONE
    assert "console" in one.hull("help", "console").stdout and one.hull("logs", "files").returncode == 0
    one.hull("delete", "files", "--force")


def test_snapshots_and_clones(one):
    one.hull("launch", "bb", "snap")
    sh(one, "snap", "mkdir /data; echo first > /data/file; busybox chown 33:33 /data/file")
    one.hull("snapshot", "create", "snap", "s1")
    sh(one, "snap", "echo second > /data/file; rm /bin/wc")
    one.hull("snapshot", "restore", "snap", "s1")
    assert sh(one, "snap", "cat /data/file; ls /bin/wc; busybox stat -c %u:%g /data/file").stdout == "first\n/bin/wc\n33:33\n"
    one.hull("clone", "snap", "copy")
    one.hull("start", "copy")
    assert sh(one, "copy", "cat /data/file; hostname").stdout == "first\ncopy\n"
    one.hull("snapshot", "delete", "snap", "s1")
    for name in ("copy", "snap"):
        one.hull("delete", name, "--force")
    assert not any((one.state / "containers").iterdir())


def test_shares(one):
    folder = one.folder / "shared"
    folder.mkdir()
    os.chown(folder, ONE, ONE)
    one.do("POST", "/v1/instances", {"name": "share", "image": "bb", "start": True,
                                     "devices": {"d": {"type": "share", "source": str(folder), "path": "/srv"}}})
    sh(one, "share", "echo hello > /srv/file")
    assert (folder / "file").read_text() == "hello\n" and (folder / "file").stat().st_uid == ONE
    one.hull("delete", "share", "--force")


@pytest.mark.parametrize(("config", "devices", "words"), [
    ({"memory": "64M"}, {}, "control group"),
    ({"cpus": "1"}, {}, "control group"),
    ({"privileged": "true"}, {}, "needs root"),
    ({}, {"root": {"type": "disk", "pool": "default", "size": "64M"}}, "needs root"),
])
def test_refused(one, config, devices, words):
    ended = one.wait(one.ok("POST", "/v1/instances", {"name": "no", "image": "bb", "start": True, "config": config, "devices": devices}))
    assert ended["status"] == "failed" and words in ended["error"]["message"], ended
    assert "no" not in one.names() and not (one.state / "containers/no").exists()


def test_without_ids(place):
    poor = UserManager(place, POOR)
    try:
        refused = poor.hull("image", "import", place.folder / "root.tar", "--alias", "bb", check=False)
        assert refused.returncode != 0 and "usermod --add-subuids" in refused.stderr and f"tester{POOR}" in refused.stderr
    finally:
        poor.end()


def test_users_are_apart(one, two):
    for manager in (one, two):
        manager.hull("launch", "bb", "same")
        sh(manager, "same", f"echo {manager.uid} > /root/whose")
    assert [sh(manager, "same", "cat /root/whose").stdout for manager in (one, two)] == [f"{ONE}\n", f"{TWO}\n"]
    two.hull("launch", "bb", "mine")
    assert "mine" not in one.names() and one.names() == {"same"}
    assert not set(one.processes()) & set(two.processes())
    # Neither his socket, nor what lies behind it, nor the processes.
    assert os.stat(two.socket).st_mode & 0o777 == 0o600 and os.stat(two.runtime / "hull").st_mode & 0o777 == 0o700
    pid = two.get("/v1/instances/same")["info"]["pid"]
    root = two.state / "containers/same/upper/root/whose"
    for words in (("sh", "-c", f"kill -9 {pid}"), ("cat", root), ("ls", f"/proc/{pid}/root/"), ("ls", two.runtime / "hull/ct"),
                  ("nsenter", "-t", pid, "-U", "true")):
        assert one.run(*words, check=False).returncode != 0, words
    assert one.run(one.environment["PATH"].split(":")[0] + "/hull", "list", "--json", check=False).returncode == 0
    # As root of his own container.
    assert sh(one, "same", f"kill -9 {pid}", check=False).returncode != 0
    assert status(two, "same") == "running" and sh(two, "same", "cat /root/whose").stdout == f"{TWO}\n"
    for manager in (one, two):
        manager.hull("delete", "--all", "--force")


def test_without_control_groups(place, one):
    """systemd needs a control group that is the user's (`hull` has hulld started in one where it can). Else it runs without, and says so."""
    root = place.folder / "systemd"
    with tarfile.open(place.folder / "root.tar") as tar:
        tar.extractall(root)
    (root / "sbin/init").unlink()
    (root / "lib/systemd").mkdir(parents=True)
    (root / "sbin/init").symlink_to("/lib/systemd/systemd")
    shutil.copy(root / "bin/busybox", root / "lib/systemd/systemd")
    with tarfile.open(place.folder / "systemd.tar", "w") as tar:
        tar.add(root, ".")
    one.hull("image", "import", place.folder / "systemd.tar", "--alias", "sd")
    assert "starts no services" not in one.hull("launch", "bb", "plain").stderr
    told = one.hull("launch", "sd", "sd").stderr
    assert "sd: it runs without limits" in told and "systemd-run --user" in told and "sd: its init is systemd" in told and "starts no services" in told
    info = one.get("/v1/instances/sd")["info"]
    assert len(info["warnings"]) == 2 and [row["field"] for row in info["degraded"][-2:]] == ["system.control_group", "system.init"]
    assert "starts no services" in one.hull("info", "sd").stdout
    assert len(one.get("/v1/instances/plain")["info"]["warnings"]) == 1
    # What it uses is counted all the same.
    before = info["cpu_time_ns"]
    sh(one, "sd", "(while :; do :; done) & echo $! >/root/pid; i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done")
    row = until(lambda: (seen := next(row for row in one.json("top") if row["name"] == "sd"))["cpu_percent"] > 1 and seen, "its use of a CPU")
    assert row["memory_bytes"] > 0
    used = one.get("/v1/instances/sd")["info"]
    assert used["cpu_time_ns"] > before and used["processes"] >= 3 and used["memory_used_bytes"] > 0
    sh(one, "sd", "kill -9 $(cat /root/pid)")
    # Orphans are waited for, and a stop reaches everybody; one who does not listen is killed.
    sh(one, "sd", "(sh -c 'trap \"echo told >/root/told; exit\" TERM; echo >/root/up; sleep 1000 & wait' &) ; (true &)")
    sh(one, "sd", "while ! test -e /root/up; do sleep 0.1; done")
    until(lambda: " Z " not in sh(one, "sd", "busybox ps -o stat,comm").stdout, "no zombies")
    one.hull("stop", "sd")
    assert status(one, "sd") == "stopped" and not [line for line in one.processes().values() if "/root/up" in line]
    one.hull("start", "sd")
    assert sh(one, "sd", "cat /root/told").stdout == "told\n"
    pid = one.get("/v1/instances/sd")["info"]["pid"]
    one.hull("restart", "sd")
    assert one.get("/v1/instances/sd")["info"]["pid"] != pid and len(one.get("/v1/instances/sd")["info"]["warnings"]) == 2
    one.hull("pause", "sd")
    one.hull("resume", "sd")
    # Its own init is nobody else's business, and limits that were asked for are there or nothing is.
    refused = one.hull("launch", "sd", "limited", "--memory", "64M", check=False)
    assert refused.returncode == 1 and "linux.resources.memory" in refused.stderr and "Delegate=yes" in refused.stderr and "limited" not in one.names()
    one.hull("delete", "--all", "--force")


def kill_started(manager):
    (started,) = [pid for pid, line in manager.processes().items() if "hulld" in line]
    os.kill(started, signal.SIGKILL)
    until(lambda: started not in manager.processes(), "the end of hulld")


def test_started_in_a_scope(place, two):
    two.kill()
    programs, asked = two.folder / "programs", two.folder / "asked"
    programs.mkdir()
    (two.runtime / "systemd").mkdir()
    (two.runtime / "systemd/private").touch()
    (two.runtime / "systemd").chmod(0o755)
    stand_in = programs / "systemd-run"
    stand_in.write_text(f'#!/bin/sh\necho "$@" > {asked}\nwhile [ "$1" != -- ]; do shift; done\nshift\nexec "$@"\n')
    stand_in.chmod(0o755)
    two.environment["PATH"] = f"{programs}:{two.environment['PATH']}"
    assert two.hull("list").returncode == 0
    assert asked.read_text().startswith("--user --scope --quiet --collect -p Delegate=yes -- /") and "--idle-exit 300" in asked.read_text()
    kill_started(two)
    # Where that fails it is started all the same.
    stand_in.write_text("#!/bin/sh\nexit 1\n")
    assert two.hull("list").returncode == 0
    kill_started(two)
    two.start()


def holders(manager):
    return [pid for pid, line in manager.processes().items() if "--hold" in line]


def test_killed(one):
    one.hull("launch", "bb", "kept")
    pid = one.get("/v1/instances/kept")["info"]["pid"]
    operation = one.ok("POST", "/v1/instances", {"name": "half", "image": "bb", "start": True})
    one.kill()
    one.start()
    assert one.wait(operation)["status"] in ("done", "failed")
    assert one.get("/v1/instances/kept")["info"]["pid"] == pid and sh(one, "kept", "echo yes").stdout == "yes\n"
    # And who holds the namespace: the next one finds it by the container that runs in it.
    (holder,) = holders(one)
    os.kill(holder, signal.SIGKILL)
    until(lambda: holder not in one.processes(), "the end of the holder")
    assert sh(one, "kept", "echo yes").stdout == "yes\n"
    one.hull("stop", "kept", "--force")
    one.hull("delete", "--all", "--force")
    assert one.hull("system", "check").returncode == 0


def test_nothing_is_left(one):
    one.hull("launch", "bb", "last")
    one.hull("delete", "last", "--force")
    assert not any((one.state / "containers").iterdir()) and not any((one.runtime / "hull/ct/keeper").iterdir())
    until(lambda: set(one.processes()) == {one.process.pid}, "the end of the holder")


def serve_switch(listener, told):
    """A switch that says the same to all who ask, and keeps the device of the last."""
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            text, rights, _, _ = connection.recvmsg(65536, socket.CMSG_SPACE(4))
            if "tap" in told:
                os.close(told["tap"])
            told["message"] = json.loads(text)
            told["tap"] = array.array("i", rights[0][2])[0]
            connection.send(json.dumps({"ok": True} if told["is_good"] else {"error": "no room"}).encode())


@pytest.mark.parametrize("is_good", [True, False])
def test_switch(one, is_good):
    """What a container's card at a switch is: `hull ct`, which needs no hulld, says the card as the manager does."""
    path, told = one.runtime / "switch.sock", {"is_good": is_good}
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen()
        path.chmod(0o666)
        thread = threading.Thread(target=serve_switch, args=(listener, told), daemon=True)
        thread.start()
        card = f"switch={path},name=eth0,mac=52:54:00:00:00:01,ip=10.0.2.15/24,gateway=10.0.2.2,forward=tcp:127.0.0.1:8080>tcp:80"
        digest = next(row["name"] for row in one.get("/v1/images"))
        one.hull("ct", "create", "wired", "--from", digest, "--network", card)
        started = one.hull("ct", "start", "wired", check=False)
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(30)
    try:
        assert "message" in told, started.stderr
        assert told["message"] == {"do": "attach", "name": "wired", "mac": "52:54:00:00:00:01", "ipv4": "10.0.2.15",
                                   "forwards": [{"listen": "tcp:127.0.0.1:8080", "connect": "tcp:80"}]}
        assert (started.returncode == 0) == is_good and (is_good or "no room" in started.stderr)
        if is_good:
            shown = one.hull("ct", "exec", "wired", "--", "ip", "addr").stdout
            assert "10.0.2.15/24" in shown and "52:54:00:00:00:01" in shown
            one.hull("ct", "exec", "wired", "--", "ping", "-c", "1", "-W", "1", "10.0.2.2", check=False)
            asked = until(lambda: next((data for data in read_all(told["tap"]) if data[12:14] == b"\x08\x06"), None), "a question for the gateway")
            assert asked[6:12] == bytes.fromhex("525400000001")
    finally:
        if "tap" in told:
            os.close(told["tap"])
        one.hull("ct", "delete", "wired", "--force")


def test_spoofing(one):
    """From other addresses than a card's own something arrives where it is allowed, and only there."""
    for name, card in (("free", {"spoofing": "allow"}), ("bound", {}), ("asked", {})):
        one.do("POST", "/v1/instances", {"name": name, "image": "bb", "start": True, "devices": {"eth0": {"type": "nic", **card}}})
    for name, number, works in (("free", 201, True), ("bound", 200, False)):
        sh(one, name, f"ip addr add 10.0.2.{number}/24 dev eth0")
        assert sh(one, name, "ping -c 1 -w 20 asked").returncode == 0
        done = sh(one, name, f"ping -c 1 -w {20 if works else 2} -I 10.0.2.{number} asked", check=False)
        assert (done.returncode == 0) == works, done
    one.hull("delete", "--all", "--force")


def read_all(fd):
    os.set_blocking(fd, False)
    while True:
        try:
            yield os.read(fd, 2048)
        except OSError:
            return
