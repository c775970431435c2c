"""The configuration of an image that is made of another one and a further layer.

Form: OCI image specification, config.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from engine.image.manifest import Platform
from engine.image.model import Image


def child_config(
    parent: Image | None,
    section: Mapping[str, Any],
    diff_id: str,
    comment: str,
    author: str,
    created_by: str,
    platform: str | None,
) -> dict[str, Any]:
    """Return the configuration of `parent` (None: of nothing) with one more layer, whose `diff_id` is given.

    `section` is what containers take of it, `platform` (empty: this host's) counts where there is no parent.
    """
    wanted = Platform.parse(platform) if platform else Platform.host()
    now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    base: Mapping[str, Any] = parent.config if parent else {"os": wanted.os, "architecture": wanted.architecture}
    step = {"created": now, "created_by": created_by, "comment": comment, "author": author}
    return {
        **base,
        "created": now,
        **({"author": author} if author else {}),
        "config": dict(section),
        "rootfs": {"type": "layers", "diff_ids": [*(parent.layers if parent else ()), diff_id]},
        "history": [
            *(base.get("history") or [{} for _ in (parent.layers if parent else ())]),
            {key: value for key, value in step.items() if value},
        ],
    }
