"""What the API asks of networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from engine.api.services.data import Filters, JsonObject
from engine.network.model import NetworkRecord
from engine.spec.resource import Key, Plan


class Difference(Protocol):
    """What the API uses of `engine.reconcile.applier.Difference`."""

    @property
    def key(self) -> Key: ...  # noqa: D102
    @property
    def state(self) -> str: ...  # noqa: D102
    @property
    def fields(self) -> Mapping[str, tuple[object, object]]: ...  # noqa: D102


class OwnerPlan(Protocol):
    """What the API uses of `engine.network.manager.OwnerPlan`."""

    @property
    def title(self) -> str: ...  # noqa: D102
    @property
    def plan(self) -> Plan: ...  # noqa: D102
    @property
    def differences(self) -> Sequence[Difference]: ...  # noqa: D102
    @property
    def in_use(self) -> bool: ...  # noqa: D102


class NetworkManager(Protocol):
    """Networks: what the API uses of `engine.network.manager.NetworkManager`, where the methods are described."""

    def create(  # noqa: D102
        self,
        name: str,
        driver: str,
        *,
        options: Mapping[str, str] | None,
        ipam: Sequence[Mapping[str, Any]],
        ipam_driver: str,
        ipam_options: Mapping[str, str] | None,
        labels: Mapping[str, str] | None,
        internal: bool,
        ipv4: bool,
        ipv6: bool,
        attachable: bool,
        scope: str,
    ) -> NetworkRecord: ...
    def default_network(  # noqa: D102
        self, driver: str, options: Mapping[str, str] | None = None
    ) -> NetworkRecord: ...
    def get(self, ref: str) -> NetworkRecord: ...  # noqa: D102
    def inspect(self, record: NetworkRecord) -> JsonObject: ...  # noqa: D102
    def remove(self, ref: str) -> None: ...  # noqa: D102
    def prune(self, filters: Filters | None = None, until: float | None = None) -> Sequence[str]: ...  # noqa: D102
    def plan(self, ref: str) -> Sequence[OwnerPlan]: ...  # noqa: D102
    def verify(self, ref: str) -> JsonObject: ...  # noqa: D102
    def list(self, filters: Filters | None = None) -> Sequence[NetworkRecord]: ...  # noqa: D102
