"""A host of its own for each test: a network namespace with an uplink to an outside that has no route back."""

import ctypes
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.network.manager import NetworkManager
from engine.network.model import ContainerRef, EndpointSettings
from engine.network.recalling import LAST_ADDRESSES
from engine.plugins import Plugins
from engine.reconcile import netns
from engine.reconcile.applier import Tag
from engine.reconcile.appliers import network_appliers
from engine.reconcile.reconciler import Reconciler
from engine.state import State

OUTSIDE, OUTSIDE6 = "198.51.100.2", "2001:db8::2"
HOST, HOST6 = "198.51.100.1", "2001:db8::1"
TAG = Tag("0badcafe", 0x0BADCAFE, "engine-0badcafe")


def _run(*argv: object, namespace: Path | None = None, check: bool = True) -> str:
    """Run a command, in the test's host or in a namespace, and return its output."""
    words = [str(word) for word in argv]
    if namespace:
        words = ["nsenter", f"--net={namespace}", *words]
    done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(words)}: {done.stderr or done.stdout}")
    return done.stdout


class Host:
    """The test's host and what runs on it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.outside = path / "outside"
        self.events: list[tuple[str, str, str, dict[str, str]]] = []
        netns.create(self.outside)
        _run("ip", "link", "set", "lo", "up")
        _run("ip", "link", "add", "up0", "type", "veth", "peer", "name", "out0", "netns", self.outside)
        for address in (f"{HOST}/24", f"{HOST6}/64"):
            _run("ip", "address", "add", address, "dev", "up0", *(["nodad"] if ":" in address else []))
        _run("ip", "link", "set", "up0", "up")
        for address in (f"{OUTSIDE}/24", f"{OUTSIDE6}/64"):
            nodad = ["nodad"] if ":" in address else []
            _run("ip", "address", "add", address, "dev", "out0", *nodad, namespace=self.outside)
        _run("ip", "link", "set", "out0", "up", namespace=self.outside)
        _run("ip", "route", "add", "default", "via", OUTSIDE)
        _run("ip", "-6", "route", "add", "default", "via", OUTSIDE6)
        self.start()

    def start(self, **plugins: object) -> None:
        """Start the engine's part; once more is a restart after a crash."""
        self.state = State(self.path / "engine.db")
        self.plugins = Plugins(**plugins)  # type: ignore[arg-type]
        self.reconciler = Reconciler(TAG, network_appliers(TAG))
        self.networks = NetworkManager(self.state, self.plugins, self.reconciler, self.path / "netns", self)

    def emit(self, type: str, action: str, id: str, attributes: dict[str, str] | None = None) -> None:
        self.events.append((type, action, id, dict(attributes or {})))

    def container(self, name: str, network: str, **settings: object):
        """Start a container on a network: a namespace and an endpoint."""
        ref = ContainerRef(id=name.encode().hex().ljust(64, "0"), name=name, hostname=name)
        ports = settings.pop("ports", ())
        sandbox = self.networks.sandbox_create(ref.id)
        try:
            return self.networks.attach(network, ref, sandbox, EndpointSettings(**settings), ports)  # type: ignore[arg-type]
        except BaseException:
            self.networks.sandbox_remove(ref.id)
            raise

    def warm(self) -> None:
        """Let the firewall's base, which stays, come to be."""
        self.networks.restore([])
        self.end(self.container("warm", "bridge"))
        self.settle()
        self.events.clear()

    def end(self, endpoint) -> None:
        """End a container."""
        self.networks.detach_all(endpoint.container.id)
        self.networks.sandbox_remove(endpoint.container.id)

    def settle(self) -> None:
        """Wait until the kernel has removed the links of namespaces that are gone (some 50 ms)."""
        until = time.monotonic() + 5
        wanted = {e.host_ifname for e in self.networks._store.endpoints()}
        while {n for _, n in socket.if_nameindex() if n.startswith("veth")} - wanted and time.monotonic() < until:
            time.sleep(0.01)

    def snapshot(self) -> dict[str, object]:
        """Return all that an attachment could leave behind, inside the engine and out."""
        self.settle()
        objects = self.state._db.execute("SELECT kind, id, name FROM objects ORDER BY 1, 2").fetchall()
        return {
            "links": sorted(name for _, name in socket.if_nameindex()),
            "addresses": sorted(
                (link["ifname"], a["local"])
                for link in json.loads(_run("ip", "-j", "address"))
                for a in link["addr_info"]
                if a["scope"] == "global"
            ),
            "routes": _run("ip", "route")
            + "".join(line for line in _run("ip", "-6", "route").splitlines() if not line.startswith("fe80")),
            "nft": _run("nft", "list", "ruleset"),
            "namespaces": [p.name for p in netns.present(self.path / "netns")],
            "rows": [(k, i, n) for k, i, n in objects if k != LAST_ADDRESSES],  # kept on purpose
            "claims": self.state._db.execute("SELECT space, value, owner FROM claims ORDER BY 1, 2").fetchall(),
            "owners": sorted(self.reconciler.owners()),
            "ports": sorted(self.networks._attaching.ports._taken),
        }

    def close(self) -> None:
        for path in [*netns.present(self.path / "netns"), self.outside]:
            netns.destroy(path)
        self.reconciler.close()
        self.state.close()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """Put the test's thread, and all that it starts, into a namespace of its own."""
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open(f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY)
    if libc.unshare(0x40000000) != 0:
        pytest.skip("needs root")
    made = None
    try:
        made = Host(tmp_path)
        yield made
    finally:
        if made:
            made.close()
        assert libc.setns(home, 0x40000000) == 0
        os.close(home)


@pytest.fixture
def ping():
    """Return a function that tells whether an answer comes; its source is an endpoint or a namespace.

    A new link is not always ready at once: the kernel looks at carriers at most once a second.
    """

    def ping(source, target: str, tries: int = 3) -> bool:
        path = Path(getattr(source, "sandbox", source))
        return any(
            "1 received" in _run("ping", "-c1", "-W1", target, namespace=path, check=False) for _ in range(tries)
        )

    return ping


@pytest.fixture
def socket_in():
    """Return a function that makes a socket of a namespace."""
    return _socket_in


def _socket_in(namespace: Path | str, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM) -> socket.socket:
    """Return a socket of a namespace."""
    made: list[socket.socket] = []

    def make() -> None:
        with netns.opened(Path(namespace)) as fd:
            ctypes.CDLL(None).setns(fd, 0x40000000)
        made.append(socket.socket(family, kind))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    made[0].settimeout(3)
    return made[0]


@pytest.fixture
def run():
    """Return a function that runs a command, in the test's host or in a namespace, and returns its output."""
    return _run
