"""`--default-address-pool`: where networks get their subnets from, the predefined bridge's too."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from tests.host import ENGINE, EngineHost, skip_unless_possible

POOLS = ("--default-address-pool", "base=10.64.0.0/23,size=24", "--default-address-pool", "base=fd64::/48,size=64")


@pytest.fixture(scope="module")
def host() -> Iterator[EngineHost]:
    skip_unless_possible()
    with EngineHost(*POOLS) as host:
        host.load_busybox()
        yield host


def subnets(host: EngineHost, network: str) -> list[str]:
    found = json.loads(host.engine("network", "inspect", network).stdout)
    return [config["Subnet"] for config in found[0]["IPAM"]["Config"]]


def test_networks_are_taken_from_the_pools(host: EngineHost) -> None:
    address = host.engine("run", "--rm", "busybox", "ip", "-4", "address", "show", "eth0").stdout
    assert "inet 10.64.0.2/24" in address
    host.engine("network", "create", "--ipv6", "one")
    assert subnets(host, "one") == ["10.64.1.0/24", "fd64::/64"]
    done = host.engine("network", "create", "two", check=False)
    assert "--default-address-pool" in done.stderr
    assert host.engine("network", "create", "--subnet", "10.70.0.0/24", "two").returncode == 0
    info = json.loads(host.request("GET", "/info")[1])
    assert info["DefaultAddressPools"] == [{"Base": "10.64.0.0/23", "Size": 24}, {"Base": "fd64::/48", "Size": 64}]


def test_a_malformed_pool_stops_the_start_with_a_sentence(host: EngineHost) -> None:
    done = host.run(str(ENGINE), "daemon", "--default-address-pool", "base=10.0.0.0/8,size=4", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("engine: --default-address-pool base=10.0.0.0/8,size=4: malformed")
