"""The table and the aims."""
import math

from programs import PROGRAMS, SPEED_AIM

# An aim against another measurement is given this much noise; aims that are numbers are not.
NOISE = 1.1
# There TCG runs the host's own instruction (or native pays for a trap): Hull need not be faster.
WITHIN_TWICE = {"cpuid", "xadd", "xadd_2"}


def ratio(over, under):
    return over / under if over and under else None


def duration(ns):
    if ns is None:
        return "-"
    for unit, factor in (("ns", 1), ("us", 1e3), ("ms", 1e6), ("s", 1e9)):
        if ns < 1000 * factor or unit == "s":
            return f"{ns / factor:.3g} {unit}" if ns < 100 * factor else f"{ns / factor:.0f} {unit}"
    return "-"


def times(value):
    return "-" if value is None else f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def geometric_mean(values):
    values = [v for v in values if v]
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def print_suite(rows, cpus, units):
    print(f"\n{cpus} vCPU{'s' if cpus > 1 else ''}: time of one unit; medians")
    print(f"{'case':15} {'unit':24} {'native':>9} {'hull':>9} {'tcg':>9} {'tcg/nat':>8} {'hull/nat':>8} {'tcg/hull':>8}")
    for name, row in rows.items():
        native, hull, tcg = row["native"], row["hull"], row["tcg"]
        print(f"{name:15} {units.get(name, 'program')[:24]:24} {duration(native):>9} {duration(hull):>9} {duration(tcg):>9} "
              f"{times(ratio(tcg, native)):>8} {times(ratio(hull, native)):>8} {times(ratio(tcg, hull)):>8}")
        for note in row["notes"]:
            print(f"{'':15} ! {note}")
    for what, of in means(rows).items():
        if any(of.values()):
            print(f"{'geometric mean':15} {what:24} {'':29} {times(of['tcg/native']):>8} {times(of['hull/native']):>8} "
                  f"{times(of['tcg/hull']):>8}")


def means(rows):
    """Geometric means over the rows that all three sides have. Without cpuid: where the host is a guest itself,
    native is a trap, elsewhere it is not."""
    whole = {n: r for n, r in rows.items() if r["native"] and r["hull"] and r["tcg"] and n != "cpuid"}
    groups = {"cases": [r for n, r in whole.items() if n not in PROGRAMS],
              "programs": [r for n, r in whole.items() if n in PROGRAMS], "all": list(whole.values())}
    return {what: {f"{over}/{under}": geometric_mean(r[over] / r[under] for r in group)
                   for over, under in (("tcg", "native"), ("hull", "native"), ("tcg", "hull"))}
            for what, group in groups.items()}


def print_boots(rows):
    print(f"\n{'guests':52} {'unit':5} {'hull':>9} {'tcg':>9} {'tcg/hull':>8}")
    for row in rows.values():
        print(f"{row['what']:52} {row['unit']:5} {times(row['hull']):>9} {times(row['tcg']):>9} "
              f"{times(ratio(row['tcg'], row['hull'])):>8}")
        for note in row["notes"]:
            print(f"{'':15} ! {note}")


def aims(suites, boots, memory):
    """[(text, True, False or None: not measured, detail)]"""
    one, two = suites.get(1, {}), suites.get(2, {})

    def speed(rows, name):
        return ratio(rows[name]["tcg"], rows[name]["hull"]) if name in rows else None

    result = []

    def add(text, holds, detail=""):
        result.append((text, holds, detail))

    def add_speeds(text, rows, wanted):
        speeds = {name: speed(rows, name) for name in wanted}
        slow = [f"{name} {times(value)}" for name, value in speeds.items() if value and value < wanted[name]]
        missing = [name for name, value in speeds.items() if value is None]
        holds = False if slow else None if missing else True
        add(text, holds, ", ".join(slow + ([f"not measured: {', '.join(missing)}"] if missing else [])))

    mean = means(one)["all"]["hull/native"] if one else None
    gaps = [name for name, row in one.items() if not (row["native"] and row["hull"] and row["tcg"])]
    # A mean over some of the rows may miss the aim, but does not show that it holds.
    add("geometric mean at most 2.0 times native, 1 vCPU",
        None if not mean or (gaps and mean <= 2.0) else mean <= 2.0,
        f"{times(mean)} over {len(one) - len(gaps)} of {len(one)} rows")

    slower, missing = [], []
    for name, row in one.items():
        if row["hull"] is None or row["tcg"] is None:
            missing.append(name)
        elif row["hull"] > row["tcg"] * (2 if name in WITHIN_TWICE else 1) * NOISE:
            slower.append(f"{name} {times(speed(one, name))}")
    add("no case slower than TCG (cpuid, atomics: within 2 times)",
        False if slower else None if missing or not one else True,
        ", ".join(slower + ([f"not measured: {', '.join(missing)}"] if missing else [])))
    add_speeds("programs at least 3 times TCG's speed, python and gcc 4", one, SPEED_AIM)
    add_speeds("boots in at most half of TCG's time", boots, {"init": 2, "login": 2})
    start = boots["start"]["hull"] if "start" in boots else None
    add("program start to first instruction under 15 ms", start < 15 if start else None, times(start))

    alone = two.get("sha256", {}).get("hull")
    both = two.get("sha256_2", {}).get("hull")
    gain = 2 * alone / both if alone and both else None
    detail = f"hull {times(gain)}"
    if alone and both and two["sha256"]["native"] and two["sha256_2"]["native"]:
        detail += f", native {times(2 * two['sha256']['native'] / two['sha256_2']['native'])}"
    add("2 vCPUs: two compute threads at least 1.9 times one", gain >= 1.9 if gain else None, detail)
    clock = two.get("clock_gettime", {}).get("hull")
    add("2 vCPUs: clock_gettime under 40 ns", clock < 40 if clock else None, duration(clock))
    add_speeds("2 vCPUs: futex, fork, page_fault at least 3 times TCG's speed", two,
               {"futex": 3, "fork": 3, "page_fault": 3})
    busy = memory.get("hull")
    add("busy guest: at most 96 MiB beyond its memory (code cache 64, tables 32)", busy <= 96 if busy else None,
        f"{times(busy)} MiB")
    return result


def print_aims(results):
    print("\naims")
    for text, holds, detail in results:
        word = {True: "holds", False: "FAILS", None: "?"}[holds]
        print(f"  {word:6} {text}{': ' + detail if detail else ''}")
