"""A container as the database holds it: what it is to be, and how far it is."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from engine.container.config import Config, EndpointConfig, HostConfig

Status = Literal["created", "running", "paused", "restarting", "removing", "exited", "dead"]

NEVER = "0001-01-01T00:00:00Z"
"""A time that has not come (Go's zero time, which clients know)."""
LOST = 255
"""Exit code of a container of which nobody could tell how it ended: its monitor was killed, or its record lost."""


class MountPoint(BaseModel):
    """One mount that a person or the image asked for, resolved."""

    model_config = ConfigDict(frozen=True)

    type: Literal["bind", "volume", "tmpfs"]
    target: str
    source: str = ""
    """bind: the host path. volume: the volume's name."""
    driver: str = ""
    read_only: bool = False
    propagation: str = ""
    recursive: bool = True
    no_copy: bool = False
    subpath: str = ""
    options: str = ""
    """tmpfs: options as of mount(8)."""
    anonymous: bool = False
    """A volume that nobody named: it goes with the container when that is asked for."""


class Endpoint(BaseModel):
    """A container's wish to be on a network; what it got is the network manager's."""

    network: str
    """Network id."""
    settings: EndpointConfig = EndpointConfig()


class ContainerState(BaseModel):
    """How far a container is. Times are RFC 3339 texts."""

    status: Status = "created"
    pid: int = 0
    paused_for: str = ""
    """For what work it is paused, and only as long as that takes (a commit, a job of a volume); empty: until somebody
    ends the pause."""
    exit_code: int = 0
    error: str = ""
    oom_killed: bool = False
    started_at: str = NEVER
    finished_at: str = NEVER
    restart_count: int = 0
    stopped_by_hand: bool = False
    """A person stopped it: `unless-stopped` and `always` leave it so until it is started by hand."""
    takes_volumes: bool = False
    """While it is removed: whether its anonymous volumes go, too."""

    @property
    def running(self) -> bool:
        """Whether it has a process (a paused one has)."""
        return self.status in ("running", "paused")


class Container(BaseModel):
    """A container. Mutable, and changed only under its lock in the manager."""

    id: str
    name: str
    created: str
    image_id: str
    image_ref: str
    config: Config
    host_config: HostConfig
    path: str
    args: list[str] = []
    mounts: list[MountPoint] = []
    endpoints: list[Endpoint] = []
    sandbox: Literal["private", "host", "container"] = "private"
    joined: str = ""
    """Id of the container whose network namespace it shares."""
    state: ContainerState = ContainerState()

    @property
    def short_id(self) -> str:
        """The first 12 digits."""
        return self.id[:12]

    def attributes(self) -> dict[str, str]:
        """Return the attributes of its events: labels, image and name, of which no label takes the place."""
        return {**self.config.labels, "image": self.image_ref, "name": self.name}

    def doc(self) -> dict[str, Any]:
        """Return what the database stores."""
        return self.model_dump(mode="json", by_alias=False)
