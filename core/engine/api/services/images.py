"""What the API asks of images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from engine.api.services.data import Auth, Filters, Readable, Writable
from engine.image.model import HistoryEntry, Image, ProgressSink, Removal


class ImageManager(Protocol):
    """Images: what the API uses of `engine.image.manager.ImageManager`, where the methods are described."""

    def resolve(self, ref_or_id: str) -> Image: ...  # noqa: D102
    def history(self, ref: str) -> Sequence[HistoryEntry]: ...  # noqa: D102
    def pull(  # noqa: D102
        self, ref: str, *, auth: Auth | None, progress: ProgressSink | None, platform: str | None
    ) -> Image: ...
    def push(self, ref: str, *, auth: Auth | None, progress: ProgressSink | None) -> str: ...  # noqa: D102
    def login(self, server: str, username: str, password: str) -> str: ...  # noqa: D102
    def tag(self, src: str, dst: str) -> None: ...  # noqa: D102
    def remove(self, ref: str, *, force: bool, prune: bool) -> Sequence[Removal]: ...  # noqa: D102
    def prune(self, *, all: bool, filters: Filters | None) -> tuple[Sequence[Removal], int]: ...  # noqa: D102
    def load(self, source: Readable, *, progress: ProgressSink | None) -> Sequence[str]: ...  # noqa: D102
    def save(self, refs: Sequence[str], out: Writable) -> None: ...  # noqa: D102
    def import_(  # noqa: D102
        self, source: Readable, ref: str, *, changes: Iterable[str], message: str, platform: str | None
    ) -> Image: ...
    def list(self, filters: Filters | None = None) -> Sequence[Image]: ...  # noqa: D102
