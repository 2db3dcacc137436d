"""Networks of type macvlan: instances with addresses of their own on the host's cable, and forwards on IPv6 of a nat network."""
import os
import pathlib
import shutil
import socket
import subprocess

import pytest
from conftest import BUILD, HULL, kernel_arguments
from hulld import NEEDS_ROOT, Failure, manager, until  # noqa: F401 (a fixture)
from test_hulld_networks import ONE, THREE, TWO, make_host, nat  # noqa: F401 (a fixture)
from test_hulld_vms import Existing, fixture_image  # noqa: F401 (a fixture)

pytestmark = NEEDS_ROOT


def in_namespace(manager, *words, check=True):
    done = subprocess.run(manager.within(*words), capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done


@pytest.fixture(scope="module")
def cable(manager):
    """A veth is the host's card, and the other end, in a namespace of its own, the outside."""
    if in_namespace(manager, "sh", "-c", "ip link add d0 type veth peer name d1 && ip link add m0 link d0 type macvlan && ip link add t0 link d0 type macvtap",
                    check=False).returncode != 0:
        pytest.skip("the kernel has no macvlan and macvtap")
    in_namespace(manager, "ip", "link", "del", "d0")
    # Its interfaces, as /sys shows them.
    in_namespace(manager, "sh", "-c", f"mkdir {manager.folder}/sys && cd {manager.folder} && mount -t sysfs sysfs sys && "
                 "mount --rbind /sys/fs/cgroup sys/fs/cgroup && mount --move sys /sys")
    outside = f"hm{os.getpid()}"
    subprocess.run(["ip", "netns", "add", outside], check=True)
    in_namespace(manager, "ip", "link", "add", "up0", "type", "veth", "peer", "name", "far0")
    in_namespace(manager, "ip", "link", "set", "up0", "up")
    in_namespace(manager, "ip", "addr", "add", "10.66.0.2/24", "dev", "up0")  # says how long the network's address is
    # The manager's mounts do not show the namespaces' names.
    subprocess.run(["nsenter", "--net", "-t", str(manager.holder.pid), "ip", "link", "set", "far0", "netns", outside], check=True)
    for words in (["link", "set", "far0", "up"], ["addr", "add", "10.66.0.1/24", "dev", "far0"]):
        subprocess.run(["ip", "-n", outside, *words], check=True)
    manager.hull("network", "create", "wire", "--type", "macvlan", "parent=up0")
    yield outside
    manager.hull("delete", "--force", "--all", check=False)
    manager.hull("network", "delete", "wire")
    subprocess.run(["ip", "netns", "del", outside], check=True)


def pings(outside, address):
    return subprocess.run(["ip", "netns", "exec", outside, "busybox", "ping", "-c", "1", "-W", "2", address], stdout=subprocess.DEVNULL, check=False).returncode == 0


def test_a_container_on_the_cable(manager, cable):
    manager.do("POST", "/v1/instances", {"name": "c1", "kind": "container", "image": "bb", "start": True,
                                         "devices": {"eth0": {"type": "nic", "network": "wire", "ipv4": "10.66.0.5", "mac": "52:54:00:00:66:05"}}})
    until(lambda: pings(cable, "10.66.0.5"), "the container at its address")
    assert manager.hull("exec", "c1", "--", "ping", "-c", "1", "-W", "5", "10.66.0.1").returncode == 0
    mac = subprocess.run(["ip", "-n", cable, "neigh", "show", "10.66.0.5"], capture_output=True, text=True, check=True).stdout
    assert "52:54:00:00:66:05" in mac
    assert in_namespace(manager, "ip", "-br", "link", "show", "type", "veth").stdout.count("\n") == 1  # up0 alone
    manager.hull("restart", "c1")
    until(lambda: pings(cable, "10.66.0.5"), "the container at its address")
    manager.hull("delete", "--force", "c1")


def test_a_vm_on_the_cable(manager, cable, image):
    manager.do("POST", "/v1/instances", {"name": "vm1", "kind": "vm", "image": image, "start": True, "config": {"engine": "soft", "memory": "192M"},
                                         "devices": {"eth0": {"type": "nic", "network": "wire", "mac": "52:54:00:00:66:07"},
                                                     "root": {"type": "disk", "size": "128M"}}})
    guest = Existing(manager, "vm1").up()
    guest.run("ip addr flush dev eth0; ip addr add 10.66.0.7/24 dev eth0; ip link set eth0 up; ping -c 1 -w 20 10.66.0.1")
    assert pings(cable, "10.66.0.7")
    assert "macvtap" in in_namespace(manager, "ip", "-d", "link", "show", "type", "macvtap").stdout
    assert not list(pathlib.Path("/dev").glob("hull-tap*"))
    guest.act("restart")
    guest.up().run("ip addr flush dev eth0; ip addr add 10.66.0.7/24 dev eth0; ip link set eth0 up; ping -c 1 -w 20 10.66.0.1")
    guest.act("stop", force=True)
    assert in_namespace(manager, "ip", "-br", "link", "show", "type", "macvtap").stdout == ""
    manager.do("DELETE", "/v1/instances/vm1?force=true")


def test_what_cannot_be_a_parent(manager, cable):
    for key, said in (("parent=nothing0", "no interface of that name"), ("parent=lo", "an Ethernet interface"), ("bridge=up0", "config.bridge"),
                      ("parent=a/b", "config.parent")):
        done = manager.hull("network", "create", "bad", "--type", "macvlan", key, check=False)
        assert done.returncode != 0 and said in done.stderr, done
    assert {network["name"] for network in manager.get("/v1/networks")} == {"default", "wire"}
    with pytest.raises((AssertionError, Failure), match="forwards nothing"):
        manager.do("POST", "/v1/instances", {"name": "c2", "kind": "container", "image": "bb", "start": True,
                                             "devices": {"eth0": {"type": "nic", "network": "wire"},
                                                         "web": {"type": "forward", "listen": "tcp:8080", "connect": "tcp:80"}}})


def test_boot_says_what_a_macvtap_is(cable):
    options = kernel_arguments("cloud")
    for name, said in (("nothing0", "No such device"), ("lo", "no macvtap interface")):
        done = subprocess.run([HULL, "boot", *options, "--net", f"macvtap={name}"], capture_output=True, text=True, check=False)
        assert done.returncode != 0 and said in done.stderr, done


@pytest.mark.skipif(shutil.which("nft") is None or not (BUILD / "tests/unit/manager/network_tool").exists(), reason="needs nft and a build with tests")
def test_forwards_on_ipv6(host):
    """From outside and from other instances, to the address that is said and to the one that a kernel makes."""
    network = nat(ipv6="fd00:77::1/64")
    web1, _ = host.instance("web1", ONE, network, nic={"ipv6": "fd00:77::10"}, forwards=[{"listen": "tcp:[::]:8080", "connect": "tcp:80"},
                                                                                      {"listen": "tcp:8080", "connect": "tcp:80"}])
    web2, _ = host.instance("web2", TWO, network, forwards=[{"listen": "tcp:[2001:db8::1]:8081", "connect": "tcp:80"}])
    for space, address in ((web1, "fd00:77::10/64"), (web2, "fd00:77::5054:ff:fe00:2/64")):
        host.inside(space, "ip", "addr", "add", address, "dev", "eth0", "nodad")
        host.inside(space, "ip", "-6", "route", "replace", "default", "via", "fd00:77::1")
    for space, device, address in ((host.name, "up0", "2001:db8::1/64"), (host.outside, "eth0", "2001:db8::2/64")):
        host.inside(space, "ip", "addr", "add", address, "dev", device, "nodad")
    server = "import socket, sys\ns = socket.create_server(('::', 80), family=socket.AF_INET6, dualstack_ipv6=True)\nprint('ready', flush=True)\n" \
             "while True:\n    c, peer = s.accept()\n    c.sendall(f'{sys.argv[1]} {peer[0]}'.encode())\n    c.close()\n"
    for space, name in ((web1, "web1"), (web2, "web2")):
        host.servers.append(subprocess.Popen(["ip", "netns", "exec", space, "python3", "-c", server, name], stdout=subprocess.PIPE))
        assert host.servers[-1].stdout.readline() == b"ready\n"
    assert host.ask(host.outside, "2001:db8::1", 8080) == "web1 2001:db8::2"
    assert host.ask(host.outside, "2001:db8::1", 8081) == "web2 2001:db8::2"
    assert host.ask(host.outside, "192.0.2.1", 8080) == "web1 ::ffff:192.0.2.2"
    assert host.ask(host.name, "2001:db8::1", 8080).startswith("web1 ")
    assert host.ask(web2, "2001:db8::1", 8080).startswith("web1 ")
    request = {"network": network, "instance": "web3", "nic": {"mac": THREE}}
    said = host.tool("container", check=False, **request, forwards=[{"listen": "tcp:[::]:8080", "connect": "tcp:80"}])
    assert "forwarded to web1/eth0 already" in said.stderr
    said = host.tool("container", check=False, network=nat("n2", "10.78.5.1/24"), instance="web3", nic={"mac": THREE},
                     forwards=[{"listen": "tcp:[::]:8080", "connect": "tcp:80"}])
    assert "config.ipv6" in said.stderr
