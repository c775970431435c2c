"""Makes the record of a new network: everything is checked here, before anything is written or done."""

from __future__ import annotations

import json
import logging
import re
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from ipaddress import ip_network
from typing import Any, cast

from pydantic import TypeAdapter, ValidationError

from engine.network import hostnet
from engine.network.addresses import GROUP as IPAM
from engine.network.addresses import derived_mac, ipam_options
from engine.network.model import NetworkRecord, now
from engine.network.planner import GROUP, Planner
from engine.network.unusable import check_hosts_own, check_reserved, overlap
from engine.plugins import Plugins
from engine.spec.errors import Conflict, DriverFault, EngineError, Forbidden, InvalidParameter, Unsupported
from engine.spec.ipam import AddressPool, IpamDriver, Pool, PoolRequest
from engine.spec.network import NetworkCaps
from engine.spec.options import adopts_own_link, own_link_fields, parse_options, vni_fields
from engine.spec.values import IfName, contains, family_of

log = logging.getLogger(__name__)
DEFAULT_IPAM = "range"
IPAM_OPTION = "ipam"
"""Option of every network: the IPAM driver, as --ipam-driver says it; `--net-opt` has no other place for it."""
COMMON = {"com.docker.network.driver.mtu": "mtu"}
"""Docker's names of options that every driver has."""
_PREFIX = "com.docker.network.container_iface_prefix"
_BINDING = "com.docker.network.bridge.host_binding_ipv4"
_IGNORED = frozenset({"com.docker.network.bridge.default_bridge"})
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}")
_RESERVED = frozenset({"default", "container"})
"""Words that mean something else where a network is named."""
_ifname = TypeAdapter(IfName)
Identity = Callable[[int | None], tuple[str, int]]
"""Returns the id and the VNI of a network that spans hosts; its argument is the VNI that the operator wants."""


@dataclass(frozen=True)
class NetworkRequest:
    """What is asked for when a network is created. `ipam` are Docker's IPAM configurations, one for each subnet:
    `Subnet`, `IPRange`, `Gateway`, `AuxiliaryAddresses` (or `AuxAddress`), all optional.
    """  # fmt: skip

    name: str
    driver: str
    options: Mapping[str, str] = field(default_factory=dict)
    ipam: Sequence[Mapping[str, Any]] = ()
    ipam_driver: str = ""
    ipam_options: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    internal: bool = False
    ipv4: bool = True
    ipv6: bool = False
    attachable: bool = False
    scope: str = ""
    """`local` or `global`, if it must be that; which one it is, the driver says."""
    predefined: bool = False
    default_for: str = ""


class Creation:
    """Turns requests into records. Reads the host, and changes nothing."""

    def __init__(
        self,
        plugins: Plugins,
        planner: Planner,
        networks: Callable[[], list[NetworkRecord]],
        default_pools: tuple[AddressPool, ...] = (),
    ) -> None:
        self.lock = threading.RLock()
        """Held from the choice of a name and of pools until they are written."""
        self._plugins = plugins
        self._planner = planner
        self._networks = networks
        self._default_pools = default_pools

    def record(self, request: NetworkRequest, identity: Identity | None = None) -> NetworkRecord:
        """Return the record of a new network, not written yet; one that spans hosts needs an `identity`.

        Raises InvalidParameter, NotFound (driver), Conflict (name, subnet), Forbidden (only so many networks of the
        driver), Unsupported (the driver cannot), Unavailable (no parent, no pool) and DriverFault.
        """
        self._check_name(request.name)
        caps = self._planner.caps(request.driver)
        self._check_caps(request, caps)
        model = self._planner.driver(request.driver).options_model
        prefix, binding, ipam_driver, given = _common_options(request.driver, request.options, caps)
        options = parse_options(model, given, driver=request.driver)
        chosen = next((v for f in vni_fields(model) if (v := getattr(options, f)) is not None), None)
        id, vni = identity(chosen) if identity else (secrets.token_hex(32), None)
        own = next((name for f in own_link_fields(model) if (name := str(getattr(options, f)))), "")
        adopted = adopts_own_link(options)
        if request.ipam_driver not in ("", "default"):
            ipam_driver = request.ipam_driver
        if adopted and not self._leases(ipam_driver):
            request = self._with_adopted_pools(request, own)
        record = NetworkRecord(
            id=id,
            name=request.name,
            driver=request.driver,
            scope=caps.scope,
            created=now(),
            given=dict(request.options),
            ipam_driver=ipam_driver,
            ipam_options=dict(request.ipam_options),
            labels=dict(request.labels),
            internal=request.internal,
            attachable=request.attachable,
            predefined=request.predefined,
            default_for=request.default_for,
            vni=vni,
            ifname=own if adopted else self._own_link(own) if own else f"br-{id[:12]}",
            adopted=adopted,
            mac=derived_mac(id),
            link_prefix=prefix,
            host_binding=binding,
            package=self._package(request.driver),
        )
        families = _families(request)
        pools = self._pools(request.ipam, families, record, caps) if caps.addresses else ()
        record = record.model_copy(
            update={
                "pools": pools,
                "ipv6": any(family_of(p.subnet) == 6 for p in pools),
                "chosen_pools": bool(pools) and not any(request.ipam) and caps.scope == "local",
            },
        )
        settled = self._planner.settle(request.driver, options, record)
        record = record.model_copy(update={"options": settled.model_dump(mode="json")})
        self._planner.network_plan(self._planner.network(record))  # what the driver would refuse later, it refuses now
        return record

    def default_key(self, driver: str, options: Mapping[str, str]) -> str:
        """Return what tells the default network of a driver and options from others; spellings do not matter.

        Options that have their default are left out: a driver that learns a new one must not forget its network.
        """
        prefix, binding, ipam, given = _common_options(driver, options, self._planner.caps(driver))
        parsed = parse_options(self._planner.driver(driver).options_model, given, driver=driver)
        key = [driver, prefix, binding, parsed.model_dump(mode="json", exclude_defaults=True)]
        return json.dumps(key if ipam == DEFAULT_IPAM else [*key, ipam], sort_keys=True)

    def _check_name(self, name: str) -> None:
        if not _NAME.fullmatch(name) or name in _RESERVED:
            raise InvalidParameter(
                f"{name!r} is no name for a network", hint="Use letters, digits, underscore, dot and hyphen"
            )
        if any(n.name == name for n in self._networks()):
            raise Conflict(f"network with name {name} already exists", hint="Choose another name")

    def _check_caps(self, request: NetworkRequest, caps: NetworkCaps) -> None:
        if not caps.addresses and (request.ipam or request.ipv6):
            raise Unsupported(
                "the network cannot have subnets", why="this driver has no addresses", driver=request.driver
            )
        if request.scope not in ("", caps.scope):
            raise InvalidParameter(
                f"the network cannot have the scope {request.scope!r}",
                why=f"networks of this driver are {caps.scope}",
                driver=request.driver,
            )
        existing = [n for n in self._networks() if n.driver == request.driver]
        if caps.max_networks is not None and len(existing) >= caps.max_networks:
            raise Forbidden(
                f"only {caps.max_networks} network of driver {request.driver} can exist",
                why=f"there is {', '.join(n.name for n in existing)}",
                driver=request.driver,
            )

    def _own_link(self, name: str) -> str:
        """Check the name that the operator wants for the network's own host link."""
        try:
            _ifname.validate_python(name)
        except ValidationError as err:
            raise InvalidParameter(f"{name!r} is no name for a link", why=err.errors()[0]["msg"]) from err
        holder = next((n.name for n in self._networks() if n.ifname == name), "")
        if holder or hostnet.link(name) is not None:
            raise Conflict(
                f"the host has a link {name} already", why=f"it is network {holder}'s" if holder else "it is not ours"
            )
        return name

    def _with_adopted_pools(self, request: NetworkRequest, name: str) -> NetworkRequest:
        """Return a request with the subnets and gateways of the adopted host link where it asks for no others.

        Raises InvalidParameter without a name or a subnet, Unavailable if there is no such link, Conflict if ours.
        """
        if not name:
            raise InvalidParameter("the link to adopt is not named", hint="Give -o name=…", driver=request.driver)
        holder = next((n.name for n in self._networks() if n.ifname == name and not n.adopted), "")
        if holder:
            raise Conflict(f"the link {name} cannot be adopted", why=f"Engine made it for network {holder}")
        own = hostnet.select(name, frozenset()).addresses
        ipam = [dict(config) for config in request.ipam if config]
        for family in sorted(_families(request)):
            if not any(config.get("Subnet") and family_of(str(config["Subnet"])) == family for config in ipam):
                address = next((a for a in own if family_of(a) == family), None)
                if address is None:
                    raise InvalidParameter(
                        f"{name} has no IPv{family} address", hint="Give the --subnet that it carries"
                    )
                ipam.append({"Subnet": str(ip_network(address, strict=False))})
        for config in ipam:
            inside = [a for a in own if contains(str(config["Subnet"]), a)] if config.get("Subnet") else []
            if inside and not config.get("Gateway"):
                config["Gateway"] = inside[0].partition("/")[0]
        return replace(request, ipam=ipam)

    def _package(self, driver: str) -> str:
        row = next(i for i in self._plugins.info(GROUP) if i.name == driver and i.status == "ok")
        return f"{row.distribution} {row.version}"

    # Pools

    def _leases(self, ipam_driver: str) -> bool:
        return cast(IpamDriver[Any], self._plugins.get(IPAM, ipam_driver)).caps.leases

    def refreshed(self, record: NetworkRecord, caps: NetworkCaps) -> NetworkRecord:
        """Return a network that nobody uses yet with other pools, if the host has routes to its pools by now.

        Another engine on this host, or a VPN, may have taken them since the network was created.
        """
        routed = hostnet.routed_prefixes()
        if not record.chosen_pools or not any(overlap(p.subnet, r) for p in record.pools for r in routed):
            return record
        log.info("the host has routes to the pools of network %s: it gets others", record.name)
        pools = self._pools((), {family_of(p.subnet) for p in record.pools}, record, caps)
        return record.model_copy(update={"pools": pools})

    def _pools(
        self, ipam: Sequence[Mapping[str, Any]], wanted: Set[int], record: NetworkRecord, caps: NetworkCaps
    ) -> tuple[Pool, ...]:
        options = ipam_options(self._plugins, record.ipam_driver, dict(record.ipam_options))
        host_gateway = caps.host_gateway and not record.adopted
        if self._leases(record.ipam_driver):
            if any(ipam) or wanted != {4}:
                raise InvalidParameter(
                    "a network whose addresses are leased has no subnets",
                    why="which addresses there are, the server on the wire knows",
                    hint="Leave out --subnet, --gateway, --ip-range and --ipv6",
                    driver=record.ipam_driver,
                )
            return ()
        asked = [_pool_request(config, record.id, host_gateway) for config in ipam if config]
        for family in sorted(wanted - {a.family for a in asked}):
            asked.append(PoolRequest(key=record.id, family=family, wants_gateway=host_gateway))
        asked.sort(key=lambda a: a.family)
        pools: list[Pool] = []
        routed = hostnet.routed_prefixes() if any(a.subnet is None for a in asked) else ()
        for pool_request in asked:
            if pool_request.subnet:
                check_reserved(pool_request.subnet)
            else:
                pool_request = pool_request.model_copy(update={"defaults": self._default_pools})
            self._check_overlap(pool_request.subnet, record.name, pools, caps)
            if pool_request.subnet and host_gateway:
                check_hosts_own(pool_request.subnet, self._planner.own_links())
            rivals = self._rivals(caps) if pool_request.subnet else self._networks()
            others = [p.subnet for n in rivals if n.id != record.id for p in n.pools] + [p.subnet for p in pools]
            avoid = (*others, *(routed if pool_request.subnet is None else ()))
            answer = self._plugins.call(
                IPAM, record.ipam_driver, "choose_pool", request=pool_request, options=options, avoid=avoid
            )
            pools.append(self._checked(answer, pool_request, record, pools, caps))
        return tuple(pools)

    def _rivals(self, caps: NetworkCaps) -> list[NetworkRecord]:
        """Return the networks whose subnets a new one of these capabilities must not overlap."""
        networks = self._networks()
        return [n for n in networks if not self._has_own_addresses(n)] if caps.own_addresses else networks

    def _has_own_addresses(self, network: NetworkRecord) -> bool:
        try:
            return self._planner.caps(network.driver).own_addresses
        except EngineError:  # its driver is gone
            return False

    def _check_overlap(self, subnet: str | None, name: str, pools: Sequence[Pool], caps: NetworkCaps) -> None:
        """Refuse a subnet that another network has. The host's own routes may be overlapped on purpose (macvlan)."""
        if subnet is None:
            return
        taken = [(n.name, p.subnet) for n in self._rivals(caps) if n.name != name for p in n.pools]
        for other, prefix in (*taken, *((name, p.subnet) for p in pools)):
            if overlap(subnet, prefix):
                raise Conflict(
                    f"the subnet {subnet} overlaps {prefix} of network {other}",
                    hint="Choose another subnet",
                    details={"subnet": subnet, "network": other},
                )

    def _checked(
        self, pool: Any, asked: PoolRequest, record: NetworkRecord, pools: Sequence[Pool], caps: NetworkCaps
    ) -> Pool:
        fault = ""
        if not isinstance(pool, Pool):
            fault = "it returned no pool"
        elif family_of(pool.subnet) != asked.family or asked.subnet not in (None, pool.subnet):
            fault = f"it chose {pool.subnet}"
        elif asked.gateway and pool.gateway != asked.gateway:
            fault = f"it chose the gateway {pool.gateway}"
        if fault:
            raise DriverFault("the IPAM driver did not do what it was asked", why=fault, driver=record.ipam_driver)
        check_reserved(pool.subnet)
        self._check_overlap(pool.subnet, record.name, pools, caps)
        return Pool.model_validate(pool.model_dump())


def _families(request: NetworkRequest) -> set[int]:
    """Return the IP versions that a network is to have. Raises InvalidParameter for none, or a subnet of another."""
    families = {family for family, wanted in ((4, request.ipv4), (6, request.ipv6)) if wanted}
    if not families:
        raise InvalidParameter("a network needs IPv4, IPv6 or both", hint="--ipv4=false goes with --ipv6")
    for config in request.ipam:
        subnet = str(config.get("Subnet") or "")
        if subnet and family_of(subnet) == 4 and 4 not in families:
            raise InvalidParameter(f"the subnet {subnet} is of IPv4, which is turned off", hint="Leave out --ipv4")
        if subnet and family_of(subnet) == 6:
            families.add(6)
    return families


def _common_options(driver: str, options: Mapping[str, str], caps: NetworkCaps) -> tuple[str, str, str, dict[str, str]]:
    """Return the prefix of link names, the host address of ports, the IPAM driver, and what is left for the driver."""
    given = {COMMON.get(k, k): v for k, v in options.items() if k not in _IGNORED}
    prefix = given.pop(_PREFIX, "eth")
    if not re.fullmatch(r"[a-zA-Z][a-zA-Z0-9_-]{0,11}", prefix):
        raise InvalidParameter(f"{prefix!r} is no prefix for names of links", driver=driver)
    binding = given.pop(_BINDING, "") if caps.ports else ""
    if binding and family_of(binding) != 4:
        raise InvalidParameter(f"{binding!r} is no IPv4 address", driver=driver)
    ipam = given.pop(IPAM_OPTION, DEFAULT_IPAM)
    return prefix, "" if binding == "0.0.0.0" else binding, ipam, given


def _pool_request(config: Mapping[str, Any], key: str, wants_gateway: bool) -> PoolRequest:
    """Read one of Docker's IPAM configurations. Raises InvalidParameter that names what is wrong in it."""
    subnet = config.get("Subnet") or None
    some = subnet or config.get("Gateway") or config.get("IPRange") or ""
    if subnet:
        _check_masked(str(subnet), "subnet")
    if config.get("IPRange"):
        _check_masked(str(config["IPRange"]), "IP range")
    try:
        return PoolRequest(
            key=key,
            family=family_of(str(some)),
            subnet=subnet,
            ip_range=config.get("IPRange") or None,
            gateway=config.get("Gateway") or None,
            wants_gateway=wants_gateway,
            aux=config.get("AuxiliaryAddresses") or config.get("AuxAddress") or {},
        )
    except ValidationError as err:
        raise InvalidParameter("malformed IPAM configuration", why=err.errors()[0]["msg"]) from err


def _check_masked(prefix: str, what: str) -> None:
    try:
        network = ip_network(prefix, strict=False)
    except ValueError as err:
        raise InvalidParameter(
            f"malformed {what} {prefix!r}", why=str(err), hint="Expected for example 10.5.0.0/24"
        ) from err
    if "/" not in prefix or str(network).partition("/")[0] != _normal(prefix.partition("/")[0]):
        raise InvalidParameter(f"malformed {what} {prefix!r}", hint=f"It should be {network}")


def _normal(address: str) -> str:
    return str(ip_network(address).network_address)
