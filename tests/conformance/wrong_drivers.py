"""Drivers that break the contract, one way each: the conformance kit has to notice."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

from engine_sdk import (
    Address,
    AddressRequest,
    Bridge,
    Directory,
    Endpoint,
    Field,
    IpamDriver,
    Network,
    NetworkCaps,
    NetworkDriver,
    NetworkOptions,
    Options,
    Plan,
    Pool,
    PoolRequest,
    PortMap,
    Route,
    SpecVersion,
    Subnet,
    Sysctl,
    Taken,
    Veth,
    Volume,
    VolumeDriver,
    VolumeOptions,
    VolumePlan,
)


def right(network: Network[Any], endpoint: Endpoint, **changes: Any) -> Plan:
    """A plan as it should be, to be spoilt."""
    veth = {"name": endpoint.host_ifname, "peer": endpoint.ifname, "peer_mac": endpoint.mac, **changes}
    return Plan.of(Veth(**veth), (Address(link=veth["peer"], address=a) for a in endpoint.addresses))


class Fine(NetworkDriver[NetworkOptions]):
    """Nothing is wrong with this one (as far as values go)."""

    def endpoint_plan(self, network: Network[NetworkOptions], endpoint: Endpoint) -> Plan:
        return right(network, endpoint)


class Chance(NetworkDriver[NetworkOptions]):
    """Invents a MAC address by chance."""

    def endpoint_plan(self, network: Network[NetworkOptions], endpoint: Endpoint) -> Plan:
        return right(network, endpoint, mac=f"02:00:00:00:00:{random.randrange(256):02x}")


class Clock(NetworkDriver[NetworkOptions]):
    """Looks at the clock, although nothing comes of it."""

    def endpoint_plan(self, network: Network[NetworkOptions], endpoint: Endpoint) -> Plan:
        return right(network, endpoint, mtu=1500 if time.time() > 0 else 1400)


class Reader(NetworkDriver[NetworkOptions]):
    """Reads a file of the host."""

    def endpoint_plan(self, network: Network[NetworkOptions], endpoint: Endpoint) -> Plan:
        return right(network, endpoint, mtu=1500 if Path("/proc/version").read_text() else 1400)


class Sleeper(NetworkDriver[NetworkOptions]):
    """Waits for something."""

    def endpoint_plan(self, network: Network[NetworkOptions], endpoint: Endpoint) -> Plan:
        time.sleep(0.001)
        return right(network, endpoint)


class Hanger(NetworkDriver[NetworkOptions]):
    """Never answers."""

    def endpoint_plan(self, network: Network[NetworkOptions], endpoint: Endpoint) -> Plan:
        while True:
            pass


class Unordered(NetworkDriver[NetworkOptions]):
    """Lets the hash seed of the interpreter order its plan."""

    def endpoint_plan(self, network: Network[NetworkOptions], endpoint: Endpoint) -> Plan:
        names = {"arp_notify", "arp_filter", "arp_ignore", "arp_accept", "shared_media"}
        sysctls = (Sysctl(name=f"net.ipv4.conf.{{link}}.{n}", value="1", link=endpoint.ifname) for n in names)
        return right(network, endpoint) + Plan.of(sysctls)


class Changer(NetworkDriver[NetworkOptions]):
    """Changes what it was handed."""

    def endpoint_plan(self, network: Network[NetworkOptions], endpoint: Endpoint) -> Plan:
        endpoint.labels["seen"] = "yes"  # type: ignore[index]
        return right(network, endpoint)


class Publisher(NetworkDriver[NetworkOptions]):
    """Publishes a port, which only the core may."""

    def endpoint_plan(self, network: Network[NetworkOptions], endpoint: Endpoint) -> Plan:
        port = PortMap(protocol="tcp", host_port=80, target="10.0.0.2", target_port=80)
        return right(network, endpoint) + Plan.of(port)


class Trespasser(NetworkDriver[NetworkOptions]):
    """Plugs its link into a bridge of somebody else."""

    def endpoint_plan(self, network: Network[NetworkOptions], endpoint: Endpoint) -> Plan:
        return right(network, endpoint, master="docker0")


class Router(NetworkDriver[NetworkOptions]):
    """Takes the host's default route."""

    def network_plan(self, network: Network[NetworkOptions]) -> Plan:
        return Plan.of(Route(ns="host", destination="0.0.0.0/0", via="10.0.0.1"))

    def endpoint_plan(self, network: Network[NetworkOptions], endpoint: Endpoint) -> Plan:
        return right(network, endpoint)


class Baptist(NetworkDriver[NetworkOptions]):
    """Names the container's link itself."""

    def endpoint_plan(self, network: Network[NetworkOptions], endpoint: Endpoint) -> Plan:
        return right(network, endpoint, peer="eth0")


class Monopolist(NetworkDriver[NetworkOptions]):
    """Uses one name on the host for all endpoints."""

    def endpoint_plan(self, network: Network[NetworkOptions], endpoint: Endpoint) -> Plan:
        return right(network, endpoint, name="mylink0")


class Impatient(NetworkDriver[NetworkOptions]):
    """Cannot wait for an address."""

    def endpoint_plan(self, network: Network[NetworkOptions], endpoint: Endpoint) -> Plan:
        first = endpoint.addresses[0]
        return right(network, endpoint) if first else Plan()


class Forgetful(NetworkDriver[NetworkOptions]):
    """Gives the endpoint only one of its addresses."""

    def endpoint_plan(self, network: Network[NetworkOptions], endpoint: Endpoint) -> Plan:
        plan = right(network, endpoint)
        return Plan.of(plan.resources[:2])


class Raiser(NetworkDriver[NetworkOptions]):
    """Has a bug."""

    def endpoint_plan(self, network: Network[NetworkOptions], endpoint: Endpoint) -> Plan:
        raise KeyError("no such thing")


class Liar(NetworkDriver[NetworkOptions]):
    """Answers with something that is no plan."""

    def endpoint_plan(self, network: Network[NetworkOptions], endpoint: Endpoint) -> Plan:
        return {"resources": []}  # type: ignore[return-value]


class Futurist(NetworkDriver[NetworkOptions]):
    """Needs a specification that does not exist yet."""

    needs = SpecVersion(2, 0)

    def endpoint_plan(self, network: Network[NetworkOptions], endpoint: Endpoint) -> Plan:
        return right(network, endpoint)


class SilentOptions(NetworkOptions):
    colour: str = Field(default="blue")


class Silent(NetworkDriver[SilentOptions]):
    """Does not say what its option is for."""

    def endpoint_plan(self, network: Network[SilentOptions], endpoint: Endpoint) -> Plan:
        return right(network, endpoint)


class Undecided(NetworkDriver[NetworkOptions]):
    """Settles on something else each time."""

    def settle_network(self, options: NetworkOptions, subnets: tuple[Subnet, ...]) -> NetworkOptions:
        return NetworkOptions(mtu=(options.mtu or 1500) - 50)

    def endpoint_plan(self, network: Network[NetworkOptions], endpoint: Endpoint) -> Plan:
        return right(network, endpoint)


# Wrong only when the plan is applied


class Stray(NetworkDriver[NetworkOptions]):
    """Plans something that the kernel refuses: an address on a link that nobody makes."""

    def endpoint_plan(self, network: Network[NetworkOptions], endpoint: Endpoint) -> Plan:
        veth = Veth(name=endpoint.host_ifname, peer=endpoint.ifname)
        return Plan.of(veth, (Address(link=endpoint.ifname, address=a) for a in endpoint.addresses)) + Plan.of(
            Sysctl(name="net.ipv4.conf.{link}.no_such_parameter", value="1", link=endpoint.ifname)
        )


class Island(NetworkDriver[NetworkOptions]):
    """Connects an endpoint to nothing."""

    caps = NetworkCaps()

    def endpoint_plan(self, network: Network[NetworkOptions], endpoint: Endpoint) -> Plan:
        return right(network, endpoint)


class Speller(NetworkDriver[NetworkOptions]):
    """Writes a value that the kernel reads back otherwise, so that its plan is never fulfilled."""

    def network_plan(self, network: Network[NetworkOptions]) -> Plan:
        return Plan.of(Bridge(name=network.ifname, mac=network.mac))

    def endpoint_plan(self, network: Network[NetworkOptions], endpoint: Endpoint) -> Plan:
        arp = Sysctl(name="net.ipv4.conf.{link}.arp_notify", value="0x1", link=endpoint.ifname)
        return right(network, endpoint, master=network.ifname) + Plan.of(arp)


# Volumes


class Outsider(VolumeDriver[VolumeOptions]):
    """Keeps its data outside of the volume's directory."""

    def volume_plan(self, volume: Volume[VolumeOptions]) -> VolumePlan:
        path = f"/srv/{volume.id}"
        return VolumePlan(plan=Plan.of(Directory(path=path)), path=path)


class Sharer(VolumeDriver[VolumeOptions]):
    """Gives all volumes one directory."""

    def volume_plan(self, volume: Volume[VolumeOptions]) -> VolumePlan:
        path = "/srv/all"
        return VolumePlan(plan=Plan.of(Directory(path=path)), path=path)


# IPAM


class Generous(IpamDriver[Options]):
    """Gives everybody the same address, whatever is taken or asked for."""

    def choose_pool(self, request: PoolRequest, options: Options, avoid: tuple[str, ...]) -> Pool:
        return Pool(subnet=request.subnet or "10.0.0.0/24", gateway=request.gateway)

    def choose_address(self, pool: Pool, request: AddressRequest, taken: Taken) -> str:
        return pool.subnet.partition("/")[0].removesuffix("0") + "3"
