"""What the API asks of the engine as a whole: events, doctor, secrets, cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from engine.api.services.data import Filters, JsonObject
from engine.secrets.store import Secret
from engine.spec.plugin import Event


class EventBus(Protocol):
    """What happens, as it happens, and the recent past: `engine.events.EventBus`."""

    def subscribe(
        self, listener: Callable[[Event], None], *, since_ns: int | None = None
    ) -> tuple[list[Event], Callable[[], None]]:
        """Listen from now on; return the remembered events since `since_ns`, and how to stop.

        Filtering and `until` are the API's.
        """


class Doctor(Protocol):
    """The difference between what should be on the host and what is."""

    def diff(self) -> list[JsonObject]:
        """Return `[{"resource": "veth/…", "state": ..., "owner": ..., "fields": {...}}]`; empty when all is well."""

    def repair(self) -> JsonObject:
        """Repair; return `{"repaired": [...], "left": [...]}`, both of the shape of `diff`."""


class SecretStore(Protocol):
    """The engine's own secrets: what the API uses of `engine.secrets.store.SecretStore`."""

    def create(self, name: str, data: bytes, labels: Mapping[str, str] | None) -> Secret: ...  # noqa: D102
    def get(self, ref: str) -> Secret: ...  # noqa: D102
    def remove(self, ref: str) -> None: ...  # noqa: D102
    def list(self, filters: Filters | None = None) -> Sequence[Secret]: ...  # noqa: D102


class Nodes(Protocol):
    """The cluster: what the API uses of `engine.clustering.Clustering`, where the methods are described."""

    def list(self) -> Sequence[JsonObject]: ...  # noqa: D102
    def inspect(self, name: str) -> JsonObject: ...  # noqa: D102
    def remove(self, name: str) -> None: ...  # noqa: D102
    def token(self) -> str: ...  # noqa: D102
    def join(self, token: str, *, advertise: str, node: str) -> JsonObject: ...  # noqa: D102
    def leave(self) -> None: ...  # noqa: D102
