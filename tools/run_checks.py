#!/usr/bin/env python3
"""Runs every test of the project and ends with one line: N passed, N failed, N skipped.

The steps are the table STEPS below. A step counts its tests itself; one that cannot even start counts as one failure.
"""
import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import time
import xml.etree.ElementTree

ROOT = pathlib.Path(__file__).resolve().parent.parent
PYTHON = "/usr/bin/python3"
FUZZ_SECONDS, LONG_FUZZ_SECONDS = 6, 300
TEST_FOLDERS = ("tests/integration", "tests/security")
MAX_REPEATED = 5
CPUS = os.cpu_count() or 1


class Tally:
    def __init__(self):
        self.passed = self.failed = self.skipped = 0
        self.notes = []

    def add(self, passed=0, failed=0, skipped=0):
        self.passed += passed
        self.failed += failed
        self.skipped += skipped

    def count(self):
        return self.passed + self.failed + self.skipped

    def note(self, text):
        self.notes.append(text)
        print(f"  {text}", flush=True)


def meson_step(tally, build, *selection):
    """Runs meson's tests of some suites; the skip reason is the last line that the test printed."""
    subprocess.run(["meson", "test", "-C", build, "--no-rebuild", "--quiet", "--num-processes", str(CPUS), *selection],
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with open(build / "meson-logs/testlog.json", encoding="utf-8") as log:
        for line in log:
            test = json.loads(line)
            output = (test.get("stdout") or "") + (test.get("stderr") or "")
            if test["result"] == "OK":
                tally.add(passed=1)
            elif test["result"] == "SKIP":
                tally.add(skipped=1)
                reason = output.strip().splitlines()[-1] if output.strip() else "no reason given"
                tally.note(f"skipped {test['name']}: {reason}")
            else:
                tally.add(failed=1)
                tally.note(f"FAILED {test['name']} ({test['result']})")
                print(output[-6000:], flush=True)


def unit_step(tally, arguments):
    meson_step(tally, arguments.build, "--suite", "unit")


def differential_step(tally, arguments):
    suites = ["differential", "differential-long"] if arguments.long else ["differential"]
    meson_step(tally, arguments.build, *(word for suite in suites for word in ("--suite", suite)))


def file_of(classname):
    """pytest names modules by the folder that has its configuration."""
    module = classname.split(".")[-1] + ".py"
    return next((f"{folder}/{module}" for folder in TEST_FOLDERS if (ROOT / folder / module).exists()), module)


def run_pytest(arguments, *words):
    """Returns how each test ended, by its name."""
    report = arguments.build / "pytest.xml"
    report.unlink(missing_ok=True)
    command = [PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", "-rs", "--durations=40", *words]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "HULL_BUILD": str(arguments.build)})
    results = {}
    for case in xml.etree.ElementTree.parse(report).getroot().iter("testcase"):
        # With --dist loadgroup the names of grouped tests end with their group, which pytest does not take back.
        name = f"{file_of(case.get('classname'))}::{re.sub(r'@[a-z0-9_]+$', '', case.get('name'))}"
        tags = {child.tag for child in case}
        result = "failed" if tags & {"failure", "error"} else "skipped" if "skipped" in tags else "passed"
        results[name] = "failed" if "failed" in (result, results.get(name)) else result
    return results


def pytest_step(tally, arguments):
    """All cores are busy here, with a worker more, as tests often wait. A few that fail run again alone; what passes then is
    told, for it may still be a bug that needs a busy machine."""
    selection = [] if arguments.long else ["-m", "not long"]
    results = run_pytest(arguments, "-n", str(CPUS + 1), "--dist", "loadgroup", *selection, *TEST_FOLDERS)
    failed = [name for name, result in results.items() if result == "failed"]
    if 0 < len(failed) <= MAX_REPEATED:
        print(f"  again, alone: {len(failed)} that failed", flush=True)
        again = run_pytest(arguments, *failed)
        for name in failed:
            results[name] = again.get(name, "failed")
            tally.note(f"{'FAILED twice' if results[name] == 'failed' else 'failed once, and passed alone'}: {name}")
    for result in results.values():
        tally.add(**{result: 1})


def sanitizer_step(tally, arguments):
    """ASan and UBSan: the unit tests, and a busybox guest. All that is translated there is verified. The long ones are those
    that read damaged images."""
    build = arguments.build.with_name(arguments.build.name + "-asan")
    subprocess.run(["tools/build", build, "-Dtests=enabled", "-Db_sanitize=address,undefined",
                    "-Doptimization=1", "-Dverify_code=true"], cwd=ROOT, check=True)
    meson_step(tally, build, "--suite", "unit", "--timeout-multiplier", "4")
    if arguments.long:
        meson_step(tally, build, "--timeout-multiplier", "8", "block-foreign-mutated-long", "block-qcow2-mutate-long",
                   "block-luks1-mutate-long", "block-luks2-mutate-long")
    command = [PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "sanitizer", "tests/integration"]
    environment = {**os.environ, "HULL_BUILD": str(build), "HULL_GUESTS": str(arguments.build / "guest")}
    status = subprocess.run(command, cwd=ROOT, env=environment).returncode
    tally.add(passed=int(status == 0), failed=int(status != 0))
    if status != 0:
        tally.note("FAILED busybox guest under ASan and UBSan")


def fuzz_step(tally, arguments):
    """Each libFuzzer target for a while, as many at a time as there are CPUs."""
    seconds = LONG_FUZZ_SECONDS if arguments.long else FUZZ_SECONDS
    build = arguments.build.with_name(arguments.build.name + "-fuzz")
    targets = [f"tests/fuzz/{source.stem}" for source in sorted((ROOT / "tests/fuzz").glob("fuzz_*.c"))]
    subprocess.run(["tools/build", build, "-Dfuzz=true", *targets], cwd=ROOT, check=True, env={**os.environ, "CC": "clang"})
    waiting = [build / target for target in targets]
    running = {}
    while waiting or running:
        while waiting and len(running) < CPUS:
            target = waiting.pop(0)
            corpus = build / "corpus" / target.name
            corpus.mkdir(parents=True, exist_ok=True)
            seeds = [p for p in [ROOT / "tests/fixtures" / target.name] if p.is_dir()]
            log = open(build / f"{target.name}.log", "wb")
            running[target] = subprocess.Popen(
                [target, f"-max_total_time={seconds}", "-timeout=10", "-rss_limit_mb=1024",
                 f"-artifact_prefix={build}/{target.name}-", corpus, *seeds], stdout=log, stderr=log)
        for target, process in list(running.items()):
            if process.poll() is not None:
                del running[target]
                tally.add(passed=int(process.returncode == 0), failed=int(process.returncode != 0))
                if process.returncode != 0:
                    tally.note(f"FAILED {target.name}")
                    print((build / f"{target.name}.log").read_text(errors="replace")[-4000:], flush=True)
        time.sleep(0.2)


STEPS = [
    ("unit tests", unit_step),
    ("differential tests against the host CPU", differential_step),
    ("integration tests", pytest_step),
    ("sanitizers", sanitizer_step),
    ("fuzzers", fuzz_step),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--long", action="store_true", help="the long tests too")
    parser.add_argument("--only", metavar="WORD", help="only steps whose name contains it")
    parser.add_argument("build", type=pathlib.Path)
    arguments = parser.parse_args()
    arguments.build = arguments.build.resolve()
    tally = Tally()
    for name, step in STEPS:
        if arguments.only and arguments.only not in name:
            continue
        print(f"== {name}", flush=True)
        start = time.monotonic()
        before = tally.count()
        try:
            step(tally, arguments)
        except (OSError, subprocess.SubprocessError, xml.etree.ElementTree.ParseError, ValueError) as error:
            tally.add(failed=1)
            tally.note(f"FAILED {name}: {error}")
        if tally.count() == before:
            tally.add(failed=1)
            tally.note(f"FAILED {name}: not one test ran")
        print(f"   {time.monotonic() - start:.0f} s", flush=True)
    for note in tally.notes:
        print(note)
    print(f"{tally.passed} passed, {tally.failed} failed, {tally.skipped} skipped")
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main())
