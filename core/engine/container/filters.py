"""The filters of `ps` and `prune`, as the Docker Engine API defines them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from engine.container.record import Container
from engine.container.views import seconds_of
from engine.filters import Filters, check_known, compile_pattern, has_label, labels_match, parse_time
from engine.spec.errors import InvalidParameter, NotFound

_EXIT_CODE = re.compile(r"-?\d{1,10}", re.ASCII)
STATUSES = ("created", "restarting", "running", "removing", "paused", "exited", "dead")


class ContainerFilter:
    """A test of containers made from filters: values of one filter are alternatives, but labels must all be there."""

    def __init__(
        self,
        filters: Filters,
        *,
        find: Callable[[str], Container],
        networks_of: Callable[[Container], Iterable[str]],
        image_matches: Callable[[str, Container], bool],
    ) -> None:
        """Raises InvalidParameter for an unknown filter or a malformed value."""
        patterns = {value: compile_pattern("name", value) for value in filters.get("name", ())}
        self._tests: dict[str, Callable[[Container, str], bool]] = {
            "id": lambda c, v: c.id.startswith(v),
            "name": lambda c, v: patterns[v](f"/{c.name}"),
            "status": lambda c, v: c.state.status == v,
            "exited": lambda c, v: c.state.status == "exited" and c.state.exit_code == int(v),
            "label": lambda c, v: has_label(c.config.labels, v),
            "ancestor": lambda c, v: image_matches(v, c),
            "network": lambda c, v: v in networks_of(c),
            "volume": lambda c, v: any(v in (m.source, m.target) for m in c.mounts),
            "publish": lambda c, v: _has_port(c.host_config.port_bindings, v),
            "expose": lambda c, v: _has_port(c.config.exposed_ports, v),
            "before": lambda c, v: c.created < find(v).created,
            "since": lambda c, v: c.created > find(v).created,
            "is-task": lambda c, v: v.lower() in ("0", "false"),
            "health": lambda c, v: v == "none",
        }
        check_known(filters, self._tests)
        for value in filters.get("status", ()):
            if value not in STATUSES:
                raise InvalidParameter(f"invalid filter 'status={value}'", hint=f"Known: {', '.join(STATUSES)}.")
        for value in filters.get("exited", ()):
            if not _EXIT_CODE.fullmatch(value):
                raise InvalidParameter(f"invalid filter 'exited={value}'", hint="Expected an exit code.")
        self._filters = filters
        self.shows_ended = bool(filters.keys() & {"status", "exited"})

    def __call__(self, container: Container) -> bool:
        """Return whether a container passes."""
        for name, values in self._filters.items():
            every = all if name == "label" else any
            try:
                if not every(self._tests[name](container, value) for value in values):
                    return False
            except NotFound:
                return False
        return True


def prune_matches(container: Container, filters: Filters) -> bool:
    """Return whether `prune` takes a container. Raises InvalidParameter for unknown filters."""
    check_known(filters, ("until", "label", "label!"))
    return labels_match(container.config.labels, filters) and all(
        seconds_of(container.created) < parse_time(v) for v in filters.get("until", ())
    )


def _has_port(ports: Mapping[str, object], wanted: str) -> bool:
    port, _, protocol = wanted.partition("/")
    return f"{port}/{protocol or 'tcp'}" in ports or (not protocol and f"{port}/udp" in ports)
