"""hull-oci with real containers: what a program in them sees, their life, and what is refused."""
import json
import os
import pathlib
import signal
import socket
import subprocess
import time

import pytest

from oci import Bundle, HULL_OCI, cgroups_named, make_root, until
from oci_fixtures import bundle, name, place, runtime  # noqa: F401  # pylint: disable=unused-import

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def status(runtime, name):
    return json.loads(runtime.ok("state", name))["status"]


def nothing_left(runtime, name):
    assert not (runtime.root / name).exists()
    assert cgroups_named(name) == []


def output(runtime, name, bundle, script):
    """What a script in the container prints."""
    return runtime.ok("run", "-b", bundle.script(script).path, name)


def test_run_ends_as_the_program(runtime, bundle, name):
    assert output(runtime, name, bundle, "echo hello") == "hello\n"
    nothing_left(runtime, name)
    assert runtime.run("run", "-b", bundle.script("exit 37").path, name).returncode == 37
    bundle.linux["namespaces"] = [n for n in bundle.linux["namespaces"] if n["type"] != "pid"]  # in one of its own it could not be killed so
    bundle.config["mounts"] = [m for m in bundle.config["mounts"] if m["type"] != "proc"]
    bundle.linux["maskedPaths"] = bundle.linux["readonlyPaths"] = []
    assert runtime.run("run", "-b", bundle.script("kill -9 $$").path, name).returncode == 128 + 9
    nothing_left(runtime, name)


def test_what_a_program_sees(runtime, bundle, name):
    bundle.process["env"] += ["COLOR=green"]
    bundle.process["cwd"] = "/tmp/new/folder"
    seen = output(runtime, name, bundle, "hostname; echo $COLOR $HOME $$; pwd; id -u; ulimit -n; ls /proc/self/fd | wc -l; cat /proc/1/comm; true")
    assert seen.split("\n")[:5] == ["box", "green /root 1", "/tmp/new/folder", "0", "1024"]
    assert seen.split("\n")[5:7] == ["4", "sh"]  # of ls: 0, 1, 2 and the folder


def test_user_and_groups(runtime, bundle, name):
    bundle.process["user"] = {"uid": 1000, "gid": 1000, "additionalGids": [5, 2000], "umask": 0o27}
    seen = output(runtime, name, bundle, "grep -E '^(Uid|Gid|Groups|CapEff|CapBnd|NoNewPrivs)' /proc/self/status; umask; touch /tmp/x; echo $HOME")
    assert "Uid:\t1000\t1000\t1000\t1000" in seen and "Gid:\t1000" in seen and "Groups:\t5 2000" in seen
    assert "CapEff:\t0000000000000000" in seen and "NoNewPrivs:\t1" in seen
    assert "0027\n" in seen and "/home/user" in seen


def test_a_user_opens_his_output_again(runtime, bundle, name):
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    words = runtime.words("run", "-b", bundle.script("echo again > /dev/stdout; echo error > /proc/self/fd/2").path, name)
    result = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    assert (result.stdout, result.stderr) == ("again\n", "error\n")
    assert os.stat("/dev/null").st_uid == 0


def test_capabilities(runtime, bundle, name):
    bundle.process["capabilities"] = {"bounding": ["CAP_KILL", "CAP_CHOWN"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL", "CAP_CHOWN"],
                                      "inheritable": ["CAP_CHOWN"], "ambient": ["CAP_CHOWN"]}
    seen = output(runtime, name, bundle, "grep ^Cap /proc/1/status")
    # The program is executed by uid 0: it gets what the bounding set has.
    assert "CapBnd:\t0000000000000021" in seen and "CapInh:\t0000000000000001" in seen and "CapAmb:\t0000000000000001" in seen
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    seen = output(runtime, name, bundle, "grep ^Cap /proc/1/status")
    assert "CapEff:\t0000000000000001" in seen and "CapPrm:\t0000000000000001" in seen


def test_namespaces_are_its_own(runtime, bundle, name):
    bundle.namespace("cgroup")
    kinds = ("pid", "net", "ipc", "uts", "mnt", "cgroup", "user", "time")
    seen = dict(zip(kinds, output(runtime, name, bundle, "for n in %s; do readlink /proc/self/ns/$n; done" % " ".join(kinds)).split()))
    for kind, value in seen.items():
        own = os.readlink(f"/proc/self/ns/{kind}")
        assert (value == own) == (kind in ("user", "time")), kind
    assert output(runtime, name, bundle, "ip link | grep -c :").strip() >= "1"
    assert output(runtime, name, bundle, "cat /proc/self/cgroup | cut -d: -f3 | sort | tail -1").strip() == "/"


def test_namespaces_are_joined(runtime, bundle, name, place):
    bundle.script("sleep 1000")
    runtime.ok("run", "-d", "-b", bundle.path, name)
    pid = json.loads(runtime.ok("state", name))["pid"]
    other = Bundle(place / f"{name}-other", place / "rootfs")
    for kind in ("pid", "net", "ipc", "uts"):
        other.namespace({"net": "network"}.get(kind, kind), f"/proc/{pid}/ns/{kind}")
    other.config.pop("hostname")
    seen = output(runtime, f"{name}-2", other, "for n in pid net ipc uts; do readlink /proc/self/ns/$n; done; ps | grep -c 'sleep 1000'")
    assert seen.split()[:4] == [os.readlink(f"/proc/{pid}/ns/{kind}") for kind in ("pid", "net", "ipc", "uts")]
    assert int(seen.split()[4]) >= 1
    other.namespace("network", "/proc/self/ns/ipc")
    assert "no network namespace" in runtime.refused("run", "-b", other.write().path, f"{name}-3")
    nothing_left(runtime, f"{name}-3")


def test_user_namespace(runtime, bundle, name):
    bundle.user_namespace()
    seen = output(runtime, name, bundle, "id -u; cat /proc/self/uid_map; stat -c %u /bin/busybox; touch /dev/shm/x && stat -c %u /dev/shm/x; "
                                         "echo x > /dev/null && ls /sys > /dev/null && echo fine")
    lines = seen.split("\n")
    assert lines[0] == "0" and lines[1].split() == ["0", "100000", "65536"] and lines[2] == "65534" and lines[3] == "0" and lines[4] == "fine"


def test_time_namespace(runtime, bundle, name):
    bundle.namespace("time")
    bundle.linux["timeOffsets"] = {"boottime": {"secs": 1000000}, "monotonic": {"secs": 2000000}}
    uptime = float(output(runtime, name, bundle, "cut -d' ' -f1 /proc/uptime"))
    assert 1000000 < uptime < 1000000 + float(pathlib.Path("/proc/uptime").read_text().split()[0]) + 10


def test_mounts(runtime, bundle, name, place):
    shared = place / name
    shared.mkdir()
    (shared / "file").write_text("data\n")
    bundle.mount("/mnt/a", "bind", shared, "rbind", "ro")
    bundle.mount("/mnt/b", "bind", shared / "file", "bind", "rw")
    bundle.mount("/mnt/c", "tmpfs", "tmpfs", "size=1m", "noexec", "mode=1770")
    bundle.mount("/etc", "tmpfs", "tmpfs", "tmpcopyup")
    seen = output(runtime, name, bundle, "cat /mnt/a/file; (touch /mnt/a/x) 2>&1; echo more >> /mnt/b; stat -c %a /mnt/c; "
                                         "dd if=/dev/zero of=/mnt/c/f bs=1k count=2000 2>&1 | grep -c space; cat /etc/passwd | head -1")
    assert seen.split("\n")[0] == "data" and "Read-only file system" in seen and "1770" in seen and "root:x:0" in seen
    assert (shared / "file").read_text() == "data\nmore\n"


def test_a_readonly_root_and_hidden_paths(runtime, bundle, name):
    bundle.config["root"]["readonly"] = True
    seen = output(runtime, name, bundle, "(touch /x) 2>&1; cat /proc/kcore | wc -c; ls /sys/firmware | wc -l; (echo 1 > /proc/sys/kernel/pid_max) 2>&1; "
                                         "(echo x > /sys/kernel/notes) 2>&1; true")
    assert seen.count("Read-only file system") == 3 and "\n0\n0\n" in seen


def test_devices(runtime, bundle, name):
    bundle.linux["devices"] = [{"path": "/dev/fuse2", "type": "c", "major": 10, "minor": 229, "fileMode": 0o640, "uid": 7, "gid": 8}]
    seen = output(runtime, name, bundle, "stat -c '%n %t:%T %a' /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty; "
                                         "stat -c '%t:%T %a %u:%g' /dev/fuse2; for l in ptmx fd stdin stdout stderr; do readlink /dev/$l; done; "
                                         "mknod /tmp/sda b 8 0 && (cat /tmp/sda) 2>&1; (cat /dev/fuse2) 2>&1; head -c 4 /dev/zero | wc -c; rm -f /tmp/sda")
    assert "/dev/null 1:3 666" in seen and "/dev/tty 5:0 666" in seen and "a:e5 640 7:8" in seen
    assert "pts/ptmx\n/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\n" in seen
    assert seen.count("not permitted") == 2 and seen.strip().endswith("4")


def test_sysctl_and_rlimits(runtime, bundle, name):
    bundle.linux["sysctl"] = {"net.ipv4.ip_forward": "1", "kernel.shmmax": "12345678"}
    bundle.process["rlimits"] = [{"type": "RLIMIT_CORE", "hard": 0, "soft": 0}, {"type": "RLIMIT_NPROC", "hard": 777, "soft": 555}]
    seen = output(runtime, name, bundle, "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmax; grep processes /proc/self/limits")
    assert seen.split()[:2] == ["1", "12345678"] and seen.split()[4:6] == ["555", "777"]
    bundle.linux["sysctl"] = {"vm.swappiness": "1"}
    assert "vm.swappiness" in runtime.refused("run", "-b", bundle.write().path, name)
    nothing_left(runtime, name)


def test_seccomp(runtime, bundle, name):
    bundle.linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 71}]}
    seen = output(runtime, name, bundle, "(mkdir /tmp/d) 2>&1; grep Seccomp: /proc/self/status")
    assert "Protocol error" in seen and "Seccomp:\t2" in seen


LIMITS = {"memory": {"limit": 64 << 20}, "pids": {"limit": 20}, "cpu": {"shares": 512, "quota": 50000, "period": 100000}}


def v1(controller, name, file):
    found = [path for path in cgroups_named(name) if path.parts[4] == controller]
    return (found[0] / file).read_text().strip() if found else None


def test_limits_and_update(runtime, bundle, name):
    if not pathlib.Path("/sys/fs/cgroup/memory").exists():
        pytest.skip("the host has no cgroup v1 controllers")
    bundle.linux["resources"].update(LIMITS)
    bundle.script("sleep 1000")
    runtime.ok("run", "-d", "-b", bundle.path, name)
    assert v1("memory", name, "memory.limit_in_bytes") == str(64 << 20)
    assert v1("pids", name, "pids.max") == "20" and v1("cpu", name, "cpu.shares") == "512" and v1("cpu", name, "cpu.cfs_quota_us") == "50000"
    runtime.ok("update", "--memory", "32m", "--pids-limit", 10, name)
    assert v1("memory", name, "memory.limit_in_bytes") == str(32 << 20) and v1("pids", name, "pids.max") == "10"
    assert v1("cpu", name, "cpu.shares") == "512"
    assert subprocess.run(runtime.words("update", "--resources", "-", name), input='{"cpu": {"shares": 100}}', text=True, check=False).returncode == 0
    assert v1("cpu", name, "cpu.shares") == "100"
    assert "cpu.shares" in subprocess.run(runtime.words("update", "--resources", "-", name), input='{"cpu": {"shares": "many"}}', text=True,
                                                    capture_output=True, check=False).stderr
    stats = json.loads(runtime.ok("events", "--stats", name))
    assert stats["id"] == name and stats["data"]["pids"]["current"] == 1


def test_a_container_runs_out_of_memory(runtime, bundle, name):
    bundle.linux["resources"]["memory"] = {"limit": 16 << 20, "swap": 16 << 20}
    assert runtime.run("run", "-b", bundle.script("head -c 40000000 /dev/zero | tail").path, name).returncode != 0
    bundle.linux["resources"]["memory"] = {"limit": 1}
    runtime.run("run", "-b", bundle.script("true").path, name)  # it fails or not, as the kernel likes: nothing stays
    nothing_left(runtime, name)


def test_life(runtime, bundle, name):
    bundle.script("trap 'exit 5' TERM; while true; do sleep 0.1; done")
    bundle.config["annotations"] = {"org.example.color": "blue"}
    pid_file = bundle.path / "pid"
    bundle.write()
    runtime.ok("create", "-b", bundle.path, "--pid-file", pid_file, name)
    state = json.loads(runtime.ok("state", name))
    assert state["status"] == "created" and state["id"] == name and state["bundle"] == str(bundle.path)
    assert state["annotations"] == {"org.example.color": "blue"} and state["pid"] == int(pid_file.read_text())
    assert "exists" in runtime.refused("create", "-b", bundle.path, name)
    (bundle.path / "config.json").write_text("{}")  # has no effect any more
    runtime.ok("start", name)
    assert status(runtime, name) == "running" and "cannot start" in runtime.refused("start", name)
    assert "not stopped" in runtime.refused("delete", name)
    assert [row["id"] for row in json.loads(runtime.ok("list", "--format", "json"))] == [name]
    assert runtime.ok("list", "-q").split() == [name]
    runtime.ok("pause", name)
    assert status(runtime, name) == "paused" and "paused" in runtime.refused("exec", name, "true")
    runtime.ok("resume", name)
    assert status(runtime, name) == "running"
    time.sleep(0.3)  # the shell's trap
    runtime.ok("kill", name, "TERM")
    until(lambda: status(runtime, name) == "stopped")
    assert "not running" in runtime.refused("kill", name, "KILL")
    runtime.ok("delete", name)
    nothing_left(runtime, name)
    assert "does not exist" in runtime.refused("state", name) and "does not exist" in runtime.refused("delete", name)
    runtime.ok("delete", "--force", name)


def test_a_created_container_is_deleted(runtime, bundle, name):
    runtime.ok("create", "-b", bundle.write().path, name)
    pid = json.loads(runtime.ok("state", name))["pid"]
    runtime.ok("delete", name)
    nothing_left(runtime, name)
    assert not pathlib.Path(f"/proc/{pid}/exe").exists()


def test_exec(runtime, bundle, name):
    bundle.linux["resources"]["pids"] = {"limit": 50}
    bundle.script("sleep 1000")
    runtime.ok("run", "-d", "-b", bundle.path, name)
    assert runtime.ok("exec", "-e", "A=b", "--cwd", "/tmp", name, "sh", "-c", "echo $A; pwd; hostname; cat /proc/1/comm") == "b\n/tmp\nbox\nsleep\n"
    assert runtime.run("exec", name, "sh", "-c", "exit 9").returncode == 9
    assert runtime.ok("exec", "-u", "1000:1000", "-g", "77", name, "id", "-G") == "1000 77\n"
    assert "executable file not found" in runtime.refused("exec", name, "nothing-such")
    pids = [int(pid) for pid in runtime.ok("ps", "--format", "json", name).strip("[]\n ").replace(",", " ").split()]
    runtime.ok("exec", "-d", "--pid-file", bundle.path / "pid2", name, "sleep", "2000")
    more = int((bundle.path / "pid2").read_text())
    assert more in json.loads(runtime.ok("ps", "--format", "json", name)) and more not in pids
    assert "sleep 2000" in runtime.ok("ps", name)
    groups = [pathlib.Path(f"/proc/{pid}/cgroup").read_text() for pid in (pids[0], more)]
    assert groups[0] == groups[1] and name in groups[0]
    process = {**bundle.process, "args": ["sh", "-c", "id -u; grep CapEff /proc/self/status"], "user": {"uid": 5, "gid": 5}}
    (bundle.path / "process.json").write_text(json.dumps(process))
    assert runtime.ok("exec", "--process", bundle.path / "process.json", name).startswith("5\nCapEff:\t0000000000000000")
    runtime.ok("kill", "--all", name, "KILL")
    until(lambda: status(runtime, name) == "stopped")
    assert "not running" in runtime.refused("exec", name, "true")


def receive_terminal(server):
    connection, _ = server.accept()
    data, fds, _, _ = socket.recv_fds(connection, 4096, 1)
    connection.close()
    return data.decode(), fds[0]


def read_until(fd, text):
    seen = b""
    while text not in seen:
        seen += os.read(fd, 4096)
    return seen


def test_terminals(runtime, bundle, name, place):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(place / f"{name}.sock"))
        server.listen()
        server.settimeout(20)
        bundle.process["terminal"] = True
        bundle.process["consoleSize"] = {"height": 33, "width": 77}
        bundle.script("tty; stty size; test -c /dev/console && echo console; sleep 1000")
        assert "--console-socket" in runtime.refused("create", "-b", bundle.path, name)
        runtime.ok("create", "-b", bundle.path, "--console-socket", place / f"{name}.sock", name)
        path, master = receive_terminal(server)
        assert path.startswith("/dev/pts/")
        runtime.ok("start", name)
        seen = read_until(master, b"console\r\n")
        assert b"/dev/pts/0" in seen or b"/dev/console" in seen
        assert b"33 77" in seen
        runtime.ok("exec", "-d", "-t", "--console-socket", place / f"{name}.sock", name, "sh", "-c", "tty; id -u")
        _, second = receive_terminal(server)
        assert b"/dev/pts/1" in read_until(second, b"0\r\n")
        os.close(master)
        os.close(second)


HOOK = """#!/bin/sh
# $1: name; the state comes on standard input
echo "$1 $(cat | tr -d '\\n ' | sed 's/.*"status":"\\([a-z]*\\)".*/\\1/') $(readlink /proc/self/ns/mnt)" >> $2
"""


def test_hooks(runtime, bundle, name):
    hook, log = bundle.path / "hook", bundle.path / "log"
    hook.write_text(HOOK)
    hook.chmod(0o755)
    names = ("prestart", "createRuntime", "createContainer", "poststart", "poststop")
    env = ["PATH=/bin:/usr/bin"]
    bundle.config["hooks"] = {n: [{"path": str(hook), "args": ["hook", n, str(log)], "env": env}] for n in names}
    bundle.config["hooks"]["startContainer"] = [{"path": "/bin/sh", "args": ["sh", "-c", "cat > /tmp/hook-state; echo $X > /tmp/hook-env"], "env": ["X=y", *env]}]
    assert output(runtime, name, bundle, "grep -o '\"status\":\"created\"' /tmp/hook-state; cat /tmp/hook-env") == '"status":"created"\ny\n'
    rows = [line.split() for line in log.read_text().splitlines()]
    assert [row[0] for row in rows] == list(names)
    assert [row[1] for row in rows] == ["creating", "creating", "creating", "running", "stopped"]
    own = os.readlink("/proc/self/ns/mnt")
    assert [row[2] == own for row in rows] == [True, True, False, True, True]


@pytest.mark.parametrize("when", ["prestart", "createRuntime", "createContainer", "startContainer"])
def test_a_hook_that_fails_ends_it(runtime, bundle, name, when):
    log = bundle.path / "log"
    bundle.config["hooks"] = {when: [{"path": "/bin/false"}], "poststop": [{"path": "/usr/bin/touch", "args": ["touch", str(log)]}]}
    bundle.script("echo ran")
    result = runtime.run("run", "-b", bundle.path, name)
    assert result.returncode != 0 and "ran" not in result.stdout and f"hooks.{when}[0]" in result.stderr
    assert log.exists()
    nothing_left(runtime, name)


def test_a_hook_takes_too_long(runtime, bundle, name):
    bundle.config["hooks"] = {"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "100"], "timeout": 1}]}
    assert "longer than 1 s" in runtime.refused("run", "-b", bundle.write().path, name)
    nothing_left(runtime, name)


def test_groups_that_cannot_be_removed(runtime, bundle, name):
    """A creation that fails keeps the state as long as there are groups: whoever is in one of v1 alone is not the container's to kill."""
    group = pathlib.Path("/sys/fs/cgroup/pids") / name
    if not (pathlib.Path("/sys/fs/cgroup/unified").exists() and group.parent.exists()):
        pytest.skip("needs a hybrid host")
    stranger = subprocess.Popen(["sleep", "1000"])
    try:
        bundle.linux["cgroupsPath"] = f"/{name}"
        enter = f"echo {stranger.pid} > {group}/cgroup.procs; false"
        bundle.config["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", enter]}]}
        said = runtime.refused("create", "-b", bundle.write().path, name, timeout=120)
        assert cgroups_named(name) == [group]
        assert (runtime.root / name).exists() and "hooks.createRuntime[0]" in said and str(group) in said and said.count("\n") == 1
        assert str(group) in runtime.refused("delete", "--force", name, timeout=120) and (runtime.root / name).exists()
    finally:
        stranger.kill()
        stranger.wait()
    runtime.ok("delete", "--force", name)
    nothing_left(runtime, name)


NET = """ip link add hull0 type veth peer name hull1
ip addr add 10.9.0.1/24 dev hull0; ip -6 addr add fd00:9::1/64 dev hull0 nodad; ip link set hull0 address 02:00:00:00:00:09
exec "$@" """


@pytest.mark.parametrize("has_user_namespace", [False, True])
def test_network_devices(runtime, bundle, name, has_user_namespace):
    """In a network namespace of the test's own, which is the host here."""
    if has_user_namespace:
        bundle.user_namespace()
    bundle.linux["netDevices"] = {"hull0": {"name": "inner"}}
    bundle.script("ip link show inner; ip addr show inner; ip link show hull1 2>&1")
    runtime.prefix = ["unshare", "-n", "sh", "-c", NET, "sh", *runtime.prefix]
    seen = runtime.run("run", "-b", bundle.path, name).stdout
    assert "10.9.0.1/24" in seen and "fd00:9::1/64" in seen and "02:00:00:00:00:09" in seen and "UP" in seen
    assert "inner@" in seen and "can't find device 'hull1'" in seen
    for wanted, words in (({"no-such": {}}, "netDevices.no-such"), ({"hull0": {"name": "lo"}}, "netDevices.hull0")):
        bundle.linux["netDevices"] = wanted
        assert words in runtime.refused("run", "-b", bundle.write().path, name)
        nothing_left(runtime, name)
    bundle.linux["netDevices"] = {"hull0": {"name": "eth%d"}, "hull1": {"name": "eth%d"}}
    bundle.script("ip link show eth0 && ip link show eth1")
    assert "eth1@eth0" in runtime.ok("run", "-b", bundle.path, name)


def test_descriptors(runtime, bundle, name):
    read_end, write_end = os.pipe()
    bundle.script("ls /proc/self/fd | tr '\\n' ' '; echo hello >&4")
    with open("/dev/null", "rb") as other:
        words = runtime.words("run", "-b", bundle.path, "--preserve-fds", 2, name)
        script = f"exec 3<&{other.fileno()} 4>&{write_end} 9>&4; exec \"$@\""
        result = subprocess.run(["bash", "-c", script, "bash", *words], pass_fds=(other.fileno(), write_end), capture_output=True, text=True, check=False)
    os.close(write_end)
    assert os.read(read_end, 100) == b"hello\n"
    os.close(read_end)
    assert result.stdout.split() == ["0", "1", "2", "3", "4", "5"]  # 5: the folder that ls reads


@pytest.mark.parametrize("change, words", [
    (lambda c: c["root"].update(path="/nowhere/at/all"), "root.path"),
    (lambda c: c.pop("root"), "root: is required"),
    (lambda c: c["process"].update(args=["no-such-program"]), "executable file not found"),
    (lambda c: c["process"].update(args=["/etc/passwd"]), "permission denied"),
    (lambda c: c["process"].update(cwd="relative"), "process.cwd"),
    (lambda c: c["linux"]["namespaces"].append({"type": "pid"}), "linux.namespaces"),
    (lambda c: c["linux"]["namespaces"].append({"type": "fantasy"}), "linux.namespaces"),
    (lambda c: c["mounts"].append({"destination": "/mnt/x", "type": "bind", "source": "/nowhere/at/all", "options": ["bind"]}), "/nowhere/at/all"),
    (lambda c: c["mounts"].append({"destination": "/mnt/x", "type": "fantasyfs", "source": "x"}), "fantasyfs"),
    (lambda c: c["mounts"].append({"destination": "/mnt/x", "type": "tmpfs", "source": "x", "options": ["size=banana"]}), "Bad value for 'size'"),
    (lambda c: c.update(ociVersion="7.0.0"), "ociVersion"),
    (lambda c: c["linux"].update(uidMappings=[{"containerID": 0, "hostID": 0, "size": 1}]), "uidMappings"),
    (lambda c: c["linux"]["resources"].update(memory={"limit": "1g"}), "linux.resources.memory.limit"),
])
def test_bad_configurations(runtime, bundle, name, change, words):
    change(bundle.config)
    error = runtime.refused("run", "-b", bundle.write().path, name)
    assert words.lower() in error.lower()
    nothing_left(runtime, name)


def test_bad_command_lines(runtime, bundle):
    bundle.write()
    assert "CONTAINER" in runtime.refused("create")
    assert "did you mean" in runtime.refused("creat", "x")
    assert "container id" in runtime.refused("create", "-b", bundle.path, "../x")
    assert "config.json" in runtime.refused("run", "-b", "/tmp", "x")
    assert "signal" in runtime.refused("kill", "x", "NOSUCH").lower()
    (bundle.path / "config.json").write_text("{ \"ociVersion\": ")
    assert "line 1" in runtime.refused("run", "-b", bundle.path, "x")
    for word in ("create", "run", "exec", "update", "delete", "kill", "list", "events", "ps", "state", "spec", "features"):
        assert "Usage:" in runtime.ok(word, "--help")


def test_errors_are_logged(runtime, bundle, name, place):
    log = place / f"{name}.log"
    runtime.refused("--log", log, "--log-format", "json", "state", name)
    line = json.loads(log.read_text())
    assert line["level"] == "error" and "does not exist" in line["msg"] and line["time"]


def test_spec_and_features(runtime, place, name):
    bundle = place / f"{name}-spec"
    bundle.mkdir()
    runtime.ok("spec", "-b", bundle)
    assert "exists" in runtime.refused("spec", "-b", bundle)
    config = json.loads((bundle / "config.json").read_text())
    config["root"]["path"], config["process"]["terminal"], config["process"]["args"] = str(place / "rootfs"), False, ["true"]
    (bundle / "config.json").write_text(json.dumps(config))
    runtime.ok("run", "-b", bundle, name)
    features = json.loads(runtime.ok("features"))
    assert "createRuntime" in features["hooks"] and "rro" in features["mountOptions"] and features["linux"]["seccomp"]["enabled"]


@pytest.mark.skipif(os.path.exists("/run/systemd/system"), reason="systemd is this host's init")
def test_no_systemd(runtime, bundle, name):
    """Without systemd its manager is refused before anything is made; a path that is the other manager's as well."""
    bundle.linux["cgroupsPath"] = "machine.slice:libpod:x"
    told = runtime.refused("--cgroup-manager", "systemd", "run", "-b", bundle.script("true").path, name)
    assert "/run/systemd/system" in told and "cgroupfs" in told
    nothing_left(runtime, name)
    bundle.linux["cgroupsPath"] = "/machine/x"
    assert "SLICE:PREFIX:NAME" in runtime.refused("--systemd-cgroup", "run", "-b", bundle.script("true").path, name)
    nothing_left(runtime, name)
    has_program = (HULL_OCI.parent / "hull-oci-systemd").exists()
    groups = json.loads(runtime.ok("features"))["linux"]["cgroup"]
    assert groups["systemd"] is has_program and groups["systemdUser"] is has_program


def test_what_the_host_cannot_give(runtime, bundle, name):
    """This host's root may not raise hard limits: the container runs, and says so; or not, with --strict."""
    import resource
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if int([line for line in pathlib.Path("/proc/self/status").read_text().splitlines() if line.startswith("CapBnd")][0].split()[1], 16) >> 24 & 1:
        pytest.skip("the host's root may raise limits")
    bundle.process["rlimits"] = [{"type": "RLIMIT_NOFILE", "hard": hard * 2, "soft": hard * 2}]
    runtime.ok("create", "-b", bundle.script("ulimit -n").path, name)
    report = json.loads(runtime.ok("state", name))["degraded"]
    assert [row["field"] for row in report] == ["process.rlimits.RLIMIT_NOFILE"]
    error = runtime.refused("--strict", "create", "-b", bundle.path, f"{name}-2")
    assert "RLIMIT_NOFILE" in error
    nothing_left(runtime, f"{name}-2")


def test_a_killed_runtime_leaves_what_delete_finds(runtime, bundle, name):
    """kill -9 at random moments of create; then delete --force."""
    bundle.script("sleep 1000")
    for attempt in range(40):
        words = runtime.words("create", "-b", bundle.path, f"{name}-{attempt}")
        with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            time.sleep(attempt * 0.0003)
            process.send_signal(signal.SIGKILL)
        runtime.ok("delete", "--force", f"{name}-{attempt}")
        nothing_left(runtime, f"{name}-{attempt}")


STEPS = ("folder", "prepared", "planned", "made", "groups", "process", "guided", "finished")
PROCESS_STEPS = ("process:born", "process:settled", "process:mounted", "process:entered")


@pytest.mark.parametrize("kind", ["plain", "user namespace", "stage"])
def test_killed_at_each_step(runtime, bundle, name, kind, monkeypatch):
    """The runtime: `delete --force` removes what is left. The container's process: the runtime says so and removes it itself."""
    bundle.script("sleep 1000")
    if kind == "user namespace":
        bundle.user_namespace()
    if kind == "stage":
        bundle.namespace("time")
    bundle.write()
    for step in STEPS:
        monkeypatch.setenv("HULL_OCI_FAULT", step)
        result = runtime.run("create", "-b", bundle.path, name)
        if result.returncode == 0:
            pytest.skip("hull-oci was built without tests")
        assert result.returncode == -signal.SIGKILL
        monkeypatch.delenv("HULL_OCI_FAULT")
        runtime.ok("delete", "--force", name)
        nothing_left(runtime, name)
    for step in PROCESS_STEPS:
        monkeypatch.setenv("HULL_OCI_FAULT", step)
        assert "ended before it was done" in runtime.refused("create", "-b", bundle.path, name), step
        nothing_left(runtime, name)


def test_a_program_cannot_reach_the_runtime(runtime, bundle, name, place):
    """CVE-2019-5736: a program that is /proc/self/exe executes the runtime, in the container; it cannot be written to."""
    before = HULL_OCI.read_bytes()
    (place / "rootfs/bin/attack").write_text("#!/proc/self/exe\n")
    (place / "rootfs/bin/attack").chmod(0o755)
    bundle.script("sleep 1000")
    runtime.ok("run", "-d", "-b", bundle.path, name)
    watcher = "i=0; while [ $i -lt 2000 ]; do for p in /proc/[0-9]*; do case $(readlink $p/exe) in *hull-oci*) (echo broken > $p/exe) 2>/dev/null && echo written;; esac; done; i=$((i+1)); done"
    attack = subprocess.Popen(runtime.words("exec", name, "sh", "-c", watcher), stdout=subprocess.PIPE, text=True)
    for _ in range(20):
        runtime.run("exec", name, "/bin/attack")
    attack.kill()
    assert "written" not in attack.communicate()[0]
    assert HULL_OCI.read_bytes() == before


USER = 1000


def test_rootless(place, name):
    """A caller who is not root: everything is his own."""
    folder = place / name
    folder.mkdir()
    make_root(folder / "rootfs")
    (folder / "hull-oci").write_bytes(HULL_OCI.read_bytes())
    (folder / "hull-oci").chmod(0o755)
    subprocess.run(["chown", "-R", f"{USER}:{USER}", str(folder)], check=True)
    environment = {"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": str(folder / "run")}

    def call(*words):
        with open(folder / "output", "w+", encoding="utf-8") as output:
            result = subprocess.run([str(folder / "hull-oci"), *words], cwd=folder, env=environment, user=USER, group=USER, extra_groups=[],
                                    stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=30, check=False)
            output.seek(0)
            return result.returncode, output.read()

    os.mkdir(folder / "run")
    os.chown(folder / "run", USER, USER)
    assert call("spec", "--rootless")[0] == 0
    config = json.loads((folder / "config.json").read_text())
    config["process"]["terminal"] = False
    config["process"]["args"] = ["sh", "-c", "touch /made; sleep 100"]
    config["root"]["readonly"] = False
    (folder / "config.json").write_text(json.dumps(config))
    assert call("run", "-d", name)[0] == 0
    assert call("list", "-q") == (0, f"{name}\n")
    assert call("exec", name, "id", "-u") == (0, "0\n")
    until(lambda: (folder / "rootfs/made").exists())
    assert (folder / "rootfs/made").stat().st_uid == USER
    assert call("delete", name)[0] != 0
    assert call("delete", "--force", name) == (0, "")
    assert os.listdir(folder / "run/hull-oci") == []
