"""A volume as the database holds it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_serializer

from engine.spec.mounts import Bind
from engine.spec.resource import Plan, Resource
from engine.spec.values import Frozen
from engine.spec.volume import VolumePlan

ANONYMOUS_LABEL = "com.docker.volume.anonymous"
"""Docker's label of a volume that nobody named."""
_SECRET = re.compile(r"\b((?:[a-z]*pass(?:word|wd|phrase)?|[a-z_]*secret|[a-z_]*token)[0-9]*)=([^,]*)", re.IGNORECASE)


def masked(text: str) -> str:
    """Return mount options with the values of passwords hidden."""
    return _SECRET.sub(r"\1=****", text)


class VolumeRecord(Frozen):
    """What is known of a volume. `state` tells a half-made or half-removed one, which a restart completes."""

    id: str
    name: str
    driver: str
    state: Literal["creating", "ready", "removing"] = "ready"
    created: str
    """RFC 3339."""
    given: Mapping[str, str] = Field(default_factory=dict)
    """The options as the operator wrote them."""
    options: Mapping[str, Any] = Field(default_factory=dict)
    """The settled options, as JSON: choices made once stay as they are when the driver changes its mind."""
    labels: Mapping[str, str] = Field(default_factory=dict)
    mounts: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)
    """Who has it mounted now, and which subpaths of it ("" for all of it)."""
    references: tuple[str, ...] = ()
    """Who will mount it again: containers that exist, running or not."""
    applied: VolumePlan | None = None
    """What the driver answered when it was mounted: it is released by this, not by what the driver would say today."""
    exposed: bool = False
    """Somebody may have written since all of it was in its store. Only for volumes whose content is kept in one."""
    path: str = ""
    """Where its content is, or would be, on the host."""
    held: str = ""
    """The user (a job) for whose sake nobody else mounts it meanwhile."""
    populating: bool = False
    """Filling it from an image has begun and not ended."""

    @field_serializer("applied")
    def _plan_json(self, applied: VolumePlan | None) -> object:
        return None if applied is None else {"plan": json.loads(applied.plan.to_json()), "path": applied.path}

    @property
    def owner(self) -> str:
        """The reconciler's name for what this volume wants."""
        return f"vol:{self.id}"

    @property
    def anonymous(self) -> bool:
        """Nobody named it."""
        return ANONYMOUS_LABEL in self.labels

    @property
    def users(self) -> tuple[str, ...]:
        """Who keeps it from being removed, sorted."""
        return tuple(sorted({*self.mounts, *self.references}))

    def with_(self, **changes: Any) -> VolumeRecord:
        """Return a copy with other values."""
        return self.model_copy(update=changes)

    def doc(self) -> dict[str, Any]:
        """Return the document for the database."""
        return self.model_dump(mode="json")


def hardened(answer: VolumePlan) -> VolumePlan:
    """Return a plan whose mounts have `nosuid` and `nodev`: a volume brings neither privileges nor devices."""

    def harden(resource: Resource) -> Resource:
        options = getattr(resource, "options", None)
        if options is None:
            return resource
        return resource.model_copy(update={"options": tuple(dict.fromkeys((*options, "nosuid", "nodev")))})

    plan = answer.plan.model_copy(update={"resources": tuple(harden(r) for r in answer.plan.resources)})
    return answer.model_copy(update={"plan": plan})


def needed_to_create(plan: Plan) -> Plan:
    """Return what has to be applied to make the data of a plan: only the data, unless some of it lies in a mount."""
    data = tuple(r for r in plan.resources if r.LIFE == "data")
    targets = [t for r in plan.resources if (t := getattr(r, "target", None))]
    inside = any(str(getattr(r, "path", "")).startswith(f"{target}/") for r in data for target in targets)
    sessions = {r.key for r in plan.resources if r.LIFE == "session"}
    inside = inside or any(key in sessions for r in data for key in r.requires())
    return plan if inside else plan.model_copy(update={"resources": data})


def subpath_bind(target: str, source: str, subpath: str) -> Bind:
    """Return the mount that shows a part of a volume: held as a mount, so that nobody can exchange it afterwards."""
    return Bind(target=target, source=source, subpath=subpath, options=("nosuid", "nodev"))
