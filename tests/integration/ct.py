"""System containers: where tests keep them, and templates that are built once per machine."""
import hashlib
import json
import os
import shutil
import subprocess

import pytest
from conftest import GUESTS, HULL, ROOT, guests_locked

# Kept from run to run, since building a Debian takes a minute. Tests give their containers names of their own in it.
STATE = GUESTS / "ct"
BUILD_TIMEOUT = 900  # seconds; an upper bound for a loaded machine with slow mirrors
NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="templates and containers need root")


def hull_ct(*arguments, state=STATE, check=True, timeout=BUILD_TIMEOUT):
    """Runs hull ct ...; the finished process, with its outputs as text."""
    words = [str(word) for word in arguments]
    # What follows "--" is the container's.
    at = words.index("--") if "--" in words else len(words)
    done = subprocess.run([HULL, "ct", *words[:at], "--state", state, *words[at:]], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=timeout, check=False)
    assert not check or done.returncode == 0, f"hull ct {' '.join(words)}: status {done.returncode}: {done.stderr}"
    return done


def templates(state=STATE):
    """By name."""
    return {row["name"]: row for row in json.loads(hull_ct("template", "list", "--json", state=state).stdout)}


def sources_digest():
    """Changes when what makes templates changes."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "src/system/template").glob("*.c")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def make_template(name, *arguments):
    """Builds it unless it is there and was made by the same sources."""
    stamp = STATE / f"{name}.made-of"
    made_of = f"{sources_digest()} {' '.join(arguments)}\n"
    with guests_locked("ct"):
        if stamp.exists() and stamp.read_text() == made_of and name in templates():
            return name
        hull_ct("template", "build", name, *arguments)
        stamp.write_text(made_of)
    return name


@pytest.fixture(scope="session")
def busybox_template():
    """A template in STATE that starts in no time."""
    if shutil.which("busybox") is None:
        pytest.skip("busybox is not installed")
    return make_template("busybox", "--variant", "busybox")


@pytest.fixture(scope="session")
def debian_template():
    """Debian's minimal variant in STATE."""
    if shutil.which("mmdebstrap") is None:
        pytest.skip("mmdebstrap is not installed")
    return make_template("debian", "--variant", "minimal")
