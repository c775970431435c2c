"""What clients see of containers: records, and what networks, volumes and images know of them, put together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from engine.alone import alone
from engine.container import layer
from engine.container.config import EndpointConfig
from engine.container.environment import Environment
from engine.container.filters import ContainerFilter
from engine.container.record import Container
from engine.container.store import ContainerStore
from engine.container.views import JsonObject, bare_summary, inspection, mount_json, network_settings, summary
from engine.filters import Filters
from engine.image.manager import ImageManager
from engine.network.manager import NetworkManager
from engine.spec.errors import NotFound

_List = list  # the class has a method of that name


class Presenter:
    """Inspections and summaries."""

    def __init__(
        self, store: ContainerStore, environment: Environment, images: ImageManager, networks: NetworkManager
    ) -> None:
        self._store = store
        self._environment = environment
        self._images = images
        self._networks = networks

    def inspect(self, container: Container, execs: Sequence[str], *, size: bool = False) -> JsonObject:
        """Return the API's inspection."""
        result = inspection(
            container,
            directory=self._environment.directory(container),
            rootfs=self._environment.rootfs(container),
            mounts=self._mounts_json(container),
            networks=network_settings(
                self._networks_json(container),
                self._ports(container),
                str(self._networks.sandbox_path(container.id)) if container.state.running else "",
                container.id,
            ),
            execs=execs,
        )
        if size:
            result |= self._sizes(container)
        return result

    def list(self, *, all: bool = False, limit: int = 0, size: bool = False, filters: Filters) -> _List[JsonObject]:
        """Return the API's summaries, newest first."""
        passes = ContainerFilter(
            filters, find=self._store.get, networks_of=self._network_names, image_matches=self._image_matches
        )
        shows_ended = all or limit > 0 or passes.shows_ended
        chosen = [c for c in self._store.all() if (shows_ended or c.state.running) and passes(c)]
        return [self._row(c, size=size) for c in (chosen[:limit] if limit > 0 else chosen)]

    def _row(self, container: Container, *, size: bool) -> JsonObject:
        """Return a summary, or what can be said of a container that is too odd for one: it must not hide the others."""
        fault, faults = self._store.fault(container), dict[str, str]()
        with alone(f"container {container.name}", faults):
            row = self._summary(container, size=size)
            return row | {"Status": f"{row['Status']} (faulty: {fault})"} if fault else row
        return bare_summary(container, *faults.values())

    def _summary(self, container: Container, *, size: bool) -> JsonObject:
        result = summary(
            container,
            mounts=self._mounts_json(container),
            networks=self._networks_json(container),
            ports=self._ports(container),
        )
        return result | self._sizes(container) if size else result

    def _mounts_json(self, container: Container) -> _List[JsonObject]:
        return [mount_json(m, self._environment.mount_source(m)) for m in container.mounts]

    def _network_names(self, container: Container) -> Iterable[str]:
        for endpoint in container.endpoints:
            yield endpoint.network
            with suppress(NotFound):
                yield self._networks.get(endpoint.network).name

    def _networks_json(self, container: Container) -> dict[str, JsonObject]:
        """Return what it got on each network while it runs, and what it wishes for while it does not."""
        result: dict[str, JsonObject] = {}
        for endpoint in container.endpoints:
            with suppress(NotFound):  # the network was removed while the container did not run
                record = self._networks.get(endpoint.network)
                result[record.name] = endpoint.settings.docker() | {"NetworkID": record.id, "EndpointID": ""}
        if container.sandbox == "host":
            record = self._networks.get(container.host_config.network_mode)
            result[record.name] = EndpointConfig().docker() | {"NetworkID": record.id, "EndpointID": ""}
        return result | self._networks.inspect_endpoints(container.id)

    def _ports(self, container: Container) -> Mapping[str, Any]:
        exposed: dict[str, Any] = dict.fromkeys(container.config.exposed_ports)
        return exposed | dict.fromkeys(container.host_config.port_bindings) | self._networks.port_bindings(container.id)

    def _image_matches(self, ref: str, container: Container) -> bool:
        return ref == container.image_ref or self._images.resolve(ref).id == container.image_id

    def size(self, container: Container) -> int:
        """Return the bytes of what a container changed."""
        return layer.size(self._environment.upper(container))

    def _sizes(self, container: Container) -> JsonObject:
        changed = self.size(container)
        image = self._images.find(container.image_id)
        return {"SizeRw": changed, "SizeRootFs": changed + (image.size if image else 0)}
