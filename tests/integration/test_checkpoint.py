"""hull-oci checkpoint and restore: in a guest, whose kernel Debian's criu fits; here what is refused, and in which words."""
import json
import os
import re
import shutil
import sys

import pytest

from conftest import GUESTS, ROOT, kernel_arguments
from oci import CONFIG, HULL_OCI, until
from oci_fixtures import bundle, name, place, runtime  # noqa: F401  # pylint: disable=unused-import
from test_container_cgroups import with_libraries

sys.path.insert(0, str(ROOT / "tools/guest"))
from overlay import add_files  # noqa: E402

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
SCRIPT = ROOT / "tests/container/checkpoint-guest"
ATTEMPT = HULL_OCI.parent.parent / "tests/security/attempt"
MODULES = ("inet_diag", "unix_diag", "tcp_diag", "udp_diag", "raw_diag", "netlink_diag", "af_packet_diag", "nf_tables", "veth", "tun")
COUNT = "i=$(cat /tmp/count); while true; do i=$((i+1)); echo $i > /tmp/count; sleep 0.2; done"
TIMEOUT = 600  # seconds; an upper bound for a loaded machine


def modules(more=()):
    """{path in the guest: bytes}, in the order in which they load."""
    folder = GUESTS / "modules-cloud"
    depends = dict(line.split(":") for line in (folder / "modules.dep").read_text().splitlines())
    by_name = {path.split("/")[-1].removesuffix(".ko").replace("-", "_"): path for path in depends}
    ordered = []
    for module in (*MODULES, *more):
        path = by_name.get(module)  # None: built in
        ordered += [p for p in [*reversed(depends[path].split()), path] if p not in ordered] if path else []
    return {f"modules/{number:02}.ko": (folder / path).read_bytes() for number, path in enumerate(ordered)}


def guest_config():
    """A counting shell; without a network of its own, which criu 3.17 cannot write on this kernel."""
    config = json.loads(json.dumps(CONFIG))
    config["process"]["args"] = ["sh", "-c", COUNT]
    config["linux"]["namespaces"] = [n for n in config["linux"]["namespaces"] if n["type"] != "network"]
    config["linux"]["resources"]["pids"] = {"limit": 77}
    config["mounts"] = [m for m in config["mounts"] if m["destination"] != "/sys"]
    return json.dumps(config).encode()


@pytest.mark.skipif(not shutil.which("criu"), reason="criu is not installed")
def test_a_container_goes_on_where_it_was(boot, tmp_path):
    kernel_option, kernel, _, initrd = kernel_arguments("cloud")
    files = {"bin/checkpoint-guest": SCRIPT.read_bytes(), "config.json": guest_config(), "bin/hull-oci": HULL_OCI.read_bytes(), **modules()}
    for program in ("criu", "tar", "ip"):
        path = os.path.realpath(shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin"))
        libraries = with_libraries(type(ROOT)(path))
        files |= {**libraries, f"bin/{program}": libraries[f"bin/{os.path.basename(path)}"]}
    add_files(initrd, tmp_path / "initrd", files)
    vm = boot("--engine", "soft", kernel_option, kernel, "--initrd", tmp_path / "initrd", "--memory", "1G", "--net", "none",
              "--append", "console=ttyS0 quiet panic=-1 cgroup_no_v1=all rdinit=/bin/checkpoint-guest", timeout=TIMEOUT)
    assert vm.wait(TIMEOUT) == 0
    text = vm.transcript()
    seen = dict(re.findall(r"^([a-z-]+)=(.*?)\r*$", text, re.MULTILINE))
    wanted = {"counts": "yes", "leave-running": "0", "goes-on": "yes", "pre-dump": "0", "checkpoint": "0", "state-after": "1", "has-stopped": "0",
              "restore": "0", "from-where-it-was": "0", "counts-again": "yes", "group": "0::/second", "limit": "77", "executed": "0", "delete": "0",
              "restore-third": "0", "third-counts": "yes", "end": "0"}
    assert {key: seen.get(key) for key in wanted} == wanted, text[-6000:]


def checkpoint(runtime, name, bundle, *options):
    return runtime.refused("checkpoint", "--image-path", bundle.path / "image", *options, name)


CASES = {
    "ring": ("/bin/attempt hold-ring", "has an io_uring"),
    "device": ("exec sleep 1000 < /dev/fuse2", "has open the device /dev/fuse2 (10:229)"),
    "namespace": ("busybox unshare -i sleep 1000 & wait", "is in a nested namespace of the kind ipc"),
    "lock": ("/bin/attempt hold-lock", "holds a file lock (--file-locks)"),
    "connection": ("(sleep 1000 | busybox nc -l -p 5000 > /dev/null &); usleep 500000; sleep 1000 | busybox nc 127.0.0.1 5000 > /dev/null",
                   "has TCP connections (--tcp-established)"),
}


@needs_root
@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_written_is_told_before(runtime, bundle, name, place, case):
    script, words = CASES[case]
    shutil.copy(ATTEMPT, place / "rootfs/bin/attempt")
    bundle.linux["devices"] = [{"path": "/dev/fuse2", "type": "c", "major": 10, "minor": 229, "fileMode": 0o600}]
    bundle.linux["resources"]["devices"] += [{"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"}]
    for kind in ("bounding", "effective", "permitted"):
        bundle.process["capabilities"][kind] = ["CAP_SYS_ADMIN"]
    runtime.ok("run", "-d", "-b", bundle.script(script).path, name)
    until(lambda: words in checkpoint(runtime, name, bundle))
    assert not (bundle.path / "image").exists()
    assert json.loads(runtime.ok("state", name))["status"] == "running"


@needs_root
def test_without_criu(runtime, bundle, name, monkeypatch):
    """It is not installed, or does not work: said before anything is touched."""
    runtime.ok("run", "-d", "-b", bundle.script("sleep 1000").path, name)
    monkeypatch.setenv("PATH", str(bundle.path))
    assert "criu: executable file not found in $PATH" in checkpoint(runtime, name, bundle)
    (bundle.path / "criu").write_text("#!/bin/sh\necho 'Error (criu/vdso.c:613): vdso: no such thing' >&2\nexit 1\n")
    (bundle.path / "criu").chmod(0o755)
    told = checkpoint(runtime, name, bundle)
    assert "criu does not work on this host" in told and "vdso: no such thing" in told
    assert not (bundle.path / "image").exists()
    assert json.loads(runtime.ok("state", name))["status"] == "running"
    (bundle.path / "image").mkdir()
    (bundle.path / "image/hull.json").write_text('{"mounts": {}, "streams": []}')
    assert "does not work" in runtime.refused("restore", "-b", bundle.path, "--image-path", bundle.path / "image", f"{name}-2")
    assert "does not exist" in runtime.refused("state", f"{name}-2")


CRIU = """#!/bin/sh
[ "$1" = check ] && exit 0
echo "$@" > {log}
echo '(00.1) Error (criu/util.c:642): exited, status=1' > {image}/dump.log
echo '(00.2) Error (criu/files.c:1): what it is about' >> {image}/dump.log
exit 1
"""


@needs_root
def test_how_criu_is_called(runtime, bundle, name, monkeypatch):
    """With all options; and its first error of its own is told with the log's name."""
    runtime.ok("run", "-d", "-b", bundle.script("sleep 1000").path, name)
    image = bundle.path / "image"
    (bundle.path / "criu").write_text(CRIU.format(log=bundle.path / "log", image=image))
    (bundle.path / "criu").chmod(0o755)
    monkeypatch.setenv("PATH", f"{bundle.path}:{os.environ['PATH']}")
    told = checkpoint(runtime, name, bundle, "--tcp-established", "--ext-unix-sk", "--shell-job", "--file-locks", "--lazy-pages", "--auto-dedup",
                      "--leave-running", "--page-server", "10.0.0.1:77", "--status-fd", 1, "--manage-cgroups-mode", "full", "--empty-ns", "network",
                      "--parent-path", "../before")
    assert "what it is about" in told and f"{image}/dump.log" in told
    words = (bundle.path / "log").read_text()
    for word in ("--tcp-established", "--ext-unix-sk", "--shell-job", "--file-locks", "--lazy-pages", "--auto-dedup", "--leave-running",
                 "--address 10.0.0.1 --port 77", "--status-fd 1", "--manage-cgroups=full", "--empty-ns net", "--prev-images-dir ../before", "--track-mem",
                 "--external mnt[/proc/keys]:/proc/keys"):
        assert word in words, words
    assert json.loads(runtime.ok("state", name))["status"] == "running"


@needs_root
def test_bad_words(runtime, bundle, name):
    for words in (["--manage-cgroups-mode", "some"], ["--empty-ns", "pid"], ["--parent-path", "/x"], ["--page-server", "x"], ["--status-fd", "x"]):
        assert words[0][2:] in runtime.refused("checkpoint", *words, name)
    assert "does not exist" in runtime.refused("checkpoint", name)
    assert "hull.json" in runtime.refused("restore", "-b", bundle.write().path, "--image-path", bundle.path, name)
    runtime.ok("create", "-b", bundle.path, name)
    assert "not running" in checkpoint(runtime, name, bundle)
    for verb in ("checkpoint", "restore"):
        assert "Usage:" in runtime.ok(verb, "--help")
    assert json.loads(runtime.ok("features"))["annotations"]["org.opencontainers.runc.checkpoint.enabled"] == "true"
