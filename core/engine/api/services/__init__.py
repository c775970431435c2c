"""What the API asks of the managers: protocols, a file a family, so that it imports none of them.

Rules for all of them:
- Methods are synchronous and thread-safe; the API calls them on worker threads. They raise the kinds of
  `engine.spec.errors`.
- `ref` is what a client wrote: an id, a unique prefix of one, or a name (with or without the leading slash).
- `JsonObject` is docker-shaped JSON (API v1.44), in and out; a summary or an inspection is returned complete.
- `Filters` are parsed: name -> values in the order given (`{"label": ["a=b"], "label!": ["c"]}`). Who gets a filter
  that it does not know raises InvalidParameter `invalid filter 'x'`.
- A Future that the API no longer wants is cancelled: who completes it calls `set_running_or_notify_cancel()` first, and
  drops it on False.
- Byte streams (`Readable`) are closed by the API, on a worker thread, when no read is under way. Log readers are closed
  at any time: whoever blocks in them then returns.
- Progress callbacks may be called on any thread, and raise `ConnectionAbortedError` when the client went away: the work
  is given up, and the exception passes through.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from engine.api.services.containers import ContainerManager
from engine.api.services.data import JsonObject
from engine.api.services.host import Doctor, EventBus, Nodes, SecretStore
from engine.api.services.images import ImageManager
from engine.api.services.networks import NetworkManager
from engine.api.services.volumes import VolumeManager, VolumeWork
from engine.plugins import Plugins


@dataclass(frozen=True)
class Instance:
    """What `/version` and `/info` say of this daemon beside what the API finds out itself (host, counts, drivers)."""

    id: str
    """Stable over the life of a data root."""
    data_root: str
    exec_root: str
    runtime: str
    """Name of the OCI runtime in use: crun or runc."""
    components: Mapping[str, str] = field(default_factory=dict)
    """Versions: `{"crun": "1.8.1", "conmon": "2.1.6"}`."""
    warnings: tuple[str, ...] = ()
    address_pools: Sequence[JsonObject] = ()
    """The operator's default address pools: `[{"Base": "10.10.0.0/16", "Size": 24}]`."""


@dataclass(frozen=True)
class Services:
    """All that the API needs; made by the composition root."""

    containers: ContainerManager
    images: ImageManager
    networks: NetworkManager
    volumes: VolumeManager
    secrets: SecretStore
    volume_work: VolumeWork
    events: EventBus
    plugins: Plugins
    doctor: Doctor
    nodes: Nodes
    instance: Instance
