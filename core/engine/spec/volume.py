"""The contract of volume drivers.

Calls, in order (pure, like all operations of drivers):
    volume create      `settle_volume(options)`  once; the answer is stored. Then the data resources are made
    first container    `volume_plan(volume)`     what must exist while it is mounted, and the path to show
    last container     nothing: the core releases the session resources of the stored plan
    volume rm          nothing: the core removes the volume's directory
The core counts mounts, and does all that is about the container's view: read-only, subpath, pre-population.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Generic, Literal

from pydantic import Field, SerializeAsAny
from typing_extensions import TypeVar

from engine.spec.driver import Driver, SpecVersion, hookspec
from engine.spec.mounts import AbsolutePath
from engine.spec.options import Options, VolumeOptions
from engine.spec.resource import Plan
from engine.spec.values import Frozen

VolumeOptionsT = TypeVar("VolumeOptionsT", bound=VolumeOptions, default=VolumeOptions)
"""The model of a driver's options."""


class VolumeCaps(Frozen):
    """What a volume driver can do."""

    scope: Literal["local", "global"] = "local"
    """"global": the data can be used from another host."""
    shared: bool = True
    """Several containers may mount the volume at once."""
    prepopulate: bool = True
    """A new, empty volume takes what the image has at the mount point."""


class Volume(Frozen, Generic[VolumeOptionsT]):
    """A volume as its driver sees it. All paths come from the core."""

    id: str = Field(pattern=r"^[0-9a-f]{12,64}$")
    """Unique on this engine, hexadecimal."""
    name: str
    """What the operator calls it."""
    driver: str
    """Name of the driver."""
    options: SerializeAsAny[VolumeOptionsT]
    """The settled options."""
    labels: Mapping[str, str] = Field(default_factory=dict)
    """What the operator attached to the volume."""
    data: AbsolutePath
    """The volume's own directory: what outlives containers lies below it. Exists."""
    run: AbsolutePath
    """Mount points of the volume lie below this directory. Exists."""


class VolumePlan(Frozen):
    """What must exist while a volume is mounted, and where containers find its content."""

    plan: Plan
    """Data and mounts."""
    path: AbsolutePath
    """The directory that containers see: below the volume's `data` or `run`."""


class VolumeDriver(Driver, Generic[VolumeOptionsT]):
    """Base of volume drivers. Only `volume_plan` must be written."""

    GROUP: ClassVar[str] = "engine.volume"
    SPEC: ClassVar[SpecVersion] = SpecVersion(1, 0)
    OPERATIONS: ClassVar[tuple[str, ...]] = ("settle_volume", "volume_plan")
    REQUIRED: ClassVar[tuple[str, ...]] = ("volume_plan",)
    needs: ClassVar[SpecVersion] = SpecVersion(1, 0)

    caps: ClassVar[VolumeCaps] = VolumeCaps()
    """What the driver can do."""
    options_model: ClassVar[type[Options]] = VolumeOptions

    @hookspec(firstresult=True)
    def settle_volume(self, options: VolumeOptionsT) -> VolumeOptionsT | None:
        """Check options that depend on each other, and fill in choices that must not change later.

        Called once, when a volume is created; the answer is stored. Raise InvalidParameter to refuse.
        """
        return None

    @hookspec(firstresult=True)
    def volume_plan(self, volume: Volume[VolumeOptionsT]) -> VolumePlan | None:
        """Return what must exist while the volume is mounted, and the path that containers see."""
        return None
