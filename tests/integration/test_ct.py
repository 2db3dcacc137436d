"""hull ct with real containers: their life, what is seen in them, limits, copies, and bad input."""
import os
import pathlib
import re
import signal
import subprocess
import threading
import time

import pexpect
import pytest
from ct import NEEDS_ROOT
from ct_life import FIRST_ID, alone, busybox_state, ct, network, read, until  # noqa: F401 (fixtures)

pytestmark = NEEDS_ROOT


def test_life(ct):
    name = ct.create(start=False)
    assert ct.status(name) == "stopped" and ct.info(name)["image"] == "bb"
    assert "is not running" in ct.refused("stop", name)
    assert f"container {name} is stopped" in ct.refused("exec", name, "true")
    assert "is stopped" in ct.refused("pause", name) and "is not running" in ct.refused("console", name)
    ct.ok("start", name)
    row = ct.list()[name]
    assert row["status"] == "running" and row["processes"] >= 1 and row["memory_used_bytes"] > 0 and row["pid"] > 1
    assert "is running" in ct.refused("start", name) and "--force ends it" in ct.refused("delete", name)
    assert "memory_limit" in ct.info(name)["limits_hit"]
    ct.ok("restart", "--force", name)
    assert ct.info(name)["pid"] != row["pid"]
    ct.ok("pause", name)
    assert ct.status(name) == "paused"
    assert "is paused" in ct.refused("exec", name, "true") and "is paused" in ct.refused("pause", name)
    ct.ok("resume", name)
    assert ct.shell(name, "echo again") == "again\n"
    ct.ok("pause", name)
    ct.ok("stop", "--force", name)
    assert ct.status(name) == "stopped"
    ct.ok("delete", name)
    assert name not in ct.list() and "does not exist" in ct.refused("info", name)
    assert ct.left() == []


def test_clean_stop_console_and_logs(ct):
    name = ct.create()
    child = ct.spawn("console", name)
    child.expect("Ctrl-] leaves it")
    child.send("\n")
    child.expect("# ")
    child.send("echo so''me; stty size\n")
    child.expect("some\r+\n")
    child.expect("24 80\r+\n")
    child.send("\x1d")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0 and ct.status(name) == "running"
    # One that watches while it stops sees the end.
    child = ct.spawn("console", name)
    child.expect("Ctrl-] leaves it")
    ct.ok("stop", name)
    child.expect("going down")
    child.expect(pexpect.EOF)
    logs = ct.ok("logs", name)
    assert "some" in logs and "going down" in logs and ct.status(name) == "stopped"
    # From a pipe.
    ct.ok("start", name)
    piped = subprocess.Popen(ct.words("console", name), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    piped.stdin.write("echo from a $((1 + 1)) pipe\n")
    piped.stdin.close()
    ct_out = ""
    while "from a 2 pipe" not in ct_out:
        line = piped.stdout.readline()
        assert line, ct_out
        ct_out += line
    ct.ok("stop", "--force", name)
    assert piped.wait(60) == 0
    piped.stdout.close()


def test_exec(ct):
    name = ct.create()
    assert ct.run("exec", name, "sh", "-c", "exit 37").returncode == 37
    assert ct.run("exec", name, "sh", "-c", "kill -9 $$").returncode == 128 + 9
    assert "nothing-such" in ct.refused("exec", name, "nothing-such")
    assert ct.run("exec", name, "--", "cat", input="through a pipe").stdout == "through a pipe"
    assert ct.ok("exec", "-u", "1000:2000", "--cwd", "/tmp", "-e", "COLOR=green", "-e", "EMPTY=", name, "--", "sh", "-c",
                 "id -u; id -g; pwd; echo $COLOR,$EMPTY,$container") == "1000\n2000\n/tmp\ngreen,,hull\n"
    done = ct.run("exec", name, "sh", "-c", "echo out; echo err >&2")
    assert (done.stdout, done.stderr) == ("out\n", "err\n")
    assert ct.run("exec", name, "sh", "-c", "[ -t 0 ]").returncode == 1
    assert ct.ok("exec", "-t", name, "sh", "-c", "[ -t 0 ] && tty").startswith("/dev/pts/")
    assert "usage" in ct.refused("exec", name) and "absolute" in ct.refused("exec", "--cwd", "tmp", name, "true")
    assert "NAME=VALUE" in ct.refused("exec", "-e", "X", name, "true")
    assert ct.refused("exec", "-u", "root", name, "true") and ct.refused("exec", "-u", "-1", name, "true")
    # What it starts is in the container's groups and namespaces.
    assert f"/hull/{name}-" in read(pathlib.Path(f"/proc/{ct.info(name)['pid']}/cgroup"))
    for kind in ("pid", "net", "mnt", "user", "ipc", "uts", "cgroup", "time"):
        assert ct.shell(name, f"readlink /proc/self/ns/{kind}") == ct.shell(name, f"readlink /proc/1/ns/{kind}"), kind


def test_terminals(ct):
    name = ct.create()
    child = ct.spawn("exec", name, "sh", "-c", "tty; stty size; read x; echo got $x; exit 5")
    child.expect("/dev/pts/\\d+\r\n24 80\r\n")
    child.send("word\n")
    child.expect("got word\r\n")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 5
    child = ct.spawn("shell", name)
    child.expect("root@.*# ")
    child.send("pwd; echo $TERM\n")
    child.expect("/root\r\n")
    child.send("cat\n")
    until(lambda: ct.run("exec", name, "pidof", "cat").returncode == 0)
    child.send("twice\n")
    child.expect("twice\r\ntwice\r\n")
    child.send("\x03")  # ends cat, not the shell
    child.expect("# ")
    child.send("exit 7\n")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 7


def test_ids(ct, tmp_path):
    shared = ct.state.parent / "shared"
    shared.mkdir(exist_ok=True)
    (shared / "file").write_text("of the host's root")
    os.chown(shared / "file", 1234, 0)
    name = ct.create("--mount", f"{shared}:/shared", "--mount", f"{shared}/file:/etc/one:ro")
    first, count = map(int, ct.info(name)["config"]["ids"].split(":"))
    assert first >= FIRST_ID and count == 65536
    assert ct.shell(name, "cat /proc/self/uid_map").split() == ["0", str(first), str(count)]
    assert os.stat(f"/proc/{ct.info(name)['pid']}").st_uid == first
    ct.shell(name, "echo x > /root/made; chown 7:8 /root/made")
    made = (ct.folder(name) / "upper/root/made").stat()
    assert (made.st_uid, made.st_gid) == (first + 7, first + 8)
    # Bound from the host: the same numbers on both sides.
    assert ct.shell(name, "stat -c %u:%g /shared/file; echo made > /shared/new; cat /etc/one") == "1234:0\nof the host's root"
    assert ((shared / "new").stat().st_uid, (shared / "new").read_text()) == (0, "made\n")
    assert "Read-only" in ct.run("exec", name, "sh", "-c", "echo x > /etc/one").stderr
    (shared / "new").unlink()
    # Root there is nobody on the host: its devices, kernel settings and modules are out of reach.
    for script in ("mknod /tmp/null c 1 3 && cat /tmp/null", "echo 1 > /proc/sys/kernel/panic", "mount -t sysfs sysfs /mnt && echo x > /mnt/power/state",
                   "[ $(wc -c < /proc/kcore) != 0 ]", "date -s 2030-01-01; [ $(date +%Y) = 2030 ]"):
        assert ct.run("exec", name, "sh", "-c", script).returncode != 0, script
    other = ct.create(start=False)
    assert ct.info(other)["config"]["ids"] != ct.info(name)["config"]["ids"]


def test_limits_that_programs_see(ct):
    name = ct.create("--memory", "96M", "--swap", "0", "--cpus", "1", "--processes", "100")
    free = [line.split() for line in ct.shell(name, "free").splitlines()]
    assert free[1][1] == str(96 * 1024) and int(free[1][2]) < 48 * 1024 and free[2][1] == "0"
    assert f"MemTotal: {96 * 1024:14} kB" in ct.shell(name, "cat /proc/meminfo")
    assert ct.shell(name, "grep -c ^processor /proc/cpuinfo") == "1\n"  # (nproc asks the scheduler, which has them all)
    assert ct.shell(name, "grep -c '^cpu[0-9]' /proc/stat") == "1\n"
    host = float(pathlib.Path("/proc/uptime").read_text().split()[0])
    assert float(ct.shell(name, "cut -d' ' -f1 /proc/uptime")) < min(host, 60 * 60)
    assert "up 0 min" in ct.shell(name, "uptime")
    assert len(ct.shell(name, "cat /proc/loadavg").split()) == 5
    assert int(ct.shell(name, "cut -d' ' -f4 /proc/loadavg | cut -d/ -f2")) < 50
    other = ct.create("--cpu-set", "0")
    assert ct.shell(other, "nproc; grep Cpus_allowed_list /proc/self/status").split() == ["1", "Cpus_allowed_list:", "0"]
    # A program that takes more is killed, and the counters know.
    assert ct.run("exec", name, "sh", "-c", "dd if=/dev/zero of=/dev/null bs=200M count=1").returncode != 0
    assert ct.shell(name, "echo alive") == "alive\n"
    assert ct.info(name)["limits_hit"]["memory_oom_kills"] > 0


def cgroup_value(ct, name, files):
    """Of the first of 'controller/file' (v1) or 'file' (v2) that is there."""
    group = f"hull/{name}-hc*"
    for file in files:
        controller, _, base = file.rpartition("/")
        for path in pathlib.Path("/sys/fs/cgroup", controller).glob(f"{group}/{base}"):
            return path.read_text().strip()
    raise AssertionError(f"{name} has no {files}")


def test_set_live(ct):
    name = ct.create("--memory", "64M")
    ct.ok("set", name, "memory=128M", "cpus=0.5", "cpu_shares=512", "cpu_set=0", "processes=20")
    assert f"{128 * 1024}" in ct.shell(name, "free")
    assert ct.shell(name, "nproc") == "1\n"
    assert cgroup_value(ct, name, ["cpu/cpu.cfs_quota_us", "cpu.max"]).split()[0] == "50000"
    assert cgroup_value(ct, name, ["cpu/cpu.shares", "cpu.weight"]) in ("512", "20")
    assert cgroup_value(ct, name, ["cpuset/cpuset.cpus", "cpuset.cpus"]) == "0"
    # The limit of processes holds, and others of the container are not harmed.
    said = ct.run("exec", name, "sh", "-c", "i=0; while [ $i -lt 40 ]; do sleep 100 > /dev/null 2>&1 & i=$((i+1)); done; echo all")
    assert "can't fork" in said.stderr and "all" not in said.stdout
    ct.ok("set", name, "processes=", "memory=", "cpus=", "cpu_set=")
    assert int(ct.shell(name, "nproc")) == os.cpu_count()
    assert cgroup_value(ct, name, ["pids/pids.max", "pids.max"]) == "max"
    assert "processes" not in ct.info(name)["config"]
    done = ct.run("set", name, "hostname=other", "memory=64M")
    assert done.returncode == 0 and "starts the next time" in done.stderr
    assert ct.shell(name, "hostname") == f"{name}\n"
    ct.ok("restart", "--force", name)
    assert ct.shell(name, "hostname; cat /etc/hostname") == "other\nother\n"
    # What cannot be changes nothing.
    before = ct.info(name)["config"]
    for words, reason in ((["memory=1"], "memory"), (["cpus=0"], "cpus"), (["ids=65536:65536"], "is set when"), (["colour=red"], "no such key"),
                          (["memory"], "KEY=VALUE"), (["memory+=1G"], "is no list"), (["memory=128M", "cpu_shares=1"], "cpu_shares"),
                          (["pool=x"], "pool"), (["cpu_set=4000"], ""), (["disk=64M"], "without a limit"), (["root=/"], "is set when"),
                          (["mount+=relative:/x"], "mount"), (["network=bridge=x,ip=1.2.3"], "network"), (["autostart=maybe"], "true or false")):
        assert reason in ct.refused("set", name, *words), words
        assert ct.info(name)["config"] == before, words


def test_write_rate(ct):
    name = ct.create("--set", "io_write=4M")
    try:
        cgroup_value(ct, name, ["blkio/blkio.throttle.write_bps_device", "io.max"])
    except AssertionError:
        pytest.skip("no limits of disks here")
    device = cgroup_value(ct, name, ["blkio/blkio.throttle.write_bps_device", "io.max"])
    if not device:
        pytest.skip("the state is on no disk of the host's own")
    assert str(4 << 20) in device
    begin = time.monotonic()
    done = ct.run("exec", name, "sh", "-c", "dd if=/dev/zero of=/root/data bs=1M count=6 oflag=direct")
    if "Invalid argument" in done.stderr or "invalid" in done.stderr:
        pytest.skip("no direct I/O there")
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - begin > 0.8  # 6 MiB at 4 MiB/s, of which the first second's are free
    ct.ok("set", name, "io_write=")
    assert str(4 << 20) not in cgroup_value(ct, name, ["blkio/blkio.throttle.write_bps_device", "io.max"])


def test_pools(ct):
    pool = f"p{os.getpid()}"
    ct.ok("pool", "set", pool, "0")
    name = ct.create("--pool", pool)
    assert ct.shell(name, "grep Cpus_allowed_list /proc/self/status").split()[1] == "0"
    last = os.cpu_count() - 1
    ct.ok("pool", "set", pool, last)
    assert ct.shell(name, "grep Cpus_allowed_list /proc/self/status").split()[1] == str(last)
    assert name in ct.refused("pool", "delete", pool)
    assert "exclude" in ct.refused("set", name, "cpu_set=0")
    ct.ok("set", name, "pool=")
    assert ct.shell(name, "nproc") == f"{os.cpu_count()}\n"
    ct.ok("pool", "delete", pool)
    assert "does not exist" in ct.refused("pool", "delete", pool)
    for cpus in ("x", "", "0-", "1-0", "0,,1", "9999", "-1", "0;1"):
        assert ct.refused("pool", "set", pool, cpus), cpus
    assert ct.refused("pool", "set", "../x", "0") and ct.refused("pool", "move", pool, "0")
    assert f"pool {pool} does not exist" in ct.refused("set", name, f"pool={pool}")


def test_network(ct):
    one, two = ct.create(ip=None), ct.create(ip=None)
    first, second = (ct.info(name)["ipv4"][0] for name in (one, two))
    assert first != second
    ct.shell(one, f"ping -c 1 -W 30 {second}")
    ct.shell(one, "ping -c 1 -W 30 10.90.0.1")
    ct.on_host("ping", "-c", "1", "-W", "30", first)
    server = subprocess.Popen(ct.words("exec", two, "nc", "-l", "-p", "77"), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    until(lambda: "004D" in ct.shell(two, "cat /proc/net/tcp /proc/net/tcp6"))
    ct.run("exec", one, "nc", "-w", "10", second, "77", input="over TCP\n")
    assert server.communicate(timeout=60)[0] == "over TCP\n"
    assert "default via 10.90.0.1 dev eth0" in ct.shell(one, "ip route")
    said = ct.refused("create", "other", "--from", "bb", "--ip", first)
    assert first in said and f"container {one} has it" in said
    assert f"container {two} has it" in ct.refused("set", one, f"network=bridge=hull0,ip={second}/24")
    alone_ = ct.create()
    assert "eth0" in ct.shell(alone_, "ip link") and "inet " not in ct.shell(alone_, "ip addr show eth0")
    bare = ct.create("--bridge", "none", ip=None)
    assert "eth0" not in ct.shell(bare, "ip link") and "127.0.0.1" in ct.shell(bare, "ip addr; ping -c 1 127.0.0.1")


def test_own_bridge(ct):
    ct.on_host("ip", "link", "add", "brtest", "type", "bridge")
    try:
        ct.on_host("ip", "addr", "add", "10.77.0.1/24", "dev", "brtest")
        ct.on_host("ip", "link", "set", "brtest", "up")
        name = ct.create("--bridge", "brtest", ip="10.77.0.9")
        other = ct.create("--network", "bridge=brtest,name=lan0,ip=10.77.0.10/24,ip=fd00:77::a/64,mac=02:00:00:00:00:77,mtu=1400", ip=None)
        ct.shell(name, "ping -c 1 -W 30 10.77.0.10; ip route | grep 'default via 10.77.0.1'")
        seen = ct.shell(other, "ip addr show lan0")
        assert "02:00:00:00:00:77" in seen and "mtu 1400" in seen and "fd00:77::a/64" in seen
        # The bridge has gone: the container says so, and nothing is left of the start.
        ct.ok("stop", "--force", name, other)
    finally:
        ct.on_host("ip", "link", "del", "brtest")
    assert "brtest" in ct.refused("start", name)
    assert ct.status(name) == "stopped"
    assert "brtest" in ct.refused("create", "other", "--from", "bb", "--bridge", "brtest")


def test_names_in_etc(ct):
    name = ct.create("--dns", "10.90.0.53", "--dns", "fd00::53", "--set", "search=example.test", "--hostname", "box.example")
    assert ct.shell(name, "hostname; cat /etc/hostname") == "box.example\nbox.example\n"
    assert "127.0.1.1 box.example" in ct.shell(name, "cat /etc/hosts")
    assert ct.shell(name, "cat /etc/resolv.conf") == "search example.test\nnameserver 10.90.0.53\nnameserver fd00::53\n"
    ct.shell(name, "echo 10.0.0.1 mine >> /etc/hosts")
    ct.ok("restart", "--force", name)
    assert "mine" in ct.shell(name, "cat /etc/hosts")  # written once


def test_snapshots(ct):
    name = ct.create()
    assert ct.ok("snapshot", "list", name, "--json").strip() == "[]"
    ct.shell(name, "echo one > /root/file; rm /etc/profile; mkdir /root/folder; ln -s x /root/link; chown 5:6 /root/folder")
    ct.ok("snapshot", "create", name, "first")
    assert ct.status(name) == "running" and ct.shell(name, "echo goes on") == "goes on\n"
    assert "already" in ct.refused("snapshot", "create", name, "first")
    ct.shell(name, "echo two > /root/file; rm -r /root/folder; echo x > /etc/profile")
    assert "has to be stopped" in ct.refused("snapshot", "restore", name, "first")
    ct.ok("stop", "--force", name)
    ct.ok("set", name, "memory=64M")
    ct.ok("snapshot", "create", name, "second")
    ct.ok("snapshot", "restore", name, "first")
    assert "memory" not in ct.info(name)["config"]
    ct.ok("start", name)
    assert ct.shell(name, "cat /root/file; stat -c %u:%g /root/folder; ls /etc/profile 2>&1; true").split("\n")[:2] == ["one", "5:6"]
    assert ct.run("exec", name, "ls", "/etc/profile").returncode == 1
    ct.ok("snapshot", "delete", name, "first")
    assert '"second"' in ct.ok("snapshot", "list", name, "--json") and '"first"' not in ct.ok("snapshot", "list", name, "--json")
    for words in (["restore", name, "first"], ["delete", name, "nothing"], ["create", name, "../x"], ["create", name, ".making"], ["create", name],
                  ["list"], ["make", name, "x"], ["create", "nobody", "x"], ["list", "nobody"], ["restore", "nobody", "x"], ["restore", name, "../../x"]):
        assert ct.refused("snapshot", *words), words
    ct.ok("delete", "--force", name)
    assert not ct.folder(name).exists()


def test_snapshot_from_before_the_first_start(ct):
    """What is written into /etc at the first start has to be written again."""
    name = ct.create(start=False)
    ct.ok("snapshot", "create", name, "new")
    ct.ok("start", name)
    ct.ok("stop", "--force", name)
    ct.ok("snapshot", "restore", name, "new")
    ct.ok("start", name)
    assert ct.shell(name, "cat /etc/hostname") == f"{name}\n"


def test_snapshot_with_an_address_that_another_has_now(ct):
    name = ct.create(ip="10.90.0.200", start=False)
    ct.ok("snapshot", "create", name, "before")
    ct.ok("set", name, "network=bridge=hull0,ip=10.90.0.201/24")
    other = ct.create(ip="10.90.0.200", start=False)
    said = ct.refused("snapshot", "restore", name, "before")
    assert "10.90.0.200" in said and other in said
    assert ct.info(name)["ipv4"] == ["10.90.0.201"]


def test_clones(ct):
    name = ct.create("--memory", "64M", ip=None)
    ct.shell(name, "echo one > /root/file; chown 3:4 /root/file; ln /root/file /root/same")
    ct.ok("snapshot", "create", name, "first")
    ct.shell(name, "echo two > /root/file")
    new, old = f"{name}-n", f"{name}-o"
    ct.made += [new, old]
    ct.ok("clone", name, new, "memory=80M")
    ct.ok("clone", f"{name}/first", old)
    assert ct.status(name) == "running"
    infos = [ct.info(each) for each in (name, new, old)]
    assert len({info["config"]["ids"] for info in infos}) == 3 and len({info["ipv4"][0] for info in infos}) == 3
    assert infos[1]["memory_bytes"] == 80 << 20 and infos[2]["memory_bytes"] == 64 << 20
    ct.ok("start", new, old)
    assert ct.shell(new, "cat /root/same; stat -c %u:%g:%h /root/file; hostname") == f"two\n3:4:2\n{new}\n"
    assert ct.shell(old, "cat /root/file; hostname; cat /etc/hostname") == f"one\n{old}\n{old}\n"
    ct.shell(new, f"ping -c 1 -W 30 {infos[2]['ipv4'][0]}")
    first = int(infos[1]["config"]["ids"].split(":")[0])
    assert (ct.folder(new) / "upper/root/file").stat().st_uid == first + 3
    for words in ([name, new], [name, "../x"], ["nobody", "x1"], [f"{name}/nothing", "x2"], [name, "x3", "colour=red"], [f"{name}/../x", "x4"]):
        assert ct.refused("clone", *words), words
    assert not [path for path in (ct.state / "containers").iterdir() if path.name.startswith((".", "x"))]


def test_disk(ct):
    name = ct.create("--disk", "64M")
    done = ct.run("exec", name, "sh", "-c", "dd if=/dev/zero of=/root/data bs=1M count=80")
    assert done.returncode != 0 and "No space left" in done.stderr
    assert "has to be stopped" in ct.refused("set", name, "disk=96M")
    ct.ok("snapshot", "create", name, "full")
    ct.shell(name, "rm /root/data; echo kept > /root/kept; sync")
    assert int(ct.shell(name, "df -m / | tail -1").split()[1]) <= 64
    ct.ok("stop", "--force", name)
    assert "only grow" in ct.refused("set", name, "disk=32M")
    ct.ok("snapshot", "create", name, "small")
    ct.ok("set", name, "disk=128M")
    ct.ok("start", name)
    assert ct.shell(name, "dd if=/dev/zero of=/root/data bs=1M count=80 2>/dev/null; cat /root/kept") == "kept\n"
    ct.ok("stop", "--force", name)
    ct.ok("snapshot", "restore", name, "small")
    ct.ok("start", name)
    assert int(ct.shell(name, "df -m / | tail -1").split()[1]) <= 64 and ct.shell(name, "ls /root") == "kept\n"
    assert "cannot be cloned" in ct.refused("clone", name, "other") or "has to be stopped" in ct.refused("clone", name, "other")
    ct.ok("delete", "--force", name)
    assert ct.left() == []


def test_upgrade(ct):
    template = f"up{os.getpid()}"
    ct.ok("template build", template, "--from", "bb", "--run", "echo 1 > /version; echo 1 > /changed", "-q")
    name = ct.create(template=template)
    ct.shell(name, "echo mine > /changed")
    assert "is up to date" in ct.ok("upgrade", name)
    ct.ok("template build", template, "--from", "bb", "--run", "echo 2 > /version; echo 2 > /changed", "-q")
    assert "at its next start" in ct.ok("upgrade", name)
    assert ct.shell(name, "cat /version") == "1\n"
    ct.ok("restart", "--force", name)
    assert ct.shell(name, "cat /version /changed") == "2\nmine\n"
    assert name in ct.refused("template delete", template)
    assert "does not exist" in ct.refused("upgrade", "nobody")
    ct.ok("delete", "--force", name)
    ct.ok("template delete", template)


def test_autostart(alone):
    for name, order in (("c", 1), ("a", 3), ("b", 2)):
        alone.create("--autostart", "--order", order, name=name, start=False)
    alone.create(name="d", start=False)
    alone.ok("start", "--autostart")
    states = {name: row["status"] for name, row in alone.list().items()}
    assert states == {"a": "running", "b": "running", "c": "running", "d": "stopped"}
    # Begun in order, though two or more at a time may become ready in any.
    born = {name: int(read(pathlib.Path(f"/proc/{alone.keeper(name)}/stat")).rsplit(")", 1)[1].split()[19]) for name in "abc"}
    assert born["c"] <= born["b"] <= born["a"]
    alone.ok("stop", "--all", "--force")
    assert {row["status"] for row in alone.list().values()} == {"stopped"}
    assert "exclude" in alone.refused("start", "--all", "a")


def test_many(alone):
    child = alone.spawn("create", "--from", "bb", "--count", 10, "--ip-start", "10.90.0.30", "--start")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    rows = alone.list()
    assert [(name, row["ipv4"]) for name, row in rows.items()] == [(f"bb-{i}", [f"10.90.0.{29 + i}"]) for i in range(1, 11)]
    assert {row["status"] for row in rows.values()} == {"running"}
    for i in range(1, 11):
        alone.on_host("ping", "-c", "1", "-W", "30", f"10.90.0.{29 + i}")
    # One in the middle fails: it is named, those before it stay, and --resume goes on.
    alone.create(name="in-the-way", ip="10.90.0.103", start=False)
    words = ["web", "--from", "bb", "--count", 6, "--ip-start", "10.90.0.100", "-q"]
    done = alone.run("create", *words)
    assert done.returncode == 1 and "creating container web-4: address 10.90.0.103: container in-the-way has it" in done.stderr
    assert "3 of 6" in done.stderr
    assert [name for name in alone.list() if name.startswith("web")] == ["web-1", "web-2", "web-3"]
    assert "web-1 exists already" in alone.refused("create", *words)
    alone.ok("delete", "in-the-way")
    alone.ok("create", *words, "--resume", "--start")
    assert [(row["ipv4"], row["status"]) for name, row in alone.list().items() if name.startswith("web")] == [
        ([f"10.90.0.{100 + i}"], "running") for i in range(6)]
    alone.ok("stop", "--all", "--force", "-q")
    assert "--ip-start" in alone.refused("create", "x", "--from", "bb", "--count", 3, "--ip", "10.90.0.7")
    assert "10.90.0.254" not in str(alone.run("create", "end", "--from", "bb", "--count", 4, "--ip-start", "10.90.0.253", "-q").stdout)
    assert [name for name in alone.list() if name.startswith("end")] == ["end-1", "end-2"]
    alone.ok("delete", "--all", "-q")
    assert alone.list() == {} and alone.left() == []


def test_start_fails_for_one(ct):
    """Its message has its name, and the others run."""
    names = [ct.create(start=False) for _ in range(3)]
    ct.ok("set", names[1], "init=/no/such/program")
    done = ct.run("start", "-q", *names)
    assert done.returncode == 1 and f"starting container {names[1]}" in done.stderr and "/no/such/program" in done.stderr
    assert [ct.status(name) for name in names] == ["running", "stopped", "running"]
    assert ct.keeper(names[1]) is None


def test_reboot_and_poweroff(ct):
    name = ct.create()
    pid = ct.info(name)["pid"]
    ct.shell(name, "touch /tmp/kept")
    ct.run("exec", name, "reboot", "-f")
    until(lambda: ct.info(name).get("pid") not in (None, pid) and ct.status(name) == "running", 60)
    assert ct.shell(name, "ls /tmp") == "kept\n" and "up 0 min" in ct.shell(name, "uptime")
    ct.run("exec", name, "poweroff", "-f")
    until(lambda: ct.status(name) == "stopped", 60)
    until(lambda: ct.keeper(name) is None, 60)
    # One that reboots for ever is not started for ever.
    ct.ok("set", name, "init=/sbin/reboot", "init+=-f")
    ct.run("start", name)
    until(lambda: ct.status(name) == "stopped", 60)


def test_lists_do_not_disturb_starts(ct):
    """Who asks for the status must not be in the way of a keeper that takes its lock."""
    names = [ct.create(start=False) for _ in range(6)]
    is_over = threading.Event()

    def ask():
        while not is_over.is_set():
            ct.list()

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            ct.ok("start", "-q", *names)
            ct.ok("stop", "--force", "-q", *names)
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


def test_two_at_once(ct):
    """Of two that start the same container one does, and one says that it runs."""
    name = ct.create(start=False)
    for _ in range(3):
        both = [subprocess.Popen(ct.words("start", name), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for _ in range(2)]
        said = [process.communicate(timeout=60)[1] for process in both]
        assert sorted(process.returncode for process in both) == [0, 1], said
        assert "is running" in "".join(said) or "is starting" in "".join(said)
        assert ct.shell(name, "echo fine") == "fine\n"
        ct.ok("stop", "--force", name)
        assert ct.status(name) == "stopped" and not (ct.state / "run/keeper" / name).exists()


def run_files(ct):
    """But for the lock of all containers, which stays once it was needed."""
    return sorted(path.name for path in (ct.state / "run").iterdir() if path.name != "lock")


ODD_NAMES = ["", ".", "..", "../x", "a/b", "a b", "-x", "x\n", "ü", "x" * 65, ".making-x", "$(id)", "*"]


@pytest.mark.parametrize("verb", ["create", "start", "stop", "restart", "pause", "resume", "delete", "info", "set", "exec", "shell", "console", "logs",
                                  "snapshot", "clone", "upgrade", "checkpoint", "restore"])
def test_bad_names(ct, verb):
    words = {"create": ["--from", "bb", "--ip", "none"], "set": ["memory=64M"], "exec": ["true"], "clone": ["new"], "checkpoint": ["file"], "restore": ["file"]}.get(verb, [])
    for odd in ODD_NAMES:
        before = run_files(ct)
        said = ct.refused(verb, *(["create"] if verb == "snapshot" else []), *(["--"] if odd.startswith("-") and verb != "exec" else []), odd, *words,
                          *(["s"] if verb == "snapshot" else []))
        assert odd.startswith("-") or "name" in said or "does not exist" in said, said
        assert run_files(ct) == before, odd
    if verb != "create":
        before = run_files(ct)
        said = ct.refused(verb, *(["create"] if verb == "snapshot" else []), "nobody", *words, *(["s"] if verb == "snapshot" else []))
        assert "container nobody does not exist" in said, said
        assert run_files(ct) == before


def test_bad_words(ct):
    for words, reason in (
            (["x", "--from", "nothing"], "does not exist"), (["x"], "--from"), (["--from", "bb"], "no name"), (["x", "--from", "bb", "--root", "/"], "--from"),
            (["x", "--root", "relative"], "absolute"), (["x", "--root", "/nowhere"], "/nowhere"), (["x", "--from", "bb", "--ip", "10.90.0"], "--ip"),
            (["x", "--from", "bb", "--ip", "10.90.0.0"], "--ip"), (["x", "--from", "bb", "--ip", "10.90.0.255"], "--ip"),
            (["x", "--from", "bb", "--ip", "10.90.0.5/33"], "--ip"), (["x", "--from", "bb", "--gateway", "x"], "gateway"),
            (["x", "--from", "bb", "--memory", "lots"], "memory"), (["x", "--from", "bb", "--memory", ""], "memory"), (["x", "--from", "bb", "--cpus", "-1"], "cpus"),
            (["x", "--from", "bb", "--cpus", "nan"], "cpus"), (["x", "--from", "bb", "--count", "0"], "count"), (["x", "--from", "bb", "--count", "1e9"], "count"),
            (["x", "--from", "bb", "--mount", "/etc"], "mount"), (["x", "--from", "bb", "--mount", "/a:/b:rw"], "mount"), (["x", "--from", "bb", "--env", "X"], "env"),
            (["x", "--from", "bb", "--set", "colour=red"], "colour"), (["x", "--from", "bb", "--bridge", "no-such-br"], "no-such-br"),
            (["x", "--from", "bb", "--bridge", "a" * 16], "bridge"), (["x", "--from", "bb", "--disk", "1"], "disk"), (["x", "--from", "bb", "--hostname", "-x"], "hostname"),
            (["x", "--from", "bb", "--network", "ip=10.0.0.1/24"], "network"), (["x", "--from", "bb", "--network", "bridge=a,ip=10.0.0.1/24", "--ip", "10.0.0.2"], "--network"),
            (["x", "--from", "bb", "--ip", "10.90.0.5", "--ip-start", "10.90.0.6"], "exclude"), (["x", "--from", "bb", "--pool", "nothing", "--start"], "nothing"),
            (["x", "y", "--from", "bb"], "usage"), (["x", "--from"], "--from"), (["x", "--form", "bb"], "--form"), (["x", "--from", "bb", "--dns", "name"], "dns"),
            (["x", "--from", "bb", "--set", "seccomp=relative"], "seccomp"), (["x", "--from", "bb", "--set", "stop_signal=NOTHING"], "stop_signal"),
            (["x", "--from", "bb", "--set", "ids=-1:65536"], "ids"), (["x", "--from", "bb", "--cpu-set", "a"], "cpu"), (["x", "--from", "bb", "--processes", "0"], "processes")):
        ct.made = ["x"]
        done = ct.run("create", *words)
        assert done.returncode == 1 and reason in done.stderr and done.stderr.startswith("hull: "), (words, done.stderr)
        if ct.folder("x").exists():
            ct.ok("delete", "x")
            assert "--start" in words, words
    for verb in ("start", "stop", "restart", "pause", "resume", "delete"):
        assert "no container is named" in ct.refused(verb)
    for verb in ("info", "set", "exec", "shell", "console", "logs", "snapshot", "clone", "upgrade"):
        assert "usage" in ct.refused(verb)
    assert "usage" in ct.refused("set", "x") and "usage" in ct.refused("list", "x")
    assert ct.refused("stop", "--timeout", "soon", "x") and ct.refused("list", "--output", "picture")
    assert "did you mean" in ct.run("strat", "x").stderr
    assert not [path.name for path in (ct.state / "containers").iterdir()]


@pytest.mark.parametrize("text", ["memory: [", "memory: lots\n", "- a\n- b\n", "", "\0\1\2", "colour: red\n", "memory: &a 64M\nswap: *a\n", "memory: 64M\nmemory: 64M\n",
                                  "[" * 5000, "ids: 0:65536\n", "template: sha256-x\nids: 1073741824:65536\nnetwork: {a: b}\n", "\xff\xfe"])
def test_damaged_configuration(ct, text):
    """All verbs name what is wrong, others are not disturbed, and the container can still be deleted."""
    name, other = ct.create(start=False), ct.create(start=False)
    path = ct.folder(name) / "config.yaml"
    path.write_text(text, encoding="latin-1")
    for verb, words in (("start", []), ("info", []), ("set", ["memory=64M"]), ("snapshot create", ["s"]), ("clone", ["new"]), ("upgrade", []), ("logs", [])):
        said = ct.refused(verb, name, *words)
        assert name in said or "config.yaml" in said, said
    assert ct.list()[name]["status"] == "error" and ct.list()[other]["status"] == "stopped"
    done = ct.run("check")
    assert done.returncode == 1 and name in done.stdout
    assert ct.run("check", "--repair").returncode == 1 and path.exists()
    ct.create(start=False)
    ct.ok("delete", name)


def test_interrupted_start(alone):
    """Ctrl-C: no more are begun, those that were are there, and it says how many are not."""
    alone.ok("create", "many", "--from", "bb", "--count", 40, "--ip", "none", "-q")
    alone.made += [f"many-{i}" for i in range(1, 41)]
    child = alone.spawn("start", *alone.made)
    until(lambda: len(list((alone.state / "run/keeper").iterdir())) > 3)
    child.send("\x03")
    child.expect(r"interrupted: (\d+) of 40 containers were not started")
    missing = int(child.match[1])
    assert "hull: " not in child.before.removesuffix("hull: "), child.before  # none has failed for it
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 1
    states = [row["status"] for row in alone.list().values()]
    assert states.count("running") == 40 - missing and states.count("stopped") == missing and missing > 0
    alone.ok("delete", "--all", "--force", "-q")
    assert alone.left() == []
