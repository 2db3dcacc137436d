"""hull-oci beside crun and runc: the same bundle, and what its program sees must be the same."""
import os
import re
import shutil
import subprocess
import time
import uuid

import pytest

from oci import Bundle, Runtime, make_root, temporary_folder

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
              pytest.mark.skipif(not (shutil.which("crun") and shutil.which("runc")), reason="crun and runc are not installed")]

# What a program can see of where it is. Numbers that differ from run to run are left out below.
REPORT = """
id; pwd; umask; env | sort; hostname
grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp)' /proc/self/status
cat /proc/self/limits /proc/self/oom_score_adj /proc/self/uid_map /proc/self/gid_map
cut -d' ' -f4- /proc/self/mountinfo | sort -k2
ls -la /dev /dev/pts /dev/shm /proc/self/fd | sed 's/[A-Z][a-z][a-z] *[0-9]* [0-9:]* / /'
stat -c '%n %a %u:%g %t:%T %F' / /dev /dev/* /proc /sys /tmp /mnt/* 2>&1
cat /proc/sys/kernel/shmmax /proc/sys/net/ipv4/ip_forward; cat /sys/firmware/x /proc/kcore 2>&1 | wc -c
(echo 1 > /proc/sys/kernel/panic) 2>&1; (mount -t tmpfs x /tmp) 2>&1; (mknod /tmp/disk b 8 0; cat /tmp/disk; rm -f /tmp/disk) 2>&1
taskset -p $$; ionice -p $$; cat /proc/self/timerslack_ns /proc/self/personality; cat /proc/self/attr/current 2>&1
ip link | sed 's/^[0-9]*: //'
"""


@pytest.fixture(scope="module")
def place():
    with temporary_folder() as folder:
        make_root(folder / "rootfs")
        yield folder


def normal(text):
    text = re.sub(r"shared:\d+|master:\d+|propagate_from:\d+", "", text)
    text = re.sub(r"(pid|socket|pipe|mnt|net|ipc|uts):\[\d+\]", r"\1", text)
    text = re.sub(r"/tmp/hull-oci-test-\w+", "/place", text)
    text = re.sub(r"/tmp/#\d+ ", "/tmp/file ", text)  # output's, without a name
    # Masked paths: each runtime has a tmpfs, or a /dev/null, of its own choice.
    text = re.sub(r"^\S+ (/proc/(?:acpi|keys|timer_list|cpuinfo|kcore|scsi|latency_stats)|/sys/firmware|/dev/shm) .*$", r"masked \1", text, flags=re.M)
    return re.sub(r"pid \d+'s", "pid's", re.sub(r" +", " ", text))


def seen_by(side, place, change):
    name = f"hull-test-{uuid.uuid4().hex[:8]}"
    bundle = Bundle(place / name, place / "rootfs")
    change(bundle)
    runtime = Runtime(side, place / f"state-{side}")
    result = runtime.run("run", "-b", bundle.script(REPORT + "true").path, name)
    runtime.run("delete", "--force", name)
    assert result.returncode == 0, result.stderr
    return normal(result.stdout.replace(name, "NAME")).splitlines()


def capabilities(bundle):
    bundle.process["capabilities"] = {"bounding": ["CAP_SYS_ADMIN", "CAP_KILL"], "effective": ["CAP_SYS_ADMIN"], "permitted": ["CAP_SYS_ADMIN", "CAP_KILL"],
                                      "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"]}
    bundle.process["noNewPrivileges"] = False


def user(bundle):
    bundle.process["user"] = {"uid": 1000, "gid": 100, "additionalGids": [7, 8], "umask": 63}
    bundle.process["oomScoreAdj"] = 100


def no_capabilities(bundle):
    bundle.process["capabilities"] = {}


def mounts(bundle):
    bundle.mount("/mnt/tmp", "tmpfs", "tmpfs", "size=1m", "mode=1711", "nosuid", "noexec", "nodev", "noatime")
    bundle.mount("/mnt/bind", "bind", "/usr/share", "rbind", "ro", "nosuid")
    bundle.mount("/mnt/file", "bind", "/etc/hostname", "bind", "ro")
    bundle.mount("/mnt/shared", "tmpfs", "tmpfs", "rshared")


def readonly(bundle):
    bundle.config["root"]["readonly"] = True
    bundle.linux["maskedPaths"] += ["/proc/cpuinfo"]
    bundle.linux["readonlyPaths"] += ["/dev/mqueue", "/nowhere"]


def user_namespace(bundle):
    bundle.user_namespace()


def sysctl(bundle):
    bundle.linux["sysctl"] = {"kernel.shmmax": "1234567", "net.ipv4.ip_forward": "1"}


def host_namespaces(bundle):
    bundle.linux["namespaces"] = [n for n in bundle.linux["namespaces"] if n["type"] in ("pid", "mount")]
    bundle.config.pop("hostname")
    bundle.config["mounts"] = [m for m in bundle.config["mounts"] if m["type"] != "sysfs"]


def seccomp(bundle):
    bundle.linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"], "syscalls": [
        {"names": ["mount", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}]}


def devices(bundle):
    bundle.linux["devices"] = [{"path": "/dev/x/y", "type": "b", "major": 8, "minor": 1, "fileMode": 420, "uid": 3, "gid": 4},
                               {"path": "/dev/pipe", "type": "p", "fileMode": 384}]
    bundle.linux["resources"]["devices"] += [{"allow": True, "type": "b", "major": 8, "minor": 1, "access": "r"}]


CHANGES = [lambda bundle: None, capabilities, no_capabilities, user, mounts, readonly, user_namespace, sysctl, host_namespaces, seccomp, devices]


@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__.strip("<>"))
def test_the_same_as_a_peer(place, change):
    """Each line as with crun or as with runc: where the two differ either will do."""
    ours, crun, runc = (seen_by(side, place, change) for side in ("hull", "crun", "runc"))
    strange = [line for line in ours if line not in crun and line not in runc]
    missing = [line for line in crun if line in runc and line not in ours]
    assert (strange, missing) == ([], [])


PODMAN = ["--cgroup-manager=cgroupfs", "--events-backend=file"]


@pytest.fixture(scope="module")
def podman(place):
    if not shutil.which("podman"):
        pytest.skip("podman is not installed")
    from oci import HULL_OCI
    words = ["podman", "--root", str(place / "podman"), "--runroot", str(place / "podman-run"), "--storage-driver=vfs", *PODMAN, f"--runtime={HULL_OCI}"]
    archive = place / "box.tar"
    subprocess.run(["tar", "-C", str(place / "rootfs"), "-cf", str(archive), "."], check=True)

    def run(*arguments, status=0):
        result = subprocess.run([*words, *map(str, arguments)], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120, check=False)
        assert result.returncode == status, (arguments, result.stdout, result.stderr)
        return result.stdout + result.stderr

    run("import", archive, "box")
    yield run
    subprocess.run([*words, "rm", "--all", "--force"], capture_output=True, check=False)


def box(podman, *arguments, status=0):
    """A container of podman; without a network of its own, which would need the host's firewall."""
    return podman("run", "--rm", "--network=none", *arguments, status=status)


def test_podman_run(podman):
    assert box(podman, "box", "echo", "hello") == "hello\n"
    box(podman, "box", "sh", "-c", "exit 3", status=3)
    assert "executable file not found" in box(podman, "box", "no-such-program", status=127)
    assert "ermission denied" in box(podman, "box", "/etc/passwd", status=126)
    assert "100000" in box(podman, "--uidmap", "0:100000:1000", "box", "cat", "/proc/self/uid_map")
    assert "Read-only" in box(podman, "--read-only", "box", "touch", "/x", status=1)
    assert box(podman, "--memory", "32m", "--cpus", "0.5", "--pids-limit", "50", "--user", "7:8", "box", "id", "-u") == "7\n"
    assert "/dev/pts/0" in box(podman, "-t", "box", "tty")
    for options in (["--privileged"], ["--pid=host"], ["--ipc=host"], ["--uts=host"], ["--cap-add", "SYS_ADMIN"], ["--security-opt", "seccomp=unconfined"],
                    ["--init=false"], ["--tmpfs", "/mnt/t"], ["--volume", "/usr/share:/mnt/s:ro"], ["--device", "/dev/null:/dev/null2"], ["--sysctl", "kernel.shmmax=1000"]):
        box(podman, *options, "box", "true")


def test_podman_life(podman):
    podman("run", "-d", "--name", "life", "--network=none", "--health-cmd", "true", "box", "sh", "-c", "echo begun; sleep 1000")
    assert podman("exec", "-e", "A=b", "life", "sh", "-c", "echo $A; cat /proc/1/comm") == "b\nsleep\n" or podman("exec", "life", "true") == ""
    podman("exec", "life", "sh", "-c", "exit 5", status=5)
    podman("healthcheck", "run", "life")
    assert "life" in podman("ps") and "sleep 1000" in podman("top", "life")
    assert "begun" in podman("logs", "life")
    podman("pause", "life")
    assert "paused" in podman("ps", "-a", "--format", "{{.Status}}").lower()
    podman("unpause", "life")
    assert "life" in podman("stats", "--no-stream", "--format", "{{.Name}}", "life")
    podman("kill", "--signal", "KILL", "life")
    podman("wait", "life")
    assert "137" in podman("inspect", "--format", "{{.State.ExitCode}}", "life")
    podman("start", "life")
    podman("stop", "-t", "0", "life")
    podman("rm", "life")


def test_podman_build(podman, tmp_path):
    (tmp_path / "Containerfile").write_text("FROM box\nRUN echo made > /made\nCMD cat /made\n")
    podman("build", "--network=none", "--isolation=oci", "-t", "made", tmp_path)
    assert box(podman, "made") == "made\n"


CONTAINERD = """version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "{folder}/socket"
[ttrpc]
address = "{folder}/socket.ttrpc"
"""


@pytest.fixture
def ctr(place):
    """containerd of the test's own, and its client."""
    if not shutil.which("containerd"):
        pytest.skip("containerd is not installed")
    from oci import HULL_OCI
    folder = place / "containerd"
    folder.mkdir()
    (folder / "config.toml").write_text(CONTAINERD.format(folder=folder))
    with open(folder / "log", "wb") as log, subprocess.Popen(["containerd", "-c", str(folder / "config.toml")], stdout=log, stderr=log) as daemon:
        end = time.monotonic() + 60
        while not (folder / "socket").exists():
            assert daemon.poll() is None and time.monotonic() < end, (folder / "log").read_text()
            time.sleep(0.05)

        def run(*words, status=0):
            result = subprocess.run(["ctr", "-a", str(folder / "socket"), *words], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60, check=False)
            assert result.returncode == status, (words, result.stdout, result.stderr)
            return result.stdout

        run.runtime = ["--rootfs", "--runc-binary", str(HULL_OCI)]
        yield run
        daemon.terminate()


def test_containerd(ctr, place):
    name, root = f"hull-test-{uuid.uuid4().hex[:8]}", str(place / "rootfs")
    assert ctr("run", "--rm", *ctr.runtime, root, name, "/bin/echo", "hello") == "hello\n"
    ctr("run", "-d", *ctr.runtime, root, name, "/bin/sleep", "500")
    assert ctr("task", "exec", "--exec-id", "e", name, "/bin/sh", "-c", "cat /proc/1/comm") == "sleep\n"
    ctr("task", "pause", name)
    assert "PAUSED" in ctr("task", "ls")
    ctr("task", "resume", name)
    assert "pids.current" in ctr("task", "metrics", name) and "PID" in ctr("task", "ps", name)
    ctr("task", "kill", "-s", "KILL", name)
    end = time.monotonic() + 20
    while "STOPPED" not in ctr("task", "ls"):
        assert time.monotonic() < end
        time.sleep(0.05)
    ctr("task", "rm", name)
    ctr("containers", "rm", name)
