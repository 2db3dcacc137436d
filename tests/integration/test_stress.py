"""Programs of Debian compute in a guest what they compute on the host, hour after hour: see tests/stress/README.md."""
import hashlib
import os
import shutil
import subprocess
import sys

import pytest

from conftest import BUILD, GUESTS, ROOT, guests_locked, kernel_arguments, make_guest

sys.path.insert(0, str(ROOT / "tools/guest"))
from overlay import add_files  # noqa: E402

STRESS = ROOT / "tests/stress"
TOOLS = ["jit", "shootdown", "storm"]  # of tests/guest/linux
SOURCES = ["base/core", "cpu", "engine"]  # what the compiler in the guest gets to compile
SCRATCH_MIB = 2048
LOOP_SECONDS = int(os.environ.get("HULL_STRESS_SECONDS", "3600"))
ITEMS = os.environ.get("HULL_STRESS_ITEMS", "").split()
ONE_PASS = 1800  # seconds; an upper bound for a loaded machine
# The root is as read-only as the guest's.
PRELUDE = ("set -e; mount --make-rprivate /; mount --bind \"$1\" \"$1\"; mount -o remount,bind,ro \"$1\"; "
           "cd \"$1\"; mount -t proc proc proc; mount --rbind /dev dev; "
           "mount -t tmpfs -o mode=1777 tmp tmp; mount -t tmpfs -o mode=1777 tmp scratch; "
           "mount --rbind \"$2\" stress; mount --rbind \"$3\" mnt; exec chroot . sh /stress/run record /mnt")


def files():
    """What is put into the guest's /stress: {path: bytes}."""
    paths = {path: path.relative_to(STRESS) for path in sorted(STRESS.rglob("*")) if path.is_file()}
    for folder in SOURCES:
        paths |= {path: f"source/{path.relative_to(ROOT / 'src')}" for path in sorted((ROOT / "src" / folder).rglob("*"))
                  if path.suffix in (".c", ".h", ".def")}
    generated = BUILD / "src/generated"
    paths |= {path: f"source/{path.relative_to(BUILD / 'src')}" for path in sorted(generated.glob("*.h"))}
    paths |= {BUILD / "tests/guest" / tool: f"bin/{tool}" for tool in TOOLS}
    return {str(name): path.read_bytes() for path, name in paths.items()}


def expected(tmp_path_factory, scale):
    """The folder with each item's output on the host, made anew if anything that it depends on has changed."""
    make_guest("stress")
    content = files()
    depends = hashlib.sha256((GUESTS / "stress.made-of").read_bytes())
    for name, data in content.items():
        depends.update(f"{name} {len(data)} ".encode() + data)
    folder = GUESTS / f"stress-expected-{scale}-{depends.hexdigest()[:16]}"
    if not ITEMS and folder.exists():
        return folder, content
    for old in GUESTS.glob(f"stress-expected-{scale}-*"):
        shutil.rmtree(old)
    scratch = tmp_path_factory.mktemp("stress")
    results = scratch / "results"
    results.mkdir()
    for name, data in content.items():
        path = scratch / "stress" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.chmod(0o755)
    spaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    if subprocess.run([*spaces, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("neither root nor user name spaces: no right results from this host")
    done = subprocess.run([*spaces, "sh", "-c", PRELUDE, "sh", GUESTS / "stress-root", scratch / "stress", results],
                          env={**os.environ, "SCALE": str(scale), "ITEMS": " ".join(ITEMS)}, capture_output=True, text=True,
                          errors="replace", check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    if not ITEMS:
        unfinished = folder.with_name(f"stress-unfinished-{scale}")
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copytree(results, unfinished)
        unfinished.rename(folder)
    shutil.rmtree(scratch / "stress")
    return results, content


def stress(boot, tmp_path_factory, tmp_path, cpus, scale, seconds):
    with guests_locked(f"expected-{scale}"):
        results, content = expected(tmp_path_factory, scale)
    kernel_option, kernel, _, initrd = kernel_arguments("cloud")
    with_stress, disk = tmp_path / "initrd", tmp_path / "scratch.raw"
    added = {f"stress/{name}": data for name, data in content.items()}
    added |= {f"stress/expected/{path.name}": path.read_bytes() for path in results.iterdir()}
    add_files(initrd, with_stress, added)
    with open(disk, "wb") as file:
        file.truncate(SCRATCH_MIB << 20)
    command = ",".join(["sh", "/stress/guest", str(seconds), str(cpus), str(scale), *ITEMS])
    vm = boot("--engine", "soft", "--cpus", cpus, "--memory", "2G", "--net", "none", kernel_option, kernel,
              "--initrd", with_stress, "--disk", f"{GUESTS / 'stress.raw'},readonly", "--disk", disk,
              "--append", f"console=ttyS0 quiet hull.run={command}", timeout=ONE_PASS * scale)
    complaints = []
    while True:
        line = vm.expect(r"stress: ([^\r\n]*)\r*\n")[1]
        print(line, flush=True)
        if line.startswith(("WRONG", "FAIL", "kernel")):
            complaints.append(line)
        if line.startswith(("file system", "FAIL")):
            break
    assert vm.wait() == 0
    assert not complaints, f"{complaints}:\n{vm.transcript()[-20000:]}"
    assert " 0 wrong" in vm.transcript()
    subprocess.run(["/sbin/e2fsck", "-fn", disk], check=True, capture_output=True)
    disk.unlink()


@pytest.mark.long
@pytest.mark.parametrize("cpus", [2, 4])
def test_one_pass(boot, tmp_path_factory, tmp_path, cpus):
    stress(boot, tmp_path_factory, tmp_path, cpus, 1, 0)


@pytest.mark.long
def test_loop(boot, tmp_path_factory, tmp_path):
    stress(boot, tmp_path_factory, tmp_path, 2, 2, LOOP_SECONDS)
