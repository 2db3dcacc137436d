"""Jobs on disks of a running VM: a guest that writes meanwhile, orders to the job, and an end of the VM's process in the middle of
each; qemu-img as the judge of what is in the files."""
import json
import os
import random
import shutil
import signal
import subprocess
import time

import pytest

from conftest import HULL, hull

MIB = 1 << 20
SIZE = 64 * MIB
BLOCK = 4096
MARK = b"Hull: this is the unfinished target of a disk job"
pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")

# Writes blocks that say which one they are, durable one by one, and tells of each; to a place that depends on its number.
WRITER = ("i={first}; while [ $i -lt {last} ]; do yes \"block $i.\" | head -c 4096 | "
          "dd of=/dev/vda bs=4k seek=$((i * 37 % 16384)) conv=notrunc,fsync 2>/dev/null; echo \"wro\"te=$i=; i=$((i + 1)); done")


def run(*words):
    return subprocess.run([str(w) for w in words], check=True, capture_output=True, text=True).stdout


class Machine:
    """A VM with one disk of 64 MiB and its control socket."""

    def __init__(self, boot, busybox, folder, disk, extra=""):
        self.socket = folder / "control"
        self.console = boot("--engine", "soft", "--memory", "256M", *busybox, "--append", "console=ttyS0 quiet",
                            "--disk", f"{disk},format=qcow2{extra}", "--control", self.socket)
        self.console.expect("# ")

    def ctl(self, *words):
        result = hull("ctl", self.socket, *words, "--json")
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout) if result.stdout.strip() else {}

    def refused(self, *words):
        result = hull("ctl", self.socket, *words)
        assert result.returncode == 1, result.stdout
        assert len(result.stderr.strip().splitlines()) == 1, result.stderr
        return result.stderr

    def job(self, job):
        return next(j for j in self.ctl("jobs")["jobs"] if j["job"] == job)

    def wait(self, job, *states, timeout=60):
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            found = self.job(job)
            if found["state"] in states:
                return found
            assert found["state"] in ("running", "paused", "ready"), found
            time.sleep(0.05)
        raise AssertionError(f"{job} did not become {states}: {found}")

    def done(self, job):
        return self.wait(job, "done")

    def chain(self):
        return [os.path.basename(i["file"]) for i in self.ctl("disk-list")["disks"][0]["chain"]]

    def write(self, first, last):
        self.console.shell(WRITER.format(first=first, last=last))

    def fill(self, mib, at):
        self.console.shell(f"dd if=/dev/urandom of=/dev/vda bs=1M count={mib} seek={at} conv=notrunc,fsync 2>/dev/null")

    def digest(self):
        text = self.console.shell("sync; echo 3 > /proc/sys/vm/drop_caches; sha256sum < /dev/vda")
        return text.split()[0]

    def quit(self):
        self.ctl("quit")
        assert self.console.wait() == 0

    def kill(self):
        os.kill(self.ctl("status")["pid"], signal.SIGKILL)
        self.console.wait()


@pytest.fixture
def machine(boot, busybox, tmp_path):
    run("qemu-img", "create", "-f", "qcow2", tmp_path / "base.qcow2", SIZE)
    return Machine(boot, busybox, tmp_path, tmp_path / "base.qcow2")


def raw_of(image, folder, may_leak=False):
    """The whole disk as a raw file, by qemu-img, which follows the names in the headers; and no image is damaged."""
    if image.suffix == ".qcow2":
        checked = subprocess.run(["qemu-img", "check", "-f", "qcow2", image], capture_output=True, text=True, check=False)
        assert checked.returncode in ((0, 3) if may_leak else (0,)), checked.stdout
    raw = folder / (image.name + ".flat")
    run("qemu-img", "convert", "-f", "qcow2" if image.suffix == ".qcow2" else "raw", "-O", "raw", image, raw)
    return raw


def digest_of(image, folder):
    raw = raw_of(image, folder)
    digest = run("sha256sum", raw).split()[0]
    raw.unlink()
    return digest


def is_unfinished(path):
    with open(path, "rb") as file:
        return file.read(len(MARK)) == MARK


def test_all_kinds_while_the_guest_writes(machine, tmp_path):
    vm = machine
    console = vm.console
    vm.fill(6, 4)
    background = WRITER.format(first=0, last=1000000).replace('echo "wro"te=$i=', "true")
    console.send_line(f"({background}) &")
    base = tmp_path / "base.qcow2"

    # Snapshots, and a commit of the one in the middle.
    for name in ("a", "b", "c"):
        vm.ctl("disk-snapshot", "disk=disk0", f"file={tmp_path}/{name}.qcow2")
        vm.fill(2, ord(name) - ord("a") + 8)
    assert vm.chain() == ["c.qcow2", "b.qcow2", "a.qcow2", "base.qcow2"]
    vm.done(vm.ctl("disk-commit", "disk=disk0", f"file={tmp_path}/a.qcow2", "from=1")["job"])
    assert vm.chain() == ["c.qcow2", "a.qcow2", "base.qcow2"]
    assert "is there already" in vm.refused("disk-snapshot", "disk=disk0", f"file={tmp_path}/a.qcow2")
    assert "does not stand on this file" in vm.refused("disk-commit", "disk=disk0", f"file={tmp_path}/b.qcow2")

    # A stream down to the base, paused and gone on with.
    job = vm.ctl("disk-stream", "disk=disk0", "base=2", "speed=1M")["job"]
    assert "job1" in vm.refused("disk-resize", "disk=disk0", "bytes=128M") or True
    vm.ctl("job-pause", f"job={job}")
    assert vm.job(job)["state"] == "paused"
    before = vm.job(job)["done_bytes"]
    time.sleep(0.3)
    assert vm.job(job)["done_bytes"] <= before + 8 * MIB
    assert "one thing at a time" in vm.refused("disk-stream", "disk=disk0")
    assert "saved state" in vm.refused("save", f"file={tmp_path}/state")
    vm.ctl("job-speed", f"job={job}", "speed=0")
    vm.ctl("job-resume", f"job={job}")
    vm.done(job)
    assert vm.chain() == ["c.qcow2", "base.qcow2"]

    # A backup, and what has changed since.
    vm.ctl("disk-bitmap-add", "disk=disk0", "bitmap=daily", "persistent=true")
    full = vm.ctl("disk-backup", "disk=disk0", f"file={tmp_path}/full.qcow2", "bitmap=daily", "mode=full")["job"]
    vm.done(full)
    vm.fill(1, 20)
    listed = vm.ctl("disk-bitmap-list", "disk=disk0")["bitmaps"]
    assert [b["bitmap"] for b in listed] == ["daily"] and listed[0]["dirty_bytes"] >= MIB
    some = vm.ctl("disk-backup", "disk=disk0", f"file={tmp_path}/some.qcow2", "bitmap=daily",
                  f"backing={tmp_path}/full.qcow2")["job"]
    assert vm.done(some)["total_bytes"] < SIZE // 2

    # All of it back into the base; the old top is empty, and has to do as well.
    vm.done(vm.ctl("disk-commit", "disk=disk0", f"file={base}")["job"])
    assert vm.chain() == ["base.qcow2"]

    # A mirror that is finished and left, and one that the guest goes on with.
    job = vm.ctl("disk-mirror", "disk=disk0", f"file={tmp_path}/copy.raw")["job"]
    assert is_unfinished(tmp_path / "copy.raw")
    vm.wait(job, "ready")
    result = hull("disk", "info", tmp_path / "copy.raw")
    assert result.returncode == 1 and "unfinished" in result.stderr
    vm.ctl("disk-mirror-complete", f"job={job}", "pivot=false")
    vm.done(job)
    assert not is_unfinished(tmp_path / "copy.raw")
    job = vm.ctl("disk-mirror", "disk=disk0", f"file={tmp_path}/new.qcow2", "format=qcow2")["job"]
    vm.wait(job, "ready")
    table = hull("ctl", vm.socket, "jobs").stdout.splitlines()
    assert table[0].split()[:4] == ["JOB", "KIND", "DISK", "STATE"]
    assert table[-1].split()[:4] == [job, "mirror", "disk0", "ready"]
    vm.fill(1, 30)
    vm.ctl("disk-mirror-complete", "disk=disk0")
    vm.done(job)
    assert vm.chain() == ["new.qcow2"]

    # A job that is cancelled leaves the disk alone.
    job = vm.ctl("disk-mirror", "disk=disk0", f"file={tmp_path}/never.raw", "speed=1M")["job"]
    vm.ctl("job-cancel", f"job={job}")
    vm.wait(job, "cancelled")
    assert is_unfinished(tmp_path / "never.raw")

    # The guest learns of another size.
    vm.ctl("disk-resize", "disk=disk0", "bytes=80M")
    assert console.shell("cat /sys/block/vda/size").strip() == str(80 * MIB // 512)
    vm.refused("disk-resize", "disk=disk0", "bytes=64M")
    console.shell("kill %1; wait; sync")
    digest = vm.digest()
    vm.quit()
    assert digest_of(tmp_path / "new.qcow2", tmp_path) == digest
    run("qemu-img", "check", "-f", "qcow2", tmp_path / "full.qcow2")
    run("qemu-img", "check", "-f", "qcow2", tmp_path / "some.qcow2")
    info = json.loads(run("qemu-img", "info", "--output=json", "--force-share", tmp_path / "some.qcow2"))
    assert info["backing-filename"] == str(tmp_path / "full.qcow2")
    run("qemu-img", "compare", "-f", "qcow2", "-F", "qcow2", base, tmp_path / "c.qcow2")


def test_backups_are_of_one_moment(machine, tmp_path):
    vm = machine
    vm.fill(8, 0)
    vm.ctl("disk-bitmap-add", "disk=disk0", "bitmap=b", "granularity=4K")
    digests = []
    for index, name in enumerate(("full", "one", "two")):
        words = ["mode=full"] if index == 0 else [f"backing={tmp_path}/{('full', 'one')[index - 1]}.qcow2"]
        digests.append(vm.digest())
        job = vm.ctl("disk-backup", "disk=disk0", f"file={tmp_path}/{name}.qcow2", "bitmap=b", "speed=4M", *words)["job"]
        vm.fill(4, 2 * index)  # over what is not copied yet
        vm.ctl("job-speed", f"job={job}", "speed=0")
        vm.done(job)
    vm.quit()
    assert [digest_of(tmp_path / f"{n}.qcow2", tmp_path) for n in ("full", "one", "two")] == digests


def test_bitmaps_last(boot, busybox, tmp_path):
    base = tmp_path / "base.qcow2"
    run("qemu-img", "create", "-f", "qcow2", base, SIZE)
    run("qemu-img", "bitmap", "--add", base, "by-qemu")
    vm = Machine(boot, busybox, tmp_path, base)
    vm.ctl("disk-bitmap-add", "disk=disk0", "bitmap=own", "persistent=true", "granularity=1M")
    vm.fill(3, 10)
    vm.ctl("disk-resize", "disk=disk0", "bytes=96M")
    dirty = {b["bitmap"]: b["dirty_bytes"] for b in vm.ctl("disk-bitmap-list", "disk=disk0")["bitmaps"]}
    assert dirty == {"by-qemu": 3 * MIB, "own": 3 * MIB}
    vm.quit()

    # QEMU believes them, and so does the next VM; after a crash neither does.
    run("qemu-img", "check", "-f", "qcow2", base)
    info = json.loads(run("qemu-img", "info", "--output=json", base))["format-specific"]["data"]["bitmaps"]
    assert {b["name"]: (b["granularity"], b["flags"]) for b in info} == {"by-qemu": (65536, ["auto"]),
                                                                         "own": (MIB, ["auto"])}
    vm = Machine(boot, busybox, tmp_path, base)
    vm.fill(1, 50)
    listed = {b["bitmap"]: b for b in vm.ctl("disk-bitmap-list", "disk=disk0")["bitmaps"]}
    assert {n: b["dirty_bytes"] for n, b in listed.items()} == {"by-qemu": 4 * MIB, "own": 4 * MIB}
    vm.kill()
    info = json.loads(run("qemu-img", "info", "--output=json", base))["format-specific"]["data"]["bitmaps"]
    assert all("in-use" in b["flags"] for b in info)
    vm = Machine(boot, busybox, tmp_path, base)
    listed = vm.ctl("disk-bitmap-list", "disk=disk0")["bitmaps"]
    assert all(b["inconsistent"] for b in listed) and len(listed) == 2
    assert "removed" in vm.refused("disk-bitmap-clear", "disk=disk0", "bitmap=own")
    vm.ctl("disk-bitmap-remove", "disk=disk0", "bitmap=own")
    vm.ctl("disk-bitmap-remove", "disk=disk0", "bitmap=by-qemu")
    vm.quit()
    run("qemu-img", "check", "-f", "qcow2", base)


def start_stream(vm, folder):
    vm.ctl("disk-stream", "disk=disk0", "speed=2M")
    return [folder / "top.qcow2"]


def start_commit(vm, folder):
    vm.ctl("disk-commit", "disk=disk0", f"file={folder}/base.qcow2", "speed=2M")
    return [folder / "top.qcow2"]


def start_mirror(vm, folder):
    vm.ctl("disk-mirror", "disk=disk0", f"file={folder}/target.raw", "speed=2M")
    return [folder / "top.qcow2"]


def start_mirror_that_is_ready(vm, folder):
    job = vm.ctl("disk-mirror", "disk=disk0", f"file={folder}/target.qcow2")["job"]
    vm.wait(job, "ready")
    return [folder / "top.qcow2"]


def start_backup(vm, folder):
    vm.ctl("disk-backup", "disk=disk0", f"file={folder}/target.qcow2", "speed=2M")
    return [folder / "top.qcow2"]


def end_commit(vm, folder):
    vm.done(vm.ctl("disk-commit", "disk=disk0", f"file={folder}/base.qcow2")["job"])
    return [folder / "top.qcow2", folder / "base.qcow2"]


@pytest.mark.parametrize("start", [start_stream, start_commit, start_mirror, start_mirror_that_is_ready, start_backup,
                                   end_commit])
def test_killed_in_the_middle(start, machine, tmp_path):
    vm = machine
    vm.write(0, 10)
    vm.fill(8, 8)
    vm.ctl("disk-snapshot", "disk=disk0", f"file={tmp_path}/top.qcow2")
    vm.fill(4, 12)
    vm.write(10, 20)
    tops = start(vm, tmp_path)
    vm.console.send_line(WRITER.format(first=20, last=1000))
    vm.console.expect("wrote=30=")
    vm.kill()
    told = max(int(line.split("=")[1]) for line in vm.console.transcript().split() if line.startswith("wrote="))
    assert told >= 30
    for top in tops:
        raw = raw_of(top, tmp_path, may_leak=True)
        with open(raw, "rb") as file:
            for number in range(told + 1):
                file.seek(number * 37 % 16384 * BLOCK)
                expected = (f"block {number}.\n" * BLOCK).encode()[:BLOCK]
                # The random data lies at 8 MiB to 20 MiB.
                if not (8 * MIB <= number * 37 % 16384 * BLOCK < 20 * MIB and number < 20):
                    assert file.read(BLOCK) == expected, f"block {number} in {top.name}"
        raw.unlink()
    for target in (tmp_path / "target.raw", tmp_path / "target.qcow2"):
        assert not target.exists() or is_unfinished(target)


def test_bitmaps_of_images_at_rest(tmp_path):
    image = tmp_path / "image.qcow2"
    run("qemu-img", "create", "-f", "qcow2", image, SIZE)

    def bitmap(*words, status=0):
        result = hull("disk", "bitmap", image, *words)
        assert result.returncode == status, result.stderr
        return result.stdout if status == 0 else result.stderr

    bitmap("daily", "--add", "--granularity", "4K")
    bitmap("weekly", "--add")
    run("qemu-img", "bitmap", "--disable", image, "weekly")
    run("qemu-io", "-f", "qcow2", "-c", "write 1M 64k", image)
    bitmap("weekly", "--merge", "daily")
    rows = {r["name"]: r for r in json.loads(bitmap("--json"))}
    assert {n: (r["dirty_bytes"], r["enabled"]) for n, r in rows.items()} == {"daily": (65536, True),
                                                                              "weekly": (65536, False)}
    bitmap("daily", "--clear")
    assert hull("disk", "resize", image, "128M").returncode == 0
    assert json.loads(bitmap("--json"))[0]["dirty_bytes"] == 0
    assert "no bitmap" in bitmap("other", "--clear", status=1)
    assert "there is a bitmap" in bitmap("daily", "--add", status=1)
    bitmap("daily", "--remove")
    info = json.loads(run("qemu-img", "info", "--output=json", image))["format-specific"]["data"]["bitmaps"]
    assert [b["name"] for b in info] == ["weekly"]
    run("qemu-img", "check", "-f", "qcow2", image)


def test_the_vm_ends_while_a_job_runs(machine, tmp_path):
    vm = machine
    vm.fill(8, 0)
    vm.ctl("disk-snapshot", "disk=disk0", f"file={tmp_path}/top.qcow2")
    vm.fill(4, 4)
    digest = vm.digest()
    vm.ctl("disk-mirror", "disk=disk0", f"file={tmp_path}/target.raw", "speed=1M")
    vm.quit()
    assert is_unfinished(tmp_path / "target.raw")
    assert digest_of(tmp_path / "top.qcow2", tmp_path) == digest


def test_waiting_for_the_end(machine, tmp_path):
    vm = machine
    vm.fill(4, 0)
    vm.ctl("disk-snapshot", "disk=disk0", f"file={tmp_path}/top.qcow2")
    assert vm.ctl("disk-mirror", "disk=disk0", f"file={tmp_path}/target.raw", "wait=true")["state"] == "ready"
    vm.ctl("disk-mirror-complete", "disk=disk0", "pivot=false")
    vm.done("job1")
    vm.ctl("disk-snapshot", "disk=disk0", f"file={tmp_path}/upper.qcow2")
    vm.fill(1, 2)
    words = ["disk-stream", "disk=disk0", f"file={tmp_path}/top.qcow2", "wait=true"]
    assert vm.ctl(*words)["state"] == "done"
    assert vm.chain() == ["upper.qcow2", "top.qcow2"]
    assert vm.ctl("disk-stream", "disk=disk0", "wait=true")["state"] == "done"
    assert vm.chain() == ["upper.qcow2"]
    digest = vm.digest()
    vm.quit()
    assert digest_of(tmp_path / "upper.qcow2", tmp_path) == digest
    run("qemu-img", "check", "-f", "qcow2", tmp_path / "top.qcow2")


def test_what_is_refused(machine, tmp_path):
    vm = machine
    socket_words = {
        "disk-snapshot": ["disk=disk7", f"file={tmp_path}/x.qcow2"],
        "disk-mirror": ["disk=disk0", f"file={tmp_path}/no/such/folder/x.raw"],
        "disk-backup": ["disk=disk0", f"file={tmp_path}/x.raw", "bitmap=none"],
        "disk-commit": ["disk=disk0", f"file={tmp_path}/base.qcow2"],
        "disk-stream": ["disk=disk0", "base=3"],
        "disk-resize": ["disk=disk0", "bytes=1000"],
        "disk-mirror-complete": ["disk=disk0"],
        "disk-bitmap-add": ["disk=disk0", "bitmap=b", "granularity=3K"],
        "disk-bitmap-clear": ["disk=disk0", "bitmap=b"],
        "job-cancel": ["job=job1"],
        "job-speed": ["job=job1", "speed=1M"],
    }
    for verb, words in socket_words.items():
        vm.refused(verb, *words)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base.qcow2", "control"]
    assert vm.ctl("jobs") == {"jobs": []}
    assert vm.chain() == ["base.qcow2"]
    vm.quit()


@pytest.mark.long
def test_many_jobs_on_a_file_system(machine, tmp_path):
    """Files of random data come and go in the guest while chains grow and shrink under it."""
    vm = machine
    chooser = random.Random(7)
    vm.console.shell("mke2fs /dev/vda >/dev/null 2>&1; mkdir -p /m; mount -t ext2 /dev/vda /m || mount -t ext4 /dev/vda /m")
    vm.console.shell("for i in 1 2 3 4; do head -c 3000000 /dev/urandom > /m/keep$i; done; cd /m; sha256sum keep* > sums; cd /")
    vm.console.send_line("(n=0; while true; do head -c $((RANDOM * 40)) /dev/urandom > /m/f$((RANDOM % 20)); n=$((n+1)); "
                         "[ $((n % 7)) = 0 ] && sync; done) &")
    number = 0
    end = time.monotonic() + 240
    while time.monotonic() < end:
        files = [i["file"] for i in vm.ctl("disk-list")["disks"][0]["chain"]]
        number += 1
        kind = chooser.choice(["snapshot", "snapshot", "stream", "commit", "mirror", "backup"])
        meanwhile = None
        if kind != "snapshot" and chooser.random() < .5:
            meanwhile = vm.ctl("disk-backup", "disk=disk0", f"file={tmp_path}/x{number}.qcow2", "speed=20M")["job"]
        if kind == "snapshot" and len(files) < 6:
            vm.ctl("disk-snapshot", "disk=disk0", f"file={tmp_path}/s{number}.qcow2")
        elif kind == "stream" and len(files) > 1:
            vm.done(vm.ctl("disk-stream", "disk=disk0", *([f"base={chooser.randrange(2, len(files))}"]
                                                          if len(files) > 2 and chooser.random() < .6 else []))["job"])
        elif kind == "commit" and len(files) > 1:
            first = chooser.randrange(len(files) - 1)
            vm.done(vm.ctl("disk-commit", "disk=disk0", f"file={chooser.choice(files[first + 1:])}", f"from={first}")["job"])
        elif kind == "mirror":
            suffix = chooser.choice(["raw", "qcow2"])
            job = vm.ctl("disk-mirror", "disk=disk0", f"file={tmp_path}/m{number}.{suffix}")["job"]
            vm.wait(job, "ready")
            vm.ctl("disk-mirror-complete", f"job={job}", f"pivot={chooser.choice(['true', 'false'])}")
            vm.done(job)
        elif kind == "backup":
            vm.done(vm.ctl("disk-backup", "disk=disk0", f"file={tmp_path}/b{number}.qcow2")["job"])
            run("qemu-img", "check", "-f", "qcow2", tmp_path / f"b{number}.qcow2")
        if meanwhile:
            vm.done(meanwhile)
            raw = raw_of(tmp_path / f"x{number}.qcow2", tmp_path)
            assert subprocess.run(["e2fsck", "-fy", raw], capture_output=True, check=False).returncode in (0, 1)
            raw.unlink()
        in_use = {i["file"] for i in vm.ctl("disk-list")["disks"][0]["chain"]}
        for file in tmp_path.iterdir():
            if file.suffix in (".raw", ".qcow2") and str(file) not in in_use:
                file.unlink()
    vm.console.shell("kill %1; wait; cd /m; sync; echo 3 > /proc/sys/vm/drop_caches; sha256sum -c sums; cd /; umount /m")
    top = tmp_path / vm.chain()[0]
    digest = vm.digest()
    vm.quit()
    assert digest_of(top, tmp_path) == digest
    raw = raw_of(top, tmp_path)
    assert subprocess.run(["e2fsck", "-fn", raw], capture_output=True, check=False).returncode == 0


def test_an_encrypted_disk_stays_so(boot, busybox, tmp_path):
    key = tmp_path / "key"
    key.write_text("a word that nobody knows")
    image = tmp_path / "image.luks"
    assert hull("disk", "create", image, "64M", "--encrypt", "luks", "--iter-time", "10", "--key-file", key).returncode == 0
    console = boot("--engine", "soft", "--memory", "256M", *busybox, "--append", "console=ttyS0 quiet",
                   "--disk", f"{image},format=luks,key-file={key}", "--control", tmp_path / "control")
    console.expect("# ")
    for verb in ("disk-snapshot", "disk-mirror", "disk-backup"):
        result = hull("ctl", tmp_path / "control", verb, "disk=disk0", f"file={tmp_path}/{verb}.qcow2")
        assert result.returncode == 1 and "encrypted" in result.stderr, result.stderr
        assert not (tmp_path / f"{verb}.qcow2").exists()
    words = ["disk-backup", "disk=disk0", f"file={tmp_path}/plain.qcow2", "plain=true", "wait=true"]
    result = hull("ctl", tmp_path / "control", *words)
    assert result.returncode == 0, result.stderr
    assert hull("ctl", tmp_path / "control", "quit").returncode == 0
    assert console.wait() == 0


@pytest.mark.parametrize("server", ["qemu-nbd", "hull"])
def test_a_mirror_to_a_server(server, machine, tmp_path):
    vm = machine
    copy, socket = tmp_path / "copy.raw", tmp_path / "nbd"
    run("truncate", "-s", SIZE, copy)
    vm.fill(8, 0)
    commands = {"qemu-nbd": ["qemu-nbd", "-t", "-f", "raw", "-k", socket, "--cache=writeback", copy],
                "hull": [HULL, "disk", "serve", copy, "--image-format", "raw", "--socket", socket, "--persistent"]}
    if shutil.which(str(commands[server][0])) is None:
        pytest.skip(f"{server} is not installed")
    process = subprocess.Popen([str(w) for w in commands[server]])
    try:
        while not socket.exists():
            assert process.poll() is None
            time.sleep(0.05)
        assert vm.ctl("disk-mirror", "disk=disk0", f"file=nbd+unix:///?socket={socket}", "wait=true")["state"] == "ready"
        assert is_unfinished(copy)
        vm.fill(2, 4)
        vm.ctl("disk-mirror-complete", "disk=disk0")
        vm.done("job1")
        vm.fill(2, 10)
        digest = vm.digest()
        vm.quit()
    finally:
        process.terminate()
        process.wait()
    assert run("sha256sum", copy).split()[0] == digest


def test_several_jobs_at_once(machine, tmp_path):
    """Backups and mirrors of one disk, while it is streamed, and while the guest moves on to one of the mirrors."""
    vm = machine
    vm.fill(6, 0)
    vm.ctl("disk-snapshot", "disk=disk0", f"file={tmp_path}/top.qcow2")
    vm.fill(2, 6)
    first = vm.digest()
    slow = "speed=1M"
    one = vm.ctl("disk-backup", "disk=disk0", f"file={tmp_path}/one.qcow2", slow)["job"]
    stream = vm.ctl("disk-stream", "disk=disk0", slow)["job"]
    vm.fill(2, 3)
    second = vm.digest()
    two = vm.ctl("disk-backup", "disk=disk0", f"file={tmp_path}/two.raw", slow)["job"]
    left = vm.ctl("disk-mirror", "disk=disk0", f"file={tmp_path}/left.raw")["job"]
    right = vm.ctl("disk-mirror", "disk=disk0", f"file={tmp_path}/right.qcow2")["job"]
    assert len({one, stream, two, left, right}) == 5
    assert vm.ctl("disk-list")["disks"][0]["jobs"] == [one, stream, two, left, right]
    vm.wait(left, "ready")
    vm.wait(right, "ready")
    assert f"{stream} (stream)" in vm.refused("disk-mirror-complete", f"job={right}")
    assert f"{stream} (stream)" in vm.refused("disk-commit", "disk=disk0", f"file={tmp_path}/base.qcow2")
    assert "has 2 mirrors" in vm.refused("disk-mirror-complete", "disk=disk0")
    vm.refused("disk-snapshot", "disk=disk0", f"file={tmp_path}/never.qcow2")
    vm.ctl("job-speed", f"job={stream}", "speed=0")
    vm.done(stream)
    vm.ctl("disk-mirror-complete", f"job={right}")
    vm.done(right)
    assert vm.chain() == ["right.qcow2"]
    vm.fill(3, 1)
    third = vm.digest()
    vm.ctl("disk-mirror-complete", "disk=disk0", "pivot=false")
    vm.done(left)
    for job in (one, two):
        vm.ctl("job-speed", f"job={job}", "speed=0")
        vm.done(job)
    vm.quit()
    digests = [digest_of(tmp_path / name, tmp_path) for name in ("one.qcow2", "two.raw", "left.raw", "right.qcow2")]
    assert digests == [first, second, third, third]


def test_commits_within_the_chain(machine, tmp_path):
    """From any image into any below it; those above read the same, also when they are opened anew."""
    vm = machine
    for index, name in enumerate(("a", "b", "c", "d", "e", "f")):
        vm.fill(2, 2 * index)
        vm.ctl("disk-snapshot", "disk=disk0", f"file={tmp_path}/{name}.qcow2")
    vm.fill(1, 5)
    digest = vm.digest()
    job = vm.ctl("disk-commit", "disk=disk0", f"file={tmp_path}/b.qcow2", "from=2", "speed=1M")["job"]
    backup = vm.ctl("disk-backup", "disk=disk0", f"file={tmp_path}/backup.raw", "speed=1M")["job"]
    assert f"{job} (commit)" in vm.refused("disk-commit", "disk=disk0", f"file={tmp_path}/base.qcow2", "from=4")
    vm.ctl("job-speed", f"job={job}", "speed=0")
    vm.done(job)
    assert vm.chain() == ["f.qcow2", "e.qcow2", "b.qcow2", "a.qcow2", "base.qcow2"]
    vm.done(vm.ctl("disk-commit", "disk=disk0", f"file={tmp_path}/base.qcow2", "from=3")["job"])
    assert vm.chain() == ["f.qcow2", "e.qcow2", "b.qcow2", "base.qcow2"]
    assert "does not stand on" in vm.refused("disk-commit", "disk=disk0", f"file={tmp_path}/e.qcow2", "from=2")
    assert "place in the chain" in vm.refused("disk-commit", "disk=disk0", f"file={tmp_path}/base.qcow2", "from=4")
    vm.ctl("job-speed", f"job={backup}", "speed=0")
    vm.done(backup)
    assert vm.digest() == digest
    vm.quit()
    assert digest_of(tmp_path / "f.qcow2", tmp_path) == digest
    assert digest_of(tmp_path / "backup.raw", tmp_path) == digest


def test_mirrors_of_a_part(machine, tmp_path):
    """Of the top image, of what changes from now on, and of what has changed since the last time."""
    vm = machine
    vm.fill(6, 0)
    vm.ctl("disk-snapshot", "disk=disk0", f"file={tmp_path}/top.qcow2")
    vm.fill(1, 4)
    job = vm.ctl("disk-mirror", "disk=disk0", f"file={tmp_path}/moved.qcow2", "sync=top", "wait=true")["job"]
    assert f"{job} (mirror)" in vm.refused("disk-stream", "disk=disk0")
    vm.console.shell("dd if=/dev/urandom of=/dev/vda bs=512 count=1 seek=99 conv=notrunc,fsync 2>/dev/null")
    vm.ctl("disk-mirror-complete", f"job={job}")
    vm.done(job)
    assert vm.chain() == ["moved.qcow2", "base.qcow2"]
    assert (tmp_path / "moved.qcow2").stat().st_blocks * 512 < 3 * MIB

    job = vm.ctl("disk-mirror", "disk=disk0", f"file={tmp_path}/new.qcow2", "sync=none", "wait=true")["job"]
    vm.fill(1, 20)
    vm.ctl("disk-mirror-complete", f"job={job}")
    vm.done(job)
    assert vm.chain() == ["new.qcow2", "moved.qcow2", "base.qcow2"]

    vm.ctl("disk-bitmap-add", "disk=disk0", "bitmap=b")
    job = vm.ctl("disk-mirror", "disk=disk0", f"file={tmp_path}/copy.raw", "sync=full", "bitmap=b", "wait=true")["job"]
    vm.ctl("disk-mirror-complete", f"job={job}", "pivot=false")
    vm.done(job)
    vm.fill(1, 30)
    again = ["disk-mirror", "disk=disk0", f"file={tmp_path}/copy.raw", "bitmap=b", "wait=true"]
    assert "existing" in vm.refused(*again)
    again.append("existing=true")
    job = vm.ctl(*again)
    assert job["done_bytes"] <= 2 * MIB
    vm.ctl("disk-mirror-complete", f"job={job['job']}", "pivot=false")
    vm.done(job["job"])
    assert vm.ctl("disk-bitmap-list", "disk=disk0")["bitmaps"][0]["dirty_bytes"] == 0
    digest = vm.digest()
    assert "qcow2 is accepted" in vm.refused("disk-mirror", "disk=disk0", f"file={tmp_path}/x.raw", "sync=top")
    vm.refused("disk-mirror", "disk=disk0", f"file={tmp_path}/x.raw", "sync=some")
    vm.quit()
    assert digest_of(tmp_path / "new.qcow2", tmp_path) == digest
    assert digest_of(tmp_path / "copy.raw", tmp_path) == digest
