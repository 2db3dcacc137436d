"""Rows about containers: hull-oci beside crun and runc, on the same bundle, one right after the other.

Each side has a process that starts its commands, since crun needs a mount namespace without cgroup v2 on hybrid hosts: making that is not
crun's time. So this file is also the program of those processes: `containers.py SIDE`, with a row a line on standard input."""
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from disks import median_ratio, surely_ratio

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests/integration"))

SIDES = ("hull", "crun", "runc")
RUNS = 40  # of one row and side, in each round
MANY = 500
EDGE = 30  # containers at both ends of MANY that are compared


def timed(words):
    start = time.perf_counter()
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


class Place:
    """In one side's process: its runtime and the bundles."""

    def __init__(self, folder, side):
        import oci  # pylint: disable=import-outside-toplevel  (it asks the environment where the programs are)
        self.folder, self.side = folder, side
        self.runtime = oci.Runtime(side, folder / f"state-{side}", is_prepared=True)
        self.true, self.sleep = (self.bundle(oci, *args) for args in (["true"], ["sleep", "1000"]))
        self.peak = pathlib.Path(os.environ["HULL_BUILD"]) / "tests/bench/peak"

    def bundle(self, oci, *args):
        made = oci.Bundle(self.folder / f"{args[0]}-{self.side}", self.folder / "rootfs")
        made.process["args"] = list(args)
        return made.write().path

    def words(self, *words):
        return self.runtime.words(*words)

    def run_true(self):
        return timed(self.words("run", "-b", self.true, f"bench-{self.side}"))

    def create_start_delete(self):
        """Three commands; the wait for the program's end, which is no command, does not count."""
        name = f"bench-{self.side}"
        seconds = timed(self.words("create", "-b", self.true, name)) + timed(self.words("start", name))
        while json.loads(self.runtime.ok("state", name))["status"] != "stopped":
            pass
        return seconds + timed(self.words("delete", name))

    def begin(self):
        return timed(self.words("run", "-d", "-b", self.sleep, f"running-{self.side}"))

    def exec_true(self):
        return timed(self.words("exec", f"running-{self.side}", "true"))

    def end(self):
        return timed(self.words("delete", "--force", f"running-{self.side}"))

    def peak_kib(self):
        words = [str(self.peak), *self.words("run", "-b", self.true, f"bench-{self.side}")]
        return int(subprocess.run(words, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True).stderr)

    def created_kib(self):
        name = f"bench-{self.side}"
        timed(self.words("create", "-b", self.true, name))
        pid = json.loads(self.runtime.ok("state", name))["pid"]
        lines = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
        timed(self.words("delete", "--force", name))
        return int([line for line in lines if line.startswith("Pss:")][0].split()[1])

    def first_and_last(self):
        """Seconds of a start, of the first and of the last of many that run at a time."""
        seconds = [timed(self.words("run", "-d", "-b", self.sleep, f"many-{i}")) for i in range(MANY)]
        for i in range(MANY):
            timed(self.words("delete", "--force", f"many-{i}"))
        return [statistics.median(seconds[:EDGE]), statistics.median(seconds[-EDGE:])]


class Side:
    """A side's process, as the bench sees it."""

    def __init__(self, folder, side):
        import oci  # pylint: disable=import-outside-toplevel
        words = [*oci.Runtime.preparation(side), sys.executable, __file__, side, str(folder)]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, row):
        self.process.stdin.write(f"{row}\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


TIMES = (("run of true", "run_true"), ("create, start, delete", "create_start_delete"), ("exec of true", "exec_true"))
SIZES = (("peak of the runtime", "peak_kib"), ("created container, PSS", "created_kib"))


def measure(build, rounds, show, with_many=True):
    """{"times": {row: {side: [s]}}, "sizes": {row: {side: [KiB]}}, "many": (first, last) or None}"""
    os.environ["HULL_BUILD"] = str(build)
    import oci  # pylint: disable=import-outside-toplevel
    with tempfile.TemporaryDirectory(prefix="hull-bench-") as text:
        folder = pathlib.Path(text)
        os.chmod(text, 0o755)
        oci.make_root(folder / "rootfs")
        sides = {name: Side(folder, name) for name in SIDES}
        times, sizes = {}, {}
        for side in sides.values():
            side.ask("begin")
        for name, row in TIMES:
            show(name)
            times[name] = {side: [] for side in SIDES}
            for _ in range(rounds * RUNS):
                for side, process in sides.items():
                    times[name][side].append(process.ask(row))
        for name, row in SIZES:
            show(name)
            sizes[name] = {side: [process.ask(row) for _ in range(3)] for side, process in sides.items()}
        show(f"{MANY} containers")
        many = sides["hull"].ask("first_and_last") if with_many else None
        for side in sides.values():
            side.ask("end")
            side.close()
    show("")
    return {"times": times, "sizes": sizes, "many": many}


def print_rows(numbers):
    if not numbers:
        return
    print(f"\n{'containers':28}" + "".join(f"{side:>12}" for side in SIDES) + f"{'hull/crun':>12}{'hull/runc':>12}")
    for name, row in numbers["times"].items():
        print(f"{name + ', ms':28}" + "".join(f"{statistics.median(row[side]) * 1000:12.2f}" for side in SIDES)
              + "".join(f"{median_ratio(row['hull'], row[side]):12.2f}" for side in SIDES[1:]))
    for name, row in numbers["sizes"].items():
        print(f"{name + ', KiB':28}" + "".join(f"{statistics.median(row[side]):12.0f}" for side in SIDES))
    if numbers["many"] is not None:
        first, last = numbers["many"]
        print(f"{f'start, 1st and {MANY}th, ms':28}{first * 1000:12.2f}{last * 1000:12.2f}{last / first:12.2f}")


def aims(numbers):
    """[(text, True, False or None: not measured, detail)]"""
    def ratio(name, side):
        return 1 / surely_ratio(numbers["times"][name][side], numbers["times"][name]["hull"])

    def verdict(value, limit, detail):
        return (value <= limit if value is not None else None), detail if value is not None else ""

    life, start = ("create, start, delete", "run of true")
    crun = max(ratio(life, "crun"), ratio(start, "crun")) if numbers else None
    runc = max(ratio(life, "runc"), ratio(start, "runc")) if numbers else None
    executes = ratio("exec of true", "crun") if numbers else None
    peak = statistics.median(numbers["sizes"]["peak of the runtime"]["hull"]) if numbers else None
    created = statistics.median(numbers["sizes"]["created container, PSS"]["hull"]) if numbers else None
    many = numbers["many"][1] / numbers["many"][0] if numbers and numbers["many"] else None
    return [("containers: at most 0.8 times crun's time", *verdict(crun, 0.8, f"{crun or 0:.2f}")),
            ("containers: at most 0.3 times runc's time", *verdict(runc, 0.3, f"{runc or 0:.2f}")),
            ("containers: exec at most crun's time", *verdict(executes, 1.0, f"{executes or 0:.2f}")),
            ("containers: runtime at most 2.5 MiB", *verdict(peak, 2560, f"{peak or 0:.0f} KiB")),
            ("containers: created container at most 500 KiB", *verdict(created, 500, f"{created or 0:.0f} KiB")),
            (f"containers: the {MANY}th start at most 1.1 times the first", *verdict(many, 1.1, f"{many or 0:.2f}"))]


def main():
    side, folder = sys.argv[1:]
    place = Place(pathlib.Path(folder), side)
    for line in sys.stdin:
        print(json.dumps(getattr(place, line.strip())()), flush=True)


if __name__ == "__main__":
    main()
