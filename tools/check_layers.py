#!/usr/bin/env python3
"""Checks that include lines only follow the arrows of ARCHITECTURE.md. Prints each line that does not."""
import pathlib
import re
import sys

CORE, BASE = {"base/core"}, {"base/core", "base/host"}
DEVICE = BASE | {"cpu", "engine/engine.h", "engine/memory.h", "block/block.h", "net/net.h"}
MACHINE = DEVICE | {"device", "engine"}
MAY_USE = {
    "base/core": CORE,
    "base/command": CORE,
    "base/host": BASE,
    "cpu": CORE,
    "engine": BASE | {"cpu"},
    "block": BASE,
    "net": BASE,
    "storage": BASE | {"block/remote.h", "block/nbd_server.h"},
    "share": BASE | {"device/virtio/fs_wire.h"},
    "control": BASE,
    "session": BASE,
    "agent": BASE | {"session"},
    "client": BASE | {"session"},
    "manager": BASE | {"base/command", "control", "session", "container", "system", "block/block.h", "block/image.h", "block/copy.h"},
    "container": BASE | {"base/command"},
    "system": BASE | {"container"},
    "device": DEVICE,
    "machine": MACHINE,
    "migrate": MACHINE | {"machine"},
    "vmm": MACHINE | {"machine", "migrate", "block/crypt.h", "block/filter.h", "block/bitmap.h", "block/front.h", "block/image.h", "block/job.h", "block/remote.h"},
    "cli": BASE | {"agent/tar.h", "base/command", "client", "control", "session", "manager/instance/keys.h", "manager/place.h", "manager/transfer/bundle.h", "container/runtime/protect.h", "container/runtime/runtime.h", "system", "block/bitmap.h", "block/block.h", "block/copy.h", "block/crypt.h", "block/filter.h", "block/format/foreign", "block/image.h", "block/nbd_server.h", "block/nbd_tls.h", "block/remote.h"},
}


def room_of(path):
    return next((r for r in MAY_USE if path == r or path.startswith(r + "/")), None)


def main():
    source = pathlib.Path(__file__).resolve().parent.parent / "src"
    bad = 0
    for file in sorted(source.rglob("*.[ch]")):
        name = file.relative_to(source).as_posix()
        room = room_of(name)
        if room is None:
            print(f"{name}: in no room of the table")
            bad += 1
            continue
        for number, line in enumerate(file.read_text().splitlines(), 1):
            found = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
            if not found or found[1].startswith("generated/"):
                continue
            target = found[1]
            allowed = MAY_USE[room] | {room}
            if not any(target == a or target.startswith(a + "/") for a in allowed):
                print(f"src/{name}:{number}: {room} may not include {target}")
                bad += 1
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
