"""A job as the database holds it, and what the kinds of jobs need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from pydantic import Field

from engine.spec import errors
from engine.spec.errors import EngineError, Internal
from engine.spec.values import Frozen

State = Literal["running", "done", "failed", "cancelled"]


class Kind(NamedTuple):
    """What a kind of job needs of its volume."""

    title: str
    """What is shown while it runs."""
    exclusive: bool = False
    """Nobody may have the volume mounted, and nobody mounts it meanwhile."""
    content: bool = False
    """It works on the mounted content."""
    again: bool = True
    """It is started again when its process dies; one that serves a client's stream is not."""


KINDS: Mapping[str, Kind] = {
    "backup": Kind("Backing up", content=True),
    "restore": Kind("Restoring", exclusive=True, content=True),
    "export": Kind("Exporting", content=True, again=False),
    "import": Kind("Importing", exclusive=True, content=True, again=False),
    "snapshot": Kind("Taking a snapshot"),
    "rollback": Kind("Rolling back", exclusive=True),
    "clone": Kind("Cloning"),
    "scrub": Kind("Scrubbing"),
    "usage": Kind("Measuring", content=True),
}


class JobRecord(Frozen):
    """What is known of a job."""

    id: str
    volume: str
    """The volume's id."""
    name: str
    """The volume's name when the job began."""
    kind: str
    args: Mapping[str, Any] = Field(default_factory=dict)
    """What was asked for; secrets only as references."""
    state: State = "running"
    attempts: int = 0
    """How often its process was started."""
    paused: tuple[str, ...] = ()
    """Containers that are paused for it."""
    error: Mapping[str, Any] | None = None
    """Why it failed: kind, what, why, hint, driver."""
    progress: Mapping[str, Any] = Field(default_factory=dict)
    """The last step that was told: step, done, total (or None), unit."""
    result: Mapping[str, Any] = Field(default_factory=dict)
    created: str
    """RFC 3339."""
    ended: str = ""
    """RFC 3339; empty while it runs."""

    @property
    def user(self) -> str:
        """The name under which it uses its volume."""
        return f"job:{self.id}"

    def with_(self, **changes: Any) -> JobRecord:
        """Return a copy with other values."""
        return self.model_copy(update=changes)

    def describe(self) -> dict[str, Any]:
        """Return what the API shows."""
        return {
            "ID": self.id, "Volume": self.name, "Kind": self.kind, "State": self.state, "Progress": dict(self.progress),
            "Result": dict(self.result), "Error": _text(self.error), "Created": self.created, "Ended": self.ended,
        }  # fmt: skip

    def failure(self) -> EngineError:
        """Return why it failed, as an error of the kind that its process raised."""
        return error_of(self.error or {"what": f"{self.kind} of volume {self.name} was {self.state}"})


def error_json(error: EngineError) -> dict[str, str]:
    """Return the parts of an error."""
    parts = {"kind": error.kind, "what": error.what, "why": error.why, "hint": error.hint, "driver": error.driver}
    return {name: text for name, text in parts.items() if text}


def error_of(parts: Mapping[str, Any]) -> EngineError:
    """Return the error that `error_json` took apart."""
    kinds = {c.kind: c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, EngineError)}
    what, why, hint, driver = (str(parts.get(name, "")) for name in ("what", "why", "hint", "driver"))
    return kinds.get(str(parts.get("kind")), Internal)(what, why=why, hint=hint, driver=driver)


def _text(error: Mapping[str, Any] | None) -> str:
    return str(error_of(error)) if error else ""
