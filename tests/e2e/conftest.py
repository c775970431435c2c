from __future__ import annotations

from typing import Protocol

import pytest
from tests.host import Done, EngineHost


class Cli(Protocol):
    """A command line that drives the host's daemon."""

    def __call__(self, *args: str, check: bool = True, input: str | None = None, timeout: float = 60.0) -> Done: ...


@pytest.fixture(params=["engine", "docker"])
def cli(request: pytest.FixtureRequest, host: EngineHost) -> Cli:
    """Our command line, and Docker's own."""
    command: Cli = getattr(host, request.param)
    return command
