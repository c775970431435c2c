"""Containers as machines of their own on a wire, by the command line: DHCP, the host, a parent that goes and comes."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from tests.host import EngineHost, until

HOST, ROUTER = "198.51.100.2", "198.51.100.1"
HOST6, ROUTER6 = "2001:db8:51::2", "2001:db8:51::1"
SUBNETS = ["--subnet", "198.51.100.0/24", "--gateway", ROUTER, "--subnet", "2001:db8:51::/64", "--gateway", ROUTER6]
needs_dnsmasq = pytest.mark.skipif(shutil.which("dnsmasq") is None, reason="dnsmasq is not installed (dnsmasq-base)")


def plug_in(host: EngineHost) -> None:
    """Make the wire `home0` between the machine and the outside world."""
    host.run("ip", "link", "add", "home0", "type", "veth", "peer", "name", "home0", "netns", str(host.lan_pid))
    for run, own, own6 in ((host.run, HOST, HOST6), (host.run_lan, ROUTER, ROUTER6)):
        run("ip", "link", "set", "home0", "up")
        run("ip", "address", "add", f"{own}/24", "dev", "home0")
        run("ip", "address", "add", f"{own6}/64", "dev", "home0", "nodad")


@pytest.fixture
def home(clean: EngineHost) -> Iterator[EngineHost]:
    """The machine with a second link, `home0`."""
    plug_in(clean)
    yield clean
    clean.clear()
    clean.run("ip", "link", "delete", "home0", check=False)


@contextlib.contextmanager
def dhcp(host: EngineHost, first: int, last: int) -> Iterator[None]:
    """Serve addresses on the wire meanwhile."""
    with host.process(
        "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--interface=home0", "--bind-dynamic",
        "--no-ping", f"--dhcp-range=198.51.100.{first},198.51.100.{last},1h", "--dhcp-authoritative", "--user=root",
        "--pid-file=", f"--dhcp-leasefile={leases(host)}", lan=True,
    ) as server:  # fmt: skip
        until(lambda: ":67 " in host.run_lan("ss", "-lun").stdout or server.poll() is not None, "the server")
        yield
    leases(host).unlink(missing_ok=True)


def leases(host: EngineHost) -> Any:
    return host.root / "leases"


def reaches(host: EngineHost, container: str, address: str) -> bool:
    done = host.engine("exec", container, "ping", "-c", "1", "-W", "1", address, check=False)
    return done.returncode == 0


def pings(run: Any, address: str) -> bool:
    return run("ping", "-c", "1", "-W", "1", address, check=False).returncode == 0


def address(host: EngineHost, container: str, network: str, field: str = "IPAddress") -> str:
    found = json.loads(host.engine("inspect", container).stdout)[0]
    return str(found["NetworkSettings"]["Networks"][network][field])


def test_a_machine_of_its_own(home: EngineHost) -> None:
    home.engine("network", "create", "-d", "macvlan", "-o", "parent=home0", *SUBNETS, "wire")
    home.engine("run", "-d", "--name", "nas", "--network", "wire", "busybox", "sleep", "1000")
    own, own6 = address(home, "nas", "wire"), address(home, "nas", "wire", "GlobalIPv6Address")
    for target in (HOST, ROUTER, HOST6, ROUTER6):
        assert until(lambda target=target: reaches(home, "nas", target), f"a way to {target}")
    for run in (home.run, home.run_lan):
        assert until(lambda run=run: pings(run, own) and pings(run, own6), "a way to the container")
    home.run_lan("ip", "address", "add", "198.51.100.77/24", "dev", "home0")
    done = home.engine("run", "--rm", "--network", "wire", "--ip", "198.51.100.77", "busybox", "true", check=False)
    assert done.returncode == 125
    assert "198.51.100.77 is in use on the wire of network wire" in done.stderr
    assert home.engine("doctor").returncode == 0


def test_a_parent_that_goes_and_comes(home: EngineHost) -> None:
    home.engine("network", "create", "-d", "macvlan", "-o", "parent=home0", *SUBNETS, "wire")
    always = ["--restart", "always", "--ip", "198.51.100.50"]
    home.engine("run", "-d", "--name", "nas", *always, "--network", "wire", "busybox", "sleep", "1000")
    own = address(home, "nas", "wire")

    def link() -> bool:
        shown = home.engine("exec", "nas", "ip", "route", check=False).stdout
        return f"default via {ROUTER}" in shown and own in shown

    assert link()
    home.run("ip", "link", "delete", "home0")
    until(lambda: not link(), "the link to go")
    done = home.engine("run", "--rm", "--network", "wire", "busybox", "true", check=False)
    assert "no link 'home0' on the host" in done.stderr
    assert "Links: eth0" in done.stderr
    plug_in(home)
    until(link, "the link to come back")
    until(lambda: pings(home.run, own) and pings(home.run_lan, own), "a way to the container")
    # The same while no daemon looks.
    home.kill_daemon()
    home.run("ip", "link", "delete", "home0")
    home.start_daemon()
    assert not link()
    plug_in(home)
    until(link, "the link to come back")
    until(lambda: home.engine("doctor", check=False).returncode == 0, "a healthy host")
    # After a reboot, at which the parent comes later than the daemon.
    home.kill_daemon()
    home.kill_containers()
    home.run("ip", "link", "delete", "home0")
    home.start_daemon()
    until(lambda: "no link 'home0'" in home.engine("inspect", "nas").stdout, "the first attempt")
    assert "Restarting" in home.engine("ps", "-a").stdout
    plug_in(home)
    until(link, "the container")
    until(lambda: pings(home.run_lan, own), "a way to the container")


@needs_dnsmasq
def test_dhcp(home: EngineHost) -> None:
    home.engine("network", "create", "-d", "macvlan", "-o", "parent=home0", "--ipam-driver", "dhcp",
                "--ipam-opt", "timeout=3", "lan")  # fmt: skip
    done = home.engine("run", "--rm", "--network", "lan", "busybox", "true", check=False)
    assert (done.returncode, "no DHCP server gave container" in done.stderr) == (125, True), done.stderr
    assert home.engine("network", "inspect", "-f", "{{len .Containers}}", "lan").stdout.strip() == "0"
    with dhcp(home, 100, 109):
        home.engine("run", "-d", "--name", "nas", "--hostname", "nas", "--network", "lan", "busybox", "sleep", "1000")
        own = address(home, "nas", "lan")
        assert own.startswith("198.51.100.10")
        done = home.engine("run", "--rm", "--net-driver", "macvlan", "--net-opt", "parent=home0",
                           "--net-opt", "ipam=dhcp", "busybox", "ip", "address", "show", "eth0")  # fmt: skip
        assert "inet 198.51.100.1" in done.stdout
        assert f"{own}/24" in home.engine("exec", "nas", "ip", "address").stdout
        assert f"default via {ROUTER}" in home.engine("exec", "nas", "ip", "route").stdout
        assert " nas " in leases(home).read_text()
        assert reaches(home, "nas", HOST)
        assert reaches(home, "nas", ROUTER)
        home.kill_daemon()
        home.start_daemon()
        assert address(home, "nas", "lan") == own
    with dhcp(home, 120, 129):
        home.restart_daemon()  # it asks whether the lease holds; it does not
        until(lambda: address(home, "nas", "lan").startswith("198.51.100.12"), "another address")
        own = address(home, "nas", "lan")
        until(lambda: f"{own}/24" in home.engine("exec", "nas", "ip", "address").stdout, "the link's address")
        until(lambda: reaches(home, "nas", HOST), "the host")
        home.engine("rm", "-f", "nas")
        until(lambda: not leases(home).read_text(), "the release")


def test_ipv6_alone(clean: EngineHost) -> None:
    clean.engine("network", "create", "--ipv6", "--ipv4=false", "six")
    clean.engine("run", "-d", "--name", "nas", "--network", "six", "busybox", "sleep", "1000")
    clean.engine("run", "-d", "--name", "box", "--network", "six", "busybox", "sleep", "1000")
    assert address(clean, "nas", "six") == ""
    own = address(clean, "nas", "six", "GlobalIPv6Address")
    assert own.startswith("fd")
    assert "inet " not in clean.engine("exec", "nas", "ip", "address", "show", "eth0").stdout
    assert until(lambda: reaches(clean, "box", own), "the other container")
    assert until(lambda: reaches(clean, "box", "nas"), "the other container by its name")
    (shown,) = json.loads(clean.engine("network", "inspect", "six").stdout)
    assert (shown["EnableIPv4"], shown["EnableIPv6"]) == (False, True)
    assert [usage["IPsInUse"] for usage in shown["Status"]["IPAM"]["Subnets"].values()] == [4]
    done = clean.engine("network", "create", "--ipv4=false", "nothing", check=False)
    assert "needs IPv4, IPv6 or both" in done.stderr


def test_the_address_of_a_stopped_container_is_kept_for_it(clean: EngineHost) -> None:
    clean.engine("network", "create", "--subnet", "10.82.0.0/24", "kept")
    clean.engine("run", "-d", "--name", "first", "--network", "kept", "--ip", "10.82.0.2", "busybox", "sleep", "1000")
    clean.engine("stop", "-t", "0", "first")
    clean.engine("run", "-d", "--name", "second", "--network", "kept", "busybox", "sleep", "1000")
    assert address(clean, "second", "kept") == "10.82.0.3"
    clean.engine("start", "first")
    assert address(clean, "first", "kept") == "10.82.0.2"
