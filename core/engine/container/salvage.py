"""What is known of a container whose record in the database cannot be read as a whole."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from engine.container.record import Container
from engine.state import Unreadable


def stand_in(row: Unreadable) -> Container:
    """Return a container of what can be read, field by field: enough to show, to stop and to remove it.

    It is not enough to start it: what cannot be read may have been a limit.
    """
    doc: dict[str, Any] = {
        "id": row.id,
        "name": row.name or row.id[:12],
        "created": "1970-01-01T00:00:00Z",
        "image_id": f"sha256:{'0' * 64}",
        "image_ref": "",
        "config": {},
        "host_config": {},
        "path": "",
        "state": {"status": "exited"},
    }
    for field in set(row.doc) & set(Container.model_fields) - {"id", "name"}:
        with suppress(ValueError):
            Container.model_validate(doc | {field: row.doc[field]})
            doc[field] = row.doc[field]
    return Container.model_validate(doc)
