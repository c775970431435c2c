"""A host whose link `p0` is on a wire with another machine, `lan`, for networks that share a wire."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.kernel.network.conftest import Host, host, ping, run

from engine.reconcile import netns

__all__ = ["Lan", "host", "lan", "ping", "run"]


class Lan:
    """The other machine on the wire: `lan0` in a namespace of its own. The host has 192.0.2.2 on `p0`."""

    def __init__(self, path: Path, run) -> None:
        self.path = path
        self._run = run
        netns.create(path)
        self.connect()

    def connect(self) -> None:
        """Plug in the host's end of the wire."""
        self._run("ip", "link", "add", "p0", "type", "veth", "peer", "name", "lan0", "netns", self.path)
        for address in ("192.0.2.2/24", "2001:db8:2::2/64"):
            self._run("ip", "address", "add", address, "dev", "p0", *(["nodad"] if ":" in address else []))
        self._run("ip", "link", "set", "p0", "up")
        self.run("ip", "link", "set", "lan0", "up")
        self.take("192.0.2.1/24")
        self.take("2001:db8:2::1/64")

    def run(self, *argv: object, check: bool = True) -> str:
        """Run a command on the other machine."""
        return str(self._run(*argv, namespace=self.path, check=check))

    def take(self, address: str) -> None:
        """Give the other machine an address."""
        self.run("ip", "address", "add", address, "dev", "lan0", *(["nodad"] if ":" in address else []))

    @property
    def mac(self) -> str:
        return self.run("ip", "-br", "link", "show", "lan0").split()[2]


@pytest.fixture
def lan(host: Host, run, tmp_path: Path) -> Iterator[Lan]:
    made = Lan(tmp_path / "lan", run)
    try:
        yield made
    finally:
        netns.destroy(made.path)
