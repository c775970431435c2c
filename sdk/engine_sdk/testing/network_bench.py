"""A network in use on a private host: wires, sandboxes, and the engine's steps around a network driver."""

from __future__ import annotations

import contextlib
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine_sdk import Endpoint, Link, Plan
from engine_sdk.testing import network_requests as requests
from engine_sdk.testing.bench import lay_base_rules
from engine_sdk.testing.checks import NotDeclared, NotRun, explain
from engine_sdk.testing.host import PrivateHost, inside, run
from engine_sdk.testing.network_requests import Case
from engine_sdk.testing.snapshot import State, changes, network_state
from engine_sdk.testing.subject import Subject

if TYPE_CHECKING:
    from engine.reconcile.applier import Sandbox
    from engine.reconcile.reconciler import Reconciler

_PROBES = {
    "dummy": (),
    "ifb": (),
    "vxlan": ("id", "7", "dstport", "4789"),
    "macvlan": ("mode", "bridge"),
    "ipvlan": ("mode", "l2"),
    "vlan": ("id", "7"),
}
"""Kinds of links that a kernel may lack, and what `ip link add` wants to make one."""
_ON_A_LINK = ("macvlan", "ipvlan", "vlan")
_REACH_SECONDS = 5.0
_SETTLE_SECONDS = 3.0
"""A veth of a namespace that is gone was seen for 16 to 47 ms on an idle machine."""
_PORT = 7007


class NetworkBench:
    """One network of the driver under test, on a private host."""

    def __init__(self, subject: Subject, host: PrivateHost, case: Case | None = None) -> None:
        self.subject = subject
        self.host = host
        self.case = case or _richest(subject)
        self.net = requests.network(subject, self.case)
        self._sandboxes = 0
        underlay = [self.net.underlay] if self.net.underlay else []
        for fact in [*self.net.links.values(), *underlay]:
            if fact.mtu is None or fact.mac is None:
                raise RuntimeError("the kit's links have MTU and MAC")
            host.add_wire(fact.name, mtu=fact.mtu, mac=fact.mac, addresses=fact.addresses)
        self._probe()
        lay_base_rules(host)

    def _probe(self) -> None:
        """Raise NotRun if this kernel cannot make a kind of link that the plans have."""
        plans = requests.network_plan(self.subject, self.net), self.plan(self.endpoint())
        kinds = {r.kind for plan in plans for r in plan.by_kind(Link)} & set(_PROBES)
        if not kinds:
            return
        run("ip", "link", "add", "ecprobe", "type", "veth", "peer", "name", "ecprobe-far")
        try:
            for kind in sorted(kinds):
                on = ("link", "ecprobe") if kind in _ON_A_LINK else ()
                try:
                    run("ip", "link", "add", *on, "name", "ecprobe1", "type", kind, *_PROBES[kind])
                except RuntimeError as err:
                    raise NotRun(f"this kernel makes no {kind} links: {err}") from err
                run("ip", "link", "delete", "ecprobe1")
        finally:
            run("ip", "link", "delete", "ecprobe")

    def endpoint(self, number: int = 1, generation: int = 0) -> Endpoint:
        """Return an endpoint of the network."""
        return requests.endpoint(self.subject, self.case, self.net, number, generation=generation)

    def plan(self, end: Endpoint) -> Plan:
        """Return an endpoint's plan."""
        return requests.endpoint_plan(self.subject, self.net, end)

    @property
    def owner(self) -> str:
        """How the engine calls the network as the owner of a plan."""
        return f"net:{self.net.id}"

    def owner_of(self, end: Endpoint) -> str:
        """How the engine calls an attachment as the owner of a plan."""
        return f"ep:{self.net.id}:{end.id}:{end.generation}"

    def new_sandbox(self) -> Sandbox:
        """Make a network namespace, as the engine makes it for a container."""
        from engine.reconcile import netns

        self._sandboxes += 1
        directory = self.host.root / "netns"
        directory.mkdir(exist_ok=True)
        return netns.create(directory / f"sandbox{self._sandboxes}")

    def destroy(self, sandbox: Sandbox) -> None:
        """Let a sandbox go, as when its container died."""
        from engine.reconcile import netns

        netns.destroy(sandbox.path)

    def use(self, core: Reconciler) -> None:
        """Bring the network into use on this host."""
        core.apply(self.owner, requests.network_plan(self.subject, self.net))

    def release(self, core: Reconciler) -> None:
        """End the network's use."""
        explain("the network could not be removed", core.remove(self.owner))

    def attach(self, core: Reconciler, end: Endpoint, sandbox: Sandbox) -> None:
        """Attach an endpoint."""
        core.apply(self.owner_of(end), self.plan(end), sandbox=sandbox)

    def detach(self, core: Reconciler, end: Endpoint, *, namespace_gone: bool = False) -> None:
        """Detach an endpoint."""
        explain("could not be removed", core.remove(self.owner_of(end), namespace_gone=namespace_gone))

    def state(self, *sandboxes: Sandbox) -> dict[str, frozenset[str]]:
        """Return the state of the host and of sandboxes."""
        found = network_state()
        for sandbox in sandboxes:
            found |= {f"{sandbox.path.name} {k}": v for k, v in inside(sandbox.path, network_state).items()}
        return found

    def settled_changes(self, before: State) -> list[str]:
        """Return the changes since `before` that stay: links of a namespace that went end a little later."""
        end = time.monotonic() + _SETTLE_SECONDS
        while (left := changes(before, self.state())) and time.monotonic() < end:
            time.sleep(0.02)
        return left


def _richest(subject: Subject) -> Case:
    answered = {case.name: case for case in requests.cases(subject)}
    for name in ("dual-stack", "ipv4", "ipv6"):
        if name in answered:
            return answered[name]
    return next(iter(answered.values()))


def private_only(subject: Subject) -> None:
    """Raise NotDeclared for drivers without endpoints of their own."""
    if subject.caps.sandbox != "private":
        raise NotDeclared("driver does not declare a private sandbox")


def reaches(client: Path, server: Path | None, address: str) -> None:
    """Connect from one namespace to an address in another (None: the host's), and send a few bytes, or fail."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET

    def listen() -> socket.socket:
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, _PORT))
        listener.listen()
        listener.settimeout(_REACH_SECONDS)
        return listener

    def talk() -> bytes:
        with contextlib.closing(_connect(family, address)) as connection:
            accepted, _ = listener.accept()
            with contextlib.closing(accepted):
                connection.sendall(b"ping")
                accepted.settimeout(_REACH_SECONDS)
                return accepted.recv(4)

    with contextlib.closing(inside(server, listen) if server else listen()) as listener:
        try:
            answer = inside(client, talk)
        except OSError as err:
            raise AssertionError(f"{address} is not reached: {err}") from err
    if answer != b"ping":
        raise AssertionError(f"{address} answers {answer!r}")


def _connect(family: int, address: str) -> Any:
    """Connect, trying again for a while: a bridge port or a macvlan link needs a moment to forward."""
    end = time.monotonic() + _REACH_SECONDS
    while True:
        connection = socket.socket(family, socket.SOCK_STREAM)
        connection.settimeout(1.0)
        try:
            connection.connect((address, _PORT))
        except OSError:
            connection.close()
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
        else:
            return connection
