"""Bundles for hull-oci, crun and runc: a busybox root, a configuration to change, and the runtimes' command lines."""
import contextlib
import copy
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
HULL_OCI = pathlib.Path(os.environ.get("HULL_BUILD", ROOT / "build")) / "bin/hull-oci"
APPLETS = ("sh true false cat ls id mount umount env sleep hostname stat ps kill head grep touch mkdir echo pwd readlink dd wc seq "
           "test sync tty stty nproc free uptime date ping ip mknod chroot su setsid tr sort sed cut rm ln cp mv chmod chown find "
           "sysctl usleep yes tail ionice nice taskset").split()
CAPABILITIES = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
                "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE"]
CONFIG = {
    "ociVersion": "1.0.2",
    "process": {
        "terminal": False, "user": {"uid": 0, "gid": 0}, "args": ["true"], "cwd": "/",
        "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
        "capabilities": {"bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES},
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}], "noNewPrivileges": True,
    },
    "root": {"path": "rootfs", "readonly": False},
    "hostname": "box",
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
         "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
    ],
    "linux": {
        "resources": {"devices": [{"allow": False, "access": "rwm"}]},
        "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")],
        "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats",
                        "/proc/sched_debug", "/proc/scsi", "/sys/firmware"],
        "readonlyPaths": ["/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
    },
}


def make_root(folder):
    """A root file system of busybox."""
    for name in ("bin", "etc", "proc", "sys", "dev", "tmp", "root", "mnt"):
        (folder / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", folder / "bin/busybox")
    for applet in APPLETS:
        (folder / "bin" / applet).symlink_to("busybox")
    (folder / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n")
    (folder / "etc/group").write_text("root:x:0:\nuser:x:1000:\n")
    return folder


class Runtime:
    """One of the three. crun refuses a hybrid host: it does not see the v2 hierarchy."""

    def __init__(self, name, root, is_prepared=False):
        self.name, self.root = name, root
        program = str(HULL_OCI) if name == "hull" else shutil.which(name)
        self.prefix = [*([] if is_prepared else self.preparation(name)), program, "--root", str(root)]

    @staticmethod
    def preparation(name):
        """What a program has to be started by so that the runtime works below it."""
        script = 'umount /sys/fs/cgroup/unified && exec "$@"'
        is_hybrid = pathlib.Path("/sys/fs/cgroup/unified").exists()
        return ["unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh"] if name == "crun" and is_hybrid else []

    def words(self, *arguments):
        return [*self.prefix, *map(str, arguments)]

    def run(self, *arguments, timeout=30):
        """By files: a container that goes on keeps what it was given open, and nobody would see the end of a pipe. Standard input is no
        /dev/null: crun gives what it finds there to the container's root, also the host's device."""
        with tempfile.TemporaryFile("w+") as empty, tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as error:
            result = subprocess.run(self.words(*arguments), stdin=empty, stdout=out, stderr=error, check=False, timeout=timeout)
            for name, file in (("stdout", out), ("stderr", error)):
                file.seek(0)
                setattr(result, name, file.read())
        return result

    def ok(self, *arguments, **options):
        result = self.run(*arguments, **options)
        assert result.returncode == 0, (arguments, result.stdout, result.stderr)
        return result.stdout

    def refused(self, *arguments, **options):
        result = self.run(*arguments, **options)
        assert result.returncode != 0, (arguments, result.stdout)
        return result.stderr


class Bundle:
    """A folder with config.json, in which a test changes what it is about."""

    def __init__(self, path, root):
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self.config = copy.deepcopy(CONFIG)
        self.config["root"]["path"] = str(root)

    @property
    def process(self):
        return self.config["process"]

    @property
    def linux(self):
        return self.config["linux"]

    def script(self, text):
        """The program is a shell with this script."""
        self.process["args"] = ["sh", "-c", text]
        return self.write()

    def mount(self, destination, kind, source, *options, **more):
        self.config["mounts"].append({"destination": destination, "type": kind, "source": str(source), "options": list(options), **more})

    def namespace(self, kind, path=None):
        self.linux["namespaces"] = [n for n in self.linux["namespaces"] if n["type"] != kind]
        self.linux["namespaces"].append({"type": kind, **({"path": str(path)} if path else {})})

    def user_namespace(self, first=100000, size=65536):
        self.namespace("user")
        for name in ("uidMappings", "gidMappings"):
            self.linux[name] = [{"containerID": 0, "hostID": first, "size": size}]

    def write(self):
        (self.path / "config.json").write_text(json.dumps(self.config))
        return self


def cgroups_named(name):
    """Groups of that name in any hierarchy, where a container's are: below the hierarchy's root or a folder or two of it."""
    found = []
    for hierarchy in pathlib.Path("/sys/fs/cgroup").iterdir():
        for pattern in (name, f"*/{name}", f"*/*/{name}"):
            with contextlib.suppress(OSError):  # others make and remove groups meanwhile
                found += hierarchy.glob(pattern)
    return found


@contextlib.contextmanager
def temporary_folder():
    """Folders that a mapped root may enter: pytest's are closed to all but their owner."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="hull-oci-test-"))
    os.chmod(path, 0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)
