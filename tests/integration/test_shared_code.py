"""Code that several addresses and processes share."""
import pytest

from conftest import with_tool


@pytest.mark.parametrize("engine", ["soft", "soft,verify=on", "soft,translate=off"])
def test_code_mapped_twice(boot, busybox, tmp_path, engine):
    vm = boot("--engine", engine, *with_tool(busybox, "mapped_twice", tmp_path), "--append", "console=ttyS0 quiet")
    vm.expect("# ")
    output = vm.shell("/mapped_twice")
    assert "mapped_twice: right" in output, output
