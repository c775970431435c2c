"""From a create request to a container's record: everything is checked here, before anything is made."""

from __future__ import annotations

import re
import signal
import socket
from dataclasses import dataclass

from engine.container import etc
from engine.container.config import Config, CreateRequest, EndpointConfig, HostConfig
from engine.container.launch import Security, command, merge_image, resources
from engine.container.mounts import MountResolver
from engine.container.naming import check_name, made_up_name, new_id
from engine.container.ports import requested_ports
from engine.container.record import Container, Endpoint
from engine.container.restart import check_policy
from engine.container.store import ContainerStore
from engine.container.times import now
from engine.image.manager import ImageManager
from engine.image.model import Image
from engine.network.addresses import check_address, check_mac
from engine.network.manager import NetworkManager
from engine.network.model import NetworkRecord
from engine.runtime import capabilities
from engine.runtime.model import HOST
from engine.spec.errors import Conflict, InvalidParameter, NotFound

_HOSTNAME = re.compile(r"(?!-)[a-zA-Z0-9-]{1,63}(?<!-)(\.(?!-)[a-zA-Z0-9-]{1,63}(?<!-))*\Z")
_LOG_DRIVERS = ("", "json-file", "local", "none")


def signal_number(name: str, default: signal.Signals = signal.SIGTERM) -> int:
    """Return the number of a signal by name (with or without SIG) or number. Raises InvalidParameter."""
    if not name:
        return int(default)
    try:
        if name.isdecimal():
            return int(signal.Signals(int(name)))
        upper = name.upper()
        return int(signal.Signals[upper if upper.startswith("SIG") else f"SIG{upper}"])
    except (ValueError, KeyError) as err:
        raise InvalidParameter(f"Invalid signal: {name}") from err


@dataclass(frozen=True)
class NetworkDefault:
    """The network of containers that name none: the daemon's `--net-driver`, or the network called bridge."""

    driver: str = ""
    options: tuple[tuple[str, str], ...] = ()


class Creation:
    """Makes containers' records."""

    def __init__(
        self,
        store: ContainerStore,
        images: ImageManager,
        networks: NetworkManager,
        mounts: MountResolver,
        default: NetworkDefault,
        runtime: str,
    ) -> None:
        """`runtime` is the name of the only OCI runtime that there is."""
        self._store = store
        self._images = images
        self._networks = networks
        self._mounts = mounts
        self.default = default
        self._runtime = runtime

    def build(self, request: CreateRequest, name: str) -> tuple[Container, list[str]]:
        """Return a new container, not stored yet, and warnings.

        Raises NotFound for the image and for nothing else: upon it, clients pull the image. InvalidParameter, for a
        network, a driver, a container that there is none of, too; Conflict for options that contradict.
        """
        image = self._images.resolve(request.image)
        try:
            return self._build(request, name, image)
        except NotFound as err:
            raise InvalidParameter(err.what, why=err.why, hint=err.hint, driver=err.driver) from err

    def _build(self, request: CreateRequest, name: str, image: Image) -> tuple[Container, list[str]]:
        config, host = merge_image(request.config(), image.run), request.host_config
        words = command(config)
        id = new_id()
        container = Container(
            id=id,
            name=check_name(name) if name else made_up_name(self._store.has_name),
            created=now(),
            image_id=image.id,
            image_ref=request.image,
            config=config,
            host_config=host,
            path=words[0],
            args=words[1:],
        )
        warnings = _check(config, host)
        if host.runtime not in ("", self._runtime):
            raise InvalidParameter(f"unknown or invalid runtime name: {host.runtime}", hint=f"Known: {self._runtime}")
        warnings += self._choose_networks(container, request)
        _choose_hostname(container)
        container.mounts = self._mounts.resolve(config, host, id)
        return container, warnings

    # Networks

    def _choose_networks(self, container: Container, request: CreateRequest) -> list[str]:
        """Write down which networks a container joins, and return warnings."""
        host = container.host_config
        mode = host.network_mode or "default"
        wishes = request.networking_config.endpoints_config
        if mode.startswith("container:"):
            if host.net_driver:
                raise Conflict("conflicting options: --net-driver and the container type network mode")
            other = self._store.get(mode.removeprefix("container:"))
            if host.port_bindings or host.publish_all_ports:
                raise Conflict("conflicting options: port publishing and the container type network mode")
            container.sandbox, container.joined = "container", other.id
            return []
        record = self._primary(host, mode)
        if (mode in ("default", "") and not host.net_driver) or host.net_driver:
            host.network_mode = record.name
        if self._networks.caps(record).sandbox == "host":
            self._refuse_for_host(container, request, record)
            container.sandbox = "host"
            discarded = "Published ports are discarded when using host network mode"  # docker's words
            return [discarded] if host.port_bindings or host.publish_all_ports else []
        settings = {
            self._networks.get(ref).id: wish for ref, wish in wishes.items() if ref != mode or mode != "default"
        }
        first = wishes.get(mode) or settings.pop(record.id, None) or EndpointConfig()
        settings.pop(record.id, None)
        if container.config.mac_address and not first.mac_address:
            first.mac_address = container.config.mac_address
        container.endpoints = [Endpoint(network=record.id, settings=first)]
        container.endpoints += [Endpoint(network=id, settings=wish) for id, wish in settings.items()]
        for endpoint in container.endpoints:
            check_endpoint(endpoint, self._networks.get(endpoint.network))
        self._networks.check_ports([e.network for e in container.endpoints], requested_ports(container.config, host))
        return []

    def _primary(self, host: HostConfig, mode: str) -> NetworkRecord:
        if host.net_driver:
            return self._networks.default_network(host.net_driver, host.net_opts)
        if host.net_opts:
            raise InvalidParameter("--net-opt needs --net-driver")
        if mode in ("default", ""):
            if self.default.driver:
                return self._networks.default_network(self.default.driver, dict(self.default.options))
            return self._networks.get("bridge")
        return self._networks.get(mode)

    def _refuse_for_host(self, container: Container, request: CreateRequest, record: NetworkRecord) -> None:
        if container.config.mac_address:
            raise Conflict(f"conflicting options: mac-address and the network mode {record.name}")
        for wish in request.networking_config.endpoints_config.values():
            if wish.ipam_config.ipv4_address or wish.ipam_config.ipv6_address:
                raise InvalidParameter(f"an address cannot be given on the network {record.name}", driver=record.driver)
        if len(request.networking_config.endpoints_config) > 1:
            raise Conflict(f"container cannot be connected to the network {record.name} and others")


def check_endpoint(endpoint: Endpoint, network: NetworkRecord) -> None:
    """Raise InvalidParameter for settings of an endpoint that are malformed or mean nothing on its network."""
    settings = endpoint.settings
    if settings.aliases and network.predefined:
        raise InvalidParameter(
            "network-scoped aliases are only supported for user-defined networks",
            why=f"containers on network {network.name} have no names",
            hint="engine network create NAME, and --network NAME",
        )
    if settings.mac_address:
        settings.mac_address = check_mac(settings.mac_address)
    for family, address in ((4, settings.ipam_config.ipv4_address), (6, settings.ipam_config.ipv6_address)):
        if address:
            check_address(address, family)


def _choose_hostname(container: Container) -> None:
    config, host = container.config, container.host_config
    if host.uts_mode == HOST or (container.sandbox == "host" and not config.hostname):
        if config.hostname:
            raise Conflict("conflicting options: hostname and the UTS mode")
        config.hostname = socket.gethostname()
    elif container.sandbox == "container" and config.hostname:
        raise Conflict("conflicting options: hostname and the network mode")
    elif not config.hostname:
        config.hostname = container.short_id
    if not _HOSTNAME.match(config.hostname) or len(config.hostname) > 64:
        raise InvalidParameter(f"invalid hostname: {config.hostname!r}")


def _check(config: Config, host: HostConfig) -> list[str]:
    """Raise for what is wrong, and return what is only worth a warning."""
    warnings = []
    if config.working_dir and not config.working_dir.startswith("/"):
        raise InvalidParameter(
            f"the working directory {config.working_dir!r} is invalid, it needs to be an absolute path"
        )
    for entry in config.env:
        if not entry or entry.startswith("="):
            raise InvalidParameter(f"invalid environment variable: {entry!r}")
    signal_number(config.stop_signal)
    policy = host.restart_policy
    check_policy(policy.name, policy.maximum_retry_count, auto_remove=host.auto_remove)
    Security.parse(host.security_opt)
    for name in (*host.cap_add, *host.cap_drop):
        capabilities.normalise(name)
    resources(host)
    requested_ports(config, host)
    for value in host.extra_hosts:
        etc.parse_extra_host(value, "0.0.0.0")
    if host.log_config.type not in _LOG_DRIVERS:
        raise InvalidParameter(f"unknown log driver {host.log_config.type!r}", hint="Known: json-file, none.")
    if host.userns_mode not in ("", "host"):
        raise InvalidParameter(f"unsupported user namespace mode {host.userns_mode!r}")
    if host.oom_kill_disable and not host.memory:
        warnings.append("OOM killer is disabled for the container, but no memory limit is set")
    if config.healthcheck is not None and config.healthcheck.test not in ([], ["NONE"]):
        warnings.append("health checks are not run by this engine yet")
    return warnings
