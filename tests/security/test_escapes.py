"""Ways out of containers, and into the runtime, that others have fallen for: each is tried against hull-oci and must fail.

attempt.c has what the programs in the containers do. Attempts on single functions of src/container/mount are in
tests/unit/container/mount/test_escapes.c.
"""
import contextlib
import json
import os
import pathlib
import pty
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests/integration"))
from oci import Bundle, HULL_OCI, cgroups_named, make_root, until  # noqa: E402
from oci_fixtures import bundle, name, place, runtime  # noqa: E402, F401  # pylint: disable=unused-import

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

ATTEMPT = HULL_OCI.parent.parent / "tests/security/attempt"
STRONG = ["CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_SYS_CHROOT", "CAP_MKNOD", "CAP_DAC_OVERRIDE", "CAP_SETUID", "CAP_SETGID", "CAP_KILL"]
ROUNDS = 40  # of attacks that race


@pytest.fixture(autouse=True)
def program(place):
    """attempt, in the root file system."""
    add_program(place / "rootfs")


def add_program(root):
    target = root / "bin/attempt"
    if not target.exists():
        target.write_bytes(ATTEMPT.read_bytes())
        target.chmod(0o755)


def ends(text):
    """{step: how it ended} of what attempt prints."""
    return dict(line.split(" ", 1) for line in text.splitlines())


def attempt(runtime, name, bundle, *words):
    bundle.process["args"] = ["/bin/attempt", *map(str, words)]
    return ends(runtime.ok("run", "-b", bundle.write().path, name))


def running(runtime, name, bundle, script="sleep 1000"):
    runtime.ok("run", "-d", "-b", bundle.script(script).path, name)
    return json.loads(runtime.ok("state", name))["pid"]


def give_capabilities(bundle, names):
    for kind in ("bounding", "effective", "permitted"):
        bundle.process["capabilities"][kind] = names


@contextlib.contextmanager
def directory(path):
    """A descriptor of it."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def private_root(place, name):
    """An image of the test's own, for what it does to it."""
    root = make_root(place / f"{name}-root")
    add_program(root)
    return root


# The runtime's own program and descriptors

@pytest.mark.parametrize("how", ["create", "exec"])
def test_the_runtimes_program_is_overwritten(runtime, bundle, name, place, how):
    """CVE-2019-5736: the container executes /proc/self/exe, which is the runtime, and another process of it opens that program to write
    to it as soon as nobody executes it. What the container has executed is held up by a log that is a pipe."""
    before = HULL_OCI.read_bytes()
    root = private_root(place, name)
    (root / "bin/trap").write_text("#!/proc/self/exe --log=/tmp/fifo\n")
    (root / "bin/trap").chmod(0o755)
    os.mkfifo(root / "tmp/fifo")
    bundle.config["root"]["path"] = str(root)
    pid = running(runtime, name, bundle)
    runtime.ok("exec", "-d", name, "sh", "-c", "/bin/attempt overwrite /tmp/fifo > /tmp/seen; touch /tmp/done")
    if how == "exec":
        runtime.refused("exec", name, "/bin/trap")
    else:
        other = Bundle(place / f"{name}-2", root)
        other.namespace("pid", f"/proc/{pid}/ns/pid")
        other.process["args"] = ["/bin/trap"]
        runtime.refused("run", "-b", other.write().path, f"{name}-2")
    until((root / "tmp/done").exists, 60)
    assert ends((root / "tmp/seen").read_text()) == {"caught": "ok", "write": "EROFS", "truncate": "EROFS"}
    assert HULL_OCI.read_bytes() == before


@pytest.mark.parametrize("verb", ["run", "exec"])
def test_descriptors_are_left_open(runtime, bundle, name, verb):
    """CVE-2016-9962, CVE-2024-21626: of what caller and runtime have open the program gets 0, 1 and 2 alone."""
    if verb == "exec":
        running(runtime, name, bundle)
        words = ["exec", name, "/bin/attempt", "descriptors"]
    else:
        bundle.process["args"] = ["/bin/attempt", "descriptors"]
        words = ["run", "-b", bundle.write().path, name]
    with directory("/") as leaked:
        result = subprocess.run(runtime.words(*words), pass_fds=(leaked,), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
                                check=True)
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["0", "1", "2"]


@pytest.mark.parametrize("verb", ["run", "exec"])
def test_cwd_through_a_descriptor(runtime, bundle, name, verb):
    """CVE-2024-21626: the working directory is one of the host's, by a descriptor that the runtime, or its caller, has open."""
    if verb == "exec":
        running(runtime, name, bundle)
    with directory("/") as leaked:
        for number in range(3, 24):
            path = f"/proc/self/fd/{number}"
            if verb == "exec":
                words = runtime.words("exec", "--cwd", path, name, "ls")
            else:
                bundle.process["cwd"] = path
                words = runtime.words("run", "-b", bundle.script("ls").path, name)
            result = subprocess.run(words, pass_fds=(leaked,), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
            assert result.returncode != 0 and result.stdout == "" and "process.cwd" in result.stderr, (number, result)


@pytest.mark.parametrize("verb", ["run", "exec"])
def test_a_program_through_a_descriptor(runtime, bundle, name, place, verb):
    """CVE-2024-21626 (attack 3): the program, what a link in the image leads to, or the interpreter of a script is one of the host's, by such a
    descriptor; then it could be written to as /proc/self/exe."""
    root = private_root(place, name)
    bundle.config["root"]["path"] = str(root)
    if verb == "exec":
        running(runtime, name, bundle)
    with directory("/etc") as leaked:
        for number in range(3, 24):
            path = f"/proc/self/fd/{number}" + "/.." * 12 + str(ATTEMPT)
            (root / f"bin/link{number}").symlink_to(path)
            (root / f"bin/script{number}").write_text(f"#!{path} descriptors\n")
            (root / f"bin/script{number}").chmod(0o755)
            for program in (path, f"/bin/link{number}", f"/bin/script{number}"):
                bundle.process["args"] = [program, "descriptors"]
                words = ["exec", name, program, "descriptors"] if verb == "exec" else ["run", "-b", bundle.write().path, name]
                result = subprocess.run(runtime.words(*words), pass_fds=(leaked,), stdin=subprocess.DEVNULL, capture_output=True, text=True,
                                        timeout=60, check=False)
                assert result.returncode != 0 and result.stdout == "", (number, program, result)
    assert verb == "exec" or cgroups_named(name) == []


def test_more_descriptors_than_there_are(runtime, bundle, name):
    """--preserve-fds beyond what the caller has open: the runtime's own are not given in their place."""
    bundle.process["args"] = ["/bin/attempt", "descriptors"]
    result = subprocess.run(runtime.words("run", "-b", bundle.write().path, "--preserve-fds", 40, name), stdin=subprocess.DEVNULL,
                            capture_output=True, text=True, timeout=60, check=True)
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["0", "1", "2"]


def test_a_process_on_its_way_in(runtime, bundle, name, place):
    """CVE-2016-9962: a container that shares its process and user namespaces with a second one looks into that one's first process, which still
    has the host's files while a hook is run."""
    bundle.user_namespace()
    give_capabilities(bundle, STRONG)
    pid = running(runtime, name, bundle)
    runtime.ok("exec", "-d", name, "sh", "-c", "/bin/attempt look > /dev/shm/seen; touch /dev/shm/done")
    other = Bundle(place / f"{name}-2", place / "rootfs")
    for kind in ("pid", "user"):
        other.namespace(kind, f"/proc/{pid}/ns/{kind}")
    other.config["hooks"] = {"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "2"]}]}
    runtime.ok("run", "-b", other.script("true").path, f"{name}-2")
    until(lambda: runtime.run("exec", name, "test", "-e", "/dev/shm/done").returncode == 0)
    assert ends(runtime.ok("exec", name, "cat", "/dev/shm/seen")) == {"root": "EACCES", "fd": "EACCES", "ptrace": "EPERM"}


# Mounts

def test_a_mount_target_leads_out(runtime, bundle, name, place):
    """CVE-2021-30465 and its like: links in the image as destinations. What they lead to is in the image."""
    root = private_root(place, name)
    bundle.config["root"]["path"] = str(root)
    outside = place / f"{name}-outside"
    source = place / f"{name}-source"
    for folder in (outside, source):
        folder.mkdir()
    (source / "secret").write_text("x")
    (root / "absolute").symlink_to(outside)
    (root / "upward").symlink_to("../" * 20 + str(outside)[1:])
    (root / "upward-file").symlink_to("../" * 20 + str(outside)[1:] + "/made")
    bundle.mount("/absolute/one", "bind", source, "bind")
    bundle.mount("/upward", "bind", source, "bind")
    bundle.mount("/upward-file", "bind", source / "secret", "bind")
    bundle.mount("/../../mnt/../../mnt", "tmpfs", "tmpfs")
    runtime.ok("run", "-b", bundle.script("test -e /absolute/secret && test -e /upward/secret").path, name)
    assert os.listdir(outside) == []


def test_a_racing_mount_target(runtime, bundle, name, place):
    """CVE-2021-30465: another container exchanges a folder of a shared volume with a link to the host, while mounts come into it. They are
    made where they should be, or where the link leads in the container, or not at all."""
    volume, source, outside = (place / f"{name}-{part}" for part in ("volume", "source", "outside"))
    for folder in (volume / "target/folder", source, outside / "folder"):
        folder.mkdir(parents=True)
    (source / "secret").write_text("x")
    (volume / "link").symlink_to("../" * 20 + str(outside)[1:])
    attacker = Bundle(place / f"{name}-attacker", place / "rootfs")
    attacker.mount("/mnt", "bind", volume, "rbind")
    attacker.process["args"] = ["/bin/attempt", "swap", "/mnt/target", "/mnt/link"]
    runtime.ok("run", "-d", "-b", attacker.write().path, f"{name}-attacker")
    bundle.mount("/mnt", "bind", volume, "rbind")
    bundle.mount("/mnt/target/folder", "bind", source, "rbind")
    bundle.script("cat /proc/self/mountinfo")
    done = 0
    for _ in range(ROUNDS):
        result = runtime.run("run", "-b", bundle.path, name)
        if result.returncode == 0:
            done += 1
            assert any(line.split()[3].endswith(source.name) for line in result.stdout.splitlines())
        assert os.listdir(outside / "folder") == [] and os.listdir(outside) == ["folder"]
    assert done > 0
    assert json.loads(runtime.ok("state", f"{name}-attacker"))["status"] == "running"


@pytest.mark.parametrize("kind", ["link", "volume"])
def test_proc_is_not_proc(runtime, bundle, name, place, kind):
    """CVE-2019-16884, CVE-2019-19921: /proc is a link to a volume, or a volume, with files of the attacker's. Parameters are written to the
    kernel, or nothing runs; never to those files."""
    root = private_root(place, name)
    bundle.config["root"]["path"] = str(root)
    volume = place / f"{name}-volume"
    for path in ("sys/net/ipv4/ip_forward", "self/attr/exec", "1/attr/exec", "sysrq-trigger"):
        (volume / path).parent.mkdir(parents=True, exist_ok=True)
        (volume / path).write_text("")
    bundle.linux["sysctl"] = {"net.ipv4.ip_forward": "1"}
    bundle.process["apparmorProfile"] = "attack"
    bundle.mount("/mnt", "bind", volume, "rbind")
    bundle.config["mounts"].insert(0, bundle.config["mounts"].pop())
    if kind == "link":
        (root / "proc").rmdir()
        (root / "proc").symlink_to("/mnt")
    else:
        bundle.config["mounts"] = [m for m in bundle.config["mounts"] if m["destination"] != "/proc"]
        bundle.mount("/proc", "bind", volume, "rbind")
    runtime.run("run", "-b", bundle.script("true").path, name)
    assert [path.read_text() for path in volume.rglob("*") if path.is_file()] == [""] * 4


@pytest.mark.parametrize("target", ["/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/mnt/file"])
def test_the_null_device_is_a_link(runtime, bundle, name, place, target):
    """CVE-2025-31133: the image's /dev/null leads to what masking would then show; or is exchanged while paths are masked."""
    root = private_root(place, name)
    bundle.config["root"]["path"] = str(root)
    bundle.config["mounts"] = [m for m in bundle.config["mounts"] if not m["destination"].startswith("/dev")]
    (root / "dev/null").symlink_to(target)
    (root / "mnt/file").write_text("shown\n")
    result = runtime.run("run", "-b", bundle.script("cat /proc/keys; stat -L -c %t:%T /proc/keys").path, name)
    assert result.returncode != 0 or result.stdout == "1:3\n"


def test_a_racing_null_device(runtime, bundle, name, place):
    """The same, with a volume as /dev that another container has as well and changes."""
    devices = place / f"{name}-dev"
    devices.mkdir()
    os.mknod(devices / "null", 0o20666, os.makedev(1, 3))
    (devices / "link").symlink_to("/etc/passwd")
    attacker = Bundle(place / f"{name}-attacker", place / "rootfs")
    attacker.mount("/mnt", "bind", devices, "rbind")
    attacker.process["args"] = ["/bin/attempt", "swap", "/mnt/null", "/mnt/link"]
    runtime.ok("run", "-d", "-b", attacker.write().path, f"{name}-attacker")
    bundle.config["mounts"] = [m for m in bundle.config["mounts"] if not m["destination"].startswith("/dev")]
    bundle.mount("/dev", "bind", devices, "rbind")
    bundle.script("cat /proc/keys; stat -L -c %t:%T /proc/keys")
    seen = [runtime.run("run", "-b", bundle.path, name) for _ in range(ROUNDS)]
    assert {result.stdout for result in seen if result.returncode == 0} == {"1:3\n"}


@pytest.mark.parametrize("is_link_of", ["console", "pts"])
def test_the_console_is_a_link(runtime, bundle, name, place, is_link_of):
    """CVE-2025-52565: /dev/console or /dev/pts of the image lead to a file of the kernel, which the terminal is then mounted on, so that it is
    not made read-only or masked."""
    root = private_root(place, name)
    bundle.config["root"]["path"] = str(root)
    bundle.config["mounts"] = [m for m in bundle.config["mounts"] if not m["destination"].startswith("/dev")]
    (root / "dev" / is_link_of).symlink_to("/proc/sys/kernel/core_pattern" if is_link_of == "console" else "/proc/self/fd")
    bundle.process["terminal"] = True
    bundle.script("stat -c %F /proc/sys/kernel/core_pattern; cat /proc/self/mountinfo; (echo x > /proc/sys/kernel/core_pattern) 2>&1; true")
    result = run_on_terminal(runtime.words("run", "-b", bundle.path, name))
    assert "core_pattern ro" not in result and "core_pattern rw" not in result
    assert "/dev/console must not be a link" in result or "Read-only file system" in result, result


def run_on_terminal(words):
    """What it writes to the terminal that it has as its controlling one."""
    pid, master = pty.fork()
    if pid == 0:
        os.execv("/usr/bin/env", ["env", *words])
    text = b""
    with contextlib.suppress(OSError):  # EIO: nobody has the other end any more
        while data := os.read(master, 4096):
            text += data
    os.close(master)
    os.waitpid(pid, 0)
    return text.decode(errors="replace")


def test_redirected_writes(runtime, bundle, name, place):
    """CVE-2025-52881: mounts inside of /proc over what the runtime writes to later: parameters, labels."""
    fake = place / f"{name}-fake"
    fake.mkdir()
    (fake / "ip_forward").write_text("fake")
    bundle.linux["sysctl"] = {"net.ipv4.ip_forward": "1"}
    for target in ("/proc/sys/net/ipv4", "/proc/self/attr", "/proc/thread-self/attr"):
        bundle.config["mounts"] = [m for m in bundle.config["mounts"] if "proc/" not in m["destination"]]
        bundle.mount(target, "bind", fake, "bind")
        runtime.run("run", "-b", bundle.script("true").path, name)
        assert (fake / "ip_forward").read_text() == "fake" and os.listdir(fake) == ["ip_forward"]


# What a program in a container does

def test_mounts_in_a_container(runtime, bundle, name):
    """Without CAP_SYS_ADMIN nothing is mounted, remounted or unmounted."""
    seen = attempt(runtime, name, bundle, "mount")
    assert set(seen.values()) == {"EPERM"} and len(seen) == 10


def test_a_nested_user_namespace(runtime, bundle, name):
    """With a user namespace of its own it may mount, and gets at nothing that is hidden or read-only. CVE-2022-0492: nor at the release agent of
    a hierarchy, which the kernel runs on the host."""
    bundle.process["noNewPrivileges"] = False
    seen = attempt(runtime, name, bundle, "nested")
    if seen.get("unshare"):
        pytest.skip("the kernel refuses user namespaces here")
    assert seen["mount-tmpfs"] == "ok"  # in there it is root indeed
    assert seen["mount-proc"] == "EPERM"  # that would be one without masks
    assert seen["remount-sys"] == "EPERM" and seen["unmount-sys"] == "EINVAL" and seen["unmount-mask"] == "EINVAL"
    assert seen["unmount-proc"] == "EINVAL"
    assert seen.get("release_agent") in (None, "EPERM", "EACCES", "ENOENT", "EROFS")


def test_locked_mounts_of_a_mapped_root(runtime, bundle, name):
    """A mapped root with CAP_SYS_ADMIN cannot take read-only and masked paths back."""
    bundle.user_namespace()
    give_capabilities(bundle, STRONG)
    seen = attempt(runtime, name, bundle, "mount")
    assert seen["mount-tmpfs"] == "ok" and seen["mount-proc"] == "EPERM"
    assert seen["remount-sys"] == "EPERM" and seen["unmount-sys"] == "EINVAL" and seen["unmount-mask"] == "EINVAL"


def test_the_kernels_files(runtime, bundle, name):
    """/proc/sysrq-trigger, core_pattern (which names a program that runs on the host), modprobe, uevent_helper and their like."""
    files = ["/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/kernel/hotplug", "/proc/sys/vm/panic_on_oom",
             "/proc/sys/fs/binfmt_misc/register", "/sys/kernel/uevent_helper", "/sys/power/state", "/sys/fs/cgroup/release_agent",
             "/proc/irq/default_smp_affinity", "/sys/kernel/debug/x", "/proc/1/oom_score_adj/../../../sysrq-trigger"]
    bundle.script("for f in " + " ".join(files) + "; do [ ! -e $f ] || /bin/attempt write $f h; done")
    seen = runtime.ok("run", "-b", bundle.path, name).splitlines()
    assert len(seen) >= 4 and set(seen) <= {"write EROFS", "write EACCES", "write EPERM"}


def test_control_groups(runtime, bundle, name):
    """Its groups are read-only to it, and the release agent of the hierarchy is not there."""
    bundle.namespace("cgroup")
    bundle.mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime", "ro")
    bundle.script("n=0; for f in $(find /sys/fs/cgroup -name release_agent -o -name cgroup.procs -o -name devices.allow -o -name notify_on_release); "
                  "do n=1; /bin/attempt write $f 0; done; echo groups $n; find /sys/fs/cgroup -name release_agent | wc -l")
    seen = runtime.ok("run", "-b", bundle.path, name).splitlines()
    assert seen[-2:] == ["groups 1", "0"] and set(seen[:-2]) == {"write EROFS"}


@pytest.mark.parametrize("device", ["b 8 0", "b 254 0", "b 259 0", "b 7 0", "c 1 1", "c 1 4", "c 10 232", "c 10 237", "c 4 0", "c 7 1", "c 13 64"])
def test_devices_of_the_host(runtime, bundle, name, device):
    """Disks, memory, ports, KVM, loop control, consoles, input: a node may be made, and not be opened."""
    assert attempt(runtime, name, bundle, "mknod", *device.split()) == {"mknod": "EPERM"}


def test_the_kernel_is_changed(runtime, bundle, name):
    """Modules, kexec, ports, swap, time, reboot, files by their handles (CVE-2014-3519, "shocker")."""
    seen = attempt(runtime, name, bundle, "modules")
    assert set(seen.values()) <= {"EPERM", "ENOSYS"} and len(seen) == 9, seen


def test_processes_of_the_host(runtime, bundle, name):
    """ptrace, memory, namespaces, root and files of a process outside: there is none of that number; and where the host's numbers are visible, no
    right to any of it."""
    with subprocess.Popen(["sleep", "1000"]) as outside:
        try:
            assert set(attempt(runtime, name, bundle, "processes", outside.pid).values()) <= {"ESRCH", "ENOENT"}
            bundle.linux["namespaces"] = [n for n in bundle.linux["namespaces"] if n["type"] != "pid"]
            seen = attempt(runtime, name, bundle, "processes", outside.pid)
            assert set(seen.values()) <= {"EPERM", "EACCES"} and len(seen) == 11, seen
        finally:
            outside.kill()


def test_namespaces_of_process_1(runtime, bundle, name):
    """/proc/1/ns are the container's, and also those it may not join again; with CAP_SYS_ADMIN in a user namespace the latter."""
    assert attempt(runtime, name, bundle, "setns") == {"mnt": "EPERM", "user": "EINVAL"}


@pytest.mark.parametrize("option", [[], ["--no-pivot"]])
def test_chroot(runtime, bundle, name, place, option):
    """The classic way out of a chroot ends at the container's root: the host's is not below it."""
    marker = place / f"{name}-marker"
    marker.write_text("")
    bundle.process["args"] = ["/bin/attempt", "chroot", str(marker)]
    seen = ends(runtime.ok("run", *option, "-b", bundle.write().path, name))
    assert seen == {"chroot": "ok", "outside": "ENOENT"}


def test_keys_of_the_caller(runtime, bundle, name):
    """The session keyring is the container's own: keys of the caller's are not found, at create and at exec."""
    assert subprocess.run([ATTEMPT, "with-key", ATTEMPT, "find-key"], capture_output=True, text=True, check=True).stdout == "key ok\n"
    bundle.process["args"] = ["/bin/attempt", "find-key"]
    words = [ATTEMPT, "with-key", *runtime.words("run", "-b", bundle.write().path, name)]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "key ENOKEY\n"
    running(runtime, name, bundle)
    words = [ATTEMPT, "with-key", *runtime.words("exec", name, "/bin/attempt", "find-key")]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "key ENOKEY\n"


@pytest.mark.parametrize("verb", ["run", "exec"])
def test_input_for_the_callers_terminal(runtime, bundle, name, verb):
    """CVE-2016-2568, CVE-2023-28100: TIOCSTI puts letters into the terminal that the container has as standard input, which is the caller's, and
    TIOCLINUX pastes on a console. The kernel asks for the process's controlling terminal, or CAP_SYS_ADMIN; the container is in a session of
    its own, which cannot take the terminal over from the caller's."""
    if verb == "exec":
        running(runtime, name, bundle)
    else:
        bundle.process["args"] = ["/bin/attempt", "terminal"]
        bundle.write()
    words = runtime.words("run", "-b", bundle.path, name) if verb == "run" else runtime.words("exec", name, "/bin/attempt", "terminal")
    seen = ends(run_on_terminal(words).replace("\r", ""))
    assert seen.pop("isatty") == "ok" and seen.pop("TIOCSTI") in ("EPERM", "EIO")
    assert seen == {"TIOCLINUX": "ENOTTY", "TIOCCONS": "EPERM", "TIOCSCTTY": "EPERM", "TIOCSCTTY-by-force": "EPERM", "tty": "ENXIO"}


# What the runtime does with a container's files

def test_hooks_get_no_environment(runtime, bundle, name):
    """Nothing of the caller's variables, and of its descriptors 0, 1 and 2 alone."""
    out = bundle.path / "seen"
    bundle.config["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", f"/usr/bin/env > {out}; {ATTEMPT} descriptors > {out}-fds"]}]}
    bundle.script("true")
    with directory("/") as leaked:
        subprocess.run(runtime.words("run", "-b", bundle.path, name), env={**os.environ, "TOKEN": "secret"}, pass_fds=(leaked,), timeout=60, check=True)
    assert {line.split("=")[0] for line in out.read_text().splitlines()} <= {"PWD", "SHLVL", "_", "OLDPWD"}
    assert [line.split()[0] for line in pathlib.Path(f"{out}-fds").read_text().splitlines()] == ["0", "1", "2"]


@pytest.mark.parametrize("kind", ["pipe", "zero", "huge", "folder", "kmsg"])
@pytest.mark.parametrize("verb", ["run", "exec"])
def test_a_hostile_passwd(runtime, bundle, name, place, verb, kind):
    """/etc/passwd as a pipe nobody writes to, an endless file, a line without an end: the runtime does not wait for it and does not read on."""
    root = private_root(place, name)
    bundle.config["root"]["path"] = str(root)
    path = root / "etc/passwd"
    if verb == "exec":
        running(runtime, name, bundle)
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "huge":
        with path.open("wb") as file:
            file.truncate(1 << 40)
    else:
        path.symlink_to("/dev/zero" if kind == "zero" else "/proc/kmsg")
    bundle.script("echo $HOME")
    assert (runtime.ok("exec", name, "sh", "-c", "echo $HOME") if verb == "exec" else runtime.ok("run", "-b", bundle.path, name)) == "/\n"


def test_exec_where_proc_is_hostile(runtime, bundle, name, place):
    """The container has covered its /proc: exec neither believes nor writes what is there."""
    fake = place / f"{name}-fake"
    for path in ("self/attr/exec", "self/fd", "self/status", "1/attr/exec"):
        (fake / path).parent.mkdir(parents=True, exist_ok=True)
        (fake / path).write_text("")
    give_capabilities(bundle, STRONG)
    bundle.mount("/mnt", "bind", fake, "rbind")
    running(runtime, name, bundle, "mount -o bind /mnt /proc && touch /ready; sleep 1000")
    until(lambda: (place / "rootfs/ready").exists())
    (place / "rootfs/ready").unlink()
    process = {**bundle.process, "args": ["echo", "fine"], "apparmorProfile": "attack"}
    (bundle.path / "process.json").write_text(json.dumps(process))
    assert runtime.ok("exec", "--process", bundle.path / "process.json", name) == "fine\n"
    assert [path.read_text() for path in fake.rglob("*") if path.is_file()] == [""] * 4


@pytest.mark.parametrize("bad", ["../x", "..", ".", "", "a/b", "/tmp", "a\nb", "x" * 256, "a b", "%s", "a\\b", "é"])
def test_names_that_are_paths(runtime, bundle, place, bad):
    """A container's name is a folder below the runtime's root and a control group: neither may be elsewhere."""
    (place / "x").mkdir(exist_ok=True)
    (place / "x/state.json").write_text("{}")
    bundle.script("true")
    for words in (["create", "-b", bundle.path], ["run", "-b", bundle.path], ["state"], ["start"], ["delete"], ["delete", "--force"], ["kill"], ["pause"],
                  ["resume"], ["ps"], ["exec"], ["update", "--pids-limit", "5"], ["events", "--stats"]):
        arguments = [*words, "--", bad] + (["true"] if words == ["exec"] else [])
        assert "container id" in runtime.refused(*arguments), arguments
    assert (place / "x/state.json").read_text() == "{}"


@pytest.mark.parametrize("path", ["../../outside", "/../../outside", "a/../../../outside"])
def test_a_control_group_elsewhere(runtime, bundle, name, path):
    """linux.cgroupsPath does not lead out of the hierarchy, nor to groups above the caller's root of it."""
    bundle.linux["cgroupsPath"] = f"{path}-{name}"
    result = runtime.run("run", "-b", bundle.script("cat /proc/self/cgroup").path, name)
    assert result.returncode != 0 or ".." not in result.stdout
    assert not pathlib.Path(f"/sys/fs/outside-{name}").exists() and not pathlib.Path(f"/sys/outside-{name}").exists()
