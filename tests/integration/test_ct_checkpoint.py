"""hull ct checkpoint and restore: with a criu that works, where there is one; and what is refused, and with which words, with one that
only pretends."""
import os
import re
import signal
import subprocess
import sys

import pytest

from ct import NEEDS_ROOT
from ct_life import alone, busybox_state, ct, network, until  # noqa: F401 (fixtures)

FETCH = "from urllib.request import urlopen; print(urlopen('http://10.90.0.77/page', timeout=10).read().decode(), end='')"
COUNT = "(i=0; while :; do i=$((i+1)); echo $i >/tmp/count; sleep 0.1; done) </dev/null >/dev/null 2>&1 &"


def works():
    """Whether there is a criu that is new enough and does its work on this kernel."""
    try:
        version = subprocess.run(["criu", "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout
        numbers = re.search(r"Version: (\d+)\.(\d+)", version)
        return tuple(map(int, numbers.groups())) >= (3, 18) and subprocess.run(["criu", "check"], capture_output=True, check=False).returncode == 0
    except (OSError, subprocess.CalledProcessError):
        return False


@NEEDS_ROOT
@pytest.mark.skipif(not works(), reason="there is no criu of 3.18 or newer that works on this kernel")
def test_it_goes_on_where_it_was(ct, tmp_path):
    """With its limits, a card, a server that is bound to the card's address, and a console; and a second time."""
    def count():
        return int(ct.shell(name, "cat /tmp/count") or 0)

    def counts():
        before = count()
        until(lambda: count() > before)

    name = ct.create("--privileged", "--memory", "128M", ip="10.90.0.77/24")
    ct.shell(name, "echo 0 >/tmp/count; " + COUNT)
    ct.shell(name, "mkdir /tmp/www; echo served >/tmp/www/page; httpd -p 10.90.0.77:80 -h /tmp/www")
    counts()
    uptime = float(ct.shell(name, "cut -d' ' -f1 /proc/uptime"))
    files = [tmp_path / "first", tmp_path / "second"]
    for file in files:
        ct.ok("checkpoint", name, file)
        assert ct.status(name) == "stopped" and left(ct, name) == ["checkpoint"] and ct.processes() == [] and ct.groups() == []
        stopped = next(path for path in (ct.folder(name) / "upper/tmp/count",)).read_text()
        ct.ok("restore", name, file)
        assert left(ct, name) == [] and count() >= int(stopped)
        counts()
        assert ct.on_host(sys.executable, "-c", FETCH) == "served\n"
        assert ct.shell(name, "head -n 1 /proc/meminfo").split() == ["MemTotal:", "131072", "kB"]
        assert float(ct.shell(name, "cut -d' ' -f1 /proc/uptime")) < uptime + 300
        assert [row["field"] for row in ct.info(name)["degraded"]] == ["linux.seccomp"]
        ct.shell(name, f"echo typed-{file.name} >/dev/console")
        until(lambda f=file: f"typed-{f.name}" in ct.ok("logs", name))
    assert "is running" in ct.refused("restore", name, files[1])
    ct.ok("stop", name)
    ct.ok("delete", name)
    assert ct.left() == []


PRETENDING = """#!/bin/sh
[ "$1" = check ] && exit 0
[ "$1" = --version ] && echo 'Version: 4.1' && exit 0
echo "$@" >> {log}
while [ $# -gt 0 ]; do
    case $1 in
    dump) what=dump ;;
    --images-dir) images=$2 ;;
    --tree) pid=$2 ;;
    esac
    shift
done
if [ "$what" != dump ]; then
    echo '(00.1) Error (criu/mount.c:1): no such images' > "$images/restore.log"
    exit 1
fi
echo pages > "$images/pages-1.img"
printf '\\006\\000\\000\\000\\000\\000\\300\\177' > "$images/seccomp.img"
kill -STOP "$pid"
exit {status}
"""


@pytest.fixture
def pretend(tmp_path, monkeypatch):
    """A criu that stops the container's init and writes two files; its arguments are in the file that this returns."""
    def make(status=0):
        log = tmp_path / "log"
        (tmp_path / "criu").write_text(PRETENDING.format(log=log, status=status))
        (tmp_path / "criu").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        return log

    return make


def is_stopped(pid):
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        return file.read().rsplit(")", 1)[1].split()[0] == "T"


def left(ct, name):
    """Of a checkpoint beside the container's own files."""
    return sorted({path.name for path in ct.folder(name).iterdir()} & {"images", "checkpoint"})


@NEEDS_ROOT
def test_refused(ct, tmp_path, monkeypatch):
    """Said before anything is touched: no criu, a broken one, what it could not write, and names that are none."""
    file = tmp_path / "file"
    own = ct.create()
    assert "has ids of its own" in ct.refused("checkpoint", own, file) and ct.status(own) == "running"
    name = ct.create("--privileged")
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "/usr/bin:/bin")
        assert "criu: executable file not found" in ct.refused("checkpoint", name, file)
    (tmp_path / "criu").write_text("#!/bin/sh\necho 'Error (criu/vdso.c:613): vdso: no such thing' >&2\nexit 1\n")
    (tmp_path / "criu").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert "does not work on this host" in ct.refused("checkpoint", name, file)
    (tmp_path / "criu").write_text("#!/bin/sh\necho 'Version: 3.17.1'\n")
    assert "criu is too old: 3.17, and 3.18 or newer is needed" in ct.refused("checkpoint", name, file)
    (tmp_path / "criu").write_text("#!/bin/sh\necho 'Version: 4.2'\n")
    ct.shell(name, "unshare -i sleep 1000 </dev/null >/dev/null 2>&1 & until pidof sleep; do sleep 0.01; done")
    assert "nested namespace of the kind ipc" in ct.refused("checkpoint", name, file)
    file.write_text("mine")
    assert "exists" in ct.refused("checkpoint", name, file) and file.read_text() == "mine"
    assert ct.status(name) == "running" and left(ct, name) == [] and ct.shell(name, "echo on") == "on\n"
    ct.ok("pause", name)
    assert "is paused, not running" in ct.refused("checkpoint", name, tmp_path / "other")
    ct.ok("stop", "--force", name)
    assert "is stopped, not running" in ct.refused("checkpoint", name, tmp_path / "other")
    assert "has no checkpoint" in ct.refused("restore", name, file)
    assert "does not exist" in ct.refused("restore", "none-such", file)


@NEEDS_ROOT
def test_file(ct, tmp_path, pretend):
    """What is in it; only that file is taken back, and only while the container has not run."""
    log, file, copy = pretend(), tmp_path / "file", tmp_path / "copy"
    name = ct.create("--privileged")
    ct.ok("checkpoint", name, file)
    words = log.read_text()
    for word in ("--leave-stopped", "--empty-ns net", "--network-lock skip", "--external tty[", "--external mnt[/dev/console]:/dev/console",
                 "--external mnt[/proc/meminfo]:/proc/meminfo"):
        assert word in words, words
    assert ct.status(name) == "stopped" and left(ct, name) == ["checkpoint"] and os.stat(file).st_mode & 0o777 == 0o600
    data = file.read_bytes()
    # Its filter's notifications, which nobody would answer, are calls that are allowed.
    assert data.startswith(b"hull-ct-checkpoint 1\n") and b"pages\n" in data and bytes.fromhex("060000000000ff7f") in data
    assert bytes.fromhex("060000000000c07f") not in data
    for damaged in (b"", data[:10], data[:-1], data + b"x", data.replace(b"pages\n", b"pagez\n"), b"hull-ct-checkpoint 1\n[{}]\n",
                    data.replace(b"pages-1.img", b"../ges-1.img"), data.replace(b'"size":6', b'"size":-6')):
        copy.write_bytes(damaged)
        assert str(copy) in ct.refused("restore", name, copy)
        assert ct.status(name) == "stopped" and left(ct, name) == ["checkpoint"]
    told = ct.refused("restore", name, file)
    assert "criu restore: no such images" in told and ct.status(name) == "stopped" and left(ct, name) == ["checkpoint"]
    assert "--inherit-fd fd[24]:tty[" in log.read_text() and "--external mnt[/dev/console]:/dev/pts/" in log.read_text()
    ct.ok("start", name)
    assert left(ct, name) == [] and "is running" in ct.refused("restore", name, file)
    ct.ok("stop", "--force", name)
    assert "has run since" in ct.refused("restore", name, file)
    ct.ok("delete", name)
    assert ct.left() == []


@NEEDS_ROOT
def test_a_failure_lets_it_go_on(ct, tmp_path, pretend):
    """criu's own, when half is done; no room for the file; and hull's end at any step."""
    pretend(status=1)
    name = ct.create("--privileged")
    pid = ct.info(name)["pid"]
    ct.refused("checkpoint", name, tmp_path / "file")
    assert not is_stopped(pid) and left(ct, name) == []
    pretend()
    assert "/no/such/folder" in ct.refused("checkpoint", name, "/no/such/folder/file")
    assert not is_stopped(pid) and left(ct, name) == [] and ct.shell(name, "echo on") == "on\n"
    for step in ("checkpoint-dumped", "checkpoint-written"):
        done = ct.run("checkpoint", name, tmp_path / step, env=os.environ | {"HULL_OCI_FAULT": step})
        assert done.returncode == -signal.SIGKILL and is_stopped(pid)
        ct.ok("set", name, "memory=100M")  # whoever works on it next has it go on
        until(lambda: not is_stopped(pid))
        assert left(ct, name) == [] and ct.status(name) == "running"
    assert "has no checkpoint" in ct.run("stop", "--force", name).stderr + ct.refused("restore", name, tmp_path / "checkpoint-written")
