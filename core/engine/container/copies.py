"""A copy of each container's record among its files: a database that lost the container is mended by it.

The copy is written after the row and goes before it, so a copy without a row tells that the row was lost. It is not
synced: after a power failure the row is what counts.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

from engine.container.record import LOST, NEVER, Container, ContainerState

log = logging.getLogger(__name__)
COPY = "container.json"


class Copies:
    """Copies of the records of containers whose files lie in directories below `root`, named by their ids."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._written: dict[str, int] = {}

    def keep(self, container: Container) -> None:
        """Write what has changed, other than how far the container is. An error is logged: the row is written."""
        text = json.dumps(_lasting(container).doc())
        if self._written.get(container.id) == hash(text):
            return
        path = self._root / container.id / COPY
        unfinished = path.with_suffix(".new")
        try:
            unfinished.write_text(text)
            unfinished.chmod(0o600)
            unfinished.rename(path)
            self._written[container.id] = hash(text)
        except FileNotFoundError:
            return  # its directory has gone
        except OSError as err:
            log.warning("no copy of the record of container %s: %s", container.name, err)
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)

    def drop(self, id: str) -> None:
        """Remove a copy, before anything else of the container."""
        (self._root / id / COPY).unlink(missing_ok=True)
        self._written.pop(id, None)

    def lost(self, known: Collection[str]) -> Iterator[Container]:
        """Return the containers of which there is a copy and which are not known. What cannot be read is logged."""
        for path in sorted(self._root.glob(f"*/{COPY}")):
            if path.parent.name in known:
                continue
            try:
                container = Container.model_validate_json(path.read_bytes())
            except (OSError, ValueError) as err:
                log.error("%s is left alone: it cannot be taken back (%s)", path.parent, err)
                continue
            if container.id == path.parent.name:
                yield container

    def strangers(self, known: Collection[str]) -> list[Path]:
        """Return the directories of containers that are not known."""
        entries = self._root.iterdir() if self._root.is_dir() else ()
        return sorted(path for path in entries if path.name not in known)


def _lasting(container: Container) -> Container:
    """Return a container as it would be taken back: ended, if it ever ran."""
    state = container.state
    if state.started_at == NEVER:
        ended = ContainerState(status="created")
    else:
        ended = ContainerState(
            status="exited",
            exit_code=LOST,
            error="the engine's database lost this container: its record was taken back from its directory",
            started_at=container.created,
            finished_at=container.created,
            stopped_by_hand=state.stopped_by_hand,
        )
    return container.model_copy(update={"state": ended})
