"""Encrypted disks (LUKS): made, read and booted with, beside qemu-img and cryptsetup; keys from every place."""
import ctypes.util
import json
import os
import shutil
import subprocess
import time

import pytest

from conftest import HULL, hull

MIB = 1 << 20
pytestmark = [pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed"),
              pytest.mark.skipif(ctypes.util.find_library("cryptsetup") is None, reason="libcryptsetup is not installed")]


def ok(*words, **options):
    result = hull("disk", *words, **options)
    assert result.returncode == 0, result.stderr
    return result.stdout


# Keys that are quick to try.
LUKS = ("--encrypt", "luks", "--iter-time", "10")


def refused(*words, **options):
    result = hull("disk", *words, **options)
    assert result.returncode == 1 and result.stderr.count("\n") == 1, (result.returncode, result.stderr)
    return result.stderr


def run(*words):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def key(tmp_path):
    path = tmp_path / "key"
    path.write_bytes(b"correct horse\n\x01")
    return path


@pytest.fixture
def plain(tmp_path):
    path = tmp_path / "plain.raw"
    path.write_bytes(os.urandom(3 * MIB) + bytes(MIB))
    return path


def qemu_same(key, image, plain):
    run("qemu-img", "compare", "--object", f"secret,id=k,file={key}", "--image-opts",
        f"driver=luks,key-secret=k,file.filename={image}", f"driver=raw,file.filename={plain}")


def test_luks_is_what_qemu_reads(tmp_path, key, plain):
    image = tmp_path / "disk.luks"
    ok("convert", plain, image, *LUKS, "--to-key-file", key)
    assert plain.read_bytes()[:4096] not in image.read_bytes()
    qemu_same(key, image, plain)
    ok("compare", image, plain, "--key-file", key)
    assert "luks" in ok("info", image, "--key-file", key)
    ok("convert", image, tmp_path / "again.raw", "--key-file", key)
    assert (tmp_path / "again.raw").read_bytes() == plain.read_bytes()


@pytest.mark.parametrize("cipher, mode", [
    ("aes-128", "xts"), ("aes-256", "cbc,ivgen-alg=essiv,ivgen-hash-alg=sha256")])
def test_luks_of_qemu_is_read_and_written(tmp_path, key, plain, cipher, mode):
    image = tmp_path / "disk.luks"
    create = ["qemu-img", "create", "--object", f"secret,id=k,file={key}", "-f", "luks", "-o",
              f"key-secret=k,iter-time=10,cipher-alg={cipher},cipher-mode={mode}", str(image), str(4 * MIB)]
    for _ in range(20):  # on a busy machine it now and then cannot tell how fast the CPU is
        made = subprocess.run(create, capture_output=True, text=True, check=False)
        if made.returncode == 0:
            break
        time.sleep(1)
    else:
        pytest.skip(f"qemu-img cannot make an encrypted disk here: {made.stderr.strip()}")
    run("qemu-img", "convert", "-n", "--object", f"secret,id=k,file={key}", "--image-opts", "--target-image-opts",
        f"driver=raw,file.filename={plain}", f"driver=luks,key-secret=k,file.filename={image}")
    ok("compare", image, plain, "--key-file", key)
    ok("bench", "-q", "-w", "-r", "--pattern", "77", "-c", "50", "-s", "512", "-f", "luks", image, "--key-file", key)
    ok("convert", image, tmp_path / "after.raw", "--key-file", key)
    assert (tmp_path / "after.raw").read_bytes() != plain.read_bytes()
    qemu_same(key, image, tmp_path / "after.raw")


def test_luks2(tmp_path, key, plain):
    image = tmp_path / "disk.luks"
    ok("convert", plain, image, "--encrypt", "luks2", "--to-key-file", key)
    ok("compare", image, plain, "--key-file", key)
    if shutil.which("cryptsetup") is not None:
        text = run("cryptsetup", "luksDump", image)
        assert "Version:       \t2" in text and "argon2id" in text
        # Nobody asked for a key that is quick to try.
        assert int(text.split("Memory:")[1].split()[0]) >= 32768


@pytest.mark.skipif(shutil.which("cryptsetup") is None, reason="cryptsetup is not installed")
@pytest.mark.parametrize("version", [1, 2])
def test_what_a_key_costs_is_the_users_choice(tmp_path, key, version):
    def cost(time_ms):
        image = tmp_path / f"{time_ms}.luks"
        ok("create", image, "1M", "--encrypt", f"luks{version}", "--iter-time", time_ms, "--key-file", key)
        ok("info", image, "--key-file", key)
        text = run("cryptsetup", "luksDump", image)
        return int(text.split("Iterations:" if version == 1 else "Memory:")[1].split()[0])

    # A loaded machine measures anything, but not the wrong size.
    assert 1000 <= cost(1) * 4 < cost(400)
    for wrong in ("0", "20001", "fast"):
        assert "iter-time" in refused("create", tmp_path / "x", "1M", *LUKS[:2], "--iter-time", wrong, "--key-file", key)


@pytest.mark.skipif(shutil.which("cryptsetup") is None, reason="cryptsetup is not installed")
@pytest.mark.parametrize("sector", [512, 4096])
def test_luks2_of_cryptsetup_is_read(tmp_path, key, sector):
    image, plain = tmp_path / "disk.luks", tmp_path / "plain.raw"
    plain.write_bytes(os.urandom(MIB))
    shutil.copy(plain, image)
    os.truncate(image, 33 * MIB)
    # In place and without the kernel's device mapper; the data move behind the header.
    run("cryptsetup", "reencrypt", "--encrypt", "--type", "luks2", "--sector-size", sector, "--reduce-device-size", "32M",
        "--key-file", key, "--batch-mode", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", image)
    ok("convert", image, tmp_path / "out.raw", "--image-format", "luks", "--key-file", key)
    assert (tmp_path / "out.raw").read_bytes()[:MIB] == plain.read_bytes()


def test_keys_come_from_everywhere_but_a_command_line(tmp_path, key):
    image = tmp_path / "disk.luks"
    ok("create", image, "1M", *LUKS, "--key-env", "DISK_KEY", env={**os.environ, "DISK_KEY": "horse"})
    ok("info", image, "--key-env", "DISK_KEY", env={**os.environ, "DISK_KEY": "horse"})
    assert "the key does not fit" in refused("info", image, "--key-file", key)
    assert "key-file, key-env or key-ring says the key" in refused("info", image)
    assert "No such file" in refused("info", image, "--key-file", tmp_path / "none")
    if shutil.which("keyctl") is not None:
        # In a session of its own, so that nothing is left.
        done = subprocess.run(["keyctl", "session", "-", "sh", "-c", "keyctl add user hull-test horse @s && "
                               f"{HULL} disk info {image} --key-ring hull-test"], capture_output=True, text=True, check=False)
        assert done.returncode == 0 or "hull" not in done.stderr, done.stderr


def test_headers_that_are_cut_or_changed(tmp_path, key):
    image = tmp_path / "disk.luks"
    ok("create", image, "1M", *LUKS, "--key-file", key)
    whole = image.read_bytes()
    for size in (6, 592, 4096, MIB):
        image.write_bytes(whole[:size])
        assert "luks" in refused("info", image, "--image-format", "luks", "--key-file", key).lower()
    for at in (8, 104, 108, 112, 208, 216):  # cipher's name, payload, key bytes, digest, the first slot
        image.write_bytes(whole[:at] + b"\xff\xff\xff\xf7" + whole[at + 4:])
        refused("info", image, "--image-format", "luks", "--key-file", key)
    for at in (168, 256):  # its UUID and an empty slot do not matter
        image.write_bytes(whole[:at] + b"\xff\xff\xff\xf7" + whole[at + 4:])
        ok("info", image, "--image-format", "luks", "--key-file", key)


def qemu_options(key, image, image_format):
    secret = "encrypt.key-secret=k" if image_format == "qcow2" else "key-secret=k"
    return ["--object", f"secret,id=k,file={key}", "--image-opts", f"driver={image_format},{secret},file.filename={image}"]


def test_encrypted_qcow2_both_ways(tmp_path, key, plain):
    ours, theirs = tmp_path / "ours.qcow2", tmp_path / "theirs.qcow2"
    ok("convert", plain, ours, "--format", "qcow2", *LUKS, "--to-key-file", key)
    create = ["qemu-img", "create", "--object", f"secret,id=k,file={key}", "-f", "qcow2", "-o",
              "encrypt.format=luks,encrypt.key-secret=k,encrypt.iter-time=10", str(theirs), str(4 * MIB)]
    for _ in range(10):  # as above
        if subprocess.run(create, capture_output=True, check=False).returncode == 0:
            break
    run("qemu-img", "convert", "-n", *qemu_options(key, theirs, "qcow2")[:2], "--image-opts", "--target-image-opts",
        f"driver=raw,file.filename={plain}", qemu_options(key, theirs, "qcow2")[3])
    for image in (ours, theirs):
        assert plain.read_bytes()[:4096] not in image.read_bytes()
        ok("compare", image, plain, "--key-file", key)
        ok("bench", "-q", "-w", "-r", "--pattern", "77", "-c", "50", "-s", "512", "-f", "qcow2", image, "--key-file", key)
        assert "encryption" in ok("info", image)  # without a key
        assert "No errors" in run("qemu-img", "check", *qemu_options(key, image, "qcow2"))
        ok("check", image)
        after = tmp_path / "after.raw"
        ok("convert", image, after, "--key-file", key)
        run("qemu-img", "compare", *qemu_options(key, image, "qcow2"), f"driver=raw,file.filename={after}")
        assert "is encrypted" in refused("convert", image, tmp_path / "x.raw")
    overlay = tmp_path / "overlay.qcow2"
    ok("create", overlay, "--backing", plain, "--backing-format", "raw", *LUKS, "--key-file", key)
    ok("compare", overlay, plain, "--key-file", key, "--allow", plain)
    assert "cannot be encrypted" in refused("create", tmp_path / "x.vhdx", "1M", *LUKS, "--key-file", key)


@pytest.mark.parametrize("mode", ["metadata", "falloc", "full"])
@pytest.mark.parametrize("options", [["compat=v3"], ["compat=v2"], ["extended_l2=on", "cluster_size=128K"]])
def test_encrypted_qcow2_has_its_space_from_the_start(tmp_path, key, mode, options):
    image, zeros = tmp_path / "image.qcow2", tmp_path / "zeros.raw"
    zeros.write_bytes(b"")
    os.truncate(zeros, 4 * MIB)
    words = [word for option in [f"preallocation={mode}", *options] for word in ("--option", option)]
    ok("create", image, 4 * MIB, *LUKS, "--key-file", key, *words)
    if mode != "metadata":
        assert image.stat().st_blocks * 512 >= 4 * MIB
    # Every cluster has its place, and reads as zeros: of QEMU's own images of this kind they read as anything.
    found = json.loads(run("qemu-img", "check", "--output=json", *qemu_options(key, image, "qcow2")))
    assert found["allocated-clusters"] == found["total-clusters"] and found.get("corruptions", 0) == found.get("leaks", 0) == 0
    ok("compare", image, zeros, "--key-file", key)
    run("qemu-img", "compare", *qemu_options(key, image, "qcow2"), f"driver=raw,file.filename={zeros}")
    plain = tmp_path / "plain.raw"
    plain.write_bytes(bytes(MIB) + os.urandom(100000 // 512 * 512) + bytes(MIB))
    ok("convert", plain, image, "--format", "qcow2", *LUKS, "--to-key-file", key, *words)
    run("qemu-img", "compare", *qemu_options(key, image, "qcow2"), f"driver=raw,file.filename={plain}")


@pytest.mark.parametrize("image_format", ["luks", "qcow2"])
def test_a_vm_has_an_encrypted_disk(boot, busybox, tmp_path, key, plain, image_format):
    image = tmp_path / "disk"
    ok("convert", plain, image, *LUKS, "--to-key-file", key,
       *(["--format", "qcow2"] if image_format == "qcow2" else []))
    vm = boot("--engine", "soft", "--memory", "256M", "--net", "none", *busybox, "--append", "console=ttyS0 quiet", "--disk",
              f"{image},format={image_format},key-file={key}")
    vm.expect("# ")
    assert vm.shell("cat /sys/block/vda/size").strip() == "8192"
    digest = vm.shell("md5sum /dev/vda").split()[0]
    assert digest == run("md5sum", plain).split()[0]
    vm.shell("echo inside | dd of=/dev/vda bs=512 seek=100 conv=notrunc,sync 2>/dev/null; sync")
    vm.send_line("poweroff -f")
    vm.wait()
    data = bytearray(plain.read_bytes())
    data[51200:51712] = b"inside\n".ljust(512, b"\0")
    plain.write_bytes(data)
    run("qemu-img", "compare", *qemu_options(key, image, image_format), f"driver=raw,file.filename={plain}")
    assert b"inside\n" not in image.read_bytes()
    result = hull("boot", *busybox, "--disk", f"{image},format={image_format},key-env=NOT_THERE")
    assert result.returncode == 1 and "NOT_THERE" in result.stderr
