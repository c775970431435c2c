"""Ports that a container publishes while it runs: what it got, and what it will ask for at its next start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from engine.container.config import Config, HostConfig, PortBinding
from engine.container.ports import parse_port, port_requests
from engine.container.record import Container
from engine.container.store import ContainerStore
from engine.events import EventBus
from engine.network.manager import NetworkManager
from engine.network.model import PortSpan, PublishedPort
from engine.network.publishing import Note
from engine.spec.errors import Conflict, InvalidParameter, NotFound

Ports = Mapping[str, Sequence[Mapping[str, str]] | None]
"""The API's PortBindings."""
_ANY = {"0.0.0.0", "::", ""}


class ContainerPorts:
    """Adds, removes and moves published ports. Of a container that does not run, only its wishes change."""

    def __init__(self, store: ContainerStore, networks: NetworkManager, events: EventBus) -> None:
        self._store = store
        self._networks = networks
        self._events = events

    def add(self, ref: str, bindings: Ports) -> dict[str, Any]:
        """Publish further ports; return those that there are then, in the API's shape.

        Raises Conflict (which names the holder) when one is taken, InvalidParameter, Unsupported.
        """
        container = self._store.get(ref)
        with self._locked(container):
            wished = _with_bindings(container.host_config, bindings)
            requests = port_requests(_bindings(bindings))
            if not requests:
                raise InvalidParameter("no port is given")
            note = _Wishes(self._store, {container.id: wished})
            if container.state.running:
                self._networks.publishing.add(container.id, requests, note)
            else:
                self._networks.check_ports([e.network for e in container.endpoints], requests)
                note.write(())
            self._tell(container, "port-add")
            return dict(self._networks.port_bindings(container.id))

    def remove(self, ref: str, which: Sequence[PortSpan]) -> None:
        """Publish ports no longer. Raises NotFound for one that is not published."""
        container = self._store.get(ref)
        with self._locked(container):
            note = _Removal(self._store, container)
            if container.state.running:
                self._networks.publishing.remove(container.id, which, note)
            else:
                note.write([_wished(container, span) for span in which])
            self._tell(container, "port-remove")

    def move(self, ref: str, to: str, span: PortSpan, target: int) -> None:
        """Let published ports lead to another running container; no connection attempt in between is refused.

        Connections that there are stay with the first container. `target` is the first port of the other one, 0 for
        the same as before. Raises NotFound, Conflict if one of the two does not run, InvalidParameter, Unsupported.
        """
        giver, taker = self._store.get(ref), self._store.get(to)
        if giver.id == taker.id:
            raise InvalidParameter(f"container {giver.name} has that port already")
        with self._locked(giver, taker):
            for container in (giver, taker):
                if not container.state.running:
                    raise Conflict(f"container {container.name} is not running", hint="Ports move while both run.")
            note = _Move(self._store, giver, taker)
            self._networks.publishing.move(giver.id, taker.id, span, target, note)
            self._tell(giver, "port-remove")
            self._tell(taker, "port-add")

    @contextmanager
    def _locked(self, *containers: Container) -> Iterator[None]:
        with ExitStack() as stack:
            for container in sorted(containers, key=lambda c: c.id):
                stack.enter_context(self._store.lock(container))
            for container in containers:
                if not self._store.exists(container):
                    raise NotFound(f"No such container: {container.name}")
            yield

    def _tell(self, container: Container, action: str) -> None:
        self._events.emit("container", action, container.id, container.attributes())


class _Wishes(Note):
    """New host configurations, by container id, written in the network manager's transaction."""

    def __init__(self, store: ContainerStore, wishes: Mapping[str, HostConfig]) -> None:
        self._store = store
        self._wishes = dict(wishes)
        self._former: dict[str, HostConfig] = {}

    def write(self, ports: Sequence[PublishedPort]) -> None:
        for id, wished in self._wishes.items():
            container = self._store.get(id)
            self._former[id] = container.host_config
            container.host_config = wished
            self._store.save(container)

    def undo(self) -> None:
        for id, former in self._former.items():
            container = self._store.get(id)
            container.host_config = former
            self._store.save(container)


class _Removal(_Wishes):
    """A container's wishes without the ports that go."""

    def __init__(self, store: ContainerStore, container: Container) -> None:
        super().__init__(store, {})
        self._container = container

    def write(self, ports: Sequence[PublishedPort]) -> None:
        self._wishes[self._container.id] = _without(self._container, ports)
        super().write(ports)


class _Move(_Removal):
    """Wishes of two containers, of which one takes what the other gives."""

    def __init__(self, store: ContainerStore, giver: Container, taker: Container) -> None:
        super().__init__(store, giver)
        self._taker = taker

    def write(self, ports: Sequence[PublishedPort]) -> None:
        taken: dict[str, list[dict[str, str]]] = {}
        for port in {_identity(port): port for port in ports}.values():
            for n in range(port.count):
                binding = {"HostIp": port.host_ip, "HostPort": str(port.host_port + n)}
                taken.setdefault(f"{port.target_port + n}/{port.protocol}", []).append(binding)
        self._wishes[self._taker.id] = _with_bindings(self._taker.host_config, taken)
        super().write(ports)


def _identity(port: PublishedPort) -> tuple[str, str, int]:
    """What a wish for a port says: one without an address is for both families."""
    return port.protocol, port.host_ip, port.host_port


def _bindings(ports: Ports) -> dict[str, list[PortBinding] | None]:
    return HostConfig.parse({"PortBindings": ports}).port_bindings


def _with_bindings(host: HostConfig, ports: Ports) -> HostConfig:
    merged = {name: list(bindings or []) for name, bindings in host.port_bindings.items()}
    for name, bindings in _bindings(ports).items():
        number, protocol = parse_port(name)
        merged.setdefault(f"{number}/{protocol}", []).extend(bindings or [PortBinding()])
    return host.model_copy(update={"port_bindings": merged})


def _without(container: Container, ports: Sequence[PublishedPort]) -> HostConfig:
    """Return the wishes without those that these ports came from; `-P` becomes a wish for each of the others."""
    host = container.host_config
    merged = {name: list(bindings or [PortBinding()]) for name, bindings in host.port_bindings.items()}
    if host.publish_all_ports:
        for name in _exposed(container.config):
            merged.setdefault(name, [PortBinding()])
    for port in ports:
        for n in range(port.count):
            _drop(merged, port, n)
    kept = {name: bindings for name, bindings in merged.items() if bindings}
    return host.model_copy(update={"port_bindings": kept, "publish_all_ports": False})


def _exposed(config: Config) -> list[str]:
    return ["/".join(map(str, parse_port(name))) for name in config.exposed_ports]


def _drop(merged: dict[str, list[PortBinding]], port: PublishedPort, n: int) -> None:
    """Drop the wish for one port: the one for that number, or else one that leaves the number to the engine."""
    exact = [
        (name, binding)
        for name, bindings in merged.items()
        for binding in bindings
        if name.endswith(f"/{port.protocol}") and _covers(binding, port, n, exact=True)
    ]
    name = f"{port.target_port + n}/{port.protocol}"
    loose = [(name, binding) for binding in merged.get(name, ()) if _covers(binding, port, n, exact=False)]
    for found, binding in [*exact, *loose][:1]:
        merged[found].remove(binding)


def _covers(binding: PortBinding, port: PublishedPort, n: int, *, exact: bool) -> bool:
    low, _, high = binding.host_port.partition("-")
    same = binding.host_ip == port.host_ip or (not port.host_ip and binding.host_ip in _ANY)
    number = port.host_port + n
    if exact:
        return same and low == str(number) and high in ("", low)
    return same and (not low or int(low) <= number <= int(high or low))


def _wished(container: Container, span: PortSpan) -> PublishedPort:
    """Return the port that a container which does not run wishes for. Raises NotFound."""
    for name, bindings in container.host_config.port_bindings.items():
        number, protocol = parse_port(name)
        for binding in bindings or ():
            port = PublishedPort(
                protocol=span.protocol, host_ip=binding.host_ip, family=4, host_port=span.host_port,
                target_port=number, count=1,
            )  # fmt: skip
            meant = protocol == span.protocol and span.count == 1 and span.host_ip in ("", binding.host_ip)
            if meant and _covers(binding, port, 0, exact=True):
                return port
    raise NotFound(f"port {span.text} is not among those that container {container.name} is to publish")
