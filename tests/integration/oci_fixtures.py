"""Fixtures of tests with containers: a folder with a root file system, a runtime whose containers go with the test, a bundle, a name."""
import os
import uuid

import pytest

from oci import Bundle, Runtime, make_root, temporary_folder


@pytest.fixture(scope="module")
def place():
    with temporary_folder() as folder:
        make_root(folder / "rootfs")
        yield folder


@pytest.fixture
def runtime(place):
    """With nothing left of the test's containers at its end."""
    root = place / f"state-{uuid.uuid4().hex[:8]}"
    made = Runtime("hull", root)
    yield made
    for name in os.listdir(root) if root.exists() else []:
        if not name.startswith("."):
            made.run("delete", "--force", name)


@pytest.fixture
def bundle(place):
    return Bundle(place / f"bundle-{uuid.uuid4().hex[:8]}", place / "rootfs")


@pytest.fixture
def name():
    return f"hull-test-{uuid.uuid4().hex[:8]}"
