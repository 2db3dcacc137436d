"""Rows about system containers: hull ct beside lxc and systemd-nspawn, on the same root file system, one right after the other.

All of it happens in network, mount and process namespaces of its own: nothing of the machine's network is touched, and what is left
when it ends ends with it. So this file is also the program in there: `system_containers.py FOLDER BUILD ROUNDS`, which prints lines of JSON."""
import json
import os
import pathlib
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time

from disks import median_ratio, surely_ratio
import place
from system_sides import BRIDGE, FIRST_ID, GROUPS, HullSide, LxcSide, NspawnSide, Place, hull_info, memory_kib, run

STARTS = 15  # of each side, in each round
PAIRS = 15  # of a program inside and outside, in each round
FEW, MANY = 20, 200
SHARES = (1024, 3072)
SHARES_S = 10
SETTLE_S = 12  # keepers give memory back ten seconds after a start
BOOT_TIMEOUT = 300
CASES = {"sha256": "CPU-bound (sha256)", "getppid": "getppid", "read_zero": "read", "stat": "stat", "open": "open, read, close",
         "find": "find, a stat of each file"}
TREE_FOLDERS, TREE_FILES = 1000, 100  # of the tree that programs walk, and of each of its folders
PROGRAMS = {"find": "find /tree -type f -size +0"}  # bound by system calls; what it writes is compared
TEMPLATE = "debian"
KINDS = ("pss", "rss", "private")


def say(**line):
    print(json.dumps(line), flush=True)


def reap():
    """The first process of the namespace inherits those whose parents have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0] != 0:
            pass
    except ChildProcessError:
        pass  # there is none


class Pings:
    """Echo requests to many, until each has answered."""

    def __init__(self, addresses):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.waiting = set(addresses)
        header = struct.pack(">BBHHH", 8, 0, 0, 0x4855, 1)
        total = sum(struct.unpack(">4H", header))
        self.packet = header[:2] + struct.pack(">H", ~total & 0xFFFF) + header[4:]

    def ask(self):
        """Whether all have answered, after at most 20 ms."""
        for address in self.waiting:
            try:
                self.socket.sendto(self.packet, (address, 0))
            except OSError:
                pass  # no route to it yet
        end = time.monotonic() + 0.02
        while self.waiting and (left := end - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                data, (address, _) = self.socket.recvfrom(1500)
            except OSError:
                break
            if data[20] == 0:
                self.waiting.discard(address)
        return not self.waiting


def available_kib():
    lines = pathlib.Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return int([line for line in lines if line.startswith("MemAvailable")][0].split()[1])


def wait_for_running(side, count):
    """{state: how many}, with the units that have failed."""
    states, left, end = {}, set(range(count)), time.monotonic() + BOOT_TIMEOUT
    while left and time.monotonic() < end:
        for index in sorted(left):
            state = side.enter(index, "systemctl", "is-system-running").strip()
            if state in ("running", "degraded"):
                states[state] = states.get(state, 0) + 1
                left.discard(index)
                if state == "degraded":
                    say(note=f"{side.name} many-{index + 1}: " + side.enter(index, "systemctl", "--failed", "--plain", "--no-legend").strip())
        time.sleep(0.1)
    if left:
        states["neither"] = len(left)
    return states


def measure_many(side, count, first):
    """One side's containers from a template: seconds until the command has ended, all answer, all have booted; memory."""
    side.make_many(count)
    base, last = first.rsplit(".", 1)
    addresses = [f"{base}.{int(last) + index}" for index in range(count)]
    before = available_kib()
    pings = Pings(addresses)
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            side.start_many(count, first)
            status = 0
        finally:
            os._exit(status)
    returned = answered = None
    while (returned is None or answered is None) and time.monotonic() - began < BOOT_TIMEOUT:
        if answered is None and pings.ask():
            answered = time.monotonic() - began
        ended, status = os.waitpid(child, os.WNOHANG) if returned is None else (0, 0)
        if ended == child:
            returned = time.monotonic() - began
            if status != 0:
                raise RuntimeError(f"{side.name} could not start {count} containers")
        if answered is not None:
            time.sleep(0.005)
    states = wait_for_running(side, count)
    running = time.monotonic() - began
    time.sleep(SETTLE_S)
    used = (before - available_kib()) / count
    keepers = [memory_kib(pid) for pid in side.keepers(count)]
    side.end_many(count)
    reap()
    return {"returned": returned, "answered": answered, "running": running, "states": states, "available_kib": used,
            "keeper": {kind: statistics.mean(keeper[kind] for keeper in keepers) for kind in KINDS}}


def measure_starts(sides, rounds):
    for index, side in enumerate(sides):
        side.make_first(f"10.99.0.{index + 2}")
        side.start_first()
        side.stop_first()
    starts, keepers = {side.name: [] for side in sides}, {}
    for turn in range(rounds * STARTS):
        say(show=f"start of a container {turn + 1}/{rounds * STARTS}")
        for side in sides:
            starts[side.name].append(side.start_first())
            if turn == 0:
                time.sleep(0.5)
                keepers[side.name] = memory_kib(side.keeper())
            side.stop_first()
            reap()
    return starts, keepers


def bench(words):
    """(ns, checksum)"""
    output = run(*words)
    return float(output.split(" ns=")[1].split()[0]), output.split(" checksum=")[1].split()[0]


def plant_tree(root):
    """A tree in memory at /tree of this root: what a program does there meets the same file system inside and outside."""
    tree = root / "tree"
    tree.mkdir()
    run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", tree)
    for index in range(TREE_FOLDERS):
        (tree / f"{index}").mkdir()
        for name in range(TREE_FILES):
            (tree / f"{index}/{name}").touch()
    (tree / "0/0").write_text("what find finds", encoding="ascii")
    return tree


def measure_overhead(hull, rounds):
    """{case: {"inside": [ns], "outside": [ns], "floor": [ns]}}, on one CPU and alternately. The floor is outside, behind a filter of one
    instruction, which allows everything: what the kernel takes for having any filter, whatever it says."""
    cpu = min(os.sched_getaffinity(0))
    root = hull.place.root
    tree = plant_tree(root)
    hull.make("inside", "10.99.0.10", "--set", "init=/first", "--set", f"mount+={tree}:/tree", "--cpu-set", cpu)
    hull.ct("start", "-q", "inside")
    rows = {case: {"inside": [], "outside": [], "floor": []} for case in CASES}
    for case, row in rows.items():
        say(show=f"inside and outside: {case}")
        what = ["--name", case, "--command", PROGRAMS[case]] if case in PROGRAMS else [case]
        outside = ["taskset", "-c", cpu, root / "hull-bench", "--root", root]
        sides = {"inside": [hull.place.hull, "ct", "exec", "--state", hull.place.state, "inside", "--", "/hull-bench"],
                 "outside": outside, "floor": [*outside, "--behind-filter"]}
        checksums = set()
        for _ in range(rounds * PAIRS):
            for side, words in sides.items():
                took, checksum = bench([*words, *what])
                row[side].append(took)
                checksums.add(checksum)
        if case in PROGRAMS and len(checksums) != 1:
            raise RuntimeError(f"{case} wrote something else inside than outside")
    hull.ct("delete", "--force", "inside")
    run("umount", tree)
    return rows


def measure_shares(hull):
    """By how the CPU is given: how many times the time of the first the second had."""
    cpu = min(os.sched_getaffinity(0))
    hull.ct("pool", "set", "bench", cpu)
    ratios = {}
    # Each container has an address of its own: one that has ended answers for a moment yet.
    for first, (what, option) in ((20, ("cpu_set", f"cpu_set={cpu}")), (30, ("pool", "pool=bench"))):
        say(show=f"CPU shares, {what}")
        for index, shares in enumerate(SHARES):
            hull.make(f"{what}-{index}", f"10.99.0.{first + index}", "--set", "init=/first", "--set", option, "--cpu-shares", shares)
        hull.ct("start", "-q", *(f"{what}-{index}" for index in range(2)))
        spinners = [hull.begin_exec(f"{what}-{index}", "/first", "spin") for index in range(2)]
        time.sleep(1)
        before = [hull_info(hull, f"{what}-{index}")["cpu_ns"] for index in range(2)]
        time.sleep(SHARES_S)
        after = [hull_info(hull, f"{what}-{index}")["cpu_ns"] for index in range(2)]
        hull.ct("delete", "--force", *(f"{what}-{index}" for index in range(2)))
        for spinner in spinners:
            spinner.wait()
        ratios[what] = (after[1] - before[1]) / (after[0] - before[0])
    return ratios


def prepare(folder, build):
    """The files of both kinds of owners, from the one template."""
    template = folder / "state/templates/names" / TEMPLATE
    there = Place(folder, build / "bin/hull", TEMPLATE)
    for root in (there.root, there.shifted):
        say(show="copying the template")
        shutil.rmtree(root, ignore_errors=True)
        subprocess.run(["cp", "-a", template.resolve() / "root", root], check=True)
        for program in ("first", "hull-bench"):
            shutil.copy(build / "tests/bench" / program, root / program)
    for top, folders, files in os.walk(there.shifted):
        for path in [top, *(os.path.join(top, name) for name in folders + files)]:
            info = os.lstat(path)
            if info.st_uid < FIRST_ID:
                os.lchown(path, info.st_uid + FIRST_ID, info.st_gid + FIRST_ID)
                if not os.path.islink(path):
                    os.chmod(path, info.st_mode & 0o7777)
    return there


def measure_inside(folder, build, rounds):
    there = prepare(folder, build)
    sides = [HullSide(there), LxcSide(there), NspawnSide(there)]
    hull, lxc = sides[:2]
    numbers = {}
    try:
        numbers["starts"], numbers["keepers"] = measure_starts(sides, rounds)
        numbers["overhead"] = measure_overhead(hull, rounds)
        numbers["shares"] = measure_shares(hull)
        numbers["few"] = {"hull": [], "lxc": []}
        hull.end()
        for turn in range(rounds):
            for index, side in enumerate((hull, lxc)):
                say(show=f"{FEW} containers, {side.name} {turn + 1}/{rounds}")
                numbers["few"][side.name].append(measure_many(side, FEW, f"10.99.{10 + 2 * turn + index}.1"))
        say(show=f"{MANY} containers")
        numbers["many"] = measure_many(hull, MANY, "10.99.2.1")
    finally:
        for side in sides:
            side.end()
    return numbers


ENTER = f"""set -e
mount --rbind /sys/fs/cgroup "$1"
mount -t sysfs sysfs /sys
mount --rbind "$1" /sys/fs/cgroup
umount -l "$1"
echo root:{FIRST_ID}:65536 >"$1/../subid"
mount --bind "$1/../subid" /etc/subuid
mount --bind "$1/../subid" /etc/subgid
mount --bind "$2" "$1/../state/templates"
ip link set lo up
ip link add {BRIDGE} type bridge
ip addr add 10.99.0.1/16 dev {BRIDGE}
ip link set {BRIDGE} up
shift 2
exec "$@"
"""


def remove_groups():
    """The peers', which they leave when they are killed."""
    for top in GROUPS.glob("*/hull-bench"):
        for folder, _, _ in os.walk(top, topdown=False):
            try:
                os.rmdir(folder)
            except OSError:
                pass  # a process is still about to end


def template_folder(build, show):
    """Where the template lies that tests use too; it is made if it is missing."""
    state, hull = build / "guest/ct", build / "bin/hull"
    state.mkdir(parents=True, exist_ok=True)
    if not (state / "templates/names" / TEMPLATE).exists():
        show("building a Debian template")
        subprocess.run([hull, "ct", "template", "build", TEMPLATE, "--variant", "minimal", "--state", state], check=True, stdout=subprocess.DEVNULL)
    return state / "templates"


def measure(build, rounds, show):
    """{"starts": {side: [(s to the first instruction, s until it returned)]}, "keepers", "overhead", "shares", "few", "many"}"""
    templates = template_folder(build, show)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="hull-bench-", dir=place.for_images(build)[0]))
    numbers = None
    try:
        os.chmod(folder, 0o755)
        (folder / "state/templates").mkdir(parents=True)
        (folder / "state").chmod(0o711)
        (folder / "groups").mkdir()
        words = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private",
                 "sh", "-c", ENTER, "sh", folder / "groups", templates, sys.executable, __file__, folder, build, str(rounds)]
        with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as inside:
            for line in inside.stdout:
                said = json.loads(line)
                numbers = said.get("numbers", numbers)
                if "show" in said:
                    show(said["show"])
                if "note" in said:
                    print(f"  {said['note']}")
        if numbers is None:
            raise RuntimeError("the rows about system containers could not be measured")
    finally:
        # Interrupted from the keyboard, the one inside is so too and ends what it has started.
        remove_groups()
        shutil.rmtree(folder, ignore_errors=True)
        show("")
    return numbers


def milliseconds(starts, index):
    return [start[index] / 1e6 for start in starts]


def print_rows(numbers):
    if not numbers:
        return
    sides = list(numbers["starts"])
    print(f"\n{'system containers':40}" + "".join(f"{side:>10}" for side in sides) + f"{'hull/lxc':>10}{'hull/nspawn':>13}")
    first = {side: milliseconds(starts, 0) for side, starts in numbers["starts"].items()}
    print(f"{'start to first instruction, ms':40}" + "".join(f"{statistics.median(first[side]):10.1f}" for side in sides)
          + f"{median_ratio(first['hull'], first['lxc']):10.2f}{median_ratio(first['hull'], first['nspawn']):13.2f}")
    print(f"{'  the best, ms':40}" + "".join(f"{min(first[side]):10.1f}" for side in sides))
    returned = {side: milliseconds(numbers["starts"][side], 1) for side in ("hull", "lxc")}
    print(f"{'start until it returns, ms':40}" + "".join(f"{statistics.median(row):10.1f}" for row in returned.values())
          + f"{'-':>10}{median_ratio(returned['hull'], returned['lxc']):10.2f}")
    for kind in KINDS:
        print(f"{f'process beside a container, {kind}, KiB':40}" + "".join(f"{numbers['keepers'][side][kind]:10}" for side in sides))
    few = numbers["few"]
    for key, text in (("answered", "until all answer, s"), ("returned", "until the commands end, s"), ("running", "until all have booted, s"),
                      ("available_kib", "memory of each, KiB")):
        row = {side: [one[key] for one in rounds] for side, rounds in few.items()}
        print(f"{f'{FEW} with systemd: {text}':40}" + "".join(f"{statistics.median(values):10.2f}" for values in row.values())
              + f"{'-':>10}{median_ratio(row['hull'], row['lxc']):10.2f}")
    print(f"{f'{FEW} with systemd: processes beside, PSS':40}"
          + "".join(f"{statistics.median(one['keeper']['pss'] for one in rounds):10.0f}" for rounds in few.values()))
    print(f"{'  states': <40}" + ", ".join(f"{side} {one['states']}" for side, rounds in few.items() for one in rounds))
    many = numbers["many"]
    print(f"{MANY} with systemd: all answer after {many['answered']:.1f} s, have booted after {many['running']:.1f} s: {many['states']}; "
          f"{many['available_kib'] / 1024:.1f} MiB each, {many['keeper']['pss']:.0f} KiB (PSS) of it the keeper")
    print(f"\n{'inside a container':40}{'inside':>10}{'outside':>10}{'ratio':>8}{'best':>8}{'any filter':>12}{'ratio':>8}")
    for case, row in numbers["overhead"].items():
        inside, outside, floor = row["inside"], row["outside"], row["floor"]
        unit, ns = ("ms", 1e6) if case in PROGRAMS else ("ns", 1)
        print(f"{f'{CASES[case]}, {unit}':40}{statistics.median(inside) / ns:10.1f}{statistics.median(outside) / ns:10.1f}"
              f"{median_ratio(inside, outside):8.3f}{min(inside) / min(outside):8.3f}"
              f"{statistics.median(floor) / ns:12.1f}{median_ratio(inside, floor):8.3f}")
    print(f"CPU shares {SHARES[0]}:{SHARES[1]}: " + ", ".join(f"{what} 1:{ratio:.3f}" for what, ratio in numbers["shares"].items()))


def aims(numbers):
    """[(text, True, False or None: not measured, detail)]"""
    result = []

    def add(text, value, limit, detail):
        result.append((f"system containers: {text}", value <= limit if numbers else None, detail if numbers else ""))

    first = {side: milliseconds(starts, 0) for side, starts in numbers["starts"].items()} if numbers else {}
    for peer in ("lxc", "nspawn"):
        ratio = 1 / surely_ratio(first[peer], first["hull"]) if numbers else 0
        add(f"the first instruction sooner than {peer}'s", ratio, 1, f"{ratio:.2f}")
    for case, limit in (("sha256", 1.01), ("getppid", 1.03), ("find", 1.03)):
        row = numbers["overhead"][case] if numbers else {}
        ratio = 1 / surely_ratio(row["outside"], row["inside"]) if numbers else 0
        name = f"a syscall-bound program ({case})" if case in PROGRAMS else case
        add(f"{name} inside at most {(limit - 1) * 100:.0f} % slower", ratio, limit, f"{ratio:.3f}")
    row = numbers["overhead"]["getppid"] if numbers else {}
    ratio = 1 / surely_ratio(row["floor"], row["inside"]) if numbers else 0
    add("getppid inside at most 3 % slower than behind any filter outside", ratio, 1.03, f"{ratio:.3f}")
    answered = min(one["answered"] or BOOT_TIMEOUT for one in numbers["few"]["hull"]) if numbers else 0
    add(f"{FEW} with systemd answer within 2 s", answered, 2, f"{answered:.2f} s")
    answered = numbers["many"]["answered"] or BOOT_TIMEOUT if numbers else 0
    add(f"{MANY} with systemd answer within 60 s", answered, 60, f"{answered:.1f} s")
    bad = sum(count for one in [*numbers["few"]["hull"], numbers["many"]] for state, count in one["states"].items()
              if state != "running") if numbers else 0
    add("none degraded", bad, 0, f"{bad}")
    off = max(abs(ratio / (SHARES[1] / SHARES[0]) - 1) for ratio in numbers["shares"].values()) if numbers else 0
    add("CPU shares within 2 %", off, 0.02, f"{off * 100:.1f} %")
    return result


def main():
    folder, build, rounds = sys.argv[1:]
    say(numbers=measure_inside(pathlib.Path(folder), pathlib.Path(build), int(rounds)))


if __name__ == "__main__":
    main()
