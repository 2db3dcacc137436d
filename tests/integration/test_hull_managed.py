"""The managed verbs of hull on a hulld of their own, with containers of busybox. What they ask for is in test_hull_client.py."""
import os
import signal
import subprocess
import time

import pexpect
import pytest

from conftest import HULL
from hulld import NEEDS_ROOT, manager  # noqa: F401: a fixture

pytestmark = NEEDS_ROOT
NO_CARD = ("--set", "eth0.type=none")  # no network is needed here
TIMEOUT = 120


@pytest.fixture
def web1(manager):
    manager.hull("launch", "bb", "web1", "--memory", "64M", *NO_CARD)
    yield manager
    manager.hull("delete", "--force", "web1")


def spawn(manager, *words):
    return pexpect.spawn(str(HULL), list(words), env={**manager.environment, "TERM": "xterm"}, encoding="utf-8", timeout=TIMEOUT, dimensions=(33, 77))


def test_a_life(web1):
    row = web1.json("list")[0]
    assert (row["name"], row["kind"], row["status"], row["memory_bytes"]) == ("web1", "container", "running", 64 << 20)
    for verb, status in (("pause", "paused"), ("resume", "running"), ("stop", "stopped"), ("start", "running"), ("restart", "running")):
        web1.hull(verb, "web1")
        assert web1.json("info", "web1")["status"] == status
    assert "is running" in web1.hull("delete", "web1", check=False).stderr
    assert web1.hull("exec", "web2", "true", check=False).stderr.startswith("hull: instance web2: there is none")


def test_programs(web1):
    done = web1.hull("exec", "--env", "A=b c", "--cwd", "/tmp", "web1", "--", "sh", "-c", 'echo "$A" $PWD; echo no >&2; exit 3', check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "b c /tmp\n", "no\n")
    data = os.urandom(4 << 20)
    assert web1.hull("exec", "web1", "cat", input=data, text=False).stdout == data
    process = subprocess.Popen([HULL, "exec", "web1", "sh", "-c", "echo ready; exec sleep 1000"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               env=web1.environment)
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(TIMEOUT) == 128 + 15


def test_a_shell(web1):
    shell = spawn(web1, "shell", "web1")
    shell.expect("# ")
    shell.sendline("stty size; echo $TERM")
    shell.expect("33 77\r\nxterm\r\n")
    shell.setwinsize(20, 50)
    for _ in range(100):  # the size comes when it comes
        shell.sendline("stty size")
        if shell.expect(["20 50\r\n", "33 77\r\n"]) == 0:
            break
        time.sleep(0.1)
    else:
        raise AssertionError("the window's size does not change")
    # A shell that is told before its program has the terminal goes on with the program: the program itself says when.
    shell.sendline("sh -c 'echo wait$((1+1)); exec sleep 1000'")
    shell.expect("wait2")
    shell.sendcontrol("c")
    shell.sendline("exit 5")
    shell.expect(pexpect.EOF)
    shell.close()
    assert shell.exitstatus == 5


def test_terminals_are_there_from_the_start(web1):
    """hull-oci opens and closes the terminal's other end before the program opens it."""
    for _ in range(30):
        assert web1.hull("exec", "--tty", "web1", "echo", "here", text=False).stdout == b"here\r\n"


def test_console_and_logs(web1):
    console = spawn(web1, "console", "web1")
    console.expect("leaves it")
    follow = subprocess.Popen([HULL, "logs", "-f", "web1"], stdout=subprocess.PIPE, env=web1.environment)
    web1.hull("exec", "web1", "sh", "-c", "while true; do echo marker; sleep 1; done > /dev/console & echo started")
    console.expect("marker")
    console.send("\x1dq")
    console.expect(pexpect.EOF)
    console.close()
    assert console.exitstatus == 0
    assert any(b"marker" in follow.stdout.readline() for _ in range(100))
    follow.terminate()
    follow.communicate()
    assert "marker" in web1.hull("logs", "web1").stdout


def test_files(web1, tmp_path):
    site = tmp_path / "site"
    (site / "deep/er").mkdir(parents=True)
    (site / "deep/er/big").write_bytes(os.urandom(3 << 20))
    (site / "run").write_text("#!/bin/sh\necho ran\n")
    (site / "run").chmod(0o755)
    (site / "link").symlink_to("/etc/passwd")
    web1.hull("push", site, "web1:/srv/www")
    assert web1.hull("exec", "web1", "/srv/www/run").stdout == "ran\n"
    web1.hull("push", site / "run", "web1:/srv/new/")
    assert web1.hull("exec", "web1", "/srv/new/run").stdout == "ran\n"
    web1.hull("pull", "web1:/srv/www", tmp_path / "back")
    assert subprocess.run(["diff", "-r", "--no-dereference", site, tmp_path / "back"], check=False).returncode == 0
    assert web1.hull("pull", "web1:/no/such", tmp_path / "none", check=False).returncode == 1
    assert not (tmp_path / "none").exists()


def test_configuration(web1):
    web1.hull("config", "web1", "set", "memory=96M", "description=of a test")
    assert web1.hull("config", "web1", "get", "description", "profiles").stdout == 'of a test\n["default"]\n'
    assert web1.hull("config", "web1", "get", "memory").stdout == "96M\n"
    assert "did you mean 'memory'" in web1.hull("config", "web1", "set", "memry=1G", check=False).stderr
    web1.environment["EDITOR"] = "sed -i s/96M/80M/"
    web1.hull("config", "web1", "edit")
    assert web1.json("config", "web1")["config"]["memory"] == "80M"
    web1.hull("config", "web1", "unset", "memory")
    assert "memory" not in web1.json("config", "web1")["config"]


def test_snapshots_and_clones(web1):
    web1.hull("exec", "web1", "sh", "-c", "echo one > /root/x")
    web1.hull("snapshot", "create", "web1", "before")
    made_up = web1.hull("snapshot", "create", "web1").stdout.strip()
    assert [row["name"] for row in web1.json("snapshot", "list", "web1")] == ["before", made_up]
    web1.hull("exec", "web1", "sh", "-c", "echo two > /root/x")
    web1.hull("stop", "web1", "--force")
    web1.hull("snapshot", "restore", "web1", "before")
    web1.hull("start", "web1")
    assert web1.hull("exec", "web1", "cat", "/root/x").stdout == "one\n"
    web1.hull("clone", "web1/before", "web2")
    web1.hull("start", "web2")
    assert web1.hull("exec", "web2", "sh", "-c", "cat /root/x; hostname").stdout == "one\nweb2\n"
    web1.hull("delete", "--force", "web2")
    web1.hull("snapshot", "delete", "web1", "before", made_up)
    assert web1.json("snapshot", "list", "web1") == []


def test_many(manager):
    names = manager.hull("launch", "bb", "--count", 3, *NO_CARD).stdout.split()
    assert names == ["bb-1", "bb-2", "bb-3"]
    assert {row["name"] for row in manager.json("list", "--running")} >= set(names)
    lines = manager.hull("top").stdout.splitlines()
    assert all(any(line.startswith(name) for line in lines) for name in names)
    manager.hull("stop", "--all", "--force")
    assert manager.json("list", "--running") == []
    manager.hull("delete", *names)


def test_objects(manager):
    manager.hull("volume", "create", "data", "--size", "10M")
    manager.hull("volume", "resize", "data", "20M")
    assert manager.json("volume", "info", "default/data")["size_bytes"] == 20 << 20
    manager.hull("volume", "delete", "data")
    manager.hull("profile", "create", "small", "memory=64M")
    manager.hull("profile", "set", "small", "memory=32M", "eth1.type=none")
    assert manager.json("profile", "info", "small")["config"] == {"memory": "32M"}
    manager.hull("profile", "delete", "small")
    manager.hull("image", "alias", "set", "bb2", "bb")
    assert manager.hull("names", "images").stdout == "bb\nbb2\n"
    manager.hull("image", "alias", "delete", "bb2")
    assert [row["name"] for row in manager.json("pool", "list")] == ["default"]
    assert "default" in [row["name"] for row in manager.json("network", "list")]
    assert manager.json("system", "info")["counts"]["pools"] == 1
    assert "free" in manager.hull("system", "df").stdout
    assert manager.hull("system", "check").stdout == ""


def test_hulld_is_started_where_none_is(tmp_path):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HULL_S")}
    environment["HULL_STATE"] = str(tmp_path / "state")
    done = subprocess.run([HULL, "system", "info", "--format", "csv"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          timeout=TIMEOUT, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    pid = int(dict(line.split(",", 1) for line in done.stdout.splitlines())["pid"])
    try:
        assert os.getsid(pid) == pid  # of nobody's terminal
    finally:
        os.kill(pid, signal.SIGTERM)
    environment["HULL_STATE"] = "/proc/none"
    done = subprocess.run([HULL, "list"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=TIMEOUT, check=False)
    assert done.returncode == 1 and done.stderr.startswith("hull: starting hulld: ")
