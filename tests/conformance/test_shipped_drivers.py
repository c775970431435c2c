"""The shipped drivers, through the same kit as everybody's."""

import tempfile
from collections.abc import Mapping
from typing import ClassVar

from engine_sdk.testing.conformance_ipam import IpamConformance
from engine_sdk.testing.conformance_network import NetworkConformance
from engine_sdk.testing.conformance_volume import VolumeConformance

_STORE = tempfile.TemporaryDirectory(prefix="engine-conformance-store-")
"""Goes with this process."""


class TestBridge(NetworkConformance):
    driver_name = "bridge"


class TestIsolatedBridge(NetworkConformance):
    driver_name = "bridge"
    driver_options: ClassVar[Mapping[str, str]] = {"name": "br-kit", "masquerade": "false", "mtu": "1400"}


class TestHost(NetworkConformance):
    driver_name = "host"


class TestNone(NetworkConformance):
    driver_name = "none"


class TestMacvlan(NetworkConformance):
    driver_name = "macvlan"


class TestIpvlan(NetworkConformance):
    driver_name = "ipvlan"


class TestOverlay(NetworkConformance):
    driver_name = "overlay"


class TestEncryptedOverlay(NetworkConformance):
    driver_name = "overlay"
    driver_options: ClassVar[Mapping[str, str]] = {"encrypted": "true"}


class TestRange(IpamConformance):
    driver_name = "range"


class TestDhcp(IpamConformance):
    driver_name = "dhcp"


class TestLocal(VolumeConformance):
    driver_name = "local"


class TestLocalImage(VolumeConformance):
    driver_name = "local"
    driver_options: ClassVar[Mapping[str, str]] = {"size": "32m"}


class TestRemote(VolumeConformance):
    driver_name = "remote"
    driver_options: ClassVar[Mapping[str, str]] = {"url": f"file://{_STORE.name}"}


class TestEncryptedImage(VolumeConformance):
    driver_name = "encrypted"
    driver_options: ClassVar[Mapping[str, str]] = {"command": "/bin/echo key", "method": "image", "size": "32m"}


class TestEncryptedByGocryptfs(VolumeConformance):
    driver_name = "encrypted"
    driver_options: ClassVar[Mapping[str, str]] = {"command": "/bin/echo key", "method": "gocryptfs"}


class TestEncryptedStore(VolumeConformance):
    driver_name = "encrypted"
    driver_options: ClassVar[Mapping[str, str]] = {"command": "/bin/echo key", "url": f"file://{_STORE.name}/encrypted"}


class TestLocalTmpfs(VolumeConformance):
    driver_name = "local"
    driver_options: ClassVar[Mapping[str, str]] = {"type": "tmpfs", "device": "tmpfs", "o": "size=16m"}
