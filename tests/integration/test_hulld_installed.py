"""What `make install` leaves, in another place: each program finds the others there, as it does in build/bin."""
import shutil
import subprocess

import pytest

import hulld as hulld_module
from conftest import BUILD
from hulld import NEEDS_ROOT, Manager, busybox_root
from test_hulld_vms import Guest, fixture_image, guest_of  # noqa: F401 (a fixture)

pytestmark = NEEDS_ROOT


@pytest.fixture(scope="module")
def manager(tmp_path_factory):
    """One whose programs are an installation's."""
    if shutil.which("meson") is None or shutil.which("busybox") is None:
        pytest.skip("meson or busybox is not installed")
    folder = tmp_path_factory.mktemp("installed")
    folder.chmod(0o755)
    subprocess.run(["meson", "install", "-C", BUILD, "--no-rebuild", "--quiet", "--destdir", folder / "all"], check=True, capture_output=True)
    programs = next((folder / "all").rglob("bin/hull")).parent
    assert not (programs / "hull-worker").exists(), "it is a helper"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("HULL_LIBEXEC", raising=False)
        patch.setattr(hulld_module, "HULLD", programs / "hulld")
        patch.setattr(hulld_module, "HULL", programs / "hull")
        made = Manager(folder)
        try:
            made.hull("image", "import", busybox_root(folder / "root.tar"), "--alias", "bb")
            yield made
        finally:
            made.end()


def test_container(manager):
    manager.hull("launch", "bb", "web1", "--memory", "64M", "--set", "eth0.type=none")
    assert manager.hull("exec", "web1", "--", "hostname").stdout == "web1\n"
    manager.hull("snapshot", "create", "web1", "s")
    manager.hull("clone", "web1/s", "web2")
    manager.hull("start", "web2")
    assert manager.hull("exec", "web2", "--", "hostname").stdout == "web2\n"
    manager.hull("delete", "--force", "web1", "web2")


def test_vm(manager, image):
    with guest_of(manager, "vm1") as guest:
        assert guest.run("hostname")
        manager.hull("push", "/etc/hostname", "vm1:/tmp/name")
        guest.act("restart", force=True)
        guest.up()
