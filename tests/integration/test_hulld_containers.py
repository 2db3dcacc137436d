"""Containers by hulld: their life, configuration, snapshots and clones, and what is refused."""
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import time

import pytest
from hulld import NEEDS_ROOT, Failure, manager, until  # noqa: F401 (a fixture)

pytestmark = NEEDS_ROOT


def create(manager, name, **more):
    return manager.do("POST", "/v1/instances", {"name": name, "kind": "container", "image": "bb", **more})


def act(manager, name, action, **more):
    return manager.do("POST", f"/v1/instances/{name}/actions", {"action": action, **more})


def get(manager, name):
    return manager.get(f"/v1/instances/{name}")


def delete(manager, name):
    return manager.do("DELETE", f"/v1/instances/{name}?force=1")


def sh(manager, name, script):
    return manager.hull("exec", name, "--", "/bin/sh", "-c", script).stdout


def test_life(manager):
    assert create(manager, "life", start=True)["result"]["status"] == "running"
    seen = get(manager, "life")
    assert (seen["status"], seen["kind"], seen["image"], seen["profiles"]) == ("running", "container", "bb", ["default"])
    assert seen["info"]["pid"] > 1 and seen["info"]["processes"] >= 1 and seen["info"]["started_at"]
    assert "incomplete" not in seen and len(seen["uuid"]) == 36
    row = next(row for row in manager.get("/v1/instances") if row["name"] == "life")
    assert {"name", "kind", "status", "image", "ipv4", "ipv6", "cpus", "memory_bytes", "node", "created_at"} <= set(row)
    assert row["ipv4"] == seen["info"]["ipv4"] and len(row["ipv4"]) == 1
    act(manager, "life", "pause")
    assert get(manager, "life")["status"] == "paused"
    act(manager, "life", "resume")
    before = get(manager, "life")["info"]["pid"]
    act(manager, "life", "restart", timeout_s=5)
    assert get(manager, "life")["info"]["pid"] != before
    assert row["ipv4"] == get(manager, "life")["info"]["ipv4"]
    act(manager, "life", "stop", force=True)
    assert get(manager, "life")["status"] == "stopped"
    delete(manager, "life")
    assert "life" not in manager.names()
    assert not os.path.exists(manager.state / "instances/life") and not os.path.exists(manager.state / "containers/life")


@pytest.mark.parametrize(("body", "words"), [
    ({"name": "-bad"}, "letters, digits"),
    ({"name": "x", "config": {"memroy": "1G"}}, "memory"),
    ({"name": "x", "config": {"memory": "lots"}}, "memory"),
    ({"name": "x", "config": {"cpu_model": "host"}}, "VMs"),
    ({"name": "x", "devices": {"d": {"type": "disc"}}}, "disk"),
    ({"name": "x", "devices": {"d": {"type": "share", "source": "/srv"}}}, "path"),
    ({"name": "x", "devices": {"d": {"type": "nic", "mac": "01:00:00:00:00:01"}}}, "mac"),
    ({"name": "x", "profiles": ["nowhere"]}, "nowhere"),
    ({"name": "x", "image": "nothing"}, "nothing"),
])
def test_refused(manager, body, words):
    with pytest.raises(Failure) as refused:
        manager.ok("POST", "/v1/instances", {"kind": "container", "image": "bb", **body})
    assert refused.value.status in (400, 404) and words in str(refused.value)
    assert "x" not in manager.names()


def test_conflicts(manager):
    create(manager, "twice")
    with pytest.raises(Failure) as refused:
        manager.ok("POST", "/v1/instances", {"name": "twice", "kind": "container", "image": "bb"})
    assert refused.value.status == 409
    ended = manager.wait(manager.ok("POST", "/v1/instances/twice/actions", {"action": "stop"}))
    assert ended["status"] == "failed" and "not running" in ended["error"]["message"]
    act(manager, "twice", "start")
    ended = manager.wait(manager.ok("DELETE", "/v1/instances/twice"))
    assert ended["status"] == "failed" and "stop it first" in ended["error"]["message"]
    delete(manager, "twice")
    with pytest.raises(Failure) as refused:
        get(manager, "twice")
    assert refused.value.status == 404


def test_failed_start_leaves_nothing(manager):
    body = {"name": "broken", "kind": "container", "image": "bb", "start": True, "config": {"init": ["/bin/nothing"]}}
    ended = manager.wait(manager.ok("POST", "/v1/instances", body))
    assert ended["status"] == "failed", ended
    assert "broken" not in manager.names() and not os.path.exists(manager.state / "containers/broken")
    create(manager, "broken")
    delete(manager, "broken")


def test_changes(manager):
    create(manager, "limits", start=True, config={"memory": "64M", "environment": ["A=b c", "D=e"]})
    pid = get(manager, "limits")["info"]["pid"]
    assert "MemTotal:          65536 kB" in sh(manager, "limits", "cat /proc/meminfo")
    assert "A=b c\n" in sh(manager, "limits", "tr '\\0' '\\n' < /proc/1/environ 2>/dev/null || cat /proc/1/environ").replace("\0", "\n")
    done = manager.do("PATCH", "/v1/instances/limits", {"config": {"memory": 96, "processes": 50}})
    assert done["result"]["waits_for_restart"] is False
    assert "MemTotal:          98304 kB" in sh(manager, "limits", "cat /proc/meminfo")
    done = manager.do("PATCH", "/v1/instances/limits", {"config": {"hostname": "other", "environment": None}})
    assert done["result"]["waits_for_restart"] is True
    seen = get(manager, "limits")
    assert seen["config"] == {"memory": "96", "processes": "50", "hostname": "other"} and seen["info"]["pid"] == pid
    act(manager, "limits", "restart", force=True)
    assert sh(manager, "limits", "hostname") == "other\n"
    with pytest.raises(Failure) as refused:
        manager.ok("PATCH", "/v1/instances/limits", {"config": {"privileged": True}})
    assert "privileged" in str(refused.value)
    done = manager.do("PUT", "/v1/instances/limits", {"description": "plain", "profiles": ["default"]})
    seen = get(manager, "limits")
    assert seen.get("config", {}) == {} and seen["description"] == "plain" and seen["expanded"]["devices"]["eth0"]["type"] == "nic"
    delete(manager, "limits")


def test_the_address_stays_when_the_document_is_replaced(manager):
    create(manager, "same", start=True)
    before = get(manager, "same")["expanded"]["devices"]["eth0"]["mac"]
    manager.do("PUT", "/v1/instances/same", {"profiles": ["default"]})
    assert get(manager, "same")["expanded"]["devices"]["eth0"]["mac"] == before
    delete(manager, "same")


def test_shares(manager, tmp_path):
    tmp_path.chmod(0o755)
    (tmp_path / "file").write_text("shared\n")
    create(manager, "share", start=True, devices={"data": {"type": "share", "source": str(tmp_path), "path": "/srv/data", "readonly": True}})
    assert sh(manager, "share", "cat /srv/data/file; echo x > /srv/data/new || echo refused").endswith("shared\nrefused\n")
    delete(manager, "share")


def test_snapshots_are_a_tree(manager):
    create(manager, "tree", start=True)
    for name in ("a", "b"):
        sh(manager, "tree", f"echo {name} > /root/state; sync")
        manager.do("POST", "/v1/instances/tree/snapshots", {"name": name})
    sh(manager, "tree", "echo later > /root/state")
    manager.do("POST", "/v1/instances/tree/snapshots/a/restore", {})
    assert get(manager, "tree")["status"] == "running" and sh(manager, "tree", "cat /root/state") == "a\n"
    manager.do("POST", "/v1/instances/tree/snapshots", {"name": "c"})
    rows = {row["name"]: row for row in manager.get("/v1/instances/tree/snapshots")}
    assert {name: row.get("parent") for name, row in rows.items()} == {"a": None, "b": "a", "c": "a"}
    assert [name for name, row in rows.items() if row["current"]] == ["c"]
    manager.do("DELETE", "/v1/instances/tree/snapshots/a")
    rows = {row["name"]: row for row in manager.get("/v1/instances/tree/snapshots")}
    assert {name: row.get("parent") for name, row in rows.items()} == {"b": None, "c": None}
    ended = manager.wait(manager.ok("POST", "/v1/instances/tree/snapshots/a/restore", {}))
    assert ended["status"] == "failed" and "no snapshot a" in ended["error"]["message"]
    ended = manager.wait(manager.ok("POST", "/v1/instances/tree/snapshots", {"name": "m", "memory": True}))
    assert ended["status"] == "failed" and not any(row["name"] == "m" for row in manager.get("/v1/instances/tree/snapshots"))
    delete(manager, "tree")


def test_snapshots_of_a_disk_of_its_own(manager):
    """While it is written to: what comes back is what there was at one moment."""
    writer = "cat /root/a /root/b > /root/before; while :; do i=$((i+1)); for f in a b; do echo $i > /root/new; busybox mv /root/new /root/$f; done; done"
    create(manager, "limited", start=True, config={"init": ["/bin/sh", "-c", writer], "stop_timeout": "1"}, devices={"root": {"type": "disk", "size": "64M"}})
    until(lambda: sh(manager, "limited", "cat /root/b 2>/dev/null || true").strip() not in ("", "1"), "the writer")
    manager.do("POST", "/v1/instances/limited/snapshots", {"name": "s"})
    assert get(manager, "limited")["status"] == "running"
    before = sh(manager, "limited", "cat /root/b")
    until(lambda: sh(manager, "limited", "cat /root/b") != before, "the writer, which goes on")
    act(manager, "limited", "pause")
    manager.do("POST", "/v1/instances/limited/snapshots", {"name": "paused"})
    assert get(manager, "limited")["status"] == "paused"
    act(manager, "limited", "resume")
    for snapshot in ("s", "paused"):
        manager.do("POST", f"/v1/instances/limited/snapshots/{snapshot}/restore", {})
        first, second = map(int, until(lambda: len(words := sh(manager, "limited", "cat /root/before").split()) == 2 and words, "what was copied"))
        assert first - second in (0, 1)
    delete(manager, "limited")


def test_one_that_stands_still_goes_on_when_its_worker_is_killed(manager):
    create(manager, "still", start=True, devices={"root": {"type": "disk", "size": "512M"}})
    sh(manager, "still", "head -c 300000000 /dev/urandom > /root/large; sync")
    note = manager.state / "run/keeper/still/still"
    for turn, (path, body) in enumerate([("snapshots", {"name": "s"}), ("snapshots", {"name": "t"})]):
        operation = manager.ok("POST", f"/v1/instances/still/{path}", body)
        until(note.exists, "a container that stands still")
        os.kill(json.loads((manager.state / f"operations/{operation['name']}.jsonl").read_text().split("\n", 1)[0])["worker"], signal.SIGKILL)
        if turn == 1:
            manager.kill()
            manager.start()
        manager.wait(operation)
        assert get(manager, "still")["status"] == "running" and not note.exists()
        assert sh(manager, "still", "echo on > /root/small; sync; cat /root/small") == "on\n"
    act(manager, "still", "stop", force=True)
    delete(manager, "still")


def test_a_clone_is_somebody_else(manager):
    create(manager, "from", start=True, config={"ssh_keys": ["ssh-ed25519 AAAA me"]})
    sh(manager, "from", "mkdir -p /etc/ssh; echo id > /etc/machine-id; echo k > /etc/ssh/ssh_host_rsa_key; echo mine > /root/mine; cat /root/.ssh/authorized_keys")
    manager.do("POST", "/v1/instances/from/snapshots", {"name": "s"})
    sh(manager, "from", "echo later > /root/mine")
    manager.do("POST", "/v1/instances/from/clone", {"name": "to", "snapshot": "s"})
    act(manager, "to", "start")
    first, second = get(manager, "from"), get(manager, "to")
    assert first["uuid"] != second["uuid"] and first["info"]["ipv4"] != second["info"]["ipv4"] and "snapshots" not in second
    assert first["expanded"]["devices"]["eth0"]["mac"] != second["expanded"]["devices"]["eth0"]["mac"]
    assert sh(manager, "to", "cat /etc/machine-id; cat /root/mine; hostname; ls /etc/ssh; cat /root/.ssh/authorized_keys") == "mine\nto\nssh-ed25519 AAAA me\n"
    assert sh(manager, "from", "cat /etc/machine-id") == "id\n"
    for name in ("from", "to"):
        delete(manager, name)


def test_user_data_is_a_seed(manager):
    create(manager, "seed", start=True, config={"user_data": "#cloud-config\nhostname: x\n"})
    assert sh(manager, "seed", "cat /var/lib/cloud/seed/nocloud/user-data") == "#cloud-config\nhostname: x\n"
    assert f"instance-id: {get(manager, 'seed')['uuid']}\n" in sh(manager, "seed", "cat /var/lib/cloud/seed/nocloud/meta-data")
    delete(manager, "seed")


def test_many_at_once(manager):
    asked = manager.ok("POST", "/v1/instances", {"name": "many", "kind": "container", "image": "bb", "count": 4, "start": True})
    for name in asked["operations"]:
        assert manager.wait({"name": name})["status"] == "done"
    rows = [row for row in manager.get("/v1/instances") if row["name"].startswith("many-")]
    assert [row["status"] for row in rows] == ["running"] * 4 and len({tuple(row["ipv4"]) for row in rows}) == 4
    for row in rows:
        delete(manager, row["name"])


def test_logs(manager):
    create(manager, "talk", start=True, config={"init": ["/bin/sh", "-c", "for i in $(seq 50); do echo line $i; done; exec sleep 1000"]})
    until(lambda: "line 50" in manager.get("/v1/instances/talk/logs"), "the log")
    assert manager.get("/v1/instances/talk/logs?lines=2").split() == ["line", "49", "line", "50"]
    delete(manager, "talk")


def test_sessions(manager):
    create(manager, "talker", start=True)
    done = manager.hull("exec", "talker", "--", "sh", "-c", "cat; echo err >&2; exit 7", check=False, input="through\n")
    assert (done.returncode, done.stdout, done.stderr) == (7, "through\n", "err\n")
    assert manager.hull("exec", "talker", "--", "sh", "-c", "kill -TERM $$", check=False).returncode == 128 + 15
    assert manager.hull("exec", "talker", "--", "/no/such", check=False).returncode != 0
    big = os.urandom(3 << 20).hex()
    assert manager.hull("exec", "talker", "--", "cat", input=big).stdout == big
    delete(manager, "talker")


def test_documents_come_back_from_their_files(manager):
    create(manager, "back", config={"memory": "64M"}, description="a\nb: 'c'")
    before = get(manager, "back")
    manager.kill()
    with contextlib.closing(sqlite3.connect(manager.state / "hull.db")) as database:
        database.execute("DELETE FROM documents WHERE kind = 'instance'")
        database.commit()
    manager.start()
    after = get(manager, "back")
    assert {key: after[key] for key in ("uuid", "config", "description", "devices")} == {key: before[key] for key in ("uuid", "config", "description", "devices")}
    delete(manager, "back")


def test_autostart_and_restarts(manager):
    create(manager, "auto", config={"autostart": "true", "restart": "always"}, start=True)
    pid = get(manager, "auto")["info"]["pid"]
    os.kill(pid, 9)
    until(lambda: get(manager, "auto")["status"] == "running" and get(manager, "auto")["info"].get("pid") not in (None, pid), "the restart")
    act(manager, "auto", "stop", force=True)
    time.sleep(2.5)  # it is looked for what has ended every second
    assert get(manager, "auto")["status"] == "stopped"
    # As after a boot of the host.
    manager.process.terminate()
    manager.process.wait()
    (manager.state / "run/autostarted").write_text("another boot\n")
    manager.start()
    until(lambda: get(manager, "auto")["status"] == "running", "the start with the host")
    delete(manager, "auto")


def test_what_is_a_failure(manager):
    """restart=on-failure: an exit status that is not 0, or a signal; whether there is a hulld at that moment or not."""
    script = "sleep 1; read status < /root/status || status=9; read -r turn < /root/turn || turn=0; echo $((turn + 1)) > /root/turn; [ $status = stay ] && exec sleep 1000; exit $status"
    create(manager, "fails", config={"restart": "on-failure", "init": ["/bin/sh", "-c", script]}, start=True)
    pid = lambda: get(manager, "fails")["info"].get("pid")  # noqa: E731
    ended = lambda: (manager.state / "run/ended-fails").exists()  # noqa: E731
    first = pid()
    until(lambda: pid() not in (None, first), "another life after exit 9")
    until(lambda: manager.hull("exec", "fails", "--", "sh", "-c", "echo stay > /root/status", check=False).returncode == 0, "a running one")
    until(lambda: manager.hull("exec", "fails", "--", "sh", "-c", "grep -q sleep /proc/1/cmdline", check=False).returncode == 0, "one that stays")
    second = pid()
    manager.kill()
    os.kill(second, signal.SIGKILL)
    until(ended, "its end")
    manager.start()
    until(lambda: pid() not in (None, second), "another life after a signal, once there is a hulld")
    act(manager, "fails", "stop", force=True)
    assert not ended()
    shown = manager.state / "containers/fails/upper/root/status"
    shown.write_text("0\n")
    act(manager, "fails", "start")
    until(ended, "its end")
    until(lambda: get(manager, "fails")["status"] == "stopped", "an end that is no failure")
    manager.restart()
    create(manager, "fails-too", config={"restart": "on-failure", "init": ["/bin/sh", "-c", "exit 1"]})
    act(manager, "fails-too", "start")
    until(lambda: sum(operation.get("description") == "starting fails-too" for operation in manager.get("/v1/operations")) > 1, "a start by itself")
    assert get(manager, "fails")["status"] == "stopped"
    for name in ("fails", "fails-too"):
        delete(manager, name)


def test_ports_of_a_bridge(manager):
    """What an instance sends and receives, by the kernel's counters of its port."""
    manager.do("POST", "/v1/networks", {"name": "lab", "config": {"ipv4": "10.99.3.1/24"}})
    assert manager.get("/v1/networks/lab")["ports"] == []
    manager.do("POST", "/v1/instances", {"name": "web1", "kind": "container", "image": "bb", "start": True,
                                         "devices": {"eth0": {"type": "none"}, "lan": {"type": "nic", "network": "lab", "ipv4": "10.99.3.9"}}})
    manager.hull("exec", "web1", "--", "ping", "-c", "3", "-i", "0.1", "-s", "1000", "-w", "20", "10.99.3.1")
    port, = manager.json("network", "info", "lab")["ports"]
    assert port["instance"] == "web1" and port["device"] == "lan" and port["ipv4"] == "10.99.3.9"
    assert port["received_packets"] >= 3 and port["sent_packets"] >= 3 and port["received_bytes"] > 3000 and port["sent_bytes"] > 3000
    counted = subprocess.run(manager.within("ip", "-j", "-s", "link", "show", port["interface"]), capture_output=True, text=True, check=True).stdout
    assert json.loads(counted)[0]["stats64"]["rx"]["bytes"] >= port["sent_bytes"]
    assert "web1" in manager.hull("network", "info", "lab").stdout
    manager.do("DELETE", "/v1/instances/web1?force=true")
    assert manager.get("/v1/networks/lab")["ports"] == []
    manager.do("DELETE", "/v1/networks/lab")
