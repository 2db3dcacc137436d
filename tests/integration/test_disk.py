"""hull disk, with qemu-img as the oracle: images of every kind, conversion both ways, names inside images, interruptions."""
import fcntl
import json
import os
import pathlib
import random
import shutil
import signal
import struct
import subprocess
import time

import pexpect
import pytest

from conftest import HULL, hull

MIB = 1 << 20
pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")

# qemu-img's name of the format, its options, and what of the image hull must be allowed to open.
KINDS = {
    "vmdk-sparse": ("vmdk", "subformat=monolithicSparse", None),
    "vmdk-flat": ("vmdk", "subformat=monolithicFlat", "*-flat.vmdk"),
    "vmdk-split-sparse": ("vmdk", "subformat=twoGbMaxExtentSparse", "*-s0*.vmdk"),
    "vmdk-split-flat": ("vmdk", "subformat=twoGbMaxExtentFlat", "*-f0*.vmdk"),
    "vmdk-stream": ("vmdk", "subformat=streamOptimized", None),
    "vhdx-dynamic": ("vhdx", "subformat=dynamic", None),
    "vhdx-fixed": ("vhdx", "subformat=fixed", None),
    "vhd-dynamic": ("vpc", "subformat=dynamic,force_size=on", None),
    "vhd-fixed": ("vpc", "subformat=fixed,force_size=on", None),
    "qcow2": ("qcow2", "cluster_size=64k", None),
    "qcow2-v2": ("qcow2", "compat=v2,cluster_size=4k", None),
    "qcow2-extended": ("qcow2", "extended_l2=on,lazy_refcounts=on", None),
    "qcow2-odd": ("qcow2", "refcount_bits=1,cluster_size=512", None),
    "qcow2-data": ("qcow2", "data_file=data.raw,data_file_raw=on", "data.raw"),
    "vdi-dynamic": ("vdi", "static=off", None),
    "vdi-static": ("vdi", "static=on", None),
}


def run(*words, **options):
    return subprocess.run([str(w) for w in words], check=True, capture_output=True, text=True, **options).stdout


def qemu_same(first, first_format, second, second_format):
    # qemu-img looks for data files from its own folder, not from the image's.
    run("qemu-img", "compare", "-f", first_format, "-F", second_format, first, second, cwd=pathlib.Path(second).parent)


def ok(*words, **options):
    result = hull("disk", *words, **options)
    assert result.returncode == 0, result.stderr
    return result.stdout


def refused(*words, **options):
    """The one line of a command that fails."""
    result = hull("disk", *words, **options)
    assert result.returncode == 1, (result.returncode, result.stdout, result.stderr)
    assert result.stderr.startswith("hull: ") and result.stderr.count("\n") == 1, result.stderr
    return result.stderr


def make_raw(path, size, seed=1):
    """Data, zeros that are written, and holes, in pieces of odd sizes."""
    rng = random.Random(seed)
    with open(path, "wb") as file:
        file.truncate(size)
        at = 0
        while at < min(size, 40 * MIB):
            length = min(rng.choice([512, 4096, 65536, 300 * 1024, 2 * MIB]), size - at)
            kind = rng.randrange(4)
            file.seek(at)
            if kind < 2:
                file.write(rng.randbytes(length) if kind else bytes([rng.randrange(256)]) * length)
            elif kind == 2:
                file.write(bytes(length))
            at += length
        file.seek(size - 512)
        file.write(b"end." * 128)
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_raw(tmp_path_factory.mktemp("disk") / "source.raw", 24 * MIB + 512 * 3)


@pytest.mark.sanitizer
@pytest.mark.parametrize("kind", KINDS)
def test_images_of_qemu(kind, source, tmp_path):
    """info, check, map, compare and convert of what qemu-img made."""
    name, options, allow = KINDS[kind]
    image = tmp_path / f"image.{name}"
    run("qemu-img", "convert", "-O", name, "-o", options, source, image, cwd=tmp_path)
    allowed = ["--allow", allow] if allow else []
    info = json.loads(ok("info", "--json", image, *allowed))
    theirs = json.loads(run("qemu-img", "info", "--output=json", "-f", name, image))
    assert info["format"] == ("vhd" if name == "vpc" else name)
    assert info["size_bytes"] == theirs["virtual-size"]
    assert "cluster" not in theirs or info["cluster_size_bytes"] == theirs["cluster-size"]
    checked = json.loads(ok("check", "--json", image, *allowed))
    assert checked["errors"] == 0 and checked["leaks"] == 0 and checked["total_clusters"] > 0
    assert "identical" in ok("compare", source, image, *allowed)
    back = tmp_path / "back.raw"
    ok("convert", image, back, "--format", "raw", *allowed)
    qemu_same(source, "raw", back, "raw")
    assert os.stat(back).st_blocks <= os.stat(source).st_blocks  # the written zeros are holes now
    # The same ranges are data as qemu-img says, up to where the images' clusters end.
    ours = data_ranges(json.loads(ok("map", "--json", image, *allowed)))
    if allow is None:
        rows = json.loads(run("qemu-img", "map", "--output=json", "-f", name, image))
        assert covers(ours, [(r["start"], r["start"] + r["length"]) for r in rows if r["data"]])


def data_ranges(rows):
    assert rows[0]["start"] == 0
    for before, after in zip(rows, rows[1:]):
        assert before["start"] + before["length"] == after["start"]
    return [(r["start"], r["start"] + r["length"]) for r in rows if r["data"]]


def covers(outer, inner):
    """Does each inner range lie in the outer ones, which may touch each other?"""
    joined = []
    for start, end in outer:
        if joined and joined[-1][1] == start:
            joined[-1][1] = end
        else:
            joined.append([start, end])
    return all(any(a <= start and end <= b for a, b in joined) for start, end in inner)


@pytest.mark.sanitizer
@pytest.mark.parametrize("name, options", [
    ("raw", []), ("vmdk", []), ("vhdx", []), ("vhdx", ["block_size=8M"]), ("vmdk", ["subformat=streamOptimized"]),
    ("qcow2", []), ("qcow2", ["compat=v2"]), ("qcow2", ["cluster_size=4K", "refcount_bits=64"]),
    ("qcow2", ["extended_l2=on", "cluster_size=2M", "lazy_refcounts=on"]), ("qcow2", ["preallocation=metadata"]),
    ("qcow2", ["compression_type=zstd", "-c"]), ("qcow2", ["-c"]), ("qcow2", ["data_file=data.raw"])])
@pytest.mark.parametrize("parallel", [1, 16])
def test_images_for_qemu(name, options, parallel, source, tmp_path):
    image = tmp_path / f"image.{name}"
    words = [w for o in options for w in (["--compress"] if o == "-c" else ["--option", o])]
    ok("convert", source, image, "--format", name, "--parallel", parallel, *words)
    qemu_same(source, "raw", image, name)
    if "-c" in options:
        assert os.stat(image).st_size < 0.9 * os.stat(source).st_blocks * 512
    if name != "raw":
        run("qemu-img", "check", "-f", name, image, cwd=tmp_path)
        assert json.loads(ok("check", "--json", image, "--allow", "data.raw"))["errors"] == 0
    ok("compare", "--strict", source, image, "--allow", "data.raw")
    assert [p.name for p in tmp_path.iterdir() if p.name != "data.raw"] == [image.name]


@pytest.mark.parametrize("size", [512, 65536, 65536 + 512, MIB, 33 * MIB + 512, 3 << 40])
@pytest.mark.parametrize("name", ["raw", "qcow2", "vmdk", "vhdx"])
def test_create(name, size, tmp_path):
    image = tmp_path / f"new.{name}"
    ok("create", image, size, "--format", name)
    theirs = json.loads(run("qemu-img", "info", "--output=json", "-f", name, image))
    assert theirs["virtual-size"] == size
    assert json.loads(ok("info", "--json", image))["size_bytes"] == size
    assert os.stat(image).st_blocks * 512 < 64 * MIB
    if size < 1 << 40:
        empty = tmp_path / "empty"
        empty.touch()
        os.truncate(empty, size)
        qemu_same(empty, "raw", image, name)


def test_format_by_name(source, tmp_path):
    for ending, expected in (("qcow2", "qcow2"), ("vmdk", "vmdk"), ("vhdx", "vhdx"), ("raw", "raw"), ("img", "raw"), ("x", "raw")):
        for image in (tmp_path / f"new.{ending}", tmp_path / f"copy.{ending}"):
            if image.stem == "new":
                ok("create", image, "1M")
            else:
                ok("convert", source, image)
            assert json.loads(run("qemu-img", "info", "--output=json", image))["format"] == expected
    ok("create", tmp_path / "plain.qcow2", "1M", "--format", "raw")
    assert (tmp_path / "plain.qcow2").read_bytes() == bytes(MIB)
    assert "cannot be made" in refused("convert", source, tmp_path / "copy.vdi")


def test_vmdk_is_a_stream(source, tmp_path):
    """Grains stand in the order of the disk, so that a reader need not seek."""
    image = tmp_path / "image.vmdk"
    ok("convert", source, image, "--format", "vmdk", "--parallel", 64)
    data = image.read_bytes()
    sectors, at = [], 128 * 512
    while int.from_bytes(data[at + 8:at + 12], "little"):
        sectors.append(int.from_bytes(data[at:at + 8], "little"))
        at += (12 + int.from_bytes(data[at + 8:at + 12], "little") + 511) // 512 * 512
    assert len(sectors) > 100 and sectors == sorted(sectors)


def test_names_inside_images(source, tmp_path):
    """CVE-2022-47951, CVE-2024-32498 and their like: an image names a file of the host."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"top secret" * 1000)
    image = tmp_path / "evil.vmdk"
    for name in (secret, "secret", "../" + tmp_path.name + "/secret", "json:{'driver':'file','filename':'secret'}"):
        image.write_text("# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n"
                         f"RW 16 FLAT \"{name}\" 0\n", encoding="ascii")
        for words in (["info", image], ["map", image], ["convert", image, tmp_path / "out"], ["check", image],
                      ["convert", image, tmp_path / "out", "--allow", "other"], ["compare", image, source]):
            result = hull("disk", *words)
            assert result.returncode in (1, 2) and "--allow" in result.stderr, (words, result.stderr)
        assert not (tmp_path / "out").exists()
    # A pattern does not reach into other folders; the name itself does.
    image.write_text(image.read_text().replace("json:{'driver':'file','filename':'secret'}", str(secret)), encoding="ascii")
    assert "--allow" in refused("convert", image, tmp_path / "out", "--allow", "*")
    ok("convert", image, tmp_path / "out", "--allow", secret)
    assert (tmp_path / "out").read_bytes() == secret.read_bytes()[:8192]


@pytest.mark.parametrize("option", ["backing", "data_file"])
def test_names_inside_qcow2(option, source, tmp_path):
    """CVE-2015-5163, CVE-2024-32498 and CVE-2024-4467: as a backing or a data file, plain or as QEMU's "json:"."""
    secret, image = tmp_path / "secret", tmp_path / "evil.qcow2"
    secret.write_bytes(b"top secret" * 1000)
    for name in (secret, "json:{'driver':'file','filename':'%s'}" % secret, "nbd://localhost/x"):
        if option == "backing":
            ok("create", image, "1M")
            ok("rebase", image, "--backing", name, "--backing-format", "raw", "--unsafe")
        else:
            data = tmp_path / ("x" * len(str(name)))
            data.unlink(missing_ok=True)
            ok("create", image, "1M", "--option", f"data_file={data.name}")
            image.write_bytes(image.read_bytes().replace(data.name.encode(), str(name).encode()))
        for words in (["map", image], ["convert", image, tmp_path / "out"], ["convert", image, tmp_path / "out", "--allow", "*"],
                      ["compare", image, source]):
            result = hull("disk", *words)
            assert result.returncode in (1, 2) and "--allow" in result.stderr, (words, result.stderr)
        assert "top secret" not in hull("disk", "info", image).stdout and not (tmp_path / "out").exists()


def test_parent(source, tmp_path):
    base, child = tmp_path / "base.vmdk", tmp_path / "child.vmdk"
    run("qemu-img", "convert", "-O", "vmdk", source, base)
    run("qemu-img", "create", "-f", "vmdk", "-b", base, "-F", "vmdk", child)
    run("qemu-io", "-f", "vmdk", "-c", "write -P 7 1M 3M", child)
    run("qemu-img", "convert", "-f", "vmdk", "-O", "raw", child, tmp_path / "theirs")
    assert json.loads(ok("info", "--json", child))["backing_file"] == str(base)
    assert str(base)[:40] in refused("convert", child, tmp_path / "ours")
    ok("convert", child, tmp_path / "ours", "--backing", base)
    qemu_same(tmp_path / "theirs", "raw", tmp_path / "ours", "raw")
    ok("convert", child, tmp_path / "ours", "--allow", base)
    qemu_same(tmp_path / "theirs", "raw", tmp_path / "ours", "raw")
    rows = json.loads(ok("map", "--json", child, "--backing", base))
    assert {row["depth"] for row in rows if row["data"]} == {0, 1}
    other = tmp_path / "other.vmdk"
    run("qemu-img", "convert", "-O", "vmdk", source, other)
    assert "not its parent" in refused("convert", child, tmp_path / "ours", "--backing", other)


def test_images_that_stand_on_each_other(tmp_path):
    text = ("# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=2\nparentFileNameHint=\"%s\"\ncreateType=\"monolithicFlat\"\n"
            "RW 16 ZERO\n")
    (tmp_path / "a.vmdk").write_text(text % "b.vmdk", encoding="ascii")
    (tmp_path / "b.vmdk").write_text(text % "a.vmdk", encoding="ascii")
    assert "64 images" in refused("map", tmp_path / "a.vmdk", "--allow", "*")


@pytest.mark.parametrize("name", ["qcow2", "vmdk", "vhdx", "vpc", "vdi"])
def test_a_raw_disk_that_looks_like_an_image(name, source, tmp_path):
    """CVE-2008-2004 and its like: a guest writes an image's first bytes into its raw disk; nothing that writes believes them."""
    disk = tmp_path / "disk.raw"
    run("qemu-img", "convert", "-O", name, source, disk)
    before = disk.read_bytes()
    line = refused("resize", disk, "+1M")
    assert "raw" in line and "--image-format" in line
    plain = tmp_path / "disk"
    disk.rename(plain)
    assert "--image-format" in refused("resize", plain, "+1M")
    ok("resize", plain, "+1M", "--image-format", "raw")
    assert plain.read_bytes() == before + bytes(MIB)
    assert json.loads(ok("info", "--json", "--image-format", "raw", plain))["size_bytes"] == len(before) + MIB


def test_resize(tmp_path):
    disk = tmp_path / "disk.raw"
    ok("create", disk, "8M")
    assert "9M" in ok("resize", disk, "9M")
    assert os.stat(disk).st_size == 9 * MIB
    ok("resize", disk, "+3M")
    assert "--shrink" in refused("resize", disk, "-2M")
    ok("resize", "--shrink", disk, "-2M")
    assert os.stat(disk).st_size == 10 * MIB
    assert "multiple" in refused("resize", disk, "1234567", "--shrink")
    assert "fit" in refused("resize", disk, "-20M", "--shrink")
    assert ok("resize", disk, "1M", "--shrink", "--quiet") == ""


def qemu_check(image):
    """qemu-img finds neither an error nor a leak."""
    run("qemu-img", "check", image)


@pytest.fixture
def overlay(source, tmp_path):
    """base.raw <- middle.qcow2 <- top.qcow2, and what top.qcow2 reads as, in expected.raw."""
    base, middle, top = tmp_path / "base.raw", tmp_path / "middle.qcow2", tmp_path / "top.qcow2"
    shutil.copy(source, base)
    ok("create", middle, "--format", "qcow2", "--backing", "base.raw")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 1 1M 1M", "-c", "write -z 4M 2M", middle)
    ok("create", top, "30M", "--format", "qcow2", "--backing", "middle.qcow2")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 2 1500k 1M", "-c", "write -P 3 26M 100k", "-c", "write -z 8M 1M", top)
    run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", top, tmp_path / "expected.raw")
    return top


def test_overlays(overlay, tmp_path):
    info = json.loads(ok("info", "--json", overlay))
    assert info["backing_file"] == "middle.qcow2" and info["backing_format"] == "qcow2" and info["size_bytes"] == 30 * MIB
    expected = tmp_path / "expected.raw"
    assert "--allow" in refused("convert", overlay, tmp_path / "out")
    assert "base.raw" in refused("convert", overlay, tmp_path / "out", "--allow", "middle.qcow2")
    ok("convert", overlay, tmp_path / "out", "--allow", "*")
    qemu_same(expected, "raw", tmp_path / "out", "raw")
    assert "identical" in ok("compare", overlay, expected, "--allow", "*")
    rows = json.loads(ok("map", "--json", overlay, "--allow", "*"))
    theirs = json.loads(run("qemu-img", "map", "--output=json", overlay))
    assert {r["depth"] for r in rows if r["data"]} == {0, 1, 2}
    assert covers(data_ranges(rows), [(r["start"], r["start"] + r["length"]) for r in theirs if r["data"]])
    # Without a size it has the backing file's; an ending that says no format needs the option.
    shutil.copy(tmp_path / "base.raw", tmp_path / "base")
    assert "--backing-format" in refused("create", tmp_path / "x.qcow2", "--format", "qcow2", "--backing", "base")
    ok("create", tmp_path / "x.qcow2", "--format", "qcow2", "--backing", "base", "--backing-format", "raw")
    assert json.loads(ok("info", "--json", tmp_path / "x.qcow2"))["size_bytes"] == os.stat(tmp_path / "base").st_size
    assert "No such file" in refused("create", tmp_path / "y.qcow2", "--format", "qcow2", "--backing", "none.raw")
    assert "qcow2 images do" in refused("create", tmp_path / "y.vhdx", "--format", "vhdx", "--backing", "base.raw")


def test_rebase(overlay, tmp_path):
    expected = tmp_path / "expected.raw"
    other = make_raw(tmp_path / "other.raw", 20 * MIB, seed=9)
    assert "--backing" in refused("rebase", overlay)
    assert "--allow" in refused("rebase", overlay, "--backing", "other.raw")
    ok("rebase", overlay, "--backing", "other.raw", "--allow", "middle.qcow2", "--allow", "base.raw")
    qemu_check(overlay)
    qemu_same(expected, "raw", overlay, "qcow2")
    assert json.loads(ok("info", "--json", overlay))["backing_file"] == "other.raw"
    moved = tmp_path / "moved.raw"
    other.rename(moved)
    ok("rebase", overlay, "--backing", moved, "--unsafe")
    qemu_same(expected, "raw", overlay, "qcow2")
    ok("rebase", overlay, "--backing", "", "--allow", moved)
    moved.unlink()
    qemu_check(overlay)
    qemu_same(expected, "raw", overlay, "qcow2")
    assert "backing_file" not in json.loads(ok("info", "--json", overlay))


def test_commit(overlay, tmp_path):
    expected = tmp_path / "expected.raw"
    assert "--allow" in refused("commit", overlay)
    ok("commit", overlay, "--allow", "*")
    qemu_check(tmp_path / "middle.qcow2")
    qemu_same(expected, "raw", tmp_path / "middle.qcow2", "qcow2")
    ok("commit", tmp_path / "middle.qcow2", "--backing", tmp_path / "base.raw")
    qemu_same(expected, "raw", tmp_path / "base.raw", "raw")
    assert "nothing" in refused("commit", tmp_path / "base.raw")


def test_snapshots(source, tmp_path):
    image = tmp_path / "vm.qcow2"
    ok("convert", source, image, "--format", "qcow2")
    ok("snapshot", image, "--create", "before")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 9 0 9M", image)
    ok("snapshot", image, "--create", "after")
    rows = json.loads(ok("snapshot", image, "--json"))
    assert [r["name"] for r in rows] == ["before", "after"] and rows[0]["size_bytes"] == os.stat(source).st_size
    assert "before" in run("qemu-img", "snapshot", "-l", image)
    qemu_check(image)
    ok("snapshot", image, "--apply", "before")
    qemu_same(source, "raw", image, "qcow2")
    assert "there is one" in refused("snapshot", image, "--create", "before")
    ok("snapshot", image, "--delete", "before")
    ok("snapshot", image, "--delete", "after")
    assert json.loads(ok("snapshot", image, "--json")) == []
    qemu_check(image)
    qemu_same(source, "raw", image, "qcow2")
    assert "at a time" in refused("snapshot", image, "--create", "a", "--delete", "b")
    assert "snapshots" in refused("snapshot", source)


def test_check_and_repair(source, tmp_path):
    image = tmp_path / "vm.qcow2"
    ok("convert", source, image, "--format", "qcow2")
    with open(image, "r+b") as file:  # a cluster behind the last one, counted but not used: a leak
        header = file.read(72)
        table = int.from_bytes(header[48:56], "big")
        file.seek(table)
        block = int.from_bytes(file.read(8), "big")
        end = os.stat(image).st_size // 65536
        file.seek(block + 2 * (end + 1))
        file.write(b"\0\1")
        file.truncate((end + 2) * 65536)
    result = hull("disk", "check", "--json", image)
    assert result.returncode == 3 and json.loads(result.stdout)["leaks"] == 1, result
    copies = [tmp_path / f"{i}.qcow2" for i in range(4)]
    for copy, words in zip(copies, (["--repair", "leaks"], ["--repair=all"], ["-r", "leaks", "--json"], ["--repair-leaks"])):
        shutil.copy(image, copy)
        ok("check", copy, *words)
        qemu_check(copy)
    fixed = json.loads(ok("check", "--json", "--repair", image))
    assert fixed["leaks"] == 0 and fixed["leaks_fixed"] == 1
    qemu_check(image)
    with open(image, "r+b") as file:  # a count of 0 for a cluster in use: an error
        file.seek(block + 2 * 3)
        file.write(b"\0\0")
    assert hull("disk", "check", image).returncode == 2
    ok("check", "--repair", image)
    qemu_check(image)
    qemu_same(source, "raw", image, "qcow2")
    assert hull("disk", "check", source).returncode == 63


def test_resize_qcow2(source, tmp_path):
    image, raw = tmp_path / "vm.qcow2", tmp_path / "vm.raw"
    ok("convert", source, image, "--format", "qcow2")
    shutil.copy(source, raw)
    for size in ("+40M", "-30M"):
        for disk in (image, raw):
            ok("resize", disk, "--shrink", size)
        qemu_check(image)
        qemu_same(raw, "raw", image, "qcow2")


def test_compare(source, tmp_path):
    other = tmp_path / "other.raw"
    shutil.copy(source, other)
    assert ok("compare", source, other) == "The images are identical.\n"
    with open(other, "r+b") as file:
        file.seek(5 * MIB + 77)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    result = hull("disk", "compare", source, other)
    assert result.returncode == 1 and result.stdout == f"The images differ at offset {5 * MIB + 77}.\n"
    shutil.copy(source, other)
    os.truncate(other, os.stat(source).st_size + MIB)
    assert "identical" in ok("compare", source, other)
    assert hull("disk", "compare", "--strict", source, other).returncode == 1
    assert hull("disk", "compare", "--quiet", source, other).stdout == ""
    assert hull("disk", "compare", source, tmp_path / "none").returncode == 2
    assert hull("disk", "compare", source).returncode == 2


@pytest.mark.parametrize("name", ["raw", "qcow2", "vmdk", "vhdx"])
def test_measure(name, source, tmp_path):
    measured = json.loads(ok("measure", "--json", source, "--target-format", name))
    image = tmp_path / "image"
    ok("convert", source, image, "--format", name, "--sparse", 0)
    took = os.stat(image).st_blocks * 512 if name == "raw" else os.stat(image).st_size
    assert took <= measured["required_bytes"] + (0 if name != "raw" else 64 << 10)
    assert name in ("vmdk", "qcow2") or measured["required_bytes"] <= took + 8 * MIB
    assert measured["required_bytes"] <= measured["fully_allocated_bytes"]
    empty = json.loads(ok("measure", "--json", "--size", "20G", "--target-format", name))
    assert empty["required_bytes"] < 64 * MIB and empty["fully_allocated_bytes"] >= 20 << 30


def test_bench(tmp_path):
    disk = tmp_path / "disk.raw"
    ok("create", disk, "16M")
    rows = json.loads(ok("bench", "--json", disk, "--count", 2000, "--depth", 8, "--random"))
    assert rows["requests"] == 2000 and rows["requests_per_second"] > 0
    ok("bench", disk, "--write", "--pattern", 90, "--size", "64K", "--count", 256, "--flush-interval", 50)
    assert disk.read_bytes() == b"Z" * (16 * MIB)
    ok("bench", disk, "--write", "--pattern", 91, "--size", "64K", "--count", 256, "--depth", 16, "--one-buffer")
    assert disk.read_bytes() == b"[" * (16 * MIB)
    assert "multiples" in refused("bench", disk, "--size", 1000)
    assert "only" in refused("bench", disk, "--offset", "17M")


def test_targets_are_whole_or_not_there(source, tmp_path):
    target = tmp_path / "target.raw"
    target.write_bytes(b"what was there before")
    os.chmod(target, 0o640)
    broken = tmp_path / "broken.vhdx"
    run("qemu-img", "convert", "-O", "vhdx", source, broken)
    with open(broken, "r+b") as file:
        file.truncate(os.stat(broken).st_size - 9 * MIB)
    assert "at " in refused("convert", broken, target)
    assert target.read_bytes() == b"what was there before"
    assert "it is the source" in refused("convert", target, target)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["broken.vhdx", "target.raw"]
    link = tmp_path / "link"
    link.symlink_to(target)
    ok("convert", source, link)
    assert link.is_symlink() and not target.is_symlink()
    qemu_same(source, "raw", target, "raw")
    assert os.stat(target).st_mode & 0o777 == 0o640
    assert "creating" in refused("convert", source, tmp_path / "no/such/folder")
    assert "neither" in refused("convert", source, tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("name", ["raw", "qcow2", "vmdk", "vhdx"])
def test_interrupted(name, number, tmp_path):
    """From a compressed image, one piece at a time: that takes long enough, most times."""
    big = tmp_path / "big.vmdk"
    make_raw(tmp_path / "big.raw", 40 * MIB, seed=3)
    run("qemu-img", "convert", "-O", "vmdk", "-o", "subformat=streamOptimized", tmp_path / "big.raw", big)
    target = tmp_path / f"target.{name}"
    target.write_bytes(b"before")
    process = subprocess.Popen([HULL, "disk", "convert", big, target, "--format", name, "--parallel", "1"],
                               stderr=subprocess.PIPE, text=True)
    time.sleep(0.05)
    process.send_signal(number)
    _, text = process.communicate(timeout=60)
    if process.returncode == 0 or os.stat(target).st_size > 6:  # it was faster
        qemu_same(tmp_path / "big.raw", "raw", target, name)
        assert process.returncode in (0, -signal.SIGKILL)
    else:
        assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 1)
        assert target.read_bytes() == b"before"
        assert number == signal.SIGKILL or "interrupted" in text
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["big.raw", "big.vmdk", target.name])


def test_images_in_use(source, tmp_path):
    disk = tmp_path / "disk.raw"
    shutil.copy(source, disk)
    with open(disk, "r+b") as file:
        # As a VM holds it: an open file description lock (F_OFD_SETLK, a struct flock of F_WRLCK) on all of it.
        fcntl.fcntl(file, 37, struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        assert "in use" in refused("resize", disk, "+1M")
        assert "in use" in refused("convert", source, disk)
        assert "in use" in refused("create", disk, "1M")
    ok("create", disk, "1M")


@pytest.mark.parametrize("words, text", [
    (["convert", "a"], "disk convert: something is missing"),
    (["convert", "a", "b", "--format", "floppy"], "floppy images cannot be made"),
    (["convert", "a", "b", "--parallel", "0"], "parallel"),
    (["convert", "a", "b", "--sparse", "1000"], "power of two"),
    (["convert", "/nonexistent", "b"], "No such file"),
    (["create", "x", "lots"], "no size"),
    (["create", "x", "1000"], "multiple of 512"),
    (["create", "x", "1M", "--format", "vdi"], "cannot be made"),
    (["create", "x", "1M", "--option", "lazy=on"], "no such option"),
    (["create", "x", "1M", "--option", "preallocation=maybe"], "off, falloc or full"),
    (["create", "x", "1M", "--format", "vhdx", "--option", "block_size=3M"], "power of two"),
    (["info"], "something is missing"),
    (["info", "x", "--image-format", "floppy"], "no image format"),
    (["info", "x", "--format", "raw"], "--image-format"),
    (["infp", "x"], "did you mean info"),
    (["frobnicate"], "create|info|map"),
    (["resize", "x", "1M"], "No such file"),
    (["bench", "/dev/null", "--count", "1"], "neither a regular file"),
])
def test_bad_words(words, text, tmp_path):
    assert text in refused(*words, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_help_completion_and_man_pages():
    for words in (["disk", "--help"], ["help", "disk"], ["disk", "info", "--help"], ["help", "disk", "convert"]):
        result = hull(*words)
        assert result.returncode == 0 and result.stdout.startswith("Usage: hull disk"), words
    assert hull("disk").returncode == 1
    page = hull("man", "disk", "convert").stdout
    assert page.startswith(".TH HULL\\-disk\\-convert 1") and "parallel" in page
    assert "hull\\-disk\\-info" in hull("man", "disk").stdout
    script = hull("completion", "bash").stdout
    test = "COMP_WORDS=(hull disk %s); COMP_CWORD=%d; _hull; echo ${COMPREPLY[*]}"
    for line, at, expected in (("inf", 2, "info"), ("convert --par", 3, "--parallel"), ("convert --format v", 4, "vmdk vhdx")):
        answer = subprocess.run(["bash", "-c", script + "\n" + test % (line, at)], capture_output=True, text=True, check=False)
        assert answer.stdout.strip() == expected, (line, answer)


def test_formats_of_lists(source):
    assert ok("info", source).startswith("KEY ")
    assert ok("info", source, "--format", "csv").startswith("key,value\n")
    assert "format: \"raw\"" in ok("info", source, "--format", "yaml")
    assert ok("map", source).startswith("START ")
    assert ok("map", source, "--format", "csv").startswith("start,length,kind,depth,offset\n")


def test_preallocation(tmp_path):
    for mode in ("falloc", "full"):
        disk = tmp_path / mode
        ok("create", disk, "4M", "--option", f"preallocation={mode}")
        assert os.stat(disk).st_blocks * 512 >= 4 * MIB
    assert pathlib.Path(tmp_path / "full").read_bytes() == bytes(4 * MIB)


def test_names_on_a_terminal(source, tmp_path):
    """What an image holds does not move the cursor."""
    image = tmp_path / "vm.qcow2"
    run("qemu-img", "convert", "-O", "qcow2", source, image)
    run("qemu-img", "snapshot", "-c", "evil\x1b[2Jname\u009b2J", image)
    run("qemu-img", "rebase", "-u", "-b", "ba\x1b[1mse.raw", "-F", "raw", image)
    for words in (["info", image], ["snapshot", image], ["map", image]):
        result = hull("disk", *words)
        assert "\x1b" not in result.stdout + result.stderr and "\u009b" not in result.stdout, words
    assert "ba?[1mse.raw" in ok("info", image)


def test_progress(tmp_path):
    """A bar on a terminal, nothing of it elsewhere, and none with --quiet."""
    raw = tmp_path / "random.raw"
    raw.write_bytes(random.Random(4).randbytes(160 * MIB))
    words = ["disk", "convert", str(raw), str(tmp_path / "out.vmdk"), "--format", "vmdk", "--parallel", "2"]
    with pexpect.spawn(str(HULL), words, timeout=120, encoding="utf-8", dimensions=(24, 80)) as child:
        child.expect(r"converting .* \d+% \[#* *\]")
        child.expect(pexpect.EOF)
        child.close()
        assert child.exitstatus == 0
    assert hull(*words, "--quiet").stderr == ""


def test_preallocation_outgrows_the_refcount_table(tmp_path):
    """The table moves while the image is made, and what it leaves is free again at the end."""
    image = tmp_path / "disk.qcow2"
    ok("create", image, "6504448", "--format", "qcow2", "--option", "cluster_size=512", "--option", "refcount_bits=32",
       "--option", "preallocation=full")
    assert "No errors were found" in run("qemu-img", "check", "-f", "qcow2", image)


def test_long_names_of_backing_files(tmp_path):
    """They do not fit into the header's first sector: each goes where the last one is not."""
    image = tmp_path / "image.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", image, "1M")
    for word in ("one", "two", "three", "four"):
        name = "/".join([word] + ["directory" * 20] * 4 + ["base.raw"])
        ok("rebase", image, "--backing", name, "--backing-format", "raw", "--unsafe")
        info = json.loads(run("qemu-img", "info", "--output=json", image))
        assert info["backing-filename"] == name and info["backing-filename-format"] == "raw"
        assert json.loads(ok("info", image, "--json"))["backing_file"] == name
    ok("rebase", image, "--backing", "short.raw", "--backing-format", "raw", "--unsafe")
    assert json.loads(run("qemu-img", "info", "--output=json", image))["backing-filename"] == "short.raw"


@pytest.mark.parametrize("mode", ["writeback", "none", "writethrough", "directsync", "unsafe"])
def test_cache_modes(mode, tmp_path):
    source = make_raw(tmp_path / "source.raw", 3 * MIB + 512)
    for image_format in ("raw", "qcow2", "vmdk", "vhdx"):
        image = tmp_path / f"image.{image_format}"
        ok("convert", source, image, "--cache", mode, "--to-cache", mode)
        ok("compare", source, image, "--cache", mode)
        assert "identical" in run("qemu-img", "compare", "-T", mode, "-f", "raw", "-F", image_format, source, image)
    new = tmp_path / "new.qcow2"
    ok("create", new, "4M", "--cache", mode, "--option", "preallocation=full")
    assert "No errors" in run("qemu-img", "check", new)
    ok("resize", new, "5M", "--cache", mode)
    ok("bench", "-q", "-w", "-c", "20", "-f", "qcow2", new, "--cache", mode)
    ok("check", new, "--cache", mode)


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize("mode, direct, sure, synced", [("writeback", 0, 0, 1), ("none", 1, 0, 1), ("writethrough", 0, 1, 1),
                                                        ("directsync", 1, 1, 1), ("unsafe", 0, 0, 0)])
def test_cache_modes_are_what_the_kernel_is_told(mode, direct, sure, synced, tmp_path):
    source, log = make_raw(tmp_path / "source.raw", MIB), tmp_path / "log"
    run("strace", "-f", "-o", log, "-e", "trace=openat,fcntl,fsync,fdatasync", HULL, "disk", "convert", source, tmp_path / "to.raw",
        "--to-cache", mode)
    text = log.read_text()
    assert ("O_DIRECT|" in text, "O_DSYNC" in text, "fsync(" in text) == (bool(direct), bool(sure), bool(synced))


def test_cache_modes_of_remote_disks_are_their_servers():
    for words in (("info", "nbd://localhost/x"), ("compare", "nbd://localhost/x", "y")):
        result = hull("disk", *words, "--cache", "none")
        assert result.returncode != 0 and "server decides" in result.stderr
    assert "unknown: writeback" in refused("info", "x", "--cache", "fast")
