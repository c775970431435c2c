"""Hooks for ordinary pluggy plugins (entry-point group `engine.plugins`): events, and edits that belong to no driver.

Such a plugin may also wrap any operation of any driver:

    @hookimpl(wrapper=True)
    def endpoint_plan(network, endpoint):
        plan = yield
        audit(network, endpoint, plan)
        return plan
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from engine.spec.driver import hookspec
from engine.spec.values import Frozen


class Event(Frozen):
    """Something that happened, in the words of Docker's event stream."""

    type: str
    """container, image, network, volume, daemon, driver."""
    action: str
    """create, start, die, connect, mount, ..."""
    id: str
    """Of the object that it happened to."""
    attributes: Mapping[str, str] = Field(default_factory=dict)
    """More about the object and what happened: name, image, exitCode, ..."""
    time_ns: int
    """Nanoseconds since the epoch."""


class EngineHooks:
    """Specifications of the hooks that many plugins may answer."""

    @hookspec
    def engine_event(self, event: Event) -> None:
        """Called after something happened. An exception is logged and harms nothing."""

    @hookspec
    def edit_oci_spec(self, spec: dict[str, Any], container: Mapping[str, Any]) -> None:
        """Change a container's OCI runtime specification in place, before the runtime sees it.

        `container` is what `GET /containers/ID/json` answers. An exception fails the start.
        """
