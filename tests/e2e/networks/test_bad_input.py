"""Bad input: each time a clear error, nothing is left, and the rest keeps working."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.host import EngineHost

RUN = ["run", "--rm"]
TRUE = ["busybox", "true"]
REFUSED = [
    ([*RUN, "-p", "8300:80", *TRUE], "0.0.0.0:8300/tcp is already published by container first"),
    ([*RUN, "-p", "8290-8319:8290-8319", *TRUE], "is already published by container first"),
    ([*RUN, "-p", "8310-8319:80-81", *TRUE], "8310-8319:80-81"),
    ([*RUN, "-p", "203.0.113.9:8310:80", *TRUE], "the host has no address 203.0.113.9"),
    ([*RUN, "--network", "tiny", *TRUE], "no address is free in 10.90.0.0/30"),
    (["network", "connect", "tiny", "other"], "no address is free in 10.90.0.0/30"),
    (["network", "connect", "host", "first"], "cannot be connected to network host"),
    (["network", "connect", "tiny", "first"], "container first is already connected to network tiny"),
    (["network", "disconnect", "bridge", "first"], "container first is not connected to network bridge"),
    ([*RUN, "--network", "pass2", *TRUE], "passthru"),
    ([*RUN, "--network-alias", "db", *TRUE], "aliases are only supported for user-defined networks"),
    (["network", "connect", "--alias", "db", "bridge", "first"], "only supported for user-defined networks"),
    (["network", "create", "--scope", "global", "wide"], "the network cannot have the scope 'global'"),
]
LOOKUP = ["nslookup", "first.", "127.0.0.11"]


@pytest.fixture
def wired(clean: EngineHost) -> Iterator[EngineHost]:
    """The machine with a further link, `wire0`."""
    clean.run("ip", "link", "add", "wire0", "type", "veth", "peer", "name", "wire1")
    yield clean
    clean.clear()
    clean.run("ip", "link", "delete", "wire0")


def test_bad_input(wired: EngineHost) -> None:
    host = wired
    host.engine("network", "create", "--subnet", "10.90.0.0/30", "tiny")
    host.engine("run", "-d", "--name", "first", "--network", "tiny", "-p", "8300:80", "busybox", "sleep", "1000")
    for name, subnet in (("pass1", "198.18.1.0/24"), ("pass2", "198.18.2.0/24")):
        options = ["-o", "parent=wire0", "-o", "mode=passthru", "--subnet", subnet]
        host.engine("network", "create", "-d", "macvlan", *options, name)
    host.engine("run", "-d", "--name", "other", "--network", "pass1", "busybox", "sleep", "1000")
    before = host.settled()
    for words, text in REFUSED:
        done = host.engine(*words, check=False)
        assert done.returncode != 0, words
        assert text in done.stderr, (words, done.stderr)
    host.assert_clean(before)
    noise = (
        "head -c 200000 /dev/urandom | nc -u -w 1 127.0.0.11 53; head -c 200000 /dev/urandom | nc -w 1 127.0.0.11 53"
    )
    host.engine("exec", "first", "sh", "-c", noise, check=False)
    assert "10.90.0.2" in host.engine("exec", "first", *LOOKUP).stdout
    assert host.engine("exec", "other", *LOOKUP, check=False).returncode != 0  # a name of a network that it is not on
    host.engine("network", "disconnect", "tiny", "first")  # its last one
    assert "eth0" not in host.engine("exec", "first", "ip", "link").stdout
    host.engine("network", "connect", "tiny", "first")
    assert "10.90.0.2" in host.engine("exec", "first", *LOOKUP).stdout
    assert host.engine("doctor").returncode == 0


def test_ports_on_the_hosts_network_are_discarded_with_a_warning(clean: EngineHost) -> None:
    done = clean.engine("run", "--rm", "--network", "host", "-p", "8300:80", *TRUE)
    assert "Published ports are discarded when using host network mode" in done.stderr
